#include "kernels/swiglu.h"
#include "core/ops.h"

q3_tensor *q3_swiglu(q3_ctx *ctx, q3_tensor *a, q3_tensor *u)
{
    Q3_CHECK(q3_numel(a) == q3_numel(u), "a %s, u %s", q3_shape(a), q3_shape(u));
    q3_node *n = q3_node_new(ctx, Q3_OP_SWIGLU, a, u, NULL, NULL, NULL);
    n->out = q3_like(ctx, a);
    return q3_record(ctx, n);
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    const q3_swiglu_args a = { q3_data(n->out), q3_data(n->in[0]), q3_data(n->in[1]), q3_numel(n->out),
                               n->out->dtype };
    Q3_CALL(ctx, q3_swiglu_forward, &a);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    q3_swiglu_backward_args a = { .dy = n->out->grad,
                                  .a = q3_data(n->in[0]),
                                  .u = q3_data(n->in[1]),
                                  .n = q3_numel(n->out),
                                  .dtype = n->out->dtype };
    a.da = q3_grad(ctx, n->in[0], &a.da_beta);
    a.du = q3_grad(ctx, n->in[1], &a.du_beta);
    Q3_CALL(ctx, q3_swiglu_backward, &a);
}

static q3_cost cost(const q3_node *n)
{
    double size = (double)q3_numel(n->out);
    return (q3_cost){ .flops = 20 * size, .bytes = 3 * (double)q3_nbytes(n->out) };
}

const q3_op q3_op_swiglu = { "swiglu", forward, backward, cost };
