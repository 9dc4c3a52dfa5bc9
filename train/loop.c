#include "train/loop.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"
#include "train/best.h"
#include "train/checkpoint.h"
#include "train/finish.h"
#include "train/progress.h"
#include "train/stop.h"

#define PREFIX "Qwen3-VL SFT failed: "

#define WAIT_SHARE 0.1    // of a logging interval spent waiting for the loader: above it, a line says so
#define WAIT_SECONDS 0.05 // in shorter intervals a wait is chance

enum { CONFIG_LIMIT = 1 << 20, AHEAD = 3 }; // batches made ahead, beside those that threads are at

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
    return q3_logger_write(t->logger, &line, false);
}

/* Time since the last log: for the rates that are shown, and never in what is the same from run to run. */
typedef struct meter {
    double seconds, waited; // in steps, and for the loader within them
    int64_t tokens, steps;
    size_t used; // bytes of the device: the most at any log
    bool later;  // not the first interval, whose first batch everything waits for
    bool told;   // of the waiting
} meter;

static void tell_waiting(const q3_trainer *t, meter *m)
{
    if (m->told || !m->later || m->seconds < WAIT_SECONDS || m->waited <= WAIT_SHARE * m->seconds)
        return;
    m->told = true;
    q3_info("data        %.0f %% of the time of the last %lld steps went by waiting for the loader; raise "
            "train.dataloader_num_workers (%lld), or lower data.max_pixels",
            100 * m->waited / m->seconds, (long long)m->steps,
            (long long)t->config->train.dataloader_num_workers);
}

static q3_status log_step(q3_trainer *t, const q3_step_result *r, meter *m)
{
    char extra[256];
    q3_log_entry e = { .step = t->state.step,
                       .epoch = t->state.epoch,
                       .loss = t->state.loss_sum / (double)t->state.loss_steps,
                       .grad_norm = r->grad_norm,
                       .learning_rate = r->learning_rate };
    double rate = m->seconds > 0 ? (double)m->tokens / m->seconds : 0;
    size_t used = q3_device_used(t->cuda);
    m->used = used > m->used ? used : m->used;
    snprintf(extra, sizeof extra,
             ", \"tokens_per_second\": %.1f, \"step_time\": %.6f, \"data/wait_fraction\": %.4f, \"%s\": %zu",
             rate, m->seconds / (double)m->steps, m->seconds > 0 ? m->waited / m->seconds : 0,
             t->cuda ? "mem/gpu_peak" : "mem/peak", m->used);
    q3_progress_log(t, &e, m->seconds / (double)m->steps, rate);
    tell_waiting(t, m);
    *m = (meter){ .used = m->used, .later = true, .told = m->told };
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
    const q3_eval_loss_args args = { .ctx = &t->ctx,
                                     .model = &t->model,
                                     .source = q3_eval_source_of(t),
                                     .pictures = t->eval_pictures,
                                     .progress = show_eval };
    q3_loss_result r;
    Q3_TRY(q3_eval_loss(&r, &args));
    q3_log_entry e = { .step = t->state.step,
                       .epoch = t->state.epoch,
                       .eval = true,
                       .loss = r.loss,
                       .runtime = r.seconds,
                       .samples_per_second = (double)r.n_samples / r.seconds,
                       .steps_per_second = (double)r.n_batches / r.seconds };
    const q3_config_train *c = &t->config->train;
    bool best = !q3_best_of_answers(c) && q3_best_update(&t->state, r.loss, c);
    t->state.unanswered = t->config->eval.during;
    q3_progress_eval(t, &e, best);
    Q3_TRY(q3_state_log(&t->state, &e));
    return write_metrics(t, &e, "");
}

/* The second half of an evaluation. */
static q3_status answer(q3_trainer *t)
{
    q3_log_entry e;
    Q3_TRY(q3_finish_turn(&e, t));
    t->state.unanswered = false;
    const q3_config_train *c = &t->config->train;
    if (q3_best_of_answers(c)) {
        double value = q3_best_value(&e, c);
        q3_progress_best(t, value, q3_best_update(&t->state, value, c));
    }
    return q3_state_log(&t->state, &e);
}

static q3_status save(q3_trainer *t)
{
    // What the checkpoint's step has logged is on the disk first.
    Q3_TRY(q3_metrics_append(t->output_dir, "", 0, true));
    Q3_TRY(q3_checkpoint_save(t));
    q3_detail("saved checkpoint-%" PRId64, t->state.step);
    return Q3_OK;
}

static q3_status stopped(q3_trainer *t, q3_status how, bool saved)
{
    if (!saved)
        Q3_TRY(save(t));
    return q3_fail(
        how, "stopped after step %" PRId64 " of %" PRId64 ", everything is saved; continue with --resume",
        t->state.step, t->total_steps);
}

