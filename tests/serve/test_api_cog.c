/* Cog's face, by a client over sockets and a listener for webhooks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "serve/webhook.h"
#include "tests/support/http.h"
#include "tests/support/serve.h"

#define LONG "{\"input\":{\"prompt\":\"this is wonderful\",\"temperature\":2,\"max_new_tokens\":4096}"

static q3_serve_bed bed;

/* ---- webhooks ---- */

static struct hooks {
    pthread_mutex_t lock;
    pthread_cond_t news;
    q3_text all;     // all requests, end to end
    int n, failures; // so many of the next completions are answered with 503
    q3_listener *listener;
} hooks = { .lock = PTHREAD_MUTEX_INITIALIZER, .news = PTHREAD_COND_INITIALIZER };

static void take_hook(void *arg, const char *request, size_t n, q3_text *reply)
{
    (void)arg;
    pthread_mutex_lock(&hooks.lock);
    bool completed =
        strstr(request, "\"status\":\"succeeded\"") || strstr(request, "\"status\":\"canceled\"");
    bool refuse = completed && hooks.failures > 0;
    hooks.failures -= refuse;
    q3_text_append(&hooks.all, request, n);
    q3_text_append(&hooks.all, "\n", 1);
    hooks.n++;
    pthread_cond_broadcast(&hooks.news);
    pthread_mutex_unlock(&hooks.lock);
    q3_text_printf(reply, "HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                   refuse ? "503 Service Unavailable" : "200 OK");
}

static void forget_hooks(int failures)
{
    pthread_mutex_lock(&hooks.lock);
    q3_text_free(&hooks.all);
    hooks.n = 0;
    hooks.failures = failures;
    pthread_mutex_unlock(&hooks.lock);
}

static int times_heard(const char *text)
{
    int n = 0;
    for (const char *at = hooks.all.data; at && (at = strstr(at, text)) != NULL; at++)
        n++;
    return n;
}

/* Waits until what has come holds `text` so many times. */
static void wait_for_hooks(const char *text, int times)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    pthread_mutex_lock(&hooks.lock);
    while (times_heard(text) < times)
        if (pthread_cond_timedwait(&hooks.news, &hooks.lock, &until) != 0)
            fail_msg("not %d webhooks with %s in %s", times, text,
                     hooks.all.data ? hooks.all.data : "nothing");
    pthread_mutex_unlock(&hooks.lock);
}

static q3_reply call(const char *method, const char *path, const char *headers, const char *body)
{
    return q3_http(bed.port, method, path, headers, body);
}

static void expect_status(q3_reply r, int status)
{
    if (r.status != status)
        fail_msg("status %d, not %d: %s", r.status, status, r.body ? r.body : "");
    q3_reply_free(&r);
}

/* Waits until no prediction runs. */
static void wait_until_ready(void)
{
    static const struct timespec moment = { .tv_nsec = 10000000 };
    for (int i = 0; i < 1000; i++, nanosleep(&moment, NULL)) {
        q3_reply r = call("GET", "/health-check", NULL, NULL);
        bool ready = strcmp(q3_reply_string(&r, "status"), "READY") == 0;
        q3_reply_free(&r);
        if (ready)
            return;
    }
    fail_msg("a prediction does not end");
}

/* ---- predictions ---- */

static void a_prediction_is_answered(void **state)
{
    (void)state;
    q3_reply r = call(
        "POST", "/predictions", NULL,
        "{\"id\":\"p-1\",\"input\":{\"prompt\":\"this is wonderful\",\"temperature\":0,\"max_new_tokens\":9,"
        "\"unknown\":1}}");
    assert_int_equal(r.status, 200);
    assert_string_equal(q3_reply_string(&r, "id"), "p-1");
    assert_string_equal(q3_reply_string(&r, "status"), "succeeded");
    assert_string_equal(q3_reply_string(&r, "logs"), "");
    assert_true(q3_reply_number(&r, "metrics.predict_time") > 0);
    const char *output = q3_reply_string(&r, "output");
    assert_true(*output && *output != ' ' && output[strlen(output) - 1] != ' ');
    assert_null(q3_reply_json(&r, "error"));
    q3_reply_free(&r);
}

