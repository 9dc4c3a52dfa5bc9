#include "kernels/gelu.h"
#include "kernels/vexp.h"

enum { GRAIN = 4096 }; // elements a thread takes at least

/* F(x) of the exact form, given exp(-x^2 / 2). */
static inline float normal_cdf(float x, float bell)
{
    float u = __builtin_fabsf(x), t = 1 / (1 + 0.4f * u);
    float p = -3.635849431e-2f;
    p = p * t + 1.851821827e-1f;
    p = p * t - 3.428606689e-1f;
    p = p * t + 2.173212022e-1f;
    p = p * t + 9.433208033e-3f;
    p = p * t + 1.498687863e-1f;
    p = p * t + 1.577499956e-1f;
    p = p * t + 1.596637219e-1f;
    float tail = bell * t * p;
    return x < 0 ? tail : 1 - tail;
}

/* 1 / (1 + exp(-2z)) of the tanh form. */
static inline float gate(float x)
{
    return 1 / (1 + q3_expf(-1.595769122f * (x + 0.044715f * x * x * x)));
}

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_gelu_args *a = arg;
    const float *restrict x = a->x;
    float *restrict y = a->y;
    (void)thread;
    if (a->tanh_form)
        for (int64_t i = begin; i < end; i++)
            y[i] = x[i] * gate(x[i]);
    else
        for (int64_t i = begin; i < end; i++)
            y[i] = x[i] * normal_cdf(x[i], q3_expf(-0.5f * x[i] * x[i]));
}

void Q3_SIMD(q3_gelu_forward)(const q3_gelu_args *a)
{
    q3_parallel(a->n, GRAIN, forward, (void *)(uintptr_t)a);
}

static inline float exact_slope(float x)
{
    float bell = q3_expf(-0.5f * x * x);
    return normal_cdf(x, bell) + x * bell * 0.3989422804f;
}

static inline float tanh_slope(float x)
{
    float S = gate(x);
    return S + x * S * (1 - S) * 1.595769122f * (1 + 0.134145f * x * x);
}

static void backward(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_gelu_args *a = arg;
    const float *restrict x = a->x, *restrict dy = a->dy;
    float *restrict dx = a->y, beta = a->beta;
    (void)thread;
    if (a->tanh_form)
        for (int64_t i = begin; i < end; i++)
            dx[i] = (beta == 0 ? 0 : dx[i]) + dy[i] * tanh_slope(x[i]);
    else
        for (int64_t i = begin; i < end; i++)
            dx[i] = (beta == 0 ? 0 : dx[i]) + dy[i] * exact_slope(x[i]);
}

void Q3_SIMD(q3_gelu_backward)(const q3_gelu_args *a)
{
    q3_parallel(a->n, GRAIN, backward, (void *)(uintptr_t)a);
}
