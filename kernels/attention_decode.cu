/* Few queries against many keys: decoding. Keys are split into runs of 256, whose softmaxes are put together by a
 * second kernel in the order of the runs (Flash-Decoding: Dao, Haziza, Massa & Sizov, 2023). A run's length is fixed,
 * so a result depends on nothing but its row's keys: not on the batch, not on the card.
 *
 * A block takes one run of one row for up to 4 query heads that share their keys, so that these are read once.
 * Teams of 16 threads take a key at a time, 16 bytes a thread.
 */
#include "kernels/attention_device.cuh"
#include "kernels/kv_cache.cuh"

static const int RUN = 256, THREADS = 128, HEADS = 4, TEAM = 16;
static const int TEAMS = THREADS / TEAM, WARPS = THREADS / 32;
static const int MOST_QUERIES = 4; // of a segment; more are worth a tile of the other kernels
static const int SLICE = 16;       // rows of many queries whose keys are laid out at a time

/* One query and its keys. */
struct decode_row {
    int64_t query; /* row of q and o; negative: there is none */
    int64_t first; /* of keys that lie one behind another */
    const int32_t *table;
    int from, keys; // it sees keys [from, keys)
};

/* Rows are queries of segments, `queries` rows a segment. */
struct segment_rows {
    const int64_t *segments;
    int queries;
    bool causal;

    __device__ __forceinline__ decode_row at(int64_t r) const
    {
        const int64_t *s = segments + r / queries * 4;
        const int64_t i = r % queries, n = causal ? s[3] - s[1] + i + 1 : s[3];
        decode_row row = { i < s[1] ? s[0] + i : -1, s[2], NULL, 0, n < 0 ? 0 : (int)n };
        return row;
    }
    __device__ __forceinline__ int64_t key(const decode_row &row, int j) const { return row.first + j; }
};

/* The same, of sequences with at most `most` queries; the others are none of this kernel's. */
struct paged_rows {
    const int32_t *tables, *lengths, *begins;
    int max_blocks, block;
    int64_t queries, most, window;

    __device__ __forceinline__ decode_row at(int64_t x) const
    {
        const int64_t r = x / queries, i = x % queries, n = begins[r + 1] - begins[r];
        const int64_t sees = lengths[r] - n + i + 1;
        decode_row row = { i < n && n <= most ? begins[r] + i : -1, 0, tables + r * max_blocks, 0, 0 };
        row.keys = sees < 0 ? 0 : (int)sees;
        row.from = window && sees > window ? (int)(sees - window) : 0;
        return row;
    }
    __device__ __forceinline__ int64_t key(const decode_row &row, int j) const
    {
        return (int64_t)row.table[j / block] * block + j % block;
    }
};

struct decode_shape {
    int64_t first; /* row of this launch */
    int runs;      /* of the longest row */
    int heads, kv_heads, head_size;
    float scale;
    const float *k_scales, *v_scales; /* of a quantized slab */
    float *values,
        *stats; /* of each row of the launch, head and run: [D]; largest score and sum of weights */
};

/* Row and run of block x, and where its results go for the given head. */
static __device__ __forceinline__ int64_t partial_at(const decode_shape &a, int64_t row, int head, int run)
{
    return (row * a.heads + head) * a.runs + run;
}

template <class T, int PIECES>
static __device__ __forceinline__ void load_row(float (&x)[PIECES][q3_width<T>::elements], const T *row,
                                                int head_size)
{
    const int W = q3_width<T>::elements;
    Q3_UNROLL
    for (int n = 0; n < PIECES; n++) {
        int c = (n * TEAM + (int)threadIdx.x % TEAM) * W;
        if (c < head_size) {
            q3_load(x[n], row + c);
        } else {
            Q3_UNROLL
            for (int e = 0; e < W; e++)
                x[n][e] = 0;
        }
    }
}

/* The same for a head of a slab, in pieces as wide as those of the queries. */
template <class S, int PIECES, int W>
static __device__ __forceinline__ void load_key(float (&x)[PIECES][W], const S *data, const float *scales,
                                                int64_t head, int head_size)
{
    Q3_UNROLL
    for (int n = 0; n < PIECES; n++) {
        int c = (n * TEAM + (int)threadIdx.x % TEAM) * W;
        if (c < head_size) {
            q3_kv_read(x[n], data, scales, head, c, head_size);
        } else {
            Q3_UNROLL
            for (int e = 0; e < W; e++)
                x[n][e] = 0;
        }
    }
}

