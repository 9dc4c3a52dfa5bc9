#include "infer/generator.h"

#include <math.h>
#include <string.h>

#include "core/log.h"
#if defined(Q3_CUDA)
#include "kernels/sample.h"
#endif

/* New tokens of some rows, laid end to end: what one pass feeds. Arrays live in the cache. */
typedef struct feed {
    int64_t n, capacity;  /* tokens */
    int n_rows;           /* rows that have some */
    int32_t *ids, *slots; /* [n]: tokens, and the slab's rows they go to */
    int32_t *positions;   /* [3, n] */
    int64_t *row_begin;   /* [n_rows + 1] */
    q3_segment *segments; /* [n_rows] */
    int32_t *open;        /* [n_rows]: rows of the engine, for the caller */
} feed;

q3_status q3_generator_create(q3_generator *out, const q3_model *model, q3_ctx *ctx)
{
    *out = (q3_generator){ .model = model, .ctx = ctx };
    return q3_replays_create(&out->replays, ctx);
}

void q3_generator_destroy(q3_generator *e)
{
    q3_replays_destroy(e->replays);
    q3_arena_destroy(&e->cache);
    q3_arena_destroy(&e->slabs);
    *e = (q3_generator){ 0 };
}

static int64_t vocabulary(const q3_generator *e)
{
    return e->model->config.text.vocab_size;
}

/* Bytes of keys and values, which lie on the device. */
static size_t slab_bytes(const q3_generator *e, int64_t slots)
{
    const q3_text_config *c = &e->model->config.text;
    size_t one = q3_dtype_bytes(e->ctx->dtype, slots * c->kv_heads * c->head_dim);
    return 2 * (size_t)c->layers * (one + 512); // alignment and red zone
}

/* Bytes of everything else that lives in the cache at a time, rounded up generously. */
static size_t cache_bytes(const q3_generator *e, int64_t slots, int64_t fed, int64_t rows)
{
    const q3_text_config *c = &e->model->config.text;
    const size_t block = 256; // alignment and red zone
    size_t slab = sizeof(q3_tensor) + block;
    size_t per_row =
        sizeof(q3_generator_row) + 2 * (sizeof(int64_t) + sizeof(q3_segment) + 2 * sizeof(int32_t));
    return 2 * (size_t)c->layers * (slab + sizeof(q3_tensor *)) +
           (size_t)(rows + 2) * (size_t)c->vocab_size * sizeof(float) +
           (size_t)(slots + 5 * fed + rows + 1) * sizeof(int32_t) + (size_t)(rows + 1) * per_row + 32 * block;
}

static q3_status reserve(q3_arena *arena, q3_cuda *cuda, size_t bytes)
{
    if (arena->limit >= bytes) {
        q3_arena_reset(arena);
        return Q3_OK;
    }
    q3_arena_destroy(arena);
    size_t available = q3_device_available(cuda);
    if (available && bytes > available)
        return q3_fail(Q3_ERR_MEMORY,
                       "the key/value cache needs %s and %s of memory are available; lower the batch size or "
                       "max_new_tokens",
                       q3_bytes(bytes), q3_bytes(available));
    return q3_device_arena_create(arena, cuda, "key/value cache", bytes);
}

static q3_status create_slabs(q3_generator *e)
{
    const q3_text_config *c = &e->model->config.text;
    const int64_t shape[2] = { e->n_slots, (int64_t)c->kv_heads * c->head_dim };
    size_t bytes = q3_dtype_bytes(e->ctx->dtype, shape[0] * shape[1]);
    e->k = Q3_NEW(&e->cache, q3_tensor *, c->layers);
    e->v = Q3_NEW(&e->cache, q3_tensor *, c->layers);
    if (!e->k || !e->v)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < 2 * c->layers; i++) {
        q3_tensor **slab = i < c->layers ? &e->k[i] : &e->v[i - c->layers];
        void *data = q3_arena_alloc(&e->slabs, bytes);
        *slab = data ? q3_tensor_wrap(&e->cache, data, e->ctx->dtype, 2, shape) : NULL;
        if (!*slab)
            return Q3_ERR_MEMORY;
    }
    return Q3_OK;
}

static int32_t next_position(const q3_batch *b, int64_t begin, int64_t end)
{
    int32_t last = -1;
    for (int axis = 0; axis < 3; axis++)
        for (int64_t t = begin; t < end; t++)
            if (b->positions[axis * b->n_tokens + t] > last)
                last = b->positions[axis * b->n_tokens + t];
    return last + 1;
}

