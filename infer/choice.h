/* infer/choice.h - words as continuations to be weighed (q3_engine_score), behind a fixed beginning of an answer.
 *
 * Prefix, word and closing quote are tokenized as one, for a seam may merge. A closing quote that is a token of its own
 * stands for all tokens that begin with one ("}, ",): the text up to there is what a word means, and how its tokens are
 * cut differs between tokenizers.
 */
#ifndef Q3_INFER_CHOICE_H
#define Q3_INFER_CHOICE_H

#include "infer/engine.h"

typedef struct q3_choice_options {
    const char *prefix; /* what stands in front of the word; "": nothing */
    bool quoted; /* the prefix opens a JSON string: the word is escaped as in one, and closed by a quote */
} q3_choice_options;

/* The choices of n words, none of which may be empty; all lies in the arena. Errors: those of the tokenizer, Q3_ERR_MODEL
 * (an id beyond the vocabulary of `vocab`), Q3_ERR_MEMORY. */
q3_status q3_choices_create(q3_choice **out, q3_arena *mem, const q3_tokenizer *tokenizer, int64_t vocab,
                            const char *const *words, int n, const q3_choice_options *options);

/* Tokens of the longest. */
int64_t q3_choices_longest(const q3_choice *choices, int n);

/* Probabilities from log-likelihoods: they sum to 1. */
void q3_choices_normalize(double *probabilities, const double *logprobs, int n);

#endif
