#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "kernels/gemv.h"
#include "kernels/int8.h"
#include "kernels/nf4.h"
#include "tests/support/device.h"

typedef struct product_case {
    q3_dtype dtype, w_dtype;
    int block;
    bool nested;
    int64_t M, N, K;
    bool plain; /* alpha 1, beta 0, no bias, dense rows */
} product_case;

/* A weight [n elements] on the host, and its parts on the device. */
typedef struct weight {
    q3_weight host, device;
    t_array parts[5];
} weight;

static weight quantized(q3_cuda *cuda, const float *x, const product_case *c)
{
    const int64_t n = c->N * c->K, blocks = (n + c->block - 1) / c->block, groups = (blocks + 255) / 256;
    uint8_t *packed = malloc((size_t)(n + 1) / 2), *codes = malloc((size_t)blocks);
    float *absmax = malloc((size_t)blocks * 4), *group = malloc((size_t)groups * 4), offset;
    q3_nf4_quantize_reference(&(q3_nf4_quantize_args){ packed, absmax, x, Q3_F32, c->w_dtype, c->block, n });
    q3_nf4_nest_cpu(codes, group, &offset, absmax, blocks);
    if (c->nested)
        q3_nf4_unnest_cpu(absmax, codes, group, offset, q3_nf4_nested_map(), blocks);
    weight w = { .host = { .data = packed, .dtype = c->w_dtype, .block = c->block, .absmax = absmax } };
    w.device = w.host;
    w.parts[0] = t_upload(cuda, packed, (size_t)(n + 1) / 2, 0);
    w.parts[1] = t_upload(cuda, absmax, (size_t)blocks * 4, 0);
    w.parts[2] = t_upload(cuda, codes, (size_t)blocks, 0);
    w.parts[3] = t_upload(cuda, group, (size_t)groups * 4, 0);
    w.parts[4] = t_upload(cuda, q3_nf4_nested_map(), 1024, 0);
    w.device.data = w.parts[0].at;
    w.device.absmax = c->nested ? NULL : w.parts[1].at;
    w.device.nested = (q3_nested){ w.parts[2].at, w.parts[3].at, w.parts[4].at, offset };
    free(codes);
    free(group);
    return w;
}

static weight in_int8(q3_cuda *cuda, const float *x, const product_case *c)
{
    int8_t *codes = malloc((size_t)(c->N * c->K));
    float *absmax = malloc((size_t)c->N * 4);
    q3_int8_quantize_cpu(&(q3_int8_quantize_args){ codes, absmax, x, Q3_F32, c->N, c->K });
    weight w = { .host = { .data = codes, .dtype = Q3_I8, .block = (int)c->K, .absmax = absmax } };
    w.device = w.host;
    w.parts[0] = t_upload(cuda, codes, (size_t)(c->N * c->K), 0);
    w.parts[1] = t_upload(cuda, absmax, (size_t)c->N * 4, 0);
    w.device.data = w.parts[0].at;
    w.device.absmax = w.parts[1].at;
    return w;
}

static weight weight_of(q3_cuda *cuda, const product_case *c)
{
    const int64_t n = c->N * c->K;
    float *x = malloc((size_t)n * 4);
    t_fill(x, n, 0.05f, 3);
    if (q3_is_4bit(c->w_dtype) || c->w_dtype == Q3_I8) {
        weight w = c->w_dtype == Q3_I8 ? in_int8(cuda, x, c) : quantized(cuda, x, c);
        free(x);
        return w;
    }
    void *raw = malloc(q3_dtype_bytes(c->w_dtype, n));
    t_round(raw, x, n, c->w_dtype);
    weight w = { .host = { .data = raw, .dtype = c->w_dtype } };
    w.device = w.host;
    w.parts[0] = t_upload(cuda, raw, q3_dtype_bytes(c->w_dtype, n), 0);
    w.device.data = w.parts[0].at;
    free(x);
    return w;
}

static void drop_weight(weight *w)
{
    free((void *)(uintptr_t)w->host.data);
    free((void *)(uintptr_t)w->host.absmax);
    for (size_t i = 0; i < sizeof w->parts / sizeof *w->parts; i++)
        if (w->parts[i].base)
            t_drop(&w->parts[i]);
}

