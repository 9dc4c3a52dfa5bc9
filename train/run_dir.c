#include "train/run_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "train/checkpoint.h"
#include "train/tensorboard.h"

enum { MAX_NUMBER = 10000, METRICS_LIMIT = 1 << 30 };

static bool empty_or_absent(const char *dir)
{
    DIR *d = opendir(dir);
    if (!d)
        return !q3_file_exists(dir);
    int entries = 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        entries += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return entries == 0;
}

static bool has(const char *dir, const char *name)
{
    char *path = q3_path_join(dir, name);
    bool is = path && q3_file_exists(path);
    q3_free(path);
    return is;
}

static bool same_place(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* "runs/sarcasm" for 1, "runs/sarcasm-2" for 2 ...; heap. */
static char *numbered(const char *dir, int number)
{
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    size_t room = n + sizeof "-10000";
    char *name = q3_malloc(room);
    if (name && number == 1)
        snprintf(name, room, "%.*s", (int)n, dir);
    else if (name)
        snprintf(name, room, "%.*s-%d", (int)n, dir, number);
    return name;
}

static q3_status first_free(char **dir, const char *output_dir)
{
    for (int i = 1; i < MAX_NUMBER; i++) {
        *dir = numbered(output_dir, i);
        if (!*dir)
            return Q3_ERR_MEMORY;
        if (empty_or_absent(*dir))
            return Q3_OK;
        q3_free(*dir);
    }
    *dir = NULL;
    return q3_fail(Q3_ERR_USAGE, "%s and %d further names are taken; give --output-dir", output_dir,
                   MAX_NUMBER);
}

/* The last of the numbered directories that is in use; the plain name when none is. */
static char *last_used(const char *output_dir)
{
    int last = 1;
    for (int i = 1; i < MAX_NUMBER; i++) {
        char *dir = numbered(output_dir, i);
        bool used = dir && !empty_or_absent(dir);
        q3_free(dir);
        if (!used)
            break;
        last = i;
    }
    return numbered(output_dir, last);
}

static q3_status resume_auto(char **dir, char **checkpoint, const char *output_dir, const q3_run_options *o)
{
    *dir = o->named ? q3_strdup(output_dir) : last_used(output_dir);
    if (!*dir)
        return Q3_ERR_MEMORY;
    int64_t step = q3_checkpoint_newest(*dir);
    if (step < 0)
        return Q3_OK;
    *checkpoint = q3_checkpoint_path(*dir, step);
    return *checkpoint ? Q3_OK : Q3_ERR_MEMORY;
}

/* Only a run's own directory is emptied or continued; config.json is no mark of one, for every model has it. */
static bool looks_like_run(const char *dir)
{
    return has(dir, "metrics.jsonl") || q3_checkpoint_newest(dir) >= 0;
}

/* "checkpoint-5.tmp", with or without a slash behind it. */
static bool unfinished(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    return n > 4 && strncmp(path + n - 4, ".tmp", 4) == 0;
}

/* The checkpoint's own directory, or one that no run's results would be lost in. */
static q3_status may_continue_in(const char *dir, const char *checkpoint)
{
    char *own = q3_path_dir(checkpoint);
    if (!own)
        return Q3_ERR_MEMORY;
    bool fits = same_place(dir, own) || empty_or_absent(dir) ||
                (looks_like_run(dir) && q3_checkpoint_newest(dir) < 0 && !q3_run_dir_finished(dir));
    q3_free(own);
    if (fits)
        return Q3_OK;
    return q3_fail(Q3_ERR_USAGE, "%s holds another run than %s; give another --output-dir", dir, checkpoint);
}

/* A checkpoint named by its own path: the run goes on in the directory around it, or in the one named beside it. */
static q3_status resume_from(char **dir, char **checkpoint, const char *output_dir, const q3_run_options *o)
{
    if (unfinished(o->resume))
        return q3_fail(Q3_ERR_USAGE, "--resume %s: was not written to its end; take another checkpoint",
                       o->resume);
    if (!has(o->resume, "trainer_state.json")) {
        int64_t step = q3_checkpoint_newest(o->resume); // a run's directory serves too
        if (step < 0)
            return q3_fail(Q3_ERR_USAGE, "--resume %s: neither a checkpoint nor a directory with checkpoints",
                           o->resume);
        *checkpoint = q3_checkpoint_path(o->resume, step);
        *dir = q3_strdup(o->named ? output_dir : o->resume);
    } else {
        char *trimmed = numbered(o->resume, 1);
        *checkpoint = trimmed;
        *dir = o->named ? q3_strdup(output_dir) : trimmed ? q3_path_dir(trimmed) : NULL;
    }
    return *dir && *checkpoint ? may_continue_in(*dir, *checkpoint) : Q3_ERR_MEMORY;
}

q3_status q3_run_dir_choose(char **dir, char **checkpoint, const char *output_dir, const q3_run_options *o)
{
    *dir = *checkpoint = NULL;
    if (o->resume && strcmp(o->resume, "auto") == 0)
        return resume_auto(dir, checkpoint, output_dir, o);
    if (o->resume)
        return resume_from(dir, checkpoint, output_dir, o);
    if (!o->named && !o->overwrite)
        return first_free(dir, output_dir);
    if (!o->overwrite && !empty_or_absent(output_dir))
        return q3_fail(Q3_ERR_USAGE,
                       "%s holds another run; give --resume to continue it, --overwrite to replace it, or "
                       "another --output-dir",
                       output_dir);
    *dir = q3_strdup(output_dir);
    return *dir ? Q3_OK : Q3_ERR_MEMORY;
}

/* Removes checkpoints that a process which was killed left half-written. */
static q3_status sweep(const char *dir)
{
    q3_status st = Q3_OK;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && st == Q3_OK && (e = readdir(d)) != NULL;) {
        if (strncmp(e->d_name, "checkpoint-", 11) != 0 || !unfinished(e->d_name))
            continue;
        char *path = q3_path_join(dir, e->d_name);
        st = path ? q3_dir_remove(path) : Q3_ERR_MEMORY;
        q3_free(path);
    }
    if (d)
        closedir(d);
    return st;
}

