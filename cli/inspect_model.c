#include <dirent.h>
#include <string.h>

#include "cli/inspect.h"
#include "collate/image_processor.h"
#include "collate/tokenizer.h"
#include "core/file.h"
#include "core/quantized.h"
#include "model/checkpoint_4bit.h"
#include "model/checkpoint_8bit.h"
#include "model/checkpoint_int4.h"
#include "model/weights.h"

#define RUN_BYTES ((size_t)1 << 34) // addresses, not memory
#define INDEX_LIMIT ((size_t)64 << 20)

static void show_text_config(q3_facts *f, const q3_text_config *c)
{
    q3_fact_group(f, "text");
    q3_fact_int(f, "layers", c->layers);
    q3_fact_int(f, "hidden", c->hidden_size);
    q3_fact_int(f, "heads", c->heads);
    q3_fact_int(f, "kv_heads", c->kv_heads);
    q3_fact_int(f, "head_dim", c->head_dim);
    q3_fact_int(f, "mlp", c->intermediate_size);
    q3_fact_int(f, "vocabulary", c->vocab_size);
    q3_fact_int(f, "positions", c->max_positions);
    q3_fact_bool(f, "tied", c->tied);
    q3_fact_group_end(f);
}

static void show_vision_config(q3_facts *f, const q3_vision_config *c)
{
    q3_fact_group(f, "vision");
    q3_fact_int(f, "blocks", c->depth);
    q3_fact_int(f, "hidden", c->hidden_size);
    q3_fact_int(f, "heads", c->heads);
    q3_fact_int(f, "mlp", c->intermediate_size);
    q3_fact_int(f, "patch", c->patch_size);
    q3_fact_int(f, "merge", c->merge_size);
    q3_fact_int(f, "deepstack", c->n_deepstack);
    q3_fact_group_end(f);
}

static void show_config(q3_facts *f, const q3_model_config *c)
{
    int64_t text, vision;
    q3_model_parameters(c, &text, &vision);
    q3_fact_text(f, "family", "%s", c->has_vision ? "Qwen3-VL" : "Qwen3, text only");
    show_text_config(f, &c->text);
    if (c->has_vision)
        show_vision_config(f, &c->vision);
    q3_fact_group(f, "parameters");
    q3_fact_int(f, "all", text + vision);
    q3_fact_int(f, "text", text);
    q3_fact_int(f, "vision", vision);
    q3_fact_group_end(f);
    if (c->quantization.present)
        q3_fact_text(f, "quantized", "%s%s", q3_dtype_name(c->quantization.code),
                     c->quantization.nested ? ", double quantization" : "");
    else
        q3_fact_text(f, "quantized", "no");
}

/* The tensor of a parameter as it is stored, all that belongs to it, against the shape that config.json makes. */
static q3_status check_stored(q3_weights *w, q3_arena *counted, const q3_model_config *c,
                              const q3_tensor *want)
{
    int64_t shape[2];
    q3_quantized q;
    const int8_t *codes;
    const float *absmax;
    if (q3_weights_is_quantized(w, want->name)) {
        Q3_TRY(q3_weights_quantized(&q, shape, counted, w, want->name));
        if (want->ndim == 2 && shape[0] == want->shape[0] && shape[1] == want->shape[1])
            return Q3_OK;
        return q3_fail(Q3_ERR_MODEL, "%s is [%lld, %lld], config.json makes it %s", want->name,
                       (long long)shape[0], (long long)shape[1], q3_shape(want));
    }
    if (q3_weights_is_int8(w, want->name))
        return q3_weights_int8(&codes, &absmax, w, want->name, want->shape);
    if (q3_weights_is_int4(w, &c->quantization, want->name))
        return q3_weights_int4(&q, w, &c->quantization, want->name, want->shape);
    const q3_st_tensor *t = q3_weights_find(w, want->name);
    if (t && strstr(want->name, "patch_embed.") && q3_st_elements(t) == q3_numel(want) && t->dtype <= Q3_F16)
        return Q3_OK; // a Conv3d's kernel, five axes
    return q3_weights_get(&t, w, want->name, want->ndim, want->shape);
}

/* Tensors that are missing, of another shape or type, and those that have no place. */
static q3_status check_tensors(q3_facts *f, q3_weights *w, q3_arena *counted, const q3_model *m)
{
    q3_weights_find(w, "lm_head.weight"); // stored beside a tied embedding it does no harm
    for (int i = 0; i < m->n_params; i++) {
        const q3_tensor *want = m->params[i].tensor;
        bool tied = strcmp(want->name, "lm_head.weight") == 0 && !q3_weights_find(w, want->name);
        q3_status st = tied ? Q3_OK : check_stored(w, counted, &m->config, want);
        Q3_TRY(q3_fact_failure(f, st));
    }
    for (int64_t i = 0; i < q3_weights_count(w); i++)
        if (!q3_weights_used(w, i))
            q3_fact_problem(f, "%s: tensor %s has no place in the network that config.json describes",
                            q3_weights_path(w, i), q3_weights_at(w, i)->name);
    return Q3_OK;
}

