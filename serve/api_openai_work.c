#include "serve/api_openai_work.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static q3_app *app_of(const q3_exchange *x)
{
    return x->app;
}

void q3_openai_fail(q3_exchange *x, int status, const char *param, const char *code, const char *sentence)
{
    x->out.size = 0;
    x->poll = NULL;
    x->streaming = false;
    x->type = NULL;
    x->status = status;
    q3_openai_write_error(&x->out, status, param, code, sentence);
}

void q3_openai_fail_plain(q3_exchange *x, int status, const char *sentence)
{
    q3_openai_fail(x, status, NULL, status == 401 ? "invalid_api_key" : NULL, sentence);
}

void q3_openai_fail_status(q3_exchange *x, q3_status st, const char *param)
{
    const char *sentence = *q3_error() ? q3_error() : "out of memory";
    q3_openai_fail(x, q3_http_status(st), param, st == Q3_ERR_LIMIT ? "context_length_exceeded" : NULL,
                   sentence);
}

void q3_openai_fail_no_model(q3_exchange *x, const char *model)
{
    char sentence[128];
    snprintf(sentence, sizeof sentence, "there is no model \"%.60s\"; GET /v1/models lists them", model);
    q3_openai_fail(x, 404, "model", "model_not_found", sentence);
}

bool q3_openai_ready(q3_exchange *x)
{
    if (atomic_load(&app_of(x)->ready))
        return true;
    x->retry_after = 1;
    q3_openai_fail_plain(x, 503, "Loading model");
    return false;
}

bool q3_openai_read_body(q3_json *doc, q3_exchange *x)
{
    if (q3_json_parse(doc, x->body, x->body_bytes, "request body", 1) != Q3_OK) {
        q3_openai_fail_plain(x, 400, q3_error());
        return false;
    }
    if (cJSON_IsObject(doc->root))
        return true;
    q3_json_close(doc);
    q3_openai_fail_plain(x, 400, "the body must be a JSON object");
    return false;
}

/* ---- ends of requests ---- */

void q3_openai_release(void *state)
{
    q3_openai_work *a = state;
    q3_order_close(a->order);
    while (a->events) {
        q3_event *next = a->events->next;
        q3_event_free(a->events);
        a->events = next;
    }
    for (int i = 0; a->echoes && i < a->n_choices; i++)
        q3_text_free(&a->echoes[i]);
    q3_free(a->echoes);
    q3_free(a->offsets);
    q3_free(a->begun);
    q3_json_close(&a->doc);
    q3_free(a);
}

static void gone(void *state)
{
    q3_order_cancel(((q3_openai_work *)state)->order);
}

bool q3_openai_ended_well(int *status, const char **sentence, const q3_event *e)
{
    if (e->finish == Q3_FINISH_STOP || e->finish == Q3_FINISH_LENGTH)
        return true;
    bool failed = e->finish == Q3_FINISH_FAILED;
    *status = failed ? q3_http_status(e->status) : 503;
    *sentence = !failed       ? "the answer was cut short: the server is stopping"
                : e->sentence ? e->sentence
                              : "out of memory";
    return false;
}

static void count(q3_openai_work *a, const q3_event *e)
{
    q3_openai_count(&a->usage, e, e->task % a->request.n != 0);
}

/* ---- whole answers ---- */

void q3_openai_keep(q3_openai_work *a, q3_event *e)
{
    if (a->last)
        a->last->next = e;
    else
        a->events = e;
    a->last = e;
}

q3_poll q3_openai_poll_whole(q3_exchange *x)
{
    q3_openai_work *a = x->state;
    int status;
    const char *sentence;
    bool done;
    for (q3_event *e; (e = q3_order_next(a->order, true, &done)) != NULL;) {
        q3_openai_keep(a, e);
        if (e->ended)
            count(a, e);
        if (e->ended && !q3_openai_ended_well(&status, &sentence, e)) {
            q3_openai_fail(x, status, NULL, e->status == Q3_ERR_LIMIT ? "context_length_exceeded" : NULL,
                           sentence);
            return Q3_POLL_DONE;
        }
    }
    if (!done)
        return Q3_POLL_ASLEEP;
    q3_openai_write(&x->out, &a->head, a->events, a->n_choices, a->echoes, &a->usage);
    return Q3_POLL_DONE;
}

/* ---- streams ---- */

static void begin_choice(q3_exchange *x, q3_openai_work *a, int index)
{
    if (a->begun[index])
        return;
    a->begun[index] = true;
    q3_openai_write_role(&x->out, &a->head, index);
    if (!a->echoes)
        return;
    q3_event echo = { .task = index, .text = a->echoes[index] };
    q3_openai_write_piece(&x->out, &a->head, &echo, 0);
    a->offsets[index] = (int64_t)echo.text.size;
}

