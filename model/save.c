/* Writing model directories: the second half of model/weights.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "core/quantized.h"
#include "kernels/int8.h"
#include "kernels/pool.h"
#include "model/checkpoint_4bit.h"
#include "model/checkpoint_8bit.h"
#include "model/checkpoint_int4.h"
#include "model/config_edit.h"
#include "model/lora.h"
#include "model/weights.h"

q3_status q3_model_copy_files(const char *from, const char *dir)
{
    static const char *const files[] = { "tokenizer.json",
                                         "tokenizer.json.gz",
                                         "tokenizer_config.json",
                                         "vocab.json",
                                         "merges.txt",
                                         "special_tokens_map.json",
                                         "added_tokens.json",
                                         "chat_template.jinja",
                                         "chat_template.json",
                                         "preprocessor_config.json",
                                         "processor_config.json",
                                         "video_preprocessor_config.json" };
    q3_status st = q3_dir_create(dir);
    for (size_t i = 0; i < sizeof files / sizeof *files && st == Q3_OK; i++) {
        char *source = q3_path_join(from, files[i]), *to = q3_path_join(dir, files[i]);
        if (!source || !to)
            st = Q3_ERR_MEMORY;
        else if (q3_file_exists(source))
            st = q3_file_copy(to, source);
        q3_free(source);
        q3_free(to);
    }
    return st;
}

static q3_status copy_generation_config(const char *from, const char *dir)
{
    char *source = q3_path_join(from, "generation_config.json");
    char *to = q3_path_join(dir, "generation_config.json");
    q3_status st = !source || !to ? Q3_ERR_MEMORY : q3_file_exists(source) ? q3_file_copy(to, source) : Q3_OK;
    q3_free(source);
    q3_free(to);
    return st;
}

const char *q3_saved_name(q3_arena *mem, const q3_model_config *c, const char *name)
{
    static const char with[] = "model.language_model.";
    bool shorten = !c->has_vision && strncmp(name, with, sizeof with - 1) == 0;
    return shorten ? q3_arena_printf(mem, "model.%s", name + sizeof with - 1) : q3_arena_strdup(mem, name);
}

/* Values for the writer: from the device or expanded, with their adapter, rounded to bf16 where that is asked for, in a
 * buffer that lives until the next call. */
typedef struct converter {
    const q3_model *m;
    const char **names;      // as saved, by parameter
    const q3_proj **adapted; // whose weight the parameter is; NULL: no adapter on it
    float *values; // of the tensor that is being written, and behind them room for their rounded form
    int64_t capacity;
} converter;

static const uint16_t *rounded(uint16_t *out, const float *values, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = q3_f32_to_bf16(values[i]);
    return out;
}

typedef struct expand_job {
    float *out;
    const q3_weight *w;
} expand_job;

static void expand_run(void *arg, int64_t begin, int64_t end, int thread)
{
    const expand_job *j = arg;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        j->out[i] = q3_weight_at(j->w, i);
}

static void read_values(float *out, const q3_model *m, const q3_tensor *t, const q3_proj *adapted)
{
    if (m->values->cuda) {
        q3_device_read(m->values->cuda, out, t->data, q3_nbytes(t));
        return;
    }
    const q3_weight w = q3_as_weight(t);
    expand_job job = { out, &w };
    q3_parallel(q3_numel(t), 16384, expand_run, &job);
    if (adapted)
        q3_lora_add(out, adapted->lora_a, adapted->lora_b, adapted->lora_scale);
}

static q3_status fill(const void **data, const q3_st_tensor *t, void *arg)
{
    converter *c = arg;
    for (int i = 0; i < c->m->n_params; i++) {
        const q3_tensor *w = c->m->params[i].tensor;
        if (strcmp(c->names[i], t->name) != 0)
            continue;
        int64_t n = q3_numel(w);
        if (n > c->capacity) {
            float *p = q3_realloc(c->values, (size_t)n * (sizeof *p + sizeof(uint16_t)));
            if (!p)
                return Q3_ERR_MEMORY;
            c->values = p;
            c->capacity = n;
        }
        read_values(c->values, c->m, w, c->adapted[i]);
        *data = c->values;
        if (t->dtype == Q3_BF16)
            *data = rounded((uint16_t *)(c->values + n), c->values, n);
        return q3_device_status(c->m->values->cuda);
    }
    return q3_fail(Q3_ERR_FAIL, "no parameter is called %s", t->name);
}

/* The projection that `w` belongs to, if there is an adapter on it. */
static const q3_proj *adapted_by(const q3_model *m, const q3_tensor *w)
{
    for (int i = 0; i < m->n_projections; i++)
        if (m->projections[i]->w == w)
            return m->projections[i]->lora_a ? m->projections[i] : NULL;
    return NULL;
}

