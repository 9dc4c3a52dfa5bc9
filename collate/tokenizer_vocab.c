#include "collate/tokenizer_vocab.h"

#include <string.h>

#include "collate/unicode.h"

static size_t power_of_two(size_t at_least)
{
    size_t n = 16;
    while (n < at_least)
        n *= 2;
    return n;
}

q3_status q3_vocab_create(q3_vocab *out, size_t n_plain, size_t n_merges)
{
    *out = (q3_vocab){ .pad_id = -1, .eos_id = -1 };
    memset(out->byte_ids, -1, sizeof out->byte_ids);
    out->n_slots = power_of_two(2 * n_plain);
    out->n_merge_slots = power_of_two(2 * n_merges);
    out->slots = q3_malloc(out->n_slots * sizeof *out->slots);
    out->merges = q3_malloc(out->n_merge_slots * sizeof *out->merges);
    if (!out->slots || !out->merges) {
        q3_vocab_destroy(out);
        return Q3_ERR_MEMORY;
    }
    memset(out->slots, -1, out->n_slots * sizeof *out->slots);
    memset(out->merges, -1, out->n_merge_slots * sizeof *out->merges);
    return Q3_OK;
}

void q3_vocab_destroy(q3_vocab *v)
{
    q3_text_free(&v->bytes);
    q3_free(v->tokens);
    q3_free(v->slots);
    q3_free(v->merges);
    q3_free(v->added);
    *v = (q3_vocab){ 0 };
}

/* The byte that a character of the byte-level notation stands for, -1 if none: 33-126, 161-172 and 174-255
 * stand for themselves, U+0100 and up for the other 68 bytes in order (GPT-2's bytes_to_unicode). */
static int byte_of(uint32_t c)
{
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255))
        return (int)c;
    int k = (int)c - 0x100;
    return c < 0x100 || k > 67 ? -1 : k <= 32 ? k : k == 67 ? 173 : k + 127 - 33;
}

/* Writes the bytes that `key` stands for (never more than n) and their number; false outside the notation. */
static bool to_bytes(char *out, size_t *n_out, const char *key, size_t n)
{
    *n_out = 0;
    for (size_t i = 0; i < n;) {
        int b = byte_of(q3_utf8_next(key, &i));
        if (b < 0)
            return false;
        out[(*n_out)++] = (char)b;
    }
    return true;
}

/* FNV-1a (Fowler, Noll, Vo), its high half folded in for the table's low bits. */
static size_t hash_bytes(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    return (size_t)(h ^ h >> 32);
}

static bool has_text(const q3_vocab *v, int32_t id, const char *bytes, size_t n)
{
    const q3_token *t = &v->tokens[id];
    return t->size == n && memcmp(v->bytes.data + t->at, bytes, n) == 0;
}

/* The slot of this text: the one that holds it or the empty one where it would go. */
static int32_t *slot_of(const q3_vocab *v, const char *bytes, size_t n)
{
    for (size_t i = hash_bytes(bytes, n);; i++) {
        int32_t *slot = &v->slots[i & (v->n_slots - 1)];
        if (*slot < 0 || has_text(v, *slot, bytes, n))
            return slot;
    }
}

int32_t q3_vocab_find(const q3_vocab *v, const char *bytes, size_t n)
{
    return *slot_of(v, bytes, n);
}

int32_t q3_vocab_match_added(const q3_vocab *v, const char *text, size_t n)
{
    if (n == 0 || !v->added_first[(unsigned char)text[0]])
        return -1;
    for (int i = 0; i < v->n_added; i++) {
        const q3_token *t = &v->tokens[v->added[i]];
        if (t->size <= n && memcmp(v->bytes.data + t->at, text, t->size) == 0)
            return v->added[i];
    }
    return -1;
}

