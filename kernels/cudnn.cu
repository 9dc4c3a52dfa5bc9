/* The log of the sums: [B, heads, S] is cuDNN's, [T, heads] ours. 4 bytes in and out per row and head, a thousandth of
 * what attention itself moves. */
#include "kernels/cudnn.h"

#include "kernels/device.cuh"

enum { THREADS = 256 };

/* Threads run along heads, which are next to each other in lse. */
static __global__ void stats_to_lse(q3_cudnn_stats_args a)
{
    for (int64_t i = q3_first(); i < a.B * a.S * a.heads; i += q3_stride()) {
        int64_t head = i % a.heads, row = i / a.heads % a.S, b = i / a.heads / a.S;
        if (row < a.lengths[b])
            a.lse[(a.first[b] + row) * a.heads + head] = a.stats[(b * a.heads + head) * a.S + row];
    }
}

/* Threads run along rows, which are next to each other in stats. */
static __global__ void lse_to_stats(q3_cudnn_stats_args a)
{
    for (int64_t i = q3_first(); i < a.B * a.S * a.heads; i += q3_stride()) {
        int64_t row = i % a.S, head = i / a.S % a.heads, b = i / a.S / a.heads;
        a.stats[i] = row < a.lengths[b] ? a.lse[(a.first[b] + row) * a.heads + head] : 0.0f;
    }
}

void q3_cudnn_use_device_cuda(q3_cuda *cuda)
{
    cudaError_t error = cudaSetDevice(cuda->ordinal);
    if (error)
        q3_cuda_fail(cuda, "cuda:%d: %s", cuda->ordinal, cudaGetErrorString(error));
}

void q3_cudnn_stats_to_lse_cuda(const q3_cudnn_stats_args *a, q3_cuda *cuda)
{
    Q3_LAUNCH(cuda, stats_to_lse, q3_blocks(a->B * a->S * a->heads, THREADS), THREADS, 0, *a);
}

void q3_cudnn_lse_to_stats_cuda(const q3_cudnn_stats_args *a, q3_cuda *cuda)
{
    Q3_LAUNCH(cuda, lse_to_stats, q3_blocks(a->B * a->S * a->heads, THREADS), THREADS, 0, *a);
}