/* w[h][n] = scale q_h.k_n for the `count` keys of the run, for all HEADS; heads behind `heads` count as zero. */
template <class T, int PIECES, class S, class Rows>
static __device__ void scores(float *w, const Rows &rows, const decode_row &row, const decode_shape &a,
                              const T *q, const S *k, int kv, int heads, int begin, int count)
{
    const int W = q3_width<T>::elements;
    float qs[HEADS][PIECES][W], x[PIECES][W];
    Q3_UNROLL
    for (int h = 0; h < HEADS; h++)
        load_row<T, PIECES>(qs[h], q + (h < heads ? h * a.head_size : 0), a.head_size);
    for (int n0 = (int)threadIdx.x / 32 * 2; n0 < count;
         n0 += TEAMS) { // the two teams of a warp stay together
        int n = n0 + (int)threadIdx.x % 32 / TEAM, there = n < count ? n : n0;
        load_key(x, k, a.k_scales, rows.key(row, begin + there) * a.kv_heads + kv, a.head_size);
        Q3_UNROLL
        for (int h = 0; h < HEADS; h++) {
            float dot = 0;
            Q3_UNROLL
            for (int e = 0; e < PIECES * W; e++)
                dot += qs[h][e / W][e % W] * x[e / W][e % W];
            for (int step = TEAM / 2; step; step /= 2)
                dot += __shfl_xor_sync(0xffffffffu, dot, step);
            if (threadIdx.x % TEAM == 0 && n < count)
                w[h * RUN + n] = a.scale * dot;
        }
    }
}

/* One warp: scores to weights; lane 0 keeps the largest score and the sum of the weights. */
static __device__ void weigh(float *w, int count, float *stats)
{
    const int lane = threadIdx.x % 32;
    float largest = -INFINITY, sum = 0;
    for (int n = lane; n < count; n += 32)
        largest = fmaxf(largest, w[n]);
    largest = q3_warp_max(largest);
    for (int n = lane; n < count; n += 32) {
        float x = q3_exp(w[n] - largest);
        w[n] = x;
        sum += x;
    }
    sum = q3_warp_sum(sum);
    if (lane == 0 && stats)
        stats[0] = largest, stats[1] = sum;
}

/* Sums of this team over its keys, then over the teams in order: out [HEADS, columns] of each warp in shared memory. */
template <class T, int PIECES, class S, class Rows>
static __device__ void values(float *out, const float *w, const Rows &rows, const decode_row &row,
                              const decode_shape &a, const S *v, int kv, int begin, int count)
{
    const int W = q3_width<T>::elements, COLUMNS = TEAM * W * PIECES;
    float sums[HEADS][PIECES * W], x[PIECES][W];
    Q3_UNROLL
    for (int e = 0; e < HEADS * PIECES * W; e++)
        sums[e / (PIECES * W)][e % (PIECES * W)] = 0;
    for (int n = (int)threadIdx.x / TEAM; n < count; n += TEAMS) {
        load_key(x, v, a.v_scales, rows.key(row, begin + n) * a.kv_heads + kv, a.head_size);
        Q3_UNROLL
        for (int e = 0; e < HEADS * PIECES * W; e++) {
            const int h = e / (PIECES * W), c = e % (PIECES * W);
            sums[h][c] += w[h * RUN + n] * x[c / W][c % W];
        }
    }
    Q3_UNROLL
    for (int e = 0; e < HEADS * PIECES * W; e++) {
        const int h = e / (PIECES * W), c = e % (PIECES * W);
        float sum = sums[h][c] + __shfl_xor_sync(0xffffffffu, sums[h][c], TEAM);
        if (threadIdx.x % 32 < TEAM)
            out[((int)threadIdx.x / 32 * HEADS + h) * COLUMNS + (c / W * TEAM + (int)threadIdx.x % TEAM) * W +
                c % W] = sum;
    }
}

