#include "kernels/layernorm.h"

#include <math.h>

#include "kernels/vec.h"

/* Rows a thread takes at least: some ten thousand elements. */
static int64_t grain(int64_t C)
{
    return C < 16384 ? 16384 / C : 1;
}

static float sum_of(const float *x, int64_t n)
{
    q3_vec s = q3_vec_all(0);
    float rest = 0;
    int64_t c = 0;
    for (; c + Q3_VEC <= n; c += Q3_VEC)
        s += q3_vec_load(x + c);
    for (; c < n; c++)
        rest += x[c];
    return q3_vec_total(s) + rest;
}

static float sum_of_squares(const float *x, float mean, int64_t n)
{
    q3_vec s = q3_vec_all(0);
    float rest = 0;
    int64_t c = 0;
    for (; c + Q3_VEC <= n; c += Q3_VEC) {
        q3_vec d = q3_vec_load(x + c) - mean;
        s += d * d;
    }
    for (; c < n; c++)
        rest += (x[c] - mean) * (x[c] - mean);
    return q3_vec_total(s) + rest;
}

static void forward_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_layernorm_args *a = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const float *restrict x = (const float *)a->x + i * a->C, *restrict w = a->w, *restrict b = a->b;
        float *restrict y = (float *)a->y + i * a->C;
        float m = sum_of(x, a->C) / (float)a->C;
        float r = 1 / sqrtf(sum_of_squares(x, m, a->C) / (float)a->C + a->eps);
        if (a->m)
            a->m[i] = m;
        if (a->r)
            a->r[i] = r;
        for (int64_t c = 0; c < a->C; c++)
            y[c] = (x[c] - m) * r * w[c] + b[c];
    }
}

void Q3_SIMD(q3_layernorm_forward)(const q3_layernorm_args *a)
{
    q3_parallel(a->rows, grain(a->C), forward_rows, (void *)(uintptr_t)a);
}

/* Sums of g = dy w and of g (x - m). */
static void gradient_sums(float *g_sum, float *gh_sum, const q3_layernorm_backward_args *a, int64_t i)
{
    const float *x = (const float *)a->x + i * a->C, *dy = (const float *)a->dy + i * a->C;
    q3_vec s = q3_vec_all(0), t = q3_vec_all(0);
    float s_rest = 0, t_rest = 0;
    int64_t c = 0;
    for (; c + Q3_VEC <= a->C; c += Q3_VEC) {
        q3_vec g = q3_vec_load(dy + c) * q3_vec_load(a->w + c);
        s += g;
        t += g * (q3_vec_load(x + c) - a->m[i]);
    }
    for (; c < a->C; c++) {
        s_rest += dy[c] * a->w[c];
        t_rest += dy[c] * a->w[c] * (x[c] - a->m[i]);
    }
    *g_sum = q3_vec_total(s) + s_rest;
    *gh_sum = q3_vec_total(t) + t_rest;
}

static void backward_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_layernorm_backward_args *a = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const float *restrict x = (const float *)a->x + i * a->C, *restrict w = a->w;
        const float *restrict dy = (const float *)a->dy + i * a->C;
        float *restrict dx = (float *)a->dx + i * a->C;
        float r = a->r[i], m = a->m[i], g_mean, k;
        gradient_sums(&g_mean, &k, a, i);
        g_mean /= (float)a->C;
        k *= r * r / (float)a->C;
        if (a->dx_beta == 0)
            for (int64_t c = 0; c < a->C; c++)
                dx[c] = r * (dy[c] * w[c] - g_mean - (x[c] - m) * k);
        else
            for (int64_t c = 0; c < a->C; c++)
                dx[c] += r * (dy[c] * w[c] - g_mean - (x[c] - m) * k);
    }
}

static void partial_runs(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_layernorm_backward_args *a = arg;
    (void)thread;
    for (int64_t n = begin; n < end; n++) {
        float *restrict dw = a->partial + 2 * n * a->C, *restrict db = dw + a->C;
        for (int64_t c = 0; c < a->C; c++)
            dw[c] = db[c] = 0;
        for (int64_t i = n * Q3_LAYERNORM_RUN; i < (n + 1) * Q3_LAYERNORM_RUN && i < a->rows; i++) {
            const float *restrict x = (const float *)a->x + i * a->C;
            const float *restrict dy = (const float *)a->dy + i * a->C;
            for (int64_t c = 0; c < a->C; c++) {
                dw[c] += dy[c] * ((x[c] - a->m[i]) * a->r[i]);
                db[c] += dy[c];
            }
        }
    }
}

static void add_runs(float *d, float beta, const float *partial, int64_t runs, int64_t C)
{
    for (int64_t c = 0; c < C && beta == 0; c++)
        d[c] = 0;
    for (int64_t n = 0; n < runs; n++)
        for (int64_t c = 0; c < C; c++)
            d[c] += partial[2 * n * C + c];
}

void Q3_SIMD(q3_layernorm_backward)(const q3_layernorm_backward_args *a)
{
    int64_t runs = (a->rows + Q3_LAYERNORM_RUN - 1) / Q3_LAYERNORM_RUN;
    if (a->dx)
        q3_parallel(a->rows, grain(a->C), backward_rows, (void *)(uintptr_t)a);
    if (a->dw || a->db)
        q3_parallel(runs, 1, partial_runs, (void *)(uintptr_t)a);
    if (a->dw)
        add_runs(a->dw, a->dw_beta, a->partial, runs, a->C);
    if (a->db)
        add_runs(a->db, a->db_beta, a->partial + a->C, runs, a->C);
}
