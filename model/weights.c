#include "model/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "core/quantized.h"
#include "core/rng.h"
#include "kernels/int8.h"
#include "kernels/nf4.h"
#include "kernels/pool.h"
#include "model/checkpoint_4bit.h"
#include "model/checkpoint_8bit.h"
#include "model/checkpoint_files.h"
#include "model/checkpoint_int4.h"

enum { NAME_BYTES = 256 };

#define VISUAL "model.visual."
#define LANGUAGE "model.language_model."

/* One pass over the network in checkpoint order; every tensor is asked for by name and shape. */
typedef struct builder {
    q3_model *m;
    q3_arena *mem;     // of the host: headers, names
    q3_arena *host;    // values while they are on the host: mem, unless they are only counted
    q3_weights *files; // NULL: random weights
    const q3_load_options *o;
    double std; // of random matrices
    bool vision;
    q3_status status; // the first failure; later requests do nothing
    const float *map; // of double quantization, on the device; NULL until needed
} builder;

bool q3_module_skipped(const q3_load_options *o, const char *path)
{
    static const char *const usual[] = { "model.visual", "lm_head" };
    const char *const *skip = o->skip ? o->skip : usual;
    int n = o->skip ? o->n_skip : 2;
    size_t np = strlen(path);
    for (int i = 0; i < n; i++) {
        size_t ns = strlen(skip[i]);
        if (ns <= np && (strncmp(path, skip[i], ns) == 0 || strcmp(path + np - ns, skip[i]) == 0))
            return true;
    }
    return false;
}

typedef struct weight_word {
    const char *word;
    q3_dtype dtype; // Q3_DTYPES: as stored
    int block;
} weight_word;

static const weight_word weight_words[] = {
    { "auto", Q3_DTYPES, 0 }, { "f32", Q3_F32, 0 }, { "bf16", Q3_BF16, 0 }, { "nf4", Q3_NF4, 64 },
    { "fp4", Q3_FP4, 64 },    { "int8", Q3_I8, 0 }, { "int4", Q3_I4, 128 }, { "int4-g32", Q3_I4, 32 },
};

q3_status q3_load_options_word(q3_load_options *out, const char *word)
{
    const weight_word *w = weight_words, *end = w + sizeof weight_words / sizeof *weight_words;
    while (w < end && strcmp(w->word, word) != 0)
        w++;
    if (w == end)
        return q3_fail(Q3_ERR_USAGE,
                       "--weights is \"%.40s\"; it must be auto, f32, bf16, nf4, fp4, int8, int4 or int4-g32",
                       word);
    out->load_in_4bit = q3_is_4bit(w->dtype);
    out->load_in_8bit = w->dtype == Q3_I8;
    out->code = out->load_in_4bit ? w->dtype : Q3_NF4;
    out->block = w->block;
    out->double_quant = w->dtype == Q3_NF4 || w->dtype == Q3_FP4;
    out->strict = true;
    out->wide = w->dtype == Q3_F32 ? Q3_WIDE_F32 : w->dtype == Q3_BF16 ? Q3_WIDE_BF16 : Q3_WIDE_STORED;
    return Q3_OK;
}

/* The first quantized matrix speaks for all. */
static const q3_tensor *speaker(const q3_model *m)
{
    for (int i = 0; i < m->n_params; i++) {
        const q3_tensor *t = m->params[i].tensor;
        if (q3_is_4bit(t->dtype) || t->dtype == Q3_I8)
            return t;
    }
    return m->embed;
}

const char *q3_model_weights_word(const q3_model *m)
{
    const q3_tensor *t = speaker(m);
    for (size_t i = 1; i < sizeof weight_words / sizeof *weight_words; i++)
        if (weight_words[i].dtype == t->dtype && (t->dtype != Q3_I4 || t->block == weight_words[i].block))
            return weight_words[i].word;
    return t->dtype == Q3_F16 ? "f16" : "int4 in groups of another size";
}

q3_dtype q3_model_weights_type(const q3_model *m)
{
    return speaker(m)->dtype;
}

static int block_of(const q3_load_options *o)
{
    return o->block ? o->block : Q3_4BIT_BLOCK;
}

/* What a quantized directory has left wide stays so, when the form is asked for by one word. */
static bool quantizes(const builder *b, const char *path)
{
    const q3_load_options *o = b->o;
    if (o->strict && b->files && b->m->config.quantization.present)
        return false;
    return (o->load_in_4bit || o->load_in_8bit) && !q3_module_skipped(o, path);
}

