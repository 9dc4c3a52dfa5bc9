#include "serve/api_cog_request.h"

#include <stdio.h>
#include <string.h>

#define JOB_BYTES ((size_t)1 << 32) // address space for the texts of a request's documents

static void put(q3_text *out, const char *text)
{
    q3_text_append(out, text, strlen(text));
}

/* ---- orders ---- */

static q3_status make_generation(q3_prediction *p, const q3_app *app, const cJSON *input)
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

static q3_status make_ranking(q3_prediction *p, const q3_app *app, cJSON *input)
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

static const char *kept_header(q3_prediction *p, const q3_exchange *x, const char *name)
{
    const char *value = q3_exchange_header(x, name);
    cJSON *copy =
        value ? cJSON_AddStringToObject(p->doc.root, name, value) : NULL; // lives as long as the request
    return cJSON_GetStringValue(copy);
}

/* false: the exchange has its answer. */
static bool read_webhook(q3_prediction *p, q3_exchange *x)
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
static bool choose_id(q3_prediction *p, q3_exchange *x)
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

bool q3_cog_read_request(q3_prediction *p, q3_exchange *x)
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

void q3_cog_reject(q3_exchange *x, q3_prediction *p, q3_status st)
{
    int status = q3_http_status(st);
    x->status = status == 400 ? 422 : status;
    p->status = "failed";
    p->error = q3_strdup(*q3_error() ? q3_error() : "out of memory");
    q3_prediction_write(&x->out, p, false);
}

q3_status q3_cog_make_order(q3_prediction *p)
{
    cJSON *input = cJSON_GetObjectItemCaseSensitive(p->doc.root, "input");
    const q3_app *app = p->cog->app;
    return p->cog->options.task == Q3_COG_RERANK ? make_ranking(p, app, input)
                                                 : make_generation(p, app, input);
}
