#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/file.h"
#include "model/config.h"
#include "model/config_edit.h"

static q3_arena mem;

static int open_arena(void **state)
{
    (void)state;
    return q3_arena_create(&mem, "test arena", 64 << 20) != Q3_OK;
}

static int close_arena(void **state)
{
    (void)state;
    q3_arena_destroy(&mem);
    return 0;
}

static q3_model_config load(const char *dir)
{
    q3_model_config c;
    if (q3_model_config_load(&c, &mem, dir) != Q3_OK)
        fail_msg("%s", q3_error());
    return c;
}

static q3_model_config parse_file(const char *path)
{
    q3_model_config c;
    char *text;
    size_t size;
    assert_int_equal(q3_file_read(&text, &size, path, 1 << 20), Q3_OK);
    if (q3_model_config_parse(&c, &mem, text, size, path) != Q3_OK)
        fail_msg("%s", q3_error());
    q3_free(text);
    return c;
}

static void every_field_of_a_vl_model_is_read(void **state)
{
    (void)state;
    q3_model_config c = load("tests/golden/model-a/model");
    assert_true(c.has_vision);
    const q3_text_config *t = &c.text;
    assert_int_equal(t->vocab_size, 320);
    assert_int_equal(t->hidden_size, 64);
    assert_int_equal(t->intermediate_size, 160);
    assert_int_equal(t->layers, 4);
    assert_int_equal(t->heads, 4);
    assert_int_equal(t->kv_heads, 2);
    assert_int_equal(t->head_dim, 16);
    assert_true(t->rms_eps == 1e-6f && t->rope_theta == 5e6 && t->mrope && t->tied);
    assert_memory_equal(t->mrope_section, ((int[]){ 4, 2, 2 }), sizeof t->mrope_section);
    assert_int_equal(t->max_positions, 4096);
    const q3_vision_config *v = &c.vision;
    assert_int_equal(v->hidden_size, 48);
    assert_int_equal(v->intermediate_size, 100);
    assert_int_equal(v->depth, 3);
    assert_int_equal(v->heads, 4);
    assert_int_equal(v->patch_size, 16);
    assert_int_equal(v->temporal_patch_size, 2);
    assert_int_equal(v->merge_size, 2);
    assert_int_equal(v->channels, 3);
    assert_int_equal(v->positions, 64);
    assert_int_equal(v->positions_side, 8);
    assert_int_equal(v->out_hidden_size, 64);
    assert_int_equal(v->n_deepstack, 2);
    assert_true(v->deepstack[0] == 0 && v->deepstack[1] == 1);
    assert_true(c.image_token == 300 && c.video_token == 301 && c.vision_start == 302 && c.vision_end == 303);
    assert_true(c.bos == -1 && c.pad == 304 && c.dtype == Q3_F32);
    assert_false(c.quantization.present);
    assert_true(c.generation.n_eos == 1 && c.generation.eos[0] == 305 && c.generation.pad == 304);
    assert_false(c.generation.do_sample);
}

static void both_generations_of_files_mean_the_same(void **state)
{
    (void)state;
    q3_model_config a = parse_file("tests/golden/model-a/model/config.json");
    q3_model_config b = parse_file("tests/golden/model-a/config-transformers-4.57.json");
    assert_memory_equal(&a.text, &b.text, sizeof a.text);
    assert_memory_equal(&a.vision, &b.vision, sizeof a.vision);
    assert_true(a.image_token == b.image_token && a.pad == b.pad &&
                a.generation.eos[0] == b.generation.eos[0]);
    assert_int_equal(b.dtype, Q3_DTYPES); // 4.57 does not say it in this file
}

static void a_text_model_has_no_vision(void **state)
{
    (void)state;
    q3_model_config c = load("tests/golden/formats/reranker-model");
    assert_false(c.has_vision || c.text.mrope || c.text.tied);
    assert_true(c.text.rope_theta == 1e6 && c.text.layers == 3);
    assert_memory_equal(c.text.mrope_section, ((int[]){ 8, 0, 0 }), sizeof c.text.mrope_section);
    assert_true(c.image_token == -1 && c.vision_start == -1 && c.vision.depth == 0);
}

static void quantization_is_read(void **state)
{
    (void)state;
    q3_model_config c = load("tests/golden/model-a/model-nf4");
    const q3_quantization_config *q = &c.quantization;
    assert_true(q->present && q->code == Q3_NF4 && q->nested && q->compute == Q3_F32);
    assert_int_equal(q->n_skip, 2);
    assert_string_equal(q->skip[0], "model.visual");
    assert_string_equal(q->skip[1], "lm_head");
}

