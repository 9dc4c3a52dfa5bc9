/* collate/tokenizer.h - text to token ids and back, as Qwen's byte-level BPE does it.
 *
 * Encoding: added tokens are cut out of the raw text (leftmost, longest first), each stretch between them is
 * brought to NFC, split into pieces by Qwen2's rules, and each piece is merged byte by byte in the order of
 * the merge ranks. Nothing is added at the ends. The ids are those of the tokenizers library (0.23) for the
 * same files. A tokenizer does not change after loading: any number of threads may use one at once.
 */
#ifndef Q3_COLLATE_TOKENIZER_H
#define Q3_COLLATE_TOKENIZER_H

#include "core/json.h"

typedef struct q3_tokenizer q3_tokenizer;

/* Token ids on the heap; starts as all zeros, grows by appending. */
typedef struct q3_ids {
    int32_t *ids;    /* [n] */
    size_t n;        /* ids in use */
    size_t capacity; /* ids with memory */
} q3_ids;

q3_status q3_ids_append(q3_ids *out, const int32_t *ids, size_t n); /* Q3_ERR_MEMORY leaves `out` as it was */
void q3_ids_free(q3_ids *ids);

/* Reads dir/tokenizer.json (or tokenizer.json.gz, or vocab.json with merges.txt) and
 * dir/tokenizer_config.json, see collate/tokenizer_file.h. *out is NULL on failure. Errors: Q3_ERR_MODEL,
 * Q3_ERR_MEMORY. */
q3_status q3_tokenizer_open(q3_tokenizer **out, const char *dir);

/* From the text of a tokenizer.json in memory (no pad and eos then); `name` stands in messages. Errors:
 * Q3_ERR_FORMAT, Q3_ERR_MEMORY. */
q3_status q3_tokenizer_parse(q3_tokenizer **out, const char *json, size_t size, const char *name);
void q3_tokenizer_close(q3_tokenizer *t);

/* Appends the ids of `n` bytes of text; NUL bytes are text. Errors (`out` is as it was): Q3_ERR_DATA when the
 * text is not valid UTF-8, Q3_ERR_LIMIT from 2 GiB on, Q3_ERR_MEMORY. */
q3_status q3_tokenizer_encode(q3_ids *out, const q3_tokenizer *t, const char *text, size_t n);

/* Appends the text of the ids; what is not UTF-8 becomes U+FFFD. Ids without a token give nothing, special
 * tokens give nothing with `skip_special`. Error: Q3_ERR_MEMORY. */
q3_status q3_tokenizer_decode(q3_text *out, const q3_tokenizer *t, const int32_t *ids, size_t n,
                              bool skip_special);

/* The bytes of one token, borrowed and not NUL-terminated, perhaps a part of a character; NULL for an id
 * without a token. Streaming joins them and shows q3_utf8_whole of the result. */
const char *q3_tokenizer_token(size_t *n, const q3_tokenizer *t, int32_t id);

/* Id of the added token or vocabulary entry with this text (real spaces, not the notation of the files), -1
 * if none. */
int32_t q3_tokenizer_id(const q3_tokenizer *t, const char *token);

bool q3_tokenizer_is_special(const q3_tokenizer *t, int32_t id);

/* Highest id + 1. The model's vocab_size may be larger: its last rows have no token. */
int64_t q3_tokenizer_size(const q3_tokenizer *t);
int32_t q3_tokenizer_pad_id(const q3_tokenizer *t); /* of tokenizer_config.json, -1 if it names none */
int32_t q3_tokenizer_eos_id(const q3_tokenizer *t);

/* Where the first added token stands literally in the text; false when there is none. In text of a user it
 * would become a control token. */
bool q3_tokenizer_find_added(const q3_tokenizer *t, const char *text, size_t n, size_t *at);

#endif
