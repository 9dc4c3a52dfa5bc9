#include "data/messages.h"

#include <string.h>

/* A conversation being read. */
typedef struct builder {
    q3_sample *s;
    const char *dir;
    const cJSON *next; // picture of the list for the next part without one
    int given, places; // pictures of the list; parts that want one of them
    cJSON *first_user; // its parts, when its content was one string; NULL: none so far
    bool has_user;
} builder;

static const cJSON *member(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNull(item) ? NULL : item;
}

static cJSON *new_part(const char *type)
{
    cJSON *part = cJSON_CreateObject();
    if (part && cJSON_AddStringToObject(part, "type", type))
        return part;
    cJSON_Delete(part);
    return NULL;
}

static q3_status add_text(cJSON *parts, const char *text, size_t n)
{
    q3_text copy = { 0 };
    cJSON *part = n ? new_part("text") : NULL;
    if (!n)
        return Q3_OK;
    q3_text_append(&copy, text, n);
    bool ok = part && !copy.failed && cJSON_AddStringToObject(part, "text", copy.data);
    q3_text_free(&copy);
    if (ok && cJSON_AddItemToArray(parts, part))
        return Q3_OK;
    cJSON_Delete(part);
    return Q3_ERR_MEMORY;
}

/* `own`: what the part itself says of its picture; NULL: the next of the list. */
static q3_status add_image(builder *b, cJSON *parts, const cJSON *own)
{
    cJSON *part = new_part("image");
    if (!part || !cJSON_AddItemToArray(parts, part)) {
        cJSON_Delete(part);
        return Q3_ERR_MEMORY;
    }
    if (own)
        return q3_wrap(q3_sample_add_json(b->s, own, b->dir), "a picture");
    if (b->places++ >= b->given)
        return Q3_OK; // told when all are counted
    q3_status st = q3_wrap(q3_sample_add_json(b->s, b->next, b->dir), "picture %d of the list", b->places);
    b->next = b->next->next;
    return st;
}

/* ---- parts ---- */

static const cJSON *own_picture(const cJSON *part)
{
    static const char *const keys[] = { "image", "url", "path", "base64", "image_url" };
    const cJSON *found = NULL;
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !found; i++)
        found = member(part, keys[i]);
    return found && found->string && strcmp(found->string, "image_url") == 0 && cJSON_IsObject(found)
               ? member(found, "url")
               : found;
}

static q3_status read_part(builder *b, cJSON *parts, const cJSON *part, const char *role)
{
    const cJSON *type = member(part, "type"), *text = member(part, "text");
    if (!cJSON_IsObject(part) || (type && !cJSON_IsString(type)))
        return q3_fail(Q3_ERR_DATA, "an item of the content must be an object with a \"type\"");
    const char *kind = type ? type->valuestring : text ? "text" : member(part, "video") ? "video" : "image";
    if (strcmp(kind, "text") == 0) {
        if (!cJSON_IsString(text))
            return q3_fail(Q3_ERR_DATA, "an item of type \"text\" must have a \"text\" (a string)");
        return add_text(parts, text->valuestring, strlen(text->valuestring));
    }
    if (strcmp(kind, "image") != 0 && strcmp(kind, "image_url") != 0)
        return q3_fail(Q3_ERR_DATA, "an item is of type \"%.40s\"; \"text\" and \"image\" can be trained on",
                       kind);
    if (strcmp(role, "user") != 0)
        return q3_fail(Q3_ERR_DATA,
                       "a picture in a turn of the %s, which the chat template leaves out; put it "
                       "into the user's",
                       role);
    return add_image(b, parts, own_picture(part));
}

/* Text with places for pictures in it. */
static q3_status read_string(builder *b, cJSON *parts, const char *text, const char *role)
{
    static const char place[] = "<image>";
    bool places = b->given && strcmp(role, "user") == 0;
    for (const char *at; places && (at = strstr(text, place)); text = at + strlen(place)) {
        Q3_TRY(add_text(parts, text, (size_t)(at - text)));
        Q3_TRY(add_image(b, parts, NULL));
    }
    return add_text(parts, text, strlen(text));
}

/* ---- turns ---- */

static q3_status read_role(const char **out, const cJSON *message)
{
    static const char *const names[][2] = { { "user", "user" },
                                            { "human", "user" },
                                            { "system", "system" },
                                            { "assistant", "assistant" },
                                            { "gpt", "assistant" } };
    const cJSON *role = member(message, "role");
    role = role ? role : member(message, "from");
    if (!cJSON_IsString(role))
        return q3_fail(Q3_ERR_DATA, "must be an object with a \"role\" (a string)");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(role->valuestring, names[i][0]) == 0) {
            *out = names[i][1];
            return Q3_OK;
        }
    return q3_fail(Q3_ERR_DATA, "the role is \"%.40s\"; system, user and assistant can be trained on",
                   role->valuestring);
}

static q3_status check_turn(const cJSON *message, const char *role, int index)
{
    const cJSON *calls = member(message, "tool_calls");
    if (calls && (!cJSON_IsArray(calls) || calls->child))
        return q3_fail(Q3_ERR_DATA, "has \"tool_calls\", which are not trained on");
    if (index > 0 && strcmp(role, "system") == 0)
        return q3_fail(Q3_ERR_DATA,
                       "a system turn behind the first message, which the chat template leaves out");
    return Q3_OK;
}

