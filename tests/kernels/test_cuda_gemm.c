/* On the emulated device with its stand-in for cuBLASLt, or on a real one. The CPU's reference level, on the same
 * rounded inputs, says what is right. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/gemm.h"
#include "tests/support/device.h"

static q3_cuda *cuda;

static uint32_t state = 5;

static float uniform(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) * 0x1p-23f - 1;
}

/* The same numbers in f32 on the host and in `dtype` on the device. */
typedef struct numbers {
    float *host;
    void *device;
    q3_dtype dtype;
    int64_t n;
} numbers;

static void *upload(const void *from, size_t bytes)
{
    void *to = q3_cuda_alloc(cuda, bytes + 1);
    assert_non_null(to);
    q3_cuda_upload(cuda, to, from, bytes);
    return to;
}

static numbers create(q3_dtype dtype, int64_t n)
{
    numbers x = { .host = malloc((size_t)n * 4 + 1), .dtype = dtype, .n = n };
    uint16_t *halves = malloc((size_t)n * 2 + 1);
    for (int64_t i = 0; i < n; i++) {
        x.host[i] = uniform();
        halves[i] = q3_f32_to_bf16(x.host[i]);
        if (dtype == Q3_BF16)
            x.host[i] = q3_bf16_to_f32(halves[i]);
    }
    x.device = upload(dtype == Q3_BF16 ? (void *)halves : (void *)x.host, q3_dtype_bytes(dtype, n));
    free(halves);
    return x;
}

/* The device's numbers as f32. */
static float *download(const numbers *x)
{
    float *out = malloc((size_t)x->n * 4 + 1);
    q3_cuda_download(cuda, out, x->device, q3_dtype_bytes(x->dtype, x->n));
    for (int64_t i = x->n; i-- > 0 && x->dtype == Q3_BF16;)
        out[i] = q3_bf16_to_f32(((uint16_t *)(void *)out)[i]);
    return out;
}

static void destroy(numbers *x)
{
    free(x->host);
    q3_cuda_free(cuda, x->device);
}

/* A weight of random bytes on both sides. */
typedef struct pair {
    q3_weight host, device;
    uint8_t *data;
    float *absmax;
} pair;

static pair weight(q3_dtype dtype, int block, int64_t n)
{
    size_t bytes = q3_dtype_bytes(dtype, n);
    int64_t blocks = block ? (n + block - 1) / block : 0;
    pair w = { .data = malloc(bytes + 1), .absmax = malloc((size_t)blocks * 4 + 1) };
    for (int64_t i = 0; i < blocks; i++)
        w.absmax[i] = uniform();
    for (int64_t i = 0; i < n; i++)
        if (dtype == Q3_F32)
            ((float *)(void *)w.data)[i] = uniform();
        else if (dtype == Q3_BF16)
            ((uint16_t *)(void *)w.data)[i] = q3_f32_to_bf16(uniform());
        else if (dtype == Q3_F16) // exponents of 2^-8 .. 1, any sign and fraction
            ((uint16_t *)(void *)w.data)[i] =
                (uint16_t)(((uint32_t)(uniform() * 32767) & 0x83ff) | (uint32_t)(7 + i % 9) << 10);
        else
            w.data[dtype == Q3_I8 ? i : i / 2] = (uint8_t)(fabsf(uniform()) * 255);
    w.host = (q3_weight){ .data = w.data, .dtype = dtype, .block = block, .absmax = w.absmax };
    w.device = w.host;
    w.device.data = upload(w.data, bytes);
    w.device.absmax = upload(w.absmax, (size_t)blocks * 4);
    return w;
}

static void destroy_weight(pair *w)
{
    free(w->data), free(w->absmax);
    q3_cuda_free(cuda, (void *)(uintptr_t)w->device.data);
    q3_cuda_free(cuda, (void *)(uintptr_t)w->device.absmax);
}

static void nothing_failed(void)
{
    char why[Q3_CUDA_SENTENCE];
    if (q3_cuda_take_failure(cuda, why))
        fail_msg("%s", why);
}

typedef enum role { NT, NN, TN } role;

typedef struct problem {
    role r;
    int64_t M, N, K; // as in kernels/gemm.h
    q3_dtype dtype;  // of the activations
    float alpha, beta;
    int64_t pad; // extra columns in the rows of X, Y and Z
} problem;

static void on_host(const problem *p, float *y, const float *x, const float *z, const q3_weight *w,
                    const float *bias)
{
    const int64_t ldy = (p->r == NT ? p->N : p->K) + p->pad, ldx = (p->r == NT ? p->K : p->N) + p->pad;
    q3_cpu_set_level(Q3_CPU_REFERENCE);
    if (p->r == NT)
        q3_gemm_nt_cpu(&(q3_gemm_nt_args){ y, x, *w, bias, NULL, p->M, p->N, p->K, ldy, ldx, p->alpha,
                                           p->beta, Q3_F32 });
    else if (p->r == NN)
        q3_gemm_nn_cpu(&(q3_gemm_nn_args){ y, x, *w, p->M, p->N, p->K, ldy, ldx, p->alpha, p->beta, Q3_F32 });
    else
        q3_gemm_tn_cpu(&(q3_gemm_tn_args){ y, x, z, p->M, p->N, p->K, ldy, ldx, p->K + p->pad, p->alpha,
                                           p->beta, Q3_F32 });
}

