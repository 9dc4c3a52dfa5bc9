#include "model/config.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "kernels/attention.h"

enum { MAX_CONFIG = 16 << 20 };

static const char *const architectures[] = { "Qwen3VLForConditionalGeneration", "Qwen3VLModel",
                                             "Qwen3ForCausalLM", "Qwen3Model" };

/* One object of the file and its name in messages: "text_config", or "" for the top level. */
typedef struct section {
    const q3_json *doc;
    const cJSON *object;
    const char *name;
} section;

/* Fails with "config.json:19:5: text_config.head_dim " in front of the sentence. */
static q3_status bad(const section *s, const char *key, const char *fmt, ...) Q3_PRINTF(3, 4);

static q3_status bad(const section *s, const char *key, const char *fmt, ...)
{
    char path[128], what[512];
    snprintf(path, sizeof path, "%s%s%s", s->name, *s->name ? "." : "", key);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    int line, column;
    if (q3_json_locate(s->doc, path, &line, &column))
        return q3_fail(Q3_ERR_MODEL, "%s:%d:%d: %s %s", s->doc->name, line, column, path, what);
    return q3_fail(Q3_ERR_MODEL, "%s: %s %s", s->doc->name, path, what);
}

static const cJSON *get(const section *s, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(s->object, key);
    return item && !cJSON_IsNull(item) ? item : NULL;
}

static bool is_integer(const cJSON *item)
{
    return cJSON_IsNumber(item) && item->valuedouble == floor(item->valuedouble) &&
           fabs(item->valuedouble) < 9e15;
}

static q3_status need_int(int64_t *out, const section *s, const char *key, int64_t min, int64_t max)
{
    const cJSON *item = get(s, key);
    if (!item)
        return bad(s, key, "is missing");
    if (!is_integer(item))
        return bad(s, key, "must be an integer");
    *out = (int64_t)item->valuedouble;
    if (*out < min || *out > max)
        return bad(s, key, "is %lld; expected %lld to %lld", (long long)*out, (long long)min, (long long)max);
    return Q3_OK;
}

/* One row of a table of sizes: where it goes, and its range. */
typedef struct size_field {
    const char *key;
    int *to;
    int min, max;
} size_field;

static q3_status need_sizes(const section *s, const size_field *fields, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int64_t value = 0;
        Q3_TRY(need_int(&value, s, fields[i].key, fields[i].min, fields[i].max));
        *fields[i].to = (int)value;
    }
    return Q3_OK;
}

static q3_status need_float(double *out, const section *s, const char *key, double min, double max)
{
    const cJSON *item = get(s, key);
    if (!item)
        return bad(s, key, "is missing");
    if (!cJSON_IsNumber(item))
        return bad(s, key, "must be a number");
    *out = item->valuedouble;
    if (!(*out >= min && *out <= max))
        return bad(s, key, "is %g; expected %g to %g", *out, min, max);
    return Q3_OK;
}

static q3_status maybe_bool(bool *out, const section *s, const char *key, bool def)
{
    const cJSON *item = get(s, key);
    *out = def;
    if (item && !cJSON_IsBool(item))
        return bad(s, key, "must be true or false");
    if (item)
        *out = cJSON_IsTrue(item);
    return Q3_OK;
}

/* A token id, -1 when absent. */
static q3_status maybe_id(int32_t *out, const section *s, const char *key, int vocab)
{
    int64_t id = -1;
    if (get(s, key))
        Q3_TRY(need_int(&id, s, key, 0, vocab - 1));
    *out = (int32_t)id;
    return Q3_OK;
}

static q3_status need_word(const section *s, const char *key, const char *word)
{
    const cJSON *item = get(s, key);
    if (!item)
        return bad(s, key, "is missing; expected \"%s\"", word);
    if (!cJSON_IsString(item) || strcmp(item->valuestring, word) != 0)
        return bad(s, key, "is %s; only \"%s\" is supported",
                   cJSON_IsString(item) ? item->valuestring : "no string", word);
    return Q3_OK;
}

