#include "cli/rerank_request.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"

enum { MOST_BYTES = 1 << 30 }; // of a file of documents, read whole

/* ---- a list in JSON, from several places ---- */

static void next_item(q3_text *list)
{
    if (list->size)
        q3_text_append(list, ", ", 2);
}

static void add_text(q3_text *list, const char *text)
{
    next_item(list);
    q3_text_json_string(list, text, strlen(text));
}

/* The items of an array as they are written, or the value itself. */
static void add_value(q3_text *list, const q3_json *doc)
{
    const char *begin = doc->text, *end = doc->text + doc->size;
    if (cJSON_IsArray(doc->root)) {
        begin = (const char *)memchr(begin, '[', doc->size) + 1;
        do
            end--;
        while (*end != ']');
        if (!cJSON_GetArraySize(doc->root))
            return;
    }
    next_item(list);
    q3_text_append(list, begin, (size_t)(end - begin));
}

/* A list in JSON, of a file behind @ or as it stands; what is no list is one text. */
static q3_status add_documents(q3_text *list, const char *value)
{
    q3_json doc;
    if (*value == '@') {
        Q3_TRY(q3_status_as(q3_json_open(&doc, value + 1, MOST_BYTES), Q3_ERR_DATA));
        add_value(list, &doc);
        q3_json_close(&doc);
        return Q3_OK;
    }
    q3_status st = q3_json_parse(&doc, value, strlen(value), "--documents", 1);
    if (st == Q3_ERR_MEMORY)
        return st;
    if (st == Q3_OK && cJSON_IsArray(doc.root))
        add_value(list, &doc);
    else
        add_text(list, value);
    if (st == Q3_OK)
        q3_json_close(&doc);
    return Q3_OK;
}

static q3_status add_line(q3_text *list, const char *line, size_t n, const char *path, int number)
{
    q3_json doc;
    if (strspn(line, " \t\r") >= n)
        return Q3_OK;
    Q3_TRY(q3_status_as(q3_json_parse(&doc, line, n, path, number), Q3_ERR_DATA));
    q3_status st = cJSON_IsArray(doc.root)
                       ? q3_fail(Q3_ERR_DATA, "%s:%d: a document is a string or an object", path, number)
                       : Q3_OK;
    if (st == Q3_OK)
        add_value(list, &doc);
    q3_json_close(&doc);
    return st;
}

/* A document a line. */
static q3_status add_lines(q3_text *list, const char *path)
{
    char *text;
    size_t size;
    int number = 1;
    q3_status st = Q3_OK;
    Q3_TRY(q3_status_as(q3_file_read(&text, &size, path, MOST_BYTES), Q3_ERR_DATA));
    for (const char *at = text, *end = text + size; at < end && st == Q3_OK; number++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop)
            stop = end;
        st = add_line(list, at, (size_t)(stop - at), path, number);
        at = stop + 1;
    }
    q3_free(text);
    return st;
}

static q3_status list_documents(q3_text *list, const q3_options *o)
{
    const char *value;
    for (int i = 0; (value = q3_options_nth(o, "document", i)); i++)
        add_text(list, value);
    if ((value = q3_options_get(o, "documents")))
        Q3_TRY(add_documents(list, value));
    if ((value = q3_options_get(o, "documents-jsonl")))
        Q3_TRY(add_lines(list, value));
    for (int i = 0; (value = q3_options_nth(o, "document-image", i)); i++) {
        next_item(list);
        q3_text_printf(list, "{\"image\": ");
        q3_text_json_string(list, value, strlen(value));
        q3_text_printf(list, "}");
    }
    return Q3_OK;
}

/* ---- requests ---- */

static q3_status write_query(q3_text *out, const q3_options *o)
{
    const char *text = q3_options_get(o, "query"), *image = q3_options_nth(o, "query-image", 0);
    if (!image)
        Q3_TRY(q3_options_need(&text, o, "query"));
    q3_text images = { 0 };
    for (int i = 0; (image = q3_options_nth(o, "query-image", i)); i++)
        add_text(&images, image);
    q3_text_printf(out, "{\"query\": {\"image\": [%s]", images.size ? images.data : "");
    if (text) {
        q3_text_printf(out, ", \"text\": ");
        q3_text_json_string(out, text, strlen(text));
    }
    q3_text_printf(out, "}");
    out->failed = out->failed || images.failed;
    q3_text_free(&images);
    return Q3_OK;
}

