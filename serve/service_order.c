#include "serve/service_order.h"

#include <string.h>

/* Address space of an order's arena: patches of the largest conversation, and ids. Touched as it fills. */
#define ORDER_BYTES ((size_t)8 << 30)

/* ---- orders ---- */

static bool make_tasks(q3_order *o)
{
    o->tasks = q3_calloc((size_t)o->n, sizeof *o->tasks);
    for (int i = 0; o->tasks && i < o->n; i++) {
        o->tasks[i] = (q3_order_item){ .order = o, .index = i, .end = q3_calloc(1, sizeof(q3_event)) };
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

void q3_order_disown(q3_order *o)
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

bool q3_order_tell(q3_order_item *t, const q3_text *text, const q3_token_event *token)
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

void q3_order_tell_end(q3_order_item *t, q3_finish finish, q3_status status, const q3_outcome_timing *timing)
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

void q3_order_cancel(q3_order *o)
{
    if (!atomic_exchange(&o->cancelled, true) && o->service)
        q3_service_wake(o->service);
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
    q3_order_disown(o);
}
