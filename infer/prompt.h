/* infer/prompt.h - a conversation with pictures as what the engine eats: ids, positions, patches.
 *
 * The template is the model's kind: Qwen3-VL-Instruct's (collate/chat_template.h), or Qwen3's for text-only models, whose
 * assistant turns may hold a think block (thinking false: an empty one is written in front of the answer, as
 * enable_thinking=False does). Each picture becomes vision_start, one placeholder a merged patch, vision_end.
 */
#ifndef Q3_INFER_PROMPT_H
#define Q3_INFER_PROMPT_H

#include "collate/chat_template.h"
#include "collate/vision_sft.h"
#include "model/batch.h"
#include "model/config.h"

enum { Q3_PICTURE_HASH_BYTES = 32 };

/* Tokens to be answered; everything lies in the arena it was made in. */
typedef struct q3_prompt {
    const int32_t *ids;       /* [n] */
    int64_t n;                /* at least 1 */
    const int32_t *positions; /* [3, n]; NULL: 0 .. n - 1 on all three axes */
    int n_images;
    const int32_t *grids; /* [n_images, 3]: frames, rows, columns of patches */
    const float *patches; /* [n_patches, Cp], in the order of the pictures */
    int64_t n_patches;
    const int32_t *image_rows; /* [n_image_rows]: the tokens that receive merged patches, ascending */
    int64_t n_image_rows;
    /* [n_images]: SHA-256 of the patches and grid, what shares features and prefixes; NULL: nothing is shared */
    const unsigned char (*hashes)[Q3_PICTURE_HASH_BYTES];
    int adapter; /* number of the engine's adapter, -1: the bare model */
} q3_prompt;

/* What prompts are made with; borrowed. */
typedef struct q3_prompter {
    const q3_tokenizer *tokenizer;
    const q3_model_config *config;
    q3_vision_spec vision;  /* bounds of a picture's size; unused by text-only models */
    q3_image_options image; /* how pictures are decoded */
    int width, height;      /* every picture is brought to this size first; 0: not (q3_prompter_fix_size) */
    int64_t max_tokens;     /* longest prompt; 0: the model's max_positions */
    bool allow_special; /* control tokens written in a text become such; otherwise Q3_ERR_DATA names them */
    bool thinking;      /* text-only models: leave thinking to the model */
    bool plain;         /* no template: the text of the messages as it is, pictures in front */
    const cJSON *tools; /* descriptions of functions for the system turn; NULL: none */
} q3_prompter;

/* The ids that a text-only or VL model directory needs; checks that tokenizer and model fit together. Q3_ERR_MODEL. */
q3_status q3_prompter_init(q3_prompter *out, const char *model_dir, const q3_tokenizer *tokenizer,
                           const q3_model_config *config);

/* Gives every picture one size in place of the model's rule. Error: Q3_ERR_USAGE when a side is no multiple of that of an
 * image token. */
q3_status q3_prompter_fix_size(q3_prompter *p, int width, int height);

/* The prompt of a conversation that an assistant is to continue. `pictures` [n_pictures] are decoded, one for each
 * picture part in order. Errors: Q3_ERR_DATA (special tokens, too many or too few pictures, pictures for a text-only
 * model, an impossible picture), Q3_ERR_LIMIT (longer than max_tokens), Q3_ERR_MEMORY. */
q3_status q3_prompt_make(q3_prompt *out, q3_arena *mem, const q3_prompter *p, const q3_message *messages,
                         int n, const q3_image *pictures, int n_pictures);

/* The rendered text alone, before tokens: what /apply-template shows. */
q3_status q3_prompt_text(q3_text *out, const q3_prompter *p, const q3_message *messages, int n);

/* From ids and pictures already laid down (rerankers, completions): fills positions, image_rows and hashes. */
q3_status q3_prompt_of_ids(q3_prompt *out, q3_arena *mem, const q3_prompter *p, const int32_t *ids, int64_t n,
                           const q3_patches *patches, int n_pictures);

/* A batch of one row, as a collator packs it: everything is borrowed from it, no picture has a hash. */
q3_prompt q3_prompt_of_batch(const q3_batch *b);

#endif
