/* serve/server.h - HTTP: connections, limits and keys; what is answered comes from tables of routes.
 *
 * libmicrohttpd's thread moves bytes. A request that is whole goes to one of a few workers, where its
 * route's handler may take its time (decode pictures, make prompts); meanwhile its connection is
 * suspended. A handler either writes the answer or leaves a function that is asked for it piece by piece,
 * and that may put the connection to sleep until something wakes it.
 *
 * Refused before a handler sees it: paths and methods that no table has (404, 405), a missing or wrong key
 * (401), bodies that are too large (413) or whose end can be read in two ways (400), clients that take too
 * long to say what they want, were it byte by byte. A client that hangs up while its answer is being made is
 * noticed, and the handler's state told.
 */
#ifndef Q3_SERVE_SERVER_H
#define Q3_SERVE_SERVER_H

#include "core/json.h"

typedef struct q3_server q3_server;
typedef struct q3_exchange q3_exchange;

typedef enum q3_poll {
    Q3_POLL_MORE,   /* something was appended to the answer, and more will come */
    Q3_POLL_DONE,   /* the answer is complete */
    Q3_POLL_ASLEEP, /* nothing was appended; the exchange was put to sleep and will be woken */
} q3_poll;

typedef struct q3_route {
    const char *method; /* GET, POST, PUT */
    const char *path;   /* "/predictions/{id}/cancel": {id} is any one part of a path, not empty */
    void (*handle)(q3_exchange *x);
    bool open; /* needs no key */
} q3_route;

/* What speaks one API: its routes, and how it words an error. */
typedef struct q3_face {
    const q3_route *routes;
    int n_routes;
    void (*fail)(q3_exchange *x, int status, const char *sentence); /* fills status, type and out */
} q3_face;

/* A request and its answer. Handlers run on a worker's thread, `poll` on the network's, never both at
 * once. */
struct q3_exchange {
    void *app; /* the server's */
    const q3_face *face;
    const char *method, *path;
    const char *param; /* what stood for {id}, decoded; "" without */
    char id[65];       /* of the request: X-Request-Id, given or made up */
    const char *body;  /* [body_bytes], a NUL behind it */
    size_t body_bytes;

    int status;         /* 0: 200 */
    const char *type;   /* NULL: application/json */
    const char *policy; /* Content-Security-Policy, until the exchange is over; NULL: not said */
    q3_text out;        /* the answer, or what there is of it */
    int retry_after;    /* seconds; 0: not said */
    const char *allow;  /* Allow, of a 405 */

    /* An answer that comes later. `streaming`: sent as it comes, once the first piece is there. */
    q3_poll (*poll)(q3_exchange *x);
    bool streaming;
    void (*gone)(void *state); /* the client has hung up; from any thread, before `release`; NULL: so what */
    void (*release)(void *state); /* the exchange is over */
    void *state;

    struct q3_connection *connection; /* the server's */
};

/* A header of the request; NULL when it is not there. */
const char *q3_exchange_header(const q3_exchange *x, const char *name);

/* Value of a parameter behind the path's question mark; NULL when it is not there. */
const char *q3_exchange_query(const q3_exchange *x, const char *name);

/* The answer is an error, in the words of the face. */
void q3_exchange_fail(q3_exchange *x, int status, const char *fmt, ...) Q3_PRINTF(3, 4);

/* The same from the sentence that a function left: 400 for what the request brought, 503 for no memory,
 * 500 otherwise. */
void q3_exchange_fail_status(q3_exchange *x, q3_status st);
int q3_http_status(q3_status st);

/* sleep and wake of a q3_waiter (serve/service.h) whose arg is the exchange; sleep only from within
 * `poll`. */
void q3_exchange_sleep(void *x);
void q3_exchange_wake(void *x);

typedef struct q3_server_options {
    const char *host;        /* address to listen at; NULL: 127.0.0.1 */
    int port;                /* 0: any free one */
    size_t body_bytes;       /* of a request; 0: 100 MiB */
    int connections;         /* at a time; 0: 256 */
    int workers;             /* threads that run handlers; 0: 4 */
    int idle_seconds;        /* a connection on which nothing happens is closed; 0: 60 */
    int request_seconds;     /* from accept, or from the head of a later request, to the request's end; 0: 120.
                              * The head of a later one may come until idle_seconds more after the last answer. */
    const char *const *keys; /* [n_keys] any of them opens; none: open to all */
    int n_keys;
    const char *cors;            /* origin whose pages may ask: "*" or one; NULL: none */
    const q3_face *const *faces; /* [n_faces], asked in order */
    int n_faces;
    void *app; /* handed to handlers */
} q3_server_options;

/* Listens and answers from now on. The options are copied, what they point to is borrowed. Errors:
 * Q3_ERR_USAGE (host), Q3_ERR_NETWORK (the port is taken ...), Q3_ERR_MEMORY. */
q3_status q3_server_start(q3_server **out, const q3_server_options *options);
int q3_server_port(const q3_server *s);

/* Takes no more connections; requests that are under way go on. */
void q3_server_quiesce(q3_server *s);

/* Waits for the requests under way, at most `seconds`; false when some are left. */
bool q3_server_wait(q3_server *s, double seconds);

/* Ends all connections and frees. What suspended exchanges wait for must have come or been cancelled. NULL
 * is fine. */
void q3_server_stop(q3_server *s);

typedef struct q3_server_stats {
    int64_t requests, connections; /* since the start */
    int open;                      /* requests under way */
    int64_t by_class[6];           /* answers by hundreds of their status; 0: the client went before */
} q3_server_stats;
void q3_server_stats_of(q3_server_stats *out, q3_server *s);

/* Constant time in the key's content. */
bool q3_server_key_fits(const char *const *keys, int n_keys, const char *authorization);

/* Whether a path is a route's; *param is the place of what stands for {id}, and its length. */
bool q3_route_matches(const char *pattern, const char *path, const char **param, size_t *param_bytes);

#endif
