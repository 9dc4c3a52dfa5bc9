/* On the emulated device with its stand-in for cuBLASLt, or on a real one. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/cublaslt.h"
#include "tests/support/device.h"

static q3_cuda *cuda;

static uint32_t state = 11;

static float uniform(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) * 0x1p-23f - 1;
}

/* A matrix on both sides: `host` holds the values as the device has them. */
typedef struct matrix {
    q3_dtype dtype;
    int64_t rows, cols, ld, shift; // shift: elements from the allocation to the first row
    int64_t n;                     // elements in all
    float *host;
    void *bytes; // the same in dtype
    char *device;
} matrix;

static matrix create(q3_dtype dtype, int64_t rows, int64_t cols, int64_t pad, int64_t shift, float fill)
{
    matrix x = { .dtype = dtype, .rows = rows, .cols = cols, .ld = cols + pad, .shift = shift };
    x.n = shift + rows * x.ld + pad;
    x.host = malloc((size_t)x.n * sizeof *x.host + 1);
    x.bytes = malloc((size_t)x.n * sizeof *x.host + 1);
    for (int64_t i = 0; i < x.n; i++) {
        float v = fill != 0 ? fill : uniform();
        ((float *)x.bytes)[i] = x.host[i] = v;
    }
    for (int64_t i = 0; i < x.n && dtype == Q3_BF16; i++) {
        uint16_t half = q3_f32_to_bf16(x.host[i]);
        ((uint16_t *)x.bytes)[i] = half;
        x.host[i] = q3_bf16_to_f32(half);
    }
    x.device = q3_cuda_alloc(cuda, q3_dtype_bytes(dtype, x.n + 1));
    assert_non_null(x.device);
    q3_cuda_upload(cuda, x.device, x.bytes, q3_dtype_bytes(dtype, x.n));
    return x;
}

static void *first(const matrix *x)
{
    return x->device + q3_dtype_bytes(x->dtype, x->shift);
}

static float at(const matrix *x, int64_t row, int64_t col)
{
    return x->host[x->shift + row * x->ld + col];
}

/* Reads the device's values into `bytes` and returns element i of all. */
static void fetch(matrix *x)
{
    q3_cuda_download(cuda, x->bytes, x->device, q3_dtype_bytes(x->dtype, x->n));
}
static float fetched(const matrix *x, int64_t i)
{
    return x->dtype == Q3_BF16 ? q3_bf16_to_f32(((uint16_t *)x->bytes)[i]) : ((float *)x->bytes)[i];
}

static void destroy(matrix *x)
{
    q3_cuda_free(cuda, x->device);
    free(x->host), free(x->bytes);
}

static void nothing_failed(void)
{
    char why[Q3_CUDA_SENTENCE];
    if (q3_cuda_take_failure(cuda, why))
        fail_msg("%s", why);
}

typedef struct problem {
    int64_t m, n, k;
    bool ta, tb, bias;
    q3_dtype in, out;
    float alpha, beta;
    int64_t pad, shift;
} problem;

static const char *text(const problem *p)
{
    static char line[160];
    snprintf(line, sizeof line,
             "%lld x %lld x %lld%s%s%s, types %d %d, alpha %g, beta %g, pad %lld, shift %lld",
             (long long)p->m, (long long)p->n, (long long)p->k, p->ta ? " A'" : "", p->tb ? " B'" : "",
             p->bias ? " bias" : "", p->in, p->out, (double)p->alpha, (double)p->beta, (long long)p->pad,
             (long long)p->shift);
    return line;
}

static double expected(const problem *p, const matrix *a, const matrix *b, const matrix *c,
                       const matrix *bias, int64_t i, int64_t j)
{
    double sum = 0;
    for (int64_t k = 0; k < p->k; k++)
        sum += (double)(p->ta ? at(a, k, i) : at(a, i, k)) * (p->tb ? at(b, j, k) : at(b, k, j));
    return p->alpha * sum + (p->beta != 0 ? (double)p->beta * at(c, i, j) : 0) +
           (p->bias ? (double)at(bias, 0, j) : 0);
}

/* Against double sums; what lies between and behind the rows stays. */
static void compare(const problem *p, const matrix *a, const matrix *b, const matrix *c, const matrix *bias)
{
    double difference = 0, size = 0;
    for (int64_t i = 0; i < c->n; i++) {
        int64_t row = i < c->shift ? -1 : (i - c->shift) / c->ld,
                col = i < c->shift ? -1 : (i - c->shift) % c->ld;
        if (row < 0 || row >= p->m || col >= p->n) {
            if (memcmp(&c->host[i], &(float){ fetched(c, i) }, 4) != 0)
                fail_msg("%s: element %lld outside of C has changed", text(p), (long long)i);
            continue;
        }
        double want = expected(p, a, b, c, bias, row, col), got = fetched(c, i);
        difference += (got - want) * (got - want);
        size += want * want;
    }
    double distance = sqrt(difference / (size > 0 ? size : 1));
    if (!(distance < (p->out == Q3_BF16 ? 1e-2 : 1e-5)))
        fail_msg("%s: relative distance %g", text(p), distance);
}

