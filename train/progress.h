/* train/progress.h - what a run says on stderr: first what will happen, then a line a logging step, evaluations as
 * small tables. On a terminal a live line in between.
 */
#ifndef Q3_TRAIN_PROGRESS_H
#define Q3_TRAIN_PROGRESS_H

#include "eval/loss.h"
#include "eval/metrics.h"
#include "train/trainer.h"

void q3_progress_summary(const q3_trainer *t, const char *checkpoint);
void q3_progress_step(const q3_trainer *t, const q3_step_result *r, double seconds);
void q3_progress_log(const q3_trainer *t, const q3_log_entry *e, double step_seconds, double tokens_per_second);
void q3_progress_eval(const q3_trainer *t, const q3_log_entry *e, bool best);
void q3_progress_best(const q3_trainer *t, double value, bool best); /* where best is judged by the answers */
void q3_progress_stop(const q3_trainer *t);                          /* why training ends early */
void q3_progress_generation(const char *name, const q3_metrics *m, double seconds);

#endif
