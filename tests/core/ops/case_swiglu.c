#include <math.h>

#include "tests/support/op_case.h"

static const int64_t shapes[][2] = { { 1, 1 }, { 7, 33 }, { 5, 4097 } };

/* The last variant reaches where the exponential overflows in float. */
static void build(q3_case *c)
{
    const int64_t *s = shapes[c->variant];
    c->in[0] = q3_case_matrix(c, s[0], s[1], c->variant == 2 ? 120 : 4);
    c->in[1] = q3_case_matrix(c, s[0], s[1], 1);
    c->differentiable[0] = c->differentiable[1] = true;
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    return q3_swiglu(ctx, c->in[0], c->in[1]);
}

static void expected(const q3_case *c, double *y)
{
    for (int64_t i = 0; i < q3_numel(c->in[0]); i++) {
        double a = q3_f32(c->in[0])[i];
        y[i] = a * 0.5 * (1 + tanh(0.5 * a)) * q3_f32(c->in[1])[i];
    }
}

const q3_op_case q3_case_swiglu = { .variants = 3, .build = build, .apply = apply, .expected = expected };
