#include <ctype.h>
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
#include "core/rng.h"
#include "eval/report.h"
#include "eval/report_chart.h"
#include "eval/report_text.h"

enum { POINTS = 300, EVALS = 6 };

static q3_arena arena;
static q3_labels labels;
static q3_metrics before, after;
static q3_report_point train[POINTS], eval[EVALS], rate[POINTS];
static char *picture;
static size_t picture_bytes;

static void judge(q3_metrics *m, double skill)
{
    enum { N = 240 };
    static q3_outcome o[N];
    static const char *const answers[] = { "{\"label\": \"sarcastic\"}", "{\"label\": \"not_sarcastic\"}" };
    const q3_random r = { .seed = 7, .purpose = Q3_RANDOM_TEST, .step = (uint32_t)(100 * skill) };
    for (int i = 0; i < N; i++) {
        int gold = i % 2, said = (double)q3_random_uniform(&r, (uint64_t)i) < skill ? gold : 1 - gold;
        const char *text = i % 40 == 39 ? "nice picture" : answers[said];
        o[i] = (q3_outcome){ .gold = gold,
                             .forced = said,
                             .forced_score = said ? 0.2 : 0.8,
                             .source = i % 3 ? "a<b" : "held out" };
        assert_int_equal(q3_answer_parse(&o[i].answer, &labels, text, strlen(text)), Q3_OK);
    }
    assert_int_equal(q3_metrics_compute(m, &arena, &labels, o, N, 1), Q3_OK);
}

static int prepare(void **state)
{
    (void)state;
    static const char *const words[] = { "sarcastic", "not_sarcastic" };
    assert_int_equal(q3_arena_create(&arena, "test", 1 << 22), Q3_OK);
    assert_int_equal(q3_labels_create(&labels, &arena, words, 2), Q3_OK);
    judge(&before, 0.5);
    judge(&after, 0.94);
    const q3_random r = { .seed = 8, .purpose = Q3_RANDOM_TEST };
    for (int i = 0; i < POINTS; i++) {
        double base = 0.082 + 2.4 * exp(-i / 6.0) - 0.06 / (1 + exp(-(i - 200) / 12.0));
        train[i] = (q3_report_point){ i + 1, base * exp(0.12 * q3_random_normal(&r, (uint64_t)i)) };
        rate[i] = (q3_report_point){ i + 1, i < 20 ? 1e-5 * i : 1e-4 * (1 + cos(3.14159 * (i - 20) / 280)) };
    }
    for (int i = 0; i < EVALS; i++)
        eval[i] = (q3_report_point){ 50 * (i + 1), train[50 * i + 49].value * 1.05 };
    return q3_file_read(&picture, &picture_bytes, "tests/golden/formats/images/rgb-96x64.png", 1 << 20) !=
           Q3_OK;
}

static int finish(void **state)
{
    (void)state;
    q3_free(picture);
    q3_arena_destroy(&arena);
    return 0;
}

static const q3_report_point accuracy[] = { { 0, 0 }, { 50, 0.5 }, { 100, 1 } },
                             macro_f1[] = { { 0, 0 }, { 50, 0.25 }, { 100, 1 } };

static const char nasty[] = "<script>alert('1')</script> & \"quoted\"";

static q3_report_data whole(void)
{
    static q3_report_example examples[3];
    examples[0] = (q3_report_example){ picture,
                                       picture_bytes,
                                       "What a lovely day. #blessed\nIs this post sarcastic? Answer in JSON.",
                                       "sarcastic",
                                       "{\"label\": \"not_sarcastic\"}",
                                       "{\"label\": \"sarcastic\"}",
                                       false,
                                       true };
    examples[1] = (q3_report_example){ picture,         picture_bytes, nasty,
                                       "not_sarcastic", nasty,         "{\"label\": \"not_sarcastic\"}",
                                       false,           true };
    examples[2] = (q3_report_example){
        NULL, 0, "Wow, this is a disaster!", "not_sarcastic", NULL, "{\"label\": \"sarcastic\"}", false, false
    };
    return (q3_report_data){
        .title = "Sarcasm in pictures and text <demo>",
        .subtitle = "tiny-qwen3-vl, NF4, CPU (avx2, 2 threads), 21 November 2026",
        .note = "A post is sarcastic when its text and its picture contradict each other.",
        .train_loss = { train, POINTS },
        .eval_loss = { eval, EVALS },
        .rate = { rate, POINTS },
        .accuracy = { accuracy, 3 },
        .macro_f1 = { macro_f1, 3 },
        .before = &before,
        .after = &after,
        .trainable = 294912,
        .total = 1474688,
        .steps = POINTS,
        .seconds = 214.4,
        .tokens_per_second = 15872.4,
        .peak_bytes = 381e6,
        .examples = examples,
        .n_examples = 3,
        .settings = "{\"about\": \"<b>\", \"model\": {\"path\": \"assets/tiny\", \"init\": null}, \"lora\": "
                    "{\"r\": 16, \"target_modules\": [\"q_proj\", \"v_proj\"]}}",
    };
}

