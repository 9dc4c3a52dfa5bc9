/* serve/api_cog_prediction.h - a prediction of Cog's face while it runs: its thread, those who listen, its
 * webhook.
 *
 * A prediction is entered among the running ones, whose number is limited, and started. Its thread takes
 * what the model says off the order, keeps it as text and as a history of events, and frees its slot
 * before anybody hears of its end. Owners (the thread, requests that wait) are counted; the last one frees
 * it.
 */
#ifndef Q3_SERVE_API_COG_PREDICTION_H
#define Q3_SERVE_API_COG_PREDICTION_H

#include <pthread.h>
#include <stdatomic.h>

#include "serve/api_cog.h"
#include "serve/webhook.h"

/* Events kept, listeners to one prediction: as cog's server has them (docs/http.md, docs/environment.md,
 * v0.22). */
enum { Q3_COG_HISTORY = 1024, Q3_COG_LISTENERS = 32 };

enum { Q3_COG_TIME_BYTES = 40, Q3_COG_ID_BYTES = 128 };

typedef struct q3_prediction q3_prediction;

/* An exchange that waits for a prediction. */
typedef struct q3_prediction_listener {
    q3_prediction *p;
    q3_exchange *x;
    bool asleep, streaming, owner;       /* owner: the prediction ends with its connection */
    bool keep_alive;                     /* a comment is due */
    int64_t next_event;                  /* of the history */
    struct q3_prediction_listener *next; /* the prediction's list */
} q3_prediction_listener;

struct q3_prediction {
    q3_cog *cog;
    char id[Q3_COG_ID_BYTES];
    char created_at[Q3_COG_TIME_BYTES], started_at[Q3_COG_TIME_BYTES], completed_at[Q3_COG_TIME_BYTES];
    q3_json doc; /* the request */
    q3_arena mem;
    q3_rerank_job job;
    q3_order *order; /* NULL: the answer was known at once */
    q3_webhook hook;
    double *logits;      /* [job.n] */
    q3_prediction *next; /* the registry's */
    int owners;          /* the registry's lock: its thread and its listeners */

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t news;
    bool has_news; /* the order woke its owner */
    const char *status;
    bool complete, cancelled;
    q3_text output; /* stripped */
    size_t shown;   /* bytes of it that were told */
    bool has_output;
    char *error;
    double began, seconds;
    int64_t input_tokens, output_tokens;
    char *history[Q3_COG_HISTORY]; /* events as text; number i lies at i % HISTORY */
    int64_t n_events;
    q3_prediction_listener *listeners;
    int n_listeners;
};

struct q3_cog {
    q3_app *app;
    q3_cog_options options;
    char started_at[Q3_COG_TIME_BYTES];
    pthread_mutex_t lock;
    pthread_cond_t ended;
    q3_prediction *running;
    int n_running, n_threads;
    int64_t made;
    atomic_bool stop;
};

/* A new one, "starting", owned by the caller; NULL when there is no memory. */
q3_prediction *q3_prediction_create(q3_cog *c);
void q3_prediction_disown(q3_prediction *p);

/* The running one with this id, which the caller then owns too; NULL when there is none. */
q3_prediction *q3_prediction_share(q3_cog *c, const char *id);

typedef enum q3_entry { Q3_ENTERED, Q3_ENTRY_FULL, Q3_ENTRY_TAKEN } q3_entry;
q3_entry q3_prediction_enter(q3_cog *c, q3_prediction *p);
void q3_prediction_leave(q3_cog *c, q3_prediction *p);

/* Hands the order in, if there is one. */
q3_admission q3_prediction_submit(q3_prediction *p);

/* Starts its thread, which owns it beside the caller; false when there is none to be had. */
bool q3_prediction_start(q3_prediction *p);
void q3_prediction_cancel(q3_prediction *p);

/* Lets the exchange wait for its result or its events and takes over one ownership. `owner`: it is
 * cancelled when the exchange ends before it. */
void q3_prediction_listen(q3_exchange *x, q3_prediction *p, bool streaming, bool owner);

/* Appends it as JSON, with its lock held: what a synchronous request gets, or with `whole` what webhooks
 * get. */
void q3_prediction_write(q3_text *out, const q3_prediction *p, bool whole);

/* A string that may have been cut within a character; the time as ISO 8601. */
void q3_cog_put_string(q3_text *out, const char *text);
void q3_cog_now(char out[Q3_COG_TIME_BYTES]);

#endif
