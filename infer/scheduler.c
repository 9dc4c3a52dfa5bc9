#include "infer/scheduler_job.h"

#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "core/log.h"
#include "kernels/gemm.h"

enum {
    CHUNK = 512, // prompt tokens of a pass: enough for a device to be busy, few enough to answer others soon
    SENTENCE_BYTES = 1024, // of an error, kept while many are told
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

static void free_job(q3_job *j)
{
    q3_free(j->top);
    q3_free(j);
}

static void leave_running(q3_scheduler *s, const q3_job *j)
{
    int kept = 0;
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i] != j)
            s->running[kept++] = s->running[i];
    s->n_running = kept;
}

static void leave_queue(q3_scheduler *s, const q3_job *j)
{
    for (q3_job **at = &s->waiting; *at; at = &(*at)->next)
        if (*at == j) {
            *at = j->next;
            return;
        }
}

void q3_job_end(q3_scheduler *s, q3_job *j, q3_finish finish, q3_status status)
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
        q3_job_end(s, s->running[0], Q3_FINISH_CANCELLED, Q3_OK);
    while (s->waiting)
        q3_job_end(s, s->waiting, Q3_FINISH_CANCELLED, Q3_OK);
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
    q3_job *j = q3_calloc(1, sizeof *j);
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
    q3_job **last = &s->waiting;
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
    for (q3_job *j = s->waiting; j; j = j->next)
        if (j->ticket == ticket)
            j->cancelled = true;
}

static void end_cancelled(q3_scheduler *s)
{
    for (int i = 0; i < s->n_running;)
        if (s->running[i]->cancelled)
            q3_job_end(s, s->running[i], Q3_FINISH_CANCELLED, Q3_OK);
        else
            i++;
    for (q3_job *j = s->waiting, *next; j; j = next) {
        next = j->next;
        if (j->cancelled)
            q3_job_end(s, j, Q3_FINISH_CANCELLED, Q3_OK);
    }
}

void q3_scheduler_preempt(q3_scheduler *s)
{
    q3_job *j = s->running[--s->n_running];
    q3_job_drop_guesses(j);
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
static bool worth_waiting(const q3_scheduler *s, const q3_job *j)
{
    if (q3_engine_settings(s->engine)->no_sharing || j->sequence)
        return false;
    for (int i = 0; i < s->n_running; i++) {
        const q3_job *other = s->running[i];
        int64_t done = q3_sequence_cached(other->sequence);
        if (done < other->r.prompt.n &&
            2 * (common_tokens(&j->r.prompt, &other->r.prompt) - done) >= j->r.prompt.n)
            return true;
    }
    return false;
}

/* Blocks for all that is known of the job, and one to spare for each that runs: else the youngest, which is this one,
 * would soon have to give them back. */
static bool take_blocks(q3_scheduler *s, const q3_job *j)
{
    if (!q3_sequence_reserve(j->sequence, q3_job_pending(j)))
        return false;
    return !s->n_running || q3_engine_free_blocks(s->engine) > s->n_running;
}

/* A new job that found no room looks into the cache again when it next tries. */
static void give_up(q3_scheduler *s, q3_job *j)
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
    q3_job *j = s->waiting;
    if (s->n_running && q3_engine_free_blocks(s->engine) <= s->refused)
        return false;
    if (!j->sequence) {
        q3_status st = q3_sequence_create(&j->sequence, s->engine, &j->r.prompt, j->limit);
        if (st != Q3_OK) {
            j->sequence = NULL;
            q3_job_end(s, j, Q3_FINISH_FAILED, st);
            return true;
        }
    }
    if (!take_blocks(s, j)) {
        give_up(s, j);
        if (!s->n_running)
            q3_job_end(s, j, Q3_FINISH_FAILED,
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

/* One sequence has come to nothing, and the pass with it: the others do theirs again. */
static void fail_one(q3_scheduler *s, int flawed, q3_status st)
{
    q3_job_end(s, s->fed[flawed], Q3_FINISH_FAILED, st);
    for (int i = 0; i < s->n_fed; i++)
        if (i != flawed)
            q3_job_drop_guesses(s->fed[i]);
}

static q3_status fail_all(q3_scheduler *s, q3_status st)
{
    char sentence[SENTENCE_BYTES];
    snprintf(sentence, sizeof sentence, "%s", q3_error());
    while (s->n_running) {
        q3_fail(st, "%s", sentence); // callbacks may have said something else
        q3_job_end(s, s->running[0], Q3_FINISH_FAILED, st);
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
    q3_scheduler_compose(s);
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
        q3_scheduler_take(s, s->fed[i], &s->feeds[i]);
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
    for (const q3_job *j = s->waiting; j; j = j->next)
        out->waiting++;
    out->blocks = q3_engine_blocks(s->engine);
    out->free_blocks = q3_engine_free_blocks(s->engine);
    out->block_tokens = Q3_ENGINE_BLOCK;
}
