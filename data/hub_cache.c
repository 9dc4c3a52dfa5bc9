#include "data/hub_cache.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"

enum {
    INDEX_BYTES = 64 << 20, // model.safetensors.index.json and lists of files
    PART_BYTES = 96,        // of an organization's or a repository's name, as the hub allows
};

/* ---- names ---- */

/* Length of a part of a name at the start of `text`; 0 when it is none. */
static size_t part_length(const char *text)
{
    size_t n = 0;
    while (isalnum((unsigned char)text[n]) || (n && text[n] && strchr("-_.", text[n])))
        n++;
    bool dots = false;
    for (size_t i = 0; i + 1 < n; i++) // the hub refuses both; -- parts the names of folders
        dots |= (text[i] == '.' || text[i] == '-') && text[i + 1] == text[i];
    return n > PART_BYTES || dots ? 0 : n;
}

bool q3_hub_revision_sound(const char *revision)
{
    return q3_hub_path_sound(revision) && strlen(revision) < Q3_HUB_REVISION_BYTES;
}

bool q3_hub_path_sound(const char *path)
{
    for (const char *part = path;; part++) {
        size_t n = strcspn(part, "/");
        if (!n || (n == 1 && *part == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
            return false;
        for (size_t i = 0; i < n; i++)
            if ((unsigned char)part[i] < ' ' || part[i] == 0x7f || part[i] == '\\')
                return false;
        part += n;
        if (!*part)
            return true;
    }
}

bool q3_hub_parse(q3_hub_repo *out, const char *text, q3_hub_kind kind)
{
    *out = (q3_hub_repo){ .kind = kind };
    size_t org = part_length(text);
    size_t name = org && text[org] == '/' ? part_length(text + org + 1) : 0;
    size_t n = org + 1 + name;
    if (!name || (text[n] && text[n] != '@'))
        return false;
    const char *revision = text[n] ? text + n + 1 : "main";
    if (!q3_hub_revision_sound(revision))
        return false;
    snprintf(out->id, sizeof out->id, "%.*s", (int)n, text);
    snprintf(out->revision, sizeof out->revision, "%s", revision);
    out->pinned = text[n] != 0;
    return true;
}

bool q3_hub_is_commit(const char *revision)
{
    return strlen(revision) == Q3_HUB_COMMIT && strspn(revision, "0123456789abcdef") == Q3_HUB_COMMIT;
}

/* ---- places ---- */

bool q3_hub_switched_on(const char *name)
{
    static const char *const words[] = { "1", "ON", "YES", "TRUE" };
    const char *value = getenv(name);
    for (size_t i = 0; value && i < sizeof words / sizeof *words; i++)
        if (strcasecmp(value, words[i]) == 0)
            return true;
    return false;
}

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* The variable at `text`, behind its dollar: $NAME or ${NAME}. Returns what was read of the text; unknown
 * ones stay as they are written, as in Python's expandvars. */
static size_t expand_variable(q3_text *out, const char *text)
{
    char name[128];
    bool braced = *text == '{';
    size_t n = 0;
    const char *begin = text + braced;
    while (isalnum((unsigned char)begin[n]) || begin[n] == '_')
        n++;
    bool read = n && n < sizeof name && (!braced || begin[n] == '}');
    snprintf(name, sizeof name, "%.*s", (int)n, begin);
    const char *value = read ? getenv(name) : NULL;
    if (!value) {
        q3_text_append(out, "$", 1);
        return 0;
    }
    q3_text_append(out, value, strlen(value));
    return n + (braced ? 2 : 0);
}

/* `path`/`rest` in a new string, with ~ and variables expanded. */
static q3_status expand(char **out, const char *path, const char *rest)
{
    q3_text text = { 0 };
    const char *home = getenv("HOME");
    if (*path == '~' && (!path[1] || path[1] == '/')) {
        if (!home)
            return q3_fail(Q3_ERR_USAGE, "HOME is not set, so %s has no meaning; set HF_HOME or HOME", path);
        q3_text_append(&text, home, strlen(home));
        path++;
    }
    for (; *path; path++) {
        if (*path == '$')
            path += expand_variable(&text, path + 1);
        else
            q3_text_append(&text, path, 1);
    }
    if (rest)
        q3_text_printf(&text, "/%s", rest);
    if (text.failed)
        q3_text_free(&text);
    *out = text.data;
    return *out ? Q3_OK : Q3_ERR_MEMORY;
}

/* $HF_HOME/<rest>. */
static q3_status below_home(char **out, const char *rest)
{
    char below[64];
    const char *home = variable("HF_HOME"), *cache = variable("XDG_CACHE_HOME");
    if (home)
        return expand(out, home, rest);
    snprintf(below, sizeof below, "huggingface/%s", rest);
    return expand(out, cache ? cache : "~/.cache", below);
}

q3_status q3_hub_root(char **out, const char *given)
{
    *out = NULL;
    const char *root = given                               ? given
                       : variable("HF_HUB_CACHE")          ? variable("HF_HUB_CACHE")
                       : variable("HUGGINGFACE_HUB_CACHE") ? variable("HUGGINGFACE_HUB_CACHE")
                                                           : NULL;
    return root ? expand(out, root, NULL) : below_home(out, "hub");
}

q3_status q3_hub_token_path(char **out)
{
    *out = NULL;
    const char *path = variable("HF_TOKEN_PATH");
    return path ? expand(out, path, NULL) : below_home(out, "token");
}

char *q3_hub_folder(const char *root, const q3_hub_repo *repo)
{
    char name[Q3_HUB_ID_BYTES + 32];
    const char *slash = strchr(repo->id, '/');
    snprintf(name, sizeof name, "%s--%.*s--%s", repo->kind == Q3_HUB_DATASET ? "datasets" : "models",
             (int)(slash - repo->id), repo->id, slash + 1);
    return q3_path_join(root, name);
}

/* dir/a/b in a new string. */
static char *join3(const char *dir, const char *a, const char *b)
{
    char *first = q3_path_join(dir, a), *whole = first ? q3_path_join(first, b) : NULL;
    q3_free(first);
    return whole;
}

char *q3_hub_snapshot(const char *folder, const char *commit)
{
    return join3(folder, "snapshots", commit);
}

bool q3_hub_commit_of(char commit[Q3_HUB_COMMIT + 1], const char *folder, const q3_hub_repo *repo)
{
    char *text = NULL, *path = join3(folder, "refs", repo->revision);
    size_t n = 0;
    *commit = 0;
    if (q3_hub_is_commit(repo->revision)) {
        snprintf(commit, Q3_HUB_COMMIT + 1, "%s", repo->revision);
    } else if (path && q3_file_exists(path) && q3_file_read(&text, &n, path, 4096) == Q3_OK) {
        text[strcspn(text, " \r\n")] = 0;
        if (q3_hub_is_commit(text))
            snprintf(commit, Q3_HUB_COMMIT + 1, "%s", text);
        q3_free(text);
    }
    q3_free(path);
    return *commit != 0;
}

/* ---- what of a snapshot is there ---- */

/* What every part of this program reads of a model, at the top of its repository. */
static const char *const small_files[] = { "config.json",
                                           "generation_config.json",
                                           "model.safetensors.index.json",
                                           "tokenizer.json",
                                           "tokenizer_config.json",
                                           "vocab.json",
                                           "merges.txt",
                                           "added_tokens.json",
                                           "special_tokens_map.json",
                                           "preprocessor_config.json",
                                           "video_preprocessor_config.json",
                                           "processor_config.json",
                                           "chat_template.jinja",
                                           "chat_template.json",
                                           "adapter_config.json" };
static const char *const weight_files[] = { "model*.safetensors", "adapter_model.safetensors" };

static bool matches(const char *const *patterns, size_t n, const char *path, int flags)
{
    for (size_t i = 0; i < n; i++)
        if (fnmatch(patterns[i], path, flags) == 0)
            return true;
    return false;
}

bool q3_hub_wants(const q3_hub_wish *wish, q3_hub_kind kind, const char *path)
{
    if (wish->n_include)
        return matches(wish->include, (size_t)wish->n_include, path, 0);
    if (kind == Q3_HUB_DATASET)
        return true;
    return matches(small_files, sizeof small_files / sizeof *small_files, path, FNM_PATHNAME) ||
           (!wish->light &&
            matches(weight_files, sizeof weight_files / sizeof *weight_files, path, FNM_PATHNAME));
}

static bool has(const char *dir, const char *name)
{
    char *path = q3_path_join(dir, name);
    bool there = path && q3_file_exists(path);
    q3_free(path);
    return there;
}

/* Opens dir/name; false when it is not there or not JSON. */
static bool open_json(q3_json *doc, const char *dir, const char *name)
{
    char *path = q3_path_join(dir, name);
    bool open = path && q3_file_exists(path) && q3_json_open(doc, path, INDEX_BYTES) == Q3_OK;
    q3_free(path);
    return open;
}

/* Writes the first file that is not there; true when all are. */
static bool weights_there(char *missing, size_t bytes, const char *dir)
{
    q3_json doc;
    *missing = 0;
    if (!has(dir, "model.safetensors.index.json")) {
        snprintf(missing, bytes, "%s", has(dir, "model.safetensors") ? "" : "model.safetensors");
        return !*missing;
    }
    if (!open_json(&doc, dir, "model.safetensors.index.json")) {
        snprintf(missing, bytes, "model.safetensors.index.json");
        return false;
    }
    const cJSON *file, *map = cJSON_GetObjectItemCaseSensitive(doc.root, "weight_map");
    const char *last = ""; // names of a file stand together
    cJSON_ArrayForEach(file, map)
    {
        const char *name = cJSON_GetStringValue(file);
        if (!name || strcmp(name, last) == 0)
            continue;
        last = name;
        if (!q3_hub_path_sound(name) || !has(dir, name)) {
            snprintf(missing, bytes, "%s", name);
            break;
        }
    }
    q3_json_close(&doc);
    return !*missing;
}

/* The first file of the commit's list that is wanted and not there. Without a list nothing can be said. */
static void look_at_list(char *missing, size_t bytes, const char *folder, const char *commit, const char *dir,
                         const q3_hub_repo *repo, const q3_hub_wish *wish)
{
    char name[Q3_HUB_COMMIT + 16];
    q3_json doc;
    snprintf(name, sizeof name, "trees/%s.json", commit);
    *missing = 0;
    if (!open_json(&doc, folder, name))
        return;
    const cJSON *file, *files = cJSON_GetObjectItemCaseSensitive(doc.root, "files");
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(doc.root, "format_version");
    if (cJSON_IsNumber(version) && version->valuedouble == 1)
        cJSON_ArrayForEach(file, files)
        {
            if (file->string && q3_hub_path_sound(file->string) &&
                q3_hub_wants(wish, repo->kind, file->string) && !has(dir, file->string)) {
                snprintf(missing, bytes, "%s", file->string);
                break;
            }
        }
    q3_json_close(&doc);
}

static bool sees_pictures(const char *dir)
{
    q3_json doc;
    if (!open_json(&doc, dir, "config.json"))
        return false;
    bool sees = cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(doc.root, "vision_config"));
    q3_json_close(&doc);
    return sees;
}

static q3_hub_state look_at_model(char *missing, size_t bytes, const char *dir, const q3_hub_wish *wish)
{
    *missing = 0;
    if (has(dir, "adapter_config.json")) { // some have their base's config.json beside it
        bool whole = has(dir, "adapter_model.safetensors") || (wish->light && !has(dir, "config.json"));
        snprintf(missing, bytes, "%s", whole ? "" : "adapter_model.safetensors");
        if (whole || !has(dir, "config.json"))
            return whole ? Q3_HUB_WHOLE : Q3_HUB_PARTIAL;
    }
    if (!has(dir, "config.json") && !(wish->light && has(dir, "tokenizer.json"))) {
        snprintf(missing, bytes, "config.json");
        return Q3_HUB_PARTIAL;
    }
    if (!wish->light && !weights_there(missing, bytes, dir))
        return Q3_HUB_PARTIAL;
    if (!has(dir, "tokenizer.json") && !(has(dir, "vocab.json") && has(dir, "merges.txt")))
        snprintf(missing, bytes, "tokenizer.json");
    else if (sees_pictures(dir) && !has(dir, "preprocessor_config.json") &&
             !has(dir, "processor_config.json"))
        snprintf(missing, bytes, "preprocessor_config.json");
    return *missing ? Q3_HUB_USABLE : Q3_HUB_WHOLE;
}

q3_hub_state q3_hub_look(char *missing, size_t missing_bytes, const char *folder, const char *commit,
                         const q3_hub_repo *repo, const q3_hub_wish *wish)
{
    char *dir = q3_hub_snapshot(folder, commit);
    q3_hub_state state = Q3_HUB_WHOLE;
    *missing = 0;
    if (!dir || !q3_dir_exists(dir)) {
        snprintf(missing, missing_bytes, "%s", repo->kind == Q3_HUB_MODEL ? "config.json" : "everything");
        state = Q3_HUB_PARTIAL;
    } else if (repo->kind == Q3_HUB_MODEL && !wish->n_include) {
        state = look_at_model(missing, missing_bytes, dir, wish);
    }
    if (state == Q3_HUB_WHOLE) {
        look_at_list(missing, missing_bytes, folder, commit, dir, repo, wish);
        state = *missing ? Q3_HUB_USABLE : Q3_HUB_WHOLE;
    }
    q3_free(dir);
    return state;
}

bool q3_hub_any_commit(char commit[Q3_HUB_COMMIT + 1], const char *folder, const q3_hub_repo *repo,
                       const q3_hub_wish *wish)
{
    char missing[256], *path = q3_path_join(folder, "snapshots");
    DIR *dir = path ? opendir(path) : NULL;
    struct stat info;
    time_t newest = 0;
    *commit = 0;
    for (const struct dirent *e; dir && (e = readdir(dir)) != NULL;)
        if (q3_hub_is_commit(e->d_name) && fstatat(dirfd(dir), e->d_name, &info, 0) == 0 &&
            (!*commit || info.st_mtime > newest) &&
            q3_hub_look(missing, sizeof missing, folder, e->d_name, repo, wish) != Q3_HUB_PARTIAL) {
            newest = info.st_mtime;
            snprintf(commit, Q3_HUB_COMMIT + 1, "%s", e->d_name);
        }
    if (dir)
        closedir(dir);
    q3_free(path);
    return *commit != 0;
}

/* ---- writing ---- */

static q3_status make_parent(const char *path)
{
    char *parent = q3_path_dir(path);
    q3_status st = parent ? q3_dir_create(parent) : Q3_ERR_MEMORY;
    q3_free(parent);
    return st;
}

/* As q3_file_write, but several processes may do it at once. */
static q3_status write_small(const char *path, const char *text)
{
    char tmp[4200];
    uint32_t drawn = 0;
    if (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn)
        drawn = (uint32_t)getpid();
    if (snprintf(tmp, sizeof tmp, "%s.%08x", path, drawn) >= (int)sizeof tmp)
        return q3_fail(Q3_ERR_IO, "%.200s...: the path is too long", path);
    Q3_TRY(q3_file_write(tmp, text, strlen(text)));
    if (rename(tmp, path) == 0)
        return Q3_OK;
    int e = errno;
    unlink(tmp);
    return q3_fail(Q3_ERR_IO, "%s: cannot be written: %s", path, strerror(e));
}

q3_status q3_hub_write_ref(const char *folder, const q3_hub_repo *repo, const char *commit)
{
    char before[Q3_HUB_COMMIT + 1];
    if (q3_hub_is_commit(repo->revision) ||
        (q3_hub_commit_of(before, folder, repo) && strcmp(before, commit) == 0))
        return Q3_OK;
    char *path = join3(folder, "refs", repo->revision);
    q3_status st = path ? make_parent(path) : Q3_ERR_MEMORY;
    st = st ? st : write_small(path, commit);
    q3_free(path);
    return st;
}

void q3_hub_tag_root(const char *root)
{
    static const char text[] = "Signature: 8a477f597d28d172789f06886806bc55\n"
                               "# A cache of models and data sets; made by qwen3-sft.\n";
    char *path = q3_path_join(root, "CACHEDIR.TAG");
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666) : -1;
    if (fd >= 0) {
        q3_file_put(fd, text, sizeof text - 1, path);
        close(fd);
    }
    q3_free(path);
}

