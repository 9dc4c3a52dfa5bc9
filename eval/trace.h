/* eval/trace.h - one forward (and backward) pass with every named tensor written out, to compare with another
 * implementation, kernel or device.
 *
 * The batch is a safetensors file in the reference's padded form: input_ids, attention_mask, labels, pixel_values,
 * image_grid_thw, the prefix "in." optional; labels, mask and pictures may be missing. What is written has the reference's
 * names: out.vision.patch_embed (before the positions), out.vision.blocks.i, out.vision.merger, out.vision.deepstack.i,
 * out.text.layers.i (before the deepstack features), out.text.norm, out.logits, out.loss, out.position_ids [3, B, L],
 * out.rope_deltas [B, 1], and grad.<parameter> after a backward pass. Tokens that are padding are zero. Text-only models
 * have no out.vision.*, and their parameters no "language_model." in the name.
 */
#ifndef Q3_EVAL_TRACE_H
#define Q3_EVAL_TRACE_H

#include "core/status.h"
#include "model/forward.h"

typedef enum q3_trace_backward { Q3_TRACE_FORWARD, Q3_TRACE_LORA, Q3_TRACE_FULL } q3_trace_backward;

typedef struct q3_trace_options {
    const char *model;
    const char *adapter; /* NULL: none */
    const char *batch, *out;
    q3_trace_backward backward;
    const char *device; /* "cpu", "cuda:0", ...; NULL: the CPU */
    bool bf16;          /* activations in bfloat16, on CUDA only */
    bool load_in_4bit;
    bool load_in_8bit;              /* int8; not both */
    q3_checkpointing checkpointing; /* backward only: layers run again; hidden states are not written then */
} q3_trace_options;

/* The loss is the mean over supervised tokens: for a single batch micro_mean and token_mean are the same number.
 * Errors: Q3_ERR_MODEL, Q3_ERR_DATA (the batch), Q3_ERR_USAGE (a backward pass that has nothing to train). */
q3_status q3_trace(const q3_trace_options *options);

#endif
