#include "cli/prompt_lines.h"

#include <string.h>

#include "core/file.h"

#define FILE_LIMIT ((size_t)1 << 30) // bytes of a file of prompts

typedef struct line {
    char *text; // NUL-terminated, in the file's text
    int number;
} line;

struct q3_prompt_lines {
    const char *path; // borrowed
    char *dir;        // of the file: paths of pictures begin there
    char *text;
    bool json;
    line *lines; // [n]
    int64_t n;
};

static q3_status cut(q3_prompt_lines *f, size_t size)
{
    int64_t most = 1;
    int number = 0;
    if (memchr(f->text, 0, size))
        return q3_fail(Q3_ERR_DATA, "%s: contains a NUL byte; is it a text file?", f->path);
    for (size_t i = 0; i < size; i++)
        most += f->text[i] == '\n';
    f->lines = q3_calloc((size_t)most, sizeof *f->lines);
    if (!f->lines)
        return Q3_ERR_MEMORY;
    for (char *next, *at = f->text; at; at = next) {
        size_t n = strcspn(at, "\n");
        next = at[n] ? at + n + 1 : NULL;
        at[n] = 0;
        if (n && at[n - 1] == '\r')
            at[n - 1] = 0;
        number++;
        if (at[strspn(at, " \t")])
            f->lines[f->n++] = (line){ at, number };
    }
    return f->n ? Q3_OK : q3_fail(Q3_ERR_DATA, "%s: has no prompt", f->path);
}

q3_status q3_prompt_lines_open(q3_prompt_lines **out, const char *path)
{
    q3_prompt_lines *f = *out = q3_calloc(1, sizeof *f);
    size_t size, n = strlen(path);
    if (!f)
        return Q3_ERR_MEMORY;
    f->path = path;
    f->json = n >= 6 && strcmp(path + n - 6, ".jsonl") == 0;
    f->dir = q3_path_dir(path);
    q3_status st =
        f->dir ? q3_status_as(q3_file_read(&f->text, &size, path, FILE_LIMIT), Q3_ERR_DATA) : Q3_ERR_MEMORY;
    st = st ? st : cut(f, size);
    if (st != Q3_OK) {
        q3_prompt_lines_close(f);
        *out = NULL;
    }
    return st;
}

void q3_prompt_lines_close(q3_prompt_lines *f)
{
    if (!f)
        return;
    q3_free(f->dir);
    q3_free(f->text);
    q3_free(f->lines);
    q3_free(f);
}

int64_t q3_prompt_lines_count(const q3_prompt_lines *f)
{
    return f->n;
}

int q3_prompt_lines_number(const q3_prompt_lines *f, int64_t index)
{
    return f->lines[index].number;
}

static q3_status add_picture(q3_conversation *c, const q3_prompt_lines *f, const cJSON *path,
                             const q3_image_options *options)
{
    if (!cJSON_IsString(path))
        return q3_fail(Q3_ERR_DATA, "\"image\" must be a path or a list of paths");
    char *whole = q3_path_join(f->dir, path->valuestring);
    q3_status st = whole ? q3_conversation_picture(c, whole, options) : Q3_ERR_MEMORY;
    q3_free(whole);
    return st;
}

static q3_status add_pictures(q3_conversation *c, const q3_prompt_lines *f, const cJSON *image,
                              const q3_image_options *options)
{
    if (!cJSON_IsArray(image))
        return add_picture(c, f, image, options);
    const cJSON *path;
    cJSON_ArrayForEach(path, image)
    {
        Q3_TRY(add_picture(c, f, path, options));
    }
    return Q3_OK;
}

static q3_status ask_object(q3_conversation *c, const q3_prompt_lines *f, const cJSON *object,
                            const q3_image_options *options)
{
    const char *prompt = NULL;
    for (const cJSON *item = object->child; item; item = item->next) {
        bool text = strcmp(item->string, "prompt") == 0 || strcmp(item->string, "text") == 0;
        bool system = strcmp(item->string, "system") == 0;
        if ((text || system) && !cJSON_IsString(item))
            return q3_fail(Q3_ERR_DATA, "\"%s\" must be a string", item->string);
        if (text)
            prompt = item->valuestring;
        else if (system)
            Q3_TRY(q3_conversation_system(c, item->valuestring));
        else if (strcmp(item->string, "image") == 0)
            Q3_TRY(add_pictures(c, f, item, options));
        else
            return q3_fail(Q3_ERR_DATA, "unknown key \"%.60s\"; there are prompt, image and system",
                           item->string);
    }
    return prompt ? q3_conversation_ask(c, prompt) : q3_fail(Q3_ERR_DATA, "\"prompt\" is missing");
}

q3_status q3_prompt_lines_ask(q3_conversation *c, const q3_prompt_lines *f, int64_t index,
                              const q3_image_options *options)
{
    const line *l = &f->lines[index];
    q3_json doc;
    if (!f->json)
        return q3_conversation_ask(c, l->text);
    Q3_TRY(q3_status_as(q3_json_parse(&doc, l->text, strlen(l->text), f->path, l->number), Q3_ERR_DATA));
    q3_status st = cJSON_IsString(doc.root)   ? q3_conversation_ask(c, doc.root->valuestring)
                   : cJSON_IsObject(doc.root) ? ask_object(c, f, doc.root, options)
                                              : q3_fail(Q3_ERR_DATA, "a prompt is a string or an object");
    if (st != Q3_OK)
        q3_wrap(st, "%s:%d", f->path, l->number);
    q3_json_close(&doc);
    return st;
}
