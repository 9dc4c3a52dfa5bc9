/* data/parquet.h - samples out of Parquet files, as `datasets` and the hub have them.
 *
 * Rows are samples; the columns with the names of the data keys are their fields (data/parquet_columns.h).
 * Other columns are never read. Paths: data/parquet_files.h. Rows are numbered from 1 in messages:
 * "train.parquet:17".
 *
 * A row group is decoded when the first of its rows is asked for: what is compressed is unpacked into a
 * temporary file without a name (TMPDIR, else /tmp), and the places of its values are kept, 16 bytes each;
 * what is not compressed is used where it lies. From then on a sample takes the same time wherever it stands.
 * Any number of threads may read. Pictures are lent (q3_sample.image_lent). The files must not change while
 * they are open.
 * Errors: Q3_ERR_DATA, Q3_ERR_MEMORY; Q3_ERR_IO for the temporary file.
 */
#ifndef Q3_DATA_PARQUET_H
#define Q3_DATA_PARQUET_H

#include "data/source.h"

/* Whether all files behind `path`, which names no directory, are there. */
q3_status q3_parquet_check(const char *path);

extern const q3_source q3_source_parquet; /* .parquet, and directories that hold such files */

#endif
