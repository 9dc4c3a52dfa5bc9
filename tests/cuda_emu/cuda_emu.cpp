/* The scheduler: the threads of a block as fibers of the host thread that launches.
 *
 * Who may run is kept in bit sets, a word of lanes for each warp and a word of warps, so choosing the next thread and
 * releasing a warp are a few instructions. A thread that has to wait switches straight to the next one; a thread that
 * ends hands its stack to the next that has not begun, so a kernel without barriers runs on one stack.
 */
#include "cuda_emu.h"
#include "cuda_emu_ptx.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define Q3_EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define Q3_EMU_ASAN 1
#endif
#endif
#ifdef Q3_EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

__thread q3_emu_self q3_emu_now;

enum {
    LANES = 32,
    MAX_WARPS = 32,             /* 1024 threads a block */
    STATIC_BYTES = 48 * 1024,   /* ptxas' limit for static shared memory */
    DYNAMIC_BYTES = 227 * 1024, /* of sm_90 and sm_100, the largest; cudart_emu.cpp knows each device's */
    RED_ZONE = 64,              /* bytes between shared arrays that ASan forbids */
    SHARED_ALIGN = 128,         /* as kernels/ptx.cuh aligns dynamic shared memory */
    SHARED_BYTES = DYNAMIC_BYTES + SHARED_ALIGN + 2 * STATIC_BYTES, /* with room for the red zones */
#ifdef Q3_EMU_ASAN
    STACK_BYTES = 512 * 1024, /* frames grow under sanitizers */
#else
    STACK_BYTES = 128 * 1024,
#endif
    COLOUR_BYTES = 320,
    COLOURS = 61, /* stacks begin at different cache sets: equal ones cost 40 % */
};

struct fiber {
#if defined(__x86_64__)
    void *sp;
#else
    ucontext_t context;
#endif
    char *stack; /* lowest address, for the sanitizer; the host's own for the host */
    size_t stack_bytes;
    void *fake_stack; /* the sanitizer's, while the fiber is away */
};

struct async_copy {
    void *to;
    const void *from; /* NULL: zeros */
    int group;
};

struct emu_warp;

struct emu_thread {
    uint3 index;
    int lane;
    emu_warp *warp;
    fiber *on;        /* NULL: not begun */
    const char *name; /* of the warp operation it waits in */
    uint32_t mask;
    q3_emu_site site; /* where it waits */
    std::vector<async_copy> copies;
    int group; /* the open one */
};

struct warp_group { /* lanes that have come to one warp operation and wait for the others it names */
    uint32_t mask, here;
    q3_emu_collective *what;
    const char *name;
    q3_emu_site site;
};

struct emu_warp {
    uint32_t present, left; /* lanes the block has; those that have returned from the kernel */
    uint32_t ready;         /* may run, but does not */
    uint32_t waiting;       /* in a warp operation */
    uint32_t blocked;       /* at the block's barrier */
    warp_group groups[LANES];
    int n_groups;
    void *args[LANES];
};

struct machine { /* one for each host thread that launches */
    emu_thread threads[MAX_WARPS * LANES];
    emu_warp warps[MAX_WARPS];
    uint32_t ready_warps;
    int n, left, at_barrier; /* threads: of the block, returned, at the barrier */
    q3_emu_site barrier;     /* which, while at_barrier > 0 */
    emu_thread *self;
    fiber *current, host;
    std::vector<fiber *> fibers, idle;
    q3_emu_launch launch;
    void *args;
    int schedule;
    uint64_t random;
    uint64_t block; /* number of the running block, never used twice */
    char *shared;   /* SHARED_BYTES: dynamic, then static */
    size_t static_at, static_bytes;
};
static __thread machine *m;

/* Errors. */

