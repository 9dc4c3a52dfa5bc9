#include "kernels/rope.h"
#include "core/ops.h"

q3_tensor *q3_rope(q3_ctx *ctx, q3_tensor *x, const float *cos_sin, int heads)
{
    Q3_CHECK(heads > 0 && q3_dim(x, -1) % (2 * heads) == 0, "x %s, %d heads", q3_shape(x), heads);
    q3_node *n = q3_node_new(ctx, Q3_OP_ROPE, x, NULL, NULL, NULL, NULL);
    n->attr.weights = cos_sin;
    n->attr.heads = heads;
    n->out = q3_like(ctx, x);
    return q3_record(ctx, n);
}

static q3_rope_args args_of(const q3_node *n)
{
    return (q3_rope_args){
        .y = q3_data(n->out),
        .x = q3_data(n->in[0]),
        .cos_sin = n->attr.weights,
        .T = q3_rows(n->out),
        .heads = n->attr.heads,
        .D = (int)(q3_dim(n->out, -1) / n->attr.heads),
        .dtype = n->out->dtype,
    };
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    const q3_rope_args a = args_of(n);
    Q3_CALL(ctx, q3_rope_rotate, &a);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    q3_rope_args a = args_of(n);
    a.x = n->out->grad;
    a.inverse = true;
    a.y = q3_grad(ctx, n->in[0], &a.beta);
    if (a.y)
        Q3_CALL(ctx, q3_rope_rotate, &a);
}

static q3_cost cost(const q3_node *n)
{
    double size = (double)q3_numel(n->out);
    return (q3_cost){ .flops = 3 * size, .bytes = 2 * (double)q3_nbytes(n->out) + 4 * size / n->attr.heads };
}

const q3_op q3_op_rope = { "rope", forward, backward, cost };
