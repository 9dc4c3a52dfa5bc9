#include "core/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/log.h"

enum { MAX_HEADER = 100000000, ALIGNMENT = 64 };

/* Element types in the reference's order (enum Dtype); files hold the last of them first. */
static const struct element {
    const char *name;
    int bits;
    q3_dtype dtype;
} elements[] = {
    { "BOOL", 8, Q3_DTYPES },    { "F4", 4, Q3_DTYPES },      { "F6_E2M3", 6, Q3_DTYPES },
    { "F6_E3M2", 6, Q3_DTYPES }, { "U8", 8, Q3_U8 },          { "I8", 8, Q3_I8 },    
    { "F8_E5M2", 8, Q3_DTYPES }, { "F8_E4M3", 8, Q3_DTYPES }, { "F8_E8M0", 8, Q3_DTYPES },
    { "I16", 16, Q3_DTYPES },    { "U16", 16, Q3_DTYPES },    { "F16", 16, Q3_F16 },
    { "BF16", 16, Q3_BF16 },     { "I32", 32, Q3_I32 },       { "U32", 32, Q3_DTYPES },
    { "F32", 32, Q3_F32 },       { "C64", 64, Q3_DTYPES },    { "F64", 64, Q3_DTYPES },
    { "I64", 64, Q3_I64 },       { "U64", 64, Q3_DTYPES },
};
enum { ELEMENTS = sizeof elements / sizeof *elements };

struct q3_safetensors {
    char *path;
    q3_map map;
    q3_json header;
    const cJSON *metadata;     // NULL when absent
    const unsigned char *data; // behind the header
    size_t data_bytes;
    int64_t n;
    q3_st_tensor *tensors;        // by offset
    const q3_st_tensor **by_name; // sorted
    unsigned char *copies;        // tensors whose bytes were not aligned
};

static const struct element *element_of(const char *name)
{
    for (int i = 0; i < ELEMENTS; i++)
        if (strcmp(elements[i].name, name) == 0)
            return &elements[i];
    return NULL;
}

static const struct element *element_of_dtype(q3_dtype dtype)
{
    for (int i = 0; i < ELEMENTS; i++)
        if (elements[i].dtype == dtype && dtype != Q3_DTYPES)
            return &elements[i];
    return NULL;
}

int64_t q3_st_elements(const q3_st_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= t->shape[i];
    return n;
}

const char *q3_st_shape(const q3_st_tensor *t)
{
    static _Thread_local char buffers[4][Q3_ST_MAX_DIMS * 21 + 4];
    static _Thread_local int turn;
    char *text = buffers[turn++ & 3];
    size_t at = 1, size = sizeof buffers[0];
    text[0] = '[';
    for (int i = 0; i < t->ndim; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    snprintf(text + at, size - at, "]");
    return text;
}

/* Bytes of a shape; false when the product does not fit or is no whole number of bytes. */
static bool shape_bytes(size_t *bytes, const struct element *e, const q3_st_tensor *t)
{
    uint64_t bits = (uint64_t)e->bits;
    for (int i = 0; i < t->ndim; i++)
        if (t->shape[i] == 0)
            bits = 0; // before any product overflows
    for (int i = 0; i < t->ndim; i++)
        if (__builtin_mul_overflow(bits, (uint64_t)t->shape[i], &bits))
            return false;
    *bytes = (size_t)(bits / 8);
    return bits % 8 == 0 && bits < (uint64_t)1 << 62;
}

/* A count or offset: an integer in [0, 2^53], which cJSON's doubles hold exactly. */
static bool whole(int64_t *out, const cJSON *item)
{
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= 9007199254740992.0))
        return false;
    *out = (int64_t)item->valuedouble;
    return (double)*out == item->valuedouble;
}

