#include "infer/scheduler.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "core/log.h"
#include "infer/lookup.h"
#include "kernels/gemm.h"

enum {
    CHUNK = 512, // prompt tokens of a pass: enough for a device to be busy, few enough to answer others soon
    NGRAM = 2,   // tokens that a guess must follow: transformers' max_matching_ngram_size
    SENTENCE_BYTES = 1024, // of an error, kept while many are told
};

/* A request on its way: it waits, runs, or waits again when it had to give its blocks back. */
typedef struct job {
    q3_request r;
    uint64_t ticket;       // ascending
    q3_sequence *sequence; // NULL before it runs for the first time
    int64_t limit;         // tokens of prompt and answer
    int64_t guessed;       // the sequence's last tokens are guesses, in this pass
    bool cancelled, hidden_told;
    q3_outcome_timing t; // output_tokens: those told so far
    q3_logprob *top;     // [r.logprobs]
    struct job *next;    // in the queue
} job;

struct q3_scheduler {
    q3_engine *engine;
    int max_running;
    int64_t chunk, vocab;
    uint64_t last_ticket;
    job *waiting;  // by ticket; all of them are younger than those that run
    job **running; // [max_running], by ticket
    int n_running;
    q3_feed *feeds; // [max_running] of the present pass
    job **fed;      // [max_running] whose they are
    int n_fed;
    int64_t refused;      // free blocks when the head of the queue was refused; -1: look again
    float *scratch, *raw; // [V]
    q3_scheduler_stats stats;
};

q3_status q3_scheduler_create(q3_scheduler **out, q3_engine *engine, const q3_scheduler_options *options)
{
    q3_scheduler *s = q3_calloc(1, sizeof *s);
    *out = s;
    if (!s)
        return Q3_ERR_MEMORY;
    s->engine = engine;
    s->max_running = options->max_running > 0 ? options->max_running : Q3_GEMM_FEW;
    s->chunk = options->chunk > 0 ? options->chunk : CHUNK;
    s->vocab = q3_engine_model(engine)->config.text.vocab_size;
    s->refused = -1;
    size_t n = (size_t)s->max_running;
    s->running = q3_calloc(n, sizeof *s->running);
    s->feeds = q3_calloc(n, sizeof *s->feeds);
    s->fed = q3_calloc(n, sizeof *s->fed);
    s->scratch = q3_calloc((size_t)s->vocab, sizeof *s->scratch);
    s->raw = q3_calloc((size_t)s->vocab, sizeof *s->raw);
    if (s->running && s->feeds && s->fed && s->scratch && s->raw)
        return Q3_OK;
    q3_scheduler_destroy(s);
    *out = NULL;
    return Q3_ERR_MEMORY;
}

static void free_job(job *j)
{
    q3_free(j->top);
    q3_free(j);
}

static void leave_running(q3_scheduler *s, const job *j)
{
    int kept = 0;
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i] != j)
            s->running[kept++] = s->running[i];
    s->n_running = kept;
}

static void leave_queue(q3_scheduler *s, const job *j)
{
    for (job **at = &s->waiting; *at; at = &(*at)->next)
        if (*at == j) {
            *at = j->next;
            return;
        }
}

/* The last of a job. Its blocks are free before anybody hears of it, for on_end may ask for the next. */
static void end(q3_scheduler *s, job *j, q3_finish finish, q3_status status)
{
    leave_running(s, j);
    leave_queue(s, j);
    q3_sequence_destroy(j->sequence);
    s->refused = -1;
    s->stats.finished++;
    j->t.ended = q3_seconds();
    const q3_outcome_of_request outcome = { .finish = finish, .status = status, .timing = j->t };
    if (j->r.on_end)
        j->r.on_end(j->r.arg, &outcome);
    free_job(j);
}

