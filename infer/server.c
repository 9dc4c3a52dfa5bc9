#include "infer/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "core/log.h"

enum {
    DEFAULT_CONNECTIONS = 256,
    DEFAULT_WORKERS = 4,
    DEFAULT_IDLE = 60,
    DEFAULT_REQUEST = 120,
    MAX_WORKERS = 64,
    STREAM_BLOCK = 16 << 10, // bytes that libmicrohttpd asks for at a time
    WATCH_MS = 100,          // between two looks at who has hung up
    ID_BYTES = 16,
};

#define DEFAULT_BODY ((size_t)100 << 20)

/* What is too large is read and dropped up to this multiple of the limit, so that the client can hear why. */
enum { PATIENCE = 2 };

typedef enum stage { READING, WORKING, ANSWERING } stage;

typedef struct q3_connection {
    q3_exchange x; // first: an exchange is its connection
    q3_server *server;
    struct MHD_Connection *mhd;
    const q3_route *route;
    stage stage;
    int fd;
    double began;
    char *method, *path, *param;
    char *body;
    size_t size, capacity;
    int refusal;    // status of an answer that is given once the body has been read; 0: none
    size_t sent;    // of x.out, while streaming
    uint64_t bytes; // of the answer
    bool complete;  // nothing more comes from poll
    bool watched;   // x.gone may be called
    struct q3_connection *before, *after; // the server's list
    struct q3_connection *next_work;
} connection;

struct q3_server {
    q3_server_options options;
    struct MHD_Daemon *daemon;
    int port;
    pthread_t threads[MAX_WORKERS], watcher;
    int n_threads;
    bool watching;
    pthread_mutex_t lock; // all below, and `watched`
    pthread_cond_t work, over;
    connection *first_work, *last_work;
    connection *all;
    bool stop;
    q3_server_stats stats;
};

static const char *const opening_key = "Bearer ";

/* ---- routes and keys ---- */

bool q3_route_matches(const char *pattern, const char *path, const char **param, size_t *param_bytes)
{
    *param = "";
    *param_bytes = 0;
    while (*pattern) {
        if (*pattern != '{') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        *param = path;
        *param_bytes = strcspn(path, "/");
        if (!*param_bytes)
            return false;
        path += *param_bytes;
        pattern = strchr(pattern, '}') + 1;
    }
    return *path == 0;
}

/* Every byte of the longer text is looked at, so that the time tells nothing of where they differ. */
static bool same_secret(const char *key, const char *given)
{
    size_t n = strlen(key), m = strlen(given);
    unsigned differ = n != m;
    for (size_t i = 0; i < m; i++)
        differ |= (unsigned char)given[i] ^ (unsigned char)(n ? key[i % n] : 0);
    return !differ;
}

bool q3_server_key_fits(const char *const *keys, int n_keys, const char *authorization)
{
    bool fits = false;
    size_t n = strlen(opening_key);
    if (!authorization || strncasecmp(authorization, opening_key, n) != 0)
        return false;
    for (int i = 0; i < n_keys; i++)
        fits |= same_secret(keys[i], authorization + n);
    return fits;
}

/* The route of a path and method. Without: the status, and the methods that the path has. */
static int find_route(connection *c, const char *url, char *allow, size_t allow_bytes)
{
    int status = MHD_HTTP_NOT_FOUND;
    const q3_server_options *o = &c->server->options;
    for (int f = 0; f < o->n_faces; f++)
        for (int i = 0; i < o->faces[f]->n_routes; i++) {
            const q3_route *r = &o->faces[f]->routes[i];
            const char *param;
            size_t n;
            if (!q3_route_matches(r->path, url, &param, &n))
                continue;
            c->x.face = o->faces[f];
            if (strcmp(r->method, c->x.method) == 0 ||
                (strcmp(c->x.method, "HEAD") == 0 && strcmp(r->method, "GET") == 0)) {
                c->route = r;
                c->param = q3_malloc(n + 1);
                if (!c->param)
                    return MHD_HTTP_SERVICE_UNAVAILABLE;
                memcpy(c->param, param, n);
                c->param[n] = 0;
                c->x.param = c->param;
                return 0;
            }
            status = MHD_HTTP_METHOD_NOT_ALLOWED;
            size_t used = strlen(allow);
            snprintf(allow + used, allow_bytes - used, "%s%s", used ? ", " : "", r->method);
        }
    return status;
}

