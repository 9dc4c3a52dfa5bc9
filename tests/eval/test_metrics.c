#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "eval/metrics.h"

static q3_arena arena;
static q3_labels two, three;

static int prepare(void **state)
{
    (void)state;
    static const char *const words[] = { "sarcastic", "non_sarcastic", "unknown" };
    return q3_arena_create(&arena, "test", 1 << 22) != Q3_OK ||
           q3_labels_create(&two, &arena, words, 2) != Q3_OK ||
           q3_labels_create(&three, &arena, words, 3) != Q3_OK;
}

static int finish(void **state)
{
    (void)state;
    q3_arena_destroy(&arena);
    return 0;
}

static q3_outcome outcome(const q3_labels *labels, int gold, const char *answer)
{
    q3_outcome o = { .gold = gold, .forced = -1 };
    assert_int_equal(q3_answer_parse(&o.answer, labels, answer, strlen(answer)), Q3_OK);
    return o;
}

static int close_to(double a, double b)
{
    return fabs(a - b) < 1e-12;
}

/* Ten samples counted by hand: gold 6 sarcastic and 4 not; sarcastic is predicted 5 times, rightly 4 times;
 * not sarcastic 3 times, rightly 2 times; one unknown, one failure. */
static void ten(q3_outcome *o, const q3_labels *labels)
{
    static const char *const answers[] = {
        "sarcastic", "sarcastic", "sarcastic",     "{\"label\": \"sarcastic\"}",
        "no",        "what?",     "not sarcastic", "{'label': 0}",
        "yes",       "unknown"
    };
    for (int i = 0; i < 10; i++)
        o[i] = outcome(labels, i >= 6, answers[i]);
}

static void scores_are_those_counted_by_hand(void **state)
{
    (void)state;
    q3_outcome o[10];
    q3_metrics m;
    ten(o, &two);
    assert_int_equal(q3_metrics_compute(&m, &arena, &two, o, 10, 42), Q3_OK);
    assert_true(close_to(m.accuracy, 0.6));
    assert_true(close_to(m.label[0].precision, 4.0 / 5));
    assert_true(close_to(m.label[0].recall, 4.0 / 6));
    assert_true(close_to(m.label[0].f1, 8.0 / 11));
    assert_true(close_to(m.label[1].precision, 2.0 / 3));
    assert_true(close_to(m.label[1].recall, 2.0 / 4));
    assert_true(close_to(m.label[1].f1, 4.0 / 7));
    assert_true(close_to(m.macro_f1, (8.0 / 11 + 4.0 / 7) / 2));
    assert_true(close_to(m.macro_f1_present, m.macro_f1));
    assert_int_equal(m.sarcastic, 0);
    assert_int_equal(m.failed, 1);
    assert_int_equal(m.n_other, 1);
    static const int64_t confusion[] = { 4, 1, 0, 1, 1, 2, 1, 0 };
    assert_memory_equal(m.confusion, confusion, sizeof confusion);
    static const int64_t stages[] = { 1, 0, 1, 7, 1 };
    assert_memory_equal(m.stages, stages, sizeof stages);
    assert_false(m.has_forced);
}

/* The third label never occurs in the gold labels: it counts as 0 in one mean and not at all in the other. */
static void an_absent_class_lowers_one_macro_only(void **state)
{
    (void)state;
    q3_outcome o[10];
    q3_metrics m;
    ten(o, &three);
    assert_int_equal(q3_metrics_compute(&m, &arena, &three, o, 10, 42), Q3_OK);
    assert_true(close_to(m.macro_f1, (8.0 / 11 + 4.0 / 7) / 3));
    assert_true(close_to(m.macro_f1_present, (8.0 / 11 + 4.0 / 7) / 2));
    assert_true(m.label[2].recall == 0 && m.label[2].precision == 0 && m.label[2].f1 == 0);
    assert_int_equal(m.label[2].predicted, 1);
}

/* The normal approximation of a binomial share: 0.8 +- 1.96 * 0.02. */
static void the_interval_is_that_of_a_binomial_share(void **state)
{
    (void)state;
    static q3_outcome o[400];
    for (int i = 0; i < 400; i++)
        o[i] = outcome(&two, 0, i % 5 ? "sarcastic" : "not sarcastic");
    q3_metrics m, again, other;
    assert_int_equal(q3_metrics_compute(&m, &arena, &two, o, 400, 42), Q3_OK);
    assert_true(fabs(m.interval[0] - 0.7608) < 0.008);
    assert_true(fabs(m.interval[1] - 0.8392) < 0.008);
    assert_int_equal(q3_metrics_compute(&again, &arena, &two, o, 400, 42), Q3_OK);
    assert_memory_equal(m.interval, again.interval, sizeof m.interval);
    for (int i = 0; i < 400; i++)
        o[i] = outcome(&two, 0, "sarcastic");
    assert_int_equal(q3_metrics_compute(&other, &arena, &two, o, 400, 42), Q3_OK);
    assert_true(other.interval[0] == 1 && other.interval[1] == 1);
}

