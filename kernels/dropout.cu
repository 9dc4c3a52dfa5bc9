extern "C" {
#include "kernels/dropout.h"
}
#include "kernels/philox.h"
#include "kernels/wide.cuh"

enum { DRAWS = 4 }; /* elements of one Philox block */

/* A thread takes the elements of whole Philox blocks: of one, or as many as 16 bytes hold. */
template <class T, int N> static __global__ void forward(q3_dropout_args a)
{
    const float scale = 1 / (1 - a.p);
    for (int64_t i = q3_first() * N; i < a.n; i += q3_stride() * N) {
        float x[N];
        q3_load(x, (const T *)a.x + i);
        for (int k = 0; k < N; k += DRAWS) {
            uint32_t out[DRAWS];
            q3_philox_block(out, a.key, a.counter, (uint64_t)(i + k) / DRAWS);
            for (int d = 0; d < DRAWS; d++)
                x[k + d] = q3_philox_uniform(out[d]) < a.p ? 0 : x[k + d] * scale;
        }
        q3_store_to((T *)a.y + i, a.beta, x);
    }
}

/* The same one element at a time, of one Philox block a thread. */
template <class T> static __global__ void forward_any(q3_dropout_args a)
{
    const float scale = 1 / (1 - a.p);
    for (int64_t block = q3_first(); block * DRAWS < a.n; block += q3_stride()) {
        uint32_t out[DRAWS];
        q3_philox_block(out, a.key, a.counter, (uint64_t)block);
        for (int d = 0; d < DRAWS; d++) {
            int64_t i = block * DRAWS + d;
            if (i < a.n)
                q3_add_to((T *)a.y + i, a.beta,
                          q3_philox_uniform(out[d]) < a.p ? 0 : q3_value(((const T *)a.x)[i]) * scale);
        }
    }
}

template <class T> static void launch(const q3_dropout_args *a, q3_cuda *cuda)
{
    enum { N = q3_width<T>::elements };
    if (q3_wide<T>(a->n, a->y, a->x))
        Q3_LAUNCH(cuda, (forward<T, N>), q3_blocks(a->n / N, Q3_THREADS), Q3_THREADS, 0, *a);
    else
        Q3_LAUNCH(cuda, (forward_any<T>), q3_blocks((a->n + DRAWS - 1) / DRAWS, Q3_THREADS), Q3_THREADS, 0,
                  *a);
}

void q3_dropout_forward_cuda(const q3_dropout_args *a, q3_cuda *cuda)
{
    if (a->n > 0)
        Q3_BY_TYPE(a->dtype, T, launch<T>(a, cuda));
}
