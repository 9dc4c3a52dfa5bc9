#include "serve/service.h"

#include <pthread.h>
#include <time.h>

#include "core/log.h"
#include "infer/choice.h"
#include "infer/constraint_vocabulary.h"
#include "serve/service_order.h"

enum { DEFAULT_RUNNING = 16, DEFAULT_WAITING = 64, RETRY_MOST = 60 };

const double q3_histogram_bounds[Q3_HISTOGRAM_BOUNDS] = { 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                          0.5,   1,      2.5,   5,    10,    30,   60 };

struct q3_service {
    q3_session *session;
    const q3_vocabulary *vocabulary; // NULL until a form was asked for
    q3_service_options options;
    pthread_mutex_t lock;
    pthread_cond_t work;
    q3_order *incoming;  // newest first
    q3_order *active;    // the computing thread's, oldest first
    q3_order_item *next; // with choices, to be weighed in this turn; the computing thread's
    bool held;           // until there is room for it nothing that came later begins
    double drain_until;  // time; 0: not draining
    double mean_seconds; // of an order, moving
    q3_service_stats stats;
    int failed_passes;                               // in a row; the computing thread's
    q3_histogram first_token, between_tokens, whole; // the computing thread's
    int64_t ends[4];                                 // by q3_finish, likewise
};

/* ---- what the scheduler calls ---- */

static void count_seconds(q3_histogram *h, double seconds)
{
    int i = 0;
    while (i < Q3_HISTOGRAM_BOUNDS && seconds > q3_histogram_bounds[i])
        i++;
    h->counts[i]++;
    h->n++;
    h->sum += seconds;
}

static void count_token(q3_order_item *t)
{
    q3_service *s = t->order->service;
    double now = q3_seconds();
    if (t->last_token > 0)
        count_seconds(&s->between_tokens, now - t->last_token);
    else
        count_seconds(&s->first_token, now - t->order->submitted);
    t->last_token = now;
}

static void filter(void *arg, float *logits, int64_t vocab)
{
    const q3_order_item *t = arg;
    q3_constraint_mask(t->wanted.constraint, logits, vocab);
}

static bool on_token(void *arg, const q3_token_event *event)
{
    q3_order_item *t = arg;
    q3_text text = { 0 };
    bool stopped = false;
    t->order->shared = true;
    count_token(t);
    bool fine = q3_stream_add(&text, &stopped, t->stream, event->id) == Q3_OK && !text.failed;
    fine = fine && (!t->wanted.constraint || q3_constraint_advance(t->wanted.constraint, event->id));
    if (fine && (text.size || t->wanted.logprobs >= 0))
        fine = q3_order_tell(t, &text, event);
    q3_text_free(&text);
    return fine && !stopped;
}

static void on_hidden(void *arg, const float *hidden, int64_t n)
{
    q3_order_item *t = arg;
    t->logit = q3_rerank_logit(t->wanted.reranker, hidden, n);
}

static void on_end(void *arg, const q3_outcome_of_request *outcome)
{
    q3_order_item *t = arg;
    q3_order *o = t->order;
    q3_text text = { 0 };
    o->shared = true;
    o->n_under_way--;
    o->service->ends[outcome->finish]++;
    if (outcome->finish == Q3_FINISH_FAILED) {
        q3_order_tell_end(t, outcome->finish, outcome->status, &outcome->timing);
        return;
    }
    if (t->stream && q3_stream_end(&text, t->stream) == Q3_OK && text.size)
        q3_order_tell(t, &text, NULL);
    q3_text_free(&text);
    q3_order_tell_end(t, outcome->finish, Q3_OK, &outcome->timing);
}

/* ---- the computing thread ---- */

static q3_request request_of(q3_service *s, q3_order_item *t)
{
    const q3_generation_config *g = &s->session->model.config.generation;
    const q3_task *w = &t->wanted;
    q3_request r = { .prompt = w->prompt,
                     .sampling = w->sampling,
                     .number = w->number,
                     .max_new_tokens = w->reranker ? 0 : w->max_new_tokens,
                     .eos = g->eos,
                     .n_eos = g->n_eos,
                     .logprobs = w->logprobs,
                     .lookup = w->constraint ? 0 : s->options.lookup,
                     .filter = w->constraint ? filter : NULL,
                     .on_token = on_token,
                     .on_hidden = w->reranker ? on_hidden : NULL,
                     .on_end = on_end,
                     .arg = t };
    return r;
}

static void start_task(q3_service *s, q3_order_item *t)
{
    q3_order *o = t->order;
    q3_request r = request_of(s, t);
    q3_status st = Q3_OK;
    if (!t->wanted.reranker)
        st = q3_stream_create(&t->stream, s->session->tokenizer, t->wanted.stops, t->wanted.n_stops, true);
    st = st ? st : q3_scheduler_submit(&t->ticket, s->session->scheduler, &r);
    t->submitted = true;
    o->n_submitted++;
    if (st == Q3_OK) {
        o->n_under_way++;
        return;
    }
    o->shared = true; // nobody need wait for it
    s->ends[Q3_FINISH_FAILED]++;
    q3_order_tell_end(t, Q3_FINISH_FAILED, st, NULL);
}

