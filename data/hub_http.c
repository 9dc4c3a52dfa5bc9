#include "data/hub_http.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "core/file.h"
#include "core/log.h"

enum {
    ATTEMPTS = 5,
    REDIRECTS = 10,
    SECONDS = 10,        // to connect, and of silence; as huggingface_hub has it
    FIRST_REST_MS = 500, // doubled each time
    LONGEST_REST_SECONDS = 60,
    DOCUMENT_BYTES = 64 << 20, // a page of a list has at most 1000 entries, some 500 KB
    TOKEN_BYTES = 4096,
};

struct q3_hub_http {
    CURL *curl;
    const q3_hub_repo *repo;
    char *endpoint, *token;           // token: "Authorization: Bearer ..."; NULL: none
    struct curl_slist *open, *secret; // headers for others, and for the hub
    long connect_seconds, silence_seconds;
    bool answered;   // somebody has answered: the network is there
    int retry_after; // seconds that the last answer asked for; -1: none
};

/* One request and what comes back. */
typedef struct exchange {
    q3_hub_reply reply;
    q3_hub_sink *sink;
    void *arg;
    q3_status st; // of the sink
    CURLcode code;
    char url[4096]; // asked last
    char linked_etag[132];
    int64_t linked_size;
    CURL *curl;
} exchange;

/* ---- who asks ---- */

static void start_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static q3_status read_token(q3_hub_http *h)
{
    char *path = NULL, *text = NULL;
    size_t n;
    const char *token = getenv("HF_TOKEN");
    if (q3_hub_switched_on("HF_HUB_DISABLE_IMPLICIT_TOKEN"))
        return Q3_OK;
    if (!token || !*token) {
        if (q3_hub_token_path(&path) == Q3_OK && q3_file_exists(path) &&
            q3_file_read(&text, &n, path, TOKEN_BYTES) == Q3_OK)
            token = text;
        q3_free(path);
    }
    token = token ? token + strspn(token, " \t\r\n") : "";
    n = strcspn(token, " \t\r\n");
    q3_text header = { 0 };
    if (n) {
        q3_text_printf(&header, "Authorization: Bearer ");
        q3_text_append(&header, token, n);
    }
    h->token = header.data;
    q3_free(text);
    return header.failed ? Q3_ERR_MEMORY : Q3_OK;
}

static long seconds_of(const char *variable)
{
    const char *text = getenv(variable);
    long value = text ? strtol(text, NULL, 10) : 0;
    return value > 0 && value < 86400 ? value : SECONDS;
}

static q3_status read_endpoint(q3_hub_http *h)
{
    const char *given = getenv("HF_ENDPOINT");
    h->endpoint = q3_strdup(given && *given ? given : "https://huggingface.co");
    for (size_t n = h->endpoint ? strlen(h->endpoint) : 0; n && h->endpoint[n - 1] == '/'; n--)
        h->endpoint[n - 1] = 0;
    if (!h->endpoint)
        return Q3_ERR_MEMORY;
    if (strncasecmp(h->endpoint, "https://", 8) != 0 && strncasecmp(h->endpoint, "http://", 7) != 0)
        return q3_fail(Q3_ERR_USAGE, "HF_ENDPOINT is \"%.100s\"; it must begin with https:// or http://",
                       h->endpoint);
    return Q3_OK;
}

static q3_status make_headers(q3_hub_http *h)
{
    h->open = curl_slist_append(NULL, "Accept-Encoding: identity"); // sizes are those of the files
    h->secret = curl_slist_append(NULL, "Accept-Encoding: identity");
    if (h->token && h->secret) {
        struct curl_slist *longer = curl_slist_append(h->secret, h->token);
        if (!longer)
            return q3_fail(Q3_ERR_MEMORY, "no memory to ask %s", h->endpoint);
        h->secret = longer;
    }
    return h->open && h->secret ? Q3_OK : q3_fail(Q3_ERR_MEMORY, "no memory to ask %s", h->endpoint);
}

q3_status q3_hub_http_open(q3_hub_http **out, const q3_hub_repo *repo)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_curl);
    q3_hub_http *h = *out = q3_calloc(1, sizeof *h);
    if (!h)
        return Q3_ERR_MEMORY;
    *h = (q3_hub_http){ .repo = repo, .curl = curl_easy_init(), .retry_after = -1 };
    h->connect_seconds = seconds_of("HF_HUB_ETAG_TIMEOUT");
    h->silence_seconds = seconds_of("HF_HUB_DOWNLOAD_TIMEOUT");
    q3_status st = h->curl ? read_endpoint(h) : q3_fail(Q3_ERR_MEMORY, "no memory for a transfer");
    st = st ? st : read_token(h);
    st = st ? st : make_headers(h);
    if (st != Q3_OK) {
        q3_hub_http_close(h);
        *out = NULL;
    }
    return st;
}

