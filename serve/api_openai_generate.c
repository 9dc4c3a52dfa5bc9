/* /v1/chat/completions and /v1/completions: prompts and tasks from requests. */
#include <stdio.h>
#include <string.h>

#include "serve/api_openai_work.h"

static q3_app *app_of(const q3_exchange *x)
{
    return x->app;
}

static q3_status make_constraint(q3_constraint **out, const q3_openai_work *a, const q3_app *app)
{
    const q3_session *s = app->session;
    const q3_generation_config *g = &s->model.config.generation;
    const q3_openai_request *r = &a->request;
    *out = NULL;
    if (r->form == Q3_FORM_NONE)
        return Q3_OK;
    Q3_TRY(q3_service_keep_vocabulary(app->service));
    if (r->form == Q3_FORM_PATTERN)
        return q3_constraint_regex(out, s->tokenizer, g->eos, g->n_eos, r->pattern);
    return q3_constraint_json(out, s->tokenizer, g->eos, g->n_eos,
                              r->form == Q3_FORM_JSON ? NULL : r->schema);
}

/* The settings of all tasks, from prompts that lie in every n-th of them. */
static q3_status fill_tasks(q3_openai_work *a, const q3_app *app, int adapter)
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
            Q3_TRY(make_constraint(&t->constraint, a, app));
        else if (first->constraint)
            Q3_TRY(q3_constraint_clone(&t->constraint, first->constraint));
    }
    return Q3_OK;
}

/* Reads what chat and completions have in common; NULL when the exchange has its answer. */
static q3_openai_work *begin(q3_exchange *x, bool chat, int *adapter)
{
    const char *param;
    if (!q3_openai_ready(x))
        return NULL;
    q3_openai_work *a = q3_calloc(1, sizeof *a);
    if (!a) {
        q3_openai_fail_plain(x, 503, "out of memory");
        return NULL;
    }
    x->state = a;
    x->release = q3_openai_release;
    if (!q3_openai_read_body(&a->doc, x))
        return NULL;
    q3_status st = q3_openai_parse(&a->request, &param, a->doc.root, chat, x->app);
    if (st != Q3_OK) {
        q3_openai_fail(x, 400, param, NULL, q3_error());
        return NULL;
    }
    if (!q3_app_find_model(adapter, x->app, a->request.model)) {
        q3_openai_fail_no_model(x, a->request.model);
        return NULL;
    }
    q3_openai_fill_head(&a->head, x, &a->request, chat, *adapter);
    return a;
}

/* ---- chat ---- */

q3_status q3_openai_chat_prompt(q3_prompt *out, q3_arena *mem, const q3_openai_request *r, const q3_app *app)
{
    q3_chat chat;
    q3_pictures pictures;
    const q3_prompter p = q3_openai_prompter(app, r->thinking);
    q3_status st = q3_openai_chat(&chat, &pictures, r->messages, &app->pictures);
    if (st == Q3_OK)
        st = q3_prompt_make(out, mem, &p, chat.messages, chat.n, pictures.list, pictures.n);
    q3_chat_free(&chat);
    q3_pictures_free(&pictures);
    return st;
}

void q3_openai_handle_chat(q3_exchange *x)
{
    int adapter;
    q3_openai_work *a = begin(x, true, &adapter);
    if (!a)
        return;
    q3_status st = q3_openai_make_order(a, 1);
    st = st ? st
            : q3_openai_chat_prompt(&q3_order_task(a->order, 0)->prompt, q3_order_memory(a->order),
                                    &a->request, x->app);
    if (st != Q3_OK) {
        q3_openai_fail_status(x, st, "messages");
        return;
    }
    st = fill_tasks(a, x->app, adapter);
    if (st != Q3_OK)
        q3_openai_fail_status(x, st, a->request.form ? "response_format" : NULL);
    else
        q3_openai_submit(x, a->order, 0, a->request.stream,
                         a->request.stream ? q3_openai_poll_stream : q3_openai_poll_whole);
}

/* ---- completions ---- */

/* A list of prompts rather than one: its first item is a string or a list. */
static bool is_list_of_prompts(const cJSON *prompt)
{
    return cJSON_IsArray(prompt) && !cJSON_IsNumber(prompt->child);
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
    Q3_TRY(q3_openai_ids(&ids, &n, prompt));
    q3_status st = q3_prompt_of_ids(out, mem, prompter, ids, n, NULL, 0);
    q3_free(ids);
    return st;
}

static q3_status make_echoes(q3_openai_work *a, const q3_tokenizer *tokenizer)
{
    for (int i = 0; a->echoes && i < a->n_choices; i++) {
        const q3_prompt *p = &q3_order_task(a->order, i)->prompt;
        Q3_TRY(q3_tokenizer_decode(&a->echoes[i], tokenizer, p->ids, (size_t)p->n, false));
    }
    return Q3_OK;
}

static q3_status make_prompts(q3_openai_work *a, const q3_app *app)
{
    const cJSON *prompt = a->request.prompt;
    bool list = is_list_of_prompts(prompt);
    int n = list ? cJSON_GetArraySize(prompt) : 1,
        most = app->max_prompts ? app->max_prompts : Q3_OPENAI_PROMPTS;
    if (n > most)
        return q3_fail(Q3_ERR_DATA, "%d prompts in one request; at most %d are possible", n, most);
    Q3_TRY(q3_openai_make_order(a, n));
    const cJSON *one = list ? prompt->child : prompt;
    for (int i = 0; i < n; i++, one = one->next) {
        q3_prompt *to = &q3_order_task(a->order, i * a->request.n)->prompt;
        Q3_TRY(q3_wrap(make_prompt(to, q3_order_memory(a->order), &app->session->prompter, one), "prompt %d",
                       i));
    }
    return Q3_OK;
}

void q3_openai_handle_completions(q3_exchange *x)
{
    int adapter;
    q3_openai_work *a = begin(x, false, &adapter);
    if (!a)
        return;
    q3_status st = make_prompts(a, x->app);
    if (st != Q3_OK) {
        q3_openai_fail_status(x, st, "prompt");
        return;
    }
    st = fill_tasks(a, x->app, adapter);
    st = st ? st : make_echoes(a, app_of(x)->session->tokenizer);
    if (st != Q3_OK)
        q3_openai_fail_status(x, st, NULL);
    else
        q3_openai_submit(x, a->order, 0, a->request.stream,
                         a->request.stream ? q3_openai_poll_stream : q3_openai_poll_whole);
}
