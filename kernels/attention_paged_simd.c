/* The lanes of the vectors run along the head. Keys, then values, of a run are widened into a tile of f32, once for all
 * query heads and queries of an item; a score is one sum of vectors and a tree at its end, an output one sum over the
 * keys in their order, whatever stands beside it in the registers. So single queries and chunks of prompts give the
 * same bits.
 *
 * Softmax goes on from run to run within a part of PART keys, and parts are put together in their order, by the thread
 * that made them or, where there are fewer items than threads can share, by whoever is free. */
#include <float.h>
#include <math.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels/attention.h"
#include "kernels/attention_paged.h"
#include "kernels/vec.h"
#include "kernels/vexp.h"

enum {
    RUN = 64,                    // keys of a tile
    PART = 8 * RUN,              // keys of a part
    ROWS = 32,                   // query heads and queries of an item
    TILE = Q3_VEC == 16 ? 4 : 2, // rows that the inner loops keep in registers, beside 4 keys or vectors
    MAX_D = Q3_ATTENTION_MAX_D,
    LARGEST = 0, // a row of sums: its largest score,
    SUM = 1,     // the sum of its weights; 0: it has seen no key
    OUT = 16,    // and from here on the weighted values
    WEIGHTS = RUN + 16,
    AHEAD = 32,      // keys of which the processor hears in advance
    ENOUGH = 4,      // items a thread
    SLOTS = 1 << 17, // floats for sums of parts: 512 KiB
};

#define ALIGNED __attribute__((aligned(64)))

typedef float sums[OUT + MAX_D];

/* A work item: for each of `heads` key heads from `kv` on, rows [first, first + n) of sequence `row`, where rows run over
 * queries, and within one over the query heads of the group. Single queries take several key heads: those of a token lie
 * together in memory. */
typedef struct item {
    int64_t row, first;
    int n, kv, heads;
} item;

typedef struct work {
    const q3_attention_paged_args *a;
    int depth;        // head size in whole vectors
    int begin, end;   // the keys that any query sees
    int first, parts; // of the round; without slots items do all their parts at once
    float *slots;     // sums of parts, `room` for each head of each query
    int64_t room;
    int kept; // 1: the first of them holds the sums of earlier rounds
} work;

static int group(const work *w)
{
    return w->a->heads / w->a->kv_heads;
}

static int64_t query_of(const work *w, const item *it, int n)
{
    return w->a->begins[it->row] + (it->first + n) / group(w);
}

/* Index in q and o of row r of all key heads. */
static int64_t head_of(const work *w, const item *it, int r)
{
    int kv = it->kv + r / it->n, n = r % it->n;
    return query_of(w, it, n) * w->a->heads + kv * group(w) + (int)((it->first + n) % group(w));
}

/* The keys that row n sees end here, and begin there. */
static int seen_to(const work *w, const item *it, int n)
{
    int64_t end = w->a->lengths[it->row] - w->a->begins[it->row + 1] + query_of(w, it, n) + 1;
    return end > 0 ? (int)end : 0;
}

static int seen_from(const work *w, const item *it, int n)
{
    int64_t end = seen_to(w, it, n);
    return w->a->window && end > w->a->window ? (int)(end - w->a->window) : 0;
}

/* ---- keys and values as f32 */

/* Where a tile has column c: int4 keeps the first and second halves of a group's bytes apart. */
static int column(q3_dtype dtype, int c)
{
    int i = c % Q3_KV_I4_GROUP;
    return dtype == Q3_I4 ? c - i + i / 2 + i % 2 * (Q3_KV_I4_GROUP / 2) : c;
}

#if defined(__AVX2__)
typedef int32_t ints __attribute__((vector_size(4 * Q3_VEC)));

/* As many numbers as a vector has lanes, in 32 bits each; without AVX2 plain loops are faster. */
static inline ints signed_bytes(const int8_t *x)
{
#if defined(__AVX512F__)
    return (ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)x));
#else
    return (ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)x));
#endif
}

static inline ints unsigned_bytes(const uint8_t *x)
{
#if defined(__AVX512F__)
    return (ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)x));
#else
    return (ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)x));
#endif
}

static inline ints unsigned_words(const uint16_t *x)
{
#if defined(__AVX512F__)
    return (ints)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)x));
#else
    return (ints)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)x));
#endif
}
#endif

