#include "core/ops.h"
#include "core/ops/rows.h"
#include "kernels/rows.h"

q3_tensor *q3_embedding(q3_ctx *ctx, q3_tensor *table, const int32_t *ids, int64_t n, int32_t skip)
{
    Q3_CHECK(table->ndim == 2, "table %s", q3_shape(table));
    q3_node *node = q3_node_new(ctx, Q3_OP_EMBEDDING, table, NULL, NULL, NULL, NULL);
    node->attr.index = ids;
    node->attr.device_index = q3_on_device(ctx, ids, (size_t)n * sizeof *ids);
    node->attr.n = n;
    node->attr.skip = skip;
    node->out = q3_new2(ctx, n, table->shape[1]);
    return q3_record(ctx, node);
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    const q3_tensor *table = n->in[0];
    q3_check_rows(ctx, n);
    const q3_take_rows_args a = { .y = q3_data(n->out),
                                  .x = q3_as_weight(table),
                                  .index = n->attr.device_index,
                                  .n = n->attr.n,
                                  .C = table->shape[1],
                                  .dtype = ctx->dtype };
    Q3_CALL(ctx, q3_take_rows, &a);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    q3_spread_rows_args a = {
        .x = n->out->grad,
        .index = n->attr.device_index,
        .n = n->attr.n,
        .C = n->in[0]->shape[1],
        .rows = n->in[0]->shape[0],
        .skip = n->attr.skip,
        .dtype = n->out->dtype,
        .y_dtype = n->in[0]->dtype,
    };
    a.y = q3_grad(ctx, n->in[0], &a.beta);
    if (a.y)
        Q3_CALL(ctx, q3_spread_rows, &a);
}

static q3_cost cost(const q3_node *n)
{
    double size = (double)q3_nbytes(n->out), rows = (double)n->attr.n;
    return (q3_cost){ .bytes = size + rows * (double)q3_dtype_bytes(n->in[0]->dtype, n->in[0]->shape[1]) };
}

const q3_op q3_op_embedding = { "embedding", forward, backward, cost };
