#include "core/ops.h"
#include "core/ops/dropout.h"
#include "kernels/gemm.h"
#include "kernels/linear.h"

/* Inputs by name, sizes by letter: x [T, C], w [N, C], A [r, C], B [N, r]. */
typedef struct sizes {
    int64_t T, C, N, r;
} sizes;

enum { X, W, BIAS, A, B, RESIDUAL };

static sizes sizes_of(const q3_node *n)
{
    return (sizes){ q3_rows(n->in[X]), n->in[W]->shape[1], n->in[W]->shape[0], n->in[A]->shape[0] };
}

q3_tensor *q3_lora_linear(q3_ctx *ctx, q3_tensor *x, q3_tensor *w, q3_tensor *b, q3_tensor *lora_a,
                          q3_tensor *lora_b, q3_lora_attr attr)
{
    Q3_CHECK(w->ndim == 2 && q3_dim(x, -1) == w->shape[1], "w %s, x %s", q3_shape(w), q3_shape(x));
    Q3_CHECK(!b || (b->dtype == Q3_F32 && q3_numel(b) == w->shape[0]), "b %s, w %s", q3_shape(b),
             q3_shape(w));
    Q3_CHECK(lora_a->dtype == Q3_F32 && lora_b->dtype == Q3_F32 && lora_a->ndim == 2 && lora_b->ndim == 2 &&
                 lora_a->shape[1] == w->shape[1] && lora_b->shape[0] == w->shape[0] &&
                 lora_a->shape[0] == lora_b->shape[1],
             "A %s, B %s, w %s", q3_shape(lora_a), q3_shape(lora_b), q3_shape(w));
    const q3_tensor *added = attr.residual;
    Q3_CHECK(!added || (q3_rows(added) == q3_rows(x) && q3_dim(added, -1) == w->shape[0]),
             "residual %s, x %s, w %s", q3_shape(added), q3_shape(x), q3_shape(w));
    q3_node *n = q3_node_new(ctx, Q3_OP_LORA_LINEAR, x, w, b, lora_a, lora_b);
    n->in[RESIDUAL] = attr.residual;
    n->attr.scale = attr.scale;
    q3_dropout_attr(ctx, n, attr.dropout, attr.stream);
    n->saved[0] = q3_new2(ctx, q3_rows(x), lora_a->shape[0]); // z = scale drop(x) A'
    n->out = q3_new2(ctx, q3_rows(x), w->shape[0]);
    return q3_record(ctx, n);
}

void q3_lora_rows(q3_ctx *ctx, q3_tensor *y, const q3_tensor *x, int64_t begin, int64_t n,
                  const q3_tensor *lora_a, const q3_tensor *lora_b, float scale)
{
    const sizes s = { n, lora_a->shape[1], lora_b->shape[0], lora_a->shape[0] };
    Q3_CHECK(!ctx->recording && q3_dim(x, -1) == s.C && q3_dim(y, -1) == s.N && lora_b->shape[1] == s.r &&
                 begin >= 0 && n > 0 && begin + n <= q3_rows(x) && q3_rows(x) == q3_rows(y),
             "rows %lld + %lld of x %s, y %s, A %s, B %s", (long long)begin, (long long)n, q3_shape(x),
             q3_shape(y), q3_shape(lora_a), q3_shape(lora_b));
    size_t mark = q3_arena_mark(ctx->data);
    void *z = q3_scratch(ctx, q3_dtype_bytes(ctx->dtype, n * s.r));
    Q3_CALL(ctx, q3_gemm_nt,
            (&(q3_gemm_nt_args){ .y = z,
                                 .x = (const char *)x->data + q3_dtype_bytes(x->dtype, begin * s.C),
                                 .w = q3_as_weight(lora_a),
                                 .M = n,
                                 .N = s.r,
                                 .K = s.C,
                                 .alpha = scale,
                                 .dtype = ctx->dtype }));
    Q3_CALL(ctx, q3_gemm_nt,
            (&(q3_gemm_nt_args){ .y = (char *)y->data + q3_dtype_bytes(y->dtype, begin * s.N),
                                 .x = z,
                                 .w = q3_as_weight(lora_b),
                                 .M = n,
                                 .N = s.N,
                                 .K = s.r,
                                 .alpha = 1,
                                 .beta = 1,
                                 .dtype = ctx->dtype }));
    q3_arena_rewind(ctx->data, mark);
}

