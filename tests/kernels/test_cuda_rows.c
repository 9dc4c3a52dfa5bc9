/* Rows and columns that move, and rows that are added where they came from. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/dynamic_map.h"
#include "kernels/nf4.h"
#include "kernels/rows.h"
#include "tests/support/pair.h"

static const int64_t widths[] = { 1, 7, 8, 33, 256, 4097 };
enum { WIDTHS = sizeof widths / sizeof *widths };

/* n indices into [0, rows), some of them often. */
static t_pair indices(const t_case *c, int64_t n, int64_t rows, uint32_t seed)
{
    int32_t *index = malloc((size_t)n * sizeof *index + 1);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        index[i] = seed >> 30 ? (int32_t)((seed >> 8) % (uint32_t)rows) : (int32_t)(rows / 2);
    }
    t_pair p = t_copy(c, Q3_I32, index, n);
    free(index);
    return p;
}

/* Distinct: 0, 2, 4... */
static t_pair even_indices(const t_case *c, int64_t n)
{
    int32_t *index = malloc((size_t)n * sizeof *index + 1);
    for (int64_t i = 0; i < n; i++)
        index[i] = (int32_t)(2 * i);
    t_pair p = t_copy(c, Q3_I32, index, n);
    free(index);
    return p;
}

/* A table on both sides, in any form a weight may have. */
typedef struct table {
    q3_weight host, device;
    t_pair parts[5];
    int n_parts;
} table;

static const void *keep(table *t, t_pair p)
{
    t->parts[t->n_parts++] = p;
    return p.device.at;
}

static table table_16(const t_case *c, q3_dtype dtype, const float *x, int64_t n)
{
    table t = { .host = { .dtype = dtype }, .device = { .dtype = dtype } };
    void *rounded = malloc(q3_dtype_bytes(dtype, n));
    t_round(rounded, x, n, dtype);
    t_array device = t_upload(c->cuda, rounded, q3_dtype_bytes(dtype, n), 0);
    keep(&t, (t_pair){ rounded, device, dtype, n });
    t.host.data = rounded, t.device.data = device.at;
    return t;
}

static table table_4(const t_case *c, q3_dtype dtype, const float *x, int64_t n, bool nested)
{
    enum { BLOCK = 64 };
    table t = { .host = { .dtype = dtype, .block = BLOCK }, .device = { .dtype = dtype, .block = BLOCK } };
    int64_t blocks = (n + BLOCK - 1) / BLOCK, groups = (blocks + 255) / 256;
    uint8_t *packed = malloc((size_t)(n + 1) / 2), *codes = malloc((size_t)blocks);
    float *absmax = malloc((size_t)blocks * sizeof *absmax), *scale = malloc((size_t)groups * sizeof *scale);
    q3_nested *nest = &t.device.nested;
    q3_nf4_quantize_reference(&(q3_nf4_quantize_args){ packed, absmax, x, Q3_F32, dtype, BLOCK, n });
    if (nested) {
        q3_nf4_nest_cpu(codes, scale, &nest->offset, absmax, blocks);
        q3_nf4_unnest_cpu(absmax, codes, scale, nest->offset, q3_dynamic_map_signed, blocks);
        nest->codes = keep(&t, t_copy(c, Q3_U8, codes, blocks));
        nest->scale = keep(&t, t_copy(c, Q3_F32, scale, groups));
        nest->map = keep(&t, t_copy(c, Q3_F32, q3_dynamic_map_signed, 256));
    }
    const float *device_absmax = keep(&t, t_copy(c, Q3_F32, absmax, blocks));
    t.device.absmax = nested ? NULL : device_absmax;
    t.host.absmax = t.parts[t.n_parts - 1].host;
    t.device.data = keep(&t, t_copy(c, Q3_U8, packed, (n + 1) / 2));
    t.host.data = t.parts[t.n_parts - 1].host;
    free(packed);
    free(codes);
    free(absmax);
    free(scale);
    return t;
}

/* Forms of a table. */
enum { FORM_F32, FORM_BF16, FORM_F16, FORM_NF4, FORM_FP4, FORM_NESTED, FORM_INT4, FORMS };

static table table_of(const t_case *c, int form, int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    t_fill(x, n, 1, 77);
    const q3_dtype dtypes[FORMS] = { Q3_F32, Q3_BF16, Q3_F16, Q3_NF4, Q3_FP4, Q3_NF4, Q3_I4 };
    table t = form < FORM_NF4 ? table_16(c, dtypes[form], x, n)
                              : table_4(c, dtypes[form], x, n, form == FORM_NESTED);
    free(x);
    return t;
}

