#include "infer/constraint_json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "collate/unicode.h"
#include "core/json.h"
#include "infer/constraint_regex.h"

void q3_json_forms_begin(q3_json_forms *out, q3_grammar *g)
{
    out->g = g;
    for (int i = 0; i < Q3_JSON_KINDS; i++)
        out->rules[i] = -1;
}

q3_fragment q3_json_form_text(q3_json_forms *c, const char *bytes)
{
    return q3_fragment_text(c->g, bytes, strlen(bytes));
}

q3_fragment q3_json_form_then(q3_json_forms *c, q3_fragment a, q3_fragment b)
{
    return q3_fragment_then(c->g, a, b);
}

q3_fragment q3_json_form_either(q3_json_forms *c, q3_fragment a, q3_fragment b)
{
    return q3_fragment_or(c->g, a, b);
}

q3_fragment q3_json_form_call(q3_json_forms *c, int32_t rule)
{
    return q3_fragment_call(c->g, rule);
}

/* ':' or ',' and perhaps a blank. */
q3_fragment q3_json_form_mark(q3_json_forms *c, const char *sign)
{
    return q3_json_form_then(c, q3_json_form_text(c, sign),
                             q3_fragment_maybe(c->g, q3_json_form_text(c, " ")));
}

/* Of a pattern that is right. */
q3_fragment q3_json_form_regex(q3_json_forms *c, const char *pattern)
{
    q3_fragment f;
    const q3_regex_options raw = { 0 };
    q3_status st = q3_regex_compile(&f, c->g, pattern, &raw);
    Q3_CHECK(st == Q3_OK || c->g->status != Q3_OK, "%s: %s", pattern, q3_error());
    return f;
}

q3_fragment q3_json_form_quoted(q3_json_forms *c, q3_fragment inner)
{
    return q3_json_form_then(c, q3_json_form_text(c, "\""),
                             q3_json_form_then(c, inner, q3_json_form_text(c, "\"")));
}

static q3_fragment list_of(q3_json_forms *c, const char *open, const char *close, q3_fragment first,
                           q3_fragment again)
{
    q3_fragment more = q3_fragment_star(c->g, q3_json_form_then(c, q3_json_form_mark(c, ","), again));
    q3_fragment some = q3_fragment_maybe(c->g, q3_json_form_then(c, first, more));
    return q3_json_form_then(c, q3_json_form_text(c, open),
                             q3_json_form_then(c, some, q3_json_form_text(c, close)));
}

static q3_fragment member(q3_json_forms *c)
{
    return q3_json_form_then(c, q3_json_form_call(c, q3_json_form_rule(c, Q3_JSON_STRING)),
                             q3_json_form_then(c, q3_json_form_mark(c, ":"),
                                               q3_json_form_call(c, q3_json_form_rule(c, Q3_JSON_ANY))));
}

static q3_fragment any_value(q3_json_forms *c)
{
    q3_fragment f = q3_json_form_call(c, q3_json_form_rule(c, Q3_JSON_OBJECT));
    for (int i = Q3_JSON_ARRAY; i < Q3_JSON_KINDS; i++)
        if (i != Q3_JSON_CHARACTER && i != Q3_JSON_INTEGER)
            f = q3_json_form_either(c, q3_json_form_call(c, q3_json_form_rule(c, i)), f);
    return f;
}

/* A character of a string, as it is or escaped; no U+0000, no half of a surrogate pair. */
static q3_fragment character(q3_json_forms *c)
{
    return q3_json_form_regex(c, "[^\"\\\\\\x00-\\x1f]|\\\\([\"\\\\/bfnrt]|u("
                                 "0(0(0[1-9A-Fa-f]|[1-9A-Fa-f][0-9A-Fa-f])|[1-9A-Fa-f][0-9A-Fa-f]{2})|"
                                 "[1-9A-Ca-cEFef][0-9A-Fa-f]{3}|[Dd][0-7][0-9A-Fa-f]{2}|"
                                 "[Dd][89ABab][0-9A-Fa-f]{2}\\\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}))");
}

