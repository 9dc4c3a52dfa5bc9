/* The rules between keys (see q3_config_check). A rule names every key it is about and a way out. */
#include <string.h>

#include "core/device.h"
#include "train/config.h"

static bool given(const q3_config *cfg, int id)
{
    return cfg->places[id].origin != Q3_ORIGIN_DEFAULT;
}

/* The sentence with the place of key `id` in front. */
#define BREACH(cfg, id, ...) breach((cfg), (id), q3_fail(Q3_ERR_USAGE, __VA_ARGS__))

static q3_status breach(const q3_config *cfg, int id, q3_status st)
{
    char where[4200];
    q3_config_where(where, sizeof where, cfg, id);
    return q3_prefix(st, where);
}

static q3_status check_build(const q3_config *cfg)
{
    const char *device = cfg->model.device;
    bool cpu = strcmp(device, "cpu") == 0 || (!q3_device_built() && strcmp(device, "auto") == 0);
    if (!q3_device_is_name(device))
        return BREACH(cfg, Q3_KEY_model_device,
                      "\"model.device\" is \"%.60s\"; it must be auto, cpu, cuda or cuda:N", device);
    if (!q3_device_built() && strncmp(device, "cuda", 4) == 0)
        return BREACH(cfg, Q3_KEY_model_device,
                      "\"model.device\" is \"%.60s\"; this build has no CUDA: use auto or cpu", device);
    if (cpu && cfg->model.dtype == Q3_CONFIG_DTYPE_BFLOAT16)
        return BREACH(cfg, Q3_KEY_model_dtype,
                      "\"model.dtype\" is \"bfloat16\"; the CPU computes in float32: use auto or float32");
    q3_config_dtype expanded = cfg->quantization.bnb_4bit_compute_dtype;
    if (expanded != Q3_CONFIG_DTYPE_AUTO && expanded != cfg->model.dtype &&
        !(cpu && expanded == Q3_CONFIG_DTYPE_FLOAT32))
        return BREACH(cfg, Q3_KEY_quantization_bnb_4bit_compute_dtype,
                      "\"quantization.bnb_4bit_compute_dtype\" is \"%s\"; 4-bit weights are expanded to the "
                      "type of the "
                      "activations, \"model.dtype\": use auto, or set both to the same",
                      expanded == Q3_CONFIG_DTYPE_BFLOAT16 ? "bfloat16" : "float32");
    return Q3_OK;
}

static q3_status check_quantization(const q3_config *cfg)
{
    if (cfg->quantization.load_in_4bit && cfg->quantization.load_in_8bit)
        return BREACH(
            cfg, Q3_KEY_quantization_load_in_8bit,
            "\"quantization.load_in_8bit\" is true and \"quantization.load_in_4bit\" is true; a weight "
            "is held in one form: set one of them to false");
    return Q3_OK;
}

static q3_status check_tune(const q3_config *cfg)
{
    bool full = cfg->train.tune == Q3_CONFIG_TUNE_FULL;
    if (full && cfg->quantization.load_in_4bit)
        return BREACH(
            cfg, Q3_KEY_train_tune,
            "\"train.tune\" is \"full\" and \"quantization.load_in_4bit\" is true; 4-bit weights cannot be "
            "trained: set load_in_4bit to false, or tune to \"lora\"");
    if (full && cfg->quantization.load_in_8bit)
        return BREACH(
            cfg, Q3_KEY_train_tune,
            "\"train.tune\" is \"full\" and \"quantization.load_in_8bit\" is true; int8 weights cannot be "
            "trained: set load_in_8bit and load_in_4bit to false, or tune to \"lora\"");
    if (full && cfg->lora.init_adapter)
        return BREACH(cfg, Q3_KEY_lora_init_adapter,
                      "\"lora.init_adapter\" is set and \"train.tune\" is \"full\", which trains no adapter");
    if (cfg->lora.lora_dropout >= 1)
        return BREACH(cfg, Q3_KEY_lora_lora_dropout, "\"lora.lora_dropout\" is 1; it must be below 1");
    if (cfg->lora.target_modules.n == 0)
        return BREACH(cfg, Q3_KEY_lora_target_modules,
                      "\"lora.target_modules\" is empty; name at least one module");
    return Q3_OK;
}