static inline bool same_site(q3_emu_site a, q3_emu_site b)
{
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

[[noreturn]] static void stop_at(const uint3 &thread, q3_emu_site site, const char *fmt, va_list args)
{
    const uint3 &b = q3_emu_now.block;
    char text[512];
    vsnprintf(text, sizeof text, fmt, args);
    fprintf(stderr, "cuda_emu: kernel %s, block (%u,%u,%u), thread (%u,%u,%u), %s:%d: %s\n", m->launch.kernel,
            b.x, b.y, b.z, thread.x, thread.y, thread.z, site.file, site.line, text);
    abort();
}

[[noreturn]] static void stop_thread(const emu_thread *t, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static void stop_thread(const emu_thread *t, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    stop_at(t->index, t->site, fmt, args);
}

void q3_emu_stop(q3_emu_site site, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    stop_at(q3_emu_now.thread, site, fmt, args);
}

/* Fibers. */

#if defined(__x86_64__)
/* Keeps what the ABI asks of a callee, changes stacks, goes on where the other one left off. */
extern "C" void q3_emu_switch(void **save, void *load);
asm(".text\n"
    ".globl q3_emu_switch\n"
    ".type q3_emu_switch, @function\n"
    "q3_emu_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size q3_emu_switch, .-q3_emu_switch\n");
#endif

static void fiber_main(void);

static fiber *fiber_new(void)
{
    fiber *f = new fiber();
    f->stack_bytes = STACK_BYTES;
    f->stack = (char *)mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->stack == MAP_FAILED) {
        fprintf(stderr, "cuda_emu: no memory for the stack of a thread\n");
        abort();
    }
    mprotect(f->stack, 4096, PROT_NONE); // an overflow faults
    size_t colour = m->fibers.size() % COLOURS * COLOUR_BYTES;
    m->fibers.push_back(f);
#if defined(__x86_64__)
    void **sp = (void **)(f->stack + STACK_BYTES - colour);
    *--sp = NULL;                // fiber_main has no caller; with this, its frame is aligned as after a call
    *--sp = (void *)&fiber_main; // where the first switch returns to
    memset(sp - 6, 0, 6 * sizeof *sp); // six saved registers
    f->sp = sp - 6;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK_BYTES - colour;
    f->context.uc_link = NULL;
    makecontext(&f->context, fiber_main, 0);
#endif
    return f;
}

static inline void switch_to(fiber *to)
{
    fiber *from = m->current;
    m->current = to;
#ifdef Q3_EMU_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
#if defined(__x86_64__)
    q3_emu_switch(&from->sp, to->sp);
#else
    swapcontext(&from->context, &to->context);
#endif
#ifdef Q3_EMU_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

/* Who runs next. */

static uint32_t next_random(void) /* xorshift64 (Marsaglia 2003) */
{
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return (uint32_t)(m->random >> 32);
}

/* A member of the set, by the schedule. */
static inline int pick(uint32_t set)
{
    if (m->schedule == 0)
        return __builtin_ctz(set);
    if (m->schedule == 1)
        return 31 - __builtin_clz(set);
    uint32_t from = set & ~0u << (next_random() & 31);
    return __builtin_ctz(from ? from : set);
}

static inline void make_ready(emu_warp *w, uint32_t lanes)
{
    w->ready |= lanes;
    if (w->ready)
        m->ready_warps |= 1u << (w - m->warps);
}

static inline void become(emu_thread *t)
{
    m->self = t;
    q3_emu_now.thread = t->index;
    q3_emu_now.lane = t->lane;
}

static void tell_deadlock(void);

/* Takes the next thread out of the ready ones; NULL when all have returned from the kernel. */
static inline emu_thread *take_next(void)
{
    if (!m->ready_warps) {
        if (m->left < m->n)
            tell_deadlock();
        return NULL;
    }
    int warp = pick(m->ready_warps), lane = pick(m->warps[warp].ready);
    if (!(m->warps[warp].ready &= ~(1u << lane)))
        m->ready_warps &= ~(1u << warp);
    return &m->threads[warp * LANES + lane];
}

static fiber *take_fiber(void)
{
    if (m->idle.empty())
        return fiber_new();
    fiber *f = m->idle.back();
    m->idle.pop_back();
    return f;
}

/* Runs others until the running thread has been made ready and is chosen again. */
static inline void wait_turn(void)
{
    emu_thread *next = take_next();
    become(next); // not NULL: the running thread has not returned
    if (!next->on)
        next->on = take_fiber();
    if (next->on != m->current)
        switch_to(next->on);
}

/* The running thread has returned from the kernel. */
static void leave(void)
{
    const emu_thread *gone = m->self;
    emu_warp *w = gone->warp;
    for (uint32_t rest = w->waiting; rest; rest &= rest - 1) {
        const emu_thread *t = gone - gone->lane + __builtin_ctz(rest);
        if (t->mask >> gone->lane & 1)
            stop_thread(t, "%s with mask %08x waits for thread (%u,%u,%u), which has left the kernel",
                        t->name, t->mask, gone->index.x, gone->index.y, gone->index.z);
    }
    w->left |= 1u << gone->lane;
    m->left++;
}

static void fiber_main(void)
{
#ifdef Q3_EMU_ASAN
    __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
    for (;;) {
        m->launch.run(m->args);
        leave();
        emu_thread *next = take_next();
        if (next && !next->on) {
            next->on = m->current;
            become(next);
            continue;
        }
        m->idle.push_back(m->current);
        if (next)
            become(next);
        switch_to(next ? next->on : &m->host);
        // somebody has given this fiber a thread to begin with
    }
}

/* Nobody can run and not all have returned: says who waits for whom. */
static void tell_deadlock(void)
{
    const emu_thread *blocked = NULL, *waiting = NULL, *gone = NULL;
    for (int i = m->n - 1; i >= 0; i--) {
        const emu_warp *w = &m->warps[i / LANES];
        uint32_t bit = 1u << i % LANES;
        blocked = w->blocked & bit ? &m->threads[i] : blocked;
        waiting = w->waiting & bit ? &m->threads[i] : waiting;
        gone = w->left & bit ? &m->threads[i] : gone;
    }
    if (waiting && blocked)
        stop_thread(waiting,
                    "deadlock: %s with mask %08x waits for lanes that stand at __syncthreads at %s:%d",
                    waiting->name, waiting->mask, blocked->site.file, blocked->site.line);
    if (waiting)
        stop_thread(waiting, "deadlock: %s with mask %08x waits for lanes that wait elsewhere", waiting->name,
                    waiting->mask);
    stop_thread(blocked, "__syncthreads waits for thread (%u,%u,%u), which has left the kernel",
                gone->index.x, gone->index.y, gone->index.z);
}

/* Barriers. */

void q3_emu_block_barrier(q3_emu_site site)
{
    emu_thread *t = m->self;
    if (m->at_barrier && !same_site(site, m->barrier))
        q3_emu_stop(site, "__syncthreads while others stand at the one at %s:%d", m->barrier.file,
                    m->barrier.line);
    m->barrier = t->site = site;
    if (++m->at_barrier < m->n) {
        t->warp->blocked |= 1u << t->lane;
        wait_turn();
        return;
    }
    m->at_barrier = 0;
    for (int i = 0; i * LANES < m->n; i++) {
        make_ready(&m->warps[i], m->warps[i].blocked);
        m->warps[i].blocked = 0;
    }
    if (m->schedule > 1) {
        make_ready(t->warp, 1u << t->lane);
        wait_turn();
    }
}

/* The mask names lanes that cannot come, or does not name the caller. */
[[noreturn]] static void refuse_mask(const emu_warp *w, const char *name, uint32_t mask, q3_emu_site site)
{
    if (!(mask >> q3_emu_now.lane & 1))
        q3_emu_stop(site, "%s with mask %08x, which lacks the calling lane %d", name, mask, q3_emu_now.lane);
    if (mask & ~w->present)
        q3_emu_stop(site, "%s with mask %08x: the warp has lanes %08x alone", name, mask, w->present);
    q3_emu_stop(site, "%s with mask %08x: lanes %08x have left the kernel", name, mask, mask & w->left);
}

/* The group that waits with this mask, or a new one. Two groups of which each waits for a lane of the other never end. */
static warp_group *group_of(emu_warp *w, q3_emu_collective *what, const char *name, uint32_t mask,
                            q3_emu_site site)
{
    uint32_t me = 1u << q3_emu_now.lane;
    for (int i = 0; i < w->n_groups; i++) {
        warp_group *g = &w->groups[i];
        bool same = g->mask == mask && g->what == what && same_site(g->site, site);
        if (same)
            return g;
        if (g->mask & me && g->here & mask)
            q3_emu_stop(site,
                        "%s with mask %08x while lanes %08x of the warp wait in %s with mask %08x at %s:%d",
                        name, mask, g->here, g->name, g->mask, g->site.file, g->site.line);
    }
    warp_group *g = &w->groups[w->n_groups++];
    *g = warp_group{ mask, 0, what, name, site };
    return g;
}

void q3_emu_warp(q3_emu_collective *what, const char *name, uint32_t mask, void *args, q3_emu_site site)
{
    emu_thread *t = m->self;
    emu_warp *w = t->warp;
    uint32_t me = 1u << t->lane;
    if (mask & ~(w->present & ~w->left) || !(mask & me))
        refuse_mask(w, name, mask, site);
    warp_group *g = group_of(w, what, name, mask, site);
    w->args[t->lane] = args;
    if ((g->here |= me) != mask) {
        t->name = name, t->mask = mask, t->site = site;
        w->waiting |= me;
        wait_turn();
        return;
    }
    what(w->args, mask);
    *g = w->groups[--w->n_groups];
    w->waiting &= ~mask;
    make_ready(w, m->schedule > 1 ? mask : mask & ~me);
    if (m->schedule > 1)
        wait_turn();
}

/* Shared memory. */

void *q3_emu_shared(q3_emu_shared_mark *mark, size_t bytes, const char *name, q3_emu_site site)
{
    if (mark->block == m->block)
        return mark->at;
    m->static_bytes += bytes;
    if (m->static_bytes > STATIC_BYTES)
        q3_emu_stop(site, "with `%s` the block has %zu bytes of static shared memory; 49152 are allowed",
                    name, m->static_bytes);
    char *at = m->shared + m->static_at;
    m->static_at += (bytes + RED_ZONE + 15) / 16 * 16;
#ifdef Q3_EMU_ASAN
    ASAN_UNPOISON_MEMORY_REGION(at, bytes);
#endif
    memset(at, 0xff, bytes);
    mark->block = m->block;
    mark->at = at;
    return at;
}

bool q3_emu_in_shared(const void *p, size_t bytes)
{
    size_t at = (size_t)((const char *)p - m->shared); // huge when below
    return at + bytes <= m->static_at && at < m->static_at;
}

static void begin_shared(void)
{
    size_t bytes = m->launch.shared_bytes;
    m->static_bytes = 0;
    m->static_at = (bytes + RED_ZONE + SHARED_ALIGN - 1) / SHARED_ALIGN * SHARED_ALIGN;
#ifdef Q3_EMU_ASAN
    ASAN_POISON_MEMORY_REGION(m->shared, SHARED_BYTES);
    ASAN_UNPOISON_MEMORY_REGION(m->shared, bytes);
#endif
    memset(m->shared, 0xff, bytes);
}

/* cp.async: nothing arrives before the wait, and what was there is gone at once. */

void q3_emu_copy_async(void *shared, const void *global, bool wanted, q3_emu_site site)
{
    if ((uintptr_t)shared % 16 || !q3_emu_in_shared(shared, 16))
        q3_emu_stop(site,
                    "q3_copy_async16 writes %p, which is not 16 aligned bytes of the block's shared memory",
                    shared);
    if ((uintptr_t)global % 16)
        q3_emu_stop(site, "q3_copy_async16 reads %p, which is not aligned to 16 bytes", global);
    memset(shared, 0xff, 16);
    m->self->copies.push_back(async_copy{ shared, wanted ? global : NULL, m->self->group });
}

void q3_emu_copy_commit(void)
{
    m->self->group++;
}

void q3_emu_copy_wait(int newest)
{
    emu_thread *t = m->self;
    size_t done = 0;
    for (; done < t->copies.size() && t->copies[done].group < t->group - newest; done++) {
        const async_copy &c = t->copies[done];
        if (c.from)
            memcpy(c.to, c.from, 16);
        else
            memset(c.to, 0, 16);
    }
    t->copies.erase(t->copies.begin(), t->copies.begin() + (ptrdiff_t)done);
}

/* Tensor cores. */

typedef float float8 __attribute__((vector_size(32)));

/* d [16, 8] += a [16, 16] b [16, 8], each sum in the order of its depth. */
static inline __attribute__((always_inline)) void multiply(float (*d)[8], const float (*a)[16],
                                                           const float (*b)[8])
{
    for (int half = 0; half < 16; half += 8) { // eight rows of sums stay in registers
        float8 sum[8];
        memcpy(sum, d[half], sizeof sum);
        for (int k = 0; k < 16; k++) {
            float8 row;
            memcpy(&row, b[k], sizeof row);
            for (int i = 0; i < 8; i++)
                sum[i] += a[half + i][k] * row;
        }
        memcpy(d[half], sum, sizeof sum);
    }
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) static void multiply_avx2(float (*d)[8], const float (*a)[16],
                                                          const float (*b)[8])
{
    multiply(d, a, b);
}
#endif
static void multiply_portable(float (*d)[8], const float (*a)[16], const float (*b)[8])
{
    multiply(d, a, b);
}

static inline void unpack(float *to, uint32_t pair)
{
    to[0] = __uint_as_float(pair << 16);
    to[1] = __uint_as_float(pair & 0xffff0000u);
}

void q3_emu_mma_bf16(void *const (&lanes)[32], uint32_t)
{
    alignas(32) float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < LANES; lane++) {
        const q3_emu_mma *p = (const q3_emu_mma *)lanes[lane];
        int g = lane / 4, t = 2 * (lane % 4);
        for (int i = 0; i < 4; i++)
            unpack(&a[g + i % 2 * 8][t + i / 2 * 8], p->a[i]);
        for (int i = 0; i < 2; i++) {
            b[t + 8 * i][g] = __uint_as_float(p->b[i] << 16);
            b[t + 8 * i + 1][g] = __uint_as_float(p->b[i] & 0xffff0000u);
            memcpy(&d[g + 8 * i][t], &p->d[2 * i], 2 * sizeof(float));
        }
    }
#if defined(__x86_64__)
    static const bool avx2 = __builtin_cpu_supports("avx2");
    (avx2 ? multiply_avx2 : multiply_portable)(d, a, b);
#else
    multiply_portable(d, a, b);
#endif
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 2; i++)
            memcpy(&((q3_emu_mma *)lanes[lane])->d[2 * i], &d[lane / 4 + 8 * i][2 * (lane % 4)],
                   2 * sizeof(float));
}

