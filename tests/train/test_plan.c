/* A trainer that is laid out only takes, to the byte, what one with values takes, and a step takes what the plan says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/run.h"
#include "train/plan.h"

#define FEW "data.max_train_samples=6" // an epoch is made of them

static void must(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static void open_config(q3_config *config, const char *const *overrides)
{
    int n = 0;
    while (overrides[n])
        n++;
    must(q3_config_load(config, Q3_RUN_CONFIG, overrides, n));
    must(q3_config_check(config));
}

/* What the largest step takes: a whole epoch is made. */
static size_t peak_of_training(q3_trainer *t)
{
    q3_loader *loader;
    q3_step_result r;
    q3_loader_source source = { .data = t->train_data,
                                .collator = &t->collator,
                                .n_samples = t->n_train,
                                .batch_size = t->config->train.per_device_train_batch_size,
                                .training = true };
    q3_pictures_attach(&source, t->train_pictures);
    must(q3_loader_create(&loader, &source, 0, 1, 1));
    t->step.peak = 0;
    for (int64_t i = 0; i < t->updates; i++)
        must(q3_train_step(&r, t, loader));
    q3_loader_destroy(loader);
    return t->step.peak;
}

static size_t features; /* of all cases */

static void check(const char *const *overrides)
{
    q3_config config;
    q3_trainer real, dry;
    q3_plan a, b;
    open_config(&config, overrides);
    must(q3_trainer_open_dry(&dry, &config));
    must(q3_trainer_plan_all(&a, &dry));
    must(q3_trainer_open(&real, &config, NULL));
    must(q3_trainer_plan_all(&b, &real));
    assert_memory_equal(&dry.bytes, &real.bytes, sizeof real.bytes);
    assert_int_equal(dry.run.used + dry.values.used, real.run.used + real.values.used);
    assert_memory_equal(a.step, b.step, sizeof a.step);
    assert_true(a.step[0] > a.step[1] && a.step[1] > a.step[2]);
    assert_string_equal(a.largest, b.largest);
    assert_int_equal(a.features, b.features);
    features += a.features;
    assert_int_equal(real.step_plan, a.step[real.forward.checkpointing]);
    q3_trainer_close(&real);
    must(q3_trainer_open(&real, &config, NULL)); // features that were counted are not there to recall
    must(q3_trainer_plan(&real));
    size_t before = real.values.used, peak = peak_of_training(&real);
    assert_true(peak <= a.step[real.forward.checkpointing]);
    assert_true(real.values.used - before >= a.growth && real.values.used - before <= a.growth + (64 << 4));
    assert_int_equal(q3_pictures_bytes(real.train_pictures), q3_pictures_bytes(dry.train_pictures));
    q3_trainer_close(&real);
    q3_trainer_close(&dry);
    q3_config_free(&config);
}

static void what_is_laid_out_takes_what_a_run_takes(void **state)
{
    (void)state;
    static const char *const cases[][6] = {
        { FEW, "quantization.load_in_4bit=true", "data.min_pixels=30000", "data.max_pixels=60000" },
        { FEW, "quantization.load_in_4bit=false", "train.optim=adamw_8bit",
          "train.gradient_accumulation_steps=5" },
        { FEW, "quantization.load_in_8bit=true", "train.gradient_checkpointing=full" },
        { FEW, "quantization.load_in_4bit=true",
          "lora.init_adapter=tests/golden/training/float32-adapter-init",
          "lora.target_modules=.*language_model.*\\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_"
          "proj)" },
        { FEW, "quantization.load_in_4bit=false", "train.tune=full" },
        { FEW, "model.init=random", "train.gradient_checkpointing=half" },
        { "data.train=tests/golden/training/data/conversations.jsonl",
          "data.eval=", "data.allow_text_only=true", "train.per_device_train_batch_size=3" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check(cases[i]);
    assert_true(features > 0);
}

/* The batch of all samples is the largest one. */
static void compare_largest(const char *data, int rows)
{
    for (int i = 0; i < Q3_PLAN_CHOICES; i++) {
        char choice[64], batch[64];
        q3_config config;
        q3_trainer t, dry;
        q3_plan plan;
        snprintf(choice, sizeof choice, "train.gradient_checkpointing=%s", q3_checkpointing_names[i]);
        snprintf(batch, sizeof batch, "train.per_device_train_batch_size=%d", rows);
        open_config(&config, (const char *const[]){ choice, batch, data,
                                                    "data.eval=", "data.allow_text_only=true", NULL });
        must(q3_trainer_open_dry(&dry, &config));
        must(q3_trainer_plan_all(&plan, &dry));
        assert_int_equal(plan.choice, i);
        assert_int_equal(plan.rows, rows);
        must(q3_trainer_open(&t, &config, NULL));
        must(q3_trainer_plan(&t));
        assert_int_equal(peak_of_training(&t), plan.step[i]);
        q3_trainer_close(&t);
        q3_trainer_close(&dry);
        q3_config_free(&config);
    }
}

static void the_largest_step_takes_the_plan_to_the_byte(void **state)
{
    (void)state;
    compare_largest("data.train=tests/golden/training/data/train.jsonl", 22);
    compare_largest("data.train=tests/golden/training/data/conversations.jsonl", 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_laid_out_takes_what_a_run_takes),
        cmocka_unit_test(the_largest_step_takes_the_plan_to_the_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
