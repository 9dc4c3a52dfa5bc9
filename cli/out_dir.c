#include "cli/out_dir.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"

static bool is_empty_or_absent(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT;
    int n = 0;
    for (const struct dirent *e; n == 0 && (e = readdir(dir)) != NULL;)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(dir);
    return n == 0;
}

q3_status q3_out_dir_choose(q3_out_dir *out, q3_arena *mem, const char *path)
{
    char *to = q3_arena_strdup(mem, path);
    for (size_t n = to ? strlen(to) : 0; n > 1 && to[n - 1] == '/'; n--)
        to[n - 1] = 0;
    *out = (q3_out_dir){ to, to ? q3_arena_printf(mem, "%s.tmp", to) : NULL };
    if (!out->tmp)
        return Q3_ERR_MEMORY;
    if (!is_empty_or_absent(to))
        return q3_fail(Q3_ERR_USAGE, "--out %s exists and is not an empty directory; name a new one", to);
    return Q3_OK;
}

q3_status q3_out_dir_begin(const q3_out_dir *d)
{
    Q3_TRY(q3_dir_remove(d->tmp));
    return q3_dir_create(d->tmp);
}

q3_status q3_out_dir_end(const q3_out_dir *d, q3_status st)
{
    st = st ? st : q3_dir_publish(d->to, d->tmp);
    if (st == Q3_OK)
        return Q3_OK;
    char sentence[1024]; // removing may leave another one
    snprintf(sentence, sizeof sentence, "%s", q3_error());
    q3_dir_remove(d->tmp);
    return q3_fail(st, "%s", sentence);
}
