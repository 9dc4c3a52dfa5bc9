#include "core/ops/dropout.h"

#include "core/ops.h"
#include "core/rng.h"

enum { STREAMS = 1 << 24 };

void q3_dropout_attr(const q3_ctx *ctx, q3_node *n, float p, uint32_t stream)
{
    Q3_CHECK(p >= 0 && p < 1, "dropout %g", (double)p);
    Q3_CHECK(stream < STREAMS, "stream %u", stream);
    n->attr.dropout = p;
    n->attr.key[0] = ctx->micro_step;
    n->attr.key[1] = stream;
}

q3_dropout_args q3_dropout_args_of(const q3_ctx *ctx, const q3_node *n, void *y, const void *x, int64_t count,
                                   float beta)
{
    q3_dropout_args a = {
        .y = y, .x = x, .n = count, .p = n->attr.dropout, .beta = beta, .dtype = n->in[0]->dtype
    };
    q3_random_counter(a.key, a.counter,
                      &(q3_random){ .seed = ctx->seed,
                                    .purpose = Q3_RANDOM_DROPOUT,
                                    .step = (uint32_t)n->attr.key[0],
                                    .site = (uint32_t)n->attr.key[1] });
    return a;
}

q3_tensor *q3_dropout(q3_ctx *ctx, q3_tensor *x, float p, uint32_t stream)
{
    q3_node *n = q3_node_new(ctx, Q3_OP_DROPOUT, x, NULL, NULL, NULL, NULL);
    q3_dropout_attr(ctx, n, p, stream);
    n->out = q3_like(ctx, x);
    return q3_record(ctx, n);
}

static void forward(q3_ctx *ctx, q3_node *n)
{
    const q3_dropout_args a =
        q3_dropout_args_of(ctx, n, q3_data(n->out), q3_data(n->in[0]), q3_numel(n->out), 0);
    Q3_CALL(ctx, q3_dropout_forward, &a);
}

/* The same factors, on the gradient. */
static void backward(q3_ctx *ctx, q3_node *n)
{
    float beta;
    void *dx = q3_grad(ctx, n->in[0], &beta);
    if (!dx)
        return;
    const q3_dropout_args a = q3_dropout_args_of(ctx, n, dx, n->out->grad, q3_numel(n->out), beta);
    Q3_CALL(ctx, q3_dropout_forward, &a);
}

static q3_cost cost(const q3_node *n)
{
    double size = (double)q3_numel(n->out);
    return (q3_cost){ .flops = size, .bytes = 2 * (double)q3_nbytes(n->out) };
}

const q3_op q3_op_dropout = { "dropout", forward, backward, cost };
