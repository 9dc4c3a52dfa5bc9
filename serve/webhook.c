#include "serve/webhook.h"

#include <curl/curl.h>
#include <string.h>
#include <time.h>

#include "core/log.h"

/* As cog's own server has them (crates/coglet, v0.22), but for the number of attempts, which is bounded so
 * that a thread ends: 12 of them wait 205 s in all. */
enum { DEFAULT_TIMEOUT = 30, FIRST_WAIT_MS = 100, ATTEMPTS = 12, HEADER_BYTES = 1024 };

static const double default_interval = 0.5;

bool q3_webhook_due(const q3_webhook *hook, unsigned event)
{
    if (!hook->url || !(hook->events & event))
        return false;
    if (event & (Q3_WEBHOOK_START | Q3_WEBHOOK_COMPLETED))
        return true;
    return q3_seconds() - hook->last >= (hook->interval > 0 ? hook->interval : default_interval);
}

static size_t drop_bytes(char *data, size_t size, size_t n, void *arg)
{
    (void)data;
    (void)arg;
    return size * n;
}

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
    q3_webhook *hook = arg;
    (void)purpose;
    hook->refused = hook->judge && !hook->judge(&a->addr);
    if (hook->refused)
        return CURL_SOCKET_BAD;
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static struct curl_slist *add_header(struct curl_slist *list, const char *name, const char *value)
{
    char line[HEADER_BYTES];
    if (!value || strpbrk(value, "\r\n") ||
        snprintf(line, sizeof line, "%s%s", name, value) >= (int)sizeof line)
        return list;
    struct curl_slist *longer = curl_slist_append(list, line);
    return longer ? longer : list;
}

static struct curl_slist *headers_of(const q3_webhook *hook)
{
    struct curl_slist *list = curl_slist_append(NULL, "Content-Type: application/json");
    list = add_header(list, "Authorization: Bearer ", hook->token);
    list = add_header(list, "traceparent: ", hook->traceparent);
    return add_header(list, "tracestate: ", hook->tracestate);
}

static bool worth_another(CURLcode code, long status)
{
    if (code == CURLE_OK)
        return status == 429 || status == 500 || (status >= 502 && status <= 504);
    return code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ||
           code == CURLE_OPERATION_TIMEDOUT || code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR ||
           code == CURLE_SEND_ERROR;
}

static void set_options(CURL *c, q3_webhook *hook, struct curl_slist *headers, const char *body, size_t n)
{
    curl_easy_setopt(c, CURLOPT_URL, hook->url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_POST, 1L);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)n);
    curl_easy_setopt(c, CURLOPT_TIMEOUT,
                     (long)(hook->timeout_seconds ? hook->timeout_seconds : DEFAULT_TIMEOUT));
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "qwen3-sft/" Q3_VERSION);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, drop_bytes);
    if (hook->judge) {
        curl_easy_setopt(c, CURLOPT_PROXY, ""); // which would do the connecting
        curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket);
        curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, hook);
    }
}

static bool is_stopped(const q3_webhook *hook)
{
    return hook->stop && atomic_load(hook->stop);
}

/* Waits in short steps, so that stopping need not wait long. */
static void rest(const q3_webhook *hook, int attempt)
{
    static const struct timespec step = { .tv_nsec = FIRST_WAIT_MS * 1000000L };
    for (int i = 0; i < 1 << attempt && !is_stopped(hook); i++)
        nanosleep(&step, NULL);
}

static void post(CURL *c, const q3_webhook *hook, int attempts)
{
    for (int i = 0; i < attempts; i++) {
        long status = 0;
        CURLcode code = curl_easy_perform(c);
        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
        if (code == CURLE_OK && status < 400)
            return;
        if (hook->refused) {
            q3_warn("webhook %.200s: its address is not of the public internet (--webhooks)", hook->url);
            return;
        }
        if (i + 1 < attempts && worth_another(code, status) && !is_stopped(hook)) {
            rest(hook, i);
            continue;
        }
        q3_warn("webhook %.200s: %s (status %ld)", hook->url, code ? curl_easy_strerror(code) : "refused",
                status);
        return;
    }
}

void q3_webhook_send(q3_webhook *hook, unsigned event, const char *body, size_t n)
{
    if (!q3_webhook_due(hook, event))
        return;
    if (event & (Q3_WEBHOOK_OUTPUT | Q3_WEBHOOK_LOGS))
        hook->last = q3_seconds();
    CURL *c = curl_easy_init();
    struct curl_slist *headers = headers_of(hook);
    if (c && headers) {
        set_options(c, hook, headers, body, n);
        post(c, hook, event == Q3_WEBHOOK_COMPLETED ? ATTEMPTS : 1);
    }
    curl_slist_free_all(headers);
    curl_easy_cleanup(c);
}
