/* infer/beam.h - beam search, as transformers' generate does it (5.17, _beam_search).
 *
 * Of all continuations of the beams, the max(2, 1 + n_eos) num_beams best are looked at: those of them that end and are
 * among the num_beams best are finished, the best of the others are the beams of the next step. A finished answer's
 * score is the sum of its log p, its end token's included, over (its tokens)^length_penalty. Beams are forks of one
 * sequence and share the blocks of what they have in common.
 */
#ifndef Q3_INFER_BEAM_H
#define Q3_INFER_BEAM_H

#include "infer/engine.h"

typedef enum q3_early_stopping {
    Q3_EARLY_STOPPING_FALSE, /* while the best beam, at its present length, beats the worst finished answer */
    Q3_EARLY_STOPPING_TRUE,  /* until num_beams answers are finished */
    Q3_EARLY_STOPPING_NEVER, /* while the best beam, at the length that suits it best, beats the worst answer */
} q3_early_stopping;

typedef struct q3_beam_options {
    int num_beams;    /* at least 1; 1 is greedy search */
    int num_returned; /* 1 .. num_beams, best first */
    q3_early_stopping early_stopping;
    float length_penalty;     /* 1: the mean log p; 0: the sum; above 1 long answers are preferred */
    float repetition_penalty; /* on log p; 1 is off */
    int64_t max_new_tokens;   /* at least 1 */
    const int32_t *eos;       /* [n_eos] any of them ends an answer */
    int n_eos;
} q3_beam_options;

typedef struct q3_beam_answer {
    const int32_t *ids; /* [n], without the end token */
    int64_t n;
    bool ended;  /* met an end token */
    float score; /* transformers' sequences_scores */
} q3_beam_answer;

/* out [num_returned], ids in `mem`. Errors: those of the pass, Q3_ERR_MEMORY (the cache is too small), Q3_ERR_LIMIT (a
 * prompt longer than the cache; more candidates than tokens in the vocabulary). */
q3_status q3_beam_search(q3_beam_answer *out, q3_arena *mem, q3_engine *e, const q3_prompt *prompt,
                         const q3_beam_options *options);

#endif
