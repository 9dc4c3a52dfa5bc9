/* infer/constraint_schema.h - JSON schemas (draft 2020-12, and definitions of older ones) as grammars.
 *
 * Every text that fits the grammar is JSON that fits the schema; of the texts that fit the schema it has those that a
 * model writes. Properties come in the order of the schema. Blanks: at most one behind each ':' and ',', as json.dumps writes, or none.
 * Numbers have at most 15 digits in front of the point, 15 behind it and an exponent of two digits.
 *
 *   any value    true, {}, enum, const (with type), anyOf, oneOf (as alternatives), allOf of one, $ref within the schema, type (one
 *                or a list; guessed from the other keywords where it is missing)
 *   objects      properties, required, additionalProperties (true or a schema: more of them behind the named ones;
 *                missing: none where there are properties, any where there are not)
 *   arrays       items, prefixItems, minItems, maxItems
 *   strings      minLength, maxLength, pattern (infer/constraint_regex.h), format: date, time, date-time, uuid, ipv4
 *   integers     minimum, maximum, exclusiveMinimum, exclusiveMaximum
 *
 * Titles, descriptions, defaults, examples and keywords that begin with x- are passed over; any other keyword is refused, by
 * name and with its place.
 */
#ifndef Q3_INFER_CONSTRAINT_SCHEMA_H
#define Q3_INFER_CONSTRAINT_SCHEMA_H

#include <cjson/cJSON.h>

#include "infer/constraint_grammar.h"

/* Rule 0 of the empty grammar `g` becomes the schema; NULL: any object. The grammar is finished then. Errors:
 * Q3_ERR_USAGE, Q3_ERR_MEMORY. */
q3_status q3_schema_compile(q3_grammar *g, const cJSON *schema);

#endif