static void check(problem p)
{
    matrix a = create(p.in, p.ta ? p.k : p.m, p.ta ? p.m : p.k, p.pad, p.shift, 0);
    matrix b = create(p.in, p.tb ? p.n : p.k, p.tb ? p.k : p.n, 2 * p.pad, p.shift, 0);
    matrix c = create(p.out, p.m, p.n, 3 * p.pad, p.shift, p.beta == 0 ? NAN : 0);
    matrix bias = create(p.out, 1, p.n, 0, 0, 0);
    q3_matmul_args args = { .c = first(&c),
                            .a = first(&a),
                            .b = first(&b),
                            .bias = p.bias ? first(&bias) : NULL,
                            .m = p.m,
                            .n = p.n,
                            .k = p.k,
                            .ldc = p.pad ? c.ld : 0,
                            .lda = p.pad ? a.ld : 0,
                            .ldb = p.pad ? b.ld : 0,
                            .a_transposed = p.ta,
                            .b_transposed = p.tb,
                            .in = p.in,
                            .out = p.out,
                            .alpha = p.alpha,
                            .beta = p.beta };
    q3_cublaslt_matmul(&args, cuda);
    fetch(&c);
    nothing_failed();
    compare(&p, &a, &b, &c, &bias);
    destroy(&a), destroy(&b), destroy(&c), destroy(&bias);
}

static void products_are_those_of_double_sums(void **unused)
{
    (void)unused;
    cuda = t_device();
    static const int64_t sizes[][3] = { { 1, 1, 1 },     { 1, 7, 33 },    { 7, 33, 257 },
                                        { 33, 257, 7 },  { 257, 1, 33 },  { 1, 257, 1 },
                                        { 33, 7, 2049 }, { 64, 32, 128 }, { 25, 600, 300 } };
    static const q3_dtype types[][2] = { { Q3_F32, Q3_F32 }, { Q3_BF16, Q3_BF16 }, { Q3_BF16, Q3_F32 } };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int t = 0; t < 3; t++)
            for (int i = 0; i < 8; i++)
                check((problem){ .m = sizes[s][0],
                                 .n = sizes[s][1],
                                 .k = sizes[s][2],
                                 .ta = i & 1,
                                 .tb = i >> 1 & 1,
                                 .bias = i >> 2,
                                 .in = types[t][0],
                                 .out = types[t][1],
                                 .alpha = s % 2 ? 1 : -0.5f,
                                 .beta = (s + (size_t)i) % 3 ? 0 : (i & 1 ? 1 : 0.25f),
                                 .pad = (int64_t)(s + (size_t)i) % 3,
                                 .shift = (int64_t)(s % 4) });
    q3_cuda_close(cuda);
}

static void a_bias_goes_with_beta(void **unused)
{
    (void)unused;
    cuda = t_device();
    for (int beta = 0; beta <= 1; beta++)
        check(
            (problem){ .m = 9, .n = 40, .k = 16, .tb = true, .bias = true, .alpha = 1, .beta = (float)beta });
    q3_cuda_close(cuda);
}

/* The same bits as in place, and the array is only read. */
static void beta_may_take_another_array(void **unused)
{
    (void)unused;
    cuda = t_device();
    enum { M = 9, N = 40, K = 16 };
    for (int64_t shift = 0; shift < 3; shift++) {
        matrix a = create(Q3_BF16, M, K, 0, 0, 0), b = create(Q3_BF16, K, N, 0, 0, 0);
        matrix old = create(Q3_BF16, M, N, 0, shift, 0), c = create(Q3_BF16, M, N, 0, 0, NAN);
        q3_matmul_args args = { .c = first(&c), .a = a.device, .b = b.device, .addend = first(&old) };
        args.m = M, args.n = N, args.k = K;
        args.in = args.out = Q3_BF16;
        args.alpha = args.beta = 1;
        q3_cublaslt_matmul(&args, cuda);
        fetch(&old);
        for (int64_t i = 0; i < old.n; i++)
            assert_true(fetched(&old, i) == old.host[i]);
        args.c = first(&old);
        args.addend = NULL;
        q3_cublaslt_matmul(&args, cuda);
        fetch(&c), fetch(&old);
        nothing_failed();
        for (int64_t i = 0; i < M * N; i++)
            assert_true(fetched(&c, i) == fetched(&old, shift + i));
        destroy(&a), destroy(&b), destroy(&c), destroy(&old);
    }
    q3_cuda_close(cuda);
}

