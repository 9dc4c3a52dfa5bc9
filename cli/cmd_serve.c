/* serve: a model behind HTTP, as OpenAI's clients, llama-server's and Cog's expect it. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/model_options.h"
#include "core/file.h"
#include "core/group.h"
#include "core/log.h"
#include "serve/api_cog.h"
#include "serve/api_openai.h"

enum {
    KEYS_MAX = 64,
    KEY_FILE_BYTES = 1 << 20,
    OPENAI_PORT = 8000,
    COG_PORT = 5000,
    LAST_WORDS_SECONDS = 5, // for answers that are complete to reach their clients
};

static const q3_option options[] = {
    { .name = "api",
      .kind = Q3_OPTION_VALUE,
      .value = "all|openai|cog",
      .initial = "all",
      .help = "cog: Cog's contract alone" },
    { .name = "host",
      .kind = Q3_OPTION_VALUE,
      .value = "ADDRESS",
      .help = "default: 127.0.0.1; cog: 0.0.0.0" },
    { .name = "port",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "0: any free one (default: 8000; cog: 5000)" },
    { .name = "api-key",
      .kind = Q3_OPTION_VALUE,
      .value = "KEY",
      .help = "needed by clients",
      .repeats = true },
    { .name = "api-key-file", .kind = Q3_OPTION_VALUE, .value = "FILE", .help = "keys, one a line" },
    { .name = "cors",
      .kind = Q3_OPTION_VALUE,
      .value = "ORIGIN",
      .help = "pages of this origin may ask; *: all" },
    { .name = "allow-remote-images", .kind = Q3_OPTION_FLAG, .help = "fetch pictures by URL (cog: always)" },
    { .name = "media-path",
      .kind = Q3_OPTION_VALUE,
      .value = "DIR",
      .help = "file:// URLs name files below it" },
    { .name = "max-running",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .initial = "16",
      .help = "computed at a time" },
    { .name = "max-waiting",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .initial = "64",
      .help = "more get status 429" },
    { .name = "max-new-tokens-limit",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "longest answer that a request may ask for" },
    { .name = "max-seconds",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "an answer ends after them; 0: never" },
    { .name = "max-body",
      .kind = Q3_OPTION_VALUE,
      .value = "MIB",
      .initial = "100",
      .help = "size of a request" },
    { .name = "max-connections",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .initial = "256",
      .help = "at a time" },
    { .name = "idle-seconds",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .initial = "60",
      .help = "a silent connection is closed" },
    { .name = "request-seconds",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .initial = "120",
      .help = "for a client to send its request" },
    { .name = "drain-seconds",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .initial = "30",
      .help = "for answers to end, after SIGTERM" },
    { .name = "cog-task",
      .kind = Q3_OPTION_VALUE,
      .value = "generate|rerank",
      .initial = "generate",
      .help = "what predictions do" },
    { .name = "cog-concurrency",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "predictions at a time (default: 1)" },
    { .name = "webhooks",
      .kind = Q3_OPTION_VALUE,
      .value = "any|public|off",
      .help = "where they may go (default: public; cog: any)" },
    { .name = "print-openapi",
      .kind = Q3_OPTION_FLAG,
      .help = "print the schema of predictions, load nothing" },
};

typedef enum api { API_ALL, API_OPENAI, API_COG } api;

typedef struct serving {
    const q3_options *o;
    api api;
    double drain_seconds;
    q3_app app;
    q3_cog *cog;
    q3_server *server;
    q3_session session;
    q3_reranker *reranker;
    q3_service_options limits;
    const char *keys[KEYS_MAX];
    int n_keys;
    pthread_t listener; // of signals
    atomic_int signal;  // the first that came
} serving;

/* ---- options ---- */

/* What generate understands of the options for answers, and a server does not: requests say these
 * themselves. */
static q3_status refuse_others(const q3_options *o)
{
    static const char *const others[] = { "regex", "json-schema", "logprobs", "num-beams", "system" };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (q3_options_given(o, others[i]))
            return q3_fail(Q3_ERR_USAGE, "serve takes no --%s; each request brings its own", others[i]);
    return Q3_OK;
}

