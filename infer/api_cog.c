#include "infer/api_cog.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/log.h"
#include "infer/webhook.h"

/* As cog's server has them (docs/http.md, docs/environment.md, v0.22). */
enum { HISTORY = 1024, LISTENERS = 32, KEEP_ALIVE_SECONDS = 15 };

enum { TIME_BYTES = 40, ID_BYTES = 128 };

#define JOB_BYTES ((size_t)1 << 32) // address space for the texts of a request's documents

typedef struct prediction prediction;

/* An exchange that waits for a prediction. */
typedef struct listener {
    prediction *p;
    q3_exchange *x;
    bool asleep, streaming, owner; // owner: the prediction ends with its connection
    bool keep_alive;               // a comment is due
    int64_t next_event;            // of the history
    struct listener *next;         // the prediction's list
} listener;

struct prediction {
    q3_cog *cog;
    char id[ID_BYTES];
    char created_at[TIME_BYTES], started_at[TIME_BYTES], completed_at[TIME_BYTES];
    q3_json doc; // the request
    q3_arena mem;
    q3_rerank_job job;
    q3_order *order; // NULL: the answer was known at once
    q3_webhook hook;
    double *logits;   // [job.n]
    prediction *next; // the registry's
    int owners;       // the registry's lock: its thread and its listeners

    pthread_mutex_t lock; // what follows
    pthread_cond_t news;
    bool has_news; // the order woke its owner
    const char *status;
    bool complete, cancelled;
    q3_text output; // stripped
    size_t shown;   // bytes of it that were told
    bool has_output;
    char *error;
    double began, seconds;
    int64_t input_tokens, output_tokens;
    char *history[HISTORY]; // events as text; number i lies at i % HISTORY
    int64_t n_events;
    listener *listeners;
    int n_listeners;
};

struct q3_cog {
    q3_app *app;
    q3_cog_options options;
    char started_at[TIME_BYTES];
    pthread_mutex_t lock;
    pthread_cond_t ended;
    prediction *running;
    int n_running, n_threads;
    int64_t made;
    atomic_bool stop;
};

static q3_cog *cog_of(const q3_exchange *x)
{
    return ((q3_app *)x->app)->cog;
}

static void put(q3_text *out, const char *text)
{
    q3_text_append(out, text, strlen(text));
}

static void put_string(q3_text *out, const char *text)
{
    size_t n = strlen(text), bad;
    q3_text_json_string(out, text, q3_utf8_valid(text, n, &bad) ? n : bad);
}

