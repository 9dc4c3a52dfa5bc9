#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "core/json.h"
#include "tests/support/run.h"

#define RECORD(picture, query, target)                                                                       \
    "{\"image\": \"images/" picture "\", \"query\": \"" query                                                \
    "\", \"target_json\": \"{\\\"label\\\": \\\"" target "\\\"}\"}\n"

static const char *home, *train, *eval;

static int set_up(void **state)
{
    (void)state;
    char command[2048];
    home = q3_run_path("lint");
    assert_int_equal(q3_dir_create(home), Q3_OK);
    snprintf(command, sizeof command, "cp -r tests/golden/training/data/images '%s'", home);
    assert_int_equal(system(command), 0);
    snprintf(command, sizeof command, "head -c 3000 '%s/images/001.png' > '%s/images/cut.png'", home, home);
    assert_int_equal(system(command), 0);
    train = q3_path_join(home, "train.jsonl");
    eval = q3_path_join(home, "eval.jsonl");
    assert_true(train && eval);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    q3_free((void *)(uintptr_t)train);
    q3_free((void *)(uintptr_t)eval);
    return 0;
}

/* Looks at train.jsonl and eval.jsonl below `home`; `more` ends with NULL. */
static q3_process lint(const char *const *more)
{
    static char data[2][4200];
    q3_process p = { .argv = { Q3_PROGRAM, "lint", "--threads", "2", "--config", Q3_RUN_CONFIG }, .n = 6 };
    snprintf(data[0], sizeof data[0], "data.train=%s", train);
    snprintf(data[1], sizeof data[1], "data.eval=%s", eval);
    q3_process_add(&p, data[0]);
    q3_process_add(&p, data[1]);
    for (int i = 0; more && more[i]; i++)
        q3_process_add(&p, more[i]);
    q3_process_run(&p);
    return p;
}

static void expect_code(const q3_process *p, int code)
{
    if (p->code != code)
        fail_msg("exit code %d instead of %d\n%s%s", p->code, code, p->out, p->err);
}

static void contains(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no \"%s\" in:\n%s", part, text);
}

/* A finding of the sample in this line of this file. */
static void tells(const q3_process *p, const char *file, int line, const char *what)
{
    char place[4200];
    snprintf(place, sizeof place, "\n  %s:%d:", file, line);
    const char *at = strstr(p->out, place);
    if (!at)
        fail_msg("no \"%s\" in:\n%s", place, p->out);
    size_t n = strcspn(at + 1, "\n");
    char *sentence = strndup(at + 1, n);
    assert_non_null(sentence);
    contains(sentence, what);
    free(sentence);
}

static void the_golden_data_are_clean_and_summed_up(void **state)
{
    (void)state;
    q3_process p = { .argv = { Q3_PROGRAM, "lint", "--config", Q3_RUN_CONFIG }, .n = 4 };
    q3_process_run(&p);
    expect_code(&p, 0);
    assert_string_equal(p.out, "train       tests/golden/training/data/train.jsonl\n"
                               "  samples     22, 22 of them usable\n"
                               "  tokens      39 to 69, median 58, 1236 in all\n"
                               "  supervised  8 to 9, median 8, 185 in all\n"
                               "  pictures    22, 54 x 45 to 158 x 189, 22 sizes\n"
                               "  labels      sarcastic 13, not_sarcastic 9, none of these 0\n"
                               "eval        tests/golden/training/data/eval.jsonl\n"
                               "  samples     7, 7 of them usable\n"
                               "  tokens      52 to 72, median 56, 416 in all\n"
                               "  supervised  8 to 9, median 9, 61 in all\n"
                               "  pictures    7, 41 x 86 to 133 x 183, 7 sizes\n"
                               "  labels      sarcastic 2, not_sarcastic 5, none of these 0\n");
    q3_process_free(&p);
}

static void conversations_are_summed_up_and_compared_as_a_whole(void **state)
{
    (void)state;
    static const char talk[] =
        "{\"images\": [\"images/000.jpg\", \"images/001.png\"], \"messages\": ["
        "{\"role\": \"user\", \"content\": \"<image>a\"}, {\"role\": \"assistant\", \"content\": \"%s\"}, "
        "{\"role\": \"user\", \"content\": \"<image>b\"}, "
        "{\"role\": \"assistant\", \"content\": \"{\\\"label\\\": \\\"sarcastic\\\"}\"}]}\n";
    static const char *const first[] = { "x", "y", "x", "<|im_end|>", "" };
    char text[4096];
    int n = 0;
    for (int i = 0; i < 5; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, talk, first[i]);
    q3_run_write(home, "train.jsonl", text);
    q3_run_write(home, "eval.jsonl", RECORD("002.png", "a", "sarcastic"));
    q3_process p = lint((const char *const[]){ NULL });
    expect_code(&p, 3);
    contains(p.out, "  samples     5, 3 of them usable\n");
    contains(p.out, "  pictures    8, ");
    tells(&p, train, 3, "picture and question are those of");
    tells(&p, train, 4, "message 2 (assistant): the text contains the control token <|im_end|>");
    tells(&p, train, 5, "\"messages\": message 2: a turn of the assistant says nothing");
    assert_null(strstr(p.out, "train.jsonl:2:"));
    q3_process_free(&p);
}

