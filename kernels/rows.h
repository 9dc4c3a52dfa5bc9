/* kernels/rows.h - moving rows and columns of matrices: embedding, get_rows, put_rows, add_rows, get_columns,
 * interpolate and their gradients.
 *
 *   q3_take_rows       y_i = beta y_i + x[index_i]
 *   q3_spread_rows     y = beta y, then y[index_i] += x_i; rows may repeat and are added in the order of i
 *   q3_put_rows        y = x, then y[index_i] = s_i, or += s_i
 *   q3_put_rows_backward   y = beta y + x, but for the rows index_i, which take nothing from x
 *   q3_columns         a rectangle: y[t, c] = beta y[t, c] + x[t, c]
 *   q3_interpolate_*   y_p = sum_k w_pk table[tap_pk], k < 4, summed from left to right; its gradient spreads
 *                      w_pk dy_p over the table in the order of p
 *
 * beta is 0 (overwrite: y is not read) or 1. Cost: each element read and written once; bandwidth-bound, so
 * there is one source for all instruction sets, split over rows or, where rows of the result repeat, over
 * columns.
 */
#ifndef Q3_KERNELS_ROWS_H
#define Q3_KERNELS_ROWS_H

#include <stdbool.h>

#include "kernels/cuda.h"
#include "kernels/dtype.h"
#include "kernels/pool.h"

typedef struct q3_take_rows_args {
    void *y;              /* [n, C] */
    q3_weight x;          /* [.., C] */
    const int32_t *index; /* [n] */
    int64_t n, C;
    float beta;
    q3_dtype dtype; /* of y */
} q3_take_rows_args;

typedef struct q3_spread_rows_args {
    void *y;              /* [rows, C] */
    const void *x;        /* [n, C] */
    const int32_t *index; /* [n] */
    int64_t n, C, rows;
    int32_t skip; /* this index receives nothing; -1 for none */
    float beta;
    q3_dtype dtype, y_dtype; /* of x; of y: f32 where it is a parameter's gradient */
} q3_spread_rows_args;

typedef struct q3_put_rows_args {
    void *y;              /* [T, C]; put_rows_backward: dx */
    const void *x;        /* [T, C]; put_rows_backward: dy */
    const void *s;        /* [n, C]; put_rows_backward: unused */
    const int32_t *index; /* [n], distinct */
    int64_t T, C, n;
    bool add;       /* += s in place of = s */
    float beta;     /* put_rows_backward */
    uint8_t *taken; /* [T], put_rows_backward: scratch */
    q3_dtype dtype; /* of x, y and s */
} q3_put_rows_args;

typedef struct q3_columns_args {
    void *y;       /* [T, n], rows y_stride apart, from column y_begin on */
    const void *x; /* [T, n], rows x_stride apart, from column x_begin on; NULL for zeros */
    int64_t T, n, y_stride, x_stride, y_begin, x_begin;
    float beta;
    q3_dtype dtype; /* of x and y */
} q3_columns_args;

typedef struct q3_interpolate_args {
    void *y;              /* forward: [P, C] */
    q3_weight table;      /* forward: [G, C] */
    float *dtable;        /* backward: [G, C] */
    const void *dy;       /* backward: [P, C] */
    const int32_t *taps;  /* [P, 4] */
    const float *weights; /* [P, 4] */
    int64_t P, C, G;
    float beta;     /* backward */
    q3_dtype dtype; /* of y and dy */
} q3_interpolate_args;

void q3_take_rows_cpu(const q3_take_rows_args *a);
void q3_spread_rows_cpu(const q3_spread_rows_args *a);
void q3_put_rows_forward_cpu(const q3_put_rows_args *a);
void q3_put_rows_backward_cpu(const q3_put_rows_args *a);
void q3_columns_cpu(const q3_columns_args *a);
void q3_interpolate_forward_cpu(const q3_interpolate_args *a);
void q3_interpolate_backward_cpu(const q3_interpolate_args *a);

/* On the device; see kernels/cuda.h. */
void q3_take_rows_cuda(const q3_take_rows_args *a, q3_cuda *cuda);
void q3_spread_rows_cuda(const q3_spread_rows_args *a, q3_cuda *cuda);
void q3_put_rows_forward_cuda(const q3_put_rows_args *a, q3_cuda *cuda);
void q3_put_rows_backward_cuda(const q3_put_rows_args *a, q3_cuda *cuda);
void q3_columns_cuda(const q3_columns_args *a, q3_cuda *cuda);
void q3_interpolate_forward_cuda(const q3_interpolate_args *a, q3_cuda *cuda);
void q3_interpolate_backward_cuda(const q3_interpolate_args *a, q3_cuda *cuda);

#endif