static void inputs_that_do_not_fit_are_listed(void **state)
{
    (void)state;
    q3_reply r = call("POST", "/predictions", NULL, "{}");
    assert_int_equal(r.status, 422);
    assert_string_equal(r.body,
                        "{\"detail\":[{\"loc\":[\"body\",\"input\",\"prompt\"],\"msg\":\"Field required\","
                        "\"type\":\"value_error.missing\"}]}");
    q3_reply_free(&r);
    r = call("POST", "/predictions", NULL,
             "{\"input\":{\"prompt\":1,\"image\":\"x\",\"max_new_tokens\":5000,\"temperature\":\"hot\",\"top_"
             "p\":0.5}}");
    assert_int_equal(r.status, 422);
    static const char *const faults[][2] = { { "prompt", "must be a string" },
                                             { "image", "must be a URL" },
                                             { "max_new_tokens", "must be from 1 to 4096" },
                                             { "temperature", "must be a number" } };
    assert_int_equal(cJSON_GetArraySize(q3_reply_json(&r, "detail")), 4);
    for (int i = 0; i < 4; i++) {
        char path[40];
        snprintf(path, sizeof path, "detail.%d.loc.2", i);
        assert_string_equal(q3_reply_string(&r, path), faults[i][0]);
        snprintf(path, sizeof path, "detail.%d.msg", i);
        assert_string_equal(q3_reply_string(&r, path), faults[i][1]);
        snprintf(path, sizeof path, "detail.%d.type", i);
        assert_string_equal(q3_reply_string(&r, path), "value_error");
    }
    q3_reply_free(&r);
    expect_status(call("POST", "/predictions", NULL, "{\"input\":[]}"), 422);
    expect_status(call("POST", "/predictions", NULL, "{"), 422);
}

static void an_input_that_the_model_refuses_is_a_failed_prediction(void **state)
{
    (void)state;
    q3_reply r = call("POST", "/predictions", NULL, "{\"input\":{\"prompt\":\"a<|im_end|>\"}}");
    assert_int_equal(r.status, 422);
    assert_string_equal(q3_reply_string(&r, "status"), "failed");
    assert_non_null(strstr(q3_reply_string(&r, "error"), "control token <|im_end|>"));
    q3_reply_free(&r);
    r = call("POST", "/predictions", NULL,
             "{\"input\":{\"prompt\":\"a\",\"image\":\"data:image/png;base64,aGk=\"}}");
    assert_int_equal(r.status, 422);
    assert_memory_equal(q3_reply_string(&r, "error"), "image", 5);
    q3_reply_free(&r);
    wait_until_ready();
}

/* A listening connection and what came of it. */
typedef struct stream {
    int fd;
    q3_text all;
} stream;

static stream open_stream(const char *method, const char *path, const char *body)
{
    stream s = { .fd = q3_http_connect(bed.port) };
    q3_text request = { 0 };
    q3_http_compose(&request, method, path, "Accept: text/event-stream\r\n", body, strlen(body));
    q3_http_send(s.fd, request.data, request.size);
    q3_text_free(&request);
    return s;
}

static void close_stream(stream *s)
{
    close(s->fd);
    q3_text_free(&s->all);
}