static void generation_settings_are_read(void **state)
{
    (void)state;
    q3_model_config c = load("tests/golden/model-a/model");
    const char *text =
        "{\"eos_token_id\": [7, 305], \"pad_token_id\": 9, \"do_sample\": true, \"temperature\": 0.7,"
        " \"top_p\": 0.8, \"top_k\": 20, \"repetition_penalty\": 1.05}";
    assert_int_equal(q3_generation_config_parse(&c, text, strlen(text), "g.json"), Q3_OK);
    const q3_generation_config *g = &c.generation;
    assert_true(g->n_eos == 2 && g->eos[0] == 7 && g->eos[1] == 305 && g->pad == 9 && g->do_sample);
    assert_true(g->temperature == 0.7f && g->top_p == 0.8f && g->top_k == 20 &&
                g->repetition_penalty == 1.05f);
    assert_true(g->min_p == 0 && g->presence_penalty == 0 && g->max_new_tokens == 0 && g->n_stops == 0);
    text =
        "{\"min_p\": 0.05, \"presence_penalty\": 1.5, \"frequency_penalty\": -0.5, \"max_new_tokens\": 128,"
        " \"max_length\": 4096, \"stop_strings\": [\"\\n\\n\", \"END\"], \"typical_p\": null}";
    assert_int_equal(q3_generation_config_parse(&c, text, strlen(text), "g.json"), Q3_OK);
    assert_true(g->min_p == 0.05f && g->presence_penalty == 1.5f && g->frequency_penalty == -0.5f);
    assert_true(g->max_new_tokens == 128 && g->max_length == 4096 && g->n_stops == 2);
    assert_string_equal(g->stops[0], "\n\n");
    assert_string_equal(g->stops[1], "END");
    text = "{\"stop_strings\": \"\"}";
    assert_int_equal(q3_generation_config_parse(&c, text, strlen(text), "g.json"), Q3_ERR_MODEL);
    assert_non_null(strstr(q3_error(), "stop_strings must be one or more texts of 1 to 63 bytes"));
    text = "{\"eos_token_id\": [7, 320]}";
    assert_int_equal(q3_generation_config_parse(&c, text, strlen(text), "g.json"), Q3_ERR_MODEL);
    assert_non_null(strstr(q3_error(), "g.json:1:2: eos_token_id must be one or more token ids below 320"));
    text = "{\"top_p\": 1.5}";
    assert_int_equal(q3_generation_config_parse(&c, text, strlen(text), "g.json"), Q3_ERR_MODEL);
}

/* model-a's config with `from` replaced by `to` (first place) is refused with a sentence that holds
 * `what`. */
static void expect_refused(const char *file, const char *from, const char *to, const char *what)
{
    char *text, changed[8192];
    size_t size;
    assert_int_equal(q3_file_read(&text, &size, file, 1 << 20), Q3_OK);
    const char *at = strstr(text, from);
    if (!at)
        fail_msg("%s does not hold %s", file, from);
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    q3_model_config c;
    size_t mark = q3_arena_mark(&mem);
    if (q3_model_config_parse(&c, &mem, changed, strlen(changed), "config.json") != Q3_ERR_MODEL)
        fail_msg("%s -> %s was accepted", from, to);
    if (!strstr(q3_error(), what) || strncmp(q3_error(), "config.json:", 12) != 0)
        fail_msg("\"%s\" does not say \"%s\"", q3_error(), what);
    q3_arena_rewind(&mem, mark);
    q3_free(text);
}

