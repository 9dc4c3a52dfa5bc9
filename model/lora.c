#include "model/lora.h"

#include <limits.h>
#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "core/rng.h"
#include "core/safetensors.h"
#include "kernels/gemm.h"
#include "model/weights.h"

#define PREFIX "base_model.model."

enum { CONFIG_LIMIT = 1 << 20 };

static bool all_linear(const q3_lora_config *c)
{
    return c->targets_is_pattern && strcasecmp(c->targets[0], "all-linear") == 0;
}

/* Python's pattern as a POSIX one that matches the whole; false when it is too long. Differences: (?:, \d,
 * and that a backslash quotes within brackets too. */
static bool to_posix(char *out, size_t bytes, const char *pattern)
{
    bool bracket = false;
    size_t n = (size_t)snprintf(out, bytes, "^(");
    const char *p = pattern;
    for (; *p && n + 8 < bytes; p++) {
        if (p[0] == '\\' && p[1]) {
            p++;
            if (*p == 'd')
                n += (size_t)snprintf(out + n, bytes - n, bracket ? "0-9" : "[0-9]");
            else
                n += (size_t)snprintf(out + n, bytes - n, bracket ? "%c" : "\\%c", *p);
        } else if (!bracket && strncmp(p, "(?:", 3) == 0) {
            out[n++] = '(';
            p += 2;
        } else {
            bracket = bracket ? *p != ']' : *p == '[';
            out[n++] = *p;
        }
    }
    snprintf(out + n, bytes - n, ")$");
    return !*p;
}

/* Python's re.fullmatch, for the patterns people write here. */
static q3_status full_match(bool *out, const char *pattern, const char *path)
{
    char ere[1024];
    if (!to_posix(ere, sizeof ere, pattern))
        return q3_fail(Q3_ERR_USAGE,
                       "lora.target_modules: the regular expression has %zu characters; at most 1000 "
                       "are supported",
                       strlen(pattern));
    regex_t re;
    int e = regcomp(&re, ere, REG_EXTENDED | REG_NOSUB);
    if (e != 0) {
        char why[128];
        regerror(e, &re, why, sizeof why);
        return q3_fail(Q3_ERR_USAGE, "lora.target_modules: \"%s\" is no regular expression: %s", pattern,
                       why);
    }
    *out = regexec(&re, path, 0, NULL, 0) == 0;
    regfree(&re);
    return Q3_OK;
}

q3_status q3_lora_matches(bool *out, const q3_lora_config *config, const char *path)
{
    if (all_linear(config)) {
        *out = true;
        return Q3_OK;
    }
    if (config->targets_is_pattern)
        return full_match(out, config->targets[0], path);
    *out = false;
    size_t np = strlen(path);
    for (int i = 0; i < config->n_targets; i++) {
        size_t nt = strlen(config->targets[i]);
        if (strcmp(path, config->targets[i]) == 0 ||
            (nt < np && path[np - nt - 1] == '.' && strcmp(path + np - nt, config->targets[i]) == 0))
            *out = true;
    }
    return Q3_OK;
}

/* Headers of A and B for the chosen projections (rank[i] > 0), laid out flat in module order. */
static q3_status lay_out(q3_trainable *out, q3_model *model, q3_arena *mem, const int *rank)
{
    int n = 0;
    q3_tensor **tensors = Q3_NEW(mem, q3_tensor *, 2 * model->n_projections + 1);
    const char **names = Q3_NEW(mem, const char *, 2 * model->n_projections + 1);
    if (!tensors || !names)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < model->n_projections; i++) {
        q3_proj *p = model->projections[i];
        p->lora_a = p->lora_b = NULL;
        if (!rank[i])
            continue;
        p->lora_a = q3_tensor_wrap(mem, NULL, Q3_F32, 2, (const int64_t[]){ rank[i], q3_dim(p->w, 1) });
        p->lora_b = q3_tensor_wrap(mem, NULL, Q3_F32, 2, (const int64_t[]){ q3_dim(p->w, 0), rank[i] });
        const char *path = q3_saved_name(mem, &model->config, p->path);
        if (!path)
            return Q3_ERR_MEMORY;
        tensors[n] = p->lora_a;
        names[n++] = q3_arena_printf(mem, PREFIX "%s.lora_A.weight", path);
        tensors[n] = p->lora_b;
        names[n++] = q3_arena_printf(mem, PREFIX "%s.lora_B.weight", path);
        if (!p->lora_a || !p->lora_b || !names[n - 1] || !names[n - 2])
            return Q3_ERR_MEMORY;
        tensors[n - 2]->name = names[n - 2];
        tensors[n - 1]->name = names[n - 1];
    }
    return q3_trainable_create(out, mem, model->values, tensors, names, n);
}