static q3_st_tensor entry_of(const q3_model *m, const q3_tensor *w, const char *name, q3_dtype dtype,
                             bool adapted)
{
    const q3_vision_config *v = &m->config.vision;
    bool at_hand = dtype == Q3_F32 && w->dtype == Q3_F32 && !adapted && !m->values->cuda;
    q3_st_tensor t = { .name = name, .dtype = dtype, .ndim = w->ndim, .data = at_hand ? w->data : NULL };
    for (int i = 0; i < w->ndim; i++)
        t.shape[i] = w->shape[i];
    if (w == m->patch_embed.w) { // the reference's Conv3d kernel
        const int64_t kernel[] = { v->hidden_size, 3, v->temporal_patch_size, v->patch_size, v->patch_size };
        t.ndim = 5;
        memcpy(t.shape, kernel, sizeof kernel);
    }
    return t;
}

static q3_status save_tensors(const q3_model *m, q3_arena *mem, const char *path, q3_dtype dtype)
{
    converter c = { .m = m,
                    .names = Q3_NEW(mem, const char *, m->n_params + 1),
                    .adapted = Q3_NEW(mem, const q3_proj *, m->n_params + 1) };
    q3_st_tensor *tensors = Q3_NEW(mem, q3_st_tensor, m->n_params + 1);
    if (!tensors || !c.names || !c.adapted)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < m->n_params; i++) {
        const q3_tensor *w = m->params[i].tensor;
        c.adapted[i] = adapted_by(m, w);
        Q3_CHECK(!m->values->cuda || (w->dtype == Q3_F32 && !c.adapted[i]), "%s is %s", w->name, q3_shape(w));
        if (!(c.names[i] = q3_saved_name(mem, &m->config, w->name)))
            return Q3_ERR_MEMORY;
        tensors[i] = entry_of(m, w, c.names[i], dtype, c.adapted[i] != NULL);
    }
    const q3_st_pair format = { "format", "pt" };
    const q3_st_write file = { .path = path,
                               .tensors = tensors,
                               .n = m->n_params,
                               .metadata = &format,
                               .n_metadata = 1,
                               .fill = fill,
                               .arg = &c };
    q3_status st = q3_safetensors_stream(&file);
    q3_free(c.values);
    return st;
}

q3_status q3_model_save(const q3_model *m, const char *from, const char *dir, q3_dtype dtype)
{
    Q3_CHECK(dtype == Q3_F32 || dtype == Q3_BF16, "type %d", (int)dtype);
    const q3_config_edit edit = { .dtype = q3_torch_dtype_name(dtype), .drop_quantization = true };
    Q3_TRY(q3_model_copy_files(from, dir));
    Q3_TRY(copy_generation_config(from, dir));
    Q3_TRY(q3_model_config_write(&m->config, dir, &edit));
    q3_arena mem;
    Q3_TRY(q3_arena_create(&mem, "names of tensors", (size_t)1 << 30));
    char *path = q3_path_join(dir, "model.safetensors");
    q3_status st = path ? save_tensors(m, &mem, path, dtype) : Q3_ERR_MEMORY;
    q3_free(path);
    q3_arena_destroy(&mem);
    return st;
}

/* The linear layers by the ends of their names; the head is one too. */
static bool is_linear(const char *name)
{
    static const char *const ends[] = { ".q_proj.weight",     ".k_proj.weight",    ".v_proj.weight",
                                        ".o_proj.weight",     ".gate_proj.weight", ".up_proj.weight",
                                        ".down_proj.weight",  ".attn.qkv.weight",  ".attn.proj.weight",
                                        ".linear_fc1.weight", ".linear_fc2.weight" };
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t e = strlen(ends[i]);
        if (n > e && strcmp(name + n - e, ends[i]) == 0)
            return true;
    }
    return strcmp(name, "lm_head.weight") == 0;
}

static q3_status quantize_int8(q3_st_tensor *out, q3_arena *mem, const char *name, const q3_st_tensor *s)
{
    int8_t *codes = Q3_NEW(mem, int8_t, q3_st_elements(s));
    float *absmax = Q3_NEW(mem, float, s->shape[0]);
    if (!codes || !absmax)
        return Q3_ERR_MEMORY;
    q3_int8_quantize_cpu(
        &(q3_int8_quantize_args){ codes, absmax, s->data, s->dtype, s->shape[0], s->shape[1] });
    for (int64_t i = 0; i < s->shape[0]; i++)
        if (!isfinite(absmax[i]))
            return q3_fail(Q3_ERR_MODEL, "tensor %s holds NaN or infinite weights", name);
    return q3_int8_tensors(out, mem, name, codes, absmax, s->shape);
}

