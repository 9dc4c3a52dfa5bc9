#include "train/finish.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/file.h"
#include "core/log.h"
#include "eval/predictions.h"
#include "eval/report.h"
#include "model/weights.h"
#include "train/best.h"
#include "train/checkpoint.h"
#include "train/meta.h"
#include "train/progress.h"
#include "train/run_dir.h"
#include "train/stop.h"

enum { EXAMPLES = 12 };

q3_loader_source q3_eval_source_of(const q3_trainer *t)
{
    const q3_config_train *c = &t->config->train;
    int64_t batch =
        c->per_device_eval_batch_size > 0 ? c->per_device_eval_batch_size : c->per_device_train_batch_size;
    return (q3_loader_source){ .data = t->eval_data,
                               .collator = &t->collator,
                               .n_samples = t->n_eval,
                               .batch_size = batch,
                               .training = true };
}

q3_generation_options q3_generation_options_of(const q3_trainer *t)
{
    const q3_config_eval *e = &t->config->eval;
    const q3_generation_config *g = &t->model.config.generation;
    q3_loader_source source = q3_eval_source_of(t);
    source.training = false;
    if (e->max_samples > 0 && e->max_samples < t->n_eval)
        source.n_samples = e->max_samples;
    if (e->batch_size > 0)
        source.batch_size = e->batch_size;
    return (q3_generation_options){
        .source = source,
        .sampling = { .do_sample = e->do_sample,
                      .temperature = e->temperature >= 0 ? (float)e->temperature : g->temperature,
                      .top_p = e->top_p >= 0 ? (float)e->top_p : g->top_p,
                      .top_k = e->top_k >= 0 ? (int)e->top_k : g->top_k,
                      .repetition_penalty =
                          e->repetition_penalty >= 0 ? (float)e->repetition_penalty : g->repetition_penalty,
                      .min_p = g->min_p,
                      .presence_penalty = g->presence_penalty,
                      .frequency_penalty = g->frequency_penalty,
                      .seed = (uint64_t)t->config->train.seed },
        .eos = g->eos,
        .n_eos = g->n_eos,
        .max_new_tokens = e->max_new_tokens,
        .labels = e->labels.items,
        .n_labels = e->labels.n,
        .forced = true,
    };
}

void q3_finish_create(q3_finisher *out, q3_trainer *t)
{
    *out = (q3_finisher){
        .t = t, .start = q3_seconds(), .first_step = t->state.step, .first_epoch = t->state.epoch
    };
}

void q3_finish_destroy(q3_finisher *f)
{
    if (f->has_pre)
        q3_evaluation_free(&f->pre);
    if (f->has_post)
        q3_evaluation_free(&f->post);
}

static q3_status show(void *arg, int64_t done, int64_t of)
{
    q3_log_live("%s evaluation: %lld of %lld samples", (const char *)arg, (long long)done, (long long)of);
    return q3_stop_asked();
}

/* {"step": N, "gen_eval/pre_accuracy": ..., ...}; `prefix` is "pre_", or "" for one in mid-training. */
static q3_status append_metrics(const q3_trainer *t, const char *prefix, const q3_metrics *m)
{
    q3_text line = { 0 };
    const struct {
        const char *key;
        double value;
    } values[] = { { "accuracy", m->accuracy },
                   { "macro_f1", m->macro_f1 },
                   { "num_eval_samples", (double)m->n },
                   { "num_failed_preds", (double)m->failed },
                   { "forced_accuracy", m->has_forced ? m->forced_accuracy : NAN } };
    q3_text_printf(&line, "{\"step\": %" PRId64 ", \"epoch\": ", t->state.step);
    q3_text_json_number(&line, t->state.epoch);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        q3_text_printf(&line, ", \"gen_eval/%s%s\": ", prefix, values[i].key);
        q3_text_json_number(&line, values[i].value);
    }
    for (int i = 0; i < m->labels->n; i++) {
        q3_text_printf(&line, ", \"gen_eval/%sf1_%s\": ", prefix, m->labels->normal[i]);
        q3_text_json_number(&line, m->label[i].f1);
    }
    q3_text_printf(&line, "}\n");
    return q3_logger_write(t->logger, &line, false);
}

