/* kernels/gradient.h - what clipping does to a flat gradient: sums of squares, and a factor.
 *
 * Sums run in double over chunks of 4096 elements, the chunk sums are added in order: one order for any
 * number of threads. Squares of finite floats cannot overflow a double, so a sum is finite exactly when all
 * its gradients are.
 */
#ifndef Q3_KERNELS_GRADIENT_H
#define Q3_KERNELS_GRADIENT_H

#include <stdint.h>

#include "kernels/cuda.h"

typedef struct q3_gradient_args {
    float *g;             /* flat buffer; read by sum_squares, scaled in place by scale */
    int64_t n;            /* scale: elements of the buffer */
    const int64_t *begin; /* sum_squares: [runs] first element of each run */
    const int64_t *count; /* sum_squares: [runs] its elements */
    int64_t runs;
    double *sums; /* [runs] out: sum of squares */
    float factor; /* scale */
} q3_gradient_args;

void q3_gradient_sum_squares_cpu(const q3_gradient_args *a); /* runs are spread over threads */
void q3_gradient_scale_cpu(const q3_gradient_args *a);

/* On the device; see kernels/cuda.h. */
void q3_gradient_sum_squares_cuda(const q3_gradient_args *a, q3_cuda *cuda);
void q3_gradient_scale_cuda(const q3_gradient_args *a, q3_cuda *cuda);

#endif
