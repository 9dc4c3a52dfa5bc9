/* model/forward.h - the network as a computation: what vision.c, text.c and qwen3vl.c share.
 *
 * The listing follows transformers 5.17 modeling_qwen3_vl.py; docs/model.md has the shapes. All functions
 * record on the context's tape when it is recording; tensors live until the next q3_step_begin.
 */
#ifndef Q3_MODEL_FORWARD_H
#define Q3_MODEL_FORWARD_H

#include "core/ops.h"
#include "kernels/kv_cache.h"
#include "model/adapters.h"
#include "model/batch.h"
#include "model/network.h"

typedef enum q3_checkpointing {
    Q3_CHECKPOINT_NONE,
    Q3_CHECKPOINT_HALF, /* every other layer is run again in backward */
    Q3_CHECKPOINT_FULL,
} q3_checkpointing;

/* The key/value cache of a generation, in blocks that any number of rows share: one slab per layer for keys and one for
 * values (kernels/attention_paged.h). Which blocks and slots is the engine's business. Arrays are on the device
 * (q3_on_device). */
typedef struct q3_kv {
    const q3_kv_slab *k, *v; /* [n_layers] */
    const int32_t *slots;    /* [T]: rows of the slabs that the batch's tokens go to */
    const int32_t *tables;   /* [n_rows, max_blocks]: the blocks of each row in order */
    const int32_t *lengths;  /* [n_rows]: tokens of each row, those of the batch included */
    const int32_t *begins;   /* [n_rows + 1]: where the batch's tokens of each begin */
    int64_t most;            /* tokens of a row in the batch */
    int max_blocks, block;   /* block: tokens in one */
    int64_t window;          /* tokens that each sees, itself included; 0: all */
} q3_kv;

typedef struct q3_vision_features {
    q3_tensor *merged;                      /* [M, H] */
    q3_tensor *deepstack[Q3_MAX_DEEPSTACK]; /* [M, H] each */
} q3_vision_features;

/* Called with tensors on their way, by the names of the trace command: "vision.blocks.0", "text.layers.1",
 * ... */
typedef void q3_tap(void *arg, const char *name, q3_tensor *t);

typedef struct q3_forward {
    q3_checkpointing checkpointing;
    bool training;   /* dropout acts */
    const q3_kv *kv; /* NULL: no cache */
    const q3_vision_features
        *features; /* of the batch's image_rows, made before; NULL: the tower sees its pictures */
    const q3_adapter_run
        *runs; /* [n_runs]: adapters of the batch's tokens, beside those on the projections; what
                                   exceeds the rows at hand is cut off. Not while recording */
    int n_runs;
    q3_tap *tap; /* NULL: nobody listens. Not together with checkpointing */
    void *tap_arg;
} q3_forward;

/* Is this layer's inside dropped behind it? By the checkpointing in training; always when nothing is
 * recorded. */
static inline bool q3_forget_layer(const q3_ctx *ctx, const q3_forward *f, int layer)
{
    if (!ctx->recording)
        return true;
    return f->checkpointing == Q3_CHECKPOINT_FULL ||
           (f->checkpointing == Q3_CHECKPOINT_HALF && layer % 2 == 0);
}

/* y = x w' + b, with the projection's adapter if it has one, and those of the runs. */
q3_tensor *q3_project(q3_ctx *ctx, const q3_forward *f, const q3_proj *p, q3_tensor *x);

/* y = a + x w' + b: the projection that a residual branch ends with. */
q3_tensor *q3_project_add(q3_ctx *ctx, const q3_forward *f, q3_tensor *a, const q3_proj *p, q3_tensor *x);

q3_vision_features q3_vision_forward(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b);

/* The last hidden states [T, H] before the final norm. `vision` is NULL when the batch has no pictures. */
q3_tensor *q3_text_forward(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b,
                           const q3_vision_features *vision);

#endif
