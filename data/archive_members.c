#include "data/archive_members.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/json.h"
#include "core/log.h"
#include "data/temporary.h"

#define MEMBER_LIMIT ((size_t)512 << 20) // as of a picture's file, data/image.c
#define JSONL_LIMIT ((size_t)16 << 30)   // its lines have a limit of their own

/* The one way through an archive. */
typedef struct pass {
    q3_members *out;
    const char *path; // of the archive, for messages
    const unsigned char *bytes;
    size_t size;
    struct archive *a;
    int fd;            // the temporary file; -1: not needed yet
    const char *tmp;   // where it lies
    size_t n_unpacked; // bytes in it
} pass;

bool q3_member_clean(char *path)
{
    char *to = path;
    for (const char *p = path; *p;) {
        size_t n = strcspn(p, "/");
        if (n == 2 && p[0] == '.' && p[1] == '.') {
            if (to == path)
                return false;
            do // the part written last, and the slash before it
                to--;
            while (to > path && *to != '/');
        } else if (n > 0 && !(n == 1 && *p == '.')) {
            if (to > path)
                *to++ = '/';
            memmove(to, p, n);
            to += n;
        }
        p += n + (p[n] == '/');
    }
    *to = 0;
    return to > path;
}

/* ---- the temporary file ---- */

static q3_status not_unpacked(const pass *p)
{
    if (errno == ENOSPC)
        return q3_fail(Q3_ERR_IO,
                       "%s: %s is full after %s were unpacked; make room or set TMPDIR to a larger place",
                       p->path, p->tmp, q3_bytes(p->n_unpacked));
    return q3_fail(Q3_ERR_IO, "%s: no temporary file in %s to unpack it to: %s; set TMPDIR to a place for it",
                   p->path, p->tmp, strerror(errno));
}

static q3_status open_temporary(pass *p)
{
    p->fd = q3_temporary_open(&p->tmp);
    return p->fd >= 0 ? Q3_OK : not_unpacked(p);
}

/* Whether `more` bytes have a place there, before they are unpacked. */
static q3_status check_space(const pass *p, const char *member, uint64_t more)
{
    struct statvfs fs;
    if (fstatvfs(p->fd, &fs) != 0)
        return Q3_OK;
    uint64_t left = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (more <= left)
        return Q3_OK;
    char need[32], room[32], done[32];
    snprintf(need, sizeof need, "%s", q3_bytes(more));
    snprintf(room, sizeof room, "%s", q3_bytes(left));
    snprintf(done, sizeof done, "%s", q3_bytes(p->n_unpacked));
    return q3_fail(Q3_ERR_IO,
                   "%s/%s: needs %s in %s, where %s are free (%s are unpacked there); make room or set "
                   "TMPDIR to a larger place",
                   p->path, member, need, p->tmp, room, done);
}

