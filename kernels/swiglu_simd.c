#include "kernels/swiglu.h"
#include "kernels/vexp.h"

enum { GRAIN = 4096 }; // elements a thread takes at least

static void forward(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_swiglu_args *args = arg;
    const float *restrict a = args->a, *restrict u = args->u;
    float *restrict y = args->y;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        y[i] = a[i] / (1 + q3_expf(-a[i])) * u[i];
}

void Q3_SIMD(q3_swiglu_forward)(const q3_swiglu_args *a)
{
    q3_parallel(a->n, GRAIN, forward, (void *)(uintptr_t)a);
}

static void backward_a(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_swiglu_backward_args *b = arg;
    const float *restrict a = b->a, *restrict u = b->u, *restrict dy = b->dy;
    float *restrict da = b->da;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        float S = 1 / (1 + q3_expf(-a[i]));
        float d = dy[i] * u[i] * S * (1 + a[i] * (1 - S));
        da[i] = b->da_beta == 0 ? d : da[i] + d;
    }
}

static void backward_u(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_swiglu_backward_args *b = arg;
    const float *restrict a = b->a, *restrict dy = b->dy;
    float *restrict du = b->du;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        float d = dy[i] * (a[i] / (1 + q3_expf(-a[i])));
        du[i] = b->du_beta == 0 ? d : du[i] + d;
    }
}

void Q3_SIMD(q3_swiglu_backward)(const q3_swiglu_backward_args *b)
{
    if (b->da)
        q3_parallel(b->n, GRAIN, backward_a, (void *)(uintptr_t)b);
    if (b->du)
        q3_parallel(b->n, GRAIN, backward_u, (void *)(uintptr_t)b);
}
