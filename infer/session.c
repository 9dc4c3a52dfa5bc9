#include "infer/session.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "data/hub.h"
#include "infer/mirror.h"
#include "kernels/kv_cache.h"
#include "model/offload.h"
#include "model/split.h"

enum { ADAPTER_CONFIG_LIMIT = 1 << 20 }; // bytes of adapter_config.json

/* ---- which directories ---- */

/* What the directory of a model means: itself, or the base of the adapter in it. */
typedef struct places {
    const char *model;
    q3_session_adapter *adapters; // [n]
    int n;
} places;

static bool has(const char *dir, const char *name)
{
    char *path = q3_path_join(dir, name);
    bool there = path && q3_file_exists(path);
    q3_free(path);
    return there;
}

static q3_status base_of(const char **out, q3_arena *mem, const char *dir, const char *config)
{
    q3_json doc;
    const char *base, *revision = NULL;
    Q3_TRY(q3_status_as(q3_json_open(&doc, config, ADAPTER_CONFIG_LIMIT), Q3_ERR_MODEL));
    q3_status st = q3_json_string(&base, &doc, doc.root, "base_model_name_or_path", "");
    st = st ? st : q3_json_string(&revision, &doc, doc.root, "revision", NULL);
    *out = st == Q3_OK ? q3_arena_strdup(mem, base) : NULL;
    const q3_hub_options options = { .revision =
                                         revision && *revision ? q3_arena_strdup(mem, revision) : NULL };
    q3_json_close(&doc);
    if (st != Q3_OK || !*out)
        return st ? q3_status_as(st, Q3_ERR_MODEL) : Q3_ERR_MEMORY;
    const char *name = *out;
    Q3_TRY(q3_wrap(q3_hub_place(out, mem, name, &options), "the base of %s", dir));
    return has(*out, "config.json")
               ? Q3_OK
               : q3_fail(
                     Q3_ERR_MODEL,
                     "%s is an adapter for \"%s\", which is no model's directory here; give the model's with "
                     "--model and the adapter's with --adapter",
                     dir, name);
}

/* The last part of a path, whatever slashes it ends with; of "." the directory's, of a name of the hub without the
 * revision. */
static const char *name_of(q3_arena *mem, const char *path)
{
    char real[PATH_MAX];
    char *copy = q3_arena_strdup(mem, strcmp(path, ".") == 0 && realpath(path, real) ? real : path);
    size_t n = copy ? strlen(copy) : 0;
    while (n > 1 && copy[n - 1] == '/')
        copy[--n] = 0;
    q3_hub_repo repo;
    if (copy && !q3_dir_exists(copy) && q3_hub_parse(&repo, copy, Q3_HUB_MODEL))
        copy[strlen(repo.id)] = 0;
    return copy ? q3_path_base(copy) : NULL;
}

static q3_status find_places(places *out, q3_session *s, const q3_session_options *o)
{
    *out = (places){ .adapters = Q3_NEW(&s->ground.run, q3_session_adapter, o->n_adapters + 1) };
    Q3_TRY(q3_hub_place(&out->model, &s->ground.run, o->model, NULL));
    const char *given = out->model;
    char *config = q3_path_join(given, "adapter_config.json");
    bool lora = has(given, "adapter_config.json") && !has(given, "model.safetensors") &&
                !has(given, "model.safetensors.index.json"); // a run has a config.json, of another kind
    q3_status st = config && out->adapters && s->name ? Q3_OK : Q3_ERR_MEMORY;
    if (st == Q3_OK && lora) {
        st = base_of(&out->model, &s->ground.run, o->model, config);
        out->adapters[out->n++] = (q3_session_adapter){ .name = s->name, .dir = given };
    }
    q3_free(config);
    for (int i = 0; st == Q3_OK && i < o->n_adapters; i++) {
        const char *name = q3_arena_strdup(&s->ground.run, o->adapters[i].name); // outlives the options
        q3_session_adapter *a = &out->adapters[out->n++];
        a->name = name;
        st = name ? q3_hub_place(&a->dir, &s->ground.run, o->adapters[i].dir, NULL) : Q3_ERR_MEMORY;
    }
    return st;
}

/* ---- weights ---- */

