#include "data/dataset.h"

#include <string.h>

#include "core/file.h"
#include "data/archive.h"
#include "data/hub.h"
#include "data/imagefolder.h"
#include "data/jsonl.h"
#include "data/parquet.h"
#include "data/parquet_files.h"

struct q3_dataset {
    const q3_source *source;
    void *self; // of the source
};

static const q3_source *const SOURCES[] = {
    &q3_source_parquet, &q3_source_imagefolder, &q3_source_archive, &q3_source_jsonl
}; // a folder is one of pictures if it is no other

static q3_status find_source(const q3_source **out, const char *path)
{
    for (size_t i = 0; i < sizeof SOURCES / sizeof *SOURCES; i++)
        if (SOURCES[i]->accepts(path)) {
            *out = SOURCES[i];
            return Q3_OK;
        }
    if (!q3_file_exists(path))
        return q3_fail(Q3_ERR_DATA, "%s: no such data set", path);
    return q3_fail(
        Q3_ERR_DATA,
        "%s: not a kind of data set that can be read; give a .jsonl, .json or .parquet file, an archive "
        "(.tar, .tar.gz, .zip ...) or a folder with metadata.jsonl or .parquet files",
        path);
}

q3_status q3_dataset_check(const char *path)
{
    if (q3_file_exists(path) || q3_dir_exists(path))
        return Q3_OK;
    if (q3_source_archive.accepts(path))
        return q3_archive_check(path);
    return q3_source_parquet.accepts(path) ? q3_parquet_check(path)
                                           : q3_fail(Q3_ERR_DATA, "%s: is not there", path);
}

/* By its ending a file, there or not. */
static bool is_file_name(const char *path)
{
    return q3_source_jsonl.accepts(path) || q3_source_archive.accepts(path) ||
           q3_source_parquet.accepts(path);
}

bool q3_dataset_on_hub(const char *path)
{
    q3_hub_repo repo;
    return !q3_file_exists(path) && !q3_dir_exists(path) && !is_file_name(path) &&
           q3_hub_parse(&repo, path, Q3_HUB_DATASET);
}

q3_status q3_dataset_place(const char **out, q3_arena *mem, const char *path)
{
    *out = path;
    if (!q3_dataset_on_hub(path))
        return Q3_OK;
    return q3_hub_place(out, mem, path, &(q3_hub_options){ .kind = Q3_HUB_DATASET });
}

q3_status q3_dataset_has_split(bool *found, const char *dir, const char *split)
{
    char *train, *other = NULL;
    if (q3_source_parquet.accepts(dir))
        return q3_parquet_files_has(found, dir, split);
    Q3_TRY(q3_imagefolder_find(&train, dir, NULL));
    q3_status st = q3_imagefolder_find(&other, dir, split);
    *found = st == Q3_OK && strcmp(train, other) != 0;
    q3_free(train);
    q3_free(other);
    return st == Q3_ERR_MEMORY ? st : Q3_OK;
}

q3_status q3_dataset_open(q3_dataset **out, const char *path, const q3_data_keys *keys)
{
    static const q3_data_keys defaults = { 0 };
    const q3_source *source = NULL;
    *out = NULL;
    Q3_TRY(find_source(&source, path));
    q3_dataset *ds = q3_calloc(1, sizeof *ds);
    if (!ds)
        return q3_wrap(Q3_ERR_MEMORY, "%s", path);
    ds->source = source;
    q3_status st = source->open(&ds->self, path, keys ? keys : &defaults);
    if (st != Q3_OK) {
        q3_free(ds);
        return st;
    }
    *out = ds;
    return Q3_OK;
}

void q3_dataset_close(q3_dataset *ds)
{
    if (!ds)
        return;
    ds->source->close(ds->self);
    q3_free(ds);
}

int64_t q3_dataset_size(const q3_dataset *ds)
{
    return ds->source->size(ds->self);
}

q3_status q3_dataset_get(q3_sample *out, const q3_dataset *ds, int64_t index)
{
    Q3_CHECK(index >= 0 && index < q3_dataset_size(ds), "sample %lld of %lld", (long long)index,
             (long long)q3_dataset_size(ds));
    return ds->source->get(out, ds->self, index);
}
