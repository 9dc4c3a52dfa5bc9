#include "data/hub_download.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "core/sha256.h"

enum {
    ATTEMPTS = 5,          // in a row that bring nothing
    FILES_MAX = 1000000,   // of a repository; the hub's own advice is a tenth
    TELL_SECONDS = 10,     // between two lines where there is no terminal
    BLOCK_BYTES = 1 << 20, // of a file that is hashed again
    ETAG_BYTES = 132,
};

static const double live_seconds = 0.2; // between two changes of the line on a terminal

/* ---- the list ---- */

static const char *kind_word(const q3_hub_repo *repo)
{
    return repo->kind == Q3_HUB_DATASET ? "datasets" : "models";
}

static q3_status find_commit(char commit[Q3_HUB_COMMIT + 1], q3_hub_http *h, const q3_hub_repo *repo)
{
    q3_text url = { 0 }, text = { 0 };
    q3_json doc = { 0 };
    const char *sha = NULL;
    if (q3_hub_is_commit(repo->revision)) {
        snprintf(commit, Q3_HUB_COMMIT + 1, "%s", repo->revision);
        return Q3_OK;
    }
    q3_text_printf(&url, "%s/api/%s/%s/revision/", q3_hub_endpoint(h), kind_word(repo), repo->id);
    q3_hub_escape(&url, repo->revision, false);
    q3_status st = url.failed ? Q3_ERR_MEMORY : q3_hub_get(&text, h, url.data, NULL);
    if (st == Q3_OK)
        st = q3_status_as(q3_json_parse(&doc, text.data ? text.data : "", text.size, url.data, 1),
                          Q3_ERR_NETWORK);
    if (st == Q3_OK) {
        sha = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(doc.root, "sha"));
        if (sha && q3_hub_is_commit(sha))
            snprintf(commit, Q3_HUB_COMMIT + 1, "%s", sha);
        else
            st = q3_fail(Q3_ERR_NETWORK, "%s: the answer names no commit; is this the hub?", url.data);
    }
    q3_json_close(&doc);
    q3_text_free(&text);
    q3_text_free(&url);
    return st;
}

static q3_status add_file(q3_hub_listing *l, const char *path, const char *blob, int64_t size)
{
    if (l->n == l->capacity) {
        int capacity = l->capacity ? 2 * l->capacity : 64;
        q3_hub_file *more =
            capacity > FILES_MAX ? NULL : q3_realloc(l->files, (size_t)capacity * sizeof *more);
        if (!more)
            return capacity > FILES_MAX ? q3_fail(Q3_ERR_LIMIT, "there are more than %d files", FILES_MAX)
                                        : Q3_ERR_MEMORY;
        l->files = more;
        l->capacity = capacity;
    }
    q3_hub_file *f = &l->files[l->n++];
    *f = (q3_hub_file){ .path = q3_strdup(path), .blob = blob ? q3_strdup(blob) : NULL, .size = size };
    return f->path && (f->blob || !blob) ? Q3_OK : Q3_ERR_MEMORY;
}

/* Whether an etag can be the name of a file. */
static bool is_blob_name(const char *etag)
{
    size_t n = strlen(etag);
    return n && n < ETAG_BYTES && *etag != '.' &&
           strspn(etag, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.") == n;
}

static q3_status read_entry(q3_hub_listing *l, const cJSON *entry, const q3_hub_repo *repo,
                            const q3_hub_wish *wish)
{
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(entry, "type"));
    const char *path = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(entry, "path"));
    const cJSON *lfs = cJSON_GetObjectItemCaseSensitive(entry, "lfs");
    const cJSON *size = cJSON_GetObjectItemCaseSensitive(cJSON_IsObject(lfs) ? lfs : entry, "size");
    if (!type || strcmp(type, "file") != 0)
        return Q3_OK;
    if (!path || !q3_hub_path_sound(path))
        return q3_fail(repo->kind == Q3_HUB_DATASET ? Q3_ERR_DATA : Q3_ERR_MODEL,
                       "%s lists \"%.100s\", which is no path below its directory; nothing was written",
                       repo->id, path ? path : "");
    if (!q3_hub_wants(wish, repo->kind, path))
        return Q3_OK;
    bool told = cJSON_IsNumber(size) && size->valuedouble >= 0 && size->valuedouble < 9e15;
    const char *blob =
        cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(cJSON_IsObject(lfs) ? lfs : entry, "oid"));
    return add_file(l, path, blob && is_blob_name(blob) ? blob : NULL,
                    told ? (int64_t)size->valuedouble : -1);
}

