#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "collate/unicode.h"
#include "core/rng.h"
#include "infer/stream.h"

static q3_tokenizer *real;
static int32_t byte_id[256]; /* tokens of one byte each */

static int setup(void **state)
{
    (void)state;
    assert_int_equal(q3_tokenizer_open(&real, "tests/golden/tokenizer/qwen3"), Q3_OK);
    int found = 0;
    for (int32_t id = 0; id < q3_tokenizer_size(real); id++) {
        size_t n = 0;
        const char *bytes = q3_tokenizer_token(&n, real, id);
        if (bytes && n == 1 && !q3_tokenizer_is_special(real, id)) {
            byte_id[(unsigned char)bytes[0]] = id;
            found++;
        }
    }
    assert_int_equal(found, 256);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    q3_tokenizer_close(real);
    return 0;
}

/* Feeds text byte by byte; returns after how many bytes a stop string was met, 0: never. */
static int feed_bytes(q3_text *out, q3_stream *s, const char *text, size_t n)
{
    bool stopped = false;
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(q3_stream_add(out, &stopped, s, byte_id[(unsigned char)text[i]]), Q3_OK);
        if (stopped)
            return (int)i + 1;
    }
    return 0;
}

/* What is shown of `bytes`, one a token, with these stop strings. */
static void expect_shown(const char *bytes, const char *const *stops, int n_stops, const char *shown,
                         int stopped_after)
{
    q3_stream *s;
    q3_text out = { 0 };
    assert_int_equal(q3_stream_create(&s, real, stops, n_stops, true), Q3_OK);
    assert_int_equal(feed_bytes(&out, s, bytes, strlen(bytes)), stopped_after);
    assert_int_equal(q3_stream_end(&out, s), Q3_OK);
    assert_string_equal(out.data ? out.data : "", shown);
    q3_text_free(&out);
    q3_stream_destroy(s);
}

static void no_piece_ends_inside_a_character(void **state)
{
    (void)state;
    static const char text[] =
        "a\u00e9\u4f60\u597d \U0001F600\U0001F1E9\U0001F1EA \u0645\u0631\u062d\u0628\u0627\u064e.";
    q3_stream *s;
    q3_text out = { 0 };
    bool stopped;
    size_t bad;
    assert_int_equal(q3_stream_create(&s, real, NULL, 0, true), Q3_OK);
    for (size_t i = 0; text[i]; i++) {
        assert_int_equal(q3_stream_add(&out, &stopped, s, byte_id[(unsigned char)text[i]]), Q3_OK);
        assert_false(stopped);
        assert_true(q3_utf8_valid(out.data, out.size, &bad));
        assert_int_equal(out.size, q3_utf8_whole(text, i + 1)); // and nothing is held back longer than needed
    }
    assert_int_equal(q3_stream_end(&out, s), Q3_OK);
    assert_string_equal(out.data, text);
    q3_text_free(&out);
    q3_stream_destroy(s);
}

static void invalid_bytes_are_replaced_at_once_and_a_beginning_at_the_end(void **state)
{
    (void)state;
    expect_shown("a\xFF"
                 "b\x80\x80",
                 NULL, 0,
                 "a\uFFFD"
                 "b\uFFFD\uFFFD",
                 0);
    expect_shown("a\xF0\x9F\x98", NULL, 0, "a\uFFFD", 0);
    expect_shown("\xE4\xBDz", NULL, 0, "\uFFFDz", 0);
    expect_shown("", NULL, 0, "", 0);
}

static void stop_strings_are_found_across_tokens_and_cut(void **state)
{
    (void)state;
    static const char *const aab[] = { "aab" }, *const two[] = { "END", "\n\n" },
                             *const nested[] = { "abcX", "bc" }, *const same_end[] = { "b", "ab" },
                             *const wide[] = { "\u4f60\u597d" };
    expect_shown("aaab", aab, 1, "a", 4);
    expect_shown("aaabaab", aab, 1, "a", 4);
    expect_shown("aaa", aab, 1, "aaa", 0); // held back until the end
    expect_shown("aacaabx", aab, 1, "aac", 6);
    expect_shown("text\n\nmore END", two, 2, "text", 6);
    expect_shown("text EN END", two, 2, "text EN ", 11);
    expect_shown("zabcX", nested, 2, "za", 4);
    expect_shown("zab", same_end, 2, "z", 3);
    expect_shown("x\u4f60\u4f60\u597dy", wide, 1, "x\u4f60", 10);
    expect_shown("x\u4f60\xE5\xA5", wide, 1, "x\u4f60\uFFFD", 0);
}

static void nothing_is_shown_before_it_is_sure(void **state)
{
    (void)state;
    static const char *const stops[] = { "STOP" };
    q3_stream *s;
    q3_text out = { 0 };
    assert_int_equal(q3_stream_create(&s, real, stops, 1, true), Q3_OK);
    feed_bytes(&out, s, "aSTO", 4);
    assert_string_equal(out.data, "a");
    feed_bytes(&out, s, "S", 1);
    assert_string_equal(out.data, "aSTO");
    assert_int_equal(feed_bytes(&out, s, "TOP", 3), 3);
    assert_string_equal(out.data, "aSTO");
    bool stopped = false; // and nothing behind it
    assert_int_equal(q3_stream_add(&out, &stopped, s, byte_id['x']), Q3_OK);
    assert_true(stopped);
    assert_int_equal(q3_stream_end(&out, s), Q3_OK);
    assert_string_equal(out.data, "aSTO");
    q3_text_free(&out);
    q3_stream_destroy(s);
}

