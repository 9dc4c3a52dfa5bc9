/* model/checkpoint_int4.h - weights in int4 (kernels/nf4.h), in a form of our own, read and written.
 *
 *   P.weight          U8 [(n + 1) / 2, 1]: two codes a byte, the first in the high nibble
 *   P.weight.absmax   F32 [ceil(n / group)]: the scale of each run of `group` elements of the flat index
 *
 * config.json says that such tensors are int4, and how long a group is; without it they are refused:
 *
 *   "quantization_config": { "group_size": 32, "modules_to_not_convert": ["lm_head"], "quant_method": "q3_int4" }
 *
 * transformers does not know the method and refuses such weights by their shapes. Errors: Q3_ERR_MODEL.
 */
#ifndef Q3_MODEL_CHECKPOINT_INT4_H
#define Q3_MODEL_CHECKPOINT_INT4_H

#include "core/quantized.h"
#include "model/checkpoint_files.h"
#include "model/config.h"

/* true when the weight of this normalized name is stored so, by the words of the config. */
bool q3_weights_is_int4(q3_weights *w, const q3_quantization_config *c, const char *name);

/* Binds `out` to the file until q3_weights_close. The shape is the one that config.json asks for; a weight of another
 * size is refused. Marks both parts as used. */
q3_status q3_weights_int4(q3_quantized *out, q3_weights *w, const q3_quantization_config *c, const char *name,
                          const int64_t shape[2]);

/* The tensors that store `q` as the weight `name`, for q3_safetensors_write. Data is borrowed from `q`; names live in
 * `mem`. */
enum { Q3_INT4_TENSORS = 2 };
q3_status q3_int4_tensors(q3_st_tensor out[Q3_INT4_TENSORS], q3_arena *mem, const char *name,
                          const q3_quantized *q);

#endif
