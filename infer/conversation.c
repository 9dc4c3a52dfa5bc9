#include "infer/conversation.h"

#include <string.h>

static void drop_pictures(q3_conversation *c, int n)
{
    for (; c->n_pictures > n; c->n_pictures--) {
        q3_image_free(&c->pictures[c->n_pictures - 1]);
        q3_free(c->paths[c->n_pictures - 1]);
    }
}

void q3_conversation_reset(q3_conversation *c)
{
    for (; c->n > 0; c->n--)
        q3_free(c->turns[c->n - 1].text);
    drop_pictures(c, 0);
    c->n_waiting = 0;
}

void q3_conversation_free(q3_conversation *c)
{
    q3_conversation_reset(c);
    q3_free(c->system);
    q3_free(c->turns);
    q3_free(c->pictures);
    q3_free(c->paths);
    *c = (q3_conversation){ 0 };
}

q3_status q3_conversation_system(q3_conversation *c, const char *text)
{
    char *copy = text && *text ? q3_strdup(text) : NULL;
    if (text && *text && !copy)
        return Q3_ERR_MEMORY;
    q3_free(c->system);
    c->system = copy;
    return Q3_OK;
}

static q3_status room_for_picture(q3_conversation *c)
{
    if (c->n_pictures < c->picture_capacity)
        return Q3_OK;
    size_t n = 2 * (size_t)c->picture_capacity + 4;
    q3_image *pictures = q3_realloc(c->pictures, n * sizeof *pictures);
    if (!pictures)
        return Q3_ERR_MEMORY;
    c->pictures = pictures;
    char **paths = q3_realloc(c->paths, n * sizeof *paths);
    if (!paths)
        return Q3_ERR_MEMORY;
    c->paths = paths;
    c->picture_capacity = (int)n;
    return Q3_OK;
}

q3_status q3_conversation_picture(q3_conversation *c, const char *path, const q3_image_options *options)
{
    Q3_TRY(room_for_picture(c));
    q3_image image;
    Q3_TRY(q3_image_open(&image, path, options));
    char *copy = q3_strdup(path);
    if (!copy) {
        q3_image_free(&image);
        return Q3_ERR_MEMORY;
    }
    c->pictures[c->n_pictures] = image;
    c->paths[c->n_pictures++] = copy;
    c->n_waiting++;
    return Q3_OK;
}

static q3_status add(q3_conversation *c, bool assistant, const char *text, int n_pictures)
{
    if (c->n == c->capacity) {
        int n = 2 * c->capacity + 4;
        q3_turn *turns = q3_realloc(c->turns, (size_t)n * sizeof *turns);
        if (!turns)
            return Q3_ERR_MEMORY;
        c->turns = turns;
        c->capacity = n;
    }
    char *copy = q3_strdup(text);
    if (!copy)
        return Q3_ERR_MEMORY;
    c->turns[c->n++] = (q3_turn){ assistant, copy, n_pictures };
    return Q3_OK;
}

q3_status q3_conversation_ask(q3_conversation *c, const char *text)
{
    Q3_TRY(add(c, false, text, c->n_waiting));
    c->n_waiting = 0;
    return Q3_OK;
}

q3_status q3_conversation_answer(q3_conversation *c, const char *text)
{
    return add(c, true, text, 0);
}

bool q3_conversation_unanswer(q3_conversation *c)
{
    if (!c->n || !c->turns[c->n - 1].assistant)
        return false;
    q3_free(c->turns[--c->n].text);
    return true;
}

bool q3_conversation_unask(q3_conversation *c, bool keep_pictures)
{
    q3_conversation_unanswer(c);
    if (!c->n)
        return false;
    const q3_turn *t = &c->turns[--c->n];
    q3_free(t->text);
    if (keep_pictures) {
        c->n_waiting += t->n_pictures; // those that waited before stand behind them
    } else {
        drop_pictures(c, c->n_pictures - c->n_waiting - t->n_pictures);
        c->n_waiting = 0;
    }
    return true;
}

const char *q3_conversation_question(const q3_conversation *c)
{
    for (int i = c->n - 1; i >= 0; i--)
        if (!c->turns[i].assistant)
            return c->turns[i].text;
    return NULL;
}

/* The messages, in the arena; texts are borrowed. */
static q3_status messages_of(q3_message **out, int *n, q3_arena *mem, const q3_conversation *c)
{
    q3_message *m = Q3_NEW(mem, q3_message, c->n + 1);
    q3_part *parts = Q3_NEW(mem, q3_part, c->n_pictures + c->n);
    if (!m || !parts)
        return Q3_ERR_MEMORY;
    *n = 0;
    if (c->system)
        m[(*n)++] = (q3_message){ .role = "system", .text = c->system };
    for (int i = 0; i < c->n; i++) {
        const q3_turn *t = &c->turns[i];
        m[*n] = (q3_message){ .role = t->assistant ? "assistant" : "user", .text = t->text };
        if (t->n_pictures) {
            m[*n].text = NULL;
            m[*n].parts = parts;
            m[*n].n_parts = t->n_pictures + 1;
            for (int k = 0; k < t->n_pictures; k++)
                *parts++ = (q3_part){ .kind = Q3_PART_IMAGE };
            *parts++ = (q3_part){ .kind = Q3_PART_TEXT, .text = t->text };
        }
        ++*n;
    }
    *out = m;
    return Q3_OK;
}

q3_status q3_conversation_prompt(q3_prompt *out, q3_arena *mem, const q3_conversation *c,
                                 const q3_prompter *p)
{
    q3_message *messages;
    int n;
    Q3_TRY(messages_of(&messages, &n, mem, c));
    return q3_prompt_make(out, mem, p, messages, n, c->pictures, c->n_pictures - c->n_waiting);
}

static void put_message(q3_text *out, const char *role, const char *text)
{
    q3_text_printf(out, "{\"role\": \"%s\", \"content\": ", role);
    q3_text_json_string(out, text, strlen(text));
    q3_text_printf(out, "}");
}

static void put_turn(q3_text *out, const q3_turn *t, char *const *paths)
{
    if (!t->n_pictures) {
        put_message(out, t->assistant ? "assistant" : "user", t->text);
        return;
    }
    q3_text_printf(out, "{\"role\": \"user\", \"content\": [");
    for (int k = 0; k < t->n_pictures; k++) {
        q3_text_printf(out, "{\"type\": \"image\", \"image\": ");
        q3_text_json_string(out, paths[k], strlen(paths[k]));
        q3_text_printf(out, "}, ");
    }
    q3_text_printf(out, "{\"type\": \"text\", \"text\": ");
    q3_text_json_string(out, t->text, strlen(t->text));
    q3_text_printf(out, "}]}");
}

void q3_conversation_json(q3_text *out, const q3_conversation *c)
{
    int picture = 0;
    q3_text_printf(out, "[");
    if (c->system)
        put_message(out, "system", c->system);
    for (int i = 0; i < c->n; i++) {
        q3_text_printf(out, i || c->system ? ",\n " : "");
        put_turn(out, &c->turns[i], c->paths + picture);
        picture += c->turns[i].n_pictures;
    }
    q3_text_printf(out, "]");
}
