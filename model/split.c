#include "model/split.h"

#include <string.h>

#include "kernels/gemm.h"

/* What a slice of a matrix is made with. */
typedef struct cutter {
    q3_arena *mem, *values;
    int rank, ranks;
    q3_status status; // the first failure
} cutter;

void q3_split_rows(int64_t *begin, int64_t *end, int64_t T, int rank, int ranks)
{
    *begin = T * rank / ranks;
    *end = T * (rank + 1) / ranks;
}

static bool in_blocks(q3_dtype t)
{
    return t == Q3_NF4 || t == Q3_FP4 || t == Q3_I4;
}

static q3_tensor *fail(cutter *c, q3_status st)
{
    c->status = c->status ? c->status : st;
    return NULL;
}

/* A header like w's over other data. */
static q3_tensor *header(cutter *c, const q3_tensor *w, const void *data, q3_dtype dtype, int64_t rows,
                         int64_t cols)
{
    const int64_t shape[2] = { rows, cols };
    q3_tensor *t = data ? q3_tensor_wrap(c->mem, (void *)(uintptr_t)data, dtype, 2, shape) : NULL;
    if (!t)
        return fail(c, Q3_ERR_MEMORY);
    t->name = w->name;
    return t;
}

/* Rows [r0, r1) and columns [c0, c1) as f32: what fits every type. */
static q3_tensor *widened(cutter *c, const q3_tensor *w, int64_t r0, int64_t r1, int64_t c0, int64_t c1)
{
    const q3_weight weight = q3_as_weight(w);
    float *data = Q3_NEW(c->values, float, (r1 - r0) * (c1 - c0));
    for (int64_t r = r0; data && r < r1; r++)
        q3_weight_row(data + (r - r0) * (c1 - c0), &weight, r, w->shape[1], c0, c1 - c0);
    return header(c, w, data, Q3_F32, r1 - r0, c1 - c0);
}

/* Rows are looked at where they lie. */
static q3_tensor *some_rows(cutter *c, const q3_tensor *w, int64_t r0, int64_t r1)
{
    int64_t cols = w->shape[1], at = r0 * cols;
    if (in_blocks(w->dtype) && at % w->block)
        return widened(c, w, r0, r1, 0, cols);
    q3_tensor *t =
        header(c, w, (const char *)w->data + q3_dtype_bytes(w->dtype, at), w->dtype, r1 - r0, cols);
    if (!t)
        return NULL;
    t->block = w->block;
    if (w->absmax)
        t->absmax = w->absmax + (w->dtype == Q3_I8 ? r0 : at / w->block);
    return t;
}

/* Columns of a dense matrix, or of one whose blocks lie within rows and are not cut. */
static q3_tensor *packed_columns(cutter *c, const q3_tensor *w, int64_t c0, int64_t c1)
{
    int64_t rows = w->shape[0], cols = w->shape[1], n = c1 - c0,
            per_row = in_blocks(w->dtype) ? n / w->block : 0;
    size_t bytes = q3_dtype_bytes(w->dtype, n);
    char *data = q3_arena_alloc(c->values, bytes * (size_t)rows + 1);
    float *absmax = per_row ? Q3_NEW(c->values, float, rows *per_row) : NULL;
    q3_tensor *t = header(c, w, data, w->dtype, rows, n);
    if (!t || (per_row && !absmax))
        return fail(c, Q3_ERR_MEMORY);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(data + (size_t)r * bytes, (const char *)w->data + q3_dtype_bytes(w->dtype, r * cols + c0),
               bytes);
        if (per_row)
            memcpy(absmax + r * per_row, w->absmax + (r * cols + c0) / w->block,
                   (size_t)per_row * sizeof *absmax);
    }
    t->block = w->dtype == Q3_I8 ? (int)n : w->block;
    t->absmax = per_row ? absmax : w->absmax; // int8 has one a row
    return t;
}

static q3_tensor *some_columns(cutter *c, const q3_tensor *w, int64_t c0, int64_t c1)
{
    int64_t cols = w->shape[1];
    if (in_blocks(w->dtype) && (cols % w->block || c0 % w->block || c1 % w->block))
        return widened(c, w, 0, w->shape[0], c0, c1);
    return packed_columns(c, w, c0, c1);
}

static void cut_rows(cutter *c, q3_tensor **w)
{
    int64_t begin, end;
    if (!*w || c->status)
        return;
    q3_split_rows(&begin, &end, (*w)->shape[0], c->rank, c->ranks);
    *w = some_rows(c, *w, begin, end);
}

static void cut_columns(cutter *c, q3_tensor **w)
{
    int64_t begin, end;
    if (!*w || c->status)
        return;
    q3_split_rows(&begin, &end, (*w)->shape[1], c->rank, c->ranks);
    *w = some_columns(c, *w, begin, end);
}

/* By rows: w and B; by columns: w and A. */
static void cut_projection(cutter *c, q3_proj *p, q3_adapters *adapters, bool by_rows)
{
    (by_rows ? cut_rows : cut_columns)(c, &p->w);
    for (int i = 0; adapters && i < adapters->n; i++) {
        q3_adapter_part *part = &adapters->list[i].parts[p->stream];
        if (by_rows)
            cut_rows(c, &part->b);
        else
            cut_columns(c, &part->a);
    }
}