static void wrong_configs_are_refused_with_their_reason(void **state)
{
    (void)state;
    const char *a = "tests/golden/model-a/model/config.json",
               *old = "tests/golden/model-a/config-transformers-4.57.json";
    expect_refused(a, "\"head_dim\": 16", "\"head_dim\": 0",
                   "config.json:14:5: text_config.head_dim is 0; expected 2 to");
    expect_refused(a, "\"head_dim\": 16", "\"head_dim\": 512",
                   "text_config.head_dim is 512; expected 2 to 256");
    expect_refused(a, "\"head_dim\": 16", "\"head_dim\": 15",
                   "text_config.head_dim is 15; rotary positions need");
    expect_refused(a, "\"head_dim\": 16,", "", "text_config.head_dim is missing");
    expect_refused(a, "\"head_dim\": 16", "\"head_dim\": \"16\"", "text_config.head_dim must be an integer");
    expect_refused(a, "\"head_dim\": 16", "\"head_dim\": 16.5", "text_config.head_dim must be an integer");
    expect_refused(a, "\"head_dim\": 16", "\"head_dim\": 32",
                   "mrope_section sums to 8; expected head_dim / 2 = 16");
    expect_refused(a, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "which does not divide");
    expect_refused(a, "\"vocab_size\": 320", "\"vocab_size\": 1e12",
                   "vocab_size is 1000000000000; expected 1 to");
    expect_refused(a, "\"vocab_size\": 320", "\"vocab_size\": 300", "expected 0 to 299");
    expect_refused(a, "\"attention_bias\": false", "\"attention_bias\": true", "attention_bias is true");
    expect_refused(a, "\"attention_dropout\": 0.0", "\"attention_dropout\": 0.1",
                   "attention_dropout must be 0");
    expect_refused(a, "\"silu\"", "\"gelu\"", "hidden_act is gelu; only \"silu\"");
    expect_refused(a, "\"gelu_pytorch_tanh\"", "\"gelu\"", "vision_config.hidden_act is gelu");
    expect_refused(a, "\"rope_type\": \"default\"", "\"rope_type\": \"yarn\"",
                   "rope_parameters.rope_type is yarn");
    expect_refused(old, "\"rope_type\": \"default\"", "\"rope_type\": \"linear\"",
                   "rope_scaling.rope_type is linear");
    expect_refused(old, "\"rope_theta\": 5000000.0", "\"rope_theta\": 0", "text_config.rope_theta is 0");
    expect_refused(a, "\"mrope_interleaved\": true", "\"mrope_interleaved\": false", "only interleaved");
    expect_refused(a, "\"out_hidden_size\": 64", "\"out_hidden_size\": 65",
                   "out_hidden_size is 65; expected text_config");
    expect_refused(a, "\"depth\": 3", "\"depth\": 1", "deepstack_visual_indexes names blocks outside 0 to 0");
    expect_refused(a, "      0,\n      1\n", "      1,\n      1\n", "deepstack_visual_indexes must rise");
    expect_refused(a, "\"num_heads\": 4", "\"num_heads\": 5", "which does not divide hidden_size");
    expect_refused(a, "\"num_heads\": 4", "\"num_heads\": 8", "heads of 6");
    expect_refused(a, "\"hidden_size\": 48", "\"hidden_size\": 2048",
                   "heads of 512; at most 256 are supported");
    expect_refused(a, "\"num_position_embeddings\": 64", "\"num_position_embeddings\": 65",
                   "expected a square number");
    expect_refused(a, "\"qwen3_vl\"", "\"qwen2_vl\"", "model_type is qwen2_vl; supported are Qwen3-VL");
    expect_refused(a, "\"Qwen3VLForConditionalGeneration\"", "\"Qwen3VLForX\"",
                   "architectures names Qwen3VLForX");
    expect_refused(a, "\"image_token_id\": 300,", "", "image_token_id is missing");
    expect_refused(a, "\"text_config\": {", "\"text_config\": 3, \"x\": {", "text_config must be an object");
    expect_refused(a, "\"vision_config\"", "\"vision_kanfig\"", "vision_config is missing");
    expect_refused(a, "{", "{,", "not valid JSON");
    const char *q = "tests/golden/model-a/model-nf4/config.json",
               *r = "tests/golden/formats/reranker-model/config.json";
    expect_refused(q, "\"bitsandbytes\"", "\"awq\"", "quantization_config.quant_method is awq");
    expect_refused(q, "    \"load_in_4bit\": true", "    \"load_in_4bit\": false",
                   "load_in_4bit is not true, nor is load_in_8bit");
    expect_refused(q, "    \"load_in_8bit\": false", "    \"load_in_8bit\": true",
                   "load_in_4bit is true and so is load_in_8bit");
    expect_refused(q, "\"nf4\"", "\"int4\"", "bnb_4bit_quant_type is int4");
    expect_refused(r, "\"use_sliding_window\": false", "\"use_sliding_window\": true", "only full attention");
    expect_refused(r, "\"full_attention\"", "\"sliding_attention\"", "layer_types holds other types");
}

static void missing_files_are_named(void **state)
{
    (void)state;
    q3_model_config c;
    assert_int_equal(q3_model_config_load(&c, &mem, "tests/golden/nowhere"), Q3_ERR_MODEL);
    assert_non_null(strstr(q3_error(), "tests/golden/nowhere/config.json"));
}