/* ---- exchanges ---- */

const char *q3_exchange_header(const q3_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection->mhd, MHD_HEADER_KIND, name);
}

const char *q3_exchange_query(const q3_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection->mhd, MHD_GET_ARGUMENT_KIND, name);
}

static void fail_with(q3_exchange *x, int status, const char *sentence)
{
    x->out.size = 0;
    x->poll = NULL;
    x->streaming = false;
    x->type = NULL;
    x->status = status;
    x->face->fail(x, status, sentence);
}

void q3_exchange_fail(q3_exchange *x, int status, const char *fmt, ...)
{
    char sentence[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, args);
    va_end(args);
    fail_with(x, status, sentence);
}

int q3_http_status(q3_status st)
{
    switch (st) {
    case Q3_OK:
        return MHD_HTTP_OK;
    case Q3_ERR_FORMAT:
    case Q3_ERR_LIMIT:
    case Q3_ERR_USAGE:
    case Q3_ERR_DATA:
    case Q3_ERR_NETWORK: // a picture that could not be fetched
        return MHD_HTTP_BAD_REQUEST;
    case Q3_ERR_MEMORY:
        return MHD_HTTP_SERVICE_UNAVAILABLE;
    default:
        return MHD_HTTP_INTERNAL_SERVER_ERROR;
    }
}

void q3_exchange_fail_status(q3_exchange *x, q3_status st)
{
    fail_with(x, q3_http_status(st), *q3_error() ? q3_error() : "the request failed");
}

void q3_exchange_sleep(void *x)
{
    MHD_suspend_connection(((q3_exchange *)x)->connection->mhd);
}

void q3_exchange_wake(void *x)
{
    MHD_resume_connection(((q3_exchange *)x)->connection->mhd);
}

/* ---- answers ---- */

static ssize_t read_stream(void *arg, uint64_t pos, char *buf, size_t max)
{
    connection *c = arg;
    (void)pos;
    while (c->sent == c->x.out.size) {
        if (c->complete)
            return MHD_CONTENT_READER_END_OF_STREAM;
        c->sent = c->x.out.size = 0;
        q3_poll p = c->x.poll(&c->x);
        if (c->x.out.failed)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (p == Q3_POLL_ASLEEP)
            return 0;
        c->complete = p == Q3_POLL_DONE;
    }
    size_t n = c->x.out.size - c->sent < max ? c->x.out.size - c->sent : max;
    memcpy(buf, c->x.out.data + c->sent, n);
    c->sent += n;
    c->bytes += n;
    return (ssize_t)n;
}

static void add_cors(const connection *c, struct MHD_Response *r)
{
    if (!c->server->options.cors)
        return;
    MHD_add_response_header(r, "Access-Control-Allow-Origin", c->server->options.cors);
    MHD_add_response_header(r, "Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id");
    MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST, PUT, OPTIONS");
    MHD_add_response_header(r, "Vary", "Origin");
}

