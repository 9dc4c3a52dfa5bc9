#include "tests/core/ops/case_linear.h"

#include "kernels/gemm.h"

typedef struct setting {
    int64_t T, C, N;
    bool bias;
    q3_dtype dtype; // of w; only f32 is trained
    bool residual;
} setting;

static const setting settings[] = {
    { 7, 33, 5, true, Q3_F32, false },    { 1, 1, 1, false, Q3_F32, false },
    { 33, 7, 70, true, Q3_F32, false },   { 19, 300, 33, false, Q3_F32, false },
    { 17, 45, 29, true, Q3_NF4, false },  { 65, 40, 17, false, Q3_BF16, false },
    { 4, 77, 9, true, Q3_FP4, false },    { 0, 8, 3, true, Q3_F32, false },
    { 4097, 3, 2, true, Q3_F32, false },  { 7, 33, 5, true, Q3_F32, true },
    { 33, 300, 17, false, Q3_NF4, true }, { 0, 8, 3, true, Q3_F32, true },
    { 17, 45, 29, true, Q3_I8, false },   { 4, 320, 9, true, Q3_I8, true },
    { 33, 304, 40, false, Q3_I8, true },
};

q3_tensor *q3_case_weight(q3_case *c, q3_dtype dtype, int64_t rows, int64_t columns)
{
    q3_tensor *w = q3_case_parameter(c, rows, columns, 1);
    if (dtype == Q3_F32)
        return w;
    int64_t n = rows * columns, block = dtype == Q3_I8 ? columns : 32, blocks = (n + block - 1) / block;
    float *absmax = q3_case_alloc(c, (size_t)blocks * sizeof *absmax);
    for (int64_t i = 0; i < blocks; i++)
        absmax[i] = q3_case_uniform(c, 0.5f, 1.5f);
    uint8_t *data = q3_case_alloc(c, (size_t)n * 2);
    for (int64_t i = 0; i < n; i++)
        if (dtype == Q3_BF16)
            ((uint16_t *)(void *)data)[i] = q3_f32_to_bf16(q3_f32(w)[i]);
        else
            data[dtype == Q3_I8 ? i : i / 2] = (uint8_t)q3_case_below(c, 256);
    w->data = data;
    w->dtype = dtype;
    w->block = (int)block;
    w->absmax = absmax;
    return w;
}

static void build(q3_case *c)
{
    const setting *s = &settings[c->variant];
    c->in[0] = q3_case_matrix(c, s->T, s->C, 1);
    c->in[1] = q3_case_weight(c, s->dtype, s->N, s->C);
    c->in[2] = s->bias ? q3_case_vector(c, s->N, 1) : NULL;
    c->in[3] = s->residual ? q3_case_matrix(c, s->T, s->N, 1) : NULL;
    c->differentiable[0] = c->differentiable[2] = c->differentiable[3] = true;
    c->differentiable[1] = s->dtype == Q3_F32;
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    return q3_linear_add(ctx, c->in[3], c->in[0], c->in[1], c->in[2]);
}

static void expected(const q3_case *c, double *y)
{
    const setting *s = &settings[c->variant];
    const q3_weight w = q3_as_weight(c->in[1]);
    float row[512];
    for (int64_t n = 0; n < s->N; n++) {
        q3_weight_row(row, &w, n, s->C, 0, s->C);
        for (int64_t t = 0; t < s->T; t++) {
            double sum = s->bias ? q3_f32(c->in[2])[n] : 0;
            sum += s->residual ? q3_f32(c->in[3])[t * s->N + n] : 0;
            for (int64_t k = 0; k < s->C; k++)
                sum += (double)q3_f32(c->in[0])[t * s->C + k] * row[k];
            y[t * s->N + n] = sum;
        }
    }
}

const q3_op_case q3_case_linear = {
    .variants = sizeof settings / sizeof *settings, .build = build, .apply = apply, .expected = expected
};
