/* serve/page.html in a browser, in front of a server on the tiny base; skipped where there is no Chromium. */
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

#include "core/file.h"
#include "eval/report_text.h"
#include "tests/support/browser.h"
#include "tests/support/http.h"
#include "tests/support/process.h"

#define QUESTION "Text: What a lovely day!\\nIs this post sarcastic? Answer in JSON."

static q3_process server;
static int port;
static q3_browser *browser;

/* ---- the server ---- */

/* What stands behind `text` in what the server has said so far. */
static const char *wait_for(const char *text)
{
    static char all[4096];
    static const struct timespec moment = { .tv_nsec = 10000000 };
    for (int i = 0; i < 2000 && !q3_process_ended(&server); i++, nanosleep(&moment, NULL)) {
        ssize_t n = pread(fileno(server.files[1]), all, sizeof all - 1, 0);
        all[n > 0 ? n : 0] = 0;
        const char *at = strstr(all, text);
        if (at && strchr(at, '\n'))
            return at + strlen(text);
    }
    fail_msg("no \"%s\" in %s", text, all);
    return NULL;
}

static void start_server(void)
{
    static const char *const arguments[] = { Q3_PROGRAM, "serve", "--model",     "assets/tiny-base",
                                             "--device", "cpu",   "--kv-tokens", "4096",
                                             "--port",   "0" };
    for (size_t i = 0; i < sizeof arguments / sizeof *arguments; i++)
        q3_process_add(&server, arguments[i]);
    q3_process_start(&server);
    wait_for("ready ");
    port = atoi(wait_for("http://127.0.0.1:"));
}

/* ---- the page ---- */

static void expect(const char *expression, const char *value)
{
    assert_string_equal(q3_browser_value(browser, expression), value);
}

/* A page without a past, with a message from its address. */
static void open_page(void)
{
    char url[100];
    if (!browser)
        skip();
    q3_browser_go(browser, "about:blank");
    snprintf(url, sizeof url, "http://127.0.0.1:%d/#ask=Hello%%20there", port);
    q3_browser_go(browser, url);
    q3_browser_wait(browser, "panes.length === 1");
}

static void say(const char *text)
{
    char code[400];
    snprintf(code, sizeof code, "$('text').value = \"%s\", $('temperature').value = 0, $('send').click()",
             text);
    q3_browser_value(browser, code);
    q3_browser_wait(browser, "!$('send').disabled");
}

static void a_question_is_answered(void **state)
{
    (void)state;
    open_page();
    expect("$('about').textContent", "tiny-base");
    expect("$('text').value", "Hello there");
    say(QUESTION);
    q3_reply r = q3_http(
        port, "POST", "/v1/chat/completions", NULL,
        "{\"temperature\":0,\"max_tokens\":512,\"messages\":[{\"role\":\"user\",\"content\":\"" QUESTION
        "\"}]}");
    expect("document.querySelector('.turn:last-child').textContent",
           q3_reply_string(&r, "choices.0.message.content"));
    expect("document.querySelectorAll('.turn').length", "2");
    expect("/^\\d+ tokens, \\d+\\.\\d tokens\\/s/.test(panes[0].rate.textContent)", "true");
    expect("$('text').value", "");
    q3_reply_free(&r);
    expect("$('fresh').click(), document.querySelectorAll('.turn').length", "0");
    assert_string_equal(q3_browser_complaints(browser), "");
}

static void labels_have_their_probabilities(void **state)
{
    (void)state;
    open_page();
    q3_browser_value(browser, "$('labels').value = 'sarcastic, not_sarcastic'");
    say(QUESTION);
    expect("[...document.querySelectorAll('.bars span:nth-child(3n+1)')].map(s => s.textContent)",
           "sarcastic,not_sarcastic");
    expect("Math.abs([...document.querySelectorAll('.bars span:nth-child(3n)')]"
           ".reduce((sum, s) => sum + Number(s.textContent), 0) - 1) < 0.0015",
           "true");
    expect("document.querySelectorAll('.failed').length", "0");
    assert_string_equal(q3_browser_complaints(browser), "");
}

static void pictures_are_shown_and_sent(void **state)
{
    (void)state;
    char *bytes;
    size_t n;
    q3_text code = { 0 };
    open_page();
    assert_int_equal(q3_file_read(&bytes, &n, "tests/golden/formats/images/rgb-96x64.png", 1 << 20), Q3_OK);
    q3_text_printf(&code, "addFiles(Array(3).fill(new File([Uint8Array.from(atob('");
    q3_html_data_url(&code, bytes, n);
    q3_text_printf(&code, "'.split(',')[1]), c => c.charCodeAt(0))], 'a.png', { type: 'image/png' })))");
    q3_browser_value(browser, code.data);
    q3_browser_wait(
        browser,
        "[...document.querySelectorAll('#pictures img')].filter(i => i.naturalWidth === 96).length === 3");
    expect("$('pictures').firstChild.click(), pictures.length", "2");
    say("What is it?");
    expect("document.querySelectorAll('.turn.user img').length", "2");
    expect("document.querySelectorAll('.failed').length", "0");
    expect("panes[0].messages[0].content.length", "3");
    expect("panes[0].messages.length", "2");
    assert_string_equal(q3_browser_complaints(browser), "");
    q3_text_free(&code);
    q3_free(bytes);
}

static void an_error_stands_where_the_answer_would(void **state)
{
    (void)state;
    open_page();
    say("a <|im_end|> b");
    expect("document.querySelector('.turn:last-child').className", "turn failed");
    expect("document.querySelector('.turn:last-child').textContent.startsWith('the text contains the control "
           "token')",
           "true");
    expect("$('text').value", "a <|im_end|> b");
    expect("panes[0].messages.length", "0");
    say("and now?");
    expect("panes[0].messages.length", "2");
}

static void a_narrow_page_is_not_wider_than_its_window(void **state)
{
    (void)state;
    open_page();
    q3_browser_size(browser, 420, 800);
    say("yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy");
    expect("document.documentElement.scrollWidth", "420");
    q3_browser_size(browser, 1200, 800);
    expect("document.documentElement.scrollWidth", "1200");
}

static int open_all(void **state)
{
    (void)state;
    char profile[500];
    const char *program = q3_browser_find();
    if (!program) {
        printf("no Chromium is found in PATH: the page is not tried\n");
        return 0;
    }
    snprintf(profile, sizeof profile, "%s/profile", getenv("Q3_TEST_DIR"));
    assert_int_equal(q3_dir_create(profile), Q3_OK);
    start_server();
    browser = q3_browser_open(program, profile);
    q3_browser_size(browser, 1200, 800);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    if (!browser)
        return 0;
    q3_browser_close(browser);
    kill(server.pid, SIGTERM);
    int code = q3_process_wait(&server);
    if (code)
        printf("the server ended with %d: %s\n", code, server.err);
    q3_process_free(&server);
    return code;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_question_is_answered),
        cmocka_unit_test(labels_have_their_probabilities),
        cmocka_unit_test(pictures_are_shown_and_sent),
        cmocka_unit_test(an_error_stands_where_the_answer_would),
        cmocka_unit_test(a_narrow_page_is_not_wider_than_its_window),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
