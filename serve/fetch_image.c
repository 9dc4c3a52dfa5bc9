#include "serve/fetch_image.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file.h"
#include "data/base64.h"

enum { DEFAULT_SECONDS = 30, DEFAULT_REDIRECTS = 5, CONNECT_SECONDS = 10 };

#define DEFAULT_BYTES ((size_t)32 << 20)

/* ---- addresses ---- */

typedef struct range {
    uint32_t base;
    int bits;
} range;

/* IPv4 ranges that are no hosts of the public internet (IANA special-purpose address registry). */
static const range special[] = {
    { 0x00000000, 8 },  // this network
    { 0x0a000000, 8 },  // private
    { 0x64400000, 10 }, // shared, 100.64.0.0
    { 0x7f000000, 8 },  // loopback
    { 0xa9fe0000, 16 }, // link-local, 169.254.0.0: clouds answer there
    { 0xac100000, 12 }, // private
    { 0xc0000000, 24 }, // protocol assignments
    { 0xc0000200, 24 }, // documentation
    { 0xc0586300, 24 }, // 6to4 relays
    { 0xc0a80000, 16 }, // private
    { 0xc6120000, 15 }, // benchmarks
    { 0xc6336400, 24 }, // documentation
    { 0xcb007100, 24 }, // documentation
    { 0xe0000000, 3 },  // multicast, reserved, broadcast
};

static bool is_public_v4(uint32_t address)
{
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        if ((address ^ special[i].base) >> (32 - special[i].bits) == 0)
            return false;
    return true;
}

static uint32_t word_at(const unsigned char *b)
{
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* Global unicast is 2000::/3; forms that carry an IPv4 address are judged by it. */
static bool is_public_v6(const unsigned char b[16])
{
    static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
    static const unsigned char nat64[12] = { 0x00, 0x64, 0xff, 0x9b };
    if (memcmp(b, mapped, sizeof mapped) == 0 || memcmp(b, nat64, sizeof nat64) == 0)
        return is_public_v4(word_at(b + 12));
    if (b[0] == 0x20 && b[1] == 0x02) // 6to4
        return is_public_v4(word_at(b + 2));
    uint32_t head = word_at(b);
    if (head == 0x20010db8 ||
        head >> 9 == 0x20010000 >> 9) // documentation; 2001::/23: Teredo and other protocols
        return false;
    return b[0] >> 5 == 1;
}

bool q3_address_public(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return is_public_v4(ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr));
    if (address->sa_family == AF_INET6)
        return is_public_v6(((const struct sockaddr_in6 *)(const void *)address)->sin6_addr.s6_addr);
    return false;
}

/* ---- fetching ---- */

typedef struct transfer {
    q3_text *out;
    size_t max_bytes;
    q3_address_judge *judge;
    bool too_large;
    char refused[INET6_ADDRSTRLEN]; // the address that was; "" if none was
} transfer;

static size_t take_bytes(char *data, size_t size, size_t n, void *arg)
{
    transfer *t = arg;
    n *= size;
    if (n > t->max_bytes - t->out->size) {
        t->too_large = true;
        return 0;
    }
    q3_text_append(t->out, data, n);
    return t->out->failed ? 0 : n;
}

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
    transfer *t = arg;
    (void)purpose;
    if (!t->judge(&a->addr)) {
        const void *bytes = a->family == AF_INET6
                                ? (const void *)&((struct sockaddr_in6 *)(void *)&a->addr)->sin6_addr
                                : (const void *)&((struct sockaddr_in *)(void *)&a->addr)->sin_addr;
        if (!inet_ntop(a->family, bytes, t->refused, sizeof t->refused))
            snprintf(t->refused, sizeof t->refused, "unknown");
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static void start_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static void set_options(CURL *c, transfer *t, const char *url, const q3_fetch_limits *l)
{
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, (long)(l->max_redirects ? l->max_redirects : DEFAULT_REDIRECTS));
    curl_easy_setopt(c, CURLOPT_TIMEOUT, (long)(l->max_seconds ? l->max_seconds : DEFAULT_SECONDS));
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_USERAGENT, "qwen3-sft/" Q3_VERSION);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, t);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
}

static q3_status failure(CURL *c, CURLcode code, const transfer *t, const char *url)
{
    long status = 0;
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    if (t->refused[0])
        return q3_fail(Q3_ERR_DATA, "%.200s leads to %s, which is no address of the public internet", url,
                       t->refused);
    if (t->too_large)
        return q3_fail(Q3_ERR_LIMIT, "%.200s holds more than the %zu bytes that are allowed", url,
                       t->max_bytes);
    if (t->out->failed)
        return Q3_ERR_MEMORY;
    if (code == CURLE_HTTP_RETURNED_ERROR)
        return q3_fail(Q3_ERR_NETWORK, "%.200s: the server answered with status %ld", url, status);
    return q3_fail(Q3_ERR_NETWORK, "%.200s: %s", url, curl_easy_strerror(code));
}

q3_status q3_fetch(q3_text *out, const char *url, const q3_fetch_limits *limits)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_curl);
    *out = (q3_text){ 0 };
    if (strncasecmp(url, "http://", 7) != 0 && strncasecmp(url, "https://", 8) != 0)
        return q3_fail(Q3_ERR_DATA, "%.200s begins with neither http:// nor https://", url);
    transfer t = { .out = out,
                   .max_bytes = limits->max_bytes ? limits->max_bytes : DEFAULT_BYTES,
                   .judge = limits->judge ? limits->judge : q3_address_public };
    CURL *c = curl_easy_init();
    if (!c)
        return q3_fail(Q3_ERR_MEMORY, "no memory to fetch %.200s", url);
    set_options(c, &t, url, limits);
    CURLcode code = curl_easy_perform(c);
    q3_status st = code == CURLE_OK ? Q3_OK : failure(c, code, &t, url);
    curl_easy_cleanup(c);
    if (st != Q3_OK)
        q3_text_free(out);
    return st;
}

