#include "model/config_edit.h"

#include <string.h>

#include "core/file.h"

/* A scanner over text that the JSON parser has accepted: offsets only move forward and every value ends.
 * White space is all that the parser takes for it. */
static bool is_space(char c)
{
    return (unsigned char)c <= ' ';
}

static size_t skip_space(const q3_text *t, size_t at)
{
    while (at < t->size && is_space(t->data[at]))
        at++;
    return at;
}

static size_t skip_string(const q3_text *t, size_t at)
{
    for (at++; at < t->size && t->data[at] != '"'; at++)
        if (t->data[at] == '\\')
            at++;
    return at + 1 < t->size ? at + 1 : t->size;
}

static size_t skip_value(const q3_text *t, size_t at)
{
    int depth = 0;
    do {
        char c = t->data[at];
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        if (c == '"')
            at = skip_string(t, at);
        else if (is_space(c) || strchr("{}[],:", c))
            at++;
        else // a number, true, false or null
            while (at < t->size && !is_space(t->data[at]) && !strchr(",:]}", t->data[at]))
                at++;
    } while (depth > 0 && at < t->size);
    return at;
}

/* Where the object begins; a byte order mark may stand in front. */
static size_t top_object(const q3_text *t)
{
    const char *brace = memchr(t->data, '{', t->size);
    return brace ? (size_t)(brace - t->data) : t->size;
}

/* "key": value, as offsets into the text. */
typedef struct member {
    size_t key, value, end;
    size_t length; // of the key without quotes
} member;

/* The member at or behind `at`; false at the end of the object. */
static bool next_member(member *m, const q3_text *t, size_t at)
{
    at = skip_space(t, at);
    if (at < t->size && t->data[at] == ',')
        at = skip_space(t, at + 1);
    if (at >= t->size || t->data[at] != '"')
        return false;
    m->key = at;
    at = skip_string(t, at);
    m->length = at - m->key - 2;
    m->value = skip_space(t, skip_space(t, at) + 1);
    m->end = skip_value(t, m->value);
    return true;
}

static int compare_key(const q3_text *t, const member *m, const char *key)
{
    size_t n = strlen(key);
    int c = memcmp(t->data + m->key + 1, key, n < m->length ? n : m->length);
    return c ? c : (m->length > n) - (m->length < n);
}

/* Finds `key` in the object that begins at `object`. */
static bool find_member(member *m, const q3_text *t, size_t object, const char *key)
{
    for (size_t at = object + 1; next_member(m, t, at); at = m->end)
        if (compare_key(t, m, key) == 0)
            return true;
    return false;
}

/* t[from, to) becomes `bytes`. */
static void splice(q3_text *t, size_t from, size_t to, const char *bytes, size_t n)
{
    q3_text out = { .failed = t->failed };
    q3_text_append(&out, t->data, from);
    q3_text_append(&out, bytes, n);
    q3_text_append(&out, t->data + to, t->size - to);
    q3_text_free(t);
    *t = out;
}

static void insert_member(q3_text *t, size_t object, const char *key, const char *value)
{
    member m, last = { .key = object + 1, .end = object + 1 };
    q3_text add = { 0 };
    size_t first = skip_space(t, object + 1), at = object + 1;
    bool before = false, any = false;
    while (!before && next_member(&m, t, at)) {
        before = compare_key(t, &m, key) > 0;
        last = before ? last : m;
        at = m.end;
        any = true;
    }
    q3_text_printf(&add, "%.*s\"%s\": %s%s", (int)(first - object - 1), t->data + object + 1, key, value,
                   before ? "," : "");
    if (any && !before)
        splice(&add, 0, 0, ",", 1);
    // in front of a member: behind the comma (or brace) that precedes its white space
    size_t where = last.end;
    if (before && last.key != object + 1)
        where = skip_space(t, last.end) + 1;
    t->failed = t->failed || add.failed;
    if (!t->failed)
        splice(t, where, where, add.data, add.size);
    q3_text_free(&add);
}

static void set_member(q3_text *t, size_t object, const char *key, const char *value)
{
    member m;
    if (find_member(&m, t, object, key))
        splice(t, m.value, m.end, value, strlen(value));
    else
        insert_member(t, object, key, value);
}

/* The first member of that name, with its comma; false when there is none. */
static bool drop_member(q3_text *t, size_t object, const char *key)
{
    member m, next;
    size_t before = object + 1; // end of what stands in front
    for (size_t at = object + 1; next_member(&m, t, at); at = before = m.end)
        if (compare_key(t, &m, key) == 0) {
            bool last = !next_member(&next, t, m.end);
            splice(t, last ? before : m.key, last ? m.end : next.key, "", 0);
            return true;
        }
    return false;
}

/* ---- the edits ---- */

