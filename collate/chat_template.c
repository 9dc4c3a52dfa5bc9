#include "collate/chat_template.h"

#include <math.h>
#include <string.h>

#include "core/sha256.h"
#include "core/file.h"

static void put(q3_text *out, const char *s)
{
    q3_text_append(out, s, strlen(s));
}

static void put_number(q3_text *out, const cJSON *value)
{
    double x = value->valuedouble;
    if (x == floor(x) && fabs(x) < 9007199254740992.0)
        q3_text_printf(out, "%lld", (long long)x);
    else
        q3_text_json_number(out, x);
}

void q3_chat_json(q3_text *out, const cJSON *value)
{
    if (cJSON_IsString(value)) {
        q3_text_json_string(out, value->valuestring, strlen(value->valuestring));
    } else if (cJSON_IsNumber(value)) {
        put_number(out, value);
    } else if (cJSON_IsArray(value) || cJSON_IsObject(value)) { // cJSON limits the depth when it parses
        put(out, cJSON_IsArray(value) ? "[" : "{");
        for (const cJSON *c = value->child; c; c = c->next) {
            if (cJSON_IsObject(value)) {
                q3_text_json_string(out, c->string, strlen(c->string));
                put(out, ": ");
            }
            q3_chat_json(out, c);
            if (c->next)
                put(out, ", ");
        }
        put(out, cJSON_IsArray(value) ? "]" : "}");
    } else {
        put(out, cJSON_IsTrue(value) ? "true" : cJSON_IsFalse(value) ? "false" : "null");
    }
}

/* What is on while rendering: pictures and videos are numbered over the whole conversation. */
typedef struct state {
    q3_text *out;
    const q3_message *messages; // [n]
    int n;
    bool add_vision_id, text_only;
    int n_images, n_videos;
    int last_query; // text-only: thoughts of turns behind this message are shown
} state;

static void put_texts(q3_text *out, const q3_message *m)
{
    if (m->text)
        put(out, m->text);
    else
        for (int i = 0; i < m->n_parts; i++)
            if (m->parts[i].text)
                put(out, m->parts[i].text);
}

static void put_part(state *s, const q3_part *part)
{
    if (part->kind == Q3_PART_IMAGE) {
        s->n_images++;
        if (s->add_vision_id)
            q3_text_printf(s->out, "Picture %d: ", s->n_images);
        put(s->out, "<|vision_start|><|image_pad|><|vision_end|>");
    } else if (part->kind == Q3_PART_VIDEO) {
        s->n_videos++;
        if (s->add_vision_id)
            q3_text_printf(s->out, "Video %d: ", s->n_videos);
        put(s->out, "<|vision_start|><|video_pad|><|vision_end|>");
    } else if (part->text) {
        put(s->out, part->text);
    }
}

static void put_content(state *s, const q3_message *m)
{
    if (m->text || s->text_only)
        put_texts(s->out, m);
    else
        for (int i = 0; i < m->n_parts; i++)
            put_part(s, &m->parts[i]);
}

static q3_status put_tool_call(q3_text *out, const cJSON *call)
{
    const cJSON *function = cJSON_GetObjectItemCaseSensitive(call, "function");
    if (cJSON_IsObject(function))
        call = function;
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(call, "name");
    const cJSON *arguments = cJSON_GetObjectItemCaseSensitive(call, "arguments");
    if (!cJSON_IsString(name) || !arguments)
        return q3_fail(Q3_ERR_DATA, "a tool call must have a \"name\" (a string) and \"arguments\"");
    put(out, "<tool_call>\n{\"name\": \"");
    put(out, name->valuestring);
    put(out, "\", \"arguments\": ");
    if (cJSON_IsString(arguments))
        put(out, arguments->valuestring);
    else
        q3_chat_json(out, arguments);
    put(out, "}\n</tool_call>");
    return Q3_OK;
}

/* `separate`: something stands before the first call. */
static q3_status put_calls(q3_text *out, const q3_message *m, bool separate)
{
    const cJSON *call;
    cJSON_ArrayForEach(call, m->tool_calls)
    {
        if (separate)
            put(out, "\n");
        Q3_TRY(put_tool_call(out, call));
        separate = true;
    }
    put(out, "<|im_end|>\n");
    return Q3_OK;
}

