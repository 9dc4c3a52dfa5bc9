#include "core/ops.h"
#include "kernels/add.h"

q3_tensor *q3_add(q3_ctx *ctx, q3_tensor *a, q3_tensor *b)
{
    Q3_CHECK(q3_numel(a) == q3_numel(b), "a %s, b %s", q3_shape(a), q3_shape(b));
    q3_node *n = q3_node_new(ctx, Q3_OP_ADD, a, b, NULL, NULL, NULL);
    n->out = q3_like(ctx, a);
    return q3_record(ctx, n);
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    const q3_add_args a = { q3_data(n->out), q3_data(n->in[0]), q3_data(n->in[1]), q3_numel(n->out),
                            n->out->dtype };
    Q3_CALL(ctx, q3_add_forward, &a);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    q3_grad_add(ctx, n->in[1], n->out);
    q3_grad_pass(ctx, n->in[0], n->out);
}

static q3_cost cost(const q3_node *n)
{
    double size = (double)q3_numel(n->out);
    return (q3_cost){ .flops = size,
                      .bytes = 3 * (double)q3_nbytes(n->out),
                      .back_flops = size,
                      .back_bytes = 2 * (double)q3_nbytes(n->out) };
}

const q3_op q3_op_add = { "add", forward, backward, cost };
