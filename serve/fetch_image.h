/* serve/fetch_image.h - pictures that a request names: data: URLs, files below one directory, other
 * servers' URLs.
 *
 * Who may send requests must not gain the server's own view of the network or of its files. So each
 * address that is about to be connected to is judged, after names have been resolved and again for every
 * redirect; no proxy is used, because it would do the connecting; and a file's real path, links resolved,
 * must lie below the directory.
 */
#ifndef Q3_SERVE_FETCH_IMAGE_H
#define Q3_SERVE_FETCH_IMAGE_H

#include <sys/socket.h>

#include "core/json.h"
#include "data/image.h"

typedef bool q3_address_judge(const struct sockaddr *address);

/* True for addresses of the public internet: not loopback, private, link-local, shared, multicast,
 * documentation or reserved ones, nor IPv6 forms that embed such an IPv4 address (RFC 6890 and IANA's
 * special-purpose registries). */
bool q3_address_public(const struct sockaddr *address);

typedef struct q3_fetch_limits {
    size_t max_bytes;        /* 0: 32 MiB */
    int max_seconds;         /* in all; 0: 30 */
    int max_redirects;       /* 0: 5 */
    q3_address_judge *judge; /* NULL: q3_address_public */
} q3_fetch_limits;

/* GETs an http or https URL into *out (heap). Errors: Q3_ERR_NETWORK, Q3_ERR_LIMIT (larger than allowed),
 * Q3_ERR_DATA (an address that is refused, another scheme), Q3_ERR_MEMORY. */
q3_status q3_fetch(q3_text *out, const char *url, const q3_fetch_limits *limits);

typedef struct q3_picture_policy {
    bool remote;           /* other servers may be asked */
    const char *media_dir; /* file:// URLs name files below it; NULL: none do */
    q3_fetch_limits limits;
    q3_image_options image;
} q3_picture_policy;

/* The picture behind a URL; `name` stands in messages ("messages[0].content[1]"). Errors: Q3_ERR_DATA and
 * those of q3_fetch. */
q3_status q3_picture_load(q3_image *out, const q3_picture_policy *policy, const char *url, const char *name);

#endif
