#include "infer/api_openai.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/log.h"
#include "infer/api_openai_reply.h"
#include "infer/api_openai_request.h"

enum { DEFAULT_PROMPTS = 1024 };

/* A request that is being answered. */
typedef struct answering {
    q3_json doc;
    q3_openai_request request;
    q3_openai_head head;
    q3_order *order;
    int n_choices;    // tasks of the order: prompts * request.n
    q3_text *echoes;  // [n_choices]; NULL without echo
    int64_t *offsets; // [n_choices]: bytes sent of each, while streaming
    bool *begun;      // [n_choices]
    q3_openai_usage usage;
    q3_event *events, *last; // all that came, when it is sent at the end
    bool finished;           // all tasks have ended, and their ends were sent
} answering;

static q3_app *app_of(const q3_exchange *x)
{
    return x->app;
}

static void fail_about(q3_exchange *x, int status, const char *param, const char *code, const char *sentence)
{
    x->out.size = 0;
    x->poll = NULL;
    x->streaming = false;
    x->type = NULL;
    x->status = status;
    q3_openai_write_error(&x->out, status, param, code, sentence);
}

static void fail(q3_exchange *x, int status, const char *sentence)
{
    fail_about(x, status, NULL, status == 401 ? "invalid_api_key" : NULL, sentence);
}

/* The sentence of a function that failed; prompts that are too long have a code of their own. */
static void fail_status(q3_exchange *x, q3_status st, const char *param)
{
    const char *sentence = *q3_error() ? q3_error() : "out of memory";
    fail_about(x, q3_http_status(st), param, st == Q3_ERR_LIMIT ? "context_length_exceeded" : NULL, sentence);
}

static bool is_ready(q3_exchange *x)
{
    if (atomic_load(&app_of(x)->ready))
        return true;
    x->retry_after = 1;
    fail(x, 503, "Loading model");
    return false;
}

/* The body as a JSON object; the text stays the exchange's. */
static bool read_body(q3_json *doc, q3_exchange *x)
{
    if (q3_json_parse(doc, x->body, x->body_bytes, "request body", 1) != Q3_OK) {
        fail(x, 400, q3_error());
        return false;
    }
    if (cJSON_IsObject(doc->root))
        return true;
    q3_json_close(doc);
    fail(x, 400, "the body must be a JSON object");
    return false;
}

/* ---- ends of requests ---- */

static void release(void *state)
{
    answering *a = state;
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
    q3_order_cancel(((answering *)state)->order);
}

/* Whether the task ended as it should; otherwise what went wrong. */
static bool ended_well(int *status, const char **sentence, const q3_event *e)
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

static void count(answering *a, const q3_event *e)
{
    q3_openai_count(&a->usage, e, e->task % a->request.n != 0);
}

/* ---- whole answers ---- */

static void keep(answering *a, q3_event *e)
{
    if (a->last)
        a->last->next = e;
    else
        a->events = e;
    a->last = e;
}

