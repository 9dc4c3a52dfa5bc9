/* infer/generator.h - batched generation with a key/value cache of its own.
 *
 * Prompts come as a packed batch. q3_generator_begin runs them whole, once, and keeps their keys and values;
 * each further pass feeds only new tokens, of the rows that need some: no padding anywhere, and a row that
 * met an end token costs nothing more. What is written behind a prompt is overwritten by the next call, so
 * one begin serves any number of q3_score and q3_generate.
 *
 * Memory: per token and layer 2 K D values of the context's type, for each prompt and `room` tokens behind it; the logits behind
 * the prompts [B, V]; the context's step arena for one pass at a time. The cache is reserved for the
 * largest batch seen so far.
 */
#ifndef Q3_INFER_GENERATOR_H
#define Q3_INFER_GENERATOR_H

#include "infer/engine.h"
#include "infer/replay.h"
#include "infer/sample.h"
#include "model/qwen3vl.h"

/* A row of the batch: its tokens are rows begin .. begin + prompt_n + room of the slabs. */
typedef struct q3_generator_row {
    int64_t begin, prompt_n;
    int32_t next; /* position of the token behind the prompt, on all three axes */
} q3_generator_row;

typedef struct q3_generator {
    const q3_model *model;  /* borrowed */
    q3_ctx *ctx;            /* borrowed: its step arena is used */
    q3_replays *replays;    /* passes of decoding, recorded on CUDA; NULL on the CPU */
    q3_arena cache;         /* everything below, on the host */
    q3_arena slabs;         /* keys and values, on the device */
    int n_rows;             /* B; 0 before the first q3_generator_begin */
    int64_t room;           /* tokens that fit behind each prompt */
    int64_t n_slots;        /* S: rows of a slab */
    q3_generator_row *rows; /* [B] */
    int32_t *tokens;        /* [S]: the ids in the slab's rows, prompts and what follows them */
    float *logits;          /* [B, V]: what the prompts predict */
    q3_tensor **k, **v;     /* [layers]: the slabs, [S, K D] */
} q3_generator;

q3_status q3_generator_create(q3_generator *out, const q3_model *model, q3_ctx *ctx);
void q3_generator_destroy(q3_generator *e);

/* Runs the prompts and keeps their keys and values, with room for `room` tokens behind each. The batch is
 * not needed any more when this returns; each of its rows has at least one token. Errors: Q3_ERR_MEMORY,
 * Q3_ERR_LIMIT (2^31 tokens), Q3_ERR_FAIL (logits not finite). */
q3_status q3_generator_begin(q3_generator *e, const q3_batch *prompts, int64_t room);

typedef struct q3_answer_ids {
    const int32_t *ids; /* [n], without the end token; in the cache until the engine's next call */
    int64_t n;
    bool ended; /* met an end token; otherwise max_new_tokens was reached */
} q3_answer_ids;

typedef struct q3_generate_options {
    int64_t max_new_tokens; /* at most the engine's room */
    q3_sampling sampling;
    const int32_t *eos; /* [n_eos] any of them ends an answer */
    int n_eos;
    uint32_t first_request; /* number of the first row, for the random draws */
} q3_generate_options;

/* Continues every prompt of q3_generator_begin: out[B]. Errors: Q3_ERR_MEMORY, Q3_ERR_FAIL (logits not
 * finite). */
q3_status q3_generate(q3_answer_ids *out, q3_generator *e, const q3_generate_options *options);

/* Each choice has at most the generator's room of ids. log p(choice | prompt) for every prompt of q3_generator_begin: out[B, n_choices]. What all choices begin
 * with is run once. Errors: Q3_ERR_MEMORY, Q3_ERR_FAIL (logits not finite). */
q3_status q3_score(double *out, q3_generator *e, const q3_choice *choices, int n_choices);

#endif
