/* kernels/rope.h - rotary embedding (Su et al., arXiv:2104.09864) of pairs (i, i + D/2) of each head.
 *
 *   y_i = x_i cos_ti - x_(i + D/2) sin_ti      y_(i + D/2) = x_(i + D/2) cos_ti + x_i sin_ti,    i < D/2
 *
 * The gradient is the inverse rotation: the same with `inverse` set, which takes -sin. What the angles are
 * (one axis, three interleaved, row and column) is the table's business. Cost: x and the table read, y
 * written; bandwidth-bound.
 */
#ifndef Q3_KERNELS_ROPE_H
#define Q3_KERNELS_ROPE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/dtype.h"
#include "kernels/pool.h"

typedef struct q3_rope_args {
    void *y;              /* [T, heads D] */
    const void *x;        /* [T, heads D] */
    const float *cos_sin; /* [T, D]: D/2 cosines, then D/2 sines */
    int64_t T;
    int heads, D;
    bool inverse;
    float beta;     /* 0 overwrites y, 1 adds */
    q3_dtype dtype; /* of x and y; the table is f32 */
} q3_rope_args;

void q3_rope_rotate_cpu(const q3_rope_args *a);

Q3_DECLARE_SIMD(q3_rope_rotate, q3_rope_args);

/* On the device; see kernels/cuda.h. */
void q3_rope_rotate_cuda(const q3_rope_args *a, q3_cuda *cuda);

#endif
