#include "core/ops.h"
#include "kernels/rows.h"

q3_tensor *q3_put_rows(q3_ctx *ctx, q3_tensor *x, q3_tensor *s, const int32_t *rows, int64_t n)
{
    Q3_CHECK(q3_dim(s, -1) == q3_dim(x, -1) && q3_rows(s) == n, "x %s, s %s, %lld rows", q3_shape(x),
             q3_shape(s), (long long)n);
    q3_node *node = q3_node_new(ctx, Q3_OP_PUT_ROWS, x, s, NULL, NULL, NULL);
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
    };
    Q3_CALL(ctx, q3_put_rows_forward, &a);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    const float *dy = n->out->grad;
    int64_t T = q3_rows(n->out), C = q3_dim(n->out, -1);
    q3_take_rows_args s = { .x = { .data = dy }, .index = n->attr.index, .n = n->attr.n, .C = C };
    s.y = q3_grad(ctx, n->in[1], &s.beta);
    if (s.y)
        Q3_CALL(ctx, q3_take_rows, &s);
    q3_put_rows_args x = { .x = dy, .index = n->attr.index, .T = T, .C = C, .n = n->attr.n };
    x.y = q3_grad(ctx, n->in[0], &x.beta);
    if (!x.y)
        return;
    size_t mark = q3_arena_mark(ctx->data);
    x.taken = q3_scratch(ctx, (size_t)T);
    Q3_CALL(ctx, q3_put_rows_backward, &x);
    q3_arena_rewind(ctx->data, mark);
}

static q3_cost cost(const q3_node *n)
{
    return (q3_cost){ .bytes = 8 * ((double)q3_numel(n->out) + (double)q3_numel(n->in[1])) };
}

const q3_op q3_op_put_rows = { "put_rows", forward, backward, cost };