/* The order's next task, when it has choices. */
static q3_order_item *next_with_choices(q3_order *o)
{
    q3_order_item *t = o->n_submitted < o->n ? &o->tasks[o->n_submitted] : NULL;
    return t && t->wanted.choices ? t : NULL;
}

/* Whether prompt and choices find blocks, or nobody is left who could give some back. */
static bool has_room(const q3_service *s, const q3_order_item *t)
{
    const q3_task *w = &t->wanted;
    int64_t longest = q3_choices_longest(w->choices, w->n_choices);
    int64_t blocks =
        w->prompt.n / Q3_ENGINE_BLOCK + longest / Q3_ENGINE_BLOCK + 3; // begun ones, and a fork's copy
    return q3_scheduler_idle(s->session->scheduler) || q3_engine_free_blocks(s->session->engine) >= blocks;
}

static void start_tasks(q3_service *s, q3_order *o)
{
    if (s->held)
        return;
    q3_order_item *t = next_with_choices(o);
    if (t && !s->next) {
        s->held = !has_room(s, t);
        s->next = s->held ? NULL : t;
    }
    while (!t && o->n_submitted < o->n && o->n_under_way < (o->shared ? o->width : 1)) {
        start_task(s, &o->tasks[o->n_submitted]);
        t = next_with_choices(o);
    }
}

/* Weighs the choices of a task, in passes of its own. */
static void weigh(q3_service *s, q3_order_item *t)
{
    const q3_task *w = &t->wanted;
    q3_outcome_timing timing = { .prompt_tokens = w->prompt.n,
                                 .submitted = t->order->submitted,
                                 .admitted = q3_seconds() };
    t->submitted = true;
    t->order->n_submitted++;
    q3_status st = q3_engine_score(w->scores, s->session->engine, &w->prompt, 1, w->choices, w->n_choices);
    timing.ended = q3_seconds();
    q3_finish finish = st ? Q3_FINISH_FAILED : Q3_FINISH_STOP;
    s->ends[finish]++;
    q3_order_tell_end(t, finish, st, &timing);
}

/* Ends an order's tasks: those under way by the scheduler, the others at once. */
static void stop_tasks(q3_service *s, q3_order *o, q3_finish finish, q3_status status)
{
    for (int i = 0; i < o->n; i++) {
        q3_order_item *t = &o->tasks[i];
        if (t->ended)
            continue;
        if (t->submitted) {
            q3_scheduler_cancel(s->session->scheduler, t->ticket);
            continue;
        }
        t->submitted = true;
        o->n_submitted++;
        s->ends[finish]++;
        q3_order_tell_end(t, finish, status, NULL);
    }
}

static void take_incoming(q3_service *s)
{
    q3_order **end = &s->active, *taken = NULL;
    while (s->incoming) { // turns the list round: oldest first
        q3_order *o = s->incoming;
        s->incoming = o->next;
        o->next = taken;
        taken = o;
    }
    while (*end)
        end = &(*end)->next;
    *end = taken;
}

static void look_after(q3_service *s, q3_order *o, double now, bool give_up)
{
    if (o->deadline > 0 && now > o->deadline)
        o->late = true;
    if (give_up || o->late || atomic_load(&o->cancelled))
        stop_tasks(s, o, Q3_FINISH_CANCELLED, Q3_OK);
    else
        start_tasks(s, o);
}

/* Takes answered orders off the list; counts what is left waiting. */
static void drop_answered(q3_service *s, double now)
{
    s->stats.waiting = s->stats.scheduler.waiting;
    for (q3_order **at = &s->active; *at;) {
        q3_order *o = *at;
        if (o->n_answered < o->n) {
            s->stats.waiting += o->n - o->n_submitted;
            at = &o->next;
            continue;
        }
        *at = o->next;
        double seconds = now - o->submitted;
        count_seconds(&s->whole, seconds);
        s->mean_seconds = s->mean_seconds > 0 ? 0.9 * s->mean_seconds + 0.1 * seconds : seconds;
        s->stats.open--;
        q3_order_disown(o);
    }
}

/* A pass of the network for all that runs; after one that failed for all, a moment's rest keeps a lost device from filling
 * the log. */
static void step(q3_service *s)
{
    static const struct timespec rest = { .tv_nsec = 100000000 };
    if (q3_scheduler_step(s->session->scheduler) == Q3_OK) {
        s->failed_passes = 0;
        return;
    }
    q3_warn("%s", q3_error());
    s->failed_passes++;
    nanosleep(&rest, NULL);
}

static void compute(q3_service *s)
{
    if (s->next)
        weigh(s, s->next);
    if (!q3_scheduler_idle(s->session->scheduler))
        step(s);
}

