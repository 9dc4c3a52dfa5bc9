#include "data/base64.h"

#include <string.h>

#include "core/arena.h"

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

bool q3_base64_looks_like(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (value_of(text[i]) < 0 && text[i] != '=' && !is_space(text[i]))
            return false;
    return n > 0;
}

q3_status q3_base64_decode(unsigned char **out, size_t *size, const char *text, size_t n)
{
    *out = NULL;
    *size = 0;
    unsigned char *bytes = q3_malloc(n / 4 * 3 + 3), *to = bytes;
    if (!bytes)
        return Q3_ERR_MEMORY;
    uint32_t bits = 0;
    size_t digits = 0, padding = 0, i = 0;
    for (; i < n; i++) {
        int v = value_of(text[i]);
        if (is_space(text[i]))
            continue;
        padding += text[i] == '=';
        if (text[i] == '=' && padding <= 2 && digits % 4 >= 2)
            continue;
        if (v < 0 || padding)
            break;
        bits = bits << 6 | (uint32_t)v;
        if (++digits % 4 == 0) {
            *to++ = (unsigned char)(bits >> 16);
            *to++ = (unsigned char)(bits >> 8);
            *to++ = (unsigned char)bits;
        }
    }
    size_t rest = digits % 4; // 2 digits hold one more byte, 3 hold two
    if (i < n || rest == 1 || (padding && rest + padding != 4)) {
        q3_free(bytes);
        return q3_fail(Q3_ERR_DATA, "not valid base64 at character %zu of %zu", i < n ? i + 1 : n, n);
    }
    if (rest >= 2)
        *to++ = (unsigned char)(bits >> (rest == 2 ? 4 : 10));
    if (rest == 3)
        *to++ = (unsigned char)(bits >> 2);
    *out = bytes;
    *size = (size_t)(to - bytes);
    return Q3_OK;
}
