#include "kernels/cross_entropy.h"

#include <math.h>

#include "kernels/pool.h"
#include "kernels/vec.h"
#include "kernels/vexp.h"

enum { CHUNK = 256, LANES = 32, GRAIN = 16384 };

static float largest(const float *l, int64_t n)
{
    float top[LANES], best = -INFINITY;
    for (int i = 0; i < LANES; i++)
        top[i] = -INFINITY;
    int64_t v = 0;
    for (; v + LANES <= n; v += LANES)
        for (int i = 0; i < LANES; i++)
            top[i] = l[v + i] > top[i] ? l[v + i] : top[i];
    for (; v < n; v++)
        best = l[v] > best ? l[v] : best;
    for (int i = 0; i < LANES; i++)
        best = top[i] > best ? top[i] : best;
    return best;
}

/* Up to CHUNK exponentials and their sum; `out` may be `l`. */
static double exponentials(float *out, const float *l, float top, int n)
{
    q3_vec partial = q3_vec_all(0);
    float rest = 0;
    int v = 0;
    for (int i = 0; i < n; i++)
        out[i] = q3_expf(l[i] - top);
    for (; v + Q3_VEC <= n; v += Q3_VEC)
        partial += q3_vec_load(out + v);
    for (; v < n; v++)
        rest += out[v];
    return (double)(q3_vec_total(partial) + rest);
}

static void one_row(const q3_cross_entropy_args *a, int64_t r)
{
    float *l = (float *)a->logits + r * a->V, top = largest(l, a->V), at_target = l[a->targets[r]];
    double sum = 0;
    for (int64_t v = 0; v < a->V; v += CHUNK)
        sum += exponentials(l + v, l + v, top, a->V - v < CHUNK ? (int)(a->V - v) : CHUNK);
    if (a->loss)
        a->loss[r] = log(sum) + ((double)top - at_target);
    if (!a->gradient)
        return;
    double scale = (double)a->scale * (a->seed ? *a->seed : 1);
    float factor = (float)(scale / sum);
    for (int64_t v = 0; v < a->V; v++)
        l[v] *= factor;
    l[a->targets[r]] = (float)(expm1(at_target - (top + log(sum))) * scale);
}

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    for (int64_t r = begin; r < end; r++)
        one_row(arg, r);
}

void Q3_SIMD(q3_cross_entropy_rows)(const q3_cross_entropy_args *a)
{
    q3_parallel(a->R, 1 + GRAIN / (a->V + 1), run, (void *)(uintptr_t)a);
}

static void spread(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_cross_entropy_spread_args *a = arg;
    const float *saved = a->saved;
    float *dx = a->dx, seed = *a->seed;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        dx[i] = a->beta != 0 ? a->beta * dx[i] + seed * saved[i] : seed * saved[i];
}

void Q3_SIMD(q3_cross_entropy_spread)(const q3_cross_entropy_spread_args *a)
{
    q3_parallel(a->n, GRAIN, spread, (void *)(uintptr_t)a);
}
