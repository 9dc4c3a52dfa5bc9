#include "train/state.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/file.h"

enum { STATE_LIMIT = 1 << 28 };

void q3_state_init(q3_state *s)
{
    *s = (q3_state){ .best_metric = NAN, .best_step = -1 };
}

void q3_state_free(q3_state *s)
{
    q3_free(s->log);
    q3_state_init(s);
}

q3_status q3_state_log(q3_state *s, const q3_log_entry *entry)
{
    if (s->n_log == s->log_capacity) {
        int64_t capacity = s->log_capacity ? 2 * s->log_capacity : 64;
        q3_log_entry *p = q3_realloc(s->log, (size_t)capacity * sizeof *p);
        if (!p)
            return Q3_ERR_MEMORY;
        s->log = p;
        s->log_capacity = capacity;
    }
    s->log[s->n_log++] = *entry;
    return Q3_OK;
}

static void number(q3_text *out, const char *before, const char *key, double value)
{
    q3_text_printf(out, "%s\"%s\": ", before, key);
    q3_text_json_number(out, value);
}

static void integer(q3_text *out, const char *key, int64_t value)
{
    q3_text_printf(out, "  \"%s\": %" PRId64 ",\n", key, value);
}

static void history(q3_text *out, const q3_state *s)
{
    static const char indent[] = ",\n      ";
    q3_text_printf(out, "  \"log_history\": [");
    for (int64_t i = 0; i < s->n_log; i++) {
        const q3_log_entry *e = &s->log[i];
        q3_text_printf(out, "%s\n    {", i ? "," : "");
        number(out, "\n      ", "epoch", e->epoch);
        if (e->eval) {
            number(out, indent, "eval_loss", e->loss);
            number(out, indent, "eval_runtime", e->runtime);
            number(out, indent, "eval_samples_per_second", e->samples_per_second);
            number(out, indent, "eval_steps_per_second", e->steps_per_second);
        } else if (e->answers) {
            number(out, indent, "gen_eval/accuracy", e->accuracy);
            number(out, indent, "gen_eval/forced_accuracy", e->forced_accuracy);
            number(out, indent, "gen_eval/macro_f1", e->macro_f1);
        } else {
            number(out, indent, "grad_norm", e->grad_norm);
            number(out, indent, "learning_rate", e->learning_rate);
            number(out, indent, "loss", e->loss);
        }
        q3_text_printf(out, ",\n      \"step\": %" PRId64 "\n    }", e->step);
    }
    q3_text_printf(out, s->n_log ? "\n  ],\n" : "],\n");
}

/* What the reference has no key for. */
static void cursor(q3_text *out, const q3_state *s, const q3_state_run *run)
{
    q3_text_printf(out, "  \"qwen3_sft\": {\n    \"batch\": %" PRId64 ",\n    \"config\": ", s->batch);
    q3_text_json_string(out, run->config, strlen(run->config));
    q3_text_printf(out, ",\n    \"loss_steps\": %" PRId64, s->loss_steps);
    number(out, ",\n    ", "loss_sum", s->loss_sum);
    number(out, ",\n    ", "loss_total", s->loss_total);
    q3_text_printf(
        out, ",\n    \"samples\": %" PRId64 ",\n    \"tokens\": %" PRId64 ",\n    \"unanswered\": %s\n  },\n",
        s->samples, s->tokens, s->unanswered ? "true" : "false");
}

