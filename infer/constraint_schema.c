#include "infer/constraint_schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collate/unicode.h"
#include "core/json.h"
#include "infer/constraint_json.h"
#include "infer/constraint_number.h"
#include "infer/constraint_regex.h"

enum {
    MAX_KEY = 256, /* characters of a named property, where others may come beside it: bounds recursion */
    MAX_COUNT =
        100000 /* of minItems, maxItems, minLength, maxLength; the number of states is the nearer limit */
};

typedef struct node {
    const cJSON *schema;
    char *path; /* "#/properties/label", for messages */
    int32_t rule;
} node;

typedef struct compiler {
    q3_json_forms forms;
    const cJSON *root;
    node *nodes; /* [n]: schemas that have a rule; those from `done` on are not yet defined */
    size_t n, capacity;
} compiler;

static q3_status refuse(const node *at, const char *key, const char *what)
{
    return q3_fail(Q3_ERR_USAGE, "schema %s: %s %s", at->path, key, what);
}

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* The rule of a schema; what it is, is compiled later. `part` [and `name`] lead to it from `from`. */
static q3_status rule_of(int32_t *out, compiler *c, const cJSON *schema, const node *from, const char *part,
                         const char *name)
{
    for (size_t i = 0; i < c->n; i++)
        if (c->nodes[i].schema == schema) {
            *out = c->nodes[i].rule;
            return Q3_OK;
        }
    q3_text path = { 0 };
    q3_text_printf(&path, "%s%s%s", from ? from->path : "#", part, name); // before nodes move
    if (c->n == c->capacity) {
        size_t more = c->capacity ? 2 * c->capacity : 16;
        node *nodes = q3_realloc(c->nodes, more * sizeof *nodes);
        path.failed |= !nodes;
        c->nodes = nodes ? nodes : c->nodes;
        c->capacity = nodes ? more : c->capacity;
    }
    if (path.failed) {
        q3_text_free(&path);
        return Q3_ERR_MEMORY;
    }
    *out = q3_grammar_rule(c->forms.g);
    c->nodes[c->n++] = (node){ schema, path.data, *out };
    return c->forms.g->status;
}

/* ---- keywords ---- */

/* Say nothing about which values fit. */
static bool is_remark(const char *key)
{
    static const char *const remarks[] = { "$schema",    "$id",         "$comment", "$defs",    "definitions",
                                           "title",      "description", "default",  "examples", "example",
                                           "deprecated", "readOnly",    "writeOnly" };
    for (size_t i = 0; i < sizeof remarks / sizeof *remarks; i++)
        if (strcmp(key, remarks[i]) == 0)
            return true;
    return strncmp(key, "x-", 2) == 0;
}

/* All keywords are remarks or among `known`, a list with blanks around each; `beside` says where others do not go. */
static q3_status check_keywords(const node *at, const char *known, const char *beside)
{
    char word[64];
    for (const cJSON *k = at->schema->child; k; k = k->next) {
        int n = snprintf(word, sizeof word, " %s ", k->string);
        bool one_word = n < (int)sizeof word && !strchr(k->string, ' ');
        if (is_remark(k->string) || (one_word && strstr(known, word)))
            continue;
        if (beside)
            return q3_fail(Q3_ERR_USAGE, "schema %s: the keyword %s is not supported beside %s", at->path,
                           k->string, beside);
        return q3_fail(Q3_ERR_USAGE, "schema %s: the keyword %s is not supported", at->path, k->string);
    }
    return Q3_OK;
}

/* A count; `missing` when the keyword is not there. */
static q3_status count(int *out, const node *at, const char *key, int missing)
{
    const cJSON *item = get(at->schema, key);
    *out = missing;
    if (!item)
        return Q3_OK;
    if (!cJSON_IsNumber(item) || item->valuedouble != floor(item->valuedouble) || item->valuedouble < 0)
        return refuse(at, key, "must be a count");
    if (item->valuedouble > MAX_COUNT)
        return refuse(at, key, "is more than 100000");
    *out = item->valueint;
    return Q3_OK;
}

