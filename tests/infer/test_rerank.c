#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "core/json.h"
#include "core/quantized.h"
#include "infer/rerank.h"

#define QWEN3 "tests/golden/tokenizer/qwen3"
#define VECTORS "tests/golden/vectors/qwen3-reranker.jsonl"

enum { VOCAB = 151936, WIDTH = 3 };

static q3_arena mem;
static q3_tokenizer *tokenizer;
static q3_model_config text_config = { .image_token = -1, .video_token = -1 },
                       vision_config = { .has_vision = true, .image_token = 151655, .video_token = 151656 };

static int prepare(void **state)
{
    (void)state;
    text_config.text = vision_config.text =
        (q3_text_config){ .vocab_size = VOCAB, .hidden_size = WIDTH, .max_positions = 40960 };
    vision_config.vision = (q3_vision_config){ .merge_size = 2, .patch_size = 16, .temporal_patch_size = 2 };
    return q3_arena_create(&mem, "test arena", (size_t)1 << 30) != Q3_OK ||
           q3_tokenizer_open(&tokenizer, QWEN3) != Q3_OK;
}

static int release(void **state)
{
    (void)state;
    q3_tokenizer_close(tokenizer);
    q3_arena_destroy(&mem);
    return 0;
}

static q3_prompter prompter_of(const q3_model_config *c)
{
    return (q3_prompter){ .tokenizer = tokenizer,
                          .config = c,
                          .vision = { .patch = 16,
                                      .tpatch = 2,
                                      .merge = 2,
                                      .min_pixels = 65536,
                                      .max_pixels = 16777216,
                                      .mean = { 0.5, 0.5, 0.5 },
                                      .std = { 0.5, 0.5, 0.5 } } };
}

/* A model that is a head alone, all zeros. */
static q3_model model_of(const q3_model_config *c)
{
    const int64_t shape[] = { VOCAB, WIDTH };
    float *values = Q3_ZNEW(&mem, float, (int64_t)VOCAB *WIDTH);
    q3_model m = { .config = *c };
    m.head = q3_tensor_wrap(&mem, values, Q3_F32, 2, shape);
    assert_non_null(m.head);
    return m;
}

static q3_status create(q3_reranker **out, const q3_model_config *c, q3_reranker_options o)
{
    const q3_prompter p = prompter_of(c);
    const q3_model m = model_of(c);
    return q3_reranker_create(out, &m, &p, &o);
}

/* ---- prompts ---- */

static void assert_ids(const int32_t *ids, int64_t n, const cJSON *want, const char *what)
{
    int64_t i = 0;
    const cJSON *id;
    cJSON_ArrayForEach(id, want)
    {
        if (i >= n || ids[i] != id->valueint)
            fail_msg("%s: token %lld is %d of %lld, want %d of %d", what, (long long)i,
                     i < n ? (int)ids[i] : -1, (long long)n, id->valueint, cJSON_GetArraySize(want));
        i++;
    }
    assert_int_equal(i, n);
}

/* Pictures of so many tokens: one row of them, 32 pixels a side. */
static q3_image *pictures_of(int *n, const cJSON *tokens)
{
    q3_image *all = Q3_ZNEW(&mem, q3_image, 4);
    const cJSON *count;
    *n = 0;
    cJSON_ArrayForEach(count, tokens)
    {
        q3_image *one = &all[(*n)++];
        *one = (q3_image){ 32 * count->valueint, 32, NULL };
        one->rgb = Q3_ZNEW(&mem, uint8_t, (int64_t)one->width * one->height * 3);
    }
    return all;
}

static const char *text_of(const cJSON *line, const char *key)
{
    return cJSON_GetObjectItem(line, key)->valuestring;
}