/* Gives each prompt its run of the slabs and lays down its ids. */
static q3_status place_prompts(q3_generator *e, const q3_batch *b)
{
    e->rows = Q3_NEW(&e->cache, q3_generator_row, b->n_rows);
    e->tokens = Q3_NEW(&e->cache, int32_t, e->n_slots);
    e->logits = Q3_NEW(&e->cache, float, vocabulary(e) * b->n_rows);
    if (!e->rows || !e->tokens || !e->logits)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < b->n_rows; i++) {
        int64_t begin = b->row_begin[i], n = b->row_begin[i + 1] - begin;
        Q3_CHECK(n > 0, "row %d of the prompts is empty", i);
        e->rows[i] = (q3_generator_row){ begin + i * e->room, n, next_position(b, begin, begin + n) };
        memcpy(e->tokens + e->rows[i].begin, b->ids + begin, (size_t)n * sizeof *b->ids);
    }
    return Q3_OK;
}

static q3_status create_feed(feed *out, q3_generator *e, int64_t capacity)
{
    *out = (feed){ .capacity = capacity };
    out->ids = Q3_NEW(&e->cache, int32_t, capacity);
    out->slots = Q3_NEW(&e->cache, int32_t, capacity);
    out->positions = Q3_NEW(&e->cache, int32_t, 3 * capacity);
    out->row_begin = Q3_NEW(&e->cache, int64_t, e->n_rows + 1);
    out->segments = Q3_NEW(&e->cache, q3_segment, e->n_rows);
    out->open = Q3_NEW(&e->cache, int32_t, e->n_rows);
    bool ok = out->ids && out->slots && out->positions && out->row_begin && out->segments && out->open;
    return ok ? Q3_OK : Q3_ERR_MEMORY;
}

