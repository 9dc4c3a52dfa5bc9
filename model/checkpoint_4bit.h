/* model/checkpoint_4bit.h - weights in 4 bits as bitsandbytes stores them in safetensors, read and written.
 *
 * A matrix P.weight is spread over several tensors (bitsandbytes 0.50.2, as transformers saves them):
 *
 *   P.weight                    U8 [(n + 1) / 2, 1], or the same bytes under another type
 *   P.weight.absmax             F32 [blocks], or U8 with double quantization
 *   P.weight.quant_map          F32 [16]
 *   P.weight.nested_absmax      F32 [ceil(blocks / 256)]: double quantization
 *   P.weight.nested_quant_map   F32 [256]: double quantization
 *   P.weight.quant_state.bitsandbytes__nf4 (or __fp4)
 *                               U8: JSON with the logical shape, type, block size, offset
 *
 * The quant_state tensor decides that a weight is in 4 bits, and its JSON what it means; lists of skipped
 * modules in config.json are not trusted. Errors: Q3_ERR_MODEL.
 */
#ifndef Q3_MODEL_CHECKPOINT_4BIT_H
#define Q3_MODEL_CHECKPOINT_4BIT_H

#include "core/json.h"
#include "core/quantized.h"
#include "model/checkpoint_files.h"

/* true when the weight of this normalized name is stored in 4 bits. */
bool q3_weights_is_quantized(q3_weights *w, const char *name);

/* Binds `out` to the file: packed, nested, scale and map are borrowed until q3_weights_close, absmax is
 * computed (or copied) into `mem`; a dry arena only counts. shape = {rows, cols}. Marks all parts as used. */
q3_status q3_weights_quantized(q3_quantized *out, int64_t shape[2], q3_arena *mem, q3_weights *w,
                               const char *name);

/* Appends the quant_state JSON, byte for byte as Python's json.dumps writes it. */
void q3_quant_state_json(q3_text *out, const q3_quantized *q, const int64_t shape[2]);

/* The tensors that store `q` as the weight `name`, for q3_safetensors_write: 4, or 6 with double
 * quantization. Data is borrowed from `q`; names and JSON live in `mem`. */
enum { Q3_4BIT_TENSORS = 6, Q3_4BIT_BLOCK = 64 }; /* weights a scale: the library's default */
q3_status q3_quantized_tensors(q3_st_tensor out[Q3_4BIT_TENSORS], int *n, q3_arena *mem, const char *name,
                               const q3_quantized *q, const int64_t shape[2]);

#endif
