/* train/loop.h - a run from its config to its last file: plan, evaluate, train, save, evaluate, report.
 *
 * Order at a step, as in transformers' Trainer: log, evaluate (loss, answers), save. The first SIGINT or SIGTERM lets the
 * step finish and saves a checkpoint (Q3_ERR_INTERRUPTED, Q3_ERR_TERMINATED), or breaks off the generation of answers; a
 * second one ends the process at once.
 */
#ifndef Q3_TRAIN_LOOP_H
#define Q3_TRAIN_LOOP_H

#include "train/run_dir.h"
#include "train/trainer.h"

/* Runs the config (checked before); *dir is the directory of the finished run (heap, NULL on failure). Errors begin with
 * "Qwen3-VL SFT failed: ", those of Q3_ERR_USAGE and of signals apart. */
q3_status q3_train(char **dir, q3_config *config, const q3_run_options *options);

#endif
