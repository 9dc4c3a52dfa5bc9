#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "model/lora.h"
#include "model/weights.h"
#include "tests/support/golden.h"

#define LAYER "model.language_model.layers.3."
#define SEVEN ".*language_model.*\\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

static const char *const models[] = { "tests/golden/model-a", "tests/golden/model-b" };
static const uint64_t seeds[] = { 11, 29 }; // golden.json; adapters were drawn with seed + 7

static q3_arena mem;
static q3_model model;
static char dir[400];

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s/adapter", base ? base : "/tmp/q3-test");
    return q3_dir_remove(dir) != Q3_OK || q3_dir_create(dir) != Q3_OK ||
           q3_arena_create(&mem, "test arena", (size_t)1 << 28) != Q3_OK;
}

static int release(void **state)
{
    (void)state;
    q3_model_close(&model);
    q3_arena_destroy(&mem);
    return 0;
}

static const char *join(const char *a, const char *b)
{
    char *path = q3_arena_printf(&mem, "%s/%s", a, b);
    assert_non_null(path);
    return path;
}

static void load_model(const char *path)
{
    q3_model_close(&model);
    if (q3_model_load(&model, &mem, path, &(q3_load_options){ .code = Q3_NF4 }) != Q3_OK)
        fail_msg("%s", q3_error());
}

static q3_lora_config pattern(const char *const *text)
{
    return (q3_lora_config){
        .r = 8, .alpha = 16, .targets = text, .n_targets = 1, .targets_is_pattern = true, .base = "model"
    };
}

static bool matches(const q3_lora_config *c, const char *path)
{
    bool hit;
    if (q3_lora_matches(&hit, c, path) != Q3_OK)
        fail_msg("%s", q3_error());
    return hit;
}

static bool regex_matches(const char *text, const char *path)
{
    const q3_lora_config c = pattern(&text);
    return matches(&c, path);
}

static void names_match_whole_components_at_the_end(void **state)
{
    (void)state;
    static const char *const names[] = { "q_proj", "attn.proj", LAYER "mlp.up_proj" };
    const q3_lora_config c = { .targets = names, .n_targets = 3 };
    assert_true(matches(&c, LAYER "self_attn.q_proj"));
    assert_true(matches(&c, "q_proj"));
    assert_true(matches(&c, "model.visual.blocks.0.attn.proj"));
    assert_true(matches(&c, LAYER "mlp.up_proj"));
    assert_false(matches(&c, LAYER "self_attn.eq_proj"));
    assert_false(matches(&c, LAYER "self_attn.q_proj.x"));
    assert_false(matches(&c, "model.visual.patch_embed.proj"));
    assert_false(matches(&c, "model.language_model.layers.2.mlp.up_proj"));
}

static void patterns_match_the_whole_path(void **state)
{
    (void)state;
    assert_true(regex_matches(SEVEN, LAYER "self_attn.q_proj"));
    assert_false(regex_matches(SEVEN, "model.visual.blocks.0.attn.qkv"));
    assert_false(regex_matches("q_proj", LAYER "self_attn.q_proj")); // part of the path only
    assert_false(regex_matches(".*q_proj|x", LAYER "self_attn.q_projx"));
    assert_true(regex_matches("x|.*q_proj", LAYER "self_attn.q_proj"));
    assert_false(regex_matches(".*self_attn\\.q", LAYER "self_attn_q"));
}

static void patterns_may_be_written_as_in_python(void **state)
{
    (void)state;
    assert_true(regex_matches("model\\.language_model\\.layers\\.\\d+\\.self_attn\\.(?:q|v)_proj",
                              LAYER "self_attn.v_proj"));
    assert_false(regex_matches("model\\.language_model\\.layers\\.\\d\\.mlp\\.up_proj",
                               "model.language_model.layers.12.mlp.up_proj"));
    assert_true(regex_matches(".*layers\\.[\\d]{1,2}\\..*down_proj", LAYER "mlp.down_proj"));
    assert_false(regex_matches(".*layers[\\.]x.*", "model.layers\\x"));
    assert_true(regex_matches(".*?\\w+_proj", LAYER "mlp.down_proj"));
    assert_false(regex_matches("\\\\d", "3")); // a backslash and a d
}

static void patterns_that_cannot_be_used_are_refused(void **state)
{
    (void)state;
    static char longest[1500];
    memset(longest, 'a', sizeof longest - 1);
    const char *const bad[] = { "(q_proj", "^(?!.*visual).*proj", "*", longest };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const q3_lora_config c = pattern(&bad[i]);
        bool hit;
        assert_int_equal(q3_lora_matches(&hit, &c, "q_proj"), Q3_ERR_USAGE);
        assert_non_null(strstr(q3_error(), "lora.target_modules"));
    }
}

