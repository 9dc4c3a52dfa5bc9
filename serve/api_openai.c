#include "serve/api_openai.h"

#include <string.h>

#include "serve/api_openai_work.h"

static q3_app *app_of(const q3_exchange *x)
{
    return x->app;
}

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
    if (!q3_openai_ready(x))
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

static void handle_model(q3_exchange *x)
{
    int adapter;
    if (!q3_openai_ready(x))
        return;
    if (q3_app_find_model(&adapter, x->app, x->param))
        put_model(&x->out, x->param, app_of(x)->started_at);
    else
        q3_openai_fail_no_model(x, x->param);
}

static void handle_health(q3_exchange *x)
{
    q3_service_stats stats;
    if (!q3_openai_ready(x))
        return;
    q3_service_stats_of(&stats, app_of(x)->service);
    if (stats.draining)
        q3_openai_fail_plain(x, 503, "the server is stopping");
    else if (stats.failed_passes > 3) // in a row: one that is too large may fail alone
        q3_openai_fail_plain(x, 503, "the device does not compute any more; see the server's log");
    else
        q3_text_printf(&x->out, "{\"status\":\"ok\"}");
}

static void handle_metrics(q3_exchange *x)
{
    const q3_app *app = x->app;
    q3_service_stats service;
    q3_server_stats server = { 0 };
    if (!q3_openai_ready(x))
        return;
    q3_service_stats_of(&service, app->service);
    if (app->server)
        q3_server_stats_of(&server, app->server);
    x->type = "text/plain; version=0.0.4; charset=utf-8";
    q3_server_metrics_write(&x->out, &service, &server);
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
    if (!q3_openai_ready(x) || !q3_openai_read_body(&doc, x))
        return;
    q3_status st = q3_json_string(&content, &doc, doc.root, "content", NULL);
    if (st == Q3_OK && !content)
        st = q3_fail(Q3_ERR_USAGE, "content is missing");
    st = st ? st : q3_tokenizer_encode(&ids, app_of(x)->session->tokenizer, content, strlen(content));
    if (st == Q3_OK)
        write_ids(&x->out, &ids);
    else
        q3_openai_fail_status(x, st, "content");
    q3_ids_free(&ids);
    q3_json_close(&doc);
}

static void handle_detokenize(q3_exchange *x)
{
    q3_json doc;
    q3_text text = { 0 };
    int32_t *ids = NULL;
    int64_t n = 0;
    if (!q3_openai_ready(x) || !q3_openai_read_body(&doc, x))
        return;
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(doc.root, "tokens");
    q3_status st = cJSON_IsArray(list) ? q3_openai_ids(&ids, &n, list)
                                       : q3_fail(Q3_ERR_USAGE, "tokens must be a list of ids");
    st = st ? st : q3_tokenizer_decode(&text, app_of(x)->session->tokenizer, ids, (size_t)n, false);
    if (st == Q3_OK) {
        q3_text_printf(&x->out, "{\"content\":");
        q3_text_json_string(&x->out, text.data ? text.data : "", text.size);
        q3_text_printf(&x->out, "}");
    } else {
        q3_openai_fail_status(x, st, "tokens");
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
    if (!q3_openai_ready(x) || !q3_openai_read_body(&doc, x))
        return;
    const q3_prompter p = q3_openai_prompter(x->app, -1);
    q3_status st = q3_chat_from_json(&chat, cJSON_GetObjectItemCaseSensitive(doc.root, "messages"));
    st = st ? st : q3_prompt_text(&text, &p, chat.messages, chat.n);
    if (st == Q3_OK) {
        q3_text_printf(&x->out, "{\"prompt\":");
        q3_text_json_string(&x->out, text.data ? text.data : "", text.size);
        q3_text_printf(&x->out, "}");
    } else {
        q3_openai_fail_status(x, st, "messages");
    }
    q3_chat_free(&chat);
    q3_text_free(&text);
    q3_json_close(&doc);
}

static const q3_route routes[] = {
    { "POST", "/v1/chat/completions", q3_openai_handle_chat, false },
    { "POST", "/v1/completions", q3_openai_handle_completions, false },
    { "POST", "/v1/rerank", q3_openai_handle_rerank, false },
    { "POST", "/v1/score", q3_openai_handle_score, false },
    { "GET", "/v1/models", handle_models, false },
    { "GET", "/v1/models/{id}", handle_model, false },
    { "POST", "/tokenize", handle_tokenize, false },
    { "POST", "/detokenize", handle_detokenize, false },
    { "POST", "/apply-template", handle_template, false },
    { "GET", "/metrics", handle_metrics, false },
    { "GET", "/health", handle_health, true },
    { "GET", "/", q3_openai_handle_page, true },
};

const q3_face q3_openai_face = { .routes = routes,
                                 .n_routes = sizeof routes / sizeof *routes,
                                 .fail = q3_openai_fail_plain };
