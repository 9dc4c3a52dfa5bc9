/* cli/out_dir.h - a directory that a command makes: whole or absent.
 *
 * It is written as DIR.tmp and renamed at the end; what an interrupted run has left there goes first.
 */
#ifndef Q3_CLI_OUT_DIR_H
#define Q3_CLI_OUT_DIR_H

#include "core/arena.h"

typedef struct q3_out_dir {
    const char *to;  /* without slashes at its end */
    const char *tmp; /* to.tmp */
} q3_out_dir;

/* Q3_ERR_USAGE when `path` exists and is not an empty directory. */
q3_status q3_out_dir_choose(q3_out_dir *out, q3_arena *mem, const char *path);

/* Makes tmp. */
q3_status q3_out_dir_begin(const q3_out_dir *d);

/* With the status of what was written: renames tmp, or removes it and returns that status with its sentence. */
q3_status q3_out_dir_end(const q3_out_dir *d, q3_status st);

#endif
