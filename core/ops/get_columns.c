#include "core/ops.h"
#include "kernels/rows.h"

q3_tensor *q3_get_columns(q3_ctx *ctx, q3_tensor *x, int64_t begin, int64_t n)
{
    Q3_CHECK(begin >= 0 && n >= 0 && begin + n <= q3_dim(x, -1), "columns %lld + %lld of %s",
             (long long)begin, (long long)n, q3_shape(x));
    q3_node *node = q3_node_new(ctx, Q3_OP_GET_COLUMNS, x, NULL, NULL, NULL, NULL);
    node->attr.begin = begin;
    node->out = q3_new2(ctx, q3_rows(x), n);
    return q3_record(ctx, node);
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    int64_t C = q3_dim(n->in[0], -1), width = q3_dim(n->out, -1);
    const q3_columns_args a = {
        .y = q3_data(n->out),
        .x = q3_data(n->in[0]),
        .T = q3_rows(n->out),
        .n = width,
        .y_stride = width,
        .x_stride = C,
        .x_begin = n->attr.begin,
        .dtype = n->out->dtype,
    };
    Q3_CALL(ctx, q3_columns, &a);
}

/* The columns that were taken get dy, the first writer zeroes those on either side. */
static void backward(q3_ctx *ctx, q3_node *n)
{
    int64_t C = q3_dim(n->in[0], -1), width = q3_dim(n->out, -1), begin = n->attr.begin;
    float beta;
    void *dx = q3_grad(ctx, n->in[0], &beta);
    if (!dx)
        return;
    const q3_columns_args left = {
        .y = dx, .T = q3_rows(n->out), .n = begin, .y_stride = C, .beta = beta, .dtype = n->out->dtype
    };
    q3_columns_args middle = left, right = left;
    middle.y_begin = begin;
    middle.n = middle.x_stride = width;
    middle.x = n->out->grad;
    right.y_begin = begin + width;
    right.n = C - begin - width;
    Q3_CALL(ctx, q3_columns, &left);
    Q3_CALL(ctx, q3_columns, &middle);
    Q3_CALL(ctx, q3_columns, &right);
}

static q3_cost cost(const q3_node *n)
{
    return (q3_cost){ .bytes = 2 * (double)q3_nbytes(n->out) };
}

const q3_op q3_op_get_columns = { "get_columns", forward, backward, cost };
