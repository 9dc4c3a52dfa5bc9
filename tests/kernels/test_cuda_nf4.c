#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "core/safetensors.h"
#include "kernels/nf4.h"
#include "tests/support/device.h"

static void assert_bytes(const char *what, const void *a, const void *b, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (((const uint8_t *)a)[i] != ((const uint8_t *)b)[i])
            fail_msg("%s: byte %zu of %zu is %02x, on the CPU %02x", what, i, bytes, ((const uint8_t *)a)[i],
                     ((const uint8_t *)b)[i]);
}

static void assert_same_on_device(const char *what, const t_array *a, const void *want)
{
    void *got = malloc(a->bytes + 1);
    t_download(got, a);
    assert_bytes(what, got, want, a->bytes);
    free(got);
}

/* Scales of a quantized array: plain, and nested with what they decode to. */
typedef struct scales {
    int64_t blocks;
    float *plain, *decoded, *group;
    uint8_t *codes;
    float offset;
} scales;

static scales scales_of(int64_t blocks)
{
    scales s = { .blocks = blocks };
    s.plain = malloc((size_t)blocks * sizeof(float));
    s.decoded = malloc((size_t)blocks * sizeof(float));
    s.group = malloc((size_t)(blocks / Q3_NF4_GROUP + 1) * sizeof(float));
    s.codes = malloc((size_t)blocks);
    t_fill(s.plain, blocks, 0.02f, 77);
    for (int64_t i = 0; i < blocks; i++)
        s.plain[i] = fabsf(s.plain[i]) + 0.03f;
    q3_nf4_nest_cpu(s.codes, s.group, &s.offset, s.plain, blocks);
    q3_nf4_unnest_cpu(s.decoded, s.codes, s.group, s.offset, q3_nf4_nested_map(), blocks);
    return s;
}

static void drop_scales(scales *s)
{
    free(s->plain);
    free(s->decoded);
    free(s->group);
    free(s->codes);
}

typedef struct dequantize_case {
    q3_dtype code, dtype;
    int block;
    int64_t n;
    bool nested;
    size_t shift; /* bytes off the alignment */
} dequantize_case;

static void check_dequantize(q3_cuda *cuda, const dequantize_case *c)
{
    scales s = scales_of((c->n + c->block - 1) / c->block);
    size_t bytes = q3_dtype_bytes(c->dtype, c->n), packed_bytes = (size_t)(c->n + 1) / 2;
    uint8_t *packed = malloc(packed_bytes);
    void *want = malloc(bytes);
    for (size_t i = 0; i < packed_bytes; i++)
        packed[i] = (uint8_t)(i * 167 + (i >> 8) * 13);
    q3_nf4_dequantize_args a = {
        .w = want, .dtype = c->dtype, .packed = packed, .code = c->code, .block = c->block, .n = c->n
    };
    a.absmax = c->nested ? s.decoded : s.plain;
    q3_nf4_dequantize_cpu(&a);
    t_array w = t_upload(cuda, NULL, bytes, c->shift), p = t_upload(cuda, packed, packed_bytes, c->shift / 2),
            absmax = t_upload(cuda, s.plain, (size_t)s.blocks * 4, 0),
            codes = t_upload(cuda, s.codes, (size_t)s.blocks, 0),
            group = t_upload(cuda, s.group, (size_t)(s.blocks + 255) / 256 * 4, 0),
            map = t_upload(cuda, q3_nf4_nested_map(), 1024, 0);
    a.w = w.at;
    a.packed = p.at;
    a.absmax = c->nested ? NULL : absmax.at;
    a.nested = (q3_nested){ codes.at, group.at, map.at, s.offset };
    q3_nf4_dequantize_cuda(&a, cuda);
    char what[96];
    snprintf(what, sizeof what, "code %d dtype %d block %d n %lld nested %d shift %zu", (int)c->code,
             (int)c->dtype, c->block, (long long)c->n, c->nested, c->shift);
    assert_same_on_device(what, &w, want);
    t_array *all[] = { &w, &p, &absmax, &codes, &group, &map };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        t_drop(all[i]);
    free(packed);
    free(want);
    drop_scales(&s);
}

