#include "collate/tokenizer.h"

#include <string.h>

#include "collate/tokenizer_file.h"
#include "collate/unicode.h"

struct q3_tokenizer {
    q3_vocab vocab;
};

static q3_status reserve_ids(q3_ids *out, size_t more)
{
    if (out->capacity - out->n >= more)
        return Q3_OK;
    size_t capacity = out->n + more + (out->n + more) / 2 + 64;
    int32_t *p = q3_realloc(out->ids, capacity * sizeof *p);
    if (!p)
        return Q3_ERR_MEMORY;
    out->ids = p;
    out->capacity = capacity;
    return Q3_OK;
}

q3_status q3_ids_append(q3_ids *out, const int32_t *ids, size_t n)
{
    Q3_TRY(reserve_ids(out, n));
    if (n > 0)
        memcpy(out->ids + out->n, ids, n * sizeof *ids);
    out->n += n;
    return Q3_OK;
}

void q3_ids_free(q3_ids *ids)
{
    q3_free(ids->ids);
    *ids = (q3_ids){ 0 };
}

static q3_status keep(q3_tokenizer **out, q3_status st, const q3_vocab *vocab)
{
    *out = NULL;
    if (st != Q3_OK)
        return st;
    *out = q3_malloc(sizeof **out);
    if (!*out) {
        q3_vocab empty = *vocab;
        q3_vocab_destroy(&empty);
        return Q3_ERR_MEMORY;
    }
    (*out)->vocab = *vocab;
    return Q3_OK;
}

q3_status q3_tokenizer_open(q3_tokenizer **out, const char *dir)
{
    q3_vocab vocab;
    q3_status st = q3_tokenizer_read(&vocab, dir);
    return keep(out, st, &vocab);
}

q3_status q3_tokenizer_parse(q3_tokenizer **out, const char *json, size_t size, const char *name)
{
    q3_vocab vocab;
    q3_status st = q3_tokenizer_read_json(&vocab, json, size, name);
    return keep(out, st, &vocab);
}

void q3_tokenizer_close(q3_tokenizer *t)
{
    if (!t)
        return;
    q3_vocab_destroy(&t->vocab);
    q3_free(t);
}

/* ---- splitting into pieces: Qwen2's regular expression as a scanner with one look-ahead ---- */

enum { END = -1 };

/* One character of the text; behind the end its class is END. */
typedef struct glyph {
    uint32_t c;
    int class;  // a q3_char_class, or END
    size_t end; // offset of what follows
} glyph;

static glyph glyph_at(const char *s, size_t i, size_t n)
{
    glyph g = { .class = END, .end = n };
    if (i >= n)
        return g;
    g.end = i;
    g.c = q3_utf8_next(s, &g.end);
    g.class = (int)q3_char_class_of(g.c);
    return g;
}

static size_t skip_class(const char *s, size_t i, size_t n, int class)
{
    for (;;) {
        glyph g = glyph_at(s, i, n);
        if (g.class != class)
            return i;
        i = g.end;
    }
}

static bool is_newline(uint32_t c)
{
    return c == '\r' || c == '\n';
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d): the end of such a tail whose letters begin at i, 0 if there is none. */
static size_t contraction_end(const char *s, size_t i, size_t n)
{
    if (i >= n)
        return 0;
    int a = s[i] | 0x20, b = i + 1 < n ? s[i + 1] | 0x20 : 0; // ASCII lower case
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return i + 1;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return i + 2;
    return i + 1 < n && memcmp(s + i, "\xC5\xBF", 2) == 0 ? i + 2 : 0; // U+017F folds to s
}

/* \s*[\r\n]+ | \s+(?!\S) | \s+ at a space character. */
static size_t space_end(const char *s, size_t i, size_t n)
{
    size_t last = i, newline_end = 0, e = i;
    for (glyph g = glyph_at(s, e, n); g.class == Q3_CHAR_SPACE; g = glyph_at(s, e, n)) {
        last = e;
        e = g.end;
        if (is_newline(g.c))
            newline_end = e;
    }
    if (newline_end)
        return newline_end;
    return e == n || last == i ? e : last; // the last space before a word belongs to the word
}

/* End of the piece that begins at i < n. */
static size_t piece_end(const char *s, size_t i, size_t n)
{
    glyph g = glyph_at(s, i, n);
    if (g.c == '\'') {
        size_t e = contraction_end(s, g.end, n);
        if (e)
            return e;
    }
    if (g.class == Q3_CHAR_LETTER)
        return skip_class(s, g.end, n, Q3_CHAR_LETTER);
    if (g.class == Q3_CHAR_NUMBER)
        return g.end;
    glyph next = glyph_at(s, g.end, n);
    if (next.class == Q3_CHAR_LETTER && !is_newline(g.c))
        return skip_class(s, next.end, n, Q3_CHAR_LETTER);
    if (g.class == Q3_CHAR_OTHER || (g.c == ' ' && next.class == Q3_CHAR_OTHER)) {
        size_t e = skip_class(s, g.end, n, Q3_CHAR_OTHER);
        while (e < n && is_newline((unsigned char)s[e]))
            e++;
        return e;
    }
    return space_end(s, i, n);
}

