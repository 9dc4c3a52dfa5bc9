/* Runs a fuzz target on files: fuzz_<name> PATH... A directory stands for all files in it, taken in the order of
 * their names. Exits with 1 when there was nothing to run; a target that finds a fault aborts, and the last line
 * printed names the file.
 *
 * Each input is copied to a block of its own size, so that a read beyond it is one that a sanitizer sees. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static q3_status run_file(const char *path)
{
    char *text;
    size_t size;
    Q3_TRY(q3_file_read(&text, &size, path, (size_t)1 << 26));
    printf("%s: %zu bytes\n", path, size);
    fflush(stdout);
    uint8_t *data = malloc(size ? size : 1);
    if (data) {
        memcpy(data, text, size);
        LLVMFuzzerTestOneInput(data, size);
    }
    free(data);
    q3_free(text);
    return data ? Q3_OK : q3_fail(Q3_ERR_MEMORY, "%s: no memory for %zu bytes", path, size);
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static q3_status run_dir(int *n_run, const char *dir)
{
    struct dirent **entries;
    int n = scandir(dir, &entries, visible, alphasort);
    if (n < 0)
        return q3_fail(Q3_ERR_IO, "%s: cannot be listed", dir);
    q3_status st = Q3_OK;
    for (int i = 0; i < n; i++) {
        char *path = st == Q3_OK ? q3_path_join(dir, entries[i]->d_name) : NULL;
        if (st == Q3_OK)
            st = path ? run_file(path) : Q3_ERR_MEMORY;
        *n_run += st == Q3_OK;
        q3_free(path);
        free(entries[i]);
    }
    free(entries);
    return st;
}

int main(int argc, char **argv)
{
    int n_run = 0;
    q3_status st = Q3_OK;
    for (int i = 1; i < argc && st == Q3_OK; i++) {
        if (q3_dir_exists(argv[i])) {
            st = run_dir(&n_run, argv[i]);
            continue;
        }
        st = run_file(argv[i]);
        n_run += st == Q3_OK;
    }
    if (st == Q3_OK && !n_run)
        st = q3_fail(Q3_ERR_USAGE, "no input; give files, or directories with files");
    if (st != Q3_OK)
        fprintf(stderr, "%s: %s\n", argv[0], q3_error());
    else
        printf("%d inputs\n", n_run);
    return q3_exit_code(st);
}
