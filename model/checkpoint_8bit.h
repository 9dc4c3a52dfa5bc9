/* model/checkpoint_8bit.h - weights in int8 as bitsandbytes stores them in safetensors, read and written.
 *
 * A matrix P.weight is spread over three tensors (Linear8bitLt of bitsandbytes, as transformers saves it):
 *
 *   P.weight          I8 [rows, cols]: the codes (kernels/int8.h)
 *   P.SCB             F32 [rows]: the absmax of each row
 *   P.weight_format   U8, one element: 0, row by row. The layouts of older versions, each for one generation of cards
 *                     (1 to 3), are refused. May be absent
 *
 * The type of P.weight decides that it is in int8. Errors: Q3_ERR_MODEL.
 */
#ifndef Q3_MODEL_CHECKPOINT_8BIT_H
#define Q3_MODEL_CHECKPOINT_8BIT_H

#include "core/arena.h"
#include "model/checkpoint_files.h"

/* true when the weight of this normalized name is stored in int8. */
bool q3_weights_is_int8(q3_weights *w, const char *name);

/* The codes [rows, cols] and the absmax [rows] of a weight of that shape, both borrowed until q3_weights_close. Marks
 * all parts as used. */
q3_status q3_weights_int8(const int8_t **codes, const float **absmax, q3_weights *w, const char *name,
                          const int64_t shape[2]);

/* The tensors that store codes [rows, cols] and absmax [rows] (borrowed) as the weight `name`, which ends in ".weight",
 * for q3_safetensors_write. Names live in `mem`. */
enum { Q3_8BIT_TENSORS = 3 };
q3_status q3_int8_tensors(q3_st_tensor out[Q3_8BIT_TENSORS], q3_arena *mem, const char *name,
                          const int8_t *codes, const float *absmax, const int64_t shape[2]);

#endif
