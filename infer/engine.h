/* infer/engine.h - sequences of tokens over one paged key/value cache, and passes of the network that move them on.
 *
 * The cache is a pool of blocks of 16 tokens for all layers (infer/kvcache.h). A sequence is its ids and a table of
 * blocks; what is computed of it (n_cached tokens) need not be computed again. Full blocks are found again by the hash of
 * everything in front of them (ids, pictures, adapter), so prompts that begin alike share them; a fork shares all blocks
 * with its parent and copies the last one when either writes to it.
 *
 * A pass takes the next tokens of any number of sequences, packed end to end, whatever their adapters. Pictures go
 * through the vision tower once, when the first of their tokens is due, and their features are kept by hash. Who is fed
 * when is the scheduler's business (infer/scheduler.h); this file only computes.
 *
 * Up to Q3_GEMM_FEW tokens in a pass the bits of a sequence do not depend on what else is in it (kernels/gemm.h).
 */
#ifndef Q3_INFER_ENGINE_H
#define Q3_INFER_ENGINE_H

#include "infer/prompt.h"
#include "model/adapters.h"
#include "model/qwen3vl.h"

typedef struct q3_engine q3_engine;

enum { Q3_ENGINE_BLOCK = 16 }; /* tokens of a block */

typedef struct q3_engine_options {
    q3_dtype kv_type; /* F32, BF16, I8, I4 (kernels/kv_cache.h); Q3_DTYPES: that of activations */
    int64_t
        tokens; /* that the cache holds, rounded up to blocks; 0: one sequence of the model's max_positions,
                             but at most half of the memory that is available */
    int64_t
        window; /* tokens that a query sees, itself included; 0: all. Not what the models were trained with */
    int64_t feature_bytes; /* of pictures' features kept; 0: 256 MiB */
    bool no_sharing;       /* prefixes are not looked up */
} q3_engine_options;

/* Model, context and adapters (NULL: none) are borrowed; the context's step arena is used. Errors: Q3_ERR_MEMORY,
 * Q3_ERR_USAGE (a type that head_dim does not allow). */
q3_status q3_engine_create(q3_engine **out, const q3_model *model, q3_ctx *ctx, const q3_adapters *adapters,
                           const q3_engine_options *options);
void q3_engine_destroy(q3_engine *e); /* sequences must be gone; NULL is fine */

/* The word for a type of the cache: "f32", "bf16", "int8", "int4"; and the other way, Q3_DTYPES for "auto" and NULL,
 * Q3_ERR_USAGE for others. */
const char *q3_cache_word(q3_dtype type);
q3_status q3_cache_type(q3_dtype *out, const char *word);

/* Bytes of one token in all layers of a cache of that type, scales included. */
size_t q3_cache_token_bytes(const q3_model *m, q3_dtype type);

const q3_model *q3_engine_model(const q3_engine *e);
const q3_engine_options *q3_engine_settings(const q3_engine *e); /* with the defaults filled in */
int64_t q3_engine_blocks(const q3_engine *e);
int64_t q3_engine_free_blocks(const q3_engine *e); /* free at once or after forgetting cached prefixes */

typedef struct q3_sequence q3_sequence;

/* A sequence that begins with a prompt (borrowed until the sequence goes) and may grow to `limit` tokens. What the
 * cache already has of it counts as computed, except for its last token. */
q3_status q3_sequence_create(q3_sequence **out, q3_engine *e, const q3_prompt *prompt, int64_t limit);
/* The same tokens once more, sharing blocks. */
q3_status q3_sequence_fork(q3_sequence **out, const q3_sequence *s);
void q3_sequence_destroy(
    q3_sequence *s); /* gives its blocks back; full ones stay findable while nobody needs them */

const int32_t *q3_sequence_ids(int64_t *n, const q3_sequence *s); /* prompt and what was pushed */
int64_t q3_sequence_cached(const q3_sequence *s);                 /* tokens whose keys and values are there */
int64_t q3_sequence_found(const q3_sequence *s);                  /* of them, tokens found at creation */

/* Appends ids behind the last; false past the limit. */
bool q3_sequence_push(q3_sequence *s, const int32_t *ids, int64_t n);
/* Drops tokens from n on, and what is cached of them: guesses that were wrong. n is not inside the prompt. */
void q3_sequence_truncate(q3_sequence *s, int64_t n);
/* Gives all blocks back; the ids stay and can be computed again. */
void q3_sequence_evict(q3_sequence *s);

/* Blocks for the tokens behind the cached ones, n of them: false when the pool has not enough (nothing changes then). */
bool q3_sequence_reserve(q3_sequence *s, int64_t n);

typedef enum q3_want {
    Q3_WANT_NOTHING,
    Q3_WANT_LAST,
    Q3_WANT_ALL,
    Q3_WANT_HIDDEN,
    Q3_WANT_LIKELIEST,
    Q3_WANT_CANDIDATES
} q3_want;

/* Most that top-k sampling may draw from for Q3_WANT_CANDIDATES, and the candidates of a row that a device hands over. */
enum { Q3_WANT_TOP_K = 128, Q3_WANT_MOST = 256 };

/* The next n tokens of a sequence, behind its cached ones; q3_sequence_reserve has been told. */
typedef struct q3_feed {
    q3_sequence *sequence;
    int64_t n; /* at least 1 */
    q3_want want; /* logits of the last token or of all n; its hidden state behind the final norm; its likeliest id;
                     or what top-k sampling may draw for it (kernels/sample.h) */
    float temperature; /* with Q3_WANT_CANDIDATES, above 0 */
    int top_k;         /* likewise, 1 .. Q3_WANT_TOP_K */
    const float *values; /* filled by the pass: [V], [n, V] or [C]; until the next pass. Hosts may change them. With
                            Q3_WANT_CANDIDATES [n_candidates], divided by the temperature; or, where n_candidates is 0
                            (on the CPU, and when too many tie), the logits [V] as they are */
    const int32_t *candidates; /* [n_candidates], rising */
    int n_candidates;
    int32_t likeliest; /* with Q3_WANT_LIKELIEST: found on the device, lowest id on ties */
} q3_feed;

/* Runs the network over all feeds at once. Errors: Q3_ERR_MEMORY (what is cached stays as it was), Q3_ERR_FAIL (not
 * finite: which feed is named by *flawed, if not NULL; -1 otherwise). */
q3_status q3_engine_pass(q3_engine *e, q3_feed *feeds, int n_feeds, int *flawed);

/* A continuation to be weighed: these ids, and behind them any one of `any` (n_any 0: the ids alone). */
typedef struct q3_choice {
    const int32_t *ids; /* [n], n >= 1 */
    int64_t n;
    const int32_t *any; /* [n_any] distinct ids */
    int64_t n_any;
} q3_choice;

/* log p(choice | prompt) for each prompt: out [n_prompts, n_choices]. Each prompt is computed once, each choice behind
 * a fork of it. Errors: those of the pass, Q3_ERR_MEMORY where the cache is too small for one prompt and one choice. */
q3_status q3_engine_score(double *out, q3_engine *e, const q3_prompt *prompts, int n_prompts,
                          const q3_choice *choices, int n_choices);

#endif
