#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <pthread.h>
#include <cmocka.h>

#include "collate/tokenizer.h"
#include "collate/tokenizer_file.h"
#include "collate/unicode.h"
#include "core/file.h"

#define VECTORS "tests/golden/vectors/"
#define QWEN3 "tests/golden/tokenizer/qwen3"
#define SMALL "tests/golden/tokenizer/small"

#if defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static q3_tokenizer *qwen3, *small;

static int open_both(void **state)
{
    (void)state;
    return q3_tokenizer_open(&qwen3, QWEN3) || q3_tokenizer_open(&small, SMALL);
}

static int close_both(void **state)
{
    (void)state;
    q3_tokenizer_close(qwen3);
    q3_tokenizer_close(small);
    return 0;
}

/* ---- vectors ---- */

/* cJSON ends a string at \u0000. So that escape is written as U+F8FE, which no vector uses, and undone behind
 * it. */
static void hide_nul(char *line)
{
    for (char *p; (p = strstr(line, "\\u0000"));)
        memcpy(p, "\\uf8fe", 6);
}

static q3_text text_of(const cJSON *object, const char *key)
{
    q3_text t = { 0 };
    const char *s = cJSON_GetObjectItem(object, key)->valuestring;
    for (const char *p; (p = strstr(s, "\xEF\xA3\xBE")); s = p + 3) {
        q3_text_append(&t, s, (size_t)(p - s));
        q3_text_append(&t, "", 1);
    }
    q3_text_append(&t, s, strlen(s));
    return t;
}

static q3_ids ids_of(const cJSON *object)
{
    q3_ids ids = { 0 };
    const cJSON *id;
    cJSON_ArrayForEach(id, cJSON_GetObjectItem(object, "ids"))
        assert_int_equal(q3_ids_append(&ids, &id->valueint, 1), Q3_OK);
    return ids;
}

static void check_encode(const cJSON *vector)
{
    q3_text text = text_of(vector, "text");
    q3_ids want = ids_of(vector), ids = { 0 };
    assert_int_equal(q3_tokenizer_encode(&ids, qwen3, text.data, text.size), Q3_OK);
    bool same = ids.n == want.n && (ids.n == 0 || memcmp(ids.ids, want.ids, ids.n * sizeof *ids.ids) == 0);
    if (!same)
        fail_msg("vector %d: other ids", cJSON_GetObjectItem(vector, "i")->valueint);
    q3_text_free(&text);
    q3_ids_free(&ids);
    q3_ids_free(&want);
}

static void check_decode_as(const cJSON *vector, const char *key, bool skip_special)
{
    q3_text want = text_of(vector, key), text = { 0 };
    q3_ids ids = ids_of(vector);
    assert_int_equal(q3_tokenizer_decode(&text, qwen3, ids.ids, ids.n, skip_special), Q3_OK);
    if (text.size != want.size || (text.size > 0 && memcmp(text.data, want.data, text.size) != 0))
        fail_msg("vector %d: %s is another text", cJSON_GetObjectItem(vector, "i")->valueint, key);
    q3_text_free(&text);
    q3_text_free(&want);
    q3_ids_free(&ids);
}

static void check_decode(const cJSON *vector)
{
    check_decode_as(vector, "decoded", false);
    check_decode_as(vector, "decoded_skip_special", true);
}

static void check_both(const cJSON *vector)
{
    check_encode(vector);
    check_decode(vector);
}

/* Calls `check` with each line of a file of vectors, which must be `want` many. */
static void each_vector(const char *path, void (*check)(const cJSON *vector), int want)
{
    char *text;
    size_t size;
    int n = 0;
    assert_int_equal(q3_file_read(&text, &size, path, 1 << 20), Q3_OK);
    hide_nul(text);
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        q3_json doc;
        assert_int_equal(q3_json_parse(&doc, line, (size_t)(end - line), path, ++n), Q3_OK);
        check(doc.root);
        q3_json_close(&doc);
    }
    assert_int_equal(n, want);
    q3_free(text);
}

static void texts_encode_and_decode_as_the_tokenizers_library_does(void **state)
{
    (void)state;
    each_vector(VECTORS "qwen3-tokenizer.jsonl", check_both, 70);
}