/* Both ends of a range of counts; *most -1: without end. */
static q3_status counts(int *least, int *most, const node *at, const char *min, const char *max)
{
    Q3_TRY(count(least, at, min, 0));
    Q3_TRY(count(most, at, max, -1));
    return *most >= 0 && *most < *least ? refuse(at, max, "is less than the minimum: no value fits") : Q3_OK;
}

static bool is_schema(const cJSON *s)
{
    return cJSON_IsObject(s) || cJSON_IsBool(s);
}

/* A call of the schema under a keyword; a missing one or true is any value. */
static q3_status call_schema(q3_fragment *out, compiler *c, const cJSON *schema, const node *at,
                             const char *part, const char *name)
{
    int32_t rule;
    if (schema && !is_schema(schema))
        return q3_fail(Q3_ERR_USAGE, "schema %s%s%s: it must be an object or a boolean", at->path, part,
                       name);
    if (!schema || cJSON_IsTrue(schema)) {
        *out = q3_json_form_call(&c->forms, q3_json_form_rule(&c->forms, Q3_JSON_ANY));
        return Q3_OK;
    }
    const node from = *at; // nodes move
    Q3_TRY(rule_of(&rule, c, schema, &from, part, name));
    *out = q3_json_form_call(&c->forms, rule);
    return Q3_OK;
}

/* ---- objects ---- */

/* Properties in their order, and required ones that are not among them. */
typedef struct property {
    const char *name;
    const cJSON *schema; /* NULL: any value */
    bool required, additional;
} property;

typedef struct properties {
    property *p;
    size_t n;
    const cJSON *others; /* NULL: any; false: none */
    bool open;           /* others may come */
} properties;

static property *find_property(const properties *all, const char *name)
{
    for (size_t i = 0; i < all->n; i++)
        if (strcmp(all->p[i].name, name) == 0)
            return &all->p[i];
    return NULL;
}

static q3_status read_required(properties *out, const node *at)
{
    const cJSON *required = get(at->schema, "required");
    if (required && !cJSON_IsArray(required))
        return refuse(at, "required", "must be a list of names");
    for (const cJSON *r = required ? required->child : NULL; r; r = r->next) {
        if (!cJSON_IsString(r))
            return refuse(at, "required", "must be a list of names");
        size_t bad;
        if (!q3_utf8_valid(r->valuestring, strlen(r->valuestring), &bad))
            return refuse(at, "required", "has a name that is not valid UTF-8");
        property *p = find_property(out, r->valuestring);
        if (!p && cJSON_IsFalse(out->others))
            return refuse(at, "required", "names a property that additionalProperties forbids");
        if (!p) {
            p = &out->p[out->n++];
            *p = (property){ .name = r->valuestring, .schema = out->others, .additional = true };
        }
        p->required = true;
    }
    return Q3_OK;
}

