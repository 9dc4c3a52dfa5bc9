/* kernels/cross_entropy.cu - the loss of rows of logits on the device, a block a row.
 *
 *   row_per_block    the first pass over a row gives its log-sum-exp (kernels/logits.cuh), the second the gradient
 *
 * Cost: logits read once for the loss, twice and written once with the gradient. Bandwidth-bound.
 */
#include "kernels/logits.cuh"

extern "C" {
#include "kernels/cross_entropy.h"
}

namespace
{

enum { THREADS = 512, ELEMENTWISE = 256 };

template <class T> __device__ __forceinline__ q3_running read_row(const T *row, int64_t V)
{
    const int N = q3_width<T>::elements;
    const q3_cut c = q3_cut_of(row, V);
    q3_running r = q3_running_start();
    for (int64_t i = threadIdx.x; i < c.vectors; i += THREADS) {
        float v[N];
        q3_load(v, row + c.lead + i * N);
        q3_running_take(&r, v);
    }
    const int64_t one = q3_single(c, V);
    if (one >= 0) {
        const float v[1] = { q3_value(row[one]) };
        q3_running_take(&r, v);
    }
    return r;
}

template <class T> __device__ __forceinline__ void write_row(T *row, int64_t V, float top, float factor)
{
    const int N = q3_width<T>::elements;
    const q3_cut c = q3_cut_of(row, V);
    for (int64_t i = threadIdx.x; i < c.vectors; i += THREADS) {
        float v[N];
        q3_load(v, row + c.lead + i * N);
        for (int k = 0; k < N; k++)
            v[k] = q3_exp(v[k] - top) * factor;
        q3_store(row + c.lead + i * N, v);
    }
    const int64_t one = q3_single(c, V);
    if (one >= 0)
        q3_set(row + one, q3_exp(q3_value(row[one]) - top) * factor);
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    row_per_block(double *loss, T *logits, const int32_t *targets, int64_t V, bool gradient, float scale,
                  const float *seed)
{
    Q3_SHARED(float, tops, 32);
    Q3_SHARED(double, sums, 32);
    T *row = logits + (int64_t)blockIdx.x * V;
    const int32_t target = targets[blockIdx.x];
    const float at_target = q3_value(row[target]); // the barriers below keep it ahead of the writes
    float top;
    double sum;
    q3_running_finish<THREADS>(&top, &sum, read_row(row, V), tops, sums);
    const double at_row = log(sum) + ((double)top - at_target),
                 factor = (double)scale * (seed ? *seed : 1.0f);
    if (loss && threadIdx.x == 0)
        loss[blockIdx.x] = at_row;
    if (!gradient)
        return;
    write_row(row, V, top, (float)(factor / sum));
    __syncthreads();
    if (threadIdx.x == 0) // exp(-loss) - 1 without the difference of nearly equal numbers
        q3_set(row + target, (float)(expm1(-at_row) * factor));
}

__global__ void __launch_bounds__(THREADS)
    total_by_one_block(float *total, const double *loss, int64_t R, float scale)
{
    Q3_SHARED(double, sums, 32);
    double sum = 0;
    for (int64_t r = threadIdx.x; r < R; r += THREADS)
        sum += loss[r];
    sum = q3_block_sum<THREADS>(sum, sums);
    if (threadIdx.x == 0)
        *total = (float)(scale * sum);
}

template <class T>
__global__ void __launch_bounds__(ELEMENTWISE)
    spread_v16(T *dx, const T *saved, const float *seed, int64_t vectors, int64_t n, float beta)
{
    const int N = q3_width<T>::elements;
    const float s = *seed;
    for (int64_t i = q3_first(); i < vectors; i += q3_stride()) {
        float v[N], old[N];
        q3_load(v, saved + i * N);
        if (beta != 0)
            q3_load(old, dx + i * N);
        for (int k = 0; k < N; k++)
            v[k] = beta != 0 ? beta * old[k] + s * v[k] : s * v[k];
        q3_store(dx + i * N, v);
    }
    for (int64_t i = vectors * N + q3_first(); i < n; i += q3_stride())
        q3_set(dx + i, beta != 0 ? beta * q3_value(dx[i]) + s * q3_value(saved[i]) : s * q3_value(saved[i]));
}

template <class T> void rows(const q3_cross_entropy_args *a, q3_cuda *cuda)
{
    Q3_LAUNCH(cuda, row_per_block<T>, (unsigned)a->R, THREADS, 0, a->loss, (T *)a->logits, a->targets, a->V,
              a->gradient, a->scale, a->seed);
}

template <class T> void spread(const q3_cross_entropy_spread_args *a, q3_cuda *cuda)
{
    bool aligned = ((uintptr_t)a->dx | (uintptr_t)a->saved) % 16 == 0;
    int64_t vectors = aligned ? a->n / q3_width<T>::elements : 0;
    Q3_LAUNCH(cuda, spread_v16<T>, q3_blocks(aligned ? vectors : a->n, ELEMENTWISE), ELEMENTWISE, 0,
              (T *)a->dx, (const T *)a->saved, a->seed, vectors, a->n, a->beta);
}

} // namespace

void q3_cross_entropy_rows_cuda(const q3_cross_entropy_args *a, q3_cuda *cuda)
{
    if (a->R)
        Q3_BY_TYPE(a->dtype, T, rows<T>(a, cuda));
}

void q3_cross_entropy_total_cuda(const q3_cross_entropy_total_args *a, q3_cuda *cuda)
{
    Q3_LAUNCH(cuda, total_by_one_block, 1, THREADS, 0, a->total, a->loss, a->R, a->scale);
}

void q3_cross_entropy_spread_cuda(const q3_cross_entropy_spread_args *a, q3_cuda *cuda)
{
    if (a->n)
        Q3_BY_TYPE(a->dtype, T, spread<T>(a, cuda));
}
