#include "train/mlflow.h"

#include <curl/curl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "core/file.h"
#include "core/log.h"
#include "data/hub_http.h"

enum {
    CONNECT_SECONDS = 5,
    CALL_SECONDS = 30,
    REST_SECONDS = 10,  // between attempts to reach a server that was away
    CLOSE_SECONDS = 30, // for what is left when the run has ended
    METRICS = 1000,     // of a call, as the interface allows
    PARAMS = 100,
    VALUE_BYTES = 6000, // of a parameter
    KEPT = 100000,      // values, about 200 bytes each
    ANSWER_BYTES = 1 << 20,
};

typedef struct client {
    char *uri;              // without a slash at the end
    char *shown;            // the same without a password in it
    char *name, *directory; // of the run
    char *experiment;       // its id; NULL: not known yet
    char *run;              // its id; NULL: not known yet
    int64_t start;          // ms
    bool begun;             // the server knows that the run is under way
    cJSON *params;          // still to be sent: {key, value} each
    cJSON *metrics;         // the thread's own: {key, value, timestamp, step} each, oldest first
    bool told;              // a failure
    long status;            // of the last answer; 0: there was none
    struct curl_slist *headers;
    pthread_t thread;
    pthread_mutex_t lock; // of what follows
    pthread_cond_t wake;
    cJSON *queue; // for metrics
    int kept;     // values in both
    int64_t lost;
    bool ending;
    q3_status how;
    double deadline; // q3_seconds() when the thread gives up; 0: never
} client;

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

q3_status q3_mlflow_check(void)
{
    const char *uri = environment("MLFLOW_TRACKING_URI");
    if (uri && (strncasecmp(uri, "http://", 7) == 0 || strncasecmp(uri, "https://", 8) == 0))
        return Q3_OK;
    return uri ? q3_fail(Q3_ERR_USAGE,
                         "\"train.report_to\" has \"mlflow\" and MLFLOW_TRACKING_URI is \"%.100s\"; it must "
                         "begin "
                         "with http:// or https:// (`mlflow server` serves a directory)",
                         uri)
               : q3_fail(Q3_ERR_USAGE, "\"train.report_to\" has \"mlflow\"; set MLFLOW_TRACKING_URI to the "
                                       "address of a server, "
                                       "such as http://127.0.0.1:5000");
}

/* ---- one call ---- */

static size_t take(char *data, size_t size, size_t n, void *arg)
{
    q3_text *answer = arg;
    if (answer->size + size * n > ANSWER_BYTES)
        return 0;
    q3_text_append(answer, data, size * n);
    return answer->failed ? 0 : size * n;
}

/* Not 0 ends the call: the run has waited long enough. */
static int too_late(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    client *m = arg;
    (void)a, (void)b, (void)c, (void)d;
    pthread_mutex_lock(&m->lock);
    bool late = m->deadline > 0 && q3_seconds() > m->deadline;
    pthread_mutex_unlock(&m->lock);
    return late;
}

static void set_options(CURL *c, client *m, const char *url, const char *body, q3_text *answer)
{
    const char *user = environment("MLFLOW_TRACKING_USERNAME"),
               *password = environment("MLFLOW_TRACKING_PASSWORD");
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    curl_easy_setopt(c, CURLOPT_TIMEOUT, (long)CALL_SECONDS);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "qwen3-sft/" Q3_VERSION);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, m->headers);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, answer);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, too_late);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, m);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    if (user && password) {
        curl_easy_setopt(c, CURLOPT_USERNAME, user);
        curl_easy_setopt(c, CURLOPT_PASSWORD, password);
    }
    if (body)
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
}

