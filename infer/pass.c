/* A pass of the engine: feeds are packed, run, read and checked. */
#include <string.h>

#include "infer/sequence.h"
#if defined(Q3_CUDA)
#include "kernels/sample.h"
#endif

/* Rows of what the head is asked for: of logits, of likeliest ids, of candidates, of hidden states; in this order. */
typedef struct wanted {
    int32_t *rows; // [all]: tokens of the batch
    int64_t logits, likeliest, candidates, hidden, all;
    float *temperature; // [candidates]
    int32_t *top_k;     // [candidates]
    bool gather;        // not simply all tokens
} wanted;

/* Feeds laid end to end; arrays live in the engine's pass arena. */
typedef struct pass {
    q3_engine *e;
    q3_feed **feeds; // [n_feeds], those of an adapter together
    int n_feeds;
    q3_batch batch;
    int32_t *ids, *slots, *positions, *image_rows; // [T], [T], [3, T], [M]
    int32_t *features;                             // [M]: where the features of image_rows are
    int32_t *tables, *lengths, *begins;
    int64_t most;
    int max_blocks;
    q3_adapter_run *runs;
    int n_runs;
    wanted want;
    q3_tensor *logits, *likeliest, *candidates, *hidden; // what comes out
} pass;

static q3_status create(pass *p, int64_t tokens, int64_t blocks)
{
    q3_arena *mem = &p->e->pass;
    p->ids = Q3_NEW(mem, int32_t, tokens);
    p->slots = Q3_NEW(mem, int32_t, tokens);
    p->positions = Q3_NEW(mem, int32_t, 3 * tokens);
    p->image_rows = Q3_NEW(mem, int32_t, tokens);
    p->features = Q3_NEW(mem, int32_t, tokens);
    p->tables = Q3_ZNEW(mem, int32_t, p->n_feeds * blocks);
    p->lengths = Q3_NEW(mem, int32_t, p->n_feeds);
    p->begins = Q3_NEW(mem, int32_t, p->n_feeds + 1);
    p->runs = Q3_NEW(mem, q3_adapter_run, p->n_feeds);
    p->want.rows = Q3_NEW(mem, int32_t, tokens);
    p->want.temperature = Q3_NEW(mem, float, p->n_feeds);
    p->want.top_k = Q3_NEW(mem, int32_t, p->n_feeds);
    bool ok = p->ids && p->slots && p->positions && p->image_rows && p->features && p->tables && p->lengths &&
              p->begins && p->runs && p->want.rows && p->want.temperature && p->want.top_k;
    p->max_blocks = (int)blocks;
    p->batch = (q3_batch){ .n_rows = p->n_feeds,
                           .n_tokens = tokens,
                           .ids = p->ids,
                           .positions = p->positions,
                           .image_rows = p->image_rows };
    return ok ? Q3_OK : Q3_ERR_MEMORY;
}

/* Feeds of the same adapter stand together, otherwise in their order. */
static q3_status sort(pass *p, q3_feed *feeds)
{
    p->feeds = Q3_NEW(&p->e->pass, q3_feed *, p->n_feeds);
    if (!p->feeds)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < p->n_feeds; i++) {
        int at = i;
        while (at && p->feeds[at - 1]->sequence->prompt->adapter > feeds[i].sequence->prompt->adapter) {
            p->feeds[at] = p->feeds[at - 1];
            at--;
        }
        p->feeds[at] = &feeds[i];
    }
    return Q3_OK;
}

/* Widths of the tables are rounded up, so that a recording serves for a while: to a quarter of the next power of two,
 * at least to 16. */
static int64_t rounded_up(int64_t blocks)
{
    int64_t step = 16;
    while (step * 4 < blocks)
        step *= 2;
    return (blocks + step - 1) / step * step;
}

/* What is asked of the sequences, and that their blocks are there. */
static q3_status check(const pass *p, int64_t *tokens, int64_t *blocks)
{
    *tokens = *blocks = 0;
    for (int i = 0; i < p->n_feeds; i++) {
        q3_feed *f = p->feeds[i];
        q3_sequence *s = f->sequence;
        Q3_CHECK(f->n >= 1 && s->cached + f->n <= s->n, "%lld tokens behind %lld of %lld", (long long)f->n,
                 (long long)s->cached, (long long)s->n);
        if (!q3_sequence_reserve(s, f->n))
            return q3_fail(Q3_ERR_MEMORY, "the key/value cache of %lld tokens is full",
                           (long long)p->e->options.tokens);
        f->values = NULL;
        f->n_candidates = 0;
        *tokens += f->n;
        *blocks = *blocks < s->n_blocks ? s->n_blocks : *blocks;
    }
    *blocks = rounded_up(*blocks);
    return Q3_OK;
}

