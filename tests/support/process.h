/* tests/support/process.h - the program run as a user runs it: arguments, output, exit code, signals.
 *
 * What cannot be started fails the test. stdout and stderr go to files without a name, so neither can block.
 */
#ifndef Q3_TESTS_SUPPORT_PROCESS_H
#define Q3_TESTS_SUPPORT_PROCESS_H

#include <stdio.h>
#include <sys/types.h>

#include "core/status.h"

enum { Q3_PROCESS_ARGUMENTS = 64 };

typedef struct q3_process {
    const char *argv[Q3_PROCESS_ARGUMENTS + 1]; /* borrowed; argv[0] is the program */
    int n;
    long file_limit; /* bytes no file may exceed (writing more fails with EFBIG); 0: none */
    int code;        /* exit code; 128 + n when signal n ended it */
    char *out, *err; /* what it wrote, with a NUL; heap */
    pid_t pid;
    FILE *files[2];
} q3_process;

/* Appends an argument. */
void q3_process_add(q3_process *p, const char *argument);

/* Starts it; q3_process_wait must follow. */
void q3_process_start(q3_process *p);

/* Waits for its end, sets code, out and err, and returns the code. */
int q3_process_wait(q3_process *p);

/* Both. */
int q3_process_run(q3_process *p);

/* Whether it has ended; the code is fetched by q3_process_wait. */
bool q3_process_ended(const q3_process *p);

/* Frees the output; arguments stay. */
void q3_process_free(q3_process *p);

#endif
