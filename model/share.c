#include "model/share.h"

#include "model/split.h"

static int64_t within(int64_t x, int64_t begin, int64_t end)
{
    return x < begin ? begin : x > end ? end : x;
}

/* The queries of each row that fall into the part, and the tokens up to the last of them. */
static void cut_rows(q3_ctx *ctx, q3_share *p, const q3_kv *kv, int n_rows)
{
    int32_t *begins = q3_list(ctx, (size_t)(n_rows + 1) * sizeof *begins);
    int32_t *lengths = q3_list(ctx, (size_t)(n_rows + 1) * sizeof *lengths);
    p->kv = *kv;
    p->kv.most = 0;
    for (int r = 0; r < n_rows; r++) {
        int64_t first = within(kv->begins[r], p->begin, p->end),
                last = within(kv->begins[r + 1], p->begin, p->end);
        begins[r] = (int32_t)(first - p->begin);
        lengths[r] = last > first ? (int32_t)(kv->lengths[r] - (kv->begins[r + 1] - last)) : 0;
        p->kv.most = last - first > p->kv.most ? last - first : p->kv.most;
    }
    begins[n_rows] = (int32_t)(p->end - p->begin);
    p->kv.begins = begins;
    p->kv.lengths = lengths;
}

static void cut_runs(q3_ctx *ctx, q3_share *p, const q3_forward *f)
{
    q3_adapter_run *runs = q3_list(ctx, (size_t)(f->n_runs + 1) * sizeof *runs);
    int n = 0;
    for (int i = 0; i < f->n_runs; i++) {
        int64_t first = within(f->runs[i].begin, p->begin, p->end);
        int64_t last = within(f->runs[i].begin + f->runs[i].n, p->begin, p->end);
        if (last > first)
            runs[n++] = (q3_adapter_run){ f->runs[i].adapter, first - p->begin, last - first };
    }
    p->forward.runs = runs;
    p->forward.n_runs = n;
}

/* image_rows ascend, so those of the part stand together. */
static void cut_pictures(q3_ctx *ctx, q3_share *p, const q3_model *m, const q3_batch *b,
                         const q3_vision_features *vision)
{
    int64_t first = 0, last = b->n_image_rows;
    while (first < last && b->image_rows[first] < p->begin)
        first++;
    while (last > first && b->image_rows[last - 1] >= p->end)
        last--;
    p->n_image_rows = last - first;
    p->image_rows = q3_list(ctx, (size_t)(p->n_image_rows + 1) * sizeof *p->image_rows);
    for (int64_t i = first; i < last; i++)
        p->image_rows[i - first] = b->image_rows[i] - (int32_t)p->begin;
    if (!p->n_image_rows)
        return;
    for (int i = 0; i < m->config.vision.n_deepstack; i++)
        p->vision.deepstack[i] = q3_rows_of(ctx, vision->deepstack[i], first, p->n_image_rows);
}

q3_share q3_share_of(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b,
                     const q3_vision_features *vision)
{
    q3_share p = { .cut = m->split.kind == Q3_SPLIT_SEQUENCE && f->kv && b->n_tokens >= Q3_SPLIT_TOKENS,
                   .forward = *f };
    p.begin = 0;
    p.end = b->n_tokens;
    if (!p.cut)
        return p;
    q3_split_rows(&p.begin, &p.end, b->n_tokens, q3_group_rank(m->split.group),
                  q3_group_size(m->split.group));
    cut_rows(ctx, &p, f->kv, b->n_rows);
    cut_runs(ctx, &p, f);
    if (vision)
        cut_pictures(ctx, &p, m, b, vision);
    return p;
}