static void events_of_a_stream_make_the_output(void **state)
{
    (void)state;
    q3_reply r = call("POST", "/predictions", "Accept: text/event-stream\r\n",
                      "{\"id\":\"s-1\",\"input\":{\"prompt\":\"this is "
                      "wonderful\",\"temperature\":0,\"max_new_tokens\":9}}");
    assert_int_equal(r.status, 200);
    static const char start[] = "event: start\ndata: {\"id\":\"s-1\",\"status\":\"processing\"}\n\n";
    assert_memory_equal(r.body, start, sizeof start - 1);
    q3_text joined = { 0 };
    for (const char *at = r.body; (at = strstr(at, "event: output\ndata: ")) != NULL; at++) {
        q3_json doc;
        const char *data = at + 20;
        assert_int_equal(q3_json_parse(&doc, data, strcspn(data, "\n"), "event", 1), Q3_OK);
        const char *chunk = cJSON_GetStringValue(cJSON_GetObjectItem(doc.root, "chunk"));
        q3_text_append(&joined, chunk, strlen(chunk));
        q3_json_close(&doc);
    }
    const char *last = strstr(r.body, "event: completed\ndata: ");
    assert_non_null(last);
    q3_json doc;
    assert_int_equal(q3_json_parse(&doc, last + 23, strcspn(last + 23, "\n"), "event", 1), Q3_OK);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(doc.root, "output")), joined.data);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(doc.root, "status")), "succeeded");
    assert_non_null(cJSON_GetObjectItem(cJSON_GetObjectItem(doc.root, "input"), "prompt"));
    q3_json_close(&doc);
    q3_text_free(&joined);
    q3_reply_free(&r);
}

/* The service of this one does not run before it is told to, so the prediction cannot end by itself. */
static void a_running_prediction_is_not_run_again(void **state)
{
    (void)state;
    stream s = open_stream("PUT", "/predictions/again", LONG "}");
    assert_true(q3_http_read_until(&s.all, s.fd, "event: start"));
    q3_reply_expect(call("GET", "/health-check", NULL, NULL), 200, "status", "BUSY");
    q3_reply r = call("PUT", "/predictions/again", NULL, LONG "}");
    assert_string_equal(q3_reply_string(&r, "id"), "again");
    q3_reply_expect(r, 202, "status", "processing");
    r = call("POST", "/predictions", NULL, LONG "}");
    assert_int_equal(r.status, 409);
    assert_string_equal(r.body,
                        "{\"error\":\"At capacity - all prediction slots busy\",\"status\":\"failed\"}");
    q3_reply_free(&r);
    stream late = open_stream("PUT", "/predictions/again", LONG "}");
    assert_true(q3_http_read_until(&late.all, late.fd, "event: start"));
    r = call("POST", "/predictions/again/cancel", NULL, "{}");
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "{}");
    q3_reply_free(&r);
    q3_serve_run(&bed);
    assert_true(q3_http_read_until(&s.all, s.fd, "\"status\":\"canceled\""));
    assert_true(q3_http_read_until(&late.all, late.fd, "\"status\":\"canceled\""));
    close_stream(&s);
    close_stream(&late);
    q3_serve_expect_idle(&bed);
    expect_status(call("POST", "/predictions/again/cancel", NULL, "{}"), 404);
    expect_status(call("PUT", "/predictions/a", NULL, "{\"id\":\"b\",\"input\":{\"prompt\":\"x\"}}"), 422);
}

static int64_t cancelled_so_far(void)
{
    q3_service_stats stats;
    q3_service_stats_of(&stats, bed.service);
    return stats.cancelled;
}

/* A machine under load may let the answer end before; not every time. */
static void a_dropped_connection_cancels_its_prediction(void **state)
{
    (void)state;
    bed.session.model.config.generation.n_eos = 0; // no answer ends by itself
    int64_t before = cancelled_so_far();
    for (int i = 0; i < 10 && cancelled_so_far() == before; i++) {
        stream s = open_stream("PUT", "/predictions/dropped", LONG "}");
        assert_true(q3_http_read_until(&s.all, s.fd, "event: output"));
        close_stream(&s);
        wait_until_ready();
        q3_serve_expect_idle(&bed);
    }
    assert_true(cancelled_so_far() > before);
}