/* 16 bytes: the first values of the pairs, then the second. */
static void widen_group(float *restrict to, const uint8_t *restrict x, float scale)
{
    enum { HALF = Q3_KV_I4_GROUP / 2 };
#if defined(__AVX2__)
    for (int i = 0; i < HALF; i += Q3_VEC) {
        ints two = unsigned_bytes(x + i);
        q3_vec_store(to + i, __builtin_convertvector((two >> 4) - 8, q3_vec) * scale);
        q3_vec_store(to + HALF + i, __builtin_convertvector((two & 15) - 8, q3_vec) * scale);
    }
#else
    for (int i = 0; i < HALF; i++)
        to[i] = (float)((x[i] >> 4) - 8) * scale;
    for (int i = 0; i < HALF; i++)
        to[HALF + i] = (float)((x[i] & 15) - 8) * scale;
#endif
}

static void widen_i8(float *restrict to, const int8_t *restrict x, float scale, int D)
{
    int c = 0;
#if defined(__AVX2__)
    for (; c + Q3_VEC <= D; c += Q3_VEC)
        q3_vec_store(to + c, __builtin_convertvector(signed_bytes(x + c), q3_vec) * scale);
#endif
    for (; c < D; c++)
        to[c] = (float)x[c] * scale;
}

static void widen_bf16(float *restrict to, const uint16_t *restrict x, int D)
{
    int c = 0;
#if defined(__AVX2__)
    for (; c + Q3_VEC <= D; c += Q3_VEC)
        q3_vec_store(to + c, (q3_vec)(unsigned_words(x + c) << 16));
#endif
    for (; c < D; c++)
        to[c] = q3_bf16_to_f32(x[c]);
}

static void widen(float *to, const q3_kv_slab *slab, int64_t head, int D)
{
    int64_t at = head * D;
    if (slab->dtype == Q3_I4)
        for (int c = 0; c < D; c += Q3_KV_I4_GROUP)
            widen_group(to + c, (const uint8_t *)slab->data + (at + c) / 2,
                        slab->scales[(at + c) / Q3_KV_I4_GROUP]);
    else if (slab->dtype == Q3_I8)
        widen_i8(to, (const int8_t *)slab->data + at, slab->scales[head], D);
    else if (slab->dtype == Q3_BF16)
        widen_bf16(to, (const uint16_t *)slab->data + at, D);
    else
        memcpy(to, (const float *)slab->data + at, (size_t)D * sizeof *to);
}

/* A token's key head in the slab, counted over all tokens. */
static inline int64_t slab_head(const work *w, const item *it, int kv, int j)
{
    const q3_attention_paged_args *a = w->a;
    int64_t block = a->tables[it->row * a->max_blocks + j / a->block];
    return (block * a->block + j % a->block) * a->kv_heads + kv;
}

static inline void fetch(const q3_kv_slab *slab, int64_t head, int D)
{
    const char *x = (const char *)slab->data + q3_dtype_bytes(slab->dtype, head * D);
    for (size_t i = 0; i < q3_dtype_bytes(slab->dtype, D); i += 64)
        __builtin_prefetch(x + i);
    if (slab->scales)
        __builtin_prefetch(slab->scales + q3_kv_scales(slab->dtype, 1, D) * head);
}

/* Tokens [begin, end) of a sequence, one behind another. The heads of a token lie together, so those of one head are too
 * far apart for the processor to see where they go on. */
static void load_tile(float *tile, const work *w, const q3_kv_slab *slab, const item *it, int kv, int begin,
                      int end)
{
    const int D = w->a->head_size;
    for (int j = begin; j < end; j++) {
        float *to = tile + (j - begin) * w->depth;
        if (j + AHEAD < w->a->lengths[it->row])
            fetch(slab, slab_head(w, it, kv, j + AHEAD), D);
        widen(to, slab, slab_head(w, it, kv, j), D);
        for (int c = D; c < w->depth; c++)
            to[c] = 0;
    }
}

/* ---- the inner loops */

#if defined(__clang__)
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (picked){ i, j, k, l })
typedef int32_t picked __attribute__((vector_size(16)));
#endif
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));

