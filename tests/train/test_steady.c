/* Memory: a step needs what the plan says, and after the first full step nothing more is asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/support/run.h"
#include "train/trainer.h"

typedef struct run {
    q3_config config;
    q3_trainer t;
    q3_loader *loader;
} run;

static void must(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static void open_run(run *r, const char *const *overrides, int n)
{
    must(q3_config_load(&r->config, Q3_RUN_CONFIG, overrides, n));
    must(q3_config_check(&r->config));
    must(q3_trainer_open(&r->t, &r->config, NULL));
    must(q3_trainer_plan(&r->t));
    const q3_loader_source source = { .data = r->t.train_data,
                                      .collator = &r->t.collator,
                                      .n_samples = r->t.n_train,
                                      .batch_size = r->config.train.per_device_train_batch_size,
                                      .training = true };
    must(q3_loader_create(&r->loader, &source, 0, 1, 1));
}

static void close_run(run *r)
{
    q3_loader_destroy(r->loader);
    q3_trainer_close(&r->t);
    q3_config_free(&r->config);
}

/* Requests to the C heap by this thread; the loader's thread has its own number. */
static _Thread_local int64_t requests;

#if defined(__SANITIZE_ADDRESS__)
/* sanitizer/allocator_interface.h, which gcc does not bring along. */
int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void *, size_t),
                                              void (*)(const volatile void *));

static void on_malloc(const volatile void *p, size_t n)
{
    (void)p, (void)n;
    requests++;
}

static void on_free(const volatile void *p)
{
    (void)p;
}

static bool count_requests(void)
{
    return __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) > 0;
}

#elif defined(__GLIBC__) && !defined(__SANITIZE_THREAD__)
/* glibc lets a program put its own functions in front of these. */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *p, size_t n);

void *malloc(size_t n)
{
    requests++;
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t bytes)
{
    requests++;
    return __libc_calloc(n, bytes);
}

void *realloc(void *p, size_t n)
{
    requests++;
    return __libc_realloc(p, n);
}

static bool count_requests(void)
{
    return true;
}

#else
static bool count_requests(void)
{
    return false;
}
#endif

/* Two epochs, of which the last window is short. */
static void steady(const char *const *overrides, int n)
{
    run r;
    q3_step_result result;
    open_run(&r, overrides, n);
    must(q3_train_step(&result, &r.t, r.loader));
    size_t used = r.t.run.used;
    assert_true(requests > 0); // the counter counts
    requests = 0;
    for (int64_t i = 1; i < 2 * r.t.updates; i++) {
        must(q3_train_step(&result, &r.t, r.loader));
        assert_int_equal(requests, 0);
    }
    assert_int_equal(r.t.run.used, used);
    assert_true(r.t.step.peak > 0 && r.t.step.peak <= r.t.step_plan);
    close_run(&r);
}

static void a_step_after_the_first_allocates_nothing(void **state)
{
    (void)state;
    if (!count_requests())
        skip();
    steady((const char *[]){ "lora.lora_dropout=0.1" }, 1);
    steady((const char *[]){ "lora.lora_dropout=0.1", "train.gradient_checkpointing=full",
                             "train.optim=adamw_8bit", "train.gradient_accumulation_steps=3" },
           4);
    steady((const char *[]){ "train.tune=full", "quantization.load_in_4bit=false" }, 2);
}

/* The batch of all samples is the largest one: the plan is its peak, to the byte. */
static void the_plan_is_the_peak(void **state)
{
    (void)state;
    static const char *const choices[] = { "none", "half", "full" };
    size_t peaks[3];
    for (int i = 0; i < 3; i++) {
        char checkpointing[64];
        run r;
        q3_step_result result;
        snprintf(checkpointing, sizeof checkpointing, "train.gradient_checkpointing=%s", choices[i]);
        open_run(&r,
                 (const char *[]){ checkpointing, "lora.lora_dropout=0.1",
                                   "train.per_device_train_batch_size=22" },
                 3);
        must(q3_train_step(&result, &r.t, r.loader));
        assert_int_equal(r.t.step.peak, r.t.step_plan);
        must(q3_train_step(&result, &r.t, r.loader));
        assert_int_equal(r.t.step.peak, r.t.step_plan);
        peaks[i] = r.t.step.peak;
        close_run(&r);
    }
    assert_true(peaks[2] < peaks[1] && peaks[1] < peaks[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_after_the_first_allocates_nothing),
        cmocka_unit_test(the_plan_is_the_peak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
