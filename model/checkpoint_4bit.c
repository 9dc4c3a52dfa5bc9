#include "model/checkpoint_4bit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/config.h"

enum { MAX_NAME = 512, MAX_STATE = 1 << 16 };

/* The part of weight `name` with that suffix; NULL when absent. */
static const q3_st_tensor *part(q3_weights *w, const char *name, const char *suffix)
{
    char full[MAX_NAME];
    return snprintf(full, sizeof full, "%s%s", name, suffix) < (int)sizeof full ? q3_weights_find(w, full)
                                                                                : NULL;
}

static const q3_st_tensor *state_of(q3_dtype *code, q3_weights *w, const char *name)
{
    const q3_st_tensor *t = part(w, name, ".quant_state.bitsandbytes__nf4");
    *code = t ? Q3_NF4 : Q3_FP4;
    return t ? t : part(w, name, ".quant_state.bitsandbytes__fp4");
}

bool q3_weights_is_quantized(q3_weights *w, const char *name)
{
    q3_dtype code;
    return state_of(&code, w, name) != NULL;
}

/* A part that must be there, with this type and number of elements. */
static q3_status need(const q3_st_tensor **out, q3_weights *w, const char *name, const char *suffix,
                      q3_dtype dtype, int64_t n)
{
    const q3_st_tensor *t = *out = part(w, name, suffix);
    if (!t)
        return q3_fail(Q3_ERR_MODEL, "%s: there is no tensor %s%s; is the download complete?",
                       q3_weights_dir(w), name, suffix);
    if (t->dtype != dtype || q3_st_elements(t) != n)
        return q3_fail(Q3_ERR_MODEL, "%s: tensor %s is %s %s; expected %s with %lld elements",
                       q3_weights_dir(w), t->name, t->dtype_name, q3_st_shape(t),
                       dtype == Q3_U8 ? "U8" : "F32", (long long)n);
    return Q3_OK;
}

/* ---- quant_state ---- */

typedef struct state {
    bool nested;
    int64_t block, nested_block, shape[2];
    double offset;
    q3_dtype source;
} state;

static q3_status read_state_shape(state *s, const q3_json *doc)
{
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(doc->root, "shape");
    if (!cJSON_IsArray(shape) || cJSON_GetArraySize(shape) != 2)
        return q3_fail(Q3_ERR_MODEL, "%s: shape must be [rows, columns]", doc->name);
    for (int i = 0; i < 2; i++) {
        double size = cJSON_GetArrayItem(shape, i)->valuedouble;
        if (!cJSON_IsNumber(cJSON_GetArrayItem(shape, i)) || !(size >= 1 && size <= 1 << 30) ||
            size != floor(size))
            return q3_fail(Q3_ERR_MODEL, "%s: shape must hold sizes from 1 to 2^30", doc->name);
        s->shape[i] = (int64_t)size;
    }
    return Q3_OK;
}

static q3_status read_state_fields(state *s, const q3_json *doc, const char *code)
{
    const char *type, *dtype, *nested_dtype;
    Q3_TRY(q3_json_string(&type, doc, doc->root, "quant_type", code));
    Q3_TRY(q3_json_string(&dtype, doc, doc->root, "dtype", ""));
    Q3_TRY(q3_json_int(&s->block, doc, doc->root, "blocksize", 0));
    Q3_TRY(q3_json_int(&s->nested_block, doc, doc->root, "nested_blocksize", 0));
    Q3_TRY(q3_json_string(&nested_dtype, doc, doc->root, "nested_dtype", "float32"));
    Q3_TRY(q3_json_float(&s->offset, doc, doc->root, "nested_offset", 0.0));
    Q3_TRY(read_state_shape(s, doc));
    s->source = q3_torch_dtype_parse(dtype);
    s->nested = s->nested_block != 0;
    if (strcmp(type, code) != 0)
        return q3_fail(Q3_ERR_MODEL, "%s: quant_type is %s in a tensor named for %s", doc->name, type, code);
    if (s->block < 32 || s->block > 4096 || (s->block & (s->block - 1)))
        return q3_fail(Q3_ERR_MODEL, "%s: blocksize is %lld; expected a power of two from 32 to 4096",
                       doc->name, (long long)s->block);
    if (s->nested && s->nested_block != 256)
        return q3_fail(Q3_ERR_MODEL, "%s: nested_blocksize is %lld; only 256 is supported", doc->name,
                       (long long)s->nested_block);
    if (strcmp(nested_dtype, "float32") != 0)
        return q3_fail(Q3_ERR_MODEL, "%s: nested_dtype is %s; only float32 is supported", doc->name,
                       nested_dtype);
    if (s->source == Q3_DTYPES)
        return q3_fail(Q3_ERR_MODEL, "%s: dtype is \"%s\"; expected float32, bfloat16 or float16", doc->name,
                       dtype);
    return Q3_OK;
}

