#include <math.h>
#include <stdio.h>
#include <string.h>

#include "collate/chat_template.h"
#include "core/file.h"
#include "core/log.h"
#include "data/hub.h"
#include "model/weights.h"
#include "train/trainer.h"

#define RUN_BYTES ((size_t)1 << 40) // reserved addresses, not memory
#define STEP_BYTES ((size_t)1 << 40)

static q3_status open_model(q3_trainer *t)
{
    const q3_config *c = t->config;
    const q3_load_options options = { .load_in_4bit = c->quantization.load_in_4bit,
                                      .load_in_8bit = c->quantization.load_in_8bit,
                                      .code = c->quantization.bnb_4bit_quant_type == Q3_CONFIG_QUANT_FP4
                                                  ? Q3_FP4
                                                  : Q3_NF4,
                                      .double_quant = c->quantization.bnb_4bit_use_double_quant,
                                      .skip = c->quantization.skip_modules.items,
                                      .n_skip = c->quantization.skip_modules.n,
                                      .random = c->model.init == Q3_CONFIG_INIT_RANDOM,
                                      .seed = (uint64_t)c->train.seed,
                                      .values = &t->values };
    Q3_TRY(q3_hub_place(&t->model_dir, &t->run, c->model.path,
                        &(q3_hub_options){ .wish.light = options.random }));
    Q3_TRY(q3_model_load(&t->model, &t->run, t->model_dir, &options));
    q3_model_parameters(&t->model.config, &t->text_params, &t->vision_params);
    return Q3_OK;
}

