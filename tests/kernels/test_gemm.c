#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/gemm.h"
#include "kernels/pool.h"

/* Every product of the test: Y [rows, columns] over K terms, in one of three roles. */
typedef enum role { NT, NN, TN } role;

typedef struct problem {
    role r;
    int64_t M, N, K; // as in kernels/gemm.h
    q3_dtype dtype;
    int block;
    float alpha, beta;
    bool bias;
    int64_t pad; // extra columns in the rows of X, Y and Z
} problem;

static uint32_t state = 7;

static float uniform(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) * 0x1p-23f - 1;
}

static float *numbers(int64_t n)
{
    float *x = malloc((size_t)(n + 1) * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = uniform();
    return x;
}

/* A weight of random bytes, a copy at its exact size so that a read beyond the end is seen. */
static q3_weight weight(q3_dtype dtype, int block, int64_t n)
{
    size_t bytes = q3_dtype_bytes(dtype, n);
    int64_t blocks = block ? (n + block - 1) / block : 0;
    uint8_t *data = malloc(bytes ? bytes : 1);
    float *absmax = numbers(blocks);
    float *values = numbers(n);
    for (int64_t i = 0; i < n; i++)
        if (dtype == Q3_F32)
            memcpy(data + 4 * i, values + i, 4);
        else if (dtype == Q3_BF16)
            ((uint16_t *)(void *)data)[i] = q3_f32_to_bf16(values[i]);
        else if (dtype == Q3_F16) // exponents of 2^-8 .. 1, any sign and fraction
            ((uint16_t *)(void *)data)[i] =
                (uint16_t)(((uint32_t)(values[i] * 32767) & 0x83ff) | (7 + i % 9) << 10);
        else
            data[dtype == Q3_I8 ? i : i / 2] = (uint8_t)(fabsf(values[i]) * 255);
    free(values);
    return (q3_weight){ .data = data, .dtype = dtype, .block = block, .absmax = absmax };
}

static void run(const problem *p, float *y, const float *x, const float *z, const q3_weight *w,
                const float *bias)
{
    int64_t wide = p->r == NT ? p->N : p->K;
    int64_t ldy = wide + p->pad, ldx = (p->r == NT ? p->K : p->N) + p->pad;
    if (p->r == NT)
        q3_gemm_nt_cpu(&(q3_gemm_nt_args){ y, x, *w, bias, NULL, p->M, p->N, p->K, ldy, ldx, p->alpha,
                                           p->beta, Q3_F32 });
    else if (p->r == NN)
        q3_gemm_nn_cpu(&(q3_gemm_nn_args){ y, x, *w, p->M, p->N, p->K, ldy, ldx, p->alpha, p->beta, Q3_F32 });
    else
        q3_gemm_tn_cpu(&(q3_gemm_tn_args){ y, x, z, p->M, p->N, p->K, ldy, ldx, p->K + p->pad, p->alpha,
                                           p->beta, Q3_F32 });
}

static double distance(const float *a, const float *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return s > 0 ? sqrt(d / s) : sqrt(d);
}

/* All levels against the reference, any number of threads with the same bits, padding untouched. */
static void check(problem p)
{
    int64_t tall = p.r == TN ? p.N : p.M, wide = p.r == NT ? p.N : p.K, ldy = wide + p.pad, size = tall * ldy;
    float *x = numbers(p.M * ((p.r == NT ? p.K : p.N) + p.pad)), *z = numbers(p.M * (p.K + p.pad));
    q3_weight w = weight(p.dtype, p.block, p.N * p.K);
    float *bias = p.bias ? numbers(p.N) : NULL;
    float *start = numbers(size), *want = malloc((size_t)(size + 1) * 4),
          *got = malloc((size_t)(size + 1) * 4);
    float *first = malloc((size_t)(size + 1) * 4);
    for (int64_t i = 0; i < tall && p.beta == 0; i++)
        for (int64_t j = 0; j < wide; j++)
            start[i * ldy + j] = NAN;
    for (int level = Q3_CPU_REFERENCE; level < Q3_CPU_LEVELS; level++) {
        if (!q3_cpu_set_level((q3_cpu_isa)level))
            continue;
        for (int threads = 1; threads <= 3; threads++) {
            q3_pool_start(threads);
            memcpy(got, start, (size_t)size * 4);
            run(&p, got, x, z, &w, bias);
            if (threads == 1)
                memcpy(first, got, (size_t)size * 4);
            else if (memcmp(first, got, (size_t)size * 4) != 0)
                fail_msg("%s: %d threads give other bits", q3_cpu_level_name((q3_cpu_isa)level), threads);
        }
        if (level == Q3_CPU_REFERENCE)
            memcpy(want, got, (size_t)size * 4);
        double d = distance(got, want, size);
        if (!(d < 2e-6))
            fail_msg("role %d, %lld x %lld x %lld, type %d, %s: relative distance %g", p.r, (long long)p.M,
                     (long long)p.N, (long long)p.K, p.dtype, q3_cpu_level_name((q3_cpu_isa)level), d);
        for (int64_t i = 0; i < tall; i++)
            assert_memory_equal(got + i * ldy + wide, start + i * ldy + wide, (size_t)p.pad * 4);
    }
    q3_pool_stop();
    free(x), free(z), free(bias), free(start), free(want), free(got), free(first);
    free((void *)(uintptr_t)w.data), free((void *)(uintptr_t)w.absmax);
}

static void reference_is_the_triple_loop(void **unused)
{
    (void)unused;
    enum { M = 5, N = 4, K = 3 };
    float x[M * K], w[N * K], y[M * N], back[M * K], weight_grad[N * K], bias[N];
    for (int i = 0; i < M * K; i++)
        x[i] = (float)(i % 7 - 3);
    for (int i = 0; i < N * K; i++)
        w[i] = (float)(i % 5 - 1);
    for (int i = 0; i < N; i++)
        bias[i] = (float)i;
    q3_cpu_set_level(Q3_CPU_REFERENCE);
    const q3_weight weights = { .data = w, .dtype = Q3_F32 };
    q3_gemm_nt_cpu(
        &(q3_gemm_nt_args){ .y = y, .x = x, .w = weights, .bias = bias, .M = M, .N = N, .K = K, .alpha = 2 });
    q3_gemm_nn_cpu(&(q3_gemm_nn_args){ .y = back, .x = y, .w = weights, .M = M, .N = N, .K = K, .alpha = 1 });
    q3_gemm_tn_cpu(
        &(q3_gemm_tn_args){ .y = weight_grad, .x = y, .z = x, .M = M, .N = N, .K = K, .alpha = 1 });
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            float sum = 0;
            for (int k = 0; k < K; k++)
                sum += x[m * K + k] * w[n * K + k];
            assert_true(y[m * N + n] == 2 * sum + bias[n]);
        }
    for (int m = 0; m < M; m++)
        for (int k = 0; k < K; k++) {
            float sum = 0;
            for (int n = 0; n < N; n++)
                sum += y[m * N + n] * w[n * K + k];
            assert_true(back[m * K + k] == sum);
        }
    for (int n = 0; n < N; n++)
        for (int k = 0; k < K; k++) {
            float sum = 0;
            for (int m = 0; m < M; m++)
                sum += y[m * N + n] * x[m * K + k];
            assert_true(weight_grad[n * K + k] == sum);
        }
}