static void on_device(const problem *p, void *y, const void *x, const void *z, const q3_weight *w,
                      const float *bias)
{
    const int64_t ldy = p->pad ? (p->r == NT ? p->N : p->K) + p->pad : 0;
    const int64_t ldx = p->pad ? (p->r == NT ? p->K : p->N) + p->pad : 0, ldz = p->pad ? p->K + p->pad : 0;
    if (p->r == NT)
        q3_gemm_nt_cuda(&(q3_gemm_nt_args){ y, x, *w, bias, NULL, p->M, p->N, p->K, ldy, ldx, p->alpha,
                                            p->beta, p->dtype },
                        cuda);
    else if (p->r == NN)
        q3_gemm_nn_cuda(
            &(q3_gemm_nn_args){ y, x, *w, p->M, p->N, p->K, ldy, ldx, p->alpha, p->beta, p->dtype }, cuda);
    else
        q3_gemm_tn_cuda(
            &(q3_gemm_tn_args){ y, x, z, p->M, p->N, p->K, ldy, ldx, ldz, p->alpha, p->beta, p->dtype },
            cuda);
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

static void check(problem p, pair *w, bool biased)
{
    const int64_t tall = p.r == TN ? p.N : p.M, wide = (p.r == NT ? p.N : p.K) + p.pad;
    numbers x = create(p.dtype, p.M * ((p.r == NT ? p.K : p.N) + p.pad)),
            z = create(p.dtype, p.M * (p.K + p.pad));
    numbers y = create(p.r == TN ? Q3_F32 : p.dtype, tall * wide), bias = create(Q3_F32, p.N);
    on_device(&p, y.device, x.device, z.device, &w->device, biased ? bias.device : NULL);
    nothing_failed();
    on_host(&p, y.host, x.host, z.host, &w->host, biased ? bias.host : NULL);
    float *got = download(&y);
    double d = distance(got, y.host, y.n);
    if (!(d < (p.dtype == Q3_BF16 ? 1e-2 : 1e-5))) // bf16: W, the bias and Y are rounded
        fail_msg("role %d, %lld x %lld x %lld, weight type %d, activations %d: relative distance %g", p.r,
                 (long long)p.M, (long long)p.N, (long long)p.K, w->host.dtype, p.dtype, d);
    free(got);
    destroy(&x), destroy(&y), destroy(&z), destroy(&bias);
}

static void products_are_those_of_the_reference(void **unused)
{
    (void)unused;
    cuda = t_device();
    static const q3_dtype types[] = { Q3_F32, Q3_BF16, Q3_F16, Q3_NF4, Q3_FP4, Q3_I8, Q3_I4 };
    static const int64_t sizes[][3] = { { 9, 1, 1 },      { 12, 7, 33 }, { 33, 65, 257 },
                                        { 29, 128, 300 }, { 1, 40, 16 }, { 257, 33, 7 },
                                        { 0, 5, 6 },      { 20, 0, 6 },  { 20, 5, 0 } };
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            bool coded = q3_is_4bit(types[t]);
            int block = types[t] == Q3_I8 ? (int)sizes[i][2] : coded ? (i % 2 ? 32 : 64) : 0;
            pair w = weight(types[t], block, sizes[i][1] * sizes[i][2]);
            for (int bf16 = 0; bf16 < 2; bf16++)
                for (int r = NT; r <= TN; r++)
                    check((problem){ .r = (role)r,
                                     .M = sizes[i][0],
                                     .N = sizes[i][1],
                                     .K = sizes[i][2],
                                     .dtype = bf16 ? Q3_BF16 : Q3_F32,
                                     .alpha = i % 2 ? 1 : -0.5f,
                                     .beta = (i + t) % 3 ? 0 : (i % 2 ? 1 : 0.25f),
                                     .pad = (int64_t)(i % 3) },
                          &w, i % 4 < 2);
            destroy_weight(&w);
        }
    q3_cuda_close(cuda);
}

/* Y as it was and a residual of the same values have the same bits. */
static void a_residual_is_read_instead_of_y(void **unused)
{
    (void)unused;
    cuda = t_device();
    static const int64_t sizes[][3] = { { 3, 9, 40 }, { 33, 65, 257 }, { 20, 5, 0 }, { 0, 5, 6 } };
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
        const int64_t M = sizes[i / 2][0], N = sizes[i / 2][1], K = sizes[i / 2][2];
        const q3_dtype dtype = i % 2 ? Q3_BF16 : Q3_F32;
        pair w = weight(Q3_NF4, 64, N * K);
        numbers x = create(dtype, M * K), y = create(dtype, M * N), bias = create(Q3_F32, N);
        numbers residual = create(dtype, M * N);
        q3_gemm_nt_args a = { .y = y.device, .x = x.device, .w = w.device, .bias = bias.device };
        a.M = M, a.N = N, a.K = K, a.alpha = 1, a.beta = 1, a.dtype = dtype;
        a.residual = residual.device;
        q3_gemm_nt_cuda(&a, cuda);
        a.y = residual.device;
        a.residual = NULL;
        q3_gemm_nt_cuda(&a, cuda);
        nothing_failed();
        float *got = download(&y), *want = download(&residual);
        assert_memory_equal(got, want, (size_t)(M * N) * 4);
        free(got), free(want);
        destroy(&x), destroy(&y), destroy(&bias), destroy(&residual);
        destroy_weight(&w);
    }
    q3_cuda_close(cuda);
}