static bool is_void(const char *name)
{
    return strcmp(name, "meta") == 0 || strcmp(name, "img") == 0;
}

/* Every tag is closed in order; attributes are quoted; no bare & or < stands in text. */
static void assert_well_formed(const char *html)
{
    char open[64][16];
    int depth = 0;
    for (const char *p = html; *p; p++) {
        if (*p == '&')
            assert_non_null(memchr(p, ';', 7));
        if (*p != '<' || p[1] == '!')
            continue;
        bool closing = p[1] == '/';
        char name[16] = "";
        p += 1 + closing;
        for (int n = 0; isalnum((unsigned char)*p) && n < 15; n++)
            name[n] = *p++;
        assert_true(name[0]);
        for (bool quoted = false; quoted || *p != '>'; p++) {
            assert_true(*p && (quoted || *p != '<'));
            quoted ^= *p == '"';
        }
        if (closing) {
            assert_true(depth > 0);
            assert_string_equal(open[--depth], name);
        } else if (!is_void(name) && p[-1] != '/') {
            assert_true(depth < 64);
            strcpy(open[depth++], name);
        }
        if (strcmp(name, "style") == 0 && !closing)
            p = strstr(p, "</style>") - 1;
    }
    assert_int_equal(depth, 0);
}

static void the_page_is_whole_and_well_formed(void **state)
{
    (void)state;
    q3_report_data d = whole();
    q3_text page = { 0 };
    assert_int_equal(q3_report_write(&page, &d), Q3_OK);
    assert_well_formed(page.data);
    static const char *const parts[] = { "<!DOCTYPE html>",
                                         "<svg viewBox=",
                                         "class=\"train raw\"",
                                         "circle class=\"eval\"",
                                         "class=\"rate\"",
                                         "loss (logarithmic)",
                                         "Answers in the course of training",
                                         "<title>step 50: 0.5000</title>",
                                         "data:image/png;base64,iVBORw0KGgo",
                                         "294,912",
                                         "20.00\xE2\x80\xAF% of 1,474,688",
                                         "3 min 34 s",
                                         "15,872",
                                         "363 MiB",
                                         "Before training",
                                         "After training",
                                         "q_proj",
                                         "assets/tiny",
                                         "\xE2\x9C\x93",
                                         "\xE2\x9C\x97",
                                         "held out",
                                         "</html>" };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(page.data, parts[i]))
            fail_msg("the page lacks %s", parts[i]);
    const char *dir = getenv("Q3_TEST_DIR");
    if (dir && q3_dir_create(dir) == Q3_OK) { // to look at
        char *path = q3_path_join(dir, "report.html");
        assert_int_equal(q3_file_write(path, page.data, page.size), Q3_OK);
        q3_free(path);
    }
    q3_text_free(&page);
}

static void nothing_from_outside_becomes_markup(void **state)
{
    (void)state;
    q3_report_data d = whole();
    d.title = d.subtitle = d.note = nasty;
    d.settings = "{\"<script>\": \"<script>\", \"x\": {\"</table>\": [\"<script>\"]}}";
    q3_text page = { 0 };
    assert_int_equal(q3_report_write(&page, &d), Q3_OK);
    assert_well_formed(page.data);
    assert_null(strstr(page.data, "<script"));
    assert_null(strstr(page.data, "a<b"));
    assert_non_null(
        strstr(page.data, "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;quoted&quot;"));
    q3_text_free(&page);
}

static void nothing_is_fetched_from_elsewhere(void **state)
{
    (void)state;
    q3_report_data d = whole();
    q3_text page = { 0 };
    assert_int_equal(q3_report_write(&page, &d), Q3_OK);
    assert_null(strstr(page.data, "http"));
    assert_null(strstr(page.data, "url(h"));
    assert_null(strstr(page.data, "<link"));
    q3_text_free(&page);
}

