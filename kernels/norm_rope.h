/* kernels/norm_rope.h - RMSNorm of each head, then rotation: what Qwen3 does with queries and keys, in one pass.
 *
 *   n = x r w,  r = 1 / sqrt(mean x^2 + eps) of a head (kernels/rmsnorm.h)       y = n turned by its token's angles
 *   dn = dy turned back (kernels/rope.h)                                         dx, dw from dn as in rmsnorm
 *
 * Rounding: as of the two by themselves. With x in bfloat16, x r is rounded before w, n and dn when they are made. dw is
 * summed over runs of Q3_RMSNORM_RUN heads, then over the runs in order.
 *
 * Cost: x and the table read, y written, where the two apart read and write all of it twice, and keep n for backward.
 * Bandwidth-bound. The CPU has the two apart, through scratch.
 */
#ifndef Q3_KERNELS_NORM_ROPE_H
#define Q3_KERNELS_NORM_ROPE_H

#include <stdint.h>

#include "kernels/cuda.h"
#include "kernels/dtype.h"

typedef struct q3_norm_rope_args {
    void *y;              /* [T, heads D] */
    float *r;             /* [T, heads]; NULL when not wanted */
    const void *x;        /* [T, heads D] */
    const float *w;       /* [D] */
    const float *cos_sin; /* [T, D]: D/2 cosines, then D/2 sines */
    void *scratch;        /* CPU: [T, heads D] */
    int64_t T;
    int heads, D;
    float eps;
    q3_dtype dtype; /* of x and y */
} q3_norm_rope_args;

typedef struct q3_norm_rope_backward_args {
    void *dx;             /* [T, heads D]; NULL when not wanted */
    float *dw;            /* [D]; NULL when not wanted */
    const void *dy, *x;   /* [T, heads D] */
    const float *r;       /* [T, heads], from forward */
    const float *w;       /* [D] */
    const float *cos_sin; /* [T, D] */
    void *scratch;        /* CPU: [T, heads D] */
    float *partial;       /* [ceil(T heads / Q3_RMSNORM_RUN), D]: scratch, where dw is wanted */
    int64_t T;
    int heads, D;
    float dx_beta, dw_beta; /* 0 overwrites, 1 adds */
    q3_dtype dtype;         /* of x, dx and dy */
} q3_norm_rope_backward_args;

void q3_norm_rope_forward_cpu(const q3_norm_rope_args *a);
void q3_norm_rope_backward_cpu(const q3_norm_rope_backward_args *a);

/* On the device; see kernels/cuda.h. */
void q3_norm_rope_forward_cuda(const q3_norm_rope_args *a, q3_cuda *cuda);
void q3_norm_rope_backward_cuda(const q3_norm_rope_backward_args *a, q3_cuda *cuda);

#endif
