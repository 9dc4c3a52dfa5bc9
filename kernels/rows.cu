extern "C" {
#include "kernels/rows.h"
}
#include "kernels/int8.cuh"
#include "kernels/nf4.cuh"

/* Elements [at, at + N) of a weight, by how it is stored: S each, 4-bit codes, whose book the block opens, or int8. */
template <class S> struct plain_reader {
    const S *data;

    __device__ __forceinline__ void open(float *) const {}
    template <int N> __device__ __forceinline__ void read(float (&v)[N], int64_t at, const float *) const
    {
        q3_load(v, data + at);
    }
};

struct code_reader {
    const uint8_t *packed;
    q3_nf4_scales scales;
    q3_nf4_book book;

    __device__ __forceinline__ void open(float *values) const
    {
        for (int i = 0; i < 16; i++) // an index that varies would copy the argument to the stack
            if (threadIdx.x == 0)
                values[i] = book.value[i];
        __syncthreads();
    }
    template <int N>
    __device__ __forceinline__ void read(float (&v)[N], int64_t at, const float *values) const
    {
        for (int i = 0; i < N; i++)
            v[i] = values[q3_nibble(packed, at + i)] * q3_nf4_scale(scales, at + i);
    }
};

/* A piece lies in one row. */
struct int8_reader {
    const int8_t *codes;
    const float *absmax;
    int64_t cols;

    __device__ __forceinline__ void open(float *) const {}
    template <int N> __device__ __forceinline__ void read(float (&v)[N], int64_t at, const float *) const
    {
        q3_int8_load(v, codes + at, absmax[at / cols]);
    }
};

/* Host: runs the statement with R for the type of a reader of the weight w_ and `reader` for one. */
#define Q3_BY_WEIGHT(w_, R, reader, statement)                                                               \
    do {                                                                                                     \
        if ((w_)->dtype == Q3_BF16) {                                                                        \
            typedef plain_reader<q3_bf16> R;                                                                 \
            const R reader = { (const q3_bf16 *)(w_)->data };                                                \
            statement;                                                                                       \
        } else if ((w_)->dtype == Q3_F16) {                                                                  \
            typedef plain_reader<q3_f16> R;                                                                  \
            const R reader = { (const q3_f16 *)(w_)->data };                                                 \
            statement;                                                                                       \
        } else if ((w_)->dtype == Q3_F32) {                                                                  \
            typedef plain_reader<float> R;                                                                   \
            const R reader = { (const float *)(w_)->data };                                                  \
            statement;                                                                                       \
        } else if ((w_)->dtype == Q3_I8) {                                                                   \
            typedef int8_reader R;                                                                           \
            const R reader = { (const int8_t *)(w_)->data, (w_)->absmax, (w_)->block };                      \
            statement;                                                                                       \
        } else {                                                                                             \
            typedef code_reader R;                                                                           \
            const R reader = { (const uint8_t *)(w_)->data,                                                  \
                               q3_nf4_scales_of((w_)->absmax, &(w_)->nested, (w_)->block),                   \
                               q3_nf4_book_of((w_)->dtype) };                                                \
            statement;                                                                                       \
        }                                                                                                    \
    } while (0)

/* Elements that a thread takes at a time where rows are wide; codes are taken one by one. */
template <class T, class R> struct reading {
    enum { elements = q3_width<T>::elements };
};
template <class T> struct reading<T, code_reader> {
    enum { elements = 1 };
};

template <class T, int N, class R> static __global__ void take_rows(q3_take_rows_args a, R reader, int shift)
{
    Q3_SHARED(float, values, 16);
    reader.open(values);
    for (int64_t i = q3_first() >> shift; i < a.n; i += q3_stride() >> shift) {
        const int64_t from = a.index[i] * a.C, to = i * a.C;
        for (int64_t c = q3_lane(shift) * N; c < a.C; c += N << shift) {
            float v[N];
            reader.read(v, from + c, values);
            q3_store_to((T *)a.y + to + c, a.beta, v);
        }
    }
}

template <class T, int N, class R>
static void launch_take(const q3_take_rows_args *a, q3_cuda *cuda, const R &reader)
{
    int shift = q3_row_shift(a->C / N);
    Q3_LAUNCH(cuda, (take_rows<T, N, R>), q3_blocks(a->n << shift, Q3_THREADS), Q3_THREADS, 0, *a, reader,
              shift);
}

template <class T, class R>
static void launch_take(const q3_take_rows_args *a, q3_cuda *cuda, const R &reader)
{
    if (q3_wide<T>(a->C, a->y, a->x.data))
        launch_take<T, reading<T, R>::elements>(a, cuda, reader);
    else
        launch_take<T, 1>(a, cuda, reader);
}