/* drop(x): x itself, or a scratch copy that the caller rewinds. */
static const void *dropped(q3_ctx *ctx, const q3_node *n)
{
    const q3_tensor *x = n->in[X];
    if (n->attr.dropout == 0)
        return x->data;
    void *y = q3_scratch(ctx, q3_nbytes(x));
    const q3_dropout_args a = q3_dropout_args_of(ctx, n, y, x->data, q3_numel(x), 0);
    Q3_CALL(ctx, q3_dropout_forward, &a);
    return y;
}

/* The adapter's part comes first, with what is to be added: the large product takes y as its addend, which costs it
 * nothing beside its own work, where a small product behind it would read and write y once more. In bf16 it is the
 * adapter's part that is rounded on the way, not y. */
static void forward(q3_ctx *ctx, q3_node *n)
{
    const sizes s = sizes_of(n);
    void *y = q3_data(n->out), *z = q3_data(n->saved[0]);
    size_t mark = q3_arena_mark(ctx->data);
    const void *xd = dropped(ctx, n);
    Q3_CALL(ctx, q3_gemm_nt,
            (&(q3_gemm_nt_args){ .y = z,
                                 .x = xd,
                                 .w = q3_as_weight(n->in[A]),
                                 .M = s.T,
                                 .N = s.r,
                                 .K = s.C,
                                 .alpha = n->attr.scale,
                                 .dtype = ctx->dtype }));
    q3_arena_rewind(ctx->data, mark);
    Q3_CALL(ctx, q3_gemm_nt,
            (&(q3_gemm_nt_args){ .y = y,
                                 .x = z,
                                 .w = q3_as_weight(n->in[B]),
                                 .residual = q3_data(n->in[RESIDUAL]),
                                 .M = s.T,
                                 .N = s.N,
                                 .K = s.r,
                                 .alpha = 1,
                                 .beta = n->in[RESIDUAL] ? 1 : 0,
                                 .dtype = ctx->dtype }));
    Q3_CALL(ctx, q3_gemm_nt,
            (&(q3_gemm_nt_args){ .y = y,
                                 .x = q3_data(n->in[X]),
                                 .w = q3_as_weight(n->in[W]),
                                 .bias = q3_f32(n->in[BIAS]),
                                 .M = s.T,
                                 .N = s.N,
                                 .K = s.C,
                                 .alpha = 1,
                                 .beta = 1,
                                 .dtype = ctx->dtype }));
}

/* dx = beta dx + mask / (1 - p) (dz A) */
static void through_adapter(q3_ctx *ctx, const q3_node *n, void *dx, float beta, const void *dz)
{
    const sizes s = sizes_of(n);
    bool apart = n->attr.dropout != 0 && beta != 0; // the mask is not for what dx holds already
    void *d = apart ? q3_scratch(ctx, q3_nbytes(n->in[X])) : dx;
    Q3_CALL(ctx, q3_gemm_nn,
            (&(q3_gemm_nn_args){ .y = d,
                                 .x = dz,
                                 .w = q3_as_weight(n->in[A]),
                                 .M = s.T,
                                 .N = s.r,
                                 .K = s.C,
                                 .alpha = 1,
                                 .beta = apart ? 0 : beta,
                                 .dtype = ctx->dtype }));
    if (n->attr.dropout == 0)
        return;
    const q3_dropout_args a = q3_dropout_args_of(ctx, n, dx, d, s.T * s.C, beta);
    Q3_CALL(ctx, q3_dropout_forward, &a);
}

