extern "C" {
#include "kernels/gradient.h"
}
#include "kernels/wide.cuh"

/* A run is cut into chunks, which its blocks take in turn: SHARES sums a run, which are then added in order. The
 * counts lie on the device, so all runs get as many blocks. */
enum { CHUNK = 4096, SHARES = 64 };

static __device__ __forceinline__ double warp_sum(double x)
{
    for (int step = 16; step; step >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

static __device__ __forceinline__ double square(float x)
{
    return (double)x * (double)x;
}

static __global__ void sum_shares(q3_gradient_args a, double *shares)
{
    Q3_SHARED(double, warps, Q3_THREADS / 32);
    for (int64_t share = blockIdx.x; share < a.runs * SHARES; share += gridDim.x) {
        const int64_t run = share / SHARES, count = a.count[run];
        const float *g = a.g + a.begin[run];
        double sum = 0;
        for (int64_t chunk = share % SHARES * CHUNK; chunk < count; chunk += SHARES * CHUNK)
            for (int i = 0; i < CHUNK; i += Q3_THREADS) {
                int64_t at = chunk + i + threadIdx.x;
                sum += at < count ? square(g[at]) : 0;
            }
        sum = warp_sum(sum);
        __syncthreads(); // the last share's sums have been read
        if (threadIdx.x % 32 == 0)
            warps[threadIdx.x / 32] = sum;
        __syncthreads();
        if (threadIdx.x == 0) {
            double all = 0;
            for (int w = 0; w < Q3_THREADS / 32; w++)
                all += warps[w];
            shares[share] = all;
        }
    }
}

static __global__ void add_shares(q3_gradient_args a, const double *shares)
{
    for (int64_t run = q3_first(); run < a.runs; run += q3_stride()) {
        double sum = 0;
        for (int s = 0; s < SHARES; s++)
            sum += shares[run * SHARES + s];
        a.sums[run] = sum;
    }
}

template <int N> static __global__ void scale(q3_gradient_args a)
{
    for (int64_t i = q3_first() * N; i < a.n; i += q3_stride() * N) {
        float g[N];
        q3_load(g, a.g + i);
        for (int k = 0; k < N; k++)
            g[k] *= a.factor;
        q3_store(a.g + i, g);
    }
}

void q3_gradient_sum_squares_cuda(const q3_gradient_args *a, q3_cuda *cuda)
{
    size_t bytes = (size_t)a->runs * SHARES * sizeof(double);
    if (a->runs == 0)
        return;
    if (bytes > cuda->workspace_bytes) {
        q3_cuda_fail(cuda, "sum of squares: %lld runs need %zu bytes of workspace, there are %zu",
                     (long long)a->runs, bytes, cuda->workspace_bytes);
        return;
    }
    double *shares = (double *)cuda->workspace;
    Q3_LAUNCH(cuda, sum_shares, q3_blocks(a->runs * SHARES, 1), Q3_THREADS, 0, *a, shares);
    Q3_LAUNCH(cuda, add_shares, q3_blocks(a->runs, Q3_THREADS), Q3_THREADS, 0, *a, shares);
}

void q3_gradient_scale_cuda(const q3_gradient_args *a, q3_cuda *cuda)
{
    enum { N = q3_width<float>::elements };
    if (a->n == 0)
        return;
    if (q3_wide<float>(a->n, a->g))
        Q3_LAUNCH(cuda, (scale<N>), q3_blocks(a->n / N, Q3_THREADS), Q3_THREADS, 0, *a);
    else
        Q3_LAUNCH(cuda, (scale<1>), q3_blocks(a->n, Q3_THREADS), Q3_THREADS, 0, *a);
}
