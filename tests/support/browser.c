#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/browser.h"

enum {
    PATIENCE = 60000, // ms for an answer: browsers are slow to start on a machine that is busy
    PIECE = 1 << 16,
};

struct q3_browser {
    pid_t pid;
    int to, from;
    int number;         // of the last message sent
    char session[64];   // the page's
    q3_text in;         // what came and is not read yet
    q3_text complaints; // with a NUL
    char value[4096];
};

const char *q3_browser_find(void)
{
    static const char *const names[] = { "chromium", "chromium-browser", "google-chrome", "chrome" };
    static char path[4096];
    const char *places = getenv("PATH");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (const char *at = places; at && *at; at += strcspn(at, ":"), at += *at == ':') {
            snprintf(path, sizeof path, "%.*s/%s", (int)strcspn(at, ":"), at, names[i]);
            if (access(path, X_OK) == 0)
                return path;
        }
    return NULL;
}

/* In the child: the pipes' ends become 3 and 4, by way of numbers that are neither. */
static _Noreturn void become(const char *program, const char *profile_dir, int in, int out)
{
    char profile[600];
    snprintf(profile, sizeof profile, "--user-data-dir=%s", profile_dir);
    const char *const argv[] = {
        program,         "--headless=new",
        "--no-sandbox", // there is none for root, as in containers; the page is our own
        "--disable-gpu", "--remote-debugging-pipe", profile, "about:blank", NULL
    };
    int null = open("/dev/null", O_RDWR);
    int high_in = fcntl(in, F_DUPFD, 10), high_out = fcntl(out, F_DUPFD, 10);
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    dup2(high_in, 3);
    dup2(high_out, 4);
    execv(program, (char *const *)(uintptr_t)argv);
    _exit(127);
}

/* The next message; its owner deletes it. */
static cJSON *read_message(q3_browser *b)
{
    char piece[PIECE];
    const char *end;
    while (!b->in.size || !(end = memchr(b->in.data, 0, b->in.size))) {
        struct pollfd p = { .fd = b->from, .events = POLLIN };
        if (poll(&p, 1, PATIENCE) != 1)
            fail_msg("the browser says nothing for %d s", PATIENCE / 1000);
        ssize_t n = read(b->from, piece, sizeof piece);
        if (n <= 0)
            fail_msg("the browser has ended");
        q3_text_append(&b->in, piece, (size_t)n);
    }
    cJSON *m = cJSON_Parse(b->in.data);
    size_t used = (size_t)(end - b->in.data) + 1;
    memmove(b->in.data, b->in.data + used, b->in.size - used);
    b->in.size -= used;
    assert_non_null(m);
    return m;
}

static const cJSON *find(const cJSON *m, const char *a, const char *b, const char *c)
{
    m = cJSON_GetObjectItemCaseSensitive(m, a);
    m = b ? cJSON_GetObjectItemCaseSensitive(m, b) : m;
    return c ? cJSON_GetObjectItemCaseSensitive(m, c) : m;
}

static void note_complaint(q3_browser *b, const cJSON *m)
{
    const char *method = cJSON_GetStringValue(find(m, "method", NULL, NULL));
    const char *text = NULL;
    if (method && strcmp(method, "Log.entryAdded") == 0)
        text = cJSON_GetStringValue(find(find(m, "params", "entry", NULL), "text", NULL, NULL));
    if (method && strcmp(method, "Runtime.exceptionThrown") == 0)
        text = cJSON_GetStringValue(
            find(find(m, "params", "exceptionDetails", "exception"), "description", NULL, NULL));
    if (text)
        q3_text_printf(&b->complaints, "%s\n", text);
}

/* Sends a command and waits for its result. `params` is a JSON object, taken. */
static cJSON *command(q3_browser *b, const char *method, cJSON *params)
{
    cJSON *m = cJSON_CreateObject();
    cJSON_AddNumberToObject(m, "id", ++b->number);
    cJSON_AddStringToObject(m, "method", method);
    if (*b->session)
        cJSON_AddStringToObject(m, "sessionId", b->session);
    cJSON_AddItemToObject(m, "params", params ? params : cJSON_CreateObject());
    char *text = cJSON_PrintUnformatted(m);
    assert_non_null(text);
    for (size_t n = strlen(text) + 1, at = 0; at < n;) {
        ssize_t sent = write(b->to, text + at, n - at);
        assert_true(sent > 0);
        at += (size_t)sent;
    }
    cJSON_free(text);
    cJSON_Delete(m);
    for (;; cJSON_Delete(m)) {
        m = read_message(b);
        const cJSON *id = find(m, "id", NULL, NULL);
        if (id && id->valueint == b->number)
            break;
        note_complaint(b, m);
    }
    if (find(m, "error", NULL, NULL))
        fail_msg("%s: %s", method, cJSON_GetStringValue(find(m, "error", "message", NULL)));
    return m;
}

