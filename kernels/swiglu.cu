extern "C" {
#include "kernels/swiglu.h"
}
#include "kernels/wide.cuh"

/* Where exp overflows, 1 / inf is the right 0. */
static __device__ __forceinline__ float sigmoid(float x)
{
    return 1 / (1 + q3_exp(-x));
}

template <class T, int N> static __global__ void forward(q3_swiglu_args s)
{
    for (int64_t i = q3_first() * N; i < s.n; i += q3_stride() * N) {
        float a[N], u[N], y[N];
        q3_load(a, (const T *)s.a + i);
        q3_load(u, (const T *)s.u + i);
        for (int k = 0; k < N; k++)
            y[k] = a[k] * sigmoid(a[k]) * u[k];
        q3_store((T *)s.y + i, y);
    }
}

template <class T, int N> static __global__ void backward(q3_swiglu_backward_args s)
{
    for (int64_t i = q3_first() * N; i < s.n; i += q3_stride() * N) {
        float dy[N], a[N], u[N], da[N], du[N];
        q3_load(dy, (const T *)s.dy + i);
        q3_load(a, (const T *)s.a + i);
        q3_load(u, (const T *)s.u + i);
        for (int k = 0; k < N; k++) {
            float S = sigmoid(a[k]);
            da[k] = dy[k] * u[k] * S * (1 + a[k] * (1 - S));
            du[k] = dy[k] * a[k] * S;
        }
        if (s.da)
            q3_store_to((T *)s.da + i, s.da_beta, da);
        if (s.du)
            q3_store_to((T *)s.du + i, s.du_beta, du);
    }
}

template <class T> static void launch_forward(const q3_swiglu_args *a, q3_cuda *cuda)
{
    enum { N = q3_width<T>::elements };
    if (q3_wide<T>(a->n, a->y, a->a, a->u))
        Q3_LAUNCH(cuda, (forward<T, N>), q3_blocks(a->n / N, Q3_THREADS), Q3_THREADS, 0, *a);
    else
        Q3_LAUNCH(cuda, (forward<T, 1>), q3_blocks(a->n, Q3_THREADS), Q3_THREADS, 0, *a);
}

template <class T> static void launch_backward(const q3_swiglu_backward_args *a, q3_cuda *cuda)
{
    enum { N = q3_width<T>::elements };
    if (q3_wide<T>(a->n, a->da, a->du, a->dy, a->a, a->u))
        Q3_LAUNCH(cuda, (backward<T, N>), q3_blocks(a->n / N, Q3_THREADS), Q3_THREADS, 0, *a);
    else
        Q3_LAUNCH(cuda, (backward<T, 1>), q3_blocks(a->n, Q3_THREADS), Q3_THREADS, 0, *a);
}

void q3_swiglu_forward_cuda(const q3_swiglu_args *a, q3_cuda *cuda)
{
    if (a->n > 0)
        Q3_BY_TYPE(a->dtype, T, launch_forward<T>(a, cuda));
}

void q3_swiglu_backward_cuda(const q3_swiglu_backward_args *a, q3_cuda *cuda)
{
    if (a->n > 0 && (a->da || a->du))
        Q3_BY_TYPE(a->dtype, T, launch_backward<T>(a, cuda));
}
