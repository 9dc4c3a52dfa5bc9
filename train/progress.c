#include "train/progress.h"

#include <math.h>
#include <stdio.h>

#include "core/log.h"
#include "train/best.h"
#include "train/plan.h"

static const char *duration(char *out, size_t size, double seconds)
{
    int s = (int)lround(seconds);
    if (s < 3600)
        snprintf(out, size, "%d:%02d", s / 60, s % 60);
    else
        snprintf(out, size, "%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60);
    return out;
}

/* "NF4, double quantization": as the model's files have it, else as the config asks. */
static const char *quantization(char *out, size_t size, const q3_trainer *t)
{
    const q3_quantization_config *q = &t->model.config.quantization;
    const q3_config_quantization *c = &t->config->quantization;
    if (q->present ? q->code == Q3_I8 : c->load_in_8bit)
        return "int8, a scale a row";
    if (q->present && q->code == Q3_I4)
        return "int4";
    bool fp4 = q->present ? q->code == Q3_FP4 : c->bnb_4bit_quant_type == Q3_CONFIG_QUANT_FP4;
    bool nested = q->present ? q->nested : c->bnb_4bit_use_double_quant;
    snprintf(out, size, "%s%s", fp4 ? "FP4" : "NF4", nested ? ", double quantization" : "");
    return out;
}

void q3_progress_summary(const q3_trainer *t, const char *checkpoint)
{
    const q3_config *c = t->config;
    char form[64];
    int64_t base = t->text_params + t->vision_params, all = q3_trainer_parameters(t),
            trained = t->trainable.n;
    q3_info("model       %s: %s parameters (text %s, vision %s)", c->model.path, q3_count((uint64_t)base),
            q3_count((uint64_t)t->text_params), q3_count((uint64_t)t->vision_params));
    if (t->model.quantized_params)
        q3_info("quantized   %s weights to %s (%s)", q3_count((uint64_t)t->model.quantized_params),
                q3_bytes((uint64_t)t->model.quantized_bytes), quantization(form, sizeof form, t));
    q3_info("training    %s of %s parameters, %.2f %% (text %s, vision %s)", q3_count((uint64_t)trained),
            q3_count((uint64_t)all), 100.0 * (double)trained / (double)all,
            q3_count((uint64_t)t->trainable_text), q3_count((uint64_t)t->trainable_vision));
    q3_info("data        %lld samples to train on, %lld to evaluate (%s)", (long long)t->n_train,
            (long long)t->n_eval, t->eval_name);
    q3_info("schedule    %lld steps of %lld x %lld samples, %.3g epochs, learning rate %g",
            (long long)t->total_steps, (long long)c->train.per_device_train_batch_size,
            (long long)t->accumulation, (double)t->total_steps / (double)t->updates, c->train.learning_rate);
    q3_info("device      %s, activations in %s", q3_device_describe(t->cuda),
            t->ctx.dtype == Q3_BF16 ? "bfloat16" : "float32");
    if (t->ranks.ranks > 1)
        q3_info("ranks       %d, which share the micro-batches of each step", t->ranks.ranks);
    if (c->model.attention != Q3_CONFIG_ATTENTION_AUTO && !t->cuda)
        q3_info("attention   the program's own kernel, exact and in blocks, whatever model.attention says");
    if (!c->model.deterministic && (!t->cuda || !t->cuda->cudnn))
        q3_info("bits        the same in each run, whatever model.deterministic says: cuDNN is not at work");
    q3_info("memory      %s for a step (gradient checkpointing %s), %s for weights and optimizer",
            q3_bytes(t->step_plan), q3_checkpointing_names[t->forward.checkpointing],
            q3_bytes(t->run.used + t->values.used));
    q3_info("output      %s", t->output_dir);
    if (checkpoint)
        q3_info("resuming    %s", checkpoint);
}

void q3_progress_step(const q3_trainer *t, const q3_step_result *r, double seconds)
{
    char eta[32];
    double left = seconds * (double)(t->total_steps - t->state.step);
    q3_log_live("step %5lld/%lld | loss %.4f | norm %-7.3g | lr %.2e | %4.0f ms | ETA %s",
                (long long)t->state.step, (long long)t->total_steps, r->loss, r->grad_norm, r->learning_rate,
                1e3 * seconds, duration(eta, sizeof eta, left));
}

void q3_progress_log(const q3_trainer *t, const q3_log_entry *e, double step_seconds,
                     double tokens_per_second)
{
    char eta[32];
    double left = step_seconds * (double)(t->total_steps - e->step);
    q3_info("step %5lld/%lld | loss %.4f | norm %-7.3g | lr %.2e | %4.0f ms | %s tok/s | ETA %s",
            (long long)e->step, (long long)t->total_steps, e->loss, e->grad_norm, e->learning_rate,
            1e3 * step_seconds, q3_count((uint64_t)tokens_per_second), duration(eta, sizeof eta, left));
}

void q3_progress_eval(const q3_trainer *t, const q3_log_entry *e, bool best)
{
    q3_info("eval %5lld/%lld | eval_loss %.4f%s | %.1f samples/s", (long long)e->step,
            (long long)t->total_steps, e->loss, best ? " (best)" : "", e->samples_per_second);
}

void q3_progress_best(const q3_trainer *t, double value, bool best)
{
    q3_info("eval %5lld/%lld | %s %.4f%s", (long long)t->state.step, (long long)t->total_steps,
            q3_best_name(&t->config->train), value, best ? " (best)" : "");
}

void q3_progress_stop(const q3_trainer *t)
{
    const q3_config_train *c = &t->config->train;
    q3_info("stopping    at step %lld of %lld: %s has not improved by more than %g in %lld evaluations "
            "(train.early_stopping_patience)",
            (long long)t->state.step, (long long)t->total_steps, q3_best_name(c), c->early_stopping_threshold,
            (long long)t->state.unimproved);
}

void q3_progress_generation(const char *name, const q3_metrics *m, double seconds)
{
    q3_info("%s evaluation: %lld answers in %.1f s", name, (long long)m->n, seconds);
    q3_info("  accuracy  %.3f  (95 %% interval %.3f-%.3f)   macro F1 %.3f   unreadable answers %lld",
            m->accuracy, m->interval[0], m->interval[1], m->macro_f1, (long long)m->failed);
    if (m->has_forced)
        q3_info("  forced choice between the labels: %.3f", m->forced_accuracy);
    q3_info("  %-18s %9s %9s %9s %9s", "label", "precision", "recall", "F1", "support");
    for (int i = 0; i < m->labels->n; i++)
        q3_info("  %-18s %9.3f %9.3f %9.3f %9lld", m->labels->normal[i], m->label[i].precision,
                m->label[i].recall, m->label[i].f1, (long long)m->label[i].support);
}