static q3_status put(pass *p, const void *block, size_t n)
{
    for (const char *from = block; n > 0;) {
        ssize_t done = write(p->fd, from, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return not_unpacked(p);
        from += done;
        n -= (size_t)done;
        p->n_unpacked += (size_t)done;
    }
    return Q3_OK;
}

/* ---- one member ---- */

/* `fact` about the archive, with libarchive's reason. */
static q3_status unreadable(const pass *p, const char *member, const char *fact)
{
    const char *why = archive_error_string(p->a);
    if (archive_errno(p->a) == ENOMEM)
        return q3_fail(Q3_ERR_MEMORY, "%s: no memory to unpack it", p->path);
    return q3_fail(Q3_ERR_DATA, "%s%s%s: %s (%s)", p->path, member ? "/" : "", member ? member : "", fact,
                   why ? why : "no reason given");
}

static q3_status damaged(const pass *p, const char *member)
{
    return unreadable(p, member, "the archive is damaged or cut short");
}

static size_t limit_of(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && (strcmp(dot, ".jsonl") == 0 || strcmp(dot, ".ndjson") == 0) ? JSONL_LIMIT : MEMBER_LIMIT;
}

static q3_status check_size(const pass *p, const char *name, uint64_t size)
{
    size_t limit = limit_of(name);
    if (size <= limit)
        return Q3_OK;
    char have[32];
    snprintf(have, sizeof have, "%s", q3_bytes(size));
    return q3_fail(Q3_ERR_DATA, "%s/%s: the member has %s, and at most %s are read", p->path, name, have,
                   q3_bytes(limit));
}

static q3_status unpack_block(pass *p, q3_member *m, const void *block, size_t n)
{
    Q3_TRY(check_size(p, m->name, (uint64_t)m->size + n));
    Q3_TRY(put(p, block, n));
    m->size += n;
    return Q3_OK;
}

/* Whether the whole member is one run of bytes of the archive itself. */
static bool lies_in_place(const pass *p, const void *block, size_t n, struct archive_entry *e)
{
    uintptr_t at = (uintptr_t)block, first = (uintptr_t)p->bytes;
    return at >= first && at - first <= p->size && n <= p->size - (at - first) &&
           archive_entry_size_is_set(e) && archive_entry_size(e) == (la_int64_t)n;
}

static q3_status has_holes(const pass *p, const q3_member *m)
{
    return q3_fail(Q3_ERR_DATA, "%s/%s: is stored with holes; pack it without (tar: no --sparse)", p->path,
                   m->name);
}

static q3_status read_blocks(pass *p, q3_member *m, struct archive_entry *e)
{
    const void *block;
    size_t n;
    la_int64_t at;
    int code;
    while ((code = archive_read_data_block(p->a, &block, &n, &at)) == ARCHIVE_OK) {
        if (n == 0)
            continue;
        if (m->bytes || at != (la_int64_t)m->size)
            return has_holes(p, m);
        if (m->size == 0 && lies_in_place(p, block, n, e)) {
            m->bytes = block;
            m->size = n;
            continue;
        }
        if (p->fd < 0)
            Q3_TRY(open_temporary(p));
        if (m->size == 0 && archive_entry_size_is_set(e))
            Q3_TRY(check_space(p, m->name, (uint64_t)archive_entry_size(e)));
        Q3_TRY(unpack_block(p, m, block, n));
    }
    if (code != ARCHIVE_EOF)
        return damaged(p, m->name);
    bool whole = !archive_entry_size_is_set(e) || archive_entry_size(e) == (la_int64_t)m->size;
    return whole ? Q3_OK : has_holes(p, m); // one at its end
}

static q3_status read_member(pass *p, q3_member *m, struct archive_entry *e)
{
    if (archive_entry_is_encrypted(e))
        return q3_fail(Q3_ERR_DATA, "%s/%s: the member is encrypted; pack it without a password", p->path,
                       m->name);
    if (archive_entry_size_is_set(e))
        Q3_TRY(check_size(p, m->name, (uint64_t)archive_entry_size(e)));
    m->unpacked_at = p->n_unpacked;
    Q3_TRY(read_blocks(p, m, e));
    if (m->size == 0)
        m->bytes = p->bytes; // nothing is read from there; a link alone has no bytes
    return Q3_OK;
}

/* ---- all members ---- */

static bool is_hidden(const char *name)
{
    return *q3_path_base(name) == '.' || strncmp(name, "__MACOSX/", 9) == 0;
}

/* The name in a new heap string, cleaned; NULL for one that is passed over. */
static q3_status name_of(char **out, const pass *p, struct archive_entry *e)
{
    *out = NULL;
    const char *name = archive_entry_pathname(e);
    size_t bad;
    if (!name || !q3_utf8_valid(name, strlen(name), &bad))
        return q3_fail(Q3_ERR_DATA, "%s: the name of member %lld is not valid UTF-8", p->path,
                       (long long)p->out->n + 1);
    if (is_hidden(name))
        return Q3_OK;
    *out = q3_strdup(name);
    if (!*out)
        return Q3_ERR_MEMORY;
    if (q3_member_clean(*out))
        return Q3_OK;
    q3_status st =
        q3_fail(Q3_ERR_DATA, "%s: the member \"%.200s\" lies outside of the archive", p->path, name);
    q3_free(*out);
    *out = NULL;
    return st;
}

static q3_status grow(q3_members *m)
{
    if (m->n < m->capacity)
        return Q3_OK;
    int64_t capacity = m->capacity ? 2 * m->capacity : 64;
    q3_member *list = q3_realloc(m->list, (size_t)capacity * sizeof *list);
    if (!list)
        return Q3_ERR_MEMORY;
    m->list = list;
    m->capacity = capacity;
    return Q3_OK;
}

static q3_status add_entry(pass *p, struct archive_entry *e)
{
    bool link = archive_entry_hardlink(e) || archive_entry_filetype(e) == AE_IFLNK;
    if (!link && archive_entry_filetype(e) != AE_IFREG)
        return Q3_OK; // directories, devices
    char *name;
    Q3_TRY(name_of(&name, p, e));
    if (!name)
        return Q3_OK;
    q3_status st = grow(p->out);
    if (st != Q3_OK) {
        q3_free(name);
        return st;
    }
    q3_member *m = &p->out->list[p->out->n];
    *m = (q3_member){ .name = name, .place = p->out->n };
    p->out->n++;
    return link ? Q3_OK : read_member(p, m, e);
}

/* A tar that is cut between two members lacks only the empty blocks at its end; `last` is where its last member ends. */
static q3_status check_end(const pass *p, la_int64_t last)
{
    bool tar = (archive_format(p->a) & ARCHIVE_FORMAT_BASE_MASK) == ARCHIVE_FORMAT_TAR;
    if (!tar || archive_filter_bytes(p->a, 0) > last)
        return Q3_OK;
    return q3_fail(Q3_ERR_DATA, "%s: the archive lacks its end after %lld members; is it whole?", p->path,
                   (long long)p->out->n);
}

static q3_status read_entries(pass *p)
{
    struct archive_entry *e;
    la_int64_t last = 0;
    int code;
    // a warning is about what is not used: owners, times, attributes
    while ((code = archive_read_next_header(p->a, &e)) == ARCHIVE_OK || code == ARCHIVE_WARN) {
        Q3_TRY(add_entry(p, e));
        if (archive_read_data_skip(p->a) != ARCHIVE_OK)
            return damaged(p, archive_entry_pathname(e));
        last = archive_filter_bytes(p->a, 0);
    }
    return code == ARCHIVE_EOF ? check_end(p, last) : damaged(p, NULL);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const q3_member *)a)->name, ((const q3_member *)b)->name);
}

