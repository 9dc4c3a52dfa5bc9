#include "infer/beam.h"

#include <math.h>
#include <string.h>

#include "infer/sample.h"

enum { CHUNK = 512 }; // prompt tokens of a pass

static const float out_of_reach = -1e9f; // transformers' score of what must not be chosen

/* A continuation of a beam. */
typedef struct candidate {
    float score; // sum of log p
    int32_t id;
    int beam;
    bool ends; // by an end token or at the last token there is room for
} candidate;

/* A finished answer, or room for one. */
typedef struct finished {
    int32_t *ids; // [max_new_tokens], the end token included
    int64_t n;
    float score;
    bool is;
} finished;

typedef struct search {
    const q3_beam_options *o;
    q3_engine *engine;
    q3_arena *mem;
    int64_t vocab, prompt_n, n;   // n: tokens behind the prompt
    q3_sequence **beams, **spare; // [num_beams]
    float *scores;                // [num_beams], descending
    int n_beams;                  // 1 in the first step, where all are alike
    candidate *found;             // [most] best first
    int most;
    candidate *kept;   // [num_beams] of them, the next beams
    finished *answers; // [num_beams] best first
    finished *merged;  // [num_beams + most]
    float *log_p, *scratch;
    q3_feed *feeds;
    bool improvable;
} search;

static q3_status create(search *s)
{
    size_t beams = (size_t)s->o->num_beams, V = (size_t)s->vocab;
    s->beams = Q3_ZNEW(s->mem, q3_sequence *, beams);
    s->spare = Q3_ZNEW(s->mem, q3_sequence *, beams);
    s->scores = Q3_ZNEW(s->mem, float, beams);
    s->found = Q3_NEW(s->mem, candidate, s->most);
    s->kept = Q3_NEW(s->mem, candidate, beams);
    s->answers = Q3_ZNEW(s->mem, finished, beams);
    s->merged = Q3_NEW(s->mem, finished, beams + (size_t)s->most);
    s->log_p = Q3_NEW(s->mem, float, V);
    s->scratch = Q3_NEW(s->mem, float, V);
    s->feeds = Q3_ZNEW(s->mem, q3_feed, beams);
    if (!s->beams || !s->spare || !s->scores || !s->found || !s->kept || !s->answers || !s->merged ||
        !s->log_p || !s->scratch || !s->feeds)
        return Q3_ERR_MEMORY;
    for (size_t i = 0; i < beams; i++)
        s->answers[i].score = out_of_reach;
    return Q3_OK;
}

static q3_status no_room(const search *s)
{
    return q3_fail(Q3_ERR_MEMORY,
                   "the key/value cache has %lld blocks of %d tokens, too few for %d beams; give it "
                   "more tokens or search with fewer beams",
                   (long long)q3_engine_blocks(s->engine), Q3_ENGINE_BLOCK, s->o->num_beams);
}

/* The prompt but for its last token: later passes have logits. */
static q3_status prefill(search *s)
{
    q3_sequence *first = s->beams[0];
    while (s->prompt_n - q3_sequence_cached(first) > CHUNK) {
        q3_feed f = { .sequence = first, .n = CHUNK, .want = Q3_WANT_NOTHING };
        if (!q3_sequence_reserve(first, f.n))
            return no_room(s);
        Q3_TRY(q3_engine_pass(s->engine, &f, 1, NULL));
    }
    return Q3_OK;
}

/* All that is not computed yet of each beam. */
static q3_status run(search *s)
{
    for (int i = 0; i < s->n_beams; i++) {
        int64_t n;
        q3_sequence_ids(&n, s->beams[i]);
        n -= q3_sequence_cached(s->beams[i]);
        s->feeds[i] = (q3_feed){ .sequence = s->beams[i], .n = n, .want = Q3_WANT_LAST };
        if (!q3_sequence_reserve(s->beams[i], n))
            return no_room(s);
    }
    return q3_engine_pass(s->engine, s->feeds, s->n_beams, NULL);
}