/* Parses the answer and judges it. Q3_ERR_FORMAT: the server will never take this. */
static q3_status judge(q3_json *out, const client *m, const q3_text *answer, CURLcode code)
{
    const char *message = NULL;
    if (code != CURLE_OK)
        return q3_fail(Q3_ERR_NETWORK, "%s: %s", m->shown,
                       code == CURLE_ABORTED_BY_CALLBACK ? "answers too slowly" : curl_easy_strerror(code));
    q3_status st = q3_json_parse(out, answer->data ? answer->data : "", answer->size, m->shown, 1);
    if (m->status == 200)
        return st ? q3_fail(Q3_ERR_NETWORK, "%s: its answer is not MLflow's", m->shown) : Q3_OK;
    if (st == Q3_OK)
        message = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(out->root, "message"));
    return q3_fail(m->status == 400 ? Q3_ERR_FORMAT : Q3_ERR_NETWORK, "%s answers with status %ld%s%.300s",
                   m->shown, m->status, message ? ": " : "", message ? message : "");
}

/* The string at "run.info.run_id" of the answer; NULL when there is none. */
static const char *string_at(const cJSON *object, const char *path)
{
    char name[64];
    for (size_t n; *path; path += n + (path[n] == '.')) {
        n = strcspn(path, ".");
        snprintf(name, sizeof name, "%.*s", (int)n, path);
        object = cJSON_GetObjectItemCaseSensitive(object, name);
    }
    return cJSON_GetStringValue(object);
}

/* POSTs `body` (ended here), or GETs where it is NULL. Where `out` is not NULL it gets the answer's string at `wanted`
 * (heap). */
static q3_status call(char **out, client *m, const char *path, cJSON *body, const char *wanted)
{
    q3_text url = { 0 }, answer = { 0 };
    q3_json doc = { 0 };
    CURL *c = curl_easy_init();
    char *text = body ? cJSON_PrintUnformatted(body) : NULL;
    q3_text_printf(&url, "%s/api/2.0/mlflow/%s", m->uri, path);
    q3_status st = Q3_ERR_MEMORY;
    m->status = 0;
    if (c && !url.failed && (text || !body)) {
        set_options(c, m, url.data, text, &answer);
        CURLcode code = curl_easy_perform(c);
        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &m->status);
        st = judge(&doc, m, &answer, code);
    }
    if (st == Q3_OK && out) {
        const char *value = string_at(doc.root, wanted);
        *out = value ? q3_strdup(value) : NULL;
        st = *out ? Q3_OK : q3_fail(Q3_ERR_NETWORK, "%s: an answer has no %s", m->shown, wanted);
    }
    q3_json_close(&doc);
    q3_text_free(&answer);
    q3_text_free(&url);
    cJSON_free(text);
    cJSON_Delete(body);
    curl_easy_cleanup(c);
    return st;
}

/* ---- the run there ---- */

static q3_status find_experiment(client *m)
{
    const char *name = environment("MLFLOW_EXPERIMENT_NAME"), *id = environment("MLFLOW_EXPERIMENT_ID");
    if (!name)
        return (m->experiment = q3_strdup(id ? id : "0")) ? Q3_OK : Q3_ERR_MEMORY;
    q3_text path = { 0 };
    q3_text_printf(&path, "experiments/get-by-name?experiment_name=");
    q3_hub_escape(&path, name, false);
    q3_status st =
        path.failed ? Q3_ERR_MEMORY : call(&m->experiment, m, path.data, NULL, "experiment.experiment_id");
    q3_text_free(&path);
    if (m->status != 404)
        return st;
    cJSON *body = cJSON_CreateObject();
    cJSON_AddStringToObject(body, "name", name);
    return call(&m->experiment, m, "experiments/create", body, "experiment_id");
}

static void add_pair(cJSON *list, const char *key, const char *value)
{
    cJSON *pair = cJSON_CreateObject();
    cJSON_AddStringToObject(pair, "key", key);
    cJSON_AddStringToObject(pair, "value", value);
    if (!cJSON_AddItemToArray(list, pair))
        cJSON_Delete(pair);
}