static void create(q3_trainable *out, const q3_lora_config *c, uint64_t seed)
{
    if (q3_lora_create(out, &model, &mem, c, seed) != Q3_OK)
        fail_msg("%s", q3_error());
}

static void all_linear_means_every_layer_but_the_head(void **state)
{
    (void)state;
    const char *text = "All-Linear";
    const q3_lora_config c = pattern(&text);
    q3_trainable t;
    load_model(join(models[1], "model"));
    create(&t, &c, 1);
    assert_int_equal(t.n_slots, 2 * model.n_projections);
    assert_int_equal(model.n_projections, 4 * 4 + 2 * 4 + 7 * 3);
    for (int i = 0; i < t.n_slots; i++)
        assert_null(strstr(t.slots[i].name, "lm_head"));
}

static void refused(q3_status got, q3_status code, const char *words)
{
    assert_int_equal(got, code);
    if (!strstr(q3_error(), words))
        fail_msg("\"%s\" does not say \"%s\"", q3_error(), words);
}

static void targets_that_are_no_adaptable_layer_are_refused(void **state)
{
    (void)state;
    static const char *const names[][2] = {
        { "query", NULL }, { "q_proj", "lm_head" }, { "proj", NULL }, { "q_proj", "embed_tokens" }
    };
    static const char *const words[] = { "query", "lm_head", "patch_embed", "embed_tokens" };
    load_model(join(models[0], "model"));
    for (int i = 0; i < 4; i++) {
        const q3_lora_config c = {
            .r = 8, .alpha = 16, .targets = names[i], .n_targets = names[i][1] ? 2 : 1
        };
        q3_trainable t;
        refused(q3_lora_create(&t, &model, &mem, &c, 1), Q3_ERR_USAGE, words[i]);
    }
}

static void first_values_of_a_are_those_of_peft(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        const char *text = SEVEN;
        const q3_lora_config c = pattern(&text);
        q3_trainable t;
        int n = 0;
        load_model(join(models[m], "model"));
        create(&t, &c, seeds[m] + 7);
        q3_safetensors *want = q3_golden_open(join(models[m], "lora-fp32-init/adapter_model.safetensors"));
        assert_int_equal(t.n_slots, q3_safetensors_count(want));
        for (int i = 0; i < t.n_slots; i++) {
            const q3_trainable_slot *s = &t.slots[i];
            if (strstr(s->name, "lora_A")) {
                assert_memory_equal(t.values + s->offset, q3_golden_find(want, s->name)->data,
                                    (size_t)s->n * sizeof(float));
                n++;
            } else {
                for (int64_t k = 0; k < s->n; k++)
                    assert_true(t.values[s->offset + k] == 0);
            }
        }
        assert_int_equal(n, 7 * model.config.text.layers);
        q3_safetensors_close(want);
    }
}

static void scale_is_alpha_over_r_or_over_its_root(void **state)
{
    (void)state;
    const char *text = SEVEN;
    q3_lora_config c = pattern(&text);
    q3_trainable t;
    load_model(join(models[0], "model"));
    c.r = 4;
    c.dropout = 0.25;
    create(&t, &c, 1);
    assert_true(model.layers[0].q.lora_scale == 4 && model.layers[0].q.lora_dropout == 0.25f);
    c.use_rslora = true;
    create(&t, &c, 1);
    assert_true(model.layers[0].q.lora_scale == 8);
    assert_null(model.blocks[0].qkv.lora_a);
}

static q3_status load(q3_trainable *t, q3_lora_config *c, const char *from)
{
    return q3_lora_load(t, c, &model, &mem, from);
}

static void same_files(const char *a, const char *b)
{
    q3_map x, y;
    assert_int_equal(q3_map_open(&x, a), Q3_OK);
    assert_int_equal(q3_map_open(&y, b), Q3_OK);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    q3_map_close(&x);
    q3_map_close(&y);
}

static void peft_directories_are_written_byte_for_byte(void **state)
{
    (void)state;
    static const char *const adapters[] = { "lora-fp32-init", "lora-fp32-final", "lora-nf4-final" };
    for (int i = 0; i < 6; i++) {
        q3_trainable t;
        q3_lora_config c;
        const char *from = join(models[i / 3], adapters[i % 3]);
        load_model(join(models[i / 3], "model"));
        if (load(&t, &c, from) != Q3_OK || q3_lora_save(&t, &c, dir) != Q3_OK)
            fail_msg("%s", q3_error());
        same_files(join(dir, "adapter_config.json"), join(from, "adapter_config.json"));
        same_files(join(dir, "adapter_model.safetensors"), join(from, "adapter_model.safetensors"));
    }
}

