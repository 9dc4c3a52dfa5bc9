/* collate/tokenizer_vocab.h - the tables of a tokenizer: tokens by id, by text and by merge.
 *
 * Filled once by collate/tokenizer_file.c and only read afterwards, so any number of threads may share it.
 * Texts are raw bytes: the byte-level notation of the files (a space written as U+0120) is undone when a
 * token is added.
 */
#ifndef Q3_COLLATE_TOKENIZER_VOCAB_H
#define Q3_COLLATE_TOKENIZER_VOCAB_H

#include "core/json.h"

typedef enum q3_token_kind {
    Q3_TOKEN_NONE,    /* no token has this id */
    Q3_TOKEN_PLAIN,   /* made by merging bytes */
    Q3_TOKEN_ADDED,   /* matched literally before anything else */
    Q3_TOKEN_SPECIAL, /* an added token that skip_special drops */
} q3_token_kind;

typedef struct q3_token {
    size_t at;     /* first byte in q3_vocab.bytes */
    uint32_t size; /* bytes */
    q3_token_kind kind;
} q3_token;

typedef struct q3_merge {
    int32_t left, right; /* the pair; left < 0 marks an empty slot */
    int32_t rank;        /* number of the merge: lower goes first */
    int32_t id;          /* the token it makes */
} q3_merge;

enum { Q3_TOKEN_ID_LIMIT = 1 << 22 }; /* ids at and above are refused: no vocabulary is that large */

typedef struct q3_vocab {
    q3_text bytes;    /* texts of all tokens, end to end */
    q3_token *tokens; /* [n_tokens] by id */
    int32_t n_tokens; /* highest id + 1 */
    int32_t capacity; /* of tokens */
    int32_t *slots;   /* [n_slots] hash table of plain tokens by text: id, -1 empty */
    size_t n_slots, n_plain;
    q3_merge *merges; /* [n_merge_slots] hash table by pair */
    size_t n_merge_slots;
    int32_t byte_ids[256]; /* token of each single byte */
    int32_t *added;        /* [n_added] ids of added tokens, longest text first */
    int n_added, added_capacity;
    bool added_first[256];  /* the bytes that added tokens begin with */
    int32_t pad_id, eos_id; /* -1 when the files name none */
} q3_vocab;

/* Empty tables with room for `n_plain` plain tokens and `n_merges` merges (more are refused).
 * Q3_ERR_MEMORY. */
q3_status q3_vocab_create(q3_vocab *out, size_t n_plain, size_t n_merges);
void q3_vocab_destroy(q3_vocab *v);

/* A plain token in byte-level notation. Errors (Q3_ERR_FORMAT): id out of range or taken, text empty, outside
 * the notation, or used by another id. */
q3_status q3_vocab_add(q3_vocab *v, int64_t id, const char *key);

/* An added token by its literal text; the same id and text again only changes `special`. Same errors. */
q3_status q3_vocab_add_literal(q3_vocab *v, int64_t id, const char *text, bool special);

/* Merge number `rank` joins two tokens in byte-level notation (`n_left` and `n_right` bytes). Error:
 * Q3_ERR_FORMAT when one of the three tokens is not in the vocabulary. */
q3_status q3_vocab_add_merge(q3_vocab *v, int32_t rank, const char *left, size_t n_left, const char *right,
                             size_t n_right);

/* To be called when everything was added: every byte must have a token. Error: Q3_ERR_FORMAT. */
q3_status q3_vocab_finish(q3_vocab *v);

/* Id of the plain token with these bytes, -1 if none. */
int32_t q3_vocab_find(const q3_vocab *v, const char *bytes, size_t n);

/* Id of the longest added token that `text` begins with, -1 if none. */
int32_t q3_vocab_match_added(const q3_vocab *v, const char *text, size_t n);

/* The merge of a pair of ids, NULL if the pair stays apart. */
const q3_merge *q3_vocab_merge(const q3_vocab *v, int32_t left, int32_t right);

#endif
