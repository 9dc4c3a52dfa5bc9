/* eval/predictions.h - an evaluation's files, and what is read back of them for the report of a run that was resumed. */
#ifndef Q3_EVAL_PREDICTIONS_H
#define Q3_EVAL_PREDICTIONS_H

#include "eval/generation.h"

/* Writes dir/eval/<name>.json, the metrics, and dir/eval/<name>_predictions.jsonl, a line a sample: id (or
 * where it stands), prompt_tokens, output, output_ids, stage, pred (null when failed), gold, source if there is
 * one, and with the forced choice forced and forced_probs in the order of the labels. Labels in normal form. */
q3_status q3_evaluation_write(const q3_evaluation *e, const char *dir, const char *name);

/* Reads dir/eval/<name>_predictions.jsonl as q3_evaluation_write left it; answers are parsed and metrics made anew, so
 * they equal those of the evaluation itself. Token ids are not kept. On failure there is
 * nothing to free. Errors: Q3_ERR_IO, Q3_ERR_FORMAT (file:line:column), Q3_ERR_DATA, Q3_ERR_MEMORY. */
q3_status q3_evaluation_read(q3_evaluation *out, const char *dir, const char *name, const char *const *labels,
                             int n_labels, uint64_t seed);

#endif
