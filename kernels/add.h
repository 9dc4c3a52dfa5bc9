/* kernels/add.h - y = a + b over n elements; a copy when a is NULL. y may be a or b.
 *
 * Cost: 2 n elements read, n written. Bandwidth-bound.
 */
#ifndef Q3_KERNELS_ADD_H
#define Q3_KERNELS_ADD_H

#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/dtype.h"
#include "kernels/pool.h"

typedef struct q3_add_args {
    void *y;       /* [n] */
    const void *a; /* [n] or NULL */
    const void *b; /* [n] */
    int64_t n;
    q3_dtype dtype; /* of all three */
} q3_add_args;

void q3_add_forward_cpu(const q3_add_args *a);

Q3_DECLARE_SIMD(q3_add_forward, q3_add_args);

/* On the device; see kernels/cuda.h. */
void q3_add_forward_cuda(const q3_add_args *a, q3_cuda *cuda);

#endif