static q3_status create_run(client *m)
{
    cJSON *body = cJSON_CreateObject(), *tags = cJSON_AddArrayToObject(body, "tags");
    add_pair(tags, "mlflow.source.name", "qwen3-sft " Q3_VERSION);
    add_pair(tags, "output_dir", m->directory);
    cJSON_AddStringToObject(body, "experiment_id", m->experiment);
    cJSON_AddStringToObject(body, "run_name", m->name);
    cJSON_AddNumberToObject(body, "start_time", (double)m->start);
    Q3_TRY(call(&m->run, m, "runs/create", body, "run.info.run_id"));
    q3_info("mlflow      %s/#/experiments/%s/runs/%s", m->shown, m->experiment, m->run);
    m->begun = true;
    return Q3_OK;
}

static q3_status update_run(client *m, const char *run_status)
{
    cJSON *body = cJSON_CreateObject();
    cJSON_AddStringToObject(body, "run_id", m->run);
    cJSON_AddStringToObject(body, "status", run_status);
    if (strcmp(run_status, "RUNNING") != 0)
        cJSON_AddNumberToObject(body, "end_time", 1e3 * (double)time(NULL));
    return call(NULL, m, "runs/update", body, NULL);
}

static q3_status begin(client *m)
{
    if (m->begun)
        return Q3_OK;
    if (m->run) { // named by MLFLOW_RUN_ID
        Q3_TRY(update_run(m, "RUNNING"));
        m->begun = true;
        return Q3_OK;
    }
    if (!m->experiment)
        Q3_TRY(find_experiment(m));
    return create_run(m);
}

static void complain(client *m, const char *consequence)
{
    if (!m->told)
        q3_warn("mlflow: %s; %s, and metrics.jsonl has every value", q3_error(), consequence);
    m->told = true;
}

/* Sends the list from its beginning and takes away what has arrived, or what the server will never take. */
static q3_status send_list(client *m, cJSON *list, const char *name, int most)
{
    while (list->child) {
        int n = 0;
        cJSON *body = cJSON_CreateObject(), *batch = cJSON_AddArrayToObject(body, name);
        cJSON_AddStringToObject(body, "run_id", m->run);
        for (cJSON *item = list->child; item && n < most; item = item->next, n++)
            cJSON_AddItemReferenceToArray(batch, item);
        q3_status st = call(NULL, m, "runs/log-batch", body, NULL);
        if (st == Q3_ERR_FORMAT)
            complain(m, "it is left out");
        else if (st != Q3_OK)
            return st;
        pthread_mutex_lock(&m->lock);
        m->kept -= list == m->metrics ? n : 0;
        m->lost += list == m->metrics && st ? n : 0;
        pthread_mutex_unlock(&m->lock);
        for (; n > 0; n--)
            cJSON_DeleteItemFromArray(list, 0);
    }
    return Q3_OK;
}

/* ---- the thread ---- */

/* Waits for values, or where the server is away for a while; then takes the queue. Returns whether the run has ended. */
static bool wait_for_work(client *m, bool away)
{
    struct timespec until;
    int waited = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += REST_SECONDS;
    pthread_mutex_lock(&m->lock);
    while (!m->ending && !waited && (away || (m->begun && !m->queue->child)))
        waited =
            away ? pthread_cond_timedwait(&m->wake, &m->lock, &until) : pthread_cond_wait(&m->wake, &m->lock);
    for (cJSON *item; (item = cJSON_DetachItemFromArray(m->queue, 0)) != NULL;)
        cJSON_AddItemToArray(m->metrics, item);
    bool ending = m->ending;
    pthread_mutex_unlock(&m->lock);
    return ending;
}

static q3_status send_all(client *m, bool ending)
{
    Q3_TRY(begin(m));
    Q3_TRY(send_list(m, m->params, "params", PARAMS));
    Q3_TRY(send_list(m, m->metrics, "metrics", METRICS));
    if (!ending)
        return Q3_OK;
    bool killed = m->how == Q3_ERR_INTERRUPTED || m->how == Q3_ERR_TERMINATED;
    return update_run(m, killed ? "KILLED" : m->how ? "FAILED" : "FINISHED");
}

