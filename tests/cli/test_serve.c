/* The server as a program: options, signals, exit codes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/http.h"
#include "tests/support/process.h"

#define MODEL "tests/golden/training/model"

/* `options` ends with NULL. */
static q3_process start(const char *const *options)
{
    q3_process p = { 0 };
    q3_process_add(&p, Q3_PROGRAM);
    q3_process_add(&p, "serve");
    for (; *options; options++)
        q3_process_add(&p, *options);
    q3_process_start(&p);
    return p;
}

/* Waits until stderr holds `text`; what stands behind it. */
static const char *wait_for(q3_process *p, const char *text)
{
    static char all[8192];
    static const struct timespec moment = { .tv_nsec = 10000000 };
    for (int i = 0; i < 2000; i++, nanosleep(&moment, NULL)) {
        ssize_t n = pread(fileno(p->files[1]), all, sizeof all - 1, 0);
        all[n > 0 ? n : 0] = 0;
        const char *at = strstr(all, text);
        if (at && strchr(at, '\n'))
            return at + strlen(text);
        if (q3_process_ended(p))
            break;
    }
    q3_process_wait(p);
    fail_msg("no \"%s\" in %s", text, p->err);
    return NULL;
}

/* The port that a server on the model has chosen. */
static int ready(q3_process *p)
{
    wait_for(p, "ready ");
    return atoi(wait_for(p, "http://127.0.0.1:"));
}

static void expect_end(q3_process *p, int code, const char *sentence)
{
    q3_process_wait(p);
    if (p->code != code || !strstr(p->err, sentence))
        fail_msg("exit code %d: %s", p->code, p->err);
    q3_process_free(p);
}

static void refuse(const char *const *options, int code, const char *sentence)
{
    q3_process p = start(options);
    expect_end(&p, code, sentence);
}

static void wrong_options_are_refused(void **state)
{
    (void)state;
    refuse((const char *[]){ "--model", MODEL, "--api", "soap", NULL }, 2, "it must be all, openai or cog");
    refuse((const char *[]){ "--model", MODEL, "--port", "70000", NULL }, 2, "--port is \"70000\"");
    refuse((const char *[]){ "--api", "all", NULL }, 2, "serve needs --model DIR");
    refuse((const char *[]){ "--model", MODEL, "--media-path", "/nowhere", NULL }, 2,
           "--media-path /nowhere is no directory");
    refuse((const char *[]){ "--model", MODEL, "--regex", "a", NULL }, 2,
           "serve takes no --regex; each request brings its own");
    refuse((const char *[]){ "--model", "/nowhere", "--port", "0", NULL }, 4, "/nowhere");
    refuse((const char *[]){ "--model", MODEL, "--host", "no.such.host.invalid", NULL }, 2,
           "--host no.such.host.invalid");
}

static void the_schema_needs_no_model(void **state)
{
    (void)state;
    q3_json doc;
    q3_process p = start((const char *[]){ "--print-openapi", "--cog-task", "rerank", NULL });
    assert_int_equal(q3_process_wait(&p), 0);
    assert_int_equal(q3_json_parse(&doc, p.out, strlen(p.out), "schema", 1), Q3_OK);
    assert_non_null(strstr(p.out, "\"documents\":{\"title\":\"Documents\""));
    q3_json_close(&doc);
    q3_process_free(&p);
}

/* A stream that lasts: `n` answers of several hundred tokens. */
static int begin_stream(int port, q3_text *all, const char *n)
{
    char body[300];
    q3_text request = { 0 };
    snprintf(body, sizeof body,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"guided_regex\":\"a[ab]{900}\",\"max_"
             "tokens\":950,"
             "\"stream\":true,\"n\":%s}",
             n);
    int fd = q3_http_connect(port);
    q3_http_compose(&request, "POST", "/v1/chat/completions", NULL, body, strlen(body));
    q3_http_send(fd, request.data, request.size);
    q3_text_free(&request);
    assert_true(q3_http_read_until(all, fd, "\"content\":\"a"));
    return fd;
}

static void a_signal_lets_answers_end(void **state)
{
    (void)state;
    q3_text all = { 0 };
    q3_process p = start((const char *[]){ "--model", MODEL, "--port", "0", "--kv-tokens", "4096", NULL });
    int port = ready(&p), fd = begin_stream(port, &all, "1");
    kill(p.pid, SIGTERM);
    assert_true(q3_http_read_until(&all, fd, "data: [DONE]"));
    close(fd);
    q3_text_free(&all);
    expect_end(&p, 0, "SIGTERM: no more requests are taken");
}

