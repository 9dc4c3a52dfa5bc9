#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/inspect.h"
#include "core/file.h"
#include "train/checkpoint.h"
#include "train/config.h"
#include "train/run_dir.h"
#include "train/state.h"

#define META_LIMIT ((size_t)64 << 20)

static bool has(const char *dir, const char *name)
{
    char *path = q3_path_join(dir, name);
    bool there = path && (q3_file_exists(path) || q3_dir_exists(path));
    q3_free(path);
    return there;
}

/* The adapter, or the model's directory where all weights were trained. */
static q3_status show_result(q3_facts *f, const char *dir, bool tensors)
{
    char *model = q3_path_join(dir, "model");
    q3_status st = model ? Q3_OK : Q3_ERR_MEMORY;
    if (st == Q3_OK && has(dir, "adapter_config.json"))
        st = q3_inspect_adapter(f, dir, tensors);
    else if (st == Q3_OK && q3_dir_exists(model))
        st = q3_inspect_model(f, model, tensors);
    else if (st == Q3_OK)
        q3_fact_problem(f, "%s: there is neither adapter_config.json nor model/", dir);
    q3_free(model);
    return st;
}

static void show_config(q3_facts *f, const q3_config *c)
{
    q3_fact_text(f, "model", "%s", c->model.path ? c->model.path : "");
    q3_fact_text(f, "train", "%s", c->data.train ? c->data.train : "");
    if (c->data.eval)
        q3_fact_text(f, "eval", "%s", c->data.eval);
    q3_fact_text(f, "tune", "%s", c->train.tune == Q3_CONFIG_TUNE_FULL ? "full" : "lora");
}

static void show_best(q3_facts *f, int64_t step, double loss)
{
    if (step < 0)
        return; // nothing was evaluated yet
    q3_fact_int(f, "best_step", step);
    q3_fact_number(f, "best_loss", loss);
}

/* The steps that the whole run has; -1 when the file does not say. */
static int64_t steps_of_run(const char *path)
{
    q3_json doc;
    int64_t steps = -1;
    if (q3_json_open(&doc, path, META_LIMIT) != Q3_OK)
        return -1;
    if (q3_json_int(&steps, &doc, doc.root, "max_steps", -1) != Q3_OK)
        steps = -1;
    q3_json_close(&doc);
    return steps;
}

static void show_state(q3_facts *f, const q3_state *s, const char *path)
{
    q3_fact_int(f, "step", s->step);
    q3_fact_int(f, "steps", steps_of_run(path));
    q3_fact_number(f, "epoch", s->epoch);
    show_best(f, s->best_step, s->best_metric);
    double loss = NAN;
    for (int64_t i = 0; i < s->n_log; i++)
        loss = s->log[i].eval ? loss : s->log[i].loss;
    q3_fact_number(f, "loss", loss);
    q3_fact_int(f, "tokens", s->tokens);
    q3_fact_int(f, "samples", s->samples);
}

static q3_status look_at_state(q3_facts *f, const char *path)
{
    q3_state state;
    q3_config config;
    char *saved;
    q3_status st = q3_state_load(&state, &saved, path);
    if (st != Q3_OK)
        return q3_fact_failure(f, st);
    show_state(f, &state, path);
    st = q3_config_parse(&config, saved, strlen(saved), path, NULL, 0);
    if (st == Q3_OK) {
        show_config(f, &config);
        q3_config_free(&config);
    }
    q3_state_free(&state);
    q3_free(saved);
    return q3_fact_failure(f, q3_status_as(st == Q3_ERR_USAGE ? Q3_ERR_FORMAT : st, Q3_ERR_MODEL));
}