/* What was trained is in a checkpoint by now, unless train.save_strategy is no. */
static q3_status stopped(q3_trainer *t, const char *name)
{
    if (t->state.step > 0 && q3_checkpoint_newest(t->output_dir) < t->state.step)
        Q3_TRY(q3_checkpoint_save(t));
    return q3_fail(q3_stop_asked(),
                   "stopped during the %s evaluation, everything is saved; continue with --resume", name);
}

static q3_status evaluate(q3_evaluation *out, q3_trainer *t, const char *name, const char *prefix)
{
    const q3_generation_options options = q3_generation_options_of(t);
    q3_status st =
        q3_evaluate(out, &t->ctx, &t->model, t->tokenizer, &options, show, (void *)(uintptr_t)name);
    if (st != Q3_OK && st == q3_stop_asked())
        return stopped(t, name);
    Q3_TRY(st);
    q3_progress_generation(name, &out->metrics, out->seconds);
    st = q3_evaluation_write(out, t->output_dir, name);
    st = st ? st : append_metrics(t, prefix, &out->metrics);
    if (st != Q3_OK)
        q3_evaluation_free(out);
    return st;
}

static bool exists_in(const char *dir, const char *name)
{
    char *path = q3_path_join(dir, name);
    bool is = path && q3_file_exists(path);
    q3_free(path);
    return is;
}

q3_status q3_finish_before(q3_finisher *f)
{
    q3_trainer *t = f->t;
    if (!t->config->eval.pre)
        return Q3_OK;
    if (t->state.step > 0) { // resumed: the weights are no longer those of the start
        if (!exists_in(t->output_dir, "eval/pre_predictions.jsonl"))
            return Q3_OK;
        Q3_TRY(q3_evaluation_read(&f->pre, t->output_dir, "pre", t->config->eval.labels.items,
                                  t->config->eval.labels.n, (uint64_t)t->config->train.seed));
        f->has_pre = true;
        return Q3_OK;
    }
    Q3_TRY(evaluate(&f->pre, t, "pre", "pre_"));
    f->has_pre = true;
    return Q3_OK;
}

q3_status q3_finish_turn(q3_log_entry *out, q3_trainer *t)
{
    char name[32];
    q3_evaluation e;
    snprintf(name, sizeof name, "step-%" PRId64, t->state.step);
    Q3_TRY(evaluate(&e, t, name, ""));
    *out = (q3_log_entry){ .step = t->state.step,
                           .epoch = t->state.epoch,
                           .answers = true,
                           .accuracy = e.metrics.accuracy,
                           .macro_f1 = e.metrics.macro_f1,
                           .forced_accuracy = e.metrics.has_forced ? e.metrics.forced_accuracy : NAN };
    q3_evaluation_free(&e);
    return Q3_OK;
}

/* The best checkpoint's weights, when they are not the present ones. */
static q3_status load_best(q3_trainer *t)
{
    if (!t->config->train.load_best_model_at_end || t->state.best_step < 0 ||
        t->state.best_step == t->state.step)
        return Q3_OK;
    char *dir = q3_checkpoint_path(t->output_dir, t->state.best_step);
    q3_status st = dir ? q3_checkpoint_load_weights(t, dir) : Q3_ERR_MEMORY;
    if (st == Q3_OK)
        q3_info("best weights are those of step %" PRId64 " (%s %.4f)", t->state.best_step,
                q3_best_name(&t->config->train), t->state.best_metric);
    q3_free(dir);
    return st;
}

