#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/rng.h"
#include "optim/adamw.h"
#include "optim/optimizer.h"

enum { SMALL = 100, LARGE = 4097, TOTAL = SMALL + LARGE };

static const q3_param table[] = { { "small", 0, SMALL, true }, { "large", SMALL, LARGE, false } };
static float values[TOTAL], grads[TOTAL];
static const q3_params params = { .values = values, .total = TOTAL, .table = table, .n = 2 };
static const q3_adamw_hyper hyper = { .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1 };

static q3_arena arena;

static int prepare(void **state)
{
    (void)state;
    for (int i = 0; i < TOTAL; i++)
        values[i] = 1;
    return q3_arena_create(&arena, "test", 1 << 20) != Q3_OK;
}

static int finish(void **state)
{
    (void)state;
    q3_arena_destroy(&arena);
    return 0;
}

static void draw(uint32_t step)
{
    const q3_random r = { .seed = 3, .purpose = Q3_RANDOM_TEST, .step = step };
    for (uint64_t i = 0; i < TOTAL; i++)
        grads[i] = (float)q3_random_normal(&r, i);
}

static void train(q3_optimizer *o, int from, int to)
{
    for (int step = from; step <= to; step++) {
        draw((uint32_t)step);
        q3_optimizer_step(o, grads, 1e-3);
    }
}

static q3_optimizer *create(q3_optimizer_kind kind)
{
    q3_optimizer *o;
    assert_int_equal(q3_optimizer_create(&o, &arena, &arena, kind, &params, &hyper), Q3_OK);
    return o;
}

static void adamw_updates_each_tensor_by_its_own_decay(void **state)
{
    (void)state;
    static float want[TOTAL], m[TOTAL], v[TOTAL];
    for (int i = 0; i < TOTAL; i++)
        want[i] = 1;
    q3_optimizer *o = create(Q3_OPTIMIZER_ADAMW);
    for (int step = 1; step <= 3; step++) {
        draw((uint32_t)step);
        q3_adamw_step(NULL, want, grads, m, v, SMALL, &hyper, 1e-3, step, true);
        q3_adamw_step(NULL, want + SMALL, grads + SMALL, m + SMALL, v + SMALL, LARGE, &hyper, 1e-3, step,
                      false);
        q3_optimizer_step(o, grads, 1e-3);
    }
    assert_memory_equal(values, want, sizeof values);
    assert_int_equal(q3_optimizer_steps(o), 3);
}

static void small_tensors_keep_f32_states(void **state)
{
    (void)state;
    static const char *const names[] = { "state.small.exp_avg", "state.small.exp_avg_sq",
                                         "state.large.c1",      "state.large.c2",
                                         "state.large.absmax1", "state.large.absmax2" };
    static const int64_t sizes[] = { SMALL, SMALL, LARGE, LARGE, 17, 17 };
    int n;
    const q3_optimizer_state *states = q3_optimizer_states(create(Q3_OPTIMIZER_ADAMW_8BIT), &n);
    assert_int_equal(n, 6);
    for (int i = 0; i < n; i++) {
        assert_string_equal(states[i].name, names[i]);
        assert_int_equal(states[i].n, sizes[i]);
        assert_int_equal(states[i].dtype, i == 2 || i == 3 ? Q3_U8 : Q3_F32);
    }
}

static void paged_gives_the_same_numbers(void **state)
{
    (void)state;
    static float plain[TOTAL];
    train(create(Q3_OPTIMIZER_ADAMW_8BIT), 1, 4);
    memcpy(plain, values, sizeof values);
    for (int i = 0; i < TOTAL; i++)
        values[i] = 1;
    train(create(Q3_OPTIMIZER_PAGED_ADAMW_8BIT), 1, 4);
    assert_memory_equal(values, plain, sizeof values);
}

