/* cli/collate_check/show.h - a row of tokens for the eye, or as a JSON object on one line.
 *
 * Text: what is not trained stands in ‹ ›, a picture's placeholders as "<|image_pad|> x 24", line breaks as ↵.
 */
#ifndef Q3_CLI_COLLATE_CHECK_SHOW_H
#define Q3_CLI_COLLATE_CHECK_SHOW_H

#include "collate/vision_sft.h"

/* Appends the report of a row. Errors: Q3_ERR_MEMORY. */
q3_status q3_show_row(q3_text *out, const q3_collator *c, const q3_sample *s, const q3_row *row);

/* The same as a line of JSON: where, id, tokens, prompt, supervised, image_tokens, grid, merged_with_prompt, ids, labels,
 * and text, a list of {"masked", "text"}. */
q3_status q3_show_row_json(q3_text *out, const q3_collator *c, const q3_sample *s, const q3_row *row);

#endif