static void set_scales(q3_model *model, const q3_lora_config *config)
{
    for (int i = 0; i < model->n_projections; i++) {
        q3_proj *p = model->projections[i];
        if (!p->lora_a)
            continue;
        double r = (double)p->lora_a->shape[0];
        p->lora_scale = (float)(config->alpha / (config->use_rslora ? sqrt(r) : r));
        p->lora_dropout = (float)config->dropout;
    }
}

static q3_status draw_initial(q3_trainable *out, q3_model *model, q3_arena *mem, uint64_t seed)
{
    q3_mt19937 g;
    int slot = 0;
    size_t mark = q3_arena_mark(mem);
    if (out->dry)
        return Q3_OK;
    q3_mt19937_seed(&g, seed);
    for (int i = 0; i < model->n_projections; i++) {
        q3_proj *p = model->projections[i];
        if (!p->lora_a)
            continue;
        int64_t na = q3_numel(p->lora_a), nb = q3_numel(p->lora_b);
        for (int64_t k = 0; k < na + nb; k++)
            q3_mt19937_u32(&g); // nn.Linear's own initialization of A and B, thrown away by PEFT
        float bound = (float)(1.0 / sqrt((double)q3_dim(p->lora_a, 1)));
        float *a = Q3_NEW(mem, float, na);
        if (!a)
            return Q3_ERR_MEMORY;
        for (int64_t k = 0; k < na; k++)
            a[k] = q3_mt19937_uniform(&g, -bound, bound);
        Q3_TRY(q3_trainable_set(out, slot, a, Q3_F32));
        slot += 2; // A, and B behind it
        q3_arena_rewind(mem, mark);
        q3_device_fill(out->cuda, p->lora_b->data, 0, q3_nbytes(p->lora_b));
    }
    return Q3_OK;
}

/* Layers that PEFT would adapt and this program does not must not be passed over. */
static q3_status refuse_other_layers(const q3_lora_config *config)
{
    static const char *const others[] = { "lm_head", "model.language_model.embed_tokens",
                                          "model.visual.patch_embed.proj", "model.visual.pos_embed" };
    for (size_t i = 0; i < sizeof others / sizeof *others && !all_linear(config); i++) {
        bool hit;
        Q3_TRY(q3_lora_matches(&hit, config, others[i]));
        if (hit)
            return q3_fail(
                Q3_ERR_USAGE,
                "lora.target_modules matches %s, and adapters are for the linear layers of the decoder "
                "and of the vision blocks and mergers; name them more closely, e.g. attn.proj",
                others[i]);
    }
    return Q3_OK;
}

q3_status q3_lora_create(q3_trainable *out, q3_model *model, q3_arena *mem, const q3_lora_config *config,
                         uint64_t seed)
{
    int *rank = Q3_ZNEW(mem, int, model->n_projections + 1);
    int matched = 0;
    if (!rank)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < model->n_projections; i++) {
        bool hit;
        const char *path = q3_saved_name(mem, &model->config, model->projections[i]->path);
        if (!path)
            return Q3_ERR_MEMORY;
        Q3_TRY(q3_lora_matches(&hit, config, path));
        rank[i] = hit ? config->r : 0;
        matched += hit;
    }
    if (!matched)
        return q3_fail(
            Q3_ERR_USAGE,
            "lora.target_modules: \"%s\"%s matches no linear layer of the model; layers are called "
            "e.g. %s",
            config->targets[0], config->n_targets > 1 ? " and the others" : "",
            model->projections[model->n_projections - 1]->path);
    Q3_TRY(refuse_other_layers(config));
    Q3_TRY(lay_out(out, model, mem, rank));
    set_scales(model, config);
    return draw_initial(out, model, mem, seed);
}

