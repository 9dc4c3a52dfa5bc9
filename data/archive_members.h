/* data/archive_members.h - what a tar or zip archive holds, as bytes in memory.
 *
 * One pass through the archive finds its members. What lies in the file as it is (a plain tar, a stored zip
 * entry) is used where it lies, by a map of the file. What is compressed is unpacked into one temporary file
 * that has no name (in TMPDIR, else /tmp) and is mapped as well; it is gone with the map. Nothing is ever
 * written under the name of a member, and no link is followed.
 *
 * Formats: tar and zip; filters: gzip, bzip2, xz, zstd, lz4. Members are regular files; hidden ones (".x",
 * "__MACOSX/") are passed over. Refused: a damaged or cut archive, an encrypted or sparse member, a name
 * twice, a name that leaves the archive, a member of more than 512 MiB (.jsonl: 16 GiB).
 *
 * Errors: Q3_ERR_DATA, Q3_ERR_MEMORY; Q3_ERR_IO for the temporary file. Any number of threads may read. The
 * file must not change while it is open.
 */
#ifndef Q3_DATA_ARCHIVE_MEMBERS_H
#define Q3_DATA_ARCHIVE_MEMBERS_H

#include "core/file.h"

typedef struct q3_member {
    char *name;                 /* relative, UTF-8: "img/1.png" */
    const unsigned char *bytes; /* NULL: a link */
    size_t size;
    size_t unpacked_at; /* where in the temporary file, while that is written */
    int64_t place;      /* from 0: among the members, as the archive has them */
} q3_member;

typedef struct q3_members {
    q3_member *list; /* [n] by name */
    int64_t n, capacity;
    q3_map file;     /* the archive; empty when it is borrowed */
    q3_map unpacked; /* the temporary file; empty when there is none */
} q3_members;

q3_status q3_members_open(q3_members *out, const char *path);

/* The same for an archive in memory (borrowed); `name` stands in messages. */
q3_status q3_members_open_memory(q3_members *out, const void *bytes, size_t size, const char *name);
void q3_members_close(q3_members *m);

/* NULL when there is none of this name. */
const q3_member *q3_members_find(const q3_members *m, const char *name);

/* The first member whose name is not less than `name`: m->n when all are. */
int64_t q3_members_from(const q3_members *m, const char *name);

/* Takes "." and ".." and doubled slashes out of a path, and a slash in front. False when it leaves its root
 * or nothing is left. */
bool q3_member_clean(char *path);

#endif
