#include "kernels/norm_rope.h"
#include "core/ops.h"
#include "kernels/rmsnorm.h"

q3_tensor *q3_norm_rope(q3_ctx *ctx, q3_tensor *x, q3_tensor *w, float eps, const float *cos_sin, int heads)
{
    Q3_CHECK(heads > 0 && q3_dim(x, -1) % (2 * heads) == 0, "x %s, %d heads", q3_shape(x), heads);
    Q3_CHECK(w->dtype == Q3_F32 && w->ndim == 1 && w->shape[0] * heads == q3_dim(x, -1),
             "w %s, x %s, %d heads", q3_shape(w), q3_shape(x), heads);
    q3_node *n = q3_node_new(ctx, Q3_OP_NORM_ROPE, x, w, NULL, NULL, NULL);
    n->attr.eps = eps;
    n->attr.weights = cos_sin;
    n->attr.heads = heads;
    n->out = q3_like(ctx, x);
    if (ctx->recording) {
        int64_t rows = q3_rows(x) * heads;
        n->saved[0] = q3_new_f32(ctx, 1, &rows); // 1/rms of each head
    }
    return q3_record(ctx, n);
}

/* What the CPU's way needs between norm and rotation. */
static void *scratch(q3_ctx *ctx, const q3_node *n)
{
    return ctx->data->cuda ? NULL : q3_scratch(ctx, q3_nbytes(n->out));
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    size_t mark = q3_arena_mark(ctx->data);
    const q3_norm_rope_args a = {
        .y = q3_data(n->out),
        .r = q3_f32(n->saved[0]),
        .x = q3_data(n->in[0]),
        .w = q3_f32(n->in[1]),
        .cos_sin = n->attr.weights,
        .scratch = scratch(ctx, n),
        .T = q3_rows(n->out),
        .heads = n->attr.heads,
        .D = (int)n->in[1]->shape[0],
        .eps = n->attr.eps,
        .dtype = n->out->dtype,
    };
    Q3_CALL(ctx, q3_norm_rope_forward, &a);
    q3_arena_rewind(ctx->data, mark);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    q3_norm_rope_backward_args a = {
        .dy = n->out->grad,
        .x = q3_data(n->in[0]),
        .r = q3_f32(n->saved[0]),
        .w = q3_f32(n->in[1]),
        .cos_sin = n->attr.weights,
        .T = q3_rows(n->out),
        .heads = n->attr.heads,
        .D = (int)n->in[1]->shape[0],
        .dtype = n->out->dtype,
    };
    a.dx = q3_grad(ctx, n->in[0], &a.dx_beta);
    a.dw = q3_grad(ctx, n->in[1], &a.dw_beta);
    size_t mark = q3_arena_mark(ctx->data); // every gradient buffer was asked for: what follows is scratch
    a.scratch = scratch(ctx, n);
    if (a.dw)
        a.partial =
            q3_scratch(ctx, (size_t)(a.T * a.heads / Q3_RMSNORM_RUN + 1) * (size_t)a.D * sizeof(float));
    Q3_CALL(ctx, q3_norm_rope_backward, &a);
    q3_arena_rewind(ctx->data, mark);
}

static q3_cost cost(const q3_node *n)
{
    double size = (double)q3_numel(n->out);
    return (q3_cost){ .flops = 7 * size, .bytes = 8 * size + 4 * size / n->attr.heads };
}

const q3_op q3_op_norm_rope = { "norm_rope", forward, backward, cost };
