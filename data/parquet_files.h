/* data/parquet_files.h - the Parquet files that a path means.
 *
 * A file, several ("train-{00000..00011}-of-00012.parquet", data/shards.h), or a directory as data sets of
 * the hub have it: the files of one split in it or in its folder data, by their names
 * (train-00000-of-00002.parquet, train.parquet) or in a folder of their own (train/0000.parquet); names of
 * splits are those of data/imagefolder.h. Where no name is that of a split, all files are training data.
 * Errors: Q3_ERR_DATA, Q3_ERR_USAGE, Q3_ERR_MEMORY.
 */
#ifndef Q3_DATA_PARQUET_FILES_H
#define Q3_DATA_PARQUET_FILES_H

#include "core/arena.h"

typedef struct q3_parquet_files {
    char **paths; /* [n] in the order of their names */
    int64_t n;
} q3_parquet_files;

/* Whether the path is one of a Parquet file, or of a directory that holds some and no metadata.jsonl. */
bool q3_parquet_accepts(const char *path);

/* `split` NULL: "train". It is an error when a directory has no file of the split, or not all of them. */
q3_status q3_parquet_files_find(q3_parquet_files *out, const char *path, const char *split);

/* Whether a directory that is accepted has files of `split` that are not its training data. */
q3_status q3_parquet_files_has(bool *found, const char *dir, const char *split);
void q3_parquet_files_free(q3_parquet_files *f);

#endif
