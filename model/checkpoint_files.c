#include "model/checkpoint_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"

enum { MAX_INDEX = 64 << 20, MAX_SHARDS = 1000, MAX_NAME = 512 };

typedef struct entry {
    char *name; // normalized
    const q3_st_tensor *tensor;
    const q3_safetensors *file;
    bool used;
} entry;

struct q3_weights {
    char *dir;
    int n_files;
    q3_safetensors **files;
    int64_t n;
    entry *entries; // by name
};

/* ---- names ---- */

static bool strip(const char **name, const char *prefix)
{
    size_t n = strlen(prefix);
    if (strncmp(*name, prefix, n) != 0)
        return false;
    *name += n;
    return true;
}

static bool starts(const char *name, const char *prefix)
{
    return strip(&name, prefix);
}

bool q3_weights_normalize(char *out, size_t out_bytes, const char *name)
{
    const char *room = "model.language_model.";
    strip(&name, "model.");
    while (strip(&name, "language_model."))
        ;
    if (starts(name, "visual.")) {
        room = "model.";
    } else {
        strip(&name, "model.");
        if (starts(name, "lm_head."))
            room = "";
        else if (!starts(name, "embed_tokens.") && !starts(name, "layers.") && !starts(name, "norm."))
            return false;
    }
    return snprintf(out, out_bytes, "%s%s", room, name) < (int)out_bytes;
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

static q3_status add_entry(q3_weights *w, const q3_safetensors *file, const q3_st_tensor *t)
{
    char name[MAX_NAME];
    if (!q3_weights_normalize(name, sizeof name, t->name))
        return q3_fail(Q3_ERR_MODEL, "%s: tensor %.200s belongs to no part of Qwen3-VL or Qwen3",
                       q3_safetensors_path(file), t->name);
    entry *e = &w->entries[w->n];
    *e = (entry){ .name = q3_strdup(name), .tensor = t, .file = file };
    if (!e->name)
        return Q3_ERR_MEMORY;
    w->n++;
    return Q3_OK;
}

static q3_status list_tensors(q3_weights *w)
{
    int64_t total = 0;
    for (int i = 0; i < w->n_files; i++)
        total += q3_safetensors_count(w->files[i]);
    if (!(w->entries = q3_malloc(sizeof *w->entries * (size_t)total)))
        return Q3_ERR_MEMORY;
    for (int i = 0; i < w->n_files; i++)
        for (int64_t k = 0; k < q3_safetensors_count(w->files[i]); k++)
            Q3_TRY(add_entry(w, w->files[i], q3_safetensors_at(w->files[i], k)));
    qsort(w->entries, (size_t)w->n, sizeof *w->entries, compare_entries);
    for (int64_t i = 1; i < w->n; i++) {
        const entry *a = &w->entries[i - 1], *b = &w->entries[i];
        if (strcmp(a->name, b->name) == 0)
            return q3_fail(Q3_ERR_MODEL, "%s: tensor %s of %s and tensor %s of %s are both %s", w->dir,
                           a->tensor->name, q3_path_base(q3_safetensors_path(a->file)), b->tensor->name,
                           q3_path_base(q3_safetensors_path(b->file)), a->name);
    }
    return Q3_OK;
}

/* ---- files ---- */

static q3_status open_file(q3_weights *w, const char *name)
{
    char *path = q3_path_join(w->dir, name);
    q3_status st = path ? Q3_OK : Q3_ERR_MEMORY;
    if (path && !q3_file_exists(path))
        st = q3_fail(Q3_ERR_MODEL, "%s is missing; is the download complete?", path);
    if (st == Q3_OK)
        st = q3_status_as(q3_safetensors_open(&w->files[w->n_files], path), Q3_ERR_MODEL);
    w->n_files += st == Q3_OK;
    q3_free(path);
    return st;
}

/* The file of that name among those open; NULL when it is not. */
static const q3_safetensors *shard(const q3_weights *w, const char *name)
{
    for (int i = w->n_files - 1; i >= 0; i--) // neighbours in the index mostly share a file
        if (strcmp(q3_path_base(q3_safetensors_path(w->files[i])), name) == 0)
            return w->files[i];
    return NULL;
}

static q3_status open_shard_of(q3_weights *w, const cJSON *item, const char *index)
{
    const char *name = cJSON_IsString(item) ? item->valuestring : "";
    if (!*name || *name == '.' || strchr(name, '/'))
        return q3_fail(Q3_ERR_MODEL, "%s: weight_map names no file of this directory for %.200s", index,
                       item->string);
    if (shard(w, name))
        return Q3_OK;
    if (w->n_files == MAX_SHARDS)
        return q3_fail(Q3_ERR_MODEL, "%s: more than %d files", index, MAX_SHARDS);
    return open_file(w, name);
}

static q3_status open_shards(q3_weights *w, const char *index)
{
    q3_json doc;
    Q3_TRY(q3_status_as(q3_json_open(&doc, index, MAX_INDEX), Q3_ERR_MODEL));
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(doc.root, "weight_map"), *item;
    q3_status st = cJSON_IsObject(map) ? Q3_OK : q3_fail(Q3_ERR_MODEL, "%s: has no weight_map", index);
    if (st == Q3_OK && !(w->files = q3_calloc(MAX_SHARDS, sizeof *w->files)))
        st = Q3_ERR_MEMORY;
    for (item = map ? map->child : NULL; item && st == Q3_OK; item = item->next) {
        st = open_shard_of(w, item, index);
        if (st == Q3_OK && !q3_safetensors_find(shard(w, item->valuestring), item->string))
            st = q3_fail(Q3_ERR_MODEL, "%s: tensor %.200s is not in %s; is the download complete?", index,
                         item->string, item->valuestring);
    }
    q3_json_close(&doc);
    return st;
}

static q3_status open_files(q3_weights *w)
{
    char *single = q3_path_join(w->dir, "model.safetensors");
    char *index = q3_path_join(w->dir, "model.safetensors.index.json");
    char *pickle = q3_path_join(w->dir, "pytorch_model.bin");
    q3_status st = single && index && pickle ? Q3_OK : Q3_ERR_MEMORY;
    if (st == Q3_OK && q3_file_exists(single))
        st = (w->files = q3_calloc(1, sizeof *w->files)) ? open_file(w, "model.safetensors") : Q3_ERR_MEMORY;
    else if (st == Q3_OK && q3_file_exists(index))
        st = open_shards(w, index);
    else if (st == Q3_OK)
        st = q3_fail(
            Q3_ERR_MODEL, "%s: there is no model.safetensors and no model.safetensors.index.json%s", w->dir,
            q3_file_exists(pickle) ? "; pickled weights are not read, save the model as safetensors" : "");
    q3_free(single);
    q3_free(index);
    q3_free(pickle);
    return st;
}

q3_status q3_weights_open(q3_weights **out, const char *dir)
{
    *out = NULL;
    q3_weights *w = q3_calloc(1, sizeof *w);
    if (!w)
        return Q3_ERR_MEMORY;
    q3_status st = (w->dir = q3_strdup(dir)) ? open_files(w) : Q3_ERR_MEMORY;
    if (st == Q3_OK)
        st = list_tensors(w);
    if (st == Q3_OK)
        *out = w;
    else
        q3_weights_close(w);
    return st;
}

void q3_weights_close(q3_weights *w)
{
    if (!w)
        return;
    for (int64_t i = 0; i < w->n; i++)
        q3_free(w->entries[i].name);
    for (int i = 0; i < w->n_files; i++)
        q3_safetensors_close(w->files[i]);
    q3_free(w->entries);
    q3_free(w->files);
    q3_free(w->dir);
    q3_free(w);
}

/* ---- lookup ---- */

int64_t q3_weights_count(const q3_weights *w)
{
    return w->n;
}

const char *q3_weights_name(const q3_weights *w, int64_t index)
{
    return w->entries[index].name;
}

const q3_st_tensor *q3_weights_at(const q3_weights *w, int64_t index)
{
    return w->entries[index].tensor;
}

const char *q3_weights_path(const q3_weights *w, int64_t index)
{
    return q3_safetensors_path(w->entries[index].file);
}

bool q3_weights_used(const q3_weights *w, int64_t index)
{
    return w->entries[index].used;
}

const char *q3_weights_dir(const q3_weights *w)
{
    return w->dir;
}

static entry *find(q3_weights *w, const char *name)
{
    const entry key = { .name = (char *)(uintptr_t)name };
    entry *e = bsearch(&key, w->entries, (size_t)w->n, sizeof key, compare_entries);
    if (e)
        e->used = true;
    return e;
}

const q3_st_tensor *q3_weights_find(q3_weights *w, const char *name)
{
    const entry *e = find(w, name);
    return e ? e->tensor : NULL;
}

q3_status q3_weights_get(const q3_st_tensor **out, q3_weights *w, const char *name, int ndim,
                         const int64_t *shape)
{
    const entry *e = find(w, name);
    *out = NULL;
    if (!e)
        return q3_fail(Q3_ERR_MODEL, "%s: there is no tensor %s; is the download complete?", w->dir, name);
    const q3_st_tensor *t = e->tensor;
    if (t->dtype != Q3_F32 && t->dtype != Q3_BF16 && t->dtype != Q3_F16)
        return q3_fail(Q3_ERR_MODEL,
                       "%s: tensor %s is %s; weights are read as F32, BF16, F16 or bitsandbytes' 4 and 8 bits",
                       q3_safetensors_path(e->file), t->name, t->dtype_name);
    q3_st_tensor want = { .ndim = ndim };
    memcpy(want.shape, shape, sizeof *shape * (size_t)ndim);
    if (t->ndim != ndim || memcmp(t->shape, shape, sizeof *shape * (size_t)ndim) != 0)
        return q3_fail(Q3_ERR_MODEL, "%s: tensor %s is %s, config.json makes it %s",
                       q3_safetensors_path(e->file), t->name, q3_st_shape(t), q3_st_shape(&want));
    *out = t;
    return Q3_OK;
}

q3_status q3_weights_all_used(const q3_weights *w)
{
    const entry *first = NULL;
    int64_t unused = 0;
    for (int64_t i = 0; i < w->n; i++) {
        if (w->entries[i].used)
            continue;
        first = first ? first : &w->entries[i];
        unused++;
    }
    if (!first)
        return Q3_OK;
    return q3_fail(Q3_ERR_MODEL, "%s: tensor %s%s has no place in the network that config.json describes",
                   q3_safetensors_path(first->file), first->tensor->name,
                   unused > 1 ? " (not the only one)" : "");
}