q3_status q3_run_dir_prepare(const char *dir, bool overwrite)
{
    if (overwrite && !empty_or_absent(dir)) {
        if (!looks_like_run(dir))
            return q3_fail(Q3_ERR_USAGE,
                           "--overwrite: %s does not look like a run's directory; remove it by hand", dir);
        Q3_TRY(q3_dir_remove(dir));
    }
    Q3_TRY(q3_dir_create(dir));
    Q3_TRY(sweep(dir));
    char *probe = q3_path_join(dir, ".write-test");
    q3_status st = probe ? q3_file_write(probe, "", 0) : Q3_ERR_MEMORY;
    if (probe)
        unlink(probe);
    q3_free(probe);
    return st == Q3_OK ? st : q3_wrap(st, "the output directory cannot be used");
}

static q3_status copy_tree(const char *to, const char *from);

static q3_status copy_entry(const char *to, const char *from)
{
    return q3_dir_exists(from) ? copy_tree(to, from) : q3_file_copy(to, from);
}

static q3_status copy_in(const char *to, const char *from, const char *name)
{
    char *target = q3_path_join(to, name), *source = q3_path_join(from, name);
    q3_status st = target && source ? copy_entry(target, source) : Q3_ERR_MEMORY;
    q3_free(target);
    q3_free(source);
    return st;
}

static q3_status copy_tree(const char *to, const char *from)
{
    DIR *d = opendir(from);
    if (!d)
        return q3_fail(Q3_ERR_IO, "%s: %s", from, strerror(errno));
    q3_status st = q3_dir_create(to);
    for (struct dirent *e; st == Q3_OK && (e = readdir(d)) != NULL;)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            st = copy_in(to, from, e->d_name);
    closedir(d);
    return st;
}

