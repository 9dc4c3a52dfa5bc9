#include "infer/constraint_grammar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void q3_grammar_free(q3_grammar *g)
{
    q3_free(g->states);
    q3_free(g->sets);
    q3_free(g->rules);
    *g = (q3_grammar){ 0 };
}

static void fail(q3_grammar *g, q3_status st)
{
    if (g->status == Q3_OK)
        g->status = st;
}

/* Room for one more of `bytes` bytes each; false when there is none. */
static bool grow(q3_grammar *g, void **array, int32_t n, int32_t *capacity, size_t bytes)
{
    if (g->status != Q3_OK)
        return false;
    if (n < *capacity)
        return true;
    int32_t more = *capacity ? 2 * *capacity : 64;
    void *p = q3_realloc(*array, (size_t)more * bytes);
    if (!p) {
        fail(g, Q3_ERR_MEMORY);
        return false;
    }
    *array = p;
    *capacity = more;
    return true;
}

/* The number of a new state; 0 when something went wrong. */
static int32_t add(q3_grammar *g, q3_state_kind kind, int32_t to, int32_t other)
{
    if (g->status == Q3_OK && g->n_states == Q3_GRAMMAR_STATES)
        fail(g, q3_fail(Q3_ERR_USAGE, "it takes more than %d states; lower its repetitions and lengths",
                        Q3_GRAMMAR_STATES));
    if (!grow(g, (void **)&g->states, g->n_states, &g->states_capacity, sizeof *g->states))
        return 0;
    g->states[g->n_states] = (q3_state){ .kind = (uint8_t)kind, .to = to, .other = other };
    return g->n_states++;
}

static void lead(q3_grammar *g, int32_t from, int32_t to)
{
    if (g->status == Q3_OK)
        g->states[from].to = to;
}

static uint16_t set_of(q3_grammar *g, const q3_byte_set *set)
{
    for (int32_t i = 0; i < g->n_sets; i++)
        if (memcmp(&g->sets[i], set, sizeof *set) == 0)
            return (uint16_t)i;
    if (g->status == Q3_OK && g->n_sets == UINT16_MAX)
        fail(g, q3_fail(Q3_ERR_USAGE, "it has too many classes of characters"));
    if (!grow(g, (void **)&g->sets, g->n_sets, &g->sets_capacity, sizeof *g->sets))
        return 0;
    g->sets[g->n_sets] = *set;
    return (uint16_t)g->n_sets++;
}

int32_t q3_grammar_rule(q3_grammar *g)
{
    if (g->status == Q3_OK && g->n_rules == Q3_GRAMMAR_RULES)
        fail(g, q3_fail(Q3_ERR_USAGE, "it takes more than %d rules", Q3_GRAMMAR_RULES));
    if (!grow(g, (void **)&g->rules, g->n_rules, &g->rules_capacity, sizeof *g->rules))
        return 0;
    g->rules[g->n_rules] = -1;
    return g->n_rules++;
}

void q3_grammar_define(q3_grammar *g, int32_t rule, q3_fragment is)
{
    lead(g, is.last, add(g, Q3_STATE_END, -1, -1));
    if (g->status == Q3_OK)
        g->rules[rule] = is.first;
}

q3_fragment q3_fragment_empty(q3_grammar *g)
{
    int32_t s = add(g, Q3_STATE_NEXT, -1, -1);
    return (q3_fragment){ s, s };
}

static q3_fragment one_of(q3_grammar *g, const q3_byte_set *set)
{
    int32_t s = add(g, Q3_STATE_BYTES, -1, -1), last = add(g, Q3_STATE_NEXT, -1, -1);
    uint16_t number = set_of(g, set);
    lead(g, s, last);
    if (g->status == Q3_OK)
        g->states[s].set = number;
    return (q3_fragment){ s, last };
}

static void include(q3_byte_set *set, unsigned lo, unsigned hi)
{
    for (unsigned b = lo; b <= hi; b++)
        set->bits[b / 8] |= (uint8_t)(1u << b % 8);
}

static q3_fragment bytes_between(q3_grammar *g, unsigned lo, unsigned hi)
{
    q3_byte_set set = { { 0 } };
    include(&set, lo, hi);
    return one_of(g, &set);
}

