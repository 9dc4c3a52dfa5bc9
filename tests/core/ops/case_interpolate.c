#include "tests/support/op_case.h"

/* rows of the table, columns, patches */
static const int64_t shapes[][3] = { { 1, 1, 1 }, { 36, 7, 33 }, { 9, 33, 100 }, { 4, 4097, 3 } };

typedef struct grid {
    int32_t *taps;
    float *weights;
} grid;

static void build(q3_case *c)
{
    const int64_t *s = shapes[c->variant];
    c->in[0] = q3_case_parameter(c, s[0], s[1], 1);
    c->differentiable[0] = true;
    grid *g = c->extra = q3_case_alloc(c, sizeof *g);
    g->taps = q3_case_alloc(c, (size_t)s[2] * 4 * sizeof *g->taps);
    g->weights = q3_case_alloc(c, (size_t)s[2] * 4 * sizeof *g->weights);
    for (int64_t i = 0; i < 4 * s[2]; i++) {
        g->taps[i] = (int32_t)q3_case_below(c, s[0]);
        g->weights[i] = i % 7 ? q3_case_uniform(c, 0, 1) : 0;
    }
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    const grid *g = c->extra;
    return q3_interpolate(ctx, c->in[0], g->taps, g->weights, shapes[c->variant][2]);
}

static void expected(const q3_case *c, double *y)
{
    const grid *g = c->extra;
    int64_t C = shapes[c->variant][1];
    for (int64_t k = 0; k < shapes[c->variant][2] * C; k++) {
        y[k] = 0;
        for (int64_t i = k / C * 4; i < k / C * 4 + 4; i++)
            y[k] += (double)g->weights[i] * q3_f32(c->in[0])[g->taps[i] * C + k % C];
    }
}

const q3_op_case q3_case_interpolate = {
    .variants = 4, .build = build, .apply = apply, .expected = expected
};
