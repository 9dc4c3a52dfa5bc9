#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "eval/answers.h"

static q3_arena arena;
static q3_labels two, three, moods;

static int prepare(void **state)
{
    (void)state;
    static const char *const words[] = { "sarcastic", "non_sarcastic", "unknown" };
    static const char *const mood_words[] = { "Happy", "very happy", "sad", "B" };
    return q3_arena_create(&arena, "test", 1 << 20) != Q3_OK ||
           q3_labels_create(&two, &arena, words, 2) != Q3_OK ||
           q3_labels_create(&three, &arena, words, 3) != Q3_OK ||
           q3_labels_create(&moods, &arena, mood_words, 4) != Q3_OK;
}

static int finish(void **state)
{
    (void)state;
    q3_arena_destroy(&arena);
    return 0;
}

typedef struct sample {
    const char *text;
    q3_answer_stage stage;
    const char *word; /* NULL: failed */
} sample;

static void parsed(const q3_labels *labels, const sample *samples, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        q3_answer a;
        assert_int_equal(q3_answer_parse(&a, labels, samples[i].text, strlen(samples[i].text)), Q3_OK);
        const char *word = a.word ? a.word : "(none)", *want = samples[i].word ? samples[i].word : "(none)";
        if (a.stage != samples[i].stage || strcmp(word, want) != 0)
            fail_msg("%s: %s at stage %s", samples[i].text, word, q3_answer_stage_names[a.stage]);
        assert_int_equal(a.label >= 0,
                         a.word && a.label >= 0 && strcmp(labels->normal[a.label], a.word) == 0);
    }
}
#define PARSED(labels, samples) parsed(labels, samples, sizeof(samples) / sizeof *(samples))

static void a_json_object_is_read_strictly(void **state)
{
    (void)state;
    static const sample samples[] = {
        { "{\"label\": \"sarcastic\"}", Q3_ANSWER_STRICT, "sarcastic" },
        { " \n{\"label\": \"not_sarcastic\"}\n ", Q3_ANSWER_STRICT, "not_sarcastic" },
        { "{\"label\": \"non_sarcastic\"}", Q3_ANSWER_STRICT, "not_sarcastic" },
        { "{\"label\": \"Non-Sarcastic\"}", Q3_ANSWER_STRICT, "not_sarcastic" },
        { "{\"label\": \"nonsarcastic\"}", Q3_ANSWER_STRICT, "not_sarcastic" },
        { "{\"label\": \"Not sarcastic.\"}", Q3_ANSWER_STRICT, "not_sarcastic" },
        { "{\"label\": \"unknown\"}", Q3_ANSWER_STRICT, "unknown" },
        { "{\"label\": true}", Q3_ANSWER_STRICT, "sarcastic" },
        { "{\"is_sarcastic\": false}", Q3_ANSWER_STRICT, "not_sarcastic" },
        { "{\"sarcastic\": \"no\"}", Q3_ANSWER_STRICT, "not_sarcastic" },
        { "{\"Sarcasm\": 1}", Q3_ANSWER_STRICT, "sarcastic" },
        { "{\"label\": 0, \"sarcastic\": true}", Q3_ANSWER_STRICT, "not_sarcastic" },
        { "{\"label\": null, \"sarcastic\": true}", Q3_ANSWER_STRICT, "sarcastic" },
        { "{\"label\": 2}", Q3_ANSWER_STRICT, "unknown" },
        { "{\"labels\": [\"sarcastic\"]}", Q3_ANSWER_STRICT, "sarcastic" },
        { "```json\n{\"label\": \"sarcastic\"}\n```", Q3_ANSWER_STRICT, "sarcastic" },
        { "```{\"label\": \"sarcastic\"}```", Q3_ANSWER_STRICT, "sarcastic" },
        { "<think>It is {\"label\": \"sarcastic\"}?</think>\n\n{\"label\": 0}", Q3_ANSWER_STRICT,
          "not_sarcastic" },
        { "{\"need_explanation\": true, \"visual_facts\": [{\"id\": 1, \"fact\": \"a } brace\"}], \"label\": "
          "\"non_sarcastic\", \"explanation\": \"sarcastic\"}",
          Q3_ANSWER_STRICT, "not_sarcastic" },
    };
    PARSED(&two, samples);
}

static void an_object_is_found_in_running_text(void **state)
{
    (void)state;
    static const sample samples[] = {
        { "The answer is {\"label\": \"sarcastic\"}, I think.", Q3_ANSWER_BALANCED, "sarcastic" },
        { "{\"label\": \"sarcastic\"} {\"label\": \"not_sarcastic\"}", Q3_ANSWER_BALANCED, "sarcastic" },
        { "{well} {\"x\": 1} {\"label\": \"not_sarcastic\"}", Q3_ANSWER_BALANCED, "not_sarcastic" },
        { "x {\"a\": \"}\\\"{\", \"label\": \"not sarcastic\"} y", Q3_ANSWER_BALANCED, "not_sarcastic" },
        { "[{\"label\": \"sarcastic\"}]", Q3_ANSWER_BALANCED, "sarcastic" },
    };
    PARSED(&two, samples);
}