q3_fragment q3_fragment_text(q3_grammar *g, const char *bytes, size_t n)
{
    q3_fragment f = q3_fragment_empty(g);
    for (size_t i = 0; i < n && g->status == Q3_OK; i++)
        f = q3_fragment_then(g, f, bytes_between(g, (uint8_t)bytes[i], (uint8_t)bytes[i]));
    return f;
}

q3_fragment q3_fragment_then(q3_grammar *g, q3_fragment a, q3_fragment b)
{
    lead(g, a.last, b.first);
    return (q3_fragment){ a.first, b.last };
}

q3_fragment q3_fragment_or(q3_grammar *g, q3_fragment a, q3_fragment b)
{
    int32_t first = add(g, Q3_STATE_SPLIT, a.first, b.first);
    lead(g, a.last, b.last);
    return (q3_fragment){ first, b.last };
}

q3_fragment q3_fragment_maybe(q3_grammar *g, q3_fragment a)
{
    return (q3_fragment){ add(g, Q3_STATE_SPLIT, a.first, a.last), a.last };
}

q3_fragment q3_fragment_star(q3_grammar *g, q3_fragment a)
{
    int32_t last = add(g, Q3_STATE_NEXT, -1, -1), first = add(g, Q3_STATE_SPLIT, a.first, last);
    lead(g, a.last, first);
    return (q3_fragment){ first, last };
}

q3_fragment q3_fragment_call(q3_grammar *g, int32_t rule)
{
    int32_t last = add(g, Q3_STATE_NEXT, -1, -1);
    return (q3_fragment){ add(g, Q3_STATE_CALL, last, rule), last };
}

/* ---- characters ---- */

static int by_lo(const void *a, const void *b)
{
    uint32_t x = ((const q3_char_range *)a)->lo, y = ((const q3_char_range *)b)->lo;
    return (x > y) - (x < y);
}

size_t q3_char_ranges_sort(q3_char_range *ranges, size_t n)
{
    size_t kept = 0;
    if (n)
        qsort(ranges, n, sizeof *ranges, by_lo);
    for (size_t i = 0; i < n; i++) {
        if (kept && ranges[i].lo <= ranges[kept - 1].hi + 1)
            ranges[kept - 1].hi = ranges[i].hi > ranges[kept - 1].hi ? ranges[i].hi : ranges[kept - 1].hi;
        else
            ranges[kept++] = ranges[i];
    }
    return kept;
}

size_t q3_char_ranges_invert(q3_char_range *out, const q3_char_range *ranges, size_t n)
{
    uint32_t from = 0;
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (ranges[i].lo > from)
            out[kept++] = (q3_char_range){ from, ranges[i].lo - 1 };
        from = ranges[i].hi + 1;
    }
    if (from <= 0x10FFFF)
        out[kept++] = (q3_char_range){ from, 0x10FFFF };
    return kept;
}

/* Alternatives that grow one by one. */
typedef struct choice {
    q3_grammar *g;
    q3_fragment f;
    bool any;
} choice;

static void offer(choice *c, q3_fragment f)
{
    c->f = c->any ? q3_fragment_or(c->g, f, c->f) : f;
    c->any = true;
}

static int utf8(uint8_t out[4], uint32_t c)
{
    int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (uint8_t)(0x80 | (c & 0x3F));
    out[0] = (uint8_t)(n == 1 ? c : (0xF00u >> n & 0xF0) | c);
    return n;
}

/* Characters of one length in UTF-8: cut until every byte runs from that of lo to that of hi on its own, as RE2 does
 * (Cox, "Regular Expression Matching in the Wild", 2010). */
