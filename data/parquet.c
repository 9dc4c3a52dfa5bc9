#include "data/parquet.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "data/parquet_codec.h"
#include "data/parquet_columns.h"
#include "data/parquet_files.h"
#include "data/shards.h"
#include "data/temporary.h"

#define ROOM_LIMIT                                                                                           \
    ((uint64_t)16 << 30) // that a row group unpacks to, as of a member in data/archive_members.c

enum { COLUMNS = Q3_PARQUET_FIELDS + 2 }; // picture and its path behind the fields

typedef struct file {
    q3_map map;
    char *path, *dir; // where relative paths begin
    q3_parquet_meta meta;
    q3_parquet_columns columns;
} file;

typedef struct group {
    const file *file;
    int64_t index, first, n;           // in the file, of its first row among all rows, rows
    int64_t first_in_file;             // rows before it in the file
    pthread_mutex_t lock;              // while it is decoded
    char *refused;                     // why it cannot be decoded
    atomic_bool ready;                 // what follows is there
    q3_parquet_value *values;          // [columns in use, n]
    q3_parquet_value *column[COLUMNS]; // [n] inside them; NULL: not in use
    q3_map room;                       // what was unpacked
} group;

typedef struct parquet {
    q3_data_keys keys;
    file *files;
    int64_t n_files;
    group *groups;
    int64_t n_groups;
    int64_t size;
} parquet;

q3_status q3_parquet_check(const char *path)
{
    return q3_shards_check(path, strlen(path));
}

/* The leaf of one of a file's COLUMNS; -1: it has none. */
static int leaf_of(const q3_parquet_columns *c, int column)
{
    if (column < Q3_PARQUET_FIELDS)
        return column < c->n ? c->fields[column].leaf : -1;
    return column == Q3_PARQUET_FIELDS ? c->picture : c->picture_path;
}

/* ---- a row group ---- */

static q3_status no_room(const file *f, const char *dir, uint64_t bytes)
{
    return q3_fail(Q3_ERR_IO,
                   "%s: no temporary file of %s in %s to unpack it to: %s; set TMPDIR to a place for it",
                   f->path, q3_bytes(bytes), dir, strerror(errno));
}

/* Memory that a temporary file stands behind, so that it need not stay. */
static q3_status make_room(q3_map *out, const file *f, uint64_t bytes)
{
    const char *dir;
    int fd = q3_temporary_open(&dir);
    if (fd < 0)
        return no_room(f, dir, bytes);
    errno = posix_fallocate(fd, 0, (off_t)bytes); // else a full disk would be met in the middle, by a signal
    void *at = errno ? MAP_FAILED : mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    q3_status st = at == MAP_FAILED ? no_room(f, dir, bytes) : Q3_OK;
    close(fd);
    if (st == Q3_OK)
        *out = (q3_map){ at, (size_t)bytes };
    return st;
}

static q3_status measure(uint64_t *bytes, int *n_columns, const group *g)
{
    const file *f = g->file;
    const q3_parquet_chunk *chunks = f->meta.groups[g->index].chunks;
    *bytes = 0;
    *n_columns = 0;
    for (int i = 0; i < COLUMNS; i++) {
        int leaf = leaf_of(&f->columns, i);
        if (leaf < 0)
            continue;
        ++*n_columns;
        Q3_TRY(q3_parquet_measure(bytes, g->n, &f->map, &chunks[leaf], &f->meta.leaves[leaf]));
    }
    if (*bytes > ROOM_LIMIT)
        return q3_fail(Q3_ERR_DATA, "it unpacks to more than %s; write smaller row groups",
                       q3_bytes(ROOM_LIMIT));
    return Q3_OK;
}

static q3_status decode_columns(group *g)
{
    const file *f = g->file;
    const q3_parquet_chunk *chunks = f->meta.groups[g->index].chunks;
    unsigned char *at = (unsigned char *)(uintptr_t)g->room.data;
    q3_parquet_room room = { at, at ? at + g->room.size : NULL };
    q3_parquet_value *values = g->values;
    for (int i = 0; i < COLUMNS; i++) {
        int leaf = leaf_of(&f->columns, i);
        if (leaf < 0)
            continue;
        Q3_TRY(q3_parquet_decode(values, g->n, &room, &f->map, &chunks[leaf], &f->meta.leaves[leaf]));
        g->column[i] = values;
        values += g->n;
    }
    return Q3_OK;
}

static q3_status decode(group *g)
{
    uint64_t bytes;
    int n_columns;
    Q3_TRY(measure(&bytes, &n_columns, g));
    if (bytes > 0)
        Q3_TRY(make_room(&g->room, g->file, bytes));
    g->values = q3_calloc((size_t)n_columns * (size_t)g->n, sizeof *g->values);
    return g->values ? decode_columns(g) : Q3_ERR_MEMORY;
}