static void weights_come_back_as_on_the_cpu(void **state)
{
    (void)state;
    static const int64_t sizes[] = { 1, 7, 8, 33, 323, 4097, 40007 };
    static const q3_dtype codes[] = { Q3_NF4, Q3_FP4, Q3_I4 };
    q3_cuda *cuda = t_device();
    for (size_t k = 0; k < sizeof codes / sizeof *codes; k++)
        for (int dtype = Q3_F32; dtype <= Q3_F16; dtype++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
                for (int nested = 0; nested < 2; nested++) {
                    dequantize_case c = { codes[k], (q3_dtype)dtype, 64, sizes[i], nested, 0 };
                    check_dequantize(cuda, &c);
                }
    for (int block = 32; block <= 4096; block *= 2)
        check_dequantize(cuda, &(dequantize_case){ Q3_NF4, Q3_BF16, block, 20011, block & 64, 0 });
    q3_cuda_close(cuda);
}

static void arrays_need_no_alignment(void **state)
{
    (void)state;
    q3_cuda *cuda = t_device();
    check_dequantize(cuda, &(dequantize_case){ Q3_NF4, Q3_F32, 64, 1001, false, 4 });
    check_dequantize(cuda, &(dequantize_case){ Q3_FP4, Q3_BF16, 32, 1001, true, 2 });
    check_dequantize(cuda, &(dequantize_case){ Q3_NF4, Q3_F16, 64, 1001, true, 6 });
    q3_cuda_close(cuda);
}

/* Normal numbers, a block of zeros, one of tiny numbers, and values on the thresholds. */
static void fill_weights(float *x, int64_t n, int block)
{
    t_fill(x, n, 0.05f, 5);
    for (int64_t i = 0; i < n; i++) {
        if (i / block % 5 == 1)
            x[i] = 0;
        if (i / block % 5 == 2)
            x[i] *= 1e-37f;
        if (i / block % 5 == 3)
            x[i] = i % 16 == 15 ? 1.0f
                                : q3_nf4_steps_of(i & 16   ? Q3_NF4
                                                  : i & 32 ? Q3_I4
                                                           : Q3_FP4)
                                      ->above[i % 16];
    }
}

static void check_quantize(q3_cuda *cuda, const void *x, q3_nf4_quantize_args a)
{
    size_t blocks = (size_t)((a.n + a.block - 1) / a.block);
    uint8_t *packed = malloc((size_t)(a.n + 1) / 2);
    float *absmax = malloc(blocks * sizeof *absmax);
    a.x = x;
    a.packed = packed;
    a.absmax = absmax;
    q3_nf4_quantize_reference(&a);
    t_array dx = t_upload(cuda, x, q3_dtype_bytes(a.dtype, a.n), 0),
            dpacked = t_upload(cuda, NULL, (size_t)(a.n + 1) / 2, 0),
            dabsmax = t_upload(cuda, NULL, blocks * 4, 0);
    a.x = dx.at;
    a.packed = dpacked.at;
    a.absmax = dabsmax.at;
    q3_nf4_quantize_cuda(&a, cuda);
    assert_same_on_device("absmax", &dabsmax, absmax);
    assert_same_on_device("codes", &dpacked, packed);
    t_drop(&dx);
    t_drop(&dpacked);
    t_drop(&dabsmax);
    free(packed);
    free(absmax);
}

static void weights_are_quantized_as_on_the_cpu(void **state)
{
    (void)state;
    static const int64_t sizes[] = { 1, 7, 33, 64, 4097, 20013 };
    q3_cuda *cuda = t_device();
    float *x = malloc(20013 * sizeof *x);
    void *rounded = malloc(20013 * sizeof *x);
    for (int block = 32; block <= 4096; block *= block < 64 ? 2 : 8)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (int dtype = Q3_F32; dtype <= Q3_F16; dtype++) {
                fill_weights(x, sizes[i], block);
                t_round(rounded, x, sizes[i], (q3_dtype)dtype);
                q3_nf4_quantize_args a = { .dtype = (q3_dtype)dtype, .block = block, .n = sizes[i] };
                a.code = (i + (size_t)dtype) % 2 ? Q3_FP4 : Q3_NF4;
                check_quantize(cuda, rounded, a);
                a.code = Q3_I4;
                check_quantize(cuda, rounded, a);
            }
    free(x);
    free(rounded);
    q3_cuda_close(cuda);
}

static void wrong_weights_show_in_absmax(void **state)
{
    (void)state;
    q3_cuda *cuda = t_device();
    float x[200] = { 0 };
    x[5] = INFINITY;
    x[70] = NAN;
    x[71] = -INFINITY;
    x[195] = -INFINITY;
    check_quantize(cuda, x, (q3_nf4_quantize_args){ .dtype = Q3_F32, .code = Q3_NF4, .block = 64, .n = 200 });
    q3_cuda_close(cuda);
}

static void check_nest(q3_cuda *cuda, const float *absmax, int64_t blocks)
{
    size_t groups = (size_t)(blocks + Q3_NF4_GROUP - 1) / Q3_NF4_GROUP;
    uint8_t *codes = malloc((size_t)blocks);
    float *scale = malloc(groups * sizeof *scale), *decoded = malloc((size_t)blocks * sizeof *decoded),
          offset;
    q3_nf4_nest_cpu(codes, scale, &offset, absmax, blocks);
    q3_nf4_unnest_cpu(decoded, codes, scale, offset, q3_nf4_nested_map(), blocks);
    t_array from = t_upload(cuda, absmax, (size_t)blocks * 4, 0),
            dcodes = t_upload(cuda, NULL, (size_t)blocks, 0), dscale = t_upload(cuda, NULL, groups * 4, 0),
            doffset = t_upload(cuda, NULL, 4, 0), back = t_upload(cuda, NULL, (size_t)blocks * 4, 0),
            map = t_upload(cuda, q3_nf4_nested_map(), 1024, 0);
    q3_nf4_nest_cuda(dcodes.at, dscale.at, doffset.at, from.at, blocks, cuda);
    assert_same_on_device("mean", &doffset, &offset);
    assert_same_on_device("group scales", &dscale, scale);
    assert_same_on_device("codes of scales", &dcodes, codes);
    const q3_nested nested = { dcodes.at, dscale.at, map.at, offset };
    q3_nf4_unnest_cuda(back.at, &nested, blocks, cuda);
    assert_same_on_device("scales", &back, decoded);
    t_array *all[] = { &from, &dcodes, &dscale, &doffset, &back, &map };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        t_drop(all[i]);
    free(codes);
    free(scale);
    free(decoded);
}

static void scales_are_nested_as_on_the_cpu(void **state)
{
    (void)state;
    static const int64_t sizes[] = { 1, 5, 31, 32, 33, 255, 256, 257, 511, 512, 513, 5003, 70013 };
    q3_cuda *cuda = t_device();
    float *absmax = malloc(70013 * sizeof *absmax);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        t_fill(absmax, sizes[i], 0.1f, (uint32_t)i);
        for (int64_t k = 0; k < sizes[i]; k++)
            absmax[k] = fabsf(absmax[k]) * (k % 100 == 99 ? 50.0f : 1.0f);
        check_nest(cuda, absmax, sizes[i]);
    }
    for (int k = 0; k < 300; k++) // a group without spread: codes 0, scale 0
        absmax[k] = 0.25f;
    check_nest(cuda, absmax, 300);
    free(absmax);
    q3_cuda_close(cuda);
}