static void random_nasty_texts_encode_alike(void **state)
{
    (void)state;
    each_vector(VECTORS "qwen3-tokenizer-fuzz.jsonl", check_encode, 600);
}

static void random_ids_decode_alike(void **state)
{
    (void)state;
    each_vector(VECTORS "qwen3-tokenizer-decode.jsonl", check_decode, 100);
}

/* ---- merging ---- */

static uint32_t random_state = 1;

static uint32_t next_random(void) // xorshift32 (Marsaglia 2003)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

/* The definition of byte-pair encoding, read off word by word. */
static size_t merge_plainly(int32_t *ids, size_t n, const q3_vocab *v)
{
    for (;;) {
        const q3_merge *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            const q3_merge *m = q3_vocab_merge(v, ids[i], ids[i + 1]);
            if (m && (!best || m->rank < best->rank)) {
                best = m;
                at = i;
            }
        }
        if (!best)
            return n;
        ids[at] = best->id;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

static void words_of_any_length_merge_by_the_definition(void **state)
{
    (void)state;
    static const char letters[] = "aaaaeeeeiiioootttnnnssrrhlldcumfpgwybvkxjqzAETS";
    q3_vocab v;
    assert_int_equal(q3_tokenizer_read(&v, QWEN3), Q3_OK);
    for (int round = 0; round < 300; round++) {
        char word[400];
        int32_t want[400];
        q3_ids ids = { 0 };
        size_t n = 1 + next_random() % (round < 200 ? 60 : 400);
        for (size_t i = 0; i < n; i++) {
            word[i] = letters[next_random() % (round % 3 == 0 ? 3 : sizeof letters - 1)];
            want[i] = v.byte_ids[(unsigned char)word[i]];
        }
        size_t left = merge_plainly(want, n, &v);
        assert_int_equal(q3_tokenizer_encode(&ids, qwen3, word, n), Q3_OK);
        assert_int_equal(ids.n, left);
        assert_memory_equal(ids.ids, want, left * sizeof *want);
        q3_ids_free(&ids);
    }
    q3_vocab_destroy(&v);
}

static void a_megabyte_without_spaces_takes_no_time(void **state)
{
    (void)state;
    const size_t n = 1 << 20;
    char *text = q3_malloc(n);
    q3_ids ids = { 0 };
    assert_non_null(text);
    memset(text, 'a', n);
    clock_t start = clock();
    assert_int_equal(q3_tokenizer_encode(&ids, qwen3, text, n), Q3_OK);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 5); // quadratic would be hours
    q3_text back = { 0 };
    assert_int_equal(q3_tokenizer_decode(&back, qwen3, ids.ids, ids.n, false), Q3_OK);
    assert_int_equal(back.size, n);
    assert_memory_equal(back.data, text, n);
    q3_text_free(&back);
    q3_ids_free(&ids);
    q3_free(text);
}

/* ---- characters ---- */

static void classes_are_those_of_the_table_file(void **state)
{
    (void)state;
    FILE *f = fopen(VECTORS "unicode-classes-oniguruma.txt", "r");
    assert_non_null(f);
    unsigned first, last, next = 0;
    char letter;
    while (fscanf(f, "%x %x %c", &first, &last, &letter) == 3) {
        q3_char_class want = letter == 'L'   ? Q3_CHAR_LETTER
                             : letter == 'N' ? Q3_CHAR_NUMBER
                             : letter == 'S' ? Q3_CHAR_SPACE
                                             : Q3_CHAR_OTHER;
        assert_int_equal(first, next);
        for (next = first; next <= last; next++)
            if (q3_char_class_of(next) != want)
                fail_msg("U+%04X is of class %d", next, (int)q3_char_class_of(next));
    }
    fclose(f);
    assert_int_equal(next, 0x110000);
}

static bool nfc_keeps(const char *text, size_t n)
{
    q3_text out = { 0 };
    assert_int_equal(q3_nfc(&out, text, n), Q3_OK);
    bool same = out.size == n && memcmp(out.data, text, n) == 0;
    q3_text_free(&out);
    return same;
}