static void progress_is_told_to_a_webhook(void **state)
{
    (void)state;
    char body[500], hook[200];
    forget_hooks(2);
    snprintf(hook, sizeof hook, "http://127.0.0.1:%d/hook", q3_listener_port(hooks.listener));
    snprintf(body, sizeof body,
             "{\"id\":\"w-1\",\"input\":{\"prompt\":\"this is "
             "wonderful\",\"max_new_tokens\":5},\"webhook\":\"%s\"}",
             hook);
    q3_reply r =
        call("POST", "/predictions", "Prefer: respond-async\r\ntraceparent: 00-abc-def-01\r\n", body);
    assert_int_equal(r.status, 202);
    assert_string_equal(r.body, "{\"id\":\"w-1\",\"status\":\"starting\"}");
    q3_reply_free(&r);
    wait_for_hooks("\"status\":\"processing\"", 1);
    wait_for_hooks("\"status\":\"succeeded\"", 3); // two of them were refused, and tried again
    pthread_mutex_lock(&hooks.lock);
    assert_non_null(strstr(hooks.all.data, "Authorization: Bearer hook-token"));
    assert_non_null(strstr(hooks.all.data, "traceparent: 00-abc-def-01"));
    assert_non_null(strstr(hooks.all.data, "\"created_at\":\""));
    assert_non_null(strstr(hooks.all.data, "\"completed_at\":\""));
    assert_non_null(strstr(hooks.all.data, "\"input\":{\"prompt\":\"this is wonderful\""));
    pthread_mutex_unlock(&hooks.lock);
    wait_until_ready();
}

static void a_webhook_hears_what_it_asked_for(void **state)
{
    (void)state;
    char body[500];
    forget_hooks(0);
    snprintf(body, sizeof body,
             "{\"input\":{\"prompt\":\"this is "
             "wonderful\",\"max_new_tokens\":5},\"webhook\":\"http://127.0.0.1:%d/\","
             "\"webhook_events_filter\":[\"completed\"]}",
             q3_listener_port(hooks.listener));
    expect_status(call("POST", "/predictions", "Prefer: respond-async\r\n", body), 202);
    wait_for_hooks("\"status\":\"succeeded\"", 1);
    assert_int_equal(hooks.n, 1);
    wait_until_ready();
    expect_status(call("POST", "/predictions", NULL,
                       "{\"input\":{\"prompt\":\"x\"},\"webhook\":\"http://127.0.0.1/"
                       "\",\"webhook_events_filter\":[\"all\"]}"),
                  422);
    expect_status(
        call("POST", "/predictions", NULL, "{\"input\":{\"prompt\":\"x\"},\"webhook\":\"file:///x\"}"), 422);
}

static void webhooks_keep_to_their_rules(void **state)
{
    (void)state;
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", q3_listener_port(hooks.listener));
    q3_webhook hook = { .url = url, .events = Q3_WEBHOOK_ALL, .interval = 3600 };
    forget_hooks(0);
    q3_webhook_send(&hook, Q3_WEBHOOK_OUTPUT, "{\"n\":1}", 7);
    q3_webhook_send(&hook, Q3_WEBHOOK_OUTPUT, "{\"n\":2}", 7); // too soon
    q3_webhook_send(&hook, Q3_WEBHOOK_START, "{\"n\":3}", 7);
    wait_for_hooks("{\"n\":3}", 1);
    assert_int_equal(times_heard("{\"n\":2}"), 0);
    hook.judge = q3_address_public; // not this one, then
    q3_webhook_send(&hook, Q3_WEBHOOK_COMPLETED, "{\"n\":4}", 7);
    assert_true(hook.refused);
    hook.judge = NULL;
    hook.events = Q3_WEBHOOK_COMPLETED;
    q3_webhook_send(&hook, Q3_WEBHOOK_START, "{\"n\":5}", 7);
    q3_webhook_send(&hook, Q3_WEBHOOK_COMPLETED, "{\"n\":6}", 7);
    wait_for_hooks("{\"n\":6}", 1);
    assert_int_equal(times_heard("{\"n\":4}") + times_heard("{\"n\":5}"), 0);
}

