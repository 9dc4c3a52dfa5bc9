#include "data/hub.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "data/hub_download.h"

static const char *cache_dir; // of --cache-dir
static bool switched_off;     // --offline

void q3_hub_set(const char *dir, bool offline)
{
    cache_dir = dir;
    switched_off = offline;
}

/* What switched the network off; NULL: it may be asked. */
static const char *why_offline(void)
{
    return switched_off                                 ? "--offline"
           : q3_hub_switched_on("HF_HUB_OFFLINE")       ? "HF_HUB_OFFLINE"
           : q3_hub_switched_on("TRANSFORMERS_OFFLINE") ? "TRANSFORMERS_OFFLINE"
                                                        : NULL;
}

/* One name and where it lies. */
typedef struct search {
    q3_hub_repo repo;
    q3_hub_wish wish;
    char *root, *folder;
    char commit[Q3_HUB_COMMIT + 1]; // the snapshot that the cache has for it; "" for none
    char missing[256];              // of that, or of what was fetched
} search;

static q3_status begin(search *s, const q3_hub_options *o)
{
    s->wish = o->wish;
    if (o->revision && !q3_hub_revision_sound(o->revision))
        return q3_fail(Q3_ERR_USAGE, "\"%.60s\" is no revision; it is a branch, a tag or a commit",
                       o->revision);
    if (o->revision) {
        snprintf(s->repo.revision, sizeof s->repo.revision, "%s", o->revision);
        s->repo.pinned = true;
    }
    Q3_TRY(q3_hub_root(&s->root, cache_dir));
    s->folder = q3_hub_folder(s->root, &s->repo);
    return s->folder ? Q3_OK : Q3_ERR_MEMORY;
}

static void end(search *s)
{
    q3_free(s->root);
    q3_free(s->folder);
}

/* Looks in the cache alone. */
static q3_hub_state look(search *s)
{
    snprintf(s->missing, sizeof s->missing, "%s",
             s->repo.kind == Q3_HUB_MODEL ? "config.json" : "everything");
    if (!q3_hub_commit_of(s->commit, s->folder, &s->repo))
        return Q3_HUB_PARTIAL;
    return q3_hub_look(s->missing, sizeof s->missing, s->folder, s->commit, &s->repo, &s->wish);
}

static q3_status without_network(search *s, q3_hub_state state, const char *why)
{
    if (state == Q3_HUB_USABLE)
        return Q3_OK;
    bool known = *s->commit != 0;
    char any[Q3_HUB_COMMIT + 1];
    if (!s->repo.pinned && q3_hub_any_commit(any, s->folder, &s->repo, &s->wish)) {
        snprintf(s->commit, sizeof s->commit, "%s", any);
        q3_warn("%s: %s is on, and main is not whole in the cache; taking commit %.8s", s->repo.id, why, any);
        return Q3_OK;
    }
    if (known)
        return q3_fail(Q3_ERR_NETWORK, "%s: %s is missing in the cache, and %s keeps it from being fetched",
                       s->repo.id, s->missing, why);
    return q3_fail(
        Q3_ERR_NETWORK,
        "%s (revision %s) is neither a directory here nor in the cache %s, and %s keeps it from being "
        "fetched",
        s->repo.id, s->repo.revision, s->root, why);
}

/* What was asked for must be there now. */
static q3_status check(search *s, const q3_hub_listing *l)
{
    bool data = s->repo.kind == Q3_HUB_DATASET;
    snprintf(s->commit, sizeof s->commit, "%s", l->commit);
    if (!l->n)
        return q3_fail(data ? Q3_ERR_DATA : Q3_ERR_MODEL, "%s at %.8s holds no file that %s", s->repo.id,
                       l->commit, s->wish.n_include ? "matches --include" : "belongs to a model");
    if (data || s->wish.n_include ||
        q3_hub_look(s->missing, sizeof s->missing, s->folder, s->commit, &s->repo, &s->wish) !=
            Q3_HUB_PARTIAL)
        return Q3_OK;
    return q3_fail(Q3_ERR_MODEL, "%s at %.8s has no %s; is it a model in transformers' form?", s->repo.id,
                   l->commit, s->missing);
}