void q3_emu_ldmatrix4(void *const (&lanes)[32], uint32_t)
{
    for (int matrix = 0; matrix < 4; matrix++)
        for (int lane = 0; lane < LANES; lane++) {
            const q3_emu_ldmatrix *row = (const q3_emu_ldmatrix *)lanes[8 * matrix + lane / 4];
            ((q3_emu_ldmatrix *)lanes[lane])->r[matrix] = ((const uint32_t *)row->row)[lane % 4];
        }
}

void q3_emu_ldmatrix4_trans(void *const (&lanes)[32], uint32_t)
{
    for (int matrix = 0; matrix < 4; matrix++) {
        const uint16_t *row[8];
        for (int i = 0; i < 8; i++)
            row[i] = (const uint16_t *)((const q3_emu_ldmatrix *)lanes[8 * matrix + i])->row;
        for (int lane = 0; lane < LANES; lane++) {
            int column = lane / 4, i = 2 * (lane % 4);
            ((q3_emu_ldmatrix *)lanes[lane])->r[matrix] = row[i][column] | (uint32_t)row[i + 1][column] << 16;
        }
    }
}

/* Launches. */

static void find_host_stack(fiber *host)
{
#if defined(Q3_EMU_ASAN)
    pthread_attr_t attributes;
    void *stack;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &stack, &host->stack_bytes);
    pthread_attr_destroy(&attributes);
    host->stack = (char *)stack;
