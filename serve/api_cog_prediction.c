#include "serve/api_cog_prediction.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/log.h"

enum { KEEP_ALIVE_SECONDS = 15 }; // docs/http.md of cog

static void put(q3_text *out, const char *text)
{
    q3_text_append(out, text, strlen(text));
}

void q3_cog_put_string(q3_text *out, const char *text)
{
    size_t n = strlen(text), bad;
    q3_text_json_string(out, text, q3_utf8_valid(text, n, &bad) ? n : bad);
}

void q3_cog_now(char out[Q3_COG_TIME_BYTES])
{
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t n = strftime(out, Q3_COG_TIME_BYTES, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(out + n, Q3_COG_TIME_BYTES - n, ".%06ld+00:00", now.tv_nsec / 1000);
}

/* ---- a prediction as JSON; its lock is held ---- */

static void put_output(q3_text *out, const q3_prediction *p)
{
    put(out, ",\"output\":");
    if (p->has_output)
        q3_text_json_string(out, p->output.data ? p->output.data : "", p->output.size);
    else
        put(out, "null");
}

static void put_metrics(q3_text *out, const q3_prediction *p)
{
    q3_text_printf(out, ",\"metrics\":{");
    if (p->complete)
        q3_text_printf(out, "\"predict_time\":%.6f,\"input_token_count\":%lld,\"output_token_count\":%lld",
                       p->seconds, (long long)p->input_tokens, (long long)p->output_tokens);
    put(out, "}");
}

void q3_prediction_write(q3_text *out, const q3_prediction *p, bool whole)
{
    put(out, "{\"id\":");
    q3_cog_put_string(out, p->id);
    q3_text_printf(out, ",\"status\":\"%s\"", p->status);
    put_output(out, p);
    put(out, ",\"logs\":\"\"");
    if (p->error) {
        put(out, ",\"error\":");
        q3_cog_put_string(out, p->error);
    }
    put_metrics(out, p);
    const cJSON *input = whole ? cJSON_GetObjectItemCaseSensitive(p->doc.root, "input") : NULL;
    char *text = input ? cJSON_PrintUnformatted(input) : NULL;
    if (whole)
        q3_text_printf(out, ",\"input\":%s,\"created_at\":\"%s\"", text ? text : "{}", p->created_at);
    cJSON_free(text);
    if (whole && p->started_at[0])
        q3_text_printf(out, ",\"started_at\":\"%s\"", p->started_at);
    if (whole && p->completed_at[0])
        q3_text_printf(out, ",\"completed_at\":\"%s\"", p->completed_at);
    put(out, "}");
}

/* ---- those who listen; the prediction's lock is held ---- */

static void wake_listeners(q3_prediction *p)
{
    for (q3_prediction_listener *l = p->listeners; l; l = l->next)
        if (l->asleep && (l->streaming || p->complete)) {
            l->asleep = false;
            q3_exchange_wake(l->x);
        }
}

/* Takes the text, and keeps it as the next event of the history. */
static void add_event(q3_prediction *p, q3_text *event)
{
    char **place = &p->history[p->n_events % Q3_COG_HISTORY];
    q3_free(*place);
    *place = event->failed ? NULL : event->data;
    if (event->failed)
        q3_text_free(event);
    p->n_events++;
    wake_listeners(p);
}

static void begin_event(q3_text *event, const char *name)
{
    q3_text_printf(event, "event: %s\ndata: ", name);
}

static void tell_start(q3_prediction *p)
{
    q3_text event = { 0 };
    begin_event(&event, "start");
    put(&event, "{\"id\":");
    q3_cog_put_string(&event, p->id);
    put(&event, ",\"status\":\"processing\"}\n\n");
    add_event(p, &event);
}

static void tell_chunk(q3_prediction *p, size_t end)
{
    q3_text event = { 0 };
    begin_event(&event, "output");
    put(&event, "{\"chunk\":");
    q3_text_json_string(&event, p->output.data + p->shown, end - p->shown);
    q3_text_printf(&event, ",\"index\":%lld}\n\n", (long long)p->n_events - 1); // the start was event 0
    p->shown = end;
    add_event(p, &event);
}

static void tell_completed(q3_prediction *p)
{
    q3_text metric = { 0 }, event = { 0 };
    begin_event(&metric, "metric");
    q3_text_printf(&metric, "{\"name\":\"predict_time\",\"value\":%.6f,\"mode\":\"replace\"}\n\n",
                   p->seconds);
    add_event(p, &metric);
    begin_event(&event, "completed");
    q3_prediction_write(&event, p, true);
    put(&event, "\n\n");
    add_event(p, &event);
}

/* ---- the registry ---- */

q3_prediction *q3_prediction_create(q3_cog *c)
{
    q3_prediction *p = q3_calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->cog = c;
    p->owners = 1;
    p->status = "starting";
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->news, NULL);
    q3_cog_now(p->created_at);
    return p;
}

