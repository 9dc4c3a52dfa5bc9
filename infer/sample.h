/* infer/sample.h - from logits to the next token, in the order of transformers' generate (5.17).
 *
 *   repetition penalty -> presence and frequency penalty -> greedy argmax, or:
 *   temperature -> top-k -> top-p -> min-p -> softmax -> one draw
 *
 * Draws are counted (core/rng.h): keyed by seed, request and position, so they do not depend on the batch.
 */
#ifndef Q3_INFER_SAMPLE_H
#define Q3_INFER_SAMPLE_H

#include "core/json.h"

typedef struct q3_sampling {
    bool do_sample;           /* false: the likeliest token, the lowest id on ties */
    float temperature;        /* 0 is greedy too; 1 is off */
    int top_k;                /* keep the k likeliest and their ties; 0 is off */
    float top_p;              /* keep the smallest set of at least this mass and its ties; 1 is off */
    float repetition_penalty; /* 1 is off */
    float min_p;              /* drop what is less likely than this part of the likeliest; 0 is off */
    float presence_penalty;   /* subtracted once from each token of the answer so far (OpenAI); 0 is off */
    float frequency_penalty;  /* subtracted as often as it came */
    uint64_t seed;
} q3_sampling;

/* One of the likeliest tokens. */
typedef struct q3_logprob {
    int32_t id;
    float logprob;
} q3_logprob;

/* The likeliest token is always taken: no draw. */
bool q3_sample_greedy(const q3_sampling *s);

/* The penalties, on logits [V] in place. `seen` are the prompt's ids [n_prompt] and behind them the answer's; the
 * repetition penalty counts each distinct id of them once, presence and frequency look at the answer alone. Ids outside
 * the vocabulary are passed over. scratch [V] is overwritten. */
void q3_sample_penalize(float *logits, int64_t vocab, const int32_t *seen, int64_t n_seen, int64_t n_prompt,
                        const q3_sampling *s, float *scratch);

/* The next token of request `request` at output position `position`, from penalized logits. logits and scratch, both
 * [V], are changed. */
int32_t q3_sample_draw(float *logits, int64_t vocab, const q3_sampling *s, uint32_t request,
                       uint32_t position, float *scratch);

/* The chain up to the draw, on logits [V] in place: what is dropped becomes -INFINITY. Greedy settings stop behind the
 * penalties. scratch [V] is overwritten. */
void q3_sample_filter(float *logits, int64_t vocab, const int32_t *seen, int64_t n_seen, int64_t n_prompt,
                      const q3_sampling *s, float *scratch);

/* Penalties and draw. */
int32_t q3_sample_next(float *logits, int64_t vocab, const int32_t *seen, int64_t n_seen, int64_t n_prompt,
                       const q3_sampling *s, uint32_t request, uint32_t position, float *scratch);

/* log p of `id` (own, NULL: not wanted) and the n_top <= vocab likeliest tokens, likeliest first, lowest id on ties. The
 * logits are the network's own, or whatever the probabilities are to be of. */
void q3_logprobs(float *own, q3_logprob *top, int n_top, const float *logits, int64_t vocab, int32_t id);

/* Appends the settings that are in effect: "temperature 0.7, top-k 20, top-p 0.8, seed 42", or "greedy". */
void q3_sampling_describe(q3_text *out, const q3_sampling *s);

#endif
