#include "data/archive.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/file.h"
#include "core/log.h"
#include "data/archive_members.h"
#include "data/imagefolder.h"
#include "data/jsonl.h"
#include "data/shards.h"

#define TEXT_LIMIT ((size_t)64 << 20) // of a KEY.json, as of a line in data/jsonl.c

/* One archive; it has `files` or `keyed` members, not both. */
typedef struct shard {
    char *path;
    q3_members members;
    q3_jsonl **files; // [n_files]
    int64_t n_files;
    const q3_member **keyed; // [n] one member of each sample, in the order of the archive
    int64_t n;               // samples
} shard;

typedef struct q3_archive {
    q3_data_keys keys;
    char *inner; // the JSONL or array member that the path names; NULL: all
    shard *shards;
    int64_t n_shards;
    int64_t size;
} q3_archive;

/* ---- the path: archives, and what is wanted of them ---- */

static bool ends_with(const char *text, size_t n, const char *end)
{
    size_t k = strlen(end);
    return n > k && strncasecmp(text + n - k, end, k) == 0;
}

static bool has_ending(const char *text, size_t n)
{
    static const char *const endings[] = { ".tar", ".tar.gz",  ".tgz",  ".tar.bz2", ".tbz2", ".tar.xz",
                                           ".txz", ".tar.zst", ".tzst", ".tar.lz4", ".zip" };
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(text, n, endings[i]))
            return true;
    return false;
}

/* The bytes of `path` that name an archive: all, or those before a member's name. 0: none does. */
static size_t archive_part(const char *path)
{
    char part[4096];
    size_t n = strcspn(path, "/");
    for (; n < sizeof part; n += 1 + strcspn(path + n + 1, "/")) {
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        if (has_ending(part, n) && !q3_dir_exists(part))
            return n;
        if (!path[n])
            break;
    }
    return 0;
}

q3_status q3_archive_check(const char *path)
{
    return q3_shards_check(path, archive_part(path));
}

/* ---- JSONL members ---- */

static int by_place(const void *a, const void *b)
{
    const q3_member *x = *(const q3_member *const *)a, *y = *(const q3_member *const *)b;
    return x->place < y->place ? -1 : x->place > y->place;
}

/* The split that "train.jsonl" or "train/metadata.jsonl" belongs to; NULL: none that is known. */
static const char *split_of(const char *name)
{
    const char *base = q3_path_base(name), *folder = base;
    const char *split = q3_imagefolder_split(base, strcspn(base, "."));
    if (split || base == name)
        return split;
    for (folder--; folder > name && folder[-1] != '/';)
        folder--;
    return q3_imagefolder_split(folder, strcspn(folder, "/"));
}

static q3_status check_splits(const shard *s, const q3_member *const *list, int64_t n)
{
    const q3_member *first = NULL;
    for (int64_t i = 0; i < n; i++) {
        const char *split = split_of(list[i]->name);
        if (split && first && split != split_of(first->name))
            return q3_fail(Q3_ERR_DATA,
                           "%s: holds %s and %s, which are different splits; name one of them: %s/%s",
                           s->path, first->name, list[i]->name, s->path, first->name);
        first = split && !first ? list[i] : first;
    }
    return Q3_OK;
}

static q3_status open_file(q3_jsonl **out, const shard *s, const q3_member *m, const q3_data_keys *keys)
{
    q3_data_keys own = *keys;
    if (strcmp(q3_path_base(m->name), "metadata.jsonl") == 0)
        own.image_key = "file_name";
    if (!m->bytes)
        return q3_fail(Q3_ERR_DATA, "%s/%s: is a link; pack the file itself (tar: -h --hard-dereference)",
                       s->path, m->name);
    char *name = q3_path_join(s->path, m->name);
    if (!name)
        return Q3_ERR_MEMORY;
    q3_status st = q3_jsonl_open_memory(out, (const char *)m->bytes, m->size, name, &own);
    q3_free(name);
    return st;
}

