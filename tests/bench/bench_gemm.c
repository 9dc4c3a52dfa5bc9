/* Speed of the matrix products: bench_gemm [threads] [level]. Prints GFLOP/s, the best of many short runs. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/gemm.h"
#include "kernels/nf4.h"
#include "kernels/pool.h"

enum { BLOCK = 64 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *numbers(int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    if (!x)
        abort();
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) * 0x1p-24f - 0.5f;
    }
    return x;
}

static q3_weight weight(q3_dtype dtype, const float *x, int64_t n)
{
    q3_weight w = { .data = x, .dtype = dtype, .block = BLOCK };
    uint8_t *data = malloc((size_t)n * 2);
    float *absmax = malloc((size_t)(n / BLOCK + 1) * sizeof *absmax);
    if (!data || !absmax)
        abort();
    if (dtype == Q3_F32)
        return w;
    for (int64_t i = 0; i < n && dtype == Q3_BF16; i++)
        ((uint16_t *)(void *)data)[i] = q3_f32_to_bf16(x[i]);
    if (dtype == Q3_NF4)
        q3_nf4_quantize_cpu(&(q3_nf4_quantize_args){ data, absmax, x, Q3_F32, Q3_NF4, BLOCK, n });
    w.data = data;
    w.absmax = absmax;
    return w;
}

typedef enum role { NT, NN, TN } role;

static void once(role r, float *y, const float *x, const float *z, q3_weight w, int64_t M, int64_t N,
                 int64_t K)
{
    if (r == NT)
        q3_gemm_nt_cpu(&(q3_gemm_nt_args){ .y = y, .x = x, .w = w, .M = M, .N = N, .K = K, .alpha = 1 });
    else if (r == NN)
        q3_gemm_nn_cpu(&(q3_gemm_nn_args){ .y = y, .x = x, .w = w, .M = M, .N = N, .K = K, .alpha = 1 });
    else
        q3_gemm_tn_cpu(&(q3_gemm_tn_args){ .y = y, .x = x, .z = z, .M = M, .N = N, .K = K, .alpha = 1 });
}

static double speed(role r, q3_dtype dtype, int64_t M, int64_t N, int64_t K)
{
    int64_t widest = N > K ? N : K;
    float *x = numbers(M * N > M * K ? M * N : M * K), *z = numbers(M * K), *v = numbers(N * K);
    float *y = numbers((M > N ? M : N) * widest);
    q3_weight w = weight(dtype, v, N * K);
    double best = 1e9, start = seconds();
    for (int i = 0; i < 4 || (seconds() - start < 0.25 && i < 2000); i++) {
        double t = seconds();
        once(r, y, x, z, w, M, N, K);
        t = seconds() - t;
        best = t < best ? t : best;
    }
    free(x);
    free(z);
    free(y);
    free(v);
    return 2e-9 * (double)M * (double)N * (double)K / best;
}

int main(int argc, char **argv)
{
    static const int shapes[][3] = {
        { 770, 128, 128 }, { 770, 384, 128 },  { 770, 128, 384 },   { 770, 16, 128 },
        { 770, 128, 16 },  { 64, 2048, 2048 }, { 512, 2048, 2048 }, { 512, 6144, 2048 },
        { 1, 2048, 2048 }, { 8, 2048, 2048 },  { 16, 2048, 2048 },  { 24, 2048, 2048 },
    };
    q3_cpu_isa level;
    q3_pool_start(argc > 1 ? atoi(argv[1]) : 1);
    if (argc > 2 && (!q3_cpu_level_parse(&level, argv[2]) || !q3_cpu_set_level(level)))
        return 2;
    printf("%s, %d threads, GFLOP/s\n", q3_cpu_level_name(q3_cpu_level()), q3_pool_threads());
    printf("%5s %5s %5s | nt f32  bf16   nf4 | nn f32  bf16   nf4 | tn f32\n", "M", "N", "K");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int64_t M = shapes[i][0], N = shapes[i][1], K = shapes[i][2];
        printf("%5d %5d %5d", shapes[i][0], shapes[i][1], shapes[i][2]);
        for (int r = NT; r <= NN; r++)
            printf(" | %6.1f %5.1f %5.1f", speed(r, Q3_F32, M, N, K), speed(r, Q3_BF16, M, N, K),
                   speed(r, Q3_NF4, M, N, K));
        printf(" | %6.1f\n", speed(TN, Q3_F32, M, N, K));
        fflush(stdout);
    }
    q3_pool_stop();
    return 0;
}