/* What a checkpoint does: copy all states and the step count into a new optimizer. */
static void ten_steps_are_five_and_five_from_saved_states(void **state)
{
    (void)state;
    for (int kind = Q3_OPTIMIZER_ADAMW; kind <= Q3_OPTIMIZER_PAGED_ADAMW_8BIT; kind++) {
        static float whole[TOTAL];
        for (int i = 0; i < TOTAL; i++)
            values[i] = 1;
        train(create((q3_optimizer_kind)kind), 1, 10);
        memcpy(whole, values, sizeof values);

        for (int i = 0; i < TOTAL; i++)
            values[i] = 1;
        q3_optimizer *first = create((q3_optimizer_kind)kind), *second = create((q3_optimizer_kind)kind);
        train(first, 1, 5);
        int n, n_second;
        const q3_optimizer_state *from = q3_optimizer_states(first, &n);
        const q3_optimizer_state *to = q3_optimizer_states(second, &n_second);
        assert_int_equal(n, n_second);
        for (int i = 0; i < n; i++)
            memcpy(to[i].data, from[i].data, q3_dtype_bytes(from[i].dtype, from[i].n));
        q3_optimizer_set_steps(second, q3_optimizer_steps(first));
        train(second, 6, 10);
        assert_memory_equal(values, whole, sizeof values);
    }
}

static void a_dry_arena_counts_the_same_bytes(void **state)
{
    (void)state;
    for (int kind = Q3_OPTIMIZER_ADAMW; kind <= Q3_OPTIMIZER_ADAMW_8BIT; kind++) {
        size_t mark = q3_arena_mark(&arena);
        create((q3_optimizer_kind)kind);
        size_t used = arena.used - mark;
        q3_arena dry = arena;
        dry.dry = true;
        dry.used = 0;
        q3_optimizer *o;
        assert_int_equal(q3_optimizer_create(&o, &dry, &dry, (q3_optimizer_kind)kind, &params, &hyper),
                         Q3_OK);
        assert_null(o);
        assert_int_equal(dry.used, used);
    }
}

static void bad_hyperparameters_are_refused(void **state)
{
    (void)state;
    q3_adamw_hyper bad[5] = { hyper, hyper, hyper, hyper, hyper };
    bad[0].beta1 = 1;
    bad[1].beta2 = -0.1;
    bad[2].eps = -1;
    bad[3].weight_decay = -1;
    bad[4].beta1 = NAN;
    for (int i = 0; i < 5; i++) {
        q3_optimizer *o;
        assert_int_equal(q3_optimizer_create(&o, &arena, &arena, Q3_OPTIMIZER_ADAMW, &params, &bad[i]),
                         Q3_ERR_USAGE);
    }
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    for (int64_t n = 1;; n++) {
        size_t mark = q3_arena_mark(&arena);
        q3_optimizer *o;
        q3_heap_fail_at(n);
        q3_status st = q3_optimizer_create(&o, &arena, &arena, Q3_OPTIMIZER_ADAMW_8BIT, &params, &hyper);
        q3_heap_fail_at(0);
        q3_arena_rewind(&arena, mark);
        if (st == Q3_OK) {
            assert_true(n > 10);
            break;
        }
        assert_int_equal(st, Q3_ERR_MEMORY);
        assert_null(o);
    }
}

static void biases_and_norms_do_not_decay(void **state)
{
    (void)state;
    static const char *const with[] = { "model.layers.0.self_attn.q_proj.lora_A.weight",
                                        "embed_tokens.weight", "normal.weight", "visual.pos_embed.weight" };
    static const char *const without[] = { "model.layers.0.input_layernorm.weight",
                                           "visual.blocks.0.attn.qkv.bias",
                                           "model.norm.weight",
                                           "norm.weight",
                                           "self_attn.q_norm.weight",
                                           "visual.merger.Norm.weight",
                                           "x.RMSNorm1.weight",
                                           "final_norm" };
    for (size_t i = 0; i < sizeof with / sizeof *with; i++)
        assert_true(q3_param_decays(with[i]));
    for (size_t i = 0; i < sizeof without / sizeof *without; i++)
        assert_false(q3_param_decays(without[i]));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, prepare, finish)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(adamw_updates_each_tensor_by_its_own_decay),
        TEST(small_tensors_keep_f32_states),
        TEST(paged_gives_the_same_numbers),
        TEST(ten_steps_are_five_and_five_from_saved_states),
        TEST(a_dry_arena_counts_the_same_bytes),
        TEST(bad_hyperparameters_are_refused),
        TEST(every_allocation_may_fail),
        TEST(biases_and_norms_do_not_decay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