/* The base as PEFT writes it: a name of the hub and its revision are two things. */
static q3_status name_base(q3_lora_config *lora, q3_arena *mem, const char *path)
{
    q3_hub_repo repo;
    lora->base = path;
    if (q3_dir_exists(path) || !q3_hub_parse(&repo, path, Q3_HUB_MODEL))
        return Q3_OK;
    lora->base = q3_arena_strdup(mem, repo.id);
    lora->revision = repo.pinned ? q3_arena_strdup(mem, repo.revision) : NULL;
    return lora->base && (lora->revision || !repo.pinned) ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_status open_trainable(q3_trainer *t)
{
    const q3_config *c = t->config;
    if (c->train.tune == Q3_CONFIG_TUNE_FULL)
        return q3_model_train_all(&t->trainable, &t->model, &t->run);
    t->lora = (q3_lora_config){ .r = (int)c->lora.r,
                                .alpha = (double)c->lora.lora_alpha,
                                .dropout = c->lora.lora_dropout,
                                .use_rslora = c->lora.use_rslora,
                                .targets = c->lora.target_modules.items,
                                .n_targets = c->lora.target_modules.n,
                                .targets_is_pattern = c->lora.target_modules.pattern };
    Q3_TRY(name_base(&t->lora, &t->run, c->model.path));
    if (!c->lora.init_adapter)
        return q3_lora_create(&t->trainable, &t->model, &t->run, &t->lora, (uint64_t)c->train.seed);
    q3_lora_config file;
    const char *dir;
    Q3_TRY(q3_hub_place(&dir, &t->run, c->lora.init_adapter, NULL));
    Q3_TRY(q3_lora_load(&t->trainable, &file, &t->model, &t->run, dir));
    if (file.r != t->lora.r || file.alpha != t->lora.alpha || file.use_rslora != t->lora.use_rslora)
        return q3_fail(Q3_ERR_USAGE,
                       "%s has r %d, lora_alpha %g, use_rslora %s, and the config asks for %d, %g, %s; make "
                       "lora.r, lora.lora_alpha and lora.use_rslora agree",
                       c->lora.init_adapter, file.r, file.alpha, file.use_rslora ? "true" : "false",
                       t->lora.r, t->lora.alpha, t->lora.use_rslora ? "true" : "false");
    file.dropout = t->lora.dropout;
    file.base = t->lora.base;
    file.revision = t->lora.revision;
    t->lora = file;
    for (int i = 0; i < t->model.n_projections; i++)
        t->model.projections[i]->lora_dropout = (float)file.dropout;
    return Q3_OK;
}

/* To evaluate: the adapter as its file describes it, or none. */
static q3_status open_adapter(q3_trainer *t)
{
    const char *dir = t->config->lora.init_adapter;
    if (!dir)
        return Q3_OK;
    Q3_TRY(q3_hub_place(&dir, &t->run, dir, NULL));
    Q3_TRY(q3_lora_load(&t->trainable, &t->lora, &t->model, &t->run, dir));
    return q3_trainable_shadow(&t->trainable, &t->values, t->ctx.dtype);
}

int64_t q3_trainer_parameters(const q3_trainer *t)
{
    return t->text_params + t->vision_params + (t->lora.r ? t->trainable.n : 0);
}

static void count_trainable(q3_trainer *t)
{
    for (int i = 0; i < t->trainable.n_slots; i++) {
        const q3_trainable_slot *s = &t->trainable.slots[i];
        *(strstr(s->name, "visual.") ? &t->trainable_vision : &t->trainable_text) += s->n;
    }
}

static q3_status open_collator(q3_trainer *t)
{
    q3_config *c = t->config;
    const q3_model_config *m = &t->model.config;
    if (!m->has_vision)
        return q3_fail(Q3_ERR_MODEL, "%s: a text-only model; vision fine-tuning needs a Qwen3-VL model",
                       t->model_dir);
    Q3_TRY(q3_tokenizer_open(&t->tokenizer, t->model_dir));
    if (!q3_chat_template_known(t->model_dir))
        q3_warn("%s: its chat template is not that of Qwen3-VL-Instruct, which this program writes out; the "
                "model may "
                "expect another form",
                t->model_dir);
    Q3_TRY(q3_collator_init(&t->collator, t->model_dir, t->tokenizer, m->image_token, m->video_token,
                            m->text.vocab_size));
    int64_t min = c->data.min_pixels, max = c->data.max_pixels;
    Q3_TRY(q3_vision_spec_limit(&t->collator.vision, min > 0 ? min : 0, max > 0 ? max : 0));
    Q3_TRY(q3_vision_spec_check(&t->collator.vision, &m->vision, t->model_dir));
    t->collator.image.max_side = (int)c->data.max_side;
    t->collator.max_length = c->collator.max_length;
    t->collator.on_overflow = (q3_overflow)c->collator.on_overflow;
    t->collator.last_only = c->collator.train_on == Q3_CONFIG_TRAIN_ON_LAST;
    return q3_config_system_prompt(&t->collator.system_prompt, c);
}

static q3_data_keys keys_of(const q3_config *c)
{
    return (q3_data_keys){ .image_key = c->data.image_key,
                           .image_template = c->data.image_template,
                           .query_key = c->data.query_key,
                           .question = c->data.query,
                           .caption_key = c->data.caption_key,
                           .target_key = c->data.target_key,
                           .label_key = c->data.label_key,
                           .label_names = c->data.label_names.items,
                           .n_label_names = c->data.label_names.n,
                           .messages_key = c->data.messages_key,
                           .images_key = c->data.images_key,
                           .target_template = c->data.target_template,
                           .need_target = true,
                           .allow_text_only = c->data.allow_text_only };
}

/* Opens what a setting names; *place becomes the path that it means. */
static q3_status open_named(q3_dataset **out, q3_trainer *t, const char **place, const char *path,
                            const char *setting)
{
    const q3_data_keys keys = keys_of(t->config);
    Q3_TRY(q3_wrap(q3_dataset_place(place, &t->run, path), "%s", setting));
    q3_status st = q3_dataset_check(*place);
    if (st == Q3_ERR_DATA)
        return q3_fail(st, "%s; %s is relative to the working directory", q3_error(), setting);
    return st == Q3_OK ? q3_dataset_open(out, *place, &keys) : st;
}

static int64_t at_most(int64_t n, int64_t limit)
{
    return limit > 0 && limit < n ? limit : n;
}

/* Opens `split` of the training directory if it is there. */
static q3_status open_split(q3_trainer *t, const char *split)
{
    q3_data_keys keys = keys_of(t->config);
    bool found;
    Q3_TRY(q3_dataset_has_split(&found, t->train_place, split));
    if (!found)
        return Q3_OK;
    keys.split = t->eval_name = split;
    return q3_dataset_open(&t->eval_data, t->train_place, &keys);
}

static q3_status open_named_split(q3_trainer *t)
{
    const q3_config_data *c = &t->config->data;
    if (!q3_dir_exists(t->train_place))
        return q3_fail(Q3_ERR_USAGE, "data.eval_split is \"%s\", and %s has no splits; set data.eval instead",
                       c->eval_split, c->train);
    Q3_TRY(open_split(t, c->eval_split));
    if (t->eval_data)
        return Q3_OK;
    return q3_fail(Q3_ERR_DATA, "data.eval_split \"%s\": %s has no such split beside the training data",
                   c->eval_split, c->train);
}

/* data.eval; else a split of the training directory: the one named, validation, test; else a slice of train. */
static q3_status open_eval(q3_trainer *t)
{
    const q3_config_data *c = &t->config->data;
    const char *place;
    t->eval_name = "eval";
    if (c->eval)
        Q3_TRY(open_named(&t->eval_data, t, &place, c->eval, "data.eval"));
    else if (c->eval_split)
        Q3_TRY(open_named_split(t));
    else if (q3_dir_exists(t->train_place)) {
        Q3_TRY(open_split(t, "validation"));
        if (!t->eval_data)
            Q3_TRY(open_split(t, "test"));
    }
    if (t->eval_data) {
        t->n_eval = at_most(q3_dataset_size(t->eval_data), c->max_eval_samples);
        return Q3_OK;
    }
    t->eval_data = t->train_data;
    t->eval_name = "train_slice";
    t->n_eval = at_most(t->n_train, c->max_eval_samples > 0 ? c->max_eval_samples : 256);
    q3_info("no evaluation data: evaluating the first %lld training samples (train_slice)",
            (long long)t->n_eval);
    return Q3_OK;
}

static q3_status open_data(q3_trainer *t)
{
    const q3_config *c = t->config;
    if (!c->data.train)
        return q3_fail(Q3_ERR_USAGE, "data.train is not set: which samples shall be trained on?");
    Q3_TRY(open_named(&t->train_data, t, &t->train_place, c->data.train, "data.train"));
    t->n_train = at_most(q3_dataset_size(t->train_data), c->data.max_train_samples);
    return open_eval(t);
}

static void count_steps(q3_trainer *t)
{
    const q3_config_train *c = &t->config->train;
    t->accumulation = c->gradient_accumulation_steps;
    t->per_epoch = (t->n_train + c->per_device_train_batch_size - 1) / c->per_device_train_batch_size;
    t->updates = (t->per_epoch + t->accumulation - 1) / t->accumulation;
    t->total_steps =
        c->max_steps > 0 ? c->max_steps : (int64_t)ceil(c->num_train_epochs * (double)t->updates);
    int64_t warmup =
        c->warmup_steps >= 0 ? c->warmup_steps : q3_schedule_warmup(t->total_steps, c->warmup_ratio);
    t->schedule = (q3_schedule){ .kind = (q3_schedule_kind)c->lr_scheduler_type,
                                 .lr = c->learning_rate,
                                 .min_lr_rate = c->min_lr_rate,
                                 .warmup_steps = warmup,
                                 .total_steps = t->total_steps };
}

static q3_status open_optimizer(q3_trainer *t)
{
    const q3_config_train *c = &t->config->train;
    q3_param *table = Q3_NEW(&t->run, q3_param, t->trainable.n_slots + 1);
    if (!table)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < t->trainable.n_slots; i++) {
        const q3_trainable_slot *s = &t->trainable.slots[i];
        table[i] = (q3_param){ s->name, s->offset, s->n, q3_param_decays(s->name) };
    }
    t->params = (q3_params){
        .values = t->trainable.values, .total = t->trainable.n, .table = table, .n = t->trainable.n_slots
    };
    t->parts = Q3_NEW(&t->run, q3_window_part, t->accumulation);
    if (!t->parts)
        return Q3_ERR_MEMORY;
    const q3_adamw_hyper hyper = { c->adam_beta1, c->adam_beta2, c->adam_epsilon, c->weight_decay };
    Q3_TRY(q3_clip_create(&t->clip, &t->run, &t->values, &t->params));
    return q3_optimizer_create(&t->optimizer, &t->run, &t->values, (q3_optimizer_kind)c->optim, &t->params,
                               &hyper);
}