static void *work(void *arg)
{
    client *m = arg;
    q3_status st = Q3_OK;
    for (bool ending = false; !ending;) {
        ending = wait_for_work(m, st != Q3_OK);
        st = send_all(m, ending);
        if (st != Q3_OK)
            complain(m, ending ? "it was tried once more" : "values are kept and sent later");
    }
    return NULL;
}

/* ---- the view ---- */

/* MLflow's names have letters, digits and _-. :/; the others become _, as transformers has it. */
static void clean(char *out, size_t bytes, const char *name)
{
    size_t n = 0;
    for (; name[n] && n + 1 < bytes; n++) {
        bool fits = ((name[n] | 32) >= 'a' && (name[n] | 32) <= 'z') || strchr("0123456789_-. :/", name[n]);
        out[n] = fits ? name[n] : '_';
    }
    out[n] = 0;
}

static cJSON *metric_of(const cJSON *value, const q3_log_call *call)
{
    char name[256];
    q3_text number = { 0 }; // of cJSON's own digits the last one may be missing
    cJSON *metric = cJSON_CreateObject();
    clean(name, sizeof name, value->string);
    q3_text_json_number(&number, value->valuedouble);
    bool whole = !number.failed && cJSON_AddRawToObject(metric, "value", number.data);
    q3_text_free(&number);
    if (whole && cJSON_AddStringToObject(metric, "key", name) &&
        cJSON_AddNumberToObject(metric, "timestamp", (double)(int64_t)(1e3 * call->time)) &&
        cJSON_AddNumberToObject(metric, "step", (double)call->step))
        return metric;
    cJSON_Delete(metric);
    return NULL;
}

static q3_status client_write(void *view, const q3_log_call *call)
{
    client *m = view;
    q3_status st = Q3_OK;
    pthread_mutex_lock(&m->lock);
    for (const cJSON *v = call->line->child; v; v = v->next) {
        if (!cJSON_IsNumber(v) || strcmp(v->string, "step") == 0)
            continue;
        cJSON *metric = m->kept < KEPT ? metric_of(v, call) : NULL;
        if (metric) {
            cJSON_AddItemToArray(m->queue, metric);
            m->kept++;
            continue;
        }
        m->lost++;
        st = m->kept < KEPT
                 ? Q3_ERR_MEMORY
                 : q3_fail(Q3_ERR_LIMIT, "%s is away for too long; later values are left out", m->shown);
    }
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
    return st;
}

/* The value of a key as a parameter: strings without quotes, long ones cut between characters. */
static q3_status add_param(cJSON *params, const q3_config *config, int id)
{
    q3_text value = { 0 };
    q3_json doc = { 0 };
    q3_config_value(&value, config, id);
    q3_status st = value.failed ? Q3_ERR_MEMORY : q3_json_parse(&doc, value.data, value.size, "config", 1);
    if (st == Q3_OK) {
        char *text = cJSON_IsString(doc.root) ? doc.root->valuestring : value.data;
        size_t n = strlen(text), cut = n < VALUE_BYTES ? n : VALUE_BYTES;
        while (cut < n && cut > 0 && ((unsigned char)text[cut] & 0xC0) == 0x80)
            cut--;
        text[cut] = 0;
        add_pair(params, q3_config_table[id].name, text);
    }
    q3_json_close(&doc);
    q3_text_free(&value);
    return st;
}

/* The address without the name and password that may stand in it. */
static char *public_address(const char *uri)
{
    const char *host = strstr(uri, "://") + 3, *at = memrchr(host, '@', strcspn(host, "/?#"));
    q3_text out = { 0 };
    q3_text_append(&out, uri, (size_t)(host - uri));
    q3_text_printf(&out, "%s", at ? at + 1 : host);
    return out.data;
}

