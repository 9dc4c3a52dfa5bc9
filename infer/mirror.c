#include "infer/mirror.h"

#include <string.h>

#include "core/json.h"
#include "infer/sequence.h"

/* On the way an entry is its kind, the sequence's number and one more number, and behind them what the kind has: arrays with
 * their lengths in front, each beginning at a multiple of 8 bytes. */
struct q3_mirror {
    q3_group *group;
    int64_t patch_width;
    q3_text out;
};

q3_status q3_mirror_open(q3_mirror **out, q3_group *group, int64_t patch_width)
{
    *out = NULL;
    if (!group)
        return Q3_OK;
    *out = q3_calloc(1, sizeof **out);
    if (!*out)
        return Q3_ERR_MEMORY;
    (*out)->group = group;
    (*out)->patch_width = patch_width;
    return Q3_OK;
}

void q3_mirror_close(q3_mirror *m)
{
    uint64_t end = 0;
    if (!m)
        return;
    q3_group_broadcast(m->group, &end, sizeof end, 0);
    q3_text_free(&m->out);
    q3_free(m);
}

static void put(q3_mirror *m, const void *data, size_t bytes)
{
    static const char zeros[8];
    q3_text_append(&m->out, data, bytes);
    q3_text_append(&m->out, zeros, (8 - bytes % 8) % 8);
}

static void put_number(q3_mirror *m, int64_t x)
{
    put(m, &x, sizeof x);
}

static void put_array(q3_mirror *m, const void *data, size_t bytes)
{
    put_number(m, data ? (int64_t)bytes : -1);
    if (data)
        put(m, data, bytes);
}

void q3_mirror_note(q3_mirror *m, q3_mirror_what what, uint64_t number, int64_t n)
{
    if (!m)
        return;
    put_number(m, what);
    put_number(m, (int64_t)number);
    put_number(m, n);
}

void q3_mirror_create(q3_mirror *m, uint64_t number, const q3_prompt *p, int64_t limit)
{
    if (!m)
        return;
    q3_mirror_note(m, Q3_MIRROR_CREATE, number, limit);
    put_number(m, p->adapter);
    put_array(m, p->ids, (size_t)p->n * sizeof *p->ids);
    put_array(m, p->positions, 3 * (size_t)p->n * sizeof *p->positions);
    put_array(m, p->grids, 3 * (size_t)p->n_images * sizeof *p->grids);
    put_array(m, p->patches, (size_t)(p->n_patches * m->patch_width) * sizeof *p->patches);
    put_array(m, p->image_rows, (size_t)p->n_image_rows * sizeof *p->image_rows);
    put_array(m, p->hashes, (size_t)p->n_images * sizeof *p->hashes);
}

void q3_mirror_fork(q3_mirror *m, uint64_t number, uint64_t parent)
{
    q3_mirror_note(m, Q3_MIRROR_FORK, number, (int64_t)parent);
}

void q3_mirror_push(q3_mirror *m, uint64_t number, const int32_t *ids, int64_t n)
{
    if (!m)
        return;
    q3_mirror_note(m, Q3_MIRROR_PUSH, number, n);
    put_array(m, ids, (size_t)n * sizeof *ids);
}

q3_status q3_mirror_pass(q3_mirror *m, const q3_feed *feeds, int n_feeds)
{
    if (!m)
        return Q3_OK;
    q3_mirror_note(m, Q3_MIRROR_PASS, 0, n_feeds);
    for (int i = 0; i < n_feeds; i++) {
        put_number(m, (int64_t)feeds[i].sequence->number);
        put_number(m, feeds[i].n);
    }
    if (m->out.failed)
        return Q3_ERR_MEMORY;
    uint64_t bytes = m->out.size;
    q3_group_broadcast(m->group, &bytes, sizeof bytes, 0);
    q3_group_broadcast(m->group, m->out.data, bytes, 0);
    m->out.size = 0;
    return Q3_OK;
}

