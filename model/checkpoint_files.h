/* model/checkpoint_files.h - the weight files of a model directory, found by one name whoever wrote them.
 *
 * Reads model.safetensors, or model.safetensors.index.json and the shards it names. Names are normalized,
 * because the same network has been saved under several prefixes:
 *
 *   decoder  model.language_model.X <- language_model.X, language_model.model.X, model.X, X
 *   vision   model.visual.X         <- visual.X, model.language_model.visual.X
 *   head     lm_head.X              <- language_model.lm_head.X
 *
 * Tensors stay in the mapped files; nothing is copied. Errors: Q3_ERR_MODEL with file and tensor name.
 */
#ifndef Q3_MODEL_CHECKPOINT_FILES_H
#define Q3_MODEL_CHECKPOINT_FILES_H

#include "core/safetensors.h"

typedef struct q3_weights q3_weights;

/* Opens all files of `dir`. A name that belongs to no part of the network, or two tensors of one name, is an
 * error. */
q3_status q3_weights_open(q3_weights **out, const char *dir);
void q3_weights_close(q3_weights *w); /* fine with NULL */

int64_t q3_weights_count(const q3_weights *w);
const char *q3_weights_name(const q3_weights *w, int64_t index);       /* normalized; sorted */
const q3_st_tensor *q3_weights_at(const q3_weights *w, int64_t index); /* its ->name is the one in the file */

const char *q3_weights_path(const q3_weights *w, int64_t index);       /* of its file */
bool q3_weights_used(const q3_weights *w, int64_t index);              /* has somebody asked for it? */

/* By normalized name, NULL when absent. Marks the tensor as used. Not for several threads at once. */
const q3_st_tensor *q3_weights_find(q3_weights *w, const char *name);

/* As find, but absence, another shape, or a type that is no weight type (F32, BF16, F16) is Q3_ERR_MODEL. */
q3_status q3_weights_get(const q3_st_tensor **out, q3_weights *w, const char *name, int ndim,
                         const int64_t *shape);

/* Q3_ERR_MODEL naming tensors that nobody asked for: the config describes another network than the files
 * hold. */
q3_status q3_weights_all_used(const q3_weights *w);

const char *q3_weights_dir(const q3_weights *w);

/* The normalized form of a tensor or module name in `out`; false when it fits no part of the network or
 * `out_bytes`. */
bool q3_weights_normalize(char *out, size_t out_bytes, const char *name);

#endif
