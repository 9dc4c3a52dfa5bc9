/* serve/server_connection.h - what the files of the server share: a connection's request and the server
 * around it.
 *
 * libmicrohttpd calls q3_connection_request again and again: for the head, for each part of the body, when
 * the body has ended, and whenever the connection was resumed. A connection's fields belong to that
 * thread, but while a worker has it.
 */
#ifndef Q3_SERVE_SERVER_CONNECTION_H
#define Q3_SERVE_SERVER_CONNECTION_H

#include <microhttpd.h>
#include <pthread.h>

#include "serve/server.h"

enum { Q3_SERVER_WORKERS = 64 }; /* at most */

/* A client's connection, from accept to close; requests come on it one after the other. Listed while its
 * descriptor is open. */
typedef struct q3_peer {
    int fd;
    double due; /* q3_seconds by when a request must be whole; INFINITY: one is being answered */
    struct q3_peer *before, *after; /* the server's list */
} q3_peer;

typedef enum q3_stage { Q3_STAGE_READING, Q3_STAGE_WORKING, Q3_STAGE_ANSWERING } q3_stage;

typedef struct q3_connection {
    q3_exchange x; /* first: an exchange is its connection */
    q3_server *server;
    struct MHD_Connection *mhd;
    q3_peer *peer;
    const q3_route *route;
    q3_stage stage;
    double began;
    char *method, *path, *param;
    char *body;
    size_t size, capacity;
    int refusal;    /* status of an answer that is given once the body has been read; 0: none */
    bool last;      /* the connection ends with this answer */
    size_t sent;    /* of x.out, while streaming */
    uint64_t bytes; /* of the answer */
    bool complete;  /* nothing more comes from poll */
    bool watched;   /* x.gone may be called */
    struct q3_connection *before, *after; /* the server's list */
    struct q3_connection *next_work;
} q3_connection;

struct q3_server {
    q3_server_options options;
    struct MHD_Daemon *daemon;
    int port;
    pthread_t threads[Q3_SERVER_WORKERS], watcher;
    int n_threads;
    bool watching;
    pthread_mutex_t lock; /* all below, `watched` and `due` */
    pthread_cond_t work, over;
    q3_connection *first_work, *last_work;
    q3_connection *all;
    q3_peer *peers;
    bool stop;
    q3_server_stats stats;
};

/* libmicrohttpd's callbacks; the first argument is the server. */
enum MHD_Result q3_connection_request(void *server, struct MHD_Connection *mhd, const char *url,
                                      const char *method, const char *version, const char *bytes, size_t *n,
                                      void **slot);
void q3_connection_completed(void *server, struct MHD_Connection *mhd, void **slot,
                             enum MHD_RequestTerminationCode how);

/* Sets when the client's request is due; from the network's thread. */
void q3_server_expect(q3_server *s, q3_peer *p, double due);

/* Puts a suspended connection before the workers. */
void q3_server_hand_over(q3_server *s, q3_connection *c);

#endif
