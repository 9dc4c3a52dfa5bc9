/* data/dataset.h - one data set, wherever it lies: samples by number.
 *
 * A path that ends in .jsonl is a JSONL file, one in .json an array (data/jsonl.h), one in .tar, .tar.gz, .zip ... an archive or
 * several (data/archive.h), one in .parquet a Parquet file or several (data/parquet.h); a directory holds
 * Parquet files or is an image folder (data/imagefolder.h); other kinds join the table in dataset.c. A sample
 * is read and checked each time it is asked for, and any number of threads may read. Errors: Q3_ERR_DATA,
 * Q3_ERR_MEMORY, Q3_ERR_IO (no room for a temporary file); the sentence names the file and, if possible, the
 * line.
 */
#ifndef Q3_DATA_DATASET_H
#define Q3_DATA_DATASET_H

#include "data/sample.h"

typedef struct q3_dataset q3_dataset;

/* Whether what the path names is there, every file of a pattern; the sentence names what is not. */
q3_status q3_dataset_check(const char *path);

/* Whether the path is no file or directory here and may be the name of a data set on the hub (data/hub.h). */
bool q3_dataset_on_hub(const char *path);

/* The path itself, or the directory of the snapshot that the name on the hub means, in memory of `mem`;
 * errors of q3_hub_place. */
q3_status q3_dataset_place(const char **out, q3_arena *mem, const char *path);

/* Whether a directory has samples of `split` (a name of data/imagefolder.h, or one of its own) apart from its
 * training data. */
q3_status q3_dataset_has_split(bool *found, const char *dir, const char *split);

/* `keys` may be NULL (the defaults of data/sample.h); it is copied, its strings are borrowed until the close.
 * A data set without samples is refused. */
q3_status q3_dataset_open(q3_dataset **out, const char *path, const q3_data_keys *keys);
void q3_dataset_close(q3_dataset *ds);

/* Samples, at least 1. */
int64_t q3_dataset_size(const q3_dataset *ds);

/* Sample 0 <= index < size; the caller frees it (q3_sample_free), before the data set is closed. */
q3_status q3_dataset_get(q3_sample *out, const q3_dataset *ds, int64_t index);

#endif
