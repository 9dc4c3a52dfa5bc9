#include "tests/support/op_case.h"

static const int64_t shapes[][2] = { { 1, 1 }, { 7, 33 }, { 5, 4097 } };

static void build(q3_case *c)
{
    const int64_t *s = shapes[c->variant];
    for (int i = 0; i < 2; i++) {
        c->in[i] = q3_case_matrix(c, s[0], s[1], 1);
        c->differentiable[i] = true;
    }
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    return q3_add(ctx, c->in[0], c->in[1]);
}

static void expected(const q3_case *c, double *y)
{
    for (int64_t i = 0; i < q3_numel(c->in[0]); i++)
        y[i] = (double)q3_f32(c->in[0])[i] + q3_f32(c->in[1])[i];
}

const q3_op_case q3_case_add = { .variants = 3, .build = build, .apply = apply, .expected = expected };