static q3_merge *merge_slot(const q3_vocab *v, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    // multiplicative hashing: Knuth, volume 3, section 6.4
    size_t i = (size_t)(key * 0x9E3779B97F4A7C15u >> 32);
    for (;; i++) {
        q3_merge *m = &v->merges[i & (v->n_merge_slots - 1)];
        if (m->left < 0 || (m->left == left && m->right == right))
            return m;
    }
}

const q3_merge *q3_vocab_merge(const q3_vocab *v, int32_t left, int32_t right)
{
    const q3_merge *m = merge_slot(v, left, right);
    return m->left < 0 ? NULL : m;
}

static q3_status grow(q3_vocab *v, int64_t id, const char *text)
{
    if (id < 0 || id >= Q3_TOKEN_ID_LIMIT)
        return q3_fail(Q3_ERR_FORMAT, "token \"%s\" has id %lld; ids from 0 to %d are possible", text,
                       (long long)id, Q3_TOKEN_ID_LIMIT - 1);
    if (id >= v->capacity) {
        int32_t capacity = (int32_t)id + 1 + (int32_t)id / 2;
        q3_token *p = q3_realloc(v->tokens, (size_t)capacity * sizeof *p);
        if (!p)
            return Q3_ERR_MEMORY;
        memset(p + v->capacity, 0, (size_t)(capacity - v->capacity) * sizeof *p);
        v->tokens = p;
        v->capacity = capacity;
    }
    if (id >= v->n_tokens)
        v->n_tokens = (int32_t)id + 1;
    return Q3_OK;
}

static q3_status store(q3_vocab *v, int32_t id, const char *bytes, size_t n, q3_token_kind kind)
{
    v->tokens[id] = (q3_token){ .at = v->bytes.size, .size = (uint32_t)n, .kind = kind };
    q3_text_append(&v->bytes, bytes, n);
    return v->bytes.failed ? Q3_ERR_MEMORY : Q3_OK;
}

static q3_status add_plain(q3_vocab *v, int64_t id, const char *key, const char *bytes, size_t n)
{
    Q3_TRY(grow(v, id, key));
    if (v->tokens[id].kind != Q3_TOKEN_NONE)
        return q3_fail(Q3_ERR_FORMAT, "token \"%s\" has id %d, which another token has already", key,
                       (int)id);
    int32_t *slot = slot_of(v, bytes, n);
    if (*slot >= 0)
        return q3_fail(Q3_ERR_FORMAT, "token \"%s\" occurs twice, with ids %d and %d", key, (int)*slot,
                       (int)id);
    Q3_CHECK(2 * ++v->n_plain <= v->n_slots, "more tokens than the table was made for");
    *slot = (int32_t)id;
    if (n == 1)
        v->byte_ids[(unsigned char)bytes[0]] = (int32_t)id;
    return store(v, (int32_t)id, bytes, n, Q3_TOKEN_PLAIN);
}

q3_status q3_vocab_add(q3_vocab *v, int64_t id, const char *key)
{
    char fixed[256]; // Qwen3's longest token has 128 bytes
    size_t size = strlen(key), n;
    char *bytes = size <= sizeof fixed ? fixed : q3_malloc(size);
    if (!bytes)
        return Q3_ERR_MEMORY;
    q3_status st = size > 0 && to_bytes(bytes, &n, key, size)
                       ? add_plain(v, id, key, bytes, n)
                       : q3_fail(Q3_ERR_FORMAT, "token \"%s\" (id %lld) is not in byte-level notation", key,
                                 (long long)id);
    if (bytes != fixed)
        q3_free(bytes);
    return st;
}

enum { MAX_ADDED = 4096 }; // they are searched one by one