/* log softmax of a beam's logits, and its penalties behind that. */
static void weigh(search *s, int beam)
{
    const float *x = s->feeds[beam].values;
    const q3_sampling penalties = { .repetition_penalty = s->o->repetition_penalty };
    float most = x[0];
    double sum = 0;
    int64_t n;
    const int32_t *ids = q3_sequence_ids(&n, s->beams[beam]);
    for (int64_t i = 1; i < s->vocab; i++)
        most = x[i] > most ? x[i] : most;
    for (int64_t i = 0; i < s->vocab; i++)
        sum += exp((double)x[i] - most);
    float all = (float)log(sum);
    for (int64_t i = 0; i < s->vocab; i++)
        s->log_p[i] = x[i] - most - all;
    q3_sample_penalize(s->log_p, s->vocab, ids, n, s->prompt_n, &penalties, s->scratch);
}

static bool is_end(const search *s, int32_t id)
{
    for (int i = 0; i < s->o->n_eos; i++)
        if (s->o->eos[i] == id)
            return true;
    return false;
}

/* The best continuations of all beams, best first; of equal ones the first beam's, the lowest id. */
static void find_candidates(search *s)
{
    int n = 0;
    for (int beam = 0; beam < s->n_beams; beam++) {
        weigh(s, beam);
        for (int64_t id = 0; id < s->vocab; id++) {
            float score = s->log_p[id] + s->scores[beam];
            if (n == s->most && score <= s->found[n - 1].score)
                continue;
            n += n < s->most;
            int at = n - 1;
            for (; at > 0 && s->found[at - 1].score < score; at--)
                s->found[at] = s->found[at - 1];
            s->found[at] = (candidate){ .score = score, .id = (int32_t)id, .beam = beam };
        }
    }
    for (int i = 0; i < s->most; i++)
        s->found[i].ends = is_end(s, s->found[i].id) || s->n + 1 >= s->o->max_new_tokens;
}

/* The next beams; fewer than num_beams go on only when all end for want of room. */
static int keep_beams(search *s)
{
    int n = 0;
    for (int i = 0; i < s->most && n < s->o->num_beams; i++)
        if (!s->found[i].ends)
            s->kept[n++] = s->found[i];
    return n;
}

static bool all_finished(const search *s)
{
    for (int i = 0; i < s->o->num_beams; i++)
        if (!s->answers[i].is)
            return false;
    return true;
}

static float at_length(const search *s, float score, int64_t n)
{
    return score / (float)pow((double)n, (double)s->o->length_penalty);
}

static q3_status finish(search *s, finished *out, const candidate *c, float score)
{
    int64_t n;
    const int32_t *ids = q3_sequence_ids(&n, s->beams[c->beam]);
    *out = (finished){ .ids = Q3_NEW(s->mem, int32_t, s->n + 1), .n = s->n + 1, .score = score, .is = true };
    if (!out->ids)
        return Q3_ERR_MEMORY;
    memcpy(out->ids, ids + s->prompt_n, (size_t)s->n * sizeof *ids);
    out->ids[s->n] = c->id;
    return Q3_OK;
}

/* The best num_beams of the answers so far and those that end now; of equal ones the older. */
static q3_status finish_answers(search *s)
{
    int beams = s->o->num_beams, n = beams;
    if (!s->improvable || (all_finished(s) && s->o->early_stopping == Q3_EARLY_STOPPING_TRUE))
        return Q3_OK;
    memcpy(s->merged, s->answers, (size_t)beams * sizeof *s->merged);
    for (int i = 0; i < beams; i++) {
        const candidate *c = &s->found[i];
        if (!c->ends)
            continue;
        float score = at_length(s, c->score, s->n + 1);
        int at = n;
        while (at > 0 && s->merged[at - 1].score < score)
            at--;
        if (at >= beams)
            continue;
        memmove(s->merged + at + 1, s->merged + at, (size_t)(n - at) * sizeof *s->merged);
        Q3_TRY(finish(s, &s->merged[at], c, score));
        n++;
    }
    memcpy(s->answers, s->merged, (size_t)beams * sizeof *s->merged);
    return Q3_OK;
}

