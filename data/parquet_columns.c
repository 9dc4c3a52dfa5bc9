#include "data/parquet_columns.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"

#define TEXT_LIMIT ((size_t)64 << 20) // as of a line in data/jsonl.c

/* ---- finding ---- */

static const q3_parquet_leaf *leaf_named(const q3_parquet_meta *m, const char *top)
{
    for (int i = 0; i < m->n_leaves; i++)
        if (strcmp(m->leaves[i].top, top) == 0)
            return &m->leaves[i];
    return NULL;
}

/* `setting` names the column that is meant. */
static q3_status no_column(const q3_parquet_meta *m, const char *key, const char *setting)
{
    char have[300] = "";
    const char *last = "";
    for (int i = 0; i < m->n_leaves; i++) {
        size_t n = strlen(have);
        if (strcmp(last, m->leaves[i].top) != 0)
            snprintf(have + n, sizeof have - n, "%s%s", *have ? ", " : "", m->leaves[i].top);
        last = m->leaves[i].top;
    }
    return q3_fail(Q3_ERR_DATA, "%s: has no column \"%s\"; set %s to one of its columns (%s)", m->path, key,
                   setting, have);
}

/* The names of the classes, when `datasets` says that the column has some. */
static const cJSON *class_names(const q3_parquet_columns *c, const char *key)
{
    const cJSON *at = c->features.root;
    const char *path[] = { "info", "features", key };
    for (size_t i = 0; at && i < sizeof path / sizeof *path; i++)
        at = cJSON_GetObjectItemCaseSensitive(at, path[i]);
    const char *type = at ? cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(at, "_type")) : NULL;
    const cJSON *names = at ? cJSON_GetObjectItemCaseSensitive(at, "names") : NULL;
    return type && strcmp(type, "ClassLabel") == 0 && cJSON_IsArray(names) ? names : NULL;
}

static q3_status add_column(q3_parquet_columns *c, const q3_parquet_meta *m, const char *key, bool name)
{
    const q3_parquet_leaf *leaf = leaf_named(m, key);
    for (int i = 0; i < c->n; i++)
        if (strcmp(c->fields[i].key, key) == 0) {
            c->fields[i].name |= name;
            return Q3_OK;
        }
    if (!leaf)
        return Q3_OK;
    bool again = leaf + 1 < m->leaves + m->n_leaves && strcmp(leaf[1].top, key) == 0;
    if (leaf->depth > 1 || leaf->max_rep > 0 || again)
        return q3_fail(
            Q3_ERR_DATA,
            "%s: column \"%s\" is a list or a struct, or stands there twice; a sample has one text, "
            "integer or bool there",
            m->path, key);
    if (leaf->other || leaf->type == Q3_PARQUET_FIXED)
        return q3_fail(Q3_ERR_DATA, "%s: column \"%s\" holds %s; it must be text, integers or bools", m->path,
                       key, leaf->other ? leaf->other : "bytes");
    c->fields[c->n++] = (q3_parquet_field){
        .key = key, .leaf = (int)(leaf - m->leaves), .name = name, .names = class_names(c, key)
    };
    return Q3_OK;
}

/* Adds the leaves that a picture is read from. */
static q3_status add_picture(q3_parquet_columns *c, const q3_parquet_meta *m, bool needed)
{
    bool there = false;
    for (int i = 0; i < m->n_leaves; i++) {
        const q3_parquet_leaf *leaf = &m->leaves[i];
        if (strcmp(leaf->top, c->image_key) != 0)
            continue;
        there = true;
        bool bytes = leaf->type == Q3_PARQUET_BYTES || leaf->type == Q3_PARQUET_FIXED;
        if (!bytes || leaf->other || leaf->max_rep > 1)
            continue;
        bool path = leaf->depth > 1 && strcmp(leaf->name, "path") == 0;
        bool only = leaf->depth == 1 || leaf->max_rep == 1;
        if (leaf->depth > 1 && strcmp(leaf->name, "bytes") == 0)
            c->picture = i;
        else if (path || (only && leaf->text))
            c->picture_path = i;
        else if (only)
            c->picture = i;
    }
    if (c->picture >= 0 || c->picture_path >= 0)
        return Q3_OK;
    if (there)
        return q3_fail(
            Q3_ERR_DATA,
            "%s: column \"%s\" holds no pictures: it must be a struct of bytes and path (the image feature "
            "of `datasets`), bytes, or text; set data.image_key to another",
            m->path, c->image_key);
    return needed ? no_column(m, c->image_key, "data.image_key") : Q3_OK;
}

