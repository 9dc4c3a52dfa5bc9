/* A run on an MLflow server: what is asked, in which order, and what becomes of a server that is away, slow or unwilling.
 * The server is a small one of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/file.h"
#include "core/log.h"
#include "tests/support/http.h"
#include "tests/support/run.h"
#include "train/mlflow.h"

enum { CALLS = 64 };

typedef struct server {
    char *calls[CALLS];  /* requests that were answered with 200, whole */
    int n, asked;        /* of them; of all */
    int away;            /* requests that get 503 first */
    bool experiment;     /* it has the one that is asked for */
    const char *refuses; /* a word; requests with it get 400 */
    unsigned slow_us;    /* before each answer */
    q3_listener *listener;
} server;

static server there;

static void reply_with(q3_text *reply, int status, const char *body)
{
    q3_text_printf(reply, "HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", status,
                   strlen(body), body);
}

static void answer(void *arg, const char *request, size_t n, q3_text *reply)
{
    server *s = arg;
    usleep(s->slow_us);
    s->asked++;
    if (s->asked <= s->away) {
        reply_with(reply, 503, "soon");
        return;
    }
    if (s->refuses && strstr(request, s->refuses)) {
        reply_with(reply, 400,
                   "{\"error_code\": \"INVALID_PARAMETER_VALUE\", \"message\": \"no such thing\"}");
        return;
    }
    if (strstr(request, "get-by-name") && !s->experiment) {
        reply_with(reply, 404, "{\"error_code\": \"RESOURCE_DOES_NOT_EXIST\", \"message\": \"none\"}");
        return;
    }
    assert_true(s->n < CALLS);
    s->calls[s->n++] = strndup(request, n);
    if (strstr(request, "get-by-name"))
        reply_with(reply, 200, "{\"experiment\": {\"experiment_id\": \"7\", \"name\": \"x y\"}}");
    else if (strstr(request, "experiments/create"))
        reply_with(reply, 200, "{\"experiment_id\": \"8\"}");
    else if (strstr(request, "runs/create"))
        reply_with(reply, 200, "{\"run\": {\"info\": {\"run_id\": \"r1\"}}}");
    else
        reply_with(reply, 200, "{}");
}

static int begin(void **state)
{
    static const char *const variables[] = { "MLFLOW_EXPERIMENT_NAME",   "MLFLOW_EXPERIMENT_ID",
                                             "MLFLOW_RUN_NAME",          "MLFLOW_RUN_ID",
                                             "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
                                             "MLFLOW_TRACKING_TOKEN",    "http_proxy" };
    char uri[64];
    (void)state;
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]);
    there = (server){ .experiment = true };
    there.listener = q3_listener_start(answer, &there);
    snprintf(uri, sizeof uri, "http://127.0.0.1:%d/", q3_listener_port(there.listener));
    setenv("MLFLOW_TRACKING_URI", uri, 1);
    q3_log_set_level(Q3_LOG_WARN);
    return 0;
}

static int end(void **state)
{
    (void)state;
    q3_listener_stop(there.listener);
    for (int i = 0; i < there.n; i++)
        free(there.calls[i]);
    return 0;
}

/* ---- a run of some lines ---- */

static q3_logger *start(void)
{
    static const char *const overrides[] = { "train.report_to=mlflow", "data.train=posts \xC3\xA9.jsonl" };
    q3_config config;
    q3_logger *logger;
    const char *dir = q3_run_path("run-of-mine");
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    assert_int_equal(q3_config_load(&config, NULL, overrides, 2), Q3_OK);
    assert_int_equal(q3_config_check(&config), Q3_OK);
    assert_int_equal(q3_logger_check(&config), Q3_OK);
    const q3_view_run run = { .dir = dir, .config = &config };
    assert_int_equal(q3_logger_open(&logger, &run), Q3_OK);
    q3_config_free(&config);
    return logger;
}

static void write_line(q3_logger *logger, const char *text)
{
    q3_text line = { 0 };
    q3_text_printf(&line, "%s\n", text);
    assert_int_equal(q3_logger_write(logger, &line, false), Q3_OK);
}