typedef struct random_job {
    float *out;
    q3_random r;
    double std;
} random_job;

static void draw_run(void *arg, int64_t begin, int64_t end, int thread)
{
    const random_job *j = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        j->out[i] = (float)(j->std * q3_random_normal(&j->r, (uint64_t)i));
}

/* Matrices N(0, std), norm weights 1, biases 0, as the reference initializes. */
static float *random_values(builder *b, int64_t n, const char *name, bool matrix)
{
    float *out = Q3_NEW(b->host, float, n);
    if (!out) {
        b->status = Q3_ERR_MEMORY;
        return NULL;
    }
    if (b->host->dry)
        return out;
    if (matrix) {
        random_job job = { out, { b->o->seed, Q3_RANDOM_INIT, (uint32_t)b->m->n_params, 0 }, b->std };
        q3_parallel(n, 4096, draw_run, &job);
    } else {
        bool bias = strlen(name) > 5 && strcmp(name + strlen(name) - 5, ".bias") == 0;
        for (int64_t i = 0; i < n; i++)
            out[i] = bias ? 0.0f : 1.0f;
    }
    return out;
}

/* Where the device reads a host array of the loader: the array itself on the CPU, a copy elsewhere. */
static void *placed(builder *b, const void *host, size_t bytes)
{
    q3_arena *values = b->m->values;
    if (!host || !values->cuda)
        return (void *)(uintptr_t)host;
    void *p = q3_arena_alloc(values, bytes);
    if (!p)
        b->status = Q3_ERR_MEMORY;
    else if (!values->dry)
        q3_device_write(values->cuda, p, host, bytes);
    return p;
}

/* Values that were made on the host since the mark; where they were copied, the host's go. */
static void place(builder *b, q3_tensor *t, const void *host, size_t mark)
{
    t->data = placed(b, host, q3_nbytes(t));
    if (b->m->values->cuda)
        q3_arena_rewind(b->host, mark);
}

static q3_tensor *new_tensor(builder *b, const char *name, int ndim, const int64_t *shape)
{
    q3_tensor *t = q3_tensor_wrap(b->mem, NULL, Q3_F32, ndim, shape);
    if (!t || !(t->name = q3_arena_strdup(b->mem, name))) {
        b->status = Q3_ERR_MEMORY;
        return NULL;
    }
    return t;
}

static void register_param(builder *b, q3_tensor *t)
{
    b->m->params[b->m->n_params++] = (q3_parameter){ t, b->vision };
}

static float *widened(builder *b, const q3_st_tensor *s)
{
    int64_t n = q3_st_elements(s);
    float *out = Q3_NEW(b->host, float, n);
    if (!out) {
        b->status = Q3_ERR_MEMORY;
        return NULL;
    }
    if (!b->host->dry)
        q3_widen(out, s->data, s->dtype, n);
    return out;
}

/* A norm weight or a bias: f32, [n]. */
static q3_tensor *vector(builder *b, const char *name, int64_t n)
{
    q3_tensor *t = b->status ? NULL : new_tensor(b, name, 1, &n);
    if (!t)
        return NULL;
    size_t mark = q3_arena_mark(b->host);
    if (b->files) {
        const q3_st_tensor *s;
        b->status = q3_weights_get(&s, b->files, name, 1, &n);
        place(b, t, b->status ? NULL : widened(b, s), mark);
    } else {
        place(b, t, random_values(b, n, name, false), mark);
    }
    register_param(b, t);
    return t;
}

/* On a device the scales stay as double quantization has stored them. */
static void bind_quantized(builder *b, q3_tensor *t, const q3_quantized *q)
{
    size_t blocks = (size_t)q3_quantized_blocks(q), groups = (size_t)q3_quantized_groups(q);
    t->dtype = q->code;
    t->block = q->block;
    t->data = placed(b, q->packed, q3_dtype_bytes(q->code, q->n));
    if (!b->m->values->cuda || !q->nested) {
        t->absmax = placed(b, q->absmax, blocks * sizeof(float));
    } else {
        t->nested.codes = placed(b, q->nested, blocks);
        t->nested.scale = placed(b, q->scale, groups * sizeof(float));
        t->nested.map = placed(b, q->map, 256 * sizeof(float));
        t->nested.offset = q->offset;
    }
    b->m->quantized_params += q->n;
    b->m->quantized_bytes += (q->n + 1) / 2 + 4 * q3_quantized_blocks(q);
}