static q3_status find(q3_parquet_columns *c, const q3_parquet_meta *m, const q3_data_keys *k)
{
    const char *query = k->query_key ? k->query_key : "query",
               *target = k->target_key ? k->target_key : "target_json";
    if (strcmp(query, "query") == 0 && !leaf_named(m, query) && leaf_named(m, "text"))
        query = "text";
    if (m->features.size > 0)
        Q3_TRY(q3_status_as(q3_json_parse(&c->features, m->features.at, m->features.size, m->path, 1),
                            Q3_ERR_DATA));
    Q3_TRY(add_picture(c, m, !k->allow_text_only));
    if (!leaf_named(m, query))
        return no_column(m, query, "data.query_key");
    if (k->need_target && !k->target_template && !leaf_named(m, target))
        return no_column(m, target, "data.target_key");
    Q3_TRY(add_column(c, m, "id", true));
    Q3_TRY(add_column(c, m, query, false));
    Q3_TRY(add_column(c, m, k->caption_key ? k->caption_key : "caption", false));
    Q3_TRY(add_column(c, m, target, false));
    Q3_TRY(add_column(c, m, k->label_key ? k->label_key : "label", true));
    Q3_TRY(add_column(c, m, "system", false));
    return add_column(c, m, "source", false);
}

q3_status q3_parquet_columns_find(q3_parquet_columns *out, const q3_parquet_meta *m, const q3_data_keys *keys)
{
    *out = (q3_parquet_columns){ .picture = -1,
                                 .picture_path = -1,
                                 .image_key = keys->image_key ? keys->image_key : "image" };
    q3_status st = find(out, m, keys);
    if (st != Q3_OK)
        q3_parquet_columns_free(out);
    return st;
}

void q3_parquet_columns_free(q3_parquet_columns *c)
{
    q3_json_close(&c->features);
    *c = (q3_parquet_columns){ 0 };
}

/* ---- values ---- */

static uint64_t little(const q3_parquet_value *v)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < v->size && i < 8; i++)
        value |= (uint64_t)v->bytes[i] << 8 * i;
    return value;
}

q3_status q3_parquet_text(char **out, const q3_parquet_leaf *leaf, const q3_parquet_value *v)
{
    size_t bad;
    const char *text = (const char *)v->bytes;
    if (v->size > TEXT_LIMIT || memchr(text, 0, v->size) || !q3_utf8_valid(text, v->size, &bad))
        return q3_fail(Q3_ERR_DATA, "column \"%s\": is no text in UTF-8 of at most %s", leaf->path,
                       q3_bytes(TEXT_LIMIT));
    *out = q3_malloc((size_t)v->size + 1);
    if (!*out)
        return Q3_ERR_MEMORY;
    memcpy(*out, text, v->size);
    (*out)[v->size] = 0;
    return Q3_OK;
}

static int64_t signed_of(const q3_parquet_leaf *leaf, const q3_parquet_value *v)
{
    return leaf->type == Q3_PARQUET_INT32 ? (int32_t)(uint32_t)little(v) : (int64_t)little(v);
}

/* *out stays NULL for -1, which is no class. */
static q3_status class_of(const char **out, const q3_parquet_field *f, const q3_parquet_leaf *leaf,
                          const q3_parquet_value *v)
{
    int64_t i = signed_of(leaf, v), n = cJSON_GetArraySize(f->names);
    *out = NULL;
    if (i == -1)
        return Q3_OK;
    if (i >= 0 && i < n)
        *out = cJSON_GetStringValue(cJSON_GetArrayItem(f->names, (int)i));
    return *out ? Q3_OK
                : q3_fail(Q3_ERR_DATA,
                          "column \"%s\": class %" PRId64 " has no name among the %" PRId64
                          " that the file has",
                          f->key, i, n);
}

/* An integer; where a name may be one it is handed over as its digits. */
static q3_status add_integer(bool *added, cJSON *object, const q3_parquet_field *f,
                             const q3_parquet_leaf *leaf, const q3_parquet_value *v)
{
    char digits[32];
    const char *name = digits;
    if (leaf->is_unsigned)
        snprintf(digits, sizeof digits, "%" PRIu64, little(v));
    else
        snprintf(digits, sizeof digits, "%" PRId64, signed_of(leaf, v));
    if (f->names)
        Q3_TRY(class_of(&name, f, leaf, v));
    if (!name)
        *added = true;
    else if (f->names || f->name)
        *added = cJSON_AddStringToObject(object, f->key, name) != NULL;
    else
        *added = cJSON_AddNumberToObject(object, f->key, 0) !=
                 NULL; // refused where text is wanted, whatever it is
    return Q3_OK;
}

q3_status q3_parquet_add_field(cJSON *object, const q3_parquet_field *f, const q3_parquet_leaf *leaf,
                               const q3_parquet_value *v)
{
    bool added = true;
    char *text = NULL;
    if (!v->bytes)
        return Q3_OK;
    if (leaf->type == Q3_PARQUET_BYTES) {
        Q3_TRY(q3_parquet_text(&text, leaf, v));
        added = cJSON_AddStringToObject(object, f->key, text) != NULL;
        q3_free(text);
    } else if (leaf->type == Q3_PARQUET_BOOLEAN) {
        added = cJSON_AddBoolToObject(object, f->key, *v->bytes) != NULL;
    } else if (leaf->type == Q3_PARQUET_INT32 || leaf->type == Q3_PARQUET_INT64) {
        Q3_TRY(add_integer(&added, object, f, leaf, v));
    } else {
        added =
            cJSON_AddNumberToObject(object, f->key, 0.5) != NULL; // a number that is no integer fits nowhere
    }
    return added ? Q3_OK : q3_fail(Q3_ERR_MEMORY, "no memory for column \"%s\"", f->key);
}