static q3_status read_properties(properties *out, const node *at)
{
    const cJSON *named = get(at->schema, "properties"), *required = get(at->schema, "required");
    *out = (properties){ .others = get(at->schema, "additionalProperties") };
    if (named && !cJSON_IsObject(named))
        return refuse(at, "properties", "must be an object");
    if (out->others && !is_schema(out->others))
        return refuse(at, "additionalProperties", "must be a boolean or a schema");
    out->open = out->others ? !cJSON_IsFalse(out->others) : !named || !named->child;
    size_t n = (size_t)(cJSON_GetArraySize(named) + cJSON_GetArraySize(required));
    out->p = q3_calloc(n + 1, sizeof *out->p);
    if (!out->p)
        return Q3_ERR_MEMORY;
    for (const cJSON *p = named ? named->child : NULL; p; p = p->next) {
        size_t bad;
        if (find_property(out, p->string))
            return refuse(at, p->string, "is there twice");
        if (!q3_utf8_valid(p->string, strlen(p->string), &bad))
            return refuse(at, "properties", "has a name that is not valid UTF-8");
        out->p[out->n++] = (property){ .name = p->string, .schema = p };
    }
    return read_required(out, at);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* What may follow the first `at` bytes, which keys [n] (sorted) begin with, so that none of them comes of it. */
static q3_fragment rest_of_key(compiler *c, const char *const *keys, size_t n, size_t at)
{
    q3_char_range *next = q3_calloc(2 * n + 1, sizeof *next), *others = next + n;
    size_t children = 0, i = 0;
    bool is_key = false;
    q3_fragment any =
        q3_fragment_star(c->forms.g, q3_fragment_chars(c->forms.g, &(q3_char_range){ 0, 0x10FFFF }, 1, true));
    if (!next || c->forms.g->status != Q3_OK) {
        c->forms.g->status = c->forms.g->status ? c->forms.g->status : Q3_ERR_MEMORY;
        q3_free(next);
        return any;
    }
    for (; i < n && !keys[i][at]; i++)
        is_key = true;
    for (size_t k = i; k < n; k++) { // equal beginnings stand side by side
        size_t behind = at;
        uint32_t ch = q3_utf8_next(keys[k], &behind);
        if (!children || next[children - 1].lo != ch)
            next[children++] = (q3_char_range){ ch, ch };
    }
    size_t n_others = q3_char_ranges_invert(others, next, children);
    q3_fragment f = q3_json_form_then(&c->forms, q3_fragment_chars(c->forms.g, others, n_others, true), any);
    for (size_t k = i; k < n;) {
        size_t behind = at, same = k;
        uint32_t ch = q3_utf8_next(keys[k], &behind);
        while (same < n && strncmp(keys[same] + at, keys[k] + at, behind - at) == 0)
            same++;
        q3_fragment one = q3_fragment_chars(c->forms.g, &(q3_char_range){ ch, ch }, 1, true);
        f = q3_json_form_either(
            &c->forms, q3_json_form_then(&c->forms, one, rest_of_key(c, keys + k, same - k, behind)), f);
        k = same;
    }
    q3_free(next);
    return is_key ? f : q3_fragment_maybe(c->forms.g, f);
}

/* Any key but those of properties, with its value. */
static q3_status other_member(q3_fragment *out, compiler *c, const properties *all, const node *at)
{
    q3_fragment value;
    const char **keys = q3_calloc(all->n + 1, sizeof *keys);
    if (!keys)
        return Q3_ERR_MEMORY;
    q3_status st = Q3_OK;
    for (size_t i = 0; i < all->n; i++) {
        keys[i] = all->p[i].name;
        if (strlen(keys[i]) > MAX_KEY && st == Q3_OK)
            st = refuse(at, "properties", "has a name of more than 256 bytes beside additionalProperties");
    }
    qsort(keys, all->n, sizeof *keys, by_text);
    if (st == Q3_OK)
        st = call_schema(&value, c, all->others, at, "/additionalProperties", "");
    if (st == Q3_OK)
        *out = q3_json_form_then(&c->forms, q3_json_form_quoted(&c->forms, rest_of_key(c, keys, all->n, 0)),
                                 q3_json_form_then(&c->forms, q3_json_form_mark(&c->forms, ":"), value));
    q3_free(keys);
    return st;
}

static q3_status named_member(q3_fragment *out, compiler *c, const property *p, const node *at)
{
    q3_fragment value;
    if (cJSON_IsFalse(p->schema) && p->required)
        return q3_fail(Q3_ERR_USAGE, "schema %s/properties/%s: no value fits a property that is required",
                       at->path, p->name);
    Q3_TRY(call_schema(&value, c, p->schema, at, p->additional ? "/additionalProperties" : "/properties/",
                       p->additional ? "" : p->name));
    *out = q3_json_form_then(&c->forms, q3_json_form_string_literal(&c->forms, p->name),
                             q3_json_form_then(&c->forms, q3_json_form_mark(&c->forms, ":"), value));
    return Q3_OK;
}

/* The members from the i-th on, built from the back: `first` when none was written before, `later` when some was. */
static q3_status members(q3_fragment *first, q3_fragment *later, compiler *c, const properties *all,
                         const node *at)
{
    q3_fragment a, b;
    *first = q3_fragment_empty(c->forms.g);
    *later = q3_fragment_empty(c->forms.g);
    if (all->open) {
        q3_fragment again;
        Q3_TRY(other_member(&a, c, all, at));
        Q3_TRY(other_member(&b, c, all, at));
        Q3_TRY(other_member(&again, c, all, at));
        *later =
            q3_fragment_star(c->forms.g, q3_json_form_then(&c->forms, q3_json_form_mark(&c->forms, ","), b));
        *first = q3_fragment_maybe(
            c->forms.g,
            q3_json_form_then(
                &c->forms, a,
                q3_fragment_star(c->forms.g,
                                 q3_json_form_then(&c->forms, q3_json_form_mark(&c->forms, ","), again))));
    }
    // what follows a member is shared, so the first member that is written is a way into the later ones
    for (size_t i = all->n; i-- > 0 && c->forms.g->status == Q3_OK;) {
        const property *p = &all->p[i];
        int32_t rest = q3_grammar_rule(c->forms.g);
        q3_grammar_define(c->forms.g, rest, *later);
        Q3_TRY(named_member(&a, c, p, at));
        Q3_TRY(named_member(&b, c, p, at));
        a = q3_json_form_then(&c->forms, a, q3_json_form_call(&c->forms, rest));
        b = q3_json_form_then(&c->forms, q3_json_form_then(&c->forms, q3_json_form_mark(&c->forms, ","), b),
                              q3_json_form_call(&c->forms, rest));
        *first = p->required ? a : q3_json_form_either(&c->forms, a, *first);
        *later = p->required ? b : q3_json_form_either(&c->forms, b, q3_json_form_call(&c->forms, rest));
    }
    return c->forms.g->status;
}

static q3_status object(q3_fragment *out, compiler *c, const node *at)
{
    properties all;
    q3_fragment first, later;
    q3_status st = read_properties(&all, at);
    if (st == Q3_OK && all.n == 0 && all.open && !all.others) {
        *out = q3_json_form_call(&c->forms, q3_json_form_rule(&c->forms, Q3_JSON_OBJECT));
    } else if (st == Q3_OK) {
        st = members(&first, &later, c, &all, at);
        if (st == Q3_OK)
            *out = q3_json_form_then(&c->forms, q3_json_form_text(&c->forms, "{"),
                                     q3_json_form_then(&c->forms, first, q3_json_form_text(&c->forms, "}")));
    }
    q3_free(all.p);
    return st;
}

/* ---- arrays ---- */

/* The i-th entry; *none: there can be no such entry. */
static q3_status entry(q3_fragment *out, bool *none, compiler *c, const node *at, int i)
{
    char number[16];
    const cJSON *prefix = get(at->schema, "prefixItems"), *schema = cJSON_GetArrayItem(prefix, i);
    snprintf(number, sizeof number, "%d", i);
    bool rest = !schema;
    schema = rest ? get(at->schema, "items") : schema;
    *none = cJSON_IsFalse(schema);
    return *none ? Q3_OK
                 : call_schema(out, c, schema, at, rest ? "/items" : "/prefixItems/", rest ? "" : number);
}

/* Entry i with the comma in front that all but the first have. */
static q3_status next_entry(q3_fragment *out, bool *none, compiler *c, const node *at, int i)
{
    Q3_TRY(entry(out, none, c, at, i));
    if (!*none && i)
        *out = q3_json_form_then(&c->forms, q3_json_form_mark(&c->forms, ","), *out);
    return Q3_OK;
}

static q3_status array(q3_fragment *out, compiler *c, const node *at)
{
    int least, most;
    bool none = false;
    const cJSON *prefix = get(at->schema, "prefixItems");
    Q3_TRY(counts(&least, &most, at, "minItems", "maxItems"));
    if (prefix && !cJSON_IsArray(prefix))
        return refuse(at, "prefixItems", "must be a list of schemas");
    int each = cJSON_GetArraySize(prefix) + 1; // entries from here on are alike, and have a comma
    each = most >= 0 ? most : least > each ? least : each;
    q3_fragment f, inner = q3_fragment_empty(c->forms.g);
    if (most < 0) {
        Q3_TRY(next_entry(&f, &none, c, at, each));
        if (!none)
            inner = q3_fragment_star(c->forms.g, f);
    }
    for (int i = each - 1; i >= 0 && c->forms.g->status == Q3_OK; i--) { // from the back: a(b(c*)?)?
        Q3_TRY(next_entry(&f, &none, c, at, i));
        if (none && i < least)
            return refuse(at, "minItems", "is more than items and prefixItems allow");
        if (none)
            inner = q3_fragment_empty(c->forms.g);
        else if (i >= least)
            inner = q3_fragment_maybe(c->forms.g, q3_json_form_then(&c->forms, f, inner));
        else
            inner = q3_json_form_then(&c->forms, f, inner);
    }
    *out = q3_json_form_then(&c->forms, q3_json_form_text(&c->forms, "["),
                             q3_json_form_then(&c->forms, inner, q3_json_form_text(&c->forms, "]")));
    return c->forms.g->status;
}

/* ---- strings and numbers ---- */

static const char *format_pattern(const char *name)
{
#define DATE                                                                                                 \
    "\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]" \
    "))"
#define TIME "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?(Z|[+\\-]([01]\\d|2[0-3]):[0-5]\\d)"
#define BYTE "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
    static const char *const known[][2] = {
        { "date", DATE },
        { "time", TIME },
        { "date-time", DATE "T" TIME },
        { "uuid", "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}" },
        { "ipv4", BYTE "(\\." BYTE "){3}" },
    };
#undef DATE
#undef TIME
#undef BYTE
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i][0], name) == 0)
            return known[i][1];
    return NULL;
}