void q3_scheduler_destroy(q3_scheduler *s)
{
    if (!s)
        return;
    while (s->n_running)
        end(s, s->running[0], Q3_FINISH_CANCELLED, Q3_OK);
    while (s->waiting)
        end(s, s->waiting, Q3_FINISH_CANCELLED, Q3_OK);
    q3_free(s->running);
    q3_free(s->feeds);
    q3_free(s->fed);
    q3_free(s->scratch);
    q3_free(s->raw);
    q3_free(s);
}

/* Tokens that one sequence can have. */
static int64_t longest(const q3_scheduler *s)
{
    int64_t cache = q3_engine_blocks(s->engine) * Q3_ENGINE_BLOCK;
    int64_t model = q3_engine_model(s->engine)->config.text.max_positions;
    return cache < model ? cache : model;
}

q3_status q3_scheduler_submit(uint64_t *ticket, q3_scheduler *s, const q3_request *r)
{
    int64_t most = longest(s), n = r->prompt.n, more = r->max_new_tokens;
    Q3_CHECK(n >= 1 && more >= 0 && r->lookup >= 0, "%lld prompt tokens, max_new_tokens %lld, lookup %d",
             (long long)n, (long long)more, r->lookup);
    if (n + (more > 0) > most)
        return q3_fail(
            Q3_ERR_LIMIT,
            "the prompt has %lld tokens and there is room for %lld with its answer (the model's "
            "longest sequence, or the key/value cache's); shorten it or give the cache more tokens",
            (long long)n, (long long)most);
    job *j = q3_calloc(1, sizeof *j);
    if (!j)
        return Q3_ERR_MEMORY;
    j->r = *r;
    if (r->logprobs > 0 && !(j->top = q3_calloc((size_t)r->logprobs, sizeof *j->top))) {
        free_job(j);
        return Q3_ERR_MEMORY;
    }
    j->ticket = *ticket = ++s->last_ticket;
    j->limit = more > most - n ? most : n + more;
    j->t.prompt_tokens = n;
    j->t.submitted = q3_seconds();
    job **last = &s->waiting;
    while (*last)
        last = &(*last)->next;
    *last = j;
    return Q3_OK;
}

void q3_scheduler_cancel(q3_scheduler *s, uint64_t ticket)
{
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i]->ticket == ticket)
            s->running[i]->cancelled = true;
    for (job *j = s->waiting; j; j = j->next)
        if (j->ticket == ticket)
            j->cancelled = true;
}

static void end_cancelled(q3_scheduler *s)
{
    for (int i = 0; i < s->n_running;)
        if (s->running[i]->cancelled)
            end(s, s->running[i], Q3_FINISH_CANCELLED, Q3_OK);
        else
            i++;
    for (job *j = s->waiting, *next; j; j = next) {
        next = j->next;
        if (j->cancelled)
            end(s, j, Q3_FINISH_CANCELLED, Q3_OK);
    }
}

/* Tokens that are not computed yet: one while a job is decoded. */
static int64_t pending(const job *j)
{
    int64_t n;
    q3_sequence_ids(&n, j->sequence);
    return n - q3_sequence_cached(j->sequence);
}

static void drop_guesses(job *j)
{
    int64_t n;
    q3_sequence_ids(&n, j->sequence);
    if (j->guessed)
        q3_sequence_truncate(j->sequence, n - j->guessed);
    j->guessed = 0;
}

/* The youngest gives its blocks back and is the next to run. */
static void preempt(q3_scheduler *s)
{
    job *j = s->running[--s->n_running];
    drop_guesses(j);
    q3_sequence_evict(j->sequence);
    j->next = s->waiting;
    s->waiting = j;
    s->refused = -1;
    s->stats.preempted++;
}

