#include "tests/support/op_case.h"

/* The id that gets no gradient is tested in test_embedding.c. */
static const struct {
    int64_t V, C, n;
    q3_dtype dtype;
} settings[] = {
    { 1, 1, 1, Q3_F32 },  { 33, 7, 97, Q3_F32 }, { 5, 4097, 33, Q3_F32 }, { 9, 33, 7, Q3_BF16 },
    { 9, 33, 7, Q3_F16 }, { 6, 33, 12, Q3_NF4 }, { 6, 33, 12, Q3_I8 },    { 5, 64, 9, Q3_I8 },
};

/* Codes that decode to ordinary numbers: bits without an exponent of all ones. */
static q3_tensor *frozen(q3_case *c, q3_dtype dtype, int64_t V, int64_t C)
{
    q3_tensor *t = q3_tensor_wrap(c->mem, NULL, dtype, 2, (const int64_t[]){ V, C });
    uint8_t *bytes = t->data = q3_case_alloc(c, q3_nbytes(t) + 1);
    for (size_t i = 0; i < q3_nbytes(t); i++)
        bytes[i] = (uint8_t)(q3_case_below(c, 256) & (dtype == Q3_NF4 || dtype == Q3_I8 ? 0xff : 0xbf));
    t->block = dtype == Q3_I8 ? (int)C : 64;
    int64_t blocks = V * C / t->block + 1;
    float *absmax = q3_case_alloc(c, (size_t)blocks * sizeof(float));
    for (int64_t i = 0; i < blocks; i++)
        absmax[i] = q3_case_uniform(c, 0.5f, 2);
    t->absmax = absmax;
    return t;
}

static void build(q3_case *c)
{
    int64_t V = settings[c->variant].V, C = settings[c->variant].C;
    q3_dtype dtype = settings[c->variant].dtype;
    c->in[0] = dtype == Q3_F32 ? q3_case_parameter(c, V, C, 1) : frozen(c, dtype, V, C);
    int32_t *ids = c->extra = q3_case_alloc(c, (size_t)settings[c->variant].n * sizeof *ids);
    for (int64_t i = 0; i < settings[c->variant].n; i++)
        ids[i] = (int32_t)q3_case_below(c, V);
    c->differentiable[0] = dtype == Q3_F32;
}

static q3_tensor *apply(const q3_case *c, q3_ctx *ctx)
{
    return q3_embedding(ctx, c->in[0], c->extra, settings[c->variant].n, -1);
}

static void expected(const q3_case *c, double *y)
{
    const q3_tensor *t = c->in[0];
    const int32_t *ids = c->extra;
    int64_t C = t->shape[1];
    for (int64_t k = 0; k < settings[c->variant].n * C; k++) {
        int64_t at = ids[k / C] * C + k % C;
        bool is_half = t->dtype == Q3_BF16 || t->dtype == Q3_F16;
        uint16_t half = is_half ? ((const uint16_t *)t->data)[at] : 0;
        int byte = ((const uint8_t *)t->data)[at / 2];
        if (t->dtype == Q3_I8)
            y[k] = (double)((const int8_t *)t->data)[at] * t->absmax[at / C] / 127;
        else if (t->dtype == Q3_NF4)
            y[k] = (double)q3_nf4_values[at % 2 ? byte & 15 : byte >> 4] * t->absmax[at / 64];
        else
            y[k] = t->dtype == Q3_F32    ? q3_f32(t)[at]
                   : t->dtype == Q3_BF16 ? q3_bf16_to_f32(half)
                                         : q3_f16_to_f32(half);
    }
}

const q3_op_case q3_case_embedding = { .variants = (int)(sizeof settings / sizeof *settings),
                                       .build = build,
                                       .apply = apply,
                                       .expected = expected };