/* A directory that is in 4 bits already. */
static q3_status find_4bit(q3_quantized *q, builder *b, q3_arena *mem, const q3_tensor *t)
{
    int64_t shape[2];
    if (!q3_weights_is_quantized(b->files, t->name))
        return q3_weights_int4(q, b->files, &b->m->config.quantization, t->name, t->shape);
    Q3_TRY(q3_weights_quantized(q, shape, mem, b->files, t->name));
    if (shape[0] != t->shape[0] || shape[1] != t->shape[1])
        return q3_fail(Q3_ERR_MODEL, "%s: %s is [%lld, %lld], and config.json makes it %s",
                       q3_weights_dir(b->files), t->name, (long long)shape[0], (long long)shape[1],
                       q3_shape(t));
    return Q3_OK;
}

static void stored_4bit(builder *b, q3_tensor *t)
{
    q3_quantized q;
    size_t mark = q3_arena_mark(b->host);
    b->status = find_4bit(&q, b, b->host, t);
    if (b->status == Q3_OK)
        bind_quantized(b, t, &q);
    if (b->m->values->cuda)
        q3_arena_rewind(b->host, mark);
}

#if defined(Q3_CUDA)
/* The map of double quantization, once for all matrices. */
static const float *nested_map(builder *b)
{
    if (!b->map)
        b->map = placed(b, q3_nf4_nested_map(), 256 * sizeof(float));
    return b->map;
}

/* A matrix in 4 bits on the device, and what is needed there while it is made. */
typedef struct device_form {
    uint8_t *packed, *codes; // codes and scale: double quantization
    float *scale, *absmax, *mean;
    void *x;
} device_form;

/* The mean of scales that are not finite is not. */
static q3_status quantize_form(builder *b, const q3_tensor *t, const device_form *f, q3_dtype dtype,
                               float *offset)
{
    q3_cuda *cuda = b->m->values->cuda;
    const int block = block_of(b->o);
    int64_t n = q3_numel(t), blocks = (n + block - 1) / block;
    q3_nf4_quantize_cuda(&(q3_nf4_quantize_args){ .packed = f->packed,
                                                  .absmax = f->absmax,
                                                  .x = f->x,
                                                  .dtype = dtype,
                                                  .code = b->o->code,
                                                  .block = block,
                                                  .n = n },
                         cuda);
    q3_nf4_nest_cuda(f->codes, f->scale, f->mean, f->absmax, blocks, cuda);
    q3_device_read(cuda, offset, f->mean, sizeof *offset);
    Q3_TRY(q3_device_status(cuda));
    return isfinite(*offset) ? Q3_OK
                             : q3_fail(Q3_ERR_MODEL, "tensor %s holds NaN or infinite weights", t->name);
}

/* As q3_quantize, to the bit, on the device: the weights themselves are there for that time only. */
static q3_status quantize_on_device(builder *b, q3_tensor *t, const void *x, q3_dtype dtype)
{
    q3_arena *values = b->m->values;
    const int block = block_of(b->o);
    int64_t n = q3_numel(t), blocks = (n + block - 1) / block;
    int64_t groups = (blocks + Q3_NF4_GROUP - 1) / Q3_NF4_GROUP;
    bool nested = b->o->double_quant;
    const float *map = nested ? nested_map(b) : NULL;
    device_form f = { .packed = q3_arena_alloc(values, q3_dtype_bytes(b->o->code, n)) };
    uint8_t *codes = f.codes = nested ? q3_arena_alloc(values, (size_t)blocks) : NULL;
    float *scale = f.scale = nested ? Q3_NEW(values, float, groups) : NULL;
    float *absmax = f.absmax = nested ? NULL : Q3_NEW(values, float, blocks);
    size_t mark = q3_arena_mark(values); // what follows goes again
    f.codes = nested ? codes : q3_arena_alloc(values, (size_t)blocks);
    f.scale = nested ? scale : Q3_NEW(values, float, groups);
    f.absmax = nested ? Q3_NEW(values, float, blocks) : absmax;
    f.mean = Q3_NEW(values, float, 1);
    f.x = q3_arena_alloc(values, q3_dtype_bytes(dtype, n));
    if (!f.packed || !f.codes || !f.scale || !f.absmax || !f.mean || !f.x || (nested && !map))
        return Q3_ERR_MEMORY;
    float offset = 0;
    if (!values->dry) {
        q3_device_write(values->cuda, f.x, x, q3_dtype_bytes(dtype, n));
        Q3_TRY(quantize_form(b, t, &f, dtype, &offset));
    }
    q3_arena_rewind(values, mark);
    t->data = f.packed;
    t->dtype = b->o->code;
    t->block = block;
    t->absmax = absmax;
    if (nested)
        t->nested = (q3_nested){ codes, scale, map, offset };
    b->m->quantized_params += n;
    b->m->quantized_bytes += (n + 1) / 2 + 4 * blocks;
    return Q3_OK;
}
#endif