/* False when nothing can follow: the stream ends with an error. */
static bool write_event(q3_exchange *x, q3_openai_work *a, const q3_event *e)
{
    int status;
    const char *sentence;
    if (e->ended && !q3_openai_ended_well(&status, &sentence, e)) {
        if (!a->sent_something) {
            q3_openai_fail(x, status, NULL, e->status == Q3_ERR_LIMIT ? "context_length_exceeded" : NULL,
                           sentence);
            return false;
        }
        q3_text_printf(&x->out, "data: ");
        q3_openai_write_error(&x->out, status, NULL, NULL, sentence);
        q3_text_printf(&x->out, "\n\n");
        return false;
    }
    a->sent_something = true;
    begin_choice(x, a, e->task);
    if (e->text.size || e->n_notes)
        q3_openai_write_piece(&x->out, &a->head, e, a->offsets[e->task]);
    a->offsets[e->task] += (int64_t)e->text.size;
    if (e->ended) {
        count(a, e);
        q3_openai_write_finish(&x->out, &a->head, e, a->n_choices == 1 ? &a->usage : NULL);
    }
    return true;
}

q3_poll q3_openai_poll_stream(q3_exchange *x)
{
    q3_openai_work *a = x->state;
    bool done;
    q3_event *e = q3_order_next(a->order, false, &done);
    if (e) {
        bool go_on = write_event(x, a, e);
        q3_event_free(e);
        return go_on ? Q3_POLL_MORE : Q3_POLL_DONE;
    }
    if (!done)
        return Q3_POLL_ASLEEP;
    if (a->request.include_usage)
        q3_openai_write_usage(&x->out, &a->head, &a->usage);
    q3_openai_write_done(&x->out);
    return Q3_POLL_DONE;
}

q3_status q3_openai_make_order(q3_openai_work *a, int n_prompts)
{
    a->n_choices = n_prompts * a->request.n;
    Q3_TRY(q3_order_create(&a->order, a->n_choices));
    a->offsets = q3_calloc((size_t)a->n_choices, sizeof *a->offsets);
    a->begun = q3_calloc((size_t)a->n_choices, sizeof *a->begun);
    if (a->request.echo)
        a->echoes = q3_calloc((size_t)a->n_choices, sizeof *a->echoes);
    return a->offsets && a->begun && (a->echoes || !a->request.echo) ? Q3_OK : Q3_ERR_MEMORY;
}

void q3_openai_submit(q3_exchange *x, q3_order *order, int width, bool streaming,
                      q3_poll (*poll)(q3_exchange *))
{
    const q3_waiter waiter = { .sleep = q3_exchange_sleep, .wake = q3_exchange_wake, .arg = x };
    q3_service *service = app_of(x)->service;
    switch (q3_service_submit(service, order, width, &waiter)) {
    case Q3_ADMITTED:
        x->poll = poll;
        x->gone = gone;
        x->streaming = streaming;
        x->type = streaming ? "text/event-stream; charset=utf-8" : NULL;
        return;
    case Q3_ADMISSION_FULL:
        x->retry_after = q3_service_retry_after(service);
        q3_openai_fail(x, 429, NULL, "queue_full", "too many requests are waiting; try again later");
        return;
    case Q3_ADMISSION_DRAINING:
        x->retry_after = q3_service_retry_after(service);
        q3_openai_fail(x, 503, NULL, "stopping", "the server is stopping and takes no more requests");
        return;
    }
}

void q3_openai_fill_head(q3_openai_head *head, const q3_exchange *x, const q3_openai_request *r, bool chat,
                         int adapter)
{
    const q3_app *app = x->app;
    const char *name = adapter >= 0 ? app->session->adapters.list[adapter].name : app->session->name;
    *head = (q3_openai_head){ .model = r->model && *r->model ? r->model : name,
                              .created = time(NULL),
                              .chat = chat,
                              .logprobs = r->logprobs >= 0,
                              .tokenizer = app->session->tokenizer };
    snprintf(head->id, sizeof head->id, "%s-%.32s", chat ? "chatcmpl" : "cmpl", x->id);
}

q3_prompter q3_openai_prompter(const q3_app *app, int thinking)
{
    q3_prompter p = app->session->prompter;
    p.thinking = thinking < 0 ? p.thinking : thinking != 0;
    return p;
}

q3_status q3_openai_ids(int32_t **out, int64_t *n, const cJSON *list)
{
    *n = cJSON_GetArraySize(list);
    *out = q3_calloc((size_t)*n + 1, sizeof **out);
    if (!*out)
        return Q3_ERR_MEMORY;
    int64_t i = 0;
    for (const cJSON *item = list->child; item; item = item->next) {
        if (!cJSON_IsNumber(item) || item->valuedouble != item->valueint || item->valueint < 0) {
            q3_free(*out);
            *out = NULL;
            return q3_fail(Q3_ERR_DATA, "item %lld of a list of token ids is no token id", (long long)i);
        }
        (*out)[i++] = item->valueint;
    }
    return Q3_OK;
}
