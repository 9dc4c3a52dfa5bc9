#include "kernels/swiglu.h"

#include <math.h>

static void q3_swiglu_forward_reference(const q3_swiglu_args *a)
{
    for (int64_t i = 0; i < a->n; i++)
        a->y[i] = (float)(a->a[i] / (1 + exp(-(double)a->a[i])) * a->u[i]);
}

static void q3_swiglu_backward_reference(const q3_swiglu_backward_args *b)
{
    for (int64_t i = 0; i < b->n; i++) {
        double a = b->a[i], S = 1 / (1 + exp(-a));
        double da = b->dy[i] * b->u[i] * S * (1 + a * (1 - S)), du = b->dy[i] * a * S;
        if (b->da)
            b->da[i] = (float)(b->da_beta == 0 ? da : b->da[i] + da);
        if (b->du)
            b->du[i] = (float)(b->du_beta == 0 ? du : b->du[i] + du);
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
