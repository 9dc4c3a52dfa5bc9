/* Loads a running server with streams and looks at each of them: none may be lost, none may hold another's text, the
 * server's memory must stay flat, and all blocks of its cache must be free when it is idle again.
 *
 *   load_server URL [--streams N] [--seconds S] [--pid PID] [--idle N] [--model NAME]
 *
 * First each of 16 prompts is asked once, alone and not streamed; then N streams ask them at temperature 0 until the time is up,
 * and each answer is compared with the first. One stream in ten goes away after its first piece. --idle opens as many
 * connections more that say nothing. Prints one JSON object; exit 1 when something was wrong.
 */
#include <curl/curl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/json.h"

enum {
    PROMPTS = 16,
    MOST_STREAMS = 1024,
    MOST_TIMES = 1 << 20, // of a quantile
};

typedef struct options {
    const char *url, *model;
    int streams, idle;
    double seconds;
    long pid; // of the server, to read its memory; 0: not read
} options;

typedef struct stream {
    CURL *curl;
    int prompt;
    bool leaves;  // goes away after its first piece
    bool done;    // [DONE] was seen
    q3_text line; // of the event that is being read
    q3_text text; // of the answer so far
    double begun, first;
} stream;

typedef struct totals {
    long asked, answered, left, lost, mixed, refused, failed;
    double *first; // [n_first] seconds to the first piece
    long n_first;
    long pieces;
} totals;

static struct {
    options o;
    char *expected[PROMPTS];
    char chat[512];
    struct curl_slist *json;
    stream streams[MOST_STREAMS];
    totals t;
} load;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void stop(const char *what, const char *which)
{
    fprintf(stderr, "load_server: %s%s\n", what, which);
    exit(2);
}

/* The whole memory of a process in KiB as the kernel counts it, 0 when it cannot be read. */
static long resident_kib(long pid)
{
    char path[64], line[256];
    long kib = 0;
    snprintf(path, sizeof path, "/proc/%ld/status", pid);
    FILE *f = pid ? fopen(path, "r") : NULL;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmRSS: %ld", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib;
}

static char *question(int prompt, bool streamed)
{
    q3_text out = { 0 };
    q3_text_printf(&out, "{\"temperature\": 0, \"max_tokens\": %d, \"stream\": %s, ", 8 + 2 * prompt,
                   streamed ? "true" : "false");
    if (load.o.model)
        q3_text_printf(&out, "\"model\": \"%s\", ", load.o.model);
    q3_text_printf(
        &out,
        "\"messages\": [{\"role\": \"user\", \"content\": \"Text: Honestly, fantastic work once again! "
        "%d\\nIs this post sarcastic? Answer in JSON.\"}]}",
        prompt * 7 + 1);
    return out.data;
}

static size_t keep(char *data, size_t size, size_t n, void *arg)
{
    q3_text_append(arg, data, size * n);
    return size * n;
}

/* GET without a body, POST with one; the answer's text on the heap. */
static char *ask(const char *path, const char *body, long *status)
{
    q3_text out = { 0 };
    char url[512];
    CURL *c = curl_easy_init();
    snprintf(url, sizeof url, "%s%s", load.o.url, path);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, keep);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &out);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, load.json);
    if (body)
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
    if (curl_easy_perform(c) != CURLE_OK)
        stop("no answer from ", url);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, status);
    curl_easy_cleanup(c);
    return out.data;
}

/* What each prompt is answered with when nothing else runs. */
static void expect(void)
{
    for (int i = 0; i < PROMPTS; i++) {
        long status;
        char *body = question(i, false), *text = ask("/v1/chat/completions", body, &status);
        cJSON *json = cJSON_Parse(text);
        const cJSON *choice = cJSON_GetArrayItem(cJSON_GetObjectItem(json, "choices"), 0);
        const cJSON *content = cJSON_GetObjectItem(cJSON_GetObjectItem(choice, "message"), "content");
        if (status != 200 || !cJSON_IsString(content))
            stop("the first question was not answered: ", text ? text : "");
        load.expected[i] = strdup(content->valuestring);
        cJSON_Delete(json);
        q3_free(text);
        q3_free(body);
    }
}

/* One event of the stream. */
static void read_event(stream *s, const char *data)
{
    if (strcmp(data, "[DONE]") == 0) {
        s->done = true;
        return;
    }
    cJSON *json = cJSON_Parse(data);
    const cJSON *choice = cJSON_GetArrayItem(cJSON_GetObjectItem(json, "choices"), 0);
    const cJSON *content = cJSON_GetObjectItem(cJSON_GetObjectItem(choice, "delta"), "content");
    if (cJSON_IsString(content) && *content->valuestring) {
        if (s->first == 0)
            s->first = now();
        load.t.pieces++;
        q3_text_printf(&s->text, "%s", content->valuestring);
    }
    cJSON_Delete(json);
}

