#include "tests/support/op_case.h"

/* rows, columns, first column taken, columns taken */
static const int64_t shapes[][4] = {
    { 1, 1, 0, 1 }, { 33, 7, 2, 3 }, { 7, 33, 0, 12 }, { 3, 4097, 4000, 97 }
};

static void build(q3_case *c)
{
    c->in[0] = q3_case_matrix(c, shapes[c->variant][0], shapes[c->variant][1], 1);
    c->differentiable[0] = true;
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    return q3_get_columns(ctx, c->in[0], shapes[c->variant][2], shapes[c->variant][3]);
}

static void expected(const q3_case *c, double *y)
{
    const int64_t *s = shapes[c->variant];
    for (int64_t k = 0; k < s[0] * s[3]; k++)
        y[k] = q3_f32(c->in[0])[k / s[3] * s[1] + s[2] + k % s[3]];
}

const q3_op_case q3_case_get_columns = {
    .variants = 4, .build = build, .apply = apply, .expected = expected
};
