/* train/finish.h - what frames a training: the generation evaluations before, in and after it, the files it leaves, and
 * the report.
 *
 * After training the output directory holds the adapter (or model/), tokenizer and processor files, config.json,
 * metrics.jsonl, eval/ with the evaluations, report.html, and, written last, training_meta.json: a run with that file is
 * finished.
 */
#ifndef Q3_TRAIN_FINISH_H
#define Q3_TRAIN_FINISH_H

#include "eval/generation.h"
#include "train/trainer.h"

typedef struct q3_finisher {
    q3_trainer *t; /* borrowed */
    bool has_pre, has_post;
    q3_evaluation pre, post;
    double start; /* q3_seconds() when the process began to train, and where it stood */
    int64_t first_step;
    double first_epoch;
} q3_finisher;

/* The evaluation data as the loss is taken over them: the batch size is part of what it means (eval/loss.h). */
q3_loader_source q3_eval_source_of(const q3_trainer *t);

/* How the config wants answers to be generated. */
q3_generation_options q3_generation_options_of(const q3_trainer *t);

void q3_finish_create(q3_finisher *out, q3_trainer *t);
void q3_finish_destroy(q3_finisher *f);

/* The evaluation before training: made, or read back when the run resumes and it is there. */
q3_status q3_finish_before(q3_finisher *f);

/* The answers of an evaluation in mid-training, as eval/step-N.json and its predictions; `out` is what the state shall
 * remember of them. A run that is asked to stop saves its step and returns why, as in the other evaluations. */
q3_status q3_finish_turn(q3_log_entry *out, q3_trainer *t);

/* Best weights, evaluation after training, all files. */
q3_status q3_finish_after(q3_finisher *f);

#endif
