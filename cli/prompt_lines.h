/* cli/prompt_lines.h - a file of prompts: one a line, or in a .jsonl one JSON object a line.
 *
 * An object has "prompt" (or "text"), and may have "image", a path or a list of paths relative to the file, and "system".
 * Empty lines are passed over.
 */
#ifndef Q3_CLI_PROMPT_LINES_H
#define Q3_CLI_PROMPT_LINES_H

#include "infer/conversation.h"

typedef struct q3_prompt_lines q3_prompt_lines;

/* Errors: Q3_ERR_DATA (no such file, no prompt in it), Q3_ERR_MEMORY. */
q3_status q3_prompt_lines_open(q3_prompt_lines **out, const char *path);
void q3_prompt_lines_close(q3_prompt_lines *f); /* NULL is fine */

int64_t q3_prompt_lines_count(const q3_prompt_lines *f);
int q3_prompt_lines_number(const q3_prompt_lines *f, int64_t index); /* of its line, from 1 */

/* Asks the prompt in a conversation without turns, with its pictures. Error: Q3_ERR_DATA with the place. */
q3_status q3_prompt_lines_ask(q3_conversation *c, const q3_prompt_lines *f, int64_t index,
                              const q3_image_options *options);

#endif