static void free_prediction(q3_prediction *p)
{
    q3_order_close(p->order);
    q3_rerank_job_free(&p->job);
    for (int i = 0; i < Q3_COG_HISTORY; i++)
        q3_free(p->history[i]);
    q3_text_free(&p->output);
    q3_free(p->error);
    q3_free(p->logits);
    q3_json_close(&p->doc);
    q3_arena_destroy(&p->mem);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->news);
    q3_free(p);
}

void q3_prediction_disown(q3_prediction *p)
{
    q3_cog *c = p->cog;
    pthread_mutex_lock(&c->lock);
    bool last = --p->owners == 0;
    pthread_mutex_unlock(&c->lock);
    if (last)
        free_prediction(p);
}

static q3_prediction *find_running(q3_cog *c, const char *id)
{
    q3_prediction *p = c->running;
    while (p && strcmp(p->id, id) != 0)
        p = p->next;
    return p;
}

q3_prediction *q3_prediction_share(q3_cog *c, const char *id)
{
    pthread_mutex_lock(&c->lock);
    q3_prediction *p = find_running(c, id);
    if (p)
        p->owners++;
    pthread_mutex_unlock(&c->lock);
    return p;
}

q3_entry q3_prediction_enter(q3_cog *c, q3_prediction *p)
{
    int most = c->options.max_concurrency ? c->options.max_concurrency : 1;
    pthread_mutex_lock(&c->lock);
    q3_entry e = find_running(c, p->id) ? Q3_ENTRY_TAKEN : c->n_running >= most ? Q3_ENTRY_FULL : Q3_ENTERED;
    if (e == Q3_ENTERED) {
        p->next = c->running;
        c->running = p;
        c->n_running++;
    }
    pthread_mutex_unlock(&c->lock);
    return e;
}

void q3_prediction_leave(q3_cog *c, q3_prediction *p)
{
    pthread_mutex_lock(&c->lock);
    for (q3_prediction **at = &c->running; *at; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            c->n_running--;
            break;
        }
    pthread_mutex_unlock(&c->lock);
}

void q3_prediction_cancel(q3_prediction *p)
{
    pthread_mutex_lock(&p->lock);
    p->cancelled = true;
    pthread_mutex_unlock(&p->lock);
    if (p->order)
        q3_order_cancel(p->order);
}

/* ---- the prediction's thread ---- */

static void order_sleeps(void *arg)
{
    q3_prediction *p = arg;
    pthread_mutex_lock(&p->lock);
    p->has_news = false;
    pthread_mutex_unlock(&p->lock);
}

static void order_wakes(void *arg)
{
    q3_prediction *p = arg;
    pthread_mutex_lock(&p->lock);
    p->has_news = true;
    pthread_cond_signal(&p->news);
    pthread_mutex_unlock(&p->lock);
}

/* Waits until the order has something; whoever listens to the stream hears now and then that it is alive. */
static void wait_for_news(q3_prediction *p)
{
    struct timespec until;
    pthread_mutex_lock(&p->lock);
    while (!p->has_news) {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += KEEP_ALIVE_SECONDS;
        pthread_cond_timedwait(&p->news, &p->lock, &until);
        for (q3_prediction_listener *l = p->listeners; !p->has_news && l; l = l->next)
            l->keep_alive = l->streaming;
        if (!p->has_news)
            wake_listeners(p);
    }
    pthread_mutex_unlock(&p->lock);
}

