/* tests/fuzz/fuzz_tokenizer.c - a tokenizer.json from anywhere, and any text through a small tokenizer.
 *
 * The first byte chooses. 'J': the rest is a tokenizer.json; if it is accepted it encodes a fixed text.
 * 'D': the rest is token ids to decode, four bytes each. Anything else: the rest is text to encode.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collate/tokenizer.h"
#include "collate/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The small tokenizer of the tests; the fuzzer runs in the root of the repository. */
static const q3_tokenizer *small(void)
{
    static q3_tokenizer *t;
    if (!t && q3_tokenizer_open(&t, "tests/golden/tokenizer/small") != Q3_OK) {
        fprintf(stderr, "%s\n", q3_error());
        abort();
    }
    return t;
}

static void check_text(const q3_tokenizer *t, const q3_ids *ids)
{
    q3_text text = { 0 };
    size_t bad;
    for (size_t i = 0; i < ids->n; i++)
        Q3_CHECK(ids->ids[i] >= 0 && ids->ids[i] < q3_tokenizer_size(t), "id %d", (int)ids->ids[i]);
    Q3_CHECK(q3_tokenizer_decode(&text, t, ids->ids, ids->n, false) == Q3_OK, "%s", q3_error());
    Q3_CHECK(q3_utf8_valid(text.data, text.size, &bad), "byte %zu", bad);
    q3_text_free(&text);
}

/* Without added tokens in it, a text comes back in NFC. */
static void check_round_trip(const q3_tokenizer *t, const q3_ids *ids, const char *text, size_t n)
{
    q3_text want = { 0 }, back = { 0 };
    Q3_CHECK(q3_nfc(&want, text, n) == Q3_OK, "%s", q3_error());
    Q3_CHECK(q3_tokenizer_decode(&back, t, ids->ids, ids->n, false) == Q3_OK, "%s", q3_error());
    Q3_CHECK(back.size == want.size && (back.size == 0 || memcmp(back.data, want.data, back.size) == 0),
             "%zu bytes", n);
    q3_text_free(&back);
    q3_text_free(&want);
}

static void encode(const q3_tokenizer *t, const char *text, size_t n, bool plain)
{
    q3_ids ids = { 0 };
    size_t at;
    if (q3_tokenizer_encode(&ids, t, text, n) == Q3_OK) {
        check_text(t, &ids);
        if (plain && !q3_tokenizer_find_added(t, text, n, &at))
            check_round_trip(t, &ids, text, n);
    }
    q3_ids_free(&ids);
}

static void decode(const uint8_t *data, size_t size)
{
    q3_ids ids = { 0 };
    q3_text text = { 0 };
    size_t bad;
    for (size_t i = 0; i + 4 <= size; i += 4) {
        int32_t id;
        memcpy(&id, data + i, 4);
        if (q3_ids_append(&ids, &id, 1) != Q3_OK)
            break;
    }
    if (q3_tokenizer_decode(&text, small(), ids.ids, ids.n, size % 2) == Q3_OK)
        Q3_CHECK(q3_utf8_valid(text.data, text.size, &bad), "byte %zu", bad);
    q3_text_free(&text);
    q3_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *rest = (const char *)data + 1;
    q3_tokenizer *t;
    if (size == 0)
        return 0;
    if (data[0] == 'J') {
        if (q3_tokenizer_parse(&t, rest, size - 1, "fuzz") == Q3_OK) {
            encode(t, "the cat's 12  hats\n e\xCC\x81<|im_end|>", 29, false);
            q3_tokenizer_close(t);
        }
    } else if (data[0] == 'D') {
        decode(data + 1, size - 1);
    } else {
        encode(small(), rest, size - 1, true);
    }
    return 0;
}