static q3_status pattern(q3_fragment *out, compiler *c, const node *at, const cJSON *item)
{
    q3_fragment f;
    const q3_regex_options within = { .in_json = true, .search = true };
    if (!cJSON_IsString(item))
        return refuse(at, "pattern", "must be a string");
    q3_status st = q3_regex_compile(&f, c->forms.g, item->valuestring, &within);
    if (st != Q3_OK) // the grammar's own failures get their place later
        return c->forms.g->status != Q3_OK ? st : q3_wrap(st, "schema %s", at->path);
    *out = q3_json_form_quoted(&c->forms, f);
    return Q3_OK;
}

static q3_status string(q3_fragment *out, compiler *c, const node *at)
{
    int least, most;
    const cJSON *match = get(at->schema, "pattern"), *format = get(at->schema, "format");
    Q3_TRY(counts(&least, &most, at, "minLength", "maxLength"));
    if ((match != NULL) + (format != NULL) + (least > 0 || most >= 0) > 1)
        return refuse(at, match ? "pattern" : "format",
                      "is not supported beside another limit of the string");
    if (match)
        return pattern(out, c, at, match);
    if (format) {
        const char *known = cJSON_IsString(format) ? format_pattern(format->valuestring) : NULL;
        if (!known)
            return refuse(at, "format", "is none of date, time, date-time, uuid, ipv4; use pattern");
        *out = q3_json_form_quoted(&c->forms, q3_json_form_regex(&c->forms, known));
        return Q3_OK;
    }
    if (!least && most < 0) {
        *out = q3_json_form_call(&c->forms, q3_json_form_rule(&c->forms, Q3_JSON_STRING));
        return Q3_OK;
    }
    int32_t one = q3_json_form_rule(&c->forms, Q3_JSON_CHARACTER);
    q3_fragment f = most < 0 ? q3_fragment_star(c->forms.g, q3_json_form_call(&c->forms, one))
                             : q3_fragment_empty(c->forms.g);
    for (int i = most < least ? least : most; i-- > 0 && c->forms.g->status == Q3_OK;) {
        f = q3_json_form_then(&c->forms, q3_json_form_call(&c->forms, one), f);
        f = i >= least ? q3_fragment_maybe(c->forms.g, f) : f;
    }
    *out = q3_json_form_quoted(&c->forms, f);
    return Q3_OK;
}

