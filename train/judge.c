#include "train/judge.h"

#include "core/file.h"
#include "core/log.h"
#include "eval/predictions.h"
#include "train/finish.h"
#include "train/progress.h"

#define PREFIX "evaluate_qwen3 failed: "

static q3_status show_loss(void *arg, int64_t done, int64_t of)
{
    (void)arg;
    q3_log_live("loss: batch %lld of %lld", (long long)done, (long long)of);
    return Q3_OK;
}

static q3_status show_answers(void *arg, int64_t done, int64_t of)
{
    (void)arg;
    q3_log_live("answers: %lld of %lld samples", (long long)done, (long long)of);
    return Q3_OK;
}

static q3_status judge_answers(q3_text *out, q3_trainer *t, const q3_loss_result *loss, const char *dir)
{
    q3_evaluation e;
    const q3_generation_options options = q3_generation_options_of(t);
    Q3_TRY(q3_evaluate(&e, &t->ctx, &t->model, t->tokenizer, &options, show_answers, NULL));
    q3_progress_generation("generation", &e.metrics, e.seconds);
    q3_text_printf(out, "{\n  \"eval_loss\": ");
    q3_text_json_number(out, loss->loss);
    q3_text_printf(out, ",\n  \"eval_samples\": %lld,\n  \"generation\": ", (long long)loss->n_samples);
    q3_metrics_write(out, &e.metrics, 2);
    q3_text_printf(out, "\n}\n");
    q3_status st = out->failed ? Q3_ERR_MEMORY : dir ? q3_evaluation_write(&e, dir, "eval") : Q3_OK;
    q3_evaluation_free(&e);
    return st;
}

static q3_status judge(q3_text *out, q3_trainer *t, const char *dir)
{
    const q3_loader_source source = q3_eval_source_of(t);
    q3_loss_result loss;
    if (dir)
        Q3_TRY(q3_dir_create(dir)); // told now, not after the work
    Q3_TRY(q3_eval_loss(&loss, &t->ctx, &t->model, &source, show_loss, NULL));
    q3_info("eval_loss %.4f over %lld samples in %.1f s", loss.loss, (long long)loss.n_samples, loss.seconds);
    return judge_answers(out, t, &loss, dir);
}

q3_status q3_judge(q3_text *out, q3_config *config, const char *dir)
{
    q3_trainer t;
    q3_status st = q3_trainer_open_eval(&t, config);
    if (st == Q3_OK) {
        st = judge(out, &t, dir);
        q3_trainer_close(&t);
    }
    return st == Q3_ERR_USAGE ? st : q3_prefix(st, PREFIX);
}
