#include "kernels/dropout.h"

#include "kernels/philox.h"

static void q3_dropout_forward_reference(const q3_dropout_args *a)
{
    const float *x = a->x;
    float *y = a->y;
    uint32_t out[4];
    for (int64_t i = 0; i < a->n; i++) {
        if (i % 4 == 0)
            q3_philox_block(out, a->key, a->counter, (uint64_t)i / 4);
        float v = q3_philox_uniform(out[i % 4]) < a->p ? 0 : x[i] * (1 / (1 - a->p));
        y[i] = a->beta != 0 ? a->beta * y[i] + v : v;
    }
}

void q3_dropout_forward_cpu(const q3_dropout_args *a)
{
    Q3_DISPATCH(q3_dropout_forward, a);
}
