#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/safetensors.h"
#include "kernels/dynamic_map.h"
#include "kernels/nf4.h"
#include "kernels/pool.h"

static const q3_st_tensor *tensor(const q3_safetensors *f, const char *base, const char *suffix)
{
    char name[256];
    snprintf(name, sizeof name, "%s%s", base, suffix);
    const q3_st_tensor *t = q3_safetensors_find(f, name);
    if (!t)
        fail_msg("%s: no tensor %s", q3_safetensors_path(f), name);
    return t;
}

static q3_safetensors *open_golden(const char *path)
{
    q3_safetensors *f;
    if (q3_safetensors_open(&f, path) != Q3_OK)
        fail_msg("%s", q3_error());
    return f;
}

/* Equal as numbers: -0 is 0. */
static void assert_equal_floats(const char *what, const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!(a[i] == b[i]))
            fail_msg("%s: element %lld is %a, expected %a", what, (long long)i, (double)a[i], (double)b[i]);
}

static void assert_equal_halves(const char *what, const uint16_t *a, const uint16_t *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (q3_bf16_to_f32(a[i]) != q3_bf16_to_f32(b[i]))
            fail_msg("%s: element %lld is %04x, expected %04x", what, (long long)i, a[i], b[i]);
}

/* What quantizing gives, on the heap. */
typedef struct quantized {
    int64_t n, blocks, groups;
    uint8_t *packed, *codes;
    float *absmax, *scale, offset;
} quantized;

static quantized quantize(const q3_st_tensor *x, q3_dtype code)
{
    quantized q = { .n = q3_st_elements(x) };
    q.blocks = (q.n + 63) / 64;
    q.groups = (q.blocks + Q3_NF4_GROUP - 1) / Q3_NF4_GROUP;
    q.packed = malloc((size_t)(q.n + 1) / 2);
    q.codes = malloc((size_t)q.blocks);
    q.absmax = malloc((size_t)q.blocks * sizeof(float));
    q.scale = malloc((size_t)q.groups * sizeof(float));
    q3_nf4_quantize_cpu(&(q3_nf4_quantize_args){ q.packed, q.absmax, x->data, x->dtype, code, 64, q.n });
    q3_nf4_nest_cpu(q.codes, q.scale, &q.offset, q.absmax, q.blocks);
    return q;
}

static void release(quantized *q)
{
    free(q->packed);
    free(q->codes);
    free(q->absmax);
    free(q->scale);
}

static void check_dequantized(const q3_st_tensor *want, const uint8_t *packed, const float *absmax,
                              q3_dtype code)
{
    int64_t n = q3_st_elements(want);
    void *w = malloc(want->bytes);
    q3_nf4_dequantize_cpu(&(q3_nf4_dequantize_args){ .w = w,
                                                     .dtype = want->dtype,
                                                     .packed = packed,
                                                     .absmax = absmax,
                                                     .code = code,
                                                     .block = 64,
                                                     .n = n });
    if (want->dtype == Q3_F32)
        assert_equal_floats(want->name, w, want->data, n);
    else
        assert_equal_halves(want->name, w, want->data, n);
    free(w);
}

static void check_case(const q3_safetensors *f, const char *base, const char *dtype, q3_dtype code)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", base, dtype);
    const q3_st_tensor *x = tensor(f, name, ".input");
    strcat(name, code == Q3_NF4 ? ".nf4" : ".fp4");
    quantized q = quantize(x, code);
    const q3_st_tensor *packed = tensor(f, name, ".packed"), *codes = tensor(f, name, ".nested.absmax");
    assert_int_equal(packed->bytes, (q.n + 1) / 2);
    if (memcmp(q.packed, packed->data, packed->bytes) != 0)
        fail_msg("%s: packed bytes differ", name);
    const q3_st_tensor *absmax = tensor(f, name, ".absmax");
    assert_int_equal(absmax->bytes, 4 * q.blocks);
    assert_memory_equal(q.absmax, absmax->data, absmax->bytes);
    assert_int_equal(codes->bytes, q.blocks);
    if (memcmp(q.codes, codes->data, codes->bytes) != 0)
        fail_msg("%s: codes of absmax differ", name);
    assert_memory_equal(q.scale, tensor(f, name, ".nested.absmax2")->data, 4 * q.groups);
    assert_memory_equal(&q.offset, tensor(f, name, ".nested.offset")->data, 4);
    assert_memory_equal(q3_dynamic_map_signed, tensor(f, name, ".nested.code")->data, 1024);
    check_dequantized(tensor(f, name, ".dequantized"), q.packed, q.absmax, code);
    q3_nf4_unnest_cpu(q.absmax, q.codes, q.scale, q.offset, q3_dynamic_map_signed, q.blocks);
    check_dequantized(tensor(f, name, ".nested.dequantized"), q.packed, q.absmax, code);
    release(&q);
}

