/* collate/vision_sft.h - from a sample to a row of tokens with labels: the vision-SFT collator.
 *
 * The user turn is the picture, then the stripped query and, where there is one, "\nCAPTION: <caption>"; the
 * assistant turn is the target. A training row supervises what follows the prompt: the target, <|im_end|> and
 * the newline behind it; everything else, pads and placeholders included, is -100. A prompt row ends with the
 * opened assistant turn. A sample without a picture becomes a row of text.
 *
 * A sample that is a conversation (q3_sample.messages) is rendered as it stands, no text stripped. Every turn of the
 * assistant is supervised in that way, or the last one alone; its prompt row is what comes before the last one.
 *
 * Errors begin with "Qwen3 collate failed: " and name the sample; class Q3_ERR_DATA.
 */
#ifndef Q3_COLLATE_VISION_SFT_H
#define Q3_COLLATE_VISION_SFT_H

#include "collate/image_processor.h"
#include "collate/tokenizer.h"
#include "data/sample.h"

typedef enum q3_overflow { Q3_OVERFLOW_ERROR, Q3_OVERFLOW_SKIP, Q3_OVERFLOW_TRUNCATE } q3_overflow;

/* Everything a collator knows; read-only and shared by threads once made. Borrowed pointers. */
typedef struct q3_collator {
    const q3_tokenizer *tokenizer;
    q3_vision_spec vision;
    q3_image_options image;    /* how pictures are decoded */
    const char *system_prompt; /* NULL: none */
    int64_t max_length;        /* tokens of a training row, 0 for no limit */
    q3_overflow on_overflow;
    bool last_only; /* of a conversation only the last turn of the assistant is supervised */
    bool lenient; /* special tokens in texts and empty targets pass, as in the reference collator */
    int32_t pad_id, image_id, video_id; /* tokens; from the model's files */
    int32_t vocab_size;                 /* ids at or above it would miss the embedding */
} q3_collator;

/* One sample as tokens. Arrays live in the arena they were made in. */
typedef struct q3_row {
    int32_t *ids;    /* [n] */
    int32_t *labels; /* [n]; NULL in a prompt row */
    int64_t n;
    int64_t prompt_n;           /* tokens before the target, of a conversation before its last answer */
    int64_t n_supervised;       /* labels that are not -100 */
    const q3_patches *pictures; /* [n_pictures] */
    int n_pictures;
    bool skipped;         /* left out by on_overflow: skip; nothing else is set */
    bool truncated;       /* the target was cut */
    bool seam; /* the target's first characters merged with the prompt's last token (a leading newline) */
} q3_row;

/* Fills the token ids of `c` from the tokenizer's files and the model's ids (pass -1 where the model has
 * none), and checks that they agree. Error: Q3_ERR_MODEL. */
q3_status q3_collator_init(q3_collator *c, const char *model_dir, const q3_tokenizer *tokenizer,
                           int32_t image_id, int32_t video_id, int32_t vocab_size);

/* Size of an arena that holds any row (addresses, of which few are touched); a batch of it is as large
 * again. */
size_t q3_collate_bytes(const q3_collator *c);

/* The row of a sample: for training (with target and labels), or its prompt for generation. */
q3_status q3_collate_row(q3_row *out, q3_arena *mem, const q3_collator *c, const q3_sample *s, bool training);

/* The same without decoding: the grid comes from the header of the picture's file, and patches.data is NULL. */
q3_status q3_collate_layout(q3_row *out, q3_arena *mem, const q3_collator *c, const q3_sample *s,
                            bool training);

/* The same from the sample's text and n pictures already cut into patches; their values are borrowed. */
q3_status q3_collate_text(q3_row *out, q3_arena *mem, const q3_collator *c, const q3_sample *s,
                          const q3_patches *pictures, int n, bool training);

/* Patches and tokens of all pictures of a row. */
int64_t q3_row_patches(const q3_row *row);
int64_t q3_row_image_tokens(const q3_row *row, const q3_collator *c);

#endif
