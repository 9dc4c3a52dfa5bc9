/* train/best.h - which evaluation of a run is the best, and when they have stopped to improve.
 *
 * As transformers 5.17 decides: Trainer._determine_best_metric (more is better for every metric whose name does not end
 * with "loss"; the first of equals is the best) and EarlyStoppingCallback (evaluations in a row that are not better than the
 * best before them by more than the threshold). What is no number is never the best.
 */
#ifndef Q3_TRAIN_BEST_H
#define Q3_TRAIN_BEST_H

#include "train/config.h"
#include "train/state.h"

/* "eval_loss", "gen_eval/accuracy" ...: what train.metric_for_best_model says. */
const char *q3_best_name(const q3_config_train *c);

/* True when train.metric_for_best_model is one of the generated answers. */
bool q3_best_of_answers(const q3_config_train *c);

/* The metric's value in a log entry of its kind. */
double q3_best_value(const q3_log_entry *e, const q3_config_train *c);

/* Counts the evaluation of step s->step; true when it is the best so far. */
bool q3_best_update(q3_state *s, double value, const q3_config_train *c);

/* True when train.early_stopping_patience evaluations in a row have not improved. */
bool q3_best_enough(const q3_state *s, const q3_config_train *c);

#endif