/* ---- routes besides ---- */

static void trainings_and_other_types_are_refused(void **state)
{
    (void)state;
    q3_reply_expect(call("POST", "/trainings", NULL, "{}"), 404, "detail",
                    "this server predicts; `qwen3-sft train` trains");
    q3_text request = { 0 }, all = { 0 };
    q3_text_printf(
        &request, "POST /predictions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain\r\n"
                  "Content-Length: 2\r\n\r\n{}");
    int fd = q3_http_connect(bed.port);
    q3_http_send(fd, request.data, request.size);
    assert_true(q3_http_read_until(&all, fd, "415"));
    close(fd);
    q3_text_free(&request);
    q3_text_free(&all);
}

static void the_schema_lists_the_inputs_in_order(void **state)
{
    (void)state;
    q3_reply r = call("GET", "/openapi.json", NULL, NULL);
    const cJSON *properties = q3_reply_json(&r, "components.schemas.Input.properties"), *p;
    static const char *const names[] = { "prompt", "image", "max_new_tokens", "temperature", "top_p" };
    int i = 0;
    cJSON_ArrayForEach(p, properties)
    {
        assert_string_equal(p->string, names[i]);
        assert_int_equal(cJSON_GetObjectItem(p, "x-order")->valueint, i++);
    }
    assert_int_equal(i, 5);
    assert_string_equal(q3_reply_string(&r, "openapi"), "3.0.2");
    assert_string_equal(q3_reply_string(&r, "components.schemas.Input.required.0"), "prompt");
    assert_string_equal(q3_reply_string(&r, "components.schemas.Input.properties.image.format"), "uri");
    assert_true(q3_reply_number(&r, "components.schemas.Input.properties.max_new_tokens.maximum") == 4096);
    assert_true(q3_reply_number(&r, "components.schemas.Input.properties.temperature.default") == 0.7);
    static const char *const schemas[] = { "Input",
                                           "Output",
                                           "PredictionRequest",
                                           "PredictionResponse",
                                           "Status",
                                           "HTTPValidationError",
                                           "ValidationError" };
    for (size_t k = 0; k < sizeof schemas / sizeof *schemas; k++) {
        char path[80];
        snprintf(path, sizeof path, "components.schemas.%s.title", schemas[k]);
        assert_string_equal(q3_reply_string(&r, path), schemas[k]);
    }
    q3_reply_free(&r);
}

static int open_bed(void **state)
{
    (void)state;
    q3_serve_open_model(&bed);
    q3_serve_listen(&bed, &(q3_service_options){ 0 }, &(q3_cog_options){ .webhook_token = "hook-token" });
    q3_serve_run(&bed);
    hooks.listener = q3_listener_start(take_hook, NULL);
    return 0;
}

static int close_bed(void **state)
{
    (void)state;
    q3_serve_hang_up(&bed);
    q3_serve_close_model(&bed);
    q3_listener_stop(hooks.listener);
    forget_hooks(0);
    return 0;
}

static int open_held(void **state)
{
    (void)state;
    q3_serve_open_model(&bed);
    q3_serve_listen(&bed, &(q3_service_options){ 0 }, &(q3_cog_options){ 0 });
    return 0;
}

static int close_held(void **state)
{
    (void)state;
    q3_serve_hang_up(&bed);
    q3_serve_close_model(&bed);
    return 0;
}

/* ---- reranking ---- */

static int open_reranker(void **state)
{
    (void)state;
    q3_serve_open_reranker(&bed);
    q3_serve_listen(&bed, &(q3_service_options){ 0 },
                    &(q3_cog_options){ .task = Q3_COG_RERANK, .webhooks = Q3_WEBHOOKS_OFF });
    q3_serve_run(&bed);
    return 0;
}

static int close_reranker(void **state)
{
    (void)state;
    q3_serve_hang_up(&bed);
    q3_serve_close_model(&bed);
    return 0;
}