template <class T> static void take(const q3_take_rows_args *a, q3_cuda *cuda)
{
    Q3_BY_WEIGHT(&a->x, R, reader, (launch_take<T, R>(a, cuda, reader)));
}

void q3_take_rows_cuda(const q3_take_rows_args *a, q3_cuda *cuda)
{
    if (a->n > 0)
        Q3_BY_TYPE(a->dtype, T, take<T>(a, cuda));
}

template <class T, int N, class R>
static __global__ void interpolate(q3_interpolate_args a, R reader, int shift)
{
    Q3_SHARED(float, values, 16);
    reader.open(values);
    for (int64_t p = q3_first() >> shift; p < a.P; p += q3_stride() >> shift)
        for (int64_t c = q3_lane(shift) * N; c < a.C; c += N << shift) {
            float sum[N], v[N];
            for (int k = 0; k < 4; k++) {
                const float weight = a.weights[4 * p + k];
                reader.read(v, a.taps[4 * p + k] * a.C + c, values);
                for (int i = 0; i < N; i++)
                    sum[i] = k == 0 ? weight * v[i] : sum[i] + weight * v[i];
            }
            q3_store((T *)a.y + p * a.C + c, sum);
        }
}

template <class T, int N, class R>
static void launch_interpolate(const q3_interpolate_args *a, q3_cuda *cuda, const R &reader)
{
    int shift = q3_row_shift(a->C / N);
    Q3_LAUNCH(cuda, (interpolate<T, N, R>), q3_blocks(a->P << shift, Q3_THREADS), Q3_THREADS, 0, *a, reader,
              shift);
}

template <class T, class R>
static void launch_interpolate(const q3_interpolate_args *a, q3_cuda *cuda, const R &reader)
{
    if (q3_wide<T>(a->C, a->y, a->table.data))
        launch_interpolate<T, reading<T, R>::elements>(a, cuda, reader);
    else
        launch_interpolate<T, 1>(a, cuda, reader);
}

template <class T> static void interpolate(const q3_interpolate_args *a, q3_cuda *cuda)
{
    Q3_BY_WEIGHT(&a->table, R, reader, (launch_interpolate<T, R>(a, cuda, reader)));
}

void q3_interpolate_forward_cuda(const q3_interpolate_args *a, q3_cuda *cuda)
{
    if (a->P > 0)
        Q3_BY_TYPE(a->dtype, T, interpolate<T>(a, cuda));
}

/* Adding rows up where several go to the same place: the n indices are sorted, so that those of one place lie side by
 * side in the order they came in, and whoever has the first of them adds all. */
typedef struct sorted_rows {
    int32_t *place;  /* [n] rising: where a row goes */
    int32_t *source; /* [n]: which row that is */
} sorted_rows;

enum { SORT_THREADS = 128, SORT_CHUNK = 1024 };

/* Every thread counts what comes before its index: n^2 comparisons, about 0.1 ms for 16384 rows on an H200 (computed
 * from its instruction rate, not measured), and nothing that depends on timing. */
static __global__ void sort_rows(sorted_rows to, const int32_t *index, int64_t n)
{
    Q3_SHARED(int32_t, chunk, SORT_CHUNK);
    const int64_t i = q3_first();
    const int32_t mine = i < n ? index[i] : 0;
    int32_t rank = 0;
    for (int64_t begin = 0; begin < n; begin += SORT_CHUNK) {
        const int count = n - begin < SORT_CHUNK ? (int)(n - begin) : (int)SORT_CHUNK;
        __syncthreads();
        for (int k = threadIdx.x; k < count; k += SORT_THREADS)
            chunk[k] = index[begin + k];
        __syncthreads();
        int before = 0; // indices of the chunk that stand before mine: of equal ones, those count
        if (i > begin)
            before = i - begin < count ? (int)(i - begin) : count;
        for (int k = 0; k < count; k++)
            rank += chunk[k] < mine || (chunk[k] == mine && k < before);
    }
    if (i < n) {
        to.place[rank] = mine;
        to.source[rank] = (int32_t)i;
    }
}

/* y[place] += sum of weight x[source / group]; weights NULL stand for 1. */
typedef struct spread_args {
    sorted_rows rows;
    const float *weights;
    int64_t n, C;
    int group;
    int32_t skip;
    bool add; /* to what y holds; else y is written */
} spread_args;

static __device__ __forceinline__ bool in_run(const spread_args &a, int64_t k, int32_t place)
{
    return k < a.n && a.rows.place[k] == place;
}