static q3_status need_object(section *out, const section *s, const char *key, const char *name)
{
    *out = (section){ s->doc, get(s, key), name };
    if (!cJSON_IsObject(out->object))
        return bad(s, key, out->object ? "must be an object" : "is missing");
    return Q3_OK;
}

/* ---- rotary positions ---- */

static q3_status check_rope_type(const section *s)
{
    const char *key = get(s, "rope_type") ? "rope_type" : "type";
    const cJSON *type = get(s, key);
    if (type && !cJSON_IsString(type))
        return bad(s, key, "must be a string");
    if (type && strcmp(type->valuestring, "default") != 0 && strcmp(type->valuestring, "mrope") != 0)
        return bad(s, key,
                   "is %s; only \"default\" is supported (remove the scaling, or use a model without it)",
                   type->valuestring);
    return Q3_OK;
}

static q3_status read_sections(q3_text_config *t, const section *s)
{
    const cJSON *list = get(s, "mrope_section");
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != 3)
        return bad(s, "mrope_section", "must be a list of three sizes");
    int sum = 0;
    for (int i = 0; i < 3; i++) {
        const cJSON *item = cJSON_GetArrayItem(list, i);
        if (!is_integer(item) || item->valuedouble < 0 || item->valuedouble > t->head_dim)
            return bad(s, "mrope_section", "has sizes that head_dim %d cannot hold", t->head_dim);
        t->mrope_section[i] = item->valueint;
        sum += item->valueint;
    }
    if (sum != t->head_dim / 2)
        return bad(s, "mrope_section", "sums to %d; expected head_dim / 2 = %d", sum, t->head_dim / 2);
    bool interleaved;
    Q3_TRY(maybe_bool(&interleaved, s, "mrope_interleaved", true));
    return interleaved ? Q3_OK
                       : bad(s, "mrope_interleaved", "is false; only interleaved sections are supported");
}

/* 5.x files have rope_parameters, 4.x files rope_theta beside an optional rope_scaling. */
static q3_status read_rope(q3_text_config *t, const section *s, bool vision)
{
    char name[64];
    const char *key = get(s, "rope_parameters") ? "rope_parameters" : "rope_scaling";
    bool new_form = strcmp(key, "rope_parameters") == 0;
    snprintf(name, sizeof name, "%s%s%s", s->name, *s->name ? "." : "", key);
    section rope = { s->doc, NULL, name };
    if (get(s, key) || vision)
        Q3_TRY(need_object(&rope, s, key, name));
    Q3_TRY(need_float(&t->rope_theta, new_form ? &rope : s, "rope_theta", 1.0, 1e12));
    if (rope.object)
        Q3_TRY(check_rope_type(&rope));
    t->mrope = vision;
    t->mrope_section[0] = t->head_dim / 2;
    return vision ? read_sections(t, &rope) : Q3_OK;
}

/* ---- the decoder ---- */

/* What the reference could do and this program does not. */
static q3_status check_text_switches(const section *s)
{
    bool bias, window;
    Q3_TRY(need_word(s, "hidden_act", "silu"));
    Q3_TRY(maybe_bool(&bias, s, "attention_bias", false));
    if (bias)
        return bad(s, "attention_bias", "is true; projections with a bias are not supported");
    Q3_TRY(maybe_bool(&window, s, "use_sliding_window", false));
    if (window)
        return bad(s, "use_sliding_window", "is true; only full attention is supported");
    const cJSON *types = get(s, "layer_types"), *type;
    cJSON_ArrayForEach(type, types)
    {
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "full_attention") != 0)
            return bad(s, "layer_types",
                       "holds other types than \"full_attention\", which alone is supported");
    }
    const cJSON *dropout = get(s, "attention_dropout");
    if (dropout && !(cJSON_IsNumber(dropout) && dropout->valuedouble == 0.0))
        return bad(s, "attention_dropout", "must be 0; dropout of attention weights is not supported");
    return Q3_OK;
}