static void forced_scores_give_accuracy_and_auroc(void **state)
{
    (void)state;
    static const double scores[] = { 0.9, 0.8, 0.4, 0.4, 0.3, 0.1 };
    static const int gold[] = { 0, 0, 1, 0, 0, 1 };
    q3_outcome o[6];
    for (int i = 0; i < 6; i++)
        o[i] = (q3_outcome){ .gold = gold[i],
                             .answer = { Q3_ANSWER_FAILED, -1, NULL },
                             .forced = scores[i] >= 0.5 ? 0 : 1,
                             .forced_score = scores[i] };
    q3_metrics m;
    assert_int_equal(q3_metrics_compute(&m, &arena, &two, o, 6, 1), Q3_OK);
    assert_true(m.has_forced && m.has_auroc);
    assert_true(close_to(m.forced_accuracy, 4.0 / 6));
    assert_true(close_to(m.forced_auroc, 6.5 / 8)); // pairs: 2+2, 1.5 (a tie), 1 of 8
    for (int i = 0; i < 6; i++)
        o[i].gold = 0;
    assert_int_equal(q3_metrics_compute(&m, &arena, &two, o, 6, 1), Q3_OK);
    assert_true(m.has_forced && !m.has_auroc); // undefined with one class
}

static void sources_are_counted_apart(void **state)
{
    (void)state;
    static const char *const names[] = { "a", "b", "c", "d", "e", "f", "g", "h", "i", "j" };
    q3_outcome o[10];
    ten(o, &two);
    for (int i = 0; i < 10; i++)
        o[i].source = names[i];
    o[3].source = "a";
    o[9].source = NULL;
    q3_metrics m;
    assert_int_equal(q3_metrics_compute(&m, &arena, &two, o, 10, 1), Q3_OK);
    assert_int_equal(m.n_sources, 8);
    assert_string_equal(m.sources[0].name, "a");
    assert_int_equal(m.sources[0].n, 2);
    assert_int_equal(m.sources[0].correct, 2);
    assert_string_equal(m.sources[7].name, "i");
    assert_int_equal(m.sources[7].correct, 0);
}

static double value(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    assert_true(cJSON_IsNumber(item));
    return item->valuedouble;
}

static void the_report_is_json_with_the_agreed_keys(void **state)
{
    (void)state;
    q3_outcome o[10];
    q3_metrics m;
    ten(o, &two);
    for (int i = 0; i < 10; i++) {
        o[i].forced = i % 2;
        o[i].forced_score = i % 2 ? 0.2 : 0.8;
        o[i].source = i < 5 ? "say \"hi\"" : "b";
    }
    assert_int_equal(q3_metrics_compute(&m, &arena, &two, o, 10, 42), Q3_OK);
    q3_text text = { 0 };
    q3_metrics_write(&text, &m, 0);
    assert_false(text.failed);
    q3_json doc;
    assert_int_equal(q3_json_parse(&doc, text.data, text.size, "metrics", 1), Q3_OK);
    assert_true(value(doc.root, "accuracy") == m.accuracy);
    assert_true(value(doc.root, "macro_f1") == m.macro_f1);
    assert_true(value(doc.root, "macro_f1_present") == m.macro_f1_present);
    assert_true(value(doc.root, "precision_sarcastic") == m.label[0].precision);
    assert_true(value(doc.root, "recall_not_sarcastic") == m.label[1].recall);
    assert_true(value(doc.root, "f1_not_sarcastic") == m.label[1].f1);
    assert_true(value(doc.root, "support_sarcastic") == 6);
    assert_true(value(doc.root, "binary_f1") == m.label[0].f1);
    assert_true(value(doc.root, "num_eval_samples") == 10);
    assert_true(value(doc.root, "num_failed_preds") == 1);
    assert_true(value(doc.root, "forced_accuracy") == m.forced_accuracy);
    assert_true(value(doc.root, "forced_auroc") == m.forced_auroc);
    assert_true(value(cJSON_GetObjectItem(doc.root, "pred_dist"), "sarcastic") == 5);
    assert_true(value(cJSON_GetObjectItem(doc.root, "gold_dist"), "not_sarcastic") == 4);
    assert_true(value(cJSON_GetObjectItem(doc.root, "parse_stages"), "repaired") == 1);
    const cJSON *matrix = cJSON_GetObjectItem(doc.root, "confusion_matrix");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(matrix, "columns")), 4);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(matrix, "gold_sarcastic")), 4);
    assert_true(value(cJSON_GetObjectItem(cJSON_GetObjectItem(doc.root, "by_source"), "say \"hi\""), "n") ==
                5);
    q3_json_close(&doc);
    q3_text_free(&text);
}

static void no_samples_are_an_error(void **state)
{
    (void)state;
    q3_metrics m;
    assert_int_equal(q3_metrics_compute(&m, &arena, &two, NULL, 0, 42), Q3_ERR_DATA);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    q3_outcome o[10];
    ten(o, &two);
    o[0].source = "x";
    for (int64_t n = 1;; n++) {
        q3_metrics m;
        q3_heap_fail_at(n);
        q3_status st = q3_metrics_compute(&m, &arena, &two, o, 10, 42);
        q3_heap_fail_at(0);
        if (st == Q3_OK) {
            assert_true(n > 3);
            break;
        }
        assert_int_equal(st, Q3_ERR_MEMORY);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_those_counted_by_hand),
        cmocka_unit_test(an_absent_class_lowers_one_macro_only),
        cmocka_unit_test(the_interval_is_that_of_a_binomial_share),
        cmocka_unit_test(forced_scores_give_accuracy_and_auroc),
        cmocka_unit_test(sources_are_counted_apart),
        cmocka_unit_test(the_report_is_json_with_the_agreed_keys),
        cmocka_unit_test(no_samples_are_an_error),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, prepare, finish);
}