static q3_status open_device(q3_trainer *t)
{
    const q3_config_model *c = &t->config->model;
    char own[16];
    Q3_TRY(q3_device_open(&t->cuda, q3_ranks_device(own, t->ranks.group, c->device)));
    Q3_TRY(q3_ranks_open(&t->ranks, t->ranks.group, t->cuda));
    if (!t->cuda && c->dtype == Q3_CONFIG_DTYPE_BFLOAT16)
        return q3_fail(Q3_ERR_USAGE,
                       "model.dtype is bfloat16, and the CPU computes in float32: use auto or float32");
    return Q3_OK;
}

static q3_status need_model(const q3_trainer *t)
{
    return t->config->model.path ? Q3_OK : q3_fail(Q3_ERR_USAGE, "model.path is not set: which model?");
}

static q3_status open_ground(q3_trainer *t)
{
    Q3_TRY(open_device(t));
    Q3_TRY(q3_arena_create(&t->run, "run arena", RUN_BYTES));
    Q3_TRY(q3_device_arena_create(&t->values, t->cuda, "parameters", RUN_BYTES));
    Q3_TRY(q3_device_arena_create(&t->step, t->cuda, "step arena", STEP_BYTES));
    Q3_TRY(q3_ctx_create(&t->ctx, &t->step));
    const q3_config_model *c = &t->config->model;
    bool known = c->attention <= Q3_CONFIG_ATTENTION_REFERENCE; // the others are other trainers' names
    t->ctx.dtype = t->cuda && c->dtype != Q3_CONFIG_DTYPE_FLOAT32 ? Q3_BF16 : Q3_F32;
    q3_device_set_attention(t->cuda, known ? (q3_attention_kind)c->attention : Q3_ATTENTION_AUTO,
                            t->ctx.dtype);
    q3_device_set_deterministic(t->cuda, c->deterministic);
    t->ctx.seed = (uint64_t)t->config->train.seed;
    return need_model(t);
}