/* Module paths of both classes of the reference: "model.language_model.layers.0.x" and "model.layers.0.x". */
static q3_proj *find_projection(const q3_model *model, const char *path, size_t n)
{
    static const char with[] = "model.language_model.", without[] = "model.";
    for (int i = 0; i < model->n_projections; i++) {
        q3_proj *p = model->projections[i];
        if (strlen(p->path) == n && strncmp(p->path, path, n) == 0)
            return p;
        const char *a = p->path, *b = path;
        if (n >= sizeof without - 1 && strncmp(a, with, sizeof with - 1) == 0 &&
            strncmp(b, without, sizeof without - 1) == 0) {
            a += sizeof with - 1;
            b += sizeof without - 1;
            size_t rest = n - (sizeof without - 1);
            if (strlen(a) == rest && strncmp(a, b, rest) == 0)
                return p;
        }
    }
    return NULL;
}

static q3_status tensor_place(q3_proj **p, bool *is_b, const q3_model *model, const q3_st_tensor *t,
                              const char *file)
{
    const char *name =
        strncmp(t->name, PREFIX, sizeof PREFIX - 1) == 0 ? t->name + sizeof PREFIX - 1 : t->name;
    const char *a = strstr(name, ".lora_A."), *b = strstr(name, ".lora_B."), *at = a ? a : b;
    *is_b = b != NULL;
    *p = at ? find_projection(model, name, (size_t)(at - name)) : NULL;
    if (!*p)
        return q3_fail(Q3_ERR_FORMAT,
                       "%s: tensor %s fits no linear layer of this model; is it an adapter for another one?",
                       file, t->name);
    int64_t want = q3_dim((*p)->w, *is_b ? 0 : 1);
    if (t->ndim != 2 || t->shape[*is_b ? 0 : 1] != want || t->shape[*is_b ? 1 : 0] < 1 ||
        (t->dtype != Q3_F32 && t->dtype != Q3_BF16 && t->dtype != Q3_F16))
        return q3_fail(
            Q3_ERR_FORMAT,
            "%s: tensor %s is %s %s, and the layer it is for is %s; is it an adapter for another model?",
            file, t->name, q3_st_shape(t), t->dtype_name, q3_shape((*p)->w));
    return Q3_OK;
}

/* found[2 i] and found[2 i + 1] are A and B of projection i; rank[i] is r, or 0 where the file has
 * neither. */
static q3_status find_pairs(const q3_st_tensor **found, int *rank, const q3_model *model, int r,
                            const q3_safetensors *file, const char *path)
{
    for (int64_t i = 0; i < q3_safetensors_count(file); i++) {
        const q3_st_tensor *t = q3_safetensors_at(file, i);
        q3_proj *p;
        bool is_b;
        Q3_TRY(tensor_place(&p, &is_b, model, t, path));
        const q3_st_tensor **place = &found[2 * p->stream + is_b];
        if (*place)
            return q3_fail(Q3_ERR_FORMAT, "%s: tensors %s and %s are for the same layer", path,
                           (*place)->name, t->name);
        *place = t;
    }
    for (int i = 0; i < model->n_projections; i++) {
        const q3_st_tensor *a = found[2 * i], *b = found[2 * i + 1];
        if (!a != !b || (a && a->shape[0] != b->shape[1]))
            return q3_fail(Q3_ERR_FORMAT, "%s: lora_A and lora_B of %s do not belong together", path,
                           model->projections[i]->path);
        if (a && a->shape[0] != r)
            return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s is %s, and adapter_config.json says r %d", path,
                           a->name, q3_st_shape(a), r);
        rank[i] = a ? r : 0;
    }
    return Q3_OK;
}

