/* HTTP without a model: a face of a few routes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/log.h"
#include "serve/server.h"
#include "tests/support/http.h"

enum { BODY = 1000 };

/* What a route under test waits for, and whether its client has hung up. */
typedef struct slow {
    q3_exchange *x;
    pthread_mutex_t lock;
    bool asleep, ready;
    int pieces;
} slow;

static slow waiting = { .lock = PTHREAD_MUTEX_INITIALIZER };
static atomic_int hung_up, released;
static q3_server *server;

static void put_error(q3_exchange *x, int status, const char *sentence)
{
    q3_text_printf(&x->out, "{\"error\":{\"message\":\"%s\",\"status\":%d}}", sentence, status);
}

static void echo(q3_exchange *x)
{
    const char *more = q3_exchange_query(x, "more");
    q3_text_printf(&x->out, "{\"param\":\"%s\",\"more\":\"%s\",\"n\":%zu,\"body\":\"%s\"}", x->param,
                   more ? more : "", x->body_bytes, x->body);
}

static void note_hung_up(void *state)
{
    (void)state;
    atomic_fetch_add(&hung_up, 1);
}

static void note_released(void *state)
{
    (void)state;
    atomic_fetch_add(&released, 1);
}

/* Three pieces, the last two of which come when release_pieces is called. */
static q3_poll poll_pieces(q3_exchange *x)
{
    slow *s = x->state;
    q3_poll p = Q3_POLL_MORE;
    pthread_mutex_lock(&s->lock);
    if (s->pieces > 0 && !s->ready) {
        s->asleep = true;
        q3_exchange_sleep(x);
        p = Q3_POLL_ASLEEP;
    } else {
        q3_text_printf(&x->out, "piece %d\n", s->pieces++);
        p = s->pieces == 3 ? Q3_POLL_DONE : Q3_POLL_MORE;
    }
    pthread_mutex_unlock(&s->lock);
    return p;
}

static void release_pieces(void)
{
    pthread_mutex_lock(&waiting.lock);
    waiting.ready = true;
    if (waiting.asleep) {
        waiting.asleep = false;
        q3_exchange_wake(waiting.x);
    }
    pthread_mutex_unlock(&waiting.lock);
}

static void start_pieces(q3_exchange *x, bool streaming)
{
    waiting.x = x;
    waiting.pieces = 0;
    waiting.ready = waiting.asleep = false;
    x->state = &waiting;
    x->poll = poll_pieces;
    x->streaming = streaming;
    x->gone = note_hung_up;
    x->release = note_released;
}

static void stream(q3_exchange *x)
{
    start_pieces(x, true);
}

static void whole(q3_exchange *x)
{
    start_pieces(x, false);
}

static const q3_route routes[] = {
    { "POST", "/echo", echo, false }, { "GET", "/things/{id}/name", echo, false },
    { "GET", "/open", echo, true },   { "GET", "/stream", stream, true },
    { "GET", "/whole", whole, true },
};
static const q3_face face = { .routes = routes, .n_routes = 5, .fail = put_error };
static const q3_face *const faces[] = { &face };
static const char *const keys[] = { "first-key", "second" };

static int start(void **state)
{
    (void)state;
    const q3_server_options o = { .body_bytes = BODY,
                                  .keys = keys,
                                  .n_keys = 2,
                                  .cors = "https://page.example",
                                  .request_seconds = 1,
                                  .faces = faces,
                                  .n_faces = 1 };
    return q3_server_start(&server, &o) != Q3_OK;
}

static int stop(void **state)
{
    (void)state;
    q3_server_stop(server);
    return 0;
}

#define KEY "Authorization: Bearer first-key\r\n"

static void wait_for(atomic_int *count, int value)
{
    static const struct timespec moment = { .tv_nsec = 10000000 };
    for (int i = 0; i < 500 && atomic_load(count) < value; i++)
        nanosleep(&moment, NULL);
    assert_int_equal(atomic_load(count), value);
}

static void body_and_parameters_reach_the_handler(void **state)
{
    (void)state;
    q3_reply r = q3_http(q3_server_port(server), "POST", "/echo?more=a%20b", KEY, "hello");
    assert_int_equal(r.status, 200);
    assert_string_equal(q3_reply_string(&r, "body"), "hello");
    assert_string_equal(q3_reply_string(&r, "more"), "a b");
    assert_string_equal(q3_reply_header(&r, "Content-Type"), "application/json");
    q3_reply_free(&r);
    r = q3_http(q3_server_port(server), "GET", "/things/x-1/name", KEY, NULL);
    assert_string_equal(q3_reply_string(&r, "param"), "x-1");
    q3_reply_free(&r);
}