static void bind_int8(builder *b, q3_tensor *t, const int8_t *codes, const float *absmax)
{
    const int64_t rows = t->shape[0];
    t->dtype = Q3_I8;
    t->block = (int)t->shape[1];
    t->data = placed(b, codes, q3_nbytes(t));
    t->absmax = placed(b, absmax, (size_t)rows * sizeof *absmax);
    b->m->quantized_params += q3_numel(t);
    b->m->quantized_bytes += q3_numel(t) + 4 * rows;
}

/* A directory that is in int8 already. */
static void stored_int8(builder *b, q3_tensor *t)
{
    const int8_t *codes;
    const float *absmax;
    b->status = q3_weights_int8(&codes, &absmax, b->files, t->name, t->shape);
    if (b->status == Q3_OK)
        bind_int8(b, t, codes, absmax);
}

static q3_status check_finite(const q3_tensor *t, const float *absmax)
{
    for (int64_t i = 0; i < t->shape[0]; i++)
        if (!isfinite(absmax[i]))
            return q3_fail(Q3_ERR_MODEL, "tensor %s holds NaN or infinite weights", t->name);
    return Q3_OK;
}

/* On the host, whatever computes. */
static void quantize_int8(builder *b, q3_tensor *t, const void *x, q3_dtype dtype)
{
    const size_t mark = q3_arena_mark(b->host);
    int8_t *codes = Q3_NEW(b->host, int8_t, q3_numel(t));
    float *absmax = Q3_NEW(b->host, float, t->shape[0]);
    b->status = codes && absmax ? Q3_OK : Q3_ERR_MEMORY;
    if (b->status == Q3_OK && !b->host->dry) {
        q3_int8_quantize_cpu(&(q3_int8_quantize_args){ codes, absmax, x, dtype, t->shape[0], t->shape[1] });
        b->status = check_finite(t, absmax);
    }
    if (b->status == Q3_OK)
        bind_int8(b, t, codes, absmax);
    if (b->m->values->cuda)
        q3_arena_rewind(b->host, mark);
}

static void quantize_now(builder *b, q3_tensor *t, const void *x, q3_dtype dtype)
{
    if (b->o->load_in_8bit) {
        quantize_int8(b, t, x, dtype);
        return;
    }
#if defined(Q3_CUDA)
    if (b->m->values->cuda) {
        b->status = quantize_on_device(b, t, x, dtype);
        return;
    }
#endif
    q3_quantized q;
    const q3_quantize_args a = { t->name,           x, dtype, q3_numel(t), b->o->code, block_of(b->o),
                                 b->o->double_quant };
    size_t mark = q3_arena_mark(b->host);
    b->status = q3_quantize(&q, b->host, &a);
    if (b->status == Q3_OK)
        bind_quantized(b, t, &q);
    if (b->m->values->cuda)
        q3_arena_rewind(b->host, mark);
}

static void *unwritten(builder *b, size_t bytes)
{
    void *p = q3_arena_alloc(b->m->values, bytes);
    if (!p)
        b->status = Q3_ERR_MEMORY;
    return p;
}

/* As the files of a published model would be laid out, for the caller to fill. */
static void blank_matrix(builder *b, q3_tensor *t, bool quantize)
{
    const int block = block_of(b->o);
    const int64_t blocks = (q3_numel(t) + block - 1) / block, groups = (blocks + 255) / 256;
    t->dtype = !quantize            ? (b->o->wide == Q3_WIDE_F32 ? Q3_F32 : Q3_BF16)
               : b->o->load_in_8bit ? Q3_I8
                                    : b->o->code;
    t->data = unwritten(b, q3_nbytes(t));
    if (!quantize)
        return;
    if (t->dtype == Q3_I8) {
        t->block = (int)t->shape[1];
        t->absmax = unwritten(b, (size_t)t->shape[0] * sizeof(float));
        b->m->quantized_params += q3_numel(t);
        b->m->quantized_bytes += q3_numel(t) + 4 * t->shape[0];
        return;
    }
    t->block = block;
    if (b->m->values->cuda && b->o->double_quant) {
        t->nested.codes = unwritten(b, (size_t)blocks);
        t->nested.scale = unwritten(b, (size_t)groups * sizeof(float));
        t->nested.map = unwritten(b, 256 * sizeof(float));
    } else {
        t->absmax = unwritten(b, (size_t)blocks * sizeof(float));
    }
    b->m->quantized_params += q3_numel(t);
    b->m->quantized_bytes += (q3_numel(t) + 1) / 2 + 4 * blocks;
}

