/* infer/subject.h - a model made ready to be measured: weights, device and engine, without a tokenizer.
 *
 * What quality and bench begin with. Random weights need config.json alone.
 */
#ifndef Q3_INFER_SUBJECT_H
#define Q3_INFER_SUBJECT_H

#include "infer/engine.h"
#include "model/weights.h"

typedef struct q3_subject_options {
    const char *model;   /* directory */
    const char *weights; /* a word of q3_load_options_word; NULL: auto */
    const char *device;  /* NULL: auto */
    const char *dtype; /* of activations: auto, float32 or bfloat16; NULL: auto, as infer/session.h has it */
    bool random;       /* weights from `seed` */
    uint64_t seed;
    q3_engine_options engine;
} q3_subject_options;

typedef struct q3_subject {
    q3_cuda *cuda;
    q3_arena run, values, step; /* headers; parameters; activations */
    q3_ctx ctx;
    q3_model model;
    q3_engine *engine;
} q3_subject;

/* Nothing is left to free on failure. The struct stays where it is: its parts point at each other. */
q3_status q3_subject_open(q3_subject *out, const q3_subject_options *o);
void q3_subject_close(q3_subject *s); /* fine on a zeroed one */

/* The word for a type of the cache: "f32", "bf16", "int8", "int4"; and the other way, Q3_DTYPES for "auto" and NULL,
 * Q3_ERR_USAGE for others. */
const char *q3_cache_word(q3_dtype type);
q3_status q3_cache_type(q3_dtype *out, const char *word);

/* Bytes of one token in all layers of a cache of that type, scales included. */
size_t q3_cache_token_bytes(const q3_model_config *c, q3_dtype type);

#endif