static void what_looks_like_nfc_at_once_is_nfc(void **state)
{
    (void)state;
    static const uint32_t before[] = {
        'A', 'e', 0x3B9, 0x415, 0x928, 0x1100, 0xAC00, 0x3046, 0x30AB, 0x1025
    };
    int n_quick = 0;
    for (uint32_t c = 0; c < 0x30000; c += SANITIZED && c > 0x3400 ? 7 : 1) {
        if (c == 0xD800)
            c = 0xE000;
        q3_text text = { 0 };
        q3_utf8_append(&text, c);
        if (q3_nfc_quick(text.data, text.size)) {
            n_quick++;
            for (size_t k = 0; k < sizeof before / sizeof before[0]; k++) {
                q3_utf8_append(&text, before[k]);
                q3_utf8_append(&text, c);
            }
            if (!nfc_keeps(text.data, text.size))
                fail_msg("U+%04X is changed or composes", c);
        }
        q3_text_free(&text);
    }
    assert_true(n_quick > 10000);
}

static void nfc_is(const char *text, const char *want)
{
    q3_text out = { 0 };
    assert_int_equal(q3_nfc(&out, text, strlen(text)), Q3_OK);
    assert_string_equal(out.data, want);
    q3_text_free(&out);
}

static void nfc_composes_orders_and_stops_at_walls(void **state)
{
    (void)state;
    nfc_is("e\u0301", "\u00E9");
    nfc_is("\u212B\u2126\u212A", "\u00C5\u03A9K");
    nfc_is("\u1112\u1161\u11AB", "\uD55C");
    nfc_is("\uAC00\u11A7\u11A8", "\uAC00\u11A7\u11A8"); // U+11A7 is no trailing jamo
    nfc_is("q\u0307\u0323", "q\u0323\u0307");
    nfc_is("\uFB01\u2460", "\uFB01\u2460");   // compatibility forms stay
    nfc_is("e\u0898\u0301", "e\u0898\u0301"); // a mark that Unicode 9.0 does not know: in the walls
    nfc_is("q\u0307\u1ABF\u0323", "q\u0307\u1ABF\u0323");
}

static void many_marks_on_one_letter_are_ordered_in_linear_time(void **state)
{
    (void)state;
    q3_text text = { 0 }, out = { 0 };
    q3_text_append(&text, "q", 1);
    for (int i = 0; i < 200000; i++)
        q3_text_append(&text, i % 2 ? "\u0323" : "\u0307",
                       2); // classes 220 and 230, always the wrong way round
    clock_t start = clock();
    assert_int_equal(q3_nfc(&out, text.data, text.size), Q3_OK);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 2);
    assert_int_equal(out.size, text.size);
    assert_memory_equal(out.data + 1, "\u0323\u0323", 4);
    assert_memory_equal(out.data + out.size - 4, "\u0307\u0307", 4);
    q3_text_free(&text);
    q3_text_free(&out);
}

static void a_character_cut_in_two_waits_for_its_end(void **state)
{
    (void)state;
    assert_int_equal(q3_utf8_whole("", 0), 0);
    assert_int_equal(q3_utf8_whole("ab", 2), 2);
    assert_int_equal(q3_utf8_whole("a\xC3", 2), 1);
    assert_int_equal(q3_utf8_whole("a\xC3\xA9", 3), 3);
    assert_int_equal(q3_utf8_whole("a\xF0\x9F\x98", 4), 1);
    assert_int_equal(q3_utf8_whole("a\xF0\x9F\x98\x80", 5), 5);
    assert_int_equal(q3_utf8_whole("a\xE0\x80", 3), 3); // can become nothing: show its replacement
    assert_int_equal(q3_utf8_whole("\x80\x80\x80\x80", 4), 4);
    assert_int_equal(q3_utf8_whole("a\xFF", 2), 2);
}

/* ---- questions ---- */

