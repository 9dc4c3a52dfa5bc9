/* infer/scheduler.h - continuous batching: requests join and leave at every pass of the network (Yu et al., Orca, OSDI
 * 2022; Kwon et al., arXiv:2309.06180).
 *
 * A pass mixes one token (or a run of guessed ones) of each running request with chunks of the prompts of new ones. Requests are admitted in
 * order while the cache has blocks; when it runs full the youngest gives its blocks back and is later computed again
 * from its ids. What a request answers does not depend on what runs beside it: draws are counted by (seed, number,
 * position).
 *
 * One thread calls; callbacks come from within q3_scheduler_step. Times are q3_seconds().
 */
#ifndef Q3_INFER_SCHEDULER_H
#define Q3_INFER_SCHEDULER_H

#include "infer/engine.h"
#include "infer/prompt.h"
#include "infer/sample.h"

typedef struct q3_scheduler q3_scheduler;

typedef enum q3_finish {
    Q3_FINISH_STOP,      /* an end token, or on_token said so */
    Q3_FINISH_LENGTH,    /* max_new_tokens, or the model's or the cache's length */
    Q3_FINISH_CANCELLED, /* q3_scheduler_cancel */
    Q3_FINISH_FAILED,    /* see q3_outcome.status; the sentence is q3_error() within on_end */
} q3_finish;

typedef struct q3_token_event {
    int32_t id;
    int64_t index;           /* 0 for the first token of the answer */
    float logprob;           /* of the id, before temperature and filters; with request.logprobs >= 0 */
    const q3_logprob *top;   /* [n_top] the likeliest, likeliest first */
    int n_top;
} q3_token_event;

typedef struct q3_outcome_timing {
    int64_t prompt_tokens, cached_tokens, output_tokens; /* cached: found in the cache, not computed */
    int64_t guessed, accepted;                           /* tokens of prompt lookup */
    double submitted, admitted, first_token, ended;      /* 0 where it did not come to that */
} q3_outcome_timing;

typedef struct q3_outcome_of_request {
    q3_finish finish;
    q3_status status; /* of Q3_FINISH_FAILED */
    q3_outcome_timing timing;
} q3_outcome_of_request;

/* What is asked for. Everything that is pointed to must live until on_end. */
typedef struct q3_request {
    q3_prompt prompt;
    q3_sampling sampling;
    uint32_t number;        /* of the request, for the random draws: its ordinal, never a random one */
    int64_t max_new_tokens; /* 0: the prompt alone, for on_hidden */
    const int32_t *eos;     /* [n_eos] any of them ends the answer, and is not told */
    int n_eos;
    int logprobs; /* how many of the likeliest are told with each token; -1: no probabilities at all */
    int lookup;   /* tokens guessed at a time by prompt lookup (infer/lookup.h); 0: off */
    /* Behind the penalties, before temperature: sets what may not come to -INFINITY. NULL: none. */
    void (*filter)(void *arg, float *logits, int64_t vocab);
    /* A token of the answer; false ends it here with Q3_FINISH_STOP. */
    bool (*on_token)(void *arg, const q3_token_event *event);
    /* The last prompt token's hidden state behind the final norm [n], f32. NULL: not wanted. */
    void (*on_hidden)(void *arg, const float *hidden, int64_t n);
    /* Last; the request is forgotten. Exactly once for each submitted request. */
    void (*on_end)(void *arg, const q3_outcome_of_request *outcome);
    void *arg;
} q3_request;

typedef struct q3_scheduler_options {
    int max_running;    /* requests decoded at a time; 0: 16 (products of few rows have the same bits up to there) */
    int64_t chunk;      /* prompt tokens of a pass; 0: 512 */
} q3_scheduler_options;

/* The engine is borrowed. */
q3_status q3_scheduler_create(q3_scheduler **out, q3_engine *engine, const q3_scheduler_options *options);
void q3_scheduler_destroy(q3_scheduler *s); /* ends what runs as cancelled; NULL is fine */

/* Takes a copy of the struct. Errors: Q3_ERR_LIMIT (prompt and one token would never fit), Q3_ERR_MEMORY; on_end is not
 * called then. */
q3_status q3_scheduler_submit(uint64_t *ticket, q3_scheduler *s, const q3_request *r);

/* Ends a request at the next step; unknown tickets are fine. */
void q3_scheduler_cancel(q3_scheduler *s, uint64_t ticket);

/* One pass of the network, if there is something to do. A failure that concerns all (no memory for a pass, a lost
 * device) ends all running requests as failed and is returned. */
q3_status q3_scheduler_step(q3_scheduler *s);
bool q3_scheduler_idle(const q3_scheduler *s);

/* Steps until idle. */
q3_status q3_scheduler_run(q3_scheduler *s);

typedef struct q3_scheduler_stats {
    int running, waiting;
    int64_t blocks, free_blocks, block_tokens; /* of the cache; free: cached prefixes may lie in them */
    int64_t prompt_tokens, cached_tokens, output_tokens, guessed, accepted, preempted, finished; /* since create */
    int64_t passes;
    double prefill_seconds, decode_seconds; /* of passes with and without prompt tokens */
} q3_scheduler_stats;
void q3_scheduler_stats_of(q3_scheduler_stats *out, const q3_scheduler *s);

#endif
