/* serve/service.h - answers for many threads from one that computes.
 *
 * Any thread makes an order: one or more tasks, each a prompt with what is wanted of it, all in the
 * order's own arena. The thread in q3_service_run hands them to the scheduler and puts what comes of them,
 * text and ends, in the order's queue, where its owner takes events off. An owner that finds the queue
 * empty is put to sleep by its own function and woken by the next event: a thread may wait on a condition,
 * an HTTP connection may be suspended and resumed.
 *
 * Tasks of an order begin one after another until the first has been computed: what they share of the
 * prompt is then found in the cache. No more orders are taken than there is room for, and none while the
 * service drains.
 *
 * Choices are weighed at once, between two passes for the others, when the cache has room for their prompt; orders
 * that came later do not begin before that.
 */
#ifndef Q3_SERVE_SERVICE_H
#define Q3_SERVE_SERVICE_H

#include "infer/constraint.h"
#include "infer/rerank.h"
#include "infer/session.h"

typedef struct q3_service q3_service;
typedef struct q3_order q3_order;

typedef struct q3_service_options {
    int max_running;    /* requests that are decoded at a time, as the scheduler has it; 0: 16 */
    int max_waiting;    /* orders taken beyond those; 0: 64 */
    int lookup;         /* tokens guessed at a time (infer/lookup.h), where no form is prescribed; 0: off */
    double max_seconds; /* for an order, from its submission; 0: any time */
} q3_service_options;

/* The session is borrowed. Q3_ERR_MEMORY. */
q3_status q3_service_create(q3_service **out, q3_session *session, const q3_service_options *options);
void q3_service_destroy(q3_service *s); /* q3_service_run has returned; orders must be closed; NULL is fine */

/* Called before a constraint is made: the tree of the vocabulary, which takes a while to sort, stays from the first call on
 * until the service is destroyed. Q3_ERR_MEMORY. */
q3_status q3_service_keep_vocabulary(q3_service *s);

/* Serves until the service has drained. The calling thread computes: kernels use all threads only when it
 * is the one that started the pool. true: all orders had their answers; false: some were cut short. */
bool q3_service_run(q3_service *s);

/* From now on no order is taken; q3_service_run returns when the open ones are answered, at the latest
 * after `seconds`. May be called again to shorten that. */
void q3_service_drain(q3_service *s, double seconds);

/* One answer that is wanted. What is pointed to lies in the order's arena. */
typedef struct q3_task {
    q3_prompt prompt;
    q3_sampling sampling;
    uint32_t number;          /* for the random draws */
    int64_t max_new_tokens;   /* at least 1; unused by a reranker's task */
    int logprobs;             /* likeliest tokens told with each token; -1: no probabilities */
    const char *const *stops; /* [n_stops], none empty */
    int n_stops;
    q3_constraint *constraint;   /* the order's: freed with it; NULL: none */
    const q3_reranker *reranker; /* not NULL: a score is wanted, no text */
    const q3_choice *choices;    /* [n_choices] not NULL: they are to be weighed, no text */
    int n_choices;
    double *scores; /* [n_choices] theirs: log p of each, set before the task ends with Q3_FINISH_STOP */
} q3_task;

typedef struct q3_waiter {
    void (*sleep)(void *arg); /* called within q3_order_next */
    void (*wake)(
        void *arg); /* called by the computing thread, once after each sleep; must not call the service */
    void *arg;
} q3_waiter;

/* An order of `n` tasks, zeroed; at least 1. */
q3_status q3_order_create(q3_order **out, int n);
q3_arena *q3_order_memory(q3_order *o);
q3_task *q3_order_task(q3_order *o, int i);
int q3_order_tasks(const q3_order *o);

typedef enum q3_admission { Q3_ADMITTED, Q3_ADMISSION_FULL, Q3_ADMISSION_DRAINING } q3_admission;

/* Hands the order in; at most `width` tasks are under way at a time (0: all). The waiter is copied; NULL
 * only for orders whose owner never sleeps. */
q3_admission q3_service_submit(q3_service *s, q3_order *o, int width, const q3_waiter *waiter);

/* Seconds after which a refused order may be tried again. */
int q3_service_retry_after(q3_service *s);

typedef struct q3_token_note {
    int32_t id;
    float logprob;
    const q3_logprob *top; /* [n_top] */
    int n_top;
} q3_token_note;

/* Something happened to a task. */
typedef struct q3_event {
    int task;
    q3_text text;         /* shown since the last event; may be empty */
    q3_token_note *notes; /* [n_notes], with task.logprobs >= 0: the tokens since the last event */
    int n_notes, note_capacity;
    bool ended; /* the task's last event; what follows is set */
    q3_finish finish;
    q3_status status; /* of Q3_FINISH_FAILED */
    char *sentence;   /* of Q3_FINISH_FAILED; NULL when there was no memory for it */
    double logit;     /* a reranker's */
    q3_outcome_timing timing;
    struct q3_event *next; /* the queue's */
} q3_event;

/* The next event, which the caller frees. NULL with *done: all tasks have ended and all was taken. NULL
 * otherwise: the waiter was put to sleep. With `whole`, events are handed out only when all tasks have
 * ended. */
q3_event *q3_order_next(q3_order *o, bool whole, bool *done);
void q3_event_free(q3_event *e);

/* Ends what is left of it; its tasks still end with events. */
void q3_order_cancel(q3_order *o);

/* The owner wants nothing more: cancels what is left, never calls the waiter again, frees. NULL is fine. */
void q3_order_close(q3_order *o);

enum { Q3_HISTOGRAM_BOUNDS = 15 };
extern const double q3_histogram_bounds[Q3_HISTOGRAM_BOUNDS]; /* seconds */

typedef struct q3_histogram {
    int64_t counts[Q3_HISTOGRAM_BOUNDS +
                   1]; /* of values up to each bound and beyond the one before; the last: larger ones */
    int64_t n;
    double sum;
} q3_histogram;

typedef struct q3_service_stats {
    q3_scheduler_stats scheduler;
    int open;    /* orders taken and not yet answered */
    int waiting; /* tasks of them that are not yet running */
    bool draining;
    int failed_passes;                       /* in a row: more than a few, and the device is lost */
    int64_t orders, refused;                 /* since the beginning */
    int64_t stopped, cut, cancelled, failed; /* tasks by how they ended */
    q3_histogram first_token, between_tokens,
        whole; /* seconds: to the first token, between two, to the end */
} q3_service_stats;
void q3_service_stats_of(q3_service_stats *out, q3_service *s);

#endif