static void add_headers(const connection *c, struct MHD_Response *r)
{
    const q3_exchange *x = &c->x;
    char number[16];
    MHD_add_response_header(r, "Content-Type", x->type ? x->type : "application/json");
    MHD_add_response_header(r, "X-Request-Id", x->id);
    if (x->retry_after > 0) {
        snprintf(number, sizeof number, "%d", x->retry_after);
        MHD_add_response_header(r, "Retry-After", number);
    }
    if (x->allow)
        MHD_add_response_header(r, "Allow", x->allow);
    if (x->status == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (x->streaming) { // proxies are not to collect it
        MHD_add_response_header(r, "Cache-Control", "no-cache");
        MHD_add_response_header(r, "X-Accel-Buffering", "no");
    }
    add_cors(c, r);
}

static enum MHD_Result send_answer(connection *c)
{
    q3_exchange *x = &c->x;
    if (x->out.failed) { // no memory for the answer: say at least that
        static const char sentence[] =
            "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\"}}";
        q3_text_free(&x->out);
        x->streaming = false;
        x->status = MHD_HTTP_SERVICE_UNAVAILABLE;
        q3_text_append(&x->out, sentence, sizeof sentence - 1);
    }
    x->status = x->status ? x->status : MHD_HTTP_OK;
    struct MHD_Response *r =
        x->streaming ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, c, NULL)
                     : MHD_create_response_from_buffer(x->out.size, x->out.data, MHD_RESPMEM_PERSISTENT);
    if (!r)
        return MHD_NO;
    if (!x->streaming)
        c->bytes = x->out.size;
    add_headers(c, r);
    enum MHD_Result queued = MHD_queue_response(c->mhd, (unsigned)x->status, r);
    MHD_destroy_response(r);
    return queued;
}

/* Asks for the answer; a stream begins with its first piece, anything else when it is complete. */
static enum MHD_Result answer(connection *c)
{
    while (c->x.poll && !c->complete && !(c->x.streaming && c->x.out.size)) {
        q3_poll p = c->x.poll(&c->x);
        if (p == Q3_POLL_ASLEEP)
            return MHD_YES;
        c->complete = p == Q3_POLL_DONE;
    }
    return send_answer(c);
}

/* ---- workers ---- */

static connection *next_work(q3_server *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->first_work && !s->stop)
        pthread_cond_wait(&s->work, &s->lock);
    connection *c = s->first_work;
    if (c) {
        s->first_work = c->next_work;
        if (!s->first_work)
            s->last_work = NULL;
    }
    pthread_mutex_unlock(&s->lock);
    return c;
}

static void *work(void *arg)
{
    q3_server *s = arg;
    for (connection *c; (c = next_work(s)) != NULL;) {
        c->route->handle(&c->x);
        pthread_mutex_lock(&s->lock);
        c->watched = c->x.gone != NULL;
        c->stage = ANSWERING;
        pthread_mutex_unlock(&s->lock);
        MHD_resume_connection(c->mhd);
    }
    return NULL;
}

static enum MHD_Result hand_to_worker(connection *c)
{
    q3_server *s = c->server;
    c->stage = WORKING;
    MHD_suspend_connection(c->mhd);
    pthread_mutex_lock(&s->lock);
    if (s->last_work)
        s->last_work->next_work = c;
    else
        s->first_work = c;
    s->last_work = c;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    return MHD_YES;
}

/* ---- requests ---- */

static void choose_id(connection *c)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    unsigned char random[ID_BYTES] = { 0 };
    const char *given = MHD_lookup_connection_value(c->mhd, MHD_HEADER_KIND, "X-Request-Id");
    if (given && *given && strlen(given) < sizeof c->x.id && strspn(given, letters) == strlen(given)) {
        snprintf(c->x.id, sizeof c->x.id, "%s", given);
        return;
    }
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        memcpy(random, &c->began, sizeof c->began);
    for (int i = 0; i < ID_BYTES; i++)
        snprintf(c->x.id + 2 * i, 3, "%02x", random[i]);
}

static void link_connection(q3_server *s, connection *c)
{
    pthread_mutex_lock(&s->lock);
    c->after = s->all;
    if (s->all)
        s->all->before = c;
    s->all = c;
    s->stats.requests++;
    s->stats.open++;
    pthread_mutex_unlock(&s->lock);
}

static void unlink_connection(q3_server *s, connection *c)
{
    pthread_mutex_lock(&s->lock);
    *(c->before ? &c->before->after : &s->all) = c->after;
    if (c->after)
        c->after->before = c->before;
    s->stats.open--;
    s->stats.by_class[c->x.status >= 100 && c->x.status < 600 ? c->x.status / 100 : 0]++;
    pthread_cond_broadcast(&s->over);
    pthread_mutex_unlock(&s->lock);
}