static q3_fragment make_builtin(q3_json_forms *c, int which)
{
    switch (which) {
    case Q3_JSON_ANY:
        return any_value(c);
    case Q3_JSON_OBJECT:
        return list_of(c, "{", "}", member(c), member(c));
    case Q3_JSON_ARRAY:
        return list_of(c, "[", "]", q3_json_form_call(c, q3_json_form_rule(c, Q3_JSON_ANY)),
                       q3_json_form_call(c, q3_json_form_rule(c, Q3_JSON_ANY)));
    case Q3_JSON_STRING:
        return q3_json_form_quoted(c, q3_fragment_star(c->g, character(c)));
    case Q3_JSON_CHARACTER:
        return character(c);
    case Q3_JSON_NUMBER:
        return q3_json_form_regex(c, "-?(0|[1-9]\\d{0,14})(\\.\\d{1,15})?([eE][+\\-]?\\d{1,2})?");
    case Q3_JSON_INTEGER:
        return q3_json_form_regex(c, "-?(0|[1-9]\\d{0,14})");
    case Q3_JSON_BOOLEAN:
        return q3_json_form_either(c, q3_json_form_text(c, "true"), q3_json_form_text(c, "false"));
    default:
        return q3_json_form_text(c, "null");
    }
}

int32_t q3_json_form_rule(q3_json_forms *c, int which)
{
    if (c->rules[which] < 0 && c->g->status == Q3_OK) {
        int32_t rule = c->rules[which] = q3_grammar_rule(c->g);
        q3_grammar_define(c->g, rule, make_builtin(c, which)); // may call itself
    }
    return c->rules[which];
}

/* A string with this content, in quotes. */
q3_fragment q3_json_form_string_literal(q3_json_forms *c, const char *s)
{
    q3_fragment f = q3_fragment_empty(c->g);
    size_t bad;
    if (c->g->status == Q3_OK && !q3_utf8_valid(s, strlen(s), &bad))
        c->g->status = q3_fail(Q3_ERR_USAGE, "a text is not valid UTF-8 at byte %zu", bad);
    for (size_t i = 0, n = strlen(s); i < n && c->g->status == Q3_OK;) {
        uint32_t ch = q3_utf8_next(s, &i);
        f = q3_json_form_then(c, f, q3_fragment_chars(c->g, &(q3_char_range){ ch, ch }, 1, true));
    }
    return q3_json_form_quoted(c, f);
}

static q3_fragment number_literal(q3_json_forms *c, double value)
{
    char digits[32];
    q3_text t = { 0 };
    if (value == floor(value) && fabs(value) < 1e15) {
        snprintf(digits, sizeof digits, "%.0f", value + 0.0);
        return q3_json_form_text(c, digits);
    }
    q3_text_json_number(&t, value);
    q3_fragment f = q3_fragment_text(c->g, t.data, t.size);
    if (t.failed && c->g->status == Q3_OK)
        c->g->status = Q3_ERR_MEMORY;
    q3_text_free(&t);
    return f;
}

/* The one text of a value, but for blanks. Values nest no deeper than cJSON reads them. */
q3_fragment q3_json_form_literal(q3_json_forms *c, const cJSON *v)
{
    bool object = cJSON_IsObject(v);
    if (cJSON_IsString(v))
        return q3_json_form_string_literal(c, v->valuestring);
    if (cJSON_IsNumber(v))
        return number_literal(c, v->valuedouble);
    if (!object && !cJSON_IsArray(v))
        return q3_json_form_text(c, cJSON_IsTrue(v) ? "true" : cJSON_IsFalse(v) ? "false" : "null");
    q3_fragment f = q3_json_form_text(c, object ? "{" : "[");
    for (const cJSON *e = v->child; e; e = e->next) {
        if (e != v->child)
            f = q3_json_form_then(c, f, q3_json_form_mark(c, ","));
        if (object)
            f = q3_json_form_then(
                c, f,
                q3_json_form_then(c, q3_json_form_string_literal(c, e->string), q3_json_form_mark(c, ":")));
        f = q3_json_form_then(c, f, q3_json_form_literal(c, e));
    }
    return q3_json_form_then(c, f, q3_json_form_text(c, object ? "}" : "]"));
}
