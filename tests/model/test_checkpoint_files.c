#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/file.h"
#include "model/checkpoint_files.h"

static char dir[512]; // a model directory of our own

static int make_dir(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s/model", base ? base : "/tmp/q3-test");
    return q3_dir_remove(dir) != Q3_OK || q3_dir_create(dir) != Q3_OK;
}

static const char *in_dir(const char *name)
{
    static char path[4][1024];
    static int turn;
    char *p = path[turn++ & 3];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static void put_text(const char *name, const char *text)
{
    assert_int_equal(q3_file_write(in_dir(name), text, strlen(text)), Q3_OK);
}

/* A file with one number for each name. */
static void put_tensors(const char *file, const char *const *names, int n)
{
    static const float numbers[4] = { 1, 2, 3, 4 };
    q3_st_tensor t[4];
    for (int i = 0; i < n; i++)
        t[i] = (q3_st_tensor){
            .name = names[i], .dtype = Q3_F32, .ndim = 1, .shape = { 1 }, .data = &numbers[i]
        };
    assert_int_equal(q3_safetensors_write(in_dir(file), t, n), Q3_OK);
}

static void expect_refused(const char *what)
{
    q3_weights *w;
    assert_int_equal(q3_weights_open(&w, dir), Q3_ERR_MODEL);
    assert_null(w);
    if (!strstr(q3_error(), what))
        fail_msg("\"%s\" does not say \"%s\"", q3_error(), what);
}

static void a_single_file_is_found(void **state)
{
    (void)state;
    q3_weights *w;
    assert_int_equal(q3_weights_open(&w, "tests/golden/model-a/model"), Q3_OK);
    const q3_st_tensor *t;
    const char *name = "model.language_model.embed_tokens.weight";
    assert_int_equal(q3_weights_get(&t, w, name, 2, (int64_t[]){ 320, 64 }), Q3_OK);
    assert_string_equal(t->name, name);
    assert_int_equal(q3_weights_get(&t, w, name, 2, (int64_t[]){ 320, 65 }), Q3_ERR_MODEL);
    assert_non_null(strstr(q3_error(), "embed_tokens.weight is [320, 64], config.json makes it [320, 65]"));
    assert_int_equal(q3_weights_get(&t, w, "lm_head.weight", 2, (int64_t[]){ 320, 64 }), Q3_ERR_MODEL);
    assert_non_null(strstr(q3_error(), "there is no tensor lm_head.weight"));
    assert_null(q3_weights_find(w, "lm_head.weight"));
    assert_int_equal(q3_weights_all_used(w), Q3_ERR_MODEL);
    assert_non_null(strstr(q3_error(), "(not the only one)"));
    for (int64_t i = 0; i < q3_weights_count(w); i++)
        assert_ptr_equal(q3_weights_find(w, q3_weights_name(w, i)), q3_weights_at(w, i));
    assert_int_equal(q3_weights_all_used(w), Q3_OK);
    q3_weights_close(w);
}

static void a_text_model_gets_the_same_names(void **state)
{
    (void)state;
    q3_weights *w;
    assert_int_equal(q3_weights_open(&w, "tests/golden/formats/reranker-model"), Q3_OK);
    const q3_st_tensor *t = q3_weights_find(w, "model.language_model.layers.2.mlp.down_proj.weight");
    assert_non_null(t);
    assert_string_equal(t->name, "model.layers.2.mlp.down_proj.weight");
    assert_non_null(q3_weights_find(w, "lm_head.weight"));
    q3_weights_close(w);
}

static void every_known_prefix_is_normalized(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        { "model.language_model.layers.0.mlp.up_proj.weight",
          "model.language_model.layers.0.mlp.up_proj.weight" },
        { "language_model.layers.0.x", "model.language_model.layers.0.x" },
        { "language_model.model.layers.0.x", "model.language_model.layers.0.x" },
        { "model.layers.0.x", "model.language_model.layers.0.x" },
        { "layers.0.x", "model.language_model.layers.0.x" },
        { "model.language_model.language_model.norm.weight", "model.language_model.norm.weight" },
        { "embed_tokens.weight", "model.language_model.embed_tokens.weight" },
        { "model.visual.pos_embed.weight", "model.visual.pos_embed.weight" },
        { "visual.blocks.0.norm1.bias", "model.visual.blocks.0.norm1.bias" },
        { "model.language_model.visual.merger.norm.bias", "model.visual.merger.norm.bias" },
        { "lm_head.weight", "lm_head.weight" },
        { "language_model.lm_head.weight", "lm_head.weight" },
        { "model.layers.0.x.weight.absmax", "model.language_model.layers.0.x.weight.absmax" },
    };
    char out[128];
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        assert_true(q3_weights_normalize(out, sizeof out, pairs[i][0]));
        assert_string_equal(out, pairs[i][1]);
    }
    static const char *const foreign[] = { "score.weight", "model.score.weight", "", "model.",
                                           "visual",       "layersx.0" };
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        assert_false(q3_weights_normalize(out, sizeof out, foreign[i]));
    assert_false(q3_weights_normalize(out, 21, "norm.weight")); // does not fit
}