static q3_status read_state(state *s, const q3_st_tensor *t, q3_dtype code)
{
    *s = (state){ 0 };
    if (t->dtype != Q3_U8 || t->bytes > MAX_STATE)
        return q3_fail(Q3_ERR_MODEL, "tensor %s is no quant_state: %s %s", t->name, t->dtype_name,
                       q3_st_shape(t));
    q3_json doc;
    Q3_TRY(q3_status_as(q3_json_parse(&doc, t->data, t->bytes, t->name, 1), Q3_ERR_MODEL));
    q3_status st = q3_status_as(read_state_fields(s, &doc, code == Q3_NF4 ? "nf4" : "fp4"), Q3_ERR_MODEL);
    q3_json_close(&doc);
    return st;
}

/* ---- reading ---- */

static q3_status bind_packed(q3_quantized *q, q3_weights *w, const char *name)
{
    const q3_st_tensor *t = part(w, name, "");
    if (!t)
        return q3_fail(Q3_ERR_MODEL, "%s: there is no tensor %s; is the download complete?",
                       q3_weights_dir(w), name);
    size_t want = q3_dtype_bytes(q->code, q->n);
    if (t->bytes != want) // U8 or not: the bytes are the same
        return q3_fail(Q3_ERR_MODEL, "%s: tensor %s has %zu bytes; its quant_state needs %zu",
                       q3_weights_dir(w), t->name, t->bytes, want);
    q->packed = t->data;
    const q3_st_tensor *book;
    Q3_TRY(need(&book, w, name, ".quant_map", Q3_F32, 16));
    if (!q3_quantized_book_is(q->code, book->data))
        return q3_fail(Q3_ERR_MODEL, "%s: tensor %s is not the code book of bitsandbytes", q3_weights_dir(w),
                       book->name);
    return Q3_OK;
}

static q3_status bind_absmax(q3_quantized *q, q3_arena *mem, q3_weights *w, const char *name, bool nested)
{
    const q3_st_tensor *t;
    int64_t blocks = q3_quantized_blocks(q);
    Q3_TRY(need(&t, w, name, ".absmax", nested ? Q3_U8 : Q3_F32, blocks));
    if (!nested) {
        float *absmax = Q3_NEW(mem, float, blocks);
        if (absmax && !mem->dry)
            memcpy(absmax, t->data, t->bytes);
        q->absmax = absmax;
        return absmax ? Q3_OK : Q3_ERR_MEMORY;
    }
    q->nested = t->data;
    Q3_TRY(need(&t, w, name, ".nested_absmax", Q3_F32, q3_quantized_groups(q)));
    q->scale = t->data;
    Q3_TRY(need(&t, w, name, ".nested_quant_map", Q3_F32, 256));
    q->map = t->data;
    return q3_quantized_unnest(q, mem);
}

