#include "eval/report_text.h"

#include <string.h>

void q3_html_raw(q3_text *out, const char *markup)
{
    q3_text_append(out, markup, strlen(markup));
}

static const char *escape(unsigned char c)
{
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f ? "\xEF\xBF\xBD" : NULL;
    }
}

void q3_html_text(q3_text *out, const char *text)
{
    size_t left = text ? strlen(text) : 0;
    while (left) {
        size_t valid = left;
        bool whole = q3_utf8_valid(text, left, &valid);
        valid = whole ? left : valid;
        size_t plain = 0; // start of the bytes that stay as they are
        for (size_t i = 0; i < valid; i++) {
            const char *entity = escape((unsigned char)text[i]);
            if (!entity)
                continue;
            q3_text_append(out, text + plain, i - plain);
            q3_html_raw(out, entity);
            plain = i + 1;
        }
        q3_text_append(out, text + plain, valid - plain);
        if (!whole) {
            q3_html_raw(out, "\xEF\xBF\xBD");
            valid++;
        }
        text += valid;
        left -= valid;
    }
}

void q3_html_count(q3_text *out, int64_t n)
{
    if (n < 0) {
        q3_html_raw(out, "\xE2\x88\x92");
        n = -n;
    }
    int64_t unit = 1;
    while (n / unit >= 1000)
        unit *= 1000;
    q3_text_printf(out, "%lld", (long long)(n / unit));
    while (unit > 1) {
        unit /= 1000;
        q3_text_printf(out, ",%03lld", (long long)(n / unit % 1000));
    }
}

void q3_html_percent(q3_text *out, double share)
{
    q3_text_printf(out, "%.1f\xE2\x80\xAF%%", 100 * share);
}

void q3_html_duration(q3_text *out, double seconds)
{
    int64_t s = (int64_t)(seconds + 0.5);
    if (seconds < 10)
        q3_text_printf(out, "%.1f s", seconds);
    else if (s < 60)
        q3_text_printf(out, "%lld s", (long long)s);
    else if (s < 3600)
        q3_text_printf(out, "%lld min %02lld s", (long long)(s / 60), (long long)(s % 60));
    else
        q3_text_printf(out, "%lld h %02lld min", (long long)(s / 3600), (long long)(s / 60 % 60));
}

void q3_html_bytes(q3_text *out, double bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    int u = 0;
    for (; bytes >= 1024 && u < 4; u++)
        bytes /= 1024;
    q3_text_printf(out, bytes < 100 && u ? "%.1f %s" : "%.0f %s", bytes, units[u]);
}

static const char *picture_type(const unsigned char *b, size_t n)
{
    if (n >= 3 && memcmp(b, "\xFF\xD8\xFF", 3) == 0)
        return "image/jpeg";
    if (n >= 12 && memcmp(b, "RIFF", 4) == 0 && memcmp(b + 8, "WEBP", 4) == 0)
        return "image/webp";
    if (n >= 4 && memcmp(b, "GIF8", 4) == 0)
        return "image/gif";
    if (n >= 2 && memcmp(b, "BM", 2) == 0)
        return "image/bmp";
    return "image/png";
}

void q3_html_data_url(q3_text *out, const void *bytes, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *b = bytes;
    q3_text_printf(out, "data:%s;base64,", picture_type(b, n));
    for (size_t i = 0; i < n; i += 3) {
        size_t have = n - i < 3 ? n - i : 3;
        uint32_t v =
            (uint32_t)b[i] << 16 | (have > 1 ? (uint32_t)b[i + 1] << 8 : 0) | (have > 2 ? b[i + 2] : 0);
        char four[4] = { digits[v >> 18], digits[v >> 12 & 63], have > 1 ? digits[v >> 6 & 63] : '=',
                         have > 2 ? digits[v & 63] : '=' };
        q3_text_append(out, four, 4);
    }
}