static q3_status read_content(builder *b, cJSON *parts, const cJSON *message, const char *role)
{
    const cJSON *content = member(message, "content");
    content = content ? content : member(message, "value");
    if (cJSON_IsString(content)) {
        if (!b->has_user && strcmp(role, "user") == 0)
            b->first_user = parts;
        Q3_TRY(read_string(b, parts, content->valuestring, role));
    } else if (cJSON_IsArray(content)) {
        for (const cJSON *part = content->child; part; part = part->next)
            Q3_TRY(read_part(b, parts, part, role));
    } else if (content || strcmp(role, "assistant") != 0) {
        return q3_fail(Q3_ERR_DATA, "\"content\" must be a string or an array of items");
    }
    b->has_user = b->has_user || strcmp(role, "user") == 0;
    if (strcmp(role, "assistant") == 0 && !parts->child)
        return q3_fail(Q3_ERR_DATA, "a turn of the assistant says nothing; there is nothing to train on");
    return Q3_OK;
}

static q3_status read_message(builder *b, const cJSON *message, int index)
{
    const char *role = NULL;
    Q3_TRY(read_role(&role, message));
    Q3_TRY(check_turn(message, role, index));
    cJSON *to = cJSON_CreateObject();
    if (!to || !cJSON_AddItemToArray(b->s->messages, to)) {
        cJSON_Delete(to);
        return Q3_ERR_MEMORY;
    }
    cJSON *parts = cJSON_AddStringToObject(to, "role", role) ? cJSON_AddArrayToObject(to, "content") : NULL;
    return parts ? read_content(b, parts, message, role) : Q3_ERR_MEMORY;
}

/* ---- the whole ---- */

/* All pictures of the list in front of the first question. */
static q3_status put_in_front(builder *b)
{
    cJSON *text = cJSON_DetachItemFromArray(b->first_user, 0); // NULL when the question is empty
    q3_status st = Q3_OK;
    for (int i = 0; i < b->given && st == Q3_OK; i++)
        st = add_image(b, b->first_user, NULL);
    if (text)
        cJSON_AddItemToArray(b->first_user, text);
    return st;
}

static const char *role_of(const cJSON *message)
{
    return member(message, "role")->valuestring;
}

/* The texts of a message in one, `picture` where one stands. */
static void put_texts(q3_text *out, const cJSON *message, const char *picture)
{
    for (const cJSON *part = member(message, "content")->child; part; part = part->next) {
        const cJSON *text = member(part, "text");
        const char *said = text ? text->valuestring : picture;
        q3_text_append(out, said, strlen(said));
    }
}

static q3_status take(char **out, q3_text *text)
{
    q3_text_append(text, "", 0);
    if (!text->failed) {
        *out = text->data;
        return Q3_OK;
    }
    q3_text_free(text);
    return Q3_ERR_MEMORY;
}

/* One question is its text; before more turns than that stands who speaks. */
static q3_status set_query(q3_sample *s, const cJSON *last)
{
    q3_text text = { 0 };
    const cJSON *first = s->messages->child;
    bool alone = first != last && first->next == last && strcmp(role_of(first), "user") == 0;
    for (const cJSON *m = first; m != last; m = m->next) {
        if (!alone)
            q3_text_printf(&text, "%s%s: ", m == first ? "" : "\n", role_of(m));
        put_texts(&text, m, alone ? "" : "[picture]");
    }
    return take(&s->query, &text);
}

static q3_status set_target(q3_sample *s, const cJSON *last)
{
    q3_text text = { 0 };
    put_texts(&text, last, "");
    return take(&s->target, &text);
}

static q3_status finish(q3_sample *s)
{
    const cJSON *last = s->messages->child;
    while (last && last->next)
        last = last->next;
    if (!last || strcmp(role_of(last), "assistant") != 0)
        return q3_fail(Q3_ERR_DATA, "the last turn must be the assistant's: it is what is trained");
    Q3_TRY(set_query(s, last));
    return set_target(s, last);
}

q3_status q3_messages_read(q3_sample *s, const cJSON *messages, const cJSON *images, const char *dir)
{
    bool list = cJSON_IsArray(images);
    builder b = { .s = s,
                  .dir = dir,
                  .next = list ? images->child : images,
                  .given = list ? cJSON_GetArraySize(images) : images != NULL };
    int index = 0;
    if (!cJSON_IsArray(messages))
        return q3_fail(Q3_ERR_DATA, "must be an array of messages");
    s->messages = cJSON_CreateArray();
    if (!s->messages)
        return Q3_ERR_MEMORY;
    for (const cJSON *m = messages->child; m; m = m->next, index++)
        Q3_TRY(q3_wrap(read_message(&b, m, index), "message %d", index + 1));
    if (!b.places && b.first_user && b.given)
        Q3_TRY(put_in_front(&b));
    if (b.places != b.given)
        return q3_fail(Q3_ERR_DATA, "the turns have places for %d pictures, and there are %d", b.places,
                       b.given);
    return finish(s);
}

bool q3_messages_system(const cJSON *messages)
{
    return messages->child && strcmp(role_of(messages->child), "system") == 0;
}
