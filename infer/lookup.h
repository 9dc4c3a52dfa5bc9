/* infer/lookup.h - guesses for speculative decoding by prompt lookup: what followed the last few tokens when they stood
 * somewhere before (Saxena 2023, prompt-lookup-decoding; transformers' prompt_lookup_num_tokens).
 */
#ifndef Q3_INFER_LOOKUP_H
#define Q3_INFER_LOOKUP_H

#include <stdint.h>

/* Writes up to `most` guesses for what follows ids [n]; returns their number, 0 when nothing matches. The longest suffix of at most
 * `longest_ngram` tokens that occurs before is taken, its first occurrence as transformers does. */
int q3_lookup(int32_t *out, int most, const int32_t *ids, int64_t n, int longest_ngram);

#endif