static q3_status read_text(q3_text_config *t, const section *s, bool vision)
{
    const size_field fields[] = {
        { "vocab_size", &t->vocab_size, 1, 1 << 24 },
        { "hidden_size", &t->hidden_size, 1, 1 << 16 },
        { "intermediate_size", &t->intermediate_size, 1, 1 << 20 },
        { "num_hidden_layers", &t->layers, 1, 1024 },
        { "num_attention_heads", &t->heads, 1, 1024 },
        { "num_key_value_heads", &t->kv_heads, 1, 1024 },
        { "head_dim", &t->head_dim, 2, Q3_ATTENTION_MAX_D },
    };
    Q3_TRY(need_sizes(s, fields, sizeof fields / sizeof *fields));
    if (t->heads % t->kv_heads)
        return bad(s, "num_key_value_heads", "is %d, which does not divide num_attention_heads, %d",
                   t->kv_heads, t->heads);
    if (t->head_dim % 2)
        return bad(s, "head_dim", "is %d; rotary positions need an even number", t->head_dim);
    double eps = 0.0;
    Q3_TRY(need_float(&eps, s, "rms_norm_eps", 1e-12, 0.1));
    t->rms_eps = (float)eps;
    Q3_TRY(need_int(&t->max_positions, s, "max_position_embeddings", 1, INT32_MAX));
    Q3_TRY(check_text_switches(s));
    return read_rope(t, s, vision);
}

/* ---- the vision tower ---- */

static q3_status read_deepstack(q3_vision_config *v, const section *s, int text_layers)
{
    const char *key = "deepstack_visual_indexes";
    const cJSON *list = get(s, key), *item;
    if (!cJSON_IsArray(list))
        return bad(s, key, "must be a list of block indices");
    cJSON_ArrayForEach(item, list)
    {
        if (v->n_deepstack == Q3_MAX_DEEPSTACK || v->n_deepstack == text_layers)
            return bad(s, key, "has more than %d entries", v->n_deepstack);
        if (!is_integer(item) || item->valuedouble < 0 || item->valuedouble >= v->depth)
            return bad(s, key, "names blocks outside 0 to %d (depth is %d)", v->depth - 1, v->depth);
        if (v->n_deepstack && item->valueint <= v->deepstack[v->n_deepstack - 1])
            return bad(s, key, "must rise");
        v->deepstack[v->n_deepstack++] = item->valueint;
    }
    return Q3_OK;
}

static q3_status read_vision(q3_vision_config *v, const section *s, const q3_text_config *text)
{
    const size_field fields[] = {
        { "hidden_size", &v->hidden_size, 1, 1 << 16 },
        { "intermediate_size", &v->intermediate_size, 1, 1 << 20 },
        { "depth", &v->depth, 1, 1024 },
        { "num_heads", &v->heads, 1, 1024 },
        { "patch_size", &v->patch_size, 1, 256 },
        { "temporal_patch_size", &v->temporal_patch_size, 1, 16 },
        { "spatial_merge_size", &v->merge_size, 1, 16 },
        { "in_channels", &v->channels, 3, 3 },
        { "num_position_embeddings", &v->positions, 1, 1 << 24 },
        { "out_hidden_size", &v->out_hidden_size, 1, 1 << 16 },
    };
    Q3_TRY(need_sizes(s, fields, sizeof fields / sizeof *fields));
    if (v->hidden_size % v->heads)
        return bad(s, "num_heads", "is %d, which does not divide hidden_size, %d", v->heads, v->hidden_size);
    if (v->hidden_size / v->heads % 4)
        return bad(s, "num_heads", "is %d: heads of %d; 2-D rotary positions need a multiple of 4", v->heads,
                   v->hidden_size / v->heads);
    if (v->hidden_size / v->heads > Q3_ATTENTION_MAX_D)
        return bad(s, "num_heads", "is %d: heads of %d; at most %d are supported", v->heads,
                   v->hidden_size / v->heads, Q3_ATTENTION_MAX_D);
    v->positions_side = (int)lround(sqrt(v->positions));
    if (v->positions_side * v->positions_side != v->positions)
        return bad(s, "num_position_embeddings", "is %d; expected a square number", v->positions);
    if (v->out_hidden_size != text->hidden_size)
        return bad(s, "out_hidden_size", "is %d; expected text_config.hidden_size, %d", v->out_hidden_size,
                   text->hidden_size);
    Q3_TRY(need_word(s, "hidden_act", "gelu_pytorch_tanh"));
    return read_deepstack(v, s, text->layers);
}