static void now_as_text(char out[TIME_BYTES])
{
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t n = strftime(out, TIME_BYTES, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(out + n, TIME_BYTES - n, ".%06ld+00:00", now.tv_nsec / 1000);
}

/* ---- a prediction as JSON; its lock is held ---- */

static void put_output(q3_text *out, const prediction *p)
{
    put(out, ",\"output\":");
    if (p->has_output)
        q3_text_json_string(out, p->output.data ? p->output.data : "", p->output.size);
    else
        put(out, "null");
}

static void put_metrics(q3_text *out, const prediction *p)
{
    q3_text_printf(out, ",\"metrics\":{");
    if (p->complete)
        q3_text_printf(out, "\"predict_time\":%.6f,\"input_token_count\":%lld,\"output_token_count\":%lld",
                       p->seconds, (long long)p->input_tokens, (long long)p->output_tokens);
    put(out, "}");
}

/* What a synchronous request gets; `whole` adds what webhooks get besides. */
static void write_prediction(q3_text *out, const prediction *p, bool whole)
{
    put(out, "{\"id\":");
    put_string(out, p->id);
    q3_text_printf(out, ",\"status\":\"%s\"", p->status);
    put_output(out, p);
    put(out, ",\"logs\":\"\"");
    if (p->error) {
        put(out, ",\"error\":");
        put_string(out, p->error);
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

static void wake_listeners(prediction *p)
{
    for (listener *l = p->listeners; l; l = l->next)
        if (l->asleep && (l->streaming || p->complete)) {
            l->asleep = false;
            q3_exchange_wake(l->x);
        }
}

/* Takes the text, and keeps it as the next event of the history. */
static void add_event(prediction *p, q3_text *event)
{
    char **place = &p->history[p->n_events % HISTORY];
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

static void tell_start(prediction *p)
{
    q3_text event = { 0 };
    begin_event(&event, "start");
    put(&event, "{\"id\":");
    put_string(&event, p->id);
    put(&event, ",\"status\":\"processing\"}\n\n");
    add_event(p, &event);
}

static void tell_chunk(prediction *p, size_t end)
{
    q3_text event = { 0 };
    begin_event(&event, "output");
    put(&event, "{\"chunk\":");
    q3_text_json_string(&event, p->output.data + p->shown, end - p->shown);
    q3_text_printf(&event, ",\"index\":%lld}\n\n", (long long)p->n_events - 1); // the start was event 0
    p->shown = end;
    add_event(p, &event);
}

static void tell_completed(prediction *p)
{
    q3_text metric = { 0 }, event = { 0 };
    begin_event(&metric, "metric");
    q3_text_printf(&metric, "{\"name\":\"predict_time\",\"value\":%.6f,\"mode\":\"replace\"}\n\n",
                   p->seconds);
    add_event(p, &metric);
    begin_event(&event, "completed");
    write_prediction(&event, p, true);
    put(&event, "\n\n");
    add_event(p, &event);
}

/* ---- the registry ---- */

static void free_prediction(prediction *p)
{
    q3_order_close(p->order);
    q3_rerank_job_free(&p->job);
    for (int i = 0; i < HISTORY; i++)
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

static void disown(prediction *p)
{
    q3_cog *c = p->cog;
    pthread_mutex_lock(&c->lock);
    bool last = --p->owners == 0;
    pthread_mutex_unlock(&c->lock);
    if (last)
        free_prediction(p);
}

static prediction *find_running(q3_cog *c, const char *id)
{
    prediction *p = c->running;
    while (p && strcmp(p->id, id) != 0)
        p = p->next;
    return p;
}

/* A running prediction with this id, which the caller then owns too; NULL when there is none. */
static prediction *share(q3_cog *c, const char *id)
{
    pthread_mutex_lock(&c->lock);
    prediction *p = find_running(c, id);
    if (p)
        p->owners++;
    pthread_mutex_unlock(&c->lock);
    return p;
}

typedef enum entry { ENTERED, FULL, TAKEN } entry;

static entry enter(q3_cog *c, prediction *p)
{
    int most = c->options.max_concurrency ? c->options.max_concurrency : 1;
    pthread_mutex_lock(&c->lock);
    entry e = find_running(c, p->id) ? TAKEN : c->n_running >= most ? FULL : ENTERED;
    if (e == ENTERED) {
        p->next = c->running;
        c->running = p;
        c->n_running++;
    }
    pthread_mutex_unlock(&c->lock);
    return e;
}

static void leave(q3_cog *c, prediction *p)
{
    pthread_mutex_lock(&c->lock);
    for (prediction **at = &c->running; *at; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            c->n_running--;
            break;
        }
    pthread_mutex_unlock(&c->lock);
}

static void cancel(prediction *p)
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
    prediction *p = arg;
    pthread_mutex_lock(&p->lock);
    p->has_news = false;
    pthread_mutex_unlock(&p->lock);
}

static void order_wakes(void *arg)
{
    prediction *p = arg;
    pthread_mutex_lock(&p->lock);
    p->has_news = true;
    pthread_cond_signal(&p->news);
    pthread_mutex_unlock(&p->lock);
}

/* Waits until the order has something; whoever listens to the stream hears now and then that it is alive. */
static void wait_for_news(prediction *p)
{
    struct timespec until;
    pthread_mutex_lock(&p->lock);
    while (!p->has_news) {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += KEEP_ALIVE_SECONDS;
        pthread_cond_timedwait(&p->news, &p->lock, &until);
        for (listener *l = p->listeners; !p->has_news && l; l = l->next)
            l->keep_alive = l->streaming;
        if (!p->has_news)
            wake_listeners(p);
    }
    pthread_mutex_unlock(&p->lock);
}

static void send_webhook(prediction *p, unsigned event)
{
    q3_text body = { 0 };
    if (!q3_webhook_due(&p->hook, event))
        return;
    pthread_mutex_lock(&p->lock);
    write_prediction(&body, p, true);
    pthread_mutex_unlock(&p->lock);
    if (!body.failed)
        q3_webhook_send(&p->hook, event, body.data, body.size);
    q3_text_free(&body);
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Adds to the output, without white space in front; white space at the end is told only when something follows. */
static void take_text(prediction *p, const q3_text *text)
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

static void take_end(prediction *p, const q3_event *e)
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

static void take_event(prediction *p, const q3_event *e)
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
static void conclude(prediction *p)
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
    now_as_text(p->completed_at);
}

static void *run_prediction(void *arg)
{
    prediction *p = arg;
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
    leave(c, p); // its slot is free before anybody hears of its end
    pthread_mutex_lock(&p->lock);
    p->complete = true;
    tell_completed(p);
    pthread_mutex_unlock(&p->lock);
    send_webhook(p, Q3_WEBHOOK_COMPLETED);
    disown(p);
    pthread_mutex_lock(&c->lock);
    c->n_threads--;
    pthread_cond_broadcast(&c->ended);
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* ---- what requests wait for ---- */

static void stop_listening(void *state)
{
    listener *l = state;
    prediction *p = l->p;
    pthread_mutex_lock(&p->lock);
    for (listener **at = &p->listeners; *at; at = &(*at)->next)
        if (*at == l) {
            *at = l->next;
            p->n_listeners--;
            break;
        }
    bool orphan = l->owner && !p->complete;
    pthread_mutex_unlock(&p->lock);
    if (orphan)
        cancel(p);
    disown(p);
    q3_free(l);
}

static void hung_up(void *state)
{
    const listener *l = state;
    if (l->owner)
        cancel(l->p);
}

static q3_poll poll_result(q3_exchange *x)
{
    listener *l = x->state;
    prediction *p = l->p;
    pthread_mutex_lock(&p->lock);
    bool complete = p->complete;
    if (complete) {
        write_prediction(&x->out, p, false);
    } else {
        l->asleep = true;
        q3_exchange_sleep(x);
    }
    pthread_mutex_unlock(&p->lock);
    return complete ? Q3_POLL_DONE : Q3_POLL_ASLEEP;
}

/* The events that this listener has not had; those that the history has forgotten are told as one error. */
static bool put_events(q3_text *out, listener *l)
{
    const prediction *p = l->p;
    size_t before = out->size;
    if (l->next_event + HISTORY < p->n_events) {
        begin_event(out, "error");
        q3_text_printf(out, "{\"error\":\"%lld events are no longer kept\"}\n\n",
                       (long long)(p->n_events - HISTORY - l->next_event));
        l->next_event = p->n_events - HISTORY;
    }
    for (; l->next_event < p->n_events; l->next_event++)
        if (p->history[l->next_event % HISTORY])
            put(out, p->history[l->next_event % HISTORY]);
    if (l->keep_alive && out->size == before)
        put(out, ": keep-alive\n\n");
    l->keep_alive = false;
    return out->size > before;
}

static q3_poll poll_events(q3_exchange *x)
{
    listener *l = x->state;
    prediction *p = l->p;
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

/* Lets the exchange wait for the prediction, of which the caller is an owner. */
static void listen_to(q3_exchange *x, prediction *p, bool streaming, bool owner)
{
    listener *l = q3_calloc(1, sizeof *l);
    pthread_mutex_lock(&p->lock);
    bool room = l && p->n_listeners < LISTENERS;
    if (room) {
        *l = (listener){ .p = p, .x = x, .streaming = streaming, .owner = owner, .next = p->listeners };
        p->listeners = l;
        p->n_listeners++;
    }
    pthread_mutex_unlock(&p->lock);
    if (!room) {
        q3_free(l);
        if (owner)
            cancel(p);
        disown(p);
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

/* ---- making a prediction ---- */

static q3_status make_generation(prediction *p, const q3_app *app, const cJSON *input)
{
    const char *url = q3_cog_string(input, "image");
    const q3_part parts[] = { { .kind = Q3_PART_IMAGE }, { Q3_PART_TEXT, q3_cog_string(input, "prompt") } };
    const q3_message message = { .role = "user", .parts = url ? parts : parts + 1, .n_parts = url ? 2 : 1 };
    q3_image picture = { 0 };
    Q3_TRY(q3_order_create(&p->order, 1));
    q3_task *t = q3_order_task(p->order, 0);
    t->sampling = app->sampling;
    t->sampling.temperature = (float)q3_cog_number(input, Q3_COG_GENERATE, "temperature");
    t->sampling.do_sample = t->sampling.temperature > 0;
    t->sampling.top_p = (float)q3_cog_number(input, Q3_COG_GENERATE, "top_p");
    t->sampling.seed = q3_app_seed(app);
    t->stops = app->stops;
    t->n_stops = app->n_stops;
    t->max_new_tokens = (int64_t)q3_cog_number(input, Q3_COG_GENERATE, "max_new_tokens");
    t->logprobs = -1;
    if (app->max_new_tokens_limit && t->max_new_tokens > app->max_new_tokens_limit)
        return q3_fail(Q3_ERR_USAGE, "max_new_tokens is %lld; this server allows %lld",
                       (long long)t->max_new_tokens, (long long)app->max_new_tokens_limit);
    if (url)
        Q3_TRY(q3_picture_load(&picture, &app->pictures, url, "image"));
    q3_status st = q3_prompt_make(&t->prompt, q3_order_memory(p->order), &app->session->prompter, &message, 1,
                                  &picture, url ? 1 : 0);
    t->prompt.adapter = app->default_adapter;
    q3_image_free(&picture);
    return st;
}

static q3_status make_ranking(prediction *p, const q3_app *app, cJSON *input)
{
    if (!app->reranker)
        return q3_fail(Q3_ERR_USAGE, "this model cannot rerank: %s", app->why_no_reranker);
    Q3_TRY(q3_app_guard_documents(input));
    Q3_TRY(q3_arena_create(&p->mem, "documents", JOB_BYTES));
    Q3_TRY(q3_rerank_job_parse(&p->job, &p->mem, input, &app->pictures.image));
    if (p->job.n == 0) { // S1's answer: no failure
        put(&p->output, "{\"error\": \"No documents provided\"}");
        return Q3_OK;
    }
    Q3_TRY(q3_order_create(&p->order, (int)p->job.n));
    p->logits = q3_calloc((size_t)p->job.n, sizeof *p->logits);
    for (int i = 0; p->logits && i < (int)p->job.n; i++) {
        q3_task *t = q3_order_task(p->order, i);
        Q3_TRY(q3_rerank_prompt(&t->prompt, q3_order_memory(p->order), app->reranker, p->job.instruction,
                                &p->job.query, &p->job.documents[i]));
        t->prompt.adapter = app->default_adapter;
        t->reranker = app->reranker;
        t->logprobs = -1;
    }
    return p->logits ? Q3_OK : Q3_ERR_MEMORY;
}

static bool read_events(unsigned *events, const cJSON *filter)
{
    static const char *const names[] = { "start", "output", "logs", "completed" };
    *events = filter && !cJSON_IsNull(filter) ? 0 : Q3_WEBHOOK_ALL;
    for (const cJSON *item = *events ? NULL : filter->child; item; item = item->next) {
        const char *name = cJSON_GetStringValue(item);
        int i = 0;
        while (name && i < 4 && strcmp(name, names[i]) != 0)
            i++;
        if (!name || i == 4)
            return false;
        *events |= 1u << i;
    }
    return *events == Q3_WEBHOOK_ALL || cJSON_IsArray(filter);
}

static const char *kept_header(prediction *p, const q3_exchange *x, const char *name)
{
    const char *value = q3_exchange_header(x, name);
    cJSON *copy =
        value ? cJSON_AddStringToObject(p->doc.root, name, value) : NULL; // lives as long as the request
    return cJSON_GetStringValue(copy);
}

/* false: the exchange has its answer. */
static bool read_webhook(prediction *p, q3_exchange *x)
{
    const q3_cog_options *o = &p->cog->options;
    const cJSON *url = cJSON_GetObjectItemCaseSensitive(p->doc.root, "webhook");
    p->hook = (q3_webhook){ .url = cJSON_GetStringValue(url),
                            .judge = o->webhooks == Q3_WEBHOOKS_PUBLIC ? q3_address_public : NULL,
                            .token = o->webhook_token,
                            .stop = &p->cog->stop,
                            .interval = o->webhook_interval };
    const cJSON *filter = cJSON_GetObjectItemCaseSensitive(p->doc.root, "webhook_events_filter");
    if (!read_events(&p->hook.events, filter)) {
        q3_exchange_fail(x, 422, "webhook_events_filter must be a list of start, output, logs, completed");
        return false;
    }
    if (!p->hook.url)
        return true;
    if (o->webhooks == Q3_WEBHOOKS_OFF) {
        q3_exchange_fail(x, 422, "this server sends no webhooks");
        return false;
    }
    if (strncmp(p->hook.url, "http://", 7) != 0 && strncmp(p->hook.url, "https://", 8) != 0) {
        q3_exchange_fail(x, 422, "webhook must be an http or https URL");
        return false;
    }
    p->hook.traceparent = kept_header(p, x, "traceparent");
    p->hook.tracestate = kept_header(p, x, "tracestate");
    return true;
}

/* The id of the path, of the body, or a new one. */
static bool choose_id(prediction *p, q3_exchange *x)
{
    const char *given = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(p->doc.root, "id"));
    const char *id = *x->param ? x->param : given && *given ? given : NULL;
    if (*x->param && given && strcmp(given, x->param) != 0) {
        q3_exchange_fail(x, 422, "id is \"%.60s\" in the body and \"%.60s\" in the path", given, x->param);
        return false;
    }
    if (id && strlen(id) >= sizeof p->id) {
        q3_exchange_fail(x, 422, "id has more than %zu bytes", sizeof p->id - 1);
        return false;
    }
    pthread_mutex_lock(&p->cog->lock);
    int64_t number = p->cog->made++;
    pthread_mutex_unlock(&p->cog->lock);
    if (id)
        snprintf(p->id, sizeof p->id, "%s", id);
    else
        snprintf(p->id, sizeof p->id, "%016llx%08llx", (unsigned long long)q3_random_seed(),
                 (unsigned long long)number);
    return true;
}

static prediction *new_prediction(q3_exchange *x)
{
    prediction *p = q3_calloc(1, sizeof *p);
    if (!p) {
        q3_exchange_fail(x, 503, "out of memory");
        return NULL;
    }
    p->cog = cog_of(x);
    p->owners = 1;
    p->status = "starting";
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->news, NULL);
    now_as_text(p->created_at);
    return p;
}

/* Reads the request; false when the exchange has its answer. */
static bool read_request(prediction *p, q3_exchange *x)
{
    q3_text faults = { 0 };
    if (q3_json_parse(&p->doc, x->body, x->body_bytes, "request body", 1) != Q3_OK) {
        q3_exchange_fail(x, 422, "%s", q3_error());
        return false;
    }
    if (!cJSON_IsObject(p->doc.root)) {
        q3_exchange_fail(x, 422, "the body must be a JSON object");
        return false;
    }
    const char *created = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(p->doc.root, "created_at"));
    if (created && strlen(created) < sizeof p->created_at)
        snprintf(p->created_at, sizeof p->created_at, "%s", created);
    if (!choose_id(p, x) || !read_webhook(p, x))
        return false;
    if (!q3_cog_check(&faults, cJSON_GetObjectItemCaseSensitive(p->doc.root, "input"),
                      p->cog->options.task)) {
        x->status = 422;
        x->out = faults;
        return false;
    }
    return true;
}

/* The model will not take the input: Cog's form for that. */
static void reject(q3_exchange *x, prediction *p, q3_status st)
{
    int status = q3_http_status(st);
    x->status = status == 400 ? 422 : status;
    p->status = "failed";
    p->error = q3_strdup(*q3_error() ? q3_error() : "out of memory");
    write_prediction(&x->out, p, false);
}

static bool submit(q3_exchange *x, prediction *p)
{
    const q3_waiter waiter = { .sleep = order_sleeps, .wake = order_wakes, .arg = p };
    const q3_app *app = p->cog->app;
    if (!p->order)
        return true;
    switch (q3_service_submit(app->service, p->order, (int)p->job.batch_size, &waiter)) {
    case Q3_ADMITTED:
        return true;
    case Q3_ADMISSION_FULL:
        x->status = 409;
        put(&x->out, "{\"error\":\"At capacity - all prediction slots busy\",\"status\":\"failed\"}");
        return false;
    default:
        q3_exchange_fail(x, 503, "the server is stopping");
        return false;
    }
}

/* Starts the prediction's thread, which owns it beside the caller. */
static bool start(q3_exchange *x, prediction *p)
{
    q3_cog *c = p->cog;
    pthread_t thread;
    if (!submit(x, p))
        return false;
    pthread_mutex_lock(&p->lock);
    p->status = "processing";
    p->began = q3_seconds();
    now_as_text(p->started_at);
    tell_start(p);
    pthread_mutex_unlock(&p->lock);
    pthread_mutex_lock(&c->lock);
    p->owners++;
    c->n_threads++;
    pthread_mutex_unlock(&c->lock);
    if (pthread_create(&thread, NULL, run_prediction, p) == 0) {
        pthread_detach(thread);
        return true;
    }
    pthread_mutex_lock(&c->lock);
    p->owners--;
    c->n_threads--;
    pthread_mutex_unlock(&c->lock);
    q3_exchange_fail(x, 503, "no thread could be started for the prediction");
    return false;
}

/* ---- routes ---- */

static bool wants_stream(const q3_exchange *x)
{
    const char *accept = q3_exchange_header(x, "Accept");
    return accept && strstr(accept, "text/event-stream");
}

static bool wants_no_answer(const q3_exchange *x)
{
    const char *prefer = q3_exchange_header(x, "Prefer");
    return prefer && strcmp(prefer, "respond-async") == 0;
}

static void answer_busy(q3_exchange *x)
{
    x->status = 409;
    put(&x->out, "{\"error\":\"At capacity - all prediction slots busy\",\"status\":\"failed\"}");
}

/* Makes, enters and starts it; false when the exchange has its answer. */
static bool launch(q3_exchange *x, prediction *p)
{
    const q3_app *app = x->app;
    switch (enter(p->cog, p)) {
    case ENTERED:
        break;
    case TAKEN:
        q3_exchange_fail(x, 409, "a prediction with the id \"%.60s\" runs already", p->id);
        return false;
    case FULL:
        answer_busy(x);
        return false;
    }
    cJSON *input = cJSON_GetObjectItemCaseSensitive(p->doc.root, "input");
    q3_status st =
        p->cog->options.task == Q3_COG_RERANK ? make_ranking(p, app, input) : make_generation(p, app, input);
    if (st != Q3_OK)
        reject(x, p, st);
    if (st == Q3_OK && start(x, p))
        return true;
    leave(p->cog, p);
    return false;
}

static void answer_accepted(q3_exchange *x, const char *id, const char *status)
{
    x->status = 202;
    put(&x->out, "{\"id\":");
    put_string(&x->out, id);
    q3_text_printf(&x->out, ",\"status\":\"%s\"}", status);
}

/* Refusals before a prediction is thought of; false when the exchange has its answer. */
static bool may_predict(q3_exchange *x)
{
    const q3_app *app = x->app;
    const char *type = q3_exchange_header(x, "Content-Type");
    if (!atomic_load(&app->ready))
        q3_exchange_fail(x, 503, "the model is being loaded");
    else if (type && strncmp(type, "application/json", 16) != 0)
        q3_exchange_fail(x, 415, "the body must be application/json");
    else if (wants_stream(x) && app->cog->options.task == Q3_COG_RERANK)
        q3_exchange_fail(x, 406, "this model gives its output at once, not as a stream");
    else
        return true;
    return false;
}

static void predict(q3_exchange *x)
{
    if (!may_predict(x))
        return;
    bool streaming = wants_stream(x), async = wants_no_answer(x) && !streaming;
    prediction *p = new_prediction(x);
    if (!p)
        return;
    if (!read_request(p, x) || !launch(x, p)) {
        disown(p);
        return;
    }
    if (!async) {
        listen_to(x, p, streaming, true);
        return;
    }
    answer_accepted(x, p->id, "starting");
    disown(p);
}

/* Again for a prediction that runs: its state, or its stream from the beginning. */
static void predict_once(q3_exchange *x)
{
    prediction *p = share(cog_of(x), x->param);
    if (!p) {
        predict(x);
        return;
    }
    if (wants_stream(x) && p->cog->options.task == Q3_COG_GENERATE) {
        listen_to(x, p, true, false);
        return;
    }
    x->status = 202;
    pthread_mutex_lock(&p->lock);
    write_prediction(&x->out, p, true);
    pthread_mutex_unlock(&p->lock);
    disown(p);
}

static void cancel_prediction(q3_exchange *x)
{
    prediction *p = share(cog_of(x), x->param);
    put(&x->out, "{}");
    if (!p) {
        x->status = 404;
        return;
    }
    cancel(p);
    disown(p);
}

static void show_schema(q3_exchange *x)
{
    q3_cog_schema_write(&x->out, cog_of(x)->options.task);
}

static void show_health(q3_exchange *x)
{
    q3_cog *c = cog_of(x);
    const q3_app *app = x->app;
    int most = c->options.max_concurrency ? c->options.max_concurrency : 1;
    pthread_mutex_lock(&c->lock);
    bool busy = c->n_running >= most, ready = atomic_load(&app->ready);
    pthread_mutex_unlock(&c->lock);
    char loaded_at[TIME_BYTES] = "";
    if (ready) {
        struct tm parts;
        time_t at = (time_t)app->loaded_at;
        strftime(loaded_at, sizeof loaded_at, "%Y-%m-%dT%H:%M:%S+00:00", gmtime_r(&at, &parts));
    }
    q3_text_printf(&x->out,
                   "{\"status\":\"%s\",\"setup\":{\"started_at\":\"%s\",\"status\":\"%s\",\"logs\":\"\"",
                   !ready ? "STARTING"
                   : busy ? "BUSY"
                          : "READY",
                   c->started_at, ready ? "succeeded" : "starting");
    if (ready)
        q3_text_printf(&x->out, ",\"completed_at\":\"%s\"", loaded_at);
    put(&x->out,
        "},\"version\":{\"coglet\":\"qwen3-sft " Q3_VERSION "\",\"cog\":\"0.22.0\",\"python\":\"none\"}}");
}

static void show_index(q3_exchange *x)
{
    put(&x->out, "{\"cog_version\":\"0.22.0\",\"docs_url\":\"/docs\",\"openapi_url\":\"/openapi.json\","
                 "\"shutdown_url\":\"/shutdown\",\"healthcheck_url\":\"/"
                 "health-check\",\"predictions_url\":\"/predictions\","
                 "\"predictions_idempotent_url\":\"/predictions/{prediction_id}\","
                 "\"predictions_cancel_url\":\"/predictions/{prediction_id}/cancel\"}");
}

static void shut_down(q3_exchange *x)
{
    const q3_cog_options *o = &cog_of(x)->options;
    put(&x->out, "{}");
    if (o->shut_down)
        o->shut_down(o->arg);
}

static void refuse_training(q3_exchange *x)
{
    q3_exchange_fail(x, 404, "this server predicts; `qwen3-sft train` trains");
}

static void fail(q3_exchange *x, int status, const char *sentence)
{
    if (status == 422) {
        put(&x->out, "{\"detail\":[{\"loc\":[\"body\"],\"msg\":");
        put_string(&x->out, sentence);
        put(&x->out, ",\"type\":\"value_error\"}]}");
        return;
    }
    put(&x->out, status == 503 || status == 409 ? "{\"error\":" : "{\"detail\":");
    put_string(&x->out, sentence);
    put(&x->out, status == 503 || status == 409 ? ",\"status\":\"failed\"}" : "}");
}

static const q3_route routes[] = {
    { "POST", "/predictions", predict, false },
    { "PUT", "/predictions/{id}", predict_once, false },
    { "POST", "/predictions/{id}/cancel", cancel_prediction, false },
    { "POST", "/trainings", refuse_training, false },
    { "PUT", "/trainings/{id}", refuse_training, false },
    { "POST", "/trainings/{id}/cancel", refuse_training, false },
    { "GET", "/health-check", show_health, true },
    { "GET", "/openapi.json", show_schema, true },
    { "GET", "/", show_index, true }, // from here on alone
    { "POST", "/shutdown", shut_down, false },
};

enum { N_ROUTES = sizeof routes / sizeof *routes, N_ALONE = 2 };

const q3_face q3_cog_face = { .routes = routes, .n_routes = N_ROUTES, .fail = fail };
const q3_face q3_cog_face_beside = { .routes = routes, .n_routes = N_ROUTES - N_ALONE, .fail = fail };

/* ---- the face ---- */

q3_status q3_cog_create(q3_cog **out, q3_app *app, const q3_cog_options *options)
{
    q3_cog *c = *out = q3_calloc(1, sizeof *c);
    if (!c)
        return Q3_ERR_MEMORY;
    c->app = app;
    c->options = *options;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->ended, NULL);
    now_as_text(c->started_at);
    app->cog = c;
    return Q3_OK;
}

void q3_cog_destroy(q3_cog *c)
{
    if (!c)
        return;
    atomic_store(&c->stop, true);
    pthread_mutex_lock(&c->lock);
    while (c->n_threads > 0)
        pthread_cond_wait(&c->ended, &c->lock);
    pthread_mutex_unlock(&c->lock);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->ended);
    c->app->cog = NULL;
    q3_free(c);
}
