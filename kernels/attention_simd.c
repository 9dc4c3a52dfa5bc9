/* The lanes of the vectors are queries (forward, dq) or keys (dk, dv): PANEL of them are transposed once, and
 * the other side is read row by row as it lies, each element broadcast to all lanes. Scores then stand in a
 * tile with one row for each row of the other side, and maxima, sums and masks go down the columns, without
 * reductions across lanes. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/attention.h"
#include "kernels/vec.h"
#include "kernels/vexp.h"

enum {
    PANEL = 2 * Q3_VEC,          // lanes of an item
    TILE = Q3_VEC == 16 ? 8 : 4, // rows that the inner loops keep in registers
    ROWS = 64,                   // rows of the other side at a time
    NARROW = PANEL / 4,          // lanes that are better taken one by one
    MAX_D = Q3_ATTENTION_MAX_D,
};

#define ALIGNED __attribute__((aligned(64)))

typedef float lanes[PANEL];

/* A work item: lanes [first, first + n) of a segment and key head. */
typedef struct item {
    int64_t q_begin, q_len, kv_begin, kv_len;
    int64_t first;
    int kv, n;
} item;

/* out[r] = rows[r] . t for each lane. Computes up to TILE - 1 rows more than n; out has room for ROWS. */
static void dot_rows(lanes *out, const float *const *rows, int n, lanes *t, int depth)
{
    for (int r = 0; r < n; r += TILE) {
        const float *x[TILE];
        q3_vec lo[TILE], hi[TILE];
#pragma GCC unroll 8
        for (int m = 0; m < TILE; m++) {
            x[m] = rows[r + m < n ? r + m : n - 1];
            lo[m] = hi[m] = q3_vec_all(0);
        }
        for (int d = 0; d < depth; d++) {
            q3_vec a = q3_vec_load(t[d]), b = q3_vec_load(t[d] + Q3_VEC);
#pragma GCC unroll 8
            for (int m = 0; m < TILE; m++) {
                lo[m] += a * x[m][d];
                hi[m] += b * x[m][d];
            }
        }
#pragma GCC unroll 8
        for (int m = 0; m < TILE; m++) {
            q3_vec_store(out[r + m], lo[m]);
            q3_vec_store(out[r + m] + Q3_VEC, hi[m]);
        }
    }
}

