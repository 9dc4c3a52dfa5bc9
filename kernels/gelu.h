/* kernels/gelu.h - the Gaussian error linear unit (Hendrycks & Gimpel, arXiv:1606.08415), element by element.
 *
 *   exact   y = x F(x),  F(x) = (1 + erf(x / sqrt 2)) / 2         dx = dy (F(x) + x exp(-x^2/2) / sqrt(2 pi))
 *   tanh    y = x S,  S = (1 + tanh z) / 2 = 1 / (1 + exp(-2z)),  z = sqrt(2/pi) (x + 0.044715 x^3)
 *           dx = dy (S + 2 x S (1 - S) dz/dx)
 *
 * The two differ by up to 4.7e-4, and the network has both. The fast sources compute 1 - F(|x|) as
 * exp(-x^2/2) t P(t), t = 1 / (1 + 0.4 |x|): P of degree 7 goes through the Chebyshev points of t for 0 <=
 * |x| <= 13.5 and is within 2.1e-8 of F. Cost forward: x read, y written: 2 n elements, about 30 n flops.
 */
#ifndef Q3_KERNELS_GELU_H
#define Q3_KERNELS_GELU_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/dtype.h"
#include "kernels/pool.h"

typedef struct q3_gelu_args {
    void *y;        /* [n]; backward: dx */
    const void *x;  /* [n] */
    const void *dy; /* [n], backward */
    int64_t n;
    bool tanh_form;
    float beta;     /* backward: 0 overwrites dx, 1 adds */
    q3_dtype dtype; /* of x, y and dy */
} q3_gelu_args;

void q3_gelu_forward_cpu(const q3_gelu_args *a);
void q3_gelu_backward_cpu(const q3_gelu_args *a);

Q3_DECLARE_SIMD(q3_gelu_forward, q3_gelu_args);
Q3_DECLARE_SIMD(q3_gelu_backward, q3_gelu_args);

/* On the device; see kernels/cuda.h. */
void q3_gelu_forward_cuda(const q3_gelu_args *a, q3_cuda *cuda);
void q3_gelu_backward_cuda(const q3_gelu_args *a, q3_cuda *cuda);

#endif
