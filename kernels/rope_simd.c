#include "kernels/rope.h"

static void rotate(float *restrict y, const float *restrict x, const float *restrict cos_sin, int half,
                   float sign, float beta)
{
    const float *c = cos_sin, *s = cos_sin + half;
    if (beta == 0)
        for (int i = 0; i < half; i++) {
            y[i] = x[i] * c[i] - x[i + half] * (sign * s[i]);
            y[i + half] = x[i + half] * c[i] + x[i] * (sign * s[i]);
        }
    else
        for (int i = 0; i < half; i++) {
            y[i] += x[i] * c[i] - x[i + half] * (sign * s[i]);
            y[i + half] += x[i + half] * c[i] + x[i] * (sign * s[i]);
        }
}

static void tokens(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_rope_args *a = arg;
    const float *x = a->x;
    float *y = a->y;
    (void)thread;
    for (int64_t row = begin * a->heads; row < end * a->heads; row++)
        rotate(y + row * a->D, x + row * a->D, a->cos_sin + row / a->heads * a->D, a->D / 2,
               a->inverse ? -1.0f : 1.0f, a->beta);
}

void Q3_SIMD(q3_rope_rotate)(const q3_rope_args *a)
{
    int64_t width = (int64_t)a->heads * a->D;
    q3_parallel(a->T, width < 16384 ? 16384 / width : 1, tokens, (void *)(uintptr_t)a);
}
