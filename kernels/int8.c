#include "kernels/int8.h"

#include <float.h>
#include <math.h>

#include "kernels/pool.h"

static float absmax_of(const q3_weight *x, int64_t first, int64_t n)
{
    uint32_t top = 0;
    for (int64_t i = first; i < first + n; i++)
        top = q3_larger_abs(top, q3_weight_at(x, i));
    return q3_bits_f32(top);
}

/* To nearest even, for |y| < 2^22: above 1.5 * 2^23 floats are whole numbers. */
static float nearest(float y)
{
    const float whole = 12582912.0f;
    return y + whole - whole;
}

static void quantize_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const q3_int8_quantize_args *a = arg;
    const q3_weight x = { .data = a->x, .dtype = a->dtype };
    for (int64_t row = begin; row < end; row++) {
        float m = a->absmax[row] = absmax_of(&x, row * a->cols, a->cols);
        float scale =
            isfinite(m) ? fminf(127 / m, FLT_MAX) : 0; // a row of zeros, or nearly: 0 * FLT_MAX is 0
        for (int64_t i = row * a->cols; i < (row + 1) * a->cols; i++)
            a->codes[i] = (int8_t)(isfinite(m) ? nearest(q3_weight_at(&x, i) * scale) : 0);
    }
}

void q3_int8_quantize_cpu(const q3_int8_quantize_args *a)
{
    q3_int8_quantize_args copy = *a;
    q3_parallel(a->rows, 16384 / (a->cols + 1) + 1, quantize_rows, &copy);
}