/* Adds n tokens of row `row`, which come after `behind` others behind the prompt. */
static void feed_tokens(feed *f, const q3_generator *e, int row, const int32_t *ids, int64_t n,
                        int64_t behind)
{
    const q3_generator_row *r = &e->rows[row];
    Q3_CHECK(f->n + n <= f->capacity && behind + n <= e->room, "%lld tokens behind %lld, room for %lld",
             (long long)n, (long long)behind, (long long)e->room);
    f->row_begin[f->n_rows] = f->n;
    f->segments[f->n_rows] = (q3_segment){ f->n, n, r->begin, r->prompt_n + behind + n };
    f->open[f->n_rows++] = row;
    for (int64_t i = 0; i < n; i++, f->n++) {
        f->ids[f->n] = ids[i];
        f->slots[f->n] = (int32_t)(r->begin + r->prompt_n + behind + i);
        f->positions[f->n] = r->next + (int32_t)(behind + i);
    }
    f->row_begin[f->n_rows] = f->n;
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

/* What a pass of the network reads. */
typedef struct pass {
    const q3_generator *e;
    const q3_batch *b;
    const int32_t *slots;       // [tokens]: rows of the slabs
    const q3_segment *segments; // [rows]
    const int32_t *want;        // [n] tokens whose logits are wanted, NULL for all
    int64_t n;
    bool likeliest; // on a device: the likeliest ids instead of logits
} pass;

/* The likeliest id of each row of logits, and behind them 1 where a logit is not finite: [n + 1] on the device. */
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

static q3_tensor *forward(q3_ctx *ctx, void *arg)
{
    const pass *p = arg;
    q3_step_begin(ctx, false);
    const q3_kv_flat kv = { .k = p->e->k,
                            .v = p->e->v,
                            .device_rows =
                                q3_on_device(ctx, p->slots, (size_t)p->b->n_tokens * sizeof *p->slots),
                            .segments = p->segments };
    q3_tensor *logits =
        q3_qwen3vl_logits(ctx, p->e->model, &(q3_forward){ .flat = &kv }, p->b, p->want, p->n);
    return p->likeliest ? likeliest_ids(ctx, logits) : logits;
}

static q3_status not_finite(void)
{
    return q3_fail(Q3_ERR_FAIL, "the model's logits are not finite; are its weights or the adapter damaged?");
}

/* One pass of the network. */
static q3_status launch(q3_tensor **out, q3_generator *e, const pass *p)
{
    enum { RUN = 256 }; // keys that attention takes at a time
    q3_pass_shape shape = {
        .tokens = p->b->n_tokens, .rows = p->b->n_rows, .want = p->n, .likeliest = p->likeliest
    };
    for (int i = 0; i < p->b->n_rows; i++) {
        int64_t runs = (p->segments[i].kv_len + RUN - 1) / RUN;
        shape.keys = runs > shape.keys ? runs : shape.keys;
    }
    bool repeats = !p->b->n_images && !p->want; // prompts come but once
    return q3_replay(out, repeats ? e->replays : NULL, e->ctx, &shape, forward, (void *)(uintptr_t)p);
}

/* Logits [n, V] of the tokens in `want`, or of all the batch's. They are the step's. */
static q3_status run(float **logits, q3_generator *e, const pass *p)
{
    q3_tensor *out;
    Q3_TRY(launch(&out, e, p));
    *logits = q3_on_host(e->ctx, out);
    Q3_TRY(q3_ctx_status(e->ctx));
    return all_finite(*logits, p->n * vocabulary(e)) ? Q3_OK : not_finite();
}

/* On a device: ids [n], the likeliest behind each token of the batch; room for one more. */
static q3_status run_likeliest(int32_t *ids, q3_generator *e, const pass *p)
{
    q3_tensor *out;
    Q3_TRY(launch(&out, e, p));
    q3_device_read(e->ctx->data->cuda, ids, out->data, q3_nbytes(out));
    Q3_TRY(q3_device_status(e->ctx->data->cuda));
    return ids[p->n] ? not_finite() : Q3_OK;
}

/* Feeds what was collected and empties the feed for the next pass: logits, or on a device the likeliest ids, of which
 * one is asked for and the other NULL. */
static q3_status run_feed(float **logits, int32_t *ids, q3_generator *e, feed *f)
{
    memcpy(f->positions + f->n, f->positions, (size_t)f->n * sizeof *f->positions);
    memcpy(f->positions + 2 * f->n, f->positions, (size_t)f->n * sizeof *f->positions);
    const q3_batch b = { .n_rows = f->n_rows,
                         .n_tokens = f->n,
                         .row_begin = f->row_begin,
                         .ids = f->ids,
                         .positions = f->positions };
    int64_t n = f->n;
    f->n = f->n_rows = 0;
    const pass p = { e, &b, f->slots, f->segments, NULL, n, ids != NULL };
    return ids ? run_likeliest(ids, e, &p) : run(logits, e, &p);
}

/* The prompts through the network; arrays of the pass live in the cache until the caller rewinds it. */
static q3_status run_prompts(q3_generator *e, const q3_batch *b)
{
    int32_t *slots = Q3_NEW(&e->cache, int32_t, b->n_tokens);
    int32_t *want = Q3_NEW(&e->cache, int32_t, b->n_rows);
    q3_segment *segments = Q3_NEW(&e->cache, q3_segment, b->n_rows);
    if (!slots || !want || !segments)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < b->n_rows; i++) {
        const q3_generator_row *r = &e->rows[i];
        int64_t begin = b->row_begin[i];
        segments[i] = (q3_segment){ begin, r->prompt_n, r->begin, r->prompt_n };
        want[i] = (int32_t)(begin + r->prompt_n - 1);
        for (int64_t t = 0; t < r->prompt_n; t++)
            slots[begin + t] = (int32_t)(r->begin + t);
    }
    float *logits;
    Q3_TRY(run(&logits, e, &(pass){ e, b, slots, segments, want, b->n_rows, false }));
    memcpy(e->logits, logits, (size_t)b->n_rows * (size_t)vocabulary(e) * sizeof *logits);
    return Q3_OK;
}

