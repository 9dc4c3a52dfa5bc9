#include "data/parquet_files.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "data/imagefolder.h"
#include "data/shards.h"

static const char ENDING[] = ".parquet";

static bool has_ending(const char *path)
{
    size_t n = strlen(path), k = strlen(ENDING);
    return n > k && strcmp(path + n - k, ENDING) == 0;
}

void q3_parquet_files_free(q3_parquet_files *f)
{
    for (int64_t i = 0; i < f->n; i++)
        q3_free(f->paths[i]);
    q3_free(f->paths);
    *f = (q3_parquet_files){ 0 };
}

/* Takes over `path`; NULL is out of memory. */
static q3_status add(q3_parquet_files *f, char *path)
{
    char **paths = path ? q3_realloc(f->paths, ((size_t)f->n + 1) * sizeof *paths) : NULL;
    if (!paths) {
        q3_free(path);
        return Q3_ERR_MEMORY;
    }
    f->paths = paths;
    f->paths[f->n++] = path;
    return Q3_OK;
}

/* ---- directories ---- */

/* What is wanted of a directory. */
typedef enum wish {
    OF_SPLIT,   // files with a name of the split
    OF_A_SPLIT, // with a name of any that is known
    ALL
} wish;

static bool is_of(const char *name, size_t n, const char *split)
{
    const char *known = q3_imagefolder_split(name, n), *wanted = q3_imagefolder_split(split, strlen(split));
    if (known && wanted)
        return strcmp(known, wanted) == 0;
    return strlen(split) == n && strncmp(name, split, n) == 0;
}

static bool matches(const char *name, size_t n, wish w, const char *split)
{
    return w == ALL || (w == OF_SPLIT ? is_of(name, n, split) : q3_imagefolder_split(name, n) != NULL);
}

static int visible(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static q3_status gather(q3_parquet_files *f, const char *dir, wish w, const char *split, bool folders);

static q3_status gather_entry(q3_parquet_files *f, const char *dir, const char *name, wish w,
                              const char *split, bool folders)
{
    bool file = has_ending(name);
    if (!file && !folders)
        return Q3_OK;
    if (!matches(name, file ? strcspn(name, "-._") : strlen(name), w, split))
        return Q3_OK;
    char *path = q3_path_join(dir, name);
    if (!path)
        return Q3_ERR_MEMORY;
    if (file && q3_file_exists(path))
        return add(f, path);
    q3_status st = q3_dir_exists(path) ? gather(f, path, ALL, NULL, false) : Q3_OK;
    q3_free(path);
    return st;
}

/* Adds files of a folder, and (`folders`) of those folders in it that bear the split's name. */
static q3_status gather(q3_parquet_files *f, const char *dir, wish w, const char *split, bool folders)
{
    struct dirent **entries;
    int n = scandir(dir, &entries, visible, by_name);
    q3_status st = Q3_OK;
    for (int i = 0; i < n; i++) {
        if (st == Q3_OK)
            st = gather_entry(f, dir, entries[i]->d_name, w, split, folders);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    return st;
}

/* The same of a directory, or where it has none, of its folder data. */
static q3_status gather_both(q3_parquet_files *f, const char *dir, wish w, const char *split)
{
    *f = (q3_parquet_files){ 0 };
    Q3_TRY(gather(f, dir, w, split, w != ALL));
    if (f->n > 0)
        return Q3_OK;
    char *data = q3_path_join(dir, "data");
    q3_status st = data ? gather(f, data, w, split, w != ALL) : Q3_ERR_MEMORY;
    q3_free(data);
    return st;
}

/* Files of the split; none is no error. */
static q3_status find_split(q3_parquet_files *f, const char *dir, const char *split)
{
    q3_status st = gather_both(f, dir, OF_SPLIT, split);
    if (st != Q3_OK || f->n > 0 || !is_of(split, strlen(split), "train"))
        return st;
    st = gather_both(f, dir, OF_A_SPLIT, NULL);
    bool none_named = f->n == 0;
    q3_parquet_files_free(f);
    return st == Q3_OK && none_named ? gather_both(f, dir, ALL, NULL) : st;
}

/* "train-00000-of-00002.parquet" tells how many there are. */
static q3_status check_count(const q3_parquet_files *f)
{
    for (int64_t i = 0; i < f->n; i++) {
        const char *of = strstr(q3_path_base(f->paths[i]), "-of-");
        long long all = of ? atoll(of + 4) : f->n;
        if (all > f->n)
            return q3_fail(Q3_ERR_DATA,
                           "%s: is one of %lld files, and %lld are there; is the download complete?",
                           f->paths[i], all, (long long)f->n);
    }
    return Q3_OK;
}

/* Whether a folder has a Parquet file, or (`folders`) one in it that bears a split's name has. */
static bool holds_some(const char *dir, bool folders)
{
    DIR *d = opendir(dir);
    bool some = false;
    for (struct dirent *e; d && !some && (e = readdir(d));) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (visible(e) && has_ending(path))
            some = q3_file_exists(path);
        else if (visible(e) && folders && q3_imagefolder_split(e->d_name, strlen(e->d_name)))
            some = holds_some(path, false);
    }
    if (d)
        closedir(d);
    return some;
}

bool q3_parquet_accepts(const char *path)
{
    char inner[PATH_MAX];
    if (!q3_dir_exists(path))
        return has_ending(path);
    snprintf(inner, sizeof inner, "%s/metadata.jsonl", path);
    if (q3_file_exists(inner))
        return false;
    snprintf(inner, sizeof inner, "%s/data", path);
    return holds_some(path, true) || holds_some(inner, true);
}

q3_status q3_parquet_files_has(bool *found, const char *dir, const char *split)
{
    q3_parquet_files train, other = { 0 };
    q3_status st = find_split(&train, dir, "train");
    st = st ? st : find_split(&other, dir, split);
    *found = st == Q3_OK && other.n > 0 && (train.n == 0 || strcmp(train.paths[0], other.paths[0]) != 0);
    q3_parquet_files_free(&train);
    q3_parquet_files_free(&other);
    return st;
}

/* ---- any path ---- */

static q3_status find_shards(q3_parquet_files *f, const char *path)
{
    q3_shards s;
    size_t n = strlen(path);
    Q3_TRY(q3_shards_find(&s, path, n));
    for (long long i = s.first; i <= s.last; i++)
        Q3_TRY(add(f, q3_shards_path(path, n, &s, i)));
    return Q3_OK;
}

static q3_status find(q3_parquet_files *f, const char *path, const char *split)
{
    if (!q3_dir_exists(path))
        return find_shards(f, path);
    Q3_TRY(find_split(f, path, split));
    if (f->n == 0)
        return q3_fail(Q3_ERR_DATA,
                       "%s: holds no parquet files of the split \"%s\" (%s-*.parquet, or a folder %s)", path,
                       split, split, split);
    return check_count(f);
}

q3_status q3_parquet_files_find(q3_parquet_files *out, const char *path, const char *split)
{
    *out = (q3_parquet_files){ 0 };
    q3_status st = find(out, path, split ? split : "train");
    if (st != Q3_OK)
        q3_parquet_files_free(out);
    return st;
}