/* out[m] = sum of the lanes of x[m], each as q3_vec_total has it. */
static inline __attribute__((always_inline)) void totals(float *out, const q3_vec *x)
{
    four f[4];
#pragma GCC unroll 4
    for (int m = 0; m < 4; m++) {
        float lanes[Q3_VEC];
        q3_vec_store(lanes, x[m]);
        f[m] = *(four *)lanes;
#if defined(__AVX512F__)
        f[m] = (f[m] + *(four *)(lanes + 8)) + (*(four *)(lanes + 4) + *(four *)(lanes + 12));
#elif defined(__AVX2__)
        f[m] = f[m] + *(four *)(lanes + 4);
#endif
    }
    four low = SHUFFLE(f[0], f[1], 0, 4, 1, 5) + SHUFFLE(f[0], f[1], 2, 6, 3, 7);
    four high = SHUFFLE(f[2], f[3], 0, 4, 1, 5) + SHUFFLE(f[2], f[3], 2, 6, 3, 7);
    *(four *)out = SHUFFLE(low, high, 0, 1, 4, 5) + SHUFFLE(low, high, 2, 3, 6, 7);
}

/* Scores of `rows` rows and 4 keys. */
static inline __attribute__((always_inline)) void dot_tile(float *s, const float *q, const float *k,
                                                           int depth, const int rows)
{
    q3_vec x[4][4];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int m = 0; m < 4; m++)
            x[r][m] = q3_vec_all(0);
    for (int d = 0; d < depth; d += Q3_VEC) {
        q3_vec a[4];
#pragma GCC unroll 4
        for (int m = 0; m < 4; m++)
            a[m] = q3_vec_load(k + m * depth + d);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            q3_vec b = q3_vec_load(q + r * depth + d);
#pragma GCC unroll 4
            for (int m = 0; m < 4; m++)
                x[r][m] += a[m] * b;
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
        totals(s + r * WEIGHTS, x[r]);
}

/* s[r][j] = q_r.k_j; computes up to 3 keys more than n. */
static void dot_rows(float *s, const float *q, const float *k, int rows, int n, int depth)
{
    for (int j = 0; j < n; j += 4) {
        int r = 0;
        for (; r + TILE <= rows; r += TILE)
            dot_tile(s + r * WEIGHTS + j, q + r * depth, k + j * depth, depth, TILE);
        for (; r + 2 <= rows; r += 2)
            dot_tile(s + r * WEIGHTS + j, q + r * depth, k + j * depth, depth, 2);
        for (; r < rows; r++)
            dot_tile(s + r * WEIGHTS + j, q + r * depth, k + j * depth, depth, 1);
    }
}

/* `rows` rows and `count` vectors of columns: o[r] += sum_j s[r][j] v[j]. */
static inline __attribute__((always_inline)) void add_tile(float *const *o, const float *s, const float *v,
                                                           int depth, int n, int d, const int rows,
                                                           const int count)
{
    q3_vec x[4][4];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int m = 0; m < count; m++)
            x[r][m] = q3_vec_load(o[r] + OUT + d + m * Q3_VEC);
    for (int j = 0; j < n; j++) {
        q3_vec a[4];
#pragma GCC unroll 4
        for (int m = 0; m < count; m++)
            a[m] = q3_vec_load(v + j * depth + d + m * Q3_VEC);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int m = 0; m < count; m++)
                x[r][m] += a[m] * s[r * WEIGHTS + j];
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int m = 0; m < count; m++)
            q3_vec_store(o[r] + OUT + d + m * Q3_VEC, x[r][m]);
}

static inline __attribute__((always_inline)) void add_columns(float *const *o, const float *s, const float *v,
                                                              int n, int depth, const int rows)
{
    int d = 0;
    for (; d + 4 * Q3_VEC <= depth; d += 4 * Q3_VEC)
        add_tile(o, s, v, depth, n, d, rows, 4);
    for (; d < depth; d += Q3_VEC)
        add_tile(o, s, v, depth, n, d, rows, 1);
}

/* ---- an item */

/* Where a row begins and ends within a run. */
typedef struct span {
    int from, to;
} span;