static void write_damaged(void)
{
    q3_run_write(home, "train.jsonl",
                 RECORD("000.jpg", "a", "sarcastic")                                          // 1
                 "{\"query\": \"b\", \"target_json\": \"c\"}\n"                               // 2
                 "{\"image\": \"images/000.jpg\", \"query\": \"b\", \"target_json\": \"\"}\n" // 3
                 "{\"image\": \"images/000.jpg\", \"query\" \"b\"}\n"                         // 4
                 RECORD("none.png", "b", "sarcastic")                                         // 5
                 RECORD("cut.png", "b", "sarcastic")                                          // 6
                 RECORD("000.jpg", "<|im_end|>", "sarcastic")                                 // 7
                 RECORD("000.jpg", "a", "sarcastic")                                          // 8: as 1
                 RECORD("000.jpg", "a", "not_sarcastic")                                      // 9: as 1
                 RECORD("001.png", "a", "perhaps")                                            // 10
                 RECORD("000.jpg", "b", "not_sarcastic"));                                    // 11
    q3_run_write(home, "eval.jsonl",
                 RECORD("002.png", "a", "sarcastic")     // 1
                 "\n"                                    // 2: blank
                 RECORD("000.jpg", "b", "not_sarcastic") // 3: line 11 of train
                 RECORD("003.jpg", "a", "perhaps"));     // 4
}

static void every_bad_sample_is_told_with_its_line(void **state)
{
    (void)state;
    write_damaged();
    q3_process p = lint(NULL);
    expect_code(&p, 3);
    tells(&p, train, 2, "missing field \"image\"");
    tells(&p, train, 3, "\"target_json\" is empty");
    tells(&p, train, 4, "37: not valid JSON here");
    tells(&p, train, 5, "none.png: No such file");
    tells(&p, train, 6, "cut.png: the PNG cannot be decoded");
    tells(&p, train, 7, "control token <|im_end|>");
    tells(&p, train, 8, "train.jsonl:1");
    tells(&p, train, 9, "train.jsonl:1, the answer is another");
    tells(&p, train, 10, "none of eval.labels");
    tells(&p, eval, 3, "train.jsonl:11");
    tells(&p, eval, 4, "none of eval.labels");
    contains(p.out, "samples that cannot be read: 3; mend the lines");
    contains(p.out, "samples whose picture cannot be used: 2; ");
    contains(p.out, "samples whose text cannot be trained on: 1; ");
    contains(p.out, "samples whose target is none of eval.labels: 1; ");
    contains(p.out, "warning: samples that are there twice: 2; keep one of each\n");
    contains(p.out, "warning: evaluation samples that are in the training data too: 1; ");
    contains(p.out, "  samples     11, 5 of them usable\n");
    contains(p.out, "  samples     3, 2 of them usable\n");
    contains(p.err, "qwen3-sft: 7 of 14 samples would stop a training or be left out\n");
    assert_null(strstr(p.out, "Qwen3 collate failed"));
    q3_process_free(&p);
}

static void length_is_told_as_the_collator_deals_with_it(void **state)
{
    (void)state;
    q3_run_write(home, "train.jsonl",
                 RECORD("000.jpg", "a", "sarcastic") RECORD("001.png", "b", "sarcastic"));
    q3_run_write(home, "eval.jsonl", RECORD("002.png", "a", "sarcastic"));
    q3_process p = lint((const char *const[]){ "collator.max_length=38", NULL });
    expect_code(&p, 3);
    contains(p.out, "samples that are too long: 2; raise collator.max_length");
    tells(&p, train, 1,
          "the sample has 40 tokens (prompt 32) and collator.max_length is 38: its answer would be cut");
    q3_process_free(&p);
    p = lint((const char *const[]){ "collator.max_length=38", "collator.on_overflow=skip", NULL });
    expect_code(&p, 3);
    tells(&p, train, 1, "it is left out");
    q3_process_free(&p);
    p = lint((const char *const[]){ "collator.max_length=38", "collator.on_overflow=truncate", NULL });
    expect_code(&p, 0);
    contains(p.out, "warning: ");
    tells(&p, train, 1, "its answer is cut");
    q3_process_free(&p);
}

static void labels_are_judged_only_where_answers_are(void **state)
{
    (void)state;
    q3_run_write(home, "train.jsonl",
                 "{\"image\": \"images/000.jpg\", \"query\": \"a\", \"target_json\": \"a phone\"}\n"
                 "{\"image\": \"images/001.png\", \"query\": \"a\", \"target_json\": \"sarcastic\", "
                 "\"label\": \"not_sarcastic\"}\n");
    q3_run_write(home, "eval.jsonl", RECORD("002.png", "a", "perhaps"));
    q3_process p = lint((const char *const[]){ "eval.pre=false", "eval.post=false", NULL });
    expect_code(&p, 0);
    contains(p.out, "warning: samples whose label does not fit: 1; ");
    tells(&p, train, 2, "the label is \"not_sarcastic\", and the target means sarcastic");
    contains(p.out, "labels      sarcastic 0, not_sarcastic 0, none of these 1\n");
    q3_process_free(&p);
    p = lint((const char *const[]){ "eval.post=false", NULL });
    expect_code(&p, 3);
    q3_process_free(&p);
}