/* Up to BATCH rows of a place: all are on their way before the first is added. */
enum { BATCH = 4 };
template <class X, int N>
static __device__ __forceinline__ void add_batch(float (&sum)[N], const spread_args &a, int64_t k,
                                                 int32_t place, const X *x)
{
    float v[BATCH][N], weight[BATCH];
    bool there[BATCH];
    for (int j = 0; j < BATCH; j++) {
        there[j] = in_run(a, k + j, place);
        if (!there[j])
            continue;
        const int32_t source = a.rows.source[k + j];
        weight[j] = a.weights ? a.weights[source] : 1;
        q3_load(v[j], x + source / a.group * a.C);
    }
    for (int j = 0; j < BATCH; j++)
        for (int i = 0; i < N; i++)
            sum[i] = there[j] ? __fadd_rn(sum[i], __fmul_rn(weight[j], v[j][i])) : sum[i];
}

template <class Y, class X, int N> static __global__ void spread(spread_args a, Y *y, const X *x, int shift)
{
    for (int64_t first = q3_first() >> shift; first < a.n; first += q3_stride() >> shift) {
        const int32_t place = a.rows.place[first];
        if (place == a.skip || (first > 0 && a.rows.place[first - 1] == place))
            continue;
        for (int64_t c = q3_lane(shift) * N; c < a.C; c += N << shift) {
            float sum[N] = { 0 };
            if (a.add)
                q3_load(sum, y + place * a.C + c);
            for (int64_t k = first; in_run(a, k, place); k += BATCH)
                add_batch(sum, a, k, place, x + c);
            q3_store(y + place * a.C + c, sum);
        }
    }
}

template <class Y, class X, int N>
static void launch_spread(const spread_args *a, q3_cuda *cuda, void *y, const void *x)
{
    int shift = q3_row_shift(a->C / N);
    Q3_LAUNCH(cuda, (spread<Y, X, N>), q3_blocks(a->n << shift, Q3_THREADS), Q3_THREADS, 0, *a, (Y *)y,
              (const X *)x, shift);
}

template <class Y, class X>
static void launch_spread(const spread_args *a, q3_cuda *cuda, void *y, const void *x)
{
    if (q3_wide<X>(a->C, y, x))
        launch_spread<Y, X, q3_width<X>::elements>(a, cuda, y, x);
    else
        launch_spread<Y, X, 1>(a, cuda, y, x);
}

/* Sorts into the workspace; false where it is too small. */
static bool sort(spread_args *a, const int32_t *index, q3_cuda *cuda)
{
    size_t bytes = 2 * (size_t)a->n * sizeof(int32_t);
    if (bytes > cuda->workspace_bytes) {
        q3_cuda_fail(cuda, "adding up %lld rows needs %zu bytes of workspace, there are %zu", (long long)a->n,
                     bytes, cuda->workspace_bytes);
        return false;
    }
    a->rows.place = (int32_t *)cuda->workspace;
    a->rows.source = a->rows.place + a->n;
    Q3_LAUNCH(cuda, sort_rows, (unsigned)((a->n + SORT_THREADS - 1) / SORT_THREADS), SORT_THREADS, 0, a->rows,
              index, a->n);
    return true;
}

void q3_spread_rows_cuda(const q3_spread_rows_args *a, q3_cuda *cuda)
{
    spread_args s = { { NULL, NULL }, NULL, a->n, a->C, 1, a->skip, a->beta != 0 };
    if (a->beta == 0)
        q3_cuda_fill(cuda, a->y, 0, q3_dtype_bytes(a->y_dtype, a->rows * a->C));
    if (a->n == 0 || !sort(&s, a->index, cuda))
        return;
    Q3_BY_TYPE(a->y_dtype, Y, Q3_BY_TYPE(a->dtype, X, (launch_spread<Y, X>(&s, cuda, a->y, a->x))));
}

void q3_interpolate_backward_cuda(const q3_interpolate_args *a, q3_cuda *cuda)
{
    spread_args s = { { NULL, NULL }, a->weights, 4 * a->P, a->C, 4, -1, a->beta != 0 };
    if (a->beta == 0)
        q3_cuda_fill(cuda, a->dtable, 0, q3_dtype_bytes(Q3_F32, a->G * a->C));
    if (a->P > 0 && sort(&s, a->taps, cuda))
        Q3_BY_TYPE(a->dtype, X, (launch_spread<float, X>(&s, cuda, a->dtable, a->dy)));
}

template <class T, int N> static __global__ void put_rows(q3_put_rows_args a, int shift)
{
    for (int64_t i = q3_first() >> shift; i < a.n; i += q3_stride() >> shift) {
        T *y = (T *)a.y + a.index[i] * a.C;
        for (int64_t c = q3_lane(shift) * N; c < a.C; c += N << shift) {
            float v[N];
            q3_load(v, (const T *)a.s + i * a.C + c);
            q3_store_to(y + c, a.add ? 1.0f : 0.0f, v);
        }
    }
}