static void routes_match_whole_paths(void **state)
{
    (void)state;
    const char *param;
    size_t n;
    assert_true(q3_route_matches("/a/{id}/b", "/a/xyz/b", &param, &n));
    assert_int_equal(n, 3);
    assert_memory_equal(param, "xyz", 3);
    assert_false(q3_route_matches("/a/{id}/b", "/a//b", &param, &n));
    assert_false(q3_route_matches("/a/{id}", "/a/x/y", &param, &n));
    assert_false(q3_route_matches("/a", "/a/", &param, &n));
    assert_false(q3_route_matches("/a/{id}", "/a", &param, &n));
}

static void unknown_paths_and_methods_are_told_apart(void **state)
{
    (void)state;
    int port = q3_server_port(server);
    q3_reply_expect(q3_http(port, "GET", "/nowhere", KEY, NULL), 404, "error.message",
                    "there is no /nowhere here");
    q3_reply r = q3_http(port, "DELETE", "/echo", KEY, NULL);
    assert_string_equal(q3_reply_header(&r, "Allow"), "POST");
    q3_reply_expect(r, 405, "error.message", "/echo takes POST, not DELETE");
    r = q3_http(port, "HEAD", "/open", NULL, NULL);
    assert_int_equal(r.status, 200);
    assert_int_equal(r.size, 0);
    q3_reply_free(&r);
}

static void a_key_opens_what_is_not_open(void **state)
{
    (void)state;
    int port = q3_server_port(server);
    const char *sentence = "a valid key is needed: Authorization: Bearer KEY";
    q3_reply_expect(q3_http(port, "POST", "/echo", NULL, "x"), 401, "error.message", sentence);
    q3_reply_expect(q3_http(port, "POST", "/echo", "Authorization: Bearer first-ke\r\n", "x"), 401,
                    "error.message", sentence);
    q3_reply_expect(q3_http(port, "POST", "/echo", "Authorization: Basic first-key\r\n", "x"), 401,
                    "error.message", sentence);
    q3_reply r = q3_http(port, "POST", "/echo", "Authorization: bearer second\r\n", "x");
    assert_int_equal(r.status, 200);
    q3_reply_free(&r);
    r = q3_http(port, "GET", "/open", NULL, NULL);
    assert_int_equal(r.status, 200);
    q3_reply_free(&r);
    assert_false(q3_server_key_fits(keys, 2, "Bearer "));
    assert_false(q3_server_key_fits(keys, 2, "Bearer secondsecond"));
}

static void large_bodies_are_refused_with_a_sentence(void **state)
{
    (void)state;
    char body[BODY + 2];
    memset(body, 'x', sizeof body);
    q3_reply r = q3_http_bytes(q3_server_port(server), "POST", "/echo", KEY, body, BODY);
    assert_int_equal(q3_reply_number(&r, "n"), BODY);
    q3_reply_free(&r);
    r = q3_http_bytes(q3_server_port(server), "POST", "/echo", KEY, body, BODY + 1);
    q3_reply_expect(r, 413, "error.message", "the body has more than the 1000 bytes that are allowed");
}

static void a_body_without_end_is_cut_off(void **state)
{
    (void)state;
    enum { HUGE = 1 << 20 };
    char *body = calloc(1, HUGE);
    assert_non_null(body);
    memset(body, 'x', HUGE);
    q3_reply r = q3_http_bytes(q3_server_port(server), "POST", "/echo", KEY, body, HUGE);
    assert_true(r.status == 0 || r.status == 413);
    q3_reply_free(&r);
    free(body);
}

static int begin_to_say(int port, const char *text)
{
    int fd = q3_http_connect(port);
    q3_http_send(fd, text, strlen(text));
    return fd;
}

static void expect_answer(int fd)
{
    q3_text all = { 0 };
    assert_true(q3_http_read_until(&all, fd, "\"body\":\"\"}"));
    q3_text_free(&all);
}

static bool has_closed(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno == ECONNRESET);
}

/* Sends a byte to each of n now and then until they have closed; seconds[i] after the call. */
static void drip(double *seconds, const int *fds, int n)
{
    static const struct timespec moment = { .tv_nsec = 20000000 };
    double start = q3_seconds();
    memset(seconds, 0, (size_t)n * sizeof *seconds);
    for (int open = n; open && q3_seconds() < start + 10;) {
        nanosleep(&moment, NULL);
        for (int i = 0; i < n; i++) {
            if (seconds[i] > 0)
                continue;
            q3_http_send(fds[i], "x", 1);
            seconds[i] = has_closed(fds[i]) ? q3_seconds() - start : 0;
            open -= seconds[i] > 0;
        }
    }
}

#define OPEN "GET /open HTTP/1.1\r\nHost: x\r\n"
#define POST "POST /echo HTTP/1.1\r\nHost: x\r\n" KEY

