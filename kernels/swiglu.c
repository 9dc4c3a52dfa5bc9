#include "kernels/swiglu.h"

#include <math.h>

static void q3_swiglu_forward_reference(const q3_swiglu_args *a)
{
    const float *x = a->a, *u = a->u;
    float *y = a->y;
    for (int64_t i = 0; i < a->n; i++)
        y[i] = (float)(x[i] / (1 + exp(-(double)x[i])) * u[i]);
}

static void q3_swiglu_backward_reference(const q3_swiglu_backward_args *b)
{
    const float *dy = b->dy, *gate = b->a, *u = b->u;
    float *da = b->da, *du = b->du;
    for (int64_t i = 0; i < b->n; i++) {
        double a = gate[i], S = 1 / (1 + exp(-a));
        double to_a = dy[i] * u[i] * S * (1 + a * (1 - S)), to_u = dy[i] * a * S;
        if (da)
            da[i] = (float)(b->da_beta == 0 ? to_a : da[i] + to_a);
        if (du)
            du[i] = (float)(b->du_beta == 0 ? to_u : du[i] + to_u);
    }
}

void q3_swiglu_forward_cpu(const q3_swiglu_args *a)
{
    Q3_DISPATCH(q3_swiglu_forward, a);
}
void q3_swiglu_backward_cpu(const q3_swiglu_backward_args *a)
{
    Q3_DISPATCH(q3_swiglu_backward, a);
}
