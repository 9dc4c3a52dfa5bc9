/* data/shards.h - "posts-{0000..0011}.tar": several files by one path.
 *
 * Zeros in front of a number are kept: {08..11} means 08, 09, 10, 11. A path without braces is one file. Only
 * the first n bytes of a path are looked at. Errors: Q3_ERR_USAGE, Q3_ERR_DATA (a file is not there),
 * Q3_ERR_MEMORY.
 */
#ifndef Q3_DATA_SHARDS_H
#define Q3_DATA_SHARDS_H

#include "core/arena.h"

typedef struct q3_shards {
    size_t at, size;       /* of the braces in the path; size 0: there are none, one file */
    long long first, last; /* both included */
    int width;             /* digits, zeros in front; 0: as many as it takes */
} q3_shards;

q3_status q3_shards_find(q3_shards *out, const char *path, size_t n);

/* The path of one of them in a new heap string; NULL when out of memory. */
char *q3_shards_path(const char *path, size_t n, const q3_shards *s, long long number);

/* Whether all of them are there. */
q3_status q3_shards_check(const char *path, size_t n);

#endif