static q3_status adopt_best(const char *dir, const char *from, int64_t step)
{
    char *to = q3_checkpoint_path(dir, step), *tmp = NULL, *best = q3_checkpoint_path(from, step);
    if (to && (tmp = q3_malloc(strlen(to) + sizeof ".tmp")) != NULL)
        sprintf(tmp, "%s.tmp", to);
    q3_status st = tmp && best ? Q3_OK : Q3_ERR_MEMORY;
    if (st == Q3_OK && q3_dir_exists(best)) {
        st = copy_tree(tmp, best);
        st = st ? st : q3_dir_publish(to, tmp);
    }
    q3_free(to);
    q3_free(tmp);
    q3_free(best);
    return st;
}

/* What a view of metrics.jsonl has written. */
static q3_status adopt_events(const char *dir, const char *from)
{
    q3_status st = Q3_OK;
    DIR *d = opendir(from);
    for (struct dirent *e; d && st == Q3_OK && (e = readdir(d)) != NULL;)
        if (strncmp(e->d_name, Q3_TENSORBOARD_PREFIX, sizeof Q3_TENSORBOARD_PREFIX - 1) == 0)
            st = copy_in(dir, from, e->d_name);
    if (d)
        closedir(d);
    return st;
}

q3_status q3_run_dir_adopt(const char *dir, const char *checkpoint, int64_t best_step)
{
    char *from = q3_path_dir(checkpoint);
    if (!from)
        return Q3_ERR_MEMORY;
    char *eval = q3_path_join(from, "eval");
    q3_status st = eval ? Q3_OK : Q3_ERR_MEMORY;
    if (st == Q3_OK && !same_place(dir, from)) {
        st = has(from, "metrics.jsonl") ? copy_in(dir, from, "metrics.jsonl") : Q3_OK;
        st = st ? st : adopt_events(dir, from);
        st = st == Q3_OK && q3_dir_exists(eval) ? copy_in(dir, from, "eval") : st;
        st = st == Q3_OK && best_step >= 0 ? adopt_best(dir, from, best_step) : st;
    }
    q3_free(eval);
    q3_free(from);
    return st;
}

bool q3_run_dir_finished(const char *dir)
{
    return has(dir, "training_meta.json");
}

q3_status q3_metrics_append(const char *dir, const char *text, size_t size, bool sync)
{
    char *path = q3_path_join(dir, "metrics.jsonl");
    if (!path)
        return Q3_ERR_MEMORY;
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    q3_status st = Q3_OK;
    errno = ENOSPC; // what a short write means
    if (fd < 0 || write(fd, text, size) != (ssize_t)size || (sync && fsync(fd) != 0))
        st = q3_fail(Q3_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    q3_free(path);
    return st;
}

/* Whether a line stays; a half-written last line does not. */
static bool keep(const char *line, size_t n, int64_t step, bool unanswered)
{
    q3_json doc;
    int64_t at = -1;
    if (q3_json_parse(&doc, line, n, "metrics.jsonl", 1) != Q3_OK)
        return false;
    bool is = q3_json_int(&at, &doc, doc.root, "step", -1) == Q3_OK && at >= 0 && at <= step &&
              !cJSON_HasObjectItem(doc.root, "gen_eval/post_accuracy") &&
              !cJSON_HasObjectItem(doc.root, "train_runtime") &&
              !(unanswered && at == step && cJSON_HasObjectItem(doc.root, "gen_eval/accuracy"));
    q3_json_close(&doc);
    return is;
}

q3_status q3_metrics_cut(const char *dir, int64_t step, bool unanswered)
{
    char *path = q3_path_join(dir, "metrics.jsonl"), *text = NULL;
    size_t size = 0, kept = 0;
    if (!path)
        return Q3_ERR_MEMORY;
    q3_status st = q3_file_exists(path) ? q3_file_read(&text, &size, path, METRICS_LIMIT) : Q3_OK;
    for (size_t at = 0; st == Q3_OK && at < size;) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t n = end ? (size_t)(end - (text + at)) + 1 : size - at;
        if (end && keep(text + at, n - 1, step, unanswered)) {
            memmove(text + kept, text + at, n);
            kept += n;
        }
        at += n;
    }
    if (st == Q3_OK && text && kept != size)
        st = q3_file_write(path, text, kept);
    q3_free(text);
    q3_free(path);
    return st;
}
