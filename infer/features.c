#include "infer/features.h"

#include <stdint.h>
#include <string.h>

#include "kernels/row_store.h"

enum { NONE = -1 };

typedef struct entry {
    unsigned char hash[Q3_PICTURE_HASH_BYTES];
    const q3_adapter *adapter; // NULL where the bare tower saw it
    int32_t first;             // row; the others follow by `next`
    int64_t n;
    int64_t asked; // number of the call that last asked for it
} entry;

struct q3_features {
    const q3_model *model;
    q3_ctx *ctx;
    int64_t bytes;
    q3_arena slab;  // on the device
    q3_tensor *all; // [rows planes, H]: plane p of row r is row r planes + p
    int planes;     // the embedding's, and one a deepstack layer
    int64_t rows, n_free;
    int32_t *next; // [rows]: of a picture, or of the free rows
    int32_t free;  // first free row
    q3_tensor header;
    entry *entries;
    int n, capacity;
    int64_t calls, seen;
};

q3_status q3_features_create(q3_features **out, const q3_model *model, q3_ctx *ctx, int64_t bytes)
{
    q3_features *f = q3_calloc(1, sizeof *f);
    *out = f;
    if (!f)
        return Q3_ERR_MEMORY;
    f->model = model;
    f->ctx = ctx;
    f->bytes = bytes;
    f->planes = 1 + model->config.vision.n_deepstack;
    return Q3_OK;
}

void q3_features_destroy(q3_features *f)
{
    if (!f)
        return;
    q3_arena_destroy(&f->slab);
    q3_free(f->next);
    q3_free(f->entries);
    q3_free(f);
}

int64_t q3_picture_rows(const q3_model *model, const int32_t *grid)
{
    int64_t merge = model->config.vision.merge_size;
    return (int64_t)grid[0] * grid[1] * grid[2] / (merge * merge);
}

int64_t q3_features_seen(const q3_features *f)
{
    return f->seen;
}

/* An adapter that leaves the tower alone sees what the bare model sees. */
static const q3_adapter *eyes(const q3_picture *p)
{
    return p->adapter && p->adapter->vision ? p->adapter : NULL;
}

static entry *find(const q3_features *f, const q3_picture *p)
{
    for (int i = 0; i < f->n; i++) {
        entry *e = &f->entries[i];
        if (e->adapter == eyes(p) && memcmp(e->hash, p->hash, sizeof e->hash) == 0)
            return e;
    }
    return NULL;
}

/* A slab of this many rows, all free. */
static q3_status reserve(q3_features *f, int64_t rows)
{
    const int64_t shape[2] = { rows * f->planes, f->model->config.text.hidden_size };
    size_t bytes = q3_dtype_bytes(f->ctx->dtype, shape[0] * shape[1]);
    q3_arena_destroy(&f->slab);
    q3_free(f->next);
    f->n = 0;
    f->rows = f->n_free = 0;
    f->next = q3_malloc((size_t)rows * sizeof *f->next);
    Q3_TRY(f->next ? q3_device_arena_create(&f->slab, f->ctx->data->cuda, "features of pictures", bytes + 512)
                   : Q3_ERR_MEMORY);
    f->header = (q3_tensor){ .data = q3_arena_alloc(&f->slab, bytes),
                             .dtype = f->ctx->dtype,
                             .ndim = 2,
                             .shape = { shape[0], shape[1] } };
    if (!f->header.data)
        return Q3_ERR_MEMORY;
    f->all = f->header.root = &f->header;
    for (int64_t i = 0; i < rows; i++)
        f->next[i] = i + 1 < rows ? (int32_t)(i + 1) : NONE;
    f->rows = f->n_free = rows;
    f->free = 0;
    return Q3_OK;
}

