#include "kernels/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* One round of work at a time, cut into at most as many parts as there are threads. Every thread begins with
 * the part of its own number (whose data its caches know) and then takes what nobody has begun, the caller as
 * well: a worker that is asleep or put aside by the system holds nobody up. Workers spin briefly for the next
 * round, then sleep: rounds follow each other within microseconds during a step, and minutes may pass between
 * steps. */
enum { MAX_THREADS = 256, SPINS = 4000, PART_BITS = 16, PART_MASK = (1 << PART_BITS) - 1 };

static struct {
    pthread_t threads[MAX_THREADS];
    int n; // threads in all, the caller included
    pthread_t owner;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    _Atomic uint64_t round;                // its number, then PART_BITS for how many parts it has
    _Atomic uint64_t claimed[MAX_THREADS]; // by part: the number of the last round in which it was begun
    _Atomic int unfinished;                // parts of the round
    _Atomic int sleepers;
    bool stop;
    q3_job *job;
    void *arg;
    int64_t count, grain;
} pool = { .n = 1, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER };

static _Thread_local bool inside;

static void run_part(int part, int parts, int thread)
{
    int64_t blocks = (pool.count + pool.grain - 1) / pool.grain;
    int64_t begin = blocks * part / parts * pool.grain;
    int64_t end = blocks * (part + 1) / parts * pool.grain;
    if (end > pool.count)
        end = pool.count;
    if (begin < end)
        pool.job(pool.arg, begin, end, thread);
    atomic_fetch_sub_explicit(&pool.unfinished, 1, memory_order_release);
}

/* Takes parts of round `word` until all have been begun. A part that can still be claimed keeps the round
 * open, so what the pool says about the job is true from the claim to the end of the part. */
static void run_parts(uint64_t word, int thread)
{
    uint64_t number = word >> PART_BITS;
    int parts = (int)(word & PART_MASK);
    for (int i = 0; i < parts; i++) {
        int part = (thread + i) % parts;
        uint64_t last = atomic_load(&pool.claimed[part]);
        if (last < number && atomic_compare_exchange_strong(&pool.claimed[part], &last, number))
            run_part(part, parts, thread);
    }
}

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* The next round after `seen`; the same one when the pool stops. */
static uint64_t next_round(uint64_t seen)
{
    for (int i = 0; i < SPINS; i++, relax()) {
        uint64_t word = atomic_load_explicit(&pool.round, memory_order_acquire);
        if (word != seen)
            return word;
    }
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.sleepers, 1); // from here on a new round is announced through `wake`
    while (atomic_load(&pool.round) == seen && !pool.stop)
        pthread_cond_wait(&pool.wake, &pool.lock);
    atomic_fetch_sub(&pool.sleepers, 1);
    pthread_mutex_unlock(&pool.lock);
    return atomic_load(&pool.round);
}

static void *worker(void *arg)
{
    int index = (int)(intptr_t)arg;
    inside = true;
    for (uint64_t seen = 0, word; (word = next_round(seen)) != seen; seen = word)
        run_parts(word, index);
    return NULL;
}

static int available_processors(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

void q3_pool_start(int threads)
{
    q3_pool_stop();
    if (threads <= 0)
        threads = available_processors();
    pool.n = 1;
    pool.stop = false;
    pool.owner = pthread_self();
    atomic_store(&pool.round, 0);
    for (int i = 0; i < MAX_THREADS; i++)
        atomic_store(&pool.claimed[i], 0);
    for (int i = 1; i < threads && i < MAX_THREADS; i++) {
        if (pthread_create(&pool.threads[i], NULL, worker, (void *)(intptr_t)i) != 0)
            break; // fewer threads are slower, not wrong
        pool.n = i + 1;
    }
}

void q3_pool_stop(void)
{
    if (pool.n > 1) {
        pthread_mutex_lock(&pool.lock);
        pool.stop = true;
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.lock);
        for (int i = 1; i < pool.n; i++)
            pthread_join(pool.threads[i], NULL);
    }
    pool.n = 1;
}

int q3_pool_threads(void)
{
    return pool.n;
}

void q3_parallel(int64_t n, int64_t grain, q3_job *job, void *arg)
{
    if (n <= 0)
        return;
    int64_t blocks = (n + grain - 1) / grain;
    if (pool.n == 1 || blocks == 1 || inside || !pthread_equal(pool.owner, pthread_self())) {
        job(arg, 0, n, 0);
        return;
    }
    pool.job = job;
    pool.arg = arg;
    pool.count = n;
    pool.grain = grain;
    int parts = blocks < pool.n ? (int)blocks : pool.n;
    uint64_t number = (atomic_load(&pool.round) >> PART_BITS) + 1;
    uint64_t word = number << PART_BITS | (uint64_t)parts;
    atomic_store(&pool.unfinished, parts);
    atomic_store(&pool.round, word);
    if (atomic_load(&pool.sleepers)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.lock);
    }
    inside = true;
    run_parts(word, 0);
    inside = false;
    for (int i = 0; atomic_load_explicit(&pool.unfinished, memory_order_acquire) > 0; i++)
        if (i < SPINS)
            relax();
        else
            sched_yield(); // a worker was put aside within its part: let it have this processor
}