/* The nearest integer that a bound allows: `up` from below. */
static q3_status bound(int64_t *out, const node *at, const char *key, bool up, bool exclusive)
{
    const cJSON *item = get(at->schema, key);
    if (!item)
        return Q3_OK;
    if (!cJSON_IsNumber(item))
        return refuse(at, key, "must be a number");
    double v = item->valuedouble, near = up ? ceil(v) : floor(v);
    if (exclusive && near == v)
        near += up ? 1 : -1;
    int64_t edge = fabs(near) < 1e16 ? (int64_t)near : near < 0 ? -Q3_INTEGER_MOST - 1 : Q3_INTEGER_MOST + 1;
    if (up ? edge > *out : edge < *out)
        *out = edge;
    return Q3_OK;
}

static bool has_bound(const node *at)
{
    return get(at->schema, "minimum") || get(at->schema, "maximum") || get(at->schema, "exclusiveMinimum") ||
           get(at->schema, "exclusiveMaximum");
}

static q3_status integer(q3_fragment *out, compiler *c, const node *at)
{
    int64_t least = -Q3_INTEGER_MOST, most = Q3_INTEGER_MOST;
    if (!has_bound(at)) {
        *out = q3_json_form_call(&c->forms, q3_json_form_rule(&c->forms, Q3_JSON_INTEGER));
        return Q3_OK;
    }
    Q3_TRY(bound(&least, at, "minimum", true, false));
    Q3_TRY(bound(&least, at, "exclusiveMinimum", true, true));
    Q3_TRY(bound(&most, at, "maximum", false, false));
    Q3_TRY(bound(&most, at, "exclusiveMaximum", false, true));
    if (least > most)
        return refuse(at, "minimum", "and maximum leave no integer of at most 15 digits");
    *out = q3_fragment_integers(c->forms.g, least, most);
    return Q3_OK;
}