static q3_status put_assistant(q3_text *out, const q3_message *m)
{
    put(out, "<|im_start|>assistant\n");
    put_texts(out, m);
    return put_calls(out, m, m->text ? *m->text != 0 : m->n_parts > 0);
}

/* ---- the text-only form: thoughts between <think> and </think> ---- */

typedef struct span {
    const char *at;
    size_t n;
} span;

static span without_newlines(span s, bool in_front, bool behind)
{
    for (; in_front && s.n && *s.at == '\n'; s.n--)
        s.at++;
    while (behind && s.n && s.at[s.n - 1] == '\n')
        s.n--;
    return s;
}

/* The place behind the last `mark` before `end`, or `text`. */
static const char *behind_last(const char *text, const char *end, const char *mark)
{
    size_t n = strlen(mark);
    const char *behind = text;
    for (const char *p = text; (p = strstr(p, mark)) && p + n <= end; p += n)
        behind = p + n;
    return behind;
}

static void split_thoughts(span *thoughts, span *said, const char *text)
{
    const char *close = strstr(text, "</think>"), *end = text + strlen(text);
    *thoughts = (span){ text, 0 };
    *said = (span){ text, (size_t)(end - text) };
    if (!close)
        return;
    const char *open = behind_last(text, close, "<think>"), *behind = behind_last(text, end, "</think>");
    *thoughts = without_newlines((span){ open, (size_t)(close - open) }, true, true);
    *said = without_newlines((span){ behind, (size_t)(end - behind) }, true, false);
}

/* Thoughts are shown in the turns behind the last question: of the turn in progress, and of steps before it. */
static q3_status put_thinking_assistant(state *s, int i, const char *text)
{
    const q3_message *m = &s->messages[i];
    span thoughts, said;
    split_thoughts(&thoughts, &said, text);
    if (m->reasoning) {
        thoughts = without_newlines((span){ m->reasoning, strlen(m->reasoning) }, true, true);
        said = (span){ text, strlen(text) };
    }
    bool separate = said.n > 0;
    put(s->out, "<|im_start|>assistant\n");
    if (i > s->last_query && (i == s->n - 1 || thoughts.n)) {
        put(s->out, "<think>\n");
        q3_text_append(s->out, thoughts.at, thoughts.n);
        put(s->out, "\n</think>\n\n");
        said = without_newlines(said, true, false);
    }
    q3_text_append(s->out, said.at, said.n);
    return put_calls(s->out, m, separate);
}

static q3_status put_text_assistant(state *s, int i)
{
    q3_text joined = { 0 };
    if (s->messages[i].text)
        return put_thinking_assistant(s, i, s->messages[i].text);
    put_texts(&joined, &s->messages[i]);
    q3_status st =
        joined.failed ? Q3_ERR_MEMORY : put_thinking_assistant(s, i, joined.data ? joined.data : "");
    q3_text_free(&joined);
    return st;
}

static bool has_role(const q3_message *m, const char *role)
{
    return strcmp(m->role, role) == 0;
}

/* What a tool has said may come in a user's turn, between these words. */
static bool is_tool_response(const q3_message *m)
{
    static const char open[] = "<tool_response>", close[] = "</tool_response>";
    size_t n = m->text ? strlen(m->text) : 0;
    return n >= sizeof close - 1 && strncmp(m->text, open, sizeof open - 1) == 0 &&
           strcmp(m->text + n - (sizeof close - 1), close) == 0;
}

static int find_last_query(const q3_message *messages, int n)
{
    for (int i = n - 1; i >= 0; i--)
        if (has_role(&messages[i], "user") && !is_tool_response(&messages[i]))
            return i;
    return n - 1;
}

static void put_tool(state *s, int i)
{
    const q3_message *m = &s->messages[i];
    if (i == 0 || !has_role(m - 1, "tool"))
        put(s->out, "<|im_start|>user");
    put(s->out, "\n<tool_response>\n");
    put_content(s, m);
    put(s->out, "\n</tool_response>");
    if (i + 1 == s->n || !has_role(m + 1, "tool"))
        put(s->out, "<|im_end|>\n");
}

static void put_tools(q3_text *out, const cJSON *tools)
{
    put(out, "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
             "You are provided with function signatures within <tools></tools> XML tags:\n<tools>");
    const cJSON *tool;
    cJSON_ArrayForEach(tool, tools)
    {
        put(out, "\n");
        q3_chat_json(out, tool);
    }
    put(out,
        "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n<tool_call>\n"
        "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>");
}

