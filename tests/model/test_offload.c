/* model/offload.h: layers that are given back are read again, and nothing else changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "model/offload.h"
#include "model/qwen3vl.h"
#include "model/weights.h"
#include "tests/support/run.h"

enum { TOKENS = 24, LAYERS = 6 };

#define LAYER_BYTES ((size_t)(2 * 512 * 512 + 2 * 256 * 512 + 3 * 1024 * 512) * 2) // in bfloat16

static const char config[] =
    "{\"architectures\": [\"Qwen3ForCausalLM\"], \"model_type\": \"qwen3\", \"hidden_size\": 512, "
    "\"intermediate_size\": 1024, \"num_hidden_layers\": 6, \"num_attention_heads\": 8, "
    "\"num_key_value_heads\": 4, "
    "\"head_dim\": 64, \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-6, \"rope_theta\": 1000000.0, "
    "\"max_position_embeddings\": 1024, \"tie_word_embeddings\": true, \"vocab_size\": 300, "
    "\"attention_bias\": false, "
    "\"initializer_range\": 0.05, \"torch_dtype\": \"bfloat16\"}";

typedef struct bed {
    q3_arena run, step;
    q3_ctx ctx;
    q3_model model;
} bed;

static const char *dir; // of the model

static void ok(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static void open_bed(bed *b, const char *from, const q3_load_options *options)
{
    *b = (bed){ 0 };
    ok(q3_arena_create(&b->run, "run", (size_t)256 << 20));
    ok(q3_arena_create(&b->step, "step", (size_t)64 << 20));
    ok(q3_ctx_create(&b->ctx, &b->step));
    ok(q3_model_load(&b->model, &b->run, from, options));
}

static void close_bed(bed *b)
{
    q3_model_close(&b->model);
    q3_ctx_destroy(&b->ctx);
    q3_arena_destroy(&b->step);
    q3_arena_destroy(&b->run);
}

/* A model on disk in bfloat16, drawn at random. */
static int setup(void **state)
{
    (void)state;
    bed b;
    const char *drawn = q3_run_path("drawn");
    dir = q3_run_path("model");
    ok(q3_dir_create(drawn));
    ok(q3_dir_create(dir));
    q3_run_write(drawn, "config.json", config);
    open_bed(&b, drawn, &(q3_load_options){ .random = true, .seed = 7 });
    ok(q3_model_save(&b.model, drawn, dir, Q3_BF16));
    close_bed(&b);
    return 0;
}

/* Bytes of the model's file that are mapped and in memory. */
static size_t mapped(void)
{
    char line[1024];
    size_t kib, all = 0;
    bool ours = false;
    FILE *f = fopen("/proc/self/smaps", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        if (strchr(line, '-') && strstr(line, " r"))
            ours = strstr(line, "/model/model.safetensors") != NULL;
        if (ours && sscanf(line, "Rss: %zu", &kib) == 1)
            all += kib << 10;
    }
    fclose(f);
    return all;
}

static void run(float *logits, bed *b)
{
    int32_t ids[TOKENS], positions[3 * TOKENS], last = TOKENS - 1;
    const int64_t begins[2] = { 0, TOKENS };
    for (int i = 0; i < 3 * TOKENS; i++)
        positions[i] = i % TOKENS;
    for (int i = 0; i < TOKENS; i++)
        ids[i] = 3 + 11 * i;
    const q3_batch batch = {
        .n_rows = 1, .n_tokens = TOKENS, .row_begin = begins, .ids = ids, .positions = positions
    };
    q3_step_begin(&b->ctx, false);
    q3_read(logits, &b->ctx, q3_qwen3vl_logits(&b->ctx, &b->model, &(q3_forward){ 0 }, &batch, &last, 1));
    ok(q3_ctx_status(&b->ctx));
}

static void offloaded_layers_leave_memory_and_no_trace(void **state)
{
    (void)state;
    bed whole, some;
    float want[300], got[300];
    open_bed(&whole, dir, &(q3_load_options){ 0 });
    run(want, &whole);
    size_t all = mapped();
    close_bed(&whole);
    assert_true(all >= LAYERS * LAYER_BYTES);
    open_bed(&some, dir, &(q3_load_options){ 0 });
    ok(q3_model_offload(&some.model, 2 * LAYER_BYTES));
    assert_int_equal(some.model.offload_from, 2);
    for (int i = 0; i < 2; i++) {
        run(got, &some);
        assert_memory_equal(got, want, sizeof want);
        assert_true(mapped() < all - 3 * LAYER_BYTES);
    }
    close_bed(&some);
}

static void weights_made_while_loading_cannot_be_offloaded(void **state)
{
    (void)state;
    bed b;
    open_bed(&b, dir, &(q3_load_options){ .load_in_4bit = true, .code = Q3_NF4 });
    assert_int_equal(q3_model_offload(&b.model, 0), Q3_ERR_USAGE);
    assert_non_null(strstr(q3_error(), "was made while loading"));
    close_bed(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(offloaded_layers_leave_memory_and_no_trace),
        cmocka_unit_test(weights_made_while_loading_cannot_be_offloaded),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
