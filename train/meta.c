#include "train/meta.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "core/file.h"
#include "kernels/cpu.h"
#include "kernels/pool.h"
#include "train/best.h"

static void text(q3_text *out, const char *key, const char *value)
{
    q3_text_printf(out, "  \"%s\": ", key);
    if (value)
        q3_text_json_string(out, value, strlen(value));
    else
        q3_text_printf(out, "null");
    q3_text_printf(out, ",\n");
}

static void integer(q3_text *out, const char *key, int64_t value)
{
    q3_text_printf(out, "  \"%s\": %" PRId64 ",\n", key, value);
}

static void number(q3_text *out, const char *key, double value)
{
    q3_text_printf(out, "  \"%s\": ", key);
    q3_text_json_number(out, value);
    q3_text_printf(out, ",\n");
}

static void metrics(q3_text *out, const char *key, const q3_metrics *m, const char *end)
{
    q3_text_printf(out, "  \"%s\": ", key);
    if (m)
        q3_metrics_write(out, m, 2);
    else
        q3_text_printf(out, "null");
    q3_text_printf(out, "%s\n", end);
}

static void run_facts(q3_text *out, const q3_trainer *t)
{
    const q3_config *c = t->config;
    char stamp[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    text(out, "base_model_name_or_path", c->model.path);
    text(out, "base_model_id", c->model.path);
    text(out, "dataset_id", c->data.train);
    text(out, "dataset_lang", NULL);
    text(out, "lang", NULL);
    text(out, "eval_split", t->eval_name);
    integer(out, "train_size", t->n_train);
    integer(out, "eval_size", t->n_eval);
    text(out, "adapter_output_dir", t->output_dir);
    integer(out, "effective_batch_size", c->train.per_device_train_batch_size * t->accumulation);
    q3_text_printf(out, "  \"flash_attention_enabled\": true,\n");
    text(out, "config_source", c->file);
    text(out, "timestamp", stamp);
}

static void results(q3_text *out, const q3_trainer *t)
{
    integer(out, "trainable_params", t->trainable.n);
    integer(out, "total_params", q3_trainer_parameters(t));
    integer(out, "seed", t->config->train.seed);
    text(out, "version", Q3_VERSION);
    text(out, "device", "cpu");
    text(out, "cpu_level", q3_cpu_level_name(q3_cpu_level()));
    integer(out, "threads", q3_pool_threads());
    integer(out, "steps", t->state.step);
    number(out, "train_seconds", t->seconds);
    number(out, "tokens_per_second", t->seconds > 0 ? (double)t->tokens / t->seconds : 0);
    integer(out, "peak_memory_bytes", (int64_t)q3_memory_peak());
    number(out, "train_loss", t->state.step ? t->state.loss_total / (double)t->state.step : 0);
    const q3_config_train *c = &t->config->train;
    q3_text_printf(out, "  \"stopped_early\": %s,\n", t->state.step < t->total_steps ? "true" : "false");
    text(out, "metric_for_best_model", q3_best_name(c));
    number(out, "best_metric", t->state.best_metric);
    number(out, "best_eval_loss", q3_best_of_answers(c) ? NAN : t->state.best_metric);
    integer(out, "best_step", t->state.best_step);
}

q3_status q3_meta_write(const q3_trainer *t, const q3_metrics *pre, const q3_metrics *post)
{
    q3_text out = { 0 };
    q3_text_printf(&out, "{\n");
    run_facts(&out, t);
    results(&out, t);
    metrics(&out, "pre", pre, ",");
    metrics(&out, "post", post, "");
    q3_text_printf(&out, "}\n");
    char *path = q3_path_join(t->output_dir, "training_meta.json");
    q3_status st = path && !out.failed ? q3_file_write(path, out.data, out.size) : Q3_ERR_MEMORY;
    q3_free(path);
    q3_text_free(&out);
    return st;
}
