#include "tests/support/op_case.h"

/* rows of x, columns, rows taken (more of them than there are: some repeat) */
static const int64_t shapes[][3] = { { 1, 1, 1 }, { 33, 7, 20 }, { 7, 33, 40 }, { 3, 4097, 2 } };

static void build(q3_case *c)
{
    const int64_t *s = shapes[c->variant];
    c->in[0] = q3_case_matrix(c, s[0], s[1], 1);
    c->differentiable[0] = true;
    int32_t *rows = c->extra = q3_case_alloc(c, (size_t)s[2] * sizeof *rows);
    for (int64_t i = 0; i < s[2]; i++)
        rows[i] = (int32_t)q3_case_below(c, s[0]);
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    return q3_get_rows(ctx, c->in[0], c->extra, shapes[c->variant][2]);
}

static void expected(const q3_case *c, double *y)
{
    const int32_t *rows = c->extra;
    int64_t C = shapes[c->variant][1];
    for (int64_t k = 0; k < shapes[c->variant][2] * C; k++)
        y[k] = q3_f32(c->in[0])[rows[k / C] * C + k % C];
}

const q3_op_case q3_case_get_rows = { .variants = 4, .build = build, .apply = apply, .expected = expected };