static q3_status open_model(q3_session *s, const char *dir, const q3_session_options *o)
{
    q3_load_options load = { .values = &s->ground.values };
    Q3_TRY(q3_load_options_word(&load, o->weights ? o->weights : "auto"));
    return q3_model_load(&s->model, &s->ground.run, dir, &load);
}

/* ---- adapters ---- */

static q3_status merge(q3_session *s, const places *p)
{
    q3_adapters one;
    if (p->n != 1)
        return q3_fail(Q3_ERR_USAGE, "--merge is for one adapter, and there are %d", p->n);
    Q3_TRY(q3_adapters_create(&one, &s->ground.run, 1));
    Q3_TRY(q3_adapters_load(&one, &s->model, &s->ground.run, &s->ground.values, p->adapters[0].name,
                            p->adapters[0].dir));
    s->merged = p->adapters[0].name;
    return q3_adapter_merge(&s->model, &s->ground.values, &one.list[0]);
}

static q3_status open_adapters(q3_session *s, const places *p, const q3_session_options *o)
{
    Q3_TRY(q3_adapters_create(&s->adapters, &s->ground.run, p->n));
    if (o->merge)
        return merge(s, p);
    for (int i = 0; i < p->n; i++) {
        for (int k = 0; k < i; k++)
            if (strcmp(p->adapters[i].name, p->adapters[k].name) == 0)
                return q3_fail(Q3_ERR_USAGE, "two adapters are called \"%.60s\"; write --adapter NAME=DIR",
                               p->adapters[i].name);
        Q3_TRY(q3_adapters_load(&s->adapters, &s->model, &s->ground.run, &s->ground.values,
                                p->adapters[i].name, p->adapters[i].dir));
    }
    return Q3_OK;
}

q3_status q3_session_adapter_find(int *out, const q3_session *s, const char *name)
{
    *out = -1;
    if (!name || !*name || strcmp(name, "base") == 0 || (s->merged && strcmp(name, s->merged) == 0))
        return Q3_OK;
    for (int i = 0; i < s->adapters.n; i++)
        if (strcmp(name, s->adapters.list[i].name) == 0) {
            *out = i;
            return Q3_OK;
        }
    q3_text list = { 0 };
    for (int i = 0; i < s->adapters.n; i++)
        q3_text_printf(&list, ", %s", s->adapters.list[i].name);
    q3_status st = q3_fail(Q3_ERR_USAGE, "there is no adapter \"%.60s\"; there are: base%s", name,
                           list.data ? list.data : "");
    q3_text_free(&list);
    return st;
}

/* ---- processes ---- */

static const char *const split_words[] = { "none", "tensor", "pipeline", "sequence",
                                           NULL }; // as q3_split_kind

/* Processes and --parallel belong together. */
static q3_status join(q3_session *s, const q3_session_options *o)
{
    Q3_TRY(q3_group_join(&s->group));
    if (s->group && !o->parallel)
        return q3_fail(
            Q3_ERR_USAGE,
            "mpirun has started %d processes; say with --parallel how they share the model: tensor, pipeline "
            "or sequence",
            q3_group_size(s->group));
    if (!s->group && o->parallel)
        return q3_fail(Q3_ERR_USAGE, "--parallel %.20s needs several processes: mpirun -n 2 qwen3-sft ...",
                       o->parallel);
    if (q3_group_rank(s->group))
        q3_log_set_level(Q3_LOG_WARN); // the first says what there is to say
    return Q3_OK;
}

static q3_status spread(q3_session *s, const q3_session_options *o)
{
    int kind = 0;
    if (o->parallel)
        Q3_TRY(q3_word_find(&kind, split_words, o->parallel, "--parallel"));
    Q3_TRY(q3_model_split(&s->model, &s->adapters, &s->ground.run, &s->ground.values, (q3_split_kind)kind,
                          s->group));
    return o->offload ? q3_model_offload(&s->model, o->resident) : Q3_OK;
}

/* ---- device, tokenizer, engine ---- */

static q3_status open_ground(q3_session *s, const q3_session_options *o)
{
    return q3_ground_open(&s->ground, &(q3_ground_options){ o->device, o->dtype, o->attention });
}

