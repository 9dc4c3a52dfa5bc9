#include "core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/log.h"

static q3_status open_regular(int *fd, size_t *size, const char *path)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (*fd < 0 || fstat(*fd, &st) != 0) {
        int e = errno;
        if (*fd >= 0)
            close(*fd);
        return q3_fail(Q3_ERR_IO, "%s: %s", path, strerror(e));
    }
    if (!S_ISREG(st.st_mode)) {
        close(*fd);
        return q3_fail(Q3_ERR_IO, "%s: not a regular file", path);
    }
    *size = (size_t)st.st_size;
    return Q3_OK;
}

q3_status q3_map_open(q3_map *out, const char *path)
{
    *out = (q3_map){ 0 };
    int fd;
    size_t size;
    Q3_TRY(open_regular(&fd, &size, path));
    void *p = size ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    int e = errno;
    close(fd);
    if (p == MAP_FAILED)
        return q3_fail(Q3_ERR_IO, "%s: cannot be mapped: %s", path, strerror(e));
    *out = (q3_map){ p, size };
    return Q3_OK;
}

void q3_map_close(q3_map *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (q3_map){ 0 };
}

static q3_status read_all(char *to, size_t size, int fd, const char *path)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, to + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return q3_fail(Q3_ERR_IO, "%s: %s", path, strerror(errno));
        if (n == 0)
            return q3_fail(Q3_ERR_IO, "%s: ends at byte %zu of %zu; does another program write it?", path,
                           done, size);
        done += (size_t)n;
    }
    return Q3_OK;
}

q3_status q3_file_read(char **text, size_t *size, const char *path, size_t limit)
{
    int fd;
    *text = NULL;
    Q3_TRY(open_regular(&fd, size, path));
    q3_status st;
    if (*size > limit) {
        st = q3_fail(Q3_ERR_LIMIT, "%s: %s, and at most %s are read", path, q3_bytes(*size), q3_bytes(limit));
    } else if (!(*text = q3_malloc(*size + 1))) {
        st = q3_wrap(Q3_ERR_MEMORY, "%s", path);
    } else {
        st = read_all(*text, *size, fd, path);
        (*text)[*size] = 0;
    }
    close(fd);
    if (st != Q3_OK) {
        q3_free(*text);
        *text = NULL;
    }
    return st;
}

static q3_status not_written(const char *path)
{
    return q3_fail(Q3_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
}

q3_status q3_file_put(int fd, const void *data, size_t size, const char *path)
{
    for (const char *p = data; size > 0;) {
        ssize_t n = write(fd, p, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return not_written(path);
        p += n;
        size -= (size_t)n;
    }
    return Q3_OK;
}

q3_status q3_file_stream(const char *path, q3_file_putter *put, const void *arg)
{
    char tmp[4096];
    if (snprintf(tmp, sizeof tmp, "%s.tmp", path) >= (int)sizeof tmp)
        return q3_fail(Q3_ERR_IO, "%.200s...: the path is too long", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return not_written(path);
    q3_status st = put(fd, path, arg);
    if (st == Q3_OK && fsync(fd) != 0)
        st = not_written(path);
    if (close(fd) != 0 && st == Q3_OK)
        st = not_written(path);
    if (st == Q3_OK && rename(tmp, path) != 0)
        st = q3_fail(Q3_ERR_IO, "%s: cannot be renamed: %s", path, strerror(errno));
    if (st != Q3_OK)
        unlink(tmp);
    return st;
}

typedef struct bytes {
    const void *data;
    size_t size;
} bytes;

static q3_status put_bytes(int fd, const char *path, const void *arg)
{
    const bytes *b = arg;
    return q3_file_put(fd, b->data, b->size, path);
}

q3_status q3_file_write(const char *path, const void *data, size_t size)
{
    return q3_file_stream(path, put_bytes, &(bytes){ data, size });
}

q3_status q3_file_copy(const char *to, const char *from)
{
    q3_map map;
    Q3_TRY(q3_map_open(&map, from));
    q3_status st = q3_file_write(to, map.data, map.size);
    q3_map_close(&map);
    return st;
}

bool q3_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool q3_dir_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

q3_status q3_dir_create(const char *path)
{
    char part[4096];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return q3_fail(Q3_ERR_IO, "%.200s...: the path is too long", path);
    for (char *p = part + 1;; p++) {
        if (*p && *p != '/')
            continue;
        char c = *p;
        *p = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return q3_fail(Q3_ERR_IO, "%s: cannot be created: %s", part, strerror(errno));
        *p = c;
        if (!c)
            break;
    }
    return q3_dir_exists(path) ? Q3_OK : q3_fail(Q3_ERR_IO, "%s: exists and is not a directory", path);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

q3_status q3_dir_remove(const char *path)
{
    if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
        return q3_fail(Q3_ERR_IO, "%s: cannot be removed: %s", path, strerror(errno));
    return Q3_OK;
}

q3_status q3_dir_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return q3_fail(Q3_ERR_IO, "%s: %s", path, strerror(errno));
    fsync(fd); // some file systems refuse it for directories; the rename is atomic all the same
    close(fd);
    return Q3_OK;
}

q3_status q3_dir_publish(const char *to, const char *from)
{
    Q3_TRY(q3_dir_sync(from));
    if (rename(from, to) != 0)
        return q3_fail(Q3_ERR_IO, "%s: cannot be renamed to %s: %s", from, to, strerror(errno));
    char *parent = q3_path_dir(to);
    if (!parent)
        return Q3_ERR_MEMORY;
    q3_status st = q3_dir_sync(parent);
    q3_free(parent);
    return st;
}

char *q3_path_join(const char *dir, const char *name)
{
    if (!dir || !*dir || *name == '/')
        return q3_strdup(name);
    size_t nd = strlen(dir), nn = strlen(name);
    while (nd > 1 && dir[nd - 1] == '/')
        nd--;
    char *p = q3_malloc(nd + nn + 2);
    if (!p)
        return NULL;
    memcpy(p, dir, nd);
    p[nd] = '/';
    memcpy(p + nd + 1, name, nn + 1);
    return p;
}

char *q3_path_dir(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return q3_strdup(".");
    size_t n = slash == path ? 1 : (size_t)(slash - path);
    char *p = q3_malloc(n + 1);
    if (!p)
        return NULL;
    memcpy(p, path, n);
    p[n] = 0;
    return p;
}

const char *q3_path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}
