#include "core/ops.h"
#include "kernels/gemm.h"
#include "kernels/linear.h"

enum { X, W, BIAS, RESIDUAL };

q3_tensor *q3_linear_add(q3_ctx *ctx, q3_tensor *a, q3_tensor *x, q3_tensor *w, q3_tensor *b)
{
    Q3_CHECK(w->ndim == 2 && q3_dim(x, -1) == w->shape[1], "w %s, x %s", q3_shape(w), q3_shape(x));
    Q3_CHECK(!b || (b->dtype == Q3_F32 && q3_numel(b) == w->shape[0]), "b %s, w %s", q3_shape(b),
             q3_shape(w));
    Q3_CHECK(!a || (q3_rows(a) == q3_rows(x) && q3_dim(a, -1) == w->shape[0]), "a %s, x %s, w %s",
             q3_shape(a), q3_shape(x), q3_shape(w));
    q3_node *n = q3_node_new(ctx, Q3_OP_LINEAR, x, w, b, a, NULL);
    n->out = q3_new2(ctx, q3_rows(x), w->shape[0]);
    return q3_record(ctx, n);
}

q3_tensor *q3_linear(q3_ctx *ctx, q3_tensor *x, q3_tensor *w, q3_tensor *b)
{
    return q3_linear_add(ctx, NULL, x, w, b);
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    const q3_tensor *x = n->in[X], *w = n->in[W];
    const q3_gemm_nt_args a = { .y = q3_data(n->out),
                                .x = q3_data(x),
                                .w = q3_as_weight(w),
                                .bias = q3_f32(n->in[BIAS]),
                                .residual = q3_data(n->in[RESIDUAL]),
                                .M = q3_rows(x),
                                .N = w->shape[0],
                                .K = w->shape[1],
                                .alpha = 1,
                                .beta = n->in[RESIDUAL] ? 1 : 0,
                                .dtype = n->out->dtype };
    Q3_CALL(ctx, q3_gemm_nt, &a);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    const q3_tensor *x = n->in[X], *w = n->in[W];
    const void *dy = n->out->grad;
    int64_t M = q3_rows(x), N = w->shape[0], K = w->shape[1];
    q3_dtype dtype = n->out->dtype;
    float beta;
    void *dx = q3_grad(ctx, n->in[X], &beta);
    if (dx)
        Q3_CALL(ctx, q3_gemm_nn,
                (&(q3_gemm_nn_args){ .y = dx,
                                     .x = dy,
                                     .w = q3_as_weight(w),
                                     .M = M,
                                     .N = N,
                                     .K = K,
                                     .alpha = 1,
                                     .beta = beta,
                                     .dtype = dtype }));
    float *dw = q3_grad(ctx, n->in[W], &beta);
    if (dw)
        Q3_CALL(ctx, q3_gemm_tn,
                (&(q3_gemm_tn_args){ .y = dw,
                                     .x = dy,
                                     .z = q3_data(x),
                                     .M = M,
                                     .N = N,
                                     .K = K,
                                     .alpha = 1,
                                     .beta = beta,
                                     .dtype = dtype }));
    float *db = q3_grad(ctx, n->in[BIAS], &beta);
    if (db)
        Q3_CALL(ctx, q3_linear_bias, (&(q3_linear_bias_args){ db, dy, M, N, beta, dtype }));
    q3_grad_pass(ctx, n->in[RESIDUAL], n->out);
}

static q3_cost cost(const q3_node *n)
{
    double products = (double)q3_rows(n->in[X]) * (double)q3_numel(n->in[W]);
    double y = (n->in[RESIDUAL] ? 2 : 1) * (double)q3_nbytes(n->out);
    double bytes = (double)q3_nbytes(n->in[X]) + y + (double)q3_nbytes(n->in[W]);
    double wanted = n->in[X]->root->needs_grad + n->in[W]->root->needs_grad; // a product for each
    return (q3_cost){ .flops = 2 * products,
                      .bytes = bytes,
                      .back_flops = 2 * products * wanted,
                      .back_bytes = bytes * wanted };
}

const q3_op q3_op_linear = { "linear", forward, backward, cost };
