/* kernels/gemv.h - a linear layer for a few rows, as decoding has them: the weights are read once, as they are stored.
 *
 *   Y[M, N] = beta Y + alpha X[M, K] W[N, K]' + bias[N]          kernels/gemm.h, nt (residual too), for M up to 8
 *
 * W may be F32, BF16, F16, I8 or in 4 bits (scales plain or nested), X and Y f32 or bf16; sums are f32, in an order
 * that depends on K and on the way chosen alone.
 *
 *   way            idea                                                           taken when
 *   rows16_mma     16 rows of W are the tensor core's A, X is its B; two codes    X bf16; W bf16, I8, or 4-bit in
 *                  are looked up at a time in 256 pairs of bf16, a copy a bank    blocks of 32 or more; K of 64s
 *   row_per_warp   lanes stride over K, any type, any K (blocks straddle rows)    otherwise
 *
 * Rounding of rows16_mma with 4-bit weights: the 16 values of the code in bf16 (2^-9), the scale times the sum of 64
 * products in f32 (of 32 in blocks of 32). int4's values are exact in bf16. Dequantizing rounds value times scale to bf16 instead, which is the same size of error.
 *
 * int8 codes are exact in bf16, and the scale multiplies the whole sum.
 *
 * Cost: W read once for every 8 rows of X. Bandwidth-bound; floor = bytes of W / measured GB/s. Not yet timed.
 */
#ifndef Q3_KERNELS_GEMV_H
#define Q3_KERNELS_GEMV_H

#include "kernels/gemm.h"

enum { Q3_GEMV_ROWS = 8 }; /* M for which W is read once; more rows go in groups of as many */

/* On the device; see kernels/cuda.h. */
void q3_gemv_cuda(const q3_gemm_nt_args *a, q3_cuda *cuda);

#endif
