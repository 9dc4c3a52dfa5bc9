/* Requests that wait for a prediction: for its result, or for its events as they come. */
#include <string.h>

#include "serve/api_cog_prediction.h"

static void put(q3_text *out, const char *text)
{
    q3_text_append(out, text, strlen(text));
}

static void stop_listening(void *state)
{
    q3_prediction_listener *l = state;
    q3_prediction *p = l->p;
    pthread_mutex_lock(&p->lock);
    for (q3_prediction_listener **at = &p->listeners; *at; at = &(*at)->next)
        if (*at == l) {
            *at = l->next;
            p->n_listeners--;
            break;
        }
    bool orphan = l->owner && !p->complete;
    pthread_mutex_unlock(&p->lock);
    if (orphan)
        q3_prediction_cancel(p);
    q3_prediction_disown(p);
    q3_free(l);
}

static void hung_up(void *state)
{
    const q3_prediction_listener *l = state;
    if (l->owner)
        q3_prediction_cancel(l->p);
}

static q3_poll poll_result(q3_exchange *x)
{
    q3_prediction_listener *l = x->state;
    q3_prediction *p = l->p;
    pthread_mutex_lock(&p->lock);
    bool complete = p->complete;
    if (complete) {
        q3_prediction_write(&x->out, p, false);
    } else {
        l->asleep = true;
        q3_exchange_sleep(x);
    }
    pthread_mutex_unlock(&p->lock);
    return complete ? Q3_POLL_DONE : Q3_POLL_ASLEEP;
}

/* The events that this listener has not had; those that the history has forgotten are told as one error. */
static bool put_events(q3_text *out, q3_prediction_listener *l)
{
    const q3_prediction *p = l->p;
    size_t before = out->size;
    if (l->next_event + Q3_COG_HISTORY < p->n_events) {
        q3_text_printf(out, "event: error\ndata: {\"error\":\"%lld events are no longer kept\"}\n\n",
                       (long long)(p->n_events - Q3_COG_HISTORY - l->next_event));
        l->next_event = p->n_events - Q3_COG_HISTORY;
    }
    for (; l->next_event < p->n_events; l->next_event++)
        if (p->history[l->next_event % Q3_COG_HISTORY])
            put(out, p->history[l->next_event % Q3_COG_HISTORY]);
    if (l->keep_alive && out->size == before)
        put(out, ": keep-alive\n\n");
    l->keep_alive = false;
    return out->size > before;
}

static q3_poll poll_events(q3_exchange *x)
{
    q3_prediction_listener *l = x->state;
    q3_prediction *p = l->p;
    q3_poll answer = Q3_POLL_MORE;
    pthread_mutex_lock(&p->lock);
    bool more = put_events(&x->out, l);
    if (p->complete) { // and told
        answer = Q3_POLL_DONE;
    } else if (!more) {
        l->asleep = true;
        q3_exchange_sleep(x);
        answer = Q3_POLL_ASLEEP;
    }
    pthread_mutex_unlock(&p->lock);
    return answer;
}

void q3_prediction_listen(q3_exchange *x, q3_prediction *p, bool streaming, bool owner)
{
    q3_prediction_listener *l = q3_calloc(1, sizeof *l);
    pthread_mutex_lock(&p->lock);
    bool room = l && p->n_listeners < Q3_COG_LISTENERS;
    if (room) {
        *l = (q3_prediction_listener){
            .p = p, .x = x, .streaming = streaming, .owner = owner, .next = p->listeners
        };
        p->listeners = l;
        p->n_listeners++;
    }
    pthread_mutex_unlock(&p->lock);
    if (!room) {
        q3_free(l);
        if (owner)
            q3_prediction_cancel(p);
        q3_prediction_disown(p);
        q3_exchange_fail(x, 429, "too many listen to this prediction already");
        return;
    }
    x->state = l;
    x->release = stop_listening;
    x->gone = hung_up;
    x->poll = streaming ? poll_events : poll_result;
    x->streaming = streaming;
    x->type = streaming ? "text/event-stream; charset=utf-8" : NULL;
}
