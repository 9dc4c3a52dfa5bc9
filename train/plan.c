/* The memory plan: the step's own code run dry over the largest batch of the data set. On the way every sample is
 * looked at once, so that a bad one is named before training starts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "train/plan.h"
#include "train/residency.h"

const char *const q3_checkpointing_names[Q3_PLAN_CHOICES] = { "none", "half", "full" };

typedef struct sample_size {
    int64_t index, tokens, supervised, patches;
    int n_images;
    int32_t first[3], *more; // grids: of the first picture, and (heap) of those behind it
} sample_size;

static const int32_t *grid_of(const sample_size *s, int i)
{
    return i ? s->more + (ptrdiff_t)3 * (i - 1) : s->first;
}

static q3_status keep_grids(sample_size *out, const q3_row *row)
{
    out->n_images = row->n_pictures;
    if (out->n_images > 1 && !(out->more = q3_malloc(3 * (size_t)(out->n_images - 1) * sizeof *out->more)))
        return Q3_ERR_MEMORY;
    for (int i = 0; i < 3 * out->n_images; i++)
        *(i < 3 ? &out->first[i] : &out->more[i - 3]) = row->pictures[i / 3].grid[i % 3];
    return Q3_OK;
}

static void free_sizes(sample_size *s, int64_t n)
{
    for (int64_t i = 0; s && i < n; i++)
        q3_free(s[i].more);
    q3_free(s);
}

/* Tokens and patches of a sample from its text and the headers of its pictures. */
static q3_status measure(sample_size *out, q3_arena *mem, const q3_trainer *t, const q3_dataset *data,
                         int64_t index)
{
    q3_sample s;
    q3_row row = { 0 };
    *out = (sample_size){ .index = index };
    q3_status st = q3_dataset_get(&s, data, index);
    if (st != Q3_OK)
        return q3_prefix(st, "Qwen3 collate failed: ");
    st = q3_collate_layout(&row, mem, &t->collator, &s, true);
    if (st == Q3_OK && !row.skipped) {
        out->tokens = row.n;
        out->supervised = row.n_supervised;
        out->patches = q3_row_patches(&row);
        st = keep_grids(out, &row);
    }
    q3_sample_free(&s);
    q3_arena_reset(mem);
    return st;
}

