/* infer/constraint.h - answers of a given form: a regular expression, a JSON schema, any JSON object.
 *
 * The form is an automaton over bytes; a token may come when its bytes lead on from the present state, an end token when
 * the state is one where the text may end. Special tokens never come. One constraint serves one answer; what is compiled,
 * and what was found out about tokens, is shared by clones, which any threads may use. The tokenizer is borrowed.
 */
#ifndef Q3_INFER_CONSTRAINT_H
#define Q3_INFER_CONSTRAINT_H

#include "collate/tokenizer.h"

typedef struct q3_constraint q3_constraint;

/* The whole answer matches the pattern: literals, ., [...], \d \w \s, (...), |, ?, *, +, {m,n}; no anchors, no back
 * references (infer/constraint_regex.h). Errors: Q3_ERR_USAGE with the place in the pattern. */
q3_status q3_constraint_regex(q3_constraint **out, const q3_tokenizer *tokenizer, const int32_t *eos,
                              int n_eos, const char *pattern);

/* The answer is JSON by this schema (type, properties, required, items, enum, const, anyOf, $ref to $defs, minLength ...
 * see infer/constraint_schema.h for all); NULL: any JSON object. Unknown keywords that would restrict the answer are
 * refused by name. The schema is not needed any more when this returns. Errors: Q3_ERR_USAGE. */
q3_status q3_constraint_json(q3_constraint **out, const q3_tokenizer *tokenizer, const int32_t *eos,
                             int n_eos, const cJSON *schema);

/* The same form from the start again, for another answer. */
q3_status q3_constraint_clone(q3_constraint **out, const q3_constraint *c);
void q3_constraint_destroy(q3_constraint *c); /* NULL is fine */

/* Sets logits [vocab] of tokens that may not come to -INFINITY. Something always may: end tokens alone where nothing else
 * can follow, see q3_constraint_failure. */
void q3_constraint_mask(q3_constraint *c, float *logits, int64_t vocab);

/* Takes a token that the mask allowed; false when it did not. */
bool q3_constraint_advance(q3_constraint *c, int32_t id);

/* Nothing but an end token may come. */
bool q3_constraint_done(const q3_constraint *c);

/* Why the answer had to end before it was complete: no token of the vocabulary leads on, or memory ran out; NULL: it did
 * not. Borrowed. */
const char *q3_constraint_failure(const q3_constraint *c);

#endif
