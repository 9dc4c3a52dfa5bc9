/* train/checkpoint.h - checkpoint-N/ directories: whole or absent, and enough to continue bit for bit.
 *
 * A checkpoint holds the adapter as PEFT has it (or model/, a plain Hugging Face directory, when the whole model is
 * tuned), optimizer.safetensors, and trainer_state.json with the cursor and the config. It is written as
 * checkpoint-N.tmp, synced and renamed; a .tmp is never read.
 */
#ifndef Q3_TRAIN_CHECKPOINT_H
#define Q3_TRAIN_CHECKPOINT_H

#include "train/trainer.h"

/* Writes output_dir/checkpoint-<step>, then deletes the oldest ones beyond train.save_total_limit, the best one apart. */
q3_status q3_checkpoint_save(q3_trainer *t);

/* Puts weights, optimizer and state back. The checkpoint's config must agree with the run's in everything that shapes
 * the result. Errors: Q3_ERR_USAGE (names the keys that differ), Q3_ERR_MODEL. */
q3_status q3_checkpoint_load(q3_trainer *t, const char *dir);

/* Whether the config `saved` (as JSON, of the run in `dir`) agrees with `now` in everything that shapes the result.
 * Error: Q3_ERR_USAGE (names the keys that differ). */
q3_status q3_checkpoint_compare(const q3_config *now, const char *saved, const char *dir);

/* Puts only the weights back. */
q3_status q3_checkpoint_load_weights(q3_trainer *t, const char *dir);

/* The step of the newest whole checkpoint in `dir`, -1 when there is none. */
int64_t q3_checkpoint_newest(const char *dir);

/* "dir/checkpoint-<step>" on the heap. */
char *q3_checkpoint_path(const char *dir, int64_t step);

/* The weights into `dir` (made if absent): adapter files, or model/ with tensors of `dtype` (F32, BF16). */
q3_status q3_weights_save(const q3_trainer *t, const char *dir, q3_dtype dtype);

#endif