static void golden_quantization_is_reproduced_at_every_level(void **state)
{
    (void)state;
    static const char *const cases[] = { "one-block", "rows-8x64", "straddle-5x100", "tail-3x37",
                                         "two-level-96x640" };
    q3_safetensors *f = open_golden("tests/golden/formats/quantize-4bit.safetensors");
    q3_cpu_isa best = q3_cpu_level();
    for (int level = 0; level < Q3_CPU_LEVELS; level++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases && q3_cpu_set_level((q3_cpu_isa)level); i++) {
            check_case(f, cases[i], "float32", Q3_NF4);
            check_case(f, cases[i], "float32", Q3_FP4);
            check_case(f, cases[i], "bfloat16", Q3_NF4);
            check_case(f, cases[i], "bfloat16", Q3_FP4);
        }
    assert_true(q3_cpu_set_level(best));
    q3_safetensors_close(f);
}

/* Every quantized matrix of the model, from its f32 form; returns how many there were. */
static int check_model(const char *plain, const char *nf4)
{
    q3_safetensors *from = open_golden(plain), *to = open_golden(nf4);
    int checked = 0;
    for (int64_t i = 0; i < q3_safetensors_count(from); i++) {
        const q3_st_tensor *x = q3_safetensors_at(from, i);
        char name[256];
        snprintf(name, sizeof name, "%s.quant_state.bitsandbytes__nf4", x->name);
        const q3_st_tensor *quant_state = q3_safetensors_find(to, name);
        if (!quant_state)
            continue;
        quantized q = quantize(x, Q3_NF4);
        assert_memory_equal(q.packed, tensor(to, x->name, "")->data, (q.n + 1) / 2);
        assert_memory_equal(q.codes, tensor(to, x->name, ".absmax")->data, q.blocks);
        assert_memory_equal(q.scale, tensor(to, x->name, ".nested_absmax")->data, 4 * q.groups);
        assert_memory_equal(q3_dynamic_map_signed, tensor(to, x->name, ".nested_quant_map")->data, 1024);
        char json[512] = "";
        memcpy(json, quant_state->data, quant_state->bytes < 511 ? quant_state->bytes : 511);
        float offset = (float)strtod(strstr(json, "nested_offset") + 15, NULL);
        if (offset != q.offset)
            fail_msg("%s: offset %a, expected %a", x->name, (double)q.offset, (double)offset);
        release(&q);
        checked++;
    }
    q3_safetensors_close(from);
    q3_safetensors_close(to);
    return checked;
}

static void golden_models_are_quantized_to_the_same_bits(void **state)
{
    (void)state;
    assert_int_equal(check_model("tests/golden/model-a/model/model.safetensors",
                                 "tests/golden/model-a/model-nf4/model.safetensors"),
                     28);
    assert_int_equal(check_model("tests/golden/model-b/model/model.safetensors",
                                 "tests/golden/model-b/model-nf4/model.safetensors"),
                     21);
}