static q3_status bind_file(q3_trainable *out, q3_model *model, q3_arena *mem, int r,
                           const q3_safetensors *file, const char *path)
{
    int *rank = Q3_ZNEW(mem, int, model->n_projections + 1);
    const q3_st_tensor **found = Q3_ZNEW(mem, const q3_st_tensor *, 2 * model->n_projections + 1);
    if (!rank || !found)
        return Q3_ERR_MEMORY;
    Q3_TRY(find_pairs(found, rank, model, r, file, path));
    Q3_TRY(lay_out(out, model, mem, rank));
    if (!out->n_slots)
        return q3_fail(Q3_ERR_FORMAT, "%s: holds no adapter tensors", path);
    int slot = 0;
    for (int i = 0; i < 2 * model->n_projections; i++)
        if (found[i])
            Q3_TRY(q3_trainable_set(out, slot++, found[i]->data, found[i]->dtype));
    return Q3_OK;
}

/* Settings that change the mathematics and are not built must not be passed over. */
static q3_status refuse_unsupported(const q3_json *doc)
{
    static const char *const must_be_false[] = { "use_dora", "fan_in_fan_out", "use_qalora", "lora_bias" };
    static const char *const must_be_null[] = { "modules_to_save",
                                                "layer_replication",
                                                "trainable_token_indices",
                                                "target_parameters",
                                                "alora_invocation_tokens",
                                                "use_bdlora",
                                                "velora_config",
                                                "arrow_config",
                                                "kasa_config",
                                                "monteclora_config" };
    static const char *const must_be_empty[] = { "rank_pattern", "alpha_pattern" };
    const char *type;
    Q3_TRY(q3_json_string(&type, doc, doc->root, "peft_type", "LORA"));
    if (strcmp(type, "LORA") != 0)
        return q3_fail(Q3_ERR_FORMAT, "%s: peft_type is \"%s\"; only LORA is supported", doc->name, type);
    Q3_TRY(q3_json_string(&type, doc, doc->root, "bias", "none"));
    if (strcmp(type, "none") != 0)
        return q3_fail(Q3_ERR_FORMAT, "%s: bias is \"%s\"; only none is supported", doc->name, type);
    const char *bad = NULL;
    for (size_t i = 0; i < sizeof must_be_false / sizeof *must_be_false; i++)
        if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(doc->root, must_be_false[i])))
            bad = must_be_false[i];
    for (size_t i = 0; i < sizeof must_be_null / sizeof *must_be_null; i++) {
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(doc->root, must_be_null[i]);
        if (v && !cJSON_IsNull(v) && !cJSON_IsFalse(v))
            bad = must_be_null[i];
    }
    for (size_t i = 0; i < sizeof must_be_empty / sizeof *must_be_empty; i++)
        if (cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(doc->root, must_be_empty[i])) > 0)
            bad = must_be_empty[i];
    return bad ? q3_fail(Q3_ERR_FORMAT, "%s: %s is set, and adapters that use it are not supported",
                         doc->name, bad)
               : Q3_OK;
}

static q3_status read_targets(q3_lora_config *out, const q3_json *doc, q3_arena *mem)
{
    const cJSON *t = cJSON_GetObjectItemCaseSensitive(doc->root, "target_modules");
    int n = cJSON_IsArray(t) ? cJSON_GetArraySize(t) : 1;
    const char **names = Q3_ZNEW(mem, const char *, n + 1);
    if (!names)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < n; i++) {
        const cJSON *item = cJSON_IsArray(t) ? cJSON_GetArrayItem(t, i) : t;
        if (!cJSON_IsString(item))
            return q3_fail(Q3_ERR_FORMAT, "%s: target_modules must be a string or a list of strings",
                           doc->name);
        if (!(names[i] = q3_arena_strdup(mem, item->valuestring)))
            return Q3_ERR_MEMORY;
    }
    out->targets = names;
    out->n_targets = n;
    out->targets_is_pattern = !cJSON_IsArray(t);
    return Q3_OK;
}