static q3_status fetch(search *s)
{
    q3_hub_http *h;
    q3_hub_listing l;
    Q3_TRY(q3_hub_http_open(&h, &s->repo));
    q3_status st = q3_hub_list(&l, h, &s->repo, &s->wish, s->folder);
    if (st == Q3_OK) {
        st = q3_hub_download(&l, h, &s->repo, s->root, s->folder);
        st = st ? st : check(s, &l);
        q3_hub_listing_free(&l);
    }
    q3_hub_http_close(h);
    return st;
}

/* Finds the snapshot, or makes it. */
static q3_status find(search *s, const q3_hub_options *o)
{
    const char *why = why_offline();
    q3_hub_state state = look(s);
    if (state == Q3_HUB_WHOLE && (!o->refresh || why))
        return Q3_OK;
    if (why)
        return without_network(s, state, why);
    q3_status st = fetch(s);
    if (st != Q3_ERR_NETWORK || state == Q3_HUB_PARTIAL)
        return st;
    q3_warn("%s; going on with what the cache has, commit %.8s", q3_error(), s->commit);
    return Q3_OK;
}

static q3_status open_search(search *s, const char *name, const q3_hub_options *o)
{
    *s = (search){ 0 };
    if (!q3_hub_parse(&s->repo, name, o->kind))
        return q3_fail(Q3_ERR_USAGE, "\"%.100s\" is no name on the hub; write org/name or org/name@revision",
                       name);
    q3_status st = begin(s, o);
    if (st != Q3_OK)
        end(s);
    return st;
}

q3_status q3_hub_fetch(char **dir, const char *name, const q3_hub_options *o)
{
    search s;
    *dir = NULL;
    Q3_TRY(open_search(&s, name, o));
    q3_status st = find(&s, o);
    if (st == Q3_OK) {
        *dir = q3_hub_snapshot(s.folder, s.commit);
        st = *dir ? Q3_OK : Q3_ERR_MEMORY;
    }
    end(&s);
    return st;
}

q3_status q3_hub_resolve(char **dir, const char *name_or_dir, const q3_hub_options *o)
{
    static const q3_hub_options whole_model = { 0 };
    q3_hub_repo repo;
    o = o ? o : &whole_model;
    if (!q3_dir_exists(name_or_dir) && q3_hub_parse(&repo, name_or_dir, o->kind)) {
        Q3_TRY(q3_hub_fetch(dir, name_or_dir, o));
        q3_detail("hub         %s is %s", name_or_dir, *dir);
        return Q3_OK;
    }
    *dir = q3_strdup(name_or_dir);
    return *dir ? Q3_OK : Q3_ERR_MEMORY;
}

q3_status q3_hub_place(const char **dir, q3_arena *mem, const char *name_or_dir, const q3_hub_options *o)
{
    char *found;
    Q3_TRY(q3_hub_resolve(&found, name_or_dir, o));
    *dir = q3_arena_strdup(mem, found);
    q3_free(found);
    return *dir ? Q3_OK : Q3_ERR_MEMORY;
}

static void write_preview(q3_text *out, const q3_hub_listing *l)
{
    for (int i = 0; i < l->n; i++)
        q3_text_printf(out, "%12" PRId64 "  %-7s  %s\n", l->files[i].size,
                       l->files[i].here ? "here" : "missing", l->files[i].path);
}

q3_status q3_hub_preview(q3_text *out, const char *name, const q3_hub_options *o)
{
    search s;
    q3_hub_http *h = NULL;
    q3_hub_listing l = { 0 };
    const char *why = why_offline();
    if (why)
        return q3_fail(Q3_ERR_NETWORK, "what %.100s holds is known to the hub alone, and %s is on", name,
                       why);
    Q3_TRY(open_search(&s, name, o));
    q3_status st = q3_hub_http_open(&h, &s.repo);
    st = st ? st : q3_hub_list(&l, h, &s.repo, &s.wish, s.folder);
    if (st == Q3_OK) {
        write_preview(out, &l);
        q3_info("download    %s at %.8s: %d of %d files are missing, %s to fetch into %s", s.repo.id,
                l.commit, l.n_missing, l.n, q3_bytes((uint64_t)l.missing_bytes), s.folder);
    }
    q3_hub_listing_free(&l);
    q3_hub_http_close(h);
    end(&s);
    return st == Q3_OK && out->failed ? Q3_ERR_MEMORY : st;
}
