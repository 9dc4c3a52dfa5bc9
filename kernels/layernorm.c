#include "kernels/layernorm.h"

#include <math.h>

static void q3_layernorm_forward_reference(const q3_layernorm_args *a)
{
    const float *x = a->x;
    float *y = a->y;
    for (int64_t i = 0; i < a->rows; i++, x += a->C, y += a->C) {
        double m = 0, variance = 0;
        for (int64_t c = 0; c < a->C; c++)
            m += x[c] / (double)a->C;
        for (int64_t c = 0; c < a->C; c++)
            variance += (x[c] - m) * (x[c] - m) / (double)a->C;
        double r = 1 / sqrt(variance + a->eps);
        if (a->m)
            a->m[i] = (float)m;
        if (a->r)
            a->r[i] = (float)r;
        for (int64_t c = 0; c < a->C; c++)
            y[c] = (float)((x[c] - m) * r * a->w[c] + a->b[c]);
    }
}

static double normal(const q3_layernorm_backward_args *a, int64_t i, int64_t c)
{
    return ((double)((const float *)a->x)[i * a->C + c] - a->m[i]) * a->r[i];
}

static void backward_row(const q3_layernorm_backward_args *a, int64_t i)
{
    const float *dy = (const float *)a->dy + i * a->C;
    float *dx = (float *)a->dx + i * a->C;
    double g_mean = 0, gh_mean = 0;
    for (int64_t c = 0; c < a->C; c++) {
        g_mean += (double)dy[c] * a->w[c] / (double)a->C;
        gh_mean += (double)dy[c] * a->w[c] * normal(a, i, c) / (double)a->C;
    }
    for (int64_t c = 0; c < a->C; c++) {
        double d = a->r[i] * ((double)dy[c] * a->w[c] - g_mean - normal(a, i, c) * gh_mean);
        dx[c] = (float)(a->dx_beta == 0 ? d : dx[c] + d);
    }
}

static void q3_layernorm_backward_reference(const q3_layernorm_backward_args *a)
{
    const float *dy = a->dy;
    for (int64_t i = 0; a->dx && i < a->rows; i++)
        backward_row(a, i);
    for (int64_t c = 0; c < a->C; c++) {
        double dw = 0, db = 0;
        for (int64_t i = 0; i < a->rows; i++) {
            dw += dy[i * a->C + c] * normal(a, i, c);
            db += dy[i * a->C + c];
        }
        if (a->dw)
            a->dw[c] = (float)(a->dw_beta == 0 ? dw : a->dw[c] + dw);
        if (a->db)
            a->db[c] = (float)(a->db_beta == 0 ? db : a->db[c] + db);
    }
}

void q3_layernorm_forward_cpu(const q3_layernorm_args *a)
{
    Q3_DISPATCH(q3_layernorm_forward, a);
}
void q3_layernorm_backward_cpu(const q3_layernorm_backward_args *a)
{
    Q3_DISPATCH(q3_layernorm_backward, a);
}