/* Tokens that both prompts begin with, in whole blocks. */
static int64_t common_tokens(const q3_prompt *a, const q3_prompt *b)
{
    int64_t n = 0, most = a->n < b->n ? a->n : b->n;
    if (a->adapter != b->adapter)
        return 0;
    while (n < most && a->ids[n] == b->ids[n])
        n++;
    int images = a->n_images < b->n_images ? a->n_images : b->n_images;
    bool same = images == 0 || (a->hashes && b->hashes &&
                                memcmp(a->hashes, b->hashes, (size_t)images * sizeof *a->hashes) == 0);
    if (!same && a->n_image_rows && a->image_rows[0] < n)
        n = a->image_rows[0];
    return n - n % Q3_ENGINE_BLOCK;
}

/* Most of the job's prompt is just being computed for another one: it will be found in the cache a pass later. */
static bool worth_waiting(const q3_scheduler *s, const job *j)
{
    if (q3_engine_settings(s->engine)->no_sharing || j->sequence)
        return false;
    for (int i = 0; i < s->n_running; i++) {
        const job *other = s->running[i];
        int64_t done = q3_sequence_cached(other->sequence);
        if (done < other->r.prompt.n &&
            2 * (common_tokens(&j->r.prompt, &other->r.prompt) - done) >= j->r.prompt.n)
            return true;
    }
    return false;
}

/* Blocks for all that is known of the job, and one to spare for each that runs: else the youngest, which is this one,
 * would soon have to give them back. */
static bool take_blocks(q3_scheduler *s, const job *j)
{
    if (!q3_sequence_reserve(j->sequence, pending(j)))
        return false;
    return !s->n_running || q3_engine_free_blocks(s->engine) > s->n_running;
}

/* A new job that found no room looks into the cache again when it next tries. */
static void give_up(q3_scheduler *s, job *j)
{
    if (j->t.admitted > 0) {
        q3_sequence_evict(j->sequence);
    } else {
        q3_sequence_destroy(j->sequence);
        j->sequence = NULL;
    }
    s->refused = q3_engine_free_blocks(s->engine);
}

/* The head of the queue runs from now on, or false. */
static bool admit_head(q3_scheduler *s)
{
    job *j = s->waiting;
    if (s->n_running && q3_engine_free_blocks(s->engine) <= s->refused)
        return false;
    if (!j->sequence) {
        q3_status st = q3_sequence_create(&j->sequence, s->engine, &j->r.prompt, j->limit);
        if (st != Q3_OK) {
            j->sequence = NULL;
            end(s, j, Q3_FINISH_FAILED, st);
            return true;
        }
    }
    if (!take_blocks(s, j)) {
        give_up(s, j);
        if (!s->n_running)
            end(s, j, Q3_FINISH_FAILED,
                q3_fail(Q3_ERR_MEMORY,
                        "the key/value cache has %lld blocks of %d tokens left for a prompt of "
                        "%lld; give it more tokens",
                        (long long)q3_engine_free_blocks(s->engine), Q3_ENGINE_BLOCK,
                        (long long)j->r.prompt.n));
        return false;
    }
    s->waiting = j->next;
    j->next = NULL;
    s->running[s->n_running++] = j;
    if (j->t.admitted > 0)
        return true;
    j->t.admitted = q3_seconds();
    j->t.cached_tokens = q3_sequence_found(j->sequence);
    s->stats.cached_tokens += j->t.cached_tokens;
    s->stats.prompt_tokens += j->t.prompt_tokens;
    return true;
}

/* First come, first served: where the head must wait, all wait. */
static void admit(q3_scheduler *s)
{
    while (s->waiting && s->n_running < s->max_running && !worth_waiting(s, s->waiting) && admit_head(s))
        ;
}

static bool wants_hidden(const job *j)
{
    return j->r.on_hidden && !j->hidden_told;
}

/* What the device can tell without its logits leaving it. */
static bool plainly_greedy(const q3_request *r)
{
    const q3_sampling *p = &r->sampling;
    return q3_sample_greedy(p) && p->repetition_penalty == 1 && p->presence_penalty == 0 &&
           p->frequency_penalty == 0 && !r->filter && r->logprobs < 0;
}