static void nothing_is_launched_for_nothing(void **state)
{
    (void)state;
    q3_cuda *cuda = t_device();
    char why[Q3_CUDA_SENTENCE];
    q3_nf4_quantize_cuda(&(q3_nf4_quantize_args){ .code = Q3_NF4, .block = 64 }, cuda);
    q3_nf4_dequantize_cuda(&(q3_nf4_dequantize_args){ .code = Q3_NF4, .block = 64 }, cuda);
    q3_nf4_nest_cuda(NULL, NULL, NULL, NULL, 0, cuda);
    q3_nf4_unnest_cuda(NULL, &(q3_nested){ 0 }, 0, cuda);
    q3_cuda_wait(cuda);
    assert_false(q3_cuda_take_failure(cuda, why));
    q3_cuda_close(cuda);
}

/* ---- the bytes of bitsandbytes ---- */

static const q3_st_tensor *tensor(const q3_safetensors *f, const char *base, const char *suffix)
{
    char name[256];
    snprintf(name, sizeof name, "%s%s", base, suffix);
    const q3_st_tensor *t = q3_safetensors_find(f, name);
    if (!t)
        fail_msg("%s: no tensor %s", q3_safetensors_path(f), name);
    return t;
}

static void check_golden(q3_cuda *cuda, const q3_safetensors *f, const char *base, const char *dtype,
                         q3_dtype code)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", base, dtype);
    const q3_st_tensor *x = tensor(f, name, ".input");
    strcat(name, code == Q3_NF4 ? ".nf4" : ".fp4");
    const q3_st_tensor *want_packed = tensor(f, name, ".packed"),
                       *want = tensor(f, name, ".nested.dequantized");
    const int64_t n = q3_st_elements(x), blocks = (n + 63) / 64;
    float offset;
    t_array from = t_upload(cuda, x->data, x->bytes, 0), packed = t_upload(cuda, NULL, want_packed->bytes, 0),
            absmax = t_upload(cuda, NULL, (size_t)blocks * 4, 0),
            codes = t_upload(cuda, NULL, (size_t)blocks, 0),
            scale = t_upload(cuda, NULL, (size_t)(blocks + 255) / 256 * 4, 0),
            mean = t_upload(cuda, NULL, 4, 0), map = t_upload(cuda, q3_nf4_nested_map(), 1024, 0),
            w = t_upload(cuda, NULL, want->bytes, 0);
    q3_nf4_quantize_cuda(&(q3_nf4_quantize_args){ packed.at, absmax.at, from.at, x->dtype, code, 64, n },
                         cuda);
    q3_nf4_nest_cuda(codes.at, scale.at, mean.at, absmax.at, blocks, cuda);
    assert_same_on_device(name, &packed, want_packed->data);
    assert_same_on_device(name, &absmax, tensor(f, name, ".absmax")->data);
    assert_same_on_device(name, &codes, tensor(f, name, ".nested.absmax")->data);
    assert_same_on_device(name, &scale, tensor(f, name, ".nested.absmax2")->data);
    assert_same_on_device(name, &mean, tensor(f, name, ".nested.offset")->data);
    t_download(&offset, &mean);
    q3_nf4_dequantize_cuda(&(q3_nf4_dequantize_args){ .w = w.at,
                                                      .dtype = want->dtype,
                                                      .packed = packed.at,
                                                      .nested = { codes.at, scale.at, map.at, offset },
                                                      .code = code,
                                                      .block = 64,
                                                      .n = n },
                           cuda);
    float *got = malloc((size_t)n * 4), *expected = malloc((size_t)n * 4);
    void *raw = malloc(want->bytes);
    t_download(raw, &w);
    t_widen(got, raw, n, want->dtype);
    t_widen(expected, want->data, n, want->dtype);
    for (int64_t i = 0; i < n; i++) // as numbers: the file has 0 where we have -0
        if (got[i] != expected[i])
            fail_msg("%s: element %lld is %a, expected %a", name, (long long)i, (double)got[i],
                     (double)expected[i]);
    t_array *all[] = { &from, &packed, &absmax, &codes, &scale, &mean, &map, &w };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        t_drop(all[i]);
    free(got);
    free(expected);
    free(raw);
}

