#include "core/ops.h"
#include "core/ops/rows.h"

q3_tensor *q3_add_rows(q3_ctx *ctx, q3_tensor *x, q3_tensor *s, const int32_t *rows, int64_t n)
{
    return q3_record(ctx, q3_rows_node(ctx, Q3_OP_ADD_ROWS, x, s, rows, n));
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    q3_rows_forward(ctx, n, true);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    q3_rows_backward(ctx, n);
    q3_grad_pass(ctx, n->in[0], n->out);
}

static q3_cost cost(const q3_node *n)
{
    double x = (double)q3_nbytes(n->out), s = (double)q3_nbytes(n->in[1]);
    return (q3_cost){ .flops = (double)q3_numel(n->in[1]), .bytes = 2 * x + 3 * s };
}

const q3_op q3_op_add_rows = { "add_rows", forward, backward, cost };