static q3_picture picture_of(const q3_sequence *s, int i, const float *patches)
{
    return (q3_picture){ s->pictures[i], s->prompt->grids + 3 * (ptrdiff_t)i, patches,
                         q3_sequence_adapter(s) };
}

/* The pictures that have tokens among those of the feed, and with `take` their rows: tokens of the batch from `at` on,
 * and where their features are. */
static int pictures_of(q3_picture *out, pass *p, const q3_feed *f, int64_t at, bool take)
{
    const q3_sequence *s = f->sequence;
    const q3_prompt *prompt = s->prompt;
    const int32_t *row = prompt->image_rows;
    const float *patches = prompt->patches;
    int64_t begin = s->cached, end = begin + f->n;
    int n = 0;
    for (int i = 0; i < prompt->n_images; i++) {
        const int32_t *g = prompt->grids + 3 * (ptrdiff_t)i;
        int64_t rows = q3_picture_rows(p->e->model, g), first = 0, last = rows;
        while (first < rows && row[first] < begin)
            first++;
        while (last > first && row[last - 1] >= end)
            last--;
        const q3_picture picture = picture_of(s, i, patches);
        if (first < last && !take)
            out[n++] = picture;
        if (first < last && take) {
            q3_features_rows(p->features + p->batch.n_image_rows, p->e->features, &picture, first,
                             last - first);
            for (int64_t k = first; k < last; k++)
                p->image_rows[p->batch.n_image_rows++] = (int32_t)(at + row[k] - begin);
        }
        row += rows;
        patches += (int64_t)g[0] * g[1] * g[2] * q3_dim(p->e->model->patch_embed.w, 1);
    }
    return n;
}

/* What is due goes through the vision tower. */
static q3_status see(pass *p)
{
    int n = 0;
    for (int i = 0; i < p->n_feeds; i++)
        n += p->feeds[i]->sequence->prompt->n_images;
    if (!n)
        return Q3_OK;
    q3_picture *pictures = Q3_NEW(&p->e->pass, q3_picture, n);
    if (!pictures)
        return Q3_ERR_MEMORY;
    n = 0;
    for (int i = 0; i < p->n_feeds; i++)
        n += pictures_of(pictures + n, p, p->feeds[i], 0, false);
    return q3_features_see(p->e->features, pictures, n);
}

static void pack_tokens(pass *p, const q3_feed *f, int row, int64_t at)
{
    const q3_sequence *s = f->sequence;
    for (int64_t i = 0; i < f->n; i++) {
        int64_t token = s->cached + i;
        p->ids[at + i] = s->ids[token];
        p->slots[at + i] =
            s->blocks[token / Q3_ENGINE_BLOCK] * Q3_ENGINE_BLOCK + (int32_t)(token % Q3_ENGINE_BLOCK);
        for (int axis = 0; axis < 3; axis++)
            p->positions[axis * p->batch.n_tokens + at + i] = q3_sequence_position(s, axis, token);
    }
    memcpy(p->tables + (int64_t)row * p->max_blocks, s->blocks, (size_t)s->n_blocks * sizeof *s->blocks);
    p->lengths[row] = (int32_t)(s->cached + f->n);
    p->begins[row] = (int32_t)at;
    p->most = p->most < f->n ? f->n : p->most;
}

static void pack_run(pass *p, const q3_feed *f, int64_t at)
{
    const q3_adapter *adapter = q3_sequence_adapter(f->sequence);
    q3_adapter_run *last = p->n_runs ? &p->runs[p->n_runs - 1] : NULL;
    if (!adapter)
        return;
    if (last && last->adapter == adapter)
        last->n += f->n;
    else
        p->runs[p->n_runs++] = (q3_adapter_run){ adapter, at, f->n };
}

static void pack(pass *p)
{
    int64_t at = 0;
    for (int i = 0; i < p->n_feeds; i++) {
        pack_tokens(p, p->feeds[i], i, at);
        pack_run(p, p->feeds[i], at);
        pictures_of(NULL, p, p->feeds[i], at, true);
        at += p->feeds[i]->n;
    }
    p->begins[p->n_feeds] = (int32_t)at;
}