static void drop_table(table *t)
{
    for (int i = 0; i < t->n_parts; i++)
        t_free(&t->parts[i]);
}

static void take_with(const t_case *c, int form, int64_t n, int64_t C, float beta)
{
    enum { ROWS = 40 };
    table x = table_of(c, form, ROWS * C);
    t_pair y = t_result(c, n * C, beta, 1), index = indices(c, n, ROWS, 2);
    q3_take_rows_cpu(&(q3_take_rows_args){ y.host, x.host, index.host, n, C, beta, Q3_F32 });
    q3_take_rows_cuda(&(q3_take_rows_args){ y.device.at, x.device, index.device.at, n, C, beta, c->dtype },
                      c->cuda);
    t_agree("taken rows", &y);
    t_free(&index);
    drop_table(&x);
}

static void take(const t_case *c)
{
    for (int k = 0; k < WIDTHS; k++)
        for (int form = 0; form < FORMS; form++)
            take_with(c, form, form == k ? 0 : 9, widths[k], (form + k) % 2);
}

static void interpolate_with(const t_case *c, int form, int64_t P, int64_t C)
{
    enum { G = 40 };
    table x = table_of(c, form, G * C);
    t_pair y = t_result(c, P * C, 0, 0), taps = indices(c, 4 * P, G, 2), weights = t_random_f32(c, 4 * P, 3);
    q3_interpolate_args a = { .y = y.host, .table = x.host, .taps = taps.host, .weights = weights.host };
    a.P = P, a.C = C, a.G = G;
    q3_interpolate_forward_cpu(&a);
    a.y = y.device.at, a.table = x.device, a.taps = taps.device.at, a.weights = weights.device.at,
    a.dtype = c->dtype;
    q3_interpolate_forward_cuda(&a, c->cuda);
    t_agree("interpolated rows", &y);
    t_free(&taps);
    t_free(&weights);
    drop_table(&x);
}

static void interpolate(const t_case *c)
{
    for (int k = 0; k < WIDTHS; k++)
        for (int form = 0; form < FORMS; form++)
            interpolate_with(c, form, form == k ? 0 : 9, widths[k]);
}

/* In f32, rows are added in the order of the CPU: the same bits. y is f32 beside bfloat16 x, and x's type else. */
static void spread_with(const t_case *c, int64_t n, int64_t C, int64_t rows, int32_t skip, float beta,
                        bool parameter)
{
    t_pair y = parameter ? t_result_f32(c, rows * C, beta, 1) : t_result(c, rows * C, beta, 1);
    t_pair x = t_random(c, n * C, 2), index = indices(c, n, rows, 3);
    q3_spread_rows_args a = { y.host, x.host, index.host, n, C, rows, skip, beta, Q3_F32, Q3_F32 };
    q3_spread_rows_cpu(&a);
    a.y = y.device.at, a.x = x.device.at, a.index = index.device.at, a.dtype = c->dtype, a.y_dtype = y.dtype;
    q3_spread_rows_cuda(&a, c->cuda);
    y.dtype == Q3_F32 ? t_agree_within("spread rows", &y, 0) : t_agree("spread rows", &y);
    t_free(&x);
    t_free(&index);
}

static void spread(const t_case *c)
{
    for (int k = 0; k < WIDTHS; k++)
        for (int form = 0; form < 4; form++)
            spread_with(c, 50, widths[k], 20, form == 2 ? 10 : -1, form % 2, form / 2);
    spread_with(c, 0, 33, 5, -1, 0, true);
    spread_with(c, 0, 33, 5, -1, 1, false);
    spread_with(c, 2500, 8, 2000, -1, 0, true); // more than a chunk of the sort
    spread_with(c, 1200, 8, 1, -1, 1, true);    // all in one place
}

static void spread_taps_with(const t_case *c, int64_t P, int64_t C, float beta)
{
    enum { G = 25 };
    t_pair dtable = t_result_f32(c, G * C, beta, 1), dy = t_random(c, P * C, 2);
    t_pair taps = indices(c, 4 * P, G, 3), weights = t_random_f32(c, 4 * P, 4);
    q3_interpolate_args a = {
        .dtable = dtable.host, .dy = dy.host, .taps = taps.host, .weights = weights.host
    };
    a.P = P, a.C = C, a.G = G, a.beta = beta;
    q3_interpolate_backward_cpu(&a);
    a.dtable = dtable.device.at, a.dy = dy.device.at, a.taps = taps.device.at, a.weights = weights.device.at;
    a.dtype = c->dtype;
    q3_interpolate_backward_cuda(&a, c->cuda);
    t_agree_within("interpolation's gradient", &dtable, 0);
    t_free(&dy);
    t_free(&taps);
    t_free(&weights);
}

