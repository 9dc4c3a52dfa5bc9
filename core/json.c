#include "core/json.h"

#include <ctype.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"

static pthread_mutex_t parsing = PTHREAD_MUTEX_INITIALIZER; // cJSON keeps its last error in a global

static _Thread_local bool exhausted; // cJSON does not tell running out of memory from bad JSON

static void *json_malloc(size_t bytes)
{
    void *p = q3_malloc(bytes);
    exhausted = exhausted || !p;
    return p;
}

static void install_heap(void)
{
    cJSON_Hooks hooks = { json_malloc, q3_free };
    cJSON_InitHooks(&hooks);
}

static void position(const q3_json *doc, size_t at, int *line, int *column)
{
    *line = doc->line;
    *column = doc->column;
    for (size_t i = 0; i < at; i++) {
        if (doc->text[i] == '\n') {
            ++*line;
            *column = 1;
        } else if (((unsigned char)doc->text[i] & 0xC0) != 0x80) { // columns count characters, not bytes
            ++*column;
        }
    }
}

static q3_status fail_at(const q3_json *doc, const char *name, size_t at, const char *what)
{
    int line, column;
    position(doc, at, &line, &column);
    return q3_fail(Q3_ERR_FORMAT, "%s:%d:%d: %s", name, line, column, what);
}

static const char *duplicate_key(const cJSON *item)
{
    for (const cJSON *c = item->child; c; c = c->next) {
        if (cJSON_IsObject(item))
            for (const cJSON *d = c->next; d; d = d->next)
                if (strcmp(c->string, d->string) == 0)
                    return c->string;
        const char *inner = c->child ? duplicate_key(c) : NULL;
        if (inner)
            return inner;
    }
    return NULL;
}

/* Where a NUL stands, which would end a string in C, or its escape: a backslash that no other escapes. */
static bool find_nul(size_t *at, const char *text, size_t size)
{
    static const char escape[] = "\\u0000";
    const char *p = text, *end = text + size, *nul = memchr(text, 0, size);
    *at = nul ? (size_t)(nul - text) : 0;
    if (nul)
        return true;
    for (; (p = memmem(p, (size_t)(end - p), escape, sizeof escape - 1)); p++) {
        size_t before = 0;
        while (before < (size_t)(p - text) && p[-1 - (ptrdiff_t)before] == '\\')
            before++;
        *at = (size_t)(p - text);
        if (before % 2 == 0)
            return true;
    }
    return false;
}

q3_status q3_json_parse(q3_json *out, const char *text, size_t size, const char *name, int first_line)
{
    return q3_json_parse_at(out, text, size, name, first_line, 1);
}

q3_status q3_json_parse_at(q3_json *out, const char *text, size_t size, const char *name, int line,
                           int column)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_heap);
    *out = (q3_json){ .text = text, .size = size, .line = line, .column = column };
    size_t bad;
    if (!q3_utf8_valid(text, size, &bad))
        return fail_at(out, name, bad, "not valid UTF-8");
    if (find_nul(&bad, text, size))
        return fail_at(out, name, bad, "a NUL character, which no text here may hold");
    const char *end = NULL;
    exhausted = false;
    pthread_mutex_lock(&parsing);
    out->root = cJSON_ParseWithLengthOpts(text, size, &end, false);
    pthread_mutex_unlock(&parsing);
    if (!out->root && exhausted)
        return q3_wrap(Q3_ERR_MEMORY, "%s", name);
    if (!out->root)
        return fail_at(out, name, end ? (size_t)(end - text) : size,
                       end && (size_t)(end - text) < size ? "not valid JSON here"
                                                          : "the JSON text ends too early");
    while ((size_t)(end - text) < size && isspace((unsigned char)*end))
        end++;
    if ((size_t)(end - text) < size) {
        q3_status st = fail_at(out, name, (size_t)(end - text), "unexpected text behind the JSON value");
        q3_json_close(out);
        return st;
    }
    out->name = q3_strdup(name);
    if (!out->name) {
        q3_json_close(out);
        return Q3_ERR_MEMORY;
    }
    return Q3_OK;
}