/* More shapes than the table holds: those that made room come back. */
static void shapes_make_room(void **unused)
{
    (void)unused;
    cuda = t_device();
    enum { SHAPES = 3000 };
    matrix a = create(Q3_F32, 1, SHAPES, 0, 0, 1), b = create(Q3_F32, 1, 1, 0, 0, 2),
           c = create(Q3_F32, 1, SHAPES, 0, 0, 9);
    for (int round = 0; round < 2; round++)
        for (int m = 1; m <= SHAPES; m++) {
            q3_matmul_args args = {
                .c = c.device, .a = a.device, .b = b.device, .m = m, .n = 1, .k = 1, .alpha = 1
            };
            q3_cublaslt_matmul(&args, cuda);
        }
    fetch(&c);
    nothing_failed();
    for (int i = 0; i < SHAPES; i++)
        assert_true(fetched(&c, i) == 2);
    destroy(&a), destroy(&b), destroy(&c);
    q3_cuda_close(cuda);
}

static void the_same_product_has_the_same_bits(void **unused)
{
    (void)unused;
    cuda = t_device();
    enum { M = 19, N = 130, K = 3000 };
    matrix a = create(Q3_BF16, M, K, 0, 0, 0), b = create(Q3_BF16, N, K, 0, 0, 0);
    matrix c = create(Q3_F32, M, N, 0, 0, NAN), again = create(Q3_F32, M, N, 0, 0, NAN);
    q3_matmul_args args = { .c = c.device, .a = a.device, .b = b.device, .m = M, .n = N, .k = K };
    args.b_transposed = true;
    args.in = Q3_BF16;
    args.alpha = 0.7f;
    q3_cublaslt_matmul(&args, cuda);
    args.c = again.device;
    q3_cublaslt_matmul(&args, cuda);
    fetch(&c), fetch(&again);
    nothing_failed();
    assert_memory_equal(c.bytes, again.bytes, M * N * sizeof(float));
    destroy(&a), destroy(&b), destroy(&c), destroy(&again);
    q3_cuda_close(cuda);
}

static void a_recorded_product_runs_at_each_replay(void **unused)
{
    (void)unused;
    cuda = t_device();
    matrix a = create(Q3_F32, 1, 1, 0, 0, 3), b = create(Q3_F32, 1, 1, 0, 0, 2),
           c = create(Q3_F32, 1, 1, 0, 0, 1);
    q3_matmul_args args = {
        .c = c.device, .a = a.device, .b = b.device, .m = 1, .n = 1, .k = 1, .alpha = 1, .beta = 1
    };
    q3_cuda_record_begin(cuda);
    q3_cublaslt_matmul(&args, cuda);
    void *recording = q3_cuda_record_end(cuda);
    nothing_failed();
    assert_non_null(recording);
    fetch(&c);
    assert_true(fetched(&c, 0) == 1);
    q3_cuda_replay(cuda, recording);
    q3_cuda_replay(cuda, recording);
    fetch(&c);
    nothing_failed();
    assert_true(fetched(&c, 0) == 13);
    q3_cuda_record_free(cuda, recording);
    destroy(&a), destroy(&b), destroy(&c);
    q3_cuda_close(cuda);
}

static void failed_with(const char *part)
{
    char why[Q3_CUDA_SENTENCE] = "nothing failed";
    q3_cuda_take_failure(cuda, why);
    if (!strstr(why, part))
        fail_msg("\"%s\" does not say \"%s\"", why, part);
}

static void what_cannot_be_is_told(void **unused)
{
    (void)unused;
    cuda = t_device();
    matrix x = create(Q3_F32, 8, 8, 0, 0, 0);
    q3_matmul_args good = { .c = x.device, .a = x.device, .b = x.device, .m = 2, .n = 2, .k = 2, .alpha = 1 },
                   bad = good;
    bad.lda = 1;
    q3_cublaslt_matmul(&bad, cuda);
    failed_with("f32 [2, 2] and f32 [2, 2] to f32, rows 1, 2 and 2 apart: rows overlap");
    bad = good, bad.k = 0;
    q3_cublaslt_matmul(&bad, cuda);
    failed_with("an empty sum");
    bad = good, bad.n = (int64_t)1 << 31;
    q3_cublaslt_matmul(&bad, cuda);
    failed_with("more than 2147483647");
    bad = good, bad.out = Q3_BF16;
    q3_cublaslt_matmul(&bad, cuda);
    failed_with("not one of the types");
    bad = good, bad.bias = x.device + 4;
    q3_cublaslt_matmul(&bad, cuda);
    failed_with("not aligned to 16 bytes");
    bad = good, bad.m = 0, bad.a = NULL;
    q3_cublaslt_matmul(&bad, cuda);
    bad = good, bad.n = 0, bad.b = NULL;
    q3_cublaslt_matmul(&bad, cuda);
    nothing_failed();
    destroy(&x);
    q3_cuda_close(cuda);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_those_of_double_sums),
        cmocka_unit_test(a_bias_goes_with_beta),
        cmocka_unit_test(beta_may_take_another_array),
        cmocka_unit_test(shapes_make_room),
        cmocka_unit_test(the_same_product_has_the_same_bits),
        cmocka_unit_test(a_recorded_product_runs_at_each_replay),
        cmocka_unit_test(what_cannot_be_is_told),
    };
    return cmocka_run_group_tests_name("cublaslt", tests, NULL, NULL);
}