static void spread_taps(const t_case *c)
{
    for (int k = 0; k < WIDTHS; k++)
        for (int beta = 0; beta < 2; beta++)
            spread_taps_with(c, 13, widths[k], (float)beta);
    spread_taps_with(c, 0, 33, 0);
    spread_taps_with(c, 300, 8, 0);
}

static void put_with(const t_case *c, int64_t T, int64_t n, int64_t C, bool add)
{
    t_pair y = t_result(c, T * C, 0, 0), x = t_random(c, T * C, 1), s = t_random(c, n * C, 2);
    t_pair index = even_indices(c, n);
    q3_put_rows_args a = {
        .y = y.host, .x = x.host, .s = s.host, .index = index.host, .T = T, .C = C, .n = n
    };
    a.add = add;
    q3_put_rows_forward_cpu(&a);
    a.y = y.device.at, a.x = x.device.at, a.s = s.device.at, a.index = index.device.at, a.dtype = c->dtype;
    q3_put_rows_forward_cuda(&a, c->cuda);
    t_agree("put rows", &y);
    t_free(&x);
    t_free(&s);
    t_free(&index);
}

static void put_backward_with(const t_case *c, int64_t T, int64_t n, int64_t C, float beta)
{
    uint8_t *zeros = calloc((size_t)T + 1, 1);
    t_pair y = t_result(c, T * C, beta, 3), x = t_random(c, T * C, 1);
    t_pair index = even_indices(c, n), taken = t_copy(c, Q3_U8, zeros, T);
    q3_cuda_fill(c->cuda, taken.device.at, 7, (size_t)T);
    q3_put_rows_args a = {
        .y = y.host, .x = x.host, .index = index.host, .T = T, .C = C, .n = n, .beta = beta
    };
    a.taken = taken.host;
    q3_put_rows_backward_cpu(&a);
    a.y = y.device.at, a.x = x.device.at, a.index = index.device.at, a.taken = taken.device.at,
    a.dtype = c->dtype;
    q3_put_rows_backward_cuda(&a, c->cuda);
    t_agree("gradient of rows that were put", &y);
    t_free(&x);
    t_free(&index);
    t_free(&taken);
    free(zeros);
}

static void put(const t_case *c)
{
    for (int k = 0; k < WIDTHS; k++)
        for (int form = 0; form < 2; form++) {
            put_with(c, 9, k == 2 ? 0 : 4, widths[k], form);
            put_backward_with(c, 9, k == 2 ? 0 : 4, widths[k], (float)form);
        }
    put_with(c, 0, 0, 8, false);
    put_backward_with(c, 0, 0, 8, 0);
}

static void columns_with(const t_case *c, int64_t n, int64_t y_begin, int64_t x_begin, bool zeros, float beta)
{
    enum { T = 5, X_STRIDE = 96 };
    const int64_t y_stride = y_begin + n + (n % 8 ? 3 : 8);
    t_pair y = t_random(c, T * y_stride, 1), x = t_random(c, T * X_STRIDE, 2);
    q3_columns_args a = { y.host, zeros ? NULL : x.host, T, n, y_stride, X_STRIDE, y_begin, x_begin, beta,
                          Q3_F32 };
    q3_columns_cpu(&a);
    a.y = y.device.at, a.x = zeros ? NULL : x.device.at, a.dtype = c->dtype;
    q3_columns_cuda(&a, c->cuda);
    t_agree("columns", &y);
    t_free(&x);
}

static void columns(const t_case *c)
{
    for (int form = 0; form < 4; form++) {
        columns_with(c, 33, 3, 5, form & 1, form / 2);
        columns_with(c, 32, 16, 8, form & 1, form / 2);
        columns_with(c, 32, 4, 8, form & 1, form / 2);
        columns_with(c, 32, 16, 1, form & 1, form / 2);
        columns_with(c, 0, 16, 8, form & 1, form / 2);
    }
}

T_CASES(taken_rows_are_the_cpus, take)
T_CASES(interpolated_rows_are_the_cpus, interpolate)
T_CASES(rows_of_one_place_are_added_in_order, spread)
T_CASES(taps_of_one_place_are_added_in_order, spread_taps)
T_CASES(rows_are_put_and_their_gradients_withheld, put)
T_CASES(columns_move, columns)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(taken_rows_are_the_cpus),
        cmocka_unit_test(interpolated_rows_are_the_cpus),
        cmocka_unit_test(rows_of_one_place_are_added_in_order),
        cmocka_unit_test(taps_of_one_place_are_added_in_order),
        cmocka_unit_test(rows_are_put_and_their_gradients_withheld),
        cmocka_unit_test(columns_move),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
