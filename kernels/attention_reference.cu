/* Plain kernels: float32 sums, either type, any head size up to 256. Tiles of 32 queries and 32 keys; the rows of a
 * product pass through shared memory in chunks of 64 columns, so that no head size needs more of it. */
#include "kernels/attention_device.cuh"

static const int ROWS = 32, THREADS = 128, CHUNK = 64;
static const int STRIDE = CHUNK + 1, WIDTH = ROWS + 1; // one more: rows begin in different banks
static const int SCORES = ROWS * WIDTH, STAGED = 2 * ROWS * STRIDE;
static const int COLUMNS = CHUNK / 4; // of a chunk, that one thread sums: four threads share a row

/* Up to 32 rows of one head of an array. */
template <class T> struct rows_of {
    T *at;
    int64_t stride;
    int count;
};

template <class T>
static __device__ rows_of<T> rows_at(T *x, int64_t row, int count, int heads, int head, int head_size)
{
    rows_of<T> r;
    r.at = x + (row * heads + head) * head_size;
    r.stride = (int64_t)heads * head_size;
    r.count = count < ROWS ? count : ROWS;
    return r;
}

/* Columns [column, column + CHUNK) of the rows into shared memory; zeros beyond both ends. */
template <class T>
static __device__ void stage(float *to, const rows_of<const T> &x, int column, int head_size)
{
    for (int e = threadIdx.x; e < ROWS * CHUNK; e += THREADS) {
        int r = e / CHUNK, c = column + e % CHUNK;
        to[r * STRIDE + e % CHUNK] = r < x.count && c < head_size ? q3_value(x.at[r * x.stride + c]) : 0.0f;
    }
}

/* s += X Y^T: this thread's rows row_of() + {0, 16} of X and column_of() + {0, 8, 16, 24} of Y. */
static __device__ __forceinline__ int row_of(int n)
{
    return threadIdx.x / 8 + 16 * n;
}
static __device__ __forceinline__ int column_of(int m)
{
    return threadIdx.x % 8 + 8 * m;
}

template <class T>
static __device__ void products(float (&s)[2][4], float *shared, const rows_of<const T> &x,
                                const rows_of<const T> &y, int head_size)
{
    float *xs = shared, *ys = shared + ROWS * STRIDE;
    for (int column = 0; column < head_size; column += CHUNK) {
        __syncthreads();
        stage(xs, x, column, head_size);
        stage(ys, y, column, head_size);
        __syncthreads();
        int columns = head_size - column < CHUNK ? head_size - column : CHUNK;
        for (int c = 0; c < columns; c++) {
            Q3_UNROLL
            for (int e = 0; e < 8; e++)
                s[e / 4][e % 4] += xs[row_of(e / 4) * STRIDE + c] * ys[column_of(e % 4) * STRIDE + c];
        }
    }
}

static __device__ __forceinline__ void clear(float (&s)[2][4])
{
    for (int a = 0; a < 2; a++)
        for (int b = 0; b < 4; b++)
            s[a][b] = 0;
}

template <int CHUNKS> static __device__ void clear(float (&out)[CHUNKS][COLUMNS])
{
    Q3_UNROLL
    for (int e = 0; e < CHUNKS * COLUMNS; e++)
        out[e / COLUMNS][e % COLUMNS] = 0;
}

/* out += W Y, W [32, 32] in shared memory. This thread has columns threadIdx.x % 4 + 4 i of each chunk, of row
 * threadIdx.x / 4. */
template <class T, int CHUNKS>
static __device__ void accumulate(float (&out)[CHUNKS][COLUMNS], const float *w, float *shared,
                                  const rows_of<const T> &y, int head_size)
{
    const float *mine = w + threadIdx.x / 4 * WIDTH;
    Q3_UNROLL
    for (int n = 0; n < CHUNKS; n++) {
        __syncthreads();
        stage(shared, y, n * CHUNK, head_size);
        __syncthreads();
        for (int j = 0; j < ROWS; j++) {
            Q3_UNROLL
            for (int i = 0; i < COLUMNS; i++)
                out[n][i] += mine[j] * shared[j * STRIDE + threadIdx.x % 4 + 4 * i];
        }
    }
}