static void compare_prompt(const cJSON *line, const char *what)
{
    const char *form = text_of(line, "form");
    bool vision = strcmp(form, "vl") == 0;
    q3_rerank_side query = { .text = text_of(line, "query") },
                   document = { .text = text_of(line, "document") };
    query.pictures = pictures_of(&query.n_pictures, cJSON_GetObjectItem(line, "query_pictures"));
    document.pictures = pictures_of(&document.n_pictures, cJSON_GetObjectItem(line, "pictures"));
    q3_reranker *r;
    q3_prompt prompt;
    assert_int_equal(
        create(&r, vision ? &vision_config : &text_config,
               (q3_reranker_options){ .max_length = cJSON_GetObjectItem(line, "max_length")->valueint,
                                      .blank_lines = strcmp(form, "vllm") == 0 }),
        Q3_OK);
    if (q3_rerank_prompt(&prompt, &mem, r, text_of(line, "instruction"), &query, &document) != Q3_OK)
        fail_msg("%s: %s", what, q3_error());
    assert_ids(prompt.ids, prompt.n, cJSON_GetObjectItem(line, "ids"), what);
    assert_int_equal(prompt.adapter, -1);
    assert_int_equal(prompt.n_images, query.n_pictures + document.n_pictures);
    q3_reranker_destroy(r);
}

/* Both forms of text-only models and that of VL models, cut and whole, against the tokenizer of transformers. */
static void prompts_equal_the_reference(void **state)
{
    (void)state;
    char *text, *line, *rest;
    size_t size;
    int n = 0;
    assert_int_equal(q3_file_read(&text, &size, VECTORS, 1 << 22), Q3_OK);
    strtok_r(text, "\n", &rest); // yes, no, prefix, suffix
    while ((line = strtok_r(NULL, "\n", &rest))) {
        char what[64];
        snprintf(what, sizeof what, "line %d", ++n + 1);
        size_t mark = q3_arena_mark(&mem);
        cJSON *json = cJSON_Parse(line);
        compare_prompt(json, what);
        cJSON_Delete(json);
        q3_arena_rewind(&mem, mark);
    }
    assert_true(n > 100);
    q3_free(text);
}

static void yes_and_no_are_those_of_the_reference(void **state)
{
    (void)state;
    q3_reranker *r;
    int32_t yes, no;
    assert_int_equal(create(&r, &text_config, (q3_reranker_options){ 0 }), Q3_OK);
    q3_reranker_ids(&yes, &no, r);
    assert_int_equal(yes, 9693);
    assert_int_equal(no, 2152);
    q3_reranker_destroy(r);
}

static void words_of_several_tokens_are_refused(void **state)
{
    (void)state;
    q3_tokenizer *small;
    q3_reranker *r;
    assert_int_equal(q3_tokenizer_open(&small, "tests/golden/tokenizer/small"), Q3_OK);
    q3_prompter p = prompter_of(&text_config);
    p.tokenizer = small;
    const q3_model m = model_of(&text_config);
    assert_int_equal(q3_reranker_create(&r, &m, &p, &(q3_reranker_options){ 0 }), Q3_ERR_MODEL);
    assert_non_null(strstr(q3_error(), "\"yes\" is "));
    assert_null(r);
    q3_tokenizer_close(small);
}

static void without_an_instruction_the_models_own_is_taken(void **state)
{
    (void)state;
    const q3_rerank_side query = { .text = "q" }, document = { .text = "d" };
    const q3_model_config *configs[] = { &text_config, &vision_config };
    const char *const own[] = { Q3_RERANK_INSTRUCTION, Q3_RERANK_INSTRUCTION_VL };
    for (int i = 0; i < 2; i++) {
        q3_reranker *r;
        q3_prompt a, b, other;
        assert_int_equal(create(&r, configs[i], (q3_reranker_options){ 0 }), Q3_OK);
        assert_string_equal(q3_reranker_instruction(r), own[i]);
        assert_int_equal(q3_rerank_prompt(&a, &mem, r, NULL, &query, &document), Q3_OK);
        assert_int_equal(q3_rerank_prompt(&b, &mem, r, own[i], &query, &document), Q3_OK);
        assert_int_equal(q3_rerank_prompt(&other, &mem, r, own[!i], &query, &document), Q3_OK);
        assert_int_equal(a.n, b.n);
        assert_memory_equal(a.ids, b.ids, (size_t)a.n * sizeof *a.ids);
        assert_true(other.n != a.n || memcmp(other.ids, a.ids, (size_t)a.n * sizeof *a.ids));
        q3_reranker_destroy(r);
    }
}

