#include "kernels/gelu.h"
#include "core/ops.h"

q3_tensor *q3_gelu(q3_ctx *ctx, q3_tensor *x, bool tanh_form)
{
    q3_node *n = q3_node_new(ctx, Q3_OP_GELU, x, NULL, NULL, NULL, NULL);
    n->attr.kind = tanh_form;
    n->out = q3_like(ctx, x);
    return q3_record(ctx, n);
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    const q3_gelu_args a = { .y = q3_data(n->out),
                             .x = q3_data(n->in[0]),
                             .n = q3_numel(n->out),
                             .tanh_form = n->attr.kind == 1,
                             .dtype = n->out->dtype };
    Q3_CALL(ctx, q3_gelu_forward, &a);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    q3_gelu_args a = { .x = q3_data(n->in[0]),
                       .dy = n->out->grad,
                       .n = q3_numel(n->out),
                       .tanh_form = n->attr.kind == 1,
                       .dtype = n->out->dtype };
    a.y = q3_grad(ctx, n->in[0], &a.beta);
    if (a.y)
        Q3_CALL(ctx, q3_gelu_backward, &a);
}

static q3_cost cost(const q3_node *n)
{
    double size = (double)q3_numel(n->out);
    return (q3_cost){ .flops = 30 * size, .bytes = 2 * (double)q3_nbytes(n->out) };
}

const q3_op q3_op_gelu = { "gelu", forward, backward, cost };