static void qwen3_has_the_documented_ids(void **state)
{
    (void)state;
    assert_int_equal(q3_tokenizer_size(qwen3), 151669);
    assert_int_equal(q3_tokenizer_pad_id(qwen3), 151643);
    assert_int_equal(q3_tokenizer_eos_id(qwen3), 151645);
    assert_int_equal(q3_tokenizer_id(qwen3, "<|image_pad|>"), 151655);
    assert_int_equal(q3_tokenizer_id(qwen3, "<think>"), 151667);
    assert_int_equal(q3_tokenizer_id(qwen3, "system"), 8948);
    assert_int_equal(q3_tokenizer_id(qwen3, "\n\n"), 271);
    assert_int_equal(q3_tokenizer_id(qwen3, " "), 220);
    assert_int_equal(q3_tokenizer_id(qwen3, "<|image_pad|> "), -1);
    assert_int_equal(q3_tokenizer_id(qwen3, ""), -1);
    assert_true(q3_tokenizer_is_special(qwen3, 151656));
    assert_false(q3_tokenizer_is_special(qwen3, 151657));
    assert_false(q3_tokenizer_is_special(qwen3, 151669));
    assert_false(q3_tokenizer_is_special(qwen3, -1));
}

static void a_small_vocabulary_has_its_added_tokens_at_its_end(void **state)
{
    (void)state;
    q3_ids ids = { 0 };
    q3_text text = { 0 };
    assert_int_equal(q3_tokenizer_size(small), 372);
    assert_int_equal(q3_tokenizer_id(small, "<|image_pad|>"), 358);
    assert_int_equal(q3_tokenizer_pad_id(small), 346);
    assert_int_equal(q3_tokenizer_encode(&ids, small, "a<|im_end|>", 11), Q3_OK);
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.ids[1], 348);
    assert_int_equal(q3_tokenizer_decode(&text, small, ids.ids, ids.n, true), Q3_OK);
    assert_string_equal(text.data, "a");
    q3_text_free(&text);
    q3_ids_free(&ids);
}

static void control_tokens_in_user_text_are_found(void **state)
{
    (void)state;
    size_t at;
    assert_true(q3_tokenizer_find_added(qwen3, "a < b <|im_end|> c", 18, &at));
    assert_int_equal(at, 6);
    assert_true(q3_tokenizer_find_added(qwen3, "</think>", 8, &at));
    assert_false(q3_tokenizer_find_added(qwen3, "</think>", 7, &at));
    assert_false(q3_tokenizer_find_added(qwen3, "<|IM_END|> <|im_end |>", 22, &at));
    assert_false(q3_tokenizer_find_added(qwen3, "", 0, &at));
}

static void text_that_is_not_utf8_is_refused_and_adds_nothing(void **state)
{
    (void)state;
    const char *const bad[] = { "ab\x80", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "a\xE2\x82" };
    q3_ids ids = { 0 };
    assert_int_equal(q3_tokenizer_encode(&ids, qwen3, "hi", 2), Q3_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(q3_tokenizer_encode(&ids, qwen3, bad[i], strlen(bad[i])), Q3_ERR_DATA);
        assert_non_null(strstr(q3_error(), "UTF-8 at byte"));
        assert_int_equal(ids.n, 1);
    }
    q3_ids_free(&ids);
}

static void ids_without_a_token_decode_to_nothing(void **state)
{
    (void)state;
    const int32_t ids[] = { 151669, -1, 9707, INT32_MAX, 151935, INT32_MIN };
    q3_text text = { 0 };
    size_t n;
    assert_int_equal(q3_tokenizer_decode(&text, qwen3, ids, 6, false), Q3_OK);
    assert_string_equal(text.data, "Hello");
    assert_null(q3_tokenizer_token(&n, qwen3, -1));
    assert_memory_equal(q3_tokenizer_token(&n, qwen3, 9707), "Hello", 5);
    assert_int_equal(n, 5);
    q3_text_free(&text);
}

/* ---- several threads ---- */

typedef struct job {
    const char *text;
    size_t n;
    q3_ids ids;
    q3_status status;
} job;

static void *encode_often(void *arg)
{
    job *j = arg;
    for (int i = 0; i < 20 && j->status == Q3_OK; i++) {
        j->ids.n = 0;
        j->status = q3_tokenizer_encode(&j->ids, qwen3, j->text, j->n);
    }
    return NULL;
}

