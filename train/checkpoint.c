#include "train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "core/safetensors.h"
#include "model/weights.h"
#include "train/best.h"

char *q3_checkpoint_path(const char *dir, int64_t step)
{
    char name[64];
    snprintf(name, sizeof name, "checkpoint-%" PRId64, step);
    return q3_path_join(dir, name);
}

/* The N of "checkpoint-N", -1 for any other name. */
static int64_t step_of(const char *name)
{
    static const char prefix[] = "checkpoint-";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0)
        return -1;
    const char *digits = name + sizeof prefix - 1;
    size_t n = strspn(digits, "0123456789");
    return n && n < 16 && !digits[n] ? strtoll(digits, NULL, 10) : -1;
}

static bool whole(const char *dir, int64_t step)
{
    char *path = q3_checkpoint_path(dir, step);
    char *state = path ? q3_path_join(path, "trainer_state.json") : NULL;
    bool is = state && q3_file_exists(state);
    q3_free(state);
    q3_free(path);
    return is;
}

/* The largest (or smallest) step of the checkpoints in `dir` other than `except`; *n counts all of them. */
static int64_t find(const char *dir, bool newest, int64_t except, int *n)
{
    int64_t found = -1;
    DIR *d = opendir(dir);
    *n = 0;
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        int64_t step = step_of(e->d_name);
        if (step < 0 || !whole(dir, step))
            continue;
        ++*n;
        if (step != except && (found < 0 || (newest ? step > found : step < found)))
            found = step;
    }
    if (d)
        closedir(d);
    return found;
}

int64_t q3_checkpoint_newest(const char *dir)
{
    int n;
    return find(dir, true, -1, &n);
}

q3_status q3_weights_save(const q3_trainer *t, const char *dir, q3_dtype dtype)
{
    Q3_TRY(q3_dir_create(dir));
    if (t->lora.r)
        return q3_lora_save(&t->trainable, &t->lora, dir);
    char *model = q3_path_join(dir, "model");
    q3_status st = model ? q3_model_save(&t->model, t->model_dir, model, dtype) : Q3_ERR_MEMORY;
    q3_free(model);
    return st;
}

static q3_status save_optimizer(const q3_trainer *t, const char *path)
{
    int n;
    const q3_optimizer_state *states = q3_optimizer_states(t->optimizer, &n);
    q3_st_tensor *tensors = q3_calloc((size_t)n + 1, sizeof *tensors);
    if (!tensors)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < n; i++) {
        tensors[i] = (q3_st_tensor){
            .name = states[i].name, .dtype = states[i].dtype, .ndim = 1, .data = states[i].data
        };
        tensors[i].shape[0] = states[i].n;
    }
    q3_status st = q3_device_save(t->trainable.cuda, path, tensors, n);
    q3_free(tensors);
    return st;
}

static q3_status load_optimizer(q3_trainer *t, const char *path)
{
    q3_safetensors *file;
    Q3_TRY(q3_safetensors_open(&file, path));
    int n;
    const q3_optimizer_state *states = q3_optimizer_states(t->optimizer, &n);
    q3_status st = Q3_OK;
    for (int i = 0; i < n && st == Q3_OK; i++) {
        const q3_st_tensor *s;
        st = q3_safetensors_get(&s, file, states[i].name, states[i].dtype, 1, &states[i].n);
        if (st == Q3_OK && s->bytes)
            q3_device_write(t->trainable.cuda, states[i].data, s->data, s->bytes);
    }
    q3_safetensors_close(file);
    q3_optimizer_set_steps(t->optimizer, t->state.step);
    return st;
}