/* y = beta y + factor out. */
template <class T, int CHUNKS>
static __device__ void store(const rows_of<T> &y, float beta, const float (&out)[CHUNKS][COLUMNS],
                             float factor, int head_size)
{
    int r = threadIdx.x / 4;
    if (r >= y.count)
        return;
    T *row = y.at + r * y.stride;
    Q3_UNROLL
    for (int e = 0; e < CHUNKS * COLUMNS; e++) {
        int c = threadIdx.x % 4 + 4 * e; // COLUMNS of them make a chunk
        if (c < head_size)
            q3_add_to(row + c, beta, factor * out[e / COLUMNS][e % COLUMNS]);
    }
}

static __device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
static __device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* Online softmax (Milakov & Gimelshein, arXiv:1805.02867) of one row, four threads a row. */
struct softmax_row {
    float largest, sum;
};

/* Turns the scores in w to weights; returns what sums so far are worth in the new scale. */
static __device__ float weigh(softmax_row *row, float *w)
{
    float *mine = w + threadIdx.x / 4 * WIDTH + threadIdx.x % 4, largest = row->largest, sum = 0;
    for (int n = 0; n < ROWS / 4; n++)
        largest = fmaxf(largest, mine[4 * n]);
    largest = quad_max(largest);
    float base = largest == -INFINITY ? 0.0f : largest, keep = q3_exp(row->largest - base);
    for (int n = 0; n < ROWS / 4; n++) {
        float x = q3_exp(mine[4 * n] - base);
        mine[4 * n] = x;
        sum += x;
    }
    row->largest = largest;
    row->sum = row->sum * keep + quad_sum(sum);
    return keep;
}

template <class T, int CHUNKS>
static __global__ void __launch_bounds__(THREADS,
                                         2) // two blocks a multiprocessor: nothing spills for a third
    reference_forward(q3_attention_view a, T *o, float *lse, const T *q, const T *k, const T *v)
{
    Q3_SHARED(float, shared, STAGED);
    Q3_SHARED(float, w, SCORES);
    const q3_attention_tile t = q3_attention_queries(a, ROWS);
    if (t.count <= 0)
        return;
    const int head = blockIdx.y, kv = head / (a.heads / a.kv_heads), D = a.head_size;
    const rows_of<const T> queries = rows_at(q, t.q_begin + t.first, t.count, a.heads, head, D);
    const int end = q3_attention_sees(a, t, t.first + t.count - 1);
    softmax_row row = { -INFINITY, 0 };
    float out[CHUNKS][COLUMNS];
    clear(out);
    for (int j0 = 0; j0 < end; j0 += ROWS) {
        const int64_t key = t.kv_begin + j0;
        float s[2][4];
        clear(s);
        products(s, shared, queries, rows_at(k, key, t.kv_len - j0, a.kv_heads, kv, D), D);
        for (int n = 0; n < 2; n++)
            for (int m = 0; m < 4; m++) {
                bool sees = j0 + column_of(m) < q3_attention_sees(a, t, t.first + row_of(n));
                w[row_of(n) * WIDTH + column_of(m)] = sees ? a.scale * s[n][m] : -INFINITY;
            }
        __syncthreads();
        float keep = weigh(&row, w);
        Q3_UNROLL
        for (int e = 0; e < CHUNKS * COLUMNS; e++)
            out[e / COLUMNS][e % COLUMNS] *= keep;
        accumulate(out, w, shared, rows_at(v, key, t.kv_len - j0, a.kv_heads, kv, D), D);
    }
    store(rows_at(o, t.q_begin + t.first, t.count, a.heads, head, D), 0.0f, out,
          row.sum != 0 ? 1 / row.sum : 0.0f, D);
    const int r = threadIdx.x / 4;
    if (lse && threadIdx.x % 4 == 0 && r < t.count)
        lse[(t.q_begin + t.first + r) * a.heads + head] = row.sum != 0 ? row.largest + logf(row.sum) : 0.0f;
}