/* Scores of a run become weights relative to the largest score of the part so far; the sums follow. */
static void softmax_row(float *s, span x, float *to, int depth)
{
    float top[Q3_VEC], sum[Q3_VEC] = { 0 };
    for (int j = 0; j < x.from; j++)
        s[j] = -FLT_MAX;
    for (int j = x.to; j < RUN; j++)
        s[j] = -FLT_MAX;
    for (int l = 0; l < Q3_VEC; l++)
        top[l] = to[LARGEST];
    for (int j = 0; j < RUN; j += Q3_VEC)
        for (int l = 0; l < Q3_VEC; l++)
            top[l] = s[j + l] > top[l] ? s[j + l] : top[l];
    float largest = top[0];
    for (int l = 1; l < Q3_VEC; l++)
        largest = top[l] > largest ? top[l] : largest;
    for (int j = 0; j < RUN; j += Q3_VEC)
        for (int l = 0; l < Q3_VEC; l++) {
            s[j + l] = q3_expf(s[j + l] - largest);
            sum[l] += s[j + l];
        }
    float factor = q3_expf(to[LARGEST] - largest);
    to[LARGEST] = largest;
    to[SUM] = to[SUM] * factor + q3_vec_total(q3_vec_load(sum));
    for (int d = 0; d < depth; d += Q3_VEC)
        q3_vec_store(to + OUT + d, q3_vec_load(to + OUT + d) * factor);
}

/* Rows together where they see the same keys, before and behind one by one. */
static inline __attribute__((always_inline)) void add_rows(float *const *o, const float *s, const span *seen,
                                                           const float *v, int depth, const int rows)
{
    span all = seen[0];
    for (int r = 1; r < rows; r++) {
        all.from = seen[r].from > all.from ? seen[r].from : all.from;
        all.to = seen[r].to < all.to ? seen[r].to : all.to;
    }
    for (int r = 0; r < rows; r++) {
        int to = seen[r].to < all.from ? seen[r].to : all.from;
        add_columns(o + r, s + r * WEIGHTS + seen[r].from, v + seen[r].from * depth, to - seen[r].from, depth,
                    1);
    }
    add_columns(o, s + all.from, v + all.from * depth, all.to - all.from, depth, rows);
    for (int r = 0; r < rows; r++) {
        int from = all.to > all.from ? all.to : all.from;
        add_columns(o + r, s + r * WEIGHTS + from, v + from * depth, seen[r].to - from, depth, 1);
    }
}

/* One run, for rows [0, n) of an item, of which each sees some of it. Its keys are [begin + all.from, begin + all.to). */
static void one_run(const work *w, const item *it, int kv, int begin, const float *q, float *const *to,
                    const span *seen, int n)
{
    float tile[(RUN + 4) * MAX_D] ALIGNED, s[ROWS * WEIGHTS] ALIGNED;
    span all = { seen[0].from, seen[n - 1].to }; // both ascend
    load_tile(tile, w, &w->a->k, it, kv, begin + all.from, begin + all.to);
    dot_rows(s + all.from, q, tile, n, all.to - all.from, w->depth);
    for (int r = 0; r < n; r++)
        softmax_row(s + r * WEIGHTS, seen[r], to[r], w->depth);
    load_tile(tile + all.from * w->depth, w, &w->a->v, it, kv, begin + all.from, begin + all.to);
    int r = 0;
    for (; r + TILE <= n; r += TILE)
        add_rows(to + r, s + r * WEIGHTS, seen + r, tile, w->depth, TILE);
    for (; r < n; r++)
        add_rows(to + r, s + r * WEIGHTS, seen + r, tile, w->depth, 1);
}

static void start(float *to, int depth)
{
    memset(to, 0, (size_t)(OUT + depth) * sizeof *to);
    to[LARGEST] = -1e30f; // far below any score, far above the -FLT_MAX of a hidden key
}

/* Rows of an item against the keys of a part; to[r]: sums of row r. */
static void one_part(const work *w, const item *it, int part, const float *q, float *const *to)
{
    int end = seen_to(w, it, it->n - 1), begin = seen_from(w, it, 0);
    for (int r = 0; r < it->n * it->heads; r++)
        start(to[r], w->depth);
    for (int j = part * PART; j < (part + 1) * PART && j < end; j += RUN) {
        span seen[ROWS];
        int first = it->n, n = 0;
        for (int r = 0; r < it->n && j + RUN > begin; r++) {
            int from = seen_from(w, it, r) - j, upto = seen_to(w, it, r) - j;
            if (from >= RUN || upto <= 0)
                continue;
            seen[n++] = (span){ from > 0 ? from : 0, upto < RUN ? upto : RUN };
            first = r < first ? r : first;
        }
        for (int kv = 0; n && kv < it->heads; kv++) {
            int r = kv * it->n + first;
            one_run(w, it, it->kv + kv, j, q + r * w->depth, to + r, seen, n);
        }
    }
}