static void free_connection(connection *c)
{
    if (c->x.release)
        c->x.release(c->x.state);
    q3_text_free(&c->x.out);
    q3_free(c->body);
    q3_free(c->param);
    q3_free(c->path);
    q3_free(c->method);
    q3_free(c);
}

static void refuse(connection *c, int status, const char *allow)
{
    c->refusal = status;
    if (status == MHD_HTTP_NOT_FOUND)
        q3_exchange_fail(&c->x, status, "there is no %.200s here", c->x.path);
    else if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        q3_exchange_fail(&c->x, status, "%.200s takes %s, not %.20s", c->x.path, allow, c->x.method);
    else if (status == MHD_HTTP_UNAUTHORIZED)
        q3_exchange_fail(&c->x, status, "a valid key is needed: Authorization: Bearer KEY");
    else if (status == MHD_HTTP_CONTENT_TOO_LARGE)
        q3_exchange_fail(&c->x, status, "the body has more than the %zu bytes that are allowed",
                         c->server->options.body_bytes);
    else
        q3_exchange_fail(&c->x, status, "out of memory");
}

/* Origins ask by OPTIONS before they send. */
static bool is_preflight(const connection *c)
{
    return c->server->options.cors && strcmp(c->x.method, "OPTIONS") == 0;
}

static void judge_head(connection *c)
{
    char allow[64] = "";
    const q3_server_options *o = &c->server->options;
    if (is_preflight(c)) {
        c->refusal = c->x.status = MHD_HTTP_NO_CONTENT;
        return;
    }
    int status = find_route(c, c->x.path, allow, sizeof allow);
    if (status) {
        refuse(c, status, allow);
        if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
            c->x.allow = c->param = q3_strdup(allow);
        return;
    }
    if (o->n_keys && !c->route->open &&
        !q3_server_key_fits(o->keys, o->n_keys, q3_exchange_header(&c->x, "Authorization")))
        refuse(c, MHD_HTTP_UNAUTHORIZED, NULL);
}

static enum MHD_Result begin(q3_server *s, struct MHD_Connection *mhd, const char *url, const char *method,
                             void **slot)
{
    connection *c = *slot = q3_calloc(1, sizeof *c);
    if (!c)
        return MHD_NO;
    c->server = s;
    c->mhd = mhd;
    c->began = q3_seconds();
    c->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    c->method = q3_strdup(method);
    c->path = q3_strdup(url);
    c->x = (q3_exchange){ .app = s->options.app,
                          .face = s->options.faces[0],
                          .method = c->method ? c->method : "",
                          .path = c->path ? c->path : "",
                          .param = "",
                          .body = "",
                          .connection = c };
    link_connection(s, c);
    choose_id(c);
    judge_head(c);
    return MHD_YES;
}

static bool take_body(connection *c, const char *bytes, size_t n)
{
    size_t limit = c->server->options.body_bytes;
    c->size += n;
    if (c->size > limit && !c->refusal)
        refuse(c, MHD_HTTP_CONTENT_TOO_LARGE, NULL);
    if (c->refusal)
        return c->size / PATIENCE <= limit;
    if (c->size + 1 > c->capacity) {
        size_t capacity = 2 * c->size + 1 < limit + 1 ? 2 * c->size + 1 : limit + 1;
        char *more = q3_realloc(c->body, capacity);
        if (!more) {
            refuse(c, MHD_HTTP_SERVICE_UNAVAILABLE, NULL);
            return true;
        }
        c->body = more;
        c->capacity = capacity;
    }
    memcpy(c->body + c->size - n, bytes, n);
    c->body[c->size] = 0;
    return true;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *mhd, const char *url, const char *method,
                                  const char *version, const char *bytes, size_t *n, void **slot)
{
    connection *c = *slot;
    (void)version;
    if (!c)
        return begin(arg, mhd, url, method, slot);
    if (c->stage != READING)
        return answer(c);
    if (*n) {
        bool go_on = take_body(c, bytes, *n);
        *n = 0;
        return go_on ? MHD_YES : MHD_NO;
    }
    if (c->refusal)
        return send_answer(c);
    if (c->body) {
        c->x.body = c->body;
        c->x.body_bytes = c->size;
    }
    return hand_to_worker(c);
}