/* Arrays of a backward kernel. */
template <class T> struct backward_arrays {
    const T *q, *k, *v, *dout;
    const float *lse, *delta;
    T *dq, *dk, *dv;
    float dq_beta, dk_beta, dv_beta;
};

template <class T, int CHUNKS>
static __global__ void __launch_bounds__(THREADS)
    reference_backward_queries(q3_attention_view a, backward_arrays<T> b)
{
    Q3_SHARED(float, shared, STAGED);
    Q3_SHARED(float, w, SCORES);
    const q3_attention_tile t = q3_attention_queries(a, ROWS);
    if (t.count <= 0)
        return;
    const int head = blockIdx.y, kv = head / (a.heads / a.kv_heads), D = a.head_size;
    const rows_of<const T> queries = rows_at(b.q, t.q_begin + t.first, t.count, a.heads, head, D),
                           douts = rows_at(b.dout, t.q_begin + t.first, t.count, a.heads, head, D);
    const int end = q3_attention_sees(a, t, t.first + t.count - 1);
    float out[CHUNKS][COLUMNS];
    clear(out);
    for (int j0 = 0; j0 < end; j0 += ROWS) {
        const rows_of<const T> keys = rows_at(b.k, t.kv_begin + j0, t.kv_len - j0, a.kv_heads, kv, D),
                               values = rows_at(b.v, t.kv_begin + j0, t.kv_len - j0, a.kv_heads, kv, D);
        float s[2][4], dp[2][4];
        clear(s), clear(dp);
        products(s, shared, queries, keys, D);
        products(dp, shared, douts, values, D);
        for (int n = 0; n < 2; n++) {
            const int i = t.first + row_of(n);
            const int64_t at = (t.q_begin + i) * a.heads + head;
            for (int m = 0; m < 4; m++) {
                bool sees = i < t.q_len && j0 + column_of(m) < q3_attention_sees(a, t, i);
                w[row_of(n) * WIDTH + column_of(m)] =
                    sees ? q3_exp(a.scale * s[n][m] - b.lse[at]) * (dp[n][m] - b.delta[at]) : 0.0f;
            }
        }
        accumulate(out, w, shared, keys, D);
    }
    store(rows_at(b.dq, t.q_begin + t.first, t.count, a.heads, head, D), b.dq_beta, out, a.scale, D);
}

/* The query heads of the group and their tiles one after the other. */
template <class T, int CHUNKS>
static __global__ void __launch_bounds__(THREADS)
    reference_backward_keys(q3_attention_view a, backward_arrays<T> b)
{
    Q3_SHARED(float, shared, STAGED);
    Q3_SHARED(float, p, SCORES);
    Q3_SHARED(float, ds, SCORES);
    const q3_attention_tile t = q3_attention_keys(a, ROWS);
    if (t.count <= 0)
        return;
    const int kv = blockIdx.y, group = a.heads / a.kv_heads, D = a.head_size;
    const rows_of<const T> keys = rows_at(b.k, t.kv_begin + t.first, t.count, a.kv_heads, kv, D),
                           values = rows_at(b.v, t.kv_begin + t.first, t.count, a.kv_heads, kv, D);
    const int begin = q3_attention_seen_from(a, t, t.first) / ROWS * ROWS;
    float dk[CHUNKS][COLUMNS], dv[CHUNKS][COLUMNS];
    clear(dk), clear(dv);
    for (int head = kv * group; head < (kv + 1) * group; head++)
        for (int i0 = begin; i0 < t.q_len; i0 += ROWS) {
            const rows_of<const T> queries = rows_at(b.q, t.q_begin + i0, t.q_len - i0, a.heads, head, D),
                                   douts = rows_at(b.dout, t.q_begin + i0, t.q_len - i0, a.heads, head, D);
            float s[2][4], dp[2][4];
            clear(s), clear(dp);
            products(s, shared, keys, queries, D);
            products(dp, shared, values, douts, D);
            for (int m = 0; m < 4; m++) {
                const int i = i0 + column_of(m);
                const int64_t at = (t.q_begin + i) * a.heads + head;
                for (int n = 0; n < 2; n++) {
                    bool sees = i < t.q_len && t.first + row_of(n) < q3_attention_sees(a, t, i);
                    float weight = sees ? q3_exp(a.scale * s[n][m] - b.lse[at]) : 0.0f;
                    p[row_of(n) * WIDTH + column_of(m)] = weight;
                    ds[row_of(n) * WIDTH + column_of(m)] = sees ? weight * (dp[n][m] - b.delta[at]) : 0.0f;
                }
            }
            accumulate(dv, p, shared, douts, D);
            accumulate(dk, ds, shared, queries, D);
        }
    if (b.dk)
        store(rows_at(b.dk, t.kv_begin + t.first, t.count, a.kv_heads, kv, D), b.dk_beta, dk, a.scale, D);
    if (b.dv)
        store(rows_at(b.dv, t.kv_begin + t.first, t.count, a.kv_heads, kv, D), b.dv_beta, dv, 1.0f, D);
}