void q3_hub_http_close(q3_hub_http *h)
{
    if (!h)
        return;
    curl_easy_cleanup(h->curl);
    curl_slist_free_all(h->open);
    curl_slist_free_all(h->secret);
    q3_free(h->endpoint);
    q3_free(h->token);
    q3_free(h);
}

const char *q3_hub_endpoint(const q3_hub_http *h)
{
    return h->endpoint;
}

void q3_hub_escape(q3_text *out, const char *text, bool slashes)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    for (; *text; text++) {
        if (strchr(plain, *text) || (slashes && *text == '/'))
            q3_text_append(out, text, 1);
        else
            q3_text_printf(out, "%%%02X", (unsigned)(unsigned char)*text);
    }
}

/* Scheme, host and port of an address, as "https://host:443"; "" when it is none. */
static void origin_of(char *out, size_t bytes, const char *url)
{
    CURLU *u = curl_url();
    char *scheme = NULL, *host = NULL, *port = NULL;
    *out = 0;
    if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK)
        snprintf(out, bytes, "%s://%s:%s", scheme, host, port);
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(u);
}

static bool is_the_hub(const q3_hub_http *h, const char *url)
{
    char a[512], b[512];
    origin_of(a, sizeof a, h->endpoint);
    origin_of(b, sizeof b, url);
    return *a && strcasecmp(a, b) == 0;
}

/* ---- an answer ---- */

/* The value of header `name` in a line of n bytes, without white space around it; false when it is another
 * header. */
static bool value_of(char *out, size_t bytes, const char *line, size_t n, const char *name)
{
    size_t begin = strlen(name);
    if (n <= begin || line[begin] != ':' || strncasecmp(line, name, begin) != 0)
        return false;
    for (begin++; begin < n && strchr(" \t", line[begin]);)
        begin++;
    while (n > begin && strchr(" \t\r\n", line[n - 1]))
        n--;
    if (n - begin >= bytes)
        return false;
    memcpy(out, line + begin, n - begin);
    out[n - begin] = 0;
    return true;
}

/* W/"abc" and "abc" are abc. */
static void strip_etag(char *etag)
{
    char *begin = strncmp(etag, "W/", 2) == 0 ? etag + 2 : etag;
    size_t n = strlen(begin);
    if (n > 1 && *begin == '"' && begin[n - 1] == '"') {
        begin++;
        n -= 2;
    }
    memmove(etag, begin, n);
    etag[n] = 0;
}

/* Link: <https://...>; rel="next" */
static void read_link(q3_hub_reply *r, const char *text)
{
    const char *begin = strchr(text, '<'), *end = begin ? strchr(begin, '>') : NULL;
    if (end && strstr(end, "rel=\"next\"") && (size_t)(end - begin) <= sizeof r->next)
        snprintf(r->next, sizeof r->next, "%.*s", (int)(end - begin - 1), begin + 1);
}

static size_t take_header(char *line, size_t size, size_t count, void *arg)
{
    exchange *x = arg;
    q3_hub_reply *r = &x->reply;
    size_t n = size * count;
    char text[4096];
    if (n > 5 && strncmp(line, "HTTP/", 5) == 0) { // an answer begins, perhaps behind an interim one
        *r = (q3_hub_reply){ .size = -1, .range_begin = -1, .retry_after = -1 };
        x->linked_size = -1;
        *x->linked_etag = 0;
    } else if (value_of(r->error_code, sizeof r->error_code, line, n, "X-Error-Code") ||
               value_of(r->commit, sizeof r->commit, line, n, "X-Repo-Commit") ||
               value_of(x->linked_etag, sizeof x->linked_etag, line, n, "X-Linked-Etag") ||
               value_of(r->etag, sizeof r->etag, line, n, "ETag") ||
               value_of(r->location, sizeof r->location, line, n, "Location")) {
        return n;
    } else if (value_of(text, sizeof text, line, n, "X-Linked-Size")) {
        x->linked_size = strtoll(text, NULL, 10);
    } else if (value_of(text, sizeof text, line, n, "Content-Length")) {
        r->size = strtoll(text, NULL, 10);
    } else if (value_of(text, sizeof text, line, n, "Retry-After")) {
        r->retry_after = (int)strtol(text, NULL, 10);
    } else if (value_of(text, sizeof text, line, n, "Link")) {
        read_link(r, text);
    } else if (value_of(text, sizeof text, line, n, "Content-Range") && strncasecmp(text, "bytes ", 6) == 0) {
        r->range_begin = strtoll(text + 6, NULL, 10);
    }
    return n;
}

