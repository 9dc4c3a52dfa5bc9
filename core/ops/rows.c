#include "core/ops/rows.h"

#include "kernels/rows.h"

void q3_check_rows(const q3_ctx *ctx, const q3_node *n)
{
    for (int64_t i = 0; !ctx->dry && i < n->attr.n; i++)
        Q3_CHECK(n->attr.index[i] >= 0 && n->attr.index[i] < q3_rows(n->in[0]), "row %d at %lld of %s, x %s",
                 n->attr.index[i], (long long)i, n->op->name, q3_shape(n->in[0]));
}

q3_node *q3_rows_node(q3_ctx *ctx, enum q3_op_id id, q3_tensor *x, q3_tensor *s, const int32_t *rows,
                      int64_t n)
{
    Q3_CHECK(q3_dim(s, -1) == q3_dim(x, -1) && q3_rows(s) == n, "x %s, s %s, %lld rows", q3_shape(x),
             q3_shape(s), (long long)n);
    q3_node *node = q3_node_new(ctx, id, x, s, NULL, NULL, NULL);
    node->attr.index = rows;
    node->attr.device_index = q3_on_device(ctx, rows, (size_t)n * sizeof *rows);
    node->attr.n = n;
    node->out = q3_like(ctx, x);
    return node;
}

void q3_rows_forward(q3_ctx *ctx, q3_node *n, bool add)
{
    q3_check_rows(ctx, n);
    const q3_put_rows_args a = {
        .y = q3_data(n->out),
        .x = q3_data(n->in[0]),
        .s = q3_data(n->in[1]),
        .index = n->attr.device_index,
        .T = q3_rows(n->in[0]),
        .C = q3_dim(n->in[0], -1),
        .n = n->attr.n,
        .add = add,
        .dtype = n->out->dtype,
    };
    Q3_CALL(ctx, q3_put_rows_forward, &a);
}

void q3_rows_backward(q3_ctx *ctx, q3_node *n)
{
    q3_take_rows_args a = { .x = { .data = n->out->grad, .dtype = n->out->dtype },
                            .index = n->attr.device_index,
                            .n = n->attr.n,
                            .C = q3_dim(n->out, -1),
                            .dtype = n->out->dtype };
    a.y = q3_grad(ctx, n->in[1], &a.beta);
    if (a.y)
        Q3_CALL(ctx, q3_take_rows, &a);
}
