extern "C" {
#include "kernels/gelu.h"
}
#include <math.h>

#include "kernels/wide.cuh"

/* sqrt(2 / pi), sqrt(1 / 2), and the cubic term of the tanh form. */
#define ROOT_2_OVER_PI 0.797884560802865f
#define ROOT_HALF 0.707106781186548f
#define CUBIC 0.044715f

/* (1 + tanh z) / 2, z = sqrt(2 / pi) (x + 0.044715 x^3). */
static __device__ __forceinline__ float share(float x)
{
    return 1 / (1 + q3_exp(-2 * ROOT_2_OVER_PI * (x + CUBIC * x * x * x)));
}

template <bool TANH> static __device__ __forceinline__ float value(float x)
{
    return x * (TANH ? share(x) : 0.5f * (1 + erff(x * ROOT_HALF)));
}

template <bool TANH> static __device__ __forceinline__ float slope(float x)
{
    if (!TANH)
        return 0.5f * (1 + erff(x * ROOT_HALF) + x * q3_exp(-0.5f * x * x) * ROOT_2_OVER_PI);
    float S = share(x);
    return S + 2 * x * S * (1 - S) * ROOT_2_OVER_PI * (1 + 3 * CUBIC * x * x);
}

template <class T, int N, bool TANH> static __global__ void forward(q3_gelu_args a)
{
    for (int64_t i = q3_first() * N; i < a.n; i += q3_stride() * N) {
        float x[N];
        q3_load(x, (const T *)a.x + i);
        for (int k = 0; k < N; k++)
            x[k] = value<TANH>(x[k]);
        q3_store((T *)a.y + i, x);
    }
}

template <class T, int N, bool TANH> static __global__ void backward(q3_gelu_args a)
{
    for (int64_t i = q3_first() * N; i < a.n; i += q3_stride() * N) {
        float x[N], dy[N];
        q3_load(x, (const T *)a.x + i);
        q3_load(dy, (const T *)a.dy + i);
        for (int k = 0; k < N; k++)
            x[k] = dy[k] * slope<TANH>(x[k]);
        q3_store_to((T *)a.y + i, a.beta, x);
    }
}

template <class T, int N> static void launch_forward(const q3_gelu_args *a, q3_cuda *cuda)
{
    unsigned blocks = q3_blocks(a->n / N, Q3_THREADS);
    if (a->tanh_form)
        Q3_LAUNCH(cuda, (forward<T, N, true>), blocks, Q3_THREADS, 0, *a);
    else
        Q3_LAUNCH(cuda, (forward<T, N, false>), blocks, Q3_THREADS, 0, *a);
}

template <class T, int N> static void launch_backward(const q3_gelu_args *a, q3_cuda *cuda)
{
    unsigned blocks = q3_blocks(a->n / N, Q3_THREADS);
    if (a->tanh_form)
        Q3_LAUNCH(cuda, (backward<T, N, true>), blocks, Q3_THREADS, 0, *a);
    else
        Q3_LAUNCH(cuda, (backward<T, N, false>), blocks, Q3_THREADS, 0, *a);
}

template <class T> static void launch(const q3_gelu_args *a, q3_cuda *cuda, bool back)
{
    enum { N = q3_width<T>::elements };
    bool wide = q3_wide<T>(a->n, a->y, a->x, a->dy);
    if (back)
        wide ? launch_backward<T, N>(a, cuda) : launch_backward<T, 1>(a, cuda);
    else
        wide ? launch_forward<T, N>(a, cuda) : launch_forward<T, 1>(a, cuda);
}

void q3_gelu_forward_cuda(const q3_gelu_args *a, q3_cuda *cuda)
{
    if (a->n > 0)
        Q3_BY_TYPE(a->dtype, T, launch<T>(a, cuda, false));
}

void q3_gelu_backward_cuda(const q3_gelu_args *a, q3_cuda *cuda)
{
    if (a->n > 0)
        Q3_BY_TYPE(a->dtype, T, launch<T>(a, cuda, true));
}