typedef struct convert_job {
    void *out;
    q3_dtype dtype;
    const q3_weight *w;
} convert_job;

static void convert_run(void *arg, int64_t begin, int64_t end, int thread)
{
    const convert_job *j = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        if (j->dtype == Q3_F32)
            ((float *)j->out)[i] = q3_weight_at(j->w, i);
        else
            ((uint16_t *)j->out)[i] = q3_f32_to_bf16(q3_weight_at(j->w, i));
}

/* In the type that the options ask for. */
static void convert_matrix(builder *b, q3_tensor *t, const q3_weight *w)
{
    const size_t mark = q3_arena_mark(b->host);
    t->dtype = b->o->wide == Q3_WIDE_F32 ? Q3_F32 : Q3_BF16;
    convert_job job = { q3_arena_alloc(b->host, q3_nbytes(t)), t->dtype, w };
    if (!job.out) {
        b->status = Q3_ERR_MEMORY;
        return;
    }
    if (!b->host->dry)
        q3_parallel(q3_numel(t), 16384, convert_run, &job);
    place(b, t, job.out, mark);
}

static void random_matrix(builder *b, q3_tensor *t, bool quantize)
{
    if (b->o->blank) {
        blank_matrix(b, t, quantize);
        return;
    }
    if (!quantize && b->o->wide != Q3_WIDE_BF16) {
        size_t mark = q3_arena_mark(b->host);
        place(b, t, random_values(b, q3_numel(t), t->name, true), mark);
        return;
    }
    q3_arena scratch; // the values before they are rounded are not kept
    b->status = q3_arena_create(&scratch, "random weights", (size_t)q3_numel(t) * sizeof(float) + 4096);
    if (b->status)
        return;
    q3_arena *host = b->host;
    scratch.dry = host->dry;
    b->host = &scratch;
    float *x = random_values(b, q3_numel(t), t->name, true);
    b->host = host;
    if (!b->status && quantize)
        quantize_now(b, t, x, Q3_F32);
    else if (!b->status)
        convert_matrix(b, t, &(q3_weight){ .data = x, .dtype = Q3_F32 });
    q3_arena_destroy(&scratch);
}

/* A matrix of a quantized directory, which is wanted in 16 or 32 bits. */
static q3_status expand_matrix(builder *b, q3_tensor *t)
{
    q3_arena scratch; // decoded scales
    q3_weight w = { .dtype = Q3_I8, .block = (int)t->shape[1] };
    if (q3_weights_is_int8(b->files, t->name)) {
        const int8_t *codes;
        Q3_TRY(q3_weights_int8(&codes, &w.absmax, b->files, t->name, t->shape));
        w.data = codes;
        convert_matrix(b, t, &w);
        return b->status;
    }
    Q3_TRY(q3_arena_create(&scratch, "scales", (size_t)q3_numel(t) + 4096));
    q3_quantized q;
    q3_status st = find_4bit(&q, b, &scratch, t);
    if (st == Q3_OK) {
        w = q3_quantized_weight(&q);
        convert_matrix(b, t, &w);
    }
    q3_arena_destroy(&scratch);
    return st ? st : b->status;
}

/* The form in which a matrix is stored: Q3_DTYPES when it is not quantized. */
static q3_dtype stored_code(builder *b, const char *name, int *block)
{
    const q3_quantization_config *c = &b->m->config.quantization;
    *block = 0;
    if (q3_weights_is_int8(b->files, name))
        return Q3_I8;
    if (q3_weights_is_int4(b->files, c, name)) {
        *block = c->block;
        return Q3_I4;
    }
    return q3_weights_is_quantized(b->files, name) ? c->code : Q3_DTYPES;
}