template <class T, int PIECES, class S, class Rows>
static __global__ void __launch_bounds__(THREADS)
    decode_run(Rows rows, decode_shape a, const T *q, const S *k, const S *v)
{
    const int COLUMNS = TEAM * q3_width<T>::elements * PIECES;
    Q3_SHARED(float, w, HEADS *RUN);
    Q3_SHARED(float, sums, WARPS *HEADS *COLUMNS);
    const int64_t r = blockIdx.x / (unsigned)a.runs;
    const int run = blockIdx.x % (unsigned)a.runs, warp = threadIdx.x / 32;
    const decode_row row = rows.at(a.first + r);
    const int begin = run * RUN < row.from ? row.from : run * RUN;
    const int end = (run + 1) * RUN < row.keys ? (run + 1) * RUN : row.keys, count = end - begin;
    if (row.query < 0 || count <= 0)
        return;
    const int group = a.heads / a.kv_heads, parts = (group + HEADS - 1) / HEADS;
    const int kv = blockIdx.y / parts, part = blockIdx.y % parts * HEADS, head = kv * group + part;
    const int heads = group - part < HEADS ? group - part : HEADS;

    scores<T, PIECES>(w, rows, row, a, q + (row.query * a.heads + head) * a.head_size, k, kv, heads, begin,
                      count);
    __syncthreads();
    if (warp < HEADS)
        weigh(w + warp * RUN, count, warp < heads ? a.stats + 2 * partial_at(a, r, head + warp, run) : NULL);
    __syncthreads();
    values<T, PIECES>(sums, w, rows, row, a, v, kv, begin, count);
    __syncthreads();
    for (int e = threadIdx.x; e < heads * a.head_size; e += THREADS) {
        const int h = e / a.head_size, c = e % a.head_size;
        float sum = 0;
        for (int n = 0; n < WARPS; n++)
            sum += sums[(n * HEADS + h) * COLUMNS + c];
        a.values[partial_at(a, r, head + h, run) * a.head_size + c] = sum;
    }
}

/* One block a row and head. */
template <class T, class Rows>
static __global__ void __launch_bounds__(THREADS) decode_combine(Rows rows, decode_shape a, T *o, float *lse)
{
    const int64_t r = blockIdx.x;
    const int head = blockIdx.y;
    const decode_row row = rows.at(a.first + r);
    if (row.query < 0)
        return;
    const int first = row.from / RUN, runs = (row.keys + RUN - 1) / RUN;
    const float *stats = a.stats + 2 * partial_at(a, r, head, 0);
    const float *part = a.values + partial_at(a, r, head, 0) * a.head_size;
    float largest = -INFINITY, sum = 0;
    for (int n = first; n < runs; n++)
        largest = fmaxf(largest, stats[2 * n]);
    for (int n = first; n < runs; n++)
        sum += stats[2 * n + 1] * q3_exp(stats[2 * n] - largest);
    for (int c = threadIdx.x; c < a.head_size; c += THREADS) {
        float x = 0;
        for (int n = first; n < runs; n++)
            x += part[n * a.head_size + c] * q3_exp(stats[2 * n] - largest);
        q3_set(o + (row.query * a.heads + head) * a.head_size + c, runs ? x / sum : 0.0f);
    }
    if (lse && threadIdx.x == 0)
        lse[row.query * a.heads + head] = runs ? largest + logf(sum) : 0.0f;
}

/* The arrays, whoever's they are; k and v of one type. */
struct decode_arrays {
    void *o;
    float *lse;
    const void *q, *k, *v;
    q3_dtype cache;
};

template <class T, int PIECES, class S, class Rows>
static void launch(const Rows &rows, const decode_shape &shape, int64_t count, const decode_arrays &arrays,
                   q3_cuda *cuda)
{
    const int group = shape.heads / shape.kv_heads;
    const dim3 grid((unsigned)(count * shape.runs),
                    (unsigned)(shape.kv_heads * ((group + HEADS - 1) / HEADS)));
    Q3_LAUNCH(cuda, (decode_run<T, PIECES, S, Rows>), grid, THREADS, 0, rows, shape, (const T *)arrays.q,
              (const S *)arrays.k, (const S *)arrays.v);
    Q3_LAUNCH(cuda, (decode_combine<T, Rows>), dim3((unsigned)count, (unsigned)shape.heads), THREADS, 0, rows,
              shape, (T *)arrays.o, arrays.lse);
}

template <class T, class S, class Rows>
static void launch_by_size(const Rows &rows, const decode_shape &shape, int64_t count,
                           const decode_arrays &arrays, q3_cuda *cuda)
{
    const int once = TEAM * q3_width<T>::elements; // columns that a team reads at once
    if (shape.head_size <= once)
        launch<T, 1, S>(rows, shape, count, arrays, cuda);
    else if (shape.head_size <= 2 * once)
        launch<T, 2, S>(rows, shape, count, arrays, cuda);
    else
        launch<T, Q3_ATTENTION_MAX_D * sizeof(T) / (16 * TEAM), S>(rows, shape, count, arrays, cuda);
}

