#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "tests/support/run.h"
#include "train/state.h"

static const q3_log_entry entries[] = {
    { .step = 1, .epoch = 1.0 / 3, .loss = 0.1 + 0.2, .grad_norm = 1e-300, .learning_rate = 5e-324 },
    { .step = 2,
      .epoch = 2.0 / 3,
      .eval = true,
      .loss = 4.25,
      .runtime = 0.1,
      .samples_per_second = 70,
      .steps_per_second = 40 },
    { .step = 2,
      .epoch = 2.0 / 3,
      .answers = true,
      .accuracy = 0.7,
      .macro_f1 = 1.0 / 3,
      .forced_accuracy = 1 },
    { .step = 3, .epoch = 1, .loss = 1.7976931348623157e308, .grad_norm = 2, .learning_rate = 0 },
};
static const q3_state_run constants = { .max_steps = 18,
                                        .logging_steps = 1,
                                        .eval_steps = 6,
                                        .save_steps = 6,
                                        .train_batch_size = 2,
                                        .num_train_epochs = 3,
                                        .early_stopping_patience = 3,
                                        .early_stopping_threshold = 0.01,
                                        .best_checkpoint = "runs/\"x\"/checkpoint-2",
                                        .config = "{\"train\": {\"seed\": 7}}\n" };

static void fill(q3_state *s)
{
    q3_state_init(s);
    s->step = 3;
    s->batch = 7;
    s->epoch = 7.0 / 11;
    s->loss_sum = 0.1;
    s->loss_steps = 2;
    s->loss_total = 1.0 / 3;
    s->tokens = 9000000000000000; // the largest that is read
    s->samples = 22;
    s->best_metric = 4.25;
    s->best_step = 2;
    s->unanswered = true;
    s->unimproved = 2;
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        assert_int_equal(q3_state_log(s, &entries[i]), Q3_OK);
}

static const char *save(const q3_state *s, const q3_state_run *run)
{
    q3_text text = { 0 };
    q3_state_json(&text, s, run);
    assert_false(text.failed);
    const char *dir = q3_run_path("state");
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    q3_run_write(dir, "trainer_state.json", text.data);
    q3_text_free(&text);
    return q3_run_file(dir, "trainer_state.json");
}

static void assert_same(const q3_log_entry *a, const q3_log_entry *b)
{
    assert_int_equal(a->step, b->step);
    assert_int_equal(a->eval, b->eval);
    assert_true(a->epoch == b->epoch && a->loss == b->loss && a->grad_norm == b->grad_norm);
    assert_true(a->learning_rate == b->learning_rate && a->runtime == b->runtime);
    assert_int_equal(a->answers, b->answers);
    assert_true(a->accuracy == b->accuracy && a->macro_f1 == b->macro_f1);
    assert_true(a->forced_accuracy == b->forced_accuracy);
    assert_true(a->samples_per_second == b->samples_per_second && a->steps_per_second == b->steps_per_second);
}

static void every_number_comes_back_to_the_bit(void **state)
{
    (void)state;
    q3_state a, b;
    char *config;
    fill(&a);
    if (q3_state_load(&b, &config, save(&a, &constants)) != Q3_OK)
        fail_msg("%s", q3_error());
    assert_string_equal(config, constants.config);
    assert_true(a.step == b.step && a.batch == b.batch && a.loss_steps == b.loss_steps &&
                a.tokens == b.tokens);
    assert_true(a.samples == b.samples && a.best_step == b.best_step && b.unanswered);
    assert_true(a.epoch == b.epoch && a.loss_sum == b.loss_sum && a.loss_total == b.loss_total);
    assert_true(a.best_metric == b.best_metric && a.unimproved == b.unimproved);
    assert_int_equal(a.n_log, b.n_log);
    for (int64_t i = 0; i < a.n_log; i++)
        assert_same(&a.log[i], &b.log[i]);
    q3_free(config);
    q3_state_free(&a);
    q3_state_free(&b);
}

static void a_beginning_has_no_best_step(void **state)
{
    (void)state;
    q3_state a, b;
    char *config;
    q3_state_run run = constants;
    run.best_checkpoint = NULL;
    q3_state_init(&a);
    assert_int_equal(q3_state_load(&b, &config, save(&a, &run)), Q3_OK);
    assert_int_equal(b.best_step, -1);
    assert_true(isnan(b.best_metric));
    assert_int_equal(b.n_log, 0);
    q3_free(config);
    q3_state_free(&b);
}