static void shards_are_read_as_one(void **state)
{
    (void)state;
    put_tensors("a.safetensors", (const char *const[]){ "model.norm.weight", "lm_head.weight" }, 2);
    put_tensors("b.safetensors", (const char *const[]){ "visual.x" }, 1);
    put_text("model.safetensors.index.json",
             "{\"metadata\": {\"total_size\": 12}, \"weight_map\": {"
             "\"model.norm.weight\": \"a.safetensors\", \"visual.x\": \"b.safetensors\","
             "\"lm_head.weight\": \"a.safetensors\"}}");
    q3_weights *w;
    assert_int_equal(q3_weights_open(&w, dir), Q3_OK);
    assert_int_equal(q3_weights_count(w), 3);
    assert_true(*(const float *)q3_weights_find(w, "lm_head.weight")->data == 1.0f ||
                *(const float *)q3_weights_find(w, "lm_head.weight")->data == 2.0f);
    assert_non_null(q3_weights_find(w, "model.visual.x"));
    assert_non_null(q3_weights_find(w, "model.language_model.norm.weight"));
    q3_weights_close(w);
}

static void damaged_directories_are_refused(void **state)
{
    (void)state;
    const char *index = "model.safetensors.index.json";
    put_tensors("a.safetensors", (const char *const[]){ "model.norm.weight" }, 1);
    put_tensors("b.safetensors", (const char *const[]){ "language_model.norm.weight" }, 1);
    put_tensors("c.safetensors", (const char *const[]){ "score.weight" }, 1);
    put_text(index, "{\"weight_map\": {\"model.norm.weight\": \"model-00002-of-00004.safetensors\"}}");
    expect_refused("model-00002-of-00004.safetensors is missing; is the download complete?");
    put_text(index, "{\"weight_map\": {\"model.x\": \"a.safetensors\"}}");
    expect_refused("tensor model.x is not in a.safetensors");
    put_text(index, "{\"weight_map\": {\"model.norm.weight\": \"../model/a.safetensors\"}}");
    expect_refused("names no file of this directory for model.norm.weight");
    put_text(index, "{\"weight_map\": {\"model.norm.weight\": 3}}");
    expect_refused("names no file of this directory");
    put_text(index, "{\"weight_map\": {\"model.norm.weight\": \"a.safetensors\","
                    "\"language_model.norm.weight\": \"b.safetensors\"}}");
    expect_refused("are both model.language_model.norm.weight");
    put_text(index, "{\"weight_map\": {\"score.weight\": \"c.safetensors\"}}");
    expect_refused("tensor score.weight belongs to no part");
    put_text(index, "{\"weight_map\": []}");
    expect_refused("has no weight_map");
    put_text(index, "[3]");
    expect_refused("has no weight_map");
    put_text(index, "{\"weight_map\":");
    expect_refused("index.json:1:");
    put_text("a.safetensors", "short");
    put_text(index, "{\"weight_map\": {\"model.norm.weight\": \"a.safetensors\"}}");
    expect_refused("a.safetensors: 5 bytes are too few");
}

static void an_empty_directory_says_what_is_missing(void **state)
{
    (void)state;
    assert_int_equal(make_dir(NULL), 0);
    expect_refused("there is no model.safetensors");
    assert_null(strstr(q3_error(), "pickled"));
    put_text("pytorch_model.bin", "x");
    expect_refused("pickled weights are not read");
}

static void every_failing_allocation_is_survived(void **state)
{
    (void)state;
    put_tensors("a.safetensors", (const char *const[]){ "model.norm.weight", "lm_head.weight" }, 2);
    put_text("model.safetensors.index.json", "{\"weight_map\": {\"model.norm.weight\": \"a.safetensors\"}}");
    q3_weights *w = NULL;
    q3_status st = Q3_ERR_MEMORY;
    for (int64_t i = 1; st != Q3_OK; i++) {
        assert_in_range(i, 1, 300);
        q3_heap_fail_at(i);
        st = q3_weights_open(&w, dir);
        q3_heap_fail_at(0);
    }
    q3_weights_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_single_file_is_found),
        cmocka_unit_test(a_text_model_gets_the_same_names),
        cmocka_unit_test(every_known_prefix_is_normalized),
        cmocka_unit_test(shards_are_read_as_one),
        cmocka_unit_test(damaged_directories_are_refused),
        cmocka_unit_test(an_empty_directory_says_what_is_missing),
        cmocka_unit_test(every_failing_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, make_dir, NULL);
}