/* Two lines, three values. */
static void log_some(q3_status how)
{
    q3_logger *logger = start();
    write_line(logger,
               "{\"step\": 1, \"loss\": 5.4064435958862305, \"grad_norm\": null, \"learning_rate\": 0.0002}");
    write_line(logger, "{\"step\": 2, \"gen_eval/post_f1_a*b\": 0.5}");
    q3_logger_close(logger, how);
}

/* Call number `i` went to `path`; its body. */
static q3_json body_of(int i, const char *path)
{
    char start_line[256];
    q3_json doc;
    assert_true(i < there.n);
    snprintf(start_line, sizeof start_line, "POST /api/2.0/mlflow/%s HTTP/1.1\r\n", path);
    if (strncmp(there.calls[i], start_line, strlen(start_line)) != 0)
        fail_msg("wanted %sgot %.80s", start_line, there.calls[i]);
    assert_non_null(strstr(there.calls[i], "Content-Type: application/json\r\n"));
    const char *text = strstr(there.calls[i], "\r\n\r\n") + 4;
    assert_int_equal(q3_json_parse(&doc, text, strlen(text), path, 1), Q3_OK);
    return doc;
}

static const char *string_of(const q3_json *doc, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(doc->root, key));
    return text ? text : "(none)";
}

/* The value of pair `key` in list `list` of a body; NULL when it is not there. */
static const char *pair_of(const q3_json *doc, const char *list, const char *key)
{
    const cJSON *pairs = cJSON_GetObjectItemCaseSensitive(doc->root, list);
    for (const cJSON *item = pairs ? pairs->child : NULL; item; item = item->next)
        if (strcmp(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "key")), key) == 0)
            return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "value"));
    return NULL;
}

static void expect_body(int i, const char *path, const char *key, const char *want)
{
    q3_json doc = body_of(i, path);
    assert_string_equal(string_of(&doc, key), want);
    q3_json_close(&doc);
}

typedef struct metric {
    const char *key;
    double value;
    int step;
} metric;

/* The metrics of all calls from number `first` on are these, in this order; the last call is not one of them. */
static void expect_metrics(int first, const metric *want, int n)
{
    int at = 0;
    for (int i = first; i + 1 < there.n; i++) {
        q3_json doc = body_of(i, "runs/log-batch");
        const cJSON *item;
        assert_string_equal(string_of(&doc, "run_id"), "r1");
        cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(doc.root, "metrics"))
        {
            assert_true(at < n);
            assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "key")),
                                want[at].key);
            assert_true(cJSON_GetObjectItemCaseSensitive(item, "value")->valuedouble == want[at].value);
            assert_true(cJSON_GetObjectItemCaseSensitive(item, "step")->valuedouble == want[at].step);
            assert_true(cJSON_GetObjectItemCaseSensitive(item, "timestamp")->valuedouble > 1.6e12); // ms
            at++;
        }
        q3_json_close(&doc);
    }
    assert_int_equal(at, n);
}

static const metric some[] = { { "loss", 5.4064435958862305, 1 },
                               { "learning_rate", 0.0002, 1 },
                               { "gen_eval/post_f1_a_b", 0.5, 2 } };

/* ---- tests ---- */

static void a_run_is_made_told_and_ended(void **state)
{
    (void)state;
    setenv("MLFLOW_EXPERIMENT_NAME", "x y", 1);
    log_some(Q3_OK);
    assert_true(there.n >= 5);
    assert_non_null(strstr(there.calls[0],
                           "GET /api/2.0/mlflow/experiments/get-by-name?experiment_name=x%20y HTTP/1.1\r\n"));
    expect_body(1, "runs/create", "experiment_id", "7");
    expect_body(1, "runs/create", "run_name", "run-of-mine");
    q3_json params = body_of(2, "runs/log-batch");
    assert_string_equal(pair_of(&params, "params", "train.learning_rate"), "0.0002");
    assert_string_equal(pair_of(&params, "params", "train.optim"), "adamw");
    assert_string_equal(pair_of(&params, "params", "data.train"), "posts \xC3\xA9.jsonl");
    assert_string_equal(pair_of(&params, "params", "train.report_to"), "[\"mlflow\"]");
    q3_json_close(&params);
    expect_metrics(3, some, 3);
    expect_body(there.n - 1, "runs/update", "status", "FINISHED");
}