static q3_status read_page(q3_hub_listing *l, const q3_text *text, const char *url, const q3_hub_repo *repo,
                           const q3_hub_wish *wish)
{
    q3_json doc;
    Q3_TRY(
        q3_status_as(q3_json_parse(&doc, text->data ? text->data : "", text->size, url, 1), Q3_ERR_NETWORK));
    q3_status st =
        cJSON_IsArray(doc.root) ? Q3_OK : q3_fail(Q3_ERR_NETWORK, "%s: the answer is no list of files", url);
    const cJSON *entry;
    for (entry = st == Q3_OK ? doc.root->child : NULL; entry && st == Q3_OK; entry = entry->next)
        st = read_entry(l, entry, repo, wish);
    q3_json_close(&doc);
    return st;
}

static q3_status read_pages(q3_hub_listing *l, q3_hub_http *h, const q3_hub_repo *repo,
                            const q3_hub_wish *wish)
{
    char url[2048];
    snprintf(url, sizeof url, "%s/api/%s/%s/tree/%s?recursive=true", q3_hub_endpoint(h), kind_word(repo),
             repo->id, l->commit);
    while (*url) {
        q3_text text = { 0 };
        char next[2048];
        Q3_TRY(q3_hub_get(&text, h, url, next));
        q3_status st = read_page(l, &text, url, repo, wish);
        q3_text_free(&text);
        Q3_TRY(st);
        memcpy(url, next, sizeof url);
    }
    return Q3_OK;
}

/* <folder>/blobs/<name><suffix> in a new string. */
static char *blob_path(const char *folder, const char *name, const char *suffix)
{
    q3_text path = { 0 };
    q3_text_printf(&path, "%s/blobs/%s%s", folder, name, suffix);
    if (path.failed)
        q3_text_free(&path);
    return path.data;
}

static int64_t size_of(const char *path)
{
    struct stat info;
    return path && stat(path, &info) == 0 && S_ISREG(info.st_mode) ? (int64_t)info.st_size : -1;
}

/* Bytes of a file that need not be fetched, though it is in no snapshot yet. */
static int64_t bytes_there(const char *folder, const q3_hub_file *f)
{
    if (!f->blob)
        return 0;
    char *blob = blob_path(folder, f->blob, ""), *part = blob_path(folder, f->blob, ".incomplete");
    int64_t whole = size_of(blob), some = size_of(part);
    q3_free(blob);
    q3_free(part);
    int64_t there = whole >= 0 && whole == f->size ? whole : some;
    return there > 0 && there <= f->size ? there : 0;
}

static q3_status look_around(q3_hub_listing *l, const char *folder)
{
    char *dir = q3_hub_snapshot(folder, l->commit);
    for (int i = 0; dir && i < l->n; i++) {
        q3_hub_file *f = &l->files[i];
        char *path = q3_path_join(dir, f->path);
        f->here = path && q3_file_exists(path);
        q3_free(path);
        if (f->here)
            continue;
        f->there = bytes_there(folder, f);
        l->n_missing++;
        l->missing_bytes += f->size > 0 ? f->size - f->there : 0;
    }
    q3_free(dir);
    return dir ? Q3_OK : Q3_ERR_MEMORY;
}

q3_status q3_hub_list(q3_hub_listing *out, q3_hub_http *h, const q3_hub_repo *repo, const q3_hub_wish *wish,
                      const char *folder)
{
    *out = (q3_hub_listing){ 0 };
    q3_status st = find_commit(out->commit, h, repo);
    st = st ? st : read_pages(out, h, repo, wish);
    st = st ? st : look_around(out, folder);
    if (st != Q3_OK)
        q3_hub_listing_free(out);
    return st;
}

void q3_hub_listing_free(q3_hub_listing *l)
{
    for (int i = 0; i < l->n; i++)
        q3_free(l->files[i].path), q3_free(l->files[i].blob);
    q3_free(l->files);
    *l = (q3_hub_listing){ 0 };
}

/* ---- progress ---- */

typedef struct progress {
    int64_t done, total; // bytes to be fetched
    double begin, told;
    bool shown;
} progress;