static void odd_sizes_agree_with_the_reference(void **unused)
{
    (void)unused;
    static const int64_t sizes[][3] = {
        { 1, 1, 1 },     { 1, 7, 33 },    { 7, 33, 1 },   { 33, 1, 7 },    { 17, 16, 4 },  { 18, 31, 5 },
        { 33, 65, 257 }, { 29, 257, 66 }, { 4097, 3, 2 }, { 3, 4097, 17 }, { 2, 9, 4097 }, { 43, 300, 513 },
        { 0, 5, 6 },     { 20, 0, 6 },    { 20, 5, 0 },   { 1, 5, 0 },
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int r = NT; r <= TN; r++)
            check((problem){ .r = (role)r,
                             .M = sizes[i][0],
                             .N = sizes[i][1],
                             .K = sizes[i][2],
                             .dtype = Q3_F32,
                             .alpha = i % 2 ? 1 : -0.5f,
                             .beta = i % 3 ? 0 : (i % 2 ? 1 : 0.25f),
                             .bias = i % 4 < 2,
                             .pad = (int64_t)(i % 3) });
}

static void every_weight_type_agrees_with_the_reference(void **unused)
{
    (void)unused;
    static const q3_dtype types[] = { Q3_BF16, Q3_F16, Q3_NF4, Q3_FP4, Q3_I8, Q3_I4 };
    static const int64_t sizes[][3] = {
        { 1, 19, 128 }, { 16, 35, 77 }, { 30, 67, 141 }, { 20, 9, 1 }, { 19, 128, 300 }
    };
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (int r = NT; r <= NN; r++) // odd rows: blocks straddle them and begin in the middle of a byte
                check((problem){ .r = (role)r,
                                 .M = sizes[i][0],
                                 .N = sizes[i][1],
                                 .K = sizes[i][2],
                                 .dtype = types[t],
                                 .block = types[t] == Q3_I8 ? (int)sizes[i][2]
                                          : i % 2           ? 32
                                                            : 64,
                                 .alpha = 1,
                                 .bias = i % 2 });
}