/* Each next beam takes its parent's sequence, or a fork where another has it already. */
static q3_status advance(search *s)
{
    memset(s->spare, 0, (size_t)s->o->num_beams * sizeof(q3_sequence *));
    for (int i = 0; i < s->o->num_beams; i++) {
        q3_sequence **parent = &s->beams[s->kept[i].beam];
        int first = 0;
        while (first < i && s->kept[first].beam != s->kept[i].beam)
            first++;
        if (first < i)
            Q3_TRY(q3_sequence_fork(&s->spare[i], s->spare[first]));
        else
            s->spare[i] = *parent;
        if (first == i)
            *parent = NULL;
    }
    for (int i = 0; i < s->o->num_beams; i++) {
        q3_sequence_destroy(s->beams[i]);
        s->beams[i] = s->spare[i];
        s->spare[i] = NULL;
        s->scores[i] = s->kept[i].score;
        Q3_CHECK(q3_sequence_push(s->beams[i], &s->kept[i].id, 1), "a beam of more than %lld tokens",
                 (long long)(s->prompt_n + s->n));
    }
    s->n_beams = s->o->num_beams;
    return Q3_OK;
}

/* Whether the best beam may still beat the worst answer. */
static bool may_improve(const search *s, float best, int64_t n)
{
    const q3_beam_options *o = s->o;
    bool longer = o->early_stopping == Q3_EARLY_STOPPING_NEVER && o->length_penalty > 0;
    float possible = at_length(s, best, longer ? o->max_new_tokens : n);
    float worst = all_finished(s) ? s->answers[o->num_beams - 1].score : out_of_reach;
    return possible > worst;
}

static q3_status search_on(search *s)
{
    for (;;) {
        Q3_TRY(run(s));
        find_candidates(s);
        int kept = keep_beams(s);
        Q3_TRY(finish_answers(s));
        if (kept < s->o->num_beams)
            return Q3_OK;
        s->improvable = s->improvable && may_improve(s, s->kept[0].score, s->n + 1);
        if (!s->improvable || (all_finished(s) && s->o->early_stopping == Q3_EARLY_STOPPING_TRUE))
            return Q3_OK;
        s->n++;
        Q3_TRY(advance(s));
    }
}

static void tell(q3_beam_answer *out, const search *s)
{
    for (int i = 0; i < s->o->num_returned; i++) {
        const finished *f = &s->answers[i];
        bool ended = f->n && is_end(s, f->ids[f->n - 1]);
        out[i] = (q3_beam_answer){ .ids = f->ids, .n = f->n - ended, .ended = ended, .score = f->score };
    }
}

static q3_status check(const search *s)
{
    const q3_beam_options *o = s->o;
    Q3_CHECK(o->num_beams >= 1 && o->num_returned >= 1 && o->num_returned <= o->num_beams &&
                 o->max_new_tokens >= 1,
             "%d beams, %d returned, max_new_tokens %lld", o->num_beams, o->num_returned,
             (long long)o->max_new_tokens);
    if (s->most > s->vocab)
        return q3_fail(Q3_ERR_LIMIT,
                       "%d beams look at %d tokens and the vocabulary has %lld; search with fewer beams",
                       o->num_beams, s->most, (long long)s->vocab);
    int64_t room = q3_engine_blocks(s->engine) * Q3_ENGINE_BLOCK;
    if (s->prompt_n + 1 > room)
        return q3_fail(Q3_ERR_LIMIT,
                       "the prompt has %lld tokens and the key/value cache holds %lld; give it more",
                       (long long)s->prompt_n, (long long)room);
    return Q3_OK;
}

q3_status q3_beam_search(q3_beam_answer *out, q3_arena *mem, q3_engine *e, const q3_prompt *prompt,
                         const q3_beam_options *options)
{
    int wide = options->n_eos > 1 ? 1 + options->n_eos : 2;
    search s = { .o = options,
                 .engine = e,
                 .mem = mem,
                 .vocab = q3_engine_model(e)->config.text.vocab_size,
                 .prompt_n = prompt->n,
                 .n_beams = 1,
                 .most = wide * options->num_beams,
                 .improvable = true };
    Q3_TRY(check(&s));
    Q3_TRY(create(&s));
    q3_status st = q3_sequence_create(&s.beams[0], e, prompt, prompt->n + options->max_new_tokens);
    st = st ? st : prefill(&s);
    st = st ? st : search_on(&s);
    for (int i = 0; i < options->num_beams; i++) {
        q3_sequence_destroy(s.beams[i]);
        q3_sequence_destroy(s.spare[i]);
    }
    if (st == Q3_OK)
        tell(out, &s);
    return st;
}