static q3_status open_files(shard *s, const q3_member *const *list, int64_t n, const q3_data_keys *keys)
{
    Q3_TRY(check_splits(s, list, n));
    if (n > 1)
        q3_info("data        %s: takes all of its %lld JSONL or array members, %s first", s->path,
                (long long)n, list[0]->name);
    s->files = q3_calloc((size_t)n, sizeof *s->files);
    if (!s->files)
        return Q3_ERR_MEMORY;
    for (; s->n_files < n; s->n_files++) {
        q3_jsonl **file = &s->files[s->n_files];
        Q3_TRY(open_file(file, s, list[s->n_files], keys));
        s->n += q3_jsonl_size(*file);
    }
    return Q3_OK;
}

/* ---- members that share a key ---- */

enum { FIELDS = 4 }; // that a member can be: q3_data_keys has no more

typedef struct group {
    const q3_member *json, *picture, *fields[FIELDS];
} group;

static void field_names(const char *out[FIELDS], const q3_data_keys *k)
{
    out[0] = k->query_key ? k->query_key : "query";
    out[1] = k->caption_key ? k->caption_key : "caption";
    out[2] = k->target_key ? k->target_key : "target_json";
    out[3] = k->label_key ? k->label_key : "label";
}

/* The bytes of the name before the first dot of its last part. */
static size_t key_size(const char *name)
{
    const char *base = q3_path_base(name);
    return (size_t)(base - name) + strcspn(base, ".");
}

/* Where a member with this ending belongs in a group; NULL: it is passed over. */
static const q3_member **slot_of(group *g, const char *ending, const q3_data_keys *keys)
{
    static const char *const pictures[] = { "jpg", "jpeg", "png", "webp", "bmp" };
    const char *names[FIELDS];
    if (strcasecmp(ending, "json") == 0)
        return &g->json;
    for (size_t i = 0; i < sizeof pictures / sizeof *pictures; i++)
        if (strcasecmp(ending, pictures[i]) == 0)
            return &g->picture;
    field_names(names, keys);
    for (int i = 0; i < FIELDS; i++)
        if (strcmp(ending, names[i]) == 0)
            return &g->fields[i];
    return NULL;
}

static int compare_keys(const q3_member *x, const q3_member *y)
{
    size_t nx = key_size(x->name), ny = key_size(y->name);
    int order = memcmp(x->name, y->name, nx < ny ? nx : ny);
    return order ? order : (nx > ny) - (nx < ny);
}

static int by_key(const void *a, const void *b)
{
    const q3_member *x = *(const q3_member *const *)a, *y = *(const q3_member *const *)b;
    int order = compare_keys(x, y);
    return order ? order : by_place(a, b);
}

/* Of each key the member that comes first in the archive, in the archive's order. */
static q3_status open_groups(shard *s, const q3_data_keys *keys)
{
    group g = { 0 };
    int64_t n = 0;
    bool has_text = false;
    s->keyed = q3_malloc((size_t)s->members.n * sizeof *s->keyed + 1);
    if (!s->keyed)
        return Q3_ERR_MEMORY;
    for (int64_t i = 0; i < s->members.n; i++) {
        const q3_member *m = &s->members.list[i];
        const char *ending = m->name + key_size(m->name);
        const q3_member **slot = *ending ? slot_of(&g, ending + 1, keys) : NULL;
        has_text = has_text || (slot && slot != &g.picture);
        if (slot)
            s->keyed[n++] = m;
    }
    if (!has_text)
        return q3_fail(Q3_ERR_DATA,
                       "%s: holds no samples: no .jsonl member, no .json with an array, and no KEY.json "
                       "beside a KEY.jpg",
                       s->path);
    qsort(s->keyed, (size_t)n, sizeof *s->keyed, by_key);
    for (int64_t i = 0; i < n; i++)
        if (i == 0 || compare_keys(s->keyed[i], s->keyed[s->n - 1]) != 0)
            s->keyed[s->n++] = s->keyed[i];
    qsort(s->keyed, (size_t)s->n, sizeof *s->keyed, by_place);
    return Q3_OK;
}

