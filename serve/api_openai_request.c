#include "serve/api_openai_request.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    DEFAULT_CHOICES = 16,
    MOST_LOGPROBS = 20,
    MOST_COMPLETION_LOGPROBS = 5,
    MOST_STOPS = 16,
    MOST_STOP_BYTES = 256
};

typedef struct reader {
    const cJSON *root;
    const char **param;
} reader;

static const cJSON *find(const reader *r, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(r->root, key);
    *r->param = key;
    return !v || cJSON_IsNull(v) ? NULL : v;
}

/* ---- values ---- */

static q3_status read_number(float *out, const reader *r, const char *key, double min, double max)
{
    const cJSON *v = find(r, key);
    if (!v)
        return Q3_OK;
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= min && v->valuedouble <= max))
        return q3_fail(Q3_ERR_USAGE, "%s must be a number from %g to %g", key, min, max);
    *out = (float)v->valuedouble;
    return Q3_OK;
}

/* Beyond 2^53 a double is no exact integer any more. */
static q3_status read_integer(int64_t *out, const reader *r, const char *key, int64_t min, int64_t max)
{
    const cJSON *v = find(r, key);
    if (!v)
        return Q3_OK;
    bool whole =
        cJSON_IsNumber(v) && v->valuedouble == floor(v->valuedouble) && fabs(v->valuedouble) <= 0x1p53;
    if (!whole || (int64_t)v->valuedouble < min || (int64_t)v->valuedouble > max)
        return q3_fail(Q3_ERR_USAGE, "%s must be an integer from %lld to %lld", key, (long long)min,
                       (long long)max);
    *out = (int64_t)v->valuedouble;
    return Q3_OK;
}

static q3_status read_flag(bool *out, const reader *r, const char *key)
{
    const cJSON *v = find(r, key);
    if (!v)
        return Q3_OK;
    if (!cJSON_IsBool(v))
        return q3_fail(Q3_ERR_USAGE, "%s must be true or false", key);
    *out = cJSON_IsTrue(v);
    return Q3_OK;
}

/* ---- what is refused ---- */

/* Absent, null, false, 0, "" and the empty list or object ask for nothing. */
static bool asks_for_something(const cJSON *v)
{
    if (!v || cJSON_IsFalse(v))
        return false;
    if (cJSON_IsNumber(v))
        return v->valuedouble != 0;
    if (cJSON_IsString(v))
        return *v->valuestring != 0;
    return cJSON_IsTrue(v) || v->child;
}

static q3_status refuse_unknown(const reader *r, bool chat)
{
    static const char *const refused[] = { "tools",          "functions",          "logit_bias",
                                           "audio",          "prediction",         "guided_choice",
                                           "guided_grammar", "web_search_options", "use_beam_search" };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (asks_for_something(find(r, refused[i])))
            return q3_fail(Q3_ERR_USAGE, "this server does not have %s", refused[i]);
    if (!chat && asks_for_something(find(r, "suffix")))
        return q3_fail(Q3_ERR_USAGE, "this server does not have suffix: the model only continues");
    const cJSON *best = chat ? NULL : find(r, "best_of"), *n = cJSON_GetObjectItemCaseSensitive(r->root, "n");
    if (best && (!cJSON_IsNumber(best) || best->valuedouble != (cJSON_IsNumber(n) ? n->valuedouble : 1)))
        return q3_fail(Q3_ERR_USAGE, "this server does not have best_of; leave it out or make it equal to n");
    return Q3_OK;
}

/* ---- groups of parameters ---- */