q3_status q3_generator_begin(q3_generator *e, const q3_batch *prompts, int64_t room)
{
    e->n_rows = 0;
    if (!prompts->n_rows)
        return Q3_OK;
    Q3_CHECK(room >= 0, "room %lld", (long long)room);
    if (room > INT32_MAX || prompts->n_tokens + prompts->n_rows * room > INT32_MAX)
        return q3_fail(Q3_ERR_LIMIT,
                       "%d prompts of %lld tokens with %lld more each do not fit into one cache; lower the "
                       "batch size or max_new_tokens",
                       prompts->n_rows, (long long)prompts->n_tokens, (long long)room);
    e->room = room;
    e->n_slots = prompts->n_tokens + prompts->n_rows * room;
    q3_cuda *cuda = e->ctx->data->cuda;
    q3_replays_forget(e->replays); // slabs lie elsewhere from now on
    Q3_TRY(reserve(&e->cache, NULL, cache_bytes(e, e->n_slots, e->n_slots, prompts->n_rows)));
    Q3_TRY(reserve(&e->slabs, cuda, slab_bytes(e, e->n_slots)));
    Q3_TRY(create_slabs(e));
    Q3_TRY(place_prompts(e, prompts));
    size_t mark = q3_arena_mark(&e->cache);
    q3_status st = run_prompts(e, prompts);
    q3_arena_rewind(&e->cache, mark);
    e->n_rows = st == Q3_OK ? prompts->n_rows : 0;
    return st;
}

static bool ends(const q3_generate_options *o, int32_t id)
{
    for (int i = 0; i < o->n_eos; i++)
        if (o->eos[i] == id)
            return true;
    return false;
}

/* Adds the next token to a row, and feeds it if more are to follow. */
static void add(q3_answer_ids *a, q3_generator *e, feed *f, int row, int32_t id, const q3_generate_options *o)
{
    const q3_generator_row *r = &e->rows[row];
    a->ended = ends(o, id);
    if (a->ended)
        return;
    e->tokens[r->begin + r->prompt_n + a->n++] = id;
    if (a->n < o->max_new_tokens)
        feed_tokens(f, e, row, &id, 1, a->n - 1);
}

/* Chooses it from the row's logits. */
static void take(q3_answer_ids *a, q3_generator *e, feed *f, int row, float *logits, float *scratch,
                 const q3_generate_options *o)
{
    const q3_generator_row *r = &e->rows[row];
    add(a, e, f, row,
        q3_sample_next(logits, vocabulary(e), e->tokens + r->begin, r->prompt_n + a->n, r->prompt_n,
                       &o->sampling, o->first_request + (uint32_t)row, (uint32_t)a->n, scratch),
        o);
}

static q3_status decode(q3_answer_ids *out, q3_generator *e, const q3_generate_options *o)
{
    int64_t V = vocabulary(e);
    feed now, next; // rows of this pass and of the one behind it
    // the likeliest id is found on the device, anything else on the host
    const q3_sampling *s = &o->sampling;
    bool here = !e->ctx->data->cuda || !q3_sample_greedy(s) || s->repetition_penalty != 1 ||
                s->presence_penalty != 0 || s->frequency_penalty != 0;
    float *scratch = Q3_NEW(&e->cache, float, V), *first = Q3_NEW(&e->cache, float, V), *logits = NULL;
    int32_t *ids = Q3_NEW(&e->cache, int32_t, e->n_rows + 1);
    if (!scratch || !first || !ids)
        return Q3_ERR_MEMORY;
    Q3_TRY(create_feed(&now, e, e->n_rows));
    Q3_TRY(create_feed(&next, e, e->n_rows));
    for (int i = 0; i < e->n_rows; i++) {
        memcpy(first, e->logits + i * V, (size_t)V * sizeof *first); // the prompts' stay as they are
        take(&out[i], e, &now, i, first, scratch, o);
    }
    while (now.n) {
        int n = now.n_rows;
        Q3_TRY(run_feed(&logits, here ? NULL : ids, e, &now));
        for (int i = 0; i < n; i++)
            if (here)
                take(&out[now.open[i]], e, &next, now.open[i], logits + i * V, scratch, o);
            else
                add(&out[now.open[i]], e, &next, now.open[i], ids[i], o);
        const feed done = now;
        now = next;
        next = done;
    }
    return Q3_OK;
}

q3_status q3_generate(q3_answer_ids *out, q3_generator *e, const q3_generate_options *options)
{
    Q3_CHECK(options->max_new_tokens <= e->room, "max_new_tokens %lld, room for %lld",
             (long long)options->max_new_tokens, (long long)e->room);
    for (int i = 0; i < e->n_rows; i++)
        out[i] = (q3_answer_ids){ .ids = e->tokens + e->rows[i].begin + e->rows[i].prompt_n };
    if (options->max_new_tokens < 1)
        return Q3_OK;
    size_t mark = q3_arena_mark(&e->cache);
    q3_status st = decode(out, e, options);
    q3_arena_rewind(&e->cache, mark);
    return st;
}

