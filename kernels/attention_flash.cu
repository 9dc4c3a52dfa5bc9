/* FlashAttention-2 (Dao, arXiv:2307.08691) on bf16 tensor cores, mma.sync m16n8k16, float32 sums.
 *
 * A warp owns 16 rows of the result: queries in forward and in the pass of dq, keys in the pass of dk and dv, which
 * makes the scores transposed. So the weights leave one product in the registers where the next one wants them, and
 * nothing but the inputs passes through shared memory. The other operand's tiles are double-buffered by cp.async.
 * Rows in shared memory are 16 bytes longer than the head: the 8 rows that ldmatrix reads at once then lie in
 * different banks, for all three head sizes. Head sizes between are padded with zeros, in shared memory only.
 *
 *   kernel             result tile    other operand's tile    shared memory, D = 64, 80, 128
 *   forward            16 WARPS       64 keys                 36, 44, 68 KiB
 *   backward_queries   64 queries     32 keys                 36, 44, 68 KiB
 *   backward_keys      64 keys        32 queries              36.5, 44.5, 68.5 KiB
 *
 * Fragments, lane = 4 g + t (PTX ISA, "Matrix fragments for mma.m16n8k16"): an accumulator has rows g (elements 0, 1)
 * and g + 8 (2, 3), columns 2 t and 2 t + 1.
 */
#include "kernels/attention_device.cuh"

static const int PAD = 8;                       // elements behind each row in shared memory
static const int BACKWARD_WARPS = 4, STEP = 32; // STEP: rows of the other operand at once in backward
static const float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

/* ROWS rows of one head into shared memory, zeros behind `count` rows and behind the head's end. */
template <int D, int ROWS, int THREADS>
static __device__ __forceinline__ void fetch(q3_bf16 *to, const q3_bf16 *from, int64_t stride, int count,
                                             int head_size)
{
    const int pieces = D / 8; // of 16 bytes
    Q3_UNROLL
    for (int n = 0; n < (ROWS * pieces + THREADS - 1) / THREADS; n++) {
        int e = n * THREADS + (int)threadIdx.x, row = e / pieces, c = e % pieces * 8;
        bool wanted = row < count && c < head_size;
        if (ROWS * pieces % THREADS == 0 || e < ROWS * pieces)
            q3_copy_async16(to + row * (D + PAD) + c, wanted ? from + row * stride + c : from, wanted);
    }
}

static __device__ __forceinline__ int lane_of(void)
{
    return threadIdx.x & 31;
}

/* Rows [row, row + 16) and columns [column, column + 16) of a tile as the left operand. */
template <int D>
static __device__ __forceinline__ void left(uint32_t (&a)[4], const q3_bf16 *tile, int row, int column)
{
    int lane = lane_of();
    q3_ldmatrix4(a, tile + (row + lane % 16) * (D + PAD) + column + lane / 16 * 8);
}

/* The same as the right operand of a product X Y^T, Y the tile: columns [row, row + 8) in b[0], b[1], the next 8 in
 * b[2], b[3]. */
template <int D>
static __device__ __forceinline__ void right(uint32_t (&b)[4], const q3_bf16 *tile, int row, int column)
{
    int lane = lane_of();
    q3_ldmatrix4(b, tile + (row + lane % 8 + lane / 16 * 8) * (D + PAD) + column + lane / 8 % 2 * 8);
}

/* The same as the right operand of a product W Y: columns [column, column + 8) in b[0], b[1], the next 8 in b[2],
 * b[3]. */
template <int D>
static __device__ __forceinline__ void right_trans(uint32_t (&b)[4], const q3_bf16 *tile, int row, int column)
{
    int lane = lane_of();
    q3_ldmatrix4_trans(b, tile + (row + lane % 16) * (D + PAD) + column + lane / 16 * 8);
}