static void set_dtype(q3_text *t, const char *dtype)
{
    static const char *const sections[] = { "text_config", "vision_config" };
    q3_text value = { 0 };
    q3_text_printf(&value, "\"%s\"", dtype);
    t->failed = t->failed || value.failed;
    for (int i = 0; i < 4 && !t->failed; i++) {
        const char *key = i & 1 ? "torch_dtype" : "dtype";
        member s, m;
        if (find_member(&s, t, top_object(t), sections[i / 2]) && t->data[s.value] == '{' &&
            find_member(&m, t, s.value, key))
            splice(t, m.value, m.end, value.data, value.size);
    }
    member m;
    if (!t->failed) {
        bool old = find_member(&m, t, top_object(t), "torch_dtype");
        set_member(t, top_object(t), old ? "torch_dtype" : "dtype", value.data);
    }
    q3_text_free(&value);
}

static void put_skipped(q3_text *t, const char *key, const q3_quantization_config *q)
{
    q3_text_printf(t, "    \"%s\": %s", key, q->n_skip ? "[\n" : "null");
    for (int i = 0; i < q->n_skip; i++) {
        q3_text_printf(t, "      ");
        q3_text_json_string(t, q->skip[i], strlen(q->skip[i]));
        q3_text_printf(t, "%s", i + 1 < q->n_skip ? ",\n" : "\n    ]");
    }
    q3_text_printf(t, ",\n");
}

/* model/checkpoint_int4.h. */
static void put_int4(q3_text *t, const q3_quantization_config *q)
{
    q3_text_printf(t, "{\n    \"group_size\": %d,\n", q->block);
    put_skipped(t, "modules_to_not_convert", q);
    q3_text_printf(t, "    \"quant_method\": \"q3_int4\"\n  }");
}

/* BitsAndBytesConfig.to_dict of transformers 5.17, as config.json holds it (indented by 2, keys sorted). With int8 the
 * words about 4 bits are its defaults. */
static void put_bitsandbytes(q3_text *t, const q3_quantization_config *q)
{
    const bool four = q->code != Q3_I8;
    const char *in4 = four ? "true" : "false", *in8 = four ? "false" : "true";
    q3_text_printf(t,
                   "{\n    \"_load_in_4bit\": %s,\n    \"_load_in_8bit\": %s,\n"
                   "    \"bnb_4bit_compute_dtype\": \"%s\",\n    \"bnb_4bit_quant_storage\": \"uint8\",\n",
                   in4, in8, four ? q3_torch_dtype_name(q->compute) : "float32");
    q3_text_printf(
        t,
        "    \"bnb_4bit_quant_type\": \"%s\",\n    \"bnb_4bit_use_double_quant\": %s,\n"
        "    \"llm_int8_enable_fp32_cpu_offload\": false,\n    \"llm_int8_has_fp16_weight\": false,\n",
        q->code == Q3_NF4 ? "nf4" : "fp4", four && q->nested ? "true" : "false");
    put_skipped(t, "llm_int8_skip_modules", q);
    q3_text_printf(t,
                   "    \"llm_int8_threshold\": 6.0,\n    \"load_in_4bit\": %s,\n    \"load_in_8bit\": %s,\n"
                   "    \"quant_method\": \"bitsandbytes\"\n  }",
                   in4, in8);
}

static void put_quantization(q3_text *t, const q3_quantization_config *q)
{
    if (q->code == Q3_I4)
        put_int4(t, q);
    else
        put_bitsandbytes(t, q);
}

q3_status q3_model_config_text(q3_text *out, const q3_model_config *c, const q3_config_edit *edit)
{
    *out = (q3_text){ 0 };
    q3_text_append(out, c->raw, c->raw_bytes);
    if (edit->dtype && !out->failed)
        set_dtype(out, edit->dtype);
    if (edit->drop_quantization && !out->failed)
        while (!out->failed && drop_member(out, top_object(out), "quantization_config"))
            ; // a key may stand there twice
    if (edit->quantization && !out->failed) {
        q3_text value = { 0 };
        put_quantization(&value, edit->quantization);
        out->failed = value.failed;
        if (!out->failed)
            set_member(out, top_object(out), "quantization_config", value.data);
        q3_text_free(&value);
    }
    return out->failed ? q3_fail(Q3_ERR_MEMORY, "config.json: out of memory") : Q3_OK;
}

q3_status q3_model_config_write(const q3_model_config *c, const char *dir, const q3_config_edit *edit)
{
    q3_text text;
    char *path = q3_path_join(dir, "config.json");
    q3_status st = q3_model_config_text(&text, c, edit);
    if (st == Q3_OK)
        st = path ? q3_file_write(path, text.data, text.size) : Q3_ERR_MEMORY;
    q3_text_free(&text);
    q3_free(path);
    return st;
}
