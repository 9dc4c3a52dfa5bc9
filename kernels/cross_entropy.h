/* kernels/cross_entropy.h - the loss of rows of logits, and its gradient in their place.
 *
 *   lse_r = log sum_v exp(l_rv)         loss_r = lse_r - l_r,t(r)
 *   l_rv <- (exp(l_rv - lse_r) - [v = t(r)]) scale seed        (where the gradient is wanted)
 *
 * The largest logit of a row is taken out of the exponents first. Sums: f32 within 256 elements, double
 * beyond (the reference: double throughout). Split over rows; the total adds the rows' losses in order, in
 * double. A NaN among the logits makes the loss NaN.
 *
 * Cost: R V exponentials; logits read twice, written twice with the gradient. Bandwidth-bound for large V.
 */
#ifndef Q3_KERNELS_CROSS_ENTROPY_H
#define Q3_KERNELS_CROSS_ENTROPY_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/dtype.h"

typedef struct q3_cross_entropy_args {
    double *loss;           /* [R], or NULL */
    void *logits;           /* [R, V]; overwritten, by the gradient if that is wanted */
    const int32_t *targets; /* [R], in [0, V) */
    int64_t R, V;
    bool gradient;
    float scale;
    const float *seed; /* one value: the gradient of the loss; NULL for 1 */
    q3_dtype dtype;    /* of the logits */
} q3_cross_entropy_args;

typedef struct q3_cross_entropy_total_args {
    float *total;       /* one value: scale sum_r loss_r */
    const double *loss; /* [R] */
    int64_t R;
    float scale;
} q3_cross_entropy_total_args;

/* dx = beta dx + seed saved, over n elements */
typedef struct q3_cross_entropy_spread_args {
    void *dx;           /* [n], not read when beta is 0 */
    const void *saved;  /* [n] */
    const float *seed;  /* one value */
    int64_t n;
    float beta;
    q3_dtype dtype; /* of dx and saved */
} q3_cross_entropy_spread_args;

void q3_cross_entropy_rows_cpu(const q3_cross_entropy_args *a);
void q3_cross_entropy_total_cpu(const q3_cross_entropy_total_args *a);
void q3_cross_entropy_spread_cpu(const q3_cross_entropy_spread_args *a);

Q3_DECLARE_SIMD(q3_cross_entropy_rows, q3_cross_entropy_args);
Q3_DECLARE_SIMD(q3_cross_entropy_spread, q3_cross_entropy_spread_args);

/* On the device; see kernels/cuda.h. */
void q3_cross_entropy_rows_cuda(const q3_cross_entropy_args *a, q3_cuda *cuda);
void q3_cross_entropy_total_cuda(const q3_cross_entropy_total_args *a, q3_cuda *cuda);
void q3_cross_entropy_spread_cuda(const q3_cross_entropy_spread_args *a, q3_cuda *cuda);

#endif
