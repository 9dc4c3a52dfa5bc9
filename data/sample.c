#include "data/sample.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "core/file.h"
#include "data/base64.h"
#include "data/messages.h"

enum { FIELD_BYTES = 128 }; // of a name in image_template; a longer one is none of the sample's

/* What a field is looked up with, all along. */
typedef struct reader {
    const q3_json *doc;
    const q3_data_keys *keys;
    const char *where;
} reader;

static void free_picture(q3_image_source *p)
{
    q3_free(p->path);
    if (!p->lent)
        q3_free(p->bytes);
}

void q3_sample_free(q3_sample *s)
{
    char *texts[] = { s->where, s->id, s->query, s->caption, s->target, s->label, s->system, s->source };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        q3_free(texts[i]);
    for (int i = 0; i < s->n_pictures; i++)
        free_picture(&s->pictures[i]);
    q3_free(s->pictures);
    cJSON_Delete(s->messages);
    *s = (q3_sample){ 0 };
}

static const char *or_else(const char *key, const char *otherwise)
{
    return key ? key : otherwise;
}

static q3_status missing(const reader *r, const char *key)
{
    return q3_fail(Q3_ERR_DATA, "%s: missing field \"%s\"", r->where, key);
}

static q3_status wrong(const reader *r, const char *key, const char *what)
{
    int line, column;
    if (q3_json_locate(r->doc, key, &line, &column))
        return q3_fail(Q3_ERR_DATA, "%s:%d:%d: \"%s\" %s", r->doc->name, line, column, key, what);
    return q3_fail(Q3_ERR_DATA, "%s: \"%s\" %s", r->where, key, what);
}

/* The value of a key, NULL when absent or null. A key that occurs twice is an error. */
static q3_status find(const cJSON **out, const reader *r, const char *key)
{
    *out = NULL;
    int n = 0;
    for (const cJSON *item = r->doc->root->child; item; item = item->next)
        if (strcmp(item->string, key) == 0 && n++ == 0 && !cJSON_IsNull(item))
            *out = item;
    return n > 1 ? wrong(r, key, "occurs twice in one object") : Q3_OK;
}