static void threads_share_a_tokenizer(void **state)
{
    (void)state;
    char *text;
    size_t size;
    pthread_t threads[4];
    job jobs[4] = { 0 };
    assert_int_equal(q3_file_read(&text, &size, VECTORS "qwen3-tokenizer.jsonl", 1 << 20), Q3_OK);
    for (int i = 0; i < 4; i++) {
        jobs[i] = (job){ .text = text, .n = size };
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, &jobs[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(jobs[i].status, Q3_OK);
        assert_int_equal(jobs[i].ids.n, jobs[0].ids.n);
        assert_memory_equal(jobs[i].ids.ids, jobs[0].ids.ids, jobs[0].ids.n * sizeof(int32_t));
    }
    for (int i = 0; i < 4; i++)
        q3_ids_free(&jobs[i].ids);
    q3_free(text);
}

/* ---- files ---- */

static void the_real_file_loads_in_half_a_second(void **state)
{
    (void)state;
    double best = 1e9;
    for (int i = 0; i < 3; i++) { // processor time: other programs may be running
        q3_tokenizer *t;
        clock_t start = clock();
        assert_int_equal(q3_tokenizer_open(&t, QWEN3), Q3_OK);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        best = seconds < best ? seconds : best;
        q3_tokenizer_close(t);
    }
    print_message("loaded in %.3f s, unpacking included\n", best);
    assert_true(best < (SANITIZED ? 10 : 0.5));
}

/* tokenizer.json of the small vocabulary, with the first `from` replaced by `to`. */
static q3_text edited(const char *from, const char *to)
{
    char *text;
    size_t size;
    q3_text out = { 0 };
    assert_int_equal(q3_file_read(&text, &size, SMALL "/tokenizer.json", 1 << 20), Q3_OK);
    const char *at = strstr(text, from);
    assert_non_null(at);
    q3_text_append(&out, text, (size_t)(at - text));
    q3_text_append(&out, to, strlen(to));
    q3_text_append(&out, at + strlen(from), strlen(at + strlen(from)));
    q3_free(text);
    return out;
}

static void refused(const char *from, const char *to, const char *part)
{
    q3_text text = edited(from, to);
    q3_tokenizer *t;
    assert_int_equal(q3_tokenizer_parse(&t, text.data, text.size, "edited"), Q3_ERR_FORMAT);
    assert_null(t);
    if (strncmp(q3_error(), "edited", 6) != 0 || !strstr(q3_error(), part))
        fail_msg("\"%s\" does not say \"%s\"", q3_error(), part);
    q3_text_free(&text);
}

static void another_pipeline_is_refused_by_name(void **state)
{
    (void)state;
    refused("\"NFC\"", "\"NFKC\"", "normalizer.type is \"NFKC\", Qwen's tokenizer has NFC");
    refused("\\\\p{N}|", "\\\\p{N}{1,3}|", "pre_tokenizer.pretokenizers.0.pattern.Regex is");
    refused("\"Isolated\"", "\"Removed\"", "behavior");
    refused("\"invert\": false", "\"invert\": true", "invert is true, Qwen's tokenizer has it off");
    refused("\"add_prefix_space\": false", "\"add_prefix_space\": true", "add_prefix_space");
    refused("\"BPE\"", "\"Unigram\"", "model.type is \"Unigram\"");
    refused("\"ignore_merges\": false", "\"ignore_merges\": true", "model.ignore_merges");
    refused("\"byte_fallback\": false", "\"byte_fallback\": true", "model.byte_fallback");
    refused("\"dropout\": null", "\"dropout\": 0.1", "model.dropout is 0.1");
    refused("\"post_processor\": {", "\"post_processor\": {\"type\": \"BertProcessing\", \"x\": {}, ",
            "post_processor.type");
    refused("\"decoder\"", "\"decoded\"", "decoder.type is absent");
}

static void broken_tables_are_refused(void **state)
{
    (void)state;
    refused("\"vocab\"", "\"vocabulary\"", "model.vocab must be an object");
    refused("\"!\": 0", "\"!\": 0.5", "the id must be an integer");
    refused("\"!\": 0", "\"!\": 1e9", "the id must be an integer");
    refused("\"!\": 0", "\"!\": -1", "the id must be an integer");
    refused("\"!\": 0", "\"!\": 5", "which another token has already");
    refused("\"!\": 0", "\"#\": 0", "occurs twice");
    refused("\"!\": 0", "\"\xE2\x82\xAC\": 0", "not in byte-level notation");
    refused("\"!\": 0", "\"!!\": 0", "no token for byte 0x21");
    refused("\"merges\": [", "\"merges\": [[\"s\", \"t\", \"s\"],", "merge 0: it must be two strings");
    refused("\"merges\": [", "\"merges\": [\"a b c\",", "merge 0: it must be two parts");
    refused("\"merges\": [", "\"merges\": [[\"s\", \"zzz\"],", "merge 0: its right part");
    refused("\"merges\": [", "\"merges\": [[\"z\", \"q\"],", "merge 0: the token it makes");
    refused("\"merges\": [", "\"merges\": [[\"\", \"q\"],", "merge 0: its parts");
    refused("\"lstrip\": false", "\"lstrip\": true", "lstrip set, which is not supported");
    refused("\"content\": \"<|im_start|>\"", "\"content\": \"<|endoftext|>\"", "occurs twice");
    refused("\"content\": \"<|im_start|>\"", "\"content\": \"\"", "has 0 bytes");
    refused("\"id\": 347", "\"id\": 3", "which another token has already");
    refused("\"id\": 347", "\"id\": 99999999", "ids from 0 to");
}

static void a_cut_file_is_refused_wherever_it_ends(void **state)
{
    (void)state;
    q3_text text = edited("", "");
    for (size_t n = 0; n + 2 < text.size; n += 1 + (n > 2000) * 61) {
        q3_tokenizer *t;
        assert_int_equal(q3_tokenizer_parse(&t, text.data, n, "cut"), Q3_ERR_FORMAT);
        assert_null(t);
    }
    q3_text_free(&text);
}

static char *fresh_dir(const char *name)
{
    const char *root = getenv("Q3_TEST_DIR");
    char *dir = q3_path_join(root ? root : "/tmp", name);
    assert_non_null(dir);
    assert_int_equal(q3_dir_remove(dir), Q3_OK);
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    return dir;
}

static void write_in(const char *dir, const char *name, const char *data, size_t size)
{
    char *path = q3_path_join(dir, name);
    assert_non_null(path);
    assert_int_equal(q3_file_write(path, data, size), Q3_OK);
    q3_free(path);
}

static void same_ids(const q3_tokenizer *t)
{
    static const char text[] =
        "What is in the picture? {\"label\": 1}<|im_end|>\n caf\xC3\xA9 <think>the cat sat</think>";
    q3_ids a = { 0 }, b = { 0 };
    assert_int_equal(q3_tokenizer_encode(&a, small, text, strlen(text)), Q3_OK);
    assert_int_equal(q3_tokenizer_encode(&b, t, text, strlen(text)), Q3_OK);
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.ids, b.ids, a.n * sizeof *a.ids);
    q3_ids_free(&a);
    q3_ids_free(&b);
}

