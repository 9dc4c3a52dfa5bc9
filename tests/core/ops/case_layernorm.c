#include <math.h>

#include "tests/support/op_case.h"

static const int64_t shapes[][2] = { { 7, 33 }, { 65, 12 }, { 5, 4097 }, { 1, 7 }, { 200, 18 } };

/* x lies around a mean that is not zero. */
static void build(q3_case *c)
{
    const int64_t *s = shapes[c->variant];
    c->in[0] = q3_case_matrix(c, s[0], s[1], 2);
    for (int64_t i = 0; i < s[0] * s[1]; i++)
        q3_f32(c->in[0])[i] += 1.5f;
    c->in[1] = q3_case_vector(c, s[1], 1);
    c->in[2] = q3_case_vector(c, s[1], 1);
    c->differentiable[0] = c->differentiable[1] = c->differentiable[2] = true;
}

static float eps(const q3_case *c)
{
    return c->variant == 0 ? 0.5f : 1e-6f;
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    return q3_layernorm(ctx, c->in[0], c->in[1], c->in[2], eps(c));
}

static void expected(const q3_case *c, double *y)
{
    int64_t C = shapes[c->variant][1];
    const float *x = q3_f32(c->in[0]);
    for (int64_t k = 0; k < q3_numel(c->in[0]); k++) {
        double mean = 0, square = 0;
        for (int64_t i = k - k % C; i < k - k % C + C; i++) {
            mean += x[i] / (double)C;
            square += (double)x[i] * x[i] / (double)C;
        }
        y[k] = (x[k] - mean) / sqrt(square - mean * mean + eps(c)) * q3_f32(c->in[1])[k % C] +
               q3_f32(c->in[2])[k % C];
    }
}

const q3_op_case q3_case_layernorm = { .variants = 5, .build = build, .apply = apply, .expected = expected };