/* Keys of segments have the type of the queries, those of a slab any. */
template <class T>
static void launch_by_cache(const segment_rows &rows, const decode_shape &shape, int64_t count,
                            const decode_arrays &arrays, q3_cuda *cuda)
{
    launch_by_size<T, T>(rows, shape, count, arrays, cuda);
}
template <class T>
static void launch_by_cache(const paged_rows &rows, const decode_shape &shape, int64_t count,
                            const decode_arrays &arrays, q3_cuda *cuda)
{
    Q3_BY_CACHE(arrays.cache, S, (launch_by_size<T, S>(rows, shape, count, arrays, cuda)));
}

/* As many rows at a time as the workspace has room for the results of. */
template <class Rows>
static void decode(const Rows &rows, decode_shape shape, int64_t n_rows, int64_t longest, q3_dtype dtype,
                   const decode_arrays &arrays, q3_cuda *cuda)
{
    shape.runs = longest < RUN ? 1 : (int)((longest + RUN - 1) / RUN);
    const int64_t parts = (int64_t)shape.heads * shape.runs; // of a row
    const size_t row_bytes = (size_t)parts * (size_t)(shape.head_size + 2) * sizeof(float);
    const int64_t most = (int64_t)(cuda->workspace_bytes / row_bytes);
    if (most < 1)
        return q3_cuda_fail(cuda, "attention to %lld keys needs a workspace of %zu bytes, there are %zu",
                            (long long)longest, row_bytes, cuda->workspace_bytes);
    for (shape.first = 0; shape.first < n_rows; shape.first += most) {
        const int64_t count = n_rows - shape.first < most ? n_rows - shape.first : most;
        shape.values = (float *)cuda->workspace;
        shape.stats = shape.values + count * parts * shape.head_size;
        Q3_BY_TYPE(dtype, T, launch_by_cache<T>(rows, shape, count, arrays, cuda));
    }
}

static decode_shape shape_of(int heads, int kv_heads, int head_size, float scale)
{
    decode_shape shape = decode_shape();
    shape.heads = heads, shape.kv_heads = kv_heads, shape.head_size = head_size;
    shape.scale = scale;
    return shape;
}

static bool whole_pieces(int head_size, q3_dtype dtype, const void *q, const void *k, const void *v)
{
    return q3_dtype_bytes(dtype, head_size) % 16 == 0 && head_size <= Q3_ATTENTION_MAX_D &&
           q3_attention_aligned(q) && q3_attention_aligned(k) && q3_attention_aligned(v);
}

bool q3_attention_decode_takes(const q3_attention_args *a)
{
    return q3_attention_longest(a, 1) <= MOST_QUERIES &&
           whole_pieces(a->head_size, a->dtype, a->q, a->k, a->v);
}

void q3_attention_decode(const q3_attention_args *a, q3_cuda *cuda)
{
    const segment_rows rows = { a->device_segments, (int)q3_attention_longest(a, 1), a->causal };
    const decode_arrays arrays = { a->o, a->lse, a->q, a->k, a->v, a->dtype };
    decode(rows, shape_of(a->heads, a->kv_heads, a->head_size, a->scale), a->n_segments * rows.queries,
           q3_attention_longest(a, 3), a->dtype, arrays, cuda);
}

/* ---- many queries of a sequence: its keys are laid out in the workspace, for the kernels that take tiles of them */

/* What lies at the beginning of the workspace: rows with few queries have no segment. */
struct slice_plan {
    int64_t segments[4 * SLICE];
    int32_t begins[SLICE + 1];
};

static __global__ void plan_slice(slice_plan *plan, const int32_t *begins, const int32_t *lengths, int rows)
{
    int at = 0;
    for (int r = 0; threadIdx.x == 0 && r < rows; r++) {
        const int queries = begins[r + 1] - begins[r], many = queries > MOST_QUERIES,
                  keys = many ? lengths[r] : 0;
        int64_t *s = plan->segments + 4 * r;
        s[0] = begins[r], s[1] = many ? queries : 0, s[2] = at, s[3] = keys;
        plan->begins[r] = at;
        at += keys;
        plan->begins[r + 1] = at;
    }
}

