#include "serve/server.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/log.h"
#include "serve/server_connection.h"

enum {
    DEFAULT_CONNECTIONS = 256,
    DEFAULT_WORKERS = 4,
    DEFAULT_IDLE = 60,
    DEFAULT_REQUEST = 120,
    WATCH_MS = 100, // between two looks at who has hung up
};

#define DEFAULT_BODY ((size_t)100 << 20)

/* ---- workers ---- */

static q3_connection *next_work(q3_server *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->first_work && !s->stop)
        pthread_cond_wait(&s->work, &s->lock);
    q3_connection *c = s->first_work;
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
    for (q3_connection *c; (c = next_work(s)) != NULL;) {
        c->route->handle(&c->x);
        pthread_mutex_lock(&s->lock);
        c->watched = c->x.gone != NULL;
        c->stage = Q3_STAGE_ANSWERING;
        pthread_mutex_unlock(&s->lock);
        MHD_resume_connection(c->mhd);
    }
    return NULL;
}

void q3_server_hand_over(q3_server *s, q3_connection *c)
{
    pthread_mutex_lock(&s->lock);
    c->stage = Q3_STAGE_WORKING;
    if (s->last_work)
        s->last_work->next_work = c;
    else
        s->first_work = c;
    s->last_work = c;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

/* ---- who has hung up, who is slow ---- */

static bool has_hung_up(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLRDHUP };
    return poll(&p, 1, 0) == 1 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

void q3_server_expect(q3_server *s, q3_peer *p, double due)
{
    pthread_mutex_lock(&s->lock);
    p->due = due;
    pthread_mutex_unlock(&s->lock);
}

static void add_peer(q3_server *s, struct MHD_Connection *mhd, void **slot)
{
    int fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    q3_peer *p = *slot = q3_calloc(1, sizeof *p);
    if (!p) {
        shutdown(fd, SHUT_RDWR);
        return;
    }
    p->fd = fd;
    p->due = q3_seconds() + s->options.request_seconds;
    pthread_mutex_lock(&s->lock);
    p->after = s->peers;
    if (s->peers)
        s->peers->before = p;
    s->peers = p;
    s->stats.connections++;
    pthread_mutex_unlock(&s->lock);
}

static void remove_peer(q3_server *s, q3_peer *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&s->lock);
    *(p->before ? &p->before->after : &s->peers) = p->after;
    if (p->after)
        p->after->before = p->before;
    pthread_mutex_unlock(&s->lock);
    q3_free(p);
}

/* libmicrohttpd reports the end of a connection before it closes its descriptor (0.9.75,
 * MHD_cleanup_connections and the failures of new_connection_process_). So whoever holds the lock and finds a
 * peer in the list has that peer's own descriptor, not a number that the system has given out again. */
static void on_connection(void *arg, struct MHD_Connection *mhd, void **slot,
                          enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        add_peer(arg, mhd, slot);
    else
        remove_peer(arg, *slot);
}

static void look_at_all(q3_server *s)
{
    double now = q3_seconds();
    for (q3_peer *p = s->peers; p; p = p->after)
        if (now > p->due)
            shutdown(p->fd, SHUT_RDWR); // libmicrohttpd sees the end and tidies up
    for (q3_connection *c = s->all; c; c = c->after)
        if (c->watched && has_hung_up(c->peer->fd)) {
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
        pthread_mutex_lock(&s->lock);
        look_at_all(s);
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

/* The byte that %XX stands for; 0 when s does not begin with one. */
static char escaped(const char *s)
{
    const char digits[] = { s[0] == '%' ? s[1] : 0, s[0] == '%' && s[1] ? s[2] : 0, 0 };
    bool hex = isxdigit((unsigned char)digits[0]) && isxdigit((unsigned char)digits[1]);
    return (char)(hex ? strtoul(digits, NULL, 16) : 0);
}

/* As libmicrohttpd's own, but %00 stays as it is written: no path ends at a NUL. */
static size_t unescape(void *arg, struct MHD_Connection *mhd, char *text)
{
    char *to = text;
    (void)arg;
    (void)mhd;
    for (const char *from = text; *from; from++) {
        char byte = escaped(from);
        *to++ = byte ? byte : *from;
        from += byte ? 2 : 0;
    }
    *to = 0;
    return (size_t)(to - text);
}

static void fill_defaults(q3_server_options *o)
{
    o->host = o->host ? o->host : "127.0.0.1";
    o->body_bytes = o->body_bytes ? o->body_bytes : DEFAULT_BODY;
    o->connections = o->connections ? o->connections : DEFAULT_CONNECTIONS;
    o->workers = o->workers ? o->workers : DEFAULT_WORKERS;
    o->workers = o->workers < Q3_SERVER_WORKERS ? o->workers : Q3_SERVER_WORKERS;
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
    s->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC |
            MHD_USE_ERROR_LOG,
        0, NULL, NULL, q3_connection_request, s, MHD_OPTION_EXTERNAL_LOGGER, log_from_library, NULL,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, q3_connection_completed, s,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_CONNECTION_LIMIT, (unsigned)s->options.connections,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)s->options.idle_seconds, MHD_OPTION_END);
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
