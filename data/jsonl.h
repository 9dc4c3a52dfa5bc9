/* data/jsonl.h - a file with one JSON object per line, or (.json) an array of objects, read at random.
 *
 * The file is mapped and its lines are indexed once (24 bytes a sample); a line is parsed when it is asked
 * for. Blank lines, a byte order mark and carriage returns are skipped. Sentences name "file:line" or
 * "file:line:column". A line of more than 64 MiB is refused. Errors: Q3_ERR_DATA, Q3_ERR_MEMORY. The file
 * must not change while it is open.
 *
 * An array (data/json_array.h) is checked whole when it is indexed, and its elements are samples as lines are. One is
 * named by the line on which it begins; where one before it begins on the same line, by the column too.
 */
#ifndef Q3_DATA_JSONL_H
#define Q3_DATA_JSONL_H

#include "data/source.h"

typedef struct q3_jsonl q3_jsonl;

/* Whether a file of this name holds samples: .jsonl, .ndjson; .json too, if it is an array. */
bool q3_jsonl_is_lines(const char *path);
bool q3_jsonl_is_array(const char *path);

/* `keys` is copied, its strings are borrowed. Relative picture paths begin at the directory of the file. */
q3_status q3_jsonl_open(q3_jsonl **out, const char *path, const q3_data_keys *keys);

/* The same for text in memory (borrowed); `name` stands in messages, picture paths begin at the directory of
 * it. */
q3_status q3_jsonl_open_memory(q3_jsonl **out, const char *text, size_t size, const char *name,
                               const q3_data_keys *keys);
void q3_jsonl_close(q3_jsonl *file);

/* Samples in the file, at least 1. */
int64_t q3_jsonl_size(const q3_jsonl *file);

/* Parses and checks the sample; thread-safe. */
q3_status q3_jsonl_get(q3_sample *out, const q3_jsonl *file, int64_t index);

extern const q3_source q3_source_jsonl; /* paths that end in .jsonl, .ndjson or .json */

#endif