static q3_status check_form(builder *b, q3_dtype stored, int block, const char *name)
{
    const q3_load_options *o = b->o;
    const bool asked = o->load_in_4bit || o->load_in_8bit;
    if (!o->strict || !asked)
        return Q3_OK;
    if (stored == (o->load_in_8bit ? Q3_I8 : o->code) && (stored != Q3_I4 || block == block_of(o)))
        return Q3_OK;
    return q3_fail(Q3_ERR_USAGE,
                   "%s is quantized in another form already (%s); take the weights as they are, or a "
                   "model that is not quantized",
                   q3_weights_dir(b->files), name);
}

/* A matrix of a quantized directory. */
static void stored_matrix(builder *b, q3_tensor *t, q3_dtype code, int block)
{
    b->status = check_form(b, code, block, t->name);
    if (b->status)
        return;
    if (b->o->wide != Q3_WIDE_STORED)
        b->status = expand_matrix(b, t);
    else if (code == Q3_I8)
        stored_int8(b, t);
    else
        stored_4bit(b, t);
}

static void wide_matrix(builder *b, q3_tensor *t, const q3_st_tensor *s)
{
    const q3_dtype asked = b->o->wide == Q3_WIDE_F32    ? Q3_F32
                           : b->o->wide == Q3_WIDE_BF16 ? Q3_BF16
                                                        : s->dtype;
    if (asked == s->dtype) {
        t->dtype = s->dtype; // on the CPU it stays in the map: training copies what it writes
        t->data = placed(b, s->data, q3_nbytes(t));
        return;
    }
    const q3_weight w = { .data = s->data, .dtype = s->dtype };
    convert_matrix(b, t, &w);
}

static q3_tensor *matrix(builder *b, const char *name, int64_t rows, int64_t columns, bool quantize)
{
    const int64_t shape[] = { rows, columns };
    q3_tensor *t = b->status ? NULL : new_tensor(b, name, 2, shape);
    if (!t)
        return NULL;
    int block;
    const q3_dtype code = b->files ? stored_code(b, name, &block) : Q3_DTYPES;
    if (!b->files) {
        random_matrix(b, t, quantize);
    } else if (code != Q3_DTYPES) {
        stored_matrix(b, t, code, block);
    } else {
        const q3_st_tensor *s;
        b->status = q3_weights_get(&s, b->files, name, 2, shape);
        if (b->status == Q3_OK && quantize)
            quantize_now(b, t, s->data, s->dtype);
        else if (b->status == Q3_OK)
            wide_matrix(b, t, s);
    }
    register_param(b, t);
    return t;
}

static void norm(builder *b, q3_norm *n, const char *path, int64_t width, bool bias)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s.weight", path);
    n->w = vector(b, name, width);
    snprintf(name, sizeof name, "%s.bias", path);
    n->b = bias ? vector(b, name, width) : NULL;
}

static void projection(builder *b, q3_proj *p, const char *path, int64_t out, int64_t in, bool bias)
{
    char name[NAME_BYTES];
    if (!(p->path = q3_arena_strdup(b->mem, path)))
        b->status = Q3_ERR_MEMORY;
    snprintf(name, sizeof name, "%s.weight", path);
    p->w = matrix(b, name, out, in, quantizes(b, path));
    snprintf(name, sizeof name, "%s.bias", path);
    p->b = bias ? vector(b, name, out) : NULL;
    p->stream = (uint32_t)b->m->n_projections;
    b->m->projections[b->m->n_projections++] = p;
}

/* The Conv3d kernel [C, 3, tpatch, patch, patch], whose flattening is the matrix that is needed. */
static void patch_embedding(builder *b)
{
    const q3_vision_config *c = &b->m->config.vision;
    int64_t width = 3 * (int64_t)c->temporal_patch_size * c->patch_size * c->patch_size;
    const int64_t shape[] = { c->hidden_size, width };
    q3_tensor *t = b->status ? NULL : new_tensor(b, VISUAL "patch_embed.proj.weight", 2, shape);
    if (!t)
        return;
    if (b->files) {
        const q3_st_tensor *s = q3_weights_find(b->files, t->name);
        if (!s || q3_st_elements(s) != q3_numel(t) || s->shape[0] != c->hidden_size || s->dtype > Q3_F16) {
            b->status = q3_fail(Q3_ERR_MODEL, "%s: %s is %s; [%d, 3, %d, %d, %d] is needed",
                                q3_weights_dir(b->files), t->name, s ? q3_st_shape(s) : "missing",
                                c->hidden_size, c->temporal_patch_size, c->patch_size, c->patch_size);
            return;
        }
        wide_matrix(b, t, s);
    } else {
        random_matrix(b, t, false);
    }
    register_param(b, t);
    b->m->patch_embed = (q3_proj){ .path = VISUAL "patch_embed.proj", .w = t };
    b->m->patch_embed.b = vector(b, VISUAL "patch_embed.proj.bias", c->hidden_size);
}

