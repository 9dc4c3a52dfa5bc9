#include "core/ops.h"
#include "core/ops/rows.h"
#include "kernels/rows.h"

q3_tensor *q3_put_rows(q3_ctx *ctx, q3_tensor *x, q3_tensor *s, const int32_t *rows, int64_t n)
{
    return q3_record(ctx, q3_rows_node(ctx, Q3_OP_PUT_ROWS, x, s, rows, n));
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    q3_rows_forward(ctx, n, false);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    int64_t T = q3_rows(n->out), C = q3_dim(n->out, -1);
    q3_rows_backward(ctx, n);
    q3_put_rows_args x = { .x = n->out->grad,
                           .index = n->attr.device_index,
                           .T = T,
                           .C = C,
                           .n = n->attr.n,
                           .dtype = n->out->dtype };
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
    return (q3_cost){ .bytes = 2 * ((double)q3_nbytes(n->out) + (double)q3_nbytes(n->in[1])) };
}

const q3_op q3_op_put_rows = { "put_rows", forward, backward, cost };
