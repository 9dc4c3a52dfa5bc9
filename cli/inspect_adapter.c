#include <string.h>

#include "cli/inspect.h"
#include "core/file.h"
#include "model/lora.h"
#include "model/weights.h"

#define RUN_BYTES ((size_t)1 << 34) // addresses, not memory

static const q3_st_tensor *at_of_file(const void *arg, int64_t index)
{
    return q3_safetensors_at(arg, index);
}

static q3_status open_weights(q3_safetensors **out, q3_facts *f, const char *dir)
{
    char *path = q3_path_join(dir, "adapter_model.safetensors");
    *out = NULL;
    q3_status st = path ? q3_fact_failure(f, q3_safetensors_open(out, path)) : Q3_ERR_MEMORY;
    q3_free(path);
    return st;
}

static void show_config(q3_facts *f, const q3_lora_config *c)
{
    q3_fact_text(f, "base", "%s", c->base);
    q3_fact_group(f, "lora");
    q3_fact_int(f, "r", c->r);
    q3_fact_number(f, "alpha", c->alpha);
    q3_fact_number(f, "dropout", c->dropout);
    q3_fact_bool(f, "rslora", c->use_rslora);
    q3_fact_group_end(f);
    q3_fact_list(f, "targets");
    for (int i = 0; i < c->n_targets; i++)
        q3_fact_item(f, "%s", c->targets[i]);
    q3_fact_list_end(f);
}

static void show_weights(q3_facts *f, const q3_safetensors *file, bool tensors)
{
    int64_t n = q3_safetensors_count(file), parameters = 0, layers = 0;
    for (int64_t i = 0; i < n; i++) {
        const q3_st_tensor *t = q3_safetensors_at(file, i);
        parameters += q3_st_elements(t);
        layers += strstr(t->name, ".lora_A.") != NULL;
    }
    q3_fact_int(f, "layers", layers);
    q3_fact_int(f, "parameters", parameters);
    q3_inspect_tensors(f, at_of_file, file, n, tensors);
}

/* Lays the base out, in memory that is only counted, and the adapter on it. */
static q3_status fit(q3_facts *f, q3_arena *mem, const char *base, const char *dir)
{
    q3_model model;
    q3_trainable adapter;
    q3_lora_config config;
    q3_arena values;
    Q3_TRY(q3_arena_create(&values, "layout", 4096));
    values.dry = true;
    const q3_load_options options = { .random = true, .values = &values };
    q3_status st = q3_model_load(&model, mem, base, &options);
    if (st == Q3_OK) {
        st = q3_fact_failure(f, q3_lora_load(&adapter, &config, &model, mem, dir));
        q3_model_close(&model);
    } else {
        st = q3_fact_failure(f, st);
    }
    q3_arena_destroy(&values);
    return st;
}

static q3_status is_model(bool *out, const char *dir)
{
    char *path = q3_path_join(dir, "config.json");
    *out = path && *dir && q3_file_exists(path);
    q3_free(path);
    return path ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_status look(q3_facts *f, q3_arena *mem, const char *dir, bool tensors)
{
    q3_lora_config config;
    q3_safetensors *file;
    q3_status st = q3_lora_config_load(&config, mem, dir);
    if (st != Q3_OK)
        return q3_fact_failure(f, st);
    show_config(f, &config);
    bool here;
    Q3_TRY(is_model(&here, config.base));
    q3_fact_bool(f, "base_here", here);
    Q3_TRY(open_weights(&file, f, dir));
    if (file)
        show_weights(f, file, tensors);
    st = file && here ? fit(f, mem, config.base, dir) : Q3_OK;
    q3_safetensors_close(file);
    return st;
}

q3_status q3_inspect_adapter(q3_facts *f, const char *dir, bool tensors)
{
    q3_arena mem;
    Q3_TRY(q3_arena_create(&mem, "adapter", RUN_BYTES));
    q3_status st = look(f, &mem, dir, tensors);
    q3_arena_destroy(&mem);
    return st;
}
