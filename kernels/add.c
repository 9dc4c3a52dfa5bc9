#include "kernels/add.h"

static void q3_add_forward_reference(const q3_add_args *a)
{
    const float *x = a->a, *b = a->b;
    float *y = a->y;
    for (int64_t i = 0; i < a->n; i++)
        y[i] = x ? x[i] + b[i] : b[i];
}

void q3_add_forward_cpu(const q3_add_args *a)
{
    Q3_DISPATCH(q3_add_forward, a);
}