static bool used_file(const q3_weights *w, const char *name)
{
    for (int64_t i = 0; i < q3_weights_count(w); i++)
        if (strcmp(q3_path_base(q3_weights_path(w, i)), name) == 0)
            return true;
    return false;
}

/* Files of weights that nothing is read from. */
static void show_unread(q3_facts *f, const q3_weights *w, const char *dir)
{
    static const char *const kinds[] = { ".safetensors", ".bin", ".pt", ".gguf", ".incomplete", ".tmp" };
    DIR *d = opendir(dir);
    q3_fact_list(f, "unread");
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        const char *dot = strrchr(e->d_name, '.');
        for (size_t i = 0; dot && i < sizeof kinds / sizeof *kinds; i++)
            if (strcmp(dot, kinds[i]) == 0 && !used_file(w, e->d_name))
                q3_fact_item(f, "%s", e->d_name);
    }
    q3_fact_list_end(f);
    if (d)
        closedir(d);
}

/* Tokenizer and picture processor, as other commands open them. */
static q3_status check_company(q3_facts *f, const q3_model_config *c, const char *dir)
{
    q3_tokenizer *tokenizer;
    q3_status st = q3_tokenizer_open(&tokenizer, dir);
    if (st == Q3_OK)
        q3_tokenizer_close(tokenizer);
    Q3_TRY(q3_fact_failure(f, st));
    q3_vision_spec spec;
    return c->has_vision ? q3_fact_failure(f, q3_vision_spec_load(&spec, dir)) : Q3_OK;
}

static bool named_before(const cJSON *item)
{
    for (const cJSON *other = item->prev; other->next; other = other->prev)
        if (strcmp(other->valuestring, item->valuestring) == 0)
            return true;
    return false;
}

/* Files that model.safetensors.index.json names and that are not there; each once. */
static q3_status list_missing(q3_facts *f, const q3_json *doc, const char *dir)
{
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(doc->root, "weight_map"), *item;
    cJSON_ArrayForEach(item, map)
    {
        if (!cJSON_IsString(item))
            return Q3_OK; // opening the weights says so
        char *path = q3_path_join(dir, item->valuestring);
        if (!path)
            return Q3_ERR_MEMORY;
        if (!q3_file_exists(path) && !named_before(item))
            q3_fact_problem(f, "%s is missing; is the download complete?", path);
        q3_free(path);
    }
    return Q3_OK;
}

static q3_status check_shards(q3_facts *f, const char *dir)
{
    q3_json doc;
    char *single = q3_path_join(dir, "model.safetensors"),
         *index = q3_path_join(dir, "model.safetensors.index.json");
    q3_status st = single && index ? Q3_OK : Q3_ERR_MEMORY;
    if (st == Q3_OK && !q3_file_exists(single) && q3_file_exists(index) &&
        q3_json_open(&doc, index, INDEX_LIMIT) == Q3_OK) {
        st = list_missing(f, &doc, dir);
        q3_json_close(&doc);
    }
    q3_free(single);
    q3_free(index);
    return st;
}

static const q3_st_tensor *at_of_weights(const void *arg, int64_t index)
{
    return q3_weights_at(arg, index);
}

static q3_status check_weights(q3_facts *f, q3_arena *counted, const q3_model *m, const char *dir,
                               bool tensors)
{
    q3_weights *w;
    int64_t before = f->n_problems;
    Q3_TRY(check_shards(f, dir));
    if (f->n_problems > before)
        return Q3_OK;
    q3_status st = q3_weights_open(&w, dir);
    if (st != Q3_OK)
        return q3_fact_failure(f, st);
    q3_inspect_tensors(f, at_of_weights, w, q3_weights_count(w), tensors);
    show_unread(f, w, dir);
    st = check_tensors(f, w, counted, m);
    q3_weights_close(w);
    return st;
}

static q3_status look(q3_facts *f, q3_arena *mem, q3_arena *counted, const char *dir, bool tensors)
{
    q3_model m;
    const q3_load_options options = { .random = true, .values = counted };
    q3_status st = q3_model_load(&m, mem, dir, &options); // what config.json describes
    if (st != Q3_OK)
        return q3_fact_failure(f, st);
    show_config(f, &m.config);
    st = check_weights(f, counted, &m, dir, tensors);
    q3_model_close(&m);
    return st ? st : check_company(f, &m.config, dir);
}

q3_status q3_inspect_model(q3_facts *f, const char *dir, bool tensors)
{
    q3_arena mem, counted = { 0 };
    Q3_TRY(q3_arena_create(&mem, "model", RUN_BYTES));
    q3_status st = q3_arena_create(&counted, "layout", 4096);
    counted.dry = true;
    st = st ? st : look(f, &mem, &counted, dir, tensors);
    q3_arena_destroy(&counted);
    q3_arena_destroy(&mem);
    return st;
}