static void a_list_of_targets_survives_saving(void **state)
{
    (void)state;
    static const char *const names[] = { "q_proj", "linear_fc1" };
    const q3_lora_config c = { .r = 3,
                               .alpha = 4.5,
                               .dropout = 0.05,
                               .use_rslora = true,
                               .targets = names,
                               .n_targets = 2,
                               .base = "a \"b\"" };
    q3_trainable t, again;
    q3_lora_config read;
    load_model(join(models[1], "model"));
    create(&t, &c, 5);
    assert_int_equal(q3_lora_save(&t, &c, dir), Q3_OK);
    float *values = t.values;
    assert_int_equal(load(&again, &read, dir), Q3_OK);
    assert_true(read.r == 3 && read.alpha == 4.5 && read.dropout == 0.05 && read.use_rslora &&
                !read.targets_is_pattern);
    assert_int_equal(read.n_targets, 2);
    assert_string_equal(read.targets[1], "linear_fc1");
    assert_string_equal(read.base, "a \"b\"");
    assert_int_equal(again.n, t.n);
    assert_memory_equal(again.values, values, (size_t)t.n * sizeof(float));
}

/* The golden adapter of model-a as tensors that a test may spoil, written to `dir` with a config that a test
 * may edit. */
static q3_safetensors *golden_file;
static q3_st_tensor tensors[128];
static int n_tensors;

static void take_golden(void)
{
    load_model(join(models[0], "model"));
    golden_file = q3_golden_open("tests/golden/model-a/lora-fp32-final/adapter_model.safetensors");
    n_tensors = (int)q3_safetensors_count(golden_file);
    for (int i = 0; i < n_tensors; i++)
        tensors[i] = *q3_safetensors_at(golden_file, i);
}

static void write_adapter(const char *from, const char *to)
{
    char *text, *at;
    size_t size;
    assert_int_equal(
        q3_file_read(&text, &size, "tests/golden/model-a/lora-fp32-final/adapter_config.json", 1 << 20),
        Q3_OK);
    q3_text edited = { 0 };
    assert_non_null(at = strstr(text, from));
    q3_text_append(&edited, text, (size_t)(at - text));
    q3_text_printf(&edited, "%s%s", to, at + strlen(from));
    assert_int_equal(q3_file_write(join(dir, "adapter_config.json"), edited.data, edited.size), Q3_OK);
    q3_text_free(&edited);
    q3_free(text);
    if (q3_safetensors_write(join(dir, "adapter_model.safetensors"), tensors, n_tensors) != Q3_OK)
        fail_msg("%s", q3_error());
}

static void load_refused(const char *words)
{
    q3_trainable t;
    q3_lora_config c;
    write_adapter("\"r\": 8", "\"r\": 8");
    refused(load(&t, &c, dir), Q3_ERR_MODEL, words);
}

static void damaged_adapters_are_refused(void **state)
{
    (void)state;
    take_golden();
    const q3_st_tensor first = tensors[0], last = tensors[--n_tensors];
    load_refused("do not belong together"); // a half is missing
    n_tensors++;
    tensors[0].name = "base_model.model.model.language_model.layers.9.self_attn.q_proj.lora_A.weight";
    load_refused("layers.9.self_attn.q_proj");
    tensors[0].name = "base_model.model.model.language_model.layers.0.mlp.down_proj.lora_magnitude_vector";
    load_refused("magnitude");
    tensors[0] = first;
    tensors[0].shape[0] = first.shape[1];
    tensors[0].shape[1] = first.shape[0];
    load_refused("lora_A.weight is [160, 8]");
    tensors[0] = first;
    tensors[0].ndim = 1;
    tensors[0].shape[0] *= tensors[0].shape[1];
    load_refused("[1280]");
    tensors[0] = first;
    tensors[0].shape[0] = 4; // lora_B still has 8
    load_refused("do not belong together");
    tensors[0] = first;
    tensors[n_tensors] = last;
    tensors[n_tensors++].name += strlen("base_model.model."); // the same layer again
    load_refused("same layer");
    n_tensors = 0;
    load_refused("no adapter tensors");
    q3_safetensors_close(golden_file);
    assert_int_equal(q3_file_write(join(dir, "adapter_model.safetensors"), "x", 1), Q3_OK);
    q3_trainable t;
    q3_lora_config c;
    refused(load(&t, &c, dir), Q3_ERR_MODEL, "adapter_model.safetensors");
    refused(load(&t, &c, join(dir, "nowhere")), Q3_ERR_MODEL, "nowhere");
}

