/* data/json_array.h - where the elements of a JSON array lie in its text.
 *
 * One pass, strict as RFC 8259 has it: strings and their escapes, numbers, nesting (CJSON_NESTING_LIMIT levels), nothing
 * behind the array. A byte order mark is skipped. No value is made: an element is parsed (core/json.h) when it is
 * wanted, and that also checks UTF-8. Errors: Q3_ERR_DATA, with "name:line:column: "; those of the sink.
 */
#ifndef Q3_DATA_JSON_ARRAY_H
#define Q3_DATA_JSON_ARRAY_H

#include "core/status.h"

typedef struct q3_json_element {
    size_t offset, size;  /* bytes in the text */
    int64_t line, column; /* of its first character, from 1 */
} q3_json_element;

typedef q3_status q3_json_sink(void *arg, const q3_json_element *element);

/* Hands each element of the array that is the whole of `text` to `sink`, in their order. */
q3_status q3_json_array_scan(const char *text, size_t size, const char *name, q3_json_sink *sink, void *arg);

#endif