static void an_experiment_that_is_not_there_is_made(void **state)
{
    (void)state;
    there.experiment = false;
    setenv("MLFLOW_EXPERIMENT_NAME", "x y", 1);
    setenv("MLFLOW_RUN_NAME", "third try", 1);
    log_some(Q3_ERR_TERMINATED);
    expect_body(0, "experiments/create", "name", "x y");
    expect_body(1, "runs/create", "experiment_id", "8");
    expect_body(1, "runs/create", "run_name", "third try");
    expect_body(there.n - 1, "runs/update", "status", "KILLED");
}

static void without_a_name_it_is_the_default_one(void **state)
{
    (void)state;
    log_some(Q3_ERR_IO);
    expect_body(0, "runs/create", "experiment_id", "0");
    expect_body(there.n - 1, "runs/update", "status", "FAILED");
}

static void a_named_run_goes_on(void **state)
{
    (void)state;
    setenv("MLFLOW_RUN_ID", "r1", 1);
    log_some(Q3_OK);
    expect_body(0, "runs/update", "status", "RUNNING");
    expect_body(0, "runs/update", "run_id", "r1");
    expect_metrics(2, some, 3);
}

static void values_wait_for_a_server_that_is_away(void **state)
{
    (void)state;
    there.away = 1;
    q3_logger *logger = start();
    for (int i = 0; there.asked < 1 && i < 2000; i++)
        usleep(1000);
    write_line(logger, "{\"step\": 1, \"loss\": 5.4064435958862305, \"learning_rate\": 0.0002}");
    write_line(logger, "{\"step\": 2, \"gen_eval/post_f1_a*b\": 0.5}");
    q3_logger_close(logger, Q3_OK); // the second attempt
    expect_metrics(2, some, 3);
    expect_body(there.n - 1, "runs/update", "status", "FINISHED");
}

static void nobody_waits_for_a_slow_server(void **state)
{
    (void)state;
    there.slow_us = 200000;
    double begin_at = q3_seconds();
    q3_logger *logger = start();
    write_line(logger, "{\"step\": 1, \"loss\": 5.4064435958862305, \"learning_rate\": 0.0002}");
    write_line(logger, "{\"step\": 2, \"gen_eval/post_f1_a*b\": 0.5}");
    assert_true(q3_seconds() - begin_at < 0.15);
    q3_logger_close(logger, Q3_OK);
    expect_metrics(2, some, 3);
}

static void a_server_that_is_not_there_stops_nothing(void **state)
{
    (void)state;
    setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9", 1);
    double begin_at = q3_seconds();
    log_some(Q3_OK);
    assert_true(q3_seconds() - begin_at < 2);
    assert_int_equal(there.asked, 0);
}

static void what_is_refused_holds_nothing_up(void **state)
{
    (void)state;
    there.refuses = "\"params\"";
    log_some(Q3_OK);
    expect_metrics(1, some, 3);
    expect_body(there.n - 1, "runs/update", "status", "FINISHED");
}

static void calls_have_no_more_values_than_the_interface_allows(void **state)
{
    (void)state;
    enum { VALUES = 2500 };
    q3_text line = { 0 };
    there.away = 1;
    q3_logger *logger = start();
    for (int i = 0; there.asked < 1 && i < 2000; i++)
        usleep(1000);
    q3_text_printf(&line, "{\"step\": 3");
    for (int i = 0; i < VALUES; i++)
        q3_text_printf(&line, ", \"v%d\": %d", i, i);
    q3_text_printf(&line, "}\n");
    assert_int_equal(q3_logger_write(logger, &line, false), Q3_OK);
    q3_logger_close(logger, Q3_OK);
    int sizes[] = { 1000, 1000, 500 };
    assert_int_equal(there.n, 6); // run, parameters, three, the end
    for (int i = 0; i < 3; i++) {
        q3_json doc = body_of(2 + i, "runs/log-batch");
        assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(doc.root, "metrics")), sizes[i]);
        q3_json_close(&doc);
    }
}