/* ---- merging: the pair with the lowest rank first, the leftmost of equals, until no pair merges ---- */

enum { SHORT = 32 }; // bytes of a piece up to which looking at all pairs again beats a heap

static const int32_t no_rank = INT32_MAX;

/* The merge of ids[i], ids[i + 1]: its rank and token. */
static int32_t rank_of(const q3_vocab *v, int32_t left, int32_t right, int32_t *id)
{
    const q3_merge *m = q3_vocab_merge(v, left, right);
    *id = m ? m->id : -1;
    return m ? m->rank : no_rank;
}

/* Merges the n <= SHORT ids in place; returns how many remain. */
static size_t merge_short(const q3_vocab *v, int32_t *ids, size_t n)
{
    int32_t rank[SHORT], made[SHORT]; // of the pair (i, i + 1)
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = rank_of(v, ids[i], ids[i + 1], &made[i]);
    while (n > 1) {
        size_t at = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[at])
                at = i;
        if (rank[at] == no_rank)
            break;
        ids[at] = made[at];
        n--;
        memmove(ids + at + 1, ids + at + 2, (n - at - 1) * sizeof *ids);
        memmove(rank + at, rank + at + 1, (n - at - 1) * sizeof *rank);
        memmove(made + at, made + at + 1, (n - at - 1) * sizeof *made);
        if (at + 1 < n)
            rank[at] = rank_of(v, ids[at], ids[at + 1], &made[at]);
        if (at > 0)
            rank[at - 1] = rank_of(v, ids[at - 1], ids[at], &made[at - 1]);
    }
    return n;
}

/* For long pieces: a linked list of symbols and a heap of (rank, position). A heap entry is stale when the
 * pair at its position has another rank by now. */
typedef struct symbol {
    int32_t id;          // -1: merged into the one before
    uint32_t prev, next; // NOWHERE at the ends
} symbol;

#define NOWHERE UINT32_MAX

typedef struct heap {
    uint64_t *entries; // rank << 32 | position, the smallest at the top
    size_t n;
} heap;

static void heap_push(heap *h, uint64_t entry)
{
    size_t i = h->n++;
    for (; i > 0 && h->entries[(i - 1) / 2] > entry; i = (i - 1) / 2)
        h->entries[i] = h->entries[(i - 1) / 2];
    h->entries[i] = entry;
}

static uint64_t heap_pop(heap *h)
{
    uint64_t top = h->entries[0], last = h->entries[--h->n];
    size_t i = 0;
    for (size_t k = 1; k < h->n; k = 2 * i + 1) {
        k += k + 1 < h->n && h->entries[k + 1] < h->entries[k];
        if (h->entries[k] >= last)
            break;
        h->entries[i] = h->entries[k];
        i = k;
    }
    h->entries[i] = last;
    return top;
}

static void push_pair(heap *h, const q3_vocab *v, const symbol *s, uint32_t at)
{
    if (at == NOWHERE || s[at].next == NOWHERE)
        return;
    int32_t id, rank = rank_of(v, s[at].id, s[s[at].next].id, &id);
    if (rank != no_rank)
        heap_push(h, (uint64_t)rank << 32 | at);
}

static void merge_symbols(const q3_vocab *v, symbol *s, heap *h)
{
    while (h->n > 0) {
        uint64_t entry = heap_pop(h);
        uint32_t at = (uint32_t)entry, right = s[at].next;
        int32_t id;
        if (s[at].id < 0 || right == NOWHERE ||
            rank_of(v, s[at].id, s[right].id, &id) != (int32_t)(entry >> 32))
            continue;
        s[at].id = id;
        s[at].next = s[right].next;
        s[right].id = -1;
        if (s[at].next != NOWHERE)
            s[s[at].next].prev = at;
        push_pair(h, v, s, at);
        push_pair(h, v, s, s[at].prev);
    }
}

/* Merges n ids in place; *left tells how many remain. */
static q3_status merge_long(size_t *left, const q3_vocab *v, int32_t *ids, size_t n)
{
    symbol *s = q3_malloc(n * sizeof *s);
    heap h = { .entries = q3_malloc(3 * n * sizeof *h.entries) }; // n - 1 pairs, two more per merge
    if (s && h.entries) {
        for (size_t i = 0; i < n; i++)
            s[i] =
                (symbol){ ids[i], i > 0 ? (uint32_t)i - 1 : NOWHERE, i + 1 < n ? (uint32_t)i + 1 : NOWHERE };
        for (size_t i = 0; i + 1 < n; i++)
            push_pair(&h, v, s, (uint32_t)i);
        merge_symbols(v, s, &h);
        *left = 0;
        for (uint32_t i = 0; i != NOWHERE; i = s[i].next)
            ids[(*left)++] = s[i].id;
    }
    q3_status st = s && h.entries ? Q3_OK : Q3_ERR_MEMORY;
    q3_free(s);
    q3_free(h.entries);
    return st;
}

