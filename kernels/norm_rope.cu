/* kernels/norm_rope.cu - norm and rotation of heads on the device.
 *
 * A head belongs to LANES threads of a warp: 8 for 128 elements of bf16. A thread has pieces of N pairs (i, i + D/2), so
 * that it turns what it has normed. What the second pass reads again is 256 bytes a head, then in the L1 cache.
 */
extern "C" {
#include "kernels/norm_rope.h"
#include "kernels/rmsnorm.h"
}
#include "kernels/runs.cuh"

/* N pairs of a head: elements i and i + D/2. */
template <int N> struct pairs {
    float low[N], high[N];
};

template <class T, int N> static __device__ __forceinline__ void load(pairs<N> *to, const T *head, int i, int half)
{
    q3_load(to->low, head + i);
    q3_load(to->high, head + half + i);
}

/* x turned by its angles, or back. */
template <int N> static __device__ __forceinline__ void turn(pairs<N> *x, const pairs<N> &angle, float sign)
{
    for (int k = 0; k < N; k++) {
        const float low = x->low[k], high = x->high[k];
        x->low[k] = low * angle.low[k] - sign * high * angle.high[k];
        x->high[k] = high * angle.low[k] + sign * low * angle.high[k];
    }
}

/* Sum over the LANES threads of a head, in each of them. All of a warp must come here. */
template <int LANES> static __device__ __forceinline__ float head_sum(float x)
{
    for (int step = LANES / 2; step; step >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/* Heads as they are dealt to whole warps: those past the last one have no elements. */
template <int LANES> static __device__ __forceinline__ int64_t whole_warps(int64_t heads)
{
    return (heads + 32 / LANES - 1) / (32 / LANES) * (32 / LANES);
}

template <class T, int N, int LANES> static __global__ void forward(q3_norm_rope_args a)
{
    const int half = a.D / 2, lane = threadIdx.x % LANES * N;
    const int64_t heads = a.T * a.heads;
    for (int64_t head = q3_first() / LANES; head < whole_warps<LANES>(heads); head += q3_stride() / LANES) {
        const int end = head < heads ? half : 0;
        const T *from = (const T *)a.x + head * a.D;
        T *to = (T *)a.y + head * a.D;
        const float *table = a.cos_sin + head / a.heads * a.D;
        pairs<N> x, w, angle;
        float sum = 0;
        for (int i = lane; i < end; i += LANES * N) {
            load(&x, from, i, half);
            for (int k = 0; k < N; k++)
                sum += x.low[k] * x.low[k] + x.high[k] * x.high[k];
        }
        const float r = 1 / sqrtf(head_sum<LANES>(sum) / (float)a.D + a.eps);
        if (a.r && end && lane == 0)
            a.r[head] = r;
        for (int i = lane; i < end; i += LANES * N) {
            load(&x, from, i, half);
            load(&w, a.w, i, half);
            load(&angle, table, i, half);
            for (int k = 0; k < N; k++) {
                x.low[k] = q3_rounded<T>(w.low[k] * q3_rounded<T>(x.low[k] * r));
                x.high[k] = q3_rounded<T>(w.high[k] * q3_rounded<T>(x.high[k] * r));
            }
            turn(&x, angle, 1);
            q3_store(to + i, x.low);
            q3_store(to + half + i, x.high);
        }
    }
}

/* g = dn, which is dy turned back and rounded to T. */
template <class T, int N>
static __device__ __forceinline__ void load_turned_back(pairs<N> *g, const T *dy, const float *table, int i, int half)
{
    pairs<N> angle;
    load(g, dy, i, half);
    load(&angle, table, i, half);
    turn(g, angle, -1);
    for (int k = 0; k < N; k++) {
        g->low[k] = q3_rounded<T>(g->low[k]);
        g->high[k] = q3_rounded<T>(g->high[k]);
    }
}

template <class T, int N, int LANES> static __global__ void backward(q3_norm_rope_backward_args a)
{
    const int half = a.D / 2, lane = threadIdx.x % LANES * N;
    const int64_t heads = a.T * a.heads;
    for (int64_t head = q3_first() / LANES; head < whole_warps<LANES>(heads); head += q3_stride() / LANES) {
        const int end = head < heads ? half : 0;
        const T *from = (const T *)a.x + head * a.D, *dy = (const T *)a.dy + head * a.D;
        T *to = (T *)a.dx + head * a.D;
        const float *table = a.cos_sin + head / a.heads * a.D;
        pairs<N> x, w, g;
        float sum = 0;
        for (int i = lane; i < end; i += LANES * N) {
            load(&x, from, i, half);
            load(&w, a.w, i, half);
            load_turned_back(&g, dy, table, i, half);
            for (int k = 0; k < N; k++)
                sum += g.low[k] * w.low[k] * x.low[k] + g.high[k] * w.high[k] * x.high[k];
        }
        sum = head_sum<LANES>(sum);
        const float r = end ? a.r[head] : 0, pull = r * r / (float)a.D * sum;
        for (int i = lane; i < end; i += LANES * N) {
            load(&x, from, i, half);
            load(&w, a.w, i, half);
            load_turned_back(&g, dy, table, i, half);
            for (int k = 0; k < N; k++) {
                x.low[k] = r * (g.low[k] * w.low[k] - x.low[k] * pull);
                x.high[k] = r * (g.high[k] * w.high[k] - x.high[k] * pull);
            }
            q3_store_to(to + i, a.dx_beta, x.low);
            q3_store_to(to + half + i, a.dx_beta, x.high);
        }
    }
}

/* partial [runs, D] = sum over a run's heads of dn x r; a run is dealt to 1 << shift threads. */
template <class T, int N> static __global__ void sum_runs(q3_norm_rope_backward_args a, int shift)
{
    const int half = a.D / 2;
    const int64_t heads = a.T * a.heads;
    for (int64_t run = q3_first() >> shift; run * Q3_RMSNORM_RUN < heads; run += q3_stride() >> shift) {
        const int64_t begin = run * Q3_RMSNORM_RUN;
        const int64_t end = begin + Q3_RMSNORM_RUN < heads ? begin + Q3_RMSNORM_RUN : heads;
        for (int i = q3_lane(shift) * N; i < half; i += N << shift) {
            pairs<N> sum = {};
            for (int64_t head = begin; head < end; head++) {
                pairs<N> x, g;
                load(&x, (const T *)a.x + head * a.D, i, half);
                load_turned_back(&g, (const T *)a.dy + head * a.D, a.cos_sin + head / a.heads * a.D, i, half);
                for (int k = 0; k < N; k++) {
                    sum.low[k] += g.low[k] * x.low[k] * a.r[head];
                    sum.high[k] += g.high[k] * x.high[k] * a.r[head];
                }
            }
            q3_store(a.partial + run * a.D + i, sum.low);
            q3_store(a.partial + run * a.D + half + i, sum.high);
        }
    }
}

template <class T, int N> static void launch_sums(const q3_norm_rope_backward_args *a, q3_cuda *cuda)
{
    const int64_t runs = (a->T * a->heads + Q3_RMSNORM_RUN - 1) / Q3_RMSNORM_RUN;
    const int shift = q3_row_shift(a->D / 2 / N);
    if (runs > 0)
        Q3_LAUNCH(cuda, (sum_runs<T, N>), q3_blocks(runs << shift, Q3_THREADS), Q3_THREADS, 0, *a, shift);
    q3_add_runs(cuda, a->dw, a->dw_beta, a->partial, runs, a->D, a->D);
}

/* Launches kernel<T, N, LANES>: one piece a thread for heads of up to 256 elements where `wide`. */
#define LAUNCH(kernel, T, N, LANES)                                                                          \
    Q3_LAUNCH(cuda, (kernel<T, N, LANES>), q3_blocks(a->T *a->heads *LANES, Q3_THREADS), Q3_THREADS, 0, *a)
#define LAUNCH_HEADS(kernel, T, wide)                                                                        \
    do {                                                                                                     \
        enum { N = q3_width<T>::elements };                                                                  \
        if (!(wide))                                                                                         \
            LAUNCH(kernel, T, 1, 32);                                                                        \
        else if (a->D <= 128)                                                                                \
            LAUNCH(kernel, T, N, 64 / N);                                                                    \
        else                                                                                                 \
            LAUNCH(kernel, T, N, 128 / N);                                                                   \
    } while (0)

template <class T> static void launch_forward(const q3_norm_rope_args *a, q3_cuda *cuda)
{
    LAUNCH_HEADS(forward, T, q3_wide<T>(a->D / 2, a->y, a->x, a->w, a->cos_sin));
}

template <class T> static void launch_backward(const q3_norm_rope_backward_args *a, q3_cuda *cuda)
{
    if (a->dx && a->T > 0)
        LAUNCH_HEADS(backward, T, q3_wide<T>(a->D / 2, a->dx, a->dy, a->x, a->w, a->cos_sin));
    if (!a->dw)
        return;
    if (q3_wide<T>(a->D / 2, a->dy, a->x, a->partial, a->cos_sin))
        launch_sums<T, q3_width<T>::elements>(a, cuda);
    else
        launch_sums<T, 1>(a, cuda);
}

void q3_norm_rope_forward_cuda(const q3_norm_rope_args *a, q3_cuda *cuda)
{
    if (a->T > 0)
        Q3_BY_TYPE(a->dtype, T, launch_forward<T>(a, cuda));
}

void q3_norm_rope_backward_cuda(const q3_norm_rope_backward_args *a, q3_cuda *cuda)
{
    Q3_BY_TYPE(a->dtype, T, launch_backward<T>(a, cuda));
}
