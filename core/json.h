/* core/json.h - cJSON with what a strict reader needs besides: positions, whole digits of numbers, UTF-8
 * checked.
 *
 * Errors name the spot: "config.json:12:5: expected ',' or '}'". A document is a cJSON tree plus its text;
 * the tree is read with cJSON's own calls. Text behind the value is an error; in files below 1 MiB
 * (q3_json_open), duplicate keys too.
 */
#ifndef Q3_CORE_JSON_H
#define Q3_CORE_JSON_H

#include <cjson/cJSON.h>

#include "core/arena.h"

typedef struct q3_json {
    cJSON *root;
    const char *text; /* borrowed or owned, see below */
    size_t size;
    char *name;  /* for messages */
    int line, column; /* of the text's beginning, from 1 */
    char *owned; /* the text, when q3_json_open read it */
} q3_json;

/* Reads and parses a file (at most `limit` bytes). Errors: Q3_ERR_IO, Q3_ERR_FORMAT, Q3_ERR_LIMIT,
 * Q3_ERR_MEMORY. */
q3_status q3_json_open(q3_json *out, const char *path, size_t limit);

/* Parses `size` bytes at `text` (borrowed: must outlive the document); `name` stands in messages.
 * `first_line` is the line number of the text's beginning (1 for a file, n for the n-th line of a JSONL
 * file). */
q3_status q3_json_parse(q3_json *out, const char *text, size_t size, const char *name, int first_line);
/* The same for text that begins within a line: an element of an array. */
q3_status q3_json_parse_at(q3_json *out, const char *text, size_t size, const char *name, int line,
                           int column);
void q3_json_close(q3_json *doc);

/* Line and column (both from 1) of the key at `path`, e.g. "lora.r" or "data.train"; the outermost key of
 * that path. false when the path is not in the text. */
bool q3_json_locate(const q3_json *doc, const char *path, int *line, int *column);

/* Copies the digits of the number under top-level key `key` exactly as written; false when it is no number or
 * does not fit. For ids beyond 2^53, which cJSON's double would round. */
bool q3_json_digits(const q3_json *doc, const char *key, char *out, size_t out_bytes);

/* True when `text` is valid UTF-8 (no surrogates, no overlong forms); *bad is the offset of the first bad
 * byte. */
bool q3_utf8_valid(const char *text, size_t size, size_t *bad);

/* Bounded getters for files from outside; `def` when the key is absent or null. A wrong type is
 * Q3_ERR_FORMAT. */
q3_status q3_json_int(int64_t *out, const q3_json *doc, const cJSON *object, const char *key, int64_t def);
q3_status q3_json_float(double *out, const q3_json *doc, const cJSON *object, const char *key, double def);
q3_status q3_json_bool(bool *out, const q3_json *doc, const cJSON *object, const char *key, bool def);
q3_status q3_json_string(const char **out, const q3_json *doc, const cJSON *object, const char *key,
                         const char *def);

/* Appends `text` as a JSON string with its quotes to a growing heap buffer (see q3_text). Non-ASCII stays as
 * it is. */
typedef struct q3_text {
    char *data; /* NUL-terminated once something was appended; heap, q3_text_free */
    size_t size;
    size_t capacity;
    bool failed; /* out of memory: later appends do nothing */
} q3_text;

void q3_text_append(q3_text *t, const char *bytes, size_t n);
void q3_text_printf(q3_text *t, const char *fmt, ...) Q3_PRINTF(2, 3);
void q3_text_json_string(q3_text *t, const char *text, size_t n);
/* A double in the shortest form that reads back as the same double (Python's repr: 0.1, 1e-05, 3.0); NaN and
 * infinities become null. */
void q3_text_json_number(q3_text *t, double value);
void q3_text_free(q3_text *t);

#endif