static q3_status gather(group *out, const shard *s, const q3_member *first, const q3_data_keys *keys)
{
    char start[4096];
    *out = (group){ 0 };
    size_t n = (size_t)snprintf(start, sizeof start, "%.*s.", (int)key_size(first->name), first->name);
    if (n >= sizeof start)
        return q3_fail(Q3_ERR_DATA, "%s/%.200s...: the name is too long", s->path, first->name);
    for (int64_t i = q3_members_from(&s->members, start); i < s->members.n; i++) {
        const q3_member *m = &s->members.list[i];
        if (strncmp(m->name, start, n) != 0)
            break;
        const q3_member **slot = strchr(m->name + n, '/') ? NULL : slot_of(out, m->name + n, keys);
        if (!slot)
            continue;
        if (*slot)
            return q3_fail(Q3_ERR_DATA, "%s/%s: %s stands for the same; a sample has one of them", s->path,
                           m->name, (*slot)->name);
        if (!m->bytes)
            return q3_fail(Q3_ERR_DATA, "%s/%s: is a link; pack the file itself (tar: -h --hard-dereference)",
                           s->path, m->name);
        *slot = m;
    }
    return Q3_OK;
}

/* The text of a member, without the newlines at its end, as a field of the sample's object. */
static q3_status add_field(q3_json *doc, const shard *s, const q3_member *m, const char *name)
{
    size_t n = m->size, bad;
    const char *text = (const char *)m->bytes;
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
        n--;
    if (n > TEXT_LIMIT || memchr(text, 0, n) || !q3_utf8_valid(text, n, &bad))
        return q3_fail(Q3_ERR_DATA, "%s/%s: is no text in UTF-8 of at most %s", s->path, m->name,
                       q3_bytes(TEXT_LIMIT));
    q3_text copy = { 0 };
    q3_text_append(&copy, text, n);
    bool added = !copy.failed && cJSON_AddStringToObject(doc->root, name, copy.data);
    q3_text_free(&copy);
    return added ? Q3_OK : q3_fail(Q3_ERR_MEMORY, "%s/%s: out of memory", s->path, m->name);
}

#define PICTURE ".picture" // field for the name of a member that is the picture

/* As a URL of a file: no name looks like base64 then. */
static q3_status name_picture(q3_json *doc, const q3_member *m)
{
    q3_text url = { 0 };
    q3_text_printf(&url, "file://%s", q3_path_base(m->name));
    bool added =
        !url.failed && (!cJSON_IsObject(doc->root) || cJSON_AddStringToObject(doc->root, PICTURE, url.data));
    q3_text_free(&url);
    return added ? Q3_OK : q3_fail(Q3_ERR_MEMORY, "%s: out of memory", doc->name);
}

static q3_status parse_group(q3_sample *out, q3_json *doc, const shard *s, const group *g,
                             const q3_data_keys *keys)
{
    const char *names[FIELDS];
    field_names(names, keys);
    for (int i = 0; i < FIELDS; i++)
        if (g->fields[i] && cJSON_IsObject(doc->root))
            Q3_TRY(add_field(doc, s, g->fields[i], names[i]));
    q3_data_keys own = *keys;
    if (g->picture) // it is the picture, whatever the object says of one
        own.images_key = PICTURE;
    own.image_key = PICTURE;
    own.image_template = NULL;
    own.allow_text_only = true;
    char *dir = q3_path_dir(doc->name);
    q3_status st = dir && g->picture ? name_picture(doc, g->picture) : dir ? Q3_OK : Q3_ERR_MEMORY;
    st = st ? st : q3_sample_parse(out, doc, &own, dir, doc->name);
    q3_free(dir);
    if (st == Q3_OK && !out->n_pictures && !keys->allow_text_only)
        return q3_fail(Q3_ERR_DATA, "%s: no picture beside it (.jpg, .jpeg, .png, .webp or .bmp)", doc->name);
    return st;
}

