/* kernels/rmsnorm.h - RMSNorm over rows of C elements (Zhang & Sennrich, arXiv:1910.07467).
 *
 *   r_i   = 1 / sqrt(mean_c x_ic^2 + eps)       y_ic = x_ic r_i w_c
 *   dx_ic = r_i (g_ic - x_ic r_i^2 / C * sum_k g_ik x_ik),  g = dy * w        dw_c = sum_i dy_ic x_ic r_i
 *
 * Everything is computed in f32; with x in bfloat16, x r is rounded to bfloat16 before w, as transformers 5.17's
 * Qwen3VLTextRMSNorm does. dw is summed over runs of Q3_RMSNORM_RUN rows, then over the runs in order, whatever the
 * number of threads. Cost forward: x read, y written: 2 elements and 4 flops for each of rows C.
 * Bandwidth-bound.
 */
#ifndef Q3_KERNELS_RMSNORM_H
#define Q3_KERNELS_RMSNORM_H

#include <stdint.h>

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/dtype.h"
#include "kernels/pool.h"

enum { Q3_RMSNORM_RUN = 64 };

typedef struct q3_rmsnorm_args {
    void *y;        /* [rows, C] */
    float *r;       /* [rows], NULL when not wanted */
    const void *x;  /* [rows, C] */
    const float *w; /* [C] */
    int64_t rows, C;
    float eps;
    q3_dtype dtype; /* of x and y */
} q3_rmsnorm_args;

typedef struct q3_rmsnorm_backward_args {
    void *dx;           /* [rows, C]; NULL when not wanted */
    float *dw;          /* [C]; NULL when not wanted */
    const void *dy, *x; /* [rows, C] */
    const float *r;     /* [rows], from forward */
    const float *w;     /* [C] */
    float *partial;     /* [ceil(rows / Q3_RMSNORM_RUN), C]: scratch, where dw is wanted */
    int64_t rows, C;
    float dx_beta, dw_beta; /* 0 overwrites, 1 adds */
    q3_dtype dtype;         /* of x, dx and dy */
} q3_rmsnorm_backward_args;

void q3_rmsnorm_forward_cpu(const q3_rmsnorm_args *a);
void q3_rmsnorm_backward_cpu(const q3_rmsnorm_backward_args *a);

Q3_DECLARE_SIMD(q3_rmsnorm_forward, q3_rmsnorm_args);
Q3_DECLARE_SIMD(q3_rmsnorm_backward, q3_rmsnorm_backward_args);

/* On the device; see kernels/cuda.h. */
void q3_rmsnorm_forward_cuda(const q3_rmsnorm_args *a, q3_cuda *cuda);
void q3_rmsnorm_backward_cuda(const q3_rmsnorm_backward_args *a, q3_cuda *cuda);

#endif
