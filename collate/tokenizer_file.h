/* collate/tokenizer_file.h - reads the files of a tokenizer into a q3_vocab.
 *
 * tokenizer.json as the tokenizers library writes it (merges as pairs or as "a b" strings), or vocab.json
 * with merges.txt. Only Qwen's pipeline is accepted: NFC, Qwen2's split expression, byte-level BPE; anything
 * else is refused with the name of the member that differs, since it would give other ids without a sign. The
 * members `truncation` and `padding` are ignored on purpose: re-saved files carry settings of the run that
 * saved them. tokenizer_config.json gives pad_token, eos_token and added_tokens_decoder, which has the last
 * word on `special`.
 */
#ifndef Q3_COLLATE_TOKENIZER_FILE_H
#define Q3_COLLATE_TOKENIZER_FILE_H

#include "collate/tokenizer_vocab.h"

/* From a directory: tokenizer.json, else tokenizer.json.gz, else vocab.json + merges.txt;
 * tokenizer_config.json if it is there. On failure `out` is empty. Errors: Q3_ERR_MODEL, Q3_ERR_MEMORY. */
q3_status q3_tokenizer_read(q3_vocab *out, const char *dir);

/* From the text of a tokenizer.json; `name` stands in messages. Errors: Q3_ERR_FORMAT, Q3_ERR_MEMORY. */
q3_status q3_tokenizer_read_json(q3_vocab *out, const char *text, size_t size, const char *name);

#endif