static void put_system(q3_text *out, const q3_message *first, const cJSON *tools)
{
    bool system = has_role(first, "system"), with_tools = tools && tools->child;
    if (!system && !with_tools)
        return;
    put(out, "<|im_start|>system\n");
    if (system)
        put_texts(out, first);
    if (with_tools) {
        if (system)
            put(out, "\n\n");
        put_tools(out, tools);
    }
    put(out, "<|im_end|>\n");
}

static q3_status put_message(state *s, int i)
{
    const q3_message *m = &s->messages[i];
    bool later_system = s->text_only && i > 0 && has_role(m, "system");
    if (has_role(m, "user") || later_system) {
        q3_text_printf(s->out, "<|im_start|>%s\n", m->role);
        put_content(s, m);
        put(s->out, "<|im_end|>\n");
    } else if (has_role(m, "assistant")) {
        return s->text_only ? put_text_assistant(s, i) : put_assistant(s->out, m);
    } else if (has_role(m, "tool")) {
        put_tool(s, i);
    }
    return Q3_OK;
}

q3_status q3_chat_render(q3_text *out, const q3_message *messages, int n, const q3_chat_options *options)
{
    const q3_chat_options o = options ? *options : (q3_chat_options){ 0 };
    if (n <= 0)
        return q3_fail(Q3_ERR_DATA, "the conversation has no message");
    state s = { .out = out,
                .messages = messages,
                .n = n,
                .add_vision_id = o.add_vision_id,
                .text_only = o.text_only,
                .last_query = find_last_query(messages, n) };
    put_system(out, &messages[0], o.tools);
    for (int i = 0; i < n; i++) {
        q3_status st = put_message(&s, i);
        if (st != Q3_OK)
            return q3_wrap(st, "message %d", i);
    }
    if (o.add_generation_prompt)
        put(out, "<|im_start|>assistant\n");
    if (o.add_generation_prompt && o.text_only && o.no_thinking)
        put(out, "<think>\n\n</think>\n\n");
    return out->failed ? q3_fail(Q3_ERR_MEMORY, "out of memory for the text of a conversation") : Q3_OK;
}

/* ---- messages from JSON ---- */

static bool has_key(const cJSON *item, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(item, key) != NULL;
}

static bool has_type(const cJSON *item, const char *type)
{
    const cJSON *t = cJSON_GetObjectItemCaseSensitive(item, "type");
    return cJSON_IsString(t) && strcmp(t->valuestring, type) == 0;
}

static q3_status part_from_json(q3_part *out, const cJSON *item)
{
    if (!cJSON_IsObject(item))
        return q3_fail(Q3_ERR_DATA, "an item of \"content\" must be an object");
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(item, "text");
    if (text && !cJSON_IsString(text))
        return q3_fail(Q3_ERR_DATA, "the \"text\" of an item must be a string");
    out->text = text ? text->valuestring : NULL;
    if (has_type(item, "image") || has_key(item, "image") || has_key(item, "image_url"))
        out->kind = Q3_PART_IMAGE;
    else if (has_type(item, "video") || has_key(item, "video"))
        out->kind = Q3_PART_VIDEO;
    else
        out->kind = text ? Q3_PART_TEXT : Q3_PART_OTHER;
    return Q3_OK;
}

/* Takes its parts from the front of `parts` and moves it on. */
static q3_status message_from_json(q3_message *out, q3_part **parts, const cJSON *message)
{
    const cJSON *role = cJSON_GetObjectItemCaseSensitive(message, "role");
    const cJSON *content = cJSON_GetObjectItemCaseSensitive(message, "content");
    const cJSON *calls = cJSON_GetObjectItemCaseSensitive(message, "tool_calls");
    if (!cJSON_IsString(role))
        return q3_fail(Q3_ERR_DATA, "\"role\" must be a string");
    if (content && !cJSON_IsNull(content) && !cJSON_IsString(content) && !cJSON_IsArray(content))
        return q3_fail(Q3_ERR_DATA, "\"content\" must be a string or an array of items");
    if (calls && !cJSON_IsNull(calls) && !cJSON_IsArray(calls))
        return q3_fail(Q3_ERR_DATA, "\"tool_calls\" must be an array");
    const cJSON *reasoning = cJSON_GetObjectItemCaseSensitive(message, "reasoning_content");
    *out = (q3_message){ .role = role->valuestring,
                         .parts = *parts,
                         .reasoning = cJSON_IsString(reasoning) ? reasoning->valuestring : NULL,
                         .tool_calls = cJSON_IsArray(calls) ? calls : NULL };
    if (cJSON_IsString(content))
        out->text = content->valuestring;
    const cJSON *item;
    for (item = cJSON_IsArray(content) ? content->child : NULL; item; item = item->next) {
        Q3_TRY(part_from_json(*parts, item));
        ++*parts;
        out->n_parts++;
    }
    return Q3_OK;
}

