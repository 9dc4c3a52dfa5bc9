/* kernels/dropout.h - y = beta y + x m / (1 - p): inverted dropout over n elements (Srivastava et al., JMLR
 * 15, 2014).
 *
 *   u_i = uniform(philox(key, counter + i / 4)[i mod 4]),   m_i = 0 where u_i < p, else 1
 *
 * i is the row-major index of the element in its tensor, so a mask is a function of key and counter, never
 * stored: who passes the same ones gets the same mask. core/ops/dropout.h says which belong to a call. y may
 * be x when beta is 0; otherwise y is not read when beta is 0.
 *
 * Cost: x read, y written; 10 rounds of Philox for four elements, which dominate.
 */
#ifndef Q3_KERNELS_DROPOUT_H
#define Q3_KERNELS_DROPOUT_H

#include <stdint.h>

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/dtype.h"

typedef struct q3_dropout_args {
    void *y;       /* [n] */
    const void *x; /* [n] */
    int64_t n;
    float p, beta; /* 0 <= p < 1 */
    uint32_t key[2], counter[4];
    q3_dtype dtype; /* of x and y */
} q3_dropout_args;

void q3_dropout_forward_cpu(const q3_dropout_args *a);

Q3_DECLARE_SIMD(q3_dropout_forward, q3_dropout_args);

/* On the device; see kernels/cuda.h. */
void q3_dropout_forward_cuda(const q3_dropout_args *a, q3_cuda *cuda);

#endif