/* log p of `id`, or of any of `any` when there are some. */
static double log_p(const float *logits, int64_t vocab, int32_t id, const int32_t *any, int64_t n_any)
{
    float top = logits[0];
    double all = 0, chosen = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (logits[i] > top)
            top = logits[i];
    for (int64_t i = 0; i < vocab; i++)
        all += expf(logits[i] - top);
    if (!n_any)
        return (double)logits[id] - top - log(all);
    for (int64_t i = 0; i < n_any; i++)
        chosen += exp((double)logits[any[i]] - top);
    return log(chosen) - log(all);
}

/* log p of what stands at index `at` of a choice, given logits behind what stands before it. */
static double log_p_at(const float *logits, int64_t vocab, const q3_choice *c, int64_t at)
{
    return at < c->n ? log_p(logits, vocab, c->ids[at], NULL, 0) : log_p(logits, vocab, 0, c->any, c->n_any);
}

/* How many ids all choices begin with, so that at least one of each is left. */
static int64_t common_ids(const q3_choice *choices, int n)
{
    int64_t same = choices[0].n - 1;
    for (int i = 1; i < n; i++) {
        int64_t k = 0;
        while (k < same && k < choices[i].n - 1 && choices[i].ids[k] == choices[0].ids[k])
            k++;
        same = k;
    }
    return same;
}

/* The ids that all choices share: adds their log p and that of each choice's first own id. */
static q3_status score_common(double *out, q3_generator *e, feed *f, const q3_choice *choices, int n,
                              int64_t shared)
{
    int64_t V = vocabulary(e);
    const float *logits = e->logits;
    float *fed = NULL;
    for (int i = 0; i < e->n_rows; i++)
        for (int a = 0; a < n; a++)
            out[i * n + a] = shared ? log_p_at(logits + i * V, V, &choices[0], 0) : 0;
    if (shared) {
        for (int i = 0; i < e->n_rows; i++)
            feed_tokens(f, e, i, choices[0].ids, shared, 0);
        Q3_TRY(run_feed(&fed, NULL, e, f));
    }
    for (int i = 0; i < e->n_rows; i++) {
        double sum = 0;
        for (int64_t k = 1; k < shared; k++)
            sum += log_p_at(fed + (i * shared + k - 1) * V, V, &choices[0], k);
        const float *last = shared ? fed + ((i + 1) * shared - 1) * V : logits + i * V;
        for (int a = 0; a < n; a++)
            out[i * n + a] += sum + log_p_at(last, V, &choices[a], shared);
    }
    return Q3_OK;
}

/* What one choice has of its own behind its first own id; `out` is its column. */
static q3_status score_own(double *out, q3_generator *e, feed *f, const q3_choice *c, int n_choices,
                           int64_t shared)
{
    int64_t V = vocabulary(e), own = c->n - shared - (c->n_any ? 0 : 1);
    float *logits;
    if (own < 1)
        return Q3_OK;
    for (int i = 0; i < e->n_rows; i++)
        feed_tokens(f, e, i, c->ids + shared, own, shared);
    Q3_TRY(run_feed(&logits, NULL, e, f));
    for (int i = 0; i < e->n_rows; i++)
        for (int64_t k = 0; k < own; k++)
            out[i * n_choices] += log_p_at(logits + (i * own + k) * V, V, c, shared + k + 1);
    return Q3_OK;
}

q3_status q3_score(double *out, q3_generator *e, const q3_choice *choices, int n_choices)
{
    if (!e->n_rows || n_choices < 1)
        return Q3_OK;
    int64_t longest = 0;
    for (int a = 0; a < n_choices; a++) {
        Q3_CHECK(choices[a].n >= 1 && choices[a].n <= e->room, "choice %d of %lld tokens, room for %lld", a,
                 (long long)choices[a].n, (long long)e->room);
        longest = choices[a].n > longest ? choices[a].n : longest;
    }
    size_t mark = q3_arena_mark(&e->cache);
    int64_t shared = common_ids(choices, n_choices);
    feed f;
    q3_status st = create_feed(&f, e, e->n_rows * longest);
    st = st ? st : score_common(out, e, &f, choices, n_choices, shared);
    for (int a = 0; a < n_choices && st == Q3_OK; a++)
        st = score_own(out + a, e, &f, &choices[a], n_choices, shared);
    q3_arena_rewind(&e->cache, mark);
    return st;
}