/* `count` rows of out, from d on: out[d] += sum_r rows[r][d] w[r] for each lane. */
static inline __attribute__((always_inline)) void add_tile(lanes *out, const float *const *rows, int n,
                                                           lanes *w, int d, const int count)
{
    q3_vec lo[TILE], hi[TILE];
#pragma GCC unroll 8
    for (int m = 0; m < count; m++) {
        lo[m] = q3_vec_load(out[d + m]);
        hi[m] = q3_vec_load(out[d + m] + Q3_VEC);
    }
    for (int r = 0; r < n; r++) {
        q3_vec a = q3_vec_load(w[r]), b = q3_vec_load(w[r] + Q3_VEC);
        const float *x = rows[r] + d;
#pragma GCC unroll 8
        for (int m = 0; m < count; m++) {
            lo[m] += a * x[m];
            hi[m] += b * x[m];
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < count; m++) {
        q3_vec_store(out[d + m], lo[m]);
        q3_vec_store(out[d + m] + Q3_VEC, hi[m]);
    }
}

static void add_rows(lanes *out, const float *const *rows, int n, lanes *w, int depth)
{
    int d = 0;
    for (; d + TILE <= depth; d += TILE)
        add_tile(out, rows, n, w, d, TILE);
    for (; d < depth; d++)
        add_tile(out, rows, n, w, d, 1);
}

/* t[d][l] = factor x[at[l] + d]; zeros in the lanes beyond. */
static void transpose_in(lanes *t, const float *x, const int64_t *at, int n, int depth, float factor)
{
    memset(t, 0, (size_t)depth * sizeof *t);
    for (int l = 0; l < n; l++)
        for (int d = 0; d < depth; d++)
            t[d][l] = factor * x[at[l] + d];
}

static void transpose_add(float *x, lanes *t, const int64_t *at, int n, int depth, float factor)
{
    for (int l = 0; l < n; l++)
        for (int d = 0; d < depth; d++)
            x[at[l] + d] += factor * t[d][l];
}

static float dot(const float *x, const float *y, int n)
{
    q3_vec sum = q3_vec_all(0);
    float rest = 0;
    int i = 0;
    for (; i + Q3_VEC <= n; i += Q3_VEC)
        sum += q3_vec_load(x + i) * q3_vec_load(y + i);
    for (; i < n; i++)
        rest += x[i] * y[i];
    return q3_vec_total(sum) + rest;
}

static int group(const q3_attention_args *a)
{
    return a->heads / a->kv_heads;
}

/* Row n of an item's segment runs over queries, and within one over the heads of the group. */
static int64_t query_row(const q3_attention_args *a, const item *it, int64_t n)
{
    return (it->q_begin + n / group(a)) * a->heads + it->kv * group(a) + n % group(a);
}

static int64_t key_row(const q3_attention_args *a, const item *it, int64_t j)
{
    return (it->kv_begin + j) * a->kv_heads + it->kv;
}

static int visible(const q3_attention_args *a, const item *it, int64_t n)
{
    return (int)q3_attention_visible(a->causal, it->q_len, it->kv_len, n / group(a));
}

/* ---- the items of a pass: segment after segment, key head after key head, block after block */

typedef struct pass {
    const q3_attention_args *a;
    const q3_attention_backward_args *b;
    bool keys; // lanes are keys
    void (*run)(const struct pass *p, const item *it);
} pass;

static int64_t lanes_of(const pass *p, int64_t segment)
{
    const int64_t *s = p->a->segments + 4 * segment;
    return p->keys ? s[3] : s[1] * group(p->a);
}

static int64_t blocks_of(const pass *p, int64_t segment)
{
    return (lanes_of(p, segment) + PANEL - 1) / PANEL;
}

static item item_of(const pass *p, int64_t segment, int64_t within)
{
    const int64_t *s = p->a->segments + 4 * segment;
    int64_t blocks = blocks_of(p, segment), block = within % blocks, all = lanes_of(p, segment);
    block = block % 2 ? blocks - 1 - block / 2 : block / 2; // long and short triangle rows in turn
    item it = { s[0], s[1], s[2], s[3], block * PANEL, (int)(within / blocks), PANEL };
    if (it.first + PANEL > all)
        it.n = (int)(all - it.first);
    return it;
}

static void run_items(void *arg, int64_t begin, int64_t end, int thread)
{
    const pass *p = arg;
    (void)thread;
    int64_t segment = 0, base = 0;
    for (int64_t i = begin; i < end; i++) {
        while (i - base >= blocks_of(p, segment) * p->a->kv_heads)
            base += blocks_of(p, segment++) * p->a->kv_heads;
        item it = item_of(p, segment, i - base);
        p->run(p, &it);
    }
}

static void run_pass(pass p)
{
    int64_t items = 0;
    for (int64_t s = 0; s < p.a->n_segments; s++)
        items += blocks_of(&p, s) * p.a->kv_heads;
    q3_parallel(items, 1, run_items, &p);
}

/* ---- forward */

typedef struct softmax {
    float largest[PANEL] ALIGNED, sum[PANEL] ALIGNED, factor[PANEL] ALIGNED;
    int32_t visible[PANEL] ALIGNED; // keys of each lane's query
} softmax;

/* The queries of an item: where they lie, what they see. Returns the number of keys that any of them sees. */
static int query_lanes(const q3_attention_args *a, const item *it, int64_t *at, int32_t *seen)
{
    for (int l = 0; l < PANEL; l++) {
        seen[l] = l < it->n ? visible(a, it, it->first + l) : 0;
        at[l] = l < it->n ? query_row(a, it, it->first + l) * a->head_size : 0;
    }
    return seen[it->n - 1];
}

static int key_rows(const q3_attention_args *a, const item *it, int begin, int end, const float **k,
                    const float **v)
{
    int n = end - begin < ROWS ? end - begin : ROWS;
    for (int j = 0; j < n; j++) {
        k[j] = (const float *)a->k + key_row(a, it, begin + j) * a->head_size;
        v[j] = (const float *)a->v + key_row(a, it, begin + j) * a->head_size;
    }
    return n;
}

/* Scores of keys [begin, begin + n) become weights relative to the largest score so far. */
static void softmax_rows(softmax *x, lanes *s, int begin, int n)
{
    float largest[PANEL] ALIGNED;
    memcpy(largest, x->largest, sizeof largest);
    for (int j = 0; j < n; j++)
        for (int l = 0; l < PANEL; l++) {
            s[j][l] = begin + j < x->visible[l] ? s[j][l] : -FLT_MAX;
            largest[l] = s[j][l] > largest[l] ? s[j][l] : largest[l];
        }
    for (int l = 0; l < PANEL; l++) {
        x->factor[l] = q3_expf(x->largest[l] - largest[l]);
        x->largest[l] = largest[l];
        x->sum[l] *= x->factor[l];
    }
    for (int j = 0; j < n; j++)
        for (int l = 0; l < PANEL; l++) {
            float w = q3_expf(s[j][l] - largest[l]);
            s[j][l] = w;
            x->sum[l] += w;
        }
}

static void finish(const q3_attention_args *a, const item *it, const softmax *x, lanes *o, const int64_t *at)
{
    float *out = a->o;
    for (int l = 0; l < it->n; l++) {
        float inverse = x->visible[l] ? 1 / x->sum[l] : 0;
        for (int d = 0; d < a->head_size; d++)
            out[at[l] + d] = o[d][l] * inverse;
        if (a->lse)
            a->lse[at[l] / a->head_size] = x->visible[l] ? x->largest[l] + logf(x->sum[l]) : 0;
    }
}

/* One query against a block of keys; the steps of softmax_rows with the vectors along the head. */
static void narrow_rows(const q3_attention_args *a, const float *q, const float **k, const float **v, int n,
                        float *o, float *largest, float *sum)
{
    float s[ROWS] ALIGNED, top = *largest;
    for (int j = 0; j < n; j++) {
        s[j] = a->scale * dot(q, k[j], a->head_size);
        top = s[j] > top ? s[j] : top;
    }
    for (int j = 0; j < n; j++)
        s[j] = q3_expf(s[j] - top);
    float factor = q3_expf(*largest - top);
    *largest = top;
    *sum *= factor;
    for (int d = 0; d < a->head_size; d++)
        o[d] *= factor;
    for (int j = 0; j < n; j++) {
        const float *restrict x = v[j];
        *sum += s[j];
        for (int d = 0; d < a->head_size; d++)
            o[d] += s[j] * x[d];
    }
}

/* Few lanes, as in generation, where a sequence adds one token. */
static void narrow_item(const q3_attention_args *a, const item *it)
{
    float o[NARROW][MAX_D] ALIGNED, largest[NARROW], sum[NARROW] = { 0 };
    const float *k[ROWS], *v[ROWS];
    const float *q = a->q;
    float *out = a->o;
    int64_t at[PANEL];
    int32_t seen[PANEL];
    int end = query_lanes(a, it, at, seen);
    memset(o, 0, sizeof o);
    for (int l = 0; l < NARROW; l++)
        largest[l] = -1e30f;
    for (int j = 0, n; j < end; j += n) {
        n = key_rows(a, it, j, end, k, v);
        for (int l = 0; l < it->n; l++)
            narrow_rows(a, q + at[l], k, v, seen[l] - j < n ? seen[l] - j : n, o[l], &largest[l], &sum[l]);
    }
    for (int l = 0; l < it->n; l++) {
        for (int d = 0; d < a->head_size; d++)
            out[at[l] + d] = seen[l] ? o[l][d] / sum[l] : 0;
        if (a->lse)
            a->lse[at[l] / a->head_size] = seen[l] ? largest[l] + logf(sum[l]) : 0;
    }
}

static void forward_item(const pass *p, const item *it)
{
    const q3_attention_args *a = p->a;
    if (it->n <= NARROW) {
        narrow_item(a, it);
        return;
    }
    float q[MAX_D][PANEL] ALIGNED, o[MAX_D][PANEL] ALIGNED, s[ROWS][PANEL] ALIGNED;
    const float *k[ROWS], *v[ROWS];
    int64_t at[PANEL];
    softmax x = { 0 };
    int end = query_lanes(a, it, at, x.visible), D = a->head_size;
    for (int l = 0; l < PANEL; l++)
        x.largest[l] = -1e30f; // far below any score, far above the -FLT_MAX of a hidden key
    transpose_in(q, a->q, at, it->n, D, a->scale);
    memset(o, 0, (size_t)D * sizeof *o);
    for (int j = 0, n; j < end; j += n) {
        n = key_rows(a, it, j, end, k, v);
        dot_rows(s, k, n, q, D);
        softmax_rows(&x, s, j, n);
        for (int d = 0; d < D; d++)
            for (int l = 0; l < PANEL; l++)
                o[d][l] *= x.factor[l];
        add_rows(o, v, n, s, D);
    }
    finish(a, it, &x, o, at);
}

void Q3_SIMD(q3_attention_forward)(const q3_attention_args *a)
{
    run_pass((pass){ .a = a, .run = forward_item });
}

/* ---- backward */

static void delta_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const q3_attention_backward_args *b = arg;
    const float *dout = b->dout, *o = b->f.o;
    int D = b->f.head_size;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        b->delta[i] = dot(dout + i * D, o + i * D, D);
}

