#include "core/ops.h"
#include "kernels/cross_entropy.h"
#include "kernels/gemm.h"

/* Logits at a time: 4 MB stay in cache; 64 rows at least, to read a large head seldom. */
enum { LOGITS = 1 << 20, LEAST_ROWS = 64 };

q3_tensor *q3_cross_entropy(q3_ctx *ctx, q3_tensor *x, q3_tensor *w, const int32_t *targets, float scale)
{
    Q3_CHECK(w->ndim == 2 && q3_dim(x, -1) == w->shape[1], "w %s, x %s", q3_shape(w), q3_shape(x));
    q3_node *n = q3_node_new(ctx, Q3_OP_CROSS_ENTROPY, x, w, NULL, NULL, NULL);
    n->attr.scale = scale;
    n->attr.index = targets;
    n->attr.n = q3_rows(x);
    if (ctx->recording && x->root->needs_grad)
        n->saved[0] = q3_like(ctx, x); // d loss / d x, while the logits are at hand
    n->out = q3_new(ctx, 1, (const int64_t[]){ 1 });
    return q3_record(ctx, n);
}

static int64_t rows_at_a_time(const q3_node *n)
{
    int64_t rows = LOGITS / (n->in[1]->shape[0] + 1);
    rows = rows > LEAST_ROWS ? rows : LEAST_ROWS;
    return rows < n->attr.n ? rows : n->attr.n;
}

/* Rows [begin, begin + rows) of x w'. */
static void make_logits(q3_ctx *ctx, const q3_node *n, float *logits, int64_t begin, int64_t rows)
{
    const q3_tensor *w = n->in[1];
    const float *x = q3_f32(n->in[0]);
    int64_t V = w->shape[0], C = w->shape[1];
    Q3_CALL(
        ctx, q3_gemm_nt,
        (&(q3_gemm_nt_args){
            .y = logits, .x = x + begin * C, .w = q3_as_weight(w), .M = rows, .N = V, .K = C, .alpha = 1 }));
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    int64_t V = n->in[1]->shape[0], C = n->in[1]->shape[1], chunk = rows_at_a_time(n);
    float *dx = q3_f32(n->saved[0]);
    size_t mark = q3_arena_mark(ctx->data);
    float *logits = q3_scratch(ctx, (size_t)(chunk * V) * sizeof *logits);
    double *loss = q3_scratch(ctx, (size_t)n->attr.n * sizeof *loss);
    for (int64_t r = 0; r < n->attr.n; r += chunk) {
        int64_t rows = n->attr.n - r < chunk ? n->attr.n - r : chunk;
        make_logits(ctx, n, logits, r, rows);
        Q3_CALL(ctx, q3_cross_entropy_rows,
                (&(q3_cross_entropy_args){ .loss = loss + r,
                                           .logits = logits,
                                           .targets = n->attr.index + r,
                                           .R = rows,
                                           .V = V,
                                           .gradient = dx != NULL,
                                           .scale = n->attr.scale }));
        if (dx)
            Q3_CALL(ctx, q3_gemm_nn,
                    (&(q3_gemm_nn_args){ .y = dx + r * C,
                                         .x = logits,
                                         .w = q3_as_weight(n->in[1]),
                                         .M = rows,
                                         .N = V,
                                         .K = C,
                                         .alpha = 1 }));
    }
    Q3_CALL(ctx, q3_cross_entropy_total,
            (&(q3_cross_entropy_total_args){ q3_f32(n->out), loss, n->attr.n, n->attr.scale }));
    q3_arena_rewind(ctx->data, mark);
}

/* dw += (p - onehot)' x, the logits made again. */
static void backward_weight(q3_ctx *ctx, const q3_node *n, float *dw, float beta)
{
    int64_t V = n->in[1]->shape[0], C = n->in[1]->shape[1], chunk = rows_at_a_time(n), r = 0;
    size_t mark = q3_arena_mark(ctx->data);
    float *logits = q3_scratch(ctx, (size_t)(chunk * V) * sizeof *logits);
    do { // once for no rows too: the gradient must be written
        int64_t rows = n->attr.n - r < chunk ? n->attr.n - r : chunk;
        make_logits(ctx, n, logits, r, rows);
        Q3_CALL(ctx, q3_cross_entropy_rows,
                (&(q3_cross_entropy_args){ .logits = logits,
                                           .targets = n->attr.index + r,
                                           .R = rows,
                                           .V = V,
                                           .gradient = true,
                                           .scale = n->attr.scale,
                                           .seed = n->out->grad }));
        Q3_CALL(ctx, q3_gemm_tn,
                (&(q3_gemm_tn_args){ .y = dw,
                                     .x = logits,
                                     .z = q3_f32(n->in[0]) + r * C,
                                     .M = rows,
                                     .N = V,
                                     .K = C,
                                     .alpha = 1,
                                     .beta = r ? 1 : beta }));
        r += rows;
    } while (r < n->attr.n);
    q3_arena_rewind(ctx->data, mark);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    float beta, *dx = q3_grad(ctx, n->in[0], &beta);
    if (dx)
        Q3_CALL(ctx, q3_cross_entropy_spread,
                (&(q3_cross_entropy_spread_args){ dx, q3_f32(n->saved[0]), n->out->grad, q3_numel(n->in[0]),
                                                  beta }));
    float *dw = q3_grad(ctx, n->in[1], &beta);
    if (dw)
        backward_weight(ctx, n, dw, beta);
}

static q3_cost cost(const q3_node *n)
{
    double logits = (double)n->attr.n * (double)n->in[1]->shape[0];
    double flops = logits * (2.0 * (double)n->in[1]->shape[1] * (n->saved[0] ? 2 : 1) + 8);
    return (q3_cost){ .flops = flops, .bytes = 8 * logits + (double)q3_nbytes(n->in[1]) };
}

const q3_op q3_op_cross_entropy = { "cross_entropy", forward, backward, cost };
