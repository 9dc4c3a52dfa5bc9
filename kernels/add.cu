extern "C" {
#include "kernels/add.h"
}
#include "kernels/wide.cuh"

template <class T, int N> static __global__ void forward(q3_add_args a)
{
    for (int64_t i = q3_first() * N; i < a.n; i += q3_stride() * N) {
        float x[N], y[N];
        q3_load(x, (const T *)a.a + i);
        q3_load(y, (const T *)a.b + i);
        for (int k = 0; k < N; k++)
            y[k] = x[k] + y[k];
        q3_store((T *)a.y + i, y);
    }
}

template <class T> static void launch(const q3_add_args *a, q3_cuda *cuda)
{
    enum { N = q3_width<T>::elements };
    if (q3_wide<T>(a->n, a->y, a->a, a->b))
        Q3_LAUNCH(cuda, (forward<T, N>), q3_blocks(a->n / N, Q3_THREADS), Q3_THREADS, 0, *a);
    else
        Q3_LAUNCH(cuda, (forward<T, 1>), q3_blocks(a->n, Q3_THREADS), Q3_THREADS, 0, *a);
}

void q3_add_forward_cuda(const q3_add_args *a, q3_cuda *cuda)
{
    if (a->n == 0)
        return;
    if (!a->a && a->y != a->b)
        q3_cuda_copy(cuda, a->y, a->b, q3_dtype_bytes(a->dtype, a->n));
    if (a->a)
        Q3_BY_TYPE(a->dtype, T, launch<T>(a, cuda));
}