/* ---- the rest of config.json ---- */

const char *q3_torch_dtype_name(q3_dtype dtype)
{
    return dtype == Q3_F32 ? "float32" : dtype == Q3_BF16 ? "bfloat16" : dtype == Q3_F16 ? "float16" : NULL;
}

q3_dtype q3_torch_dtype_parse(const char *name)
{
    if (strncmp(name, "torch.", 6) == 0)
        name += 6;
    for (int i = Q3_F32; i <= Q3_F16; i++)
        if (strcmp(name, q3_torch_dtype_name((q3_dtype)i)) == 0)
            return (q3_dtype)i;
    return Q3_DTYPES;
}

static q3_dtype dtype_of(const section *s)
{
    const cJSON *item = get(s, "dtype") ? get(s, "dtype") : get(s, "torch_dtype");
    return cJSON_IsString(item) ? q3_torch_dtype_parse(item->valuestring) : Q3_DTYPES;
}

static q3_status read_skip(q3_quantization_config *q, q3_arena *mem, const section *s)
{
    const cJSON *list = get(s, "llm_int8_skip_modules"), *item;
    if (!list)
        return Q3_OK;
    if (!cJSON_IsArray(list))
        return bad(s, "llm_int8_skip_modules", "must be a list of module names");
    const char **skip = Q3_NEW(mem, const char *, cJSON_GetArraySize(list));
    if (!skip)
        return Q3_ERR_MEMORY;
    q->skip = skip;
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsString(item))
            return bad(s, "llm_int8_skip_modules", "must be a list of module names");
        if (!(skip[q->n_skip++] = q3_arena_strdup(mem, item->valuestring)))
            return Q3_ERR_MEMORY;
    }
    return Q3_OK;
}

static q3_status read_quantization(q3_quantization_config *q, q3_arena *mem, const section *top)
{
    section s;
    if (!get(top, "quantization_config"))
        return Q3_OK;
    Q3_TRY(need_object(&s, top, "quantization_config", "quantization_config"));
    Q3_TRY(need_word(&s, "quant_method", "bitsandbytes"));
    bool four, eight;
    Q3_TRY(maybe_bool(&four, &s, "load_in_4bit", false));
    Q3_TRY(maybe_bool(&eight, &s, "load_in_8bit", false));
    if (four == eight)
        return bad(&s, "load_in_4bit",
                   four ? "is true and so is load_in_8bit; a weight has one form"
                        : "is not true, nor is load_in_8bit; other forms are not supported");
    q->present = true;
    if (eight) {
        q->code = Q3_I8;
        q->compute = Q3_F32;
        return read_skip(q, mem, &s);
    }
    const cJSON *type = get(&s, "bnb_4bit_quant_type"), *compute = get(&s, "bnb_4bit_compute_dtype");
    const char *name = cJSON_IsString(type) ? type->valuestring : "fp4"; // the library's default
    if (strcmp(name, "nf4") != 0 && strcmp(name, "fp4") != 0)
        return bad(&s, "bnb_4bit_quant_type", "is %s; expected \"nf4\" or \"fp4\"", name);
    q->code = *name == 'n' ? Q3_NF4 : Q3_FP4;
    q->compute = cJSON_IsString(compute) ? q3_torch_dtype_parse(compute->valuestring) : Q3_F32;
    if (q->compute == Q3_DTYPES)
        return bad(&s, "bnb_4bit_compute_dtype", "is %s; expected float32, bfloat16 or float16",
                   compute->valuestring);
    Q3_TRY(maybe_bool(&q->nested, &s, "bnb_4bit_use_double_quant", false));
    return read_skip(q, mem, &s);
}