static __device__ __forceinline__ void multiply(float (&d0)[4], float (&d1)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[4])
{
    const uint32_t b0[2] = { b[0], b[1] }, b1[2] = { b[2], b[3] };
    q3_mma_bf16(d0, a, b0);
    q3_mma_bf16(d1, a, b1);
}

template <int N> static __device__ __forceinline__ void clear(float (&x)[N][4])
{
    Q3_UNROLL
    for (int e = 0; e < 4 * N; e++)
        x[e / 4][e % 4] = 0;
}

/* s = X Y^T: this warp's 16 rows of X from `row` on, all 8 N rows of Y. */
template <int D, int N>
static __device__ __forceinline__ void products(float (&s)[N][4], const q3_bf16 *x, int row, const q3_bf16 *y)
{
    clear(s);
    Q3_UNROLL
    for (int c = 0; c < D; c += 16) {
        uint32_t a[4], b[4];
        left<D>(a, x, row, c);
        Q3_UNROLL
        for (int n = 0; n < N; n += 2) {
            right<D>(b, y, 8 * n, c);
            multiply(s[n], s[n + 1], a, b);
        }
    }
}

/* Rounded to bf16, as the left operand: 16 columns each. */
template <int N>
static __device__ __forceinline__ void round_weights(uint32_t (&w)[N / 2][4], const float (&s)[N][4])
{
    Q3_UNROLL
    for (int n = 0; n < N / 2; n++) {
        w[n][0] = q3_pack_bf16(s[2 * n][0], s[2 * n][1]);
        w[n][1] = q3_pack_bf16(s[2 * n][2], s[2 * n][3]);
        w[n][2] = q3_pack_bf16(s[2 * n + 1][0], s[2 * n + 1][1]);
        w[n][3] = q3_pack_bf16(s[2 * n + 1][2], s[2 * n + 1][3]);
    }
}

/* out += W Y, W [16, 16 N] in registers. */
template <int D, int N>
static __device__ __forceinline__ void accumulate(float (&out)[D / 8][4], const uint32_t (&w)[N][4],
                                                  const q3_bf16 *y)
{
    Q3_UNROLL
    for (int n = 0; n < N; n++) {
        Q3_UNROLL
        for (int c = 0; c < D / 8; c += 2) {
            uint32_t b[4];
            right_trans<D>(b, y, 16 * n, 8 * c);
            multiply(out[c], out[c + 1], w[n], b);
        }
    }
}

static __device__ __forceinline__ void store_pair(q3_bf16 *to, float beta, float x, float y)
{
    uint32_t *pair = (uint32_t *)to;
    if (beta != 0) {
        x += q3_bf16_value((uint16_t)*pair);
        y += q3_bf16_value((uint16_t)(*pair >> 16));
    }
    *pair = q3_pack_bf16(x, y);
}

/* This warp's rows, factor[0] times those of elements 0 and 1, factor[1] times those of 2 and 3. `to` is the tile's
 * first row, `count` the tile's rows. */