static q3_status read_shape(q3_st_tensor *t, const char *path, const cJSON *info)
{
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(info, "shape"), *size;
    if (!cJSON_IsArray(shape))
        return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s has no shape", path, t->name);
    cJSON_ArrayForEach(size, shape)
    {
        if (t->ndim == Q3_ST_MAX_DIMS)
            return q3_fail(Q3_ERR_LIMIT, "%s: tensor %s has more than %d dimensions", path, t->name,
                           Q3_ST_MAX_DIMS);
        if (!whole(&t->shape[t->ndim++], size))
            return q3_fail(Q3_ERR_FORMAT, "%s: size %d of tensor %s is not a whole number", path, t->ndim,
                           t->name);
    }
    return Q3_OK;
}

static q3_status read_offsets(int64_t *begin, int64_t *end, const q3_safetensors *f, const char *name,
                              const cJSON *info)
{
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(info, "data_offsets");
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !whole(begin, cJSON_GetArrayItem(offsets, 0)) || !whole(end, cJSON_GetArrayItem(offsets, 1)) ||
        *begin > *end)
        return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s has no valid data_offsets", f->path, name);
    if ((uint64_t)*end > f->data_bytes)
        return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s ends at byte %lld of %zu; is the download complete?",
                       f->path, name, (long long)*end, f->data_bytes);
    return Q3_OK;
}

static q3_status read_tensor(q3_st_tensor *t, const q3_safetensors *f, const cJSON *info)
{
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(info, "dtype");
    *t = (q3_st_tensor){ .name = info->string, .dtype = Q3_DTYPES };
    if (!cJSON_IsObject(info) || !cJSON_IsString(dtype))
        return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s has no dtype", f->path, t->name);
    t->dtype_name = dtype->valuestring;
    Q3_TRY(read_shape(t, f->path, info));
    int64_t begin = 0, end = 0;
    Q3_TRY(read_offsets(&begin, &end, f, t->name, info));
    t->data = f->data + begin;
    t->bytes = (size_t)(end - begin);
    static const struct element unknown = { "", 8, Q3_DTYPES }; // a later invention: kept
    const struct element *e = element_of(t->dtype_name);
    size_t want;
    if (!shape_bytes(&want, e ? e : &unknown, t))
        return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s: shape %s of %s is impossible", f->path, t->name,
                       q3_st_shape(t), t->dtype_name);
    if (!e)
        return Q3_OK;
    t->dtype = e->dtype;
    if (want != t->bytes)
        return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s: %s of shape %s needs %zu bytes, the file gives it %zu",
                       f->path, t->name, e->name, q3_st_shape(t), want, t->bytes);
    return Q3_OK;
}

static int compare_offsets(const void *a, const void *b)
{
    const q3_st_tensor *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
    return p != q                 ? (p > q) - (p < q)
           : x->bytes != y->bytes ? (x->bytes > y->bytes) - (x->bytes < y->bytes)
                                  : strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(const q3_st_tensor *const *)a)->name, (*(const q3_st_tensor *const *)b)->name);
}

static q3_status check_layout(const q3_safetensors *f)
{
    const unsigned char *at = f->data;
    for (int64_t i = 0; i < f->n; i++) {
        const q3_st_tensor *t = &f->tensors[i];
        const unsigned char *begin = t->data;
        if (begin < at)
            return q3_fail(Q3_ERR_FORMAT, "%s: tensors %s and %s overlap", f->path, f->tensors[i - 1].name,
                           t->name);
        if (begin > at)
            return q3_fail(Q3_ERR_FORMAT, "%s: %zu bytes in front of tensor %s belong to no tensor", f->path,
                           (size_t)(begin - at), t->name);
        at += t->bytes;
    }
    if (at != f->data + f->data_bytes)
        return q3_fail(Q3_ERR_FORMAT, "%s: the tensors end at byte %zu of %zu; is the file damaged?", f->path,
                       (size_t)(at - f->data), f->data_bytes);
    return Q3_OK;
}

static q3_status sort_names(q3_safetensors *f)
{
    if (!(f->by_name = q3_malloc(sizeof *f->by_name * (size_t)f->n)))
        return Q3_ERR_MEMORY;
    for (int64_t i = 0; i < f->n; i++)
        f->by_name[i] = &f->tensors[i];
    qsort(f->by_name, (size_t)f->n, sizeof *f->by_name, compare_names);
    for (int64_t i = 1; i < f->n; i++)
        if (strcmp(f->by_name[i - 1]->name, f->by_name[i]->name) == 0)
            return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s occurs twice", f->path, f->by_name[i]->name);
    return Q3_OK;
}

