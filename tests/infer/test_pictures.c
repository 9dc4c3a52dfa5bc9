/* infer/pictures.h: features that are kept change nothing but time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/run.h"
#include "train/trainer.h"

enum { STEPS = 12 }; // more than two epochs

static void must(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

/* Losses of a shuffled training that keeps at most `bytes` of features; *undecoded counts batches without patches. */
static void train(double losses[STEPS], int64_t *undecoded, size_t bytes)
{
    static const char *const overrides[] = { "train.shuffle=true", "train.per_device_train_batch_size=2",
                                             "data.min_pixels=24576", "data.max_pixels=65536" };
    q3_config config;
    q3_trainer t;
    q3_loader *loader;
    must(q3_config_load(&config, Q3_RUN_CONFIG, overrides, 4));
    must(q3_config_check(&config));
    must(q3_trainer_open(&t, &config, NULL));
    must(q3_trainer_plan(&t));
    q3_pictures_destroy(t.train_pictures);
    must(q3_pictures_create(&t.train_pictures, &t.model, q3_dataset_size(t.train_data), bytes));
    q3_loader_source source = { .data = t.train_data,
                                .collator = &t.collator,
                                .n_samples = t.n_train,
                                .batch_size = 2,
                                .training = true,
                                .shuffle = true };
    q3_pictures_attach(&source, t.train_pictures);
    must(q3_loader_create(&loader, &source, 0, 1, 1));
    for (int i = 0; i < STEPS; i++) {
        q3_step_result r;
        must(q3_train_step(&r, &t, loader));
        losses[i] = r.loss;
    }
    *undecoded = 0;
    for (int64_t i = 0; i < t.per_epoch; i++) {
        const q3_loaded *l;
        must(q3_loader_next(&l, loader));
        *undecoded += l->batch.n_images > 0 && !l->batch.patches;
    }
    q3_loader_destroy(loader);
    q3_trainer_close(&t);
    q3_config_free(&config);
}

static void kept_features_give_the_same_losses(void **state)
{
    (void)state;
    double none[STEPS], some[STEPS], all[STEPS];
    int64_t n_none, n_some, n_all;
    train(none, &n_none, 0);
    train(some, &n_some, 100000); // a few of the pictures
    train(all, &n_all, (size_t)1 << 24);
    assert_memory_equal(none, some, sizeof none);
    assert_memory_equal(none, all, sizeof none);
    assert_int_equal(n_none, 0);
    assert_true(n_some < n_all);
    assert_int_equal(n_all, 11); // 22 samples, two a batch
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(kept_features_give_the_same_losses) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
