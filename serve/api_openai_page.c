/* The page at /, and the policy that keeps a browser from running or loading anything but what is written in it: CSP level 2,
 * https://www.w3.org/TR/CSP2/, script and style named by their hashes. */
#include <string.h>

#include "core/sha256.h"
#include "serve/api_openai.h"
#include "serve/api_openai_work.h"

/* 'sha256-...' of what stands between two marks, in base64. */
static void put_hash(q3_text *out, const char *begin, const char *end)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char hash[Q3_SHA256_BYTES + 1] = { 0 }; // 11 groups of three bytes, the last one lacks one
    const char *page = (const char *)q3_page;
    const char *from = memmem(page, q3_page_size, begin, strlen(begin));
    from = from ? from + strlen(begin) : page;
    const char *to = memmem(from, q3_page_size - (size_t)(from - page), end, strlen(end));
    Q3_CHECK(to, "the page has no %s", end);
    q3_sha256 s;
    q3_sha256_begin(&s);
    q3_sha256_add(&s, from, (size_t)(to - from));
    q3_sha256_end(hash, &s);
    q3_text_printf(out, "'sha256-");
    for (int i = 0; i < 43; i++) {
        unsigned pair = (unsigned)hash[i * 6 / 8] << 8 | hash[i * 6 / 8 + 1];
        q3_text_append(out, &letters[pair >> (10 - i * 6 % 8) & 63], 1);
    }
    q3_text_printf(out, "='");
}

static void release_policy(void *state)
{
    q3_text_free(state);
    q3_free(state);
}

void q3_openai_handle_page(q3_exchange *x)
{
    q3_text *policy = q3_calloc(1, sizeof *policy);
    x->state = policy;
    x->release = policy ? release_policy : NULL;
    if (policy) {
        q3_text_printf(policy, "default-src 'none'; script-src ");
        put_hash(policy, "<script>", "</script>");
        q3_text_printf(policy, "; style-src ");
        put_hash(policy, "<style>", "</style>");
        q3_text_printf(policy, "; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
                               "frame-ancestors 'none'");
    }
    if (!policy || policy->failed) {
        q3_openai_fail_plain(x, 503, "out of memory");
        return;
    }
    x->policy = policy->data;
    x->type = "text/html; charset=utf-8";
    q3_text_append(&x->out, (const char *)q3_page, q3_page_size);
}