static void query_item(const pass *p, const item *it)
{
    const q3_attention_args *a = p->a;
    float q[MAX_D][PANEL] ALIGNED, dout[MAX_D][PANEL] ALIGNED, dq[MAX_D][PANEL] ALIGNED;
    float s[ROWS][PANEL] ALIGNED, dp[ROWS][PANEL] ALIGNED, lse[PANEL] ALIGNED, delta[PANEL] ALIGNED;
    const float *k[ROWS], *v[ROWS];
    int64_t at[PANEL];
    int32_t seen[PANEL] ALIGNED;
    int end = query_lanes(a, it, at, seen), D = a->head_size;
    for (int l = 0; l < PANEL; l++) {
        lse[l] = a->lse[at[l] / D];
        delta[l] = p->b->delta[at[l] / D];
    }
    transpose_in(q, a->q, at, it->n, D, a->scale);
    transpose_in(dout, p->b->dout, at, it->n, D, 1);
    memset(dq, 0, (size_t)D * sizeof *dq);
    for (int j = 0, n; j < end; j += n) {
        n = key_rows(a, it, j, end, k, v);
        dot_rows(s, k, n, q, D);
        dot_rows(dp, v, n, dout, D);
        for (int r = 0; r < n; r++)
            for (int l = 0; l < PANEL; l++) {
                float ds = q3_expf(s[r][l] - lse[l]) * (dp[r][l] - delta[l]);
                s[r][l] = j + r < seen[l] ? ds : 0;
            }
        add_rows(dq, k, n, s, D);
    }
    transpose_add(p->b->dq, dq, at, it->n, D, a->scale);
}

