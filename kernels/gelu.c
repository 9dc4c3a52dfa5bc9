#include "kernels/gelu.h"

#include <math.h>

static const double root_2_over_pi = 0.79788456080286535588, root_half = 0.70710678118654752440;

static double value(double x, bool tanh_form)
{
    if (tanh_form)
        return 0.5 * x * (1 + tanh(root_2_over_pi * (x + 0.044715 * x * x * x)));
    return 0.5 * x * (1 + erf(x * root_half));
}

static double slope(double x, bool tanh_form)
{
    if (!tanh_form)
        return 0.5 * (1 + erf(x * root_half)) + 0.5 * x * exp(-0.5 * x * x) * root_2_over_pi;
    double t = tanh(root_2_over_pi * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root_2_over_pi * (1 + 3 * 0.044715 * x * x);
}

static void q3_gelu_forward_reference(const q3_gelu_args *a)
{
    const float *x = a->x;
    float *y = a->y;
    for (int64_t i = 0; i < a->n; i++)
        y[i] = (float)value(x[i], a->tanh_form);
}

static void q3_gelu_backward_reference(const q3_gelu_args *a)
{
    const float *x = a->x, *dy = a->dy;
    float *dx = a->y;
    for (int64_t i = 0; i < a->n; i++) {
        double d = dy[i] * slope(x[i], a->tanh_form);
        dx[i] = (float)(a->beta == 0 ? d : dx[i] + d);
    }
}

void q3_gelu_forward_cpu(const q3_gelu_args *a)
{
    Q3_DISPATCH(q3_gelu_forward, a);
}
void q3_gelu_backward_cpu(const q3_gelu_args *a)
{
    Q3_DISPATCH(q3_gelu_backward, a);
}
