/* core/file.h - files whole: map, read, write so that a crash leaves the old file or the new one, never half
 * of one. */
#ifndef Q3_CORE_FILE_H
#define Q3_CORE_FILE_H

#include "core/arena.h"

/* A file mapped read-only. `data` is NULL when `size` is 0. */
typedef struct q3_map {
    const unsigned char *data;
    size_t size;
} q3_map;

q3_status q3_map_open(q3_map *out, const char *path);
void q3_map_close(q3_map *map);

/* Reads a file of at most `limit` bytes; *text is on the heap (q3_free), with a NUL byte behind its *size
 * bytes. */
q3_status q3_file_read(char **text, size_t *size, const char *path, size_t limit);

/* Writes path.tmp, syncs it and renames it to `path`; after a failure the old file stands and path.tmp is
 * gone. Q3_ERR_IO. */
q3_status q3_file_write(const char *path, const void *data, size_t size);

/* The same for content that is made piece by piece: `put` hands its bytes to q3_file_put(fd, ...). */
typedef q3_status q3_file_putter(int fd, const char *path, const void *arg);
q3_status q3_file_stream(const char *path, q3_file_putter *put, const void *arg);
q3_status q3_file_put(int fd, const void *data, size_t size,
                      const char *path); /* `path` stands in messages */
q3_status q3_file_copy(const char *to, const char *from);

bool q3_file_exists(const char *path);
bool q3_dir_exists(const char *path);
q3_status q3_dir_create(const char *path); /* with parents; fine if it exists */
q3_status q3_dir_remove(const char *path); /* with what is in it; fine if absent */
q3_status q3_dir_sync(const char *path);

/* Renames a finished directory from `from` to `to` and syncs the parent; `to` must not exist. */
q3_status q3_dir_publish(const char *to, const char *from);

/* "dir/name" in a new heap string, `name` alone when it is absolute or dir is NULL or empty. NULL when out of
 * memory. */
char *q3_path_join(const char *dir, const char *name);

/* The directory part of `path` in a new heap string: "a/b" for "a/b/c", "." for "c". */
char *q3_path_dir(const char *path);

/* The part behind the last slash; borrowed from `path`. */
const char *q3_path_base(const char *path);

#endif