static q3_status save_state(const q3_trainer *t, const char *path)
{
    const q3_config_train *c = &t->config->train;
    q3_text config = { 0 }, text = { 0 };
    char *best = t->state.best_step >= 0 ? q3_checkpoint_path(t->output_dir, t->state.best_step) : NULL;
    q3_config_json(&config, t->config);
    const q3_state_run run = { .max_steps = t->total_steps,
                               .logging_steps = c->logging_steps,
                               .eval_steps = c->eval_steps,
                               .save_steps = c->save_steps,
                               .train_batch_size = c->per_device_train_batch_size,
                               .num_train_epochs = c->num_train_epochs,
                               .early_stopping_patience = c->early_stopping_patience,
                               .early_stopping_threshold = c->early_stopping_threshold,
                               .stopping = t->state.step >= t->total_steps || q3_best_enough(&t->state, c),
                               .best_checkpoint = best,
                               .config = config.data };
    if (!config.failed)
        q3_state_json(&text, &t->state, &run);
    q3_status st = config.failed || text.failed ? Q3_ERR_MEMORY : q3_file_write(path, text.data, text.size);
    q3_free(best);
    q3_text_free(&text);
    q3_text_free(&config);
    return st;
}

static q3_status write_files(const q3_trainer *t, const char *dir)
{
    char *optimizer = q3_path_join(dir, "optimizer.safetensors");
    char *state = q3_path_join(dir, "trainer_state.json");
    q3_status st = optimizer && state ? q3_weights_save(t, dir, Q3_F32) : Q3_ERR_MEMORY;
    st = st ? st : save_optimizer(t, optimizer);
    st = st ? st : save_state(t, state);
    q3_free(optimizer);
    q3_free(state);
    return st;
}

/* Under its name a checkpoint is whole or absent while it goes, too. */
static q3_status discard(const char *path)
{
    char *old = q3_malloc(strlen(path) + sizeof ".old.tmp");
    if (!old)
        return Q3_ERR_MEMORY;
    sprintf(old, "%s.old.tmp", path);
    q3_status st = q3_dir_remove(old);
    if (st == Q3_OK && rename(path, old) != 0 && errno != ENOENT)
        st = q3_fail(Q3_ERR_IO, "%s: cannot be renamed: %s", path, strerror(errno));
    st = st ? st : q3_dir_remove(old);
    q3_free(old);
    return st;
}

static q3_status rotate(const q3_trainer *t)
{
    int64_t limit = t->config->train.save_total_limit;
    if (limit == 1 && t->state.best_step >= 0 && t->state.best_step != t->state.step)
        limit = 2; // the newest one must stay, and so must the best
    for (int n; limit > 0;) {
        int64_t oldest = find(t->output_dir, false, t->state.best_step, &n);
        if (n <= limit || oldest < 0)
            break;
        char *path = q3_checkpoint_path(t->output_dir, oldest);
        q3_status st = path ? discard(path) : Q3_ERR_MEMORY;
        q3_free(path);
        Q3_TRY(st);
    }
    return Q3_OK;
}

q3_status q3_checkpoint_save(q3_trainer *t)
{
    char *dir = q3_checkpoint_path(t->output_dir, t->state.step), *tmp = NULL;
    if (dir && (tmp = q3_malloc(strlen(dir) + 5)) != NULL)
        sprintf(tmp, "%s.tmp", dir);
    t->state.samples = t->n_train;
    q3_status st = tmp ? q3_dir_remove(tmp) : Q3_ERR_MEMORY;
    st = st ? st : q3_dir_create(tmp);
    st = st ? st : write_files(t, tmp);
    st = st ? st : discard(dir);
    st = st ? st : q3_dir_publish(dir, tmp);
    if (st != Q3_OK && tmp) {
        char why[1024];
        snprintf(why, sizeof why, "%s", q3_error());
        q3_dir_remove(tmp);
        q3_fail(st, "%s", why);
    }
    q3_free(tmp);
    q3_free(dir);
    return st ? st : rotate(t);
}

/* Keys that may differ between a checkpoint and the run that continues it: they do not shape the trained weights. Those of
 * the answers do where the best checkpoint is chosen by them. */