static void documents_come_as_a_list_or_as_a_string_of_one(void **state)
{
    (void)state;
    q3_reply a =
        call("POST", "/predictions", NULL,
             "{\"input\":{\"query\":\"a cat\",\"documents\":[\"a dog\",\"a cat\",\"a car\"],\"top_k\":2}}");
    q3_reply b = call("POST", "/predictions", NULL,
                      "{\"input\":{\"query\":\"a cat\",\"documents\":\"[\\\"a dog\\\",\\\"a cat\\\",\\\"a "
                      "car\\\"]\",\"top_k\":2}}");
    assert_string_equal(q3_reply_string(&a, "status"), "succeeded");
    const char *output = q3_reply_string(&a, "output");
    assert_string_equal(output, q3_reply_string(&b, "output"));
    q3_json doc;
    assert_int_equal(q3_json_parse(&doc, output, strlen(output), "output", 1), Q3_OK);
    assert_int_equal(cJSON_GetObjectItem(doc.root, "total_documents")->valueint, 3);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(doc.root, "results")), 2);
    q3_json_close(&doc);
    q3_reply_free(&a);
    q3_reply_free(&b);
}

static void no_documents_are_said_as_the_reference_says_it(void **state)
{
    (void)state;
    q3_reply r = call("POST", "/predictions", NULL, "{\"input\":{\"query\":\"a cat\",\"documents\":[]}}");
    assert_int_equal(r.status, 200);
    assert_string_equal(q3_reply_string(&r, "status"), "succeeded");
    assert_string_equal(q3_reply_string(&r, "output"), "{\"error\": \"No documents provided\"}");
    q3_reply_free(&r);
}

static void rankings_come_at_once_and_send_no_webhooks_here(void **state)
{
    (void)state;
    const char *body = "{\"input\":{\"query\":\"a\",\"documents\":[\"b\"]}}";
    q3_reply_expect(call("POST", "/predictions", "Accept: text/event-stream\r\n", body), 406, "detail",
                    "this model gives its output at once, not as a stream");
    q3_reply_expect(
        call("POST", "/predictions", NULL,
             "{\"input\":{\"query\":\"a\",\"documents\":[\"b\"]},\"webhook\":\"http://127.0.0.1:1/\"}"),
        422, "detail.0.msg", "this server sends no webhooks");
    q3_reply r = call("POST", "/predictions", NULL, "{\"input\":{\"documents\":[\"b\"],\"top_k\":0}}");
    assert_string_equal(q3_reply_string(&r, "detail.0.loc.2"), "query");
    assert_string_equal(q3_reply_string(&r, "detail.1.msg"), "must be from 1 to 100");
    q3_reply_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prediction_is_answered),
        cmocka_unit_test(inputs_that_do_not_fit_are_listed),
        cmocka_unit_test(an_input_that_the_model_refuses_is_a_failed_prediction),
        cmocka_unit_test(events_of_a_stream_make_the_output),
        cmocka_unit_test(a_dropped_connection_cancels_its_prediction),
        cmocka_unit_test(progress_is_told_to_a_webhook),
        cmocka_unit_test(a_webhook_hears_what_it_asked_for),
        cmocka_unit_test(webhooks_keep_to_their_rules),
        cmocka_unit_test(trainings_and_other_types_are_refused),
        cmocka_unit_test(the_schema_lists_the_inputs_in_order),
    };
    const struct CMUnitTest ranking[] = {
        cmocka_unit_test(documents_come_as_a_list_or_as_a_string_of_one),
        cmocka_unit_test(no_documents_are_said_as_the_reference_says_it),
        cmocka_unit_test(rankings_come_at_once_and_send_no_webhooks_here),
    };
    const struct CMUnitTest held[] = { cmocka_unit_test(a_running_prediction_is_not_run_again) };
    return cmocka_run_group_tests(tests, open_bed, close_bed) +
           cmocka_run_group_tests(held, open_held, close_held) +
           cmocka_run_group_tests(ranking, open_reranker, close_reranker);
}