/* Room for all pictures of a call at once. */
static q3_status hold(q3_features *f, int64_t rows)
{
    size_t row = q3_dtype_bytes(f->ctx->dtype, (int64_t)f->planes * f->model->config.text.hidden_size);
    int64_t wanted = f->bytes / (int64_t)row;
    if (f->rows >= rows)
        return Q3_OK;
    wanted = wanted > rows ? wanted : rows;
    if (wanted * f->planes > INT32_MAX)
        wanted = INT32_MAX / f->planes;
    if (rows > wanted)
        return q3_fail(Q3_ERR_LIMIT,
                       "pictures of %lld merged patches in one pass; at most %lld are supported",
                       (long long)rows, (long long)wanted);
    return reserve(f, wanted);
}

static void forget(q3_features *f, entry *e)
{
    int32_t last = e->first;
    while (f->next[last] != NONE)
        last = f->next[last];
    f->next[last] = f->free;
    f->free = e->first;
    f->n_free += e->n;
    *e = f->entries[--f->n];
}

/* Frees rows; what this call asks for stays, and the slab has room for that. */
static void make_room(q3_features *f, int64_t rows)
{
    while (f->n_free < rows) {
        entry *oldest = &f->entries[0];
        for (int i = 1; i < f->n; i++)
            if (f->entries[i].asked < oldest->asked)
                oldest = &f->entries[i];
        forget(f, oldest);
    }
}

/* An entry with rows, whose values are still to come. */
static q3_status add(q3_features *f, const q3_picture *p)
{
    if (f->n == f->capacity) {
        int capacity = f->capacity ? 2 * f->capacity : 64;
        entry *more = q3_realloc(f->entries, (size_t)capacity * sizeof *more);
        if (!more)
            return Q3_ERR_MEMORY;
        f->entries = more;
        f->capacity = capacity;
    }
    entry *e = &f->entries[f->n++];
    *e = (entry){
        .adapter = eyes(p), .first = f->free, .n = q3_picture_rows(f->model, p->grid), .asked = f->calls
    };
    memcpy(e->hash, p->hash, sizeof e->hash);
    int32_t last = f->free;
    for (int64_t i = 1; i < e->n; i++)
        last = f->next[last];
    f->free = f->next[last];
    f->next[last] = NONE;
    f->n_free -= e->n;
    return Q3_OK;
}

static void keep(q3_features *f, const q3_tensor *x, const int32_t *rows, int64_t n, int plane)
{
    q3_ctx *ctx = f->ctx;
    int32_t *places = q3_list(ctx, (size_t)n * sizeof *places);
    for (int64_t i = 0; i < n; i++)
        places[i] = rows[i] * f->planes + plane;
    const q3_row_store_args a = {
        f->all->data, x->data, q3_on_device(ctx, places, (size_t)n * sizeof *places), n,
        q3_dim(x, 1), x->dtype
    };
    Q3_CALL(ctx, q3_row_store, &a);
}

/* Patches of the pictures end to end: where they lie when it is one. */
static const float *all_patches(q3_features *f, const q3_picture *const *p, int n, int64_t patches,
                                int64_t width)
{
    if (n == 1)
        return p[0]->patches;
    float *out = q3_list(f->ctx, (size_t)(patches * width) * sizeof *out), *at = out;
    for (int i = 0; i < n; i++) {
        int64_t size = (int64_t)p[i]->grid[0] * p[i]->grid[1] * p[i]->grid[2] * width;
        memcpy(at, p[i]->patches, (size_t)size * sizeof *at);
        at += size;
    }
    return out;
}

/* Pictures with one pair of eyes through the tower; their entries are there. */
static q3_status look(q3_features *f, const q3_picture *const *p, int n)
{
    q3_ctx *ctx = f->ctx;
    q3_step_begin(ctx, false);
    int32_t *grids = q3_list(ctx, 3 * (size_t)n * sizeof *grids);
    q3_batch b = { .n_images = n, .grids = grids };
    int64_t rows = 0;
    for (int i = 0; i < n; i++) {
        memcpy(grids + 3 * (size_t)i, p[i]->grid, 3 * sizeof *grids);
        b.n_patches += (int64_t)p[i]->grid[0] * p[i]->grid[1] * p[i]->grid[2];
        rows += q3_picture_rows(f->model, p[i]->grid);
    }
    b.patches = all_patches(f, p, n, b.n_patches, q3_dim(f->model->patch_embed.w, 1));
    const q3_adapter_run run = { eyes(p[0]), 0, INT64_MAX };
    const q3_vision_features seen =
        q3_vision_forward(ctx, f->model, &(q3_forward){ .runs = &run, .n_runs = run.adapter ? 1 : 0 }, &b);
    int32_t *to = q3_list(ctx, (size_t)rows * sizeof *to), *at = to;
    for (int i = 0; i < n; at += q3_picture_rows(f->model, p[i]->grid), i++)
        q3_features_rows(at, f, p[i], 0, q3_picture_rows(f->model, p[i]->grid));
    for (int plane = 0; plane < f->planes; plane++)
        keep(f, plane ? seen.deepstack[plane - 1] : seen.merged, to, rows, plane);
    Q3_TRY(q3_ctx_status(ctx));
    f->seen += n;
    return q3_device_status(ctx->data->cuda);
}