static q3_status read_sampling(q3_sampling *s, const reader *r, const q3_app *app)
{
    int64_t top_k = s->top_k, seed = -1;
    Q3_TRY(read_number(&s->temperature, r, "temperature", 0, 2));
    if (find(r, "temperature"))
        s->do_sample = s->temperature > 0;
    Q3_TRY(read_number(&s->top_p, r, "top_p", 0, 1));
    Q3_TRY(read_number(&s->min_p, r, "min_p", 0, 1));
    Q3_TRY(read_number(&s->presence_penalty, r, "presence_penalty", -2, 2));
    Q3_TRY(read_number(&s->frequency_penalty, r, "frequency_penalty", -2, 2));
    Q3_TRY(read_number(&s->repetition_penalty, r, "repetition_penalty", 0.01, 100));
    Q3_TRY(read_integer(&top_k, r, "top_k", -1, INT32_MAX));
    Q3_TRY(read_integer(&seed, r, "seed", INT64_MIN, INT64_MAX));
    s->top_k = top_k < 0 ? 0 : (int)top_k; // -1 is off in vLLM
    s->seed = find(r, "seed") ? (uint64_t)seed : q3_app_seed(app);
    return Q3_OK;
}

static q3_status read_lengths(q3_openai_request *out, const reader *r, bool chat, const q3_app *app)
{
    int64_t most = app->max_new_tokens_limit ? app->max_new_tokens_limit : INT32_MAX, n = 1;
    out->max_new_tokens = app->max_new_tokens < most ? app->max_new_tokens : most;
    Q3_TRY(read_integer(&out->max_new_tokens, r, "max_tokens", 1, most));
    if (chat)
        Q3_TRY(read_integer(&out->max_new_tokens, r, "max_completion_tokens", 1, most));
    Q3_TRY(read_integer(&n, r, "n", 1, app->max_choices ? app->max_choices : DEFAULT_CHOICES));
    out->n = (int)n;
    return Q3_OK;
}

static q3_status read_logprobs(q3_openai_request *out, const reader *r, bool chat)
{
    int64_t n = -1;
    bool wanted = false;
    out->logprobs = -1;
    if (!chat)
        Q3_TRY(read_integer(&n, r, "logprobs", 0, MOST_COMPLETION_LOGPROBS));
    else
        Q3_TRY(read_flag(&wanted, r, "logprobs"));
    if (chat) {
        Q3_TRY(read_integer(&n, r, "top_logprobs", 0, MOST_LOGPROBS));
        if (n > 0 && !wanted)
            return q3_fail(Q3_ERR_USAGE, "top_logprobs needs logprobs: true");
        n = !wanted ? -1 : n < 0 ? 0 : n;
    }
    out->logprobs = (int)n;
    return Q3_OK;
}

static q3_status read_streaming(q3_openai_request *out, const reader *r)
{
    Q3_TRY(read_flag(&out->stream, r, "stream"));
    const cJSON *options = find(r, "stream_options");
    if (!options)
        return Q3_OK;
    if (!cJSON_IsObject(options) || !out->stream)
        return q3_fail(Q3_ERR_USAGE, "stream_options must be an object, and needs stream: true");
    const reader inner = { .root = options, .param = r->param };
    return read_flag(&out->include_usage, &inner, "include_usage");
}

/* vLLM's name for an answer that matches a regular expression. */
static q3_status read_pattern(q3_openai_request *out, const reader *r)
{
    const cJSON *pattern = find(r, "guided_regex");
    if (!pattern)
        return Q3_OK;
    if (!cJSON_IsString(pattern))
        return q3_fail(Q3_ERR_USAGE, "guided_regex must be a string");
    out->form = Q3_FORM_PATTERN;
    out->pattern = pattern->valuestring;
    return Q3_OK;
}

static q3_status read_form(q3_openai_request *out, const reader *r)
{
    const cJSON *form = find(r, "response_format"), *type = cJSON_GetObjectItemCaseSensitive(form, "type");
    Q3_TRY(read_pattern(out, r));
    if (!form)
        return Q3_OK;
    *r->param = "response_format";
    if (out->form != Q3_FORM_NONE)
        return q3_fail(Q3_ERR_USAGE, "response_format and guided_regex exclude each other");
    const char *name = cJSON_GetStringValue(type);
    if (name && strcmp(name, "text") == 0)
        return Q3_OK;
    if (name && strcmp(name, "json_object") == 0) {
        out->form = Q3_FORM_JSON;
        return Q3_OK;
    }
    if (!name || strcmp(name, "json_schema") != 0)
        return q3_fail(Q3_ERR_USAGE, "response_format.type must be text, json_object or json_schema");
    const cJSON *holder = cJSON_GetObjectItemCaseSensitive(form, "json_schema");
    out->form = Q3_FORM_SCHEMA;
    out->schema = cJSON_GetObjectItemCaseSensitive(holder, "schema");
    if (!cJSON_IsObject(out->schema))
        return q3_fail(Q3_ERR_USAGE, "response_format.json_schema.schema must be an object");
    return Q3_OK;
}