static void a_stop_string_inside_one_token_is_found(void **state)
{
    (void)state;
    static const char *const stops[] = { "ll" };
    q3_stream *s;
    q3_text out = { 0 };
    bool stopped;
    int32_t hello = q3_tokenizer_id(real, "Hello");
    assert_true(hello >= 0);
    assert_int_equal(q3_stream_create(&s, real, stops, 1, true), Q3_OK);
    assert_int_equal(q3_stream_add(&out, &stopped, s, hello), Q3_OK);
    assert_true(stopped);
    assert_string_equal(out.data, "He");
    q3_text_free(&out);
    q3_stream_destroy(s);
}

/* Random ids; now and then special ones and ones without a token. */
static void pieces_make_up_what_decoding_gives(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 400; round++) {
        const q3_random r = { 31, Q3_RANDOM_TEST, round, 0 };
        int32_t ids[40];
        for (int i = 0; i < 40; i++) {
            uint32_t of = q3_random_below(&r, (uint64_t)i, 4); // bytes, so that characters break; anything
            ids[i] = of < 2 ? byte_id[q3_random_below(&r, 100 + (uint64_t)i, 256)]
                            : (int32_t)q3_random_below(&r, 100 + (uint64_t)i, of == 2 ? 151936 : 2000);
        }
        ids[20] = 151643 + (int32_t)q3_random_below(&r, 200, 26);
        q3_text want = { 0 }, got = { 0 };
        q3_stream *s;
        bool stopped, skip = round % 2;
        assert_int_equal(q3_tokenizer_decode(&want, real, ids, 40, skip), Q3_OK);
        assert_int_equal(q3_stream_create(&s, real, NULL, 0, skip), Q3_OK);
        for (int i = 0; i < 40; i++)
            assert_int_equal(q3_stream_add(&got, &stopped, s, ids[i]), Q3_OK);
        assert_int_equal(q3_stream_end(&got, s), Q3_OK);
        assert_int_equal(got.size, want.size);
        assert_memory_equal(got.data, want.data, want.size);
        q3_text_free(&want);
        q3_text_free(&got);
        q3_stream_destroy(s);
    }
}

/* Whatever the pieces, the text before the first stop string comes out. */
static void splits_do_not_matter(void **state)
{
    (void)state;
    static const char *const stops[] = { "ab", "bca", "cc" };
    for (uint32_t round = 0; round < 500; round++) {
        const q3_random r = { 32, Q3_RANDOM_TEST, round, 0 };
        char text[24];
        for (int i = 0; i < 23; i++)
            text[i] = "abcd"[q3_random_below(&r, (uint64_t)i, 4)];
        text[23] = 0;
        q3_ids ids = { 0 };
        q3_stream *bytes, *tokens;
        q3_text one = { 0 }, other = { 0 };
        bool stopped = false;
        assert_int_equal(q3_tokenizer_encode(&ids, real, text, 23), Q3_OK);
        assert_int_equal(q3_stream_create(&bytes, real, stops, 3, true), Q3_OK);
        assert_int_equal(q3_stream_create(&tokens, real, stops, 3, true), Q3_OK);
        bool met = feed_bytes(&one, bytes, text, 23);
        for (size_t i = 0; i < ids.n && !stopped; i++)
            assert_int_equal(q3_stream_add(&other, &stopped, tokens, ids.ids[i]), Q3_OK);
        assert_int_equal(stopped, met);
        assert_int_equal(q3_stream_end(&one, bytes), Q3_OK);
        assert_int_equal(q3_stream_end(&other, tokens), Q3_OK);
        assert_string_equal(one.data ? one.data : "", other.data ? other.data : "");
        q3_text_free(&one);
        q3_text_free(&other);
        q3_ids_free(&ids);
        q3_stream_destroy(bytes);
        q3_stream_destroy(tokens);
    }
}

static void bad_stop_strings_are_refused(void **state)
{
    (void)state;
    q3_stream *s;
    assert_int_equal(q3_stream_create(&s, real, (const char *const[]){ "a", "" }, 2, true), Q3_ERR_USAGE);
    assert_null(s);
    assert_string_equal(q3_error(), "stop string 2 is empty");
    assert_int_equal(q3_stream_create(&s, real, (const char *const[]){ "a\xA9" }, 1, true), Q3_ERR_USAGE);
    assert_string_equal(q3_error(), "stop string 1 is not valid UTF-8 at byte 1");
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    static const char *const stops[] = { "STOP", "b" };
    q3_status st = Q3_ERR_MEMORY;
    for (int64_t n = 1; st != Q3_OK; n++) {
        q3_stream *s;
        q3_text out = { 0 };
        bool stopped;
        q3_heap_fail_at(n);
        st = q3_stream_create(&s, real, stops, 2, true);
        for (const char *p = "aST\xC3\xA9"; st == Q3_OK && *p; p++)
            st = q3_stream_add(&out, &stopped, s, byte_id[(unsigned char)*p]);
        if (st == Q3_OK)
            st = q3_stream_end(&out, s);
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
        q3_stream_destroy(s);
        q3_text_free(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_piece_ends_inside_a_character),
        cmocka_unit_test(invalid_bytes_are_replaced_at_once_and_a_beginning_at_the_end),
        cmocka_unit_test(stop_strings_are_found_across_tokens_and_cut),
        cmocka_unit_test(nothing_is_shown_before_it_is_sure),
        cmocka_unit_test(a_stop_string_inside_one_token_is_found),
        cmocka_unit_test(pieces_make_up_what_decoding_gives),
        cmocka_unit_test(splits_do_not_matter),
        cmocka_unit_test(bad_stop_strings_are_refused),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