static void refuses(const q3_model_config *c, q3_reranker_options o, const char *sentence)
{
    q3_reranker *r;
    assert_int_equal(create(&r, c, o), Q3_ERR_USAGE);
    if (!strstr(q3_error(), sentence))
        fail_msg("\"%s\" lacks \"%s\"", q3_error(), sentence);
    assert_null(r);
}

static void impossible_settings_are_refused(void **state)
{
    (void)state;
    refuses(&text_config, (q3_reranker_options){ .max_length = 48 }, "takes 48 tokens");
    refuses(&text_config, (q3_reranker_options){ .max_length = 40961 }, "reaches 40960 tokens");
    refuses(&vision_config, (q3_reranker_options){ .max_length = 40956 }, "reaches 40955 tokens");
    refuses(&vision_config, (q3_reranker_options){ .blank_lines = true }, "vLLM");
    refuses(&vision_config, (q3_reranker_options){ .min_pixels = 5000, .max_pixels = 2000 }, "pixels");
}

static void control_tokens_in_texts_are_named(void **state)
{
    (void)state;
    const q3_rerank_side plain = { .text = "a" }, bad = { .text = "b <|im_end|> c" };
    const q3_prompter base = prompter_of(&text_config);
    const q3_model m = model_of(&text_config);
    for (int allowed = 0; allowed < 2; allowed++) {
        q3_prompter p = base;
        q3_reranker *r;
        q3_prompt out;
        p.allow_special = allowed;
        assert_int_equal(q3_reranker_create(&r, &m, &p, &(q3_reranker_options){ 0 }), Q3_OK);
        q3_status want = allowed ? Q3_OK : Q3_ERR_DATA;
        assert_int_equal(q3_rerank_prompt(&out, &mem, r, NULL, &plain, &bad), want);
        assert_true(allowed || strstr(q3_error(), "the document contains the control token <|im_end|>"));
        assert_int_equal(q3_rerank_prompt(&out, &mem, r, NULL, &bad, &plain), want);
        assert_int_equal(q3_rerank_prompt(&out, &mem, r, bad.text, &plain, &plain), want);
        q3_reranker_destroy(r);
    }
}

static void a_text_only_model_refuses_pictures(void **state)
{
    (void)state;
    q3_image picture = { 32, 32, Q3_ZNEW(&mem, uint8_t, 32 * 32 * 3) };
    const q3_rerank_side query = { .text = "a" },
                         document = { .text = "b", .pictures = &picture, .n_pictures = 1 };
    q3_reranker *r;
    q3_prompt out;
    assert_int_equal(create(&r, &text_config, (q3_reranker_options){ 0 }), Q3_OK);
    assert_int_equal(q3_rerank_prompt(&out, &mem, r, NULL, &query, &document), Q3_ERR_DATA);
    assert_non_null(strstr(q3_error(), "text-only"));
    q3_reranker_destroy(r);
}

/* The bounds of the recipe, 4 and 1800 tokens, not those of the model (64 and 16384 here); or the caller's. */
static void pictures_have_the_bounds_of_the_recipe(void **state)
{
    (void)state;
    q3_image small = { 32, 32, Q3_ZNEW(&mem, uint8_t, 32 * 32 * 3) },
             large = { 2048, 2048, Q3_ZNEW(&mem, uint8_t, 2048 * 2048 * 3) };
    const q3_image *const pictures[] = { &small, &large };
    const q3_rerank_side query = { .text = "a" };
    const int64_t want[2][2] = { { 4, 1764 }, { 4, 16 } }; // 42^2; with max_pixels 16 tokens
    for (int i = 0; i < 4; i++) {
        q3_reranker *r;
        q3_prompt out;
        const q3_rerank_side document = { .pictures = pictures[i % 2], .n_pictures = 1 };
        assert_int_equal(
            create(&r, &vision_config, (q3_reranker_options){ .max_pixels = i < 2 ? 0 : 16 * 1024 }), Q3_OK);
        assert_int_equal(q3_rerank_prompt(&out, &mem, r, NULL, &query, &document), Q3_OK);
        assert_int_equal(out.n_image_rows, want[i / 2][i % 2]);
        q3_reranker_destroy(r);
    }
}

