#include "serve/server_connection.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "core/log.h"

enum {
    STREAM_BLOCK = 16 << 10, // bytes that libmicrohttpd asks for at a time
    ID_BYTES = 16,           // of an id that is made up
};

/* What is too large is read and dropped up to this multiple of the limit, so that the client can hear why. */
enum { PATIENCE = 2 };

/* ---- answers ---- */

static ssize_t read_stream(void *arg, uint64_t pos, char *buf, size_t max)
{
    q3_connection *c = arg;
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

static void add_cors(const q3_connection *c, struct MHD_Response *r)
{
    if (!c->server->options.cors)
        return;
    MHD_add_response_header(r, "Access-Control-Allow-Origin", c->server->options.cors);
    MHD_add_response_header(r, "Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id");
    MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST, PUT, OPTIONS");
    MHD_add_response_header(r, "Vary", "Origin");
}

static void add_headers(const q3_connection *c, struct MHD_Response *r)
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
    if (x->policy)
        MHD_add_response_header(r, "Content-Security-Policy", x->policy);
    if (c->last)
        MHD_add_response_header(r, "Connection", "close");
    if (x->status == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (x->streaming) { // proxies are not to collect it
        MHD_add_response_header(r, "Cache-Control", "no-cache");
        MHD_add_response_header(r, "X-Accel-Buffering", "no");
    }
    add_cors(c, r);
}

static enum MHD_Result send_answer(q3_connection *c)
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
static enum MHD_Result answer(q3_connection *c)
{
    while (c->x.poll && !c->complete && !(c->x.streaming && c->x.out.size)) {
        q3_poll p = c->x.poll(&c->x);
        if (p == Q3_POLL_ASLEEP)
            return MHD_YES;
        c->complete = p == Q3_POLL_DONE;
    }
    return send_answer(c);
}

/* ---- requests ---- */

/* The route of a path and method. Without: the status, and the methods that the path has. */
static int find_route(q3_connection *c, const char *url, char *allow, size_t allow_bytes)
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

static enum MHD_Result hand_to_worker(q3_connection *c)
{
    MHD_suspend_connection(c->mhd);
    q3_server_hand_over(c->server, c);
    return MHD_YES;
}

static void choose_id(q3_connection *c)
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

static void link_connection(q3_server *s, q3_connection *c)
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

static void unlink_connection(q3_server *s, q3_connection *c)
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

static void free_connection(q3_connection *c)
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

static void refuse(q3_connection *c, int status, const char *allow)
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

/* What a head says of its body's end. */
typedef struct framing {
    int statements;
    bool unknown, spaced;
} framing;

static enum MHD_Result read_framing(void *arg, enum MHD_ValueKind kind, const char *name, const char *value)
{
    framing *f = arg;
    (void)kind;
    bool coded = strcasecmp(name, "Transfer-Encoding") == 0;
    f->statements += coded || strcasecmp(name, "Content-Length") == 0;
    f->unknown |= coded && (!value || strcasecmp(value, "chunked") != 0);
    f->spaced |= strpbrk(name, " \t") != NULL;
    return MHD_YES;
}

/* Where two readers may see a body end at different places, the one would take for a body what is a request to
 * the other (RFC 9112, section 11.2). libmicrohttpd takes the first of two lengths, chunks before a length, and
 * waits for the connection's end with any other coding. */
static bool frames_badly(q3_connection *c)
{
    framing f = { 0 };
    MHD_get_connection_values(c->mhd, MHD_HEADER_KIND, read_framing, &f);
    c->last = f.spaced || f.statements > 1 || f.unknown;
    if (f.spaced)
        q3_exchange_fail(&c->x, MHD_HTTP_BAD_REQUEST, "the name of a header has a space in it");
    else if (f.statements > 1)
        q3_exchange_fail(&c->x, MHD_HTTP_BAD_REQUEST,
                         "the request says more than once where its body ends: one Content-Length, or "
                         "Transfer-Encoding: chunked");
    else if (f.unknown)
        q3_exchange_fail(&c->x, MHD_HTTP_NOT_IMPLEMENTED, "of transfer codings only chunked is known");
    return c->last;
}

/* Origins ask by OPTIONS before they send. */
static bool is_preflight(const q3_connection *c)
{
    return c->server->options.cors && strcmp(c->x.method, "OPTIONS") == 0;
}

static void judge_head(q3_connection *c)
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
    q3_peer *peer = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    q3_connection *c = *slot = peer ? q3_calloc(1, sizeof *c) : NULL;
    if (!c)
        return MHD_NO;
    c->server = s;
    c->mhd = mhd;
    c->began = q3_seconds();
    c->peer = peer;
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
    q3_server_expect(s, peer, fmin(peer->due, c->began + s->options.request_seconds));
    choose_id(c);
    if (frames_badly(c))
        return send_answer(c);
    if (c->method && c->path)
        judge_head(c);
    else
        refuse(c, MHD_HTTP_SERVICE_UNAVAILABLE, NULL);
    return MHD_YES;
}

static bool take_body(q3_connection *c, const char *bytes, size_t n)
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

enum MHD_Result q3_connection_request(void *arg, struct MHD_Connection *mhd, const char *url,
                                      const char *method, const char *version, const char *bytes, size_t *n,
                                      void **slot)
{
    q3_connection *c = *slot;
    (void)version;
    if (!c)
        return begin(arg, mhd, url, method, slot);
    if (c->stage != Q3_STAGE_READING)
        return answer(c);
    if (*n) {
        bool go_on = take_body(c, bytes, *n);
        *n = 0;
        return go_on ? MHD_YES : MHD_NO;
    }
    q3_server_expect(c->server, c->peer, INFINITY);
    if (c->refusal)
        return send_answer(c);
    if (c->body) {
        c->x.body = c->body;
        c->x.body_bytes = c->size;
    }
    return hand_to_worker(c);
}

/* For the log: what a client wrote cannot begin a line or speak to a terminal. */
static const char *plain(char *text)
{
    for (char *p = text; p && *p; p++)
        *p = *p >= ' ' && *p <= '~' ? *p : '?';
    return text ? text : "";
}

void q3_connection_completed(void *arg, struct MHD_Connection *mhd, void **slot,
                             enum MHD_RequestTerminationCode how)
{
    q3_server *s = arg;
    q3_connection *c = *slot;
    (void)mhd;
    if (!c)
        return;
    if (how != MHD_REQUEST_TERMINATED_COMPLETED_OK)
        c->x.status = c->x.status && how == MHD_REQUEST_TERMINATED_WITH_ERROR ? c->x.status : 0;
    q3_detail("%s %.20s %.200s %d %llu bytes %.1f ms", c->x.id, plain(c->method), plain(c->path), c->x.status,
              (unsigned long long)c->bytes, 1000 * (q3_seconds() - c->began));
    // the next request's first byte is not seen; a connection that idles is closed before this
    q3_server_expect(s, c->peer, q3_seconds() + s->options.idle_seconds + s->options.request_seconds);
    unlink_connection(s, c);
    free_connection(c);
    *slot = NULL;
}
