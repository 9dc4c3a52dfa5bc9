/* kernels/layernorm.h - LayerNorm over rows of C elements (Ba et al., arXiv:1607.06450).
 *
 * The variance divides by C, not by C - 1.
 *
 *   m_i = mean_c x_ic    r_i = 1 / sqrt(mean_c (x_ic - m_i)^2 + eps)    h_ic = (x_ic - m_i) r_i
 *   y_ic = h_ic w_c + b_c
 *   dx_ic = r_i (g_ic - mean_k g_ik - h_ic mean_k g_ik h_ik),  g = dy * w
 *   dw_c = sum_i dy_ic h_ic      db_c = sum_i dy_ic
 *
 * Everything in f32. dw and db are summed over runs of Q3_LAYERNORM_RUN rows, then over the runs in order,
 * whatever the number of threads. Cost forward: x read, y written: 2 elements and 7 flops for each of rows C.
 * Bandwidth-bound.
 */
#ifndef Q3_KERNELS_LAYERNORM_H
#define Q3_KERNELS_LAYERNORM_H

#include <stdint.h>

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/dtype.h"
#include "kernels/pool.h"

enum { Q3_LAYERNORM_RUN = 64 };

typedef struct q3_layernorm_args {
    void *y;            /* [rows, C] */
    float *m, *r;       /* [rows], NULL when not wanted */
    const void *x;      /* [rows, C] */
    const float *w, *b; /* [C] */
    int64_t rows, C;
    float eps;
    q3_dtype dtype; /* of x and y */
} q3_layernorm_args;

typedef struct q3_layernorm_backward_args {
    void *dx;           /* [rows, C]; NULL when not wanted */
    float *dw, *db;     /* [C]; NULL when not wanted */
    const void *dy, *x; /* [rows, C] */
    const float *m, *r; /* [rows], from forward */
    const float *w;     /* [C] */
    float *partial;     /* [ceil(rows / Q3_LAYERNORM_RUN), 2, C]: scratch, where dw or db is wanted */
    int64_t rows, C;
    float dx_beta, dw_beta, db_beta; /* 0 overwrites, 1 adds */
    q3_dtype dtype;                  /* of x, dx and dy */
} q3_layernorm_backward_args;

void q3_layernorm_forward_cpu(const q3_layernorm_args *a);
void q3_layernorm_backward_cpu(const q3_layernorm_backward_args *a);

Q3_DECLARE_SIMD(q3_layernorm_forward, q3_layernorm_args);
Q3_DECLARE_SIMD(q3_layernorm_backward, q3_layernorm_backward_args);

/* On the device; see kernels/cuda.h. */
void q3_layernorm_forward_cuda(const q3_layernorm_args *a, q3_cuda *cuda);
void q3_layernorm_backward_cuda(const q3_layernorm_backward_args *a, q3_cuda *cuda);

#endif