static void send_webhook(q3_prediction *p, unsigned event)
{
    q3_text body = { 0 };
    if (!q3_webhook_due(&p->hook, event))
        return;
    pthread_mutex_lock(&p->lock);
    q3_prediction_write(&body, p, true);
    pthread_mutex_unlock(&p->lock);
    if (!body.failed)
        q3_webhook_send(&p->hook, event, body.data, body.size);
    q3_text_free(&body);
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Adds to the output, without white space in front; white space at the end is told only when something
 * follows. */
static void take_text(q3_prediction *p, const q3_text *text)
{
    size_t skip = 0;
    while (!p->output.size && skip < text->size && is_space(text->data[skip]))
        skip++;
    if (skip == text->size)
        return;
    q3_text_append(&p->output, text->data + skip, text->size - skip);
    p->has_output = true;
    size_t end = p->output.size;
    while (end > p->shown && is_space(p->output.data[end - 1]))
        end--;
    if (end > p->shown)
        tell_chunk(p, end);
}

static void take_end(q3_prediction *p, const q3_event *e)
{
    p->input_tokens += e->timing.prompt_tokens;
    p->output_tokens += e->timing.output_tokens;
    if (p->logits)
        p->logits[e->task] = e->logit;
    if (e->finish == Q3_FINISH_CANCELLED)
        p->status = "canceled";
    if (e->finish != Q3_FINISH_FAILED)
        return;
    p->status = "failed";
    if (!p->error)
        p->error = q3_strdup(e->sentence ? e->sentence : "out of memory");
}

static void take_event(q3_prediction *p, const q3_event *e)
{
    pthread_mutex_lock(&p->lock);
    if (e->text.size)
        take_text(p, &e->text);
    if (e->ended)
        take_end(p, e);
    pthread_mutex_unlock(&p->lock);
    if (e->text.size)
        send_webhook(p, Q3_WEBHOOK_OUTPUT);
}

/* The prediction's lock is held. */
static void conclude(q3_prediction *p)
{
    bool rerank = p->cog->options.task == Q3_COG_RERANK;
    if (strcmp(p->status, "processing") == 0)
        p->status = p->output.failed ? "failed" : "succeeded";
    if (rerank && p->order && strcmp(p->status, "succeeded") == 0) {
        q3_rerank_write(&p->output, &p->job, p->logits, false, true);
        while (p->output.size && is_space(p->output.data[p->output.size - 1]))
            p->output.size--;
    }
    p->output.size = rerank ? p->output.size : p->shown; // without the white space at the end
    p->has_output = p->has_output || strcmp(p->status, "succeeded") == 0;
    p->seconds = q3_seconds() - p->began;
    q3_cog_now(p->completed_at);
}

static void *run_prediction(void *arg)
{
    q3_prediction *p = arg;
    q3_cog *c = p->cog;
    bool done = !p->order;
    send_webhook(p, Q3_WEBHOOK_START);
    while (!done) {
        q3_event *e = q3_order_next(p->order, false, &done);
        if (e)
            take_event(p, e);
        else if (!done)
            wait_for_news(p);
        q3_event_free(e);
    }
    pthread_mutex_lock(&p->lock);
    conclude(p);
    pthread_mutex_unlock(&p->lock);
    q3_prediction_leave(c, p); // its slot is free before anybody hears of its end
    pthread_mutex_lock(&p->lock);
    p->complete = true;
    tell_completed(p);
    pthread_mutex_unlock(&p->lock);
    send_webhook(p, Q3_WEBHOOK_COMPLETED);
    q3_prediction_disown(p);
    pthread_mutex_lock(&c->lock);
    c->n_threads--;
    pthread_cond_broadcast(&c->ended);
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

q3_admission q3_prediction_submit(q3_prediction *p)
{
    const q3_waiter waiter = { .sleep = order_sleeps, .wake = order_wakes, .arg = p };
    if (!p->order)
        return Q3_ADMITTED;
    return q3_service_submit(p->cog->app->service, p->order, (int)p->job.batch_size, &waiter);
}

bool q3_prediction_start(q3_prediction *p)
{
    q3_cog *c = p->cog;
    pthread_t thread;
    pthread_mutex_lock(&p->lock);
    p->status = "processing";
    p->began = q3_seconds();
    q3_cog_now(p->started_at);
    tell_start(p);
    pthread_mutex_unlock(&p->lock);
    pthread_mutex_lock(&c->lock);
    p->owners++;
    c->n_threads++;
    pthread_mutex_unlock(&c->lock);
    bool started = pthread_create(&thread, NULL, run_prediction, p) == 0;
    if (started) {
        pthread_detach(thread);
        return true;
    }
    pthread_mutex_lock(&c->lock);
    p->owners--;
    c->n_threads--;
    pthread_mutex_unlock(&c->lock);
    return false;
}