static void forget(group *g)
{
    q3_free(g->values);
    q3_map_close(&g->room);
    g->values = NULL;
}

/* Decodes once; damage stays what it is, other failures may pass. */
static q3_status decode_once(group *g)
{
    if (g->refused)
        return q3_fail(Q3_ERR_DATA, "%s", g->refused);
    q3_status st = decode(g);
    if (st == Q3_OK) {
        atomic_store_explicit(&g->ready, true, memory_order_release);
        return st;
    }
    forget(g);
    if (st == Q3_ERR_DATA) {
        q3_wrap(st, "%s: row group %lld", g->file->path, (long long)g->index + 1);
        g->refused = q3_strdup(q3_error());
    }
    return g->refused || st != Q3_ERR_DATA ? st : Q3_ERR_MEMORY;
}

static q3_status need(group *g)
{
    q3_status st = Q3_OK;
    if (atomic_load_explicit(&g->ready, memory_order_acquire))
        return Q3_OK;
    pthread_mutex_lock(&g->lock);
    if (!atomic_load_explicit(&g->ready, memory_order_relaxed))
        st = decode_once(g);
    pthread_mutex_unlock(&g->lock);
    return st;
}

/* ---- samples ---- */

/* What sample.c makes the rest of: the fields of the row, and the picture's path where it has no bytes. */
static q3_status fill(q3_json *doc, const group *g, int64_t row, bool has_bytes)
{
    const q3_parquet_columns *c = &g->file->columns;
    for (int i = 0; i < c->n; i++)
        Q3_TRY(q3_parquet_add_field(doc->root, &c->fields[i], &g->file->meta.leaves[c->fields[i].leaf],
                                    &g->column[i][row]));
    if (has_bytes || c->picture_path < 0 || !g->column[COLUMNS - 1][row].bytes)
        return Q3_OK;
    const q3_parquet_field path = { .key = c->image_key };
    return q3_parquet_add_field(doc->root, &path, &g->file->meta.leaves[c->picture_path],
                                &g->column[COLUMNS - 1][row]);
}

/* The name of the bytes (heap), NULL where they have none. */
static q3_status picture_name(char **out, const group *g, int64_t row)
{
    const q3_parquet_value *path = g->column[COLUMNS - 1] ? &g->column[COLUMNS - 1][row] : NULL;
    *out = NULL;
    if (!path || !path->bytes || path->size == 0)
        return Q3_OK;
    return q3_parquet_text(out, &g->file->meta.leaves[g->file->columns.picture_path], path);
}

static q3_status lend_picture(q3_sample *s, const group *g, int64_t row, const q3_parquet_value *picture)
{
    char *name;
    Q3_TRY(picture_name(&name, g, row));
    return q3_sample_lend_image(s, picture->bytes, picture->size, name);
}

static q3_status make(q3_sample *out, q3_json *doc, const group *g, int64_t row, const q3_data_keys *keys)
{
    q3_data_keys own = *keys;
    const q3_parquet_value *picture = g->column[COLUMNS - 2] ? &g->column[COLUMNS - 2][row] : NULL;
    const q3_parquet_value *first = picture                  ? picture
                                    : g->column[COLUMNS - 1] ? &g->column[COLUMNS - 1][row]
                                                             : NULL;
    if (first && first->count > 1)
        return q3_fail(Q3_ERR_DATA, "%s: \"%s\" holds %u pictures, and a sample has one", doc->name,
                       g->file->columns.image_key, (unsigned)first->count);
    bool has_bytes = picture && picture->bytes;
    q3_status st = fill(doc, g, row, has_bytes);
    if (st != Q3_OK)
        return q3_wrap(st, "%s", doc->name);
    if (has_bytes) {
        own.image_key = ""; // of no column
        own.allow_text_only = true;
    }
    Q3_TRY(q3_sample_parse(out, doc, &own, g->file->dir, doc->name));
    if (!has_bytes)
        return Q3_OK;
    return q3_wrap(lend_picture(out, g, row, picture), "%s", doc->name);
}

static group *find_group(const parquet *p, int64_t index)
{
    int64_t low = 0, high = p->n_groups; // the last one that begins at index or before
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (p->groups[middle].first <= index)
            low = middle;
        else
            high = middle;
    }
    return &p->groups[low];
}