static bool harmless(int id, const q3_config *now)
{
    static const char *const prefixes[] = { "about",
                                            "train.output_dir",
                                            "model.device",
                                            "model.attention",
                                            "model.deterministic",
                                            "model.weight_cache",
                                            "eval.",
                                            "train.save_total_limit",
                                            "train.report_to",
                                            "train.dataloader_num_workers",
                                            "train.gradient_checkpointing" };
    if (q3_best_of_answers(&now->train) && strncmp(q3_config_table[id].name, "eval.", 5) == 0)
        return id == Q3_KEY_eval_pre || id == Q3_KEY_eval_post;
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(q3_config_table[id].name, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

q3_status q3_checkpoint_compare(const q3_config *now, const char *saved, const char *dir)
{
    q3_config old;
    int ids[Q3_CONFIG_KEYS], wrong = 0;
    q3_text names = { 0 };
    Q3_TRY(q3_config_parse(&old, saved, strlen(saved), dir, NULL, 0));
    int n = q3_config_diff(ids, &old, now);
    for (int i = 0; i < n; i++) {
        if (harmless(ids[i], now))
            continue;
        q3_text_printf(&names, "%s%s (", wrong++ ? ", " : "", q3_config_table[ids[i]].name);
        q3_config_value(&names, &old, ids[i]);
        q3_text_printf(&names, " there, ");
        q3_config_value(&names, now, ids[i]);
        q3_text_printf(&names, " here)");
    }
    q3_status st = Q3_OK;
    if (wrong)
        st = q3_fail(Q3_ERR_USAGE,
                     "%s was made with another config: %s; resume with the same settings, or start anew from "
                     "its adapter with lora.init_adapter",
                     dir, names.failed ? "" : names.data);
    q3_text_free(&names);
    q3_config_free(&old);
    return st;
}

static q3_status copy_weights(q3_trainer *t, const q3_safetensors *file)
{
    for (int i = 0; i < t->trainable.n_slots; i++) {
        const q3_trainable_slot *slot = &t->trainable.slots[i];
        const q3_st_tensor *s = q3_safetensors_find(file, slot->name);
        if (!s || s->dtype != Q3_F32 || q3_st_elements(s) != slot->n)
            return q3_fail(Q3_ERR_FORMAT, "%s: tensor %s is missing or of another shape",
                           q3_safetensors_path(file), slot->name);
        Q3_TRY(q3_trainable_set(&t->trainable, i, s->data, s->dtype));
    }
    q3_trainable_refresh(&t->trainable);
    return Q3_OK;
}

q3_status q3_checkpoint_load_weights(q3_trainer *t, const char *dir)
{
    char *path = q3_path_join(dir, t->lora.r ? "adapter_model.safetensors" : "model/model.safetensors");
    q3_safetensors *file = NULL;
    q3_status st = path ? q3_safetensors_open(&file, path) : Q3_ERR_MEMORY;
    st = st ? st : copy_weights(t, file);
    q3_safetensors_close(file);
    q3_free(path);
    return q3_status_as(st, Q3_ERR_MODEL);
}

/* Another number of samples is another data set: the cursor would point into it at random. */
static q3_status compare_data(const q3_trainer *t, const char *dir)
{
    if (t->state.samples == t->n_train)
        return Q3_OK;
    return q3_fail(Q3_ERR_USAGE,
                   "%s was made with %" PRId64 " training samples, and data.train has %" PRId64
                   " now; resume with the same data, or start anew from its adapter with lora.init_adapter",
                   dir, t->state.samples, t->n_train);
}

q3_status q3_checkpoint_load(q3_trainer *t, const char *dir)
{
    char *state = q3_path_join(dir, "trainer_state.json"),
         *optimizer = q3_path_join(dir, "optimizer.safetensors");
    char *saved = NULL;
    q3_state_free(&t->state);
    q3_status st = state && optimizer ? q3_state_load(&t->state, &saved, state) : Q3_ERR_MEMORY;
    st = st ? st : q3_checkpoint_compare(t->config, saved, dir);
    st = st ? st : compare_data(t, dir);
    st = st ? st : q3_checkpoint_load_weights(t, dir);
    st = st ? st : load_optimizer(t, optimizer);
    q3_free(saved);
    q3_free(state);
    q3_free(optimizer);
    return q3_status_as(st, Q3_ERR_MODEL);
}