static void vision_block(builder *b, int i)
{
    const q3_vision_config *c = &b->m->config.vision;
    q3_vision_block *v = &b->m->blocks[i];
    int64_t d = c->hidden_size;
    char path[NAME_BYTES];
#define AT(tail) (snprintf(path, sizeof path, VISUAL "blocks.%d." tail, i), path)
    norm(b, &v->norm1, AT("norm1"), d, true);
    norm(b, &v->norm2, AT("norm2"), d, true);
    projection(b, &v->qkv, AT("attn.qkv"), 3 * d, d, true);
    projection(b, &v->proj, AT("attn.proj"), d, d, true);
    projection(b, &v->fc1, AT("mlp.linear_fc1"), c->intermediate_size, d, true);
    projection(b, &v->fc2, AT("mlp.linear_fc2"), d, c->intermediate_size, true);
#undef AT
}

static void merger(builder *b, q3_merger *g, const char *at, bool norm_wide)
{
    const q3_vision_config *c = &b->m->config.vision;
    int64_t wide = (int64_t)c->merge_size * c->merge_size * c->hidden_size;
    char path[NAME_BYTES];
    snprintf(path, sizeof path, "%s.norm", at);
    norm(b, &g->norm, path, norm_wide ? wide : c->hidden_size, true);
    snprintf(path, sizeof path, "%s.linear_fc1", at);
    projection(b, &g->fc1, path, wide, wide, true);
    snprintf(path, sizeof path, "%s.linear_fc2", at);
    projection(b, &g->fc2, path, c->out_hidden_size, wide, true);
}

static void vision_tower(builder *b)
{
    const q3_vision_config *c = &b->m->config.vision;
    char path[NAME_BYTES];
    b->vision = true;
    patch_embedding(b);
    b->m->pos_embed = matrix(b, VISUAL "pos_embed.weight", c->positions, c->hidden_size, false);
    for (int i = 0; i < c->depth; i++)
        vision_block(b, i);
    merger(b, &b->m->merger, VISUAL "merger", false);
    for (int i = 0; i < c->n_deepstack; i++) {
        snprintf(path, sizeof path, VISUAL "deepstack_merger_list.%d", i);
        merger(b, &b->m->deepstack[i], path, true);
    }
    b->vision = false;
}

static void text_layer(builder *b, int i)
{
    const q3_text_config *c = &b->m->config.text;
    q3_text_layer *l = &b->m->layers[i];
    int64_t h = c->hidden_size, q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    char path[NAME_BYTES];
#define AT(tail) (snprintf(path, sizeof path, LANGUAGE "layers.%d." tail, i), path)
    projection(b, &l->q, AT("self_attn.q_proj"), q, h, false);
    projection(b, &l->k, AT("self_attn.k_proj"), kv, h, false);
    projection(b, &l->v, AT("self_attn.v_proj"), kv, h, false);
    projection(b, &l->o, AT("self_attn.o_proj"), h, q, false);
    norm(b, &l->q_norm, AT("self_attn.q_norm"), c->head_dim, false);
    norm(b, &l->k_norm, AT("self_attn.k_norm"), c->head_dim, false);
    projection(b, &l->gate, AT("mlp.gate_proj"), c->intermediate_size, h, false);
    projection(b, &l->up, AT("mlp.up_proj"), c->intermediate_size, h, false);
    projection(b, &l->down, AT("mlp.down_proj"), h, c->intermediate_size, false);
    norm(b, &l->attn_norm, AT("input_layernorm"), h, false);
    norm(b, &l->mlp_norm, AT("post_attention_layernorm"), h, false);
#undef AT
}

/* Tied: the embedding. A file without lm_head is taken as tied, whatever its config says. */
static void head(builder *b)
{
    const q3_text_config *c = &b->m->config.text;
    bool stored = b->files && q3_weights_find(b->files, "lm_head.weight");
    if (c->tied || (b->files && !stored)) {
        if (!c->tied)
            q3_warn("%s: no lm_head.weight, though config.json says that it is not tied; using the embedding",
                    q3_weights_dir(b->files));
        b->m->head = b->m->embed;
    } else {
        b->m->head = matrix(b, "lm_head.weight", c->vocab_size, c->hidden_size, quantizes(b, "lm_head"));
    }
}