static q3_want want_of(const job *j, bool last)
{
    if (!last)
        return Q3_WANT_NOTHING;
    if (wants_hidden(j))
        return Q3_WANT_HIDDEN;
    if (j->r.max_new_tokens == 0)
        return Q3_WANT_NOTHING;
    if (j->guessed)
        return Q3_WANT_ALL;
    return plainly_greedy(&j->r) ? Q3_WANT_LIKELIEST : Q3_WANT_LAST;
}

static bool ends(const q3_request *r, int32_t id)
{
    for (int i = 0; i < r->n_eos; i++)
        if (r->eos[i] == id)
            return true;
    return false;
}

/* Lays guesses behind the job's tokens, at most `most`, so that the answer has at least one token behind them. */
static void guess(job *j, int64_t most)
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
    job *j = s->running[at];
    while (!q3_sequence_reserve(j->sequence, *n)) {
        *n -= j->guessed;
        if (j->guessed)
            drop_guesses(j);
        else
            preempt(s);
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
        room -= pending(s->running[i]) == 1;
    return room > 0 ? room : 0;
}

/* Lays out a pass: one token of each job that is decoded, guesses behind it, and a chunk of prompts. */
static void compose(q3_scheduler *s)
{
    int64_t chunk = s->chunk, guesses = room_for_guesses(s);
    s->n_fed = 0;
    for (int i = 0; i < s->n_running; i++) {
        job *j = s->running[i];
        int64_t left = pending(j), n = left;
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
        s->feeds[s->n_fed] = (q3_feed){ .sequence = j->sequence, .n = n, .want = want_of(j, n >= left) };
        s->fed[s->n_fed++] = j;
    }
}

/* Of the raw logits: log p of the token, and the likeliest ones by falling probability, lower ids first. */
static void weigh(q3_token_event *e, const q3_scheduler *s, const job *j)
{
    float most = s->raw[0];
    double sum = 0;
    for (int64_t i = 1; i < s->vocab; i++)
        most = s->raw[i] > most ? s->raw[i] : most;
    for (int64_t i = 0; i < s->vocab; i++)
        sum += exp((double)s->raw[i] - most);
    double all = most + log(sum);
    e->logprob = (float)(s->raw[e->id] - all);
    e->top = j->top;
    for (int64_t i = 0; i < s->vocab && j->r.logprobs > 0; i++) {
        float p = (float)(s->raw[i] - all);
        int at = e->n_top;
        if (at == j->r.logprobs && p <= j->top[at - 1].logprob)
            continue;
        e->n_top += at < j->r.logprobs;
        for (at = e->n_top - 1; at > 0 && j->top[at - 1].logprob < p; at--)
            j->top[at] = j->top[at - 1];
        j->top[at] = (q3_logprob){ .id = (int32_t)i, .logprob = p };
    }
}

/* Takes the next token of the answer; false when it was the last, and the job is no more. */
static bool tell(q3_scheduler *s, job *j, int32_t id)
{
    if (ends(&j->r, id))
        return end(s, j, Q3_FINISH_STOP, Q3_OK), false;
    q3_token_event e = { .id = id, .index = j->t.output_tokens++ };
    s->stats.output_tokens++;
    if (!e.index)
        j->t.first_token = q3_seconds();
    if (j->r.logprobs >= 0)
        weigh(&e, s, j);
    if (j->r.on_token && !j->r.on_token(j->r.arg, &e))
        return end(s, j, Q3_FINISH_STOP, Q3_OK), false;
    if (j->t.prompt_tokens + j->t.output_tokens >= j->limit)
        return end(s, j, Q3_FINISH_LENGTH, Q3_OK), false;
    return true;
}

/* The token behind the n ids in `seen`, by the request's own rules. */
static int32_t choose(q3_scheduler *s, const job *j, float *logits, const int32_t *seen, int64_t n)
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
static void take_logits(q3_scheduler *s, job *j, const q3_feed *f)
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
        drop_guesses(j);
        q3_sequence_push(j->sequence, &id, 1);
        return;
    }
}