/* Rows that feeds want of one kind, behind those that were asked for before. */
static int64_t ask(pass *p, q3_want kind, q3_want other)
{
    wanted *w = &p->want;
    int64_t before = w->all;
    for (int i = 0; i < p->n_feeds; i++) {
        const q3_feed *f = p->feeds[i];
        if (f->want != kind && f->want != other)
            continue;
        for (int64_t k = f->want == Q3_WANT_ALL ? 0 : f->n - 1; k < f->n; k++) {
            int32_t row = p->begins[i] + (int32_t)k;
            w->gather |= row != w->all;
            w->rows[w->all++] = row;
        }
    }
    return w->all - before;
}

static int64_t ask_for_candidates(pass *p)
{
    int64_t n = 0;
    for (int i = 0; i < p->n_feeds; i++) {
        const q3_feed *f = p->feeds[i];
        if (f->want != Q3_WANT_CANDIDATES)
            continue;
        p->want.temperature[n] = f->temperature;
        p->want.top_k[n++] = f->top_k;
    }
    return ask(p, Q3_WANT_CANDIDATES, Q3_WANT_CANDIDATES);
}

static void ask_for_all(pass *p)
{
    p->want.logits = ask(p, Q3_WANT_LAST, Q3_WANT_ALL);
    p->want.likeliest = ask(p, Q3_WANT_LIKELIEST, Q3_WANT_LIKELIEST);
    p->want.candidates = ask_for_candidates(p);
    p->want.hidden = ask(p, Q3_WANT_HIDDEN, Q3_WANT_HIDDEN);
    p->want.gather |= p->want.all != p->batch.n_tokens;
}

/* On a device: the likeliest id of each row of logits, and behind them 1 where a logit is not finite: [n + 1]. */
static q3_tensor *likeliest_ids(q3_ctx *ctx, const q3_tensor *logits)
{
    int64_t n = q3_rows(logits) + 1;
    int32_t *ids = q3_scratch(ctx, (size_t)n * sizeof *ids);
#if defined(Q3_CUDA)
    if (!ctx->dry && !ctx->replaying) {
        q3_device_fill(ctx->data->cuda, ids, 0, (size_t)n * sizeof *ids);
        q3_greedy_cuda(&(q3_greedy_args){ .token = ids,
                                          .flawed = ids + n - 1,
                                          .logits = logits->data,
                                          .R = n - 1,
                                          .V = q3_dim(logits, -1),
                                          .dtype = logits->dtype },
                       ctx->data->cuda);
    }
#endif
    q3_tensor *out = q3_tensor_wrap(&ctx->meta, ids, Q3_I32, 1, &n);
    Q3_CHECK(out, "%s", q3_error());
    return out;
}

/* What one read brings of n rows. */
typedef struct found {
    int32_t *count, *flawed, *id; // [n], [1], [n, Q3_WANT_MOST]
    float *value;                 // [n, Q3_WANT_MOST]
} found;

static int64_t found_words(int64_t n)
{
    return n + 1 + 2 * n * Q3_WANT_MOST;
}

static found found_at(int32_t *words, int64_t n)
{
    int32_t *id = words + n + 1;
    return (
        found){ .count = words, .flawed = words + n, .id = id, .value = (float *)(id + n * Q3_WANT_MOST) };
}

/* On a device: what top-k sampling may draw in each row of logits. */
static q3_tensor *candidate_ids(q3_ctx *ctx, const pass *p, const q3_tensor *logits)
{
    const int64_t n = q3_rows(logits), words = found_words(n);
    int32_t *at = q3_scratch(ctx, (size_t)words * sizeof *at);
    const float *temperature =
        q3_on_device(ctx, p->want.temperature, (size_t)n * sizeof *p->want.temperature);
    const int32_t *top_k = q3_on_device(ctx, p->want.top_k, (size_t)n * sizeof *p->want.top_k);
#if defined(Q3_CUDA)
    if (!ctx->dry && !ctx->replaying) {
        const found out = found_at(at, n);
        q3_device_fill(ctx->data->cuda, out.flawed, 0, sizeof *out.flawed);
        q3_candidates_cuda(&(q3_candidates_args){ .value = out.value,
                                                  .id = out.id,
                                                  .count = out.count,
                                                  .flawed = out.flawed,
                                                  .logits = logits->data,
                                                  .temperature = temperature,
                                                  .top_k = top_k,
                                                  .R = n,
                                                  .V = q3_dim(logits, -1),
                                                  .most = Q3_WANT_MOST,
                                                  .dtype = logits->dtype },
                           ctx->data->cuda);
    }
#else
    (void)temperature;
    (void)top_k;
#endif
    q3_tensor *out = q3_tensor_wrap(&ctx->meta, at, Q3_I32, 1, &words);
    Q3_CHECK(out, "%s", q3_error());
    return out;
}

