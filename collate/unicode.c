#include "collate/unicode.h"

#include <string.h>
#include <utf8proc.h>

#include "collate/unicode_list.h"

q3_char_class q3_char_class_of(uint32_t c)
{
    uint32_t block = c / 128;
    if (block >= sizeof class_blocks)
        return Q3_CHAR_OTHER;
    uint64_t word = class_words[class_blocks[block] * 4 + c % 128 / 32];
    return (q3_char_class)(word >> (2 * (c % 32)) & 3);
}

uint32_t q3_utf8_next(const char *text, size_t *at)
{
    const unsigned char *s = (const unsigned char *)text + *at;
    if (s[0] < 0x80) {
        *at += 1;
        return s[0];
    }
    if (s[0] < 0xE0) {
        *at += 2;
        return (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
    }
    if (s[0] < 0xF0) {
        *at += 3;
        return (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
    }
    *at += 4;
    return (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
}

void q3_utf8_append(q3_text *out, uint32_t c)
{
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)c, bytes);
    q3_text_append(out, (const char *)bytes, (size_t)n);
}

/* Length of the longest beginning of a well-formed sequence at s (at least 1); *whole tells that nothing is
 * missing. */
static size_t sequence(const unsigned char *s, size_t n, bool *whole)
{
    size_t want = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    *whole = want == 1;
    if (want < 2)
        return 1;
    unsigned low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80; // bounds of the second byte
    unsigned high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
    size_t have = 1;
    while (have < want && have < n && s[have] >= low && s[have] <= high) {
        low = 0x80;
        high = 0xBF;
        have++;
    }
    *whole = have == want;
    return have;
}

void q3_utf8_lossy(q3_text *out, const char *bytes, size_t n)
{
    size_t good = 0; // start of the well-formed bytes not yet copied
    for (size_t i = 0; i < n;) {
        bool whole;
        size_t k = sequence((const unsigned char *)bytes + i, n - i, &whole);
        if (!whole) {
            q3_text_append(out, bytes + good, i - good);
            q3_text_append(out, "\xEF\xBF\xBD", 3);
            good = i + k;
        }
        i += k;
    }
    if (n > good)
        q3_text_append(out, bytes + good, n - good);
}

size_t q3_utf8_whole(const char *bytes, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const unsigned char *s = (const unsigned char *)bytes + n - back;
        if ((s[0] & 0xC0) == 0x80)
            continue;
        bool whole;
        bool waits = s[0] >= 0xC2 && s[0] < 0xF5 && sequence(s, back, &whole) == back && !whole;
        return waits ? n - back : n;
    }
    return n;
}

// The code point before the trailing jamo: utf8proc 2.6 takes it for one and drops it behind a syllable.
static const uint32_t before_trailing_jamo = 0x11A7;

/* Ranges whose code points NFC keeps and which never combine with what stands before them. */
static const uint32_t quiet[][2] = {
    { 0x0000, 0x02FF }, { 0x0400, 0x0482 }, { 0x048A, 0x052F },   { 0x05D0, 0x05EA },   { 0x0621, 0x064A },
    { 0x0E01, 0x0E37 }, { 0x1E00, 0x1EFF }, { 0x2010, 0x2027 },   { 0x2190, 0x21D3 },   { 0x2500, 0x27FF },
    { 0x3000, 0x3029 }, { 0x3041, 0x3096 }, { 0x30A1, 0x30FF },   { 0x3400, 0x4DBF },   { 0x4E00, 0x9FFF },
    { 0xAC00, 0xD7A3 }, { 0xFF00, 0xFFEF }, { 0x1F300, 0x1FAFF }, { 0x20000, 0x2A6D6 },
};

static bool in_ranges(uint32_t c, const uint32_t (*ranges)[2], size_t n)
{
    size_t low = 0, high = n; // the first range that does not end before c lies in [low, high]
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (ranges[mid][1] < c)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && ranges[low][0] <= c;
}

bool q3_nfc_quick(const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        if ((unsigned char)text[i] < 0xCC) { // below U+0300
            i++; // a lead byte here has one continuation byte, which passes as well
            continue;
        }
        if (!in_ranges(q3_utf8_next(text, &i), quiet, sizeof quiet / sizeof quiet[0]))
            return false;
    }
    return true;
}

/* Canonical ordering of one run of combining marks: a stable counting sort by combining class. utf8proc's own
 * is quadratic in the length of the run, which text from outside may choose. */
static void sort_marks(utf8proc_int32_t *marks, size_t n, utf8proc_int32_t *scratch)
{
    size_t start[257] = { 0 };
    for (size_t i = 0; i < n; i++)
        start[utf8proc_get_property(marks[i])->combining_class + 1]++;
    for (int k = 1; k <= 256; k++)
        start[k] += start[k - 1];
    for (size_t i = 0; i < n; i++)
        scratch[start[utf8proc_get_property(marks[i])->combining_class]++] = marks[i];
    memcpy(marks, scratch, n * sizeof *marks);
}

static void order_marks(utf8proc_int32_t *c, size_t n, utf8proc_int32_t *scratch)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && utf8proc_get_property(c[end])->combining_class != 0)
            end++;
        if (end > i + 1)
            sort_marks(c + i, end - i, scratch);
        i = end > i ? end : i + 1;
    }
}

/* NFC of the `n` decomposed code points of one stretch between walls. */
static void compose(q3_text *out, utf8proc_int32_t *c, size_t n, utf8proc_int32_t *scratch)
{
    order_marks(c, n, scratch);
    utf8proc_ssize_t left =
        utf8proc_normalize_utf32(c, (utf8proc_ssize_t)n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < left; i++)
        q3_utf8_append(out, (uint32_t)c[i]);
}

enum { MAX_EXPANSION = 4 }; // code points in the longest canonical decomposition

q3_status q3_nfc(q3_text *out, const char *text, size_t n)
{
    size_t room = 2 * n + MAX_EXPANSION; // a character that expands has two bytes at least
    utf8proc_int32_t *c = q3_malloc(2 * room * sizeof *c);
    if (!c)
        return Q3_ERR_MEMORY;
    utf8proc_int32_t *scratch = c + room;
    size_t have = 0;
    for (size_t i = 0; i < n;) {
        uint32_t next = q3_utf8_next(text, &i);
        if (next == before_trailing_jamo ||
            in_ranges(next, nfc_walls, sizeof nfc_walls / sizeof nfc_walls[0])) {
            compose(out, c, have, scratch);
            have = 0;
            q3_utf8_append(out, next);
            continue;
        }
        int unused = 0; // grapheme state, for an option that is off
        utf8proc_ssize_t k = utf8proc_decompose_char((utf8proc_int32_t)next, c + have, MAX_EXPANSION,
                                                     UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &unused);
        Q3_CHECK(k > 0 && k <= MAX_EXPANSION, "U+%04X decomposes into %d", (unsigned)next, (int)k);
        have += (size_t)k;
    }
    compose(out, c, have, scratch);
    q3_free(c);
    return out->failed ? Q3_ERR_MEMORY : Q3_OK;
}
