/* eval/predictions.h - an evaluation read back from <name>_predictions.jsonl, for the report of a run that was resumed.
 */
#ifndef Q3_EVAL_PREDICTIONS_H
#define Q3_EVAL_PREDICTIONS_H

#include "eval/generation.h"

/* Reads dir/eval/<name>_predictions.jsonl as q3_evaluation_write left it; answers are parsed and metrics made anew, so
 * they equal those of the evaluation itself. Token ids are not kept. On failure there is
 * nothing to free. Errors: Q3_ERR_IO, Q3_ERR_FORMAT (file:line:column), Q3_ERR_DATA, Q3_ERR_MEMORY. */
q3_status q3_evaluation_read(q3_evaluation *out, const char *dir, const char *name, const char *const *labels,
                             int n_labels, uint64_t seed);

#endif
