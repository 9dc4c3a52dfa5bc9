#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "core/file.h"
#include "core/json.h"

#define MODEL "tests/golden/training/model"
#define TRAIN "tests/golden/training/data/train.jsonl"
#define MIXED "tests/golden/training/data/mixed.jsonl"
#define BASE "--model " MODEL " --data " TRAIN " --system-prompt 'You judge posts.' "

static char *dir, *out_path, *err_path, *out, *err;

static int setup(void **state)
{
    (void)state;
    const char *test_dir = getenv("Q3_TEST_DIR");
    if (!test_dir || q3_dir_create(test_dir) != Q3_OK)
        return -1;
    dir = q3_strdup(test_dir);
    out_path = q3_path_join(dir, "out");
    err_path = q3_path_join(dir, "err");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    q3_free(dir);
    q3_free(out_path);
    q3_free(err_path);
    return 0;
}

static int clean(void **state)
{
    (void)state;
    q3_free(out);
    q3_free(err);
    out = err = NULL;
    return 0;
}

/* Runs the program; `out` and `err` are what it printed. Returns its exit code. */
static int run(const char *args)
{
    char command[4096];
    size_t size;
    clean(NULL);
    char *bin = q3_path_dir(Q3_PROGRAM);
    snprintf(command, sizeof command, "'%s/qwen3-collate-check' %s >'%s' 2>'%s'", bin, args, out_path,
             err_path);
    q3_free(bin);
    int rc = system(command);
    assert_int_equal(q3_file_read(&out, &size, out_path, 1 << 24), Q3_OK);
    assert_int_equal(q3_file_read(&err, &size, err_path, 1 << 24), Q3_OK);
    assert_true(WIFEXITED(rc));
    return WEXITSTATUS(rc);
}

static void contains(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("\"%s\" does not contain \"%s\"", text, part);
}

static void write_data(const char *name, const char *text)
{
    char *path = q3_path_join(dir, name);
    assert_int_equal(q3_file_write(path, text, strlen(text)), Q3_OK);
    q3_free(path);
}

static void a_sample_is_shown_with_ids_counts_and_masked_text(void **state)
{
    (void)state;
    assert_int_equal(run(BASE "--samples 1"), 0);
    assert_string_equal(out, TRAIN ":1  id 900000000000000000\n"
                                   "  tokens  60: prompt 52, supervised 8; picture 12, of 1 x 6 x 8 patches\n"
                                   "  ids     347 317 198 292 319 318 13 348 198 347 308 198 355 358 x 12 "
                                   "356 280 299 220 299 309 264 67 "
                                   "263 69 84 75 198 320 25 281 286 335 77 282 328 68 348 198 347 321 198 "
                                   "270 275 265 271 276 266 348 198\n"
                                   "  text    ‹<|im_start|>system↵You judge "
                                   "posts.<|im_end|>↵<|im_start|>user↵<|vision_start|><|image_pad|> "
                                   "x 12<|vision_end|>this is wonderful↵CAPTION: a broken "
                                   "phone<|im_end|>↵<|im_start|>assistant↵›{\"label\": "
                                   "\"sarcastic\"}<|im_end|>↵\n"
                                   "samples 1, refused 0, tokens 60, supervised 8, longest 60\n");
    assert_string_equal(err, "");
}

static void quiet_prints_the_summary_alone(void **state)
{
    (void)state;
    assert_int_equal(run(BASE "-q"), 0);
    assert_memory_equal(out, "samples 22, refused 0, ", 23);
    assert_ptr_equal(strchr(out, '\n'), out + strlen(out) - 1);
}

static void a_missing_picture_is_refused_unless_it_may_be_missing(void **state)
{
    (void)state;
    assert_int_equal(run("--model " MODEL " -q --data " MIXED), 3);
    contains(out, "samples 9, refused 5, ");
    contains(err, MIXED ":2: missing field \"image\"");
    assert_int_equal(run("--model " MODEL " --allow-text-only --data " MIXED), 0);
    contains(out, "samples 9, refused 0, ");
    contains(out, "‹<|im_start|>user↵perfect timing↵CAPTION: a sunny beach<|im_end|>");
}

/* Joins the texts of the list; placeholders of a picture come as a count. */
static void check_texts(const cJSON *texts)
{
    const cJSON *t;
    int trained = 0;
    cJSON_ArrayForEach(t, texts)
    {
        const char *text = cJSON_GetObjectItem(t, "text")->valuestring;
        if (cJSON_IsTrue(cJSON_GetObjectItem(t, "masked")))
            continue;
        trained++;
        assert_memory_equal(text, "{\"label\": \"", 11);
        contains(text, "\"}<|im_end|>\n");
    }
    assert_int_equal(trained, 1);
}

static void json_has_every_id_and_label(void **state)
{
    (void)state;
    assert_int_equal(run(BASE "--json"), 0);
    int n = 0;
    for (char *next, *line = strtok_r(out, "\n", &next); line; line = strtok_r(NULL, "\n", &next), n++) {
        cJSON *o = cJSON_Parse(line);
        assert_non_null(o);
        int tokens = cJSON_GetObjectItem(o, "tokens")->valueint, supervised = 0, pads = 0;
        const cJSON *ids = cJSON_GetObjectItem(o, "ids"), *labels = cJSON_GetObjectItem(o, "labels"), *id,
                    *label;
        assert_true(cJSON_GetArraySize(ids) == tokens && cJSON_GetArraySize(labels) == tokens);
        for (id = ids->child, label = labels->child; id; id = id->next, label = label->next) {
            assert_true(label->valueint == -100 || label->valueint == id->valueint);
            supervised += label->valueint != -100;
            pads += id->valueint == 358;
        }
        assert_int_equal(supervised, cJSON_GetObjectItem(o, "supervised")->valueint);
        assert_int_equal(supervised + cJSON_GetObjectItem(o, "prompt")->valueint, tokens);
        assert_int_equal(pads, cJSON_GetObjectItem(o, "image_tokens")->valueint);
        check_texts(cJSON_GetObjectItem(o, "text"));
        cJSON_Delete(o);
    }
    assert_int_equal(n, 22);
}