static void tell(q3_browser *b, const char *method, cJSON *params)
{
    cJSON_Delete(command(b, method, params));
}

static cJSON *with_string(const char *name, const char *value)
{
    cJSON *params = cJSON_CreateObject();
    cJSON_AddStringToObject(params, name, value);
    return params;
}

static void open_page(q3_browser *b)
{
    cJSON *m = command(b, "Target.createTarget", with_string("url", "about:blank"));
    cJSON *attach = with_string("targetId", cJSON_GetStringValue(find(m, "result", "targetId", NULL)));
    cJSON_AddBoolToObject(attach, "flatten", true);
    cJSON_Delete(m);
    m = command(b, "Target.attachToTarget", attach);
    snprintf(b->session, sizeof b->session, "%s", cJSON_GetStringValue(find(m, "result", "sessionId", NULL)));
    cJSON_Delete(m);
    tell(b, "Page.enable", NULL);
    tell(b, "Runtime.enable", NULL);
    tell(b, "Log.enable", NULL);
}

q3_browser *q3_browser_open(const char *program, const char *profile_dir)
{
    int to[2], from[2];
    q3_browser *b = q3_calloc(1, sizeof *b);
    assert_non_null(b);
    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    fflush(NULL);
    b->pid = fork();
    assert_true(b->pid >= 0);
    if (b->pid == 0)
        become(program, profile_dir, to[0], from[1]);
    close(to[0]);
    close(from[1]);
    b->to = to[1];
    b->from = from[0];
    open_page(b);
    return b;
}

void q3_browser_close(q3_browser *b)
{
    kill(b->pid, SIGTERM);
    waitpid(b->pid, NULL, 0);
    close(b->to);
    close(b->from);
    q3_text_free(&b->in);
    q3_text_free(&b->complaints);
    q3_free(b);
}

void q3_browser_size(q3_browser *b, int width, int height)
{
    cJSON *params = cJSON_CreateObject();
    cJSON_AddNumberToObject(params, "width", width);
    cJSON_AddNumberToObject(params, "height", height);
    cJSON_AddNumberToObject(params, "deviceScaleFactor", 1);
    cJSON_AddBoolToObject(params, "mobile", false);
    tell(b, "Emulation.setDeviceMetricsOverride", params);
}

void q3_browser_go(q3_browser *b, const char *url)
{
    char there[1024];
    snprintf(there, sizeof there, "location.href === '%s' && document.readyState === 'complete'", url);
    tell(b, "Page.navigate", with_string("url", url));
    q3_browser_wait(b, there);
}

const char *q3_browser_value(q3_browser *b, const char *expression)
{
    q3_text code = { 0 };
    q3_text_printf(&code, "(async () => String(await (%s)))()", expression);
    cJSON *params = with_string("expression", code.data);
    cJSON_AddBoolToObject(params, "awaitPromise", true);
    cJSON *m = command(b, "Runtime.evaluate", params);
    const char *value = cJSON_GetStringValue(find(m, "result", "result", "value"));
    if (!value || find(m, "result", "exceptionDetails", NULL))
        fail_msg("%s failed in the page", expression);
    snprintf(b->value, sizeof b->value, "%s", value);
    cJSON_Delete(m);
    q3_text_free(&code);
    return b->value;
}

void q3_browser_wait(q3_browser *b, const char *expression)
{
    static const struct timespec moment = { .tv_nsec = 20000000 };
    for (int i = 0; i < 1000; i++, nanosleep(&moment, NULL))
        if (strcmp(q3_browser_value(b, expression), "true") == 0)
            return;
    fail_msg("%s never becomes true", expression);
}

const char *q3_browser_complaints(const q3_browser *b)
{
    return b->complaints.data ? b->complaints.data : "";
}
