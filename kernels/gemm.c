#include "kernels/gemm.h"

#include "kernels/pool.h"

enum { ROWS = 16, WIDTH = 256 }; // the reference sums a block of ROWS x WIDTH results at a time

q3_gemm_scratch *q3_gemm_own_scratch(void)
{
    static _Thread_local q3_gemm_scratch own __attribute__((aligned(64)));
    return &own;
}

void q3_weight_row(float *out, const q3_weight *w, int64_t row, int64_t cols, int64_t begin, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = q3_weight_at(w, row * cols + begin + i);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void finish(float *y, double sum, float bias, float alpha, float beta)
{
    *y = (float)((beta != 0 ? (double)beta * *y : 0) + alpha * sum + bias);
}

/* Rows [begin, end) of Y. */
static void nt_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_gemm_nt_args *a = arg;
    const float *x = a->x;
    float *y = a->y;
    (void)thread;
    for (int64_t m0 = begin; m0 < end; m0 += ROWS)
        for (int64_t n = 0; n < a->N; n++) {
            double sum[ROWS] = { 0 };
            float row[WIDTH];
            int64_t rows = least(ROWS, end - m0);
            for (int64_t k0 = 0; k0 < a->K; k0 += WIDTH) {
                int64_t width = least(WIDTH, a->K - k0);
                q3_weight_row(row, &a->w, n, a->K, k0, width);
                for (int64_t m = 0; m < rows; m++)
                    for (int64_t k = 0; k < width; k++)
                        sum[m] += (double)x[(m0 + m) * a->ldx + k0 + k] * row[k];
            }
            for (int64_t m = 0; m < rows; m++)
                finish(y + (m0 + m) * a->ldy + n, sum[m], a->bias ? a->bias[n] : 0, a->alpha, a->beta);
        }
}

static void nn_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_gemm_nn_args *a = arg;
    const float *x = a->x;
    float *y = a->y;
    (void)thread;
    for (int64_t m0 = begin; m0 < end; m0 += ROWS)
        for (int64_t k0 = 0; k0 < a->K; k0 += WIDTH) {
            double sum[ROWS][WIDTH] = { { 0 } };
            float row[WIDTH];
            int64_t rows = least(ROWS, end - m0), width = least(WIDTH, a->K - k0);
            for (int64_t n = 0; n < a->N; n++) {
                q3_weight_row(row, &a->w, n, a->K, k0, width);
                for (int64_t m = 0; m < rows; m++)
                    for (int64_t k = 0; k < width; k++)
                        sum[m][k] += (double)x[(m0 + m) * a->ldx + n] * row[k];
            }
            for (int64_t m = 0; m < rows; m++)
                for (int64_t k = 0; k < width; k++)
                    finish(y + (m0 + m) * a->ldy + k0 + k, sum[m][k], 0, a->alpha, a->beta);
        }
}

static void tn_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_gemm_tn_args *a = arg;
    const float *x = a->x, *z = a->z;
    (void)thread;
    for (int64_t n0 = begin; n0 < end; n0 += ROWS)
        for (int64_t k0 = 0; k0 < a->K; k0 += WIDTH) {
            double sum[ROWS][WIDTH] = { { 0 } };
            int64_t rows = least(ROWS, end - n0), width = least(WIDTH, a->K - k0);
            for (int64_t m = 0; m < a->M; m++)
                for (int64_t n = 0; n < rows; n++)
                    for (int64_t k = 0; k < width; k++)
                        sum[n][k] += (double)x[m * a->ldx + n0 + n] * z[m * a->ldz + k0 + k];
            for (int64_t n = 0; n < rows; n++)
                for (int64_t k = 0; k < width; k++)
                    finish(a->y + (n0 + n) * a->ldy + k0 + k, sum[n][k], 0, a->alpha, a->beta);
        }
}

static void q3_gemm_nt_reference(const q3_gemm_nt_args *a)
{
    q3_parallel(a->M, ROWS, nt_rows, (void *)(uintptr_t)a);
}
static void q3_gemm_nn_reference(const q3_gemm_nn_args *a)
{
    q3_parallel(a->M, ROWS, nn_rows, (void *)(uintptr_t)a);
}
static void q3_gemm_tn_reference(const q3_gemm_tn_args *a)
{
    q3_parallel(a->N, ROWS, tn_rows, (void *)(uintptr_t)a);
}

static void copy_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_gemm_nt_args *a = arg;
    (void)thread;
    for (int64_t m = begin; m < end; m++)
        memcpy((float *)a->y + m * a->ldy, (const float *)a->residual + m * a->ldy,
               (size_t)a->N * sizeof(float));
}

void q3_gemm_nt_cpu(const q3_gemm_nt_args *a)
{
    q3_gemm_nt_args dense = *a;
    dense.ldy = a->ldy ? a->ldy : a->N;
    dense.ldx = a->ldx ? a->ldx : a->K;
    if (a->residual && a->beta != 0)
        q3_parallel(a->M, ROWS, copy_rows, &dense); // beside the product this is little
    Q3_DISPATCH(q3_gemm_nt, &dense);
}

void q3_gemm_nn_cpu(const q3_gemm_nn_args *a)
{
    q3_gemm_nn_args dense = *a;
    dense.ldy = a->ldy ? a->ldy : a->K;
    dense.ldx = a->ldx ? a->ldx : a->N;
    Q3_DISPATCH(q3_gemm_nn, &dense);
}

void q3_gemm_tn_cpu(const q3_gemm_tn_args *a)
{
    q3_gemm_tn_args dense = *a;
    dense.ldy = a->ldy ? a->ldy : a->K;
    dense.ldx = a->ldx ? a->ldx : a->N;
    dense.ldz = a->ldz ? a->ldz : a->K;
    Q3_DISPATCH(q3_gemm_tn, &dense);
}