static q3_status check_schedule(const q3_config *cfg)
{
    const q3_config_train *t = &cfg->train;
    bool with_min = t->lr_scheduler_type == Q3_CONFIG_LR_COSINE_WITH_MIN_LR;
    if (with_min && t->min_lr_rate < 0)
        return BREACH(
            cfg, Q3_KEY_train_lr_scheduler_type,
            "\"train.lr_scheduler_type\" is \"cosine_with_min_lr\"; it needs \"train.min_lr_rate\"");
    if (!with_min && t->min_lr_rate >= 0)
        return BREACH(
            cfg, Q3_KEY_train_min_lr_rate,
            "\"train.min_lr_rate\" is set; only \"train.lr_scheduler_type\" \"cosine_with_min_lr\" has one");
    bool warm = given(cfg, Q3_KEY_train_warmup_steps)
                    ? t->warmup_steps > 0
                    : given(cfg, Q3_KEY_train_warmup_ratio) && t->warmup_ratio > 0;
    if (t->lr_scheduler_type == Q3_CONFIG_LR_CONSTANT && warm)
        return BREACH(cfg,
                      given(cfg, Q3_KEY_train_warmup_steps) ? Q3_KEY_train_warmup_steps
                                                            : Q3_KEY_train_warmup_ratio,
                      "\"train.lr_scheduler_type\" is \"constant\", which has no warm-up; use "
                      "\"constant_with_warmup\", or leave out \"train.warmup_steps\" and "
                      "\"train.warmup_ratio\"");
    if (t->max_steps > 0 && t->warmup_steps >= t->max_steps)
        return BREACH(
            cfg, Q3_KEY_train_warmup_steps,
            "\"train.warmup_steps\" is %lld and \"train.max_steps\" is %lld; the warm-up must end before",
            (long long)t->warmup_steps, (long long)t->max_steps);
    if (t->max_steps < 0 && t->num_train_epochs <= 0)
        return BREACH(
            cfg, Q3_KEY_train_num_train_epochs,
            "\"train.num_train_epochs\" is 0 and \"train.max_steps\" is not set; nothing would be trained");
    return Q3_OK;
}

static q3_status check_optimizer(const q3_config *cfg)
{
    if (cfg->train.adam_beta1 >= 1)
        return BREACH(cfg, Q3_KEY_train_adam_beta1, "\"train.adam_beta1\" is 1; it must be below 1");
    if (cfg->train.adam_beta2 >= 1)
        return BREACH(cfg, Q3_KEY_train_adam_beta2, "\"train.adam_beta2\" is 1; it must be below 1");
    return Q3_OK;
}

/* What best means, and whether training may end for want of better. */
static q3_status check_best(const q3_config *cfg)
{
    const q3_config_train *t = &cfg->train;
    if (t->metric_for_best_model != Q3_CONFIG_METRIC_EVAL_LOSS && !cfg->eval.during)
        return BREACH(
            cfg, Q3_KEY_train_metric_for_best_model,
            "\"train.metric_for_best_model\" is of the generated answers and \"eval.during\" is false; "
            "set eval.during to true");
    if (t->early_stopping_patience > 0 && !t->load_best_model_at_end)
        return BREACH(
            cfg, Q3_KEY_train_early_stopping_patience,
            "\"train.early_stopping_patience\" is set and \"train.load_best_model_at_end\" is false; "
            "without a best model nothing is there to stop for");
    if (t->early_stopping_patience > 0 && t->eval_strategy == Q3_CONFIG_AT_NO)
        return BREACH(
            cfg, Q3_KEY_train_early_stopping_patience,
            "\"train.early_stopping_patience\" is set and \"train.eval_strategy\" is \"no\"; set it to "
            "steps or epoch");
    if (t->early_stopping_patience < 0 && t->early_stopping_threshold > 0)
        return BREACH(
            cfg, Q3_KEY_train_early_stopping_threshold,
            "\"train.early_stopping_threshold\" is set; it needs \"train.early_stopping_patience\"");
    return Q3_OK;
}

/* As transformers' TrainingArguments: the best checkpoint exists only if every save falls on an evaluation.
 */
static q3_status check_turns(const q3_config *cfg)
{
    static const char *const words[] = { "steps", "epoch", "no" };
    const q3_config_train *t = &cfg->train;
    if (cfg->eval.during && t->eval_strategy == Q3_CONFIG_AT_NO)
        return BREACH(cfg, Q3_KEY_eval_during,
                      "\"eval.during\" is true and \"train.eval_strategy\" is \"no\"; there is no evaluation "
                      "during training: set it to steps or epoch");
    if (!t->load_best_model_at_end)
        return Q3_OK;
    if (t->eval_strategy != t->save_strategy)
        return BREACH(cfg,
                      given(cfg, Q3_KEY_train_eval_strategy) ? Q3_KEY_train_eval_strategy
                                                             : Q3_KEY_train_save_strategy,
                      "\"train.eval_strategy\" is \"%s\" and \"train.save_strategy\" is \"%s\"; with "
                      "\"train.load_best_model_at_end\" they must agree",
                      words[t->eval_strategy], words[t->save_strategy]);
    if (t->eval_strategy == Q3_CONFIG_AT_STEPS && t->save_steps % t->eval_steps != 0)
        return BREACH(cfg,
                      given(cfg, Q3_KEY_train_save_steps) ? Q3_KEY_train_save_steps : Q3_KEY_train_eval_steps,
                      "\"train.save_steps\" is %lld and \"train.eval_steps\" is %lld; with "
                      "\"train.load_best_model_at_end\" save_steps must be a multiple of eval_steps",
                      (long long)t->save_steps, (long long)t->eval_steps);
    return Q3_OK;
}