/* ---- schemas ---- */

static const char *const type_names[] = {
    "object", "array", "string", "number", "integer", "boolean", "null"
};

enum { N_TYPES = 7 };

static q3_status one_type(q3_fragment *out, compiler *c, const node *at, int type)
{
    switch (type) {
    case 0:
        return object(out, c, at);
    case 1:
        return array(out, c, at);
    case 2:
        return string(out, c, at);
    case 3:
        if (has_bound(at))
            return refuse(at, "type", "number has a minimum or maximum, which only integers may have");
        *out = q3_json_form_call(&c->forms, q3_json_form_rule(&c->forms, Q3_JSON_NUMBER));
        return Q3_OK;
    case 4:
        return integer(out, c, at);
    default:
        *out = q3_json_form_call(&c->forms,
                                 q3_json_form_rule(&c->forms, type == 5 ? Q3_JSON_BOOLEAN : Q3_JSON_NOTHING));
        return Q3_OK;
    }
}

static int find_type(const char *name)
{
    for (int i = 0; i < N_TYPES; i++)
        if (strcmp(name, type_names[i]) == 0)
            return i;
    return -1;
}

/* A set of types as bits; 0 when none is given. */
static q3_status read_types(unsigned *out, const node *at)
{
    const cJSON *type = get(at->schema, "type");
    *out = 0;
    for (const cJSON *t = cJSON_IsArray(type) ? type->child : type; t;
         t = cJSON_IsArray(type) ? t->next : NULL) {
        int i = cJSON_IsString(t) ? find_type(t->valuestring) : -1;
        if (i < 0)
            return refuse(at, "type",
                          "must be one or more of object, array, string, number, integer, boolean, null");
        *out |= 1u << i;
    }
    return type && !*out ? refuse(at, "type", "is an empty list") : Q3_OK;
}