/* Y as it was and a residual of the same values have the same bits; what stands between the rows stays. */
static void a_residual_is_read_instead_of_y(void **unused)
{
    (void)unused;
    static const int64_t sizes[][3] = { { 3, 9, 40 }, { 33, 65, 257 }, { 20, 5, 0 }, { 0, 5, 6 } };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int level = Q3_CPU_REFERENCE; level < Q3_CPU_LEVELS; level++) {
            const int64_t M = sizes[i][0], N = sizes[i][1], K = sizes[i][2], ldy = N + 2, size = M * ldy;
            float *x = numbers(M * K), *w = numbers(N * K), *residual = numbers(size);
            float *want = malloc((size_t)(size + 1) * 4), *got = numbers(size);
            if (q3_cpu_set_level((q3_cpu_isa)level)) {
                q3_gemm_nt_args a = { .x = x, .w = { .data = w }, .M = M, .N = N, .K = K, .ldy = ldy };
                memcpy(want, residual, (size_t)size * 4);
                for (int64_t k = 0; k < size; k++)
                    got[k] = k % ldy < N ? NAN : want[k];
                a.alpha = 1;
                a.beta = 0.5f;
                a.y = want;
                q3_gemm_nt_cpu(&a);
                a.y = got;
                a.residual = residual;
                q3_gemm_nt_cpu(&a);
                assert_memory_equal(got, want, (size_t)size * 4);
            }
            free(x), free(w), free(residual), free(want), free(got);
        }
}

/* What a row gives does not depend on the rows beside it. */
static void rows_ignore_each_other(void **unused)
{
    (void)unused;
    enum { N = 37, K = 270, MANY = 100 };
    static const int counts[] = { 17, 18, 28, 29, 51, MANY };
    float *x = numbers(MANY * K), *all = numbers(MANY * N), *some = numbers(MANY * N);
    q3_weight w = weight(Q3_NF4, 64, N * K);
    for (int level = Q3_CPU_PORTABLE; level < Q3_CPU_LEVELS; level++) {
        if (!q3_cpu_set_level((q3_cpu_isa)level))
            continue;
        run(&(problem){ .r = NT, .M = MANY, .N = N, .K = K, .alpha = 1 }, all, x, NULL, &w, NULL);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            run(&(problem){ .r = NT, .M = counts[i], .N = N, .K = K, .alpha = 1 }, some, x, NULL, &w, NULL);
            assert_memory_equal(some, all, (size_t)counts[i] * N * 4);
        }
        run(&(problem){ .r = NT, .M = Q3_GEMM_FEW, .N = N, .K = K, .alpha = 1 }, all, x, NULL, &w, NULL);
        for (int m = 1; m < Q3_GEMM_FEW; m++) {
            run(&(problem){ .r = NT, .M = m, .N = N, .K = K, .alpha = 1 }, some, x, NULL, &w, NULL);
            assert_memory_equal(some, all, (size_t)m * N * 4);
        }
    }
    free(x), free(all), free(some);
    free((void *)(uintptr_t)w.data), free((void *)(uintptr_t)w.absmax);
}

static void a_row_of_a_weight_is_its_table_value_times_the_scale(void **unused)
{
    (void)unused;
    static const uint8_t codes[] = { 0x0f, 0x7e, 0xf0 };
    static const float absmax[] = { 2, 0.5f };
    const q3_weight w = { .data = codes, .dtype = Q3_NF4, .block = 4, .absmax = absmax };
    float row[3];
    q3_weight_row(row, &w, 1, 3, 0, 3); // elements 3, 4, 5 of nibbles 0 f 7 e f 0
    assert_true(row[0] == q3_nf4_values[14] * 2);
    assert_true(row[1] == 0.5f && row[2] == -0.5f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_is_the_triple_loop),
        cmocka_unit_test(odd_sizes_agree_with_the_reference),
        cmocka_unit_test(every_weight_type_agrees_with_the_reference),
        cmocka_unit_test(a_residual_is_read_instead_of_y),
        cmocka_unit_test(rows_ignore_each_other),
        cmocka_unit_test(a_row_of_a_weight_is_its_table_value_times_the_scale),
    };
    return cmocka_run_group_tests_name("gemm", tests, NULL, NULL);
}
