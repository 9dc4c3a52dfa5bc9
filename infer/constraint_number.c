#include "infer/constraint_number.h"

#include <stdio.h>
#include <string.h>

static q3_fragment digit(q3_grammar *g, int lo, int hi)
{
    const q3_char_range r = { (uint32_t)('0' + lo), (uint32_t)('0' + hi) };
    return q3_fragment_chars(g, &r, 1, false);
}

static q3_fragment digits(q3_grammar *g, size_t n)
{
    q3_fragment f = q3_fragment_empty(g);
    for (size_t i = 0; i < n; i++)
        f = q3_fragment_then(g, f, digit(g, 0, 9));
    return f;
}

/* As many digits as `lo` and `hi` have, between them; NULL: no bound on that side. */
static q3_fragment between(q3_grammar *g, const char *lo, const char *hi, size_t n)
{
    if (n == 0 || (!lo && !hi))
        return digits(g, n);
    int a = lo ? *lo - '0' : 0, b = hi ? *hi - '0' : 9;
    const char *lo_rest = lo ? lo + 1 : NULL, *hi_rest = hi ? hi + 1 : NULL;
    if (a == b)
        return q3_fragment_then(g, digit(g, a, a), between(g, lo_rest, hi_rest, n - 1));
    int from = lo ? a + 1 : a, to = hi ? b - 1 : b; // first digits that leave the others free
    q3_fragment f = { -1, -1 };
    if (from <= to)
        f = q3_fragment_then(g, digit(g, from, to), digits(g, n - 1));
    if (lo) {
        q3_fragment edge = q3_fragment_then(g, digit(g, a, a), between(g, lo_rest, NULL, n - 1));
        f = f.first < 0 ? edge : q3_fragment_or(g, edge, f);
    }
    if (hi) {
        q3_fragment edge = q3_fragment_then(g, digit(g, b, b), between(g, NULL, hi_rest, n - 1));
        f = f.first < 0 ? edge : q3_fragment_or(g, edge, f);
    }
    return f;
}

/* 0 <= least <= most, number of digits by number of digits. */
static q3_fragment natural(q3_grammar *g, int64_t least, int64_t most)
{
    q3_fragment all = { -1, -1 };
    int64_t end = 10; // of the numbers with as many digits
    for (size_t n = 1; n <= 15; n++, end *= 10) {
        int64_t from = n == 1 ? 0 : end / 10, to = end - 1;
        char lo[24], hi[24];
        from = from > least ? from : least;
        to = to < most ? to : most;
        if (from > to)
            continue;
        snprintf(lo, sizeof lo, "%lld", (long long)from);
        snprintf(hi, sizeof hi, "%lld", (long long)to);
        q3_fragment f = between(g, lo, hi, strlen(lo));
        all = all.first < 0 ? f : q3_fragment_or(g, f, all);
    }
    return all;
}

q3_fragment q3_fragment_integers(q3_grammar *g, int64_t least, int64_t most)
{
    if (least >= 0)
        return natural(g, least, most);
    q3_fragment minus = q3_fragment_text(g, "-", 1);
    q3_fragment f = q3_fragment_then(g, minus, natural(g, most < 0 ? -most : 1, -least));
    return most < 0 ? f : q3_fragment_or(g, f, natural(g, 0, most));
}
