#include "core/rng.h"
#include "tests/support/op_case.h"

typedef struct setting {
    int64_t T, C;
    float p;
    uint32_t stream;
} setting;

static const setting settings[] = {
    { 1, 1, 0.5f, 0 }, { 7, 33, 0.1f, 5 }, { 3, 4097, 0.9f, 0xffffff }, { 5, 70, 0, 1 }, { 0, 4, 0.5f, 2 },
};

static void build(q3_case *c)
{
    const setting *s = &settings[c->variant];
    c->in[0] = q3_case_matrix(c, s->T, s->C, 1);
    c->differentiable[0] = true;
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    const setting *s = &settings[c->variant];
    return q3_dropout(ctx, c->in[0], s->p, s->stream);
}

/* The numbers by the other way of drawing them; the harness runs with seed 42 at micro-step 0. */
static void expected(const q3_case *c, double *y)
{
    const setting *s = &settings[c->variant];
    const q3_random random = { .seed = 42, .purpose = Q3_RANDOM_DROPOUT, .step = 0, .site = s->stream };
    for (int64_t i = 0; i < s->T * s->C; i++)
        y[i] =
            q3_random_uniform(&random, (uint64_t)i) < s->p ? 0 : q3_f32(c->in[0])[i] / (1.0 - (double)s->p);
}

const q3_op_case q3_case_dropout = {
    .variants = sizeof settings / sizeof *settings, .build = build, .apply = apply, .expected = expected
};
