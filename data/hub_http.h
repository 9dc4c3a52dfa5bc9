/* data/hub_http.h - what is asked of the hub, and who may see the token.
 *
 * The hub is HF_ENDPOINT (https://huggingface.co). The token (HF_TOKEN, else the file of `hf auth login`)
 * goes to that scheme, host and port alone: redirects are followed by hand, and another host that they lead
 * to, where the contents lie, gets none. Proxies come from the environment, as libcurl reads it. Errors:
 * Q3_ERR_NETWORK; Q3_ERR_FAIL where the hub refuses who asks; Q3_ERR_MODEL or Q3_ERR_DATA where it does not
 * have what is asked for.
 */
#ifndef Q3_DATA_HUB_HTTP_H
#define Q3_DATA_HUB_HTTP_H

#include "data/hub_cache.h"

typedef struct q3_hub_http q3_hub_http;

/* The heads of an answer. */
typedef struct q3_hub_reply {
    long status;
    char error_code[64]; /* X-Error-Code; "" without */
    char etag[132];      /* X-Linked-Etag, else ETag, without quotes and W/; "" without */
    int64_t size;        /* X-Linked-Size, else Content-Length where it is no redirect; -1: not told */
    int64_t range_begin; /* first byte of a part that was sent; -1: it is no part */
    char next[2048];     /* address of the next page; "" behind the last */
    char location[4096]; /* of a redirect, as it was sent */
    int retry_after;     /* seconds; -1: not told */
    char commit[Q3_HUB_COMMIT + 1];
} q3_hub_reply;

/* Takes the body of an answer with status 200 or 206 piece by piece; what it returns but Q3_OK ends the
 * transfer. */
typedef q3_status q3_hub_sink(void *arg, const q3_hub_reply *reply, const char *data, size_t n);

q3_status q3_hub_http_open(q3_hub_http **out, const q3_hub_repo *repo);
void q3_hub_http_close(q3_hub_http *h);

/* "https://huggingface.co", without a slash at the end; borrowed. */
const char *q3_hub_endpoint(const q3_hub_http *h);

/* Appends text with all but letters, digits and -._~ as %XX; slashes too unless `slashes`. */
void q3_hub_escape(q3_text *out, const char *text, bool slashes);

/* GETs a small document; asks again up to five times where that may help. `next`, if not NULL, gets the
 * next page's. */
q3_status q3_hub_get(q3_text *out, q3_hub_http *h, const char *url, char next[2048]);

/* HEAD of a file: its etag and size, from the hub itself. Asks again too. */
q3_status q3_hub_head(q3_hub_reply *out, q3_hub_http *h, const char *url);

/* GETs a file from byte `begin` on, once. *again: the failure may pass; *status: what the server answered. */
q3_status q3_hub_body(bool *again, long *status, q3_hub_http *h, const char *url, int64_t begin,
                      q3_hub_sink *sink, void *arg);

/* Waits before attempt number `attempt` + 1: what the hub asked for, else twice as long each time. */
void q3_hub_rest(const q3_hub_http *h, int attempt);

#endif