/* transformers 5.17, trainer_callback.TrainerState; qwen3_sft is ours. */
static void the_keys_are_the_references(void **state)
{
    (void)state;
    static const char *const keys[] = { "best_global_step",
                                        "best_metric",
                                        "best_model_checkpoint",
                                        "epoch",
                                        "eval_steps",
                                        "global_step",
                                        "is_hyper_param_search",
                                        "is_local_process_zero",
                                        "is_world_process_zero",
                                        "log_history",
                                        "logging_steps",
                                        "max_steps",
                                        "num_input_tokens_seen",
                                        "num_train_epochs",
                                        "qwen3_sft",
                                        "save_steps",
                                        "stateful_callbacks",
                                        "total_flos",
                                        "train_batch_size",
                                        "trial_name",
                                        "trial_params" };
    q3_state s;
    q3_json doc;
    fill(&s);
    assert_int_equal(q3_json_open(&doc, save(&s, &constants), 1 << 20), Q3_OK);
    int n = 0;
    for (const cJSON *item = doc.root->child; item; item = item->next, n++)
        assert_string_equal(item->string, keys[n]);
    assert_int_equal(n, sizeof keys / sizeof *keys);
    assert_string_equal(cJSON_GetObjectItem(doc.root, "best_model_checkpoint")->valuestring,
                        constants.best_checkpoint);
    q3_json_close(&doc);
    q3_state_free(&s);
}

static void refused(const char *text, const char *sentence)
{
    q3_state s;
    char *config;
    const char *dir = q3_run_path("state");
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    q3_run_write(dir, "trainer_state.json", text);
    assert_int_equal(q3_state_load(&s, &config, q3_run_file(dir, "trainer_state.json")), Q3_ERR_FORMAT);
    if (!strstr(q3_error(), sentence))
        fail_msg("no \"%s\" in: %s", sentence, q3_error());
    assert_null(config);
    assert_null(s.log);
}

static void states_of_other_programs_and_broken_ones_are_refused(void **state)
{
    (void)state;
    refused("{\"global_step\": 3, \"log_history\": []}", "another program wrote this checkpoint");
    refused("{\"global_step\": 3, \"qwen3_sft\": 1}", "another program wrote this checkpoint");
    refused("{\"global_step\": \"3\", \"qwen3_sft\": {}}", "global_step");
    refused("{\"global_step\": 3, \"qwen3_sft\": {\"batch\": 1.5}}", "batch");
    refused("{\"global_step\": -3, \"qwen3_sft\": {\"batch\": 1}}", "global_step is -3");
    refused("{\"global_step\": 3, \"qwen3_sft\": {\"batch\": -1}}", "batch is -1");
    refused("{\"global_step\": 3, \"qwen3_sft\": {}, \"log_history\": [{\"step\": 1, \"loss\": 1}, "
            "{\"step\": \"x\"}]}",
            "step");
    refused("{\"global_step\": 3, \"qwen3", "trainer_state.json:1:");
}

static void every_failed_request_is_survived(void **state)
{
    (void)state;
    q3_state s, b;
    fill(&s);
    const char *path = save(&s, &constants);
    q3_status st = Q3_ERR_MEMORY;
    for (int64_t n = 1; st != Q3_OK; n++) {
        char *config = NULL;
        q3_heap_fail_at(n);
        st = q3_state_load(&b, &config, path);
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
        q3_free(config);
        if (st == Q3_OK)
            q3_state_free(&b);
        assert_true(n < 10000);
    }
    q3_state_free(&s);
}

static void a_line_of_metrics_is_one_object(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "{\"step\": 1, \"epoch\": 0.3333333333333333, \"loss\": 0.30000000000000004, \"grad_norm\": 1e-300, "
        "\"learning_rate\": 5e-324, \"x\": 1}\n",
        "{\"step\": 2, \"epoch\": 0.6666666666666666, \"eval_loss\": 4.25, \"eval_runtime\": 0.1, "
        "\"eval_samples_per_second\": 70.0, \"eval_steps_per_second\": 40.0, \"x\": 1}\n",
    };
    for (int i = 0; i < 2; i++) {
        q3_text text = { 0 };
        q3_log_line(&text, &entries[i], ", \"x\": 1");
        assert_string_equal(text.data, lines[i]);
        q3_text_free(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_comes_back_to_the_bit),
        cmocka_unit_test(a_beginning_has_no_best_step),
        cmocka_unit_test(the_keys_are_the_references),
        cmocka_unit_test(states_of_other_programs_and_broken_ones_are_refused),
        cmocka_unit_test(every_failed_request_is_survived),
        cmocka_unit_test(a_line_of_metrics_is_one_object),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