static void show(progress *p)
{
    bool live = q3_log_is_terminal();
    double now = q3_seconds(), rate = (double)p->done / (now - p->begin + 1e-9);
    if (!p->shown || p->done <= 0 || now - p->told < (live ? live_seconds : (double)TELL_SECONDS))
        return;
    p->told = now;
    (live ? q3_log_live : q3_info)("download    %s of %s, %s/s, %.0f s left", q3_bytes((uint64_t)p->done),
                                   q3_bytes((uint64_t)p->total), q3_bytes((uint64_t)rate),
                                   (double)(p->total - p->done) / rate);
}

/* ---- one file ---- */

typedef struct piece {
    q3_hub_http *h;
    const q3_hub_repo *repo;
    const char *folder, *path;
    char *url;
    char etag[ETAG_BYTES];
    int64_t size; // that it must have; -1: unknown
    bool hashed;  // the etag is the sha256 of its contents
    int lock;     // held; -1: there are no locks here
    char *part;   // where it grows
    bool shared;  // a later process may go on with it
    int fd;
    int64_t at;   // bytes of it that are there
    bool resumed; // some of them from another process
    bool first;   // nothing of this answer has come yet
    q3_sha256 sha;
    progress *p;
} piece;

/* From the beginning again. */
static q3_status empty(piece *f)
{
    q3_sha256_begin(&f->sha);
    f->p->total += f->at;
    f->at = 0;
    f->resumed = false;
    if (ftruncate(f->fd, 0) != 0 || lseek(f->fd, 0, SEEK_SET) != 0)
        return q3_fail(Q3_ERR_IO, "%s: %s", f->part, strerror(errno));
    return Q3_OK;
}

/* What another process has brought is part of the hash. */
static q3_status take_up(piece *f)
{
    char *block = q3_malloc(BLOCK_BYTES);
    q3_status st = block ? Q3_OK : Q3_ERR_MEMORY;
    q3_sha256_begin(&f->sha);
    for (ssize_t n; st == Q3_OK && (n = read(f->fd, block, BLOCK_BYTES)) != 0;) {
        if (n < 0 && errno != EINTR)
            st = q3_fail(Q3_ERR_IO, "%s: %s", f->part, strerror(errno));
        if (n <= 0)
            continue;
        q3_sha256_add(&f->sha, block, (size_t)n);
        f->at += n;
    }
    q3_free(block);
    f->resumed = f->at > 0;
    if (st == Q3_OK && f->at > f->size) {
        f->at = 0;
        st = empty(f);
    }
    return st;
}

static q3_status take(void *arg, const q3_hub_reply *reply, const char *data, size_t n)
{
    piece *f = arg;
    if (f->first && f->at && reply->status == 200) // the whole, whatever part was asked for
        Q3_TRY(empty(f));
    if (f->first && reply->status == 206 && reply->range_begin != f->at)
        return q3_fail(Q3_ERR_NETWORK, "%s: %s was asked for from byte %lld on and comes from %lld on",
                       f->repo->id, f->path, (long long)f->at, (long long)reply->range_begin);
    f->first = false;
    if (f->size >= 0 && f->at + (int64_t)n > f->size)
        return q3_fail(Q3_ERR_NETWORK, "%s: %s has more than the %lld bytes that the hub tells", f->repo->id,
                       f->path, (long long)f->size);
    Q3_TRY(q3_file_put(f->fd, data, n, f->part));
    q3_sha256_add(&f->sha, data, n);
    f->at += (int64_t)n;
    f->p->done += (int64_t)n;
    show(f->p);
    return Q3_OK;
}

static q3_status fetch_body(piece *f)
{
    for (int i = 0;; i++) {
        bool again;
        long status;
        int64_t before = f->at;
        if (f->at == f->size)
            return Q3_OK;
        f->first = true;
        q3_status st = q3_hub_body(&again, &status, f->h, f->url, f->at, take, f);
        if (st == Q3_OK && (f->size < 0 || f->at == f->size))
            return Q3_OK;
        if (st == Q3_OK) {
            again = true;
            st = q3_fail(Q3_ERR_NETWORK, "%s: %s ends at byte %lld, and the hub tells of %lld", f->repo->id,
                         f->path, (long long)f->at, (long long)f->size);
        }
        if (status == 416 && f->at)
            Q3_TRY(empty(f));
        if (f->at > before)
            i = 0;
        if (!again || i + 1 >= ATTEMPTS)
            return st;
        q3_detail("download    %s; once more", q3_error());
        q3_hub_rest(f->h, i);
    }
}

