#include "kernels/linear.h"

#include "kernels/pool.h"

enum { WIDTH = 64, BLOCK = 64 }; // columns at a time, rows of a block

static void columns(const q3_linear_bias_args *a, int64_t n0, int width)
{
    const float *dy = a->dy;
    float total[WIDTH] = { 0 };
    for (int64_t m0 = 0; m0 < a->M; m0 += BLOCK) {
        float sum[WIDTH] = { 0 };
        int64_t end = m0 + BLOCK < a->M ? m0 + BLOCK : a->M;
        for (int64_t m = m0; m < end; m++)
            for (int i = 0; i < width; i++)
                sum[i] += dy[m * a->N + n0 + i];
        for (int i = 0; i < width; i++)
            total[i] += sum[i];
    }
    for (int i = 0; i < width; i++)
        a->db[n0 + i] = a->beta != 0 ? a->beta * a->db[n0 + i] + total[i] : total[i];
}

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_linear_bias_args *a = arg;
    (void)thread;
    for (int64_t n = begin; n < end; n += WIDTH)
        columns(a, n, end - n < WIDTH ? (int)(end - n) : WIDTH);
}

void Q3_SIMD(q3_linear_bias)(const q3_linear_bias_args *a)
{
    q3_parallel(a->N, WIDTH, run, (void *)(uintptr_t)a);
}
