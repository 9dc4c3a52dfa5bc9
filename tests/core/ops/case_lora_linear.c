#include "tests/core/ops/case_linear.h"

typedef struct setting {
    int64_t T, C, N, r;
    bool bias;
    q3_dtype dtype; // of w
    int scale;      // 1 or 2, so that plain ops can make it
    float dropout;
    bool residual;
} setting;

static const setting settings[] = {
    { 7, 33, 5, 3, true, Q3_F32, 1, 0, false },      { 33, 40, 17, 16, false, Q3_NF4, 2, 0, false },
    { 19, 65, 34, 4, true, Q3_NF4, 2, 0.3f, false }, { 1, 7, 1, 1, false, Q3_BF16, 1, 0.5f, false },
    { 0, 8, 4, 2, true, Q3_F32, 2, 0.1f, false },    { 300, 24, 40, 8, false, Q3_F32, 2, 0.05f, false },
    { 33, 40, 17, 16, true, Q3_NF4, 2, 0.3f, true }, { 33, 40, 18, 16, false, Q3_I8, 2, 0, true },
    { 5, 65, 34, 4, true, Q3_I8, 2, 0.3f, false },
};

enum { STREAM = 77 };

static void build(q3_case *c)
{
    const setting *s = &settings[c->variant];
    c->in[0] = q3_case_matrix(c, s->T, s->C, 1);
    c->in[1] = q3_case_weight(c, s->dtype, s->N, s->C);
    c->in[2] = s->bias ? q3_case_vector(c, s->N, 1) : NULL;
    c->in[3] = q3_case_parameter(c, s->r, s->C, 1);
    c->in[4] = q3_case_parameter(c, s->N, s->r, 1);
    c->in[5] = s->residual ? q3_case_matrix(c, s->T, s->N, 1) : NULL;
    for (int i = 0; i < Q3_CASE_INPUTS; i++)
        c->differentiable[i] = i != 1 || s->dtype == Q3_F32;
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    const setting *s = &settings[c->variant];
    const q3_lora_attr attr = {
        .scale = (float)s->scale, .dropout = s->dropout, .stream = STREAM, .residual = c->in[5]
    };
    return q3_lora_linear(ctx, c->in[0], c->in[1], c->in[2], c->in[3], c->in[4], attr);
}

static q3_tensor *plain(const q3_case *c, q3_ctx *ctx)
{
    const setting *s = &settings[c->variant];
    q3_tensor *y = q3_linear(ctx, c->in[0], c->in[1], c->in[2]);
    q3_tensor *z = q3_linear(ctx, q3_dropout(ctx, c->in[0], s->dropout, STREAM), c->in[3], NULL);
    q3_tensor *l = q3_linear(ctx, z, c->in[4], NULL);
    y = q3_add(ctx, y, s->scale == 2 ? q3_add(ctx, l, l) : l);
    return c->in[5] ? q3_add(ctx, c->in[5], y) : y;
}

const q3_op_case q3_case_lora_linear = {
    .variants = sizeof settings / sizeof *settings, .build = build, .apply = apply, .plain = plain
};
