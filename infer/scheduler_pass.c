#include "infer/scheduler_job.h"

#include <string.h>

#include "core/log.h"
#include "infer/lookup.h"
#include "kernels/gemm.h"

enum { NGRAM = 2 }; // tokens that a guess must follow: transformers' max_matching_ngram_size

int64_t q3_job_pending(const q3_job *j)
{
    int64_t n;
    q3_sequence_ids(&n, j->sequence);
    return n - q3_sequence_cached(j->sequence);
}

void q3_job_drop_guesses(q3_job *j)
{
    int64_t n;
    q3_sequence_ids(&n, j->sequence);
    if (j->guessed)
        q3_sequence_truncate(j->sequence, n - j->guessed);
    j->guessed = 0;
}

static bool wants_hidden(const q3_job *j)
{
    return j->r.on_hidden && !j->hidden_told;
}

/* Nothing but the pass's own logits decides. */
static bool plain(const q3_request *r)
{
    const q3_sampling *p = &r->sampling;
    return p->repetition_penalty == 1 && p->presence_penalty == 0 && p->frequency_penalty == 0 &&
           !r->filter && r->logprobs < 0;
}

/* Of one token: as little as the request's rules need, so that on a device the logits stay there. */
static q3_want want_of_logits(const q3_request *r)
{
    const q3_sampling *p = &r->sampling;
    if (plain(r) && q3_sample_greedy(p))
        return Q3_WANT_LIKELIEST;
    return plain(r) && p->top_k >= 1 && p->top_k <= Q3_WANT_TOP_K ? Q3_WANT_CANDIDATES : Q3_WANT_LAST;
}

static q3_want want_of(const q3_job *j, bool last)
{
    if (!last)
        return Q3_WANT_NOTHING;
    if (wants_hidden(j))
        return Q3_WANT_HIDDEN;
    if (j->r.max_new_tokens == 0)
        return Q3_WANT_NOTHING;
    return j->guessed ? Q3_WANT_ALL : want_of_logits(&j->r);
}

static bool ends(const q3_request *r, int32_t id)
{
    for (int i = 0; i < r->n_eos; i++)
        if (r->eos[i] == id)
            return true;
    return false;
}

/* Lays guesses behind the job's tokens, at most `most`, so that the answer has at least one token behind them. */
static void guess(q3_job *j, int64_t most)
{
    int32_t guesses[Q3_GEMM_FEW];
    int64_t n;
    const int32_t *ids = q3_sequence_ids(&n, j->sequence);
    most = most < j->r.lookup ? most : j->r.lookup;
    most = most < j->limit - n - 1 ? most : j->limit - n - 1;
    if (most < 1 || wants_hidden(j))
        return;
    int found = q3_lookup(guesses, (int)most, ids, n, NGRAM), kept = 0;
    while (kept < found && !ends(&j->r, guesses[kept]))
        kept++;
    if (kept && q3_sequence_push(j->sequence, guesses, kept))
        j->guessed = kept;
}

/* Blocks for the next n tokens of running job `at`: guesses go first, then the youngest. False when it was this one. */
static bool reserve(q3_scheduler *s, int at, int64_t *n)
{
    q3_job *j = s->running[at];
    while (!q3_sequence_reserve(j->sequence, *n)) {
        *n -= j->guessed;
        if (j->guessed)
            q3_job_drop_guesses(j);
        else
            q3_scheduler_preempt(s);
        if (s->n_running <= at)
            return false;
    }
    return true;
}

/* Tokens that guesses may take in this pass: within Q3_GEMM_FEW, where no bit depends on what else is in it. */
static int64_t room_for_guesses(const q3_scheduler *s)
{
    int64_t room = Q3_GEMM_FEW;
    for (int i = 0; i < s->n_running; i++)
        room -= q3_job_pending(s->running[i]) == 1;
    return room > 0 ? room : 0;
}

void q3_scheduler_compose(q3_scheduler *s)
{
    int64_t chunk = s->chunk, guesses = room_for_guesses(s);
    s->n_fed = 0;
    for (int i = 0; i < s->n_running; i++) {
        q3_job *j = s->running[i];
        int64_t left = q3_job_pending(j), n = left;
        if (left == 1) {
            guess(j, guesses);
            n = 1 + j->guessed;
        } else {
            n = left < chunk ? left : chunk;
        }
        if (!n)
            continue;
        if (!reserve(s, i, &n))
            break;
        if (left == 1)
            guesses -= j->guessed;
        else
            chunk -= n;
        s->feeds[s->n_fed] = (q3_feed){ .sequence = j->sequence,
                                        .n = n,
                                        .want = want_of(j, n >= left),
                                        .temperature = j->r.sampling.temperature,
                                        .top_k = j->r.sampling.top_k };
        s->fed[s->n_fed++] = j;
    }
}