/* The merges of the small vocabulary as lines "a b". */
static q3_text merge_lines(const cJSON *root)
{
    q3_text lines = { 0 };
    const cJSON *merge;
    q3_text_printf(&lines, "#version: 0.2\n");
    cJSON_ArrayForEach(merge, cJSON_GetObjectItem(cJSON_GetObjectItem(root, "model"), "merges"))
        q3_text_printf(&lines, "%s %s\r\n", merge->child->valuestring, merge->child->next->valuestring);
    return lines;
}

static void merges_may_be_strings(void **state)
{
    (void)state;
    q3_json doc;
    assert_int_equal(q3_json_open(&doc, SMALL "/tokenizer.json", 1 << 20), Q3_OK);
    cJSON *merges = cJSON_GetObjectItem(cJSON_GetObjectItem(doc.root, "model"), "merges"), *merge;
    cJSON *strings = cJSON_CreateArray();
    cJSON_ArrayForEach(merge, merges)
    {
        char line[64];
        snprintf(line, sizeof line, "%s %s", merge->child->valuestring, merge->child->next->valuestring);
        cJSON_AddItemToArray(strings, cJSON_CreateString(line));
    }
    cJSON_ReplaceItemInObject(cJSON_GetObjectItem(doc.root, "model"), "merges", strings);
    char *text = cJSON_PrintUnformatted(doc.root);
    q3_tokenizer *t;
    assert_int_equal(q3_tokenizer_parse(&t, text, strlen(text), "strings"), Q3_OK);
    same_ids(t);
    q3_tokenizer_close(t);
    cJSON_free(text);
    q3_json_close(&doc);
}

