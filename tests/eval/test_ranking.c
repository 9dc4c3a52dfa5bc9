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
#include "eval/ranking.h"

static char path[512];

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(path, sizeof path, "%s/qrels.jsonl", base ? base : "/tmp/q3-test");
    return q3_dir_create(base ? base : "/tmp/q3-test") != Q3_OK;
}

static double ndcg(const int64_t *order, const double *relevance, int64_t n, int64_t k)
{
    double out;
    assert_int_equal(q3_ndcg(&out, order, relevance, n, k), Q3_OK);
    return out;
}

/* The example of trec_eval's linear gain: 3 2 3 0 1 2 in this order; by hand 6.861127 / 7.140995. */
static void ndcg_is_that_of_the_textbook(void **state)
{
    (void)state;
    const double relevance[] = { 3, 2, 3, 0, 1, 2 };
    const int64_t order[] = { 0, 1, 2, 3, 4, 5 }, best[] = { 2, 0, 1, 5, 4, 3 };
    assert_true(fabs(ndcg(order, relevance, 6, 10) - 0.960808) < 1e-6);
    assert_true(ndcg(best, relevance, 6, 10) == 1);
}

static void ndcg_looks_at_the_first_k_alone(void **state)
{
    (void)state;
    const double relevance[] = { 0, 0, 1 };
    const int64_t order[] = { 0, 1, 2 };
    assert_true(ndcg(order, relevance, 3, 2) == 0);
    assert_true(fabs(ndcg(order, relevance, 3, 3) - 0.5) < 1e-15); // 1 / log2(4)
}

static void nothing_relevant_counts_zero(void **state)
{
    (void)state;
    const double relevance[] = { 0, 0 };
    const int64_t order[] = { 1, 0 };
    assert_true(ndcg(order, relevance, 2, 10) == 0);
    assert_true(q3_reciprocal_rank(order, relevance, 2) == 0);
}

static void the_reciprocal_rank_is_of_the_first_relevant_one(void **state)
{
    (void)state;
    const double relevance[] = { 0, 1, 2 };
    assert_true(q3_reciprocal_rank((const int64_t[]){ 0, 2, 1 }, relevance, 3) == 0.5);
    assert_true(q3_reciprocal_rank((const int64_t[]){ 1, 0, 2 }, relevance, 3) == 1);
}

/* The text of a document is its score. */
static q3_status score_by_text(double *logits, void *arg, const q3_rerank_job *job)
{
    int *calls = arg;
    ++*calls;
    for (int64_t i = 0; i < job->n; i++)
        logits[i] = strtod(job->documents[i].text, NULL);
    return strcmp(job->query.text, "fail") == 0 ? q3_fail(Q3_ERR_FAIL, "as asked") : Q3_OK;
}

static q3_status run(q3_ranking *out, int *calls, const char *text)
{
    *calls = 0;
    assert_int_equal(q3_file_write(path, text, strlen(text)), Q3_OK);
    return q3_ranking_run(out, path, NULL, score_by_text, calls);
}

static void a_file_of_queries_gives_means(void **state)
{
    (void)state;
    q3_ranking r;
    q3_text text = { 0 };
    int calls;
    assert_int_equal(
        run(&r, &calls,
            "{\"query\": \"a\", \"documents\": [{\"text\": \"1\", \"relevance\": 0}, {\"text\": \"2\", "
            "\"relevance\": 1}]}\n\n"
            "{\"query\": \"b\", \"documents\": [{\"text\": \"1\", \"relevance\": 1}, {\"text\": \"2\", "
            "\"relevance\": 0}, {\"text\": \"3\", \"relevance\": 0}]}"),
        Q3_OK);
    assert_int_equal(calls, 2);
    assert_true(r.queries == 2 && r.documents == 5);
    assert_true(fabs(r.ndcg - 0.75) < 1e-15 && fabs(r.mrr - (1 + 1.0 / 3) / 2) < 1e-15);
    q3_ranking_write(&text, &r);
    assert_string_equal(text.data,
                        "{\"queries\": 2, \"documents\": 5, \"ndcg@10\": 0.75, \"mrr\": 0.666667}\n");
    q3_text_free(&text);
}

static void bad_lines_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sentence;
        q3_status status;
    } cases[] = {
        { "\n{", "qrels.jsonl:2:", Q3_ERR_DATA },
        { "{\"query\": \"a\"}", "qrels.jsonl:1: documents is missing", Q3_ERR_DATA },
        { "{\"documents\": []}", "query is missing", Q3_ERR_DATA },
        { "{\"query\": \"a\", \"documents\": []}", "list of objects", Q3_ERR_DATA },
        { "{\"query\": \"a\", \"documents\": \"b\"}", "list of objects", Q3_ERR_DATA },
        { "{\"query\": \"a\", \"documents\": [\"b\"]}", "documents[0] needs a relevance", Q3_ERR_DATA },
        { "{\"query\": \"a\", \"documents\": [{\"text\": \"b\", \"relevance\": -1}]}", "documents[0] needs",
          Q3_ERR_DATA },
        { "{\"query\": \"a\", \"documents\": [{\"relevance\": 1}]}", "neither text nor image", Q3_ERR_DATA },
        { "{\"query\": \"fail\", \"documents\": [{\"text\": \"b\", \"relevance\": 1}]}",
          "qrels.jsonl:1: as asked", Q3_ERR_FAIL },
        { "\n \n", "has no query", Q3_ERR_DATA },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        q3_ranking r;
        int calls;
        assert_int_equal(run(&r, &calls, cases[i].text), cases[i].status);
        if (!strstr(q3_error(), cases[i].sentence))
            fail_msg("\"%s\" lacks \"%s\"", q3_error(), cases[i].sentence);
    }
    q3_ranking r;
    assert_int_equal(q3_ranking_run(&r, "tests/golden/nowhere.jsonl", NULL, score_by_text, NULL),
                     Q3_ERR_DATA);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ndcg_is_that_of_the_textbook),
        cmocka_unit_test(ndcg_looks_at_the_first_k_alone),
        cmocka_unit_test(nothing_relevant_counts_zero),
        cmocka_unit_test(the_reciprocal_rank_is_of_the_first_relevant_one),
        cmocka_unit_test(a_file_of_queries_gives_means),
        cmocka_unit_test(bad_lines_are_named),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