/* A prompt that lives as long as a sequence or a fork of it does. */
typedef struct own_prompt {
    q3_prompt prompt;
    char *bytes; // that its arrays lie in
    int users;
} own_prompt;

typedef struct follower {
    q3_engine *e;
    const char *at, *end; // of what was sent
    q3_sequence **list;   // [n] that live
    own_prompt **prompts; // [n] of each
    int n, capacity;
} follower;

static const void *get(follower *f, size_t bytes)
{
    const char *data = f->at;
    f->at += (bytes + 7) / 8 * 8;
    Q3_CHECK(f->at <= f->end, "%zu bytes beyond what was sent", bytes);
    return data;
}

static int64_t get_number(follower *f)
{
    int64_t x;
    memcpy(&x, get(f, sizeof x), sizeof x);
    return x;
}

static const void *get_array(follower *f, size_t *bytes)
{
    int64_t n = get_number(f);
    *bytes = n > 0 ? (size_t)n : 0;
    return n >= 0 ? get(f, *bytes) : NULL;
}

static int find(const follower *f, uint64_t number)
{
    for (int i = 0; i < f->n; i++)
        if (f->list[i]->number == number)
            return i;
    Q3_CHECK(false, "there is no sequence %llu", (unsigned long long)number);
    return -1;
}

static q3_status add(follower *f, q3_sequence *s, own_prompt *p, uint64_t number)
{
    if (f->n == f->capacity) {
        int more = f->capacity ? 2 * f->capacity : 64;
        q3_sequence **list = q3_calloc((size_t)more, sizeof *list);
        own_prompt **prompts = q3_calloc((size_t)more, sizeof *prompts);
        if (!list || !prompts)
            return Q3_ERR_MEMORY;
        if (f->n) {
            memcpy(list, f->list, (size_t)f->n * sizeof *list);
            memcpy(prompts, f->prompts, (size_t)f->n * sizeof *prompts);
        }
        q3_free(f->list);
        q3_free(f->prompts);
        f->list = list;
        f->prompts = prompts;
        f->capacity = more;
    }
    Q3_CHECK(s->number == number, "sequence %llu is number %llu on the first rank",
             (unsigned long long)s->number, (unsigned long long)number);
    p->users++;
    f->list[f->n] = s;
    f->prompts[f->n++] = p;
    return Q3_OK;
}

/* The prompt's arrays are copied as a whole, for what was sent is overwritten. */
static own_prompt *read_prompt(follower *f)
{
    size_t bytes, n_ids, n_grids, n_rows, n_patches;
    own_prompt *p = q3_calloc(1, sizeof *p);
    int64_t adapter = get_number(f);
    const char *begin = f->at;
    for (int i = 0; i < 6; i++)
        get_array(f, &bytes);
    size_t all = (size_t)(f->at - begin);
    char *copy = p ? q3_malloc(all) : NULL;
    if (!copy) {
        q3_free(p);
        return NULL;
    }
    memcpy(copy, begin, all);
    follower in = { .at = copy, .end = copy + all };
    p->bytes = copy;
    p->prompt.adapter = (int)adapter;
    p->prompt.ids = get_array(&in, &n_ids);
    p->prompt.positions = get_array(&in, &bytes);
    p->prompt.grids = get_array(&in, &n_grids);
    p->prompt.patches = get_array(&in, &n_patches);
    p->prompt.image_rows = get_array(&in, &n_rows);
    p->prompt.hashes = (const unsigned char(*)[Q3_PICTURE_HASH_BYTES])(uintptr_t)get_array(&in, &bytes);
    p->prompt.n = (int64_t)(n_ids / sizeof *p->prompt.ids);
    p->prompt.n_images = (int)(n_grids / (3 * sizeof *p->prompt.grids));
    p->prompt.n_image_rows = (int64_t)(n_rows / sizeof *p->prompt.image_rows);
    p->prompt.n_patches =
        n_patches ? (int64_t)(n_patches / sizeof(float)) / q3_dim(f->e->model->patch_embed.w, 1) : 0;
    return p;
}