static void answers_that_take_too_long_are_cut_short(void **state)
{
    (void)state;
    q3_text all = { 0 };
    q3_process p = start((const char *[]){ "--model", MODEL, "--port", "0", "--kv-tokens", "16384",
                                           "--drain-seconds", "0", NULL });
    int port = ready(&p), fd = begin_stream(port, &all, "12");
    kill(p.pid, SIGINT);
    assert_true(q3_http_read_until(&all, fd, "the answer was cut short: the server is stopping"));
    close(fd);
    q3_text_free(&all);
    expect_end(&p, 130, "answers were cut short: 0 s were not enough for them (--drain-seconds)");
}

static void a_taken_port_is_named(void **state)
{
    (void)state;
    char port[16];
    q3_process p = start((const char *[]){ "--model", MODEL, "--port", "0", "--api-key", "k", NULL });
    snprintf(port, sizeof port, "%d", ready(&p));
    refuse((const char *[]){ "--model", MODEL, "--port", port, NULL }, 6, "Address already in use");
    q3_reply_expect(q3_http(atoi(port), "GET", "/v1/models", NULL, NULL), 401, "error.message",
                    "a valid key is needed: Authorization: Bearer KEY");
    q3_reply_expect(q3_http(atoi(port), "GET", "/v1/models", "Authorization: Bearer k\r\n", NULL), 200,
                    "data.0.id", "model");
    q3_reply r = q3_http(atoi(port), "POST", "/shutdown", "Authorization: Bearer k\r\n", "{}");
    assert_int_equal(r.status, 404); // Cog's alone
    q3_reply_free(&r);
    kill(p.pid, SIGTERM);
    expect_end(&p, 0, "SIGTERM");
}

static void cog_is_served_alone_and_shut_down(void **state)
{
    (void)state;
    q3_process p = start(
        (const char *[]){ "--model", MODEL, "--api", "cog", "--host", "127.0.0.1", "--port", "0", NULL });
    int port = ready(&p);
    q3_reply_expect(q3_http(port, "GET", "/", NULL, NULL), 200, "predictions_url", "/predictions");
    q3_reply_expect(q3_http(port, "GET", "/health-check", NULL, NULL), 200, "setup.status", "succeeded");
    q3_reply r = q3_http(port, "GET", "/v1/models", NULL, NULL);
    assert_int_equal(r.status, 404);
    q3_reply_free(&r);
    r = q3_http(port, "POST", "/shutdown", NULL, "");
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "{}");
    q3_reply_free(&r);
    expect_end(&p, 0, "no more requests are taken");
}

static void the_first_of_several_processes_serves(void **state)
{
    (void)state;
    if (system("command -v mpirun >/dev/null") != 0)
        skip();
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 1);
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); // Open MPI keeps what it has allocated
    q3_process p = { 0 };
    const char *const words[] = { "mpirun",  "-n",  "2",          "--quiet", Q3_PROGRAM, "serve",
                                  "--model", MODEL, "--api",      "cog",     "--host",   "127.0.0.1",
                                  "--port",  "0",   "--parallel", "tensor" };
    q3_process_add(&p, "/usr/bin/env");
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        q3_process_add(&p, words[i]);
    q3_process_start(&p);
    int port = ready(&p);
    q3_reply_expect(
        q3_http(port, "POST", "/predictions", NULL,
                "{\"input\": {\"prompt\": \"hello\", \"max_new_tokens\": 2, \"temperature\": 0}}"),
        200, "status", "succeeded");
    q3_reply r = q3_http(port, "POST", "/shutdown", NULL, "");
    assert_int_equal(r.status, 200);
    q3_reply_free(&r);
    q3_process_wait(&p);
    unsetenv("ASAN_OPTIONS");
    assert_int_equal(p.code, 0);
    const char *first = strstr(p.err, "listening");
    assert_null(strstr(first + 1, "listening"));
    q3_process_free(&p);
}

static void an_open_door_is_warned_of(void **state)
{
    (void)state;
    q3_process p = start((const char *[]){ "--model", MODEL, "--host", "0.0.0.0", "--port", "0", NULL });
    wait_for(&p, "ready ");
    kill(p.pid, SIGTERM);
    expect_end(&p, 0, "warning: anybody who reaches 0.0.0.0 can use this server; --api-key asks for a key");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_options_are_refused),
        cmocka_unit_test(the_schema_needs_no_model),
        cmocka_unit_test(a_signal_lets_answers_end),
        cmocka_unit_test(answers_that_take_too_long_are_cut_short),
        cmocka_unit_test(a_taken_port_is_named),
        cmocka_unit_test(cog_is_served_alone_and_shut_down),
        cmocka_unit_test(the_first_of_several_processes_serves),
        cmocka_unit_test(an_open_door_is_warned_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