template <class T, int N> static void launch_put(const q3_put_rows_args *a, q3_cuda *cuda)
{
    int shift = q3_row_shift(a->C / N);
    Q3_LAUNCH(cuda, (put_rows<T, N>), q3_blocks(a->n << shift, Q3_THREADS), Q3_THREADS, 0, *a, shift);
}

template <class T> static void launch_put(const q3_put_rows_args *a, q3_cuda *cuda)
{
    if (q3_wide<T>(a->C, a->y, a->s))
        launch_put<T, q3_width<T>::elements>(a, cuda);
    else
        launch_put<T, 1>(a, cuda);
}

void q3_put_rows_forward_cuda(const q3_put_rows_args *a, q3_cuda *cuda)
{
    if (a->T > 0)
        q3_cuda_copy(cuda, a->y, a->x, q3_dtype_bytes(a->dtype, a->T * a->C));
    if (a->n > 0)
        Q3_BY_TYPE(a->dtype, T, launch_put<T>(a, cuda));
}

static __global__ void mark_taken(q3_put_rows_args a)
{
    for (int64_t i = q3_first(); i < a.n; i += q3_stride())
        a.taken[a.index[i]] = 1;
}

template <class T, int N> static __global__ void other_rows(q3_put_rows_args a, int shift)
{
    for (int64_t t = q3_first() >> shift; t < a.T; t += q3_stride() >> shift) {
        const bool taken = a.taken[t];
        if (taken && a.beta != 0)
            continue;
        for (int64_t c = q3_lane(shift) * N; c < a.C; c += N << shift) {
            float v[N] = { 0 };
            if (!taken)
                q3_load(v, (const T *)a.x + t * a.C + c);
            q3_store_to((T *)a.y + t * a.C + c, a.beta, v);
        }
    }
}

template <class T, int N> static void launch_others(const q3_put_rows_args *a, q3_cuda *cuda)
{
    int shift = q3_row_shift(a->C / N);
    Q3_LAUNCH(cuda, (other_rows<T, N>), q3_blocks(a->T << shift, Q3_THREADS), Q3_THREADS, 0, *a, shift);
}

template <class T> static void launch_others(const q3_put_rows_args *a, q3_cuda *cuda)
{
    if (q3_wide<T>(a->C, a->y, a->x))
        launch_others<T, q3_width<T>::elements>(a, cuda);
    else
        launch_others<T, 1>(a, cuda);
}

void q3_put_rows_backward_cuda(const q3_put_rows_args *a, q3_cuda *cuda)
{
    if (a->T == 0)
        return;
    q3_cuda_fill(cuda, a->taken, 0, (size_t)a->T);
    if (a->n > 0)
        Q3_LAUNCH(cuda, mark_taken, q3_blocks(a->n, Q3_THREADS), Q3_THREADS, 0, *a);
    Q3_BY_TYPE(a->dtype, T, launch_others<T>(a, cuda));
}

template <class T, int N> static __global__ void columns(q3_columns_args a, int shift)
{
    for (int64_t t = q3_first() >> shift; t < a.T; t += q3_stride() >> shift)
        for (int64_t c = q3_lane(shift) * N; c < a.n; c += N << shift) {
            float v[N] = { 0 };
            if (a.x)
                q3_load(v, (const T *)a.x + t * a.x_stride + c);
            q3_store_to((T *)a.y + t * a.y_stride + c, a.beta, v);
        }
}

template <class T, int N> static void launch_columns(const q3_columns_args *a, q3_cuda *cuda)
{
    int shift = q3_row_shift(a->n / N);
    Q3_LAUNCH(cuda, (columns<T, N>), q3_blocks(a->T << shift, Q3_THREADS), Q3_THREADS, 0, *a, shift);
}

template <class T> static void launch_columns(const q3_columns_args *a, q3_cuda *cuda)
{
    q3_columns_args at = *a; // the rectangles themselves
    at.y = (T *)a->y + a->y_begin;
    at.x = a->x ? (const T *)a->x + a->x_begin : NULL;
    at.x_stride = a->x ? a->x_stride : 0;
    if (q3_wide<T>(at.n | at.y_stride | at.x_stride, at.y, at.x))
        launch_columns<T, q3_width<T>::elements>(&at, cuda);
    else
        launch_columns<T, 1>(&at, cuda);
}

void q3_columns_cuda(const q3_columns_args *a, q3_cuda *cuda)
{
    if (a->T > 0 && a->n > 0 && (a->x || a->beta == 0))
        Q3_BY_TYPE(a->dtype, T, launch_columns<T>(a, cuda));
}
