/* data/parquet_meta.h - the footer of a Parquet file: its columns, its row groups, and where their pages lie.
 *
 * All counts and offsets are checked against the file here. Errors: Q3_ERR_DATA, Q3_ERR_MEMORY; sentences
 * begin with the file's name.
 */
#ifndef Q3_DATA_PARQUET_META_H
#define Q3_DATA_PARQUET_META_H

#include "core/file.h"
#include "data/parquet_thrift.h"

/* As the format numbers them. */
typedef enum q3_parquet_type {
    Q3_PARQUET_BOOLEAN = 0,
    Q3_PARQUET_INT32 = 1,
    Q3_PARQUET_INT64 = 2,
    Q3_PARQUET_INT96 = 3,
    Q3_PARQUET_FLOAT = 4,
    Q3_PARQUET_DOUBLE = 5,
    Q3_PARQUET_BYTES = 6,
    Q3_PARQUET_FIXED = 7 /* bytes, all of one size */
} q3_parquet_type;

/* A column of plain values; a struct or a list is made of several, or of one. */
typedef struct q3_parquet_leaf {
    char *path;        /* "image.bytes" */
    char *top;         /* "image" */
    const char *name;  /* the last part of the path, inside it */
    const char *other; /* what its values stand for, when that is no text or number: "a date"; NULL */
    q3_parquet_type type;
    int32_t width; /* bytes of a value of a FIXED column */
    bool text;     /* UTF-8 */
    bool is_unsigned;
    int depth;            /* parts of the path */
    int max_def, max_rep; /* levels; max_def is that of a value that is there */
    int list_def;         /* max_rep 1: from this level on the list has an element */
} q3_parquet_leaf;

/* The pages of one column in one row group: bytes of the file. */
typedef struct q3_parquet_chunk {
    size_t at, size;
    int64_t n_values; /* nulls among them */
    int64_t unpacked; /* bytes, as the file says: a hint */
    int codec;        /* as the format numbers them */
} q3_parquet_chunk;

typedef struct q3_parquet_group {
    q3_parquet_chunk *chunks; /* [n_leaves] */
    int64_t n_rows;
} q3_parquet_group;

typedef struct q3_parquet_meta {
    const char *path; /* of the file, borrowed */
    q3_parquet_leaf *leaves;
    int n_leaves;
    q3_parquet_group *groups;
    int64_t n_groups;
    q3_thrift_bytes features; /* the JSON of the key "huggingface"; in the file's bytes */
} q3_parquet_meta;

q3_status q3_parquet_meta_read(q3_parquet_meta *out, const q3_map *file, const char *path);
void q3_parquet_meta_free(q3_parquet_meta *m);

#endif
