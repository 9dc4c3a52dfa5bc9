/* model/config.h - what a model directory says about its network: config.json and generation_config.json.
 *
 * Read: Qwen3-VL (Qwen3VLForConditionalGeneration) and text-only Qwen3 (Qwen3ForCausalLM: Qwen3-Reranker), as
 * transformers 4.57 writes them (rope_theta, rope_scaling) and as 5.x does (rope_parameters). Nothing that
 * shapes the network has a default: those of the library changed between versions. Everything is checked for
 * range and agreement here and trusted afterwards. Errors: Q3_ERR_MODEL, "dir/config.json:19:5:
 * text_config.head_dim is 0; ...".
 */
#ifndef Q3_MODEL_CONFIG_H
#define Q3_MODEL_CONFIG_H

#include "core/arena.h"
#include "core/json.h"
#include "core/safetensors.h"

enum { Q3_MAX_DEEPSTACK = 16, Q3_MAX_EOS = 16, Q3_MAX_STOPS = 8, Q3_STOP_BYTES = 64 };

/* The decoder. H = hidden_size and so on: the capitals of docs/model.md. */
typedef struct q3_text_config {
    int vocab_size;        /* V: rows of the embedding */
    int hidden_size;       /* H: width of the residual stream */
    int intermediate_size; /* I: inner width of the SwiGLU MLP */
    int layers;            /* N */
    int heads;             /* query heads */
    int kv_heads;          /* key and value heads; divides heads */
    int head_dim;          /* d, even; heads * head_dim need not be hidden_size */
    float rms_eps;         /* of every RMSNorm */
    double rope_theta;     /* base of the rotary frequencies */
    bool mrope;            /* interleaved 3-axis rotary positions (VL); else plain ones */
    int mrope_section[3];  /* frequencies for frame, row, column; sum d / 2; {d/2, 0, 0} without mrope */
    int64_t max_positions; /* longest sequence the model was made for */
    bool tied;             /* the head is the embedding */
} q3_text_config;

/* The vision tower; all zero in a text-only model. Not in the file: LayerNorm eps 1e-6, rotary base 10000,
 * exact GELU in the mergers. */
typedef struct q3_vision_config {
    int hidden_size;                 /* D */
    int intermediate_size;           /* Iv: inner width of the MLP (tanh GELU) */
    int depth;                       /* blocks */
    int heads;                       /* divides D; D / heads is a multiple of 4 */
    int patch_size;                  /* pixels a side */
    int temporal_patch_size;         /* frames a patch; a still picture repeats its frame */
    int merge_size;                  /* patches a side that become one token */
    int channels;                    /* 3 */
    int positions;                   /* rows of the position table, a square number */
    int positions_side;              /* its root */
    int out_hidden_size;             /* merger output, H of the decoder */
    int n_deepstack;                 /* blocks whose output also enters the decoder */
    int deepstack[Q3_MAX_DEEPSTACK]; /* their indices, rising; the i-th goes to decoder layer i */
} q3_vision_config;

/* quantization_config of bitsandbytes. */
typedef struct q3_quantization_config {
    bool present;
    q3_dtype code;    /* Q3_NF4, Q3_FP4, Q3_I8 */
    bool nested;      /* double quantization */
    q3_dtype compute; /* F32, BF16, F16: what the reference would compute in */
    int n_skip;
    const char *const *skip; /* module names left in 16 bits; NULL: the library's own choice */
} q3_quantization_config;

typedef struct q3_generation_config {
    int n_eos;
    int32_t eos[Q3_MAX_EOS];                          /* any of them ends an answer */
    int32_t pad;                                      /* -1: none */
    bool do_sample;                                   /* else greedy */
    float temperature, top_p, repetition_penalty;     /* 1 means off */
    int top_k;                                        /* 0 means off; 50 when the file does not say */
    float min_p, presence_penalty, frequency_penalty; /* 0 means off; the penalties as vLLM reads them */
    int64_t max_new_tokens;                           /* of an answer; 0: the file does not say */
    int64_t max_length;                               /* of prompt and answer; 0: the file does not say */
    int n_stops;
    char stops[Q3_MAX_STOPS][Q3_STOP_BYTES]; /* stop_strings: texts that end an answer */
} q3_generation_config;

typedef struct q3_model_config {
    bool has_vision;
    q3_text_config text;
    q3_vision_config vision;
    int32_t image_token, video_token, vision_start, vision_end; /* ids; -1 in a text-only model */
    int32_t bos, pad;                                           /* ids; -1 when the file has none */
    q3_dtype dtype; /* F32, BF16, F16; Q3_DTYPES when the file does not say */
    q3_quantization_config quantization;
    q3_generation_config generation;
    const char *raw; /* config.json as it was, NUL-terminated; model/config_edit.h writes it again */
    size_t raw_bytes;
} q3_model_config;

/* Reads dir/config.json and, if it is there, dir/generation_config.json. Strings live in `mem`. */
q3_status q3_model_config_load(q3_model_config *out, q3_arena *mem, const char *dir);

/* The same from text; `name` stands in messages. The second one adds to what the first one made. */
q3_status q3_model_config_parse(q3_model_config *out, q3_arena *mem, const char *text, size_t size,
                                const char *name);
q3_status q3_generation_config_parse(q3_model_config *out, const char *text, size_t size, const char *name);

/* Parameters of the decoder (embedding and untied head included) and of the vision tower with its mergers. */
void q3_model_parameters(const q3_model_config *c, int64_t *text, int64_t *vision);

/* "bfloat16" for Q3_BF16 ...; NULL for types that are no weight type. Parsing: Q3_DTYPES for an unknown
 * name. */
const char *q3_torch_dtype_name(q3_dtype dtype);
q3_dtype q3_torch_dtype_parse(const char *name);

#endif
