#include "cli/token_lines.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct cursor {
    const q3_token_line *line;
    const char *at, *end;
} cursor;

static q3_status Q3_PRINTF(3, 4) fail_at(const cursor *c, const char *at, const char *fmt, ...)
{
    char what[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    int64_t column = 1;
    for (const char *p = c->line->text; p < at; p++)
        column += ((unsigned char)*p & 0xC0) != 0x80;
    return q3_fail(Q3_ERR_DATA, "%s:%" PRId64 ":%" PRId64 ": %s", c->line->name, c->line->number, column,
                   what);
}

static void skip_space(cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\r'))
        c->at++;
}

/* Sets the cursor to the line's first character, which must be `first`. */
static q3_status begin(cursor *c, const q3_token_line *line, char first, const char *what)
{
    size_t bad;
    *c = (cursor){ line, line->text, line->text + line->size };
    if (!q3_utf8_valid(line->text, line->size, &bad))
        return fail_at(c, line->text + bad, "not valid UTF-8");
    skip_space(c);
    if (c->at == c->end)
        return q3_fail(Q3_ERR_DATA, "%s:%" PRId64 ": the line is empty; %s is needed", line->name,
                       line->number, what);
    if (*c->at != first)
        return fail_at(c, c->at, "%s is needed", what);
    c->at++;
    return Q3_OK;
}

static q3_status finish(cursor *c)
{
    skip_space(c);
    return c->at == c->end ? Q3_OK : fail_at(c, c->at, "unexpected text behind the value");
}

/* ---- strings ---- */

/* The code unit behind "\u"; -1 when there are no four hexadecimal digits. */
static int code_unit(cursor *c)
{
    int unit = 0;
    if (c->end - c->at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char d = c->at[i];
        int digit = d >= '0' && d <= '9'                 ? d - '0'
                    : (d | 32) >= 'a' && (d | 32) <= 'f' ? (d | 32) - 'a' + 10
                                                         : -1;
        if (digit < 0)
            return -1;
        unit = unit * 16 + digit;
    }
    c->at += 4;
    return unit;
}

static void append_character(q3_text *out, int code)
{
    char s[4];
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = { 0, 0, 0xC0, 0xE0, 0xF0 };
    for (size_t i = n - 1; i > 0; i--, code >>= 6)
        s[i] = (char)(0x80 | (code & 0x3F));
    s[0] = (char)(lead[n] | code);
    q3_text_append(out, s, n);
}

/* "\uXXXX", or two of them that are one character beyond the first 65536; the cursor is behind the u. */
static q3_status unicode_escape(q3_text *out, cursor *c)
{
    const char *start = c->at - 2;
    int code = code_unit(c);
    if (code < 0)
        return fail_at(c, start, "\\u needs four hexadecimal digits");
    if (code >= 0xD800 && code < 0xDC00 && c->end - c->at >= 2 && c->at[0] == '\\' && c->at[1] == 'u') {
        c->at += 2;
        int low = code_unit(c);
        if (low >= 0xDC00 && low < 0xE000)
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (code >= 0xD800 && code < 0xE000)
        return fail_at(c, start, "half of a surrogate pair, which is no character");
    append_character(out, code);
    return Q3_OK;
}

/* The cursor is behind the backslash. */
static q3_status escape(q3_text *out, cursor *c)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    char letter = c->at < c->end ? *c->at++ : 0;
    if (letter == 'u')
        return unicode_escape(out, c);
    const char *known = letter ? strchr(letters, letter) : NULL;
    if (!known)
        return fail_at(c, c->at - (letter ? 2 : 1), "no escape of JSON");
    q3_text_append(out, &meanings[known - letters], 1);
    return Q3_OK;
}

q3_status q3_token_line_string(q3_text *out, const q3_token_line *line)
{
    cursor c;
    Q3_TRY(begin(&c, line, '"', "a JSON string"));
    for (;;) {
        const char *plain = c.at;
        while (c.at < c.end && (unsigned char)*c.at >= 0x20 && *c.at != '"' && *c.at != '\\')
            c.at++;
        q3_text_append(out, plain, (size_t)(c.at - plain));
        if (out->failed)
            return Q3_ERR_MEMORY;
        if (c.at == c.end)
            return fail_at(&c, c.at, "the string is not closed");
        char stop = *c.at++;
        if (stop == '"')
            return finish(&c);
        if (stop != '\\')
            return fail_at(&c, c.at - 1, "control characters must be escaped");
        Q3_TRY(escape(out, &c));
    }
}

/* ---- ids ---- */

static q3_status token_id(int32_t *id, cursor *c, int64_t n_vocab)
{
    const char *start = c->at;
    int64_t value = 0;
    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++)
        value = value < INT32_MAX ? value * 10 + (*c->at - '0') : value;
    bool number = c->at > start && (*start != '0' || c->at == start + 1);
    if (!number || (c->at < c->end && !strchr(" \t\r,]", *c->at)))
        return fail_at(c, start, "a token id is an integer that is not negative");
    if (value >= n_vocab)
        return fail_at(c, start, "token id %.*s is out of range; the vocabulary has %" PRId64 " ids",
                       c->at - start < 20 ? (int)(c->at - start) : 20, start, n_vocab);
    *id = (int32_t)value;
    return Q3_OK;
}

q3_status q3_token_line_ids(q3_ids *out, const q3_token_line *line, int64_t n_vocab)
{
    cursor c;
    Q3_TRY(begin(&c, line, '[', "a JSON array of token ids"));
    skip_space(&c);
    if (c.at < c.end && *c.at == ']') {
        c.at++;
        return finish(&c);
    }
    for (;;) {
        int32_t id;
        skip_space(&c);
        Q3_TRY(token_id(&id, &c, n_vocab));
        Q3_TRY(q3_ids_append(out, &id, 1));
        skip_space(&c);
        char stop = c.at < c.end ? *c.at : 0;
        if (stop != ',' && stop != ']')
            return fail_at(&c, c.at, c.at < c.end ? "expected ',' or ']'" : "the array is not closed");
        c.at++;
        if (stop == ']')
            return finish(&c);
    }
}
