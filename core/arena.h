/* core/arena.h - all memory of the program: arenas, and a heap that tests can make fail.
 *
 * An arena is one reserved range of addresses that is touched as it fills: allocation is an addition, freeing
 * is a reset. Lifetimes: run (weights, adapters, optimizer, tokenizer), step (activations, gradients, tape),
 * batch (ids, patches). Blocks are aligned to 64 bytes; q3_arena_alloc returns uninitialized memory. Not
 * thread-safe: one owner.
 */
#ifndef Q3_CORE_ARENA_H
#define Q3_CORE_ARENA_H

#include "core/status.h"

/* Who backs a range of addresses that is not the host's own: a device (core/device.h). */
typedef struct q3_arena_owner {
    bool (*commit)(void *range, size_t bytes); /* makes the first `bytes` usable; false, with a sentence */
    void (*release)(void *range);
} q3_arena_owner;

typedef struct q3_arena {
    const char *name; /* for messages: "step arena", "run arena" */
    char *base;       /* start of the reserved range */
    size_t used;      /* bytes handed out */
    size_t limit;     /* bytes reserved */
    size_t peak;      /* largest `used` since creation, or since it was set to 0 */
    size_t touched;   /* what was ever handed out lies below: sanitizers' red zones too */
    bool dry;         /* only count: addresses are handed out but must not be touched */
    bool late;        /* what is given back is still to be worked with: no red zones */
    struct q3_cuda *cuda;        /* the device whose memory this is; NULL: the host's */
    const q3_arena_owner *owner; /* of a device's range; NULL on the host */
    void *range;                 /* the owner's */
} q3_arena;

/* Reserves `limit` bytes of address space (nothing is committed until touched). Error: Q3_ERR_MEMORY. */
q3_status q3_arena_create(q3_arena *out, const char *name, size_t limit);
void q3_arena_destroy(q3_arena *arena);

/* NULL when the arena is full; the sentence is left for the caller to return with Q3_ERR_MEMORY. The others
 * are for the host's memory only. */
void *q3_arena_alloc(q3_arena *arena, size_t bytes);
void *q3_arena_zalloc(q3_arena *arena, size_t bytes);
char *q3_arena_strdup(q3_arena *arena, const char *text);
char *q3_arena_printf(q3_arena *arena, const char *fmt, ...) Q3_PRINTF(2, 3);

/* Everything allocated after the mark is gone after the rewind. */
size_t q3_arena_mark(const q3_arena *arena);
void q3_arena_rewind(q3_arena *arena, size_t mark);
static inline void q3_arena_reset(q3_arena *arena)
{
    q3_arena_rewind(arena, 0);
}

/* Typed allocation of `n` elements: T *p = Q3_NEW(arena, T, n). */
#define Q3_NEW(arena, T, n) ((T *)q3_arena_alloc((arena), sizeof(T) * (size_t)(n)))
#define Q3_ZNEW(arena, T, n) ((T *)q3_arena_zalloc((arena), sizeof(T) * (size_t)(n)))

/* The heap: for owners that grow (files read whole, hash tables, JSON). NULL on failure, with a sentence. */
void *q3_malloc(size_t bytes);
void *q3_calloc(size_t n, size_t bytes);
void *q3_realloc(void *p, size_t bytes);
char *q3_strdup(const char *text);
void q3_free(void *p);

/* Tests: the n-th request from now (1 = the next) fails, arenas included; 0 switches that off.
 * q3_heap_requests counts requests since the last call of q3_heap_fail_at. */
void q3_heap_fail_at(int64_t n);
int64_t q3_heap_requests(void);

/* Bytes of memory that the machine could give now (MemAvailable), and the peak resident size of this
 * process. */
size_t q3_memory_available(void);
size_t q3_memory_total(void); /* of the machine, in use or not */
size_t q3_memory_peak(void);

#endif
