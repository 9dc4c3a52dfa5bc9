extern "C" {
#include "kernels/row_store.h"
}
#include "kernels/wide.cuh"

template <class T, int N> static __global__ void store(q3_row_store_args a, int shift)
{
    for (int64_t t = q3_first() >> shift; t < a.T; t += q3_stride() >> shift) {
        const T *x = (const T *)a.x + t * a.C;
        T *slab = (T *)a.slab + a.rows[t] * a.C;
        for (int64_t c = q3_lane(shift) * N; c < a.C; c += N << shift) {
            float v[N];
            q3_load(v, x + c);
            q3_store(slab + c, v);
        }
    }
}

template <class T, int N> static void launch(const q3_row_store_args *a, q3_cuda *cuda)
{
    int shift = q3_row_shift(a->C / N);
    Q3_LAUNCH(cuda, (store<T, N>), q3_blocks(a->T << shift, Q3_THREADS), Q3_THREADS, 0, *a, shift);
}

template <class T> static void launch(const q3_row_store_args *a, q3_cuda *cuda)
{
    if (q3_wide<T>(a->C, a->slab, a->x))
        launch<T, q3_width<T>::elements>(a, cuda);
    else
        launch<T, 1>(a, cuda);
}

void q3_row_store_cuda(const q3_row_store_args *a, q3_cuda *cuda)
{
    if (a->T > 0)
        Q3_BY_TYPE(a->dtype, T, launch<T>(a, cuda));
}
