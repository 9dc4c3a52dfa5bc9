#include <math.h>

#include "tests/support/op_case.h"

static const struct {
    int64_t rows, columns;
    float scale;
    bool tanh_form;
} settings[] = {
    { 1, 1, 1, false }, { 7, 33, 4, false }, { 5, 4097, 40, false }, { 3, 129, 1e-3f, false },
    { 1, 1, 1, true },  { 7, 33, 4, true },  { 5, 4097, 40, true },  { 3, 129, 1e-3f, true },
};

static void build(q3_case *c)
{
    c->in[0] = q3_case_matrix(c, settings[c->variant].rows, settings[c->variant].columns,
                              settings[c->variant].scale);
    c->differentiable[0] = true;
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    return q3_gelu(ctx, c->in[0], settings[c->variant].tanh_form);
}

static void expected(const q3_case *c, double *y)
{
    for (int64_t i = 0; i < q3_numel(c->in[0]); i++) {
        double x = q3_f32(c->in[0])[i];
        double z = sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x);
        y[i] = settings[c->variant].tanh_form ? x / (1 + exp(-2 * z)) : 0.5 * x * erfc(-x / sqrt(2));
    }
}

/* The fast sources are an order better than the default tolerance: the two forms must not be mistaken for
 * each other. */
const q3_op_case q3_case_gelu = {
    .variants = (int)(sizeof settings / sizeof *settings),
    .build = build,
    .apply = apply,
    .expected = expected,
    .tolerance = 1e-6,
};
