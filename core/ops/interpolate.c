#include "core/ops.h"
#include "kernels/rows.h"

q3_tensor *q3_interpolate(q3_ctx *ctx, q3_tensor *table, const int32_t *taps, const float *weights, int64_t n)
{
    Q3_CHECK(table->ndim == 2, "table %s", q3_shape(table));
    q3_node *node = q3_node_new(ctx, Q3_OP_INTERPOLATE, table, NULL, NULL, NULL, NULL);
    node->attr.index = taps;
    node->attr.device_index = q3_on_device(ctx, taps, 4 * (size_t)n * sizeof *taps);
    node->attr.weights = q3_on_device(ctx, weights, 4 * (size_t)n * sizeof *weights);
    node->attr.n = n;
    node->out = q3_new2(ctx, n, table->shape[1]);
    return q3_record(ctx, node);
}

static q3_interpolate_args args_of(const q3_node *n)
{
    return (q3_interpolate_args){
        .y = q3_data(n->out),
        .table = q3_as_weight(n->in[0]),
        .dy = n->out->grad,
        .taps = n->attr.device_index,
        .weights = n->attr.weights,
        .P = n->attr.n,
        .C = n->in[0]->shape[1],
        .G = n->in[0]->shape[0],
        .dtype = n->out->dtype,
    };
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    const q3_interpolate_args a = args_of(n);
    for (int64_t i = 0; !ctx->dry && i < 4 * a.P; i++)
        Q3_CHECK(n->attr.index[i] >= 0 && n->attr.index[i] < a.G, "tap %d at %lld, table %s",
                 n->attr.index[i], (long long)i, q3_shape(n->in[0]));
    Q3_CALL(ctx, q3_interpolate_forward, &a);
}

static void backward(q3_ctx *ctx, q3_node *n)
{
    q3_interpolate_args a = args_of(n);
    a.dtable = q3_grad(ctx, n->in[0], &a.beta);
    if (a.dtable)
        Q3_CALL(ctx, q3_interpolate_backward, &a);
}

static q3_cost cost(const q3_node *n)
{
    double size = (double)q3_numel(n->out), taps = 4 * (double)n->attr.n;
    return (q3_cost){ .flops = 8 * size,
                      .bytes = (double)q3_nbytes(n->out) +
                               taps * (double)q3_dtype_bytes(n->in[0]->dtype, n->in[0]->shape[1]) };
}

const q3_op q3_op_interpolate = { "interpolate", forward, backward, cost };
