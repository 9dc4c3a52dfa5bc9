/* kernels/swiglu.h - the gated unit of the decoder's MLP (Shazeer, arXiv:2002.05202), element by element.
 *
 *   y = a S u,  S = 1 / (1 + exp(-a))         da = dy u S (1 + a (1 - S))         du = dy a S
 *
 * Everything in f32. Cost forward: a and u read, y written: 3 n elements, about 20 n flops with the
 * exponential.
 */
#ifndef Q3_KERNELS_SWIGLU_H
#define Q3_KERNELS_SWIGLU_H

#include <stdint.h>

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/dtype.h"
#include "kernels/pool.h"

typedef struct q3_swiglu_args {
    void *y;           /* [n] */
    const void *a, *u; /* [n] */
    int64_t n;
    q3_dtype dtype; /* of all */
} q3_swiglu_args;

typedef struct q3_swiglu_backward_args {
    void *da, *du;          /* [n], NULL when not wanted */
    const void *dy, *a, *u; /* [n] */
    int64_t n;
    float da_beta, du_beta; /* 0 overwrites, 1 adds */
    q3_dtype dtype;         /* of all */
} q3_swiglu_backward_args;

void q3_swiglu_forward_cpu(const q3_swiglu_args *a);
void q3_swiglu_backward_cpu(const q3_swiglu_backward_args *a);

Q3_DECLARE_SIMD(q3_swiglu_forward, q3_swiglu_args);
Q3_DECLARE_SIMD(q3_swiglu_backward, q3_swiglu_backward_args);

/* On the device; see kernels/cuda.h. */
void q3_swiglu_forward_cuda(const q3_swiglu_args *a, q3_cuda *cuda);
void q3_swiglu_backward_cuda(const q3_swiglu_backward_args *a, q3_cuda *cuda);

#endif