static q3_status encode_piece(q3_ids *out, const q3_vocab *v, const char *piece, size_t n)
{
    Q3_TRY(reserve_ids(out, n));
    int32_t *ids = out->ids + out->n;
    for (size_t i = 0; i < n; i++)
        ids[i] = v->byte_ids[(unsigned char)piece[i]];
    size_t left = n;
    if (n <= SHORT)
        left = merge_short(v, ids, n);
    else
        Q3_TRY(merge_long(&left, v, ids, n));
    out->n += left;
    return Q3_OK;
}

static q3_status encode_pieces(q3_ids *out, const q3_vocab *v, const char *text, size_t n)
{
    for (size_t i = 0, end; i < n; i = end) {
        end = piece_end(text, i, n);
        Q3_TRY(encode_piece(out, v, text + i, end - i));
    }
    return Q3_OK;
}

/* The text between two added tokens. */
static q3_status encode_stretch(q3_ids *out, const q3_vocab *v, const char *text, size_t n)
{
    if (q3_nfc_quick(text, n))
        return encode_pieces(out, v, text, n);
    q3_text nfc = { 0 };
    q3_status st = q3_nfc(&nfc, text, n);
    if (st == Q3_OK)
        st = encode_pieces(out, v, nfc.data, nfc.size);
    q3_text_free(&nfc);
    return st;
}

/* Offset of the first added token at or behind `from`, and its id; n and -1 if there is none. */
static size_t next_added(int32_t *id, const q3_vocab *v, const char *text, size_t from, size_t n)
{
    for (size_t i = from; i < n; i++) {
        if (!v->added_first[(unsigned char)text[i]])
            continue;
        *id = q3_vocab_match_added(v, text + i, n - i);
        if (*id >= 0)
            return i;
    }
    *id = -1;
    return n;
}

static q3_status encode_text(q3_ids *out, const q3_vocab *v, const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        int32_t id;
        size_t end = next_added(&id, v, text, i, n);
        Q3_TRY(encode_stretch(out, v, text + i, end - i));
        if (id < 0)
            break;
        Q3_TRY(q3_ids_append(out, &id, 1));
        i = end + v->tokens[id].size;
    }
    return Q3_OK;
}

q3_status q3_tokenizer_encode(q3_ids *out, const q3_tokenizer *t, const char *text, size_t n)
{
    size_t before = out->n, bad;
    if (n > INT32_MAX)
        return q3_fail(Q3_ERR_LIMIT, "a text of %zu bytes is too long to encode", n);
    if (!q3_utf8_valid(text, n, &bad))
        return q3_fail(Q3_ERR_DATA, "the text is not valid UTF-8 at byte %zu", bad);
    q3_status st = encode_text(out, &t->vocab, text, n);
    if (st != Q3_OK)
        out->n = before;
    return st;
}

/* ---- decoding and questions ---- */

static const q3_token *token_of(const q3_tokenizer *t, int32_t id)
{
    bool known = id >= 0 && id < t->vocab.n_tokens && t->vocab.tokens[id].kind != Q3_TOKEN_NONE;
    return known ? &t->vocab.tokens[id] : NULL;
}

q3_status q3_tokenizer_decode(q3_text *out, const q3_tokenizer *t, const int32_t *ids, size_t n,
                              bool skip_special)
{
    q3_text bytes = { 0 }; // joined first: two tokens may share a character
    for (size_t i = 0; i < n; i++) {
        const q3_token *token = token_of(t, ids[i]);
        if (token && !(skip_special && token->kind == Q3_TOKEN_SPECIAL))
            q3_text_append(&bytes, t->vocab.bytes.data + token->at, token->size);
    }
    q3_utf8_lossy(out, bytes.data, bytes.size);
    bool failed = bytes.failed || out->failed;
    q3_text_free(&bytes);
    return failed ? Q3_ERR_MEMORY : Q3_OK;
}

const char *q3_tokenizer_token(size_t *n, const q3_tokenizer *t, int32_t id)
{
    const q3_token *token = token_of(t, id);
    *n = token ? token->size : 0;
    return token ? t->vocab.bytes.data + token->at : NULL;
}

int32_t q3_tokenizer_id(const q3_tokenizer *t, const char *token)
{
    size_t n = strlen(token);
    int32_t id = q3_vocab_match_added(&t->vocab, token, n);
    return id >= 0 && t->vocab.tokens[id].size == n ? id : q3_vocab_find(&t->vocab, token, n);
}

bool q3_tokenizer_is_special(const q3_tokenizer *t, int32_t id)
{
    const q3_token *token = token_of(t, id);
    return token && token->kind == Q3_TOKEN_SPECIAL;
}

int64_t q3_tokenizer_size(const q3_tokenizer *t)
{
    return t->vocab.n_tokens;
}

int32_t q3_tokenizer_pad_id(const q3_tokenizer *t)
{
    return t->vocab.pad_id;
}

int32_t q3_tokenizer_eos_id(const q3_tokenizer *t)
{
    return t->vocab.eos_id;
}

bool q3_tokenizer_find_added(const q3_tokenizer *t, const char *text, size_t n, size_t *at)
{
    int32_t id;
    *at = next_added(&id, &t->vocab, text, 0, n);
    return id >= 0;
}