/* Marks what is there, and gives the others places: `fresh` [n] are those, in order. */
static q3_status place(const q3_picture **fresh, int *n_fresh, q3_features *f, const q3_picture *pictures,
                       int n)
{
    int64_t rows = 0;
    f->calls++;
    for (int i = 0; i < n; i++) // a picture that occurs twice counts twice, which does no harm
        rows += q3_picture_rows(f->model, pictures[i].grid);
    Q3_TRY(hold(f, rows));
    for (int i = 0; i < n; i++) {
        entry *e = find(f, &pictures[i]);
        if (e)
            e->asked = f->calls;
    }
    for (int i = 0; i < n; i++)
        if (!find(f, &pictures[i])) {
            make_room(f, q3_picture_rows(f->model, pictures[i].grid));
            Q3_TRY(add(f, &pictures[i]));
            fresh[(*n_fresh)++] = &pictures[i];
        }
    return Q3_OK;
}

/* Those of `fresh` that the first one's adapter sees, moved to the front. */
static int same_eyes(const q3_picture **fresh, int n)
{
    int same = 0;
    for (int i = 0; i < n; i++)
        if (eyes(fresh[i]) == eyes(fresh[0])) {
            const q3_picture *p = fresh[i];
            memmove(fresh + same + 1, fresh + same, (size_t)(i - same) * sizeof *fresh);
            fresh[same++] = p;
        }
    return same;
}

q3_status q3_features_see(q3_features *f, const q3_picture *pictures, int n)
{
    if (!n)
        return Q3_OK;
    const q3_picture **fresh = q3_malloc((size_t)n * sizeof *fresh);
    if (!fresh)
        return Q3_ERR_MEMORY;
    int left = 0, done = 0;
    q3_status st = place(fresh, &left, f, pictures, n);
    for (; st == Q3_OK && done < left;) {
        int same = same_eyes(fresh + done, left - done);
        st = look(f, fresh + done, same);
        done += st ? 0 : same;
    }
    for (int i = done; i < left; i++) { // was not seen after all
        entry *e = find(f, fresh[i]);
        if (e)
            forget(f, e);
    }
    q3_free(fresh);
    return st;
}

void q3_features_rows(int32_t *out, const q3_features *f, const q3_picture *picture, int64_t begin, int64_t n)
{
    const entry *e = find(f, picture);
    Q3_CHECK(e && begin + n <= e->n, "rows %lld + %lld of a picture", (long long)begin, (long long)n);
    int32_t row = e->first;
    for (int64_t i = 0; i < begin; i++)
        row = f->next[row];
    for (int64_t i = 0; i < n; i++, row = f->next[row])
        out[i] = row;
}

q3_vision_features q3_features_take(const q3_features *f, q3_ctx *ctx, const int32_t *rows, int64_t n)
{
    q3_vision_features out = { 0 };
    for (int plane = 0; plane < f->planes; plane++) {
        int32_t *places = q3_list(ctx, (size_t)n * sizeof *places);
        for (int64_t i = 0; i < n; i++)
            places[i] = rows[i] * f->planes + plane;
        *(plane ? &out.deepstack[plane - 1] : &out.merged) = q3_get_rows(ctx, f->all, places, n);
    }
    return out;
}