static q3_status get(q3_sample *out, const void *self, int64_t index)
{
    const parquet *p = self;
    group *g = find_group(p, index);
    char where[4200];
    *out = (q3_sample){ 0 };
    Q3_TRY(need(g));
    int64_t row = index - g->first;
    snprintf(where, sizeof where, "%s:%lld", g->file->path, (long long)(g->first_in_file + row + 1));
    q3_json doc = { .root = cJSON_CreateObject(), .text = "", .name = where };
    if (!doc.root)
        return q3_fail(Q3_ERR_MEMORY, "%s: no memory for a sample", where);
    q3_status st = make(out, &doc, g, row, &p->keys);
    cJSON_Delete(doc.root);
    if (st != Q3_OK)
        q3_sample_free(out);
    return st;
}

static int64_t size(const void *self)
{
    return ((const parquet *)self)->size;
}

/* ---- opening ---- */

static q3_status open_file(file *f, const char *path, const q3_data_keys *keys)
{
    f->path = q3_strdup(path);
    f->dir = f->path ? q3_path_dir(path) : NULL;
    if (!f->dir)
        return Q3_ERR_MEMORY;
    Q3_TRY(q3_status_as(q3_map_open(&f->map, path), Q3_ERR_DATA));
    Q3_TRY(q3_parquet_meta_read(&f->meta, &f->map, f->path));
    return q3_parquet_columns_find(&f->columns, &f->meta, keys);
}

static void add_groups(parquet *p, const file *f)
{
    int64_t before = 0;
    for (int64_t i = 0; i < f->meta.n_groups; i++) {
        int64_t n = f->meta.groups[i].n_rows;
        group *g = &p->groups[p->n_groups];
        if (n == 0)
            continue;
        *g = (group){ .file = f, .index = i, .first = p->size, .n = n, .first_in_file = before };
        pthread_mutex_init(&g->lock, NULL);
        p->n_groups++;
        p->size += n;
        before += n;
    }
}

static void tell_unpacked(const parquet *p, const char *path)
{
    uint64_t bytes = 0;
    for (int64_t i = 0; i < p->n_groups; i++)
        for (int k = 0; k < COLUMNS; k++) {
            const group *g = &p->groups[i];
            int leaf = leaf_of(&g->file->columns, k);
            const q3_parquet_chunk *c = leaf < 0 ? NULL : &g->file->meta.groups[g->index].chunks[leaf];
            bytes += c && c->codec != Q3_PARQUET_RAW ? (uint64_t)c->unpacked : 0;
        }
    if (bytes)
        q3_info("data        %s: %s are unpacked in a temporary file as they are needed", path,
                q3_bytes(bytes));
}

static q3_status open_all(parquet *p, const q3_parquet_files *files, const char *path)
{
    int64_t n_groups = 0;
    p->files = q3_calloc((size_t)files->n, sizeof *p->files);
    if (!p->files)
        return Q3_ERR_MEMORY;
    while (p->n_files < files->n) {
        file *f = &p->files[p->n_files++];
        Q3_TRY(open_file(f, files->paths[p->n_files - 1], &p->keys));
        n_groups += f->meta.n_groups;
    }
    p->groups = q3_calloc((size_t)n_groups + 1, sizeof *p->groups);
    if (!p->groups)
        return Q3_ERR_MEMORY;
    for (int64_t i = 0; i < p->n_files; i++)
        add_groups(p, &p->files[i]);
    if (p->size == 0)
        return q3_fail(Q3_ERR_DATA, "%s: holds no rows", path);
    tell_unpacked(p, path);
    return Q3_OK;
}

static void close_parquet(void *self)
{
    parquet *p = self;
    for (int64_t i = 0; i < p->n_groups; i++) {
        forget(&p->groups[i]);
        q3_free(p->groups[i].refused);
        pthread_mutex_destroy(&p->groups[i].lock);
    }
    for (int64_t i = 0; i < p->n_files; i++) {
        file *f = &p->files[i];
        q3_parquet_columns_free(&f->columns);
        q3_parquet_meta_free(&f->meta);
        q3_map_close(&f->map);
        q3_free(f->dir);
        q3_free(f->path);
    }
    q3_free(p->groups);
    q3_free(p->files);
    q3_free(p);
}

static q3_status open_parquet(void **self, const char *path, const q3_data_keys *keys)
{
    q3_parquet_files files;
    *self = NULL;
    Q3_TRY(q3_parquet_files_find(&files, path, keys->split));
    parquet *p = q3_calloc(1, sizeof *p);
    q3_status st = Q3_ERR_MEMORY;
    if (p) {
        p->keys = *keys;
        st = open_all(p, &files, path);
    }
    q3_parquet_files_free(&files);
    if (st == Q3_OK)
        *self = p;
    else if (p)
        close_parquet(p);
    return st;
}

const q3_source q3_source_parquet = { q3_parquet_accepts, open_parquet, size, get, close_parquet };
