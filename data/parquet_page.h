/* data/parquet_page.h - the pages of one column in one row group, as values.
 *
 * Data pages of both versions; values plain or by a dictionary, levels run-length encoded; codecs none,
 * snappy, gzip, zstd. Values are never copied: they point into the file, or where their page was unpacked.
 * Everything is checked; sentences begin with "column ...", callers add the file. Errors: Q3_ERR_DATA,
 * Q3_ERR_MEMORY.
 */
#ifndef Q3_DATA_PARQUET_PAGE_H
#define Q3_DATA_PARQUET_PAGE_H

#include "data/parquet_meta.h"

typedef struct q3_parquet_value {
    const unsigned char *bytes; /* little-endian; a bool is one byte; NULL: null */
    uint32_t size;
    uint32_t count; /* elements, where the column belongs to a list; `bytes` is of the first */
} q3_parquet_value;

/* Bytes to unpack pages in. */
typedef struct q3_parquet_room {
    unsigned char *at, *end;
} q3_parquet_room;

/* Adds the room that a column of a row group takes: pages that are not compressed take none. Looks at
 * the headers of pages alone: whether they have as many values as there are rows. */
q3_status q3_parquet_measure(uint64_t *bytes, int64_t n_rows, const q3_map *file, const q3_parquet_chunk *c,
                             const q3_parquet_leaf *leaf);

/* Writes values[n_rows] (which are zero) and uses up room. */
q3_status q3_parquet_decode(q3_parquet_value *values, int64_t n_rows, q3_parquet_room *room,
                            const q3_map *file, const q3_parquet_chunk *c, const q3_parquet_leaf *leaf);

#endif