static q3_status add_key(serving *s, const char *key)
{
    if (!*key)
        return q3_fail(Q3_ERR_USAGE, "--api-key is empty");
    if (s->n_keys == KEYS_MAX)
        return q3_fail(Q3_ERR_USAGE, "there are more than %d keys", KEYS_MAX);
    s->keys[s->n_keys++] = key;
    return Q3_OK;
}

static q3_status read_key_file(serving *s, const char *path, q3_arena *mem)
{
    char *text, *rest = NULL;
    size_t n;
    Q3_TRY(q3_status_as(q3_file_read(&text, &n, path, KEY_FILE_BYTES), Q3_ERR_USAGE));
    q3_status st = Q3_OK;
    for (char *line = strtok_r(text, "\r\n", &rest); line && st == Q3_OK;
         line = strtok_r(NULL, "\r\n", &rest)) {
        char *key = q3_arena_strdup(mem, line);
        st = key ? add_key(s, key) : Q3_ERR_MEMORY;
    }
    q3_free(text);
    if (st == Q3_OK && !s->n_keys)
        st = q3_fail(Q3_ERR_USAGE, "--api-key-file %s holds no key", path);
    return st;
}

static q3_status read_keys(serving *s, q3_arena *mem)
{
    const char *key, *file = q3_options_get(s->o, "api-key-file");
    for (int i = 0; (key = q3_options_nth(s->o, "api-key", i)); i++)
        Q3_TRY(add_key(s, key));
    return file ? read_key_file(s, file, mem) : Q3_OK;
}

static q3_status read_int(int *out, const q3_options *o, const char *name, int64_t def, int64_t min,
                          int64_t max)
{
    int64_t value;
    Q3_TRY(q3_options_int(&value, o, name, def, min, max));
    *out = (int)value;
    return Q3_OK;
}

static q3_status read_server(q3_server_options *out, serving *s, q3_arena *mem)
{
    const q3_options *o = s->o;
    int64_t mib;
    Q3_TRY(read_keys(s, mem));
    *out = (q3_server_options){ .host = q3_options_get(o, "host"),
                                .keys = s->keys,
                                .n_keys = s->n_keys,
                                .cors = q3_options_get(o, "cors"),
                                .app = &s->app };
    if (!out->host)
        out->host = s->api == API_COG ? "0.0.0.0" : "127.0.0.1";
    Q3_TRY(read_int(&out->port, o, "port", s->api == API_COG ? COG_PORT : OPENAI_PORT, 0, 65535));
    Q3_TRY(q3_options_int(&mib, o, "max-body", 0, 1, 1 << 20));
    out->body_bytes = (size_t)mib << 20;
    Q3_TRY(read_int(&out->connections, o, "max-connections", 0, 1, 60000));
    Q3_TRY(read_int(&out->idle_seconds, o, "idle-seconds", 0, 1, 86400));
    return read_int(&out->request_seconds, o, "request-seconds", 0, 1, 86400);
}

static q3_status read_cog(q3_cog_options *out, const serving *s)
{
    static const char *const tasks[] = { "generate", "rerank", NULL };
    static const char *const rules[] = { "any", "public", "off", NULL };
    const char *most = getenv("COG_MAX_CONCURRENCY"), *interval = getenv("COG_THROTTLE_RESPONSE_INTERVAL");
    int task, rule, def = most && atoi(most) > 0 ? atoi(most) : 1;
    Q3_TRY(q3_options_choice(&task, s->o, "cog-task", 0, tasks));
    Q3_TRY(q3_options_choice(&rule, s->o, "webhooks", s->api == API_COG ? 0 : 1, rules));
    *out = (q3_cog_options){ .task = (q3_cog_task)task,
                             .webhooks = (q3_webhook_rule)rule,
                             .webhook_token = getenv("WEBHOOK_AUTH_TOKEN"),
                             .webhook_interval = interval ? atof(interval) : 0 };
    return read_int(&out->max_concurrency, s->o, "cog-concurrency", def, 1, 1000);
}