/* The frozen part, as in linear; dx holds the adapter's part. */
static void through_base(q3_ctx *ctx, q3_node *n, void *dx)
{
    const sizes s = sizes_of(n);
    const void *dy = n->out->grad;
    float own, *dw = q3_grad(ctx, n->in[W], &own);
    if (dw)
        Q3_CALL(ctx, q3_gemm_tn,
                (&(q3_gemm_tn_args){ .y = dw,
                                     .x = dy,
                                     .z = q3_data(n->in[X]),
                                     .M = s.T,
                                     .N = s.N,
                                     .K = s.C,
                                     .alpha = 1,
                                     .beta = own,
                                     .dtype = ctx->dtype }));
    float *db = q3_grad(ctx, n->in[BIAS], &own);
    if (db)
        Q3_CALL(ctx, q3_linear_bias, (&(q3_linear_bias_args){ db, dy, s.T, s.N, own, ctx->dtype }));
    if (dx)
        Q3_CALL(ctx, q3_gemm_nn,
                (&(q3_gemm_nn_args){ .y = dx,
                                     .x = dy,
                                     .w = q3_as_weight(n->in[W]),
                                     .M = s.T,
                                     .N = s.N,
                                     .K = s.C,
                                     .alpha = 1,
                                     .beta = 1,
                                     .dtype = ctx->dtype }));
}

/* dz = scale dy B;   dB += dy' z,  dA += dz' drop(x),  dx += mask / (1 - p) (dz A) */
static void through_matrices(q3_ctx *ctx, q3_node *n, void *dx, float beta_x)
{
    const sizes s = sizes_of(n);
    const void *dy = n->out->grad;
    float beta_a, beta_b;
    float *da = q3_grad(ctx, n->in[A], &beta_a), *db = q3_grad(ctx, n->in[B], &beta_b);
    if (db)
        Q3_CALL(ctx, q3_gemm_tn,
                (&(q3_gemm_tn_args){ .y = db,
                                     .x = dy,
                                     .z = q3_data(n->saved[0]),
                                     .M = s.T,
                                     .N = s.N,
                                     .K = s.r,
                                     .alpha = 1,
                                     .beta = beta_b,
                                     .dtype = ctx->dtype }));
    if (!da && !dx)
        return;
    size_t mark = q3_arena_mark(ctx->data);
    void *dz = q3_scratch(ctx, q3_dtype_bytes(ctx->dtype, s.T * s.r));
    Q3_CALL(ctx, q3_gemm_nn,
            (&(q3_gemm_nn_args){ .y = dz,
                                 .x = dy,
                                 .w = q3_as_weight(n->in[B]),
                                 .M = s.T,
                                 .N = s.N,
                                 .K = s.r,
                                 .alpha = n->attr.scale,
                                 .dtype = ctx->dtype }));
    size_t above = q3_arena_mark(ctx->data);
    const void *xd = da ? dropped(ctx, n) : NULL;
    if (da)
        Q3_CALL(ctx, q3_gemm_tn,
                (&(q3_gemm_tn_args){ .y = da,
                                     .x = dz,
                                     .z = xd,
                                     .M = s.T,
                                     .N = s.r,
                                     .K = s.C,
                                     .alpha = 1,
                                     .beta = beta_a,
                                     .dtype = ctx->dtype }));
    q3_arena_rewind(ctx->data, above);
    if (dx)
        through_adapter(ctx, n, dx, beta_x, dz);
    q3_arena_rewind(ctx->data, mark);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    float beta = 0;
    void *dx = q3_grad(ctx, n->in[X], &beta);
    through_matrices(ctx, n, dx, beta);
    through_base(ctx, n, dx);
    q3_grad_pass(ctx, n->in[RESIDUAL], n->out);
}

static q3_cost cost(const q3_node *n)
{
    const sizes s = sizes_of(n);
    double T = (double)s.T, N = (double)s.N, C = (double)s.C, r = (double)s.r;
    double x = (double)q3_nbytes(n->in[X]), y = (double)q3_nbytes(n->out), w = (double)q3_nbytes(n->in[W]);
    double dx = n->in[X]->root->needs_grad, dw = n->in[W]->root->needs_grad;
    return (q3_cost){ .flops = 2 * T * (N * C + r * (N + C)),
                      .bytes = x + (n->in[RESIDUAL] ? 2 : 1) * y + w,
                      // dy W and dy' x; dy B, dy' z; dz' x, dz A
                      .back_flops = 2 * T * ((dx + dw) * N * C + r * (2 * N + (1 + dx) * C)),
                      .back_bytes = (dx + dw) * (x + y + w) + 2 * y + (1 + 2 * dx) * x };
}

const q3_op q3_op_lora_linear = { "lora_linear", forward, backward, cost };
