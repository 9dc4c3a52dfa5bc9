#include "collate/loader.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "core/rng.h"

enum { MAX_THREADS = 64, SENTENCE = 1024 };

typedef struct slot {
    q3_arena mem;
    q3_loaded loaded;
    int64_t *indices;
    q3_sample *samples;
    q3_row *rows;
    const q3_row **order;
    int64_t number; // which batch is in it, -1 for none
    bool ready;
    q3_status status;
    char sentence[SENTENCE];
} slot;

struct q3_loader {
    q3_loader_source source;
    int64_t per_epoch;
    slot *slots;
    int n_slots;
    pthread_t threads[MAX_THREADS];
    int n_threads;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int64_t to_make; // number of the next batch that a worker takes
    int64_t to_give; // number of the next batch that the consumer gets
    double waited;   // seconds, by the consumer
    bool stop;
};

int64_t q3_loader_per_epoch(const q3_loader_source *s)
{
    return (s->n_samples + s->batch_size - 1) / s->batch_size;
}

static bool all_seen(const q3_loader_source *src, const int64_t *indices, int64_t n)
{
    if (!src->seen)
        return false;
    for (int64_t i = 0; i < n; i++)
        if (!src->seen(src->seen_arg, indices[i]))
            return false;
    return true;
}

static q3_status fill(slot *s, const q3_loader *l, const int64_t *order)
{
    const q3_loader_source *src = &l->source;
    int64_t index = s->number % l->per_epoch, begin = index * src->batch_size;
    int64_t n = src->n_samples - begin < src->batch_size ? src->n_samples - begin : src->batch_size;
    s->loaded = (q3_loaded){ .epoch = s->number / l->per_epoch, .index = index };
    s->loaded.samples = s->samples;
    s->loaded.rows = s->rows;
    if (src->wanted && !src->wanted(src->arg, s->number))
        return Q3_OK;
    memcpy(s->indices, order + begin, (size_t)n * sizeof *order);
    s->loaded.indices = s->indices;
    bool seen = all_seen(src, s->indices, n);
    for (int64_t i = 0; i < n; i++) {
        Q3_TRY(q3_dataset_get(&s->samples[i], src->data, s->indices[i]));
        s->loaded.n_samples = i + 1; // what must be freed
        Q3_TRY((seen ? q3_collate_layout : q3_collate_row)(&s->rows[i], &s->mem, src->collator,
                                                           &s->samples[i], src->training));
        s->order[i] = &s->rows[i];
        s->loaded.n_skipped += s->rows[i].skipped;
        s->loaded.n_truncated += s->rows[i].truncated;
    }
    return q3_pack(&s->loaded.batch, &s->mem, src->collator, s->order, (int)n);
}

static void empty(slot *s)
{
    for (int64_t i = 0; i < s->loaded.n_samples; i++)
        q3_sample_free(&s->samples[i]);
    s->loaded = (q3_loaded){ 0 };
    q3_arena_reset(&s->mem);
}

static void order_of_epoch(int64_t *order, const q3_loader_source *s, int64_t epoch)
{
    if (s->shuffle)
        q3_randperm(order, s->n_samples, s->seed + (uint64_t)epoch);
    else
        for (int64_t i = 0; i < s->n_samples; i++)
            order[i] = i;
}

/* The slot of the next batch to make, or NULL when the loader stops. Called with the lock held. */
static slot *take(q3_loader *l)
{
    while (!l->stop && l->to_make >= l->to_give + l->n_slots - 1) // one slot is on loan
        pthread_cond_wait(&l->changed, &l->lock);
    if (l->stop)
        return NULL;
    slot *s = &l->slots[l->to_make % l->n_slots];
    s->number = l->to_make++;
    s->ready = false;
    return s;
}