static bool misaligned(const q3_st_tensor *t)
{
    const struct element *e = element_of(t->dtype_name);
    return e && e->bits > 8 && (uintptr_t)t->data % (uintptr_t)(e->bits / 8);
}

/* Other writers than the reference may put a float at an odd byte. */
static q3_status copy_misaligned(q3_safetensors *f)
{
    size_t total = 0;
    for (int64_t i = 0; i < f->n; i++)
        if (misaligned(&f->tensors[i]))
            total += (f->tensors[i].bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (total == 0)
        return Q3_OK;
    if (!(f->copies = q3_malloc(total)))
        return q3_wrap(Q3_ERR_MEMORY, "%s", f->path);
    unsigned char *to = f->copies;
    for (int64_t i = 0; i < f->n; i++) {
        q3_st_tensor *t = &f->tensors[i];
        if (misaligned(t)) {
            t->data = memcpy(to, t->data, t->bytes);
            to += (t->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        }
    }
    return Q3_OK;
}

static q3_status read_metadata(q3_safetensors *f)
{
    const cJSON *pair;
    cJSON_ArrayForEach(pair, f->metadata)
    {
        if (!cJSON_IsString(pair))
            return q3_fail(Q3_ERR_FORMAT, "%s: __metadata__.%s is not a string", f->path, pair->string);
    }
    return Q3_OK;
}

static q3_status read_tensors(q3_safetensors *f)
{
    int64_t n = 0;
    const cJSON *item;
    for (item = f->header.root->child; item; item = item->next)
        n++;
    if (!(f->tensors = q3_malloc(sizeof *f->tensors * (size_t)n)))
        return Q3_ERR_MEMORY;
    cJSON_ArrayForEach(item, f->header.root)
    {
        if (strcmp(item->string, "__metadata__") == 0) {
            if (!cJSON_IsObject(item) || f->metadata)
                return q3_fail(Q3_ERR_FORMAT, "%s: __metadata__ must be one object of strings", f->path);
            f->metadata = item;
            Q3_TRY(read_metadata(f));
        } else {
            Q3_TRY(read_tensor(&f->tensors[f->n], f, item));
            f->n++;
        }
    }
    qsort(f->tensors, (size_t)f->n, sizeof *f->tensors, compare_offsets);
    Q3_TRY(check_layout(f));
    Q3_TRY(sort_names(f));
    return copy_misaligned(f);
}

static q3_status read_header(q3_safetensors *f)
{
    const unsigned char *p = f->map.data;
    if (f->map.size < 8)
        return q3_fail(Q3_ERR_FORMAT,
                       "%s: %zu bytes are too few for a safetensors file; is the download complete?", f->path,
                       f->map.size);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | p[i];
    if (n > MAX_HEADER)
        return q3_fail(Q3_ERR_FORMAT, "%s: the header would be %llu bytes long; is this a safetensors file?",
                       f->path, (unsigned long long)n);
    if (n > f->map.size - 8)
        return q3_fail(Q3_ERR_FORMAT, "%s: the header ends at byte %llu of %zu; is the download complete?",
                       f->path, (unsigned long long)n + 8, f->map.size);
    f->data = p + 8 + n;
    f->data_bytes = f->map.size - 8 - (size_t)n;
    q3_status st = q3_json_parse(&f->header, (const char *)p + 8, (size_t)n, f->path, 1);
    if (st != Q3_OK)
        return q3_wrap(st, "header of a safetensors file");
    if (!cJSON_IsObject(f->header.root))
        return q3_fail(Q3_ERR_FORMAT, "%s: the header is not a JSON object; is this a safetensors file?",
                       f->path);
    return read_tensors(f);
}

q3_status q3_safetensors_open(q3_safetensors **out, const char *path)
{
    *out = NULL;
    q3_safetensors *f = q3_calloc(1, sizeof *f);
    if (!f)
        return Q3_ERR_MEMORY;
    f->path = q3_strdup(path);
    q3_status st = f->path ? q3_map_open(&f->map, path) : Q3_ERR_MEMORY;
    if (st == Q3_OK)
        st = read_header(f);
    if (st == Q3_OK)
        *out = f;
    else
        q3_safetensors_close(f);
    return st;
}

void q3_safetensors_close(q3_safetensors *f)
{
    if (!f)
        return;
    q3_free(f->copies);
    q3_free(f->by_name);
    q3_free(f->tensors);
    q3_json_close(&f->header);
    q3_map_close(&f->map);
    q3_free(f->path);
    q3_free(f);
}

const char *q3_safetensors_path(const q3_safetensors *f)
{
    return f->path;
}

int64_t q3_safetensors_count(const q3_safetensors *f)
{
    return f->n;
}

const q3_st_tensor *q3_safetensors_at(const q3_safetensors *f, int64_t index)
{
    Q3_CHECK(index >= 0 && index < f->n, "tensor %lld of %lld", (long long)index, (long long)f->n);
    return &f->tensors[index];
}

const q3_st_tensor *q3_safetensors_find(const q3_safetensors *f, const char *name)
{
    const q3_st_tensor key = { .name = name }, *want = &key;
    const q3_st_tensor **at = bsearch(&want, f->by_name, (size_t)f->n, sizeof *f->by_name, compare_names);
    return at ? *at : NULL;
}

q3_status q3_safetensors_get(const q3_st_tensor **out, const q3_safetensors *f, const char *name,
                             q3_dtype dtype, int ndim, const int64_t *shape)
{
    const q3_st_tensor *t = *out = q3_safetensors_find(f, name);
    if (!t)
        return q3_fail(Q3_ERR_FORMAT, "%s: there is no tensor %s", f->path, name);
    if (t->dtype != dtype)
        return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s is %s, expected %s", f->path, name, t->dtype_name,
                       element_of_dtype(dtype)->name);
    bool same = t->ndim == ndim;
    q3_st_tensor want = { .ndim = ndim };
    for (int i = 0; i < ndim; i++) {
        want.shape[i] = shape[i];
        same = same && (shape[i] < 0 || t->shape[i] == shape[i]);
    }
    if (!same)
        return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s is %s, expected %s", f->path, name, q3_st_shape(t),
                       q3_st_shape(&want));
    return Q3_OK;
}

