#include "kernels/gradient.h"

#include "kernels/pool.h"

static double chunk_sum(const float *g, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)g[i] * (double)g[i];
    return sum;
}

static void sum_runs(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const q3_gradient_args *a = arg;
    for (int64_t run = begin; run < end; run++) {
        const float *g = a->g + a->begin[run];
        double sum = 0;
        for (int64_t at = 0; at < a->count[run]; at += 4096) {
            int64_t left = a->count[run] - at;
            sum += chunk_sum(g + at, left < 4096 ? left : 4096);
        }
        a->sums[run] = sum;
    }
}

static void scale(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const q3_gradient_args *a = arg;
    for (int64_t i = begin; i < end; i++)
        a->g[i] *= a->factor;
}

void q3_gradient_sum_squares_cpu(const q3_gradient_args *a)
{
    q3_parallel(a->runs, 1, sum_runs, (void *)(uintptr_t)a);
}

void q3_gradient_scale_cpu(const q3_gradient_args *a)
{
    q3_parallel(a->n, 4096, scale, (void *)(uintptr_t)a);
}