/* ---- scores ---- */

/* head [V, 33]: rows begin inside bytes and blocks. */
enum { ODD = 33, ROWS = 9700 };

static float *random_head(void)
{
    float *values = Q3_NEW(&mem, float, (int64_t)ROWS *ODD);
    uint32_t x = 7;
    for (int64_t i = 0; i < (int64_t)ROWS * ODD; i++) {
        x = x * 1664525u + 1013904223u;
        values[i] = ldexpf((float)(x >> 8), -24) - 0.5f;
    }
    return values;
}

/* The score of hidden state e_k is element k of the row: it must be the difference of the two rows as q3_weight_at
 * reads them from the whole head. */
static void assert_row(const q3_tensor *head)
{
    q3_model_config c = text_config;
    c.text.vocab_size = ROWS;
    const q3_prompter p = prompter_of(&c);
    const q3_model m = { .config = c, .head = (q3_tensor *)(uintptr_t)head };
    const q3_weight w = q3_as_weight(head);
    q3_reranker *r;
    if (q3_reranker_create(&r, &m, &p, &(q3_reranker_options){ 0 }) != Q3_OK)
        fail_msg("%s", q3_error());
    for (int k = 0; k < ODD; k++) {
        float hidden[ODD] = { 0 };
        hidden[k] = 1;
        float yes = q3_weight_at(&w, (int64_t)9693 * ODD + k), no = q3_weight_at(&w, (int64_t)2152 * ODD + k);
        assert_true(q3_rerank_logit(r, hidden, ODD) == (double)(yes - no));
    }
    q3_reranker_destroy(r);
}

/* The score of one hidden state with this head. */
static double score_with(q3_tensor *head, const float *hidden)
{
    q3_model_config c = text_config;
    c.text.vocab_size = ROWS;
    const q3_prompter p = prompter_of(&c);
    const q3_model m = { .config = c, .head = head };
    q3_reranker *r;
    assert_int_equal(q3_reranker_create(&r, &m, &p, &(q3_reranker_options){ 0 }), Q3_OK);
    double logit = q3_rerank_logit(r, hidden, ODD);
    q3_reranker_destroy(r);
    return logit;
}

static q3_tensor *quantized_head(q3_quantized *q, const float *values, q3_dtype code, bool nested)
{
    const int64_t shape[] = { ROWS, ODD };
    const q3_quantize_args a = { .name = "head",
                                 .x = values,
                                 .dtype = Q3_F32,
                                 .n = (int64_t)ROWS * ODD,
                                 .code = code,
                                 .block = 64,
                                 .nested = nested };
    assert_int_equal(q3_quantize(q, &mem, &a), Q3_OK);
    q3_tensor *head = q3_tensor_wrap(&mem, (void *)(uintptr_t)q->packed, code, 2, shape);
    head->block = q->block;
    head->absmax = q->absmax;
    return head;
}

static void the_row_is_made_from_every_type_of_head(void **state)
{
    (void)state;
    const int64_t shape[] = { ROWS, ODD }, n = (int64_t)ROWS * ODD;
    float *values = random_head(), *scales = Q3_NEW(&mem, float, ROWS);
    uint16_t *halves = Q3_NEW(&mem, uint16_t, n);
    int8_t *codes = Q3_NEW(&mem, int8_t, n);
    q3_quantized q;
    for (int64_t i = 0; i < n; i++) {
        halves[i] = q3_f32_to_bf16(values[i]);
        codes[i] = (int8_t)lrintf(254 * values[i]);
        scales[i / ODD] = values[i];
    }
    assert_row(q3_tensor_wrap(&mem, values, Q3_F32, 2, shape));
    assert_row(q3_tensor_wrap(&mem, halves, Q3_BF16, 2, shape));
    assert_row(q3_tensor_wrap(&mem, halves, Q3_F16, 2, shape));
    q3_tensor *bytes = q3_tensor_wrap(&mem, codes, Q3_I8, 2, shape);
    bytes->block = ODD;
    bytes->absmax = scales;
    assert_row(bytes);
    assert_row(quantized_head(&q, values, Q3_NF4, false));
    assert_row(quantized_head(&q, values, Q3_FP4, false));
}

