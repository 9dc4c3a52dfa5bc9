#include "infer/service.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "core/log.h"
#include "infer/stream.h"

/* Locks: the service's guards its lists and figures, an order's its queue and waiter. An order's may be taken alone or
 * within the service's, never the other way round; a waiter is called within its order's. */

/* Address space of an order's arena: patches of the largest conversation, and ids. Touched as it fills. */
#define ORDER_BYTES ((size_t)8 << 30)

enum { DEFAULT_RUNNING = 16, DEFAULT_WAITING = 64, RETRY_MOST = 60 };

const double q3_histogram_bounds[Q3_HISTOGRAM_BOUNDS] = { 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                          0.5,   1,      2.5,   5,    10,    30,   60 };

typedef struct task {
    q3_task wanted;
    q3_order *order;
    int index;
    uint64_t ticket;
    bool submitted, ended;
    q3_stream *stream;
    q3_event *end; // made beforehand: an end is always told
    double logit;
    double last_token; // time
} task;

struct q3_order {
    q3_service *service;
    q3_arena mem;
    task *tasks; // [n]
    int n, width;
    int n_submitted, n_under_way, n_answered; // the computing thread's
    bool shared;                              // the first task's prompt is in the cache
    bool late;                                // its time is over
    double submitted;                         // time
    double deadline;                          // time; 0: none
    atomic_bool cancelled;
    atomic_int owners; // who gave it, and the service
    q3_order *next;    // in the service's lists

    pthread_mutex_t lock;
    q3_event *first, *last;
    int n_ended;
    bool asleep, whole, failed;
    q3_waiter waiter;
};

struct q3_service {
    q3_session *session;
    q3_service_options options;
    pthread_mutex_t lock;
    pthread_cond_t work;
    q3_order *incoming;  // newest first
    q3_order *active;    // the computing thread's, oldest first
    double drain_until;  // time; 0: not draining
    double mean_seconds; // of an order, moving
    q3_service_stats stats;
    q3_histogram first_token, between_tokens, whole; // the computing thread's
    int64_t ends[4];                                 // by q3_finish, likewise
};

/* ---- orders ---- */

static bool make_tasks(q3_order *o)
{
    o->tasks = q3_calloc((size_t)o->n, sizeof *o->tasks);
    for (int i = 0; o->tasks && i < o->n; i++) {
        o->tasks[i] = (task){ .order = o, .index = i, .end = q3_calloc(1, sizeof(q3_event)) };
        if (!o->tasks[i].end)
            return false;
    }
    return o->tasks != NULL;
}

static void free_order(q3_order *o)
{
    for (int i = 0; o->tasks && i < o->n; i++) {
        q3_constraint_destroy(o->tasks[i].wanted.constraint);
        q3_stream_destroy(o->tasks[i].stream);
        q3_event_free(o->tasks[i].end);
    }
    for (q3_event *e = o->first; e;) {
        q3_event *next = e->next;
        q3_event_free(e);
        e = next;
    }
    q3_free(o->tasks);
    q3_arena_destroy(&o->mem);
    pthread_mutex_destroy(&o->lock);
    q3_free(o);
}

static void disown(q3_order *o)
{
    if (atomic_fetch_sub(&o->owners, 1) == 1)
        free_order(o);
}

q3_status q3_order_create(q3_order **out, int n)
{
    *out = NULL;
    q3_order *o = q3_calloc(1, sizeof *o);
    if (!o)
        return Q3_ERR_MEMORY;
    o->n = n;
    atomic_store(&o->owners, 1);
    pthread_mutex_init(&o->lock, NULL);
    q3_status st = q3_arena_create(&o->mem, "request", ORDER_BYTES);
    if (st == Q3_OK && !make_tasks(o))
        st = Q3_ERR_MEMORY;
    if (st == Q3_OK)
        *out = o;
    else
        free_order(o);
    return st;
}

q3_arena *q3_order_memory(q3_order *o)
{
    return &o->mem;
}

q3_task *q3_order_task(q3_order *o, int i)
{
    return &o->tasks[i].wanted;
}

int q3_order_tasks(const q3_order *o)
{
    return o->n;
}