static void vocab_json_and_merges_txt_do_as_well(void **state)
{
    (void)state;
    q3_json doc;
    q3_tokenizer *t;
    char *dir = fresh_dir("pair"), *path = q3_path_join(dir, "tokenizer_config.json");
    assert_int_equal(q3_tokenizer_open(&t, dir), Q3_ERR_MODEL); // nothing there yet
    assert_non_null(strstr(q3_error(), "no tokenizer.json here"));
    assert_int_equal(q3_json_open(&doc, SMALL "/tokenizer.json", 1 << 20), Q3_OK);
    char *vocab =
        cJSON_PrintUnformatted(cJSON_GetObjectItem(cJSON_GetObjectItem(doc.root, "model"), "vocab"));
    q3_text lines = merge_lines(doc.root);
    write_in(dir, "vocab.json", vocab, strlen(vocab));
    write_in(dir, "merges.txt", lines.data, lines.size);
    assert_int_equal(q3_file_copy(path, SMALL "/tokenizer_config.json"), Q3_OK);
    assert_int_equal(q3_tokenizer_open(&t, dir), Q3_OK);
    same_ids(t);
    assert_int_equal(q3_tokenizer_size(t), 372);
    assert_true(q3_tokenizer_is_special(t, 346));
    assert_false(q3_tokenizer_is_special(t, 371));
    q3_tokenizer_close(t);
    write_in(dir, "merges.txt", "a b\nq\n", 6);
    assert_int_equal(q3_tokenizer_open(&t, dir), Q3_ERR_MODEL);
    assert_non_null(strstr(q3_error(), "merges.txt:1: "));
    q3_text_free(&lines);
    cJSON_free(vocab);
    q3_json_close(&doc);
    q3_free(path);
    q3_free(dir);
}

/* Opens the small tokenizer with this tokenizer_config.json. */
static q3_status open_with_config(q3_tokenizer **t, const char *config)
{
    char *dir = fresh_dir("config"), *path = q3_path_join(dir, "tokenizer.json");
    assert_int_equal(q3_file_copy(path, SMALL "/tokenizer.json"), Q3_OK);
    write_in(dir, "tokenizer_config.json", config, strlen(config));
    q3_status st = q3_tokenizer_open(t, dir);
    q3_free(path);
    q3_free(dir);
    return st;
}

static void tokenizer_config_names_tokens_and_adds_some(void **state)
{
    (void)state;
    q3_tokenizer *t;
    assert_int_equal(
        open_with_config(&t, "{\"pad_token\": {\"content\": \"<|im_end|>\"}, \"eos_token\": null, "
                             "\"added_tokens_decoder\": {\"371\": {\"content\": \"</think>\", \"special\": "
                             "true}, \"400\": {\"content\": \"<new>\"}}}"),
        Q3_OK);
    assert_int_equal(q3_tokenizer_pad_id(t), 348);
    assert_int_equal(q3_tokenizer_eos_id(t), -1);
    assert_true(q3_tokenizer_is_special(t, 371)); // the config has the last word
    assert_int_equal(q3_tokenizer_id(t, "<new>"), 400);
    assert_int_equal(q3_tokenizer_size(t), 401);
    q3_tokenizer_close(t);
    assert_int_equal(open_with_config(&t, "{\"eos_token\": \"<end>\"}"), Q3_ERR_MODEL);
    assert_non_null(strstr(q3_error(), "tokenizer_config.json: eos_token is \"<end>\""));
    assert_int_equal(open_with_config(&t, "{\"added_tokens_decoder\": {\"x\": {\"content\": \"<new>\"}}}"),
                     Q3_ERR_MODEL);
    assert_int_equal(open_with_config(&t, "{\"added_tokens_decoder\": {\"9\": {\"content\": \"<new>\"}}}"),
                     Q3_ERR_MODEL);
    assert_int_equal(open_with_config(&t, "{"), Q3_ERR_MODEL);
}