static void a_dozen_of_a_kind_are_shown_and_the_rest_counted(void **state)
{
    (void)state;
    q3_text text = { 0 };
    for (int i = 0; i < 30; i++)
        q3_text_printf(&text, "{}\n");
    assert_false(text.failed);
    q3_run_write(home, "train.jsonl", text.data);
    q3_run_write(home, "eval.jsonl", RECORD("002.png", "a", "sarcastic"));
    q3_text_free(&text);
    q3_process p = lint(NULL);
    expect_code(&p, 3);
    contains(p.out, "train.jsonl:12: ");
    assert_null(strstr(p.out, "train.jsonl:13: "));
    contains(p.out, "  and 18 more; --all shows them\n");
    q3_process_free(&p);
    p = lint((const char *const[]){ "--all", NULL });
    contains(p.out, "train.jsonl:30: ");
    assert_null(strstr(p.out, "more;"));
    q3_process_free(&p);
}

static void json_has_all_findings_and_the_summary(void **state)
{
    (void)state;
    write_damaged();
    q3_process p = lint((const char *const[]){ "--json", NULL });
    expect_code(&p, 3);
    cJSON *root = cJSON_Parse(p.out);
    assert_non_null(root);
    assert_int_equal(cJSON_GetObjectItem(root, "unusable")->valueint, 7);
    const cJSON *findings = cJSON_GetObjectItem(root, "findings"), *sets = cJSON_GetObjectItem(root, "sets");
    assert_int_equal(cJSON_GetArraySize(findings), 11);
    const cJSON *last = cJSON_GetArrayItem(findings, 10), *first = cJSON_GetArrayItem(sets, 0);
    assert_string_equal(cJSON_GetObjectItem(last, "kind")->valuestring, "leak");
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(last, "warning")));
    assert_string_equal(cJSON_GetObjectItem(last, "set")->valuestring, "eval");
    assert_int_equal(cJSON_GetObjectItem(last, "sample")->valueint, 2); // in line 3, behind a blank one
    assert_int_equal(cJSON_GetObjectItem(first, "samples")->valueint, 11);
    assert_int_equal(cJSON_GetObjectItem(cJSON_GetObjectItem(first, "tokens"), "max")->valueint, 41);
    cJSON_Delete(root);
    q3_process_free(&p);
}

static void a_slice_of_the_training_data_is_no_leak(void **state)
{
    (void)state;
    q3_run_write(home, "train.jsonl", RECORD("000.jpg", "a", "sarcastic") RECORD("001.png", "b", "perhaps"));
    q3_process p = lint((const char *const[]){ "~data.eval", NULL });
    expect_code(&p, 3); // the slice is judged
    contains(p.err, "train_slice");
    assert_null(strstr(p.out, "warning: "));
    q3_process_free(&p);
    p = lint((const char *const[]){ "~data.eval", "data.max_eval_samples=1", NULL });
    expect_code(&p, 0);
    q3_process_free(&p);
}

static void what_cannot_be_looked_at_has_the_exit_code_of_training(void **state)
{
    (void)state;
    static const struct {
        const char *setting;
        int code;
    } cases[] = {
        { "data.eval=tests/golden/none.jsonl", 3 },
        { "model.path=tests/golden/none", 4 },
        { "model.path=tests/golden/formats/reranker-model", 4 },
        { "lora.r=0", 2 },
        { "lora.init_adapter=./none", 2 },
    };
    q3_run_write(home, "train.jsonl", RECORD("000.jpg", "a", "sarcastic"));
    q3_run_write(home, "eval.jsonl", RECORD("002.png", "a", "sarcastic"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        q3_process p = lint((const char *const[]){ cases[i].setting, NULL });
        expect_code(&p, cases[i].code);
        q3_process_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_golden_data_are_clean_and_summed_up),
        cmocka_unit_test(conversations_are_summed_up_and_compared_as_a_whole),
        cmocka_unit_test(every_bad_sample_is_told_with_its_line),
        cmocka_unit_test(length_is_told_as_the_collator_deals_with_it),
        cmocka_unit_test(labels_are_judged_only_where_answers_are),
        cmocka_unit_test(a_dozen_of_a_kind_are_shown_and_the_rest_counted),
        cmocka_unit_test(json_has_all_findings_and_the_summary),
        cmocka_unit_test(a_slice_of_the_training_data_is_no_leak),
        cmocka_unit_test(what_cannot_be_looked_at_has_the_exit_code_of_training),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
