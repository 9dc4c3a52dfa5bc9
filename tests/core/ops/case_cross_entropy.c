#include <math.h>

#include "kernels/gemm.h"
#include "tests/core/ops/case_linear.h"

typedef struct setting {
    int64_t R, C, V;
    q3_dtype dtype; // of w; f32 is trained
    float scale;
    float size; // of x: large ones make large logits
} setting;

static const setting settings[] = {
    { 7, 5, 33, Q3_F32, 1, 1 },         { 1, 1, 2, Q3_F32, 1, 1 }, { 33, 16, 7, Q3_BF16, 1.0f / 33, 1 },
    { 70, 3, 20001, Q3_F32, 0.25f, 1 }, // more rows than are made at a time
    { 5, 64, 300, Q3_BF16, 0.2f, 10 },  { 0, 4, 9, Q3_F32, 1, 1 }, { 4, 8, 4097, Q3_NF4, 0.5f, 1 },
};

static void build(q3_case *c)
{
    const setting *s = &settings[c->variant];
    c->in[0] = q3_case_matrix(c, s->R, s->C, s->size);
    c->in[1] = q3_case_weight(c, s->dtype, s->V, s->C);
    c->differentiable[0] = true;
    c->differentiable[1] = s->dtype == Q3_F32;
    int32_t *targets = q3_case_alloc(c, (size_t)s->R * sizeof *targets);
    for (int64_t r = 0; r < s->R; r++)
        targets[r] = (int32_t)q3_case_below(c, s->V);
    c->extra = targets;
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    return q3_cross_entropy(ctx, c->in[0], c->in[1], c->extra, settings[c->variant].scale);
}

static void expected(const q3_case *c, double *y)
{
    const setting *s = &settings[c->variant];
    const q3_weight w = q3_as_weight(c->in[1]);
    *y = 0;
    for (int64_t r = 0; r < s->R; r++) {
        double sum = 0, at_target = 0;
        float row[64];
        for (int64_t v = 0; v < s->V; v++) {
            double logit = 0;
            q3_weight_row(row, &w, v, s->C, 0, s->C);
            for (int64_t k = 0; k < s->C; k++)
                logit += (double)q3_f32(c->in[0])[r * s->C + k] * row[k];
            sum += exp(logit);
            at_target = v == ((const int32_t *)c->extra)[r] ? logit : at_target;
        }
        *y += s->scale * (log(sum) - at_target);
    }
}

const q3_op_case q3_case_cross_entropy = {
    .variants = sizeof settings / sizeof *settings, .build = build, .apply = apply, .expected = expected
};
