/* train/logger.h - where a run's log calls go: to metrics.jsonl, which is the ground truth, and to the views
 * of it that train.report_to names.
 *
 * A log call is a line of metrics.jsonl: one flat JSON object with "step". Each view (train/tensorboard.h,
 * train/mlflow.h, train/wandb.h) is shown the numbers of that same line. Only metrics.jsonl can end a
 * training: what a view cannot do is told once, as a warning, and the view keeps what it has and tries again
 * with the next line. The first rank alone has a logger.
 */
#ifndef Q3_TRAIN_LOGGER_H
#define Q3_TRAIN_LOGGER_H

#include "train/config.h"

typedef struct q3_log_call {
    int64_t step;
    double time;       /* seconds since 1970 */
    const cJSON *line; /* its numbers are the values, "step" aside */
} q3_log_call;

/* What a view is told of its run. */
typedef struct q3_view_run {
    const char *dir;         /* borrowed during open */
    const q3_config *config; /* borrowed during open */
    int64_t step;            /* done before; 0: it begins at the beginning */
} q3_view_run;

/* Functions leave their sentence as usual. After a failed open the view is NULL, or tries again with the next line. */
typedef struct q3_view_kind {
    const char *name; /* for messages */
    q3_status (*open)(void **out, const q3_view_run *run);
    q3_status (*write)(void *view, const q3_log_call *call);
    q3_status (*close)(void *view, q3_status how); /* how the run ended */
} q3_view_kind;

typedef struct q3_logger q3_logger;

/* Whether the environment has what the views need; asked before anything is loaded. Error: Q3_ERR_USAGE. */
q3_status q3_logger_check(const q3_config *config);

/* Opens the views of a run. Errors: Q3_ERR_MEMORY. */
q3_status q3_logger_open(q3_logger **out, const q3_view_run *run);
void q3_logger_close(q3_logger *logger, q3_status how);

/* One log call: a line of metrics.jsonl, newline included; `sync` forces it to the disk. Frees the line, whose
 * memory may have failed. Errors: Q3_ERR_IO, Q3_ERR_MEMORY. */
q3_status q3_logger_write(q3_logger *logger, q3_text *line, bool sync);

/* Shows `tell` all lines that metrics.jsonl has, in their order and with the time of this call. The first failure is
 * the result. */
q3_status q3_logger_each(const char *dir, q3_status (*tell)(void *arg, const q3_log_call *call), void *arg);

/* The tag of a value, as transformers' rewrite_logs has it: eval/loss of eval_loss, train/loss of loss; a name with
 * a slash stays. */
void q3_logger_tag(q3_text *out, const char *key);

/* Whether train.report_to has `word`. */
bool q3_logger_wants(const q3_config *config, const char *word);

#endif