static bool known_architecture(const char *name)
{
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
        if (strcmp(name, architectures[i]) == 0)
            return true;
    return false;
}

static q3_status check_architecture(bool *vision, const section *top)
{
    const cJSON *type = get(top, "model_type"), *list = get(top, "architectures"), *name;
    const char *supported = "supported are Qwen3-VL (qwen3_vl) and text-only Qwen3 (qwen3)";
    if (!cJSON_IsString(type))
        return bad(top, "model_type", "is missing; %s", supported);
    *vision = strcmp(type->valuestring, "qwen3_vl") == 0;
    if (!*vision && strcmp(type->valuestring, "qwen3") != 0)
        return bad(top, "model_type", "is %s; %s", type->valuestring, supported);
    cJSON_ArrayForEach(name, list)
    {
        if (!cJSON_IsString(name) || !known_architecture(name->valuestring))
            return bad(top, "architectures",
                       "names %s; supported are Qwen3VLForConditionalGeneration and Qwen3ForCausalLM",
                       cJSON_IsString(name) ? name->valuestring : "no string");
    }
    return Q3_OK;
}

static q3_status read_ids(q3_model_config *c, const section *top, const section *text)
{
    int vocab = c->text.vocab_size;
    c->image_token = c->video_token = c->vision_start = c->vision_end = -1;
    Q3_TRY(maybe_id(&c->bos, text, "bos_token_id", vocab));
    Q3_TRY(maybe_id(&c->pad, text, "pad_token_id", vocab));
    if (!c->has_vision)
        return Q3_OK;
    Q3_TRY(maybe_id(&c->image_token, top, "image_token_id", vocab));
    Q3_TRY(maybe_id(&c->video_token, top, "video_token_id", vocab));
    Q3_TRY(maybe_id(&c->vision_start, top, "vision_start_token_id", vocab));
    Q3_TRY(maybe_id(&c->vision_end, top, "vision_end_token_id", vocab));
    if (c->image_token < 0)
        return bad(top, "image_token_id", "is missing");
    if (c->vision_start < 0)
        return bad(top, "vision_start_token_id", "is missing");
    return Q3_OK;
}

/* One id or a list of them. */
static q3_status read_eos(q3_generation_config *g, const section *s, int vocab)
{
    const cJSON *item = get(s, "eos_token_id");
    if (!item)
        return Q3_OK;
    g->n_eos = 0;
    const cJSON *id = cJSON_IsArray(item) ? item->child : item;
    for (; id; id = cJSON_IsArray(item) ? id->next : NULL) {
        if (!is_integer(id) || id->valuedouble < 0 || id->valuedouble >= vocab)
            return bad(s, "eos_token_id", "must be one or more token ids below %d", vocab);
        if (g->n_eos == Q3_MAX_EOS)
            return bad(s, "eos_token_id", "has more than %d entries", Q3_MAX_EOS);
        g->eos[g->n_eos++] = id->valueint;
    }
    return Q3_OK;
}

