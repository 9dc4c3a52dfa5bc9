#include "infer/constraint_vocabulary.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A token to be sorted by its text; most differ in the first eight bytes. */
typedef struct entry {
    uint64_t head; /* big-endian, filled up with zeros */
    const char *bytes;
    int32_t n, id;
} entry;

static int by_text(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->head != y->head)
        return x->head < y->head ? -1 : 1;
    int order = memcmp(x->bytes, y->bytes, (size_t)(x->n < y->n ? x->n : y->n));
    if (order)
        return order;
    return x->n != y->n ? (x->n > y->n) - (x->n < y->n) : (x->id > y->id) - (x->id < y->id);
}

static int64_t collect(entry *out, int64_t *n_bytes, const q3_tokenizer *t)
{
    int64_t kept = 0;
    *n_bytes = 0;
    for (int32_t id = 0; id < q3_tokenizer_size(t); id++) {
        size_t n = 0;
        const char *bytes = q3_tokenizer_token(&n, t, id);
        if (!bytes || !n || n > UINT16_MAX || q3_tokenizer_is_special(t, id))
            continue;
        entry e = { .bytes = bytes, .n = (int32_t)n, .id = id };
        for (size_t i = 0; i < 8; i++)
            e.head = e.head << 8 | (i < n ? (uint8_t)bytes[i] : 0);
        out[kept++] = e;
        *n_bytes += (int64_t)n;
    }
    return kept;
}

static int32_t common(const entry *a, const entry *b)
{
    int32_t n = 0;
    while (n < a->n && n < b->n && a->bytes[n] == b->bytes[n])
        n++;
    return n;
}

/* Sorted entries become a tree: the nodes on the way to the last one are open until one comes that leaves it. */
static void build(q3_vocabulary *v, const entry *e, int64_t n, int32_t *open)
{
    int32_t depth = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t same = i ? common(&e[i - 1], &e[i]) : 0;
        same = same == e[i].n ? same - 1 : same; // the same text again: a node of its own
        while (depth > same)
            v->nodes[open[depth--]].skip = v->n;
        while (depth < e[i].n) {
            uint8_t byte = (uint8_t)e[i].bytes[depth++];
            open[depth] = v->n;
            v->nodes[v->n++] = (q3_vocabulary_node){ -1, 0, (uint16_t)depth, byte };
        }
        v->nodes[v->n - 1].token = e[i].id;
        v->depth = depth > v->depth ? depth : v->depth;
    }
    while (depth > 0)
        v->nodes[open[depth--]].skip = v->n;
}

static void destroy(q3_vocabulary *v)
{
    if (v)
        q3_free(v->nodes);
    q3_free(v);
}

static q3_vocabulary *create(const q3_tokenizer *tokenizer)
{
    int64_t n_bytes = 0, n = 0;
    q3_vocabulary *v = q3_calloc(1, sizeof *v);
    entry *e = q3_calloc((size_t)q3_tokenizer_size(tokenizer) + 1, sizeof *e);
    int32_t *open = q3_calloc(UINT16_MAX + 1, sizeof *open);
    if (v && e && open) {
        n = collect(e, &n_bytes, tokenizer);
        qsort(e, (size_t)n, sizeof *e, by_text);
        v->tokenizer = tokenizer;
        v->nodes = q3_malloc((size_t)(n_bytes + 1) * sizeof *v->nodes);
    }
    if (v && v->nodes) {
        build(v, e, n, open);
        void *fitting = q3_realloc(v->nodes, (size_t)(v->n + 1) * sizeof *v->nodes);
        v->nodes = fitting ? fitting : v->nodes;
    } else {
        destroy(v);
        v = NULL;
    }
    q3_free(e);
    q3_free(open);
    return v;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static q3_vocabulary *all; /* those in use */

q3_status q3_vocabulary_acquire(const q3_vocabulary **out, const q3_tokenizer *tokenizer)
{
    pthread_mutex_lock(&lock);
    q3_vocabulary *v = all;
    while (v && v->tokenizer != tokenizer)
        v = v->next;
    if (!v && (v = create(tokenizer))) {
        v->next = all;
        all = v;
    }
    if (v)
        v->users++;
    pthread_mutex_unlock(&lock);
    *out = v;
    return v ? Q3_OK : Q3_ERR_MEMORY;
}

void q3_vocabulary_release(const q3_vocabulary *v)
{
    if (!v)
        return;
    pthread_mutex_lock(&lock);
    q3_vocabulary **at = &all;
    while (*at != v)
        at = &(*at)->next;
    q3_vocabulary *gone = --(*at)->users == 0 ? *at : NULL;
    if (gone)
        *at = gone->next;
    pthread_mutex_unlock(&lock);
    destroy(gone);
}