static q3_status read_limits(serving *s)
{
    int seconds;
    const q3_options *o = s->o;
    Q3_TRY(read_int(&s->limits.max_running, o, "max-running", 0, 1, 4096));
    Q3_TRY(read_int(&s->limits.max_waiting, o, "max-waiting", 0, 0, 1 << 20));
    Q3_TRY(read_int(&seconds, o, "max-seconds", 0, 0, 86400));
    s->limits.max_seconds = seconds;
    Q3_TRY(read_int(&seconds, o, "drain-seconds", 0, 0, 86400));
    s->drain_seconds = seconds;
    Q3_TRY(q3_options_int(&s->app.max_new_tokens_limit, o, "max-new-tokens-limit", 0, 1, INT32_MAX));
    s->app.pictures.remote = s->api == API_COG || q3_options_given(o, "allow-remote-images");
    s->app.pictures.media_dir = q3_options_get(o, "media-path");
    if (s->app.pictures.media_dir && !q3_dir_exists(s->app.pictures.media_dir))
        return q3_fail(Q3_ERR_USAGE, "--media-path %s is no directory", s->app.pictures.media_dir);
    return Q3_OK;
}

/* ---- signals ---- */

/* After a signal the server takes no more connections and the service no more orders; the second one ends
 * at once what runs. SIGUSR1 ends this thread. While the model is being loaded there is nothing to end in
 * order. */
static void *listen_to_signals(void *arg)
{
    serving *s = arg;
    sigset_t set;
    int signal;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    while (sigwait(&set, &signal) == 0 && signal != SIGUSR1) {
        if (!atomic_load(&s->app.ready))
            _exit(128 + signal);
        int none = 0;
        bool first = atomic_compare_exchange_strong(&s->signal, &none, signal);
        q3_info("%s: %s", signal == SIGINT ? "SIGINT" : "SIGTERM",
                first ? "no more requests are taken; running ones end" : "running requests are cut short");
        if (first)
            q3_server_quiesce(s->server);
        q3_service_drain(s->app.service, first ? s->drain_seconds : 0);
    }
    return NULL;
}

static q3_status take_signals(serving *s)
{
    return pthread_create(&s->listener, NULL, listen_to_signals, s) == 0
               ? Q3_OK
               : q3_fail(Q3_ERR_MEMORY, "no thread could be started for signals");
}

static void block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void shut_down(void *arg)
{
    pthread_kill(((serving *)arg)->listener, SIGTERM);
}

/* ---- the model ---- */

static void open_reranker(serving *s)
{
    const q3_reranker_options plain = { 0 };
    q3_app *app = &s->app;
    if (q3_reranker_create(&s->reranker, &s->session.model, &s->session.prompter, &plain) == Q3_OK)
        app->reranker = s->reranker;
    else
        snprintf(app->why_no_reranker, sizeof app->why_no_reranker, "%s", q3_error());
}

static q3_status open_model(serving *s, q3_sampling_settings *sampling)
{
    q3_model_settings settings;
    Q3_TRY(q3_model_settings_read(&settings, s->o));
    settings.session.scheduler.max_running = s->limits.max_running;
    Q3_TRY(q3_model_settings_open(&s->session, &settings, s->o));
    Q3_TRY(q3_sampling_settings_read(sampling, s->o, &s->session.model.config.generation));
    s->limits.lookup = sampling->lookup;
    open_reranker(s);
    q3_app *app = &s->app;
    app->session = &s->session;
    app->default_adapter = q3_session_first_adapter(&s->session);
    app->sampling = sampling->sampling;
    app->seeded = q3_options_given(s->o, "seed");
    app->stops = sampling->stops;
    app->n_stops = sampling->n_stops;
    app->max_new_tokens = sampling->max_new_tokens;
    app->pictures.image = s->session.prompter.image;
    return q3_service_create(&app->service, &s->session, &s->limits);
}

/* Cog's supervisor on Kubernetes looks for this file. */
static void tell_kubernetes(void)
{
    if (getenv("KUBERNETES_SERVICE_HOST") && q3_dir_create("/var/run/cog") == Q3_OK)
        q3_file_write("/var/run/cog/ready", "", 0);
}

/* Serves until a signal; the model is loaded while the server already says that it is. */
static q3_status serve_model(serving *s)
{
    q3_sampling_settings sampling;
    Q3_TRY(open_model(s, &sampling));
    s->app.loaded_at = time(NULL);
    atomic_store(&s->app.ready, true);
    if (s->api != API_OPENAI)
        tell_kubernetes();
    q3_info("ready       after %lld s", (long long)(s->app.loaded_at - s->app.started_at));
    bool all_answered = q3_service_run(s->app.service);
    bool all_sent = q3_server_wait(s->server, LAST_WORDS_SECONDS);
    int signal = atomic_load(&s->signal);
    if (all_answered && all_sent)
        return Q3_OK;
    return q3_fail(signal == SIGINT ? Q3_ERR_INTERRUPTED : Q3_ERR_TERMINATED,
                   "answers were cut short: %g s were not enough for them (--drain-seconds)",
                   s->drain_seconds);
}

