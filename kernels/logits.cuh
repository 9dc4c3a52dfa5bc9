/* kernels/logits.cuh - what kernels on rows of logits share: walking a row, and log-sum-exp in one pass over it.
 *
 * A row of V elements may begin anywhere (V is odd somewhere): `lead` elements go singly, then vectors of 16 bytes, then
 * the rest singly. The order of a sum depends on V, the block's threads and the row's alignment alone.
 *
 * One pass keeps the largest logit so far and the sum of exponentials below it (Milakov and Gimelshein,
 * arXiv:1805.02867): f32 over 32 vectors, double beyond. A NaN or a logit of plus infinity makes the sum NaN.
 */
#ifndef Q3_KERNELS_LOGITS_CUH
#define Q3_KERNELS_LOGITS_CUH

#include <float.h>

#include "kernels/device.cuh"

enum { Q3_LOGITS_VECTORS = 32 }; /* 256 bf16 or 128 f32 between two sums in double */

/* In double, over a block of THREADS; as q3_block_sum. */
static __device__ __forceinline__ double q3_warp_sum(double x)
{
    for (int step = 16; step; step >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
template <int THREADS> static __device__ __forceinline__ double q3_block_sum(double x, double *shared)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    x = q3_warp_sum(x);
    __syncthreads();
    if (lane == 0)
        shared[warp] = x;
    __syncthreads();
    return q3_warp_sum(lane < THREADS / 32 ? shared[lane] : 0.0);
}

struct q3_cut {
    int64_t lead, vectors, rest; /* rest: index of the first element behind the vectors */
};

template <class T> static __device__ __forceinline__ q3_cut q3_cut_of(const T *row, int64_t V)
{
    const int N = q3_width<T>::elements;
    int64_t lead = (int64_t)((16 - ((uintptr_t)row & 15)) & 15) / (int64_t)sizeof(T);
    q3_cut c;
    c.lead = lead < V ? lead : V;
    c.vectors = (V - c.lead) / N;
    c.rest = c.lead + c.vectors * N;
    return c;
}

/* The elements that go singly are fewer than 16, so a thread has at most one; its index, or -1. */
static __device__ __forceinline__ int64_t q3_single(const q3_cut &c, int64_t V)
{
    const int64_t t = threadIdx.x, i = t < c.lead ? t : c.rest + t - c.lead;
    return i < V ? i : -1;
}

struct q3_running {
    float top;    /* largest logit so far */
    float sum;    /* of exponentials below it, to be added to `total` */
    double total; /* likewise */
    int held;     /* vectors in `sum` */
};

/* The lowest number and not minus infinity: a logit of minus infinity minus that would be NaN. */
static __device__ __forceinline__ q3_running q3_running_start(void)
{
    const q3_running r = { -FLT_MAX, 0, 0, 0 };
    return r;
}

/* fmaxf passes over a NaN, but its exponential does not. */
template <int N> static __device__ __forceinline__ void q3_running_take(q3_running *r, const float (&v)[N])
{
    float top = v[0], sum = 0;
    for (int i = 1; i < N; i++)
        top = fmaxf(top, v[i]);
    if (top > r->top) {
        const float factor = q3_exp(r->top - top);
        r->sum *= factor;
        r->total *= factor;
        r->top = top;
    }
    for (int i = 0; i < N; i++)
        sum += q3_exp(v[i] - r->top);
    r->sum += sum;
    if (++r->held == Q3_LOGITS_VECTORS) {
        r->total += r->sum;
        r->sum = 0;
        r->held = 0;
    }
}

/* Over the block: the row's largest logit and its sum, in every thread. */
template <int THREADS>
static __device__ __forceinline__ void q3_running_finish(float *top, double *sum, const q3_running &r,
                                                         float *tops, double *sums)
{
    *top = q3_block_max<THREADS>(r.top, tops);
    *sum = q3_block_sum<THREADS>((r.total + r.sum) * q3_exp(r.top - *top), sums);
}

#endif
