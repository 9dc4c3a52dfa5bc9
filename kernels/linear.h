/* kernels/linear.h - the gradient of a bias; the rest of a linear layer is kernels/gemm.h.
 *
 *   db_n = beta db_n + sum_m dy_mn
 *
 * Rows are summed in blocks of 64, then the blocks, in f32 (the reference: in double). Split over columns.
 * Cost: dy read once. Bandwidth-bound.
 */
#ifndef Q3_KERNELS_LINEAR_H
#define Q3_KERNELS_LINEAR_H

#include <stdint.h>

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/dtype.h"

typedef struct q3_linear_bias_args {
    float *db;      /* [N] */
    const void *dy; /* [M, N] */
    int64_t M, N;
    float beta;     /* 0: db is not read */
    q3_dtype dtype; /* of dy */
} q3_linear_bias_args;

void q3_linear_bias_cpu(const q3_linear_bias_args *a);

Q3_DECLARE_SIMD(q3_linear_bias, q3_linear_bias_args);

/* On the device; see kernels/cuda.h. */
void q3_linear_bias_cuda(const q3_linear_bias_args *a, q3_cuda *cuda);

#endif