static q3_status open_prompter(q3_session *s, const char *dir, const q3_session_options *o)
{
    Q3_TRY(q3_tokenizer_open(&s->tokenizer, dir));
    if (!q3_chat_template_known(dir))
        q3_warn(
            "%s: its chat template is none that this program writes out; the model may expect another form",
            dir);
    Q3_TRY(q3_prompter_init(&s->prompter, dir, s->tokenizer, &s->model.config));
    s->prompter.max_tokens = o->max_tokens;
    if (!s->model.config.has_vision) {
        if (o->min_pixels || o->max_pixels || o->image_width)
            return q3_fail(Q3_ERR_USAGE, "%s is a text-only model; leave out the options about pictures",
                           dir);
        return Q3_OK;
    }
    Q3_TRY(q3_vision_spec_limit(&s->prompter.vision, o->min_pixels, o->max_pixels));
    return o->image_width ? q3_prompter_fix_size(&s->prompter, o->image_width, o->image_height) : Q3_OK;
}

static const char *type_name(q3_dtype dtype)
{
    const char *name = q3_torch_dtype_name(dtype);
    return name ? name : dtype == Q3_I8 ? "int8" : dtype == Q3_I4 ? "int4" : dtype == Q3_NF4 ? "nf4" : "fp4";
}

static void tell(const q3_session *s, int64_t parameters)
{
    int64_t tokens = q3_engine_blocks(s->engine) * Q3_ENGINE_BLOCK;
    const q3_engine_options *e = q3_engine_settings(s->engine);
    const q3_model *m = &s->model;
    q3_info("model       %s: %s parameters, weights in %s", s->name, q3_count((uint64_t)parameters),
            type_name(m->n_projections ? m->projections[m->n_projections - 1]->w->dtype : Q3_F32));
    if (s->merged)
        q3_info("adapter     %s, merged into the weights", s->merged);
    for (int i = 0; i < s->adapters.n; i++)
        q3_info("adapter     %s", s->adapters.list[i].name);
    q3_info("device      %s, activations in %s", q3_device_describe(s->ground.cuda),
            type_name(s->ground.ctx.dtype));
    q3_info("cache       %lld tokens in %s (%s)", (long long)tokens, type_name(e->kv_type),
            q3_bytes((uint64_t)tokens * q3_cache_token_bytes(m, e->kv_type)));
    if (s->group)
        q3_info("processes   %d share the model (%s)", q3_group_size(s->group), split_words[m->split.kind]);
    if (m->offloading)
        q3_info("offload     %d of %d layers are read from their files at each pass",
                m->split.end - m->offload_from, m->split.end - m->split.first);
    if (e->window)
        q3_warn("a token sees the last %lld tokens only; the model was not trained so", (long long)e->window);
}

static q3_status open_all(q3_session *s, const q3_session_options *o)
{
    places p;
    int64_t text, vision;
    Q3_TRY(join(s, o));
    Q3_TRY(open_ground(s, o));
    s->name = name_of(&s->ground.run, o->model);
    Q3_TRY(find_places(&p, s, o));
    Q3_TRY(open_model(s, p.model, o));
    Q3_TRY(open_adapters(s, &p, o));
    q3_model_parameters(&s->model.config, &text, &vision); // those of all processes
    Q3_TRY(spread(s, o));
    Q3_TRY(open_prompter(s, p.model, o));
    Q3_TRY(q3_engine_create(&s->engine, &s->model, &s->ground.ctx, &s->adapters, &o->engine));
    Q3_TRY(q3_scheduler_create(&s->scheduler, s->engine, &o->scheduler));
    tell(s, text + vision);
    return Q3_OK;
}

q3_status q3_session_open(q3_session *out, const q3_session_options *options)
{
    *out = (q3_session){ 0 };
    if (!options->model)
        return q3_fail(Q3_ERR_USAGE, "no model is given; use --model DIR");
    q3_status st = open_all(out, options);
    if (st == Q3_OK && q3_group_rank(out->group)) {
        st = q3_mirror_follow(out->engine, out->group);
        st = st ? st : Q3_ENDED;
    } else if (st != Q3_OK) {
        out->group = NULL; // mpirun ends the others when this process has ended
    }
    if (st != Q3_OK)
        q3_session_close(out);
    return st;
}

void q3_session_close(q3_session *s)
{
    q3_scheduler_destroy(s->scheduler);
    q3_engine_destroy(s->engine);
    q3_tokenizer_close(s->tokenizer);
    q3_model_close(&s->model);
    q3_ground_close(&s->ground);
    q3_group_leave(s->group);
    *s = (q3_session){ 0 };
}
