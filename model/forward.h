/* model/forward.h - the network as a computation: what vision.c, text.c and qwen3vl.c share.
 *
 * The listing follows transformers 5.17 modeling_qwen3_vl.py; docs/model.md has the shapes. All functions
 * record on the context's tape when it is recording; tensors live until the next q3_step_begin.
 */
#ifndef Q3_MODEL_FORWARD_H
#define Q3_MODEL_FORWARD_H

#include "core/ops.h"
#include "model/batch.h"
#include "model/network.h"

typedef enum q3_checkpointing {
    Q3_CHECKPOINT_NONE,
    Q3_CHECKPOINT_HALF, /* every other layer is run again in backward */
    Q3_CHECKPOINT_FULL,
} q3_checkpointing;

/* The key/value cache of a generation: one slab per layer. Slots are the engine's business. */
typedef struct q3_kv {
    q3_tensor **k, **v;         /* [n_layers]: [S, K D], of the context's type */
    const int32_t *device_rows; /* [T], on the device (q3_on_device): where the batch's tokens go */
    const q3_segment *segments; /* [n_rows]: who attends to what, kv_begin in rows of the slab */
} q3_kv;

/* Called with tensors on their way, by the names of the trace command: "vision.blocks.0", "text.layers.1",
 * ... */
typedef void q3_tap(void *arg, const char *name, q3_tensor *t);

typedef struct q3_forward {
    q3_checkpointing checkpointing;
    bool training;   /* dropout acts */
    const q3_kv *kv; /* NULL: no cache */
    q3_tap *tap;     /* NULL: nobody listens. Not together with checkpointing */
    void *tap_arg;
} q3_forward;

typedef struct q3_vision_features {
    q3_tensor *merged;                      /* [M, H] */
    q3_tensor *deepstack[Q3_MAX_DEEPSTACK]; /* [M, H] each */
} q3_vision_features;

/* Is this layer's inside dropped behind it? By the checkpointing in training; always when nothing is
 * recorded. */
static inline bool q3_forget_layer(const q3_ctx *ctx, const q3_forward *f, int layer)
{
    if (!ctx->recording)
        return true;
    return f->checkpointing == Q3_CHECKPOINT_FULL ||
           (f->checkpointing == Q3_CHECKPOINT_HALF && layer % 2 == 0);
}

/* y = x w' + b, with the projection's adapter if it has one. */
q3_tensor *q3_project(q3_ctx *ctx, const q3_forward *f, const q3_proj *p, q3_tensor *x);

/* y = a + x w' + b: the projection that a residual branch ends with. */
q3_tensor *q3_project_add(q3_ctx *ctx, const q3_forward *f, q3_tensor *a, const q3_proj *p, q3_tensor *x);

q3_vision_features q3_vision_forward(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b);

/* The last hidden states [T, H] before the final norm. `vision` is NULL when the batch has no pictures. */
q3_tensor *q3_text_forward(q3_ctx *ctx, const q3_model *m, const q3_forward *f, const q3_batch *b,
                           const q3_vision_features *vision);

#endif