q3_status q3_json_open(q3_json *out, const char *path, size_t limit)
{
    char *text;
    size_t size;
    *out = (q3_json){ 0 };
    Q3_TRY(q3_file_read(&text, &size, path, limit));
    q3_status st = q3_json_parse(out, text, size, path, 1);
    if (st == Q3_OK && size < (1u << 20)) { // quadratic in the keys of one object: not for vocabularies
        const char *key = duplicate_key(out->root);
        if (key)
            st = q3_fail(Q3_ERR_FORMAT, "%s: the key \"%s\" occurs twice in one object", path, key);
    }
    if (st != Q3_OK) {
        q3_json_close(out);
        q3_free(text);
        return st;
    }
    out->owned = text;
    return Q3_OK;
}

void q3_json_close(q3_json *doc)
{
    cJSON_Delete(doc->root);
    q3_free(doc->name);
    q3_free(doc->owned);
    *doc = (q3_json){ 0 };
}

/* A scanner over text that cJSON has already accepted: it only has to skip. */
static const char *skip_space(const char *p, const char *end)
{
    while (p < end && isspace((unsigned char)*p))
        p++;
    return p;
}

static const char *skip_string(const char *p, const char *end)
{
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\')
            p++;
    return p < end ? p + 1 : end;
}

static const char *skip_value(const char *p, const char *end)
{
    int depth = 0;
    do {
        p = skip_space(p, end);
        if (p >= end)
            return end;
        if (*p == '"') {
            p = skip_string(p, end);
        } else {
            depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
            if (depth == 0 && *p != '}' && *p != ']') {
                while (p < end && !strchr(",]} \t\r\n", *p))
                    p++;
                continue;
            }
            p++;
        }
    } while (depth > 0);
    return p;
}

/* The key `key` (n bytes) of the object at p: the position of its opening quote, and of its value in
 * *value. */
static const char *find_key(const char *p, const char *end, const char *key, size_t n, const char **value)
{
    p = skip_space(p, end);
    if (p >= end || *p != '{')
        return NULL;
    p = skip_space(p + 1, end);
    while (p < end && *p == '"') {
        const char *name = p;
        p = skip_space(skip_string(p, end), end);
        if (p >= end || *p != ':')
            return NULL;
        *value = skip_space(p + 1, end);
        if (strncmp(name + 1, key, n) == 0 && name[1 + n] == '"')
            return name;
        p = skip_space(skip_value(*value, end), end);
        if (p < end && *p == ',')
            p = skip_space(p + 1, end);
    }
    return NULL;
}

bool q3_json_locate(const q3_json *doc, const char *path, int *line, int *column)
{
    const char *end = doc->text + doc->size, *value = doc->text, *at = NULL;
    while (*path) {
        size_t n = strcspn(path, ".");
        at = find_key(value, end, path, n, &value);
        if (!at)
            return false;
        path += n + (path[n] == '.');
    }
    position(doc, at ? (size_t)(at - doc->text) : 0, line, column);
    return true;
}

bool q3_json_digits(const q3_json *doc, const char *key, char *out, size_t out_bytes)
{
    const char *end = doc->text + doc->size, *value;
    if (!find_key(doc->text, end, key, strlen(key), &value))
        return false;
    size_t n = 0;
    while (value + n < end && strchr("+-.0123456789eE", value[n]))
        n++;
    if (n == 0 || n >= out_bytes)
        return false;
    memcpy(out, value, n);
    out[n] = 0;
    return true;
}

bool q3_utf8_valid(const char *text, size_t size, size_t *bad)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0; i < size;) {
        unsigned char c = s[i];
        size_t n = c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
        bool ok = n > 0 && i + n <= size;
        for (size_t k = 1; ok && k < n; k++)
            ok = (s[i + k] & 0xC0) == 0x80;
        if (ok && n > 2)
            ok = !((c == 0xE0 && s[i + 1] < 0xA0) || (c == 0xED && s[i + 1] > 0x9F) ||
                   (c == 0xF0 && s[i + 1] < 0x90) || (c == 0xF4 && s[i + 1] > 0x8F));
        if (!ok) {
            *bad = i;
            return false;
        }
        i += n;
    }
    return true;
}

static q3_status wrong_type(const q3_json *doc, const char *key, const char *want)
{
    int line, column;
    if (q3_json_locate(doc, key, &line, &column))
        return q3_fail(Q3_ERR_FORMAT, "%s:%d:%d: \"%s\" must be %s", doc->name, line, column, key, want);
    return q3_fail(Q3_ERR_FORMAT, "%s: \"%s\" must be %s", doc->name, key, want);
}

