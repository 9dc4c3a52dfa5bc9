/* cli/token_lines.h - the lines that `tokenize` reads: one JSON string each, or one JSON array of token ids.
 *
 * Read here and not through core/json.h, because a text may hold NUL characters and an array millions of ids.
 * Errors: Q3_ERR_DATA, "name:line:column: ..." with the column in characters, from 1; Q3_ERR_MEMORY.
 */
#ifndef Q3_CLI_TOKEN_LINES_H
#define Q3_CLI_TOKEN_LINES_H

#include "collate/tokenizer.h"

typedef struct q3_token_line {
    const char *text; /* borrowed; without its newline, not NUL-terminated */
    size_t size;
    const char *name; /* of the file, for messages */
    int64_t number;   /* from 1 */
} q3_token_line;

/* Appends the characters of the line's string. Half a surrogate pair is an error: it is no character. */
q3_status q3_token_line_string(q3_text *out, const q3_token_line *line);

/* Appends the ids of the line's array; each must be an integer from 0 to n_vocab - 1. */
q3_status q3_token_line_ids(q3_ids *out, const q3_token_line *line, int64_t n_vocab);

#endif
