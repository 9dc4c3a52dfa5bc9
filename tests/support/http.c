#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/http.h"

enum { PATIENCE_MS = 20000 };

int q3_http_connect(int port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

void q3_http_send(int fd, const char *text, size_t n)
{
    while (n > 0) {
        ssize_t k = send(fd, text, n, MSG_NOSIGNAL);
        if (k <= 0)
            return; // the other side has closed: what it said can still be read
        text += k;
        n -= (size_t)k;
    }
}

/* false at the end. */
static bool read_some(q3_text *all, int fd)
{
    char block[65536];
    struct pollfd p = { .fd = fd, .events = POLLIN };
    assert_true(poll(&p, 1, PATIENCE_MS) == 1);
    ssize_t n = recv(fd, block, sizeof block, 0);
    if (n <= 0)
        return false;
    q3_text_append(all, block, (size_t)n);
    return true;
}

bool q3_http_read_until(q3_text *all, int fd, const char *text)
{
    while (!all->data || !strstr(all->data, text))
        if (!read_some(all, fd))
            return false;
    return true;
}

void q3_http_compose(q3_text *out, const char *method, const char *path, const char *headers,
                     const char *body, size_t n)
{
    q3_text_printf(out, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s", method, path,
                   headers ? headers : "");
    if (body)
        q3_text_printf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", n);
    q3_text_append(out, "\r\n", 2);
    if (body)
        q3_text_append(out, body, n);
}

/* Joins chunks in place; returns the size. */
static size_t join_chunks(char *body, size_t n)
{
    char *from = body, *to = body, *end = body + n;
    while (from < end) {
        char *line;
        size_t size = strtoul(from, &line, 16);
        char *data = strstr(line, "\r\n");
        if (!data || !size || data + 2 + size > end)
            break;
        memmove(to, data + 2, size);
        to += size;
        from = data + 2 + size + 2;
    }
    *to = 0;
    return (size_t)(to - body);
}

static q3_reply split(q3_text *all)
{
    q3_reply r = { 0 };
    char *empty = all->size ? strstr(all->data, "\r\n\r\n") : NULL;
    if (!empty) {
        q3_text_free(all);
        return r;
    }
    assert_int_equal(sscanf(all->data, "HTTP/1.1 %d", &r.status), 1);
    empty[2] = 0;
    r.head = all->data;
    r.body = empty + 4;
    r.size = all->size - (size_t)(r.body - r.head);
    const char *encoding = q3_reply_header(&r, "Transfer-Encoding");
    if (encoding && strcasecmp(encoding, "chunked") == 0)
        r.size = join_chunks(r.body, r.size);
    return r;
}

q3_reply q3_http_bytes(int port, const char *method, const char *path, const char *headers, const char *body,
                       size_t n)
{
    q3_text request = { 0 }, all = { 0 };
    q3_http_compose(&request, method, path, headers, body, n);
    int fd = q3_http_connect(port);
    q3_http_send(fd, request.data, request.size);
    q3_text_free(&request);
    while (read_some(&all, fd))
        continue;
    close(fd);
    return split(&all);
}

q3_reply q3_http(int port, const char *method, const char *path, const char *headers, const char *body)
{
    return q3_http_bytes(port, method, path, headers, body, body ? strlen(body) : 0);
}

void q3_reply_free(q3_reply *r)
{
    q3_json_close(&r->doc);
    q3_free(r->head);
    *r = (q3_reply){ 0 };
}

const char *q3_reply_header(const q3_reply *r, const char *name)
{
    static _Thread_local char buffers[8][512];
    static _Thread_local int next;
    size_t n = strlen(name);
    for (const char *line = r->head; line && *line;
         line = strstr(line, "\r\n") ? strstr(line, "\r\n") + 2 : NULL)
        if (strncasecmp(line, name, n) == 0 && line[n] == ':') {
            char *out = buffers[next++ % 8];
            snprintf(out, sizeof buffers[0], "%.*s", (int)strcspn(line + n + 2, "\r"), line + n + 2);
            return out;
        }
    return NULL;
}

const cJSON *q3_reply_json(q3_reply *r, const char *path)
{
    if (!r->doc.root && q3_json_parse(&r->doc, r->body ? r->body : "", r->size, "reply", 1) != Q3_OK)
        fail_msg("%s: %s", q3_error(), r->body ? r->body : "no answer");
    const cJSON *at = r->doc.root;
    while (at && *path) {
        char part[64];
        size_t n = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        at = cJSON_IsArray(at) ? cJSON_GetArrayItem(at, atoi(part))
                               : cJSON_GetObjectItemCaseSensitive(at, part);
        path += n + (path[n] == '.');
    }
    return at;
}

const char *q3_reply_string(q3_reply *r, const char *path)
{
    const char *text = cJSON_GetStringValue(q3_reply_json(r, path));
    if (!text)
        fail_msg("no %s in %s", path, r->body);
    return text;
}

double q3_reply_number(q3_reply *r, const char *path)
{
    const cJSON *number = q3_reply_json(r, path);
    if (!cJSON_IsNumber(number))
        fail_msg("no %s in %s", path, r->body);
    return number->valuedouble;
}

void q3_reply_expect(q3_reply r, int status, const char *path, const char *sentence)
{
    if (r.status != status)
        fail_msg("status %d, not %d: %s", r.status, status, r.body ? r.body : "");
    assert_string_equal(q3_reply_string(&r, path), sentence);
    q3_reply_free(&r);
}

/* ---- listening ---- */

struct q3_listener {
    int fd, port;
    q3_listener_answer *answer;
    void *arg;
    pthread_t thread;
};

/* Whether a whole request is there: its head, and as much as Content-Length says. */
static bool is_whole(const q3_text *all)
{
    const char *empty = all->data ? strstr(all->data, "\r\n\r\n") : NULL;
    const char *length = all->data ? strcasestr(all->data, "Content-Length:") : NULL;
    if (!empty)
        return false;
    size_t body = length && length < empty ? strtoul(length + 15, NULL, 10) : 0;
    return all->size - (size_t)(empty + 4 - all->data) >= body;
}

static void *listen_for(void *arg)
{
    q3_listener *l = arg;
    for (int fd; (fd = accept(l->fd, NULL, NULL)) >= 0; close(fd)) {
        q3_text all = { 0 }, reply = { 0 };
        while (!is_whole(&all) && read_some(&all, fd))
            continue;
        if (is_whole(&all))
            l->answer(l->arg, all.data, all.size, &reply);
        if (reply.size)
            q3_http_send(fd, reply.data, reply.size);
        q3_text_free(&all);
        q3_text_free(&reply);
    }
    return NULL;
}

q3_listener *q3_listener_start(q3_listener_answer *answer, void *arg)
{
    q3_listener *l = calloc(1, sizeof *l);
    struct sockaddr_in a = { .sin_family = AF_INET };
    socklen_t n = sizeof a;
    assert_non_null(l);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    l->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(l->fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(l->fd, 16), 0);
    assert_int_equal(getsockname(l->fd, (struct sockaddr *)&a, &n), 0);
    l->port = ntohs(a.sin_port);
    l->answer = answer;
    l->arg = arg;
    assert_int_equal(pthread_create(&l->thread, NULL, listen_for, l), 0);
    return l;
}

int q3_listener_port(const q3_listener *l)
{
    return l->port;
}

void q3_listener_stop(q3_listener *l)
{
    shutdown(l->fd, SHUT_RDWR);
    pthread_join(l->thread, NULL);
    close(l->fd);
    free(l);
}
