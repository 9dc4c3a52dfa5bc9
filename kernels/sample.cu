/* kernels/sample.cu - rows of logits on their way to tokens, a block a row.
 *
 *   row_per_block         the likeliest token, log-sum-exp and a check for flaws, in one pass
 *   candidates_of_a_row   k of 1024 threads have seen a logit of at least the k-th largest of their maxima: that is a
 *                         bound from below for the k-th largest of all, and little passes it. What passes is counted
 *                         and then written, each warp a stretch of the row
 */
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

/* ---- candidates ---- */

enum { WIDE = Q3_CANDIDATES_TOP_K, WIDE_WARPS = WIDE / 32 };

/* Numbers in their order as unsigned integers. */
__device__ __forceinline__ uint32_t key_of(float x)
{
    const uint32_t bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* Threads of the block that say so; in every thread. */
__device__ __forceinline__ int block_count(bool yes, int *shared)
{
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int votes = __popc(__ballot_sync(0xffffffffu, yes));
    __syncthreads();
    if (lane == 0)
        shared[warp] = votes;
    __syncthreads();
    int all = shared[lane]; // as many warps as lanes
    for (int step = 16; step; step >>= 1)
        all += __shfl_xor_sync(0xffffffffu, all, step);
    return all;
}

/* The k-th largest of the block's keys, bit by bit from the highest. */
__device__ __forceinline__ uint32_t kth_largest(uint32_t key, int k, int *shared)
{
    uint32_t found = 0;
    for (uint32_t bit = 0x80000000u; bit; bit >>= 1)
        if (block_count(key >= (found | bit), shared) >= k)
            found |= bit;
    return found;
}

/* Walks elements begin .. end - 1 by one warp: counts what passes, and writes it from place `at` on, if `out` says so.
 * Neither a NaN nor minus infinity passes. */
template <class T>
__device__ __forceinline__ int pass(const q3_candidates_args &out, const T *row, float temperature,
                                    int64_t begin, int64_t end, uint32_t bound, int at)
{
    const int lane = threadIdx.x & 31;
    for (int64_t i = begin; i < end; i += 32) {
        const float v = i + lane < end ? q3_value(row[i + lane]) / temperature : -INFINITY;
        const bool passes = v > -INFINITY && key_of(v) >= bound;
        const uint32_t votes = __ballot_sync(0xffffffffu, passes);
        const int to = at + __popc(votes & ((1u << lane) - 1));
        if (out.value && passes && to < out.most) {
            out.value[to] = v;
            out.id[to] = (int32_t)(i + lane);
        }
        at += __popc(votes);
    }
    return at;
}

template <class T> __global__ void __launch_bounds__(WIDE, 1) candidates_of_a_row(q3_candidates_args a)
{
    Q3_SHARED(int, counts, WIDE_WARPS);
    const int warp = threadIdx.x >> 5;
    const T *row = (const T *)a.logits + (int64_t)blockIdx.x * a.V;
    const float temperature = a.temperature[blockIdx.x];
    float most = -INFINITY;
    bool flawed = false;
    for (int64_t i = threadIdx.x; i < a.V; i += WIDE) {
        const float v = q3_value(row[i]);
        most = fmaxf(most, v / temperature);
        flawed |= !(fabsf(v) <= FLT_MAX);
    }
    if (a.flawed && flawed)
        *a.flawed = 1;
    const uint32_t bound = kth_largest(key_of(most), a.top_k[blockIdx.x], counts);
    const int64_t stretch = (a.V + WIDE_WARPS - 1) / WIDE_WARPS, begin = warp * stretch,
                  end = begin + stretch < a.V ? begin + stretch : a.V;
    q3_candidates_args out = a;
    out.value = NULL;
    const int own = pass(out, row, temperature, begin, end, bound, 0);
    __syncthreads();
    if ((threadIdx.x & 31) == 0)
        counts[warp] = own;
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < WIDE_WARPS; w++) {
        before += w < warp ? counts[w] : 0;
        all += counts[w];
    }
    out.value = a.value + (int64_t)blockIdx.x * a.most;
    out.id = a.id + (int64_t)blockIdx.x * a.most;
    pass(out, row, temperature, begin, end, bound, before);
    if (threadIdx.x == 0)
        a.count[blockIdx.x] = all;
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

void q3_candidates_cuda(const q3_candidates_args *a, q3_cuda *cuda)
{
    if (a->R)
        Q3_BY_TYPE(a->dtype, T, Q3_LAUNCH(cuda, candidates_of_a_row<T>, (unsigned)a->R, WIDE, 0, *a));
}