/* Training data may use all of the memory for features; evaluation data, which are few, as much again. */
static q3_status open_pictures(q3_trainer *t)
{
    int64_t mib = t->config->model.feature_cache;
    if (mib == Q3_CONFIG_UNSET)
        mib = t->cuda ? 0 : 1024; // a resumed run must see the bits of one that was not interrupted
    size_t bytes = (size_t)mib << 20;
    Q3_TRY(q3_pictures_create(&t->train_pictures, &t->model, q3_dataset_size(t->train_data), bytes));
    if (t->eval_data != t->train_data)
        return q3_pictures_create(&t->eval_pictures, &t->model, q3_dataset_size(t->eval_data), bytes);
    t->eval_pictures = t->train_pictures;
    return Q3_OK;
}

/* Bytes filled since `before`, which is set to what is filled now. */
static size_t filled(const q3_trainer *t, size_t *before)
{
    size_t now = t->run.used + t->values.used, bytes = now - *before;
    *before = now;
    return bytes;
}

static q3_status open_run(q3_trainer *t)
{
    size_t before = 0;
    t->forward.training = true;
    Q3_TRY(open_data(t)); // cheap checks first
    Q3_TRY(open_model(t));
    Q3_TRY(open_collator(t));
    t->bytes.weights = filled(t, &before);
    Q3_TRY(open_trainable(t));
    Q3_TRY(q3_trainable_shadow(&t->trainable, &t->values, t->ctx.dtype));
    t->bytes.trainable = filled(t, &before);
    count_trainable(t);
    count_steps(t);
    Q3_TRY(open_pictures(t));
    Q3_TRY(open_optimizer(t));
    t->bytes.optimizer = filled(t, &before);
    return Q3_OK;
}

static q3_status open_all(q3_trainer *t)
{
    Q3_TRY(open_ground(t));
    return open_run(t);
}

static q3_status open_dry(q3_trainer *t)
{
    Q3_TRY(open_ground(t));
    t->values.dry = true;
    return open_run(t);
}

static q3_status open_for_eval(q3_trainer *t)
{
    Q3_TRY(open_ground(t));
    if (t->config->data.eval)
        Q3_TRY(open_eval(t));
    else
        Q3_TRY(open_data(t));
    Q3_TRY(open_model(t));
    Q3_TRY(open_collator(t));
    return open_adapter(t);
}

static q3_status open_data_alone(q3_trainer *t)
{
    const q3_hub_options light = { .wish.light = true };
    Q3_TRY(q3_arena_create(&t->run, "run arena", RUN_BYTES));
    Q3_TRY(need_model(t));
    Q3_TRY(open_data(t));
    Q3_TRY(q3_hub_place(&t->model_dir, &t->run, t->config->model.path, &light));
    Q3_TRY(q3_model_config_load(&t->model.config, &t->run, t->model_dir));
    return open_collator(t);
}

static q3_status open_with(q3_trainer *out, q3_config *config, q3_group *group,
                           q3_status (*open)(q3_trainer *))
{
    *out = (q3_trainer){ .config = config, .ranks.group = group };
    q3_state_init(&out->state);
    q3_status st = open(out);
    if (st != Q3_OK)
        q3_trainer_close(out);
    return st;
}

q3_status q3_trainer_open(q3_trainer *out, q3_config *config, q3_group *group)
{
    return open_with(out, config, group, open_all);
}

q3_status q3_trainer_open_dry(q3_trainer *out, q3_config *config)
{
    return open_with(out, config, NULL, open_dry);
}

q3_status q3_trainer_open_eval(q3_trainer *out, q3_config *config)
{
    return open_with(out, config, NULL, open_for_eval);
}

q3_status q3_trainer_open_data(q3_trainer *out, q3_config *config)
{
    return open_with(out, config, NULL, open_data_alone);
}

void q3_trainer_close(q3_trainer *t)
{
    q3_state_free(&t->state);
    if (t->eval_pictures != t->train_pictures)
        q3_pictures_destroy(t->eval_pictures);
    q3_pictures_destroy(t->train_pictures);
    if (t->eval_data != t->train_data)
        q3_dataset_close(t->eval_data);
    q3_dataset_close(t->train_data);
    q3_tokenizer_close(t->tokenizer);
    q3_model_close(&t->model);
    q3_ctx_destroy(&t->ctx);
    q3_arena_destroy(&t->step);
    q3_arena_destroy(&t->values);
    q3_arena_destroy(&t->run);
    q3_ranks_close(&t->ranks);
    q3_device_close(t->cuda);
    *t = (q3_trainer){ 0 };
}