static q3_status quantize_one(q3_st_tensor *out, int64_t *n_out, q3_arena *mem, const char *name,
                              const q3_st_tensor *s, const q3_load_options *o)
{
    q3_quantized q;
    int parts = o->load_in_8bit ? Q3_8BIT_TENSORS : Q3_INT4_TENSORS;
    if (s->dtype > Q3_F16)
        return q3_fail(Q3_ERR_MODEL,
                       "tensor %s is %s; only F32, BF16 and F16 are quantized: take the original model",
                       s->name, s->dtype_name);
    if (o->load_in_8bit) {
        Q3_TRY(quantize_int8(out + *n_out, mem, name, s));
    } else {
        const q3_quantize_args a = { name,           s->data,
                                     s->dtype,       q3_st_elements(s),
                                     o->code,        o->block ? o->block : Q3_4BIT_BLOCK,
                                     o->double_quant };
        Q3_TRY(q3_quantize(&q, mem, &a));
        if (o->code == Q3_I4)
            Q3_TRY(q3_int4_tensors(out + *n_out, mem, name, &q));
        else
            Q3_TRY(q3_quantized_tensors(out + *n_out, &parts, mem, name, &q, s->shape));
    }
    *n_out += parts;
    return Q3_OK;
}

static q3_status quantize_all(q3_weights *files, const q3_model_config *config, q3_arena *mem,
                              const char *path, const q3_load_options *o)
{
    int64_t n = q3_weights_count(files), written = 0, matrices = 0;
    q3_st_tensor *out = Q3_ZNEW(mem, q3_st_tensor, Q3_4BIT_TENSORS * n + 1);
    if (!out)
        return Q3_ERR_MEMORY;
    for (int64_t i = 0; i < n; i++) {
        const char *name = q3_weights_name(files, i);
        const q3_st_tensor *s = q3_weights_at(files, i);
        const char *saved = q3_saved_name(mem, config, name);
        char module[256];
        size_t end = strlen(name) > 7 ? strlen(name) - 7 : 0; // without ".weight"
        snprintf(module, sizeof module, "%.*s", (int)end, name);
        if (!saved)
            return Q3_ERR_MEMORY;
        if (q3_weights_is_quantized(files, name))
            return q3_fail(Q3_ERR_MODEL, "%s: the model is in 4 bits already (%s)", q3_weights_dir(files),
                           name);
        if (is_linear(name) && s->ndim == 2 && !q3_module_skipped(o, module)) {
            Q3_TRY(quantize_one(out, &written, mem, saved, s, o));
            matrices++;
            q3_log_live("quantized %lld matrices, %s", (long long)matrices, name);
        } else {
            out[written] = *s;
            out[written++].name = saved;
        }
    }
    if (!matrices)
        return q3_fail(Q3_ERR_MODEL, "%s: no matrix to quantize", q3_weights_dir(files));
    q3_info("quantized %lld matrices, %lld tensors written", (long long)matrices, (long long)written);
    return q3_safetensors_write(path, out, written);
}

static q3_status quantize_dir(const char *from, const char *dir, const q3_load_options *o, q3_arena *mem,
                              q3_weights *files)
{
    q3_model_config config;
    Q3_TRY(q3_model_config_load(&config, mem, from));
    Q3_TRY(q3_model_copy_files(from, dir));
    Q3_TRY(copy_generation_config(from, dir));
    const char *const usual[] = { "model.visual", "lm_head" };
    const q3_quantization_config quantization = { .present = true,
                                                  .code = o->load_in_8bit ? Q3_I8 : o->code,
                                                  .block = o->block,
                                                  .nested = o->double_quant,
                                                  .compute =
                                                      config.dtype == Q3_DTYPES ? Q3_F32 : config.dtype,
                                                  .skip = o->skip ? o->skip : usual,
                                                  .n_skip = o->skip ? o->n_skip : 2 };
    const q3_config_edit edit = { .quantization = &quantization };
    char *path = q3_path_join(dir, "model.safetensors");
    q3_status st = path ? quantize_all(files, &config, mem, path, o) : Q3_ERR_MEMORY;
    q3_free(path);
    return st ? st : q3_model_config_write(&config, dir, &edit);
}

q3_status q3_model_quantize(const char *from, const char *dir, const q3_load_options *options)
{
    q3_arena mem = { 0 };
    q3_weights *files = NULL;
    Q3_TRY(q3_arena_create(&mem, "quantized model", (size_t)1 << 40));
    q3_status st = q3_weights_open(&files, from);
    st = st ? st : quantize_dir(from, dir, options, &mem, files);
    q3_weights_close(files);
    q3_arena_destroy(&mem);
    return q3_status_as(st, Q3_ERR_MODEL);
}
