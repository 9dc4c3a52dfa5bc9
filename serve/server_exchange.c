/* What handlers use of an exchange, and what needs no connection: routes, keys, the words of errors. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "serve/server_connection.h"

static const char *const opening_key = "Bearer ";

/* ---- routes and keys ---- */

bool q3_route_matches(const char *pattern, const char *path, const char **param, size_t *param_bytes)
{
    *param = "";
    *param_bytes = 0;
    while (*pattern) {
        if (*pattern != '{') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        *param = path;
        *param_bytes = strcspn(path, "/");
        if (!*param_bytes)
            return false;
        path += *param_bytes;
        pattern = strchr(pattern, '}') + 1;
    }
    return *path == 0;
}

/* Every byte of the longer text is looked at, so that the time tells nothing of where they differ. */
static bool same_secret(const char *key, const char *given)
{
    size_t n = strlen(key), m = strlen(given);
    unsigned differ = n != m;
    for (size_t i = 0; i < m; i++)
        differ |= (unsigned char)given[i] ^ (unsigned char)(n ? key[i % n] : 0);
    return !differ;
}

bool q3_server_key_fits(const char *const *keys, int n_keys, const char *authorization)
{
    bool fits = false;
    size_t n = strlen(opening_key);
    if (!authorization || strncasecmp(authorization, opening_key, n) != 0)
        return false;
    for (int i = 0; i < n_keys; i++)
        fits |= same_secret(keys[i], authorization + n);
    return fits;
}

/* ---- exchanges ---- */

const char *q3_exchange_header(const q3_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection->mhd, MHD_HEADER_KIND, name);
}

const char *q3_exchange_query(const q3_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection->mhd, MHD_GET_ARGUMENT_KIND, name);
}

static void fail_with(q3_exchange *x, int status, const char *sentence)
{
    x->out.size = 0;
    x->poll = NULL;
    x->streaming = false;
    x->type = NULL;
    x->status = status;
    x->face->fail(x, status, sentence);
}

void q3_exchange_fail(q3_exchange *x, int status, const char *fmt, ...)
{
    char sentence[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, args);
    va_end(args);
    fail_with(x, status, sentence);
}

int q3_http_status(q3_status st)
{
    switch (st) {
    case Q3_OK:
        return MHD_HTTP_OK;
    case Q3_ERR_FORMAT:
    case Q3_ERR_LIMIT:
    case Q3_ERR_USAGE:
    case Q3_ERR_DATA:
    case Q3_ERR_NETWORK: // a picture that could not be fetched
        return MHD_HTTP_BAD_REQUEST;
    case Q3_ERR_MEMORY:
        return MHD_HTTP_SERVICE_UNAVAILABLE;
    default:
        return MHD_HTTP_INTERNAL_SERVER_ERROR;
    }
}

void q3_exchange_fail_status(q3_exchange *x, q3_status st)
{
    fail_with(x, q3_http_status(st), *q3_error() ? q3_error() : "the request failed");
}

void q3_exchange_sleep(void *x)
{
    MHD_suspend_connection(((q3_exchange *)x)->connection->mhd);
}

void q3_exchange_wake(void *x)
{
    MHD_resume_connection(((q3_exchange *)x)->connection->mhd);
}