static void who_asks_says_who_it_is(void **state)
{
    (void)state;
    setenv("MLFLOW_TRACKING_TOKEN", "abc", 1);
    log_some(Q3_OK);
    for (int i = 0; i < there.n; i++)
        assert_non_null(strstr(there.calls[i], "Authorization: Bearer abc\r\n"));
    int before = there.n;
    setenv("MLFLOW_TRACKING_USERNAME", "me", 1);
    setenv("MLFLOW_TRACKING_PASSWORD", "secret", 1);
    log_some(Q3_OK);
    for (int i = before; i < there.n; i++) {
        assert_non_null(strstr(there.calls[i], "Authorization: Basic bWU6c2VjcmV0\r\n"));
        assert_null(strstr(there.calls[i], "Bearer"));
    }
}

static void refused(const char *uri, const char *part)
{
    static const char *const overrides[] = { "train.report_to=mlflow" };
    q3_config config;
    assert_int_equal(q3_config_load(&config, NULL, overrides, 1), Q3_OK);
    if (uri)
        setenv("MLFLOW_TRACKING_URI", uri, 1);
    else
        unsetenv("MLFLOW_TRACKING_URI");
    assert_int_equal(q3_logger_check(&config), Q3_ERR_USAGE);
    if (!strstr(q3_error(), part))
        fail_msg("wanted \"%s\", got \"%s\"", part, q3_error());
    q3_config_free(&config);
}

static void a_server_must_be_named(void **state)
{
    (void)state;
    refused(NULL, "set MLFLOW_TRACKING_URI");
    refused("", "set MLFLOW_TRACKING_URI");
    refused("sqlite:///mlflow.db", "must begin with http:// or https://");
}

static void a_training_is_told_and_no_password_is_shown(void **state)
{
    (void)state;
    char uri[128];
    static const char *const overrides[] = { "quantization.load_in_4bit=false",
                                             "data.train=tests/golden/training/data/noise.jsonl",
                                             "data.max_eval_samples=2",
                                             "data.max_pixels=2048",
                                             "train.max_steps=3",
                                             "train.per_device_train_batch_size=1",
                                             "train.logging_steps=1",
                                             "train.report_to=mlflow",
                                             "eval.pre=false",
                                             "eval.post=false",
                                             "--output-dir",
                                             NULL };
    snprintf(uri, sizeof uri, "http://me:secret@127.0.0.1:%d", q3_listener_port(there.listener));
    setenv("MLFLOW_TRACKING_URI", uri, 1);
    const char *dir = q3_run_path("training");
    q3_process p = q3_run_start(Q3_PROGRAM, overrides);
    q3_process_add(&p, dir);
    q3_run_expect(&p, 0);
    snprintf(uri, sizeof uri, "mlflow      http://127.0.0.1:%d/#/experiments/0/runs/r1",
             q3_listener_port(there.listener));
    if (!strstr(p.err, uri) || strstr(p.err, "secret"))
        fail_msg("stderr should have \"%s\" and no secret:\n%s", uri, p.err);
    q3_process_free(&p);
    int losses = 0;
    for (int i = 0; i < there.n; i++) {
        assert_non_null(strstr(there.calls[i], "Authorization: Basic bWU6c2VjcmV0\r\n"));
        for (const char *at = there.calls[i]; (at = strstr(at, "\"key\":\"loss\"")) != NULL; at++)
            losses++;
    }
    assert_int_equal(losses, 3);
    expect_body(there.n - 1, "runs/update", "status", "FINISHED");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_run_is_made_told_and_ended, begin, end),
        cmocka_unit_test_setup_teardown(an_experiment_that_is_not_there_is_made, begin, end),
        cmocka_unit_test_setup_teardown(without_a_name_it_is_the_default_one, begin, end),
        cmocka_unit_test_setup_teardown(a_named_run_goes_on, begin, end),
        cmocka_unit_test_setup_teardown(values_wait_for_a_server_that_is_away, begin, end),
        cmocka_unit_test_setup_teardown(nobody_waits_for_a_slow_server, begin, end),
        cmocka_unit_test_setup_teardown(a_server_that_is_not_there_stops_nothing, begin, end),
        cmocka_unit_test_setup_teardown(what_is_refused_holds_nothing_up, begin, end),
        cmocka_unit_test_setup_teardown(calls_have_no_more_values_than_the_interface_allows, begin, end),
        cmocka_unit_test_setup_teardown(who_asks_says_who_it_is, begin, end),
        cmocka_unit_test_setup_teardown(a_server_must_be_named, begin, end),
        cmocka_unit_test_setup_teardown(a_training_is_told_and_no_password_is_shown, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