#else
    (void)host;
#endif
}

struct machine_owner { /* ends with its host thread */
    machine *machine_ = NULL;
    ~machine_owner()
    {
        if (!machine_)
            return;
        for (fiber *f : machine_->fibers) {
            munmap(f->stack, f->stack_bytes);
            delete f;
        }
        munmap(machine_->shared, SHARED_BYTES);
        delete machine_;
        m = NULL;
    }
};
static thread_local machine_owner owner;

static void machine_new(void)
{
    m = owner.machine_ = new machine();
    find_host_stack(&m->host);
    m->current = &m->host;
    m->shared = (char *)mmap(NULL, SHARED_BYTES, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m->shared == MAP_FAILED) {
        fprintf(stderr, "cuda_emu: no memory for a block's shared memory\n");
        abort();
    }
}

static void begin_threads(void)
{
    const dim3 &block = m->launch.block;
    uint3 index = { 0, 0, 0 };
    for (int i = 0; i < m->n; i++) {
        m->threads[i].index = index;
        m->threads[i].lane = i % LANES;
        m->threads[i].warp = &m->warps[i / LANES];
        if (++index.x == block.x) {
            index.x = 0;
            if (++index.y == block.y)
                index.y = 0, index.z++;
        }
    }
}

static void run_block(int64_t number)
{
    const dim3 &grid = m->launch.grid;
    q3_emu_now.block.x = (unsigned)(number % grid.x);
    q3_emu_now.block.y = (unsigned)(number / grid.x % grid.y);
    q3_emu_now.block.z = (unsigned)(number / grid.x / grid.y);
    m->block++;
    m->left = m->at_barrier = 0;
    begin_shared();
    for (int i = 0; i < m->n; i++) {
        m->threads[i].on = NULL;
        m->threads[i].copies.clear(); // what nobody waited for arrives too late
        m->threads[i].group = 0;
    }
    for (int i = 0; i * LANES < m->n; i++) {
        int lanes = m->n - i * LANES;
        emu_warp *w = &m->warps[i];
        w->present = lanes < LANES ? (1u << lanes) - 1 : 0xffffffffu;
        w->left = w->ready = w->waiting = w->blocked = 0;
        w->n_groups = 0;
        make_ready(w, w->present);
    }
    emu_thread *first = take_next();
    become(first);
    first->on = take_fiber();
    switch_to(first->on);
}

