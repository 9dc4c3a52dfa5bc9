#include "infer/constraint_regex.h"

#include <stdlib.h>
#include <string.h>

#include "collate/unicode.h"

enum {
    MAX_DEPTH = 100,    /* of brackets; bounds recursion */
    MAX_REPEAT = 65535, /* in {m,n} */
    MAX_RANGES = 128,   /* of one class in brackets */
};

typedef struct parser {
    q3_grammar *g;
    const char *text;
    size_t size, at;
    int depth;
    const q3_regex_options *options;
} parser;

static q3_status alternatives(q3_fragment *out, parser *p);

static q3_status bad_at(size_t at, const char *what)
{
    return q3_fail(Q3_ERR_USAGE, "the pattern is wrong at byte %zu: %s", at + 1, what);
}

static q3_status bad(const parser *p, const char *what)
{
    return bad_at(p->at, what);
}

static bool here(const parser *p, char c)
{
    return p->at < p->size && p->text[p->at] == c;
}

static bool take(parser *p, char c)
{
    bool yes = here(p, c);
    p->at += yes;
    return yes;
}

/* ---- characters ---- */

/* Ranges of a class; more than fit are an error. */
typedef struct ranges {
    q3_char_range r[MAX_RANGES + 1];
    size_t n;
} ranges;

static bool add_range(ranges *out, uint32_t lo, uint32_t hi)
{
    if (out->n == MAX_RANGES)
        return false;
    out->r[out->n++] = (q3_char_range){ lo, hi };
    return true;
}

/* \d \w \s and their opposites; false for any other letter. */
static bool named_class(ranges *out, char name)
{
    static const q3_char_range digits[] = { { '0', '9' } },
                               words[] = { { '0', '9' }, { 'A', 'Z' }, { '_', '_' }, { 'a', 'z' } },
                               spaces[] = { { '\t', '\r' }, { ' ', ' ' } };
    char lower = name | 0x20;
    const q3_char_range *of = lower == 'd' ? digits : lower == 'w' ? words : lower == 's' ? spaces : NULL;
    size_t n = lower == 'd' ? 1 : lower == 'w' ? 4 : 2;
    q3_char_range inverse[5];
    if (!of)
        return false;
    if (name != lower) {
        n = q3_char_ranges_invert(inverse, of, n);
        of = inverse;
    }
    for (size_t i = 0; i < n; i++)
        if (!add_range(out, of[i].lo, of[i].hi))
            return false;
    return true;
}

static q3_status hex(uint32_t *out, parser *p, int digits)
{
    *out = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        char c = p->at < p->size ? p->text[p->at] : 0, lower = c | 0x20;
        if (!(c >= '0' && c <= '9') && !(lower >= 'a' && lower <= 'f'))
            return bad(p, "a hexadecimal digit is missing");
        *out = *out * 16 + (uint32_t)(c <= '9' ? c - '0' : lower - 'a' + 10);
    }
    if (*out >= 0xD800 && *out <= 0xDFFF)
        return bad(p, "surrogates are no characters; write the character itself");
    return Q3_OK;
}