void q3_event_free(q3_event *e)
{
    if (!e)
        return;
    for (int i = 0; i < e->n_notes; i++)
        q3_free((void *)(uintptr_t)e->notes[i].top);
    q3_free(e->notes);
    q3_text_free(&e->text);
    q3_free(e->sentence);
    q3_free(e);
}

/* ---- the queue of an order ---- */

static void wake_owner(q3_order *o)
{
    if (!o->asleep || (o->whole && o->n_ended < o->n))
        return;
    o->asleep = false;
    o->waiter.wake(o->waiter.arg);
}

static void append_event(q3_order *o, q3_event *e)
{
    if (o->last)
        o->last->next = e;
    else
        o->first = e;
    o->last = e;
}

/* The event that takes what a task says next: the last one in the queue if it is this task's. */
static q3_event *open_event(q3_order *o, int index)
{
    if (o->last && o->last->task == index && !o->last->ended)
        return o->last;
    q3_event *e = q3_calloc(1, sizeof *e);
    if (e) {
        e->task = index;
        append_event(o, e);
    }
    return e;
}

static bool add_note(q3_event *e, const q3_token_event *t)
{
    if (e->n_notes == e->note_capacity) {
        int capacity = e->note_capacity ? 2 * e->note_capacity : 4;
        q3_token_note *more = q3_realloc(e->notes, (size_t)capacity * sizeof *more);
        if (!more)
            return false;
        e->notes = more;
        e->note_capacity = capacity;
    }
    q3_logprob *top = t->n_top ? q3_calloc((size_t)t->n_top, sizeof *top) : NULL;
    if (t->n_top && !top)
        return false;
    if (top)
        memcpy(top, t->top, (size_t)t->n_top * sizeof *top);
    e->notes[e->n_notes++] =
        (q3_token_note){ .id = t->id, .logprob = t->logprob, .top = top, .n_top = t->n_top };
    return true;
}

/* Tells the owner a text, a token or both; false when there is no memory. */
static bool tell(task *t, const q3_text *text, const q3_token_event *token)
{
    q3_order *o = t->order;
    pthread_mutex_lock(&o->lock);
    q3_event *e = open_event(o, t->index);
    bool told = e != NULL;
    if (e && text->size)
        q3_text_append(&e->text, text->data, text->size);
    if (e && token && t->wanted.logprobs >= 0)
        told = add_note(e, token);
    told = told && !e->text.failed;
    if (!told)
        o->failed = true;
    else
        wake_owner(o);
    pthread_mutex_unlock(&o->lock);
    return told;
}

static void tell_end(task *t, q3_finish finish, q3_status status, const q3_outcome_timing *timing)
{
    q3_order *o = t->order;
    q3_event *e = t->end;
    t->end = NULL;
    t->ended = true;
    o->n_answered++;
    if (finish == Q3_FINISH_CANCELLED && o->late && !atomic_load(&o->cancelled))
        finish = Q3_FINISH_LENGTH; // of time
    *e = (q3_event){ .task = t->index, .ended = true, .finish = finish, .status = status, .logit = t->logit };
    if (timing)
        e->timing = *timing;
    pthread_mutex_lock(&o->lock);
    if (o->failed && finish != Q3_FINISH_FAILED) {
        e->finish = Q3_FINISH_FAILED;
        e->status = Q3_ERR_MEMORY;
    } else if (finish == Q3_FINISH_FAILED) {
        e->sentence = q3_strdup(q3_error());
    }
    append_event(o, e);
    o->n_ended++;
    wake_owner(o);
    pthread_mutex_unlock(&o->lock);
}

q3_event *q3_order_next(q3_order *o, bool whole, bool *done)
{
    pthread_mutex_lock(&o->lock);
    bool all_ended = o->n_ended == o->n;
    q3_event *e = whole && !all_ended ? NULL : o->first;
    if (e) {
        o->first = e->next;
        if (!o->first)
            o->last = NULL;
        e->next = NULL;
    }
    *done = !e && all_ended;
    if (!e && !*done) {
        o->asleep = true;
        o->whole = whole;
        o->waiter.sleep(o->waiter.arg);
    }
    pthread_mutex_unlock(&o->lock);
    return e;
}

