#include "tests/support/hub.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/sha256.h"

static void begin_reply(q3_text *reply, int status, size_t length)
{
    q3_text_printf(reply, "HTTP/1.1 %d X\r\nConnection: close\r\nRetry-After: 0\r\nContent-Length: %zu\r\n",
                   status, length);
}

static void send_text(q3_text *reply, int status, const char *header, const q3_text *body)
{
    begin_reply(reply, status, body->size);
    q3_text_printf(reply, "%s\r\n", header);
    q3_text_append(reply, body->data ? body->data : "", body->size);
}

static void refuse(q3_text *reply, int status, const char *code)
{
    begin_reply(reply, status, 0);
    q3_text_printf(reply, "X-Error-Code: %s\r\n\r\n", code);
}

/* One file a page. */
static void send_list(t_hub *h, q3_text *reply, const char *path)
{
    q3_text body = { 0 };
    char link[300] = "";
    const char *cursor = strstr(path, "cursor=");
    int i = cursor ? atoi(cursor + 7) : 0;
    if (i + 1 < h->n)
        snprintf(link, sizeof link,
                 "Link: <http://127.0.0.1:%d%.*s?recursive=true&cursor=%d>; rel=\"next\"\r\n",
                 q3_listener_port(h->hub), (int)strcspn(path, "?"), path, i + 1);
    q3_text_printf(&body, "[{\"type\": \"directory\", \"path\": \"x\", \"oid\": \"0\", \"size\": 0}");
    if (i < h->n) {
        const t_hub_file *f = &h->files[i];
        q3_text_printf(&body, ", {\"type\": \"file\", \"size\": %zu, \"oid\": \"%.40s\", \"path\": ", f->size,
                       f->blob);
        q3_text_json_string(&body, f->path, strlen(f->path));
        if (f->large)
            q3_text_printf(&body, ", \"lfs\": {\"oid\": \"%s\", \"size\": %zu}", f->blob, f->size);
        q3_text_printf(&body, "}");
    }
    q3_text_printf(&body, "]");
    send_text(reply, 200, link, &body);
    q3_text_free(&body);
}

static void send_large(t_hub *h, q3_text *reply, const t_hub_file *f, const char *request)
{
    const char *range = strstr(request, "Range: bytes=");
    size_t begin = range && !h->whole ? strtoul(range + 13, NULL, 10) : 0, at = reply->size;
    h->bodies++;
    h->range = range ? strtoll(range + 13, NULL, 10) : 0;
    begin_reply(reply, begin ? 206 : 200, f->size - begin);
    if (begin)
        q3_text_printf(reply, "Content-Range: bytes %zu-%zu/%zu\r\n", begin, f->size - 1, f->size);
    q3_text_append(reply, "\r\n", 2);
    at = reply->size;
    q3_text_append(reply, f->data + begin, f->size - begin);
    if (h->spoiled)
        reply->data[reply->size - 1] ^= 1;
    if (h->cut && (size_t)h->cut < reply->size - at)
        reply->size = at + (size_t)h->cut;
    h->cut = 0;
}

static void send_file(t_hub *h, q3_text *reply, const t_hub_file *f, const char *request, bool head)
{
    if (f->large && (head || h->elsewhere)) {
        begin_reply(reply, h->elsewhere ? 302 : 200, h->elsewhere ? 0 : f->size);
        q3_text_printf(reply, "X-Linked-Etag: \"%s\"\r\nX-Linked-Size: %zu\r\n", f->blob,
                       f->size + (size_t)h->told_more);
        if (h->elsewhere)
            q3_text_printf(reply, "Location: http://127.0.0.1:%d/%s\r\n", q3_listener_port(h->other),
                           f->path);
        q3_text_append(reply, "\r\n", 2);
    } else if (f->large) {
        send_large(h, reply, f, request);
    } else {
        begin_reply(reply, 200, f->size);
        q3_text_printf(reply, "ETag: W/\"%s\"\r\n\r\n", f->blob);
        q3_text_append(reply, f->data, head ? 0 : f->size);
    }
}

static const t_hub_file *find(const t_hub *h, const char *path)
{
    for (int i = 0; i < h->n; i++)
        if (strcmp(h->files[i].path, path) == 0)
            return &h->files[i];
    return NULL;
}

/* The hub itself. */
static void answer(void *arg, const char *request, size_t n, q3_text *reply)
{
    t_hub *h = arg;
    char method[8] = "", path[1000] = "";
    static const char resolve[] = "/resolve/" T_HUB_COMMIT "/";
    (void)n;
    sscanf(request, "%7s %999s", method, path);
    h->requests++;
    h->tokens += strstr(request, "Authorization: Bearer hf_secret\r\n") != NULL;
    const char *file = strstr(path, resolve);
    q3_text sha = { 0 };
    if (h->busy && h->busy--) {
        refuse(reply, 429, "");
    } else if (h->status) {
        refuse(reply, h->status, h->code);
    } else if (!strstr(path, "/org/model/") && !strstr(path, "/org/data/")) {
        refuse(reply, 401, "RepoNotFound");
    } else if (strstr(path, "/revision/main") || strstr(path, "/revision/refs%2Fpr%2F1")) {
        q3_text_printf(&sha, "{\"sha\": \"" T_HUB_COMMIT "\"}");
        send_text(reply, 200, "", &sha);
    } else if (strstr(path, "/tree/" T_HUB_COMMIT)) {
        send_list(h, reply, path);
    } else if (file && find(h, file + sizeof resolve - 1)) {
        send_file(h, reply, find(h, file + sizeof resolve - 1), request, strcmp(method, "HEAD") == 0);
    } else {
        refuse(reply, 404, file ? "EntryNotFound" : "RevisionNotFound");
    }
    q3_text_free(&sha);
}

/* The host of large files. */
static void answer_elsewhere(void *arg, const char *request, size_t n, q3_text *reply)
{
    t_hub *h = arg;
    char path[1000] = "";
    (void)n;
    sscanf(request, "%*s /%999s", path);
    h->requests++;
    h->leaks += strcasestr(request, "authorization") != NULL;
    const t_hub_file *f = find(h, path);
    if (f)
        send_large(h, reply, f, request);
    else
        refuse(reply, 404, "");
}

t_hub_file *t_hub_add(t_hub *h, const char *path, const void *data, size_t size, bool large)
{
    t_hub_file *f = &h->files[h->n++];
    assert_true(h->n <= T_HUB_FILES);
    *f = (t_hub_file){ .path = path, .data = q3_malloc(size + 1), .size = size, .large = large };
    assert_non_null(f->data);
    memcpy(f->data, data, size);
    q3_sha256_hex(f->blob, data, size);
    if (!large)
        f->blob[40] = 0; // as long as git's, which the cache does not check
    return f;
}

void t_hub_clear(t_hub *h)
{
    for (int i = 0; i < h->n; i++)
        q3_free(h->files[i].data);
    *h = (t_hub){ .hub = h->hub, .other = h->other };
}

void t_hub_start(t_hub *h)
{
    char url[64];
    *h = (t_hub){ 0 };
    h->hub = q3_listener_start(answer, h);
    h->other = q3_listener_start(answer_elsewhere, h);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", q3_listener_port(h->hub));
    setenv("HF_ENDPOINT", url, 1);
    setenv("HF_TOKEN", "hf_secret", 1);
    setenv("no_proxy", "127.0.0.1", 1);
}

void t_hub_stop(t_hub *h)
{
    q3_listener_stop(h->hub);
    q3_listener_stop(h->other);
    t_hub_clear(h);
}
