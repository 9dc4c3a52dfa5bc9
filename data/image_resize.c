#include "data/image_resize.h"

#include <math.h>
#include <string.h>

#include "core/arena.h"

#define BLOCK 48 // bytes of a row that the vertical pass sums at once

/* One axis, n -> m: output i is the sum of weight[i * taps + j] * in[start[i] + j] over j < count[i]. */
typedef struct axis {
    int *start, *count; // [m]
    int32_t *weight;    // [m, taps]
    int taps;
    int bits; // fraction bits of the weights
} axis;

static double cubic(double x)
{
    x = fabs(x);
    if (x < 1)
        return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
}

/* The weights of output i in double; returns the largest. */
static double weigh(axis *a, double *w, int i, int n, double scale)
{
    double stretch = fmax(scale, 1), support = 2 * stretch, inverse = 1 / stretch;
    double center = (i + 0.5) * scale, sum = 0, largest = 0;
    int first = (int)(center - support + 0.5), end = (int)(center + support + 0.5);
    first = first > 0 ? first : 0;
    end = end < n ? end : n;
    for (int j = 0; j < end - first; j++)
        sum += w[j] = cubic((j + first - center + 0.5) * inverse);
    for (int j = 0; j < end - first; j++) {
        w[j] /= sum;
        largest = fmax(largest, w[j]);
    }
    a->start[i] = first;
    a->count[i] = end - first;
    return largest;
}

/* Fraction bits: fixed in Pillow; torch takes as many as keep the largest weight below 2^15. */
static int bits_of(double largest, q3_resize_flavour flavour)
{
    if (flavour == Q3_RESIZE_PILLOW)
        return 22;
    for (int bits = 0; bits < 22; bits++)
        if ((int)(0.5 + largest * (double)(1 << (bits + 1))) >= 1 << 15)
            return bits;
    return 22;
}

static void axis_free(axis *a)
{
    q3_free(a->start);
    q3_free(a->count);
    q3_free(a->weight);
    *a = (axis){ 0 };
}

static q3_status axis_init(axis *a, int n, int m, q3_resize_flavour flavour)
{
    double scale = (double)n / m, largest = 0;
    *a = (axis){ .taps = (int)ceil(2 * fmax(scale, 1)) * 2 + 1 };
    size_t cells = (size_t)m * (size_t)a->taps;
    a->start = q3_malloc((size_t)m * sizeof *a->start);
    a->count = q3_malloc((size_t)m * sizeof *a->count);
    a->weight = q3_malloc(cells * sizeof *a->weight);
    double *w = q3_malloc(cells * sizeof *w);
    if (!a->start || !a->count || !a->weight || !w) {
        q3_free(w);
        axis_free(a);
        return q3_wrap(Q3_ERR_MEMORY, "resizing a picture");
    }
    for (int i = 0; i < m; i++)
        largest = fmax(largest, weigh(a, w + (size_t)i * (size_t)a->taps, i, n, scale));
    a->bits = bits_of(largest, flavour);
    for (int i = 0; i < m; i++)
        for (size_t k = (size_t)i * (size_t)a->taps, end = k + (size_t)a->count[i]; k < end; k++)
            a->weight[k] = (int32_t)((w[k] < 0 ? -0.5 : 0.5) + w[k] * (double)(1 << a->bits));
    q3_free(w);
    return Q3_OK;
}

static inline uint8_t clamp(int32_t sum, int bits)
{
    int32_t v = sum >> bits;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void resize_rows(uint8_t *out, const uint8_t *in, int64_t rows, int n, int m, const axis *a)
{
    const int32_t half = 1 << (a->bits - 1);
    for (int64_t y = 0; y < rows; y++, in += 3 * (int64_t)n)
        for (int i = 0; i < m; i++, out += 3) {
            const uint8_t *p = in + 3 * (int64_t)a->start[i];
            const int32_t *w = a->weight + (int64_t)i * a->taps;
            int32_t r = half, g = half, b = half;
            for (int j = 0; j < a->count[i]; j++, p += 3) {
                r += w[j] * p[0];
                g += w[j] * p[1];
                b += w[j] * p[2];
            }
            out[0] = clamp(r, a->bits);
            out[1] = clamp(g, a->bits);
            out[2] = clamp(b, a->bits);
        }
}

/* `width` bytes of one output row as a weighted sum of `count` input rows. */
static void blend(uint8_t *out, const uint8_t *in, int64_t row_bytes, int width, const int32_t *w, int count,
                  int bits)
{
    int32_t sum[BLOCK];
    for (int x = 0; x < width; x++)
        sum[x] = 1 << (bits - 1);
    for (int j = 0; j < count; j++)
        for (int x = 0; x < width; x++)
            sum[x] += w[j] * in[j * row_bytes + x];
    for (int x = 0; x < width; x++)
        out[x] = clamp(sum[x], bits);
}

static void resize_columns(uint8_t *out, const uint8_t *in, int64_t row_bytes, int m, const axis *a)
{
    for (int i = 0; i < m; i++, out += row_bytes) {
        const uint8_t *from = in + a->start[i] * row_bytes;
        const int32_t *w = a->weight + (int64_t)i * a->taps;
        int64_t x = 0;
        for (; x + BLOCK <= row_bytes; x += BLOCK)
            blend(out + x, from + x, row_bytes, BLOCK, w, a->count[i], a->bits);
        blend(out + x, from + x, row_bytes, (int)(row_bytes - x), w, a->count[i], a->bits);
    }
}

/* One pass: along the rows (to `width`) or down the columns (to `height`). */
static q3_status pass(q3_image *out, const q3_image *in, int width, int height, q3_resize_flavour flavour)
{
    axis a;
    bool rows = width != in->width;
    Q3_TRY(axis_init(&a, rows ? in->width : in->height, rows ? width : height, flavour));
    *out = (q3_image){ width, height, q3_malloc((size_t)width * (size_t)height * 3) };
    if (out->rgb && rows)
        resize_rows(out->rgb, in->rgb, height, in->width, width, &a);
    else if (out->rgb)
        resize_columns(out->rgb, in->rgb, 3 * (int64_t)width, height, &a);
    axis_free(&a);
    return out->rgb ? Q3_OK : q3_wrap(Q3_ERR_MEMORY, "resizing a picture");
}

q3_status q3_image_resize(q3_image *out, const q3_image *in, int width, int height, q3_resize_flavour flavour)
{
    Q3_CHECK(width > 0 && height > 0, "%d x %d", width, height);
    q3_image middle = { 0 };
    *out = (q3_image){ 0 };
    if (width == in->width && height == in->height) {
        size_t n = (size_t)width * (size_t)height * 3;
        *out = (q3_image){ width, height, q3_malloc(n) };
        if (!out->rgb)
            return q3_wrap(Q3_ERR_MEMORY, "resizing a picture");
        memcpy(out->rgb, in->rgb, n);
        return Q3_OK;
    }
    if (width != in->width && height != in->height) {
        Q3_TRY(pass(&middle, in, width, in->height, flavour));
        in = &middle;
    }
    q3_status st = pass(out, in, width, height, flavour);
    q3_image_free(&middle);
    return st;
}