static void close_all(serving *s)
{
    q3_server_stop(s->server);
    q3_cog_destroy(s->cog);
    q3_service_destroy(s->app.service);
    q3_reranker_destroy(s->reranker);
    q3_session_close(&s->session);
}

/* ---- the command ---- */

static q3_status start_server(serving *s, q3_server_options *o)
{
    static const q3_face *const all[] = { &q3_openai_face, &q3_cog_face_beside };
    static const q3_face *const cog[] = { &q3_cog_face };
    o->faces = s->api == API_COG ? cog : all;
    o->n_faces = s->api == API_ALL ? 2 : 1;
    s->app.started_at = time(NULL);
    Q3_TRY(q3_server_start(&s->server, o));
    s->app.server = s->server;
    q3_info("listening   http://%s:%d/", o->host, q3_server_port(s->server));
    bool local =
        strncmp(o->host, "127.", 4) == 0 || strcmp(o->host, "localhost") == 0 || strcmp(o->host, "::1") == 0;
    if (!local && !o->n_keys)
        q3_warn("anybody who reaches %s can use this server; --api-key asks for a key", o->host);
    return Q3_OK;
}

/* Of the processes that mpirun has started the first serves; the others compute their share until it ends. */
static q3_status follow(serving *s)
{
    q3_sampling_settings sampling;
    block_signals();
    q3_status st = open_model(s, &sampling);
    close_all(s);
    return st;
}

static q3_status serve(serving *s, q3_arena *mem)
{
    q3_server_options server;
    q3_cog_options cog;
    Q3_TRY(read_limits(s));
    Q3_TRY(read_server(&server, s, mem));
    Q3_TRY(read_cog(&cog, s));
    Q3_TRY(refuse_others(s->o));
    Q3_TRY(q3_sampling_settings_check(s->o));
    if (q3_group_follows())
        return follow(s);
    if (s->api == API_COG)
        cog.shut_down = shut_down;
    cog.arg = s;
    block_signals();
    Q3_TRY(q3_cog_create(&s->cog, &s->app, &cog));
    q3_status st = take_signals(s);
    if (st == Q3_OK) {
        st = start_server(s, &server);
        st = st ? st : serve_model(s);
        pthread_kill(s->listener, SIGUSR1);
        pthread_join(s->listener, NULL);
    }
    close_all(s);
    return st;
}

static q3_status print_schema(const q3_options *o)
{
    q3_text text = { 0 };
    const serving s = { .o = o };
    q3_cog_options cog;
    Q3_TRY(read_cog(&cog, &s));
    q3_cog_schema_write(&text, cog.task);
    q3_text_append(&text, "\n", 1);
    return q3_options_print(&text);
}

static q3_status run(const q3_options *o)
{
    static const char *const apis[] = { "all", "openai", "cog", NULL };
    q3_arena mem;
    int which;
    const char *model;
    if (q3_options_given(o, "print-openapi"))
        return print_schema(o);
    Q3_TRY(q3_options_choice(&which, o, "api", 0, apis));
    Q3_TRY(q3_model_place(&model, o)); // before anything listens
    serving *s = q3_calloc(1, sizeof *s);
    if (!s)
        return Q3_ERR_MEMORY;
    s->o = o;
    s->api = (api)which;
    q3_status st = q3_arena_create(&mem, "settings", 16u << 20);
    if (st == Q3_OK) {
        st = serve(s, &mem);
        q3_arena_destroy(&mem);
    }
    q3_free(s);
    return st;
}

const q3_command q3_command_serve = {
    .name = "serve",
    .summary = "answer over HTTP, as OpenAI's and Cog's clients expect it",
    .usage = "--model DIR [--api all|openai|cog] [options]",
    .example = "serve --model models/Qwen3-VL-2B-Instruct --api-key secret",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .lists = { &q3_model_list, &q3_sampling_list },
    .groups = Q3_COMMAND_ENGINE | Q3_COMMAND_HUB | Q3_COMMAND_RANKS,
    .run = run,
};
