/* infer/answer.h - an answer as its reader sees it: a request of the scheduler, its text as it comes, stop strings, a form
 * it keeps to, probabilities.
 */
#ifndef Q3_INFER_ANSWER_H
#define Q3_INFER_ANSWER_H

#include "infer/constraint.h"
#include "infer/session.h"
#include "infer/stream.h"

typedef struct q3_answer_options {
    q3_sampling sampling;
    int64_t max_new_tokens;
    const char *const *stops; /* [n_stops], none empty */
    int n_stops;
    const q3_constraint *form; /* what every answer must look like; NULL: anything */
    int logprobs;              /* the likeliest told with each token; -1: no probabilities */
    int lookup;                /* tokens guessed at a time; 0: off */
    void (*on_text)(void *arg, const char *text, size_t n); /* what can be shown now; NULL: nobody waits */
    void *arg;
} q3_answer_options;

typedef struct q3_answer_token {
    int32_t id;
    float logprob;
    int n_top;
    size_t top; /* index of its likeliest in q3_answer.top */
} q3_answer_token;

/* Owned by the caller; neither moved nor freed between begin and ended. */
typedef struct q3_answer {
    q3_text text;            /* so far; a stop string and what follows is cut */
    q3_ids ids;              /* without the end token */
    q3_answer_token *tokens; /* [ids.n] with probabilities; else NULL */
    q3_logprob *top;         /* [n_top] */
    size_t n_top;
    bool ended;
    q3_finish finish;
    q3_status status; /* of a failed one */
    char sentence[512];
    q3_outcome_timing timing;
    uint64_t ticket;
    /* its own */
    const q3_answer_options *options;
    q3_stream *stream;
    q3_constraint *form;
    size_t tokens_capacity, top_capacity;
} q3_answer;

/* Hands the prompt to the session's scheduler; `number` tells its draws from those of others. Prompt and options must live
 * until it has ended. Errors: those of the scheduler, of stop strings and forms; nothing is left to free then. */
q3_status q3_answer_begin(q3_answer *out, q3_session *s, const q3_prompt *prompt, uint32_t number,
                          const q3_answer_options *options);
void q3_answer_free(q3_answer *a); /* fine on a zeroed one */

/* "stop", "length", "cancelled" or "error". */
const char *q3_finish_name(q3_finish finish);

/* The same by beam search over `num_beams`, to its end; form, probabilities, lookup and draws of the options are not for it.
 * Errors: those of the search. */
q3_status q3_answer_search(q3_answer *out, q3_session *s, const q3_prompt *prompt, int num_beams,
                           const q3_answer_options *options);

/* Its failure with its sentence, Q3_OK where there is none. */
q3_status q3_answer_status(const q3_answer *a);

/* Appends it as one JSON object: text, ids, finish_reason, usage, timings, and logprobs where there are some. */
void q3_answer_json(q3_text *out, const q3_answer *a, const q3_tokenizer *tokenizer);

#endif
