#include "kernels/cross_entropy.h"

#include <math.h>

static void one_row(const q3_cross_entropy_args *a, int64_t r)
{
    float *l = (float *)a->logits + r * a->V;
    double top = -INFINITY, sum = 0;
    for (int64_t v = 0; v < a->V; v++)
        top = l[v] > top ? l[v] : top;
    for (int64_t v = 0; v < a->V; v++)
        sum += exp(l[v] - top);
    double lse = top + log(sum), factor = (double)a->scale * (a->seed ? *a->seed : 1);
    if (a->loss)
        a->loss[r] = lse - l[a->targets[r]];
    for (int64_t v = 0; v < a->V && a->gradient; v++)
        l[v] = (float)((exp(l[v] - lse) - (v == a->targets[r])) * factor);
}

static void q3_cross_entropy_rows_reference(const q3_cross_entropy_args *a)
{
    for (int64_t r = 0; r < a->R; r++)
        one_row(a, r);
}

static void q3_cross_entropy_spread_reference(const q3_cross_entropy_spread_args *a)
{
    const float *saved = a->saved;
    float *dx = a->dx;
    for (int64_t i = 0; i < a->n; i++)
        dx[i] = (float)((a->beta != 0 ? (double)a->beta * dx[i] : 0) + (double)*a->seed * saved[i]);
}

void q3_cross_entropy_rows_cpu(const q3_cross_entropy_args *a)
{
    Q3_DISPATCH(q3_cross_entropy_rows, a);
}
void q3_cross_entropy_spread_cpu(const q3_cross_entropy_spread_args *a)
{
    Q3_DISPATCH(q3_cross_entropy_spread, a);
}

void q3_cross_entropy_total_cpu(const q3_cross_entropy_total_args *a)
{
    double sum = 0;
    for (int64_t r = 0; r < a->R; r++)
        sum += a->loss[r];
    *a->total = (float)(a->scale * sum);
}