/* True when the contents are what the etag says. */
static bool is_right(piece *f, char hex[2 * Q3_SHA256_BYTES + 1])
{
    unsigned char hash[Q3_SHA256_BYTES];
    q3_sha256_end(hash, &f->sha);
    for (int i = 0; i < Q3_SHA256_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", (unsigned)hash[i]);
    return !f->hashed || strcmp(hex, f->etag) == 0;
}

static q3_status fetch_right(piece *f)
{
    char hex[2 * Q3_SHA256_BYTES + 1];
    Q3_TRY(fetch_body(f));
    if (is_right(f, hex))
        return Q3_OK;
    if (f->resumed) { // the beginning may be another process's fault
        Q3_TRY(empty(f));
        Q3_TRY(fetch_body(f));
        if (is_right(f, hex))
            return Q3_OK;
    }
    unlink(f->part);
    return q3_fail(Q3_ERR_NETWORK, "%s: %s came with sha256 %s, and the hub tells of %s; it was thrown away",
                   f->repo->id, f->path, hex, f->etag);
}

static q3_status check_room(const piece *f)
{
    struct statvfs v;
    if (f->size < 0 || statvfs(f->folder, &v) != 0)
        return Q3_OK;
    uint64_t free_bytes = (uint64_t)v.f_bavail * v.f_frsize, needed = (uint64_t)(f->size - f->at);
    if (needed <= free_bytes)
        return Q3_OK;
    return q3_fail(Q3_ERR_IO, "%s: %s needs %s, and %s are free in %s; --cache-dir names another place",
                   f->repo->id, f->path, q3_bytes(needed), q3_bytes(free_bytes), f->folder);
}

/* The name under which it grows: where contents can be checked and are locked, one that later processes
 * know. */
static q3_status name_part(piece *f)
{
    char suffix[32] = ".incomplete";
    uint32_t drawn = (uint32_t)getpid();
    f->shared = f->hashed && f->lock >= 0 && f->size >= 0;
    if (!f->shared) {
        if (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn)
            drawn ^= (uint32_t)f->size;
        snprintf(suffix, sizeof suffix, ".%08x.incomplete", drawn);
    }
    f->part = blob_path(f->folder, f->etag, suffix);
    return f->part ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_status grow(piece *f)
{
    Q3_TRY(name_part(f));
    f->fd = open(f->part, O_RDWR | O_CREAT | O_CLOEXEC | (f->shared ? 0 : O_EXCL), 0666);
    if (f->fd < 0)
        return q3_fail(Q3_ERR_IO, "%s: cannot be written: %s", f->part, strerror(errno));
    q3_status st = take_up(f);
    st = st ? st : check_room(f);
    st = st ? st : fetch_right(f);
    if (st == Q3_OK && fsync(f->fd) != 0)
        st = q3_fail(Q3_ERR_IO, "%s: cannot be written: %s", f->part, strerror(errno));
    close(f->fd);
    if (st != Q3_OK && !f->shared)
        unlink(f->part);
    return st;
}

/* Makes blobs/<etag>, unless it is there. */
static q3_status make_blob(piece *f)
{
    char *blob = blob_path(f->folder, f->etag, "");
    int64_t there = size_of(blob);
    q3_status st = blob ? Q3_OK : Q3_ERR_MEMORY;
    if (st == Q3_OK && (there < 0 || (f->size >= 0 && there != f->size))) {
        st = grow(f);
        if (st == Q3_OK && rename(f->part, blob) != 0)
            st = q3_fail(Q3_ERR_IO, "%s: cannot be written: %s", blob, strerror(errno));
    }
    q3_free(blob);
    return st;
}

/* Waits for the lock that huggingface_hub takes too. Where there are no locks, we go without. */
static void lock(piece *f, const char *path)
{
    f->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (f->lock < 0 || flock(f->lock, LOCK_EX | LOCK_NB) == 0)
        return;
    int result = -1;
    if (errno == EWOULDBLOCK) {
        q3_info("download    another process brings %s; waiting for it", f->path);
        while ((result = flock(f->lock, LOCK_EX)) != 0 && errno == EINTR)
            continue;
    }
    if (result == 0)
        return;
    close(f->lock);
    f->lock = -1;
}

/* What the hub itself says of the file. */
static q3_status ask_about(piece *f, const q3_hub_listing *l, const q3_hub_file *file)
{
    q3_hub_reply reply;
    q3_text url = { 0 };
    q3_text_printf(&url, "%s/%s%s/resolve/%s/", q3_hub_endpoint(f->h),
                   f->repo->kind == Q3_HUB_DATASET ? "datasets/" : "", f->repo->id, l->commit);
    q3_hub_escape(&url, file->path, true);
    f->url = url.data;
    if (url.failed)
        return Q3_ERR_MEMORY;
    Q3_TRY(q3_hub_head(&reply, f->h, f->url));
    if (!is_blob_name(reply.etag))
        return q3_fail(Q3_ERR_NETWORK, "%s: %s has no useful ETag (\"%.60s\"); is this the hub?", f->repo->id,
                       f->url, reply.etag);
    snprintf(f->etag, sizeof f->etag, "%s", reply.etag);
    f->size = reply.size >= 0 ? reply.size : file->size;
    f->hashed =
        strlen(f->etag) == 2 * Q3_SHA256_BYTES && strspn(f->etag, "0123456789abcdef") == strlen(f->etag);
    return Q3_OK;
}

static q3_status fetch_file(piece *f, const q3_hub_listing *l, const q3_hub_file *file, const char *locks)
{
    Q3_TRY(ask_about(f, l, file));
    q3_text name = { 0 };
    q3_text_printf(&name, "%s/%s.lock", locks, f->etag);
    if (name.failed)
        return Q3_ERR_MEMORY;
    lock(f, name.data);
    q3_text_free(&name);
    q3_status st = make_blob(f);
    st = st ? st : q3_hub_link(f->folder, l->commit, f->path, f->etag);
    if (f->lock >= 0)
        close(f->lock);
    return st;
}

/* ---- all of them ---- */

static q3_status make_dirs(char **locks, const char *root, const char *folder)
{
    q3_text text = { 0 };
    q3_text_printf(&text, "%s/.locks/%s", root, q3_path_base(folder));
    char *blobs = q3_path_join(folder, "blobs");
    *locks = text.data;
    q3_status st = blobs && !text.failed ? q3_dir_create(blobs) : Q3_ERR_MEMORY;
    st = st ? st : q3_dir_create(*locks);
    if (st == Q3_OK)
        q3_hub_tag_root(root);
    q3_free(blobs);
    return st;
}

static q3_status check_room_for_all(const q3_hub_listing *l, const q3_hub_repo *repo, const char *folder)
{
    struct statvfs v;
    if (statvfs(folder, &v) != 0)
        return Q3_OK;
    uint64_t free_bytes = (uint64_t)v.f_bavail * v.f_frsize;
    if ((uint64_t)l->missing_bytes <= free_bytes)
        return Q3_OK;
    return q3_fail(Q3_ERR_IO, "%s: %s are missing, and %s are free in %s; --cache-dir names another place",
                   repo->id, q3_bytes((uint64_t)l->missing_bytes), q3_bytes(free_bytes), folder);
}

static q3_status fetch_all(const q3_hub_listing *l, q3_hub_http *h, const q3_hub_repo *repo,
                           const char *folder, const char *locks)
{
    progress p = { .total = l->missing_bytes,
                   .begin = q3_seconds(),
                   .shown = !q3_hub_switched_on("HF_HUB_DISABLE_PROGRESS_BARS") };
    p.told = p.begin;
    q3_status st = Q3_OK;
    for (int i = 0; i < l->n && st == Q3_OK; i++) {
        if (l->files[i].here)
            continue;
        piece f = {
            .h = h, .repo = repo, .folder = folder, .path = l->files[i].path, .size = -1, .lock = -1, .p = &p
        };
        st = fetch_file(&f, l, &l->files[i], locks);
        q3_free(f.part);
        q3_free(f.url);
    }
    q3_log_clear();
    if (st == Q3_OK && p.done > 0)
        q3_info("download    %s in %.1f s", q3_bytes((uint64_t)p.done), q3_seconds() - p.begin);
    return st;
}

q3_status q3_hub_download(const q3_hub_listing *l, q3_hub_http *h, const q3_hub_repo *repo, const char *root,
                          const char *folder)
{
    char *locks = NULL;
    q3_status st = make_dirs(&locks, root, folder);
    st = st ? st : check_room_for_all(l, repo, folder);
    if (st == Q3_OK && l->n_missing) {
        q3_info("download    %s at %.8s: %d of %d files are missing, %s to fetch into %s", repo->id,
                l->commit, l->n_missing, l->n, q3_bytes((uint64_t)l->missing_bytes), folder);
        st = fetch_all(l, h, repo, folder, locks);
    }
    st = st ? st : q3_hub_write_ref(folder, repo, l->commit);
    q3_free(locks);
    return st;
}