static void golden_quantization_is_reproduced(void **state)
{
    (void)state;
    static const char *const cases[] = { "one-block", "rows-8x64", "straddle-5x100", "tail-3x37",
                                         "two-level-96x640" };
    q3_cuda *cuda = t_device();
    q3_safetensors *f;
    if (q3_safetensors_open(&f, "tests/golden/formats/quantize-4bit.safetensors") != Q3_OK)
        fail_msg("%s", q3_error());
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_golden(cuda, f, cases[i], "float32", Q3_NF4);
        check_golden(cuda, f, cases[i], "float32", Q3_FP4);
        check_golden(cuda, f, cases[i], "bfloat16", Q3_NF4);
        check_golden(cuda, f, cases[i], "bfloat16", Q3_FP4);
    }
    q3_safetensors_close(f);
    q3_cuda_close(cuda);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_come_back_as_on_the_cpu),
        cmocka_unit_test(arrays_need_no_alignment),
        cmocka_unit_test(weights_are_quantized_as_on_the_cpu),
        cmocka_unit_test(wrong_weights_show_in_absmax),
        cmocka_unit_test(scales_are_nested_as_on_the_cpu),
        cmocka_unit_test(nothing_is_launched_for_nothing),
        cmocka_unit_test(golden_quantization_is_reproduced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