static size_t count_items(const cJSON *messages)
{
    size_t n = 0;
    const cJSON *message;
    cJSON_ArrayForEach(message, messages)
    {
        n += (size_t)cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(message, "content"));
    }
    return n;
}

q3_status q3_chat_from_json(q3_chat *out, const cJSON *messages)
{
    *out = (q3_chat){ 0 };
    if (!cJSON_IsArray(messages))
        return q3_fail(Q3_ERR_DATA, "\"messages\" must be an array");
    out->messages = q3_calloc((size_t)cJSON_GetArraySize(messages), sizeof *out->messages);
    out->parts = q3_calloc(count_items(messages), sizeof *out->parts);
    q3_status st = out->messages && out->parts ? Q3_OK : Q3_ERR_MEMORY;
    q3_part *parts = out->parts;
    for (const cJSON *message = messages->child; message && st == Q3_OK; message = message->next) {
        st = q3_wrap(message_from_json(&out->messages[out->n], &parts, message), "message %d", out->n);
        out->n += st == Q3_OK;
    }
    if (st != Q3_OK)
        q3_chat_free(out);
    return st;
}

void q3_chat_free(q3_chat *chat)
{
    q3_free(chat->messages);
    q3_free(chat->parts);
    *chat = (q3_chat){ 0 };
}

/* ---- is the model's template one of those written out above? ---- */

/* SHA-256 of chat_template.jinja. */
static const char *const known_templates[] = {
    "3636d0f0bd6bef02654cdffdc447b79cb2cef8ab02cc75267345946291a489e4", // Qwen3-VL-*-Instruct
    "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8", // Qwen3-0.6B ... 32B, text only
    "87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5", // the same before contents could be null
    "691707dd7d99426f0a02b4543f88a0265377fbb903945314a386f69cb7bae881", // assets/tiny-base: the same without tools
};

static bool is_known(const char *text, size_t n)
{
    char hex[65];
    q3_sha256_hex(hex, text, n);
    for (size_t i = 0; i < sizeof known_templates / sizeof *known_templates; i++)
        if (strcmp(hex, known_templates[i]) == 0)
            return true;
    return false;
}

enum { TEMPLATE_LIMIT = 16 << 20 }; // bytes of a file that holds a template

/* Sets *known when the file exists and has a template: the file itself, or its member "chat_template". */
static bool look_at(bool *known, const char *dir, const char *name, bool is_json)
{
    char *path = q3_path_join(dir, name), *text = NULL;
    size_t size;
    q3_json doc;
    bool found = false;
    if (path && q3_file_exists(path) && is_json && q3_json_open(&doc, path, TEMPLATE_LIMIT) == Q3_OK) {
        const cJSON *template = cJSON_GetObjectItemCaseSensitive(doc.root, "chat_template");
        found = cJSON_IsString(template);
        if (found)
            *known = is_known(template->valuestring, strlen(template->valuestring));
        q3_json_close(&doc);
    } else if (path && q3_file_exists(path) && !is_json &&
               q3_file_read(&text, &size, path, TEMPLATE_LIMIT) == Q3_OK) {
        found = true;
        *known = is_known(text, size);
        q3_free(text);
    }
    q3_free(path);
    return found;
}

bool q3_chat_template_known(const char *dir)
{
    bool known = true;
    if (!look_at(&known, dir, "chat_template.json", true) &&
        !look_at(&known, dir, "chat_template.jinja", false))
        look_at(&known, dir, "tokenizer_config.json", true);
    return known;
}
