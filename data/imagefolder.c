#include "data/imagefolder.h"

#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "data/jsonl.h"

/* Names of one split that mean the same. */
static const char *const SPLITS[][4] = {
    { "train", NULL },
    { "validation", "valid", "val", "dev" },
    { "test", "eval", NULL },
};

/* Puts the path "dir/folder/file" (folder may be NULL) into *out if that file exists, NULL otherwise. */
static q3_status probe(char **out, const char *dir, const char *folder, const char *file)
{
    char name[300];
    snprintf(name, sizeof name, "%s%s%s", folder ? folder : "", folder ? "/" : "", file);
    char *path = q3_path_join(dir, name);
    if (!path)
        return Q3_ERR_MEMORY;
    *out = q3_file_exists(path) ? path : NULL;
    if (!*out)
        q3_free(path);
    return Q3_OK;
}

/* The other names of `split`, itself included; NULL when it is a name of our users' own. */
static const char *const *names_of(const char *split)
{
    for (size_t i = 0; i < sizeof SPLITS / sizeof *SPLITS; i++)
        for (size_t k = 0; k < 4 && SPLITS[i][k]; k++)
            if (strcmp(SPLITS[i][k], split) == 0)
                return SPLITS[i];
    return NULL;
}

const char *q3_imagefolder_split(const char *name, size_t n)
{
    char split[16];
    snprintf(split, sizeof split, "%.*s", (int)(n < sizeof split ? n : 0), name);
    const char *const *names = names_of(split);
    return names ? names[0] : NULL;
}

static q3_status none_found(const char *dir, const char *split)
{
    char *csv = NULL;
    Q3_TRY(probe(&csv, dir, NULL, "metadata.csv"));
    q3_free(csv);
    if (csv)
        return q3_fail(Q3_ERR_DATA, "%s: metadata.csv is not read; write it as metadata.jsonl", dir);
    return q3_fail(Q3_ERR_DATA, "%s: holds neither metadata.jsonl nor %s/metadata.jsonl", dir, split);
}

q3_status q3_imagefolder_find(char **out, const char *dir, const char *split)
{
    *out = NULL;
    split = split ? split : "train";
    Q3_TRY(probe(out, dir, NULL, "metadata.jsonl"));
    if (!*out)
        Q3_TRY(probe(out, dir, split, "metadata.jsonl"));
    const char *const *names = names_of(split);
    for (int i = 0; names && !*out && i < 4 && names[i]; i++)
        Q3_TRY(probe(out, dir, names[i], "metadata.jsonl"));
    return *out ? Q3_OK : none_found(dir, split);
}

static q3_status open_folder(void **self, const char *path, const q3_data_keys *keys)
{
    char *metadata;
    *self = NULL;
    Q3_TRY(q3_imagefolder_find(&metadata, path, keys->split));
    q3_data_keys own = *keys;
    own.image_key = "file_name";
    q3_jsonl *file;
    q3_status st = q3_jsonl_open(&file, metadata, &own);
    *self = file;
    q3_free(metadata);
    return st;
}

static int64_t size(const void *self)
{
    return q3_jsonl_size(self);
}
static q3_status get(q3_sample *out, const void *self, int64_t index)
{
    return q3_jsonl_get(out, self, index);
}
static void close_folder(void *self)
{
    q3_jsonl_close(self);
}

const q3_source q3_source_imagefolder = { q3_dir_exists, open_folder, size, get, close_folder };
