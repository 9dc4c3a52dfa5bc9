#include "kernels/rows.h"

/* The least a thread takes: rows, and columns (a cache line of them). */
enum { GRAIN_ROWS = 16, GRAIN_COLUMNS = 16 };

static void parallel(int64_t n, int64_t grain, q3_job *job, const void *arg)
{
    q3_parallel(n, grain, job, (void *)(uintptr_t)arg);
}

/* y = beta y + factor x over n elements; x NULL stands for zeros. */
static void blend(float *y, float beta, float factor, const float *x, int64_t n)
{
    if (!x) {
        for (int64_t c = 0; c < n && beta == 0; c++)
            y[c] = 0;
    } else if (beta == 0 && factor == 1) {
        memcpy(y, x, (size_t)n * sizeof *y);
    } else if (beta == 0) {
        for (int64_t c = 0; c < n; c++)
            y[c] = factor * x[c];
    } else {
        for (int64_t c = 0; c < n; c++)
            y[c] += factor * x[c];
    }
}

/* The same from n elements of a weight, from `first` on. */
static void blend_weight(float *y, float beta, float factor, const q3_weight *x, int64_t first, int64_t n)
{
    if (x->dtype == Q3_F32) {
        blend(y, beta, factor, (const float *)x->data + first, n);
        return;
    }
    for (int64_t c = 0; c < n; c++)
        y[c] = (beta == 0 ? 0 : y[c]) + factor * q3_weight_at(x, first + c);
}

static void take_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_take_rows_args *a = arg;
    float *y = a->y;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        blend_weight(y + i * a->C, a->beta, 1, &a->x, a->index[i] * a->C, a->C);
}

void q3_take_rows_cpu(const q3_take_rows_args *a)
{
    parallel(a->n, GRAIN_ROWS, take_rows, a);
}

/* Columns [begin, end) of the whole result. */
static void spread_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_spread_rows_args *a = arg;
    const float *x = a->x;
    float *y = a->y;
    (void)thread;
    for (int64_t r = 0; r < a->rows; r++)
        blend(y + r * a->C + begin, a->beta, 1, NULL, end - begin);
    for (int64_t i = 0; i < a->n; i++)
        if (a->index[i] != a->skip)
            blend(y + a->index[i] * a->C + begin, 1, 1, x + i * a->C + begin, end - begin);
}

void q3_spread_rows_cpu(const q3_spread_rows_args *a)
{
    parallel(a->C, GRAIN_COLUMNS, spread_rows, a);
}

static void copy_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_put_rows_args *a = arg;
    (void)thread;
    blend((float *)a->y + begin * a->C, 0, 1, (const float *)a->x + begin * a->C, (end - begin) * a->C);
}

static void put_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_put_rows_args *a = arg;
    const float *s = a->s;
    float *y = a->y;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        blend(y + a->index[i] * a->C, a->add ? 1 : 0, 1, s + i * a->C, a->C);
}

void q3_put_rows_forward_cpu(const q3_put_rows_args *a)
{
    parallel(a->T, GRAIN_ROWS, copy_rows, a);
    parallel(a->n, GRAIN_ROWS, put_rows, a);
}

static void other_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_put_rows_args *a = arg;
    const float *dy = a->x;
    float *dx = a->y;
    (void)thread;
    for (int64_t t = begin; t < end; t++)
        blend(dx + t * a->C, a->beta, 1, a->taken[t] ? NULL : dy + t * a->C, a->C);
}

void q3_put_rows_backward_cpu(const q3_put_rows_args *a)
{
    memset(a->taken, 0, (size_t)a->T);
    for (int64_t i = 0; i < a->n; i++)
        a->taken[a->index[i]] = 1;
    parallel(a->T, GRAIN_ROWS, other_rows, a);
}

static void columns(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_columns_args *a = arg;
    const float *x = a->x;
    float *y = (float *)a->y + a->y_begin;
    (void)thread;
    for (int64_t t = begin; t < end; t++)
        blend(y + t * a->y_stride, a->beta, 1, x ? x + t * a->x_stride + a->x_begin : NULL, a->n);
}

void q3_columns_cpu(const q3_columns_args *a)
{
    parallel(a->T, GRAIN_ROWS, columns, a);
}

static void interpolate(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_interpolate_args *a = arg;
    float *y = a->y;
    (void)thread;
    for (int64_t i = 4 * begin; i < 4 * end; i++)
        blend_weight(y + i / 4 * a->C, i % 4 ? 1 : 0, a->weights[i], &a->table, a->taps[i] * a->C, a->C);
}

void q3_interpolate_forward_cpu(const q3_interpolate_args *a)
{
    parallel(a->P, GRAIN_ROWS, interpolate, a);
}

static void spread_taps(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_interpolate_args *a = arg;
    const float *dy = a->dy;
    (void)thread;
    for (int64_t g = 0; g < a->G; g++)
        blend(a->dtable + g * a->C + begin, a->beta, 1, NULL, end - begin);
    for (int64_t i = 0; i < 4 * a->P; i++)
        blend(a->dtable + a->taps[i] * a->C + begin, 1, a->weights[i], dy + i / 4 * a->C + begin,
              end - begin);
}

void q3_interpolate_backward_cpu(const q3_interpolate_args *a)
{
    parallel(a->C, GRAIN_COLUMNS, spread_taps, a);
}
