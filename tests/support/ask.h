/* tests/support/ask.h - one command line for the shell, with text as its stdin, and what came back. */
#ifndef Q3_TESTS_SUPPORT_ASK_H
#define Q3_TESTS_SUPPORT_ASK_H

#include "tests/support/process.h"

/* Runs `program` with `arguments`; stdin holds `input` (n bytes; NULL: nothing). The result: code, out, err;
 * q3_process_free. */
q3_process q3_ask(const char *program, const char *arguments, const char *input, size_t n);

/* Expects exit code `code`, an empty stdout, and "qwen3-sft: <sentence>" as the only line of stderr. */
void q3_ask_refused(const char *program, const char *arguments, int code, const char *sentence);

/* The same where `part` need only occur in that line. */
void q3_ask_refused_about(const char *program, const char *arguments, int code, const char *part);

#endif