static void on_completed(void *arg, struct MHD_Connection *mhd, void **slot,
                         enum MHD_RequestTerminationCode how)
{
    q3_server *s = arg;
    connection *c = *slot;
    (void)mhd;
    if (!c)
        return;
    if (how != MHD_REQUEST_TERMINATED_COMPLETED_OK)
        c->x.status = c->x.status && how == MHD_REQUEST_TERMINATED_WITH_ERROR ? c->x.status : 0;
    q3_detail("%s %s %.200s %d %llu bytes %.1f ms", c->x.id, c->x.method, c->x.path, c->x.status,
              (unsigned long long)c->bytes, 1000 * (q3_seconds() - c->began));
    unlink_connection(s, c);
    free_connection(c);
    *slot = NULL;
}

/* ---- who has hung up, who is slow ---- */

static bool has_hung_up(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLRDHUP };
    return poll(&p, 1, 0) == 1 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

static void look_at(q3_server *s, connection *c, double now)
{
    if (c->stage == READING && now - c->began > s->options.request_seconds)
        shutdown(c->fd, SHUT_RDWR); // libmicrohttpd sees the end and tidies up
    if (c->watched && has_hung_up(c->fd)) {
        c->watched = false;
        c->x.gone(c->x.state);
    }
}

static void *watch(void *arg)
{
    static const struct timespec pause = { .tv_nsec = WATCH_MS * 1000000L };
    q3_server *s = arg;
    for (bool stop = false; !stop;) {
        nanosleep(&pause, NULL);
        double now = q3_seconds();
        pthread_mutex_lock(&s->lock);
        for (connection *c = s->all; c; c = c->after)
            look_at(s, c, now);
        stop = s->stop;
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

/* ---- the server ---- */

static void log_from_library(void *arg, const char *fmt, va_list args)
{
    char line[512];
    (void)arg;
    int n = vsnprintf(line, sizeof line, fmt, args);
    if (n > 0 && (size_t)n < sizeof line && line[n - 1] == '\n')
        line[n - 1] = 0;
    q3_detail("http: %s", line);
}

static void on_connection(void *arg, struct MHD_Connection *mhd, void **slot,
                          enum MHD_ConnectionNotificationCode code)
{
    q3_server *s = arg;
    (void)mhd;
    (void)slot;
    if (code != MHD_CONNECTION_NOTIFY_STARTED)
        return;
    pthread_mutex_lock(&s->lock);
    s->stats.connections++;
    pthread_mutex_unlock(&s->lock);
}

static void fill_defaults(q3_server_options *o)
{
    o->host = o->host ? o->host : "127.0.0.1";
    o->body_bytes = o->body_bytes ? o->body_bytes : DEFAULT_BODY;
    o->connections = o->connections ? o->connections : DEFAULT_CONNECTIONS;
    o->workers = o->workers ? o->workers : DEFAULT_WORKERS;
    o->workers = o->workers < MAX_WORKERS ? o->workers : MAX_WORKERS;
    o->idle_seconds = o->idle_seconds ? o->idle_seconds : DEFAULT_IDLE;
    o->request_seconds = o->request_seconds ? o->request_seconds : DEFAULT_REQUEST;
}

static q3_status resolve(struct addrinfo **out, const q3_server_options *o)
{
    char port[16];
    const struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM };
    snprintf(port, sizeof port, "%d", o->port);
    int failure = getaddrinfo(o->host, port, &hints, out);
    return failure ? q3_fail(Q3_ERR_USAGE, "--host %.100s: %s", o->host, gai_strerror(failure)) : Q3_OK;
}

static q3_status listen_at(int *out, const q3_server_options *o)
{
    struct addrinfo *found;
    const int on = 1;
    Q3_TRY(resolve(&found, o));
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool fine = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0;
    int reason = errno;
    freeaddrinfo(found);
    if (!fine) {
        if (fd >= 0)
            close(fd);
        return q3_fail(Q3_ERR_NETWORK, "cannot listen at %.100s, port %d: %s", o->host, o->port,
                       strerror(reason));
    }
    *out = fd;
    return Q3_OK;
}

static int port_of(int fd)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &n) != 0)
        return 0;
    return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port
                                         : ((struct sockaddr_in *)&a)->sin_port);
}

