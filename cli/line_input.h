/* cli/line_input.h - lines that somebody types: edited and remembered where the program was built with libedit and stdin
 * is a terminal, read as they are otherwise. And Ctrl-C, which stops an answer and not the program.
 */
#ifndef Q3_CLI_LINE_INPUT_H
#define Q3_CLI_LINE_INPUT_H

#include "core/json.h"

typedef struct q3_line_input q3_line_input;

/* `prompt` (borrowed) is shown on terminals, on stderr. Ctrl-C is caught from now on. Error: Q3_ERR_MEMORY. */
q3_status q3_line_input_open(q3_line_input **out, const char *prompt);
void q3_line_input_close(q3_line_input *in); /* NULL is fine */

typedef enum q3_line_kind { Q3_LINE_TEXT, Q3_LINE_INTERRUPTED, Q3_LINE_END } q3_line_kind;

/* The next line without its newline, until the next call. Interrupted: Ctrl-C came instead. */
q3_line_kind q3_line_input_read(const char **line, q3_line_input *in);

/* Ctrl-C came since the last call. A second one before anybody has asked ends the program. */
bool q3_interrupted(void);

#endif
