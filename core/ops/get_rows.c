#include "core/ops.h"
#include "core/ops/rows.h"
#include "kernels/rows.h"

q3_tensor *q3_get_rows(q3_ctx *ctx, q3_tensor *x, const int32_t *rows, int64_t n)
{
    q3_node *node = q3_node_new(ctx, Q3_OP_GET_ROWS, x, NULL, NULL, NULL, NULL);
    node->attr.index = rows;
    node->attr.device_index = q3_on_device(ctx, rows, (size_t)n * sizeof *rows);
    node->attr.n = n;
    node->out = q3_new2(ctx, n, q3_dim(x, -1));
    return q3_record(ctx, node);
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    q3_check_rows(ctx, n);
    const q3_take_rows_args a = { .y = q3_data(n->out),
                                  .x = q3_as_weight(n->in[0]),
                                  .index = n->attr.device_index,
                                  .n = n->attr.n,
                                  .C = q3_dim(n->in[0], -1),
                                  .dtype = ctx->dtype };
    Q3_CALL(ctx, q3_take_rows, &a);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    q3_spread_rows_args a = {
        .x = n->out->grad,
        .index = n->attr.device_index,
        .n = n->attr.n,
        .C = q3_dim(n->in[0], -1),
        .rows = q3_rows(n->in[0]),
        .skip = -1,
        .dtype = n->out->dtype,
        .y_dtype = n->in[0]->dtype,
    };
    a.y = q3_grad(ctx, n->in[0], &a.beta);
    if (a.y)
        Q3_CALL(ctx, q3_spread_rows, &a);
}

static q3_cost cost(const q3_node *n)
{
    return (q3_cost){ .bytes = 2 * (double)q3_nbytes(n->out) };
}

const q3_op q3_op_get_rows = { "get_rows", forward, backward, cost };