static q3_status read_thinking(q3_openai_request *out, const reader *r)
{
    bool thinking = false;
    out->thinking = -1;
    const cJSON *settings = find(r, "chat_template_kwargs");
    if (!settings)
        return Q3_OK;
    const reader inner = { .root = settings, .param = r->param };
    for (const cJSON *k = settings->child; k; k = k->next)
        if (!k->string || strcmp(k->string, "enable_thinking") != 0)
            return q3_fail(Q3_ERR_USAGE, "chat_template_kwargs knows enable_thinking only");
    Q3_TRY(read_flag(&thinking, &inner, "enable_thinking"));
    if (find(&inner, "enable_thinking"))
        out->thinking = thinking;
    return Q3_OK;
}

static q3_status read_model(q3_openai_request *out, const reader *r)
{
    const cJSON *model = find(r, "model");
    if (model && !cJSON_IsString(model))
        return q3_fail(Q3_ERR_USAGE, "model must be a string");
    out->model = cJSON_GetStringValue(model);
    return Q3_OK;
}

static q3_status read_chat(q3_openai_request *out, const reader *r)
{
    Q3_TRY(read_thinking(out, r));
    out->messages = find(r, "messages");
    if (!cJSON_IsArray(out->messages) || !out->messages->child)
        return q3_fail(Q3_ERR_USAGE, "messages must be a list of at least one message");
    return Q3_OK;
}

static q3_status read_completion(q3_openai_request *out, const reader *r)
{
    Q3_TRY(read_flag(&out->echo, r, "echo"));
    if (out->echo && out->logprobs >= 0)
        return q3_fail(Q3_ERR_USAGE, "this server does not have echo together with logprobs");
    out->thinking = -1;
    out->prompt = find(r, "prompt");
    if (!cJSON_IsString(out->prompt) && !(cJSON_IsArray(out->prompt) && out->prompt->child))
        return q3_fail(Q3_ERR_USAGE, "prompt must be a string, a list of token ids, or a list of either");
    return Q3_OK;
}

q3_status q3_openai_parse(q3_openai_request *out, const char **param, const cJSON *root, bool chat,
                          const q3_app *app)
{
    const reader r = { .root = root, .param = param };
    *out = (q3_openai_request){ .sampling = app->sampling };
    *param = NULL;
    if (!cJSON_IsObject(root))
        return q3_fail(Q3_ERR_USAGE, "the body must be a JSON object");
    Q3_TRY(refuse_unknown(&r, chat));
    Q3_TRY(read_model(out, &r));
    Q3_TRY(read_sampling(&out->sampling, &r, app));
    Q3_TRY(read_lengths(out, &r, chat, app));
    Q3_TRY(read_logprobs(out, &r, chat));
    Q3_TRY(read_streaming(out, &r));
    Q3_TRY(read_form(out, &r));
    out->stop = find(&r, "stop");
    Q3_TRY(chat ? read_chat(out, &r) : read_completion(out, &r));
    *param = NULL;
    return Q3_OK;
}

/* ---- stop strings ---- */

static q3_status add_stop(const char **list, int *n, q3_arena *mem, const cJSON *item)
{
    const char *text = cJSON_GetStringValue(item);
    if (!text || !*text || strlen(text) > MOST_STOP_BYTES)
        return q3_fail(Q3_ERR_USAGE, "stop must be a string of 1 to %d bytes, or a list of them",
                       MOST_STOP_BYTES);
    if (*n == MOST_STOPS)
        return q3_fail(Q3_ERR_USAGE, "stop has more than %d strings", MOST_STOPS);
    list[*n] = q3_arena_strdup(mem, text);
    return list[(*n)++] ? Q3_OK : Q3_ERR_MEMORY;
}

