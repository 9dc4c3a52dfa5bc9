/* eval/quality.h - how far a model with quantized weights or a quantized cache is from the full one.
 *
 * Both run over the same prompts, windows of a text as a rule. At each token p is the full model's distribution of the
 * next one, q the other's, and what is measured is
 *
 *   KL(p || q) = sum_v p_v (log p_v - log q_v)     in nats: mean, 99th percentile, largest
 *   perplexity = exp(mean of -log of the token that the prompt goes on with), of both
 *   agreement  = share of the tokens at which both find the same one likeliest
 *   prefix     = how many tokens both go on with alike, greedily, behind each prompt
 *
 * Perplexities can agree by chance where distributions do not; KL cannot, so the gate looks at its mean. Logits are
 * compared as they come, a few rows at a time: nothing of [T, V] is kept.
 */
#ifndef Q3_EVAL_QUALITY_H
#define Q3_EVAL_QUALITY_H

#include "infer/engine.h"

enum { Q3_QUALITY_WINDOW = 256, Q3_QUALITY_GREEDY = 32 }; /* tokens: the defaults of the command */

/* The prompts that a text is cut into; the last may be shorter. In `mem`, NULL when it is full. */
q3_prompt *q3_quality_windows(int *n, q3_arena *mem, const int32_t *ids, int64_t n_ids, int64_t window);

typedef struct q3_quality {
    int prompts;
    int64_t positions, predicted; /* compared distributions; those of them that a prompt goes on from */
    double kl_mean, kl_p99, kl_max;
    double perplexity_full, perplexity;
    double agreement;    /* 0 .. 1 */
    double prefix;       /* tokens, mean over prompts; an end that both find counts as all of them */
    int64_t prefix_most; /* tokens that were asked for */
} q3_quality;

/* At least one prompt of two tokens. The engines share no prefixes (no_sharing), and their caches hold the longest prompt
 * and `greedy` tokens more. Errors: those of q3_engine_pass. */
q3_status q3_quality_compare(q3_quality *out, q3_engine *full, q3_engine *other, const q3_prompt *prompts,
                             int n_prompts, int64_t greedy);

/* The mean KL that a form may cost, in nats; Q3_DTYPES and the wide types: nothing is lost there.
 *
 *   4 bits   0.1     int8   0.01     other 1e-3 (the order of sums)
 *
 * docs/quantization.md has the measurements that these stand on. */
double q3_quality_gate(q3_dtype weights, q3_dtype cache);

/* A few paragraphs in several scripts, for a model of any language. */
extern const char q3_quality_text[];

#endif