/* Devices keep the scales as double quantization stores them. */
static void nested_scales_give_the_same_row(void **state)
{
    (void)state;
    q3_quantized q;
    const float *values = random_head();
    q3_tensor *head = quantized_head(&q, values, Q3_NF4, true), nested = *head;
    nested.absmax = NULL;
    nested.nested = (q3_nested){ .codes = q.nested, .scale = q.scale, .map = q.map, .offset = q.offset };
    assert_true(score_with(head, values) != 0);
    assert_true(score_with(head, values) == score_with(&nested, values));
}

static void a_head_of_another_type_is_refused(void **state)
{
    (void)state;
    const int64_t shape[] = { ROWS, ODD };
    q3_model_config c = text_config;
    c.text.vocab_size = ROWS;
    const q3_prompter p = prompter_of(&c);
    q3_model m = { .config = c, .head = q3_tensor_wrap(&mem, &c, Q3_I4, 2, shape) };
    q3_reranker *r;
    assert_int_equal(q3_reranker_create(&r, &m, &p, &(q3_reranker_options){ 0 }), Q3_ERR_USAGE);
    assert_non_null(strstr(q3_error(), "lm_head"));
}

static void a_probability_is_the_sigmoid_of_the_logit(void **state)
{
    (void)state;
    assert_true(q3_rerank_probability(0) == 0.5);
    assert_true(fabs(q3_rerank_probability(8.2341) - 0.99973) < 5e-6);
    assert_true(q3_rerank_probability(-1000) == 0 && q3_rerank_probability(1000) == 1);
    assert_true(fabs(q3_rerank_probability(-3) + q3_rerank_probability(3) - 1) < 1e-15);
}

static void every_failed_allocation_is_survived(void **state)
{
    (void)state;
    const q3_rerank_side query = { .text = "a" }, document = { .text = "b" };
    for (int vision = 0; vision < 2; vision++) {
        const q3_model_config *c = vision ? &vision_config : &text_config;
        const q3_prompter p = prompter_of(c);
        const q3_model m = model_of(c);
        q3_status st = Q3_ERR_MEMORY;
        int n = 0;
        for (; st != Q3_OK && n < 1000; n++) {
            q3_reranker *r;
            q3_prompt out;
            q3_heap_fail_at(n + 1);
            st = q3_reranker_create(&r, &m, &p, &(q3_reranker_options){ 0 });
            if (st == Q3_OK)
                st = q3_rerank_prompt(&out, &mem, r, NULL, &query, &document);
            q3_heap_fail_at(0);
            assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
            q3_reranker_destroy(r);
        }
        assert_true(n > 8 && n < 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_equal_the_reference),
        cmocka_unit_test(yes_and_no_are_those_of_the_reference),
        cmocka_unit_test(words_of_several_tokens_are_refused),
        cmocka_unit_test(without_an_instruction_the_models_own_is_taken),
        cmocka_unit_test(impossible_settings_are_refused),
        cmocka_unit_test(control_tokens_in_texts_are_named),
        cmocka_unit_test(a_text_only_model_refuses_pictures),
        cmocka_unit_test(pictures_have_the_bounds_of_the_recipe),
        cmocka_unit_test(the_row_is_made_from_every_type_of_head),
        cmocka_unit_test(nested_scales_give_the_same_row),
        cmocka_unit_test(a_head_of_another_type_is_refused),
        cmocka_unit_test(a_probability_is_the_sigmoid_of_the_logit),
        cmocka_unit_test(every_failed_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, prepare, release);
}
