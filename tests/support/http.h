/* tests/support/http.h - a client and a listener over plain sockets, at 127.0.0.1.
 *
 * Bodies that come in chunks are joined. What cannot be sent or received fails the test.
 */
#ifndef Q3_TESTS_SUPPORT_HTTP_H
#define Q3_TESTS_SUPPORT_HTTP_H

#include "core/json.h"

typedef struct q3_reply {
    int status;  /* 0: the connection ended without an answer */
    char *head;  /* status line and headers */
    char *body;  /* with a NUL */
    size_t size; /* bytes of the body */
    q3_json doc; /* of the body, after q3_reply_json */
} q3_reply;

/* One request on a connection of its own. `headers` are whole lines with \r\n, or NULL; body NULL: none. */
q3_reply q3_http(int port, const char *method, const char *path, const char *headers, const char *body);
q3_reply q3_http_bytes(int port, const char *method, const char *path, const char *headers, const char *body,
                       size_t n);
void q3_reply_free(q3_reply *r);

/* The body as JSON; `path` leads to a value in it: "choices.0.message.content". NULL when there is none. */
const cJSON *q3_reply_json(q3_reply *r, const char *path);
const char *q3_reply_string(q3_reply *r, const char *path); /* it must be one */
double q3_reply_number(q3_reply *r, const char *path);

/* Status and sentence ("error.message" or what `path` leads to); anything else fails the test. Frees the
 * reply. */
void q3_reply_expect(q3_reply r, int status, const char *path, const char *sentence);

/* The value of a header, in one of a few rotating buffers; NULL when it is not there. */
const char *q3_reply_header(const q3_reply *r, const char *name);

/* By hand: connect, send, wait until what came contains `text` (false: the other side closed before). */
int q3_http_connect(int port);
void q3_http_send(int fd, const char *text, size_t n);
bool q3_http_read_until(q3_text *all, int fd, const char *text);

/* "POST path HTTP/1.1 ... body", appended. */
void q3_http_compose(q3_text *out, const char *method, const char *path, const char *headers,
                     const char *body, size_t n);

/* A listener that gives each connection's request to `answer`, which writes the whole reply; in a thread
 * of its own. */
typedef struct q3_listener q3_listener;
typedef void q3_listener_answer(void *arg, const char *request, size_t n, q3_text *reply);
q3_listener *q3_listener_start(q3_listener_answer *answer, void *arg);
int q3_listener_port(const q3_listener *l);
void q3_listener_stop(q3_listener *l);

#endif
