/* A training on a device in bfloat16: what the products read is what the optimizer has written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/run.h"
#include "train/trainer.h"

static void must(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static void read_both(float *values, uint16_t *shadow, const q3_trainer *t)
{
    q3_device_read(t->cuda, values, t->trainable.values, (size_t)t->trainable.n * sizeof *values);
    q3_device_read(t->cuda, shadow, t->trainable.shadow, (size_t)t->trainable.n * sizeof *shadow);
}

static void a_step_leaves_a_fresh_shadow(void **state)
{
    static const char *const overrides[] = { "model.device=cuda", "model.dtype=bfloat16" };
    q3_config config;
    q3_trainer t;
    q3_loader *loader;
    q3_step_result result;
    q3_cuda *cuda = NULL;
    (void)state;
    if (q3_device_open(&cuda, "cuda") != Q3_OK)
        skip();
    q3_device_close(cuda);
    must(q3_config_load(&config, Q3_RUN_CONFIG, overrides, 2));
    must(q3_trainer_open(&t, &config, NULL));
    const q3_loader_source source = { .data = t.train_data,
                                      .collator = &t.collator,
                                      .n_samples = t.n_train,
                                      .batch_size = config.train.per_device_train_batch_size,
                                      .training = true };
    must(q3_loader_create(&loader, &source, 0, 1, 1));
    size_t n = (size_t)t.trainable.n;
    float *values = malloc(n * sizeof *values);
    uint16_t *shadow = malloc(n * sizeof *shadow), *old = malloc(n * sizeof *old);
    read_both(values, old, &t);
    must(q3_train_step(&result, &t, loader));
    must(q3_train_step(&result, &t, loader)); // the first may have a learning rate of 0
    read_both(values, shadow, &t);
    assert_memory_not_equal(shadow, old, n * sizeof *shadow);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(shadow[i], q3_f32_to_bf16(values[i]));
    free(values), free(shadow), free(old);
    q3_loader_destroy(loader);
    q3_trainer_close(&t);
    q3_config_free(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_leaves_a_fresh_shadow),
    };
    return cmocka_run_group_tests_name("shadow on cuda", tests, NULL, NULL);
}
