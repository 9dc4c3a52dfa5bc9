#include "kernels/rmsnorm.h"

#include <math.h>

static void q3_rmsnorm_forward_reference(const q3_rmsnorm_args *a)
{
    const float *x = a->x;
    float *y = a->y;
    for (int64_t i = 0; i < a->rows; i++, x += a->C, y += a->C) {
        double squares = 0;
        for (int64_t c = 0; c < a->C; c++)
            squares += (double)x[c] * x[c];
        double r = 1 / sqrt(squares / (double)a->C + a->eps);
        if (a->r)
            a->r[i] = (float)r;
        for (int64_t c = 0; c < a->C; c++)
            y[c] = (float)(x[c] * r * a->w[c]);
    }
}

static void q3_rmsnorm_backward_reference(const q3_rmsnorm_backward_args *a)
{
    const float *x = a->x, *dy = a->dy;
    float *dx = a->dx;
    for (int64_t i = 0; dx && i < a->rows; i++, x += a->C, dy += a->C, dx += a->C) {
        double sum = 0, r = a->r[i];
        for (int64_t c = 0; c < a->C; c++)
            sum += (double)dy[c] * a->w[c] * x[c];
        for (int64_t c = 0; c < a->C; c++) {
            double d = r * ((double)dy[c] * a->w[c] - x[c] * r * r / (double)a->C * sum);
            dx[c] = (float)(a->dx_beta == 0 ? d : dx[c] + d);
        }
    }
    x = a->x;
    dy = a->dy;
    for (int64_t c = 0; a->dw && c < a->C; c++) {
        double sum = a->dw_beta == 0 ? 0 : a->dw[c];
        for (int64_t i = 0; i < a->rows; i++)
            sum += (double)dy[i * a->C + c] * x[i * a->C + c] * a->r[i];
        a->dw[c] = (float)sum;
    }
}

void q3_rmsnorm_forward_cpu(const q3_rmsnorm_args *a)
{
    Q3_DISPATCH(q3_rmsnorm_forward, a);
}
void q3_rmsnorm_backward_cpu(const q3_rmsnorm_backward_args *a)
{
    Q3_DISPATCH(q3_rmsnorm_backward, a);
}
