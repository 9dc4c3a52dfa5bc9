extern "C" {
#include "kernels/rope.h"
}
#include "kernels/wide.cuh"

/* Rows are tokens, pieces are N pairs of one head. */
template <class T, int N> static __global__ void rotate(q3_rope_args a, int shift)
{
    const int half = a.D / 2, pieces = a.heads * (half / N);
    const float sign = a.inverse ? -1 : 1;
    for (int64_t t = q3_first() >> shift; t < a.T; t += q3_stride() >> shift) {
        const float *table = a.cos_sin + t * a.D;
        for (int piece = q3_lane(shift); piece < pieces; piece += 1 << shift) {
            int head = piece / (half / N), i = piece % (half / N) * N;
            int64_t at = (t * a.heads + head) * a.D + i;
            float cosine[N], sine[N], x0[N], x1[N], y0[N], y1[N];
            q3_load(cosine, table + i);
            q3_load(sine, table + half + i);
            q3_load(x0, (const T *)a.x + at);
            q3_load(x1, (const T *)a.x + at + half);
            for (int k = 0; k < N; k++) {
                y0[k] = x0[k] * cosine[k] - sign * x1[k] * sine[k];
                y1[k] = x1[k] * cosine[k] + sign * x0[k] * sine[k];
            }
            q3_store_to((T *)a.y + at, a.beta, y0);
            q3_store_to((T *)a.y + at + half, a.beta, y1);
        }
    }
}

template <class T, int N> static void launch(const q3_rope_args *a, q3_cuda *cuda)
{
    int shift = q3_row_shift((int64_t)a->heads * (a->D / 2 / N));
    Q3_LAUNCH(cuda, (rotate<T, N>), q3_blocks(a->T << shift, Q3_THREADS), Q3_THREADS, 0, *a, shift);
}

/* Four pairs at a time for heads of 72, those of the vision tower. */
template <class T> static void launch(const q3_rope_args *a, q3_cuda *cuda)
{
    enum { N = q3_width<T>::elements };
    if (q3_wide<T>(a->D / 2, a->y, a->x, a->cos_sin) && a->D % 2 == 0)
        launch<T, N>(a, cuda);
    else if (q3_wide<float>(a->D / 2, a->y, a->x, a->cos_sin) && a->D % 2 == 0)
        launch<T, 4>(a, cuda);
    else
        launch<T, 1>(a, cuda);
}

void q3_rope_rotate_cuda(const q3_rope_args *a, q3_cuda *cuda)
{
    if (a->T > 0)
        Q3_BY_TYPE(a->dtype, T, launch<T>(a, cuda));
}