/* i of n, in an order that visits every block once. */
static int64_t block_at(int64_t i, int64_t n, int64_t start, int64_t step)
{
    if (m->schedule < 2)
        return m->schedule == 1 ? n - 1 - i : i;
    return (start + i % n * step) % n;
}

static int64_t common_divisor(int64_t a, int64_t b)
{
    return b ? common_divisor(b, a % b) : a;
}

void q3_emu_run(const q3_emu_launch &launch, void *args)
{
    if (!m)
        machine_new();
    const char *schedule = getenv("Q3_CUDA_EMU_SCHEDULE");
    m->schedule = schedule ? atoi(schedule) : 0;
    m->random =
        0x9e3779b97f4a7c15u * (uint64_t)(m->schedule + 1); // the golden ratio: any odd number would do
    m->launch = launch;
    m->args = args;
    m->n = (int)(launch.block.x * launch.block.y * launch.block.z);
    q3_emu_now.threads = make_uint3(launch.block.x, launch.block.y, launch.block.z);
    q3_emu_now.blocks = make_uint3(launch.grid.x, launch.grid.y, launch.grid.z);
    q3_emu_now.dynamic_shared = m->shared;
    begin_threads();
    int64_t blocks = (int64_t)launch.grid.x * launch.grid.y * launch.grid.z;
    int64_t start = next_random() % blocks, step = next_random() % blocks | 1;
    while (common_divisor(step, blocks) != 1)
        step += 2;
    for (int64_t i = 0; i < blocks; i++)
        run_block(block_at(i, blocks, start, step));
}
