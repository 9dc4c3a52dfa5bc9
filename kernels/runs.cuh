/* kernels/runs.cuh - sums over the rows of a matrix, for gradients of weights that all rows share.
 *
 * In two stages: a kernel of the caller sums runs of rows into partial [runs, C]; q3_add_runs adds the runs, cut into
 * Q3_SEGMENTS of neighbours which are then added in order. The order depends on the number of rows alone.
 */
#ifndef Q3_KERNELS_RUNS_CUH
#define Q3_KERNELS_RUNS_CUH

#include "kernels/wide.cuh"

enum { Q3_SEGMENTS = 8 };

/* to[c] = beta to[c] + sum_run partial[run, c], rows of partial `stride` apart; beta is 0 or 1. A warp takes 32
 * columns of a segment. */
static __global__ void q3_add_runs_kernel(float *to, float beta, const float *partial, int64_t runs,
                                          int64_t C, int64_t stride)
{
    Q3_SHARED(float, sums, 32 * Q3_SEGMENTS);
    const int lane = threadIdx.x & 31, segment = threadIdx.x >> 5;
    const int64_t each = (runs + Q3_SEGMENTS - 1) / Q3_SEGMENTS, begin = segment * each;
    const int64_t end = begin + each < runs ? begin + each : runs;
    for (int64_t block = blockIdx.x; block * 32 < C; block += gridDim.x) {
        const int64_t c = block * 32 + lane;
        float sum = 0;
        for (int64_t run = begin; run < end; run++)
            sum += c < C ? partial[run * stride + c] : 0;
        sums[threadIdx.x] = sum;
        __syncthreads();
        if (segment == 0 && c < C) {
            for (int s = 1; s < Q3_SEGMENTS; s++)
                sum += sums[s * 32 + lane];
            q3_add_to(to + c, beta, sum);
        }
        __syncthreads();
    }
}

static inline void q3_add_runs(q3_cuda *cuda, float *to, float beta, const float *partial, int64_t runs,
                               int64_t C, int64_t stride)
{
    Q3_LAUNCH(cuda, q3_add_runs_kernel, q3_blocks(C, 32), 32 * Q3_SEGMENTS, 0, to, beta, partial, runs, C,
              stride);
}

#endif