static void settings_that_are_not_built_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const edits[][3] = {
        { "\"use_dora\": false", "\"use_dora\": true", "use_dora" },
        { "\"fan_in_fan_out\": false", "\"fan_in_fan_out\": true", "fan_in_fan_out" },
        { "\"bias\": \"none\"", "\"bias\": \"all\"", "bias" },
        { "\"lora_bias\": false", "\"lora_bias\": true", "lora_bias" },
        { "\"peft_type\": \"LORA\"", "\"peft_type\": \"LOHA\"", "LOHA" },
        { "\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]", "modules_to_save" },
        { "\"rank_pattern\": {}", "\"rank_pattern\": {\"q_proj\": 4}", "rank_pattern" },
        { "\"alpha_pattern\": {}", "\"alpha_pattern\": {\"q_proj\": 4}", "alpha_pattern" },
        { "\"kasa_config\": null", "\"kasa_config\": {}", "kasa_config" },
        { "\"r\": 8", "\"r\": 4", "r 4" },
        { "\"r\": 8", "\"r\": 0", "r is 0" },
        { "\"r\": 8", "\"r\": 99999999999", "99999999999" },
        { "\"lora_dropout\": 0.0", "\"lora_dropout\": 1.0", "lora_dropout" },
        { "\"r\": 8", "\"r\": \"8\"", "adapter_config.json" },
        { "\"target_modules\": ", "\"target_modules\": [3], \"x\": ", "target_modules" },
    };
    take_golden();
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        q3_trainable t;
        q3_lora_config c;
        write_adapter(edits[i][0], edits[i][1]);
        refused(load(&t, &c, dir), Q3_ERR_MODEL, edits[i][2]);
    }
    q3_safetensors_close(golden_file);
}

static void half_precision_and_other_names_are_accepted(void **state)
{
    (void)state;
    take_golden();
    for (int i = 0; i < n_tensors; i++) {
        int64_t n = q3_st_elements(&tensors[i]);
        uint16_t *half = Q3_NEW(&mem, uint16_t, n);
        for (int64_t k = 0; k < n; k++)
            half[k] = q3_f32_to_bf16(((const float *)tensors[i].data)[k]);
        // as adapters of the text-only class are named
        const char *name = strstr(tensors[i].name, "language_model.") + strlen("language_model.");
        tensors[i] = (q3_st_tensor){ .name = q3_arena_printf(&mem, "base_model.model.model.%s", name),
                                     .dtype = Q3_BF16,
                                     .ndim = 2,
                                     .data = half,
                                     .shape = { tensors[i].shape[0], tensors[i].shape[1] } };
    }
    write_adapter("\"r\": 8", "\"r\": 8");
    q3_trainable t;
    q3_lora_config c;
    if (load(&t, &c, dir) != Q3_OK)
        fail_msg("%s", q3_error());
    for (int i = 0; i < t.n_slots; i++) {
        const float *want = q3_golden_find(golden_file, t.slots[i].name)->data;
        for (int64_t k = 0; k < t.slots[i].n; k++)
            assert_true(t.values[t.slots[i].offset + k] == q3_bf16_to_f32(q3_f32_to_bf16(want[k])));
    }
    q3_safetensors_close(golden_file);
}

static void text_only_models_name_their_adapters_without_language_model(void **state)
{
    (void)state;
    const char *text = "model\\.layers\\.\\d+\\.self_attn\\.q_proj";
    const q3_lora_config c = pattern(&text);
    q3_trainable t;
    load_model("tests/golden/formats/reranker-model");
    create(&t, &c, 1);
    assert_int_equal(t.n_slots, 2 * model.config.text.layers);
    assert_string_equal(t.slots[0].name, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    load_model(join(models[0], "model"));
    int failures = 0;
    for (int64_t n = 1;; n++) {
        q3_trainable t;
        q3_lora_config c;
        q3_heap_fail_at(n);
        q3_status st = load(&t, &c, "tests/golden/model-a/lora-fp32-final");
        st = st ? st : q3_lora_save(&t, &c, dir);
        q3_heap_fail_at(0);
        if (st == Q3_OK)
            break;
        assert_int_equal(st, Q3_ERR_MEMORY);
        failures++;
    }
    assert_true(failures > 100);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, prepare, release)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(names_match_whole_components_at_the_end),
        TEST(patterns_match_the_whole_path),
        TEST(patterns_may_be_written_as_in_python),
        TEST(patterns_that_cannot_be_used_are_refused),
        TEST(all_linear_means_every_layer_but_the_head),
        TEST(targets_that_are_no_adaptable_layer_are_refused),
        TEST(first_values_of_a_are_those_of_peft),
        TEST(scale_is_alpha_over_r_or_over_its_root),
        TEST(peft_directories_are_written_byte_for_byte),
        TEST(a_list_of_targets_survives_saving),
        TEST(damaged_adapters_are_refused),
        TEST(settings_that_are_not_built_are_refused_by_name),
        TEST(half_precision_and_other_names_are_accepted),
        TEST(text_only_models_name_their_adapters_without_language_model),
        TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