/* The servers let a request take a second; the second closes connections that idle for one. */
static void who_asks_byte_by_byte_is_cut_off_and_who_idles_is_not(void **state)
{
    (void)state;
    q3_server *second;
    const q3_server_options o = { .idle_seconds = 1, .request_seconds = 1, .faces = faces, .n_faces = 1 };
    assert_int_equal(q3_server_start(&second, &o), Q3_OK);
    int port = q3_server_port(server);
    double seconds[3];
    int idle = begin_to_say(port, OPEN "\r\n"), later = begin_to_say(q3_server_port(second), OPEN "\r\n");
    expect_answer(idle);
    expect_answer(later);
    const int senders[] = { begin_to_say(port, OPEN "X: "),
                            begin_to_say(port, POST "Content-Length: 1000\r\n\r\nabc"), later };
    q3_http_send(later, OPEN "X: ", strlen(OPEN "X: "));
    drip(seconds, senders, 3);
    assert_true(seconds[0] > 0.9 && seconds[0] < 5);
    assert_true(seconds[1] > 0.9 && seconds[1] < 5);
    assert_true(seconds[2] > 1.9 && seconds[2] < 5); // what it may take, and might have idled before
    for (int i = 0; i < 3; i++)
        close(senders[i]);
    q3_http_send(idle, OPEN "\r\n", strlen(OPEN "\r\n"));
    expect_answer(idle);
    close(idle);
    q3_server_stop(second);
}

static void expect_status(const char *text, int status, bool closed)
{
    char line[32];
    q3_text all = { 0 };
    int fd = begin_to_say(q3_server_port(server), text);
    snprintf(line, sizeof line, "HTTP/1.1 %d ", status);
    assert_true(q3_http_read_until(&all, fd, line));
    if (closed)
        assert_false(q3_http_read_until(&all, fd, "HTTP/1.1 200"));
    close(fd);
    q3_text_free(&all);
}