static size_t read_stream(char *data, size_t size, size_t n, void *arg)
{
    stream *s = arg;
    for (size_t i = 0; i < size * n; i++) {
        if (data[i] != '\n') {
            q3_text_append(&s->line, &data[i], 1);
            continue;
        }
        if (s->line.size > 6 && strncmp(s->line.data, "data: ", 6) == 0)
            read_event(s, s->line.data + 6);
        s->line.size = 0;
    }
    return s->leaves && s->first != 0 ? 0 : size * n; // 0 ends the transfer
}

static void begin(CURLM *multi, stream *s)
{
    s->prompt = (int)(load.t.asked % PROMPTS);
    s->leaves = load.t.asked % 10 == 9;
    s->done = false;
    s->first = 0;
    s->line.size = s->text.size = 0;
    s->begun = now();
    load.t.asked++;
    char *body = question(s->prompt, true);
    s->curl = curl_easy_init();
    curl_easy_setopt(s->curl, CURLOPT_URL, load.chat);
    curl_easy_setopt(s->curl, CURLOPT_HTTPHEADER, load.json);
    curl_easy_setopt(s->curl, CURLOPT_COPYPOSTFIELDS, body);
    curl_easy_setopt(s->curl, CURLOPT_WRITEFUNCTION, read_stream);
    curl_easy_setopt(s->curl, CURLOPT_WRITEDATA, s);
    curl_easy_setopt(s->curl, CURLOPT_PRIVATE, s);
    curl_multi_add_handle(multi, s->curl);
    q3_free(body);
}

static void judge(const stream *s, CURLcode code)
{
    totals *t = &load.t;
    long status = 0;
    curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status == 429 || status == 503)
        t->refused++;
    else if (s->leaves && code == CURLE_WRITE_ERROR)
        t->left++;
    else if (code != CURLE_OK || status != 200)
        t->failed++;
    else if (!s->done)
        t->lost++;
    else if (strcmp(s->text.size ? s->text.data : "", load.expected[s->prompt]) != 0)
        t->mixed++;
    else
        t->answered++;
    if (s->first != 0 && t->n_first < MOST_TIMES)
        t->first[t->n_first++] = s->first - s->begun;
}

/* Judges what has ended, and asks anew; the streams that are still open. */
static int finish(CURLM *multi, bool again)
{
    int left, open = 0;
    for (CURLMsg *m; (m = curl_multi_info_read(multi, &left));) {
        stream *s;
        if (m->msg != CURLMSG_DONE)
            continue;
        CURLcode code = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&s);
        judge(s, code);
        curl_multi_remove_handle(multi, s->curl);
        curl_easy_cleanup(s->curl);
        s->curl = NULL;
        if (again)
            begin(multi, s);
    }
    for (int i = 0; i < load.o.streams; i++)
        open += load.streams[i].curl != NULL;
    return open;
}