static void missing_parts_leave_no_trace(void **state)
{
    (void)state;
    q3_report_point lonely = { 1, 2 }, nan_points[] = { { 1, NAN }, { 2, INFINITY }, { 3, 1 } };
    q3_report_data d = { .title = "empty", .train_loss = { &lonely, 1 } };
    for (int round = 0; round < 2; round++) {
        q3_text page = { 0 };
        assert_int_equal(q3_report_write(&page, &d), Q3_OK);
        assert_well_formed(page.data);
        assert_null(strstr(page.data, "<svg"));
        assert_null(strstr(page.data, "<h2>"));
        assert_null(strstr(page.data, "class=\"tile\""));
        assert_null(strstr(page.data, "nan"));
        q3_text_free(&page);
        d.train_loss = (q3_report_curve){ nan_points, 3 };
    }
    d = (q3_report_data){ .title = "after only", .after = &after, .settings = "not json <" };
    q3_text page = { 0 };
    assert_int_equal(q3_report_write(&page, &d), Q3_OK);
    assert_well_formed(page.data);
    assert_null(strstr(page.data, "Before training"));
    assert_non_null(strstr(page.data, "<pre>not json &lt;</pre>"));
    q3_text_free(&page);
}

/* All y coordinates of the lines lie inside the drawing, whatever the values. */
static void curves_stay_inside_the_frame(void **state)
{
    (void)state;
    static const double scales[] = { 1e-12, 1e-3, 1, 37, 1e9 }, offsets[] = { 0, 1, -5 };
    for (int s = 0; s < 5; s++) {
        for (int o = 0; o < 3; o++) {
            q3_report_point points[40];
            for (int i = 0; i < 40; i++)
                points[i] = (q3_report_point){ 10 * i, scales[s] * (offsets[o] + (s % 2 ? sin(i) : 0)) };
            q3_text svg = { 0 };
            const q3_report_curve curve = { points, 40 }, none = { NULL, 0 };
            assert_true(q3_report_chart(&svg, &curve, &none, &none));
            assert_well_formed(svg.data);
            const char *p = strstr(svg.data, "points=\"") + 8;
            for (int i = 0; i < 40; i++) {
                double x = strtod(p, (char **)(uintptr_t)&p), y = strtod(p + 1, (char **)(uintptr_t)&p);
                assert_true(x >= 0 && x <= 960 && y >= 0 && y <= 340);
            }
            q3_text_free(&svg);
        }
    }
}

static void numbers_are_written_for_people(void **state)
{
    (void)state;
    q3_text t = { 0 };
    q3_html_count(&t, 0);
    q3_html_raw(&t, "|");
    q3_html_count(&t, 999);
    q3_html_raw(&t, "|");
    q3_html_count(&t, 1000007);
    q3_html_raw(&t, "|");
    q3_html_duration(&t, 4.26);
    q3_html_raw(&t, "|");
    q3_html_duration(&t, 59.6);
    q3_html_raw(&t, "|");
    q3_html_duration(&t, 4325);
    q3_html_raw(&t, "|");
    q3_html_bytes(&t, 22978297856.0);
    assert_string_equal(t.data, "0|999|1,000,007|4.3 s|1 min 00 s|1 h 12 min|21.4 GiB");
    q3_text_free(&t);
}

static void bytes_that_are_no_text_are_replaced(void **state)
{
    (void)state;
    q3_text t = { 0 };
    q3_html_text(&t, "a\x01\xff\xc3\xa9\xc3<");
    assert_string_equal(t.data, "a\xEF\xBF\xBD\xEF\xBF\xBD\xc3\xa9\xEF\xBF\xBD&lt;");
    q3_text_free(&t);
}

static void base64_is_that_of_the_standard(void **state)
{
    (void)state;
    static const char *const want[] = { "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy" };
    for (size_t n = 0; n <= 6; n++) { // RFC 4648, section 10
        q3_text t = { 0 };
        q3_html_data_url(&t, "foobar", n);
        assert_string_equal(t.data + strlen("data:image/png;base64,"), want[n]);
        q3_text_free(&t);
    }
}

static void running_out_of_memory_is_a_status(void **state)
{
    (void)state;
    q3_report_data d = whole();
    for (int64_t n = 1; n < 4000; n++) {
        q3_text page = { 0 };
        q3_heap_fail_at(n);
        q3_status st = q3_report_write(&page, &d);
        q3_heap_fail_at(0);
        q3_text_free(&page);
        if (st == Q3_OK && n > 60)
            return;
        assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
    }
    fail();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_is_whole_and_well_formed),
        cmocka_unit_test(nothing_from_outside_becomes_markup),
        cmocka_unit_test(nothing_is_fetched_from_elsewhere),
        cmocka_unit_test(missing_parts_leave_no_trace),
        cmocka_unit_test(curves_stay_inside_the_frame),
        cmocka_unit_test(numbers_are_written_for_people),
        cmocka_unit_test(bytes_that_are_no_text_are_replaced),
        cmocka_unit_test(base64_is_that_of_the_standard),
        cmocka_unit_test(running_out_of_memory_is_a_status),
    };
    return cmocka_run_group_tests(tests, prepare, finish);
}