/* The sums of more keys are added to those of the keys before. */
static __attribute__((noinline)) void merge(float *to, const float *x, int depth)
{
    if (x[SUM] == 0)
        return;
    float top = to[LARGEST] > x[LARGEST] ? to[LARGEST] : x[LARGEST];
    float old = q3_expf(to[LARGEST] - top), new = q3_expf(x[LARGEST] - top);
    to[LARGEST] = top;
    to[SUM] = to[SUM] * old + x[SUM] * new;
    for (int d = OUT; d < OUT + depth; d += Q3_VEC)
        q3_vec_store(to + d, q3_vec_load(to + d) * old + q3_vec_load(x + d) * new);
}

static void finish(const work *w, int64_t head, const float *x)
{
    float *o = (float *)w->a->o + head * w->a->head_size;
    float inverse = x[SUM] == 0 ? 0 : 1 / x[SUM];
    for (int c = 0; c < w->a->head_size; c++)
        o[c] = x[OUT + column(w->a->v.dtype, c)] * inverse;
}

static void load_queries(float *q, const work *w, const item *it)
{
    for (int r = 0; r < it->n * it->heads; r++) {
        const float *x = (const float *)w->a->q + head_of(w, it, r) * w->a->head_size;
        for (int c = 0; c < w->a->head_size; c++)
            q[r * w->depth + column(w->a->k.dtype, c)] = w->a->scale * x[c];
        for (int c = w->a->head_size; c < w->depth; c++)
            q[r * w->depth + c] = 0;
    }
}

/* All parts of an item. */
static void whole_item(const work *w, const item *it)
{
    float q[ROWS * MAX_D] ALIGNED;
    sums part[ROWS] ALIGNED, total[ROWS] ALIGNED;
    float *to[ROWS];
    load_queries(q, w, it);
    for (int r = 0; r < it->n * it->heads; r++) {
        to[r] = part[r];
        start(total[r], w->depth);
    }
    int end = seen_to(w, it, it->n - 1);
    for (int p = seen_from(w, it, 0) / PART; p * PART < end; p++) {
        one_part(w, it, p, q, to);
        for (int r = 0; r < it->n * it->heads; r++)
            merge(total[r], part[r], w->depth);
    }
    for (int r = 0; r < it->n * it->heads; r++)
        finish(w, head_of(w, it, r), total[r]);
}

/* ---- who does what */

static float *slot(const work *w, int64_t head, int64_t i)
{
    return w->slots + (head * w->room + i) * (OUT + w->depth);
}

/* One part of an item of the round, whose first slot may hold the sums of the rounds before. */
static void part_of_item(const work *w, const item *it, int i)
{
    float q[ROWS * MAX_D] ALIGNED;
    float *to[ROWS];
    load_queries(q, w, it);
    for (int r = 0; r < it->n * it->heads; r++)
        to[r] = slot(w, head_of(w, it, r), i + w->kept);
    one_part(w, it, w->first + i, q, to);
}

