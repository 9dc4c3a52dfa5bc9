#include <math.h>

#include "tests/support/op_case.h"

/* tokens, heads, head size */
static const int64_t shapes[][3] = { { 1, 1, 2 }, { 33, 3, 12 }, { 7, 5, 18 }, { 70, 2, 128 } };

static void build(q3_case *c)
{
    const int64_t *s = shapes[c->variant];
    c->in[0] = q3_case_matrix(c, s[0], s[1] * s[2], 1);
    c->differentiable[0] = true;
    float *table = c->extra = q3_case_alloc(c, (size_t)(s[0] * s[2]) * sizeof *table);
    for (int64_t t = 0; t < s[0]; t++)
        for (int64_t i = 0; i < s[2] / 2; i++) {
            float angle = q3_case_uniform(c, -4, 4);
            table[t * s[2] + i] = cosf(angle);
            table[t * s[2] + s[2] / 2 + i] = sinf(angle);
        }
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    const int64_t *s = shapes[c->variant];
    const float *table = q3_on_device(ctx, c->extra, (size_t)(s[0] * s[2]) * sizeof *table);
    return q3_rope(ctx, c->in[0], table, (int)s[1]);
}

/* As transformers writes it: x * cos + rotate_half(x) * sin, with cos and sin repeated over both halves. */
static void expected(const q3_case *c, double *y)
{
    int64_t C = q3_dim(c->in[0], -1), D = shapes[c->variant][2];
    const float *table = c->extra, *x = q3_f32(c->in[0]);
    for (int64_t k = 0; k < q3_numel(c->in[0]); k++) {
        int64_t d = k % C % D;
        const float *angle = table + k / C * D + d % (D / 2);
        double rotated = d < D / 2 ? -x[k + D / 2] : x[k - D / 2];
        y[k] = (double)x[k] * angle[0] + rotated * angle[D / 2];
    }
}

const q3_op_case q3_case_rope = { .variants = 4, .build = build, .apply = apply, .expected = expected };