/* Where links are not to be had, the content itself moves, as huggingface_hub does it. */
static q3_status place(const char *blob, const char *target, const char *at)
{
    if (!q3_hub_switched_on("HF_HUB_DISABLE_SYMLINKS") && symlink(target, at) == 0)
        return Q3_OK;
    if (errno == EEXIST && q3_file_exists(at)) // another process was faster
        return Q3_OK;
    if (rename(blob, at) == 0)
        return Q3_OK;
    return q3_fail(Q3_ERR_IO, "%s: cannot be made: %s", at, strerror(errno));
}

q3_status q3_hub_link(const char *folder, const char *commit, const char *path, const char *etag)
{
    q3_text target = { 0 };
    char *dir = q3_hub_snapshot(folder, commit), *at = dir ? q3_path_join(dir, path) : NULL;
    char *blob = join3(folder, "blobs", etag);
    for (const char *p = path; *p; p++)
        if (*p == '/')
            q3_text_printf(&target, "../");
    q3_text_printf(&target, "../../blobs/%s", etag);
    q3_status st = at && blob && !target.failed ? make_parent(at) : Q3_ERR_MEMORY;
    if (st == Q3_OK && !q3_file_exists(at)) {
        unlink(at); // a link that leads nowhere
        st = place(blob, target.data, at);
    }
    q3_text_free(&target);
    q3_free(blob);
    q3_free(at);
    q3_free(dir);
    return st;
}