static q3_status divide(const char *what, int n, int ranks)
{
    return n % ranks == 0 ? Q3_OK
                          : q3_fail(Q3_ERR_USAGE,
                                    "%d ranks cannot share the model's %d %s; take a number that divides it",
                                    ranks, n, what);
}

static q3_status split_tensors(q3_model *m, q3_adapters *adapters, cutter *c)
{
    q3_text_config *t = &m->config.text;
    Q3_TRY(divide("key heads", t->kv_heads, c->ranks));
    Q3_TRY(divide("columns of the MLP", t->intermediate_size, c->ranks));
    for (int i = 0; i < t->layers; i++) {
        q3_text_layer *l = &m->layers[i];
        q3_proj *rows[] = { &l->q, &l->k, &l->v, &l->gate, &l->up }, *columns[] = { &l->o, &l->down };
        for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
            cut_projection(c, rows[k], adapters, true);
        for (size_t k = 0; k < sizeof columns / sizeof *columns; k++)
            cut_projection(c, columns[k], adapters, false);
    }
    t->heads /= c->ranks;
    t->kv_heads /= c->ranks;
    t->intermediate_size /= c->ranks;
    return c->status;
}

static q3_status split_layers(q3_model *m, int rank, int ranks)
{
    int64_t begin, end, first_end;
    const q3_model_config *c = &m->config;
    if (c->text.layers < ranks)
        return q3_fail(Q3_ERR_USAGE, "%d ranks cannot share %d layers; take fewer", ranks, c->text.layers);
    q3_split_rows(&begin, &first_end, c->text.layers, 0, ranks);
    if (c->vision.n_deepstack > first_end)
        return q3_fail(Q3_ERR_USAGE,
                       "%d ranks leave %d layers to the first, which needs the %d that pictures go into; "
                       "take fewer ranks",
                       ranks, (int)first_end, c->vision.n_deepstack);
    q3_split_rows(&begin, &end, c->text.layers, rank, ranks);
    m->split.first = (int)begin;
    m->split.end = (int)end;
    return Q3_OK;
}

q3_status q3_model_split(q3_model *m, q3_adapters *adapters, q3_arena *mem, q3_arena *values,
                         q3_split_kind kind, q3_group *group)
{
    int rank = q3_group_rank(group), ranks = q3_group_size(group);
    m->split = (q3_split){ .end = m->config.text.layers };
    if (!group || kind == Q3_SPLIT_NONE)
        return Q3_OK;
    if (values->cuda)
        return q3_fail(Q3_ERR_USAGE, "a model is spread over CPUs only so far; choose the device \"cpu\"");
    m->split.kind = kind;
    m->split.group = group;
    if (kind == Q3_SPLIT_PIPELINE)
        return split_layers(m, rank, ranks);
    cutter c = { .mem = mem, .values = values, .rank = rank, .ranks = ranks };
    return kind == Q3_SPLIT_TENSOR ? split_tensors(m, adapters, &c) : Q3_OK;
}

void q3_split_sum(q3_ctx *ctx, const q3_split *s, q3_tensor *y)
{
    if (ctx->dry)
        return;
    q3_status st = q3_group_sum(s->group, y->data, q3_numel(y));
    Q3_CHECK(st == Q3_OK, "%s", q3_error());
}

q3_tensor *q3_split_gather(q3_ctx *ctx, const q3_split *s, const q3_tensor *x, int64_t T)
{
    enum { MOST_RANKS = 256 };
    size_t bytes[MOST_RANKS];
    int ranks = q3_group_size(s->group);
    Q3_CHECK(ranks <= MOST_RANKS, "%d ranks", ranks);
    q3_tensor *all = q3_new2(ctx, T, q3_dim(x, -1));
    for (int r = 0; r < ranks; r++) {
        int64_t begin, end;
        q3_split_rows(&begin, &end, T, r, ranks);
        bytes[r] = q3_dtype_bytes(x->dtype, (end - begin) * q3_dim(x, -1));
    }
    if (!ctx->dry)
        q3_group_gather_pieces(s->group, all->data, x->data, bytes);
    return all;
}

q3_tensor *q3_split_receive(q3_ctx *ctx, const q3_split *s, int64_t T, int64_t C)
{
    q3_tensor *x = q3_new2(ctx, T, C);
    if (!ctx->dry)
        q3_group_receive(s->group, x->data, q3_nbytes(x), q3_group_rank(s->group) - 1);
    return x;
}

void q3_split_hand_on(q3_ctx *ctx, const q3_split *s, q3_tensor *x)
{
    int rank = q3_group_rank(s->group), last = q3_group_size(s->group) - 1;
    if (ctx->dry)
        return;
    if (rank < last)
        q3_group_send(s->group, x->data, q3_nbytes(x), rank + 1);
    q3_group_broadcast(s->group, x->data, q3_nbytes(x), last);
}