/* What looks like a second request in them is none. */
static void bodies_with_two_ends_are_refused(void **state)
{
    (void)state;
    expect_status(POST "Content-Length: 4\r\nContent-Length: 0\r\n\r\n" OPEN "\r\n", 400, true);
    expect_status(POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" OPEN "\r\n", 400,
                  true);
    expect_status(POST "Content-Length : 4\r\n\r\n" OPEN "\r\n", 400, true);
    expect_status(POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" OPEN "\r\n", 501, true);
    expect_status(POST "Transfer-Encoding: chunked\r\n\r\nzz\r\n" OPEN "\r\n", 400, true);
    expect_status(POST "Content-Length: -1\r\n\r\n" OPEN "\r\n", 400, true);
    expect_status("GET /open HTTP/1.1\r\n\r\n", 400, true);
    expect_status(POST "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 200, false);
}

static void requests_in_a_row_are_answered_in_order(void **state)
{
    (void)state;
    q3_text all = { 0 };
    int fd = begin_to_say(q3_server_port(server),
                          POST "Content-Length: 1\r\n\r\na" OPEN "\r\nPUT /open HTTP/1.1\r\n"
                               "Host: x\r\nConnection: close\r\n\r\n");
    assert_false(q3_http_read_until(&all, fd, "never"));
    const char *first = strstr(all.data, "\"body\":\"a\""), *second = strstr(all.data, "\"body\":\"\"");
    assert_true(first && second && first < second);
    assert_non_null(strstr(second, "HTTP/1.1 405"));
    close(fd);
    q3_text_free(&all);
}

static void a_head_without_measure_is_refused(void **state)
{
    (void)state;
    q3_text head = { 0 };
    q3_text_printf(&head, OPEN "X: %040d\r\n\r\n", 0);
    expect_status(head.data, 200, false);
    q3_text_free(&head);
    q3_text_printf(&head, OPEN "X: %040000d\r\n\r\n", 0);
    expect_status(head.data, 431, true);
    q3_text_free(&head);
    q3_text_printf(&head, OPEN);
    for (int i = 0; i < 5000; i++)
        q3_text_printf(&head, "X: y\r\n");
    q3_text_printf(&head, "\r\n");
    expect_status(head.data, 431, true);
    q3_text_free(&head);
}

static void escapes_are_decoded_but_for_nul(void **state)
{
    (void)state;
    int port = q3_server_port(server);
    q3_reply r = q3_http(port, "GET", "/%6fpen?more=%2b%zz%4", NULL, NULL);
    assert_string_equal(q3_reply_string(&r, "more"), "+%zz%4");
    q3_reply_free(&r);
    q3_reply_expect(q3_http(port, "GET", "/open%00/more", KEY, NULL), 404, "error.message",
                    "there is no /open%00/more here");
    q3_reply_expect(q3_http(port, "GET", "/things/a%2Fb/name", KEY, NULL), 404, "error.message",
                    "there is no /things/a/b/name here");
}

static void a_path_cannot_begin_a_line_of_the_log(void **state)
{
    (void)state;
    char log[300] = "";
    int err = dup(STDERR_FILENO), ends[2];
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    q3_reply r = q3_http(q3_server_port(server), "GE\x1bT", "/a%0ab%1b[31m%ff", NULL, NULL);
    bool over = q3_server_wait(server, 5);
    dup2(err, STDERR_FILENO);
    assert_true(over && read(ends[0], log, sizeof log - 1) > 0);
    assert_non_null(strstr(log, " GE?T /a?b?[31m? 404 "));
    for (int i = 0; i < 2; i++)
        close(ends[i]);
    close(err);
    q3_reply_free(&r);
}

static void request_ids_are_kept_or_made(void **state)
{
    (void)state;
    q3_reply r = q3_http(q3_server_port(server), "GET", "/open", "X-Request-Id: abc-1.2\r\n", NULL);
    assert_string_equal(q3_reply_header(&r, "X-Request-Id"), "abc-1.2");
    q3_reply_free(&r);
    r = q3_http(q3_server_port(server), "GET", "/open", "X-Request-Id: a b\r\n", NULL);
    assert_int_equal(strlen(q3_reply_header(&r, "X-Request-Id")), 32);
    q3_reply_free(&r);
}

static void one_origin_may_ask(void **state)
{
    (void)state;
    q3_reply r =
        q3_http(q3_server_port(server), "OPTIONS", "/echo", "Origin: https://page.example\r\n", NULL);
    assert_int_equal(r.status, 204);
    assert_string_equal(q3_reply_header(&r, "Access-Control-Allow-Origin"), "https://page.example");
    q3_reply_free(&r);
}

static void pieces_are_sent_as_they_come(void **state)
{
    (void)state;
    static const char request[] = "GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    q3_text all = { 0 };
    int fd = q3_http_connect(q3_server_port(server));
    q3_http_send(fd, request, sizeof request - 1);
    assert_true(q3_http_read_until(&all, fd, "piece 0"));
    assert_null(strstr(all.data, "piece 1"));
    release_pieces();
    assert_true(q3_http_read_until(&all, fd, "piece 2"));
    q3_http_read_until(&all, fd, "never");
    close(fd);
    q3_text_free(&all);
    wait_for(&released, 1);
    assert_int_equal(atomic_load(&hung_up), 0);
}

static void who_hangs_up_is_noticed(void **state)
{
    (void)state;
    static const char request[] = "GET /whole HTTP/1.1\r\nHost: x\r\n\r\n";
    int before = atomic_load(&released);
    int fd = q3_http_connect(q3_server_port(server));
    q3_http_send(fd, request, sizeof request - 1);
    const struct timespec moment = { .tv_nsec = 50000000 };
    nanosleep(&moment, NULL);
    close(fd);
    wait_for(&hung_up, 1);
    release_pieces();
    wait_for(&released, before + 1);
}

static void the_port_is_named_when_it_is_taken(void **state)
{
    (void)state;
    q3_server *second;
    const q3_server_options o = { .port = q3_server_port(server), .faces = faces, .n_faces = 1 };
    char sentence[200];
    assert_int_equal(q3_server_start(&second, &o), Q3_ERR_NETWORK);
    snprintf(sentence, sizeof sentence, "cannot listen at 127.0.0.1, port %d: Address already in use",
             o.port);
    assert_string_equal(q3_error(), sentence);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(body_and_parameters_reach_the_handler),
        cmocka_unit_test(routes_match_whole_paths),
        cmocka_unit_test(unknown_paths_and_methods_are_told_apart),
        cmocka_unit_test(a_key_opens_what_is_not_open),
        cmocka_unit_test(large_bodies_are_refused_with_a_sentence),
        cmocka_unit_test(a_body_without_end_is_cut_off),
        cmocka_unit_test(who_asks_byte_by_byte_is_cut_off_and_who_idles_is_not),
        cmocka_unit_test(bodies_with_two_ends_are_refused),
        cmocka_unit_test(requests_in_a_row_are_answered_in_order),
        cmocka_unit_test(a_head_without_measure_is_refused),
        cmocka_unit_test(escapes_are_decoded_but_for_nul),
        cmocka_unit_test(request_ids_are_kept_or_made),
        cmocka_unit_test(one_origin_may_ask),
        cmocka_unit_test(pieces_are_sent_as_they_come),
        cmocka_unit_test(who_hangs_up_is_noticed),
        cmocka_unit_test(the_port_is_named_when_it_is_taken),
    };
    const struct CMUnitTest logged[] = { cmocka_unit_test(a_path_cannot_begin_a_line_of_the_log) };
    int failed = cmocka_run_group_tests(tests, start, stop);
    q3_log_set_level(Q3_LOG_DETAIL); // while no thread of a server reads it
    return failed + cmocka_run_group_tests(logged, start, stop);
}