/* The options as a request. */
static q3_status write_request(q3_text *out, const q3_options *o)
{
    q3_text list = { 0 };
    q3_status st = write_query(out, o);
    if (st == Q3_OK)
        st = list_documents(&list, o);
    q3_text_printf(out, ", \"documents\": [%s]}", list.size ? list.data : "");
    if (st == Q3_OK && (out->failed || list.failed))
        st = Q3_ERR_MEMORY;
    q3_text_free(&list);
    return st;
}

static q3_status from_options(q3_rerank_job *out, q3_arena *mem, const q3_options *o)
{
    q3_text text = { 0 };
    q3_json doc;
    q3_status st = write_request(&text, o);
    if (st == Q3_OK)
        st = q3_json_parse(&doc, text.data, text.size, "the command line", 1);
    if (st == Q3_OK) {
        st = q3_rerank_job_parse(out, mem, doc.root, NULL);
        q3_json_close(&doc);
    }
    q3_text_free(&text);
    return st;
}

static q3_status read_stdin(q3_text *out)
{
    char buffer[1 << 14];
    size_t n;
    while ((n = fread(buffer, 1, sizeof buffer, stdin)) > 0)
        q3_text_append(out, buffer, n);
    if (ferror(stdin))
        return q3_fail(Q3_ERR_IO, "<stdin>: %s", strerror(errno));
    return out->failed ? Q3_ERR_MEMORY : Q3_OK;
}

/* A key that nobody reads is a mistake. */
static q3_status check_keys(const cJSON *request, const char *path)
{
    static const char *const keys[] = { "instruction", "query", "documents", "top_k", "batch_size" };
    enum { KEYS = sizeof keys / sizeof *keys };
    const cJSON *item;
    cJSON_ArrayForEach(item, request)
    {
        bool known = !item->string; // of an array, which q3_rerank_job_parse refuses
        for (int i = 0; i < KEYS; i++)
            known = known || strcmp(item->string, keys[i]) == 0;
        if (known)
            continue;
        const char *nearest = q3_nearest(item->string, keys, KEYS);
        return q3_fail(Q3_ERR_DATA, "%s: unknown key \"%.60s\"%s%s%s", path, item->string,
                       nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
    }
    return Q3_OK;
}

static q3_status from_json(q3_rerank_job *out, q3_arena *mem, const char *path)
{
    q3_text text = { 0 };
    q3_json doc;
    bool piped = strcmp(path, "-") == 0;
    const char *name = piped ? "<stdin>" : path;
    q3_status st = piped ? read_stdin(&text) : Q3_OK;
    if (st == Q3_OK)
        st = piped ? q3_json_parse(&doc, text.data ? text.data : "", text.size, name, 1)
                   : q3_json_open(&doc, path, MOST_BYTES);
    st = q3_status_as(st, Q3_ERR_DATA);
    if (st == Q3_OK) {
        st = check_keys(doc.root, name);
        if (st == Q3_OK)
            st = q3_wrap(q3_rerank_job_parse(out, mem, doc.root, NULL), "%s", name);
        q3_json_close(&doc);
    }
    q3_text_free(&text);
    return st;
}

q3_status q3_rerank_request_numbers(q3_rerank_job *job, const q3_options *o)
{
    if (q3_options_given(o, "instruction"))
        job->instruction = q3_options_get(o, "instruction");
    Q3_TRY(q3_options_int(&job->top_k, o, "top-k-docs", job->top_k, 1, Q3_RERANK_MAX_TOP_K));
    return q3_options_int(&job->batch_size, o, "batch-size", job->batch_size, 1, Q3_RERANK_MAX_BATCH);
}

q3_status q3_rerank_request_read(q3_rerank_job *out, q3_arena *mem, const q3_options *o)
{
    const char *json = q3_options_get(o, "json");
    Q3_TRY(json ? from_json(out, mem, json) : from_options(out, mem, o));
    q3_status st = q3_rerank_request_numbers(out, o);
    if (st == Q3_OK && !out->n)
        st = q3_fail(Q3_ERR_USAGE,
                     "there are no documents to rank; give --document, --documents or --documents-jsonl");
    if (st != Q3_OK)
        q3_rerank_job_free(out);
    return st;
}
