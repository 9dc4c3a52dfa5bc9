/* train/judge.h - the `eval` command: what a config's model, or an adapter on it, is worth.
 */
#ifndef Q3_TRAIN_JUDGE_H
#define Q3_TRAIN_JUDGE_H

#include "core/json.h"
#include "train/config.h"

/* Evaluates the loss and the generated answers on the config's evaluation data; lora.init_adapter names the adapter
 * (NULL: the bare model). Appends one JSON object to `out`; `dir` (or NULL) receives eval/eval.json and
 * eval/eval_predictions.jsonl. Errors begin with "evaluate_qwen3 failed: ", those of Q3_ERR_USAGE apart. */
q3_status q3_judge(q3_text *out, q3_config *config, const char *dir);

#endif
