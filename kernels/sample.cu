/* kernels/sample.cu - the likeliest token, log-sum-exp and a check for flaws, a block a row. */
#include <math.h>

#include "kernels/logits.cuh"

extern "C" {
#include "kernels/sample.h"
}

namespace
{

enum { THREADS = 512 };

struct best {
    float value;
    int64_t index;
};

__device__ __forceinline__ best better(const best &a, const best &b)
{
    return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

__device__ __forceinline__ best warp_best(best b)
{
    for (int step = 16; step; step >>= 1) {
        const best other = { __shfl_xor_sync(0xffffffffu, b.value, step),
                             __shfl_xor_sync(0xffffffffu, b.index, step) };
        b = better(b, other);
    }
    return b;
}

/* In the first warp. */
__device__ __forceinline__ best block_best(best b, best *shared)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    b = warp_best(b);
    if (lane == 0)
        shared[warp] = b;
    __syncthreads();
    return warp_best(shared[lane < THREADS / 32 ? lane : 0]);
}

/* What a thread has seen of its row. */
struct seen {
    best most;
    bool flawed;
    q3_running sum;
};

template <int N> __device__ __forceinline__ void look(seen *s, const float (&v)[N], int64_t at, bool sum)
{
    for (int i = 0; i < N; i++) {
        const best one = { v[i], at + i };
        s->most = better(s->most, one);
        s->flawed |= !(fabsf(v[i]) <= FLT_MAX);
    }
    if (sum)
        q3_running_take(&s->sum, v);
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    row_per_block(int32_t *token, double *lse, int32_t *flawed, const T *__restrict__ logits, int64_t V)
{
    Q3_SHARED(float, tops, 32);
    Q3_SHARED(double, sums, 32);
    Q3_SHARED(best, bests, 32);
    const int N = q3_width<T>::elements;
    const T *row = logits + (int64_t)blockIdx.x * V;
    const q3_cut c = q3_cut_of(row, V);
    seen s = { { -INFINITY, V }, false, q3_running_start() };
    for (int64_t i = threadIdx.x; i < c.vectors; i += THREADS) {
        float v[N];
        q3_load(v, row + c.lead + i * N);
        look(&s, v, c.lead + i * N, lse != NULL);
    }
    const int64_t one = q3_single(c, V);
    if (one >= 0) {
        const float v[1] = { q3_value(row[one]) };
        look(&s, v, one, lse != NULL);
    }
    if (flawed && s.flawed)
        *flawed = 1; // by whoever comes: it is the same value
    const best most = block_best(s.most, bests);
    const float first = q3_value(row[0]);
    if (token && threadIdx.x == 0)
        token[blockIdx.x] = first != first ? 0 : (int32_t)most.index;
    if (!lse)
        return;
    float top;
    double sum;
    q3_running_finish<THREADS>(&top, &sum, s.sum, tops, sums);
    if (threadIdx.x == 0)
        lse[blockIdx.x] = log(sum) + top;
}

template <class T> void launch(const q3_greedy_args *a, q3_cuda *cuda)
{
    Q3_LAUNCH(cuda, row_per_block<T>, (unsigned)a->R, THREADS, 0, a->token, a->lse, a->flawed,
              (const T *)a->logits, a->V);
}

} // namespace

void q3_greedy_cuda(const q3_greedy_args *a, q3_cuda *cuda)
{
    if (a->R && a->V)
        Q3_BY_TYPE(a->dtype, T, launch<T>(a, cuda));
}