template <int D>
static __device__ __forceinline__ void store(q3_bf16 *to, int64_t stride, int count, int head_size,
                                             float beta, const float (&out)[D / 8][4],
                                             const float (&factor)[2])
{
    Q3_UNROLL
    for (int half = 0; half < 2; half++) {
        int row = (int)threadIdx.x / 32 * 16 + lane_of() / 4 + 8 * half;
        if (row >= count)
            continue;
        q3_bf16 *at = to + row * stride + lane_of() % 4 * 2;
        Q3_UNROLL
        for (int c = 0; c < D / 8; c++)
            if (8 * c < head_size)
                store_pair(at + 8 * c, beta, factor[half] * out[c][2 * half],
                           factor[half] * out[c][2 * half + 1]);
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

/* The arrays of one kernel, heads apart by their strides. */
struct flash_arrays {
    const q3_bf16 *q, *k, *v, *dout;
    q3_bf16 *o, *dq, *dk, *dv;
    float *lse;
    const float *delta;
    float dq_beta, dk_beta, dv_beta;
};

static __device__ __forceinline__ int64_t query_at(const q3_attention_view &a, int64_t row, int head)
{
    return (row * a.heads + head) * a.head_size;
}
static __device__ __forceinline__ int64_t key_at(const q3_attention_view &a, int64_t row, int kv)
{
    return (row * a.kv_heads + kv) * a.head_size;
}

static const int KEYS = 64; // of a tile in forward

/* Online softmax of a warp's 16 rows in powers of two; each thread has two of them, and a part of their sums. */
struct softmax_rows {
    float largest[2], sum[2];
};

/* Scores, masked from limit[half] on, to weights; out is rescaled. */
template <int D>
static __device__ __forceinline__ void weigh(softmax_rows *rows, float (&s)[KEYS / 8][4],
                                             float (&out)[D / 8][4], float scale)
{
    Q3_UNROLL
    for (int half = 0; half < 2; half++) {
        float largest = rows->largest[half], sum = 0;
        Q3_UNROLL
        for (int n = 0; n < KEYS / 8; n++)
            largest = fmaxf(largest, fmaxf(s[n][2 * half], s[n][2 * half + 1]) * scale);
        largest = quad_max(largest);
        float base = largest == -INFINITY ? 0.0f : largest, keep = q3_exp2(rows->largest[half] - base);
        Q3_UNROLL
        for (int e = 0; e < KEYS / 4; e++) {
            float &x = s[e / 2][2 * half + e % 2];
            x = q3_exp2(x * scale - base);
            sum += x;
        }
        rows->largest[half] = largest;
        rows->sum[half] = rows->sum[half] * keep + sum;
        Q3_UNROLL
        for (int e = 0; e < D / 4; e++)
            out[e / 2][2 * half + e % 2] *= keep;
    }
}

template <int D, int WARPS>
static __global__ void __launch_bounds__(32 * WARPS) flash_forward(q3_attention_view a, flash_arrays b)
{
    const int ROWS = 16 * WARPS, THREADS = 32 * WARPS, TILE = KEYS * (D + PAD);
    static_assert(ROWS <= 2 * KEYS, "the queries pass through the second buffer");
    Q3_DYNAMIC_SHARED(q3_bf16, shared); // two buffers of a tile of keys and a tile of values
    const q3_attention_tile t = q3_attention_queries(a, ROWS);
    if (t.count <= 0)
        return;
    const int head = blockIdx.y, kv = head / (a.heads / a.kv_heads), row = (int)threadIdx.x / 32 * 16;
    const int64_t q_stride = (int64_t)a.heads * a.head_size, kv_stride = (int64_t)a.kv_heads * a.head_size;
    const int64_t q_at = query_at(a, t.q_begin + t.first, head), kv_at = key_at(a, t.kv_begin, kv);
    const int first_end = q3_attention_sees(a, t, t.first),
              end = q3_attention_sees(a, t, t.first + t.count - 1);
    const int warp_end = q3_attention_sees(a, t, t.first + row + 15);
    const int limit[2] = { q3_attention_sees(a, t, t.first + row + lane_of() / 4),
                           q3_attention_sees(a, t, t.first + row + lane_of() / 4 + 8) };

    fetch<D, ROWS, THREADS>(shared + 2 * TILE, b.q + q_at, q_stride, t.count, a.head_size);
    fetch<D, KEYS, THREADS>(shared, b.k + kv_at, kv_stride, t.kv_len, a.head_size);
    fetch<D, KEYS, THREADS>(shared + TILE, b.v + kv_at, kv_stride, t.kv_len, a.head_size);
    q3_copy_async_commit();
    q3_copy_async_wait<0>();
    __syncthreads();
    uint32_t q[D / 16][4];
    Q3_UNROLL
    for (int c = 0; c < D / 16; c++)
        left<D>(q[c], shared + 2 * TILE, row, 16 * c);

    softmax_rows rows = { { -INFINITY, -INFINITY }, { 0, 0 } };
    float out[D / 8][4];
    clear(out);
    for (int j0 = 0; j0 < end; j0 += KEYS) {
        q3_bf16 *tile = shared + (j0 / KEYS % 2 ? 2 * TILE : 0),
                *next = shared + (j0 / KEYS % 2 ? 0 : 2 * TILE);
        q3_copy_async_wait<0>();
        __syncthreads(); // the tile is there, and all have left the other one
        if (j0 + KEYS < end) {
            const int64_t at = kv_at + (j0 + KEYS) * kv_stride;
            fetch<D, KEYS, THREADS>(next, b.k + at, kv_stride, t.kv_len - j0 - KEYS, a.head_size);
            fetch<D, KEYS, THREADS>(next + TILE, b.v + at, kv_stride, t.kv_len - j0 - KEYS, a.head_size);
        }
        q3_copy_async_commit();
        if (j0 >= warp_end)
            continue;
        float s[KEYS / 8][4];
        clear(s);
        Q3_UNROLL
        for (int c = 0; c < D / 16; c++) {
            Q3_UNROLL
            for (int n = 0; n < KEYS / 8; n += 2) {
                uint32_t k[4];
                right<D>(k, tile, 8 * n, 16 * c);
                multiply(s[n], s[n + 1], q[c], k);
            }
        }
        if (j0 + KEYS > first_end) {
            Q3_UNROLL
            for (int e = 0; e < KEYS / 2; e++)
                if (j0 + e / 4 * 8 + lane_of() % 4 * 2 + e % 2 >= limit[e / 2 % 2])
                    s[e / 4][e % 4] = -INFINITY;
        }
        weigh<D>(&rows, s, out, a.scale * LOG2E);
        uint32_t w[KEYS / 16][4];
        round_weights(w, s);
        accumulate<D>(out, w, tile + TILE);
    }

    float factor[2];
    Q3_UNROLL
    for (int half = 0; half < 2; half++) {
        float sum = quad_sum(rows.sum[half]);
        int r = row + lane_of() / 4 + 8 * half;
        factor[half] = sum != 0 ? 1 / sum : 0.0f;
        if (b.lse && lane_of() % 4 == 0 && r < t.count)
            b.lse[(t.q_begin + t.first + r) * a.heads + head] =
                sum != 0 ? rows.largest[half] * LN2 + logf(sum) : 0.0f;
    }
    store<D>(b.o + q_at, q_stride, t.count, a.head_size, 0.0f, out, factor);
}

template <int D>
static __global__ void __launch_bounds__(32 * BACKWARD_WARPS)
    flash_backward_queries(q3_attention_view a, flash_arrays b)
{
    const int ROWS = 16 * BACKWARD_WARPS, THREADS = 32 * BACKWARD_WARPS;
    const int OWN = ROWS * (D + PAD), TILE = STEP * (D + PAD);
    Q3_DYNAMIC_SHARED(q3_bf16, shared); // queries, their gradients, two buffers of keys and values
    const q3_attention_tile t = q3_attention_queries(a, ROWS);
    if (t.count <= 0)
        return;
    const int head = blockIdx.y, kv = head / (a.heads / a.kv_heads), row = (int)threadIdx.x / 32 * 16;
    const int64_t q_stride = (int64_t)a.heads * a.head_size, kv_stride = (int64_t)a.kv_heads * a.head_size;
    const int64_t q_at = query_at(a, t.q_begin + t.first, head), kv_at = key_at(a, t.kv_begin, kv);
    const int end = q3_attention_sees(a, t, t.first + t.count - 1);
    const int warp_end = q3_attention_sees(a, t, t.first + row + 15);
    int limit[2];
    float lse[2], delta[2];
    Q3_UNROLL
    for (int half = 0; half < 2; half++) {
        int r = row + lane_of() / 4 + 8 * half;
        int64_t at = (t.q_begin + t.first + r) * a.heads + head;
        limit[half] = r < t.count ? q3_attention_sees(a, t, t.first + r) : 0;
        lse[half] = r < t.count ? b.lse[at] * LOG2E : 0.0f;
        delta[half] = r < t.count ? b.delta[at] : 0.0f;
    }
    q3_bf16 *own_q = shared, *own_dout = shared + OWN, *tiles = shared + 2 * OWN;
    fetch<D, ROWS, THREADS>(own_q, b.q + q_at, q_stride, t.count, a.head_size);
    fetch<D, ROWS, THREADS>(own_dout, b.dout + q_at, q_stride, t.count, a.head_size);
    fetch<D, STEP, THREADS>(tiles, b.k + kv_at, kv_stride, t.kv_len, a.head_size);
    fetch<D, STEP, THREADS>(tiles + TILE, b.v + kv_at, kv_stride, t.kv_len, a.head_size);
    q3_copy_async_commit();

    float out[D / 8][4];
    clear(out);
    for (int j0 = 0; j0 < end; j0 += STEP) {
        q3_bf16 *tile = tiles + (j0 / STEP % 2 ? 2 * TILE : 0),
                *next = tiles + (j0 / STEP % 2 ? 0 : 2 * TILE);
        q3_copy_async_wait<0>();
        __syncthreads(); // the tile is there, and all have left the other one
        if (j0 + STEP < end) {
            const int64_t at = kv_at + (j0 + STEP) * kv_stride;
            fetch<D, STEP, THREADS>(next, b.k + at, kv_stride, t.kv_len - j0 - STEP, a.head_size);
            fetch<D, STEP, THREADS>(next + TILE, b.v + at, kv_stride, t.kv_len - j0 - STEP, a.head_size);
        }
        q3_copy_async_commit();
        if (j0 >= warp_end)
            continue;
        float s[STEP / 8][4], dp[STEP / 8][4];
        products<D>(s, own_q, row, tile);
        products<D>(dp, own_dout, row, tile + TILE);
        Q3_UNROLL
        for (int e = 0; e < STEP / 2; e++) {
            const int half = e / 2 % 2, j = j0 + e / 4 * 8 + lane_of() % 4 * 2 + e % 2;
            float p = j < limit[half] ? q3_exp2(s[e / 4][e % 4] * (a.scale * LOG2E) - lse[half]) : 0.0f;
            s[e / 4][e % 4] = p * (dp[e / 4][e % 4] - delta[half]);
        }
        uint32_t ds[STEP / 16][4];
        round_weights(ds, s);
        accumulate<D>(out, ds, tile);
    }
    q3_copy_async_wait<0>();
    const float factor[2] = { a.scale, a.scale };
    store<D>(b.dq + q_at, q_stride, t.count, a.head_size, b.dq_beta, out, factor);
}

/* The query heads of the group one after the other, the tiles of queries of each from the first that sees a key. */
template <int D>
static __global__ void __launch_bounds__(32 * BACKWARD_WARPS)
    flash_backward_keys(q3_attention_view a, flash_arrays b)
{
    const int ROWS = 16 * BACKWARD_WARPS, THREADS = 32 * BACKWARD_WARPS;
    const int OWN = ROWS * (D + PAD), TILE = STEP * (D + PAD);
    Q3_DYNAMIC_SHARED(q3_bf16, shared);   // keys, values, two buffers of queries and their gradients
    Q3_SHARED(float, sums, 2 * 2 * STEP); // two buffers of lse, in powers of two, and delta
    const q3_attention_tile t = q3_attention_keys(a, ROWS);
    if (t.count <= 0)
        return;
    const int kv = blockIdx.y, group = a.heads / a.kv_heads, row = (int)threadIdx.x / 32 * 16;
    const int64_t q_stride = (int64_t)a.heads * a.head_size, kv_stride = (int64_t)a.kv_heads * a.head_size;
    const int64_t kv_at = key_at(a, t.kv_begin + t.first, kv);
    const int begin = q3_attention_seen_from(a, t, t.first) / STEP * STEP;
    const int steps = t.q_len > begin ? (t.q_len - begin + STEP - 1) / STEP : 0; // of one head
    q3_bf16 *own_k = shared, *own_v = shared + OWN, *tiles = shared + 2 * OWN;

    // Step n takes tile n % steps of head n / steps of the group.
    auto fetch_step = [&](int n) {
        const int head = kv * group + n / steps, i0 = begin + n % steps * STEP;
        const int64_t at = query_at(a, t.q_begin + i0, head);
        q3_bf16 *tile = tiles + n % 2 * 2 * TILE;
        fetch<D, STEP, THREADS>(tile, b.q + at, q_stride, t.q_len - i0, a.head_size);
        fetch<D, STEP, THREADS>(tile + TILE, b.dout + at, q_stride, t.q_len - i0, a.head_size);
        if (threadIdx.x < STEP) {
            const int i = i0 + (int)threadIdx.x;
            const int64_t sum_at = (t.q_begin + i) * a.heads + head;
            float *to = sums + n % 2 * 2 * STEP + threadIdx.x;
            to[0] = i < t.q_len ? b.lse[sum_at] * LOG2E : INFINITY; // a weight of zero
            to[STEP] = i < t.q_len ? b.delta[sum_at] : 0.0f;
        }
    };
    fetch<D, ROWS, THREADS>(own_k, b.k + kv_at, kv_stride, t.count, a.head_size);
    fetch<D, ROWS, THREADS>(own_v, b.v + kv_at, kv_stride, t.count, a.head_size);
    if (steps)
        fetch_step(0);
    q3_copy_async_commit();

    float dk[D / 8][4], dv[D / 8][4];
    clear(dk), clear(dv);
    for (int n = 0; n < group * steps; n++) {
        const q3_bf16 *tile = tiles + n % 2 * 2 * TILE;
        const float *lse = sums + n % 2 * 2 * STEP, *delta = lse + STEP;
        const int i0 = begin + n % steps * STEP;
        q3_copy_async_wait<0>();
        __syncthreads(); // the tile is there, and all have left the other one
        if (n + 1 < group * steps)
            fetch_step(n + 1);
        q3_copy_async_commit();
        if (q3_attention_sees(a, t, i0 + STEP - 1) <= t.first + row)
            continue;
        float s[STEP / 8][4], dp[STEP / 8][4];
        products<D>(s, own_k, row, tile);
        Q3_UNROLL
        for (int e = 0; e < STEP / 2; e++) {
            const int column = e / 4 * 8 + lane_of() % 4 * 2 + e % 2;
            const int j = t.first + row + lane_of() / 4 + e / 2 % 2 * 8;
            bool sees = j < q3_attention_sees(a, t, i0 + column);
            s[e / 4][e % 4] = sees ? q3_exp2(s[e / 4][e % 4] * (a.scale * LOG2E) - lse[column]) : 0.0f;
        }
        uint32_t w[STEP / 16][4];
        round_weights(w, s);
        accumulate<D>(dv, w, tile + TILE);
        products<D>(dp, own_v, row, tile + TILE);
        Q3_UNROLL
        for (int e = 0; e < STEP / 2; e++)
            s[e / 4][e % 4] *= dp[e / 4][e % 4] - delta[e / 4 * 8 + lane_of() % 4 * 2 + e % 2];
        round_weights(w, s);
        accumulate<D>(dk, w, tile);
    }
    q3_copy_async_wait<0>();
    const float dk_factor[2] = { a.scale, a.scale }, dv_factor[2] = { 1, 1 };
    if (b.dk)
        store<D>(b.dk + kv_at, kv_stride, t.count, a.head_size, b.dk_beta, dk, dk_factor);
    if (b.dv)
        store<D>(b.dv + kv_at, kv_stride, t.count, a.head_size, b.dv_beta, dv, dv_factor);
}

static dim3 grid_of(const q3_attention_view &view, const q3_attention_args *a, int heads)
{
    return dim3((unsigned)(view.tiles * a->n_segments), (unsigned)heads);
}

static flash_arrays arrays_of(const q3_attention_args *a)
{
    flash_arrays arrays = flash_arrays();
    arrays.q = (const q3_bf16 *)a->q, arrays.k = (const q3_bf16 *)a->k, arrays.v = (const q3_bf16 *)a->v;
    arrays.o = (q3_bf16 *)a->o;
    arrays.lse = a->lse;
    return arrays;
}

template <int D, int WARPS>
static void launch_forward(const q3_attention_args *a, q3_cuda *cuda, int64_t longest)
{
    const q3_attention_view view = q3_attention_view_of(a, longest, 16 * WARPS);
    const size_t bytes = 4 * KEYS * (D + PAD) * sizeof(q3_bf16);
    Q3_LAUNCH(cuda, (flash_forward<D, WARPS>), grid_of(view, a, a->heads), 32 * WARPS, bytes, view,
              arrays_of(a));
}

/* Wide tiles read keys and values half as often; a row's result is the same in both. */
template <int D> static void forward(const q3_attention_args *a, q3_cuda *cuda)
{
    const int64_t longest = q3_attention_longest(a, 1);
    if (longest > 64)
        launch_forward<D, 8>(a, cuda, longest);
    else if (longest)
        launch_forward<D, 4>(a, cuda, longest);
}

template <int D> static void backward(const q3_attention_backward_args *b, q3_cuda *cuda)
{
    const q3_attention_args *a = &b->f;
    const int ROWS = 16 * BACKWARD_WARPS;
    const size_t bytes = (2 * ROWS + 4 * STEP) * (D + PAD) * sizeof(q3_bf16);
    flash_arrays arrays = arrays_of(a);
    arrays.dout = (const q3_bf16 *)b->dout;
    arrays.delta = b->delta;
    arrays.dq = (q3_bf16 *)b->dq, arrays.dk = (q3_bf16 *)b->dk, arrays.dv = (q3_bf16 *)b->dv;
    arrays.dq_beta = b->dq_beta, arrays.dk_beta = b->dk_beta, arrays.dv_beta = b->dv_beta;
    q3_attention_view view = q3_attention_view_of(a, q3_attention_longest(a, 1), ROWS);
    if (b->dq && view.tiles)
        Q3_LAUNCH(cuda, (flash_backward_queries<D>), grid_of(view, a, a->heads), 2 * ROWS, bytes, view,
                  arrays);
    view = q3_attention_view_of(a, q3_attention_longest(a, 3), ROWS);
    if ((b->dk || b->dv) && view.tiles)
        Q3_LAUNCH(cuda, (flash_backward_keys<D>), grid_of(view, a, a->kv_heads), 2 * ROWS, bytes, view,
                  arrays);
}

bool q3_attention_flash_takes(const q3_attention_args *a)
{
    return a->dtype == Q3_BF16 && a->head_size <= 128 && a->head_size % 8 == 0 &&
           q3_attention_aligned(a->o) && q3_attention_aligned(a->q) && q3_attention_aligned(a->k) &&
           q3_attention_aligned(a->v);
}

void q3_attention_flash_forward(const q3_attention_args *a, q3_cuda *cuda)
{
    if (a->head_size <= 64)
        forward<64>(a, cuda);
    else if (a->head_size <= 80)
        forward<80>(a, cuda);
    else
        forward<128>(a, cuda);
}

void q3_attention_flash_backward(const q3_attention_backward_args *b, q3_cuda *cuda)
{
    if (b->f.head_size <= 64)
        backward<64>(b, cuda);
    else if (b->f.head_size <= 80)
        backward<80>(b, cuda);
    else
        backward<128>(b, cuda);
}