static void offer_same_length(choice *c, uint32_t lo, uint32_t hi)
{
    uint8_t a[4], b[4];
    int n = utf8(a, lo);
    utf8(b, hi);
    for (int i = 1; i < n; i++) {
        uint32_t low = (1u << 6 * i) - 1;
        if ((lo & ~low) == (hi & ~low))
            continue;
        if (lo & low) {
            offer_same_length(c, lo, lo | low);
            offer_same_length(c, (lo | low) + 1, hi);
            return;
        }
        if ((hi & low) != low) {
            offer_same_length(c, lo, (hi & ~low) - 1);
            offer_same_length(c, hi & ~low, hi);
            return;
        }
    }
    q3_fragment f = bytes_between(c->g, a[0], b[0]);
    for (int i = 1; i < n; i++)
        f = q3_fragment_then(c->g, f, bytes_between(c->g, a[i], b[i]));
    offer(c, f);
}

/* The characters of a range that are not ASCII; surrogates are no characters. */
static void offer_wide(choice *c, q3_char_range r)
{
    static const q3_char_range parts[] = {
        { 0x80, 0x7FF }, { 0x800, 0xD7FF }, { 0xE000, 0xFFFF }, { 0x10000, 0x10FFFF }
    };
    for (int i = 0; i < 4; i++) {
        uint32_t lo = r.lo > parts[i].lo ? r.lo : parts[i].lo, hi = r.hi < parts[i].hi ? r.hi : parts[i].hi;
        if (lo <= hi)
            offer_same_length(c, lo, hi);
    }
}

