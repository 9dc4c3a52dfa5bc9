#include "train/loop.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "train/checkpoint.h"
#include "train/finish.h"
#include "train/progress.h"

#define PREFIX "Qwen3-VL SFT failed: "

static volatile sig_atomic_t stop_signal;

static void on_signal(int signal_number)
{
    if (stop_signal)
        _Exit(128 + signal_number);
    stop_signal = signal_number;
}

static void catch_signals(void)
{
    struct sigaction a = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigemptyset(&a.sa_mask);
    stop_signal = 0;
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

static bool due(q3_config_turn strategy, int64_t every, const q3_trainer *t)
{
    if (strategy == Q3_CONFIG_AT_STEPS)
        return t->state.step % every == 0;
    return strategy == Q3_CONFIG_AT_EPOCH && t->state.batch % t->per_epoch == 0;
}

static q3_status write_metrics(q3_trainer *t, const q3_log_entry *e, const char *extra)
{
    q3_text line = { 0 };
    q3_log_line(&line, e, extra);
    q3_status st = line.failed ? Q3_ERR_MEMORY : q3_metrics_append(t->output_dir, line.data, line.size, false);
    q3_text_free(&line);
    return st;
}

/* Time since the last log: for the rates that are shown. */
typedef struct meter {
    double seconds;
    int64_t tokens, steps;
} meter;

static q3_status log_step(q3_trainer *t, const q3_step_result *r, meter *m)
{
    char extra[64];
    q3_log_entry e = { .step = t->state.step,
                       .epoch = t->state.epoch,
                       .loss = t->state.loss_sum / (double)t->state.loss_steps,
                       .grad_norm = r->grad_norm,
                       .learning_rate = r->learning_rate };
    double rate = m->seconds > 0 ? (double)m->tokens / m->seconds : 0;
    snprintf(extra, sizeof extra, ", \"tokens_per_second\": %.1f", rate);
    q3_progress_log(t, &e, m->seconds / (double)m->steps, rate);
    *m = (meter){ 0 };
    t->state.loss_sum = 0;
    t->state.loss_steps = 0;
    Q3_TRY(q3_state_log(&t->state, &e));
    return write_metrics(t, &e, extra);
}

static q3_status show_eval(void *arg, int64_t done, int64_t of)
{
    (void)arg;
    q3_log_live("evaluating: batch %lld of %lld", (long long)done, (long long)of);
    return Q3_OK;
}

static q3_status evaluate(q3_trainer *t)
{
    const q3_config_train *c = &t->config->train;
    const q3_loader_source source = { .data = t->eval_data,
                                      .collator = &t->collator,
                                      .n_samples = t->n_eval,
                                      .batch_size = c->per_device_eval_batch_size > 0 ? c->per_device_eval_batch_size : c->per_device_train_batch_size,
                                      .training = true };
    q3_loss_result r;
    Q3_TRY(q3_eval_loss(&r, &t->ctx, &t->model, &source, show_eval, NULL));
    q3_log_entry e = { .step = t->state.step,
                       .epoch = t->state.epoch,
                       .eval = true,
                       .loss = r.loss,
                       .runtime = r.seconds,
                       .samples_per_second = (double)r.n_samples / r.seconds,
                       .steps_per_second = (double)r.n_batches / r.seconds };
    bool best = t->state.best_step < 0 || r.loss < t->state.best_metric;
    if (best) {
        t->state.best_metric = r.loss;
        t->state.best_step = t->state.step;
    }
    q3_progress_eval(t, &e, best);
    Q3_TRY(q3_state_log(&t->state, &e));
    return write_metrics(t, &e, "");
}

static q3_status save(q3_trainer *t)
{
    Q3_TRY(q3_metrics_append(t->output_dir, "", 0, true)); // what the checkpoint's step has logged is on the disk first
    Q3_TRY(q3_checkpoint_save(t));
    q3_detail("saved checkpoint-%" PRId64, t->state.step);
    return Q3_OK;
}

static q3_status stopped(q3_trainer *t, bool saved)
{
    if (!saved)
        Q3_TRY(save(t));
    q3_status st = stop_signal == SIGTERM ? Q3_ERR_TERMINATED : Q3_ERR_INTERRUPTED;
    return q3_fail(st, "stopped after step %" PRId64 " of %" PRId64 ", everything is saved; continue with --resume", t->state.step, t->total_steps);
}

/* What is due behind a step, in the reference's order. */
static q3_status after_step(q3_trainer *t, const q3_step_result *r, meter *m)
{
    const q3_config_train *c = &t->config->train;
    bool last = t->state.step >= t->total_steps;
    if (t->state.step % c->logging_steps == 0 || (last && t->state.loss_steps))
        Q3_TRY(log_step(t, r, m));
    else
        q3_progress_step(t, r, m->seconds / (double)m->steps);
    if (due(c->eval_strategy, c->eval_steps, t) || (last && c->eval_strategy != Q3_CONFIG_AT_NO && c->load_best_model_at_end))
        Q3_TRY(evaluate(t));
    bool saved = due(c->save_strategy, c->save_steps, t) || (last && c->save_strategy != Q3_CONFIG_AT_NO);
    if (saved)
        Q3_TRY(save(t));
    return stop_signal ? stopped(t, saved) : Q3_OK;
}

static q3_status steps(q3_trainer *t, q3_loader *loader)
{
    meter m = { 0 };
    while (t->state.step < t->total_steps) {
        q3_step_result r;
        double start = q3_seconds();
        Q3_TRY(q3_train_step(&r, t, loader));
        double seconds = q3_seconds() - start;
        m.seconds += seconds;
        m.tokens += r.tokens;
        m.steps++;
        t->seconds += seconds;
        t->tokens += r.tokens;
        t->state.loss_sum += r.loss;
        t->state.loss_total += r.loss;
        t->state.loss_steps++;
        Q3_TRY(after_step(t, &r, &m));
    }
    return Q3_OK;
}

static q3_status train(q3_trainer *t)
{
    const q3_loader_source source = { .data = t->train_data,
                                      .collator = &t->collator,
                                      .n_samples = t->n_train,
                                      .batch_size = t->config->train.per_device_train_batch_size,
                                      .training = true,
                                      .shuffle = t->config->train.shuffle,
                                      .seed = (uint64_t)t->config->train.seed };
    q3_loader *loader;
    Q3_TRY(q3_loader_create(&loader, &source, t->state.batch, 1, 4));
    q3_status st = steps(t, loader);
    q3_loader_destroy(loader);
    return st;
}

static q3_status write_config(const q3_trainer *t)
{
    q3_text text = { 0 };
    char *path = q3_path_join(t->output_dir, "config.json");
    q3_config_json(&text, t->config);
    q3_status st = path && !text.failed ? q3_file_write(path, text.data, text.size) : Q3_ERR_MEMORY;
    q3_free(path);
    q3_text_free(&text);
    return st;
}

/* The directory is touched only when everything has been found sound. */
static q3_status prepare(q3_trainer *t, const char *checkpoint, const q3_run_options *options)
{
    Q3_TRY(q3_trainer_plan(t));
    if (checkpoint)
        Q3_TRY(q3_checkpoint_load(t, checkpoint));
    Q3_TRY(q3_run_dir_prepare(t->output_dir, options->overwrite && !checkpoint));
    q3_progress_summary(t, checkpoint);
    Q3_TRY(q3_metrics_cut(t->output_dir, checkpoint ? t->state.step : -1));
    return write_config(t);
}

static q3_status run(q3_config *config, char **dir, const char *checkpoint, const q3_run_options *options)
{
    q3_trainer t;
    Q3_TRY(q3_trainer_open(&t, config));
    t.output_dir = *dir;
    *dir = NULL; // the trainer's from here on
    catch_signals();
    q3_finish f;
    q3_status st = prepare(&t, checkpoint, options);
    if (st == Q3_OK)
        st = q3_finish_create(&f, &t);
    if (st == Q3_OK) {
        st = q3_finish_before(&f);
        st = st ? st : train(&t);
        st = st ? st : q3_finish_after(&f);
        q3_finish_destroy(&f);
    }
    q3_trainer_close(&t);
    return st;
}

q3_status q3_train(q3_config *config, const q3_run_options *options)
{
    char *dir, *checkpoint;
    q3_status st = q3_run_dir_choose(&dir, &checkpoint, config->train.output_dir, options);
    if (st == Q3_OK && options->resume && q3_run_dir_finished(dir))
        q3_info("%s is finished; nothing to resume", dir);
    else if (st == Q3_OK)
        st = run(config, &dir, checkpoint, options);
    q3_free(dir);
    q3_free(checkpoint);
    bool plain = st == Q3_OK || st == Q3_ERR_USAGE || st == Q3_ERR_INTERRUPTED || st == Q3_ERR_TERMINATED;
    return plain ? st : q3_prefix(st, PREFIX);
}
