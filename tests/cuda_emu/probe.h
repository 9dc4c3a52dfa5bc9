/* tests/cuda_emu/probe.h - kernels that use each word of kernels/device.cuh once, rightly and wrongly.
 *
 * All pointers are device memory unless they say host.
 */
#ifndef Q3_TESTS_CUDA_EMU_PROBE_H
#define Q3_TESTS_CUDA_EMU_PROBE_H

#include <stdint.h>

#include "kernels/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = factor x + y, [n] of f32 or, if bf16, of bfloat16. */
void probe_axpy(q3_cuda *cuda, void *y, const void *x, float factor, int64_t n, bool bf16);
/* y[r] = sum of x[r, :], x [R, C]; max[r] likewise. */
void probe_rows(q3_cuda *cuda, float *sum, float *max, const float *x, int64_t R, int64_t C);
/* c [M, N] f32 = a [M, K] b [K, N], bfloat16: cp.async in two stages, ldmatrix plain and transposed, mma. Sizes are
 * multiples of 8. */
void probe_matmul(q3_cuda *cuda, float *c, const uint16_t *a, const uint16_t *b, int M, int N, int K);
/* out [11, 32]: what each lane of a warp gets of shuffles and votes; probe.cu lists the rows. */
void probe_warp(q3_cuda *cuda, int32_t *out);
/* counts[0] = number of threads, counts[1] = greatest global index, over a grid of `blocks` x 2 x 3 blocks. */
void probe_atomics(q3_cuda *cuda, unsigned *counts, int blocks);
/* half[i] = f16 bits of x[i], brain[i] = bf16 bits, back[i] = value of half[i]. */
void probe_convert(q3_cuda *cuda, uint16_t *half, uint16_t *brain, float *back, const float *x, int64_t n);
/* out[0] = byte shuffle, out[1] = population count, out[2] = leading zeros, out[3] = float bits, of host values. */
void probe_bits(q3_cuda *cuda, uint32_t *out, uint32_t a, uint32_t b, uint32_t selector);
/* out [256] = the thread's neighbour in shared memory, or, with wait false, without the barrier that it takes. */
void probe_neighbour(q3_cuda *cuda, int32_t *out, bool wait);
/* out [128] = in [128] through cp.async; without the wait if not `wait`. */
void probe_copy(q3_cuda *cuda, float *out, const float *in, bool wait);
/* A launch of `blocks` x y x 1 blocks, of `threads` threads and that much dynamic shared memory, that writes nothing. */
void probe_shape(q3_cuda *cuda, int *out, unsigned blocks, unsigned y, unsigned threads, size_t shared_bytes);

/* Each ends the process under the emulator. `out` [64]. */
void probe_divergent_barrier(q3_cuda *cuda, int32_t *out);
void probe_left_before_barrier(q3_cuda *cuda, int32_t *out);
void probe_mask_without_caller(q3_cuda *cuda, int32_t *out);
void probe_mask_with_gone_lane(q3_cuda *cuda, int32_t *out);
void probe_masks_differ(q3_cuda *cuda, int32_t *out);
void probe_short_warp(q3_cuda *cuda, int32_t *out);
void probe_deadlock(q3_cuda *cuda, int32_t *out);
void probe_much_static_shared(q3_cuda *cuda, int32_t *out);
void probe_misaligned_copy(q3_cuda *cuda, int32_t *out);
void probe_out_of_bounds_shared(q3_cuda *cuda, int32_t *out); /* under AddressSanitizer alone */

#ifdef __cplusplus
}
#endif

#endif
