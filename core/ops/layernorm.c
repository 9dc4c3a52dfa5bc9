#include "kernels/layernorm.h"
#include "core/ops.h"

q3_tensor *q3_layernorm(q3_ctx *ctx, q3_tensor *x, q3_tensor *w, q3_tensor *b, float eps)
{
    Q3_CHECK(w->dtype == Q3_F32 && b->dtype == Q3_F32 && q3_numel(w) == q3_dim(x, -1) &&
                 q3_numel(b) == q3_dim(x, -1),
             "w %s, b %s, x %s", q3_shape(w), q3_shape(b), q3_shape(x));
    q3_node *n = q3_node_new(ctx, Q3_OP_LAYERNORM, x, w, b, NULL, NULL);
    n->attr.eps = eps;
    n->out = q3_like(ctx, x);
    for (int i = 0; ctx->recording && i < 2; i++) {
        int64_t rows = q3_rows(x);
        n->saved[i] = q3_new_f32(ctx, 1, &rows); // mean and 1/std of each row
    }
    return q3_record(ctx, n);
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    const q3_layernorm_args a = {
        .y = q3_data(n->out),
        .m = q3_f32(n->saved[0]),
        .r = q3_f32(n->saved[1]),
        .x = q3_data(n->in[0]),
        .w = q3_f32(n->in[1]),
        .b = q3_f32(n->in[2]),
        .rows = q3_rows(n->out),
        .C = q3_dim(n->out, -1),
        .eps = n->attr.eps,
        .dtype = n->out->dtype,
    };
    Q3_CALL(ctx, q3_layernorm_forward, &a);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    q3_layernorm_backward_args a = {
        .dy = n->out->grad,
        .x = q3_data(n->in[0]),
        .m = q3_f32(n->saved[0]),
        .r = q3_f32(n->saved[1]),
        .w = q3_f32(n->in[1]),
        .rows = q3_rows(n->out),
        .C = q3_dim(n->out, -1),
        .dtype = n->out->dtype,
    };
    a.dx = q3_grad(ctx, n->in[0], &a.dx_beta);
    a.dw = q3_grad(ctx, n->in[1], &a.dw_beta);
    a.db = q3_grad(ctx, n->in[2], &a.db_beta);
    size_t mark = q3_arena_mark(ctx->data);
    if (a.dw || a.db)
        a.partial =
            q3_scratch(ctx, (size_t)(a.rows / Q3_LAYERNORM_RUN + 1) * 2 * (size_t)a.C * sizeof(float));
    Q3_CALL(ctx, q3_layernorm_backward, &a);
    q3_arena_rewind(ctx->data, mark);
}

static q3_cost cost(const q3_node *n)
{
    double size = (double)q3_numel(n->out);
    return (q3_cost){ .flops = 7 * size, .bytes = 2 * (double)q3_nbytes(n->out) };
}

const q3_op q3_op_layernorm = { "layernorm", forward, backward, cost };