static q3_status read_model(q3_model_config *c, q3_arena *mem, const q3_json *doc)
{
    section top = { doc, doc->root, "" }, text = top;
    if (!cJSON_IsObject(doc->root))
        return q3_fail(Q3_ERR_MODEL, "%s: must hold a JSON object", doc->name);
    Q3_TRY(check_architecture(&c->has_vision, &top));
    if (c->has_vision)
        Q3_TRY(need_object(&text, &top, "text_config", "text_config"));
    Q3_TRY(read_text(&c->text, &text, c->has_vision));
    // absent in both places: whether lm_head.weight is in the checkpoint decides in the end
    Q3_TRY(maybe_bool(&c->text.tied, &text, "tie_word_embeddings", false));
    Q3_TRY(maybe_bool(&c->text.tied, &top, "tie_word_embeddings", c->text.tied));
    if (c->has_vision) {
        section vision;
        Q3_TRY(need_object(&vision, &top, "vision_config", "vision_config"));
        Q3_TRY(read_vision(&c->vision, &vision, &c->text));
    }
    Q3_TRY(read_ids(c, &top, &text));
    c->dtype = dtype_of(&top) != Q3_DTYPES ? dtype_of(&top) : dtype_of(&text);
    c->generation = (q3_generation_config){
        .pad = c->pad, .temperature = 1, .top_p = 1, .repetition_penalty = 1, .top_k = 50
    };
    Q3_TRY(read_eos(&c->generation, &text, c->text.vocab_size));
    return read_quantization(&c->quantization, mem, &top);
}

q3_status q3_model_config_parse(q3_model_config *out, q3_arena *mem, const char *text, size_t size,
                                const char *name)
{
    *out = (q3_model_config){ 0 };
    q3_json doc;
    Q3_TRY(q3_status_as(q3_json_parse(&doc, text, size, name, 1), Q3_ERR_MODEL));
    q3_status st = read_model(out, mem, &doc);
    char *raw = st == Q3_OK ? q3_arena_alloc(mem, size + 1) : NULL;
    if (st == Q3_OK && !raw)
        st = Q3_ERR_MEMORY;
    if (raw) {
        memcpy(raw, text, size);
        raw[size] = 0;
    }
    out->raw = raw;
    out->raw_bytes = size;
    q3_json_close(&doc);
    return st;
}

/* ---- generation_config.json ---- */

static q3_status maybe_float(float *out, const section *s, const char *key, double min, double max)
{
    double value = (double)*out;
    if (get(s, key))
        Q3_TRY(need_float(&value, s, key, min, max));
    *out = (float)value;
    return Q3_OK;
}

static q3_status maybe_count(int64_t *out, const section *s, const char *key)
{
    return get(s, key) ? need_int(out, s, key, 1, INT32_MAX) : Q3_OK;
}

/* One text or a list of them. */
static q3_status read_stops(q3_generation_config *g, const section *s)
{
    const cJSON *item = get(s, "stop_strings");
    if (!item)
        return Q3_OK;
    const cJSON *stop = cJSON_IsArray(item) ? item->child : item;
    for (; stop; stop = cJSON_IsArray(item) ? stop->next : NULL) {
        size_t n = cJSON_IsString(stop) ? strlen(stop->valuestring) : 0;
        if (n == 0 || n >= Q3_STOP_BYTES)
            return bad(s, "stop_strings", "must be one or more texts of 1 to %d bytes", Q3_STOP_BYTES - 1);
        if (g->n_stops == Q3_MAX_STOPS)
            return bad(s, "stop_strings", "has more than %d entries", Q3_MAX_STOPS);
        memcpy(g->stops[g->n_stops++], stop->valuestring, n + 1);
    }
    return Q3_OK;
}