/* The product in double. */
static void expect(double *y, const float *old, const float *x, const float *bias, const q3_gemm_nt_args *a,
                   const q3_weight *w)
{
    for (int64_t m = 0; m < a->M; m++)
        for (int64_t n = 0; n < a->N; n++) {
            double sum = 0;
            for (int64_t k = 0; k < a->K; k++)
                sum += (double)x[m * a->ldx + k] * q3_weight_at(w, n * a->K + k);
            y[m * a->N + n] =
                a->alpha * sum + (bias ? bias[n] : 0) + (a->beta != 0 ? a->beta * old[m * a->ldy + n] : 0);
        }
}

/* Runs the case and keeps Y [M, ldy] as f32 in `got`; returns the distance from the product in double. */
static double run(q3_cuda *cuda, const product_case *c, float *got)
{
    const int64_t ldx = c->plain ? c->K : c->K + 8, ldy = c->plain ? c->N : c->N + 3;
    const int64_t nx = c->M * ldx, ny = c->M * ldy;
    size_t bytes_x = q3_dtype_bytes(c->dtype, nx), bytes_y = q3_dtype_bytes(c->dtype, ny);
    float *x = malloc((size_t)nx * 4), *y = malloc((size_t)ny * 4), *bias = malloc((size_t)c->N * 4);
    double *want = malloc((size_t)(c->M * c->N) * 8);
    void *rx = malloc(bytes_x), *ry = malloc(bytes_y);
    t_fill(x, nx, 1.0f, 11);
    t_fill(y, ny, 1.0f, 12);
    t_fill(bias, c->N, 1.0f, 13);
    t_round(rx, x, nx, c->dtype);
    t_round(ry, y, ny, c->dtype);
    t_widen(x, rx, nx, c->dtype);
    t_widen(y, ry, ny, c->dtype);
    weight w = weight_of(cuda, c);
    t_array dx = t_upload(cuda, rx, bytes_x, 0), dy = t_upload(cuda, c->plain ? NULL : ry, bytes_y, 0),
            dbias = t_upload(cuda, bias, (size_t)c->N * 4, 0);
    q3_gemm_nt_args a = {
        .y = dy.at, .x = dx.at, .w = w.device, .M = c->M, .N = c->N, .K = c->K, .dtype = c->dtype
    };
    a.bias = c->plain ? NULL : dbias.at;
    a.ldx = ldx;
    a.ldy = ldy;
    a.alpha = c->plain ? 1 : 0.5f;
    a.beta = c->plain ? 0 : 1;
    q3_gemv_cuda(&a, cuda);
    t_download(ry, &dy);
    expect(want, y, x, c->plain ? NULL : bias, &a, &w.host);
    float *dense = malloc((size_t)(c->M * c->N) * 4);
    t_widen(got, ry, ny, c->dtype);
    for (int64_t i = 0; i < c->M * c->N; i++)
        dense[i] = got[i / c->N * ldy + i % c->N];
    for (int64_t i = 0; i < ny; i++) // what stands between the rows stays
        if (i % ldy >= c->N)
            assert_true(got[i] == y[i]);
    double apart = t_distance(dense, want, c->M * c->N);
    drop_weight(&w);
    t_drop(&dx);
    t_drop(&dy);
    t_drop(&dbias);
    free(x);
    free(y);
    free(bias);
    free(want);
    free(rx);
    free(ry);
    free(dense);
    return apart;
}

static void check(q3_cuda *cuda, const product_case *c)
{
    float *got = malloc((size_t)(c->M * (c->N + 3)) * 4);
    double apart = run(cuda, c, got), bound = c->dtype == Q3_BF16 ? 1e-2 : 1e-5;
    if (!(apart < bound))
        fail_msg("x %d w %d block %d nested %d, %lld x %lld x %lld, plain %d: %g apart", (int)c->dtype,
                 (int)c->w_dtype, c->block, c->nested, (long long)c->M, (long long)c->N, (long long)c->K,
                 c->plain, apart);
    free(got);
}

static void few_rows_go_through_the_tensor_core(void **state)
{
    (void)state;
    static const q3_dtype types[] = { Q3_BF16, Q3_NF4, Q3_FP4, Q3_I8, Q3_I4 };
    q3_cuda *cuda = t_device();
    for (int i = 0; i < 5; i++)
        for (int plain = 0; plain < 2; plain++) {
            check(cuda, &(product_case){ Q3_BF16, types[i], 64, plain, 1, 33, 64, plain });
            check(cuda, &(product_case){ Q3_BF16, types[i], 64, false, 2, 16, 640, plain });
            check(cuda, &(product_case){ Q3_BF16, types[i], 128, true, 5, 1, 1088, plain });
            check(cuda, &(product_case){ Q3_BF16, types[i], 64, true, 8, 100, 2560, plain });
            check(cuda, &(product_case){ Q3_BF16, types[i], 4096, false, 19, 40, 192, plain });
            check(cuda, &(product_case){ Q3_BF16, types[i], 32, i == 1, 6, 35, 704, plain });
        }
    q3_cuda_close(cuda);
}