static size_t take_body(char *data, size_t size, size_t count, void *arg)
{
    exchange *x = arg;
    long status = 0;
    curl_easy_getinfo(x->curl, CURLINFO_RESPONSE_CODE, &status);
    x->reply.status = status;
    if (x->sink && (status == 200 || status == 206))
        x->st = x->sink(x->arg, &x->reply, data, size * count);
    return x->st == Q3_OK ? size * count : 0;
}

/* ---- a request ---- */

static void set_options(q3_hub_http *h, exchange *x, bool head, int64_t begin)
{
    CURL *c = h->curl;
    char range[32];
    curl_easy_reset(c);
    curl_easy_setopt(c, CURLOPT_URL, x->url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, h->connect_seconds);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, h->silence_seconds);
    curl_easy_setopt(c, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "qwen3-sft/" Q3_VERSION);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, is_the_hub(h, x->url) ? h->secret : h->open);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, x);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(c, CURLOPT_NOBODY, head ? 1L : 0L);
    if (begin > 0) {
        snprintf(range, sizeof range, "%lld-", (long long)begin);
        curl_easy_setopt(c, CURLOPT_RANGE, range);
    }
}

static bool is_redirect(long status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* Asks, and follows redirects; of a HEAD only those that stay with the hub, for what it says of a file is
 * the last that counts. */
static void ask(q3_hub_http *h, exchange *x, const char *url, bool head, int64_t begin)
{
    snprintf(x->url, sizeof x->url, "%s", url);
    x->curl = h->curl;
    for (int hop = 0; hop <= REDIRECTS; hop++) {
        char *to = NULL;
        x->st = Q3_OK;
        x->reply = (q3_hub_reply){ .size = -1, .range_begin = -1, .retry_after = -1 };
        set_options(h, x, head, begin);
        x->code = curl_easy_perform(h->curl);
        curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &x->reply.status);
        h->answered |= x->reply.status != 0;
        h->retry_after = x->reply.retry_after;
        if (x->code != CURLE_OK || !is_redirect(x->reply.status) || (head && *x->reply.location != '/'))
            break;
        curl_easy_getinfo(h->curl, CURLINFO_REDIRECT_URL, &to);
        if (!to || strlen(to) >= sizeof x->url)
            break;
        snprintf(x->url, sizeof x->url, "%s", to);
    }
    if (is_redirect(x->reply.status))
        x->reply.size = -1;
    if (x->linked_size >= 0)
        x->reply.size = x->linked_size;
    if (*x->linked_etag)
        snprintf(x->reply.etag, sizeof x->reply.etag, "%s", x->linked_etag);
    strip_etag(x->reply.etag);
}

/* ---- failures ---- */

static bool may_pass(const q3_hub_http *h, const exchange *x)
{
    long s = x->reply.status;
    if (x->code == CURLE_OK)
        return s == 408 || s == 429 || s == 500 || (s >= 502 && s <= 504);
    // a network that never answered is not there, and waiting for it helps nobody
    return h->answered && x->st == Q3_OK && x->code != CURLE_UNSUPPORTED_PROTOCOL &&
           x->code != CURLE_URL_MALFORMAT && x->code != CURLE_PEER_FAILED_VERIFICATION;
}

static q3_status not_there(const q3_hub_http *h, const exchange *x)
{
    const q3_hub_repo *r = h->repo;
    bool data = r->kind == Q3_HUB_DATASET;
    q3_status code = data ? Q3_ERR_DATA : Q3_ERR_MODEL;
    if (strcmp(x->reply.error_code, "RevisionNotFound") == 0)
        return q3_fail(code, "%s has no revision \"%s\" on %s", r->id, r->revision, h->endpoint);
    if (strcmp(x->reply.error_code, "EntryNotFound") == 0)
        return q3_fail(code, "%s: %.300s is not there", r->id, x->url);
    return q3_fail(code, "%s is neither a directory here nor a %s on %s%s", r->id,
                   data ? "data set" : "model", h->endpoint,
                   h->token ? " that your token may see" : "; a private one needs HF_TOKEN");
}