static q3_kv cache_of(q3_ctx *ctx, const pass *p)
{
    size_t rows = (size_t)p->n_feeds, word = sizeof(int32_t);
    return (q3_kv){ .k = p->e->k,
                    .v = p->e->v,
                    .slots = q3_on_device(ctx, p->slots, (size_t)p->batch.n_tokens * word),
                    .tables = q3_on_device(ctx, p->tables, rows * (size_t)p->max_blocks * word),
                    .lengths = q3_on_device(ctx, p->lengths, rows * word),
                    .begins = q3_on_device(ctx, p->begins, (rows + 1) * word),
                    .most = p->most,
                    .max_blocks = p->max_blocks,
                    .block = Q3_ENGINE_BLOCK,
                    .window = p->e->options.window };
}

/* Begins the step; its results are p's. */
static q3_tensor *forward(q3_ctx *ctx, void *arg)
{
    pass *p = arg;
    const wanted *w = &p->want;
    q3_step_begin(ctx, false);
    const q3_kv kv = cache_of(ctx, p);
    q3_forward f = { .kv = &kv, .runs = p->runs, .n_runs = p->n_runs };
    q3_vision_features features;
    if (p->batch.n_image_rows) {
        features = q3_features_take(p->e->features, ctx, p->features, p->batch.n_image_rows);
        f.features = &features;
    }
    if (!w->all)
        return q3_text_forward(ctx, p->e->model, &f, &p->batch, f.features);
    q3_tensor *x = q3_qwen3vl_hidden(ctx, p->e->model, &f, &p->batch, w->gather ? w->rows : NULL, w->all);
    int64_t heads = w->logits + w->likeliest + w->candidates;
    if (heads)
        p->logits = q3_linear(ctx, q3_rows_of(ctx, x, 0, heads), p->e->model->head, NULL);
    if (w->likeliest && ctx->data->cuda)
        p->likeliest = likeliest_ids(ctx, q3_rows_of(ctx, p->logits, w->logits, w->likeliest));
    if (w->candidates && ctx->data->cuda)
        p->candidates =
            candidate_ids(ctx, p, q3_rows_of(ctx, p->logits, w->logits + w->likeliest, w->candidates));
    if (w->hidden)
        p->hidden = q3_rows_of(ctx, x, heads, w->hidden);
    return x;
}

/* A pass of single tokens comes again and again. */
static q3_status launch(pass *p)
{
    q3_tensor *out;
    q3_pass_shape shape = { .tokens = p->batch.n_tokens,
                            .rows = p->n_feeds,
                            .want = p->want.logits,
                            .likeliest = p->want.likeliest,
                            .candidates = p->want.candidates,
                            .hidden = p->want.hidden,
                            .gather = p->want.gather,
                            .blocks = p->max_blocks };
    bool repeats = p->most == 1 && !p->batch.n_image_rows && p->n_runs <= Q3_PASS_RUNS &&
                   (size_t)p->n_feeds * (size_t)p->max_blocks * sizeof *p->tables <= Q3_PASS_TABLE;
    for (int i = 0; i < p->n_runs && repeats; i++)
        shape.runs[i] = (q3_adapter_run){ p->runs[i].adapter, p->runs[i].begin, p->runs[i].n };
    return q3_replay(&out, repeats ? p->e->replays : NULL, p->e->ctx, &shape, forward, p);
}

static bool all_finite(const float *x, int64_t n)
{
    uint32_t infinite = 0; // exponents of all ones, which are NaN and infinities
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        infinite |= (bits & 0x7F800000u) == 0x7F800000u;
    }
    return !infinite;
}

static q3_status not_finite(int *flawed, const pass *p, const q3_feed *feeds, int i)
{
    if (flawed)
        *flawed = (int)(p->feeds[i] - feeds);
    return q3_fail(Q3_ERR_FAIL, "the model's logits are not finite; are its weights or the adapter damaged?");
}

static int32_t likeliest(const float *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return (int32_t)best;
}

/* Hands `values` rows of `width` to the feeds that want this kind; on the way they are checked. */
static q3_status hand_out(int *flawed, const pass *p, const q3_feed *feeds, q3_want kind, q3_want other,
                          const float *values, int64_t width)
{
    for (int i = 0; i < p->n_feeds; i++) {
        q3_feed *f = p->feeds[i];
        if (f->want != kind && f->want != other)
            continue;
        int64_t n = (f->want == Q3_WANT_ALL ? f->n : 1) * width;
        if (!all_finite(values, n))
            return not_finite(flawed, p, feeds, i);
        if (kind == Q3_WANT_LIKELIEST)
            f->likeliest = likeliest(values, n);
        else
            f->values = values;
        values += n;
    }
    return Q3_OK;
}