/* What the other keywords are about, in the order of type_names. */
static unsigned guess_types(const node *at)
{
    static const char *const about[][2] = {
        { "properties", "o" }, { "required", "o" },         { "additionalProperties", "o" },
        { "items", "a" },      { "prefixItems", "a" },      { "minItems", "a" },
        { "maxItems", "a" },   { "minLength", "s" },        { "maxLength", "s" },
        { "pattern", "s" },    { "format", "s" },           { "minimum", "i" },
        { "maximum", "i" },    { "exclusiveMinimum", "i" }, { "exclusiveMaximum", "i" }
    };
    unsigned types = 0;
    for (size_t i = 0; i < sizeof about / sizeof *about; i++)
        if (get(at->schema, about[i][0]))
            types |= about[i][1][0] == 'o'   ? 1u
                     : about[i][1][0] == 'a' ? 2u
                     : about[i][1][0] == 's' ? 4u
                                             : 16u;
    return types;
}

static q3_status typed(q3_fragment *out, compiler *c, const node *at)
{
    unsigned types;
    bool some = false;
    Q3_TRY(check_keywords(
        at,
        " type properties required additionalProperties items prefixItems minItems maxItems "
        "minLength maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum ",
        NULL));
    Q3_TRY(read_types(&types, at));
    types = types ? types : guess_types(at);
    if (!types) {
        *out = q3_json_form_call(&c->forms, q3_json_form_rule(&c->forms, Q3_JSON_ANY));
        return Q3_OK;
    }
    if (types & 1u << 3)
        types &= ~(1u << 4); // integers are numbers
    for (int i = 0; i < N_TYPES; i++) {
        q3_fragment f;
        if (!(types >> i & 1))
            continue;
        Q3_TRY(one_type(&f, c, at, i));
        *out = some ? q3_json_form_either(&c->forms, f, *out) : f;
        some = true;
    }
    return Q3_OK;
}

static bool has_type(const cJSON *v, unsigned types)
{
    bool integer_value = cJSON_IsNumber(v) && v->valuedouble == floor(v->valuedouble);
    unsigned of = cJSON_IsObject(v)   ? 1u
                  : cJSON_IsArray(v)  ? 2u
                  : cJSON_IsString(v) ? 4u
                  : cJSON_IsNumber(v) ? (integer_value ? 24u : 8u)
                  : cJSON_IsBool(v)   ? 32u
                                      : 64u;
    return !types || (types & of);
}

static q3_status values(q3_fragment *out, compiler *c, const node *at)
{
    unsigned types;
    bool some = false;
    const cJSON *one = get(at->schema, "const"), *list = get(at->schema, "enum");
    const char *key = one ? "const" : "enum";
    Q3_TRY(check_keywords(at, one ? " const type " : " enum type ", key));
    Q3_TRY(read_types(&types, at));
    if (!one && !cJSON_IsArray(list))
        return refuse(at, key, "must be a list of values");
    for (const cJSON *v = one ? one : list->child; v && c->forms.g->status == Q3_OK;
         v = one ? NULL : v->next) {
        if (!has_type(v, types))
            continue;
        *out = some ? q3_json_form_either(&c->forms, q3_json_form_literal(&c->forms, v), *out)
                    : q3_json_form_literal(&c->forms, v);
        some = true;
    }
    return some ? Q3_OK : refuse(at, key, "has no value of its type");
}

static q3_status any_of(q3_fragment *out, compiler *c, const node *at, const char *key)
{
    char known[16], number[16], part[16];
    const cJSON *list = get(at->schema, key);
    bool some = false;
    int i = 0;
    snprintf(known, sizeof known, " %s ", key);
    snprintf(part, sizeof part, "/%s/", key);
    Q3_TRY(check_keywords(at, known, key));
    if (!cJSON_IsArray(list) || !list->child)
        return refuse(at, key, "must be a list of schemas");
    if (strcmp(key, "allOf") == 0 && list->child->next)
        return refuse(at, key, "of more than one schema is not supported");
    for (const cJSON *s = list->child; s; s = s->next) {
        q3_fragment f;
        snprintf(number, sizeof number, "%d", i++);
        Q3_TRY(call_schema(&f, c, s, at, part, number));
        *out = some ? q3_json_form_either(&c->forms, f, *out) : f;
        some = true;
    }
    return c->forms.g->status;
}