/* Figures for other threads. */
static void publish(q3_service *s)
{
    q3_service_stats *out = &s->stats;
    q3_scheduler_stats_of(&out->scheduler, s->session->scheduler);
    out->first_token = s->first_token;
    out->between_tokens = s->between_tokens;
    out->whole = s->whole;
    out->failed_passes = s->failed_passes;
    out->stopped = s->ends[Q3_FINISH_STOP];
    out->cut = s->ends[Q3_FINISH_LENGTH];
    out->cancelled = s->ends[Q3_FINISH_CANCELLED];
    out->failed = s->ends[Q3_FINISH_FAILED];
}

/* Waits for an order, a cancellation or the beginning of draining. */
static void sleep_until_work(q3_service *s)
{
    if (s->drain_until > 0)
        return;
    pthread_cond_wait(&s->work, &s->lock);
}

bool q3_service_run(q3_service *s)
{
    bool all_answered = true;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        double now = q3_seconds();
        bool give_up = s->drain_until > 0 && now > s->drain_until;
        take_incoming(s);
        s->next = NULL;
        s->held = false;
        for (q3_order *o = s->active; o; o = o->next) {
            look_after(s, o, now, give_up);
            all_answered = all_answered && !give_up;
        }
        pthread_mutex_unlock(&s->lock);
        compute(s);
        pthread_mutex_lock(&s->lock);
        publish(s);
        drop_answered(s, q3_seconds());
        if (!s->active && !s->incoming && s->drain_until > 0)
            break;
        if (!s->active && !s->incoming)
            sleep_until_work(s);
    }
    pthread_mutex_unlock(&s->lock);
    return all_answered;
}

/* ---- what other threads call ---- */

void q3_service_wake(q3_service *s)
{
    pthread_mutex_lock(&s->lock);
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

q3_status q3_service_create(q3_service **out, q3_session *session, const q3_service_options *options)
{
    q3_service *s = *out = q3_calloc(1, sizeof *s);
    if (!s)
        return Q3_ERR_MEMORY;
    s->session = session;
    s->options = *options;
    s->options.max_running = s->options.max_running ? s->options.max_running : DEFAULT_RUNNING;
    s->options.max_waiting = s->options.max_waiting ? s->options.max_waiting : DEFAULT_WAITING;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    publish(s);
    return Q3_OK;
}

void q3_service_destroy(q3_service *s)
{
    if (!s)
        return;
    q3_vocabulary_release(s->vocabulary);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->work);
    q3_free(s);
}

q3_status q3_service_keep_vocabulary(q3_service *s)
{
    pthread_mutex_lock(&s->lock);
    bool there = s->vocabulary != NULL;
    pthread_mutex_unlock(&s->lock);
    if (there)
        return Q3_OK;
    const q3_vocabulary *v;
    Q3_TRY(q3_vocabulary_acquire(
        &v, s->session->tokenizer)); // not under the lock that the computing thread wants
    pthread_mutex_lock(&s->lock);
    const q3_vocabulary *spare = s->vocabulary ? v : NULL; // another request was faster
    s->vocabulary = s->vocabulary ? s->vocabulary : v;
    pthread_mutex_unlock(&s->lock);
    q3_vocabulary_release(spare);
    return Q3_OK;
}

void q3_service_drain(q3_service *s, double seconds)
{
    pthread_mutex_lock(&s->lock);
    s->stats.draining = true;
    s->drain_until = q3_seconds() + seconds;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

static void take_order(q3_service *s, q3_order *o, int width)
{
    o->service = s;
    o->width = width > 0 ? width : o->n;
    o->submitted = q3_seconds();
    o->deadline = s->options.max_seconds > 0 ? o->submitted + s->options.max_seconds : 0;
    atomic_fetch_add(&o->owners, 1);
    o->next = s->incoming;
    s->incoming = o;
    s->stats.open++;
    s->stats.orders++;
    pthread_cond_signal(&s->work);
}

q3_admission q3_service_submit(q3_service *s, q3_order *o, int width, const q3_waiter *waiter)
{
    if (waiter)
        o->waiter = *waiter;
    pthread_mutex_lock(&s->lock);
    q3_admission answer = s->stats.draining ? Q3_ADMISSION_DRAINING
                          : s->stats.open >= s->options.max_running + s->options.max_waiting
                              ? Q3_ADMISSION_FULL
                              : Q3_ADMITTED;
    if (answer == Q3_ADMITTED)
        take_order(s, o, width);
    else
        s->stats.refused++;
    pthread_mutex_unlock(&s->lock);
    if (answer != Q3_ADMITTED)
        o->n_ended = o->n; // nothing will come of it
    return answer;
}

int q3_service_retry_after(q3_service *s)
{
    pthread_mutex_lock(&s->lock);
    double seconds = s->mean_seconds * s->stats.open / s->options.max_running;
    pthread_mutex_unlock(&s->lock);
    return seconds < 1 ? 1 : seconds > RETRY_MOST ? RETRY_MOST : (int)seconds;
}

void q3_service_stats_of(q3_service_stats *out, q3_service *s)
{
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    pthread_mutex_unlock(&s->lock);
}
