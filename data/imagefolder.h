/* data/imagefolder.h - a folder of pictures with metadata.jsonl, as `datasets` reads and writes it.
 *
 * Each line of metadata.jsonl names its picture under "file_name", relative to the folder; the other keys are
 * those of any JSONL file (data/jsonl.h). The path is the folder with metadata.jsonl, or its parent: then
 * keys->split chooses among the folders train; validation, valid, val, dev; test, eval. Pictures without a
 * line are not read.
 */
#ifndef Q3_DATA_IMAGEFOLDER_H
#define Q3_DATA_IMAGEFOLDER_H

#include "data/source.h"

/* The path of the metadata.jsonl that belongs to `dir` and `split` (NULL: "train"), in a new heap string.
 * Errors: Q3_ERR_DATA (there is none), Q3_ERR_MEMORY. */
q3_status q3_imagefolder_find(char **out, const char *dir, const char *split);

/* "train", "validation" or "test" when `name` (n bytes) is one of the names of that split; NULL otherwise. */
const char *q3_imagefolder_split(const char *name, size_t n);

extern const q3_source q3_source_imagefolder; /* any directory */

#endif