/* A character that JSON strings cannot hold as it is. */
static void offer_escaped(choice *c, uint32_t ch)
{
    static const char named[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    char text[8];
    int n = snprintf(text, sizeof text, "\\u%04x", (unsigned)ch);
    for (size_t i = 0; i < sizeof named - 1; i += 2)
        if ((uint32_t)named[i] == ch)
            n = snprintf(text, sizeof text, "\\%c", named[i + 1]);
    offer(c, q3_fragment_text(c->g, text, (size_t)n));
}

q3_fragment q3_fragment_chars(q3_grammar *g, const q3_char_range *ranges, size_t n, bool in_json)
{
    q3_byte_set ascii = { { 0 } };
    choice c = { .g = g };
    bool some = false;
    for (size_t i = 0; i < n && g->status == Q3_OK; i++) {
        for (uint32_t ch = ranges[i].lo; ch <= ranges[i].hi && ch < 0x80; ch++) {
            if (in_json && (ch < 0x20 || ch == '"' || ch == '\\')) {
                if (ch)
                    offer_escaped(&c, ch);
                continue;
            }
            include(&ascii, ch, ch);
            some = true;
        }
        offer_wide(&c, ranges[i]);
    }
    if (some || !c.any) // nothing at all: a set without bytes
        offer(&c, one_of(g, &ascii));
    return c.f;
}

/* ---- finishing ---- */

/* States lead past those that only lead on. A ring of these alone cannot be built: stars have a SPLIT. */
static void shorten(q3_grammar *g)
{
    for (int32_t i = g->n_states - 1; i >= 0; i--) {
        q3_state *s = &g->states[i];
        while (s->to >= 0 && g->states[s->to].kind == Q3_STATE_NEXT && g->states[s->to].to >= 0)
            s->to = g->states[s->to].to;
        while (s->kind == Q3_STATE_SPLIT && g->states[s->other].kind == Q3_STATE_NEXT &&
               g->states[s->other].to >= 0)
            s->other = g->states[s->other].to;
    }
}

static bool is_live(const q3_grammar *g, const q3_state *s)
{
    if (s->kind == Q3_STATE_END)
        return true;
    bool to = s->to >= 0 && g->states[s->to].live;
    if (s->kind == Q3_STATE_SPLIT)
        return to || g->states[s->other].live;
    if (s->kind == Q3_STATE_CALL)
        return to && g->rules[s->other] >= 0 && g->states[g->rules[s->other]].live;
    static const q3_byte_set none;
    return to && (s->kind != Q3_STATE_BYTES || memcmp(&g->sets[s->set], &none, sizeof none) != 0);
}

/* States lead mostly to later ones, so that going backwards few rounds are needed. */
static void find_live(q3_grammar *g)
{
    for (bool more = true; more;) {
        more = false;
        for (int32_t i = g->n_states - 1; i >= 0; i--)
            if (!g->states[i].live && is_live(g, &g->states[i]))
                more = g->states[i].live = true;
    }
}

static void find_classes(q3_grammar *g)
{
    g->n_classes = 1;
    memset(g->class_of, 0, sizeof g->class_of);
    for (int32_t i = 0; i < g->n_sets; i++) {
        int split[256]; // class of those of an old class that are in the set; 0: not seen yet
        int size[256] = { 0 }, inside[256] = { 0 };
        memset(split, 0, sizeof split);
        for (int b = 0; b < 256; b++) {
            size[g->class_of[b]]++;
            inside[g->class_of[b]] += g->sets[i].bits[b / 8] >> (b % 8) & 1;
        }
        for (int b = 0; b < 256; b++) {
            int c = g->class_of[b];
            if (!(g->sets[i].bits[b / 8] >> (b % 8) & 1) || inside[c] == size[c])
                continue;
            if (!split[c])
                split[c] = g->n_classes++;
            g->class_of[b] = (uint8_t)split[c];
        }
    }
    for (int b = 255; b >= 0; b--)
        g->example[g->class_of[b]] = (uint8_t)b;
}

/* What is walked before a byte comes. */
typedef struct walk {
    int32_t *stack, *seen; /* [n_states]; seen: the rule whose walk was here last */
    bool *settled;         /* [n_rules]: cannot come back to itself */
} walk;

/* Whether all rules that this one calls before any byte are settled. Rules that may be empty are not asked for: what
 * follows a call counts as coming first too. */
static bool leads_to_settled(const q3_grammar *g, int32_t rule, walk *w)
{
    int32_t n = 0;
    w->stack[n++] = g->rules[rule];
    w->seen[g->rules[rule]] = rule;
    while (n) {
        const q3_state *s = &g->states[w->stack[--n]];
        if (s->kind == Q3_STATE_CALL && !w->settled[s->other])
            return false;
        const int32_t next[2] = { s->to, s->kind == Q3_STATE_SPLIT ? s->other : -1 };
        for (int i = 0; i < 2 && s->kind != Q3_STATE_BYTES; i++) {
            if (next[i] < 0 || w->seen[next[i]] == rule)
                continue;
            w->seen[next[i]] = rule;
            w->stack[n++] = next[i];
        }
    }
    return true;
}

/* A rule that calls itself before any byte, -1 when there is none. */
static int32_t find_loop(const q3_grammar *g, walk *w)
{
    int32_t left = -1;
    for (bool more = true; more;) {
        more = false;
        left = -1;
        for (int32_t r = g->n_rules - 1; r >= 0; r--) {
            if (w->settled[r])
                continue;
            if (leads_to_settled(g, r, w))
                more = w->settled[r] = true;
            else
                left = r;
        }
        memset(w->seen, 0xff, (size_t)g->n_states * sizeof *w->seen);
    }
    return left;
}

static q3_status check_loops(const q3_grammar *g, int32_t *rule)
{
    walk w = { q3_calloc((size_t)g->n_states, sizeof(int32_t)),
               q3_calloc((size_t)g->n_states, sizeof(int32_t)), q3_calloc((size_t)g->n_rules, sizeof(bool)) };
    q3_status st = w.stack && w.seen && w.settled ? Q3_OK : Q3_ERR_MEMORY;
    if (st == Q3_OK) {
        memset(w.seen, 0xff, (size_t)g->n_states * sizeof *w.seen);
        *rule = find_loop(g, &w);
        if (*rule >= 0)
            st = q3_fail(Q3_ERR_USAGE, "it refers to itself with nothing in front");
    }
    q3_free(w.stack);
    q3_free(w.seen);
    q3_free(w.settled);
    return st;
}

q3_status q3_grammar_finish(q3_grammar *g, int32_t *rule)
{
    *rule = -1;
    Q3_TRY(g->status);
    for (int32_t r = 0; r < g->n_rules; r++)
        Q3_CHECK(g->rules[r] >= 0, "rule %d is not defined", (int)r);
    shorten(g);
    find_live(g);
    find_classes(g);
    Q3_TRY(check_loops(g, rule));
    if (g->states[g->rules[0]].live)
        return Q3_OK;
    *rule = 0;
    return q3_fail(Q3_ERR_USAGE, "no text fits it");
}
