#include "tests/support/op_case.h"

/* rows of x, columns, rows of s */
static const int64_t shapes[][3] = {
    { 1, 1, 1 }, { 33, 7, 20 }, { 40, 33, 1 }, { 3, 4097, 2 }, { 7, 33, 7 }
};

/* Distinct rows in no particular order: the first n of a shuffle. */
static int32_t *distinct_rows(q3_case *c, int64_t T)
{
    int32_t *rows = q3_case_alloc(c, (size_t)T * sizeof *rows);
    for (int32_t i = 0; i < T; i++) {
        int64_t k = q3_case_below(c, i + 1);
        rows[i] = rows[k];
        rows[k] = i;
    }
    return rows;
}

static void build(q3_case *c)
{
    const int64_t *s = shapes[c->variant];
    c->in[0] = q3_case_matrix(c, s[0], s[1], 1);
    c->in[1] = q3_case_matrix(c, s[2], s[1], 1);
    c->differentiable[0] = c->differentiable[1] = true;
    c->extra = distinct_rows(c, s[0]);
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    return q3_put_rows(ctx, c->in[0], c->in[1], c->extra, shapes[c->variant][2]);
}

static void expected(const q3_case *c, double *y)
{
    const int32_t *rows = c->extra;
    int64_t C = shapes[c->variant][1];
    for (int64_t k = 0; k < q3_numel(c->in[0]); k++)
        y[k] = q3_f32(c->in[0])[k];
    for (int64_t k = 0; k < q3_numel(c->in[1]); k++)
        y[rows[k / C] * C + k % C] = q3_f32(c->in[1])[k];
}

const q3_op_case q3_case_put_rows = { .variants = 5, .build = build, .apply = apply, .expected = expected };