const char *q3_safetensors_metadata(const q3_safetensors *f, const char *key)
{
    const cJSON *item = f->metadata ? cJSON_GetObjectItemCaseSensitive(f->metadata, key) : NULL;
    return item ? item->valuestring : NULL;
}

/* ---- writing ---- */

static int compare_tensor_names(const void *a, const void *b)
{
    return strcmp(((const q3_st_tensor *)a)->name, ((const q3_st_tensor *)b)->name);
}

static int compare_written(const void *a, const void *b)
{
    const q3_st_tensor *x = a, *y = b;
    const struct element *e = element_of(x->dtype_name), *g = element_of(y->dtype_name);
    return e != g ? (e < g) - (e > g) : strcmp(x->name, y->name);
}

static q3_status prepare(q3_st_tensor *sorted, const q3_st_write *w)
{
    for (int64_t i = 0; i < w->n; i++) {
        q3_st_tensor *t = &sorted[i];
        *t = w->tensors[i];
        const struct element *e = t->dtype_name ? element_of(t->dtype_name) : element_of_dtype(t->dtype);
        Q3_CHECK(t->ndim >= 0 && t->ndim <= Q3_ST_MAX_DIMS, "tensor %s has %d dimensions", t->name, t->ndim);
        if (!e)
            return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s has the unknown type %s", w->path, t->name,
                           t->dtype_name ? t->dtype_name : "(none)");
        t->dtype_name = e->name;
        if (!shape_bytes(&t->bytes, e, t))
            return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s: shape %s of %s is impossible", w->path, t->name,
                           q3_st_shape(t), e->name);
    }
    qsort(sorted, (size_t)w->n, sizeof *sorted, compare_tensor_names);
    for (int64_t i = 1; i < w->n; i++)
        if (strcmp(sorted[i - 1].name, sorted[i].name) == 0)
            return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s would be written twice", w->path, sorted[i].name);
    qsort(sorted, (size_t)w->n, sizeof *sorted, compare_written);
    return Q3_OK;
}