/* ---- pictures ---- */

static q3_status load_data_url(q3_image *out, const q3_picture_policy *p, const char *url, const char *name)
{
    unsigned char *bytes;
    size_t n;
    const char *comma = strchr(url, ',');
    if (!comma || comma - url < 7 || strncasecmp(comma - 7, ";base64", 7) != 0)
        return q3_fail(Q3_ERR_DATA, "%s: a data: URL must read data:image/...;base64,...", name);
    if (strncasecmp(url + 5, "image/", 6) != 0 && strncasecmp(url + 5, "application/octet-stream", 24) != 0)
        return q3_fail(Q3_ERR_DATA, "%s: the data: URL holds %.*s; pictures are image/...", name,
                       (int)(strcspn(url + 5, ";,") > 60 ? 60 : strcspn(url + 5, ";,")), url + 5);
    Q3_TRY(q3_wrap(q3_base64_decode(&bytes, &n, comma + 1, strlen(comma + 1)), "%s", name));
    q3_status st = q3_image_decode(out, bytes, n, &p->image, name);
    q3_free(bytes);
    return st;
}

static int hex_digit(char c)
{
    static const char digits[] = "0123456789abcdefABCDEF";
    const char *at = c ? strchr(digits, c) : NULL;
    return !at ? -1 : at - digits < 16 ? (int)(at - digits) : (int)(at - digits) - 6;
}

/* The path of a file:// URL, %XX decoded, in a new string; NULL when it holds what no path holds. */
static char *path_of_url(const char *url)
{
    char *path = q3_strdup(url + strlen("file://")), *to = path;
    for (const char *from = path; from && *from; to++) {
        if (*from != '%') {
            *to = *from++;
            continue;
        }
        int high = hex_digit(from[1]), low = high < 0 ? -1 : hex_digit(from[2]);
        if (low < 0 || high * 16 + low == 0) {
            q3_free(path);
            return NULL;
        }
        *to = (char)(high * 16 + low);
        from += 3;
    }
    if (path)
        *to = 0;
    return path;
}

static bool lies_below(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return strncmp(path, dir, n) == 0 && (path[n] == '/' || (n && dir[n - 1] == '/'));
}

/* The real path of what `path` names below `dir`; anything else is refused with the same sentence, whether
 * it is there or not: what lies elsewhere is nobody's business. */
static q3_status find_file(char real[PATH_MAX], const char *dir, const char *path, const char *name)
{
    char base[PATH_MAX];
    struct stat info;
    char *joined = q3_path_join(dir, path);
    bool found = joined && realpath(dir, base) && realpath(joined, real) && lies_below(real, base) &&
                 stat(real, &info) == 0 && S_ISREG(info.st_mode);
    q3_free(joined);
    return found ? Q3_OK
                 : q3_fail(Q3_ERR_DATA, "%s: file://%.200s is no file below the media directory", name, path);
}

static q3_status load_file(q3_image *out, const q3_picture_policy *p, const char *url, const char *name)
{
    char real[PATH_MAX], *text;
    size_t n;
    if (!p->media_dir)
        return q3_fail(Q3_ERR_DATA,
                       "%s: file:// URLs are off; the server can be started with --media-path DIR", name);
    char *path = path_of_url(url);
    if (!path)
        return q3_fail(Q3_ERR_DATA, "%s: %.200s is no file:// URL", name, url);
    q3_status st = find_file(real, p->media_dir, path, name);
    q3_free(path);
    Q3_TRY(st);
    st = q3_file_read(&text, &n, real, p->limits.max_bytes ? p->limits.max_bytes : DEFAULT_BYTES);
    Q3_TRY(q3_wrap(q3_status_as(st, Q3_ERR_DATA), "%s", name));
    st = q3_image_decode(out, text, n, &p->image, name);
    q3_free(text);
    return st;
}

static q3_status load_remote(q3_image *out, const q3_picture_policy *p, const char *url, const char *name)
{
    q3_text text;
    if (!p->remote)
        return q3_fail(
            Q3_ERR_DATA,
            "%s: pictures of other servers are off (the server can be started with --allow-remote-images); "
            "send a data: URL",
            name);
    Q3_TRY(q3_wrap(q3_fetch(&text, url, &p->limits), "%s", name));
    q3_status st = q3_image_decode(out, text.data, text.size, &p->image, name);
    q3_text_free(&text);
    return st;
}

q3_status q3_picture_load(q3_image *out, const q3_picture_policy *policy, const char *url, const char *name)
{
    *out = (q3_image){ 0 };
    if (strncasecmp(url, "data:", 5) == 0)
        return load_data_url(out, policy, url, name);
    if (strncasecmp(url, "file://", 7) == 0)
        return load_file(out, policy, url, name);
    if (strncasecmp(url, "http://", 7) == 0 || strncasecmp(url, "https://", 8) == 0)
        return load_remote(out, policy, url, name);
    return q3_fail(Q3_ERR_DATA, "%s: \"%.40s\" is no URL of a picture; send data:image/...;base64,...", name,
                   url);
}
