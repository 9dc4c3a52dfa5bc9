#include <math.h>

#include "tests/support/op_case.h"

/* rows, columns of x, columns of w: norms of each head where they differ */
static const int64_t shapes[][3] = {
    { 1, 1, 1 }, { 7, 33, 33 }, { 70, 48, 16 }, { 5, 4097, 4097 }, { 150, 66, 33 }
};

static void build(q3_case *c)
{
    const int64_t *s = shapes[c->variant];
    c->in[0] = q3_case_matrix(c, s[0], s[1], 2);
    c->in[1] = q3_case_vector(c, s[2], 1);
    c->differentiable[0] = c->differentiable[1] = true;
}

/* A large eps in two variants, so that it is seen; without it a single value would become its own sign. */
static float eps(const q3_case *c)
{
    return c->variant < 2 ? 0.5f : 1e-6f;
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    return q3_rmsnorm(ctx, c->in[0], c->in[1], eps(c));
}

static void expected(const q3_case *c, double *y)
{
    int64_t C = shapes[c->variant][2];
    const float *x = q3_f32(c->in[0]);
    for (int64_t k = 0; k < q3_numel(c->in[0]); k++) {
        double mean = 0;
        for (int64_t i = k - k % C; i < k - k % C + C; i++)
            mean += (double)x[i] * x[i] / (double)C;
        y[k] = q3_f32(c->in[1])[k % C] * x[k] / sqrt(mean + eps(c));
    }
}

const q3_op_case q3_case_rmsnorm = { .variants = 5, .build = build, .apply = apply, .expected = expected };
