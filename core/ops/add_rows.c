#include "core/ops.h"
#include "kernels/rows.h"

q3_tensor *q3_add_rows(q3_ctx *ctx, q3_tensor *x, q3_tensor *s, const int32_t *rows, int64_t n)
{
    Q3_CHECK(q3_dim(s, -1) == q3_dim(x, -1) && q3_rows(s) == n, "x %s, s %s, %lld rows", q3_shape(x),
             q3_shape(s), (long long)n);
    q3_node *node = q3_node_new(ctx, Q3_OP_ADD_ROWS, x, s, NULL, NULL, NULL);
    node->attr.index = rows;
    node->attr.n = n;
    node->out = q3_like(ctx, x);
    return q3_record(ctx, node);
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    for (int64_t i = 0; !ctx->dry && i < n->attr.n; i++)
        Q3_CHECK(n->attr.index[i] >= 0 && n->attr.index[i] < q3_rows(n->in[0]), "row %d at %lld, x %s",
                 n->attr.index[i], (long long)i, q3_shape(n->in[0]));
    const q3_put_rows_args a = {
        .y = q3_f32(n->out),
        .x = q3_f32(n->in[0]),
        .s = q3_f32(n->in[1]),
        .index = n->attr.index,
        .T = q3_rows(n->in[0]),
        .C = q3_dim(n->in[0], -1),
        .n = n->attr.n,
        .add = true,
    };
    Q3_CALL(ctx, q3_put_rows_forward, &a);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    q3_take_rows_args s = {
        .x = { .data = n->out->grad }, .index = n->attr.index, .n = n->attr.n, .C = q3_dim(n->out, -1)
    };
    s.y = q3_grad(ctx, n->in[1], &s.beta);
    if (s.y)
        Q3_CALL(ctx, q3_take_rows, &s);
    q3_grad_pass(ctx, n->in[0], n->out);
}

static q3_cost cost(const q3_node *n)
{
    double x = (double)q3_numel(n->out), s = (double)q3_numel(n->in[1]);
    return (q3_cost){ .flops = s, .bytes = 8 * x + 12 * s };
}

const q3_op q3_op_add_rows = { "add_rows", forward, backward, cost };