/* Of a prompt that is to be answered too, the last token is needed once more, for its logits. */
static void take_hidden(q3_scheduler *s, job *j, const q3_feed *f)
{
    j->hidden_told = true;
    j->r.on_hidden(j->r.arg, f->values, q3_engine_model(s->engine)->config.text.hidden_size);
    if (j->r.max_new_tokens == 0)
        end(s, j, Q3_FINISH_LENGTH, Q3_OK);
    else
        q3_sequence_evict(j->sequence);
}

static void take(q3_scheduler *s, job *j, const q3_feed *f)
{
    if (f->want == Q3_WANT_HIDDEN)
        take_hidden(s, j, f);
    else if (f->want == Q3_WANT_LAST || f->want == Q3_WANT_ALL)
        take_logits(s, j, f);
    else if (f->want == Q3_WANT_LIKELIEST && tell(s, j, f->likeliest))
        q3_sequence_push(j->sequence, &f->likeliest, 1);
    else if (f->want == Q3_WANT_NOTHING && !pending(j))
        end(s, j, Q3_FINISH_LENGTH, Q3_OK);
}

/* One sequence has come to nothing, the pass's results are lost for all: the others compute theirs again. */
static void fail_one(q3_scheduler *s, int flawed, q3_status st)
{
    end(s, s->fed[flawed], Q3_FINISH_FAILED, st);
    for (int i = 0; i < s->n_fed; i++) {
        if (i == flawed)
            continue;
        drop_guesses(s->fed[i]);
        if (!pending(s->fed[i]))
            q3_sequence_evict(s->fed[i]->sequence);
    }
}

static q3_status fail_all(q3_scheduler *s, q3_status st)
{
    char sentence[SENTENCE_BYTES];
    snprintf(sentence, sizeof sentence, "%s", q3_error());
    while (s->n_running) {
        q3_fail(st, "%s", sentence); // callbacks may have said something else
        end(s, s->running[0], Q3_FINISH_FAILED, st);
    }
    return q3_fail(st, "%s", sentence);
}

/* Whether the pass has tokens of a prompt. */
static bool has_prompt(const q3_scheduler *s)
{
    for (int i = 0; i < s->n_fed; i++)
        if (q3_sequence_cached(s->fed[i]->sequence) < s->fed[i]->r.prompt.n)
            return true;
    return false;
}

q3_status q3_scheduler_step(q3_scheduler *s)
{
    end_cancelled(s);
    admit(s);
    compose(s);
    if (!s->n_fed)
        return Q3_OK;
    int flawed = -1;
    double start = q3_seconds();
    double *seconds = has_prompt(s) ? &s->stats.prefill_seconds : &s->stats.decode_seconds;
    q3_status st = q3_engine_pass(s->engine, s->feeds, s->n_fed, &flawed);
    *seconds += q3_seconds() - start;
    s->stats.passes++;
    if (st == Q3_ERR_FAIL && flawed >= 0)
        return fail_one(s, flawed, st), Q3_OK;
    if (st != Q3_OK)
        return fail_all(s, st);
    for (int i = 0; i < s->n_fed; i++)
        take(s, s->fed[i], &s->feeds[i]);
    return Q3_OK;
}

bool q3_scheduler_idle(const q3_scheduler *s)
{
    return !s->n_running && !s->waiting;
}

q3_status q3_scheduler_run(q3_scheduler *s)
{
    while (!q3_scheduler_idle(s))
        Q3_TRY(q3_scheduler_step(s));
    return Q3_OK;
}

void q3_scheduler_stats_of(q3_scheduler_stats *out, const q3_scheduler *s)
{
    *out = s->stats;
    out->running = s->n_running;
    for (const job *j = s->waiting; j; j = j->next)
        out->waiting++;
    out->blocks = q3_engine_blocks(s->engine);
    out->free_blocks = q3_engine_free_blocks(s->engine);
    out->block_tokens = Q3_ENGINE_BLOCK;
}