static void put_header(q3_text *text, const q3_st_tensor *sorted, const q3_st_write *w)
{
    const char *comma = "";
    q3_text_append(text, "{", 1);
    for (int i = 0; i < w->n_metadata; i++) {
        q3_text_printf(text, "%s", i ? "," : "\"__metadata__\":{");
        q3_text_json_string(text, w->metadata[i].key, strlen(w->metadata[i].key));
        q3_text_append(text, ":", 1);
        q3_text_json_string(text, w->metadata[i].value, strlen(w->metadata[i].value));
        comma = "},";
    }
    size_t at = 0;
    for (int64_t i = 0; i < w->n; i++, comma = ",") {
        const q3_st_tensor *t = &sorted[i];
        q3_text_printf(text, "%s", comma);
        q3_text_json_string(text, t->name, strlen(t->name));
        q3_text_printf(text, ":{\"dtype\":\"%s\",\"shape\":[", t->dtype_name);
        for (int d = 0; d < t->ndim; d++)
            q3_text_printf(text, "%s%lld", d ? "," : "", (long long)t->shape[d]);
        q3_text_printf(text, "],\"data_offsets\":[%zu,%zu]}", at, at + t->bytes);
        at += t->bytes;
    }
    q3_text_printf(text, "%s}", w->n == 0 && w->n_metadata ? "}" : "");
    while (text->size % 8 && !text->failed)
        q3_text_append(text, " ", 1);
}

static q3_status put_tensor(int fd, const q3_st_tensor *t, const q3_st_write *w)
{
    const void *data = t->data;
    if (t->bytes == 0)
        return Q3_OK;
    if (!data) {
        Q3_CHECK(w->fill, "tensor %s has neither data nor a fill function", t->name);
        Q3_TRY(w->fill(&data, t, w->arg));
    }
    return q3_file_put(fd, data, t->bytes, w->path);
}

/* What put_file needs: the tensors in the order of the file. */
typedef struct sorted_file {
    const q3_st_write *w;
    const q3_st_tensor *sorted;
} sorted_file;

static q3_status put_file(int fd, const char *path, const void *arg)
{
    const sorted_file *file = arg;
    q3_text header = { 0 };
    put_header(&header, file->sorted, file->w);
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)header.size >> (8 * i));
    q3_status st = header.failed ? Q3_ERR_MEMORY : q3_file_put(fd, length, sizeof length, path);
    if (st == Q3_OK)
        st = q3_file_put(fd, header.data, header.size, path);
    q3_text_free(&header);
    for (int64_t i = 0; st == Q3_OK && i < file->w->n; i++)
        st = put_tensor(fd, &file->sorted[i], file->w);
    return st;
}

q3_status q3_safetensors_stream(const q3_st_write *w)
{
    q3_st_tensor *sorted = q3_malloc(sizeof *sorted * (size_t)w->n);
    if (!sorted)
        return q3_wrap(Q3_ERR_MEMORY, "%s", w->path);
    q3_status st = prepare(sorted, w);
    if (st == Q3_OK)
        st = q3_file_stream(w->path, put_file, &(sorted_file){ w, sorted });
    q3_free(sorted);
    return st;
}

q3_status q3_safetensors_write(const char *path, const q3_st_tensor *tensors, int64_t n)
{
    const q3_st_pair pt = { "format", "pt" };
    return q3_safetensors_stream(
        &(q3_st_write){ .path = path, .tensors = tensors, .n = n, .metadata = &pt, .n_metadata = 1 });
}
