#include "kernels/rmsnorm.h"

#include <math.h>

#include "kernels/vec.h"

/* Rows a thread takes at least: some ten thousand elements. */
static int64_t grain(int64_t C)
{
    return C < 16384 ? 16384 / C : 1;
}

static float sum_of_squares(const float *x, int64_t n)
{
    q3_vec s = q3_vec_all(0), t = q3_vec_all(0);
    float rest = 0;
    int64_t c = 0;
    for (; c + 2 * Q3_VEC <= n; c += 2 * Q3_VEC) {
        q3_vec a = q3_vec_load(x + c), b = q3_vec_load(x + c + Q3_VEC);
        s += a * a;
        t += b * b;
    }
    for (; c < n; c++)
        rest += x[c] * x[c];
    return q3_vec_total(s + t) + rest;
}

static float sum_of_products(const float *x, const float *y, const float *w, int64_t n)
{
    q3_vec s = q3_vec_all(0);
    float rest = 0;
    int64_t c = 0;
    for (; c + Q3_VEC <= n; c += Q3_VEC)
        s += q3_vec_load(x + c) * q3_vec_load(w + c) * q3_vec_load(y + c);
    for (; c < n; c++)
        rest += x[c] * w[c] * y[c];
    return q3_vec_total(s) + rest;
}

static void forward_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_rmsnorm_args *a = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const float *restrict x = (const float *)a->x + i * a->C, *restrict w = a->w;
        float *restrict y = (float *)a->y + i * a->C;
        float r = 1 / sqrtf(sum_of_squares(x, a->C) / (float)a->C + a->eps);
        if (a->r)
            a->r[i] = r;
        for (int64_t c = 0; c < a->C; c++)
            y[c] = x[c] * r * w[c];
    }
}

void Q3_SIMD(q3_rmsnorm_forward)(const q3_rmsnorm_args *a)
{
    q3_parallel(a->rows, grain(a->C), forward_rows, (void *)(uintptr_t)a);
}

static void backward_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_rmsnorm_backward_args *a = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const float *restrict x = (const float *)a->x + i * a->C, *restrict w = a->w;
        const float *restrict dy = (const float *)a->dy + i * a->C;
        float *restrict dx = (float *)a->dx + i * a->C;
        float r = a->r[i], k = sum_of_products(dy, x, w, a->C) * r * r / (float)a->C;
        if (a->dx_beta == 0)
            for (int64_t c = 0; c < a->C; c++)
                dx[c] = r * (dy[c] * w[c] - x[c] * k);
        else
            for (int64_t c = 0; c < a->C; c++)
                dx[c] += r * (dy[c] * w[c] - x[c] * k);
    }
}

static void partial_runs(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_rmsnorm_backward_args *a = arg;
    (void)thread;
    for (int64_t n = begin; n < end; n++) {
        float *restrict sum = a->partial + n * a->C;
        for (int64_t c = 0; c < a->C; c++)
            sum[c] = 0;
        for (int64_t i = n * Q3_RMSNORM_RUN; i < (n + 1) * Q3_RMSNORM_RUN && i < a->rows; i++) {
            const float *restrict x = (const float *)a->x + i * a->C;
            const float *restrict dy = (const float *)a->dy + i * a->C;
            for (int64_t c = 0; c < a->C; c++)
                sum[c] += dy[c] * x[c] * a->r[i];
        }
    }
}

static void add_runs(const q3_rmsnorm_backward_args *a, int64_t runs)
{
    for (int64_t c = 0; c < a->C && a->dw_beta == 0; c++)
        a->dw[c] = 0;
    for (int64_t n = 0; n < runs; n++)
        for (int64_t c = 0; c < a->C; c++)
            a->dw[c] += a->partial[n * a->C + c];
}

void Q3_SIMD(q3_rmsnorm_backward)(const q3_rmsnorm_backward_args *a)
{
    int64_t runs = (a->rows + Q3_RMSNORM_RUN - 1) / Q3_RMSNORM_RUN;
    if (a->dx)
        q3_parallel(a->rows, grain(a->C), backward_rows, (void *)(uintptr_t)a);
    if (a->dw) {
        q3_parallel(runs, 1, partial_runs, (void *)(uintptr_t)a);
        add_runs(a, runs);
    }
}