static q3_status read_config(q3_lora_config *out, q3_arena *mem, const char *path)
{
    q3_json doc;
    Q3_TRY(q3_json_open(&doc, path, CONFIG_LIMIT));
    int64_t r = 8;
    const char *base = "";
    *out = (q3_lora_config){ 0 };
    q3_status st = refuse_unsupported(&doc);
    st = st ? st : q3_json_int(&r, &doc, doc.root, "r", 8);
    st = st ? st : q3_json_float(&out->alpha, &doc, doc.root, "lora_alpha", 8);
    st = st ? st : q3_json_float(&out->dropout, &doc, doc.root, "lora_dropout", 0);
    st = st ? st : q3_json_bool(&out->use_rslora, &doc, doc.root, "use_rslora", false);
    st = st ? st : q3_json_string(&base, &doc, doc.root, "base_model_name_or_path", "");
    st = st ? st : read_targets(out, &doc, mem);
    if (st == Q3_OK && (r < 1 || r > INT_MAX || !(out->dropout >= 0 && out->dropout < 1)))
        st = q3_fail(Q3_ERR_FORMAT,
                     "%s: r is %lld and lora_dropout %g; r must be positive, lora_dropout in [0, 1)",
                     doc.name, (long long)r, out->dropout);
    out->r = (int)r;
    if (st == Q3_OK && !(out->base = q3_arena_strdup(mem, base)))
        st = Q3_ERR_MEMORY;
    q3_json_close(&doc);
    return st;
}

q3_status q3_lora_config_load(q3_lora_config *out, q3_arena *mem, const char *dir)
{
    char *path = q3_path_join(dir, "adapter_config.json");
    q3_status st = path ? read_config(out, mem, path) : Q3_ERR_MEMORY;
    q3_free(path);
    return q3_status_as(st, Q3_ERR_MODEL);
}

static q3_status load(q3_trainable *out, q3_lora_config *config, q3_model *model, q3_arena *mem,
                      const char *dir)
{
    char *weights = q3_path_join(dir, "adapter_model.safetensors");
    q3_safetensors *file = NULL;
    q3_status st = weights ? q3_lora_config_load(config, mem, dir) : Q3_ERR_MEMORY;
    st = st ? st : q3_safetensors_open(&file, weights);
    st = st ? st : bind_file(out, model, mem, config->r, file, weights);
    if (st == Q3_OK)
        set_scales(model, config);
    q3_safetensors_close(file);
    q3_free(weights);
    return st;
}

q3_status q3_lora_load(q3_trainable *out, q3_lora_config *config, q3_model *model, q3_arena *mem,
                       const char *dir)
{
    return q3_status_as(load(out, config, model, mem, dir), Q3_ERR_MODEL);
}

static void write_targets(q3_text *t, const q3_lora_config *c)
{
    if (c->targets_is_pattern) {
        q3_text_json_string(t, c->targets[0], strlen(c->targets[0]));
        return;
    }
    q3_text_printf(t, "[");
    for (int i = 0; i < c->n_targets; i++) {
        q3_text_printf(t, "%s\n    ", i ? "," : "");
        q3_text_json_string(t, c->targets[i], strlen(c->targets[i]));
    }
    q3_text_printf(t, "\n  ]");
}

