/* kernels/row_store.h - rows to their places in an array that is kept: slab[rows_t] = x_t. Rows distinct. */
#ifndef Q3_KERNELS_ROW_STORE_H
#define Q3_KERNELS_ROW_STORE_H

#include <stdint.h>

#include "kernels/cuda.h"
#include "kernels/dtype.h"

typedef struct q3_row_store_args {
    void *slab;          /* [S, C] */
    const void *x;       /* [T, C] */
    const int32_t *rows; /* [T], each in [0, S) */
    int64_t T, C;
    q3_dtype dtype; /* of slab and x */
} q3_row_store_args;

void q3_row_store_cpu(const q3_row_store_args *a);

/* On the device; see kernels/cuda.h. */
void q3_row_store_cuda(const q3_row_store_args *a, q3_cuda *cuda);

#endif
