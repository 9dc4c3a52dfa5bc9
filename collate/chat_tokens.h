/* collate/chat_tokens.h - a rendered conversation as token ids: what samples and prompts share.
 *
 * The template leaves one placeholder for each picture; here it becomes as many as the picture has tokens.
 */
#ifndef Q3_COLLATE_CHAT_TOKENS_H
#define Q3_COLLATE_CHAT_TOKENS_H

#include "collate/tokenizer.h"

typedef struct q3_chat_tokens {
    const q3_tokenizer *tokenizer;
    int32_t image_id, video_id; /* placeholders; -1: the model has none */
    int32_t vocab_size;         /* ids at or above it would miss the embedding */
} q3_chat_tokens;

/* A control token written in a text is one for the model too: a placeholder without a picture, an early end. Q3_ERR_DATA
 * "the <what> contains the control token <|im_end|>; <remedy>". Tokens that the tokenizer does not call special (<think>,
 * <tool_call>) are ordinary text; with `lenient` only placeholders are refused. text may be NULL. */
q3_status q3_chat_check_text(const q3_chat_tokens *c, const char *text, bool lenient, const char *what,
                             const char *remedy);

/* The ids [*n] of a rendered conversation, in the arena, with room for one more; the i-th placeholder becomes
 * image_tokens[i] of them. Errors: Q3_ERR_DATA (placeholders and pictures do not match, an id beyond the vocabulary, not
 * UTF-8), Q3_ERR_MEMORY. */
q3_status q3_chat_tokenize(int32_t **ids, int64_t *n, q3_arena *mem, const q3_chat_tokens *c,
                           const q3_text *text, const int64_t *image_tokens, int n_images);

#endif