static void blocks_may_straddle_rows(void **state)
{
    (void)state;
    static const q3_dtype codes[] = { Q3_NF4, Q3_FP4, Q3_I4 };
    q3_cuda *cuda = t_device();
    for (int dtype = Q3_F32; dtype <= Q3_BF16; dtype++)
        for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
            check(cuda, &(product_case){ (q3_dtype)dtype, codes[i], 64, false, 1, 7, 33, true });
            check(cuda, &(product_case){ (q3_dtype)dtype, codes[i], 64, true, 3, 50, 100, false });
            check(cuda, &(product_case){ (q3_dtype)dtype, codes[i], 32, true, 8, 17, 1280, true });
            check(cuda, &(product_case){ (q3_dtype)dtype, codes[i], 256, false, 11, 9, 96, false });
        }
    q3_cuda_close(cuda);
}

static void any_type_of_weight_is_taken(void **state)
{
    (void)state;
    static const q3_dtype types[] = { Q3_F32, Q3_BF16, Q3_F16, Q3_I8 };
    q3_cuda *cuda = t_device();
    for (int dtype = Q3_F32; dtype <= Q3_BF16; dtype++)
        for (int i = 0; i < 4; i++) {
            check(cuda, &(product_case){ (q3_dtype)dtype, types[i], 64, false, 1, 1, 1, true });
            check(cuda, &(product_case){ (q3_dtype)dtype, types[i], 64, false, 4, 37, 257, false });
            check(cuda, &(product_case){ (q3_dtype)dtype, types[i], 64, false, 8, 20, 4096, true });
        }
    q3_cuda_close(cuda);
}

static void an_empty_sum_leaves_the_bias(void **state)
{
    (void)state;
    q3_cuda *cuda = t_device();
    const float bias[3] = { 1, 2, 3 };
    float y[6];
    t_array dy = t_upload(cuda, NULL, sizeof y, 0), dbias = t_upload(cuda, bias, sizeof bias, 0);
    q3_gemm_nt_args a = {
        .y = dy.at, .w = { .dtype = Q3_F32 }, .bias = dbias.at, .M = 2, .N = 3, .alpha = 1
    };
    q3_gemv_cuda(&a, cuda);
    t_download(y, &dy);
    for (int i = 0; i < 6; i++)
        assert_true(y[i] == bias[i % 3]);
    t_drop(&dy);
    t_drop(&dbias);
    q3_cuda_close(cuda);
}

static void a_residual_is_read_instead_of_y(void **state)
{
    (void)state;
    q3_cuda *cuda = t_device();
    enum { M = 3, N = 5 };
    float old[M * N], y[M * N];
    t_fill(old, M * N, 1.0f, 3);
    t_array dy = t_upload(cuda, NULL, sizeof y, 0), dold = t_upload(cuda, old, sizeof old, 0);
    q3_gemm_nt_args a = {
        .y = dy.at, .w = { .dtype = Q3_F32 }, .residual = dold.at, .M = M, .N = N, .alpha = 1, .beta = 1
    };
    q3_gemv_cuda(&a, cuda);
    t_download(y, &dy);
    assert_memory_equal(y, old, sizeof y);
    t_drop(&dy);
    t_drop(&dold);
    q3_cuda_close(cuda);
}

static void the_bits_do_not_depend_on_the_card(void **state)
{
    (void)state;
    q3_cuda *cuda = t_device();
    product_case c = { Q3_BF16, Q3_NF4, 64, true, 3, 200, 704, true };
    float *one = malloc(600 * 4), *many = malloc(600 * 4);
    run(cuda, &c, many);
    cuda->multiprocessors = 1;
    run(cuda, &c, one);
    assert_memory_equal(one, many, 600 * 4);
    free(one);
    free(many);
    q3_cuda_close(cuda);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(few_rows_go_through_the_tensor_core),
        cmocka_unit_test(blocks_may_straddle_rows),
        cmocka_unit_test(any_type_of_weight_is_taken),
        cmocka_unit_test(an_empty_sum_leaves_the_bias),
        cmocka_unit_test(a_residual_is_read_instead_of_y),
        cmocka_unit_test(the_bits_do_not_depend_on_the_card),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