static void *work(void *arg)
{
    q3_loader *l = arg;
    int64_t *order = q3_malloc((size_t)l->source.n_samples * sizeof *order), epoch = -1;
    pthread_mutex_lock(&l->lock);
    for (slot *s; (s = take(l)) != NULL;) {
        pthread_mutex_unlock(&l->lock);
        empty(s);
        if (order && s->number / l->per_epoch != epoch)
            order_of_epoch(order, &l->source, epoch = s->number / l->per_epoch);
        s->status = order ? fill(s, l, order) : Q3_ERR_MEMORY;
        if (s->status != Q3_OK)
            snprintf(s->sentence, sizeof s->sentence, "%s", q3_error());
        pthread_mutex_lock(&l->lock);
        s->ready = true;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    q3_free(order);
    return NULL;
}

static q3_status create_slots(q3_loader *l, int n_slots)
{
    size_t n = (size_t)l->source.batch_size;
    l->slots = q3_calloc((size_t)n_slots, sizeof *l->slots);
    if (!l->slots)
        return Q3_ERR_MEMORY;
    for (; l->n_slots < n_slots; l->n_slots++) {
        slot *s = &l->slots[l->n_slots];
        s->number = -1;
        Q3_TRY(q3_arena_create(&s->mem, "batch", 2 * n * q3_collate_bytes(l->source.collator)));
        s->indices = q3_calloc(n, sizeof *s->indices);
        s->samples = q3_calloc(n, sizeof *s->samples);
        s->rows = q3_calloc(n, sizeof *s->rows);
        s->order = q3_calloc(n, sizeof *s->order);
        if (!s->indices || !s->samples || !s->rows || !s->order) {
            l->n_slots++; // this one is to be freed too
            return Q3_ERR_MEMORY;
        }
    }
    return Q3_OK;
}

q3_status q3_loader_create(q3_loader **out, const q3_loader_source *source, int64_t first, int threads,
                           int ahead)
{
    *out = NULL;
    Q3_CHECK(source->n_samples >= 1 && source->n_samples <= q3_dataset_size(source->data) &&
                 source->batch_size >= 1 && first >= 0,
             "%lld samples in batches of %lld", (long long)source->n_samples, (long long)source->batch_size);
    q3_loader *l = q3_calloc(1, sizeof *l);
    if (!l)
        return Q3_ERR_MEMORY;
    l->source = *source;
    l->per_epoch = q3_loader_per_epoch(source);
    l->to_make = l->to_give = first;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    q3_status st = create_slots(l, (ahead < 1 ? 1 : ahead) + 1); // one is on loan
    threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    for (int i = 0; st == Q3_OK && i < threads; i++) {
        if (pthread_create(&l->threads[i], NULL, work, l) != 0)
            break;
        l->n_threads = i + 1;
    }
    if (st == Q3_OK && !l->n_threads)
        st = q3_fail(Q3_ERR_FAIL, "no thread for loading data could be started");
    if (st != Q3_OK) {
        q3_loader_destroy(l);
        return st;
    }
    *out = l;
    return Q3_OK;
}

void q3_loader_destroy(q3_loader *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->n_threads; i++)
        pthread_join(l->threads[i], NULL);
    for (int i = 0; i < l->n_slots; i++) {
        slot *s = &l->slots[i];
        if (s->samples)
            empty(s);
        q3_free(s->indices);
        q3_free(s->samples);
        q3_free(s->rows);
        q3_free(s->order);
        q3_arena_destroy(&s->mem);
    }
    q3_free(l->slots);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->changed);
    q3_free(l);
}

q3_status q3_loader_next(const q3_loaded **out, q3_loader *l)
{
    pthread_mutex_lock(&l->lock);
    slot *s = &l->slots[l->to_give % l->n_slots];
    double start = q3_seconds();
    while (!(s->ready && s->number == l->to_give))
        pthread_cond_wait(&l->changed, &l->lock);
    l->waited += q3_seconds() - start;
    l->to_give++; // the slot of the batch before is free now
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    if (s->status != Q3_OK)
        return q3_fail(s->status, "%s", s->sentence);
    *out = &s->loaded;
    return Q3_OK;
}

double q3_loader_waited(const q3_loader *l)
{
    return l->waited;
}