/* A released model, from the numbers of its card. */
static void check_total(const int *t, bool tied, const int *v, int64_t text, int64_t vision)
{
    q3_model_config c = { .has_vision = v != NULL,
                          .text = { t[0], t[1], t[2], t[3], t[4], 8, 128, .tied = tied } };
    if (v)
        c.vision = (q3_vision_config){ v[0], v[1], v[2], 16, 16, 2, 2, 3, 2304, 48, t[1], 3, { 0 } };
    int64_t got_text, got_vision;
    q3_model_parameters(&c, &got_text, &got_vision);
    assert_int_equal(got_vision, vision);
    assert_int_equal(got_text + got_vision, text);
}

static void parameters_of_released_models_add_up(void **state)
{
    (void)state;
    const int small[] = { 1024, 4096, 24 }, large[] = { 1152, 4304, 27 };
    check_total((int[]){ 151936, 2048, 6144, 28, 16 }, true, small, 2127532032, 406957056);
    check_total((int[]){ 151936, 2560, 9728, 36, 32 }, true, small, 4437815808, 415347712);
    check_total((int[]){ 151936, 4096, 12288, 36, 32 }, false, large, 8767123696, 576388336);
    check_total((int[]){ 151936, 5120, 25600, 64, 64 }, false, large, 33357390064, 595266800);
    check_total((int[]){ 151669, 1024, 3072, 28, 16 }, true, NULL, 595776512, 0);
    check_total((int[]){ 151669, 4096, 12288, 36, 32 }, false, NULL, 8188548096, 0);
}

static void parameters_are_those_of_the_checkpoint(void **state)
{
    (void)state;
    static const char *const dirs[] = { "tests/golden/model-a/model", "tests/golden/model-b/model",
                                        "tests/golden/formats/reranker-model" };
    for (int i = 0; i < 3; i++) {
        q3_model_config c = load(dirs[i]);
        char path[256];
        snprintf(path, sizeof path, "%s/model.safetensors", dirs[i]);
        q3_safetensors *f;
        assert_int_equal(q3_safetensors_open(&f, path), Q3_OK);
        int64_t sum[2] = { 0, 0 }, text, vision;
        for (int64_t k = 0; k < q3_safetensors_count(f); k++) {
            const q3_st_tensor *t = q3_safetensors_at(f, k);
            sum[strstr(t->name, "visual.") != NULL] += q3_st_elements(t);
        }
        q3_model_parameters(&c, &text, &vision);
        assert_int_equal(text, sum[0]);
        assert_int_equal(vision, sum[1]);
        q3_safetensors_close(f);
    }
}

static void assert_text_is_file(const q3_text *t, const char *path)
{
    char *text;
    size_t size;
    assert_int_equal(q3_file_read(&text, &size, path, 1 << 20), Q3_OK);
    assert_string_equal(t->data, text);
    assert_int_equal(t->size, size);
    q3_free(text);
}

static void a_quantized_config_is_the_references(void **state)
{
    (void)state;
    static const char *const models[] = { "tests/golden/model-a", "tests/golden/model-b" };
    for (int i = 0; i < 2; i++) {
        char plain[128], nf4[128], file[160];
        snprintf(plain, sizeof plain, "%s/model", models[i]);
        snprintf(nf4, sizeof nf4, "%s/model-nf4", models[i]);
        q3_model_config a = load(plain), b = load(nf4);
        q3_text text;
        assert_int_equal(
            q3_model_config_text(&text, &a, &(q3_config_edit){ .quantization = &b.quantization }), Q3_OK);
        snprintf(file, sizeof file, "%s/config.json", nf4);
        assert_text_is_file(&text, file);
        q3_text_free(&text);
        assert_int_equal(
            q3_model_config_text(&text, &b, &(q3_config_edit){ .quantization = &b.quantization }), Q3_OK);
        assert_text_is_file(&text, file); // replaced by the same
        q3_text_free(&text);
        assert_int_equal(q3_model_config_text(&text, &b, &(q3_config_edit){ .drop_quantization = true }),
                         Q3_OK);
        snprintf(file, sizeof file, "%s/config.json", plain);
        assert_text_is_file(&text, file);
        q3_text_free(&text);
    }
}

static void check_edit(const char *before, const q3_config_edit *edit, const char *after)
{
    q3_model_config c = { .raw = before, .raw_bytes = strlen(before) };
    q3_text text;
    assert_int_equal(q3_model_config_text(&text, &c, edit), Q3_OK);
    assert_string_equal(text.data, after);
    q3_text_free(&text);
}