static int64_t blocks(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

/* Rows of a sequence and key head. */
static int64_t rows_of(const work *w, int64_t row)
{
    return (int64_t)(w->a->begins[row + 1] - w->a->begins[row]) * group(w);
}

/* Key heads of an item, for sequences with so many rows each. */
static int heads_at_once(const work *w, int64_t rows)
{
    int64_t heads = ROWS / rows;
    return heads < 1 ? 1 : heads < w->a->kv_heads ? (int)heads : w->a->kv_heads;
}

static int64_t items_of(const work *w, int64_t row)
{
    int64_t rows = rows_of(w, row);
    return rows ? blocks(rows, ROWS) * blocks(w->a->kv_heads, heads_at_once(w, rows)) : 0;
}

static item item_of(const work *w, int64_t row, int64_t i)
{
    int64_t rows = rows_of(w, row), across = blocks(rows, ROWS);
    int heads = heads_at_once(w, rows);
    item it = {
        .row = row, .first = i % across * ROWS, .n = ROWS, .kv = (int)(i / across) * heads, .heads = heads
    };
    it.n = rows - it.first < ROWS ? (int)(rows - it.first) : ROWS;
    it.heads = w->a->kv_heads - it.kv < heads ? w->a->kv_heads - it.kv : heads;
    return it;
}

/* What the keys [begin, end) of an item cost, in rows of runs: loading a run costs as much as some rows. */
static int64_t cost(const work *w, const item *it, int64_t begin, int64_t end)
{
    int64_t from = seen_from(w, it, 0), to = seen_to(w, it, it->n - 1);
    from = from > begin ? from : begin;
    to = to < end ? to : end;
    return (to > from ? (to - from + RUN - 1) / RUN : 0) * (it->n + 4) * it->heads + 1;
}

/* Item `it`, or its part p of the round, when it is wanted. Returns what it costs. */
static int64_t step(const work *w, const item *it, int p, bool wanted)
{
    int64_t begin = (int64_t)(w->first + p) * PART;
    if (wanted && w->slots)
        part_of_item(w, it, p);
    else if (wanted)
        whole_item(w, it);
    return w->slots ? cost(w, it, begin, begin + PART) : cost(w, it, 0, INT64_MAX);
}

/* Does what begins at costs [begin, end) of all items, or of all their parts of the round. Returns the sum of the costs
 * where `end` lies behind it. */
static int64_t walk(const work *w, int64_t begin, int64_t end)
{
    int64_t at = 0;
    for (int64_t r = 0; r < w->a->rows && at < end; r++)
        for (int64_t i = 0; i < items_of(w, r) && at < end; i++) {
            item it = item_of(w, r, i);
            for (int p = 0; p < w->parts && at < end; p++)
                at += step(w, &it, p, at >= begin);
        }
    return at;
}

static void some_items(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    walk(arg, begin, end);
}

/* The parts of the round are added to the sums of the rounds before; outputs follow the last round. */
static void merge_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    const work *w = arg;
    (void)thread;
    for (int64_t head = begin; head < end; head++) {
        sums total ALIGNED;
        start(total, w->depth);
        for (int i = 0; i < w->parts + w->kept; i++)
            merge(total, slot(w, head, i), w->depth);
        if ((w->first + w->parts) * PART < w->end)
            memcpy(slot(w, head, 0), total, (size_t)(OUT + w->depth) * sizeof(float));
        else
            finish(w, head, total);
    }
}

/* The keys that the queries see, and how many items there are. */
static int64_t survey(work *w)
{
    const q3_attention_paged_args *a = w->a;
    int64_t items = 0;
    w->begin = INT32_MAX;
    for (int64_t r = 0; r < a->rows; r++) {
        const item it = { .row = r };
        if (!rows_of(w, r))
            continue;
        items += items_of(w, r);
        w->begin = seen_from(w, &it, 0) < w->begin ? seen_from(w, &it, 0) : w->begin;
        w->end = a->lengths[r] > w->end ? a->lengths[r] : w->end;
    }
    return items;
}

/* Round by round as many parts as there is room for. */
static void in_parts(work *w, int64_t heads, float *slots)
{
    w->slots = slots;
    for (w->first = w->begin / PART; w->first * PART < w->end; w->first += w->parts, w->kept = 1) {
        int64_t left = (w->end - w->first * PART + PART - 1) / PART, room = w->room - w->kept;
        w->parts = (int)(left < room ? left : room);
        q3_parallel(walk(w, INT64_MAX, INT64_MAX), 1, some_items, w);
        q3_parallel(heads, 1, merge_heads, w);
    }
}

/* Items are divided over their keys too when there are few, and room for the sums of two parts or more. */
void Q3_SIMD(q3_attention_paged)(const q3_attention_paged_args *a)
{
    work w = { .a = a, .depth = (a->head_size + Q3_VEC - 1) / Q3_VEC * Q3_VEC, .parts = 1 };
    int64_t items = survey(&w), heads = items ? (int64_t)a->begins[a->rows] * a->heads : 1;
    float slots[SLOTS] ALIGNED;
    w.room = SLOTS / (heads * (OUT + w.depth));
    if (items < ENOUGH * q3_pool_threads() && w.room >= 2 && w.end - w.begin > PART)
        in_parts(&w, heads, slots);
    else
        q3_parallel(walk(&w, INT64_MAX, INT64_MAX), 1, some_items, &w);
}
