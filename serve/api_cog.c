#include "serve/api_cog.h"

#include <string.h>
#include <time.h>

#include "serve/api_cog_request.h"

static q3_cog *cog_of(const q3_exchange *x)
{
    return ((q3_app *)x->app)->cog;
}

static void put(q3_text *out, const char *text)
{
    q3_text_append(out, text, strlen(text));
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

/* Makes, submits and starts a prediction that has been entered; false when the exchange has its answer. */
static bool start(q3_exchange *x, q3_prediction *p)
{
    q3_status st = q3_cog_make_order(p);
    if (st != Q3_OK) {
        q3_cog_reject(x, p, st);
        return false;
    }
    q3_admission admission = q3_prediction_submit(p);
    if (admission == Q3_ADMISSION_FULL)
        answer_busy(x);
    else if (admission == Q3_ADMISSION_DRAINING)
        q3_exchange_fail(x, 503, "the server is stopping");
    else if (!q3_prediction_start(p))
        q3_exchange_fail(x, 503, "no thread could be started for the prediction");
    else
        return true;
    return false;
}

static bool launch(q3_exchange *x, q3_prediction *p)
{
    q3_entry entry = q3_prediction_enter(p->cog, p);
    if (entry == Q3_ENTRY_TAKEN)
        q3_exchange_fail(x, 409, "a prediction with the id \"%.60s\" runs already", p->id);
    if (entry == Q3_ENTRY_FULL)
        answer_busy(x);
    if (entry != Q3_ENTERED)
        return false;
    if (start(x, p))
        return true;
    q3_prediction_leave(p->cog, p);
    return false;
}

static void answer_accepted(q3_exchange *x, const char *id, const char *status)
{
    x->status = 202;
    put(&x->out, "{\"id\":");
    q3_cog_put_string(&x->out, id);
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
    q3_prediction *p = q3_prediction_create(cog_of(x));
    if (!p) {
        q3_exchange_fail(x, 503, "out of memory");
        return;
    }
    if (!q3_cog_read_request(p, x) || !launch(x, p)) {
        q3_prediction_disown(p);
        return;
    }
    if (!async) {
        q3_prediction_listen(x, p, streaming, true);
        return;
    }
    answer_accepted(x, p->id, "starting");
    q3_prediction_disown(p);
}

/* Again for a prediction that runs: its state, or its stream from the beginning. */
static void predict_once(q3_exchange *x)
{
    q3_prediction *p = q3_prediction_share(cog_of(x), x->param);
    if (!p) {
        predict(x);
        return;
    }
    if (wants_stream(x) && p->cog->options.task == Q3_COG_GENERATE) {
        q3_prediction_listen(x, p, true, false);
        return;
    }
    x->status = 202;
    pthread_mutex_lock(&p->lock);
    q3_prediction_write(&x->out, p, true);
    pthread_mutex_unlock(&p->lock);
    q3_prediction_disown(p);
}

static void cancel_prediction(q3_exchange *x)
{
    q3_prediction *p = q3_prediction_share(cog_of(x), x->param);
    put(&x->out, "{}");
    if (!p) {
        x->status = 404;
        return;
    }
    q3_prediction_cancel(p);
    q3_prediction_disown(p);
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
    char loaded_at[Q3_COG_TIME_BYTES] = "";
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

static void show_docs(q3_exchange *x)
{
    x->type = "text/plain; charset=utf-8";
    put(&x->out, "POST /predictions                 {\"input\": {...}}; the inputs are in /openapi.json\n"
                 "PUT  /predictions/ID              the same once, however often it is sent\n"
                 "POST /predictions/ID/cancel\n"
                 "GET  /health-check, /openapi.json\n"
                 "POST /shutdown\n\n"
                 "Prefer: respond-async answers at once, and progress goes to \"webhook\" of the body.\n"
                 "Accept: text/event-stream answers with events.\n");
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
        q3_cog_put_string(&x->out, sentence);
        put(&x->out, ",\"type\":\"value_error\"}]}");
        return;
    }
    put(&x->out, status == 503 || status == 409 ? "{\"error\":" : "{\"detail\":");
    q3_cog_put_string(&x->out, sentence);
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
    { "GET", "/docs", show_docs, true },
    { "POST", "/shutdown", shut_down, false },
};

enum { N_ROUTES = sizeof routes / sizeof *routes, N_ALONE = 3 };

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
    q3_cog_now(c->started_at);
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