/* The products' bits with and without a copy of the weight. */
static void compare_with_copy(problem p, pair *w)
{
    numbers x = create(p.dtype, p.M * (p.r == NT ? p.K : p.N));
    numbers plain = create(p.dtype, p.M * (p.r == NT ? p.N : p.K)), copied = create(p.dtype, plain.n);
    on_device(&p, plain.device, x.device, NULL, &w->device, NULL);
    assert_true(q3_weight_cache_add(cuda, &w->device, p.N, p.K));
    assert_true(q3_weight_cache_add(cuda, &w->device, p.N, p.K));
    on_device(&p, copied.device, x.device, NULL, &w->device, NULL);
    nothing_failed();
    float *first = download(&plain), *second = download(&copied);
    assert_memory_equal(first, second, (size_t)plain.n * 4);
    free(first), free(second);
    q3_gemm_close(cuda);
    destroy(&x), destroy(&plain), destroy(&copied);
}

static void a_copy_changes_no_bit(void **unused)
{
    (void)unused;
    cuda = t_device();
    static const q3_dtype types[] = { Q3_F32, Q3_BF16, Q3_F16, Q3_NF4 };
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int r = NT; r <= NN; r++) {
            pair w = weight(types[t], types[t] == Q3_NF4 ? 64 : 0, 70 * 96);
            compare_with_copy(
                (problem){ .r = (role)r, .M = 40, .N = 70, .K = 96, .dtype = Q3_BF16, .alpha = 1 }, &w);
            destroy_weight(&w);
        }
    q3_cuda_close(cuda);
}

/* A shadow of a trained weight saves its conversion. */
static void a_shadow_changes_no_bit(void **unused)
{
    (void)unused;
    cuda = t_device();
    enum { M = 40, N = 70, K = 96 };
    pair w = weight(Q3_F32, 0, N * K);
    uint16_t half[N * K];
    for (int i = 0; i < N * K; i++)
        half[i] = q3_f32_to_bf16(((float *)(void *)w.data)[i]);
    void *shadow = upload(half, sizeof half);
    for (int r = NT; r <= NN; r++) {
        problem p = { .r = (role)r, .M = M, .N = N, .K = K, .dtype = Q3_BF16, .alpha = 0.7f };
        numbers x = create(Q3_BF16, M * (r == NT ? K : N));
        numbers plain = create(Q3_BF16, M * (r == NT ? N : K)), shadowed = create(Q3_BF16, plain.n);
        w.device.half = NULL;
        on_device(&p, plain.device, x.device, NULL, &w.device, NULL);
        w.device.half = shadow;
        on_device(&p, shadowed.device, x.device, NULL, &w.device, NULL);
        nothing_failed();
        float *first = download(&plain), *second = download(&shadowed);
        assert_memory_equal(first, second, (size_t)plain.n * 4);
        free(first), free(second);
        destroy(&x), destroy(&plain), destroy(&shadowed);
    }
    q3_cuda_free(cuda, shadow);
    destroy_weight(&w);
    q3_cuda_close(cuda);
}

/* 33000 x 4096 in bf16 is 258 MiB: two slices. Each is right, and a copy is read in the same slices. */
static void large_weights_are_cut(void **unused)
{
    (void)unused;
    cuda = t_device();
    enum { M = 9, N = 33000, K = 4096 };
    pair w = weight(Q3_NF4, 64, (int64_t)N * K);
    check((problem){ .r = NT, .M = M, .N = N, .K = K, .dtype = Q3_BF16, .alpha = 1 }, &w, true);
    check((problem){ .r = NN, .M = M, .N = N, .K = K, .dtype = Q3_BF16, .alpha = 1, .beta = 1 }, &w, false);
    compare_with_copy((problem){ .r = NN, .M = M, .N = N, .K = K, .dtype = Q3_BF16, .alpha = 1 }, &w);
    destroy_weight(&w);
    q3_cuda_close(cuda);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_those_of_the_reference),
        cmocka_unit_test(a_residual_is_read_instead_of_y),
        cmocka_unit_test(a_copy_changes_no_bit),
        cmocka_unit_test(a_shadow_changes_no_bit),
        cmocka_unit_test(large_weights_are_cut),
    };
    return cmocka_run_group_tests_name("cuda_gemm", tests, NULL, NULL);
}