/* The character behind a backslash. */
static q3_status escaped(uint32_t *out, parser *p)
{
    static const char letters[] = "n\nr\rt\tf\fv\v", control[] = "\0";
    if (p->at == p->size)
        return bad(p, "nothing follows the backslash");
    char c = p->text[p->at++];
    if (c == 'x' || c == 'u')
        return hex(out, p, c == 'x' ? 2 : 4);
    for (size_t i = 0; i < sizeof letters - 1; i += 2)
        if (letters[i] == c) {
            *out = (uint32_t)letters[i + 1];
            return Q3_OK;
        }
    if (c == '0' && !(p->at < p->size && p->text[p->at] >= '0' && p->text[p->at] <= '9')) {
        *out = (uint32_t)control[0];
        return Q3_OK;
    }
    p->at--;
    if (c >= '0' && c <= '9')
        return bad(p, "back references are not supported");
    if (c == 'b' || c == 'B' || c == 'A' || c == 'Z' || c == 'z' || c == 'G')
        return bad(p, "boundaries are not supported: the whole text matches");
    if (((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || (unsigned char)c >= 0x80)
        return bad(p, "this escape is not supported");
    p->at++;
    *out = (unsigned char)c;
    return Q3_OK;
}

/* One character of a class, or a class by name, with *single false. */
static q3_status class_member(uint32_t *c, bool *single, ranges *out, parser *p)
{
    *single = true;
    if (p->at == p->size)
        return bad(p, "the class is not closed: ] is missing");
    if (!take(p, '\\')) {
        *c = q3_utf8_next(p->text, &p->at);
        return Q3_OK;
    }
    if (p->at < p->size && strchr("dwsDWS", p->text[p->at])) {
        *single = false;
        return named_class(out, p->text[p->at++]) ? Q3_OK : bad(p, "the class is too long");
    }
    if (take(p, 'b')) {
        *c = '\b'; // only within brackets
        return Q3_OK;
    }
    return escaped(c, p);
}

/* a, a-z, \d; behind the opening bracket and its ^. */
static q3_status class_item(ranges *out, parser *p)
{
    uint32_t lo, hi;
    bool single;
    size_t begin = p->at;
    Q3_TRY(class_member(&lo, &single, out, p));
    if (!single)
        return Q3_OK;
    hi = lo;
    if (here(p, '-') && p->at + 1 < p->size && p->text[p->at + 1] != ']') {
        p->at++;
        Q3_TRY(class_member(&hi, &single, out, p));
        if (!single || hi < lo)
            return bad_at(begin, "the range runs backwards");
    }
    return add_range(out, lo, hi) ? Q3_OK : bad_at(begin, "the class is too long");
}

static q3_fragment chars(parser *p, ranges *r, bool inverse)
{
    q3_char_range out[MAX_RANGES + 2];
    size_t n = q3_char_ranges_sort(r->r, r->n);
    if (inverse) {
        n = q3_char_ranges_invert(out, r->r, n);
        return q3_fragment_chars(p->g, out, n, p->options->in_json);
    }
    return q3_fragment_chars(p->g, r->r, n, p->options->in_json);
}

/* Behind the opening bracket. */
static q3_status class_in_brackets(q3_fragment *out, parser *p)
{
    ranges r = { .n = 0 };
    bool inverse = take(p, '^');
    if (here(p, ']'))
        return bad(p, "the class is empty; write \\] for the bracket itself");
    while (!take(p, ']'))
        Q3_TRY(class_item(&r, p));
    *out = chars(p, &r, inverse);
    return Q3_OK;
}

static q3_fragment any_char(parser *p, bool line_feed)
{
    ranges r = { .n = 0 };
    if (!line_feed)
        add_range(&r, '\n', '\n');
    return chars(p, &r, true);
}

/* ---- structure ---- */

/* Behind the opening parenthesis. */
static q3_status group(q3_fragment *out, parser *p)
{
    size_t begin = p->at - 1;
    if (take(p, '?') && !take(p, ':'))
        return bad(p, "of groups with ? only (?:...) is supported");
    if (++p->depth > MAX_DEPTH)
        return bad(p, "parentheses are nested too deeply");
    Q3_TRY(alternatives(out, p));
    p->depth--;
    return take(p, ')') ? Q3_OK : bad_at(begin, "the parenthesis is not closed");
}

static q3_status literal(q3_fragment *out, parser *p, uint32_t c)
{
    const q3_char_range one = { c, c };
    *out = q3_fragment_chars(p->g, &one, 1, p->options->in_json);
    return Q3_OK;
}

static q3_status atom(q3_fragment *out, parser *p)
{
    uint32_t c;
    if (take(p, '('))
        return group(out, p);
    if (take(p, '['))
        return class_in_brackets(out, p);
    if (take(p, '.')) {
        *out = any_char(p, false);
        return Q3_OK;
    }
    if (here(p, '*') || here(p, '+') || here(p, '?'))
        return bad(p, "there is nothing to repeat");
    if (here(p, '{') || here(p, '}') || here(p, ']'))
        return bad(p, "write a backslash in front of a brace or bracket that stands for itself");
    if (here(p, '^') || here(p, '$'))
        return bad(p, p->options->search ? "^ and $ may only begin and end the pattern"
                                         : "anchors are not supported: the whole text matches");
    if (!take(p, '\\'))
        return literal(out, p, q3_utf8_next(p->text, &p->at));
    ranges r = { .n = 0 };
    if (p->at < p->size && named_class(&r, p->text[p->at])) {
        p->at++;
        *out = chars(p, &r, false);
        return Q3_OK;
    }
    Q3_TRY(escaped(&c, p));
    return literal(out, p, c);
}

static q3_status number(int *out, parser *p)
{
    size_t begin = p->at;
    for (*out = 0; p->at < p->size && p->text[p->at] >= '0' && p->text[p->at] <= '9'; p->at++) {
        *out = *out * 10 + p->text[p->at] - '0';
        if (*out > MAX_REPEAT)
            return bad_at(begin, "more than 65535 repetitions");
    }
    return p->at > begin ? Q3_OK : bad(p, "a number is missing: {m}, {m,} or {m,n}");
}

/* How often: at least m, at most n, -1: without end. Once when nothing says so. */
static q3_status quantifier(int *m, int *n, parser *p)
{
    size_t begin = p->at;
    *m = *n = 1;
    if (take(p, '*')) {
        *m = 0;
        *n = -1;
    } else if (take(p, '+')) {
        *n = -1;
    } else if (take(p, '?')) {
        *m = 0;
    } else if (take(p, '{')) {
        Q3_TRY(number(m, p));
        *n = *m;
        if (take(p, ',')) {
            *n = -1;
            if (!here(p, '}'))
                Q3_TRY(number(n, p));
        }
        if (!take(p, '}'))
            return bad(p, "the brace is not closed");
        if (*n >= 0 && *n < *m)
            return bad_at(begin, "the range runs backwards");
    } else {
        return Q3_OK;
    }
    take(p, '?'); // as few as possible: the same texts
    if (here(p, '*') || here(p, '+') || here(p, '?') || here(p, '{'))
        return bad(p, "repetitions cannot be repeated; use parentheses");
    return Q3_OK;
}

/* The atom at `begin` once more. */
static q3_status again(q3_fragment *out, parser *p, size_t begin)
{
    size_t end = p->at;
    p->at = begin;
    Q3_TRY(p->g->status);
    Q3_TRY(atom(out, p));
    p->at = end;
    return Q3_OK;
}

/* m times, then up to n: a(a(a)?)?, or a* without end. */
static q3_status repeat(q3_fragment *out, parser *p, size_t begin, int m, int n)
{
    q3_grammar *g = p->g;
    q3_fragment f = q3_fragment_empty(g), a, tail = q3_fragment_empty(g);
    for (int i = 0; i < m; i++) {
        Q3_TRY(again(&a, p, begin));
        f = q3_fragment_then(g, f, a);
    }
    if (n < 0) {
        Q3_TRY(again(&a, p, begin));
        tail = q3_fragment_star(g, a);
    }
    for (int i = m; i < n; i++) {
        Q3_TRY(again(&a, p, begin));
        tail = q3_fragment_maybe(g, q3_fragment_then(g, a, tail));
    }
    *out = q3_fragment_then(g, f, tail);
    return Q3_OK;
}

static bool at_end(const parser *p)
{
    return p->at == p->size || here(p, '|') || here(p, ')');
}

static q3_status sequence(q3_fragment *out, parser *p)
{
    bool outer = p->options->search && p->depth == 0, open = outer;
    q3_fragment f = q3_fragment_empty(p->g), a;
    if (outer && !take(p, '^'))
        f = q3_fragment_star(p->g, any_char(p, true));
    while (!at_end(p)) {
        if (outer && here(p, '$')) {
            p->at++;
            open = false;
            if (!at_end(p))
                return bad_at(p->at - 1, "^ and $ may only begin and end the pattern");
            break;
        }
        size_t begin = p->at;
        int m, n;
        Q3_TRY(atom(&a, p));
        Q3_TRY(quantifier(&m, &n, p));
        if (m != 1 || n != 1)
            Q3_TRY(repeat(&a, p, begin, m, n));
        f = q3_fragment_then(p->g, f, a);
    }
    if (open)
        f = q3_fragment_then(p->g, f, q3_fragment_star(p->g, any_char(p, true)));
    *out = f;
    return p->g->status;
}

static q3_status alternatives(q3_fragment *out, parser *p)
{
    Q3_TRY(sequence(out, p));
    while (take(p, '|')) {
        q3_fragment other;
        Q3_TRY(sequence(&other, p));
        *out = q3_fragment_or(p->g, other, *out);
    }
    return Q3_OK;
}

q3_status q3_regex_compile(q3_fragment *out, q3_grammar *g, const char *pattern,
                           const q3_regex_options *options)
{
    parser p = { .g = g, .text = pattern, .size = strlen(pattern), .options = options };
    size_t at;
    *out = (q3_fragment){ 0, 0 };
    if (!q3_utf8_valid(pattern, p.size, &at))
        return bad_at(at, "it is not valid UTF-8");
    Q3_TRY(alternatives(out, &p));
    if (here(&p, ')'))
        return bad(&p, "this parenthesis was never opened");
    return g->status;
}