static int larger_first(const void *a, const void *b)
{
    const sample_size *x = a, *y = b;
    int64_t cost_x = x->tokens + x->patches, cost_y = y->tokens + y->patches;
    if (cost_x != cost_y)
        return cost_x < cost_y ? 1 : -1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static q3_status measure_all(sample_size **out, int64_t *skipped, q3_arena *mem, const q3_trainer *t,
                             const q3_dataset *data, int64_t n)
{
    sample_size *s = q3_calloc((size_t)n, sizeof *s);
    *skipped = 0;
    *out = s;
    if (!s)
        return Q3_ERR_MEMORY;
    for (int64_t i = 0; i < n; i++) {
        Q3_TRY(measure(&s[i], mem, t, data, i));
        *skipped += s[i].tokens == 0;
        if (i % 1000 == 999)
            q3_log_live("looking at the samples: %lld of %lld", (long long)i + 1, (long long)n);
    }
    return Q3_OK;
}

/* A batch of these sizes, good for counting only: what is computed on the host (row bounds, labels, grids) is there. */
static q3_status hollow_batch(q3_batch *out, q3_arena *mem, const q3_trainer *t, const sample_size *s,
                              int64_t n)
{
    int merge = t->collator.vision.merge;
    *out = (q3_batch){ .n_rows = (int)n };
    for (int64_t i = 0; i < n; i++) {
        out->n_images += s[i].n_images;
        out->n_tokens += s[i].tokens;
        out->n_patches += s[i].patches;
        out->n_image_rows += s[i].patches / (merge * merge);
    }
    int64_t *row_begin = Q3_NEW(mem, int64_t, n + 1);
    int32_t *labels = Q3_NEW(mem, int32_t, out->n_tokens + 1),
            *grids = Q3_NEW(mem, int32_t, 3 * (int64_t)out->n_images + 1);
    if (!row_begin || !labels || !grids)
        return Q3_ERR_MEMORY;
    int64_t at = 0, image = 0;
    for (int64_t i = 0; i < n; i++) {
        row_begin[i] = at;
        for (int64_t k = 0; k < s[i].tokens; k++)
            labels[at++] = k < s[i].tokens - s[i].supervised ? -100 : 0;
        for (int k = 0; k < s[i].n_images; k++, image++)
            memcpy(grids + 3 * image, grid_of(&s[i], k), 3 * sizeof *grids);
    }
    row_begin[n] = at;
    out->row_begin = row_begin;
    out->labels = labels;
    out->grids = grids;
    out->ids = labels; // never read in a dry run
    out->positions = labels;
    return Q3_OK;
}

static q3_status dry_run(size_t *bytes, q3_trainer *t, const q3_batch *b)
{
    t->step.dry = t->ctx.dry = true;
    t->step.peak = 0;
    q3_step_begin(&t->ctx, true);
    q3_tensor *loss = q3_qwen3vl_loss(&t->ctx, &t->model, &t->forward, b, 1.0f);
    if (loss)
        q3_backward(&t->ctx, loss, 1.0f);
    *bytes = t->step.peak;
    q3_step_begin(&t->ctx, false);
    t->step.dry = t->ctx.dry = false;
    t->step.peak = 0;
    return Q3_OK;
}

/* What is free, and what of it is not the step's: the gradients of the window, and what is only laid out yet. */
static void measure_room(q3_plan *p, const q3_trainer *t)
{
    p->free = q3_device_available(t->cuda);
    p->kept = p->growth + (t->values.dry ? t->values.used : 0);
}

static bool fits(const q3_plan *p, size_t bytes)
{
    return !p->free || p->kept + bytes <= p->free;
}

/* Samples of the largest batch that fits with full checkpointing. */
static q3_status shrink(q3_plan *p, q3_trainer *t, q3_arena *mem, const sample_size *sizes)
{
    int64_t good = 0, bad = p->rows;
    t->forward.checkpointing = (q3_checkpointing)(Q3_PLAN_CHOICES - 1);
    while (bad - good > 1) {
        q3_batch batch;
        size_t bytes, mark = q3_arena_mark(mem);
        int64_t n = good + (bad - good) / 2;
        Q3_TRY(hollow_batch(&batch, mem, t, sizes, n));
        Q3_TRY(dry_run(&bytes, t, &batch));
        *(fits(p, bytes) ? &good : &bad) = n;
        q3_arena_rewind(mem, mark);
    }
    p->rows_that_fit = good;
    return Q3_OK;
}

static q3_status does_not_fit(const q3_plan *p, const q3_trainer *t, int last)
{
    if (p->kept >= p->free)
        return q3_fail(
            Q3_ERR_MEMORY,
            "weights, what is trained, gradients and optimizer need %s, and %s are free; take a smaller "
            "model, or fewer bits (quantization.load_in_4bit, train.optim adamw_8bit)",
            q3_bytes(p->kept), q3_bytes(p->free));
    return q3_fail(Q3_ERR_MEMORY,
                   "a step needs %s with gradient checkpointing %s and %s are free; the largest sample is "
                   "%s; lower train.per_device_train_batch_size or data.max_pixels%s",
                   q3_bytes(t->step_plan), q3_checkpointing_names[last], q3_bytes(p->free - p->kept),
                   p->largest,
                   last < Q3_PLAN_CHOICES - 1 ? ", or set train.gradient_checkpointing to full" : "");
}

/* The first choice allowed that fits; with `all` the others are run as well. */
static q3_status choose(q3_plan *p, q3_trainer *t, const q3_batch *b, bool all)
{
    int asked = t->config->train.gradient_checkpointing; // auto, none, half, full
    int first = asked == Q3_CONFIG_CHECKPOINTING_AUTO ? 0 : asked - 1;
    int last = asked == Q3_CONFIG_CHECKPOINTING_AUTO ? Q3_PLAN_CHOICES - 1 : first;
    for (int choice = all ? 0 : first; choice < Q3_PLAN_CHOICES && (all || choice <= last); choice++) {
        t->forward.checkpointing = (q3_checkpointing)choice;
        Q3_TRY(dry_run(&p->step[choice], t, b));
        if (p->choice < 0 && choice >= first && choice <= last && fits(p, p->step[choice]))
            p->choice = choice;
        if (p->choice >= 0 && !all)
            break;
    }
    int taken = p->choice < 0 ? last : p->choice;
    t->forward.checkpointing = (q3_checkpointing)taken;
    t->step_plan = p->step[taken];
    if (p->choice >= 0)
        return Q3_OK;
    return does_not_fit(p, t, last);
}

static q3_status describe(q3_plan *p, q3_trainer *t, const q3_batch *b, const sample_size *largest)
{
    q3_sample s;
    Q3_TRY(q3_dataset_get(&s, t->train_data, largest->index));
    p->largest = q3_arena_strdup(&t->run, s.where);
    q3_sample_free(&s);
    p->tokens = largest->tokens;
    p->patches = largest->patches;
    p->rows = b->n_rows;
    p->batch_tokens = b->n_tokens;
    p->batch_patches = b->n_patches;
    for (int64_t i = 0; i < b->n_tokens; i++)
        p->batch_supervised += b->labels[i] != -100;
    return p->largest ? Q3_OK : Q3_ERR_MEMORY;
}

/* Micro-batches of a whole window that this rank makes. */
static int64_t pushes(const q3_trainer *t)
{
    int64_t begin, end;
    q3_ranks_share(&begin, &end, q3_window_size(t, 0), t->ranks.rank, t->ranks.ranks);
    return end - begin;
}

static q3_status plan_batch(q3_plan *p, q3_trainer *t, q3_arena *mem, const sample_size *sizes, bool all)
{
    int64_t n = t->config->train.per_device_train_batch_size;
    q3_batch batch;
    while (n > 1 && (n > t->n_train || sizes[n - 1].tokens == 0))
        n--;
    if (sizes[0].tokens == 0)
        return q3_fail(Q3_ERR_DATA,
                       "%s: every sample is skipped by collator.on_overflow; raise collator.max_length or "
                       "lower data.max_pixels",
                       t->config->data.train);
    Q3_TRY(hollow_batch(&batch, mem, t, sizes, n));
    Q3_TRY(q3_grad_tree_begin(&t->tree, &t->values, &t->trainable));
    int64_t longest = 0, patches = 0; // of one sample
    for (int64_t i = 0; i < t->n_train; i++) {
        longest = sizes[i].tokens > longest ? sizes[i].tokens : longest;
        patches = sizes[i].patches > patches ? sizes[i].patches : patches;
    }
    Q3_TRY(q3_trainer_set_aside(t, longest, patches));
    Q3_TRY(describe(p, t, &batch, &sizes[0]));
    p->growth = q3_grad_tree_growth(&t->tree, pushes(t));
    measure_room(p, t);
    q3_status st = choose(p, t, &batch, all);
    if (st == Q3_ERR_MEMORY && all) {
        q3_checkpointing taken = t->forward.checkpointing;
        Q3_TRY(shrink(p, t, mem, sizes));
        t->forward.checkpointing = taken;
    }
    return st || t->values.dry ? st : q3_trainer_cache_weights(t, longest);
}

/* What will be kept of the pictures of these samples. */
static void count_features(q3_plan *p, const q3_trainer *t, q3_pictures *pictures, const sample_size *s,
                           int64_t n)
{
    int merge = t->collator.vision.merge;
    for (int64_t i = 0; pictures && s && i < n; i++)
        q3_pictures_count(pictures, t->ctx.dtype, s[i].patches / (merge * merge));
    p->features += q3_pictures_bytes(pictures);
}

static q3_status plan(q3_plan *p, q3_trainer *t, bool all)
{
    q3_arena mem;
    sample_size *sizes = NULL, *eval = NULL;
    int64_t skipped, eval_skipped;
    *p = (q3_plan){ .choice = -1 };
    Q3_TRY(q3_arena_create(&mem, "plan", (size_t)1 << 34));
    q3_status st = measure_all(&sizes, &skipped, &mem, t, t->train_data, t->n_train);
    if (st == Q3_OK && t->eval_data != t->train_data)
        st = measure_all(&eval, &eval_skipped, &mem, t, t->eval_data, t->n_eval);
    if (st == Q3_OK && all) {
        count_features(p, t, t->train_pictures, sizes, t->n_train);
        if (t->eval_pictures != t->train_pictures)
            count_features(p, t, t->eval_pictures, eval, t->n_eval);
    }
    if (st == Q3_OK) {
        if (skipped)
            q3_warn("%lld of %lld training samples are longer than collator.max_length and will be skipped",
                    (long long)skipped, (long long)t->n_train);
        qsort(sizes, (size_t)t->n_train, sizeof *sizes, larger_first);
        st = plan_batch(p, t, &mem, sizes, all);
    }
    free_sizes(sizes, t->n_train);
    free_sizes(eval, t->n_eval);
    q3_arena_destroy(&mem);
    return st;
}

q3_status q3_trainer_plan(q3_trainer *t)
{
    q3_plan p;
    return plan(&p, t, false);
}

q3_status q3_trainer_plan_all(q3_plan *out, q3_trainer *t)
{
    return plan(out, t, true);
}
