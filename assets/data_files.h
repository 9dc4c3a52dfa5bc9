/* assets/data_files.h - how q3-scenes writes: PNG pictures, JSONL rows, and directories that are whole or
 * absent. */
#ifndef Q3_ASSETS_DATA_FILES_H
#define Q3_ASSETS_DATA_FILES_H

#include <stdio.h>

#include "core/json.h"

enum { Q3_PATH_BYTES = 4096, Q3_STAMP_BYTES = 512 };

/* dir/name in a fixed buffer. Error: Q3_ERR_LIMIT. */
q3_status q3_scene_path(char out[Q3_PATH_BYTES], const char *dir, const char *name);

/* Writes rgb [height, width, 3] as an 8-bit RGB PNG: quickly, or `compact` at any price. Error: Q3_ERR_IO. */
q3_status q3_scene_png(const char *path, const uint8_t *rgb, int width, int height, bool compact);

/* A JSONL file being written, row by row. */
typedef struct q3_rows {
    FILE *file;
    char path[Q3_PATH_BYTES];
    q3_text line;
} q3_rows;

typedef struct q3_row {
    const char *id;
    const char *image; /* path relative to the JSONL file */
    const char *query;
    const char *target; /* "target_json" */
    const char *label;  /* NULL: the row has none */
    const char *source; /* the kind of the row, for reports by kind */
} q3_row;

q3_status q3_rows_open(q3_rows *out, const char *dir, const char *name);
q3_status q3_rows_put(q3_rows *to, const q3_row *row);
q3_status q3_rows_close(q3_rows *to,
                        q3_status st); /* returns `st` if that is a failure, else how closing went */

/* A directory that one run fills. It is made as out.tmp-<process> and renamed at the end, so that `out` is
 * whole or absent also when two builds make it at the same time. out/stamp holds `stamp`, which says how it
 * was made: a directory whose stamp fits is left alone, one with another stamp is replaced, one without a
 * stamp is never touched. */
typedef struct q3_data_set {
    char *out;                  /* without a slash at the end */
    char stamp[Q3_STAMP_BYTES]; /* version and options */
    char tmp[Q3_PATH_BYTES];    /* where `fill` writes; holds an empty directory images/ when it is called */
} q3_data_set;

/* Makes the set with `fill` unless it is there already. Errors: Q3_ERR_USAGE (a directory that is not ours),
 * Q3_ERR_IO. */
q3_status q3_data_set_make(q3_data_set *set, q3_status (*fill)(const q3_data_set *, const void *),
                           const void *options);

#endif