static void a_damaged_gzip_file_is_refused(void **state)
{
    (void)state;
    char *dir = fresh_dir("gz"), *gz;
    size_t size;
    q3_tokenizer *t;
    assert_int_equal(q3_file_read(&gz, &size, QWEN3 "/tokenizer.json.gz", 4 << 20), Q3_OK);
    const size_t cuts[] = { 0, 5, 100, size / 2, size - 1 };
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        write_in(dir, "tokenizer.json.gz", gz, cuts[i]);
        assert_int_equal(q3_tokenizer_open(&t, dir), Q3_ERR_MODEL);
        assert_non_null(strstr(q3_error(), "not a whole gzip file"));
    }
    gz[size / 2] ^= 0x10;
    write_in(dir, "tokenizer.json.gz", gz, size);
    assert_int_equal(q3_tokenizer_open(&t, dir), Q3_ERR_MODEL);
    q3_free(gz);
    q3_free(dir);
}

static q3_status open_and_use(void)
{
    static const char text[] =
        "e\xCC\x81 the aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa<|im_end|>";
    q3_tokenizer *t;
    q3_ids ids = { 0 };
    q3_text back = { 0 };
    Q3_TRY(q3_tokenizer_open(&t, SMALL));
    q3_status st = q3_tokenizer_encode(&ids, t, text, strlen(text));
    if (st == Q3_OK)
        st = q3_tokenizer_decode(&back, t, ids.ids, ids.n, false);
    q3_ids_free(&ids);
    q3_text_free(&back);
    q3_tokenizer_close(t);
    return st;
}

static void every_failed_allocation_is_survived(void **state)
{
    (void)state;
    q3_status st;
    int n = 0;
    do {
        q3_heap_fail_at(++n);
        st = open_and_use();
        q3_heap_fail_at(0);
        assert_true(n < 20000);
        n += SANITIZED && n > 50 && n < 2000 ? 6 : 0; // most are nodes of the same tree
    } while (st != Q3_OK);
    assert_true(n > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_encode_and_decode_as_the_tokenizers_library_does),
        cmocka_unit_test(random_nasty_texts_encode_alike),
        cmocka_unit_test(random_ids_decode_alike),
        cmocka_unit_test(words_of_any_length_merge_by_the_definition),
        cmocka_unit_test(a_megabyte_without_spaces_takes_no_time),
        cmocka_unit_test(classes_are_those_of_the_table_file),
        cmocka_unit_test(what_looks_like_nfc_at_once_is_nfc),
        cmocka_unit_test(nfc_composes_orders_and_stops_at_walls),
        cmocka_unit_test(many_marks_on_one_letter_are_ordered_in_linear_time),
        cmocka_unit_test(a_character_cut_in_two_waits_for_its_end),
        cmocka_unit_test(qwen3_has_the_documented_ids),
        cmocka_unit_test(a_small_vocabulary_has_its_added_tokens_at_its_end),
        cmocka_unit_test(control_tokens_in_user_text_are_found),
        cmocka_unit_test(text_that_is_not_utf8_is_refused_and_adds_nothing),
        cmocka_unit_test(ids_without_a_token_decode_to_nothing),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(the_real_file_loads_in_half_a_second),
        cmocka_unit_test(another_pipeline_is_refused_by_name),
        cmocka_unit_test(broken_tables_are_refused),
        cmocka_unit_test(a_cut_file_is_refused_wherever_it_ends),
        cmocka_unit_test(merges_may_be_strings),
        cmocka_unit_test(vocab_json_and_merges_txt_do_as_well),
        cmocka_unit_test(tokenizer_config_names_tokens_and_adds_some),
        cmocka_unit_test(a_damaged_gzip_file_is_refused),
        cmocka_unit_test(every_failed_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, open_both, close_both);
}