static q3_status start_daemon(q3_server *s, int fd)
{
    s->daemon =
        MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO | MHD_ALLOW_SUSPEND_RESUME |
                             MHD_USE_ITC | MHD_USE_ERROR_LOG,
                         0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, log_from_library, NULL,
                         MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
                         MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_CONNECTION_LIMIT,
                         (unsigned)s->options.connections, MHD_OPTION_CONNECTION_TIMEOUT,
                         (unsigned)s->options.idle_seconds, MHD_OPTION_END);
    return s->daemon ? Q3_OK : q3_fail(Q3_ERR_NETWORK, "the HTTP library could not be started");
}

static q3_status start_threads(q3_server *s)
{
    for (; s->n_threads < s->options.workers; s->n_threads++)
        if (pthread_create(&s->threads[s->n_threads], NULL, work, s) != 0)
            return q3_fail(Q3_ERR_MEMORY, "no thread could be started for requests");
    s->watching = pthread_create(&s->watcher, NULL, watch, s) == 0;
    return s->watching ? Q3_OK : q3_fail(Q3_ERR_MEMORY, "no thread could be started to watch connections");
}

q3_status q3_server_start(q3_server **out, const q3_server_options *options)
{
    int fd = -1;
    *out = NULL;
    q3_server *s = q3_calloc(1, sizeof *s);
    if (!s)
        return Q3_ERR_MEMORY;
    s->options = *options;
    fill_defaults(&s->options);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->over, NULL);
    q3_status st = listen_at(&fd, &s->options);
    if (st == Q3_OK) {
        s->port = port_of(fd);
        st = start_threads(s);
        st = st ? st : start_daemon(s, fd);
        if (!s->daemon)
            close(fd);
    }
    if (st == Q3_OK)
        *out = s;
    else
        q3_server_stop(s);
    return st;
}

int q3_server_port(const q3_server *s)
{
    return s->port;
}

void q3_server_quiesce(q3_server *s)
{
    int fd = MHD_quiesce_daemon(s->daemon);
    if (fd != MHD_INVALID_SOCKET)
        close(fd);
}

bool q3_server_wait(q3_server *s, double seconds)
{
    double until = q3_seconds() + seconds;
    pthread_mutex_lock(&s->lock);
    while (s->stats.open > 0 && q3_seconds() < until) {
        struct timespec moment; // a condition's clock is the wall's; short waits make jumps of it harmless
        clock_gettime(CLOCK_REALTIME, &moment);
        moment.tv_nsec += WATCH_MS * 1000000L;
        moment.tv_sec += moment.tv_nsec / 1000000000;
        moment.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&s->over, &s->lock, &moment);
    }
    bool over = s->stats.open == 0;
    pthread_mutex_unlock(&s->lock);
    return over;
}

void q3_server_stop(q3_server *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < s->n_threads; i++)
        pthread_join(s->threads[i], NULL);
    if (s->watching)
        pthread_join(s->watcher, NULL);
    if (s->daemon)
        MHD_stop_daemon(s->daemon);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->over);
    q3_free(s);
}

void q3_server_stats_of(q3_server_stats *out, q3_server *s)
{
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    pthread_mutex_unlock(&s->lock);
}
