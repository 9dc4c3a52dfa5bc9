/* infer/divergence.h - how far two distributions of the next token are apart, row by row of logits.
 *
 *   KL(p || q) = sum_v p_v (log p_v - log q_v)     in nats, formed in double, not below 0
 */
#ifndef Q3_INFER_DIVERGENCE_H
#define Q3_INFER_DIVERGENCE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct q3_divergence {
    double kl;
    double loss_p, loss_q; /* -log of the token that came next; NAN where that is not known */
    bool agrees;           /* both find the same token likeliest; the lowest id on ties */
} q3_divergence;

/* out [n] of the logits p and q [n, V]; next [n]: the token that came next, below 0 where it is not known. Rows are
 * spread over the threads. */
void q3_divergence_of(q3_divergence *out, const float *p, const float *q, const int32_t *next, int64_t n,
                      int64_t V);

#endif
