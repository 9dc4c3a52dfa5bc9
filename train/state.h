/* train/state.h - how far a run has come, as transformers' trainer_state.json keeps it.
 *
 * The state is plain data that determines the rest of the run: batches and random numbers follow from step and batch,
 * the learning rate from step. The file has the reference's keys (transformers 5.17, trainer_callback.TrainerState) and
 * beside them "qwen3_sft" with the exact cursor.
 */
#ifndef Q3_TRAIN_STATE_H
#define Q3_TRAIN_STATE_H

#include "core/json.h"

typedef struct q3_log_entry {
    int64_t step;
    double epoch;
    bool eval;                                 /* an evaluation of the loss */
    bool answers;                              /* generated answers; neither of the two: a training log */
    double loss;                               /* training: mean since the last log; eval: eval_loss */
    double grad_norm, learning_rate;           /* training */
    double runtime, samples_per_second, steps_per_second; /* eval */
    double accuracy, macro_f1, forced_accuracy;           /* answers */
} q3_log_entry;

typedef struct q3_state {
    int64_t step;  /* optimizer steps done */
    int64_t batch; /* micro-batches consumed, over all epochs: the loader's cursor */
    double epoch;
    double loss_sum; /* of the steps since the last log */
    int64_t loss_steps;
    double loss_total; /* of all steps */
    int64_t tokens;    /* trained so far */
    int64_t samples;   /* of the training data, to know it again */
    double best_metric; /* NaN: none yet */
    int64_t best_step;  /* -1: none yet */
    int64_t unimproved; /* evaluations since the last one that was better by more than the threshold (train/best.h) */
    bool unanswered;    /* the run was stopped within the answers of this step's evaluation */
    q3_log_entry *log;  /* heap */
    int64_t n_log, log_capacity;
} q3_state;

void q3_state_init(q3_state *s);
void q3_state_free(q3_state *s);
q3_status q3_state_log(q3_state *s, const q3_log_entry *entry);

/* Constants of the run that the reference keeps in the same file. */
typedef struct q3_state_run {
    int64_t max_steps, logging_steps, eval_steps, save_steps, train_batch_size;
    double num_train_epochs;
    int64_t early_stopping_patience; /* Q3_CONFIG_UNSET: no early stopping */
    double early_stopping_threshold;
    bool stopping; /* no step follows */
    const char *best_checkpoint; /* path, NULL when there is none */
    const char *config;          /* the effective config as JSON, to compare on resume */
} q3_state_run;

void q3_state_json(q3_text *out, const q3_state *s, const q3_state_run *run);

/* Reads trainer_state.json. *config is the config it was saved with, as JSON on the heap. Errors: Q3_ERR_FORMAT. */
q3_status q3_state_load(q3_state *out, char **config, const char *path);

/* The metrics.jsonl line of an entry (not of answers), newline included. `extra` (e.g. ",\"tokens_per_second\":12.5") may be "". */
void q3_log_line(q3_text *out, const q3_log_entry *e, const char *extra);

#endif
