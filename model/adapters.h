/* model/adapters.h - several LoRA adapters at once over one model, for inference.
 *
 * An adapter is loaded as model/lora.h loads it, and then taken off the projections again. A pass of the network is told which
 * of its tokens go through which adapter (q3_forward.runs); the base's product is made for all of them at once.
 */
#ifndef Q3_MODEL_ADAPTERS_H
#define Q3_MODEL_ADAPTERS_H

#include "model/lora.h"

typedef struct q3_adapter_part {
    q3_tensor *a, *b; /* [r, C], [N, r]; NULL where the adapter has none */
    float scale;
} q3_adapter_part;

typedef struct q3_adapter {
    const char *name;       /* borrowed */
    q3_adapter_part *parts; /* [n_projections], by q3_proj.stream */
    bool vision;            /* has parts in the vision tower: features are its own */
    unsigned char hash[32]; /* SHA-256 of its values: what keys cached prefixes */
} q3_adapter;

typedef struct q3_adapters {
    q3_adapter *list; /* [n] */
    int n, capacity;
} q3_adapters;

/* Tokens begin .. begin + n of a pass go through this adapter; NULL: through the base alone. */
typedef struct q3_adapter_run {
    const q3_adapter *adapter;
    int64_t begin, n;
} q3_adapter_run;

/* Room for `capacity` adapters in `mem`. */
q3_status q3_adapters_create(q3_adapters *out, q3_arena *mem, int capacity);

/* Loads a PEFT directory; values lie in `values`, on the device that computes. The model has no adapter afterwards.
 * Errors: those of q3_lora_load. */
q3_status q3_adapters_load(q3_adapters *a, q3_model *model, q3_arena *mem, q3_arena *values, const char *name,
                           const char *dir);

/* W += scale B A for every part, in place of copies in f32 or the weights' own type; the matrices must be f32, bf16 or f16. Error: Q3_ERR_USAGE
 * for quantized ones, Q3_ERR_MEMORY. */
q3_status q3_adapter_merge(q3_model *model, q3_arena *values, const q3_adapter *adapter);

#endif