static void a_sample_without_supervised_token_fails_the_check_by_name(void **state)
{
    (void)state;
    assert_int_equal(run(BASE "--samples 2 --max-length 59"), 3); // 60 and 57 tokens
    contains(err,
             "qwen3-collate-check: Qwen3 collate failed: " TRAIN ":1: the sample has 60 tokens (prompt 52)");
    contains(err, "qwen3-collate-check: 1 of 2 samples cannot be trained on\n");
    contains(out, TRAIN ":2  id");
    contains(out, "samples 2, refused 1, tokens 57");
    assert_int_equal(run(BASE "--samples 1 --max-length 52 --json"), 3);
    contains(out, "{\"error\": \"Qwen3 collate failed: " TRAIN ":1: ");
}

static void every_bad_sample_is_named(void **state)
{
    (void)state;
    char args[1024];
    write_data("bad.jsonl", "{\"image\": \"none.png\", \"query\": \"a\", \"target_json\": \"b\"}\n"
                            "{\"image\": \"none.png\", \"query\": \"a\"}\n"
                            "{\"query\": \"no picture\", \"target_json\": \"b\"}\n"
                            "{\"image\": \n");
    snprintf(args, sizeof args, "--model " MODEL " --data '%s/bad.jsonl'", dir);
    assert_int_equal(run(args), 3);
    contains(err, "bad.jsonl:1: ");
    contains(err, "none.png");
    contains(err, "bad.jsonl:2: ");
    contains(err, "bad.jsonl:3: missing field \"image\"");
    contains(err, "bad.jsonl:4:");
    contains(err, "4 of 4 samples cannot be trained on");
    contains(out, "samples 4, refused 4, tokens 0");
}

static void the_prompt_may_come_from_a_file(void **state)
{
    (void)state;
    char args[1024];
    write_data("prompt.txt", "You judge posts.");
    snprintf(args, sizeof args,
             "--model=" MODEL " --data=" TRAIN " --system_prompt=@%s/prompt.txt --samples 1", dir);
    assert_int_equal(run(args), 0);
    contains(out, "tokens  60: prompt 52");
    contains(out, "system↵You judge posts.<|im_end|>");
    assert_int_equal(run("--model " MODEL " --data " TRAIN " --samples 1"), 0);
    contains(out, "tokens  51: prompt 43");
    assert_int_equal(run(BASE "--system-prompt @/no/such/file"), 2);
    contains(err, "/no/such/file");
}

static void the_bounds_of_pictures_can_be_changed(void **state)
{
    (void)state;
    assert_int_equal(run(BASE "--samples 1 --max-pixels 4096"), 0);
    contains(out, "picture 2, of 1 x 2 x 4 patches");
    assert_int_equal(run(BASE "--samples 1 --min-pixels 65536"), 2); // above the processor's upper bound
    assert_int_equal(run(BASE "--samples 1 --min-pixels 65536 --max-pixels 70000"), 0);
}

static void the_exit_code_tells_what_is_wrong(void **state)
{
    (void)state;
    assert_int_equal(run("--help"), 0);
    contains(out, "--system-prompt TEXT|@FILE");
    assert_int_equal(run(""), 2);
    contains(err, "--model DIR is needed");
    assert_int_equal(run("--model " MODEL), 2);
    contains(err, "--data FILE is needed");
    assert_int_equal(run(BASE "--max-lenght 5"), 2);
    contains(err, "did you mean --max-length");
    assert_int_equal(run(BASE "--max-length"), 2);
    assert_int_equal(run(BASE "--max-length 0"), 2);
    assert_int_equal(run(BASE "--max-length 12x"), 2);
    assert_int_equal(run(BASE "--json=1"), 2);
    assert_int_equal(run(BASE "word"), 2);
    assert_int_equal(run("--model " MODEL " --data tests/golden/none.jsonl"), 3);
    contains(err, "none.jsonl");
    assert_int_equal(run("--model tests/golden/none --data " TRAIN), 4);
    assert_int_equal(run("--model tests/golden/model-a/model --data " TRAIN), 4); // has no tokenizer
    assert_int_equal(run("--model tests/golden/formats/reranker-model --data " TRAIN), 4);
    contains(err, "without vision");
}

#define T(name) cmocka_unit_test_teardown(name, clean)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_sample_is_shown_with_ids_counts_and_masked_text),
        T(quiet_prints_the_summary_alone),
        T(a_missing_picture_is_refused_unless_it_may_be_missing),
        T(json_has_every_id_and_label),
        T(a_sample_without_supervised_token_fails_the_check_by_name),
        T(every_bad_sample_is_named),
        T(the_prompt_may_come_from_a_file),
        T(the_bounds_of_pictures_can_be_changed),
        T(the_exit_code_tells_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