q3_status q3_openai_stops(const char *const **out, int *n, q3_arena *mem, const cJSON *stop,
                          const q3_app *app)
{
    const char **list = Q3_NEW(mem, const char *, MOST_STOPS + app->n_stops);
    *out = list;
    *n = 0;
    if (!list)
        return Q3_ERR_MEMORY;
    if (stop && !cJSON_IsArray(stop))
        Q3_TRY(add_stop(list, n, mem, stop));
    else if (stop)
        for (const cJSON *item = stop->child; item; item = item->next)
            Q3_TRY(add_stop(list, n, mem, item));
    for (int i = 0; i < app->n_stops; i++)
        list[(*n)++] = app->stops[i];
    return Q3_OK;
}

/* ---- conversations ---- */

/* Where a picture's URL stands in an item: {"type": "image_url", "image_url": {"url": ...}}, or with a
 * string in place of the object, or under "image". NULL when the item is none. */
static const cJSON *url_of(const cJSON *item)
{
    const cJSON *holder = cJSON_GetObjectItemCaseSensitive(item, "image_url");
    holder = holder ? holder : cJSON_GetObjectItemCaseSensitive(item, "image");
    return cJSON_IsObject(holder) ? cJSON_GetObjectItemCaseSensitive(holder, "url") : holder;
}

static q3_status load_picture(q3_pictures *p, const cJSON *item, const q3_picture_policy *policy,
                              const char *place)
{
    const char *url = cJSON_GetStringValue(url_of(item));
    if (!url)
        return q3_fail(Q3_ERR_DATA, "%s: image_url.url is missing", place);
    q3_image *more = q3_realloc(p->list, (size_t)(p->n + 1) * sizeof *more);
    if (!more)
        return Q3_ERR_MEMORY;
    p->list = more;
    Q3_TRY(q3_picture_load(&p->list[p->n], policy, url, place));
    p->n++;
    return Q3_OK;
}

static q3_status load_item(q3_pictures *p, const q3_part *part, const cJSON *item, const char *role,
                           const q3_picture_policy *policy, const char *place)
{
    if (part->kind == Q3_PART_VIDEO || part->kind == Q3_PART_OTHER)
        return q3_fail(Q3_ERR_DATA, "%s: only items of type text and image_url are understood", place);
    if (part->kind == Q3_PART_TEXT)
        return part->text ? Q3_OK : q3_fail(Q3_ERR_DATA, "%s: text is missing", place);
    if (strcmp(role, "user") != 0 && strcmp(role, "tool") != 0)
        return q3_fail(Q3_ERR_DATA, "%s: pictures belong in messages of the user", place);
    return load_picture(p, item, policy, place);
}

static q3_status load_message(q3_pictures *p, q3_message *m, const cJSON *json,
                              const q3_picture_policy *policy, int index)
{
    static const char *const roles[] = { "system", "user", "assistant", "tool" };
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, "content");
    bool known = false;
    if (strcmp(m->role, "developer") == 0) // what OpenAI calls it now
        m->role = "system";
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        known |= strcmp(m->role, roles[i]) == 0;
    if (!known)
        return q3_fail(Q3_ERR_DATA,
                       "messages[%d].role is \"%.40s\"; it must be system, user, assistant or tool", index,
                       m->role);
    item = cJSON_IsArray(item) ? item->child : NULL;
    for (int k = 0; item && k < m->n_parts; k++, item = item->next) {
        char place[64];
        snprintf(place, sizeof place, "messages[%d].content[%d]", index, k);
        Q3_TRY(load_item(p, &m->parts[k], item, m->role, policy, place));
    }
    return Q3_OK;
}

q3_status q3_openai_chat(q3_chat *chat, q3_pictures *pictures, const cJSON *messages,
                         const q3_picture_policy *policy)
{
    *chat = (q3_chat){ 0 };
    *pictures = (q3_pictures){ 0 };
    Q3_TRY(q3_chat_from_json(chat, messages));
    const cJSON *json = messages->child;
    for (int i = 0; i < chat->n; i++, json = json->next)
        Q3_TRY(load_message(pictures, &chat->messages[i], json, policy, i));
    return Q3_OK;
}