/* Answers and checkpoint. A run that was stopped within the answers of a step goes on here. */
static q3_status end_turn(q3_trainer *t, q3_status stop)
{
    const q3_config_train *c = &t->config->train;
    if (t->state.unanswered)
        Q3_TRY(answer(t));
    bool last = t->state.step >= t->total_steps || q3_best_enough(&t->state, c);
    bool best = c->load_best_model_at_end && t->state.best_step == t->state.step; // must be there at the end
    bool saved =
        due(c->save_strategy, c->save_steps, t) || best || (last && c->save_strategy != Q3_CONFIG_AT_NO);
    if (saved)
        Q3_TRY(save(t));
    return stop ? stopped(t, stop, saved) : Q3_OK;
}

/* What is due behind a step, in the reference's order; the first rank's alone. */
static q3_status after_step(q3_trainer *t, const q3_step_result *r, meter *m, q3_status stop)
{
    const q3_config_train *c = &t->config->train;
    bool last = t->state.step >= t->total_steps;
    if (t->state.step % c->logging_steps == 0 || (last && t->state.loss_steps))
        Q3_TRY(log_step(t, r, m));
    else
        q3_progress_step(t, r, m->seconds / (double)m->steps);
    if (due(c->eval_strategy, c->eval_steps, t) ||
        (last && c->eval_strategy != Q3_CONFIG_AT_NO && c->load_best_model_at_end))
        Q3_TRY(evaluate(t));
    return end_turn(t, stop);
}

/* Whether no step follows; the first rank, which evaluates, tells the others how often nothing has improved. */
static bool finished(q3_trainer *t)
{
    const q3_config_train *c = &t->config->train;
    if (c->early_stopping_patience > 0)
        t->state.unimproved = q3_ranks_agree(&t->ranks, t->ranks.rank ? 0 : (int)t->state.unimproved);
    return t->state.step >= t->total_steps || q3_best_enough(&t->state, c);
}

static q3_status steps(q3_trainer *t, q3_loader *loader)
{
    meter m = { 0 };
    int64_t first = t->state.step;
    if (!t->ranks.rank && t->state.unanswered)
        Q3_TRY(end_turn(t, Q3_OK));
    while (!finished(t)) {
        q3_step_result r;
        double start = q3_seconds(), waited = q3_loader_waited(loader);
        Q3_TRY(q3_train_step(&r, t, loader));
        double seconds = q3_seconds() - start;
        m.seconds += seconds;
        m.waited += q3_loader_waited(loader) - waited;
        m.tokens += r.tokens;
        m.steps++;
        if (t->state.step == first + 1 && q3_device_attention_refusal(t->cuda))
            q3_info("attention   %s; the program's own kernel takes what cuDNN does not",
                    q3_device_attention_refusal(t->cuda));
        t->seconds += seconds;
        t->tokens += r.tokens;
        t->state.loss_sum += r.loss;
        t->state.loss_total += r.loss;
        t->state.loss_steps++;
        if (t->profile && t->state.step == first + 1 && t->state.step < t->total_steps)
            q3_profile_clear(t->profile); // the first step makes plans and touches memory
        q3_status stop = (q3_status)q3_ranks_agree(&t->ranks, (int)q3_stop_asked());
        if (!t->ranks.rank)
            Q3_TRY(after_step(t, &r, &m, stop));
        else if (stop)
            return q3_fail(stop, "%s", ""); // the first rank says it
    }
    if (t->state.step < t->total_steps)
        q3_progress_stop(t);
    return Q3_OK;
}

static q3_status open_profile(q3_trainer *t)
{
    t->profile = q3_calloc(1, sizeof *t->profile);
    if (!t->profile)
        return Q3_ERR_MEMORY;
    t->profile->cuda = t->cuda;
    return q3_profile_ceilings(t->profile);
}

/* Also of a run that was broken off. */
static void close_profile(q3_trainer *t)
{
    if (t->profile && t->profile->steps)
        q3_profile_print(t->profile);
    q3_free(t->profile);
    t->profile = NULL;
}

/* Of a window only the own share is made. */
static bool own_batch(const void *arg, int64_t number)
{
    const q3_trainer *t = arg;
    int64_t begin, end, index = number % t->per_epoch, first = index / t->accumulation * t->accumulation;
    q3_ranks_share(&begin, &end, q3_window_size(t, number - index + first), t->ranks.rank, t->ranks.ranks);
    return index - first >= begin && index - first < end;
}