/* A block of queries as rows; what each of them sees, counted from the item's first key. */
typedef struct queries {
    const float *q[ROWS], *dout[ROWS];
    float lse[ROWS], delta[ROWS];
    int32_t seen[ROWS];
} queries;

static int query_rows(queries *x, const q3_attention_backward_args *b, const item *it, int64_t begin,
                      int64_t end)
{
    int n = end - begin < ROWS ? (int)(end - begin) : ROWS;
    for (int r = 0; r < n; r++) {
        int64_t row = query_row(&b->f, it, begin + r), seen = visible(&b->f, it, begin + r) - it->first;
        x->q[r] = (const float *)b->f.q + row * b->f.head_size;
        x->dout[r] = (const float *)b->dout + row * b->f.head_size;
        x->lse[r] = b->f.lse[row];
        x->delta[r] = b->delta[row];
        x->seen[r] = seen < it->n ? (int32_t)seen : it->n;
    }
    return n;
}

static void key_item(const pass *p, const item *it)
{
    const q3_attention_backward_args *b = p->b;
    float k[MAX_D][PANEL] ALIGNED, v[MAX_D][PANEL] ALIGNED, dk[MAX_D][PANEL] ALIGNED,
        dv[MAX_D][PANEL] ALIGNED;
    float s[ROWS][PANEL] ALIGNED, dp[ROWS][PANEL] ALIGNED;
    int64_t at[PANEL];
    queries x;
    int D = p->a->head_size;
    for (int l = 0; l < it->n; l++)
        at[l] = key_row(p->a, it, it->first + l) * D;
    transpose_in(k, p->a->k, at, it->n, D, p->a->scale);
    transpose_in(v, p->a->v, at, it->n, D, 1);
    memset(dk, 0, (size_t)D * sizeof *dk);
    memset(dv, 0, (size_t)D * sizeof *dv);
    int64_t hidden = it->first - (it->kv_len - it->q_len), end = it->q_len * group(p->a);
    int64_t first =
        p->a->causal && hidden > 0 ? hidden * group(p->a) : 0; // earlier queries see none of these keys
    for (int64_t i = first, n; i < end; i += n) {
        n = query_rows(&x, b, it, i, end);
        dot_rows(s, x.q, (int)n, k, D);
        dot_rows(dp, x.dout, (int)n, v, D);
        for (int r = 0; r < n; r++)
            for (int l = 0; l < PANEL; l++) {
                float w = q3_expf(s[r][l] - x.lse[r]);
                s[r][l] = l < x.seen[r] ? w : 0;
                dp[r][l] = l < x.seen[r] ? w * (dp[r][l] - x.delta[r]) : 0;
            }
        if (b->dv)
            add_rows(dv, x.dout, (int)n, s, D);
        if (b->dk)
            add_rows(dk, x.q, (int)n, dp, D);
    }
    if (b->dk)
        transpose_add(b->dk, dk, at, it->n, D, p->a->scale);
    if (b->dv)
        transpose_add(b->dv, dv, at, it->n, D, 1);
}

void Q3_SIMD(q3_attention_backward)(const q3_attention_backward_args *b)
{
    q3_parallel(b->queries * b->f.heads, 64, delta_rows, (void *)(uintptr_t)b);
    if (b->dq)
        run_pass((pass){ .a = &b->f, .b = b, .run = query_item });
    if (b->dk || b->dv)
        run_pass((pass){ .a = &b->f, .b = b, .run = key_item, .keys = true });
}