static void callbacks(q3_text *out, const q3_state *s, const q3_state_run *run)
{
    q3_text_printf(out, "  \"stateful_callbacks\": {\n");
    if (run->early_stopping_patience > 0) {
        q3_text_printf(out,
                       "    \"EarlyStoppingCallback\": {\n      \"args\": {\n"
                       "        \"early_stopping_patience\": %" PRId64 ",\n",
                       run->early_stopping_patience);
        number(out, "        ", "early_stopping_threshold", run->early_stopping_threshold);
        q3_text_printf(out,
                       "\n      },\n      \"attributes\": {\n"
                       "        \"early_stopping_patience_counter\": %" PRId64 "\n      }\n    },\n",
                       s->unimproved);
    }
    q3_text_printf(out,
                   "    \"TrainerControl\": {\n      \"args\": {\n"
                   "        \"should_epoch_stop\": false,\n        \"should_evaluate\": false,\n"
                   "        \"should_log\": false,\n        \"should_save\": true,\n"
                   "        \"should_training_stop\": %s\n      },\n      \"attributes\": {}\n    }\n  },\n",
                   run->stopping ? "true" : "false");
}

void q3_state_json(q3_text *out, const q3_state *s, const q3_state_run *run)
{
    q3_text_printf(out, "{\n");
    if (s->best_step >= 0)
        integer(out, "best_global_step", s->best_step);
    else
        q3_text_printf(out, "  \"best_global_step\": null,\n");
    number(out, "  ", "best_metric", s->best_metric);
    q3_text_printf(out, ",\n  \"best_model_checkpoint\": ");
    if (run->best_checkpoint)
        q3_text_json_string(out, run->best_checkpoint, strlen(run->best_checkpoint));
    else
        q3_text_printf(out, "null");
    number(out, ",\n  ", "epoch", s->epoch);
    q3_text_printf(out, ",\n");
    integer(out, "eval_steps", run->eval_steps);
    integer(out, "global_step", s->step);
    q3_text_printf(out, "  \"is_hyper_param_search\": false,\n  \"is_local_process_zero\": true,\n"
                        "  \"is_world_process_zero\": true,\n");
    history(out, s);
    integer(out, "logging_steps", run->logging_steps);
    integer(out, "max_steps", run->max_steps);
    integer(out, "num_input_tokens_seen", s->tokens);
    number(out, "  ", "num_train_epochs", run->num_train_epochs);
    q3_text_printf(out, ",\n");
    cursor(out, s, run);
    integer(out, "save_steps", run->save_steps);
    callbacks(out, s, run);
    q3_text_printf(out, "  \"total_flos\": 0.0,\n");
    integer(out, "train_batch_size", run->train_batch_size);
    q3_text_printf(out, "  \"trial_name\": null,\n  \"trial_params\": null\n}\n");
}

static q3_status read_entry(q3_state *out, const q3_json *doc, const cJSON *item)
{
    q3_log_entry e = { .eval = cJSON_HasObjectItem(item, "eval_loss"),
                       .answers = cJSON_HasObjectItem(item, "gen_eval/accuracy") };
    Q3_TRY(q3_json_int(&e.step, doc, item, "step", 0));
    Q3_TRY(q3_json_float(&e.epoch, doc, item, "epoch", 0));
    Q3_TRY(q3_json_float(&e.loss, doc, item, e.eval ? "eval_loss" : "loss", e.answers ? 0 : NAN));
    Q3_TRY(q3_json_float(&e.grad_norm, doc, item, "grad_norm", 0));
    Q3_TRY(q3_json_float(&e.learning_rate, doc, item, "learning_rate", 0));
    Q3_TRY(q3_json_float(&e.runtime, doc, item, "eval_runtime", 0));
    Q3_TRY(q3_json_float(&e.samples_per_second, doc, item, "eval_samples_per_second", 0));
    Q3_TRY(q3_json_float(&e.steps_per_second, doc, item, "eval_steps_per_second", 0));
    Q3_TRY(q3_json_float(&e.accuracy, doc, item, "gen_eval/accuracy", 0));
    Q3_TRY(q3_json_float(&e.macro_f1, doc, item, "gen_eval/macro_f1", 0));
    Q3_TRY(q3_json_float(&e.forced_accuracy, doc, item, "gen_eval/forced_accuracy", e.answers ? NAN : 0));
    return q3_state_log(out, &e);
}