static q3_status copy(char **out, const char *text)
{
    *out = q3_strdup(text);
    return *out ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_status read_text(char **out, const reader *r, const char *key)
{
    const cJSON *item;
    Q3_TRY(find(&item, r, key));
    if (!item)
        return Q3_OK;
    return cJSON_IsString(item) ? copy(out, item->valuestring) : wrong(r, key, "must be a string");
}

/* A string, an integer with all its digits, or (for labels) a bool. */
static q3_status read_name(char **out, const reader *r, const char *key, bool allow_bool)
{
    const cJSON *item;
    char digits[64];
    Q3_TRY(find(&item, r, key));
    if (!item)
        return Q3_OK;
    if (cJSON_IsString(item))
        return copy(out, item->valuestring);
    if (allow_bool && cJSON_IsBool(item))
        return copy(out, cJSON_IsTrue(item) ? "true" : "false");
    if (cJSON_IsNumber(item) && q3_json_digits(r->doc, key, digits, sizeof digits) && !strpbrk(digits, ".eE"))
        return copy(out, digits);
    return wrong(r, key,
                 allow_bool ? "must be a string, an integer or a bool" : "must be a string or an integer");
}

static q3_status read_query(q3_sample *s, const reader *r)
{
    const char *key = or_else(r->keys->query_key, "query");
    const char *question = r->keys->question;
    if (!question && strcmp(key, "query") == 0 && !cJSON_GetObjectItemCaseSensitive(r->doc->root, key) &&
        cJSON_GetObjectItemCaseSensitive(r->doc->root, "text"))
        key = "text";
    if (!question && !cJSON_GetObjectItemCaseSensitive(r->doc->root, key))
        return missing(r, key);
    Q3_TRY(read_text(&s->query, r, key));
    return s->query ? Q3_OK : copy(&s->query, or_else(question, ""));
}

/* The number in label_names that `label` stands for, -1 for none. */
static int label_number(const char *label, const q3_data_keys *keys)
{
    static const char *const bools[] = { "false", "true" };
    char digits[16];
    for (int i = 0; i < keys->n_label_names; i++)
        if (strcmp(label, keys->label_names[i]) == 0)
            return i;
    for (int i = 0; i < keys->n_label_names; i++) {
        snprintf(digits, sizeof digits, "%d", i);
        if (strcmp(label, digits) == 0 || (i < 2 && strcmp(label, bools[i]) == 0))
            return i;
    }
    return -1;
}

static q3_status read_label(q3_sample *s, const reader *r)
{
    const char *key = or_else(r->keys->label_key, "label");
    Q3_TRY(read_name(&s->label, r, key, true));
    if (!s->label || !r->keys->n_label_names)
        return Q3_OK;
    int number = label_number(s->label, r->keys);
    if (number < 0)
        return wrong(r, key, "is neither one of data.label_names nor the number of one, from 0");
    q3_free(s->label);
    return copy(&s->label, r->keys->label_names[number]);
}

static q3_status fill_template(char **out, const char *template, const char *label)
{
    static const char slot[] = "{label}";
    q3_text t = { 0 };
    q3_text_append(&t, "", 0);
    for (const char *at; (at = strstr(template, slot)); template = at + strlen(slot)) {
        q3_text_append(&t, template, (size_t)(at - template));
        q3_text_append(&t, label, strlen(label));
    }
    q3_text_append(&t, template, strlen(template));
    if (t.failed) {
        q3_text_free(&t);
        return Q3_ERR_MEMORY;
    }
    *out = t.data;
    return Q3_OK;
}

static q3_status read_target(q3_sample *s, const reader *r)
{
    const char *key = or_else(r->keys->target_key, "target_json"), *template = r->keys->target_template;
    Q3_TRY(read_text(&s->target, r, key));
    if (!s->target && template && s->label)
        Q3_TRY(fill_template(&s->target, template, s->label));
    if (!r->keys->need_target || (s->target && *s->target))
        return Q3_OK;
    if (s->target)
        return wrong(r, key, "is empty; there is nothing to train on");
    if (template)
        return q3_fail(Q3_ERR_DATA, "%s: missing field \"%s\", and no \"%s\" to make it from", r->where, key,
                       or_else(r->keys->label_key, "label"));
    return missing(r, key);
}

/* ---- pictures ---- */

/* A picture in base64 begins with one of these: what the first bytes of a JPEG, PNG, WebP and GIF file
 * become. */
static bool is_bare_base64(const char *text, size_t n)
{
    static const char *const begins[] = { "/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD" };
    if (n < 40) // shorter than any picture
        return false;
    for (size_t i = 0; i < sizeof begins / sizeof *begins; i++)
        if (strncmp(text, begins[i], strlen(begins[i])) == 0)
            return q3_base64_looks_like(text, n); // a path would have a dot in it
    return false;
}

static q3_status set_base64(q3_image_source *p, const char *text, size_t n)
{
    return q3_base64_decode(&p->bytes, &p->size, text, n);
}

static q3_status set_data_url(q3_image_source *p, const char *text)
{
    const char *comma = strchr(text, ',');
    static const char mark[] = ";base64";
    size_t n = sizeof mark - 1;
    if (!comma || (size_t)(comma - text) < n || strncasecmp(comma - n, mark, n) != 0)
        return q3_fail(Q3_ERR_DATA, "a data: URL must be in base64 (data:image/png;base64,...)");
    return set_base64(p, comma + 1, strlen(comma + 1));
}

static q3_status set_image(q3_image_source *p, const char *text, const char *dir)
{
    size_t n = strlen(text);
    if (n == 0)
        return q3_fail(Q3_ERR_DATA, "the path of the picture is empty");
    if (strncasecmp(text, "data:", 5) == 0)
        return set_data_url(p, text);
    if (strncasecmp(text, "http://", 7) == 0 || strncasecmp(text, "https://", 8) == 0)
        return q3_fail(Q3_ERR_DATA, "%.100s: pictures are not downloaded; save it and give its path", text);
    if (is_bare_base64(text, n))
        return set_base64(p, text, n);
    if (strncmp(text, "file://", 7) == 0)
        text += 7;
    p->path = q3_path_join(dir, text);
    return p->path ? Q3_OK : Q3_ERR_MEMORY;
}

/* {"path": ..., "bytes": base64}: the bytes come first, as in the image feature of `datasets`. */
static q3_status set_from_object(q3_image_source *p, const cJSON *object, const char *dir)
{
    const cJSON *bytes = cJSON_GetObjectItemCaseSensitive(object, "bytes");
    const cJSON *path = cJSON_GetObjectItemCaseSensitive(object, "path");
    if (cJSON_IsString(bytes))
        return set_base64(p, bytes->valuestring, strlen(bytes->valuestring));
    if (cJSON_IsString(path))
        return set_image(p, path->valuestring, dir);
    return q3_fail(Q3_ERR_DATA, "an object must have \"path\" (a string) or \"bytes\" (base64)");
}

static q3_status add(q3_sample *s, q3_status st, q3_image_source *p)
{
    q3_image_source *all =
        st == Q3_OK ? q3_realloc(s->pictures, ((size_t)s->n_pictures + 1) * sizeof *all) : NULL;
    if (!all) {
        free_picture(p);
        return st ? st : Q3_ERR_MEMORY;
    }
    s->pictures = all;
    s->pictures[s->n_pictures++] = *p;
    return Q3_OK;
}

q3_status q3_sample_add_image(q3_sample *s, const char *text, const char *dir)
{
    q3_image_source p = { 0 };
    return add(s, set_image(&p, text, dir), &p);
}

q3_status q3_sample_lend_image(q3_sample *s, const void *bytes, size_t size, char *name)
{
    q3_image_source p = {
        .path = name, .bytes = (unsigned char *)(uintptr_t)bytes, .size = size, .lent = true
    };
    return add(s, Q3_OK, &p);
}

q3_status q3_sample_add_json(q3_sample *s, const cJSON *item, const char *dir)
{
    q3_image_source p = { 0 };
    if (cJSON_IsString(item))
        return q3_sample_add_image(s, item->valuestring, dir);
    if (!cJSON_IsObject(item))
        return q3_fail(Q3_ERR_DATA,
                       "a picture must be a path, base64, or an object with \"path\" or \"bytes\"");
    return add(s, set_from_object(&p, item, dir), &p);
}

/* Appends `template` with its fields filled in; *lacking is the first one that the sample has not, or empty. */
static q3_status fill_fields(q3_text *out, char lacking[FIELD_BYTES], const reader *r, const char *template)
{
    for (const char *open; (open = strchr(template, '{')) && strchr(open, '}');) {
        size_t n = strcspn(open, "}");
        snprintf(lacking, FIELD_BYTES, "%.*s", (int)n - 1, open + 1);
        char *value = NULL;
        Q3_TRY(read_name(&value, r, lacking, false));
        if (!value)
            return Q3_OK;
        q3_text_append(out, template, (size_t)(open - template));
        q3_text_append(out, value, strlen(value));
        q3_free(value);
        template = open + n + 1;
    }
    lacking[0] = 0;
    q3_text_append(out, template, strlen(template));
    return out->failed ? Q3_ERR_MEMORY : Q3_OK;
}

static q3_status image_from_template(q3_sample *s, const reader *r, const char *dir)
{
    q3_text path = { 0 };
    char lacking[FIELD_BYTES];
    q3_status st = fill_fields(&path, lacking, r, r->keys->image_template);
    if (st == Q3_OK && lacking[0] && !r->keys->allow_text_only)
        st = missing(r, lacking);
    if (st == Q3_OK && !lacking[0]) {
        st = q3_sample_add_image(s, path.data, dir);
        st = st == Q3_OK ? st : q3_wrap(st, "%s: data.image_template", r->where);
    }
    q3_text_free(&path);
    return st;
}

static q3_status read_image(q3_sample *s, const reader *r, const char *dir)
{
    const char *key = or_else(r->keys->image_key, "image");
    const cJSON *item;
    Q3_TRY(find(&item, r, key));
    if (!item && r->keys->image_template)
        return image_from_template(s, r, dir);
    if (!item)
        return r->keys->allow_text_only ? Q3_OK : missing(r, key);
    if (!cJSON_IsString(item) && !cJSON_IsObject(item))
        return wrong(r, key, "must be a path, base64, or an object with \"path\" or \"bytes\"");
    q3_status st = q3_sample_add_json(s, item, dir);
    return st == Q3_OK ? st : q3_wrap(st, "%s: \"%s\"", r->where, key);
}

/* ---- conversations ---- */

/* The conversation and the name of its field; NULL: the object has none. */
static q3_status find_messages(const cJSON **out, const char **key, const reader *r)
{
    *key = or_else(r->keys->messages_key, "messages");
    Q3_TRY(find(out, r, *key));
    if (*out || strcmp(*key, "messages") != 0)
        return Q3_OK;
    *key = "conversations"; // as ShareGPT calls it
    return find(out, r, *key);
}

/* What a conversation leaves no place for. */
static q3_status check_fields(const reader *r, const char *messages_key)
{
    const char *const keys[] = { or_else(r->keys->query_key, "query"),
                                 or_else(r->keys->caption_key, "caption"),
                                 or_else(r->keys->target_key, "target_json") };
    const cJSON *item;
    for (int i = 0; i < 3; i++) {
        char what[160];
        Q3_TRY(find(&item, r, keys[i]));
        snprintf(what, sizeof what, "stands beside \"%.60s\"; a sample has one of them", messages_key);
        if (item)
            return wrong(r, keys[i], what);
    }
    Q3_TRY(find(&item, r, "tools"));
    bool none = !item || (cJSON_IsArray(item) && !item->child) ||
                (cJSON_IsString(item) && (!*item->valuestring || strcmp(item->valuestring, "[]") == 0));
    return none ? Q3_OK : wrong(r, "tools", "cannot be trained on; take it out");
}

static q3_status read_conversation(q3_sample *s, const reader *r, const cJSON *messages, const char *key,
                                   const char *dir)
{
    const cJSON *images;
    Q3_TRY(check_fields(r, key));
    Q3_TRY(find(&images, r, or_else(r->keys->images_key, "images")));
    if (!images)
        Q3_TRY(find(&images, r, or_else(r->keys->image_key, "image")));
    q3_status st = q3_messages_read(s, messages, images, dir);
    if (st != Q3_OK)
        return q3_wrap(st, "%s: \"%s\"", r->where, key);
    if (s->system && q3_messages_system(s->messages))
        return q3_fail(Q3_ERR_DATA,
                       "%s: \"%s\" begins with a system turn, and there is a field \"system\" beside it",
                       r->where, key);
    if (!s->n_pictures && !r->keys->allow_text_only)
        return q3_fail(Q3_ERR_DATA, "%s: \"%s\" has no picture; allow it with data.allow_text_only", r->where,
                       key);
    return Q3_OK;
}

static q3_status fill(q3_sample *s, const reader *r, const char *dir)
{
    const cJSON *messages;
    const char *key;
    Q3_TRY(copy(&s->where, r->where));
    if (!cJSON_IsObject(r->doc->root))
        return q3_fail(Q3_ERR_DATA,
                       "%s: a sample must be a JSON object; write one object per line, or an array of them "
                       "in a .json file",
                       r->where);
    Q3_TRY(read_name(&s->id, r, "id", false));
    Q3_TRY(find_messages(&messages, &key, r));
    if (!messages) {
        Q3_TRY(read_image(s, r, dir));
        Q3_TRY(read_query(s, r));
        Q3_TRY(read_text(&s->caption, r, or_else(r->keys->caption_key, "caption")));
    }
    Q3_TRY(read_text(&s->system, r, "system"));
    Q3_TRY(read_text(&s->source, r, "source"));
    Q3_TRY(read_label(s, r));
    return messages ? read_conversation(s, r, messages, key, dir) : read_target(s, r);
}

q3_status q3_sample_parse(q3_sample *out, const q3_json *doc, const q3_data_keys *keys, const char *dir,
                          const char *where)
{
    const reader r = { doc, keys, where };
    *out = (q3_sample){ 0 };
    q3_status st = fill(out, &r, dir);
    if (st != Q3_OK)
        q3_sample_free(out);
    return st;
}

bool q3_sample_has_image(const q3_sample *s)
{
    return s->n_pictures > 0;
}

static q3_status without_image(const q3_sample *s)
{
    return q3_fail(Q3_ERR_DATA, "%s: the sample has no picture", or_else(s->where, "sample"));
}

static q3_status with_place(q3_status st, const q3_sample *s)
{
    return st == Q3_OK || !s->where ? st : q3_wrap(st, "%s", s->where);
}

/* Of a picture that is here as bytes. */
static const char *image_name(const q3_image_source *p)
{
    return or_else(p->path, "image");
}

q3_status q3_sample_picture(q3_image *out, const q3_sample *s, int i, const q3_image_options *opt)
{
    *out = (q3_image){ 0 };
    const q3_image_source *p = &s->pictures[i];
    return with_place(p->bytes ? q3_image_decode(out, p->bytes, p->size, opt, image_name(p))
                               : q3_image_open(out, p->path, opt),
                      s);
}

q3_status q3_sample_picture_size(int *width, int *height, const q3_sample *s, int i,
                                 const q3_image_options *opt)
{
    const q3_image_source *p = &s->pictures[i];
    if (p->bytes)
        return with_place(q3_image_measure(width, height, p->bytes, p->size, opt, image_name(p)), s);
    q3_map map; // touches the pages of the header only
    q3_status st = q3_status_as(q3_map_open(&map, p->path), Q3_ERR_DATA);
    if (st == Q3_OK) {
        st = q3_image_measure(width, height, map.data, map.size, opt, p->path);
        q3_map_close(&map);
    }
    return with_place(st, s);
}

q3_status q3_sample_image(q3_image *out, const q3_sample *s, const q3_image_options *opt)
{
    *out = (q3_image){ 0 };
    return q3_sample_has_image(s) ? q3_sample_picture(out, s, 0, opt) : without_image(s);
}

q3_status q3_sample_image_size(int *width, int *height, const q3_sample *s, const q3_image_options *opt)
{
    return q3_sample_has_image(s) ? q3_sample_picture_size(width, height, s, 0, opt) : without_image(s);
}