static void release(own_prompt *p)
{
    if (--p->users > 0)
        return;
    q3_free(p->bytes);
    q3_free(p);
}

static q3_status create(follower *f, uint64_t number, int64_t limit)
{
    q3_sequence *s;
    own_prompt *p = read_prompt(f);
    if (!p)
        return Q3_ERR_MEMORY;
    Q3_TRY(q3_sequence_create(&s, f->e, &p->prompt, limit));
    return add(f, s, p, number);
}

static q3_status fork_of(follower *f, uint64_t number, uint64_t parent)
{
    q3_sequence *s;
    int at = find(f, parent);
    Q3_TRY(q3_sequence_fork(&s, f->list[at]));
    return add(f, s, f->prompts[at], number);
}

static void destroy(follower *f, int at)
{
    q3_sequence_destroy(f->list[at]);
    release(f->prompts[at]);
    f->list[at] = f->list[--f->n];
    f->prompts[at] = f->prompts[f->n];
}

/* A pass that fails on the first rank fails here in the same way, and the first tells it. */
static q3_status run(follower *f, int n)
{
    q3_feed *feeds = q3_calloc((size_t)n + 1, sizeof *feeds);
    if (!feeds)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < n; i++) {
        feeds[i].sequence = f->list[find(f, (uint64_t)get_number(f))];
        feeds[i].n = get_number(f);
        feeds[i].want = Q3_WANT_NOTHING;
    }
    q3_engine_pass(f->e, feeds, n, NULL);
    q3_free(feeds);
    return Q3_OK;
}

static q3_status apply(follower *f)
{
    int64_t what = get_number(f);
    uint64_t number = (uint64_t)get_number(f);
    int64_t n = get_number(f);
    size_t bytes;
    switch ((q3_mirror_what)what) {
    case Q3_MIRROR_CREATE:
        return create(f, number, n);
    case Q3_MIRROR_FORK:
        return fork_of(f, number, (uint64_t)n);
    case Q3_MIRROR_DESTROY:
        return destroy(f, find(f, number)), Q3_OK;
    case Q3_MIRROR_PUSH:
        q3_sequence_push(f->list[find(f, number)], get_array(f, &bytes), n);
        return Q3_OK;
    case Q3_MIRROR_TRUNCATE:
        return q3_sequence_truncate(f->list[find(f, number)], n), Q3_OK;
    case Q3_MIRROR_EVICT:
        return q3_sequence_evict(f->list[find(f, number)]), Q3_OK;
    case Q3_MIRROR_RESERVE:
        return q3_sequence_reserve(f->list[find(f, number)], n), Q3_OK;
    case Q3_MIRROR_ADVANCE:
        return q3_sequence_advance(f->list[find(f, number)], n), Q3_OK;
    case Q3_MIRROR_PASS:
        return run(f, (int)n);
    }
    Q3_CHECK(false, "entry of kind %lld", (long long)what);
    return Q3_ERR_FAIL;
}

/* One sending: entries up to its pass. */
static q3_status follow(follower *f, q3_group *group, uint64_t bytes)
{
    char *data = q3_malloc(bytes);
    if (!data)
        return Q3_ERR_MEMORY;
    q3_group_broadcast(group, data, bytes, 0);
    f->at = data;
    f->end = data + bytes;
    q3_status st = Q3_OK;
    while (st == Q3_OK && f->at < f->end)
        st = apply(f);
    q3_free(data);
    return st;
}

q3_status q3_mirror_follow(q3_engine *e, q3_group *group)
{
    follower f = { .e = e };
    e->follows = true;
    q3_status st = Q3_OK;
    for (uint64_t bytes = 0; st == Q3_OK;) {
        q3_group_broadcast(group, &bytes, sizeof bytes, 0);
        if (!bytes)
            break;
        st = follow(&f, group, bytes);
    }
    while (f.n)
        destroy(&f, f.n - 1);
    q3_free(f.list);
    q3_free(f.prompts);
    return st;
}
