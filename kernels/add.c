#include "kernels/add.h"

static void q3_add_forward_reference(const q3_add_args *a)
{
    for (int64_t i = 0; i < a->n; i++)
        a->y[i] = a->a ? a->a[i] + a->b[i] : a->b[i];
}

void q3_add_forward_cpu(const q3_add_args *a)
{
    Q3_DISPATCH(q3_add_forward, a);
}