static q3_status check_optimizer(q3_facts *f, const char *path)
{
    q3_safetensors *file;
    q3_status st = q3_safetensors_open(&file, path);
    if (st != Q3_OK)
        return q3_fact_failure(f, st);
    size_t bytes = 0;
    for (int64_t i = 0; i < q3_safetensors_count(file); i++)
        bytes += q3_safetensors_at(file, i)->bytes;
    q3_fact_bytes(f, "optimizer", bytes);
    q3_safetensors_close(file);
    return Q3_OK;
}

q3_status q3_inspect_checkpoint(q3_facts *f, const char *dir, bool tensors)
{
    char *state = q3_path_join(dir, "trainer_state.json"),
         *optimizer = q3_path_join(dir, "optimizer.safetensors");
    q3_status st = state && optimizer ? look_at_state(f, state) : Q3_ERR_MEMORY;
    st = st ? st : check_optimizer(f, optimizer);
    st = st ? st : show_result(f, dir, tensors);
    q3_free(state);
    q3_free(optimizer);
    return st;
}

static int only_checkpoints(const struct dirent *e)
{
    return strncmp(e->d_name, "checkpoint-", strlen("checkpoint-")) == 0;
}

static void show_checkpoints(q3_facts *f, const char *dir)
{
    struct dirent **names;
    int n = scandir(dir, &names, only_checkpoints, versionsort);
    q3_fact_list(f, "checkpoints");
    for (int i = 0; i < n; i++) {
        q3_fact_item(f, "%s", names[i]->d_name);
        free(names[i]);
    }
    q3_fact_list_end(f);
    if (n >= 0)
        free(names);
    int64_t newest = q3_checkpoint_newest(dir);
    if (newest >= 0)
        q3_fact_int(f, "newest", newest);
}

/* What training_meta.json tells of a finished run. */
static q3_status show_meta(q3_facts *f, const char *path)
{
    q3_json doc;
    int64_t steps, best;
    double loss, best_loss, accuracy;
    q3_status st = q3_json_open(&doc, path, META_LIMIT);
    if (st != Q3_OK)
        return q3_fact_failure(f, st);
    const cJSON *root = doc.root, *post = cJSON_GetObjectItemCaseSensitive(root, "post");
    st = q3_json_int(&steps, &doc, root, "steps", -1);
    st = st ? st : q3_json_int(&best, &doc, root, "best_step", -1);
    st = st ? st : q3_json_float(&loss, &doc, root, "train_loss", NAN);
    st = st ? st : q3_json_float(&best_loss, &doc, root, "best_eval_loss", NAN);
    accuracy = NAN;
    if (cJSON_IsObject(post))
        st = st ? st : q3_json_float(&accuracy, &doc, post, "accuracy", NAN);
    if (st == Q3_OK) {
        q3_fact_int(f, "steps", steps);
        q3_fact_number(f, "loss", loss);
        show_best(f, best, best_loss);
        q3_fact_number(f, "accuracy", accuracy);
    }
    q3_json_close(&doc);
    return q3_fact_failure(f, st);
}

static q3_status look_at_config(q3_facts *f, const char *path)
{
    q3_config config;
    q3_status st = q3_config_load(&config, path, NULL, 0);
    if (st != Q3_OK)
        return q3_fact_failure(f, st == Q3_ERR_USAGE ? Q3_ERR_FORMAT : st);
    show_config(f, &config);
    q3_config_free(&config);
    return Q3_OK;
}

q3_status q3_inspect_run(q3_facts *f, const char *dir, bool tensors)
{
    char *config = q3_path_join(dir, "config.json"), *meta = q3_path_join(dir, "training_meta.json");
    bool finished = q3_run_dir_finished(dir);
    q3_status st = config && meta ? look_at_config(f, config) : Q3_ERR_MEMORY;
    q3_fact_bool(f, "finished", finished);
    if (st == Q3_OK && finished)
        st = show_meta(f, meta);
    show_checkpoints(f, dir);
    if (st == Q3_OK && finished)
        st = show_result(f, dir, tensors);
    q3_free(config);
    q3_free(meta);
    return st;
}