static q3_attention_args tiles_of(const q3_attention_paged_args *a)
{
    q3_attention_args f = q3_attention_args();
    f.o = a->o, f.q = a->q;
    f.heads = a->heads, f.kv_heads = a->kv_heads, f.head_size = a->head_size;
    f.scale = a->scale, f.causal = true, f.dtype = a->dtype;
    return f;
}

/* Bytes of a row's longest keys, or values, in the type of the queries. */
static size_t laid_out_bytes(const q3_attention_paged_args *a)
{
    return q3_dtype_bytes(a->dtype, (int64_t)a->max_blocks * a->block * a->kv_heads * a->head_size);
}

/* Rows whose keys and values fit the workspace; 0: their queries are taken one by one. */
static int64_t rows_in_tiles(const q3_attention_paged_args *a, const q3_cuda *cuda)
{
    const q3_attention_args f = tiles_of(a);
    if (a->most_queries <= MOST_QUERIES || a->window || cuda->attention == Q3_ATTENTION_REFERENCE ||
        !q3_attention_flash_takes(&f) || cuda->workspace_bytes < sizeof(slice_plan) + 16)
        return 0;
    const size_t room = (cuda->workspace_bytes - sizeof(slice_plan) - 16) / 2;
    const int64_t rows = (int64_t)(room / (laid_out_bytes(a) + 1));
    return rows < SLICE ? rows : SLICE;
}

static void in_tiles(const q3_attention_paged_args *a, int64_t first, int64_t rows, q3_cuda *cuda)
{
    slice_plan *plan = (slice_plan *)cuda->workspace;
    uint8_t *k = (uint8_t *)cuda->workspace + (sizeof *plan + 15) / 16 * 16,
            *v = k + rows * laid_out_bytes(a);
    int64_t segments[4 * SLICE]; // no longer than these, as far as is known here
    for (int64_t r = 0; r < rows; r++) {
        segments[4 * r + 1] = a->most_queries;
        segments[4 * r + 3] = (int64_t)a->max_blocks * a->block;
    }
    Q3_LAUNCH(cuda, plan_slice, 1, 32, 0, plan, a->begins + first, a->lengths + first, (int)rows);
    q3_kv_load_args load = { k,
                             a->k,
                             a->tables + first * a->max_blocks,
                             plan->begins,
                             rows,
                             a->max_blocks,
                             a->block,
                             a->kv_heads,
                             a->head_size,
                             a->dtype };
    q3_kv_load_cuda(&load, cuda);
    load.x = v, load.slab = a->v;
    q3_kv_load_cuda(&load, cuda);
    q3_attention_args f = tiles_of(a);
    f.k = k, f.v = v;
    f.segments = segments, f.device_segments = plan->segments, f.n_segments = rows;
    q3_attention_flash_forward(&f, cuda);
}

extern "C" void q3_attention_paged_cuda(const q3_attention_paged_args *a, q3_cuda *cuda)
{
    const decode_arrays arrays = { a->o, NULL, a->q, a->k.data, a->v.data, a->k.dtype };
    if (a->k.dtype != a->v.dtype)
        return q3_cuda_fail(cuda, "paged attention on a CUDA device takes keys and values of one type");
    if (!whole_pieces(a->head_size, a->dtype, a->q, a->k.data, a->v.data))
        return q3_cuda_fail(
            cuda,
            "paged attention on a CUDA device takes heads of whole 16-byte pieces up to %d elements, "
            "not %d",
            (int)Q3_ATTENTION_MAX_D, a->head_size);
    const int64_t most = a->most_queries < 1 ? 1 : a->most_queries, slice = rows_in_tiles(a, cuda);
    const int64_t few = slice ? MOST_QUERIES : most;
    const paged_rows rows = {
        a->tables, a->lengths, a->begins, a->max_blocks, a->block, few, few, a->window
    };
    decode_shape shape = shape_of(a->heads, a->kv_heads, a->head_size, a->scale);
    shape.k_scales = a->k.scales, shape.v_scales = a->v.scales;
    decode(rows, shape, a->rows * few, (int64_t)a->max_blocks * a->block, a->dtype, arrays, cuda);
    for (int64_t first = 0; slice && first < a->rows; first += slice)
        in_tiles(a, first, a->rows - first < slice ? a->rows - first : slice, cuda);
}
