/* model/qwen3vl.h - Qwen3-VL from a batch to a loss or to logits.
 *
 * Qwen3VLForConditionalGeneration of transformers 5.17: vision tower, decoder, tied or untied head.
 * Qwen3ForCausalLM is the same without pictures.
 */
#ifndef Q3_MODEL_QWEN3VL_H
#define Q3_MODEL_QWEN3VL_H

#include "model/forward.h"

/* Does anything in the vision tower want a gradient, its own weights or adapters on them? */
bool q3_qwen3vl_vision_trained(const q3_model *m);

/* The features of the batch's pictures; a frozen tower leaves nothing for backward. q3_forward.features takes them. */
q3_vision_features q3_qwen3vl_see(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b);

/* Hidden states behind the final norm: of all tokens (rows NULL), or of the n tokens in `rows`. [n, C] */
q3_tensor *q3_qwen3vl_hidden(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b,
                             const int32_t *rows, int64_t n);

/* Logits [n, V] of the tokens in `rows`, or of all. */
q3_tensor *q3_qwen3vl_logits(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b,
                             const int32_t *rows, int64_t n);

/* scale times the summed cross-entropy of the supervised tokens, [1]; the head runs on their rows only. NULL
 * when the batch supervises nothing. */
q3_tensor *q3_qwen3vl_loss(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b,
                           float scale);

/* The supervised tokens: rows[i] predicts targets[i] = labels[rows[i] + 1] within its row. Returns their
 * number; arrays may be NULL to count, else they hold at least that many. */
int64_t q3_batch_targets(const q3_batch *b, int32_t *rows, int32_t *targets);

#endif