static void check_model_dequantized(const char *nf4, const char *plain)
{
    q3_safetensors *from = open_golden(nf4), *to = open_golden(plain);
    assert_true(q3_safetensors_count(to) > 0);
    for (int64_t i = 0; i < q3_safetensors_count(to); i++) {
        const q3_st_tensor *want = q3_safetensors_at(to, i);
        const q3_st_tensor *codes = tensor(from, want->name, ".weight.absmax");
        const q3_st_tensor *quant_state = tensor(from, want->name, ".weight.quant_state.bitsandbytes__nf4");
        char json[512] = "";
        memcpy(json, quant_state->data, quant_state->bytes < 511 ? quant_state->bytes : 511);
        float offset = (float)strtod(strstr(json, "nested_offset") + 15, NULL);
        float *absmax = malloc(codes->bytes * sizeof *absmax);
        q3_nf4_unnest_cpu(absmax, codes->data, tensor(from, want->name, ".weight.nested_absmax")->data,
                          offset, tensor(from, want->name, ".weight.nested_quant_map")->data,
                          (int64_t)codes->bytes);
        check_dequantized(want, tensor(from, want->name, ".weight")->data, absmax, Q3_NF4);
        free(absmax);
    }
    q3_safetensors_close(from);
    q3_safetensors_close(to);
}

static void golden_models_are_dequantized_to_the_same_bits(void **state)
{
    (void)state;
    check_model_dequantized("tests/golden/model-a/model-nf4/model.safetensors",
                            "tests/golden/model-a/model-nf4-dequantized.safetensors");
    check_model_dequantized("tests/golden/model-b/model-nf4/model.safetensors",
                            "tests/golden/model-b/model-nf4-dequantized.safetensors");
}

static void codes_are_fixed_points(void **state)
{
    (void)state;
    for (int code = Q3_NF4; code <= Q3_FP4; code++) {
        const float *value = code == Q3_FP4 ? q3_fp4_values : q3_nf4_values;
        float x[64], w[64], absmax;
        uint8_t packed[32];
        for (int i = 0; i < 64; i++)
            x[i] = 0.75f * value[i % 16];
        q3_nf4_quantize_cpu(&(q3_nf4_quantize_args){ packed, &absmax, x, Q3_F32, (q3_dtype)code, 64, 64 });
        q3_nf4_dequantize_cpu(&(q3_nf4_dequantize_args){
            .w = w, .packed = packed, .absmax = &absmax, .code = (q3_dtype)code, .block = 64, .n = 64 });
        assert_true(absmax == 0.75f);
        assert_equal_floats("fixed point", w, x, 64);
    }
}

/* The thresholds are the midpoints, and the largest number of a block is 15/16 of itself. */
static void int4_values_are_evenly_spaced(void **state)
{
    (void)state;
    const q3_nf4_steps *steps = q3_nf4_steps_of(Q3_I4);
    float x[32], w[32], absmax;
    uint8_t packed[16];
    for (int i = 0; i < 16; i++) {
        assert_true(q3_int4_values[i] == ((float)i - 7.5f) / 8);
        assert_int_equal(steps->nibble[i], i);
        if (i < 15)
            assert_true(steps->above[i] == (q3_int4_values[i] + q3_int4_values[i + 1]) / 2);
    }
    for (int i = 0; i < 32; i++)
        x[i] = 3 * ((float)i - 15.5f) / 15.5f;
    q3_nf4_quantize_cpu(&(q3_nf4_quantize_args){ packed, &absmax, x, Q3_F32, Q3_I4, 32, 32 });
    q3_nf4_dequantize_cpu(&(q3_nf4_dequantize_args){
        .w = w, .packed = packed, .absmax = &absmax, .code = Q3_I4, .block = 32, .n = 32 });
    assert_true(absmax == 3 && packed[0] == 0x00 && packed[15] == 0xff);
    assert_true(w[31] == 2.8125f && w[0] == -2.8125f);
    for (int i = 0; i < 32; i++) // half a step, 3 / 16
        assert_true(fabsf(w[i] - x[i]) <= 0.1875f);
}

/* A cheap generator of roughly normal numbers. */
static void fill(float *x, int64_t n)
{
    uint32_t s = 12345;
    for (int64_t i = 0; i < n; i++) {
        float sum = 0.0f;
        for (int k = 0; k < 6; k++) {
            s = s * 1664525u + 1013904223u;
            sum += (float)(s >> 8) * 0x1p-24f - 0.5f;
        }
        x[i] = sum * 0.05f;
    }
}

