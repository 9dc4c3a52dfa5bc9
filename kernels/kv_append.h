/* kernels/kv_append.h - new keys or values into the cache: slab[rows_t] = x_t. Rows distinct. */
#ifndef Q3_KERNELS_KV_APPEND_H
#define Q3_KERNELS_KV_APPEND_H

#include <stdint.h>

#include "kernels/cuda.h"
#include "kernels/dtype.h"

typedef struct q3_kv_append_args {
    void *slab;          /* [S, C] */
    const void *x;       /* [T, C] */
    const int32_t *rows; /* [T], each in [0, S) */
    int64_t T, C;
    q3_dtype dtype; /* of slab and x */
} q3_kv_append_args;

void q3_kv_append_cpu(const q3_kv_append_args *a);

/* On the device; see kernels/cuda.h. */
void q3_kv_append_cuda(const q3_kv_append_args *a, q3_cuda *cuda);

#endif