static q3_status summary_line(q3_finisher *f)
{
    const q3_trainer *t = f->t;
    q3_text line = { 0 };
    double seconds = q3_seconds() - f->start;
    double samples = (double)t->n_train * (t->state.epoch - f->first_epoch);
    q3_text_printf(&line, "{\"step\": %" PRId64 ", \"epoch\": ", t->state.step);
    q3_text_json_number(&line, t->state.epoch);
    q3_text_printf(&line, ", \"train_runtime\": ");
    q3_text_json_number(&line, seconds);
    q3_text_printf(&line, ", \"train_samples_per_second\": ");
    q3_text_json_number(&line, t->seconds > 0 ? samples / t->seconds : 0);
    q3_text_printf(&line, ", \"train_steps_per_second\": ");
    q3_text_json_number(&line, t->seconds > 0 ? (double)(t->state.step - f->first_step) / t->seconds : 0);
    q3_text_printf(&line, ", \"train_loss\": ");
    q3_text_json_number(&line, t->state.step ? t->state.loss_total / (double)t->state.step : 0);
    q3_text_printf(&line, "}\n");
    return q3_logger_write(t->logger, &line, true);
}

/* Examples for the report: changed answers first, each with its picture and its text. */
typedef struct examples {
    q3_report_example list[EXAMPLES];
    q3_sample samples[EXAMPLES];
    unsigned char *pictures[EXAMPLES];
    int n;
} examples;

static void add_example(examples *x, const q3_finisher *f, int64_t index)
{
    int at = x->n;
    q3_sample *s = &x->samples[at];
    q3_image image = { 0 };
    size_t bytes = 0;
    if (q3_dataset_get(s, f->t->eval_data, index) != Q3_OK)
        return;
    if (q3_sample_image(&image, s, &f->t->collator.image) != Q3_OK ||
        q3_image_encode_png(&x->pictures[at], &bytes, &image) != Q3_OK)
        bytes = 0; // shown without a picture
    q3_image_free(&image);
    const q3_prediction *pre = f->has_pre && index < f->pre.n ? &f->pre.predictions[index] : NULL;
    const q3_prediction *post = f->has_post && index < f->post.n ? &f->post.predictions[index] : NULL;
    const q3_prediction *any = post ? post : pre;
    x->list[x->n++] = (q3_report_example){ .image = x->pictures[at],
                                           .image_bytes = bytes,
                                           .text = s->query,
                                           .gold = any ? f->t->config->eval.labels.items[any->gold] : NULL,
                                           .before = pre ? pre->output : NULL,
                                           .after = post ? post->output : NULL,
                                           .before_right = pre && pre->answer.label == pre->gold,
                                           .after_right = post && post->answer.label == post->gold };
}

/* A few right ones spread over the set, and the first wrong ones. */
static void choose_examples(examples *x, const q3_finisher *f)
{
    const q3_evaluation *e = f->has_post ? &f->post : f->has_pre ? &f->pre : NULL;
    int64_t stride = e && e->n > EXAMPLES ? e->n / (EXAMPLES - 4) : 1;
    for (int64_t i = 0; e && i < e->n && x->n < EXAMPLES - 4; i += stride)
        add_example(x, f, i);
    for (int64_t i = 0; e && i < e->n && x->n < EXAMPLES; i++)
        if (e->predictions[i].answer.label != e->predictions[i].gold && i % stride != 0)
            add_example(x, f, i);
}

static void free_examples(examples *x)
{
    for (int i = 0; i < EXAMPLES; i++) {
        q3_sample_free(&x->samples[i]);
        q3_free(x->pictures[i]);
    }
}

/* Points of the log: training losses, learning rates, evaluation losses, answers. */
typedef struct curves {
    q3_report_point *all; /* one allocation */
    q3_report_point *loss, *rate, *eval, *accuracy, *macro_f1;
    int64_t n_train, n_eval, n_answers;
} curves;

static void add_answers(curves *c, int64_t step, double accuracy, double macro_f1)
{
    c->accuracy[c->n_answers] = (q3_report_point){ (double)step, accuracy };
    c->macro_f1[c->n_answers++] = (q3_report_point){ (double)step, macro_f1 };
}