static void blocks_types_and_threads_give_the_reference(void **state)
{
    (void)state;
    const int64_t n = 40000 + 7;
    float *x = malloc(n * sizeof *x), *absmax[2];
    uint16_t *h = malloc(n * sizeof *h);
    uint8_t *packed[2];
    for (int k = 0; k < 2; k++) {
        packed[k] = malloc((size_t)n);
        absmax[k] = malloc((size_t)n * sizeof(float));
    }
    fill(x, n);
    q3_pool_start(3);
    for (int dtype = Q3_F32; dtype <= Q3_F16; dtype++)
        for (int block = 32; block <= 4096; block *= 2) {
            for (int64_t i = 0; i < n; i++)
                h[i] = dtype == Q3_BF16 ? q3_f32_to_bf16(x[i]) : q3_f32_to_f16(x[i]);
            for (int k = 0; k < 2; k++) {
                memset(packed[k], 0xaa, (size_t)n);
                q3_nf4_quantize_args a = { packed[k],
                                           absmax[k],
                                           dtype == Q3_F32 ? (void *)x : h,
                                           (q3_dtype)dtype,
                                           block == 64    ? Q3_FP4
                                           : block == 128 ? Q3_I4
                                                          : Q3_NF4,
                                           block,
                                           n };
                if (k)
                    q3_nf4_quantize_cpu(&a);
                else
                    q3_nf4_quantize_reference(&a);
            }
            assert_memory_equal(packed[0], packed[1], n); // nothing behind the last byte either
            assert_memory_equal(absmax[0], absmax[1], (n + block - 1) / block * 4);
        }
    q3_pool_stop();
    for (int k = 0; k < 2; k++) {
        free(packed[k]);
        free(absmax[k]);
    }
    free(x);
    free(h);
}

static void wrong_weights_show_in_absmax(void **state)
{
    (void)state;
    float x[128] = { 0 }, absmax[2];
    uint8_t packed[64];
    x[5] = INFINITY;
    x[70] = NAN;
    x[71] = INFINITY;
    q3_nf4_quantize_cpu(&(q3_nf4_quantize_args){ packed, absmax, x, Q3_F32, Q3_NF4, 64, 128 });
    assert_true(isinf(absmax[0]));
    assert_true(isnan(absmax[1]));
}

static void halves_round_to_even_and_back(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = q3_f16_to_f32((uint16_t)h);
        if (isnan(f))
            assert_true(isnan(q3_f16_to_f32(q3_f32_to_f16(f))));
        else
            assert_int_equal(q3_f32_to_f16(f), h);
        // halfway to the next half: the even one of both
        float next = q3_f16_to_f32((uint16_t)(h + 1));
        if (isfinite(f) && isfinite(next) && (h & 0x7fff) != 0x7fff)
            assert_int_equal(q3_f32_to_f16(0.5f * (f + next)), h & 1 ? h + 1 : h);
    }
    assert_int_equal(q3_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(q3_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(q3_f32_to_f16(-1e30f), 0xfc00);
}

static void one_block_has_its_mean_as_scale(void **state)
{
    (void)state;
    uint8_t code = 99;
    float absmax = 0.37f, scale = 1.0f, offset = 0.0f;
    q3_nf4_nest_cpu(&code, &scale, &offset, &absmax, 1);
    assert_int_equal(code, 0);
    assert_true(scale == 0.0f && offset == 0.37f);
    q3_nf4_unnest_cpu(&absmax, &code, &scale, offset, q3_dynamic_map_signed, 1);
    assert_true(absmax == 0.37f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_quantization_is_reproduced_at_every_level),
        cmocka_unit_test(golden_models_are_quantized_to_the_same_bits),
        cmocka_unit_test(golden_models_are_dequantized_to_the_same_bits),
        cmocka_unit_test(codes_are_fixed_points),
        cmocka_unit_test(int4_values_are_evenly_spaced),
        cmocka_unit_test(blocks_types_and_threads_give_the_reference),
        cmocka_unit_test(wrong_weights_show_in_absmax),
        cmocka_unit_test(halves_round_to_even_and_back),
        cmocka_unit_test(one_block_has_its_mean_as_scale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