/* Takes the next token of the answer; false when it was the last, and the job is no more. */
static bool tell(q3_scheduler *s, q3_job *j, int32_t id)
{
    if (ends(&j->r, id))
        return q3_job_end(s, j, Q3_FINISH_STOP, Q3_OK), false;
    q3_token_event e = { .id = id, .index = j->t.output_tokens++ };
    s->stats.output_tokens++;
    if (!e.index)
        j->t.first_token = q3_seconds();
    if (j->r.logprobs >= 0) {
        e.top = j->top;
        e.n_top = j->r.logprobs < s->vocab ? j->r.logprobs : (int)s->vocab;
        q3_logprobs(&e.logprob, j->top, e.n_top, s->raw, s->vocab, id);
    }
    if (j->r.on_token && !j->r.on_token(j->r.arg, &e))
        return q3_job_end(s, j, Q3_FINISH_STOP, Q3_OK), false;
    if (j->t.prompt_tokens + j->t.output_tokens >= j->limit)
        return q3_job_end(s, j, Q3_FINISH_LENGTH, Q3_OK), false;
    return true;
}

/* The token behind the n ids in `seen`, by the request's own rules. */
static int32_t choose(q3_scheduler *s, const q3_job *j, float *logits, const int32_t *seen, int64_t n)
{
    const q3_request *r = &j->r;
    if (r->logprobs >= 0)
        memcpy(s->raw, logits, (size_t)s->vocab * sizeof *logits);
    q3_sample_penalize(logits, s->vocab, seen, n, r->prompt.n, &r->sampling, s->scratch);
    if (r->filter)
        r->filter(r->arg, logits, s->vocab);
    return q3_sample_draw(logits, s->vocab, &r->sampling, r->number, (uint32_t)j->t.output_tokens,
                          s->scratch);
}

/* Row k of the logits is what stands behind k right guesses: they are taken as long as they are what would have been
 * taken anyway. */
static void take_logits(q3_scheduler *s, q3_job *j, const q3_feed *f)
{
    int64_t n, right = 0;
    const int32_t *ids = q3_sequence_ids(&n, j->sequence);
    const int64_t guessed = j->guessed, known = n - guessed;
    float *logits = (float *)(uintptr_t)f->values; // ours to change, infer/engine.h says
    s->stats.guessed += guessed;
    j->t.guessed += guessed;
    for (;;) {
        int32_t id = choose(s, j, logits + right * s->vocab, ids, known + right);
        bool guess_was_right = right < guessed && ids[known + right] == id;
        s->stats.accepted += guess_was_right;
        j->t.accepted += guess_was_right;
        if (!tell(s, j, id))
            return;
        right += guess_was_right;
        if (guess_was_right)
            continue;
        j->guessed = guessed - right;
        q3_job_drop_guesses(j);
        q3_sequence_push(j->sequence, &id, 1);
        return;
    }
}

/* The temperature is in the candidates already, and what top-k drops is not among them or is dropped again. */
static int32_t draw_candidate(q3_scheduler *s, const q3_job *j, const q3_feed *f)
{
    q3_sampling rest = j->r.sampling;
    rest.temperature = 1;
    float *values = (float *)(uintptr_t)f->values; // ours to change, infer/engine.h says
    return f->candidates[q3_sample_draw(values, f->n_candidates, &rest, j->r.number,
                                        (uint32_t)j->t.output_tokens, s->scratch)];
}

/* Of a prompt that is to be answered too, the last token is needed once more, for its logits. */
static void take_hidden(q3_scheduler *s, q3_job *j, const q3_feed *f)
{
    j->hidden_told = true;
    j->r.on_hidden(j->r.arg, f->values, q3_engine_model(s->engine)->config.text.hidden_size);
    if (j->r.max_new_tokens == 0)
        q3_job_end(s, j, Q3_FINISH_LENGTH, Q3_OK);
    else
        q3_sequence_evict(j->sequence);
}

void q3_scheduler_take(q3_scheduler *s, q3_job *j, const q3_feed *f)
{
    const bool drawn = f->want == Q3_WANT_CANDIDATES && f->n_candidates;
    if (f->want == Q3_WANT_HIDDEN) {
        take_hidden(s, j, f);
    } else if (f->want == Q3_WANT_NOTHING) {
        if (!q3_job_pending(j))
            q3_job_end(s, j, Q3_FINISH_LENGTH, Q3_OK);
    } else if (f->want == Q3_WANT_LIKELIEST || drawn) {
        const int32_t id = drawn ? draw_candidate(s, j, f) : f->likeliest;
        if (tell(s, j, id))
            q3_sequence_push(j->sequence, &id, 1);
    } else {
        take_logits(s, j, f);
    }
}