static q3_status make_curves(curves *c, const q3_finisher *f)
{
    const q3_state *s = &f->t->state;
    size_t n = (size_t)s->n_log + 1;
    q3_report_point *p = q3_calloc(5 * n, sizeof *p);
    if (!p)
        return Q3_ERR_MEMORY;
    *c = (curves){ p, p, p + n, p + 2 * n, p + 3 * n, p + 4 * n, 0, 0, 0 };
    if (f->has_pre)
        add_answers(c, 0, f->pre.metrics.accuracy, f->pre.metrics.macro_f1);
    for (int64_t i = 0; i < s->n_log; i++) {
        const q3_log_entry *e = &s->log[i];
        if (e->eval) {
            c->eval[c->n_eval++] = (q3_report_point){ (double)e->step, e->loss };
        } else if (e->answers) {
            add_answers(c, e->step, e->accuracy, e->macro_f1);
        } else {
            c->rate[c->n_train] = (q3_report_point){ (double)e->step, e->learning_rate };
            c->loss[c->n_train++] = (q3_report_point){ (double)e->step, e->loss };
        }
    }
    return Q3_OK;
}

static q3_status fill_report(q3_text *page, q3_finisher *f, const curves *c, const examples *x,
                             const char *settings)
{
    const q3_trainer *t = f->t;
    char title[256], subtitle[512], date[64];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &utc));
    snprintf(title, sizeof title, "%s, seed %" PRId64, q3_path_base(t->output_dir), t->config->train.seed);
    snprintf(subtitle, sizeof subtitle, "%s, qwen3-sft %s on the CPU, %s", t->config->model.path, Q3_VERSION,
             date);
    const q3_report_data data = { .title = title,
                                  .subtitle = subtitle,
                                  .note = t->config->about,
                                  .train_loss = { c->loss, c->n_train },
                                  .eval_loss = { c->eval, c->n_eval },
                                  .rate = { c->rate, c->n_train },
                                  .accuracy = { c->accuracy, c->n_answers },
                                  .macro_f1 = { c->macro_f1, c->n_answers },
                                  .before = f->has_pre ? &f->pre.metrics : NULL,
                                  .after = f->has_post ? &f->post.metrics : NULL,
                                  .trainable = t->trainable.n,
                                  .total = q3_trainer_parameters(t),
                                  .steps = t->state.step,
                                  .seconds = t->seconds,
                                  .tokens_per_second = t->seconds > 0 ? (double)t->tokens / t->seconds : 0,
                                  .peak_bytes = (double)q3_memory_peak(),
                                  .examples = x->list,
                                  .n_examples = x->n,
                                  .settings = settings };
    return q3_report_write(page, &data);
}

static q3_status write_report(q3_finisher *f)
{
    q3_text page = { 0 }, settings = { 0 };
    examples x = { 0 };
    curves c = { 0 };
    char *path = q3_path_join(f->t->output_dir, "report.html");
    q3_config_json(&settings, f->t->config);
    choose_examples(&x, f);
    q3_status st = make_curves(&c, f);
    if (st == Q3_OK && (!path || settings.failed))
        st = Q3_ERR_MEMORY;
    st = st ? st : fill_report(&page, f, &c, &x, settings.data);
    st = st ? st : q3_file_write(path, page.data, page.size);
    q3_free(c.all);
    free_examples(&x);
    q3_text_free(&page);
    q3_text_free(&settings);
    q3_free(path);
    return st;
}

q3_status q3_finish_after(q3_finisher *f)
{
    q3_trainer *t = f->t;
    Q3_TRY(load_best(t));
    // Checkpoints are f32; a fully tuned model goes out in the type that its config.json names.
    Q3_TRY(q3_weights_save(t, t->output_dir, t->model.config.dtype == Q3_BF16 ? Q3_BF16 : Q3_F32));
    Q3_TRY(q3_model_copy_files(t->model_dir, t->output_dir));
    if (t->config->eval.post) {
        Q3_TRY(evaluate(&f->post, t, "post", "post_"));
        f->has_post = true;
    }
    Q3_TRY(summary_line(f));
    Q3_TRY(write_report(f));
    Q3_TRY(q3_meta_write(t, f->has_pre ? &f->pre.metrics : NULL, f->has_post ? &f->post.metrics : NULL));
    q3_info("done        %s/report.html", t->output_dir);
    return Q3_OK;
}
