/* Weighing continuations: each prompt once, each choice behind a fork of it. */
#include <math.h>

#include "core/arena.h"
#include "infer/engine.h"

enum {
    TOGETHER = 16,       // prompts or choices of a pass
    PROMPT_TOKENS = 512, // of a pass, as in infer/scheduler.h
    CHOICE_TOKENS = 64,  // of a pass: each has logits
};

/* Prompts that are weighed together. */
typedef struct scoring {
    q3_engine *e;
    double *out; // [n_prompts, n_choices]
    const q3_choice *choices;
    int n_choices;
    q3_sequence *sequences[TOGETHER];
    int first, n; // prompts first .. first + n
} scoring;

/* A choice behind one of the prompts, on its way. */
typedef struct item {
    q3_sequence *sequence;
    const q3_choice *choice;
    double *out;
    int64_t done; // ids of the choice that were fed
} item;

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

/* Ids of a choice behind which logits are wanted: all, or all but the last. */
static int64_t fed_ids(const q3_choice *c)
{
    return c->n - (c->n_any ? 0 : 1);
}

static int64_t vocabulary(const scoring *s)
{
    return q3_engine_model(s->e)->config.text.vocab_size;
}

/* As many prompts as the cache has room for beside one choice; at least one. */
static q3_status open_prompts(scoring *s, const q3_prompt *prompts, int n)
{
    int64_t longest = 1;
    for (int a = 0; a < s->n_choices; a++)
        longest = s->choices[a].n > longest ? s->choices[a].n : longest;
    int most = s->first ? TOGETHER : 1; // what the first begins with is found by the others
    for (s->n = 0; s->n < n && s->n < most; s->n++) {
        const q3_prompt *p = &prompts[s->first + s->n];
        q3_sequence **q = &s->sequences[s->n];
        Q3_TRY(q3_sequence_create(q, s->e, p, p->n + longest));
        bool fits = q3_sequence_reserve(*q, p->n - q3_sequence_cached(*q));
        int64_t more = longest / Q3_ENGINE_BLOCK + 2; // a copy of the last block, and what follows
        if (fits && q3_engine_free_blocks(s->e) >= more)
            continue;
        q3_sequence_destroy(*q);
        if (s->n)
            break;
        return q3_fail(
            Q3_ERR_MEMORY,
            "a key/value cache of %lld tokens is too small for a prompt of %lld and a choice of %lld; let it "
            "hold more",
            (long long)q3_engine_settings(s->e)->tokens, (long long)p->n, (long long)longest);
    }
    return Q3_OK;
}

static void close_prompts(scoring *s)
{
    for (int i = 0; i < s->n; i++)
        q3_sequence_destroy(s->sequences[i]);
    s->n = 0;
}

/* Runs the next chunk of the prompts; what ends in it tells of every choice's first id. *left: is there more? */
static q3_status run_prompts(bool *left, scoring *s)
{
    q3_feed feeds[TOGETHER];
    int prompt[TOGETHER], n = 0;
    int64_t room = PROMPT_TOKENS;
    *left = false;
    for (int i = 0; i < s->n; i++) {
        int64_t length, rest;
        q3_sequence_ids(&length, s->sequences[i]);
        rest = length - q3_sequence_cached(s->sequences[i]);
        int64_t now = rest < room ? rest : room;
        *left |= now < rest;
        if (!now)
            continue;
        feeds[n] = (q3_feed){ .sequence = s->sequences[i],
                              .n = now,
                              .want = now == rest ? Q3_WANT_LAST : Q3_WANT_NOTHING };
        prompt[n++] = s->first + i;
        room -= now;
    }
    Q3_TRY(q3_engine_pass(s->e, feeds, n, NULL));
    for (int i = 0; i < n; i++)
        for (int a = 0; feeds[i].want == Q3_WANT_LAST && a < s->n_choices; a++)
            s->out[(int64_t)prompt[i] * s->n_choices + a] =
                log_p_at(feeds[i].values, vocabulary(s), &s->choices[a], 0);
    return Q3_OK;
}

/* Feeds the items once; those that are done leave. */
static q3_status run_items(scoring *s, item *items, int *n)
{
    q3_feed feeds[TOGETHER];
    int64_t V = vocabulary(s), room = CHOICE_TOKENS;
    int fed = 0, left = 0;
    for (; fed < *n && room > 0; fed++) {
        int64_t rest = fed_ids(items[fed].choice) - items[fed].done;
        feeds[fed] =
            (q3_feed){ .sequence = items[fed].sequence, .n = rest < room ? rest : room, .want = Q3_WANT_ALL };
        room -= feeds[fed].n;
    }
    Q3_TRY(q3_engine_pass(s->e, feeds, fed, NULL));
    for (int i = 0; i < *n; i++) {
        item *it = &items[i];
        for (int64_t k = 0; i < fed && k < feeds[i].n; k++)
            *it->out += log_p_at(feeds[i].values + k * V, V, it->choice, ++it->done);
        if (it->done < fed_ids(it->choice))
            items[left++] = *it;
        else
            q3_sequence_destroy(it->sequence);
    }
    *n = left;
    return Q3_OK;
}

/* A fork that is to go through the choice; without one, *out is NULL, when the cache is full. */
static q3_status open_item(q3_sequence **out, const q3_sequence *prompt, const q3_choice *c)
{
    Q3_TRY(q3_sequence_fork(out, prompt));
    bool pushed = q3_sequence_push(*out, c->ids, fed_ids(c));
    Q3_CHECK(pushed, "%lld ids", (long long)c->n);
    if (!q3_sequence_reserve(*out, fed_ids(c))) {
        q3_sequence_destroy(*out);
        *out = NULL;
    }
    return Q3_OK;
}

static q3_status run_choices(scoring *s, item *items, int *n)
{
    for (int k = 0; k < s->n * s->n_choices; k++) {
        const q3_choice *c = &s->choices[k % s->n_choices];
        if (!fed_ids(c))
            continue;
        q3_sequence *q = NULL;
        for (;;) {
            if (*n < TOGETHER)
                Q3_TRY(open_item(&q, s->sequences[k / s->n_choices], c));
            if (q)
                break;
            if (!*n)
                return q3_fail(Q3_ERR_MEMORY,
                               "a key/value cache of %lld tokens is too small for a choice of %lld",
                               (long long)q3_engine_settings(s->e)->tokens, (long long)c->n);
            Q3_TRY(run_items(s, items, n));
        }
        items[(*n)++] = (item){ q, c, &s->out[(int64_t)s->first * s->n_choices + k], 0 };
    }
    while (*n)
        Q3_TRY(run_items(s, items, n));
    return Q3_OK;
}

q3_status q3_engine_score(double *out, q3_engine *e, const q3_prompt *prompts, int n_prompts,
                          const q3_choice *choices, int n_choices)
{
    scoring s = { .e = e, .out = out, .choices = choices, .n_choices = n_choices };
    q3_status st = Q3_OK;
    while (n_choices > 0 && st == Q3_OK && s.first < n_prompts) {
        item items[TOGETHER];
        int n_items = 0;
        bool left = true;
        st = open_prompts(&s, prompts, n_prompts - s.first);
        while (st == Q3_OK && left)
            st = run_prompts(&left, &s);
        st = st ? st : run_choices(&s, items, &n_items);
        for (int i = 0; i < n_items; i++)
            q3_sequence_destroy(items[i].sequence);
        int done = s.n;
        close_prompts(&s);
        s.first += done;
    }
    return st;
}