/* The part of a JSON pointer up to the next slash, with ~0 and ~1 put back. */
static const cJSON *child_by_pointer(const cJSON *from, const char *part, size_t n)
{
    char name[256];
    size_t used = 0;
    for (size_t i = 0; i < n && used < sizeof name - 1; i++) {
        bool tilde = part[i] == '~' && i + 1 < n && (part[i + 1] == '0' || part[i + 1] == '1');
        name[used++] = !tilde ? part[i] : part[i + 1] == '0' ? '~' : '/';
        i += tilde;
    }
    name[used] = 0;
    if (cJSON_IsArray(from))
        return used && used < 6 && strspn(name, "0123456789") == used ? cJSON_GetArrayItem(from, atoi(name))
                                                                      : NULL;
    return get(from, name);
}

static q3_status reference(q3_fragment *out, compiler *c, const node *at)
{
    const cJSON *ref = get(at->schema, "$ref"), *to = c->root;
    Q3_TRY(check_keywords(at, " $ref ", "$ref"));
    if (!cJSON_IsString(ref) || ref->valuestring[0] != '#')
        return refuse(at, "$ref", "must lead to a place in the schema, like #/$defs/name");
    for (const char *p = ref->valuestring + 1; *p && to;) {
        size_t n = strcspn(p + 1, "/");
        to = *p == '/' ? child_by_pointer(to, p + 1, n) : NULL;
        p += n + 1;
    }
    if (!to || !is_schema(to))
        return q3_fail(Q3_ERR_USAGE, "schema %s: there is no schema at %s", at->path, ref->valuestring);
    const node top = { .path = ref->valuestring };
    return call_schema(out, c, to, &top, "", "");
}

static q3_status schema(q3_fragment *out, compiler *c, const node *at)
{
    if (cJSON_IsFalse(at->schema)) {
        *out = q3_fragment_chars(c->forms.g, NULL, 0, false); // nothing
        return Q3_OK;
    }
    if (get(at->schema, "$ref"))
        return reference(out, c, at);
    static const char *const lists[] = { "anyOf", "oneOf", "allOf" };
    for (int i = 0; i < 3; i++)
        if (get(at->schema, lists[i]))
            return any_of(out, c, at, lists[i]);
    if (get(at->schema, "const") || get(at->schema, "enum"))
        return values(out, c, at);
    return typed(out, c, at);
}

/* Compiling a schema makes rules for others, which join the queue. */
static q3_status compile(compiler *c, const cJSON *root)
{
    int32_t rule;
    if (!is_schema(root))
        return q3_fail(Q3_ERR_USAGE, "a schema must be a JSON object");
    Q3_TRY(rule_of(&rule, c, root, NULL, "", ""));
    for (size_t i = 0; i < c->n; i++) {
        const node at = c->nodes[i]; // nodes move; paths do not
        q3_fragment f = { 0, 0 };
        q3_status st = schema(&f, c, &at);
        if (c->forms.g->status != Q3_OK)
            return q3_wrap(c->forms.g->status, "schema %s", at.path);
        Q3_TRY(st);
        q3_grammar_define(c->forms.g, at.rule, f);
    }
    return c->forms.g->status;
}

static q3_status any_object(compiler *c)
{
    int32_t rule = q3_grammar_rule(c->forms.g);
    q3_grammar_define(c->forms.g, rule,
                      q3_json_form_call(&c->forms, q3_json_form_rule(&c->forms, Q3_JSON_OBJECT)));
    return c->forms.g->status;
}

q3_status q3_schema_compile(q3_grammar *g, const cJSON *root)
{
    compiler c = { .root = root };
    int32_t culprit = -1;
    q3_json_forms_begin(&c.forms, g);
    q3_status st = root ? compile(&c, root) : any_object(&c);
    if (st == Q3_OK)
        st = q3_grammar_finish(g, &culprit);
    for (size_t i = 0; i < c.n && culprit >= 0; i++)
        if (c.nodes[i].rule == culprit)
            st = q3_wrap(st, "schema %s", c.nodes[i].path);
    for (size_t i = 0; i < c.n; i++)
        q3_free(c.nodes[i].path);
    q3_free(c.nodes);
    return st;
}
