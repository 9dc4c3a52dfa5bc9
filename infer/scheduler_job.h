/* infer/scheduler_job.h - what infer/scheduler.c (who runs) and infer/scheduler_pass.c (what a pass has and brings) share.
 */
#ifndef Q3_INFER_SCHEDULER_JOB_H
#define Q3_INFER_SCHEDULER_JOB_H

#include "infer/scheduler.h"

/* A request on its way: it waits, runs, or waits again when it had to give its blocks back. */
typedef struct q3_job {
    q3_request r;
    uint64_t ticket;       // ascending
    q3_sequence *sequence; // NULL before it runs for the first time
    int64_t limit;         // tokens of prompt and answer
    int64_t guessed;       // the sequence's last tokens are guesses, in this pass
    bool cancelled, hidden_told;
    q3_outcome_timing t; // output_tokens: those told so far
    q3_logprob *top;     // [r.logprobs]
    struct q3_job *next; // in the queue
} q3_job;

struct q3_scheduler {
    q3_engine *engine;
    int max_running;
    int64_t chunk, vocab;
    uint64_t last_ticket;
    q3_job *waiting;  // by ticket; all of them are younger than those that run
    q3_job **running; // [max_running], by ticket
    int n_running;
    q3_feed *feeds; // [max_running] of the present pass
    q3_job **fed;   // [max_running] whose they are
    int n_fed;
    int64_t refused;      // free blocks when the head of the queue was refused; -1: look again
    float *scratch, *raw; // [V]
    q3_scheduler_stats stats;
};

/* Tokens that are not computed yet: one while a job is decoded. */
int64_t q3_job_pending(const q3_job *j);

/* Takes this pass's guesses off the sequence's end. */
void q3_job_drop_guesses(q3_job *j);

/* The last of a job. Its blocks are free before anybody hears of it, for on_end may ask for the next. */
void q3_job_end(q3_scheduler *s, q3_job *j, q3_finish finish, q3_status status);

/* The youngest that runs gives its blocks back and is the next to run. */
void q3_scheduler_preempt(q3_scheduler *s);

/* Lays out a pass (feeds, fed): one token of each job that is decoded, guesses behind it, and a chunk of prompts. */
void q3_scheduler_compose(q3_scheduler *s);

/* Takes what the pass has brought for a job, which may be its end. */
void q3_scheduler_take(q3_scheduler *s, q3_job *j, const q3_feed *f);

#endif
