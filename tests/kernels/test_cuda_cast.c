#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "kernels/cast.h"
#include "tests/support/device.h"

typedef struct cast_case {
    q3_dtype to, from;
    int64_t rows, cols, ldy, ldx;
    size_t shift; /* bytes off the alignment */
} cast_case;

static int64_t extent(int64_t rows, int64_t cols, int64_t ld)
{
    return ld ? (rows - 1) * ld + cols : rows * cols;
}

/* x [extent] of the source's type. */
static void check_values(q3_cuda *cuda, const cast_case *c, const void *x)
{
    const int64_t nx = extent(c->rows, c->cols, c->ldx), ny = extent(c->rows, c->cols, c->ldy);
    size_t bytes = q3_dtype_bytes(c->to, ny);
    float *wide = malloc((size_t)nx * 4);
    unsigned char *want = malloc(bytes), *got = malloc(bytes);
    memset(want, 0xFF, bytes); // what lies between the rows stays
    t_widen(wide, x, nx, c->from);
    for (int64_t r = 0; r < c->rows; r++)
        t_round(want + q3_dtype_bytes(c->to, r * (c->ldy ? c->ldy : c->cols)),
                wide + r * (c->ldx ? c->ldx : c->cols), c->cols, c->to);
    t_array dx = t_upload(cuda, x, q3_dtype_bytes(c->from, nx), c->shift),
            dy = t_upload(cuda, NULL, bytes, c->shift);
    q3_cast_cuda(&(q3_cast_args){ dy.at, dx.at, c->rows, c->cols, c->ldy, c->ldx, c->to, c->from }, cuda);
    t_download(got, &dy);
    for (int64_t i = 0; i < ny; i++) {
        float a, b;
        t_widen(&a, got + q3_dtype_bytes(c->to, i), 1, c->to);
        t_widen(&b, want + q3_dtype_bytes(c->to, i), 1, c->to);
        if (!(isnan(a) ? isnan(b) : a == b && signbit(a) == signbit(b)))
            fail_msg("%d from %d, %lld x %lld: element %lld is %a, expected %a", (int)c->to, (int)c->from,
                     (long long)c->rows, (long long)c->cols, (long long)i, (double)a, (double)b);
    }
    t_drop(&dx);
    t_drop(&dy);
    free(wide);
    free(want);
    free(got);
}

static void check(q3_cuda *cuda, const cast_case *c)
{
    const int64_t n = extent(c->rows, c->cols, c->ldx);
    float *x = malloc((size_t)n * 4);
    void *raw = malloc((size_t)n * 4);
    t_fill(x, n, 100.0f, 6);
    t_round(raw, x, n, c->from);
    check_values(cuda, c, raw);
    free(x);
    free(raw);
}

static void types_become_each_other_at_every_shape(void **state)
{
    (void)state;
    static const int64_t shapes[][4] = { { 1, 1, 0, 0 },    { 1, 7, 0, 0 },     { 33, 33, 0, 0 },
                                         { 1, 4097, 0, 0 }, { 7, 64, 72, 128 }, { 33, 16, 4112, 0 },
                                         { 5, 33, 40, 64 }, { 9, 64, 65, 64 } };
    q3_cuda *cuda = t_device();
    for (int to = Q3_F32; to <= Q3_F16; to++)
        for (int from = Q3_F32; from <= Q3_F16; from++)
            for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
                const int64_t *s = shapes[i];
                cast_case c = { (q3_dtype)to, (q3_dtype)from, s[0], s[1], s[2], s[3], 0 };
                check(cuda, &c);
                c.shift = 4;
                check(cuda, &c);
            }
    q3_cuda_close(cuda);
}

static void every_16_bit_value_is_converted(void **state)
{
    (void)state;
    q3_cuda *cuda = t_device();
    uint16_t *x = malloc(65536 * sizeof *x);
    for (int i = 0; i < 65536; i++)
        x[i] = (uint16_t)i;
    for (int to = Q3_F32; to <= Q3_F16; to++) {
        check_values(cuda, &(cast_case){ (q3_dtype)to, Q3_BF16, 1, 65536, 0, 0, 0 }, x);
        check_values(cuda, &(cast_case){ (q3_dtype)to, Q3_F16, 1, 65536, 0, 0, 0 }, x);
    }
    free(x);
    q3_cuda_close(cuda);
}

static void halves_round_to_even(void **state)
{
    (void)state;
    static const float odd[] = { 1.00390625f, 1.01171875f, 65519.996f,   65520.0f, -1e30f,
                                 3.4e38f,     INFINITY,    -INFINITY,    NAN,      0x1p-25f,
                                 0x1.8p-25f,  -0x1p-24f,   0x1p-133f,    1e-45f,   -0.0f,
                                 0x1.002p0f,  0x1.006p0f,  0x1.ffep-15f, 0x1p-126f };
    q3_cuda *cuda = t_device();
    check_values(cuda, &(cast_case){ Q3_BF16, Q3_F32, 1, sizeof odd / sizeof *odd, 0, 0, 0 }, odd);
    check_values(cuda, &(cast_case){ Q3_F16, Q3_F32, 1, sizeof odd / sizeof *odd, 0, 0, 0 }, odd);
    q3_cuda_close(cuda);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_become_each_other_at_every_shape),
        cmocka_unit_test(every_16_bit_value_is_converted),
        cmocka_unit_test(halves_round_to_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
