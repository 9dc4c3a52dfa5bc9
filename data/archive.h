/* data/archive.h - samples out of tar and zip archives (data/archive_members.h), in one of two layouts.
 *
 * With a .jsonl or .ndjson member, or a .json with an array: its lines or elements are the samples
 * (data/jsonl.h), and pictures are members, by paths relative to that of the JSONL member; metadata.jsonl names them under "file_name", as in image
 * folders. Several JSONL members follow each other; those of different splits (train, eval) are refused.
 *
 * Without one, as WebDataset has it: members that share a key, the path up to the first dot of the name, are
 * one sample. KEY.json holds the fields, KEY.jpg (.jpeg, .png, .webp, .bmp) is the picture. A member whose
 * ending is one of the data keys is that field: with the label key "cls", KEY.cls is the label. Others are
 * passed over.
 *
 * A path may name shards, "posts-{0000..0011}.tar", which follow each other, and one JSONL member:
 * "posts.tar/train.jsonl". Sentences name a member in the same way. Errors: those of archive_members.h.
 * Pictures are lent (q3_image_source.lent).
 */
#ifndef Q3_DATA_ARCHIVE_H
#define Q3_DATA_ARCHIVE_H

#include "data/source.h"

/* Whether all archives behind `path` are there; `path` must be one that q3_source_archive accepts. */
q3_status q3_archive_check(const char *path);

extern const q3_source q3_source_archive; /* by the ending: .tar, .tar.gz, .tgz ... .zip */

#endif