static dim3 grid_of(const q3_attention_view &view, const q3_attention_args *a, int heads)
{
    return dim3((unsigned)(view.tiles * a->n_segments), (unsigned)heads);
}

template <class T, int CHUNKS> static void launch_forward(const q3_attention_args *a, q3_cuda *cuda)
{
    const q3_attention_view view = q3_attention_view_of(a, q3_attention_longest(a, 1), ROWS);
    if (view.tiles)
        Q3_LAUNCH(cuda, (reference_forward<T, CHUNKS>), grid_of(view, a, a->heads), THREADS, 0, view,
                  (T *)a->o, a->lse, (const T *)a->q, (const T *)a->k, (const T *)a->v);
}

template <class T, int CHUNKS> static void launch_backward(const q3_attention_backward_args *b, q3_cuda *cuda)
{
    const q3_attention_args *a = &b->f;
    const backward_arrays<T> arrays = {
        (const T *)a->q, (const T *)a->k, (const T *)a->v, (const T *)b->dout, a->lse,     b->delta,
        (T *)b->dq,      (T *)b->dk,      (T *)b->dv,      b->dq_beta,         b->dk_beta, b->dv_beta,
    };
    q3_attention_view view = q3_attention_view_of(a, q3_attention_longest(a, 1), ROWS);
    if (b->dq && view.tiles)
        Q3_LAUNCH(cuda, (reference_backward_queries<T, CHUNKS>), grid_of(view, a, a->heads), THREADS, 0, view,
                  arrays);
    view = q3_attention_view_of(a, q3_attention_longest(a, 3), ROWS);
    if ((b->dk || b->dv) && view.tiles)
        Q3_LAUNCH(cuda, (reference_backward_keys<T, CHUNKS>), grid_of(view, a, a->kv_heads), THREADS, 0, view,
                  arrays);
}

/* Accumulators are registers, so their number is a constant of the kernel. */
template <class T> static void forward(const q3_attention_args *a, q3_cuda *cuda)
{
    switch ((a->head_size + CHUNK - 1) / CHUNK) {
    case 1:
        return launch_forward<T, 1>(a, cuda);
    case 2:
        return launch_forward<T, 2>(a, cuda);
    default:
        return launch_forward<T, Q3_ATTENTION_MAX_D / CHUNK>(a, cuda);
    }
}

template <class T> static void backward(const q3_attention_backward_args *b, q3_cuda *cuda)
{
    switch ((b->f.head_size + CHUNK - 1) / CHUNK) {
    case 1:
        return launch_backward<T, 1>(b, cuda);
    case 2:
        return launch_backward<T, 2>(b, cuda);
    default:
        return launch_backward<T, Q3_ATTENTION_MAX_D / CHUNK>(b, cuda);
    }
}

void q3_attention_reference_forward(const q3_attention_args *a, q3_cuda *cuda)
{
    Q3_BY_TYPE(a->dtype, T, forward<T>(a, cuda));
}

void q3_attention_reference_backward(const q3_attention_backward_args *b, q3_cuda *cuda)
{
    Q3_BY_TYPE(b->f.dtype, T, backward<T>(b, cuda));
}