static q3_status check_data(const q3_config *cfg)
{
    const q3_config_data *d = &cfg->data;
    if (d->min_pixels > 0 && d->max_pixels > 0 && d->min_pixels > d->max_pixels)
        return BREACH(cfg, Q3_KEY_data_min_pixels,
                      "\"data.min_pixels\" is %lld, more than \"data.max_pixels\", %lld",
                      (long long)d->min_pixels, (long long)d->max_pixels);
    if (d->eval && d->eval_split)
        return BREACH(cfg, Q3_KEY_data_eval_split,
                      "\"data.eval_split\" is set, and so is \"data.eval\"; leave out one of them");
    if (d->target_template && !d->label_key)
        return BREACH(
            cfg, Q3_KEY_data_target_template,
            "\"data.target_template\" is set; it needs \"data.label_key\", the field with the label");
    if (d->label_names.n && !d->label_key)
        return BREACH(cfg, Q3_KEY_data_label_names,
                      "\"data.label_names\" is set; it needs \"data.label_key\", the field with the label");
    const char *open = d->image_template ? strchr(d->image_template, '{') : NULL;
    if (d->image_template && !(open && strchr(open, '}')))
        return BREACH(cfg, Q3_KEY_data_image_template,
                      "\"data.image_template\" is \"%s\"; it needs a field in braces: images/{id}.jpg",
                      d->image_template);
    if (d->system_prompt && strcmp(d->system_prompt, "@") == 0)
        return BREACH(cfg, Q3_KEY_data_system_prompt,
                      "\"data.system_prompt\" is \"@\"; a file name must follow");
    return Q3_OK;
}

static q3_status check_sampling(const q3_config *cfg)
{
    static const int keys[] = { Q3_KEY_eval_temperature, Q3_KEY_eval_top_p, Q3_KEY_eval_top_k };
    for (int i = 0; i < 3 && !cfg->eval.do_sample; i++)
        if (given(cfg, keys[i]))
            return BREACH(cfg, keys[i],
                          "\"%s\" is set and \"eval.do_sample\" is false; set do_sample to true",
                          q3_config_table[keys[i]].name);
    if (cfg->eval.temperature == 0)
        return BREACH(
            cfg, Q3_KEY_eval_temperature,
            "\"eval.temperature\" is 0; it must be above 0 (for the likeliest token set do_sample to false)");
    if (cfg->eval.top_p == 0)
        return BREACH(cfg, Q3_KEY_eval_top_p, "\"eval.top_p\" is 0; it must be above 0");
    if (cfg->eval.repetition_penalty == 0)
        return BREACH(cfg, Q3_KEY_eval_repetition_penalty,
                      "\"eval.repetition_penalty\" is 0; it must be above 0 (1: none)");
    return Q3_OK;
}

static q3_status check_labels(const q3_config *cfg)
{
    const q3_config_words *l = &cfg->eval.labels;
    if (l->n < 2)
        return BREACH(cfg, Q3_KEY_eval_labels, "\"eval.labels\" has %d; at least 2 are needed to tell apart",
                      l->n);
    for (int i = 0; i < l->n; i++)
        for (int j = 0; j < i; j++)
            if (strcmp(l->items[i], l->items[j]) == 0)
                return BREACH(cfg, Q3_KEY_eval_labels, "\"eval.labels\" has \"%.60s\" twice", l->items[i]);
    return Q3_OK;
}

static q3_status check_report(const q3_config *cfg)
{
    static const char *const known[] = { "tensorboard", "mlflow", "wandb", "none" };
    enum { KNOWN = sizeof known / sizeof *known };
    const q3_config_words *words = &cfg->train.report_to;
    for (int i = 0; i < words->n; i++) {
        const char *word = words->items[i], *nearest = q3_nearest(word, known, KNOWN);
        int k = 0;
        while (k < KNOWN && strcmp(word, known[k]) != 0)
            k++;
        if (k == KNOWN)
            return BREACH(
                cfg, Q3_KEY_train_report_to,
                "\"train.report_to\" has \"%.60s\"; it takes tensorboard, mlflow, wandb and none%s%s%s", word,
                nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
        if (strcmp(word, "none") == 0 && words->n > 1)
            return BREACH(cfg, Q3_KEY_train_report_to,
                          "\"train.report_to\" has \"none\" beside others; leave out \"none\" or the others");
    }
    return Q3_OK;
}

q3_status q3_config_check(const q3_config *cfg)
{
    static q3_status (*const rules[])(const q3_config *) = {
        check_build, check_quantization, check_tune,     check_schedule, check_optimizer, check_turns,
        check_best,  check_data,         check_sampling, check_labels,   check_report,
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        Q3_TRY(rules[i](cfg));
    return Q3_OK;
}