/* Ids that the device has found; false where a logit is not finite, which only the logits themselves tell more of. */
static bool take_likeliest(const pass *p)
{
    int32_t *ids = q3_list(p->e->ctx, (size_t)(p->want.likeliest + 1) * sizeof *ids), *at = ids;
    q3_device_read(p->e->ctx->data->cuda, ids, p->likeliest->data, q3_nbytes(p->likeliest));
    for (int i = 0; i < p->n_feeds; i++)
        if (p->feeds[i]->want == Q3_WANT_LIKELIEST)
            p->feeds[i]->likeliest = *at++;
    return !*at;
}

/* Candidates that the device has found; false where a logit is not finite. A row with more of them than were kept is
 * taken as it is. */
static bool take_candidates(const pass *p)
{
    q3_ctx *ctx = p->e->ctx;
    const int64_t n = p->want.candidates, before = p->want.logits + p->want.likeliest;
    int32_t *words = q3_list(ctx, q3_nbytes(p->candidates));
    const found got = found_at(words, n);
    int64_t at = 0;
    q3_device_read(ctx->data->cuda, words, p->candidates->data, q3_nbytes(p->candidates));
    for (int i = 0; i < p->n_feeds && !*got.flawed; i++) {
        q3_feed *f = p->feeds[i];
        if (f->want != Q3_WANT_CANDIDATES)
            continue;
        if (got.count[at] <= Q3_WANT_MOST) {
            f->n_candidates = got.count[at];
            f->candidates = got.id + at * Q3_WANT_MOST;
            f->values = got.value + at * Q3_WANT_MOST;
        } else {
            f->values = q3_on_host(ctx, q3_rows_of(ctx, p->logits, before + at, 1));
        }
        at++;
    }
    return !*got.flawed;
}

static q3_status read(int *flawed, const pass *p, const q3_feed *feeds)
{
    q3_ctx *ctx = p->e->ctx;
    const wanted *w = &p->want;
    int64_t V = p->e->model->config.text.vocab_size, C = p->e->model->config.text.hidden_size;
    const float *x;
    if (w->logits) {
        x = q3_on_host(ctx, q3_rows_of(ctx, p->logits, 0, w->logits));
        Q3_TRY(hand_out(flawed, p, feeds, Q3_WANT_LAST, Q3_WANT_ALL, x, V));
    }
    if (w->likeliest && !(p->likeliest && take_likeliest(p))) {
        x = q3_on_host(ctx, q3_rows_of(ctx, p->logits, w->logits, w->likeliest));
        Q3_TRY(hand_out(flawed, p, feeds, Q3_WANT_LIKELIEST, Q3_WANT_LIKELIEST, x, V));
    }
    if (w->candidates && !(p->candidates && take_candidates(p))) {
        x = q3_on_host(ctx, q3_rows_of(ctx, p->logits, w->logits + w->likeliest, w->candidates));
        Q3_TRY(hand_out(flawed, p, feeds, Q3_WANT_CANDIDATES, Q3_WANT_CANDIDATES, x, V));
    }
    if (w->hidden) {
        x = q3_on_host(ctx, p->hidden);
        Q3_TRY(hand_out(flawed, p, feeds, Q3_WANT_HIDDEN, Q3_WANT_HIDDEN, x, C));
    }
    return q3_device_status(ctx->data->cuda);
}

q3_status q3_engine_pass(q3_engine *e, q3_feed *feeds, int n_feeds, int *flawed)
{
    pass p = { .e = e, .n_feeds = n_feeds };
    int64_t tokens, blocks;
    if (flawed)
        *flawed = -1;
    if (n_feeds < 1)
        return Q3_OK;
    q3_arena_reset(&e->pass);
    Q3_TRY(sort(&p, feeds));
    Q3_TRY(check(&p, &tokens, &blocks));
    Q3_TRY(q3_mirror_pass(e->mirror, feeds, n_feeds));
    Q3_TRY(see(&p));
    Q3_TRY(create(&p, tokens, blocks));
    pack(&p);
    ask_for_all(&p);
    Q3_TRY(launch(&p));
    Q3_TRY(read(flawed, &p, feeds));
    for (int i = 0; i < n_feeds && !e->follows; i++)
        q3_sequence_advance(feeds[i].sequence, feeds[i].sequence->cached + feeds[i].n);
    return Q3_OK;
}