q3_status q3_weights_quantized(q3_quantized *out, int64_t shape[2], q3_arena *mem, q3_weights *w,
                               const char *name)
{
    state s;
    q3_dtype code;
    const q3_st_tensor *t = state_of(&code, w, name);
    if (!t)
        return q3_fail(Q3_ERR_MODEL, "%s: tensor %s is not stored in 4 bits", q3_weights_dir(w), name);
    q3_status st = read_state(&s, t, code);
    if (st != Q3_OK)
        return q3_wrap(st, "%s", q3_weights_dir(w));
    memcpy(shape, s.shape, sizeof s.shape);
    *out = (q3_quantized){ .code = code,
                           .source = s.source,
                           .block = (int)s.block,
                           .n = s.shape[0] * s.shape[1],
                           .offset = (float)s.offset };
    Q3_TRY(bind_packed(out, w, name));
    Q3_TRY(bind_absmax(out, mem, w, name, s.nested));
    for (int64_t i = 0; !mem->dry && i < q3_quantized_blocks(out); i++)
        if (!isfinite(out->absmax[i]))
            return q3_fail(Q3_ERR_MODEL, "%s: tensor %s holds NaN or infinite weights", q3_weights_dir(w),
                           name);
    return Q3_OK;
}

/* ---- writing ---- */

void q3_quant_state_json(q3_text *out, const q3_quantized *q, const int64_t shape[2])
{
    q3_text_printf(out,
                   "{\"quant_type\": \"%s\", \"blocksize\": %d, \"dtype\": \"%s\", \"shape\": [%lld, %lld]",
                   q->code == Q3_FP4 ? "fp4" : "nf4", q->block, q3_torch_dtype_name(q->source),
                   (long long)shape[0], (long long)shape[1]);
    if (q->nested) {
        q3_text_printf(out,
                       ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": ");
        q3_text_json_number(out, (double)q->offset);
    }
    q3_text_append(out, "}", 1);
}

static q3_status add(q3_st_tensor *out, int *n, q3_arena *mem, const char *name, const char *suffix,
                     const q3_st_tensor *like)
{
    q3_st_tensor *t = &out[(*n)++];
    *t = *like;
    t->name = q3_arena_printf(mem, "%s%s", name, suffix);
    return t->name ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_status add_state(q3_st_tensor *out, int *n, q3_arena *mem, const char *name, const q3_quantized *q,
                           const int64_t shape[2])
{
    q3_text json = { 0 };
    q3_quant_state_json(&json, q, shape);
    char *text = json.failed ? NULL : q3_arena_strdup(mem, json.data);
    q3_st_tensor t = { .dtype = Q3_U8, .ndim = 1, .shape = { (int64_t)json.size }, .data = text };
    q3_text_free(&json);
    if (!text)
        return Q3_ERR_MEMORY;
    const char *suffix =
        q->code == Q3_FP4 ? ".quant_state.bitsandbytes__fp4" : ".quant_state.bitsandbytes__nf4";
    return add(out, n, mem, name, suffix, &t);
}

q3_status q3_quantized_tensors(q3_st_tensor out[Q3_4BIT_TENSORS], int *n, q3_arena *mem, const char *name,
                               const q3_quantized *q, const int64_t shape[2])
{
    int64_t blocks = q3_quantized_blocks(q);
    q3_st_tensor packed = { .dtype = Q3_U8, .ndim = 2, .shape = { (q->n + 1) / 2, 1 }, .data = q->packed };
    q3_st_tensor absmax = { .dtype = Q3_F32, .ndim = 1, .shape = { blocks }, .data = q->absmax };
    q3_st_tensor book = { .dtype = Q3_F32, .ndim = 1, .shape = { 16 }, .data = q3_quantized_book(q->code) };
    if (q->nested) {
        absmax.dtype = Q3_U8;
        absmax.data = q->nested;
    }
    *n = 0;
    Q3_TRY(add(out, n, mem, name, "", &packed));
    Q3_TRY(add(out, n, mem, name, ".absmax", &absmax));
    Q3_TRY(add(out, n, mem, name, ".quant_map", &book));
    if (q->nested) {
        q3_st_tensor scale = {
            .dtype = Q3_F32, .ndim = 1, .shape = { q3_quantized_groups(q) }, .data = q->scale
        };
        q3_st_tensor map = { .dtype = Q3_F32, .ndim = 1, .shape = { 256 }, .data = q->map };
        Q3_TRY(add(out, n, mem, name, ".nested_absmax", &scale));
        Q3_TRY(add(out, n, mem, name, ".nested_quant_map", &map));
    }
    return add_state(out, n, mem, name, q, shape);
}
