#include "kernels/row_store.h"

#include <string.h>

void q3_row_store_cpu(const q3_row_store_args *a)
{
    const float *x = a->x;
    float *slab = a->slab;
    for (int64_t t = 0; t < a->T; t++)
        memcpy(slab + a->rows[t] * a->C, x + t * a->C, (size_t)a->C * sizeof(float));
}
