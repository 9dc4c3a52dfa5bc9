/* cli/show_row.h - a row of tokens for the eye, or as a JSON object on one line.
 *
 * Text: what is not trained stands in ‹ ›, a picture's placeholders as "<|image_pad|> x 24", line breaks as ↵.
 */
#ifndef Q3_CLI_SHOW_ROW_H
#define Q3_CLI_SHOW_ROW_H

#include "collate/vision_sft.h"

/* Appends the report of a row. positions [3, n] (model/batch.h) or NULL: "0-13 14 x 12 18-59" for each axis. Errors:
 * Q3_ERR_MEMORY. */
q3_status q3_show_row(q3_text *out, const q3_collator *c, const q3_sample *s, const q3_row *row,
                      const int32_t *positions);

/* The same as a line of JSON: where, id, tokens, prompt, supervised, image_tokens, grid, merged_with_prompt, ids, labels,
 * positions (three lists), and text, a list of {"masked", "text"}. */
q3_status q3_show_row_json(q3_text *out, const q3_collator *c, const q3_sample *s, const q3_row *row,
                           const int32_t *positions);

#endif