static void wake_service(q3_service *s)
{
    pthread_mutex_lock(&s->lock);
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

void q3_order_cancel(q3_order *o)
{
    if (!atomic_exchange(&o->cancelled, true) && o->service)
        wake_service(o->service);
}

void q3_order_close(q3_order *o)
{
    if (!o)
        return;
    pthread_mutex_lock(&o->lock);
    o->asleep = false;
    bool ended = o->n_ended == o->n;
    pthread_mutex_unlock(&o->lock);
    if (!ended)
        q3_order_cancel(o);
    disown(o);
}

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

static void count_token(task *t)
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
    const task *t = arg;
    q3_constraint_mask(t->wanted.constraint, logits, vocab);
}

static bool on_token(void *arg, const q3_token_event *event)
{
    task *t = arg;
    q3_text text = { 0 };
    bool stopped = false;
    t->order->shared = true;
    count_token(t);
    bool fine = q3_stream_add(&text, &stopped, t->stream, event->id) == Q3_OK && !text.failed;
    fine = fine && (!t->wanted.constraint || q3_constraint_advance(t->wanted.constraint, event->id));
    if (fine && (text.size || t->wanted.logprobs >= 0))
        fine = tell(t, &text, event);
    q3_text_free(&text);
    return fine && !stopped;
}

static void on_hidden(void *arg, const float *hidden, int64_t n)
{
    task *t = arg;
    t->logit = q3_rerank_logit(t->wanted.reranker, hidden, n);
}

static void on_end(void *arg, const q3_outcome_of_request *outcome)
{
    task *t = arg;
    q3_order *o = t->order;
    q3_text text = { 0 };
    o->shared = true;
    o->n_under_way--;
    o->service->ends[outcome->finish]++;
    if (outcome->finish == Q3_FINISH_FAILED) {
        tell_end(t, outcome->finish, outcome->status, &outcome->timing);
        return;
    }
    if (t->stream && q3_stream_end(&text, t->stream) == Q3_OK && text.size)
        tell(t, &text, NULL);
    q3_text_free(&text);
    tell_end(t, outcome->finish, Q3_OK, &outcome->timing);
}

/* ---- the computing thread ---- */

static q3_request request_of(q3_service *s, task *t)
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

static void start_task(q3_service *s, task *t)
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
    tell_end(t, Q3_FINISH_FAILED, st, NULL);
}

static void start_tasks(q3_service *s, q3_order *o)
{
    while (o->n_submitted < o->n && o->n_under_way < (o->shared ? o->width : 1))
        start_task(s, &o->tasks[o->n_submitted]);
}

/* Ends an order's tasks: those under way by the scheduler, the others at once. */
static void stop_tasks(q3_service *s, q3_order *o, q3_finish finish, q3_status status)
{
    for (int i = 0; i < o->n; i++) {
        task *t = &o->tasks[i];
        if (t->ended)
            continue;
        if (t->submitted) {
            q3_scheduler_cancel(s->session->scheduler, t->ticket);
            continue;
        }
        t->submitted = true;
        o->n_submitted++;
        s->ends[finish]++;
        tell_end(t, finish, status, NULL);
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
        disown(o);
    }
}

/* A pass of the network; after one that failed for all, a moment's rest keeps a lost device from filling the log. */
static void step(q3_service *s)
{
    static const struct timespec rest = { .tv_nsec = 100000000 };
    if (q3_scheduler_step(s->session->scheduler) == Q3_OK) {
        s->stats.failed_passes = 0;
        return;
    }
    q3_warn("%s", q3_error());
    s->stats.failed_passes++;
    nanosleep(&rest, NULL);
}

/* Figures for other threads. */
static void publish(q3_service *s)
{
    q3_service_stats *out = &s->stats;
    q3_scheduler_stats_of(&out->scheduler, s->session->scheduler);
    out->first_token = s->first_token;
    out->between_tokens = s->between_tokens;
    out->whole = s->whole;
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
        for (q3_order *o = s->active; o; o = o->next) {
            look_after(s, o, now, give_up);
            all_answered = all_answered && !give_up;
        }
        bool idle = q3_scheduler_idle(s->session->scheduler);
        if (!idle) {
            pthread_mutex_unlock(&s->lock);
            step(s);
            pthread_mutex_lock(&s->lock);
        }
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
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->work);
    q3_free(s);
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