/* A cursor counts from 0; a file that says otherwise was tampered with. */
static q3_status read_count(int64_t *out, const q3_json *doc, const cJSON *object, const char *key)
{
    Q3_TRY(q3_json_int(out, doc, object, key, 0));
    if (*out >= 0)
        return Q3_OK;
    return q3_fail(Q3_ERR_FORMAT, "%s: %s is %" PRId64 "; it cannot be negative", doc->name, key, *out);
}

static q3_status read_callbacks(q3_state *out, const q3_json *doc)
{
    const cJSON *all = cJSON_GetObjectItemCaseSensitive(doc->root, "stateful_callbacks");
    const cJSON *one = cJSON_GetObjectItemCaseSensitive(all, "EarlyStoppingCallback");
    return read_count(&out->unimproved, doc, cJSON_GetObjectItemCaseSensitive(one, "attributes"),
                      "early_stopping_patience_counter");
}

static q3_status read_state(q3_state *out, char **config, const q3_json *doc)
{
    const cJSON *root = doc->root, *own = cJSON_GetObjectItemCaseSensitive(root, "qwen3_sft"), *item;
    const char *text;
    if (!cJSON_IsObject(own))
        return q3_fail(Q3_ERR_FORMAT,
                       "%s: has no \"qwen3_sft\"; another program wrote this checkpoint, and it cannot be "
                       "continued bit for bit; start from its adapter with lora.init_adapter",
                       doc->name);
    Q3_TRY(read_count(&out->step, doc, root, "global_step"));
    Q3_TRY(q3_json_float(&out->epoch, doc, root, "epoch", 0));
    Q3_TRY(q3_json_float(&out->best_metric, doc, root, "best_metric", NAN));
    Q3_TRY(q3_json_int(&out->best_step, doc, root, "best_global_step", -1));
    Q3_TRY(read_callbacks(out, doc));
    Q3_TRY(read_count(&out->batch, doc, own, "batch"));
    Q3_TRY(q3_json_float(&out->loss_sum, doc, own, "loss_sum", 0));
    Q3_TRY(q3_json_float(&out->loss_total, doc, own, "loss_total", 0));
    Q3_TRY(read_count(&out->loss_steps, doc, own, "loss_steps"));
    Q3_TRY(read_count(&out->tokens, doc, own, "tokens"));
    Q3_TRY(read_count(&out->samples, doc, own, "samples"));
    Q3_TRY(q3_json_bool(&out->unanswered, doc, own, "unanswered", false));
    Q3_TRY(q3_json_string(&text, doc, own, "config", "{}"));
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(root, "log_history"))
        Q3_TRY(read_entry(out, doc, item));
    *config = q3_strdup(text);
    return *config ? Q3_OK : Q3_ERR_MEMORY;
}

q3_status q3_state_load(q3_state *out, char **config, const char *path)
{
    q3_json doc;
    *config = NULL;
    q3_state_init(out);
    Q3_TRY(q3_json_open(&doc, path, STATE_LIMIT));
    q3_status st = read_state(out, config, &doc);
    q3_json_close(&doc);
    if (st != Q3_OK)
        q3_state_free(out);
    return st;
}

void q3_log_line(q3_text *out, const q3_log_entry *e, const char *extra)
{
    q3_text_printf(out, "{\"step\": %" PRId64, e->step);
    number(out, ", ", "epoch", e->epoch);
    if (e->eval) {
        number(out, ", ", "eval_loss", e->loss);
        number(out, ", ", "eval_runtime", e->runtime);
        number(out, ", ", "eval_samples_per_second", e->samples_per_second);
        number(out, ", ", "eval_steps_per_second", e->steps_per_second);
    } else {
        number(out, ", ", "loss", e->loss);
        number(out, ", ", "grad_norm", e->grad_norm);
        number(out, ", ", "learning_rate", e->learning_rate);
    }
    q3_text_printf(out, "%s}\n", extra);
}
