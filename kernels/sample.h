/* kernels/sample.h - what generation asks of rows of logits, so that they need not leave the device.
 *
 *   token_r = the index of the largest logit of row r, the lowest one on ties      lse_r = log sum_v exp(l_rv)
 *   flawed  = 1 when a logit of any row is NaN or infinite; left alone otherwise
 *
 * As infer/sample.c chooses greedily: a NaN is never the largest, unless it comes first. Cost: logits read once; a block
 * a row.
 */
#ifndef Q3_KERNELS_SAMPLE_H
#define Q3_KERNELS_SAMPLE_H

#include "kernels/cuda.h"
#include "kernels/dtype.h"

typedef struct q3_greedy_args {
    int32_t *token;     /* out [R] or NULL */
    double *lse;        /* out [R] or NULL */
    int32_t *flawed;    /* out, one value, or NULL */
    const void *logits; /* [R, V] */
    int64_t R, V;
    q3_dtype dtype; /* of the logits: F32 or BF16 */
} q3_greedy_args;

/* On the device; see kernels/cuda.h. */
void q3_greedy_cuda(const q3_greedy_args *a, q3_cuda *cuda);

#endif