/* ---- samples ---- */

static void lend(q3_image_source *p, const q3_member *m)
{
    p->bytes = (unsigned char *)(uintptr_t)m->bytes;
    p->size = m->size;
    p->lent = true;
}

/* The picture behind a path that a line gives: a member, never a file. */
static q3_status find_picture(q3_image_source *p, const char *where, const shard *s)
{
    size_t n = strlen(s->path);
    if (p->bytes)
        return Q3_OK;
    bool inside = strncmp(p->path, s->path, n) == 0 && p->path[n] == '/';
    char *name = q3_strdup(p->path + (inside ? n : 0));
    if (!name)
        return Q3_ERR_MEMORY;
    const q3_member *m = inside && q3_member_clean(name) ? q3_members_find(&s->members, name) : NULL;
    q3_free(name);
    if (!m)
        return q3_fail(Q3_ERR_DATA, "%s: %s: no such member in the archive", where, p->path);
    if (!m->bytes)
        return q3_fail(Q3_ERR_DATA, "%s: %s: is a link; pack the file itself (tar: -h --hard-dereference)",
                       where, p->path);
    lend(p, m);
    return Q3_OK;
}

static q3_status find_pictures(q3_sample *out, const shard *s)
{
    for (int i = 0; i < out->n_pictures; i++)
        Q3_TRY(find_picture(&out->pictures[i], out->where, s));
    return Q3_OK;
}

static q3_status get_keyed(q3_sample *out, const shard *s, const q3_member *first, const q3_data_keys *keys)
{
    group g;
    q3_json doc;
    Q3_TRY(gather(&g, s, first, keys));
    if (g.json && g.json->size > TEXT_LIMIT)
        return q3_fail(Q3_ERR_DATA, "%s/%s: has more than %s", s->path, g.json->name, q3_bytes(TEXT_LIMIT));
    char *name = q3_path_join(s->path, g.json ? g.json->name : first->name);
    if (!name)
        return Q3_ERR_MEMORY;
    q3_status st = g.json ? q3_json_parse(&doc, (const char *)g.json->bytes, g.json->size, name, 1)
                          : q3_json_parse(&doc, "{}", 2, name, 1);
    q3_free(name);
    Q3_TRY(q3_status_as(st, Q3_ERR_DATA));
    st = parse_group(out, &doc, s, &g, keys);
    q3_json_close(&doc);
    return st == Q3_OK ? find_pictures(out, s) : st;
}

static q3_status get_from(q3_sample *out, const q3_archive *a, const shard *s, int64_t index)
{
    if (s->keyed)
        return get_keyed(out, s, s->keyed[index], &a->keys);
    int64_t i = 0;
    for (; index >= q3_jsonl_size(s->files[i]); i++)
        index -= q3_jsonl_size(s->files[i]);
    Q3_TRY(q3_jsonl_get(out, s->files[i], index));
    return find_pictures(out, s);
}

static q3_status get(q3_sample *out, const void *self, int64_t index)
{
    const q3_archive *a = self;
    const shard *s = a->shards;
    for (; index >= s->n; s++)
        index -= s->n;
    *out = (q3_sample){ 0 };
    q3_status st = get_from(out, a, s, index);
    if (st != Q3_OK)
        q3_sample_free(out);
    return st;
}

static int64_t size(const void *self)
{
    return ((const q3_archive *)self)->size;
}

/* ---- opening ---- */

static void close_shard(shard *s)
{
    for (int64_t i = 0; i < s->n_files; i++)
        q3_jsonl_close(s->files[i]);
    q3_free(s->files);
    q3_free(s->keyed);
    q3_members_close(&s->members);
    q3_free(s->path);
}

