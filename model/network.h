/* model/network.h - the network's parameters in memory, named as in the checkpoint.
 *
 * Everything is plain data in the run arena: weights.c fills it from files or a seed, lora.c hangs adapters
 * on the projections, vision.c and text.c compute with it. Weights frozen in 16 bits or 4 bits stay as they
 * are on disk.
 */
#ifndef Q3_MODEL_NETWORK_H
#define Q3_MODEL_NETWORK_H

#include "core/device.h"
#include "core/group.h"
#include "core/tensor.h"
#include "model/checkpoint_files.h"
#include "model/config.h"

/* A projection y = x w' + b, with an adapter or without: w [N, C], b [N], lora_a [r, C], lora_b [N, r]. */
typedef struct q3_proj {
    const char *path; /* module path: "model.language_model.layers.0.self_attn.q_proj" */
    q3_tensor *w, *b;
    q3_tensor *lora_a, *lora_b; /* NULL: no adapter */
    float lora_scale;
    float lora_dropout;
    uint32_t stream; /* index in q3_model.projections: tells dropout masks apart */
} q3_proj;

typedef struct q3_norm {
    q3_tensor *w, *b; /* [C] f32; b NULL for RMSNorm */
} q3_norm;

typedef struct q3_text_layer {
    q3_norm attn_norm, mlp_norm; /* input_layernorm, post_attention_layernorm */
    q3_norm q_norm, k_norm;      /* [D] */
    q3_proj q, k, v, o;
    q3_proj gate, up, down;
} q3_text_layer;

typedef struct q3_vision_block {
    q3_norm norm1, norm2;
    q3_proj qkv, proj;
    q3_proj fc1, fc2;
} q3_vision_block;

typedef struct q3_merger {
    q3_norm norm; /* [C], or [merge^2 C] when it follows the reshape */
    q3_proj fc1, fc2;
} q3_merger;

typedef struct q3_parameter {
    q3_tensor *tensor;
    bool vision; /* which tower */
} q3_parameter;

typedef enum q3_split_kind {
    Q3_SPLIT_NONE,
    Q3_SPLIT_TENSOR,
    Q3_SPLIT_PIPELINE,
    Q3_SPLIT_SEQUENCE
} q3_split_kind;

/* How the model is spread over processes (model/split.h). */
typedef struct q3_split {
    q3_split_kind kind;
    q3_group *group; /* borrowed; NULL for NONE */
    int first, end;  /* text layers that this process computes: all, except in a pipeline */
} q3_split;

typedef struct q3_model {
    q3_model_config config;
    /* text */
    q3_tensor *embed; /* [V, C] */
    q3_text_layer *layers;
    q3_norm norm;
    q3_tensor *head; /* [V, C]: the embedding itself when tied */
    /* vision; n_blocks 0 for a text-only model */
    q3_proj patch_embed;  /* w [C, 3 tpatch patch^2] */
    q3_tensor *pos_embed; /* [side^2, C] */
    q3_vision_block *blocks;
    q3_merger merger;
    q3_merger *deepstack;
    /* everything again, in checkpoint order of the reference (named_parameters, named_modules) */
    q3_parameter *params;
    int n_params;
    q3_proj **projections; /* every linear but the head: vision blocks, mergers, then the text layers */
    int n_projections;
    q3_arena *values;         /* borrowed: what parameters lie in, on the device that computes */
    q3_weights *files;        /* the maps that matrices lie in; NULL for random weights */
    int64_t quantized_bytes;  /* of the quantized matrices, their scales included */
    int64_t quantized_params; /* elements in them */
    q3_split split;
    bool offloading;
    int offload_from; /* text layers from offload_from on are unmapped behind each use (model/offload.h) */
} q3_model;

#endif