static q3_status add_header(client *m, const char *line)
{
    struct curl_slist *longer = curl_slist_append(m->headers, line);
    m->headers = longer ? longer : m->headers;
    return longer ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_status make_headers(client *m)
{
    const char *token = environment("MLFLOW_TRACKING_TOKEN");
    q3_text line = { 0 };
    Q3_TRY(add_header(m, "Content-Type: application/json"));
    if (!token || (environment("MLFLOW_TRACKING_USERNAME") && environment("MLFLOW_TRACKING_PASSWORD")))
        return Q3_OK;
    q3_text_printf(&line, "Authorization: Bearer %s", token);
    q3_status st = line.failed ? Q3_ERR_MEMORY : add_header(m, line.data);
    q3_text_free(&line);
    return st;
}

static q3_status fill(client *m, const q3_view_run *run)
{
    const char *name = environment("MLFLOW_RUN_NAME"), *id = environment("MLFLOW_RUN_ID");
    Q3_TRY(q3_mlflow_check());
    m->uri = q3_strdup(environment("MLFLOW_TRACKING_URI"));
    for (size_t n = m->uri ? strlen(m->uri) : 0; n && m->uri[n - 1] == '/'; n--)
        m->uri[n - 1] = 0;
    m->shown = m->uri ? public_address(m->uri) : NULL;
    m->directory = q3_strdup(run->dir);
    m->name = q3_strdup(name ? name : q3_path_base(run->dir));
    m->run = id ? q3_strdup(id) : NULL;
    m->params = cJSON_CreateArray();
    m->metrics = cJSON_CreateArray();
    m->queue = cJSON_CreateArray();
    if (!m->shown || !m->directory || !m->name || (id && !m->run) || !m->params || !m->metrics || !m->queue)
        return Q3_ERR_MEMORY;
    for (int id_of_key = 0; id_of_key < Q3_CONFIG_KEYS; id_of_key++)
        Q3_TRY(add_param(m->params, run->config, id_of_key));
    return make_headers(m);
}

static void client_free(client *m)
{
    curl_slist_free_all(m->headers);
    cJSON_Delete(m->params);
    cJSON_Delete(m->metrics);
    cJSON_Delete(m->queue);
    q3_free(m->uri);
    q3_free(m->shown);
    q3_free(m->name);
    q3_free(m->directory);
    q3_free(m->experiment);
    q3_free(m->run);
    pthread_cond_destroy(&m->wake);
    pthread_mutex_destroy(&m->lock);
    q3_free(m);
}

static q3_status client_open(void **out, const q3_view_run *run)
{
    client *m = q3_calloc(1, sizeof *m);
    *out = NULL;
    if (!m)
        return Q3_ERR_MEMORY;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->wake, NULL);
    m->start = 1000 * (int64_t)time(NULL);
    q3_status st = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? fill(m, run) : Q3_ERR_MEMORY;
    if (st == Q3_OK && pthread_create(&m->thread, NULL, work, m) != 0)
        st = q3_fail(Q3_ERR_FAIL, "no thread can be started");
    if (st == Q3_OK)
        *out = m;
    else
        client_free(m);
    return st;
}

static q3_status client_close(void *view, q3_status how)
{
    client *m = view;
    pthread_mutex_lock(&m->lock);
    m->ending = true;
    m->how = how;
    m->deadline = q3_seconds() + CLOSE_SECONDS;
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
    pthread_join(m->thread, NULL);
    q3_status st = Q3_OK;
    if (m->kept + m->lost > 0)
        st = q3_fail(Q3_ERR_NETWORK, "%" PRId64 " values did not reach %s", m->kept + m->lost, m->shown);
    client_free(m);
    return st;
}

const q3_view_kind q3_mlflow = { "mlflow", client_open, client_write, client_close };
