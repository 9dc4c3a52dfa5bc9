#include "data/json_array.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <stdbool.h>
#include <string.h>

typedef struct scanner {
    const char *text, *name;
    size_t size, at;
    int64_t line;
    size_t counted; // the byte that `column` belongs to
    int64_t column;
    int depth;
    q3_json_sink *sink;
    void *arg;
} scanner;

/* The byte that comes next, -1 behind the last one. */
static int peek(const scanner *s)
{
    return s->at < s->size ? (unsigned char)s->text[s->at] : -1;
}

/* In characters, as core/json.c counts. Each byte is looked at once: MMSD2.0's files are one line of megabytes. */
static int64_t column(scanner *s)
{
    for (; s->counted < s->at; s->counted++)
        s->column += ((unsigned char)s->text[s->counted] & 0xC0) != 0x80;
    return s->column;
}

static q3_status fail(scanner *s, const char *what)
{
    return q3_fail(Q3_ERR_DATA, "%s:%lld:%lld: %s", s->name, (long long)s->line, (long long)column(s),
                   s->at < s->size ? what : "the JSON text ends too early; is the file complete?");
}

static void skip_space(scanner *s)
{
    for (int c; (c = peek(s)) == ' ' || c == '\t' || c == '\r' || c == '\n'; s->at++)
        if (c == '\n') {
            s->line++;
            s->counted = s->at + 1;
            s->column = 1;
        }
}

static q3_status escape(scanner *s)
{
    static const char letters[] = "\"\\/bfnrtu";
    s->at++;
    int c = peek(s);
    if (c <= 0 || !strchr(letters, c))
        return fail(s, "no such escape; a backslash itself is written \\\\");
    s->at++;
    for (int i = 0; c == 'u' && i < 4; i++, s->at++)
        if (!isxdigit(peek(s)))
            return fail(s, "\\u needs four hexadecimal digits");
    return Q3_OK;
}

static q3_status string(scanner *s)
{
    int c;
    s->at++;
    while ((c = peek(s)) != '"') {
        if (c < 0x20)
            return fail(s, "a line break or control character in a string; is a quote missing?");
        if (c == '\\')
            Q3_TRY(escape(s));
        else
            s->at++;
    }
    s->at++;
    return Q3_OK;
}

static bool digits(scanner *s)
{
    size_t from = s->at;
    while (isdigit(peek(s)))
        s->at++;
    return s->at > from;
}

static q3_status number(scanner *s)
{
    s->at += peek(s) == '-';
    bool zero = peek(s) == '0'; // no digit follows it
    s->at += zero;
    bool good = zero || digits(s);
    if (good && peek(s) == '.') {
        s->at++;
        good = digits(s);
    }
    if (good && (peek(s) == 'e' || peek(s) == 'E')) {
        s->at++;
        s->at += peek(s) == '+' || peek(s) == '-';
        good = digits(s);
    }
    return good ? Q3_OK : fail(s, "a number lacks a digit here");
}

static q3_status word(scanner *s)
{
    static const char *const words[] = { "true", "false", "null" };
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if (s->size - s->at >= n && memcmp(s->text + s->at, words[i], n) == 0) {
            s->at += n;
            return Q3_OK;
        }
    }
    return fail(s, "expected a value");
}

static q3_status container(scanner *s);

static q3_status value(scanner *s)
{
    int c = peek(s);
    if (c == '{' || c == '[')
        return container(s);
    if (c == '"')
        return string(s);
    return c == '-' || isdigit(c) ? number(s) : word(s);
}

static q3_status element(scanner *s)
{
    q3_json_element e = { .offset = s->at, .line = s->line, .column = column(s) };
    Q3_TRY(value(s));
    e.size = s->at - e.offset;
    return s->sink(s->arg, &e);
}

static q3_status key(scanner *s)
{
    if (peek(s) != '"')
        return fail(s, "expected a key in quotes");
    Q3_TRY(string(s));
    skip_space(s);
    if (peek(s) != ':')
        return fail(s, "expected : behind the key");
    s->at++;
    skip_space(s);
    return Q3_OK;
}

/* An object or an array; the outermost one hands out its elements. */
static q3_status container(scanner *s)
{
    bool object = peek(s) == '{', outermost = s->depth == 0;
    int close = object ? '}' : ']';
    if (s->depth++ > CJSON_NESTING_LIMIT) // of an element
        return fail(s, "values are nested too deeply");
    s->at++;
    skip_space(s);
    while (peek(s) != close) {
        if (object)
            Q3_TRY(key(s));
        Q3_TRY(outermost ? element(s) : value(s));
        skip_space(s);
        if (peek(s) == close)
            break;
        if (peek(s) != ',')
            return fail(s, object ? "expected , or }" : "expected , or ]");
        s->at++;
        skip_space(s);
        if (peek(s) == close)
            return fail(s, "nothing stands behind the comma before");
    }
    s->at++;
    s->depth--;
    return Q3_OK;
}

q3_status q3_json_array_scan(const char *text, size_t size, const char *name, q3_json_sink *sink, void *arg)
{
    scanner s = {
        .text = text, .name = name, .size = size, .line = 1, .column = 1, .sink = sink, .arg = arg
    };
    s.at = s.counted = size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    skip_space(&s);
    if (peek(&s) != '[')
        return fail(&s,
                    "expected [, with which an array begins; a file of one object a line is named .jsonl");
    Q3_TRY(container(&s));
    skip_space(&s);
    return s.at < s.size ? fail(&s, "unexpected text behind the array") : Q3_OK;
}