static void close_archive(void *self)
{
    q3_archive *a = self;
    for (int64_t i = 0; a && i < a->n_shards; i++)
        close_shard(&a->shards[i]);
    q3_free(a ? a->shards : NULL);
    q3_free(a ? a->inner : NULL);
    q3_free(a);
}

/* A .json is the object of the sample whose key it has (members with one key stand together), or an array of samples. */
static bool is_array(const q3_members *members, int64_t i)
{
    const q3_member *m = &members->list[i];
    size_t at = 0;
    while (m->bytes && at < m->size && isspace(m->bytes[at]))
        at++;
    return q3_jsonl_is_array(m->name) && m->bytes && at < m->size && m->bytes[at] == '[' &&
           (i == 0 || compare_keys(m, m - 1) != 0) && (i + 1 == members->n || compare_keys(m, m + 1) != 0);
}

/* The one JSONL member that is asked for, or all of them. */
static q3_status choose_files(const q3_member **list, int64_t *n, const shard *s, const char *inner)
{
    *n = 0;
    for (int64_t i = 0; i < s->members.n; i++) {
        const q3_member *m = &s->members.list[i];
        if ((q3_jsonl_is_lines(m->name) || is_array(&s->members, i)) &&
            (!inner || strcmp(m->name, inner) == 0))
            list[(*n)++] = m;
    }
    if (inner && *n == 0)
        return q3_fail(Q3_ERR_DATA, "%s/%s: no such .jsonl member in the archive, nor a .json with an array",
                       s->path, inner);
    qsort(list, (size_t)*n, sizeof *list, by_place);
    return Q3_OK;
}

static q3_status open_shard(shard *s, const q3_archive *a)
{
    int64_t n;
    if (!s->path)
        return Q3_ERR_MEMORY;
    Q3_TRY(q3_members_open(&s->members, s->path));
    const q3_member **list = q3_malloc((size_t)s->members.n * sizeof *list + 1);
    if (!list)
        return Q3_ERR_MEMORY;
    q3_status st = choose_files(list, &n, s, a->inner);
    if (st == Q3_OK)
        st = n > 0 ? open_files(s, list, n, &a->keys) : open_groups(s, &a->keys);
    q3_free(list);
    return st;
}

static q3_status open_shards(q3_archive *a, const char *path)
{
    q3_shards r;
    size_t n = archive_part(path);
    Q3_TRY(q3_shards_find(&r, path, n));
    a->inner = path[n] ? q3_strdup(path + n) : NULL;
    if (path[n] && !a->inner)
        return Q3_ERR_MEMORY;
    if (a->inner && !q3_member_clean(a->inner))
        return q3_fail(Q3_ERR_DATA, "%s: names no member of the archive", path);
    a->shards = q3_calloc((size_t)(r.last - r.first + 1), sizeof *a->shards);
    if (!a->shards)
        return Q3_ERR_MEMORY;
    uint64_t unpacked = 0;
    for (long long i = r.first; i <= r.last; i++) {
        shard *s = &a->shards[a->n_shards++];
        s->path = q3_shards_path(path, n, &r, i);
        Q3_TRY(open_shard(s, a));
        a->size += s->n;
        unpacked += s->members.unpacked.size;
    }
    if (unpacked)
        q3_info("data        %s: %s are unpacked in a temporary file", path, q3_bytes(unpacked));
    return Q3_OK;
}

static q3_status open_archive(void **self, const char *path, const q3_data_keys *keys)
{
    q3_archive *a = q3_calloc(1, sizeof *a);
    if (!a)
        return Q3_ERR_MEMORY;
    a->keys = *keys;
    q3_status st = open_shards(a, path);
    if (st != Q3_OK) {
        close_archive(a);
        return st;
    }
    *self = a;
    return Q3_OK;
}

static bool accepts(const char *path)
{
    return archive_part(path) > 0;
}

const q3_source q3_source_archive = { accepts, open_archive, size, get, close_archive };
