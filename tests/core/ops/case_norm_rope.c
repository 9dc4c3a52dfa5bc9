#include <math.h>

#include "tests/support/op_case.h"

/* tokens, heads, head size: odd halves, heads that do not fill a warp, the model's own size, more than 64 heads */
static const int64_t shapes[][3] = {
    { 1, 1, 2 }, { 33, 3, 12 }, { 7, 5, 18 }, { 35, 3, 128 }, { 3, 3, 256 }, { 2, 1, 272 }, { 0, 2, 16 },
};

static void build(q3_case *c)
{
    const int64_t *s = shapes[c->variant];
    c->in[0] = q3_case_matrix(c, s[0], s[1] * s[2], 2);
    c->in[1] = q3_case_vector(c, s[2], 1);
    c->differentiable[0] = c->differentiable[1] = true;
    float *table = c->extra = q3_case_alloc(c, (size_t)(s[0] * s[2]) * sizeof *table);
    for (int64_t t = 0; t < s[0]; t++)
        for (int64_t i = 0; i < s[2] / 2; i++) {
            float angle = q3_case_uniform(c, -4, 4);
            table[t * s[2] + i] = cosf(angle);
            table[t * s[2] + s[2] / 2 + i] = sinf(angle);
        }
}

static const float *table_of(const q3_case *c, q3_ctx *ctx)
{
    const int64_t *s = shapes[c->variant];
    return q3_on_device(ctx, c->extra, (size_t)(s[0] * s[2]) * sizeof(float));
}

/* A large eps in two variants, so that it is seen; without it two values would become a sign and an angle. */
static float eps(const q3_case *c)
{
    return c->variant < 2 ? 0.5f : 1e-6f;
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    return q3_norm_rope(ctx, c->in[0], c->in[1], eps(c), table_of(c, ctx), (int)shapes[c->variant][1]);
}

static q3_tensor *plain(const q3_case *c, q3_ctx *ctx)
{
    q3_tensor *n = q3_rmsnorm(ctx, c->in[0], c->in[1], eps(c));
    return q3_rope(ctx, n, table_of(c, ctx), (int)shapes[c->variant][1]);
}

/* An element of the normed head that begins at x. */
static double normed(const q3_case *c, const float *x, int64_t i)
{
    int64_t D = shapes[c->variant][2];
    double mean = 0;
    for (int64_t k = 0; k < D; k++)
        mean += (double)x[k] * x[k] / (double)D;
    return q3_f32(c->in[1])[i] * x[i] / sqrt(mean + eps(c));
}

static void expected(const q3_case *c, double *y)
{
    int64_t C = q3_dim(c->in[0], -1), D = shapes[c->variant][2];
    for (int64_t k = 0; k < q3_numel(c->in[0]); k++) {
        int64_t d = k % D;
        const float *angle = (const float *)c->extra + k / C * D + d % (D / 2);
        const float *head = q3_f32(c->in[0]) + k - d;
        double other = d < D / 2 ? -normed(c, head, d + D / 2) : normed(c, head, d - D / 2);
        y[k] = normed(c, head, d) * angle[0] + other * angle[D / 2];
    }
}

const q3_op_case q3_case_norm_rope = { .variants = sizeof shapes / sizeof *shapes,
                                       .build = build,
                                       .apply = apply,
                                       .plain = plain,
                                       .expected = expected };
