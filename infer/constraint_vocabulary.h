/* infer/constraint_vocabulary.h - the texts of all tokens as a tree, to be walked byte by byte.
 *
 * Nodes lie in the order of a walk from the root: behind a node come those below it, and `skip` is the first one that is
 * not. Tokens with the same text have a node each.
 */
#ifndef Q3_INFER_CONSTRAINT_VOCABULARY_H
#define Q3_INFER_CONSTRAINT_VOCABULARY_H

#include "collate/tokenizer.h"

typedef struct q3_vocabulary_node {
    int32_t token; /* -1: none ends here */
    int32_t skip;
    uint16_t depth; /* bytes from the root, this one included */
    uint8_t byte;
} q3_vocabulary_node;

typedef struct q3_vocabulary {
    const q3_tokenizer *tokenizer; /* borrowed */
    int users;
    struct q3_vocabulary *next; /* of another tokenizer */
    q3_vocabulary_node *nodes;  /* [n] */
    int32_t n;
    int depth; /* of the deepest */
} q3_vocabulary;

/* All tokens but special ones and those without text. One tree serves all who ask for it until the last lets go, from any
 * threads: sorting 151936 tokens takes some 80 ms. Error: Q3_ERR_MEMORY. */
q3_status q3_vocabulary_acquire(const q3_vocabulary **out, const q3_tokenizer *tokenizer);
void q3_vocabulary_release(const q3_vocabulary *v); /* NULL is fine */

#endif
