/* kernels/cast.h - arrays of one float type as another: F32, BF16, F16.
 *
 *   y_ij = x_ij, rounded to nearest even; overflow to infinity, NaN stays NaN
 *
 * 16-bit values become f32 exactly. The bf16 shadow of a flat f32 buffer is one row of n columns. x and y must not
 * overlap. Cost: x read, y written; bandwidth-bound.
 */
#ifndef Q3_KERNELS_CAST_H
#define Q3_KERNELS_CAST_H

#include "kernels/cuda.h"
#include "kernels/dtype.h"

typedef struct q3_cast_args {
    void *y;       /* [rows, cols], rows ldy apart */
    const void *x; /* [rows, cols], rows ldx apart */
    int64_t rows, cols;
    int64_t ldy, ldx; /* 0: dense */
    q3_dtype y_dtype, x_dtype;
} q3_cast_args;

/* On the device; see kernels/cuda.h. */
void q3_cast_cuda(const q3_cast_args *a, q3_cuda *cuda);

#endif