static q3_status sort(const pass *p)
{
    q3_members *m = p->out;
    if (m->n > 1)
        qsort(m->list, (size_t)m->n, sizeof *m->list, by_name);
    for (int64_t i = 1; i < m->n; i++)
        if (strcmp(m->list[i - 1].name, m->list[i].name) == 0)
            return q3_fail(Q3_ERR_DATA, "%s: two members are named %s", p->path, m->list[i].name);
    return Q3_OK;
}

static q3_status map_unpacked(const pass *p)
{
    if (p->n_unpacked == 0)
        return Q3_OK;
    void *at = mmap(NULL, p->n_unpacked, PROT_READ, MAP_PRIVATE, p->fd, 0);
    if (at == MAP_FAILED)
        return q3_fail(Q3_ERR_IO, "%s: the temporary file cannot be mapped: %s", p->path, strerror(errno));
    p->out->unpacked = (q3_map){ at, p->n_unpacked };
    for (int64_t i = 0; i < p->out->n; i++) {
        q3_member *m = &p->out->list[i];
        if (!m->bytes && m->size > 0)
            m->bytes = p->out->unpacked.data + m->unpacked_at;
    }
    return Q3_OK;
}

/* No filter that runs another program: what the archive says must not choose one. */
static bool set_up(struct archive *a)
{
    bool fine = archive_read_support_format_tar(a) == ARCHIVE_OK &&
                archive_read_support_format_zip(a) == ARCHIVE_OK &&
                // joined tars are read to the last; so is the checksum behind a compressed one
                archive_read_set_format_option(a, "tar", "read_concatenated_archives", "1") == ARCHIVE_OK;
    return fine && archive_read_support_filter_gzip(a) == ARCHIVE_OK &&
           archive_read_support_filter_bzip2(a) == ARCHIVE_OK &&
           archive_read_support_filter_xz(a) == ARCHIVE_OK &&
           archive_read_support_filter_zstd(a) == ARCHIVE_OK &&
           archive_read_support_filter_lz4(a) == ARCHIVE_OK;
}

static q3_status read_all(pass *p)
{
    if (!p->a)
        return q3_fail(Q3_ERR_MEMORY, "%s: no memory to read the archive", p->path);
    if (p->size == 0)
        return q3_fail(Q3_ERR_DATA, "%s: the file is empty (0 bytes)", p->path);
    if (!set_up(p->a))
        return unreadable(p, NULL, "the libarchive here lacks a format that is read");
    if (archive_read_open_memory(p->a, p->bytes, p->size) != ARCHIVE_OK)
        return unreadable(p, NULL, "cannot be read as a tar or zip archive");
    Q3_TRY(read_entries(p));
    Q3_TRY(sort(p));
    return map_unpacked(p);
}

q3_status q3_members_open_memory(q3_members *out, const void *bytes, size_t size, const char *name)
{
    *out = (q3_members){ 0 };
    pass p = { .out = out, .path = name, .bytes = bytes, .size = size, .a = archive_read_new(), .fd = -1 };
    // libarchive turns names into the thread's character set
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    locale_t before = uselocale(utf8);
    q3_status st = read_all(&p);
    uselocale(before);
    if (utf8)
        freelocale(utf8);
    archive_read_free(p.a);
    if (p.fd >= 0)
        close(p.fd);
    if (st != Q3_OK)
        q3_members_close(out);
    return st;
}

q3_status q3_members_open(q3_members *out, const char *path)
{
    q3_map file;
    *out = (q3_members){ 0 };
    Q3_TRY(q3_status_as(q3_map_open(&file, path), Q3_ERR_DATA));
    q3_status st = q3_members_open_memory(out, file.data, file.size, path);
    if (st == Q3_OK)
        out->file = file;
    else
        q3_map_close(&file);
    return st;
}

void q3_members_close(q3_members *m)
{
    for (int64_t i = 0; i < m->n; i++)
        q3_free(m->list[i].name);
    q3_free(m->list);
    q3_map_close(&m->unpacked);
    q3_map_close(&m->file);
    *m = (q3_members){ 0 };
}

int64_t q3_members_from(const q3_members *m, const char *name)
{
    int64_t low = 0, high = m->n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (strcmp(m->list[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const q3_member *q3_members_find(const q3_members *m, const char *name)
{
    int64_t at = q3_members_from(m, name);
    return at < m->n && strcmp(m->list[at].name, name) == 0 ? &m->list[at] : NULL;
}
