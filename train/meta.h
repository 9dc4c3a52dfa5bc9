/* train/meta.h - training_meta.json: what was trained on what, with what, and what came out. The last file of a run.
 *
 * Keys as in the reference pipeline (spec S2.38): base_model_name_or_path, dataset_id, effective_batch_size, ...; beside
 * them seed, version, device, tokens per second, peak memory and the metrics before and after.
 */
#ifndef Q3_TRAIN_META_H
#define Q3_TRAIN_META_H

#include "eval/metrics.h"
#include "train/trainer.h"

/* pre and post may be NULL. */
q3_status q3_meta_write(const q3_trainer *t, const q3_metrics *pre, const q3_metrics *post);

#endif