static q3_status read_generation(q3_generation_config *g, const section *s, int vocab)
{
    Q3_TRY(read_eos(g, s, vocab));
    if (get(s, "pad_token_id"))
        Q3_TRY(maybe_id(&g->pad, s, "pad_token_id", vocab));
    Q3_TRY(maybe_bool(&g->do_sample, s, "do_sample", false));
    Q3_TRY(maybe_float(&g->temperature, s, "temperature", 0.0, 1e3));
    Q3_TRY(maybe_float(&g->top_p, s, "top_p", 0.0, 1.0));
    Q3_TRY(maybe_float(&g->repetition_penalty, s, "repetition_penalty", 1e-3, 1e3));
    Q3_TRY(maybe_float(&g->min_p, s, "min_p", 0.0, 1.0));
    Q3_TRY(maybe_float(&g->presence_penalty, s, "presence_penalty", -100.0, 100.0));
    Q3_TRY(maybe_float(&g->frequency_penalty, s, "frequency_penalty", -100.0, 100.0));
    Q3_TRY(maybe_count(&g->max_new_tokens, s, "max_new_tokens"));
    Q3_TRY(maybe_count(&g->max_length, s, "max_length"));
    Q3_TRY(read_stops(g, s));
    int64_t k = g->top_k;
    if (get(s, "top_k"))
        Q3_TRY(need_int(&k, s, "top_k", 0, INT32_MAX));
    g->top_k = (int)k;
    return Q3_OK;
}

q3_status q3_generation_config_parse(q3_model_config *out, const char *text, size_t size, const char *name)
{
    q3_json doc;
    Q3_TRY(q3_status_as(q3_json_parse(&doc, text, size, name, 1), Q3_ERR_MODEL));
    section top = { &doc, doc.root, "" };
    q3_status st = cJSON_IsObject(doc.root) ? read_generation(&out->generation, &top, out->text.vocab_size)
                                            : q3_fail(Q3_ERR_MODEL, "%s: must hold a JSON object", name);
    q3_json_close(&doc);
    return st;
}

static q3_status load_generation(q3_model_config *out, const char *dir)
{
    char *text = NULL, *path = q3_path_join(dir, "generation_config.json");
    size_t size = 0;
    q3_status st = path ? Q3_OK : Q3_ERR_MEMORY;
    if (st == Q3_OK && q3_file_exists(path)) {
        st = q3_status_as(q3_file_read(&text, &size, path, MAX_CONFIG), Q3_ERR_MODEL);
        if (st == Q3_OK)
            st = q3_generation_config_parse(out, text, size, path);
    }
    q3_free(text);
    q3_free(path);
    return st;
}

q3_status q3_model_config_load(q3_model_config *out, q3_arena *mem, const char *dir)
{
    char *text = NULL, *path = q3_path_join(dir, "config.json");
    size_t size = 0;
    q3_status st =
        path ? q3_status_as(q3_file_read(&text, &size, path, MAX_CONFIG), Q3_ERR_MODEL) : Q3_ERR_MEMORY;
    if (st == Q3_OK)
        st = q3_model_config_parse(out, mem, text, size, path);
    if (st == Q3_OK)
        st = load_generation(out, dir);
    q3_free(text);
    q3_free(path);
    return st;
}

/* ---- parameter counts ---- */

void q3_model_parameters(const q3_model_config *c, int64_t *text, int64_t *vision)
{
    const q3_text_config *t = &c->text;
    const q3_vision_config *v = &c->vision;
    int64_t H = t->hidden_size, d = t->head_dim, q = t->heads * d, kv = t->kv_heads * d, V = t->vocab_size;
    int64_t layer = 2 * H * q + 2 * H * kv + 3 * H * t->intermediate_size + 2 * H + 2 * d;
    *text = t->layers * layer + V * H * (t->tied ? 1 : 2) + H;
    *vision = 0;
    if (!c->has_vision)
        return;
    int64_t D = v->hidden_size, I = v->intermediate_size, M = D * v->merge_size * v->merge_size,
            O = v->out_hidden_size;
    int64_t patch = (int64_t)v->channels * v->temporal_patch_size * v->patch_size * v->patch_size;
    int64_t block = 4 * D * D + 4 * D + 2 * D * I + I + D + 4 * D;
    int64_t merger = M * M + M + O * M + O; // without its norm: D wide in the last one, M in the others
    *vision = patch * D + D + v->positions * D + v->depth * block + merger + 2 * D +
              v->n_deepstack * (merger + 2 * M);
}