/* All keys of PEFT 0.21.2, sorted, as save_pretrained writes them. */
static void write_config(q3_text *t, const q3_lora_config *c)
{
    q3_text_printf(
        t, "{\n  \"alora_invocation_tokens\": null,\n  \"alpha_pattern\": {},\n  \"arrow_config\": null,\n"
           "  \"auto_mapping\": {\n    \"base_model_class\": \"Qwen3VLForConditionalGeneration\",\n"
           "    \"parent_library\": \"transformers.models.qwen3_vl.modeling_qwen3_vl\"\n  },\n"
           "  \"base_model_name_or_path\": ");
    q3_text_json_string(t, c->base ? c->base : "", strlen(c->base ? c->base : ""));
    q3_text_printf(
        t, ",\n  \"bias\": \"none\",\n  \"corda_config\": null,\n  \"ensure_weight_tying\": false,\n"
           "  \"eva_config\": null,\n  \"exclude_modules\": null,\n  \"fan_in_fan_out\": false,\n"
           "  \"inference_mode\": true,\n  \"init_lora_weights\": true,\n  \"kasa_config\": null,\n"
           "  \"layer_replication\": null,\n  \"layers_pattern\": null,\n  \"layers_to_transform\": null,\n"
           "  \"loftq_config\": {},\n  \"lora_alpha\": ");
    if (c->alpha == floor(c->alpha) && fabs(c->alpha) < 1e9)
        q3_text_printf(t, "%.0f", c->alpha);
    else
        q3_text_json_number(t, c->alpha);
    q3_text_printf(t, ",\n  \"lora_bias\": false,\n  \"lora_dropout\": ");
    q3_text_json_number(t, c->dropout);
    q3_text_printf(
        t,
        ",\n  \"lora_ga_config\": null,\n  \"megatron_config\": null,\n"
        "  \"megatron_core\": \"megatron.core\",\n  \"modules_to_save\": null,\n"
        "  \"monteclora_config\": null,\n  \"peft_type\": \"LORA\",\n  \"peft_version\": \"0.21.2\",\n"
        "  \"qalora_group_size\": 16,\n  \"r\": %d,\n  \"rank_pattern\": {},\n  \"revision\": ",
        c->r);
    if (c->revision)
        q3_text_json_string(t, c->revision, strlen(c->revision));
    else
        q3_text_printf(t, "null");
    q3_text_printf(t, ",\n  \"target_modules\": ");
    write_targets(t, c);
    q3_text_printf(t,
                   ",\n  \"target_parameters\": null,\n  \"task_type\": null,\n"
                   "  \"trainable_token_indices\": null,\n  \"use_bdlora\": null,\n  \"use_dora\": false,\n"
                   "  \"use_qalora\": false,\n  \"use_rslora\": %s,\n  \"velora_config\": null\n}",
                   c->use_rslora ? "true" : "false");
}

static q3_status save_weights(const q3_trainable *lora, const char *path)
{
    q3_st_tensor *t = q3_calloc((size_t)lora->n_slots, sizeof *t);
    if (!t)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < lora->n_slots; i++) {
        const q3_tensor *w = lora->slots[i].tensor;
        t[i] = (q3_st_tensor){ .name = lora->slots[i].name, .dtype = Q3_F32, .ndim = 2, .data = w->data };
        t[i].shape[0] = w->shape[0];
        t[i].shape[1] = w->shape[1];
    }
    q3_status st = q3_device_save(lora->cuda, path, t, lora->n_slots);
    q3_free(t);
    return st;
}

q3_status q3_lora_save(const q3_trainable *lora, const q3_lora_config *config, const char *dir)
{
    char *path = q3_path_join(dir, "adapter_config.json");
    char *weights = q3_path_join(dir, "adapter_model.safetensors");
    q3_text text = { 0 };
    write_config(&text, config);
    q3_status st =
        path && weights && !text.failed ? q3_file_write(path, text.data, text.size) : Q3_ERR_MEMORY;
    st = st ? st : save_weights(lora, weights);
    q3_text_free(&text);
    q3_free(path);
    q3_free(weights);
    return st;
}

void q3_lora_add(float *w, const q3_tensor *a, const q3_tensor *b, float scale)
{
    q3_gemm_nn_cpu(&(q3_gemm_nn_args){ .y = w,
                                       .x = b->data,
                                       .w = { .data = a->data, .dtype = Q3_F32 },
                                       .M = b->shape[0],
                                       .N = b->shape[1],
                                       .K = a->shape[1],
                                       .alpha = scale,
                                       .beta = 1,
                                       .dtype = Q3_F32 });
}
