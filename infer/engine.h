/* infer/engine.h - batched generation with a key/value cache of its own.
 *
 * Prompts come as a packed batch. The first pass runs them whole and fills the cache, then each step feeds one token of
 * every row that is still open: no padding anywhere, and a row that met an end token costs nothing more. Answers are the
 * new ids only.
 */
#ifndef Q3_INFER_ENGINE_H
#define Q3_INFER_ENGINE_H

#include "infer/sample.h"
#include "model/qwen3vl.h"

typedef struct q3_engine {
    const q3_model *model; /* borrowed */
    q3_ctx *ctx;           /* borrowed: its step arena is used */
    q3_arena cache;        /* keys and values, and the answers of a run */
} q3_engine;

q3_status q3_engine_create(q3_engine *out, const q3_model *model, q3_ctx *ctx);
void q3_engine_destroy(q3_engine *e);

typedef struct q3_answer_ids {
    int32_t *ids; /* [n], without the end token; in the engine's cache, until its next run */
    int64_t n;
    bool ended; /* met an end token; otherwise max_new_tokens was reached */
} q3_answer_ids;

typedef struct q3_generate_options {
    int64_t max_new_tokens;
    q3_sampling sampling;
    const int32_t *eos; /* [n_eos] any of them ends an answer */
    int n_eos;
    uint32_t first_request; /* number of the first row, for the random draws */
} q3_generate_options;

/* One answer per row of `prompts`, in out[n_rows]. Errors: Q3_ERR_MEMORY, Q3_ERR_FAIL (logits not finite). */
q3_status q3_generate(q3_answer_ids *out, q3_engine *e, const q3_batch *prompts, const q3_generate_options *options);

/* Log-probabilities of continuations: row i of the batch continues prompt i by the n[i] tokens at answers[i]. All rows
 * of `prompts` are run once, then every answer reads their cache. sums[a] = sum of log p of the tokens of answer a.
 * `of[a]` is the prompt that answer a continues. */
q3_status q3_score(double *sums, q3_engine *e, const q3_batch *prompts, const int32_t *const *answers, const int64_t *n,
                   const int32_t *of, int64_t n_answers);

#endif
