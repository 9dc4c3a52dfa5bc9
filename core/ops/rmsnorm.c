#include "kernels/rmsnorm.h"
#include "core/ops.h"

q3_tensor *q3_rmsnorm(q3_ctx *ctx, q3_tensor *x, q3_tensor *w, float eps)
{
    Q3_CHECK(w->dtype == Q3_F32 && w->ndim == 1 && q3_dim(x, -1) % w->shape[0] == 0, "w %s, x %s",
             q3_shape(w), q3_shape(x));
    q3_node *n = q3_node_new(ctx, Q3_OP_RMSNORM, x, w, NULL, NULL, NULL);
    n->attr.eps = eps;
    n->out = q3_like(ctx, x);
    if (ctx->recording) {
        int64_t rows = q3_numel(x) / w->shape[0];
        n->saved[0] = q3_new_f32(ctx, 1, &rows); // 1/rms of each row
    }
    return q3_record(ctx, n);
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    int64_t C = n->in[1]->shape[0];
    const q3_rmsnorm_args a = {
        .y = q3_data(n->out),
        .r = q3_f32(n->saved[0]),
        .x = q3_data(n->in[0]),
        .w = q3_f32(n->in[1]),
        .rows = q3_numel(n->out) / C,
        .C = C,
        .eps = n->attr.eps,
        .dtype = n->out->dtype,
    };
    Q3_CALL(ctx, q3_rmsnorm_forward, &a);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    int64_t C = n->in[1]->shape[0];
    q3_rmsnorm_backward_args a = {
        .dy = n->out->grad,
        .x = q3_data(n->in[0]),
        .r = q3_f32(n->saved[0]),
        .w = q3_f32(n->in[1]),
        .rows = q3_numel(n->out) / C,
        .C = C,
        .dtype = n->out->dtype,
    };
    a.dx = q3_grad(ctx, n->in[0], &a.dx_beta);
    a.dw = q3_grad(ctx, n->in[1], &a.dw_beta);
    size_t mark = q3_arena_mark(ctx->data);
    if (a.dw)
        a.partial = q3_scratch(ctx, (size_t)(a.rows / Q3_RMSNORM_RUN + 1) * (size_t)C * sizeof(float));
    Q3_CALL(ctx, q3_rmsnorm_backward, &a);
    q3_arena_rewind(ctx->data, mark);
}

static q3_cost cost(const q3_node *n)
{
    double size = (double)q3_numel(n->out);
    return (q3_cost){ .flops = 4 * size, .bytes = 2 * (double)q3_nbytes(n->out) };
}

const q3_op q3_op_rmsnorm = { "rmsnorm", forward, backward, cost };
