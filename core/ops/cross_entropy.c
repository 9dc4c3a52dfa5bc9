#include "core/ops.h"
#include "kernels/cross_entropy.h"
#include "kernels/gemm.h"

/* Logits at a time: 4 MB stay in cache, on CUDA 512 MB or a gigabyte fill the device; 64 rows at least, to read a large
 * head seldom. */
enum { LOGITS = 1 << 20, LOGITS_CUDA = 1 << 28, LEAST_ROWS = 64 };

q3_tensor *q3_cross_entropy(q3_ctx *ctx, q3_tensor *x, q3_tensor *w, const int32_t *targets, float scale)
{
    Q3_CHECK(w->ndim == 2 && q3_dim(x, -1) == w->shape[1], "w %s, x %s", q3_shape(w), q3_shape(x));
    q3_node *n = q3_node_new(ctx, Q3_OP_CROSS_ENTROPY, x, w, NULL, NULL, NULL);
    n->attr.scale = scale;
    n->attr.index = targets;
    n->attr.n = q3_rows(x);
    n->attr.device_index = q3_on_device(ctx, targets, (size_t)n->attr.n * sizeof *targets);
    if (ctx->recording && x->root->needs_grad)
        n->saved[0] = q3_like(ctx, x); // d loss / d x, while the logits are at hand
    n->out = q3_new_f32(ctx, 1, (const int64_t[]){ 1 });
    return q3_record(ctx, n);
}

static int64_t rows_at_a_time(const q3_ctx *ctx, const q3_node *n)
{
    int64_t rows = (ctx->data->cuda ? LOGITS_CUDA : LOGITS) / (n->in[1]->shape[0] + 1);
    rows = rows > LEAST_ROWS ? rows : LEAST_ROWS;
    return rows < n->attr.n ? rows : n->attr.n;
}

/* Row r of a matrix like x. */
static void *row(const q3_tensor *x, int64_t r)
{
    return (char *)x->data + q3_dtype_bytes(x->dtype, r * q3_dim(x, -1));
}

static void *new_logits(q3_ctx *ctx, const q3_node *n, int64_t rows)
{
    return q3_scratch(ctx, q3_dtype_bytes(ctx->dtype, rows * n->in[1]->shape[0]));
}

/* Rows [begin, begin + rows) of x w'. */
static void make_logits(q3_ctx *ctx, const q3_node *n, void *logits, int64_t begin, int64_t rows)
{
    const q3_tensor *w = n->in[1];
    Q3_CALL(ctx, q3_gemm_nt,
            (&(q3_gemm_nt_args){ .y = logits,
                                 .x = row(n->in[0], begin),
                                 .w = q3_as_weight(w),
                                 .M = rows,
                                 .N = w->shape[0],
                                 .K = w->shape[1],
                                 .alpha = 1,
                                 .dtype = ctx->dtype }));
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    int64_t V = n->in[1]->shape[0], C = n->in[1]->shape[1], chunk = rows_at_a_time(ctx, n);
    const q3_tensor *dx = n->saved[0];
    const int32_t *targets = n->attr.device_index;
    size_t mark = q3_arena_mark(ctx->data);
    void *logits = new_logits(ctx, n, chunk);
    double *loss = q3_scratch(ctx, (size_t)n->attr.n * sizeof *loss);
    for (int64_t r = 0; r < n->attr.n; r += chunk) {
        int64_t rows = n->attr.n - r < chunk ? n->attr.n - r : chunk;
        make_logits(ctx, n, logits, r, rows);
        Q3_CALL(ctx, q3_cross_entropy_rows,
                (&(q3_cross_entropy_args){ .loss = loss + r,
                                           .logits = logits,
                                           .targets = targets + r,
                                           .R = rows,
                                           .V = V,
                                           .gradient = dx != NULL,
                                           .scale = n->attr.scale,
                                           .dtype = ctx->dtype }));
        if (dx)
            Q3_CALL(ctx, q3_gemm_nn,
                    (&(q3_gemm_nn_args){ .y = row(dx, r),
                                         .x = logits,
                                         .w = q3_as_weight(n->in[1]),
                                         .M = rows,
                                         .N = V,
                                         .K = C,
                                         .alpha = 1,
                                         .dtype = ctx->dtype }));
    }
    Q3_CALL(ctx, q3_cross_entropy_total,
            (&(q3_cross_entropy_total_args){ q3_f32(n->out), loss, n->attr.n, n->attr.scale }));
    q3_arena_rewind(ctx->data, mark);
}

/* dw += (p - onehot)' x, the logits made again. */
static void backward_weight(q3_ctx *ctx, const q3_node *n, float *dw, float beta)
{
    int64_t V = n->in[1]->shape[0], C = n->in[1]->shape[1], chunk = rows_at_a_time(ctx, n), r = 0;
    size_t mark = q3_arena_mark(ctx->data);
    const int32_t *targets = n->attr.device_index;
    void *logits = new_logits(ctx, n, chunk);
    do { // once for no rows too: the gradient must be written
        int64_t rows = n->attr.n - r < chunk ? n->attr.n - r : chunk;
        make_logits(ctx, n, logits, r, rows);
        Q3_CALL(ctx, q3_cross_entropy_rows,
                (&(q3_cross_entropy_args){ .logits = logits,
                                           .targets = targets + r,
                                           .R = rows,
                                           .V = V,
                                           .gradient = true,
                                           .scale = n->attr.scale,
                                           .seed = n->out->grad,
                                           .dtype = ctx->dtype }));
        Q3_CALL(ctx, q3_gemm_tn,
                (&(q3_gemm_tn_args){ .y = dw,
                                     .x = logits,
                                     .z = row(n->in[0], r),
                                     .M = rows,
                                     .N = V,
                                     .K = C,
                                     .alpha = 1,
                                     .beta = r ? 1 : beta,
                                     .dtype = ctx->dtype }));
        r += rows;
    } while (r < n->attr.n);
    q3_arena_rewind(ctx->data, mark);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    float beta;
    void *dx = q3_grad(ctx, n->in[0], &beta);
    if (dx)
        Q3_CALL(ctx, q3_cross_entropy_spread,
                (&(q3_cross_entropy_spread_args){ dx, q3_data(n->saved[0]), n->out->grad, q3_numel(n->in[0]),
                                                  beta, ctx->dtype }));
    float *dw = q3_grad(ctx, n->in[1], &beta);
    if (dw)
        backward_weight(ctx, n, dw, beta);
}

static q3_cost cost(const q3_node *n)
{
    double logits = (double)n->attr.n * (double)n->in[1]->shape[0];
    double flops = logits * (2.0 * (double)n->in[1]->shape[1] * (n->saved[0] ? 2 : 1) + 8);
    double bytes = 2 * (double)q3_dtype_bytes(n->in[0]->dtype, (int64_t)logits) + (double)q3_nbytes(n->in[1]);
    double dw = n->in[1]->root->needs_grad ? 2 : 0; // two products more; dx was made by forward
    return (q3_cost){ .flops = flops,
                      .bytes = bytes,
                      .back_flops = (double)q3_numel(n->in[0]) + dw * 2 * logits * (double)n->in[1]->shape[1],
                      .back_bytes = 2 * (double)q3_nbytes(n->in[0]) + dw * bytes };
}

const q3_op q3_op_cross_entropy = { "cross_entropy", forward, backward, cost };
