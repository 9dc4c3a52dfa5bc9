/* infer/constraint_json.h - JSON values as fragments of a grammar, before any schema.
 *
 * Blanks: at most one behind each ':' and ',', or none. Numbers have at most 15 digits in front of the point, 15 behind it
 * and an exponent of two digits. Failures stay in the grammar's status.
 */
#ifndef Q3_INFER_CONSTRAINT_JSON_H
#define Q3_INFER_CONSTRAINT_JSON_H

#include <cjson/cJSON.h>

#include "infer/constraint_grammar.h"

/* Kinds of values that have a rule; a character is one of a string, as it is or escaped. */
enum {
    Q3_JSON_ANY,
    Q3_JSON_OBJECT,
    Q3_JSON_ARRAY,
    Q3_JSON_STRING,
    Q3_JSON_CHARACTER,
    Q3_JSON_NUMBER,
    Q3_JSON_INTEGER,
    Q3_JSON_BOOLEAN,
    Q3_JSON_NOTHING,
    Q3_JSON_KINDS
};

typedef struct q3_json_forms {
    q3_grammar *g;                /* borrowed */
    int32_t rules[Q3_JSON_KINDS]; /* -1: not made yet */
} q3_json_forms;

void q3_json_forms_begin(q3_json_forms *out, q3_grammar *g);

/* These bytes. */
q3_fragment q3_json_form_text(q3_json_forms *c, const char *bytes);

/* One behind the other, or one of the two. */
q3_fragment q3_json_form_then(q3_json_forms *c, q3_fragment a, q3_fragment b);
q3_fragment q3_json_form_either(q3_json_forms *c, q3_fragment a, q3_fragment b);

/* What a rule stands for. */
q3_fragment q3_json_form_call(q3_json_forms *c, int32_t rule);

/* ':' or ',' and perhaps a blank. */
q3_fragment q3_json_form_mark(q3_json_forms *c, const char *sign);

/* A pattern that is right. */
q3_fragment q3_json_form_regex(q3_json_forms *c, const char *pattern);

/* In quotes. */
q3_fragment q3_json_form_quoted(q3_json_forms *c, q3_fragment inner);

/* The rule of a kind of value, made when it is first asked for. */
int32_t q3_json_form_rule(q3_json_forms *c, int which);

/* A string with this content, in quotes. */
q3_fragment q3_json_form_string_literal(q3_json_forms *c, const char *s);

/* The one text of a value, but for blanks. Values nest no deeper than cJSON reads them. */
q3_fragment q3_json_form_literal(q3_json_forms *c, const cJSON *v);

#endif