static const cJSON *present(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return item && !cJSON_IsNull(item) ? item : NULL;
}

q3_status q3_json_int(int64_t *out, const q3_json *doc, const cJSON *object, const char *key, int64_t def)
{
    const cJSON *item = present(object, key);
    *out = def;
    if (!item)
        return Q3_OK;
    if (!cJSON_IsNumber(item) || item->valuedouble != floor(item->valuedouble) ||
        fabs(item->valuedouble) > 9e15)
        return wrong_type(doc, key, "an integer");
    *out = (int64_t)item->valuedouble;
    return Q3_OK;
}

q3_status q3_json_float(double *out, const q3_json *doc, const cJSON *object, const char *key, double def)
{
    const cJSON *item = present(object, key);
    *out = def;
    if (!item)
        return Q3_OK;
    if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble))
        return wrong_type(doc, key, "a number");
    *out = item->valuedouble;
    return Q3_OK;
}

q3_status q3_json_bool(bool *out, const q3_json *doc, const cJSON *object, const char *key, bool def)
{
    const cJSON *item = present(object, key);
    *out = def;
    if (!item)
        return Q3_OK;
    if (!cJSON_IsBool(item))
        return wrong_type(doc, key, "true or false");
    *out = cJSON_IsTrue(item);
    return Q3_OK;
}

q3_status q3_json_string(const char **out, const q3_json *doc, const cJSON *object, const char *key,
                         const char *def)
{
    const cJSON *item = present(object, key);
    *out = def;
    if (!item)
        return Q3_OK;
    if (!cJSON_IsString(item))
        return wrong_type(doc, key, "a string");
    *out = item->valuestring;
    return Q3_OK;
}

static bool reserve(q3_text *t, size_t more)
{
    if (t->failed)
        return false;
    size_t need = t->size + more + 1;
    if (need > t->capacity) {
        size_t capacity = need < 256 ? 256 : need + need / 2;
        char *p = q3_realloc(t->data, capacity);
        if (!p) {
            t->failed = true;
            return false;
        }
        t->data = p;
        t->capacity = capacity;
    }
    return true;
}

void q3_text_append(q3_text *t, const char *bytes, size_t n)
{
    if (!reserve(t, n))
        return;
    memcpy(t->data + t->size, bytes, n);
    t->size += n;
    t->data[t->size] = 0;
}

void q3_text_printf(q3_text *t, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n >= 0 && reserve(t, (size_t)n)) {
        vsnprintf(t->data + t->size, (size_t)n + 1, fmt, again);
        t->size += (size_t)n;
    }
    va_end(again);
    va_end(ap);
}

void q3_text_json_string(q3_text *t, const char *text, size_t n)
{
    q3_text_append(t, "\"", 1);
    size_t plain = 0; // start of the bytes that need no escape
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        q3_text_append(t, text + plain, i - plain);
        plain = i + 1;
        // pairs: character, letter behind the backslash
        const char *named = strchr("\"\"\\\\\bb\ff\nn\rr\tt", c);
        if (c && named)
            q3_text_printf(t, "\\%c", named[1]);
        else
            q3_text_printf(t, "\\u%04x", c);
    }
    q3_text_append(t, text + plain, n - plain);
    q3_text_append(t, "\"", 1);
}

void q3_text_json_number(q3_text *t, double value)
{
    if (!isfinite(value)) {
        q3_text_append(t, "null", 4);
        return;
    }
    char s[40];
    int digits = 1;
    do
        snprintf(s, sizeof s, "%.*e", digits - 1, value);
    while (strtod(s, NULL) != value && ++digits <= 17);
    int exponent = atoi(strchr(s, 'e') + 1);
    if (exponent < -4 || exponent >= 16) { // Python's choice between the two notations
        char *e = strchr(s, 'e');
        q3_text_append(t, s, (size_t)(e - s));
        q3_text_printf(t, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    int decimals = digits - 1 - exponent;
    q3_text_printf(t, "%.*f", decimals > 0 ? decimals : 1, value);
}

void q3_text_free(q3_text *t)
{
    q3_free(t->data);
    *t = (q3_text){ 0 };
}
