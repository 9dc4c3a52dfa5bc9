#include "core/arena.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/log.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
enum { RED_ZONE = 64 }; // unaddressable bytes behind every block
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
enum { RED_ZONE = 0 };
#endif

/* A device's addresses mean nothing to the sanitizer, but for the emulated device's, which are the host's. */
#if defined(Q3_CUDA_EMULATED)
enum { OWNERS_ARE_HOST = 1 };
#else
enum { OWNERS_ARE_HOST = 0 };
#endif

enum { ALIGNMENT = 64 };

static _Atomic int64_t requests;
static _Atomic int64_t fail_at;

void q3_heap_fail_at(int64_t n)
{
    atomic_store(&requests, 0);
    atomic_store(&fail_at, n);
}

int64_t q3_heap_requests(void)
{
    return atomic_load(&requests);
}

static bool must_fail(void)
{
    int64_t n = atomic_fetch_add(&requests, 1) + 1;
    int64_t at = atomic_load(&fail_at);
    return at > 0 && n == at;
}

/* Address space is free, but some machines promise less of it (overcommit, ulimit -v): take what can be
 * had. */
static void *reserve_range(size_t *bytes)
{
    enum { LEAST = 1 << 26 };
    for (;; *bytes /= 2) {
        void *p =
            mmap(NULL, *bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p != MAP_FAILED || *bytes / 2 < LEAST)
            return p == MAP_FAILED ? NULL : p;
    }
}

q3_status q3_arena_create(q3_arena *out, const char *name, size_t limit)
{
    *out = (q3_arena){ .name = name };
    size_t bytes = limit;
    void *p = must_fail() ? NULL : reserve_range(&bytes);
    if (!p)
        return q3_fail(Q3_ERR_MEMORY, "%s: cannot reserve %s of address space", name, q3_bytes(limit));
    out->base = p;
    out->limit = bytes;
    return Q3_OK;
}

/* Is this memory that a sanitizer of the host knows? */
static bool is_host(const q3_arena *arena)
{
    return !arena->owner || OWNERS_ARE_HOST;
}

void q3_arena_destroy(q3_arena *arena)
{
    if (arena->base && is_host(arena)) // the addresses may come back from another mmap
        ASAN_UNPOISON_MEMORY_REGION(arena->base, arena->touched);
    if (arena->owner)
        arena->owner->release(arena->range);
    else if (arena->base)
        munmap(arena->base, arena->limit);
    *arena = (q3_arena){ 0 };
}

static size_t block_bytes(size_t bytes)
{
    return (bytes + RED_ZONE + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void *count_only(q3_arena *arena, size_t bytes)
{
    arena->used += block_bytes(bytes);
    if (arena->used > arena->peak)
        arena->peak = arena->used;
    return arena->base;
}

void *q3_arena_alloc(q3_arena *arena, size_t bytes)
{
    if (arena->dry)
        return count_only(arena, bytes);
    size_t room = arena->limit - arena->used;
    if (must_fail() || bytes > room || room - bytes < ALIGNMENT + RED_ZONE) {
        q3_fail(Q3_ERR_MEMORY, "%s: %s needed, %s left of %s", arena->name, q3_bytes(bytes), q3_bytes(room),
                q3_bytes(arena->limit));
        return NULL;
    }
    char *p = arena->base + arena->used;
    if (arena->owner && !arena->owner->commit(arena->range, arena->used + block_bytes(bytes)))
        return NULL;
    arena->used += block_bytes(bytes);
    if (arena->used > arena->peak)
        arena->peak = arena->used;
    if (arena->used > arena->touched)
        arena->touched = arena->used;
    if (!is_host(arena))
        return p;
    ASAN_UNPOISON_MEMORY_REGION(p, block_bytes(bytes));
    if (!arena->late)
        ASAN_POISON_MEMORY_REGION(p + bytes, block_bytes(bytes) - bytes);
    return p;
}

void *q3_arena_zalloc(q3_arena *arena, size_t bytes)
{
    Q3_CHECK(!arena->owner, "%s: zeroed memory of a device", arena->name);
    void *p = q3_arena_alloc(arena, bytes);
    return p && !arena->dry ? memset(p, 0, bytes) : p;
}

char *q3_arena_strdup(q3_arena *arena, const char *text)
{
    size_t n = strlen(text) + 1;
    char *p = q3_arena_alloc(arena, n);
    return p && !arena->dry ? memcpy(p, text, n) : p;
}

char *q3_arena_printf(q3_arena *arena, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *p = q3_arena_alloc(arena, (size_t)n + 1);
    if (p && !arena->dry)
        vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(ap);
    return p;
}

size_t q3_arena_mark(const q3_arena *arena)
{
    return arena->used;
}

void q3_arena_rewind(q3_arena *arena, size_t mark)
{
    Q3_CHECK(mark <= arena->used, "%s: mark %zu, used %zu", arena->name, mark, arena->used);
    size_t end = arena->used < arena->touched ? arena->used : arena->touched; // the rest was only counted
    if (mark < end && !arena->dry && !arena->late && is_host(arena))
        ASAN_POISON_MEMORY_REGION(arena->base + mark, end - mark);
    arena->used = mark;
}

static void *checked(void *p, size_t bytes)
{
    if (!p)
        q3_fail(Q3_ERR_MEMORY, "out of memory: %s requested", q3_bytes(bytes));
    return p;
}

void *q3_malloc(size_t bytes)
{
    return checked(must_fail() ? NULL : malloc(bytes ? bytes : 1), bytes);
}

void *q3_calloc(size_t n, size_t bytes)
{
    return checked(must_fail() ? NULL : calloc(n ? n : 1, bytes ? bytes : 1), n * bytes);
}

void *q3_realloc(void *p, size_t bytes)
{
    return checked(must_fail() ? NULL : realloc(p, bytes ? bytes : 1), bytes);
}

char *q3_strdup(const char *text)
{
    size_t n = strlen(text) + 1;
    char *p = q3_malloc(n);
    return p ? memcpy(p, text, n) : NULL;
}

void q3_free(void *p)
{
    free(p);
}

size_t q3_memory_available(void)
{
    FILE *f = fopen("/proc/meminfo", "r");
    size_t kib = 0;
    char line[128];
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %zu kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib * 1024;
}

size_t q3_memory_total(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (size_t)pages * (size_t)page : 0;
}

size_t q3_memory_peak(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (size_t)u.ru_maxrss * 1024;
}