static void edits_keep_every_other_character(void **state)
{
    (void)state;
    const q3_config_edit bf16 = { .dtype = "bfloat16" }, drop = { .drop_quantization = true };
    check_edit(" {\"a\":1}\n", &(q3_config_edit){ 0 }, " {\"a\":1}\n");
    check_edit("{}", &bf16, "{\"dtype\": \"bfloat16\"}");
    check_edit("{\n  \"z\": [1, {\"dtype\": 2}]\n}", &bf16,
               "{\n  \"dtype\": \"bfloat16\",\n  \"z\": [1, {\"dtype\": 2}]\n}");
    check_edit("{\n  \"a\": -1e5\n}\n", &bf16, "{\n  \"a\": -1e5,\n  \"dtype\": \"bfloat16\"\n}\n");
    check_edit("{\n  \"a\": 1 ,\n  \"e\": 2\n}", &bf16,
               "{\n  \"a\": 1 ,\n  \"dtype\": \"bfloat16\",\n  \"e\": 2\n}");
    check_edit("{\"torch_dtype\":null,\"text_config\":{\"dtype\":\"float32\"}}", &bf16,
               "{\"torch_dtype\":\"bfloat16\",\"text_config\":{\"dtype\":\"bfloat16\"}}");
    check_edit("{\"vision_config\":{\"torch_dtype\" : \"x\\\"}\" }}", &bf16,
               "{\"dtype\": \"bfloat16\",\"vision_config\":{\"torch_dtype\" : \"bfloat16\" }}");
    check_edit("{\"a\": 1, \"quantization_config\": {\"b\": \"}\"}}", &drop, "{\"a\": 1}");
    check_edit("{\"quantization_config\": {}, \"z\": true}", &drop, "{\"z\": true}");
    check_edit("{\"quantization_config\":null}", &drop, "{}");
    check_edit("{\"a\":{\"quantization_config\":1}}", &drop, "{\"a\":{\"quantization_config\":1}}");
}

static void a_written_config_is_read_again(void **state)
{
    (void)state;
    const char *dir = getenv("Q3_TEST_DIR");
    dir = dir ? dir : "/tmp/q3-test";
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    q3_model_config a = parse_file("tests/golden/model-a/config-transformers-4.57.json");
    q3_quantization_config q = { true, Q3_FP4, false, Q3_BF16, 0, NULL };
    q3_config_edit edit = { .dtype = "float16", .quantization = &q };
    assert_int_equal(q3_model_config_write(&a, dir, &edit), Q3_OK);
    q3_model_config b = load(dir);
    assert_int_equal(b.dtype, Q3_F16);
    assert_true(b.quantization.present && b.quantization.code == Q3_FP4 && !b.quantization.nested);
    assert_true(b.quantization.compute == Q3_BF16 && b.quantization.n_skip == 0);
    assert_memory_equal(&a.text, &b.text, sizeof a.text);
}

static void every_failing_allocation_is_survived(void **state)
{
    (void)state;
    q3_model_config c;
    q3_status st = Q3_ERR_MEMORY;
    for (int64_t i = 1; st != Q3_OK; i++) {
        assert_in_range(i, 1, 2000);
        q3_heap_fail_at(i);
        st = q3_model_config_load(&c, &mem, "tests/golden/model-a/model-nf4");
        q3_heap_fail_at(0);
    }
    st = Q3_ERR_MEMORY;
    const q3_config_edit edit = { .dtype = "bfloat16",
                                  .drop_quantization = true,
                                  .quantization = &c.quantization };
    for (int64_t i = 1; st != Q3_OK; i++) {
        q3_text text;
        assert_in_range(i, 1, 100);
        q3_heap_fail_at(i);
        st = q3_model_config_text(&text, &c, &edit);
        q3_heap_fail_at(0);
        q3_text_free(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_of_a_vl_model_is_read),
        cmocka_unit_test(both_generations_of_files_mean_the_same),
        cmocka_unit_test(a_text_model_has_no_vision),
        cmocka_unit_test(quantization_is_read),
        cmocka_unit_test(generation_settings_are_read),
        cmocka_unit_test(wrong_configs_are_refused_with_their_reason),
        cmocka_unit_test(missing_files_are_named),
        cmocka_unit_test(parameters_of_released_models_add_up),
        cmocka_unit_test(parameters_are_those_of_the_checkpoint),
        cmocka_unit_test(a_quantized_config_is_the_references),
        cmocka_unit_test(edits_keep_every_other_character),
        cmocka_unit_test(a_written_config_is_read_again),
        cmocka_unit_test(every_failing_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, open_arena, close_arena);
}