/* The server's address, from the URL. */
static struct addrinfo *address_of(void)
{
    struct addrinfo *found = NULL;
    char *host = NULL, *port = NULL;
    CURLU *url = curl_url();
    if (curl_url_set(url, CURLUPART_URL, load.o.url, 0) == CURLUE_OK &&
        curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
        curl_url_get(url, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK)
        getaddrinfo(host, port, &(struct addrinfo){ .ai_socktype = SOCK_STREAM }, &found);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(url);
    return found;
}

/* Connections that are opened and say nothing; their number. Sockets of our own, for curl takes three a connection. */
static int open_idle(int *idle)
{
    int n = 0;
    struct addrinfo *to = load.o.idle ? address_of() : NULL;
    for (int i = 0; i < load.o.idle; i++) {
        idle[i] = to ? socket(to->ai_family, to->ai_socktype, 0) : -1;
        // beyond the server's limit it is refused, which is fine
        n += idle[i] >= 0 && connect(idle[i], to->ai_addr, to->ai_addrlen) == 0;
    }
    if (to)
        freeaddrinfo(to);
    return n;
}

/* Runs the streams; the memory of the server when a tenth of the time was over, and at the end. */
static void run(long *early, long *late)
{
    CURLM *multi = curl_multi_init();
    double start = now();
    int moving, open = load.o.streams;
    for (int i = 0; i < load.o.streams; i++)
        begin(multi, &load.streams[i]);
    while (open) {
        double passed = now() - start;
        curl_multi_poll(multi, NULL, 0, 50, NULL);
        curl_multi_perform(multi, &moving);
        open = finish(multi, passed < load.o.seconds);
        if (!*early && passed > load.o.seconds / 10)
            *early = resident_kib(load.o.pid);
    }
    *late = resident_kib(load.o.pid);
    curl_multi_cleanup(multi);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(double q)
{
    return load.t.n_first ? load.t.first[(long)(q * (double)(load.t.n_first - 1))] : 0;
}

/* The value of a metric, -1 when it is not there. */
static double metric(const char *name)
{
    long status;
    char *text = ask("/metrics", NULL, &status);
    const char *at = text;
    double value = -1;
    while (at && (at = strstr(at, name))) {
        if ((at == text || at[-1] == '\n') && sscanf(at + strlen(name), " %lf", &value) == 1)
            break;
        at++;
    }
    q3_free(text);
    return value;
}

/* Blocks that are still in use when nothing runs any more; waits up to 5 s for what was left to be noticed. */
static double used_blocks(void)
{
    double used = 0;
    for (int i = 0; i < 50; i++) {
        used = metric("qwen3_sft:kv_blocks") - metric("qwen3_sft:kv_blocks_free");
        if (used == 0)
            break;
        nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
    }
    return used;
}

static void read_options(int argc, char **argv)
{
    load.o = (options){ .streams = 64, .seconds = 60 };
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--streams") == 0 && more)
            load.o.streams = atoi(argv[++i]);
        else if (strcmp(argv[i], "--seconds") == 0 && more)
            load.o.seconds = atof(argv[++i]);
        else if (strcmp(argv[i], "--pid") == 0 && more)
            load.o.pid = atol(argv[++i]);
        else if (strcmp(argv[i], "--idle") == 0 && more)
            load.o.idle = atoi(argv[++i]);
        else if (strcmp(argv[i], "--model") == 0 && more)
            load.o.model = argv[++i];
        else if (argv[i][0] != '-' && !load.o.url)
            load.o.url = argv[i];
        else
            stop("unknown option ", argv[i]);
    }
    if (!load.o.url || load.o.streams < 1 || load.o.streams > MOST_STREAMS)
        stop("usage: load_server URL [--streams N] [--seconds S] [--pid PID] [--idle N] [--model NAME]", "");
}

static void release(int *idle)
{
    for (int i = 0; i < load.o.idle; i++)
        if (idle[i] >= 0)
            close(idle[i]);
    free(idle);
    for (int i = 0; i < load.o.streams; i++) {
        q3_text_free(&load.streams[i].line);
        q3_text_free(&load.streams[i].text);
    }
    for (int i = 0; i < PROMPTS; i++)
        free(load.expected[i]);
    free(load.t.first);
    curl_slist_free_all(load.json);
    curl_global_cleanup();
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    snprintf(load.chat, sizeof load.chat, "%s/v1/chat/completions", load.o.url);
    load.json = curl_slist_append(NULL, "Content-Type: application/json");
    load.t.first = calloc(MOST_TIMES, sizeof *load.t.first);
    int *idle = calloc((size_t)load.o.idle + 1, sizeof *idle);
    expect();
    int n_idle = open_idle(idle);
    long early = 0, late = 0;
    double start = now();
    run(&early, &late);
    double seconds = now() - start, used = used_blocks();
    const totals *t = &load.t;
    qsort(t->first, (size_t)t->n_first, sizeof *t->first, ascending);
    printf("{\"seconds\": %.1f, \"asked\": %ld, \"answered\": %ld, \"left\": %ld, \"refused\": %ld, "
           "\"lost\": %ld, "
           "\"mixed\": %ld, \"failed\": %ld, \"pieces_per_second\": %.1f, \"first_piece_p50\": %.3f, "
           "\"first_piece_p99\": %.3f, \"idle\": %d, \"used_blocks\": %.0f, \"resident_kib\": [%ld, %ld]}\n",
           seconds, t->asked, t->answered, t->left, t->refused, t->lost, t->mixed, t->failed,
           (double)t->pieces / seconds, quantile(0.5), quantile(0.99), n_idle, used, early, late);
    release(idle);
    // a tenth more than early on is fragmentation; what leaks a block or a stream's buffers grows by far more
    bool flat = late <= early + early / 10;
    return t->lost || t->mixed || t->failed || used != 0 || !t->answered || !flat;
}