static void common_faults_are_repaired(void **state)
{
    (void)state;
    static const sample samples[] = {
        { "{\"label\": \"sarcastic\"", Q3_ANSWER_REPAIRED, "sarcastic" },
        { "{\"label\": \"not_sarcastic", Q3_ANSWER_REPAIRED, "not_sarcastic" },
        { "{\"label\": \"not_sarcastic\", \"explanation\": \"It says \\", Q3_ANSWER_REPAIRED,
          "not_sarcastic" },
        { "{\"label\": \"not_sarcastic\", \"expl", Q3_ANSWER_REPAIRED, "not_sarcastic" },
        { "{\"label\": \"sarcastic\", \"facts\": [{\"id\": 1, \"fact\":", Q3_ANSWER_REPAIRED, "sarcastic" },
        { "{\"label\": \"sarcastic\", \"n\": tr", Q3_ANSWER_REPAIRED, "sarcastic" },
        { "{\"label\": \"sarcastic\",}", Q3_ANSWER_REPAIRED, "sarcastic" },
        { "{\"x\": [1, 2, ], \"label\": \"sarcastic\" , }", Q3_ANSWER_REPAIRED, "sarcastic" },
        { "{'label': 'non_sarcastic'}", Q3_ANSWER_REPAIRED, "not_sarcastic" },
        { "{'explanation': 'so \"nice\"', 'label': 'sarcastic'}", Q3_ANSWER_REPAIRED, "sarcastic" },
        { "{\"sarcastic\": True}", Q3_ANSWER_REPAIRED, "sarcastic" },
        { "Sure: {\"is_sarcastic\": False, \"why\": None", Q3_ANSWER_REPAIRED, "not_sarcastic" },
    };
    PARSED(&two, samples);
}

static void plain_text_is_searched_for_whole_words(void **state)
{
    (void)state;
    static const sample samples[] = {
        { "sarcastic", Q3_ANSWER_TEXT, "sarcastic" },
        { "Not sarcastic!", Q3_ANSWER_TEXT, "not_sarcastic" },
        { "This post is non-sarcastic.", Q3_ANSWER_TEXT, "not_sarcastic" },
        { "It isn't sarcastic at all", Q3_ANSWER_TEXT, "not_sarcastic" },
        { "It isn\xE2\x80\x99t sarcastic", Q3_ANSWER_TEXT, "not_sarcastic" },
        { "No, this is clearly sarcastic.", Q3_ANSWER_TEXT, "sarcastic" },
        { "Yes", Q3_ANSWER_TEXT, "sarcastic" },
        { "No. Nothing contradicts.", Q3_ANSWER_TEXT, "not_sarcastic" },
        { "0", Q3_ANSWER_TEXT, "not_sarcastic" },
        { "Answer: 1.", Q3_ANSWER_TEXT, "sarcastic" },
        { "1. The picture shows a dog", Q3_ANSWER_FAILED, NULL },
        { "true", Q3_ANSWER_TEXT, "sarcastic" },
        { "I cannot determine whether it is sarcastic", Q3_ANSWER_TEXT, "unknown" },
        { "sarcastically nosy", Q3_ANSWER_FAILED, NULL },
        { "{\"\":\":\":\": \"sarcastic", Q3_ANSWER_TEXT, "sarcastic" },
        { "{\"label\": \"it is not sarcastic, because\"}", Q3_ANSWER_TEXT, "not_sarcastic" },
        { "sarcastic\xEF\xBF\xBD\xEF\xBF\xBD", Q3_ANSWER_TEXT, "sarcastic" },
    };
    PARSED(&two, samples);
}

static void nothing_is_guessed(void **state)
{
    (void)state;
    static const sample samples[] = {
        { "", Q3_ANSWER_FAILED, NULL },
        { "   \n", Q3_ANSWER_FAILED, NULL },
        { "I like dogs", Q3_ANSWER_FAILED, NULL },
        { "{\"label\": \"ironic\", \"sarcastic\": true}", Q3_ANSWER_FAILED, NULL },
        { "{\"label\": -1}", Q3_ANSWER_FAILED, NULL },
        { "{\"label\": 0.1}", Q3_ANSWER_FAILED, NULL },
        { "{\"label\": {\"a\": 1}}", Q3_ANSWER_FAILED, NULL },
        { "{\"labels\": [\"sarcastic\", \"unknown\"]}", Q3_ANSWER_FAILED, NULL },
        { "{\"need_explanation\": true, \"visual_facts\": [", Q3_ANSWER_FAILED, NULL },
        { "<think>It could be sarcastic", Q3_ANSWER_FAILED, NULL },
        { "{{{{{{{{{{{{{{{{{{{{{{{{{{", Q3_ANSWER_FAILED, NULL },
        { "```", Q3_ANSWER_FAILED, NULL },
    };
    PARSED(&two, samples);
}

