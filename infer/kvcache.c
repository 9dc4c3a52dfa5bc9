#include "infer/kvcache.h"

#include <string.h>

#include "core/arena.h"

enum { NONE = -1 };

typedef struct entry {
    int32_t users;
    int32_t before, behind; // free list; NONE at its ends
    int32_t chain;          // next block of the same bucket
    bool named;
    q3_block_name name;
} entry;

struct q3_kvcache {
    entry *blocks; // [n]
    int32_t n, n_free;
    int32_t first, last; // of the free list: the first is taken first
    int32_t *buckets;    // [n_buckets]: first named block, by hash
    uint32_t n_buckets;  // a power of two
};

q3_status q3_kvcache_create(q3_kvcache **out, int32_t blocks)
{
    q3_kvcache *c = q3_calloc(1, sizeof *c);
    *out = c;
    if (!c)
        return Q3_ERR_MEMORY;
    c->n_buckets = 1;
    while (c->n_buckets < (uint32_t)blocks)
        c->n_buckets *= 2;
    c->blocks = q3_calloc((size_t)blocks, sizeof *c->blocks);
    c->buckets = q3_malloc(c->n_buckets * sizeof *c->buckets);
    if (!c->blocks || !c->buckets) {
        q3_kvcache_destroy(c);
        *out = NULL;
        return Q3_ERR_MEMORY;
    }
    c->n = c->n_free = blocks;
    c->last = blocks - 1;
    for (int32_t i = 0; i < blocks; i++)
        c->blocks[i] = (entry){ .before = i - 1, .behind = i + 1 < blocks ? i + 1 : NONE, .chain = NONE };
    memset(c->buckets, 0xff, c->n_buckets * sizeof *c->buckets); // NONE
    return Q3_OK;
}

void q3_kvcache_destroy(q3_kvcache *c)
{
    if (!c)
        return;
    q3_free(c->blocks);
    q3_free(c->buckets);
    q3_free(c);
}

int32_t q3_kvcache_free(const q3_kvcache *c)
{
    return c->n_free;
}

int32_t q3_kvcache_users(const q3_kvcache *c, int32_t block)
{
    return c->blocks[block].users;
}

static void leave_free_list(q3_kvcache *c, int32_t i)
{
    const entry *b = &c->blocks[i];
    *(b->before == NONE ? &c->first : &c->blocks[b->before].behind) = b->behind;
    *(b->behind == NONE ? &c->last : &c->blocks[b->behind].before) = b->before;
    c->n_free--;
}

/* Named blocks at the end, nameless ones at the beginning. */
static void enter_free_list(q3_kvcache *c, int32_t i)
{
    entry *b = &c->blocks[i];
    b->before = b->named ? c->last : NONE;
    b->behind = b->named ? NONE : c->first;
    if (!c->n_free)
        b->before = b->behind = NONE;
    *(b->before == NONE ? &c->first : &c->blocks[b->before].behind) = i;
    *(b->behind == NONE ? &c->last : &c->blocks[b->behind].before) = i;
    c->n_free++;
}

int32_t q3_kvcache_take(q3_kvcache *c)
{
    if (!c->n_free)
        return NONE;
    int32_t i = c->first;
    leave_free_list(c, i);
    q3_kvcache_unname(c, i);
    c->blocks[i].users = 1;
    return i;
}

void q3_kvcache_share(q3_kvcache *c, int32_t i)
{
    if (c->blocks[i].users++ == 0)
        leave_free_list(c, i);
}

void q3_kvcache_release(q3_kvcache *c, int32_t i)
{
    Q3_CHECK(c->blocks[i].users > 0, "block %d is free already", (int)i);
    if (--c->blocks[i].users == 0)
        enter_free_list(c, i);
}

/* A hash is as good a bucket as its first bytes are. */
static int32_t *bucket(const q3_kvcache *c, const q3_block_name *name)
{
    uint32_t h;
    memcpy(&h, name->hash, sizeof h);
    return &c->buckets[h & (c->n_buckets - 1)];
}

int32_t q3_kvcache_find(const q3_kvcache *c, const q3_block_name *name)
{
    int32_t i = *bucket(c, name);
    while (i != NONE && memcmp(&c->blocks[i].name, name, sizeof *name) != 0)
        i = c->blocks[i].chain;
    return i;
}

void q3_kvcache_name(q3_kvcache *c, int32_t i, const q3_block_name *name)
{
    Q3_CHECK(c->blocks[i].users > 0, "block %d is free", (int)i);
    if (q3_kvcache_find(c, name) != NONE)
        return;
    q3_kvcache_unname(c, i);
    int32_t *first = bucket(c, name);
    c->blocks[i].name = *name;
    c->blocks[i].named = true;
    c->blocks[i].chain = *first;
    *first = i;
}

void q3_kvcache_unname(q3_kvcache *c, int32_t i)
{
    entry *b = &c->blocks[i];
    if (!b->named)
        return;
    int32_t *at = bucket(c, &b->name);
    while (*at != i)
        at = &c->blocks[*at].chain;
    *at = b->chain;
    b->named = false;
    b->chain = NONE;
}

bool q3_kvcache_named(const q3_kvcache *c, int32_t i)
{
    return c->blocks[i].named;
}