static void decoder(builder *b)
{
    const q3_text_config *c = &b->m->config.text;
    b->m->embed = matrix(b, LANGUAGE "embed_tokens.weight", c->vocab_size, c->hidden_size, false);
    for (int i = 0; i < c->layers; i++)
        text_layer(b, i);
    norm(b, &b->m->norm, LANGUAGE "norm", c->hidden_size, false);
    head(b);
}

static q3_status allocate(q3_model *m, q3_arena *mem)
{
    const q3_vision_config *v = &m->config.vision;
    int text = m->config.text.layers, blocks = v->depth, mergers = 1 + v->n_deepstack;
    m->layers = Q3_ZNEW(mem, q3_text_layer, text);
    m->blocks = Q3_ZNEW(mem, q3_vision_block, blocks + 1);
    m->deepstack = Q3_ZNEW(mem, q3_merger, mergers);
    m->params = Q3_ZNEW(mem, q3_parameter, 11 * text + 12 * blocks + 6 * mergers + 6);
    m->projections = Q3_ZNEW(mem, q3_proj *, 7 * text + 4 * blocks + 2 * mergers + 1);
    return m->layers && m->blocks && m->deepstack && m->params && m->projections ? Q3_OK : Q3_ERR_MEMORY;
}

/* initializer_range of config.json; transformers' default where it says nothing. */
static q3_status random_std(double *out, const q3_model_config *c)
{
    q3_json doc;
    Q3_TRY(q3_status_as(q3_json_parse(&doc, c->raw, c->raw_bytes, "config.json", 1), Q3_ERR_MODEL));
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(doc.root, "text_config");
    q3_status st = q3_json_float(out, &doc, text ? text : doc.root, "initializer_range", 0.02);
    q3_json_close(&doc);
    return q3_status_as(st, Q3_ERR_MODEL);
}

static q3_status build(builder *b, const char *dir)
{
    q3_model *m = b->m;
    Q3_TRY(q3_model_config_load(&m->config, b->mem, dir));
    Q3_TRY(allocate(m, b->mem));
    m->split.end = m->config.text.layers;
    if (b->o->random) {
        Q3_TRY(random_std(&b->std, &m->config));
    } else {
        Q3_TRY(q3_weights_open(&m->files, dir));
        b->files = m->files;
    }
    if (m->config.has_vision)
        vision_tower(b);
    decoder(b);
    return b->status == Q3_OK && b->files ? q3_weights_all_used(b->files) : b->status;
}

q3_status q3_model_load(q3_model *out, q3_arena *mem, const char *dir, const q3_load_options *options)
{
    *out = (q3_model){ .values = options->values ? options->values : mem };
    q3_arena passing = { 0 }; // what would pass through the host on its way to a device
    builder b = { .m = out, .mem = mem, .host = mem, .o = options };
    if (out->values->dry && out->values->cuda) {
        Q3_TRY(q3_arena_create(&passing, "weights", 4096));
        passing.dry = true;
        b.host = &passing;
    } else if (out->values->dry) {
        b.host = out->values;
    }
    q3_status st = build(&b, dir);
    q3_arena_destroy(&passing);
    if (st != Q3_OK)
        q3_model_close(out);
    return q3_status_as(st, Q3_ERR_MODEL);
}

void q3_model_close(q3_model *m)
{
    q3_weights_close(m->files);
    m->files = NULL;
}

q3_status q3_model_train_all(q3_trainable *out, q3_model *m, q3_arena *mem)
{
    q3_tensor **tensors = Q3_NEW(mem, q3_tensor *, m->n_params + 1);
    const char **names = Q3_NEW(mem, const char *, m->n_params + 1);
    if (!tensors || !names)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < m->n_params; i++) {
        tensors[i] = m->params[i].tensor;
        names[i] = tensors[i]->name;
        if (tensors[i]->dtype > Q3_F16)
            return q3_fail(Q3_ERR_USAGE,
                           "train.tune is full, and %s is in %s; set quantization.load_in_%dbit to false "
                           "and give a model that is not quantized",
                           names[i], tensors[i]->dtype == Q3_I8 ? "int8" : "4 bits",
                           tensors[i]->dtype == Q3_I8 ? 8 : 4);
    }
    return q3_trainable_create(out, mem, m->values, tensors, names, m->n_params);
}