static void a_word_outside_the_labels_is_kept_and_no_label(void **state)
{
    (void)state;
    q3_answer a;
    const char *text = "{\"label\": \"unknown\"}";
    assert_int_equal(q3_answer_parse(&a, &two, text, strlen(text)), Q3_OK);
    assert_int_equal(a.label, -1);
    assert_string_equal(a.word, "unknown");
    assert_int_equal(q3_answer_parse(&a, &three, text, strlen(text)), Q3_OK);
    assert_int_equal(a.label, 2);
}

static void other_tasks_have_their_own_words(void **state)
{
    (void)state;
    static const sample samples[] = {
        { "{\"label\": \"happy\"}", Q3_ANSWER_STRICT, "happy" },
        { "{\"label\": \"Very  Happy\"}", Q3_ANSWER_STRICT, "very_happy" },
        { "She is very happy today", Q3_ANSWER_TEXT, "very_happy" },
        { "neither happy nor glad", Q3_ANSWER_TEXT, "happy" },
        { "Answer: B", Q3_ANSWER_TEXT, "b" },
        { "b is wrong", Q3_ANSWER_FAILED, NULL },
        { "yes", Q3_ANSWER_FAILED, NULL },
        { "{\"label\": true}", Q3_ANSWER_FAILED, NULL },
        { "sarcastic", Q3_ANSWER_FAILED, NULL },
        { "unhappy", Q3_ANSWER_FAILED, NULL },
    };
    PARSED(&moods, samples);
}

static void any_bytes_are_survived(void **state)
{
    (void)state;
    static const char bytes[] = "{\"label\0\": \xff\xfe \"sarcastic\", 'a\\";
    for (size_t n = 0; n <= sizeof bytes; n++) {
        q3_answer a;
        char *copy = q3_malloc(n); // the sanitizer sees a read behind the end
        memcpy(copy, bytes, n);
        assert_int_equal(q3_answer_parse(&a, &two, copy, n), Q3_OK);
        q3_free(copy);
    }
}

static void gold_labels_come_in_all_spellings_or_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int label;
    } cases[] = { { "sarcastic", 0 }, { "non_sarcastic", 1 }, { "not sarcastic", 1 }, { "0", 1 },
                  { "1", 0 },         { "True", 0 },          { "NONSARCASTIC", 1 } };
    int label;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(q3_label_gold(&label, &two, cases[i].text), Q3_OK);
        assert_int_equal(label, cases[i].label);
    }
    assert_int_equal(q3_label_gold(&label, &two, "unknown"), Q3_ERR_DATA);
    assert_string_equal(q3_error(),
                        "the label \"unknown\" is none of eval.labels (sarcastic, non_sarcastic)");
    assert_int_equal(q3_label_gold(&label, &two, ""), Q3_ERR_DATA);
    assert_int_equal(q3_label_gold(&label, &two, "is it sarcastic?"), Q3_ERR_DATA);
    assert_int_equal(q3_label_gold(&label, &moods, "HAPPY"), Q3_OK);
}

static void label_lists_are_checked(void **state)
{
    (void)state;
    static const char *const same[] = { "not_sarcastic", "non-sarcastic" };
    static const char *const empty[] = { "a", "--" };
    q3_labels labels;
    assert_int_equal(q3_labels_create(&labels, &arena, same, 2), Q3_ERR_USAGE);
    assert_string_equal(q3_error(),
                        "eval.labels: \"not_sarcastic\" and \"non-sarcastic\" are spellings of one label");
    assert_int_equal(q3_labels_create(&labels, &arena, empty, 2), Q3_ERR_USAGE);
    assert_int_equal(q3_labels_create(&labels, &arena, same, 0), Q3_ERR_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_json_object_is_read_strictly),
        cmocka_unit_test(an_object_is_found_in_running_text),
        cmocka_unit_test(common_faults_are_repaired),
        cmocka_unit_test(plain_text_is_searched_for_whole_words),
        cmocka_unit_test(nothing_is_guessed),
        cmocka_unit_test(a_word_outside_the_labels_is_kept_and_no_label),
        cmocka_unit_test(other_tasks_have_their_own_words),
        cmocka_unit_test(any_bytes_are_survived),
        cmocka_unit_test(gold_labels_come_in_all_spellings_or_are_refused),
        cmocka_unit_test(label_lists_are_checked),
    };
    return cmocka_run_group_tests(tests, prepare, finish);
}
