#include "kernels/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* One round of work at a time. A worker spins briefly for the next round, then sleeps: rounds follow each other within
 * microseconds during a step, and minutes may pass between steps. */
enum { MAX_THREADS = 256, SPINS = 20000 };

static struct {
    pthread_t threads[MAX_THREADS];
    int n; // threads in all, the caller included
    pthread_t owner;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    _Atomic uint64_t round;
    _Atomic int running; // workers that have not finished the round
    bool stop;
    q3_job *job;
    void *arg;
    int64_t count, grain;
    int parts;
} pool = { .n = 1, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER };

static _Thread_local bool inside;

static void run_part(int part)
{
    int64_t blocks = (pool.count + pool.grain - 1) / pool.grain;
    int64_t begin = blocks * part / pool.parts * pool.grain;
    int64_t end = blocks * (part + 1) / pool.parts * pool.grain;
    if (end > pool.count)
        end = pool.count;
    if (begin < end)
        pool.job(pool.arg, begin, end, part);
}

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void *worker(void *arg)
{
    int index = (int)(intptr_t)arg;
    inside = true;
    for (uint64_t seen = 0;;) {
        for (int i = 0; i < SPINS && atomic_load_explicit(&pool.round, memory_order_acquire) == seen; i++)
            relax();
        pthread_mutex_lock(&pool.lock);
        while (atomic_load(&pool.round) == seen && !pool.stop)
            pthread_cond_wait(&pool.wake, &pool.lock);
        seen = atomic_load(&pool.round);
        bool stop = pool.stop;
        pthread_mutex_unlock(&pool.lock);
        if (stop)
            return NULL;
        if (index < pool.parts)
            run_part(index);
        atomic_fetch_sub_explicit(&pool.running, 1, memory_order_release);
    }
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

int q3_pool_threads(void) { return pool.n; }

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
    pool.parts = blocks < pool.n ? (int)blocks : pool.n;
    atomic_store(&pool.running, pool.n - 1);
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.round, 1);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    inside = true;
    run_part(0);
    inside = false;
    for (int i = 0; atomic_load_explicit(&pool.running, memory_order_acquire) > 0; i++)
        if (i < SPINS)
            relax();
        else
            sched_yield(); // a worker was put aside: let it have this processor
}