static q3_status train(q3_trainer *t, const q3_run_options *options)
{
    q3_loader_source source = { .data = t->train_data,
                                .collator = &t->collator,
                                .n_samples = t->n_train,
                                .batch_size = t->config->train.per_device_train_batch_size,
                                .training = true,
                                .shuffle = t->config->train.shuffle,
                                .seed = (uint64_t)t->config->train.seed,
                                .wanted = t->ranks.ranks > 1 ? own_batch : NULL,
                                .arg = t };
    q3_loader *loader;
    q3_pictures_attach(&source, t->train_pictures);
    if (options->profile && !t->ranks.rank)
        Q3_TRY(open_profile(t));
    int threads = (int)t->config->train.dataloader_num_workers;
    q3_status st = q3_loader_create(&loader, &source, t->state.batch, threads, threads + AHEAD);
    if (st == Q3_OK) {
        st = steps(t, loader);
        q3_loader_destroy(loader);
    }
    close_profile(t);
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
    if (t->ranks.rank)
        return Q3_OK;
    Q3_TRY(q3_run_dir_prepare(t->output_dir, options->overwrite && !checkpoint));
    if (checkpoint)
        Q3_TRY(q3_run_dir_adopt(t->output_dir, checkpoint, t->state.best_step));
    q3_progress_summary(t, checkpoint);
    Q3_TRY(q3_metrics_cut(t->output_dir, checkpoint ? t->state.step : -1, t->state.unanswered));
    Q3_TRY(q3_metrics_append(t->output_dir, "", 0, false)); // from here on the directory is known as a run's
    return write_config(t);
}

/* Evaluations, and all that is written, are the first rank's. */
static q3_status run_first(q3_trainer *t, const q3_run_options *options)
{
    q3_finisher f;
    const q3_view_run run = { .dir = t->output_dir, .config = t->config, .step = t->state.step };
    Q3_TRY(q3_logger_open(&t->logger, &run));
    q3_finish_create(&f, t);
    q3_status st = q3_finish_before(&f);
    st = st ? st : train(t, options);
    st = st ? st : q3_finish_after(&f);
    q3_finish_destroy(&f);
    q3_logger_close(t->logger, st);
    return st;
}

static q3_status run(q3_config *config, const char *dir, const char *checkpoint,
                     const q3_run_options *options)
{
    q3_trainer t;
    Q3_TRY(q3_trainer_open(&t, config, options->group));
    t.output_dir = dir;
    q3_stop_catch();
    q3_status st = prepare(&t, checkpoint, options);
    if (st == Q3_OK)
        st = t.ranks.rank ? train(&t, options) : run_first(&t, options);
    q3_trainer_close(&t);
    return st;
}

/* The first rank's string for all; on the heap. */
static q3_status share_path(char **path, q3_group *group)
{
    size_t bytes = *path ? strlen(*path) + 1 : 0;
    q3_group_broadcast(group, &bytes, sizeof bytes, 0);
    if (q3_group_rank(group)) {
        *path = bytes ? q3_malloc(bytes) : NULL;
        if (bytes && !*path)
            return Q3_ERR_MEMORY;
    }
    q3_group_broadcast(group, *path, bytes, 0);
    return Q3_OK;
}

/* Where to, and where from: what the first rank finds on the disk holds for all. */
static q3_status choose(char **dir, char **checkpoint, const q3_config *config, const q3_run_options *options)
{
    q3_status st = Q3_OK;
    *dir = *checkpoint = NULL;
    if (!q3_group_rank(options->group))
        st = q3_logger_check(config);
    if (st == Q3_OK && !q3_group_rank(options->group))
        st = q3_run_dir_choose(dir, checkpoint, config->train.output_dir, options);
    Q3_TRY(st); // the others go down with the first rank
    Q3_TRY(share_path(dir, options->group));
    return share_path(checkpoint, options->group);
}

/* Nothing is left to do, unless something else is asked for than was done. */
static q3_status already_done(const q3_config *config, const char *dir)
{
    char *path = q3_path_join(dir, "config.json"), *saved = NULL;
    size_t size;
    q3_status st = path ? q3_file_read(&saved, &size, path, CONFIG_LIMIT) : Q3_ERR_MEMORY;
    st = st ? st : q3_checkpoint_compare(config, saved, dir);
    if (st == Q3_OK)
        q3_info("%s is finished; nothing to resume", dir);
    q3_free(saved);
    q3_free(path);
    return st;
}

q3_status q3_train(char **dir, q3_config *config, const q3_run_options *options)
{
    char *checkpoint;
    q3_status st = choose(dir, &checkpoint, config, options);
    if (st == Q3_OK && options->resume && q3_run_dir_finished(*dir))
        st = already_done(config, *dir);
    else if (st == Q3_OK)
        st = run(config, *dir, checkpoint, options);
    q3_free(checkpoint);
    if (st != Q3_OK) {
        q3_free(*dir);
        *dir = NULL;
    }
    bool plain = st == Q3_OK || st == Q3_ERR_USAGE || st == Q3_ERR_INTERRUPTED || st == Q3_ERR_TERMINATED;
    return plain ? st : q3_prefix(st, PREFIX);
}