static q3_status gated(const q3_hub_http *h)
{
    return q3_fail(Q3_ERR_FAIL,
                   "%s is gated: accept its licence on %s/%s%s, then set HF_TOKEN to a token of that account",
                   h->repo->id, h->endpoint, h->repo->kind == Q3_HUB_DATASET ? "datasets/" : "", h->repo->id);
}

/* The sentence for an answer that is not what was asked for. */
static q3_status refusal(const q3_hub_http *h, const exchange *x)
{
    const q3_hub_reply *r = &x->reply;
    if (x->st != Q3_OK)
        return x->st;
    if (x->code != CURLE_OK)
        return q3_fail(Q3_ERR_NETWORK, "%s is no directory here, and %.300s: %s", h->repo->id, x->url,
                       curl_easy_strerror(x->code));
    if (strcmp(r->error_code, "GatedRepo") == 0)
        return gated(h);
    if (strcmp(r->error_code, "RepoNotFound") == 0 || strcmp(r->error_code, "RevisionNotFound") == 0 ||
        r->status == 404)
        return not_there(h, x);
    if (r->status == 401 || r->status == 403)
        return q3_fail(Q3_ERR_FAIL, "%s: %s refuses (status %ld): %s", h->repo->id, h->endpoint, r->status,
                       h->token ? "is the token (HF_TOKEN) still good, and may it read this?"
                                : "set HF_TOKEN to a token that may read it");
    if (r->status == 429)
        return q3_fail(Q3_ERR_NETWORK, "%s: %s has had too many requests from here; try again later",
                       h->repo->id, h->endpoint);
    return q3_fail(Q3_ERR_NETWORK, "%s: %.300s: the server answered with status %ld", h->repo->id, x->url,
                   r->status);
}

void q3_hub_rest(const q3_hub_http *h, int attempt)
{
    long ms = (long)FIRST_REST_MS << attempt;
    if (h->retry_after >= 0)
        ms = 1000L * (h->retry_after < LONGEST_REST_SECONDS ? h->retry_after : LONGEST_REST_SECONDS);
    struct timespec rest = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR)
        continue;
}

/* ---- what is asked ---- */

static q3_status append(void *arg, const q3_hub_reply *reply, const char *data, size_t n)
{
    q3_text *out = arg;
    (void)reply;
    if (out->size + n > DOCUMENT_BYTES)
        return q3_fail(Q3_ERR_LIMIT, "the hub sends a list of more than %s", q3_bytes(DOCUMENT_BYTES));
    q3_text_append(out, data, n);
    return out->failed ? Q3_ERR_MEMORY : Q3_OK;
}

q3_status q3_hub_get(q3_text *out, q3_hub_http *h, const char *url, char next[2048])
{
    exchange x = { .sink = append, .arg = out, .linked_size = -1 };
    for (int i = 0;; i++) {
        q3_text_free(out);
        *out = (q3_text){ 0 };
        ask(h, &x, url, false, 0);
        if (x.code == CURLE_OK && x.reply.status == 200) {
            if (next)
                snprintf(next, sizeof x.reply.next, "%s", x.reply.next);
            return Q3_OK;
        }
        if (i + 1 == ATTEMPTS || !may_pass(h, &x))
            break;
        q3_hub_rest(h, i);
    }
    q3_text_free(out);
    return refusal(h, &x);
}

q3_status q3_hub_head(q3_hub_reply *out, q3_hub_http *h, const char *url)
{
    exchange x = { .linked_size = -1 };
    for (int i = 0;; i++) {
        ask(h, &x, url, true, 0);
        *out = x.reply;
        if (x.code == CURLE_OK && (x.reply.status == 200 || is_redirect(x.reply.status)))
            return Q3_OK;
        if (i + 1 == ATTEMPTS || !may_pass(h, &x))
            break;
        q3_hub_rest(h, i);
    }
    return refusal(h, &x);
}

q3_status q3_hub_body(bool *again, long *status, q3_hub_http *h, const char *url, int64_t begin,
                      q3_hub_sink *sink, void *arg)
{
    exchange x = { .sink = sink, .arg = arg, .linked_size = -1 };
    ask(h, &x, url, false, begin);
    *again = false;
    *status = x.reply.status;
    if (x.code == CURLE_OK && (x.reply.status == 200 || x.reply.status == 206))
        return Q3_OK;
    *again = may_pass(h, &x) || (x.code == CURLE_OK && x.reply.status == 416);
    return refusal(h, &x);
}
