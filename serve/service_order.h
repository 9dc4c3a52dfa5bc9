/* serve/service_order.h - an order from within: what its owner and the computing thread share.
 *
 * Locks: the service's guards its lists and figures, an order's its queue and waiter. An order's may be
 * taken alone or within the service's, never the other way round; a waiter is called within its order's.
 */
#ifndef Q3_SERVE_SERVICE_ORDER_H
#define Q3_SERVE_SERVICE_ORDER_H

#include <pthread.h>
#include <stdatomic.h>

#include "serve/service.h"
#include "infer/stream.h"

typedef struct q3_order_item {
    q3_task wanted;
    q3_order *order;
    int index;
    uint64_t ticket;
    bool submitted, ended;
    q3_stream *stream;
    q3_event *end; /* made beforehand: an end is always told */
    double logit;
    double last_token; /* time */
} q3_order_item;

struct q3_order {
    q3_service *service;
    q3_arena mem;
    q3_order_item *tasks; /* [n] */
    int n, width;
    int n_submitted, n_under_way, n_answered; /* the computing thread's */
    bool shared;                              /* the first task's prompt is in the cache */
    bool late;                                /* its time is over */
    double submitted;                         /* time */
    double deadline;                          /* time; 0: none */
    atomic_bool cancelled;
    atomic_int owners; /* who gave it, and the service */
    q3_order *next;    /* in the service's lists */

    pthread_mutex_t lock;
    q3_event *first, *last;
    int n_ended;
    bool asleep, whole, failed;
    q3_waiter waiter;
};

/* One of its two owners, who gave it and the service, lets go of it. */
void q3_order_disown(q3_order *o);

/* Tells the owner a text, a token or both; false when there is no memory. */
bool q3_order_tell(q3_order_item *t, const q3_text *text, const q3_token_event *token);

/* Tells the end of a task, once; a failure's sentence is q3_error(). */
void q3_order_tell_end(q3_order_item *t, q3_finish finish, q3_status status, const q3_outcome_timing *timing);

/* Has the computing thread look at its orders. */
void q3_service_wake(q3_service *s);

#endif