/* Enters an id into the list of added tokens, which is kept with the longest text first. */
static q3_status list_added(q3_vocab *v, int32_t id)
{
    if (v->n_added == MAX_ADDED)
        return q3_fail(Q3_ERR_FORMAT, "there are more than %d added tokens", MAX_ADDED);
    if (v->n_added == v->added_capacity) {
        int capacity = v->added_capacity ? 2 * v->added_capacity : 32;
        int32_t *p = q3_realloc(v->added, (size_t)capacity * sizeof *p);
        if (!p)
            return Q3_ERR_MEMORY;
        v->added = p;
        v->added_capacity = capacity;
    }
    int at = v->n_added++;
    for (; at > 0 && v->tokens[v->added[at - 1]].size < v->tokens[id].size; at--)
        v->added[at] = v->added[at - 1];
    v->added[at] = id;
    v->added_first[(unsigned char)v->bytes.data[v->tokens[id].at]] = true;
    return Q3_OK;
}

static int32_t find_added(const q3_vocab *v, const char *text, size_t n)
{
    for (int i = 0; i < v->n_added; i++)
        if (has_text(v, v->added[i], text, n))
            return v->added[i];
    return -1;
}

q3_status q3_vocab_add_literal(q3_vocab *v, int64_t id, const char *text, bool special)
{
    size_t n = strlen(text);
    if (n == 0 || n > 4096)
        return q3_fail(Q3_ERR_FORMAT, "the added token with id %lld has %zu bytes; 1 to 4096 are possible",
                       (long long)id, n);
    int32_t same = find_added(v, text, n), plain = q3_vocab_find(v, text, n);
    int32_t other = same >= 0 ? same : plain;
    if (other >= 0 && other != id)
        return q3_fail(Q3_ERR_FORMAT, "token \"%s\" occurs twice, with ids %d and %lld", text, (int)other,
                       (long long)id);
    Q3_TRY(grow(v, id, text));
    if (v->tokens[id].kind != Q3_TOKEN_NONE && other < 0)
        return q3_fail(Q3_ERR_FORMAT, "added token \"%s\" has id %lld, which another token has already", text,
                       (long long)id);
    q3_token_kind kind = special ? Q3_TOKEN_SPECIAL : Q3_TOKEN_ADDED;
    if (same >= 0) {
        v->tokens[id].kind = kind;
        return Q3_OK;
    }
    Q3_TRY(store(v, (int32_t)id, text, n, kind));
    return list_added(v, (int32_t)id);
}

static q3_status merge_bytes(q3_vocab *v, int32_t rank, const char *b, size_t nl, size_t nr)
{
    int32_t left = q3_vocab_find(v, b, nl), right = q3_vocab_find(v, b + nl, nr),
            id = q3_vocab_find(v, b, nl + nr);
    if (left < 0 || right < 0)
        return q3_fail(Q3_ERR_FORMAT, "its %s part is not in the vocabulary", left < 0 ? "left" : "right");
    if (id < 0)
        return q3_fail(Q3_ERR_FORMAT, "the token it makes is not in the vocabulary");
    *merge_slot(v, left, right) = (q3_merge){ .left = left, .right = right, .rank = rank, .id = id };
    return Q3_OK;
}

q3_status q3_vocab_add_merge(q3_vocab *v, int32_t rank, const char *left, size_t n_left, const char *right,
                             size_t n_right)
{
    char fixed[512];
    size_t nl, nr;
    Q3_CHECK(2 * (size_t)(rank + 1) <= v->n_merge_slots, "more merges than the table was made for");
    char *b = n_left + n_right <= sizeof fixed ? fixed : q3_malloc(n_left + n_right);
    if (!b)
        return Q3_ERR_MEMORY;
    q3_status st =
        n_left > 0 && n_right > 0 && to_bytes(b, &nl, left, n_left) && to_bytes(b + nl, &nr, right, n_right)
            ? merge_bytes(v, rank, b, nl, nr)
            : q3_fail(Q3_ERR_FORMAT, "its parts are not in byte-level notation");
    if (b != fixed)
        q3_free(b);
    return st;
}

q3_status q3_vocab_finish(q3_vocab *v)
{
    for (int b = 0; b < 256; b++)
        if (v->byte_ids[b] < 0)
            return q3_fail(Q3_ERR_FORMAT,
                           "the vocabulary has no token for byte 0x%02X; a byte-level one has all 256", b);
    return Q3_OK;
}
