/* tests/support/serve.h - a model that answers: the tiny one of tests/golden/training with its trained
 * adapter "tuned", or the reranker of tests/golden/formats; a service that computes in a thread of its
 * own; and a server in front of it.
 */
#ifndef Q3_TESTS_SUPPORT_SERVE_H
#define Q3_TESTS_SUPPORT_SERVE_H

#include <pthread.h>

#include "serve/api_cog.h"
#include "serve/api_openai.h"

typedef struct q3_serve_bed {
    q3_session session;
    q3_reranker *reranker;
    q3_service *service;
    q3_app app;
    q3_cog *cog;
    q3_server *server;
    int port;
    pthread_t thread;
    bool all_answered; /* what q3_service_run said */
} q3_serve_bed;

void q3_serve_open_model(q3_serve_bed *b); /* the session alone */
void q3_serve_open_reranker(q3_serve_bed *b);
void q3_serve_close_model(q3_serve_bed *b);

/* A service over the open session: what is ordered before it runs is not begun. _start does both. */
void q3_serve_create(q3_serve_bed *b, const q3_service_options *options);
void q3_serve_run(q3_serve_bed *b);
void q3_serve_start(q3_serve_bed *b, const q3_service_options *options);
void q3_serve_stop(q3_serve_bed *b, double drain_seconds); /* drains it and waits */

/* A service that does not run yet, and a server with the OpenAI face, Cog's beside it. */
void q3_serve_listen(q3_serve_bed *b, const q3_service_options *options, const q3_cog_options *cog);
void q3_serve_hang_up(q3_serve_bed *b);

/* Waits until nothing is computed and all blocks are free; otherwise the test fails. */
void q3_serve_expect_idle(q3_serve_bed *b);

#endif
