#include "data/jsonl.h"

#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "data/json_array.h"

#define LINE_LIMIT ((size_t)64 << 20)

enum { COLUMN_LIMIT = 1 << 30 }; // core/json.h counts columns as int, up to the end of the sample

/* A sample: a line, or an element of an array. */
typedef struct line {
    size_t offset;
    uint32_t size;   // without the newline
    uint32_t number; // from 1, blank lines included
    int column;      // of its first character
} line;

struct q3_jsonl {
    char *name; // of the file, for messages
    char *dir;  // where relative paths begin
    q3_map map; // empty when the text is borrowed
    const char *text;
    line *lines; // [size], those that are not blank
    int64_t size, capacity;
    q3_data_keys keys;
};

static bool is_blank(const char *p, size_t n)
{
    while (n > 0 && strchr(" \t\r\n", *p) && *p)
        p++, n--;
    return n == 0;
}

static q3_status add_line(void *self, const q3_json_element *e)
{
    q3_jsonl *f = self;
    if (e->size > LINE_LIMIT || e->line > UINT32_MAX)
        return q3_fail(Q3_ERR_DATA, "%s:%lld: the sample has %s, and at most %s are read", f->name,
                       (long long)e->line, q3_bytes(e->size), q3_bytes(LINE_LIMIT));
    if (e->column > COLUMN_LIMIT)
        return q3_fail(Q3_ERR_DATA, "%s:%lld: the line is too long; begin each sample on a line of its own",
                       f->name, (long long)e->line);
    if (f->size == f->capacity) {
        int64_t capacity = f->capacity ? 2 * f->capacity : 64;
        line *lines = q3_realloc(f->lines, (size_t)capacity * sizeof *lines);
        if (!lines)
            return q3_wrap(Q3_ERR_MEMORY, "%s", f->name);
        f->lines = lines;
        f->capacity = capacity;
    }
    f->lines[f->size++] = (line){ e->offset, (uint32_t)e->size, (uint32_t)e->line, (int)e->column };
    return Q3_OK;
}

static q3_status index_lines(q3_jsonl *f, size_t size)
{
    size_t at = size >= 3 && memcmp(f->text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    for (int64_t number = 1; at < size; number++) {
        const char *newline = memchr(f->text + at, '\n', size - at);
        size_t n = newline ? (size_t)(newline - f->text) - at : size - at;
        if (!is_blank(f->text + at, n))
            Q3_TRY(add_line(f, &(q3_json_element){ at, n, number, 1 }));
        at += n + 1;
    }
    return Q3_OK;
}

static q3_status index_samples(q3_jsonl *f, size_t size)
{
    Q3_TRY(q3_jsonl_is_array(f->name) ? q3_json_array_scan(f->text, size, f->name, add_line, f)
                                      : index_lines(f, size));
    return f->size ? Q3_OK : q3_fail(Q3_ERR_DATA, "%s: the file holds no samples", f->name);
}

static q3_jsonl *new_file(const char *name, const q3_data_keys *keys)
{
    q3_jsonl *f = q3_calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->keys = *keys;
    f->name = q3_strdup(name);
    f->dir = f->name ? q3_path_dir(name) : NULL;
    if (f->dir)
        return f;
    q3_jsonl_close(f);
    return NULL;
}

static q3_status finish_open(q3_jsonl **out, q3_jsonl *f, size_t size)
{
    q3_status st = index_samples(f, size);
    if (st != Q3_OK) {
        q3_jsonl_close(f);
        return st;
    }
    *out = f;
    return Q3_OK;
}

q3_status q3_jsonl_open(q3_jsonl **out, const char *path, const q3_data_keys *keys)
{
    *out = NULL;
    q3_jsonl *f = new_file(path, keys);
    if (!f)
        return Q3_ERR_MEMORY;
    q3_status st = q3_status_as(q3_map_open(&f->map, path), Q3_ERR_DATA);
    if (st != Q3_OK) {
        q3_jsonl_close(f);
        return st;
    }
    f->text = f->map.size ? (const char *)f->map.data : "";
    return finish_open(out, f, f->map.size);
}

q3_status q3_jsonl_open_memory(q3_jsonl **out, const char *text, size_t size, const char *name,
                               const q3_data_keys *keys)
{
    *out = NULL;
    q3_jsonl *f = new_file(name, keys);
    if (!f)
        return Q3_ERR_MEMORY;
    f->text = text;
    return finish_open(out, f, size);
}

void q3_jsonl_close(q3_jsonl *f)
{
    if (!f)
        return;
    q3_map_close(&f->map);
    q3_free(f->lines);
    q3_free(f->dir);
    q3_free(f->name);
    q3_free(f);
}

int64_t q3_jsonl_size(const q3_jsonl *f)
{
    return f->size;
}

q3_status q3_jsonl_get(q3_sample *out, const q3_jsonl *f, int64_t index)
{
    Q3_CHECK(index >= 0 && index < f->size, "sample %lld of %lld", (long long)index, (long long)f->size);
    const line *l = &f->lines[index];
    char where[1024];
    q3_json doc;
    *out = (q3_sample){ 0 };
    size_t n = (size_t)snprintf(where, sizeof where, "%s:%u", f->name, (unsigned)l->number);
    if (index > 0 && l[-1].number == l->number && n < sizeof where)
        snprintf(where + n, sizeof where - n, ":%d", l->column);
    Q3_TRY(
        q3_status_as(q3_json_parse_at(&doc, f->text + l->offset, l->size, f->name, (int)l->number, l->column),
                     Q3_ERR_DATA));
    q3_status st = q3_sample_parse(out, &doc, &f->keys, f->dir, where);
    q3_json_close(&doc);
    return st;
}

bool q3_jsonl_is_lines(const char *path)
{
    const char *dot = strrchr(q3_path_base(path), '.');
    return dot && (strcmp(dot, ".jsonl") == 0 || strcmp(dot, ".ndjson") == 0);
}

bool q3_jsonl_is_array(const char *path)
{
    const char *dot = strrchr(q3_path_base(path), '.');
    return dot && strcmp(dot, ".json") == 0;
}

static bool accepts(const char *path)
{
    return q3_jsonl_is_lines(path) || q3_jsonl_is_array(path);
}

static q3_status open_any(void **self, const char *path, const q3_data_keys *keys)
{
    q3_jsonl *f;
    q3_status st = q3_jsonl_open(&f, path, keys);
    *self = f;
    return st;
}

static int64_t size_any(const void *self)
{
    return q3_jsonl_size(self);
}
static q3_status get_any(q3_sample *out, const void *self, int64_t index)
{
    return q3_jsonl_get(out, self, index);
}
static void close_any(void *self)
{
    q3_jsonl_close(self);
}

const q3_source q3_source_jsonl = { accepts, open_any, size_any, get_any, close_any };
