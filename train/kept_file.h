/* train/kept_file.h - a file that only grows and that a full disk does not end: what could not be written is
 * kept, up to 16 MiB, and written before the next.
 */
#ifndef Q3_TRAIN_KEPT_FILE_H
#define Q3_TRAIN_KEPT_FILE_H

#include "core/json.h"

typedef struct q3_kept_file {
    char *path;   /* heap, owned */
    int fd;       /* -1: not open yet */
    q3_text kept; /* bytes that are not in the file yet */
} q3_kept_file;

/* Keeps the bytes and ends them; where it fails the file is as if they had not been. Errors: Q3_ERR_LIMIT,
 * Q3_ERR_MEMORY. */
q3_status q3_kept_add(q3_kept_file *f, q3_text *bytes);

/* Writes what is kept, at the end of the file, which is made where it is not there. Error: Q3_ERR_IO. */
q3_status q3_kept_flush(q3_kept_file *f);

void q3_kept_close(q3_kept_file *f);

#endif