static q3_poll poll_whole(q3_exchange *x)
{
    answering *a = x->state;
    int status;
    const char *sentence;
    bool done;
    for (q3_event *e; (e = q3_order_next(a->order, true, &done)) != NULL;) {
        keep(a, e);
        if (e->ended)
            count(a, e);
        if (e->ended && !ended_well(&status, &sentence, e)) {
            fail_about(x, status, NULL, e->status == Q3_ERR_LIMIT ? "context_length_exceeded" : NULL,
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

static void begin_choice(q3_exchange *x, answering *a, int index)
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
static bool write_event(q3_exchange *x, answering *a, const q3_event *e)
{
    int status;
    const char *sentence;
    if (e->ended && !ended_well(&status, &sentence, e)) {
        if (!x->out.size && !a->begun[e->task] && a->usage.output_tokens == 0) {
            fail_about(x, status, NULL, e->status == Q3_ERR_LIMIT ? "context_length_exceeded" : NULL,
                       sentence);
            return false;
        }
        q3_text_printf(&x->out, "data: ");
        q3_openai_write_error(&x->out, status, NULL, NULL, sentence);
        q3_text_printf(&x->out, "\n\n");
        return false;
    }
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

static q3_poll poll_stream(q3_exchange *x)
{
    answering *a = x->state;
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

/* ---- making an order ---- */

static q3_status make_constraint(q3_constraint **out, const answering *a, const q3_session *s)
{
    const q3_generation_config *g = &s->model.config.generation;
    const q3_openai_request *r = &a->request;
    *out = NULL;
    if (r->form == Q3_FORM_NONE)
        return Q3_OK;
    if (r->form == Q3_FORM_PATTERN)
        return q3_constraint_regex(out, s->tokenizer, g->eos, g->n_eos, r->pattern);
    return q3_constraint_json(out, s->tokenizer, g->eos, g->n_eos,
                              r->form == Q3_FORM_JSON ? NULL : r->schema);
}

/* The settings of all tasks, from prompts that lie in every n-th of them. */
static q3_status fill_tasks(answering *a, const q3_app *app, int adapter)
{
    const q3_openai_request *r = &a->request;
    const char *const *stops;
    int n_stops;
    Q3_TRY(q3_openai_stops(&stops, &n_stops, q3_order_memory(a->order), r->stop, app));
    for (int i = 0; i < a->n_choices; i++) {
        q3_task *t = q3_order_task(a->order, i);
        const q3_task *first = q3_order_task(a->order, 0);
        t->prompt = q3_order_task(a->order, i / r->n * r->n)->prompt;
        t->prompt.adapter = adapter;
        t->sampling = r->sampling;
        t->number = (uint32_t)i;
        t->max_new_tokens = r->max_new_tokens;
        t->logprobs = r->logprobs;
        t->stops = stops;
        t->n_stops = n_stops;
        if (i == 0)
            Q3_TRY(make_constraint(&t->constraint, a, app->session));
        else if (first->constraint)
            Q3_TRY(q3_constraint_clone(&t->constraint, first->constraint));
    }
    return Q3_OK;
}

static q3_status make_order(answering *a, int n_prompts)
{
    a->n_choices = n_prompts * a->request.n;
    Q3_TRY(q3_order_create(&a->order, a->n_choices));
    a->offsets = q3_calloc((size_t)a->n_choices, sizeof *a->offsets);
    a->begun = q3_calloc((size_t)a->n_choices, sizeof *a->begun);
    if (a->request.echo)
        a->echoes = q3_calloc((size_t)a->n_choices, sizeof *a->echoes);
    return a->offsets && a->begun && (a->echoes || !a->request.echo) ? Q3_OK : Q3_ERR_MEMORY;
}

/* Hands the order in; from then on the exchange waits for what comes of it. */
static void submit(q3_exchange *x, q3_order *order, int width, bool streaming, q3_poll (*poll)(q3_exchange *))
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
        fail_about(x, 429, NULL, "queue_full", "too many requests are waiting; try again later");
        return;
    case Q3_ADMISSION_DRAINING:
        x->retry_after = q3_service_retry_after(service);
        fail_about(x, 503, NULL, "stopping", "the server is stopping and takes no more requests");
        return;
    }
}

static void fill_head(q3_openai_head *head, const q3_exchange *x, const q3_openai_request *r, bool chat,
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

/* Reads what chat and completions have in common; NULL when the exchange has its answer. */
static answering *begin(q3_exchange *x, bool chat, int *adapter)
{
    const char *param;
    if (!is_ready(x))
        return NULL;
    answering *a = q3_calloc(1, sizeof *a);
    if (!a) {
        fail(x, 503, "out of memory");
        return NULL;
    }
    x->state = a;
    x->release = release;
    if (!read_body(&a->doc, x))
        return NULL;
    q3_status st = q3_openai_parse(&a->request, &param, a->doc.root, chat, x->app);
    if (st != Q3_OK) {
        fail_about(x, 400, param, NULL, q3_error());
        return NULL;
    }
    if (!q3_app_find_model(adapter, x->app, a->request.model)) {
        char sentence[128];
        snprintf(sentence, sizeof sentence, "there is no model \"%.60s\"; GET /v1/models lists them",
                 a->request.model);
        fail_about(x, 404, "model", "model_not_found", sentence);
        return NULL;
    }
    fill_head(&a->head, x, &a->request, chat, *adapter);
    return a;
}

/* ---- chat ---- */

static q3_prompter prompter_of(const q3_app *app, int thinking)
{
    q3_prompter p = app->session->prompter;
    p.thinking = thinking < 0 ? p.thinking : thinking != 0;
    return p;
}

static q3_status make_chat_prompt(q3_prompt *out, q3_arena *mem, const q3_openai_request *r,
                                  const q3_app *app)
{
    q3_chat chat;
    q3_pictures pictures;
    const q3_prompter p = prompter_of(app, r->thinking);
    q3_status st = q3_openai_chat(&chat, &pictures, r->messages, &app->pictures);
    if (st == Q3_OK)
        st = q3_prompt_make(out, mem, &p, chat.messages, chat.n, pictures.list, pictures.n);
    q3_chat_free(&chat);
    q3_pictures_free(&pictures);
    return st;
}

static void handle_chat(q3_exchange *x)
{
    int adapter;
    answering *a = begin(x, true, &adapter);
    if (!a)
        return;
    q3_status st = make_order(a, 1);
    st = st ? st
            : make_chat_prompt(&q3_order_task(a->order, 0)->prompt, q3_order_memory(a->order), &a->request,
                               x->app);
    if (st != Q3_OK) {
        fail_status(x, st, "messages");
        return;
    }
    st = fill_tasks(a, x->app, adapter);
    if (st != Q3_OK)
        fail_status(x, st, a->request.form ? "response_format" : NULL);
    else
        submit(x, a->order, 0, a->request.stream, a->request.stream ? poll_stream : poll_whole);
}

/* ---- completions ---- */

/* A list of prompts rather than one: its first item is a string or a list. */
static bool is_list_of_prompts(const cJSON *prompt)
{
    return cJSON_IsArray(prompt) && !cJSON_IsNumber(prompt->child);
}

static q3_status ids_of(int32_t **out, int64_t *n, const cJSON *list)
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

static q3_status make_prompt(q3_prompt *out, q3_arena *mem, const q3_prompter *prompter, const cJSON *prompt)
{
    if (cJSON_IsString(prompt)) {
        const q3_message message = { .role = "user", .text = prompt->valuestring };
        q3_prompter plain = *prompter;
        plain.plain = true;
        return *prompt->valuestring ? q3_prompt_make(out, mem, &plain, &message, 1, NULL, 0)
                                    : q3_fail(Q3_ERR_DATA, "the prompt is empty");
    }
    int32_t *ids;
    int64_t n;
    if (!cJSON_IsArray(prompt) || !prompt->child)
        return q3_fail(Q3_ERR_DATA, "a prompt must be a string or a list of token ids, not empty");
    Q3_TRY(ids_of(&ids, &n, prompt));
    q3_status st = q3_prompt_of_ids(out, mem, prompter, ids, n, NULL, 0);
    q3_free(ids);
    return st;
}

static q3_status make_echoes(answering *a, const q3_tokenizer *tokenizer)
{
    for (int i = 0; a->echoes && i < a->n_choices; i++) {
        const q3_prompt *p = &q3_order_task(a->order, i)->prompt;
        Q3_TRY(q3_tokenizer_decode(&a->echoes[i], tokenizer, p->ids, (size_t)p->n, false));
    }
    return Q3_OK;
}

static q3_status make_prompts(answering *a, const q3_app *app)
{
    const cJSON *prompt = a->request.prompt;
    bool list = is_list_of_prompts(prompt);
    int n = list ? cJSON_GetArraySize(prompt) : 1,
        most = app->max_prompts ? app->max_prompts : DEFAULT_PROMPTS;
    if (n > most)
        return q3_fail(Q3_ERR_DATA, "%d prompts in one request; at most %d are possible", n, most);
    Q3_TRY(make_order(a, n));
    const cJSON *one = list ? prompt->child : prompt;
    for (int i = 0; i < n; i++, one = one->next) {
        q3_prompt *to = &q3_order_task(a->order, i * a->request.n)->prompt;
        Q3_TRY(q3_wrap(make_prompt(to, q3_order_memory(a->order), &app->session->prompter, one), "prompt %d",
                       i));
    }
    return Q3_OK;
}

static void handle_completions(q3_exchange *x)
{
    int adapter;
    answering *a = begin(x, false, &adapter);
    if (!a)
        return;
    q3_status st = make_prompts(a, x->app);
    if (st != Q3_OK) {
        fail_status(x, st, "prompt");
        return;
    }
    st = fill_tasks(a, x->app, adapter);
    st = st ? st : make_echoes(a, app_of(x)->session->tokenizer);
    if (st != Q3_OK)
        fail_status(x, st, NULL);
    else
        submit(x, a->order, 0, a->request.stream, a->request.stream ? poll_stream : poll_whole);
}

/* ---- reranking ---- */

typedef struct reranking {
    answering base; // first: release and gone are shared
    q3_arena mem;
    q3_rerank_job job;
    int64_t top_n;
    bool with_documents;
    double *logits; // [job.n]
} reranking;

static void release_reranking(void *state)
{
    reranking *r = state;
    q3_rerank_job_free(&r->job);
    q3_arena_destroy(&r->mem);
    q3_free(r->logits);
    release(&r->base);
}

static void write_ranking(q3_text *out, const reranking *r, const int64_t *order)
{
    q3_text_printf(out, "{\"object\":\"list\",\"model\":");
    q3_text_json_string(out, r->base.head.model, strlen(r->base.head.model));
    q3_text_printf(out, ",\"results\":[");
    for (int64_t i = 0; i < r->top_n; i++) {
        const char *text = r->job.documents[order[i]].text;
        q3_text_printf(out, "%s{\"index\":%lld,\"relevance_score\":%.6g", i ? "," : "", (long long)order[i],
                       q3_rerank_probability(r->logits[order[i]]));
        if (r->with_documents && text) {
            q3_text_printf(out, ",\"document\":{\"text\":");
            q3_text_json_string(out, text, strlen(text));
            q3_text_printf(out, "}");
        }
        q3_text_printf(out, "}");
    }
    q3_text_printf(out, "],\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}",
                   (long long)r->base.usage.prompt_tokens, (long long)r->base.usage.prompt_tokens);
}

static q3_poll poll_ranking(q3_exchange *x)
{
    reranking *r = x->state;
    int status;
    const char *sentence;
    bool done;
    for (q3_event *e; (e = q3_order_next(r->base.order, true, &done)) != NULL;) {
        keep(&r->base, e);
        q3_openai_count(&r->base.usage, e, false);
        r->logits[e->task] = e->logit;
        if (!ended_well(&status, &sentence, e)) {
            fail_about(x, status, NULL, NULL, sentence);
            return Q3_POLL_DONE;
        }
    }
    if (!done)
        return Q3_POLL_ASLEEP;
    int64_t *order = q3_calloc((size_t)r->job.n, sizeof *order);
    if (order) {
        q3_rerank_order(order, r->logits, r->job.n);
        write_ranking(&x->out, r, order);
    } else {
        fail(x, 503, "out of memory");
    }
    q3_free(order);
    return Q3_POLL_DONE;
}

static q3_status parse_ranking(reranking *r, const q3_app *app, const char **param)
{
    const q3_json *doc = &r->base.doc;
    int64_t top_n, most = app->max_prompts ? app->max_prompts : DEFAULT_PROMPTS;
    const char *model;
    *param = "documents";
    Q3_TRY(q3_json_string(&model, doc, doc->root, "model", NULL));
    r->base.request.model = model;
    r->base.request.n = 1;
    Q3_TRY(q3_json_bool(&r->with_documents, doc, doc->root, "return_documents", true));
    Q3_TRY(q3_app_guard_documents(doc->root));
    Q3_TRY(q3_rerank_job_parse(&r->job, &r->mem, doc->root, &app->pictures.image));
    if (r->job.n < 1 || r->job.n > most)
        return q3_fail(Q3_ERR_DATA, "there are %lld documents; it must be 1 to %lld", (long long)r->job.n,
                       (long long)most);
    *param = "top_n";
    Q3_TRY(q3_json_int(&top_n, doc, doc->root, "top_n", r->job.n));
    if (top_n < 1)
        return q3_fail(Q3_ERR_USAGE, "top_n must be at least 1");
    r->top_n = top_n < r->job.n ? top_n : r->job.n;
    return Q3_OK;
}

static q3_status make_pairs(reranking *r, const q3_app *app, int adapter)
{
    answering *a = &r->base;
    r->logits = q3_calloc((size_t)r->job.n, sizeof *r->logits);
    if (!r->logits)
        return Q3_ERR_MEMORY;
    Q3_TRY(make_order(a, (int)r->job.n));
    for (int i = 0; i < a->n_choices; i++) {
        q3_task *t = q3_order_task(a->order, i);
        Q3_TRY(q3_wrap(q3_rerank_prompt(&t->prompt, q3_order_memory(a->order), app->reranker,
                                        r->job.instruction, &r->job.query, &r->job.documents[i]),
                       "documents[%d]", i));
        t->prompt.adapter = adapter;
        t->reranker = app->reranker;
        t->logprobs = -1;
    }
    return Q3_OK;
}

static void handle_rerank(q3_exchange *x)
{
    const q3_app *app = x->app;
    const char *param = NULL;
    int adapter;
    if (!is_ready(x))
        return;
    if (!app->reranker) {
        q3_exchange_fail(x, 400, "this model cannot rerank: %s", app->why_no_reranker);
        return;
    }
    reranking *r = q3_calloc(1, sizeof *r);
    x->state = r;
    x->release = r ? release_reranking : NULL;
    if (!r || q3_arena_create(&r->mem, "documents", (size_t)1 << 32) != Q3_OK) {
        fail(x, 503, "out of memory");
        return;
    }
    if (!read_body(&r->base.doc, x))
        return;
    q3_status st = parse_ranking(r, app, &param);
    if (st == Q3_OK && !q3_app_find_model(&adapter, app, r->base.request.model)) {
        fail_about(x, 404, "model", "model_not_found", "there is no such model; GET /v1/models lists them");
        return;
    }
    st = st ? st : make_pairs(r, app, adapter);
    if (st != Q3_OK) {
        fail_status(x, st, param);
        return;
    }
    fill_head(&r->base.head, x, &r->base.request, false, adapter);
    submit(x, r->base.order, (int)r->job.batch_size, false, poll_ranking);
}

/* ---- small routes ---- */

static void put_model(q3_text *out, const char *name, int64_t created)
{
    q3_text_printf(out, "{\"id\":");
    q3_text_json_string(out, name, strlen(name));
    q3_text_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"qwen3-sft\"}",
                   (long long)created);
}

static void handle_models(q3_exchange *x)
{
    const q3_app *app = x->app;
    if (!is_ready(x))
        return;
    q3_text_printf(&x->out, "{\"object\":\"list\",\"data\":[");
    put_model(&x->out, app->session->name, app->started_at);
    for (int i = 0; i < app->session->adapters.n; i++)
        if (strcmp(app->session->adapters.list[i].name, app->session->name) != 0) {
            q3_text_printf(&x->out, ",");
            put_model(&x->out, app->session->adapters.list[i].name, app->started_at);
        }
    q3_text_printf(&x->out, "]}");
}

static void handle_health(q3_exchange *x)
{
    q3_service_stats stats;
    if (!is_ready(x))
        return;
    q3_service_stats_of(&stats, app_of(x)->service);
    if (stats.draining)
        fail(x, 503, "the server is stopping");
    else if (stats.failed_passes > 3) // in a row: one that is too large may fail alone
        fail(x, 503, "the device does not compute any more; see the server's log");
    else
        q3_text_printf(&x->out, "{\"status\":\"ok\"}");
}

static void handle_metrics(q3_exchange *x)
{
    const q3_app *app = x->app;
    q3_service_stats service;
    q3_server_stats server = { 0 };
    if (!is_ready(x))
        return;
    q3_service_stats_of(&service, app->service);
    if (app->server)
        q3_server_stats_of(&server, app->server);
    x->type = "text/plain; version=0.0.4; charset=utf-8";
    q3_server_metrics_write(&x->out, &service, &server);
}

static void handle_page(q3_exchange *x)
{
    x->type = "text/html; charset=utf-8";
    q3_text_append(&x->out, (const char *)q3_page, q3_page_size);
}

static void write_ids(q3_text *out, const q3_ids *ids)
{
    q3_text_printf(out, "{\"tokens\":[");
    for (size_t i = 0; i < ids->n; i++)
        q3_text_printf(out, "%s%d", i ? "," : "", (int)ids->ids[i]);
    q3_text_printf(out, "]}");
}

static void handle_tokenize(q3_exchange *x)
{
    q3_json doc;
    q3_ids ids = { 0 };
    const char *content;
    if (!is_ready(x) || !read_body(&doc, x))
        return;
    q3_status st = q3_json_string(&content, &doc, doc.root, "content", NULL);
    if (st == Q3_OK && !content)
        st = q3_fail(Q3_ERR_USAGE, "content is missing");
    st = st ? st : q3_tokenizer_encode(&ids, app_of(x)->session->tokenizer, content, strlen(content));
    if (st == Q3_OK)
        write_ids(&x->out, &ids);
    else
        fail_status(x, st, "content");
    q3_ids_free(&ids);
    q3_json_close(&doc);
}

static void handle_detokenize(q3_exchange *x)
{
    q3_json doc;
    q3_text text = { 0 };
    int32_t *ids = NULL;
    int64_t n = 0;
    if (!is_ready(x) || !read_body(&doc, x))
        return;
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(doc.root, "tokens");
    q3_status st =
        cJSON_IsArray(list) ? ids_of(&ids, &n, list) : q3_fail(Q3_ERR_USAGE, "tokens must be a list of ids");
    st = st ? st : q3_tokenizer_decode(&text, app_of(x)->session->tokenizer, ids, (size_t)n, false);
    if (st == Q3_OK) {
        q3_text_printf(&x->out, "{\"content\":");
        q3_text_json_string(&x->out, text.data ? text.data : "", text.size);
        q3_text_printf(&x->out, "}");
    } else {
        fail_status(x, st, "tokens");
    }
    q3_text_free(&text);
    q3_free(ids);
    q3_json_close(&doc);
}

static void handle_template(q3_exchange *x)
{
    q3_json doc;
    q3_text text = { 0 };
    q3_chat chat = { 0 };
    if (!is_ready(x) || !read_body(&doc, x))
        return;
    const q3_prompter p = prompter_of(x->app, -1);
    q3_status st = q3_chat_from_json(&chat, cJSON_GetObjectItemCaseSensitive(doc.root, "messages"));
    st = st ? st : q3_prompt_text(&text, &p, chat.messages, chat.n);
    if (st == Q3_OK) {
        q3_text_printf(&x->out, "{\"prompt\":");
        q3_text_json_string(&x->out, text.data ? text.data : "", text.size);
        q3_text_printf(&x->out, "}");
    } else {
        fail_status(x, st, "messages");
    }
    q3_chat_free(&chat);
    q3_text_free(&text);
    q3_json_close(&doc);
}

static const q3_route routes[] = {
    { "POST", "/v1/chat/completions", handle_chat, false },
    { "POST", "/v1/completions", handle_completions, false },
    { "POST", "/v1/rerank", handle_rerank, false },
    { "GET", "/v1/models", handle_models, false },
    { "POST", "/tokenize", handle_tokenize, false },
    { "POST", "/detokenize", handle_detokenize, false },
    { "POST", "/apply-template", handle_template, false },
    { "GET", "/metrics", handle_metrics, false },
    { "GET", "/health", handle_health, true },
    { "GET", "/", handle_page, true },
};

const q3_face q3_openai_face = { .routes = routes, .n_routes = sizeof routes / sizeof *routes, .fail = fail };
