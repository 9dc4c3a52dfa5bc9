#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/file.h"
#include "data/base64.h"
#include "data/dataset.h"
#include "data/jsonl.h"

#define IMAGES "tests/golden/formats/images/"

static const q3_data_keys DEFAULTS = { 0 };
static const q3_data_keys TRAINING = { .need_target = true };

static void assert_error(const char *part)
{
    if (!strstr(q3_error(), part))
        fail_msg("\"%s\" lacks \"%s\"", q3_error(), part);
}

static q3_jsonl *open_text(const char *text, const q3_data_keys *keys)
{
    q3_jsonl *f;
    if (q3_jsonl_open_memory(&f, text, strlen(text), "d/train.jsonl", keys) != Q3_OK)
        fail_msg("%s", q3_error());
    return f;
}

/* The only sample of a one-line text. */
static q3_status read_line(q3_sample *out, const char *text, const q3_data_keys *keys)
{
    q3_jsonl *f = open_text(text, keys);
    assert_int_equal(q3_jsonl_size(f), 1);
    q3_status st = q3_jsonl_get(out, f, 0);
    q3_jsonl_close(f);
    return st;
}

static void assert_refused(const char *text, const q3_data_keys *keys, const char *part)
{
    q3_sample s;
    if (read_line(&s, text, keys) == Q3_OK)
        fail_msg("accepted: %s", text);
    assert_null(s.where);
    assert_error(part);
}

static void all_fields_are_read(void **state)
{
    (void)state;
    q3_sample s;
    assert_int_equal(
        read_line(&s,
                  "{\"id\": \"a7\", \"image\": \"images/7.png\", \"query\": \" caf\\u00e9 \", "
                  "\"caption\": \"a b\", \"target_json\": \"{\\\"label\\\":  1}\", \"label\": 1, "
                  "\"system\": \"Be brief.\", \"source\": \"web\"}",
                  &TRAINING),
        Q3_OK);
    assert_string_equal(s.where, "d/train.jsonl:1");
    assert_string_equal(s.id, "a7");
    assert_string_equal(s.pictures->path, "d/images/7.png");
    assert_null(s.pictures->bytes);
    assert_string_equal(s.query, " caf\xC3\xA9 ");
    assert_string_equal(s.caption, "a b");
    assert_string_equal(s.target, "{\"label\":  1}");
    assert_string_equal(s.label, "1");
    assert_string_equal(s.system, "Be brief.");
    assert_string_equal(s.source, "web");
    q3_sample_free(&s);
    q3_sample_free(&s);
    assert_int_equal(read_line(&s, "{\"image\": \"/i.png\", \"text\": \"t\", \"caption\": null}", &DEFAULTS),
                     Q3_OK);
    assert_string_equal(s.pictures->path, "/i.png");
    assert_string_equal(s.query, "t"); // "text" stands in for "query"
    assert_true(!s.id && !s.caption && !s.target && !s.label && !s.system && !s.source);
    q3_sample_free(&s);
}

static void ids_keep_all_their_digits(void **state)
{
    (void)state;
    q3_sample s;
    assert_int_equal(
        read_line(&s, "{\"id\": 892551658487631873, \"image\": \"a\", \"query\": \"\"}", &DEFAULTS), Q3_OK);
    assert_string_equal(s.id, "892551658487631873");
    q3_sample_free(&s);
    assert_refused("{\"id\": 1.5, \"image\": \"a\", \"query\": \"\"}", &DEFAULTS,
                   "d/train.jsonl:1:2: \"id\" must be a string or an integer");
    assert_refused("{\"id\": true, \"image\": \"a\", \"query\": \"\"}", &DEFAULTS,
                   "must be a string or an integer");
}

static void keys_can_be_named(void **state)
{
    (void)state;
    const q3_data_keys keys = { .image_key = "img",
                                .query_key = "q",
                                .caption_key = "c",
                                .target_key = "t",
                                .label_key = "l",
                                .need_target = true };
    q3_sample s;
    assert_int_equal(
        read_line(
            &s, "{\"img\": \"a\", \"q\": \"b\", \"c\": \"c\", \"t\": \"d\", \"l\": true, \"query\": \"no\"}",
            &keys),
        Q3_OK);
    assert_string_equal(s.query, "b");
    assert_string_equal(s.caption, "c");
    assert_string_equal(s.target, "d");
    assert_string_equal(s.label, "true");
    q3_sample_free(&s);
    assert_refused("{\"img\": \"a\", \"text\": \"b\", \"t\": \"d\"}", &keys, "missing field \"q\"");
}

static void targets_are_made_from_labels(void **state)
{
    (void)state;
    const q3_data_keys keys = { .target_template = "{\"label\": \"{label}\", \"again\": {label}}",
                                .need_target = true };
    q3_sample s;
    assert_int_equal(read_line(&s, "{\"image\": \"a\", \"query\": \"b\", \"label\": -3}", &keys), Q3_OK);
    assert_string_equal(s.target, "{\"label\": \"-3\", \"again\": -3}");
    q3_sample_free(&s);
    assert_int_equal(
        read_line(&s, "{\"image\": \"a\", \"query\": \"b\", \"label\": 1, \"target_json\": \"own\"}", &keys),
        Q3_OK);
    assert_string_equal(s.target, "own");
    q3_sample_free(&s);
    assert_refused("{\"image\": \"a\", \"query\": \"b\"}", &keys,
                   "d/train.jsonl:1: missing field \"target_json\", and no \"label\" to make it from");
}

static void pictures_are_made_from_fields(void **state)
{
    (void)state;
    const q3_data_keys keys = { .image_template = "../img/{id}_{set}.jpg" };
    q3_sample s;
    assert_int_equal(read_line(&s, "{\"id\": 900000000000000001, \"set\": \"a\", \"query\": \"\"}", &keys),
                     Q3_OK);
    assert_string_equal(s.pictures[0].path, "d/../img/900000000000000001_a.jpg");
    q3_sample_free(&s);
    assert_int_equal(read_line(&s, "{\"image\": \"own.png\", \"query\": \"\"}", &keys), Q3_OK);
    assert_string_equal(s.pictures[0].path, "d/own.png");
    q3_sample_free(&s);
    assert_refused("{\"id\": 1, \"query\": \"\"}", &keys, "d/train.jsonl:1: missing field \"set\"");
    assert_refused("{\"id\": 1.5, \"set\": \"\", \"query\": \"\"}", &keys,
                   "d/train.jsonl:1:2: \"id\" must be a string or an integer");
    const q3_data_keys texts = { .image_template = "{id}.jpg", .allow_text_only = true };
    assert_int_equal(read_line(&s, "{\"query\": \"\"}", &texts), Q3_OK);
    assert_false(q3_sample_has_image(&s));
    q3_sample_free(&s);
    const q3_data_keys long_name = {
        .image_template = "{iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii"
                          "iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii}"
    };
    assert_refused("{\"id\": 1, \"query\": \"\"}", &long_name, "missing field \"iiii");
}

static void one_question_serves_samples_without_one(void **state)
{
    (void)state;
    const q3_data_keys keys = { .question = "Why?", .caption_key = "text", .allow_text_only = true };
    static const char *const lines[][2] = { { "{\"text\": \"t\"}", "Why?" },
                                            { "{\"text\": \"t\", \"query\": null}", "Why?" },
                                            { "{\"text\": \"t\", \"query\": \"own\"}", "own" } };
    for (int i = 0; i < 3; i++) {
        q3_sample s;
        assert_int_equal(read_line(&s, lines[i][0], &keys), Q3_OK);
        assert_string_equal(s.query, lines[i][1]);
        assert_string_equal(s.caption, "t"); // not taken for the question
        q3_sample_free(&s);
    }
}

static void labels_that_are_numbers_get_names(void **state)
{
    (void)state;
    static const char *const names[] = { "no", "yes", "2" };
    const q3_data_keys keys = {
        .label_names = names, .n_label_names = 3, .target_template = "<{label}>", .allow_text_only = true
    };
    static const char *const lines[][2] = { { "0", "<no>" },         { "1", "<yes>" },
                                            { "\"1\"", "<yes>" },    { "false", "<no>" },
                                            { "true", "<yes>" },     { "\"no\"", "<no>" },
                                            { "\"true\"", "<yes>" }, { "2", "<2>" } };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char line[64];
        q3_sample s;
        snprintf(line, sizeof line, "{\"query\": \"\", \"label\": %s}", lines[i][0]);
        assert_int_equal(read_line(&s, line, &keys), Q3_OK);
        assert_string_equal(s.target, lines[i][1]);
        q3_sample_free(&s);
    }
    assert_refused("{\"query\": \"\", \"label\": 3}", &keys,
                   "d/train.jsonl:1:15: \"label\" is neither one of data.label_names nor the number of one");
    assert_refused("{\"query\": \"\", \"label\": -1}", &keys, "\"label\" is neither");
    assert_refused("{\"query\": \"\", \"label\": \"maybe\"}", &keys, "\"label\" is neither");
}

static void lines_that_cannot_be_used_are_refused_with_their_place(void **state)
{
    (void)state;
    assert_refused("\n\n{\"query\": \"b\"}", &DEFAULTS, "d/train.jsonl:3: missing field \"image\"");
    assert_refused("{\"image\": null, \"query\": \"b\"}", &DEFAULTS, "missing field \"image\"");
    assert_refused("{\"image\": \"a\"}", &DEFAULTS, "missing field \"query\"");
    assert_refused("{\"image\": \"a\", \"query\": 3}", &DEFAULTS,
                   "d/train.jsonl:1:16: \"query\" must be a string");
    assert_refused("{\"image\": 4, \"query\": \"b\"}", &DEFAULTS,
                   "d/train.jsonl:1:2: \"image\" must be a path");
    assert_refused("{\"image\": \"a\", \"query\": \"b\"}", &TRAINING,
                   "d/train.jsonl:1: missing field \"target_json\"");
    assert_refused("{\"image\": \"a\", \"query\": \"b\", \"target_json\": \"\"}", &TRAINING,
                   "d/train.jsonl:1:30: \"target_json\" is empty");
    assert_refused("{\"image\": \"a\", \"query\": \"b\", \"target_json\": {}}", &DEFAULTS,
                   "\"target_json\" must be a string");
    assert_refused("{\"image\": \"a\", \"query\": \"b\", \"label\": 0.5}", &DEFAULTS, "\"label\" must be");
    assert_refused("{\"image\": \"a\", \"query\": \"b\", \"query\": \"c\"}", &DEFAULTS,
                   "\"query\" occurs twice");
    assert_refused("\n{\"image\": \"a\", \"query\" \"b\"}", &DEFAULTS, "d/train.jsonl:2:");
    assert_refused("{\"image\": \"a\", \"query\": \"\xFF\"}", &DEFAULTS,
                   "d/train.jsonl:1:26: not valid UTF-8");
    assert_refused("{\"image\": \"a\", \"query\": \"\\ud800\"}", &DEFAULTS, "d/train.jsonl:1:");
    assert_refused("{\"image\": \"a\", \"query\": \"x\\u0000y\"}", &DEFAULTS, "1:27: a NUL character");
    assert_refused("[1]", &DEFAULTS, "d/train.jsonl:1: a sample must be a JSON object");
    assert_refused("{\"image\": \"a\", \"query\": \"b\"} x", &DEFAULTS,
                   "unexpected text behind the JSON value");
    q3_sample s; // an escaped backslash before u0000 is plain text
    assert_int_equal(read_line(&s, "{\"image\": \"a\", \"query\": \"x\\\\u0000y\"}", &DEFAULTS), Q3_OK);
    q3_sample_free(&s);
}

static void text_only_rows_need_permission(void **state)
{
    (void)state;
    const q3_data_keys keys = { .allow_text_only = true };
    q3_sample s;
    q3_image img;
    int w, h;
    assert_int_equal(read_line(&s, "{\"query\": \"b\"}", &keys), Q3_OK);
    assert_false(q3_sample_has_image(&s));
    assert_int_equal(q3_sample_image(&img, &s, NULL), Q3_ERR_DATA);
    assert_error("d/train.jsonl:1: the sample has no picture");
    assert_int_equal(q3_sample_image_size(&w, &h, &s, NULL), Q3_ERR_DATA);
    q3_sample_free(&s);
}

static void blank_lines_marks_and_carriage_returns_do_not_count(void **state)
{
    (void)state;
    q3_jsonl *f = open_text("\xEF\xBB\xBF{\"image\": \"a\", \"query\": \"0\"}\r\n\r\n  \t\n"
                            "{\"image\": \"a\", \"query\": \"1\"}\n\n{\"image\": \"a\", \"query\": \"2\"}",
                            &DEFAULTS);
    static const char *const wheres[] = { "d/train.jsonl:1", "d/train.jsonl:4", "d/train.jsonl:6" };
    assert_int_equal(q3_jsonl_size(f), 3);
    for (int i = 2; i >= 0; i--) {
        q3_sample s;
        assert_int_equal(q3_jsonl_get(&s, f, i), Q3_OK);
        assert_int_equal(s.query[0], '0' + i);
        assert_string_equal(s.where, wheres[i]);
        q3_sample_free(&s);
    }
    q3_jsonl_close(f);
}

static void a_file_without_samples_is_refused(void **state)
{
    (void)state;
    q3_jsonl *f;
    assert_int_equal(q3_jsonl_open_memory(&f, "\n \n", 3, "a.jsonl", &DEFAULTS), Q3_ERR_DATA);
    assert_string_equal(q3_error(), "a.jsonl: the file holds no samples");
    assert_int_equal(q3_jsonl_open_memory(&f, "", 0, "a.jsonl", &DEFAULTS), Q3_ERR_DATA);
    assert_null(f);
    assert_int_equal(q3_jsonl_open(&f, "absent.jsonl", &DEFAULTS), Q3_ERR_DATA);
    assert_error("absent.jsonl: No such file");
}

static void very_long_lines_are_refused(void **state)
{
    (void)state;
    size_t n = ((size_t)64 << 20) + 1;
    char *text = q3_malloc(n + 2);
    memset(text, 'x', n + 2);
    text[0] = text[1] = '\n';
    q3_jsonl *f;
    assert_int_equal(q3_jsonl_open_memory(&f, text, n + 2, "a.jsonl", &DEFAULTS), Q3_ERR_DATA);
    assert_error("a.jsonl:3: the sample has ");
    q3_free(text);
}

/* ---- pictures ---- */

static char *base64_of(const unsigned char *p, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = q3_malloc(n * 4 / 3 + 5), *to = text;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v =
            (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        *to++ = digits[v >> 18];
        *to++ = digits[v >> 12 & 63];
        *to++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
        *to++ = i + 2 < n ? digits[v & 63] : '=';
    }
    *to = 0;
    return text;
}

static void check_picture(const char *format, const char *base64, int width, int height)
{
    q3_text line = { 0 };
    q3_text_printf(&line, format, base64);
    q3_sample s;
    if (read_line(&s, line.data, &DEFAULTS) != Q3_OK)
        fail_msg("%s", q3_error());
    assert_non_null(s.pictures->bytes);
    q3_image img;
    int w, h;
    assert_int_equal(q3_sample_image(&img, &s, NULL), Q3_OK);
    assert_int_equal(q3_sample_image_size(&w, &h, &s, NULL), Q3_OK);
    assert_true(img.width == width && img.height == height && w == width && h == height);
    q3_image_free(&img);
    q3_sample_free(&s);
    q3_text_free(&line);
}

static void pictures_come_inside_the_line_too(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        int width, height;
    } files[] = { { "tiny-9x5.png", 9, 5 }, { "gray-77x33.jpg", 77, 33 }, { "lossy-80x60.webp", 80, 60 } };
    for (int i = 0; i < 3; i++) {
        char path[200], *bytes;
        size_t size;
        snprintf(path, sizeof path, IMAGES "%s", files[i].file);
        assert_int_equal(q3_file_read(&bytes, &size, path, 1 << 20), Q3_OK);
        char *text = base64_of((unsigned char *)bytes, size);
        int w = files[i].width, h = files[i].height;
        check_picture("{\"query\": \"\", \"image\": \"%s\"}", text, w, h);
        check_picture("{\"query\": \"\", \"image\": \"data:image/x;base64,%s\"}", text, w, h);
        check_picture("{\"query\": \"\", \"image\": {\"bytes\": \"%s\", \"path\": \"x.png\"}}", text, w, h);
        q3_free(text);
        q3_free(bytes);
    }
}

static void pictures_by_path_are_found_and_named_in_errors(void **state)
{
    (void)state;
    q3_jsonl *f;
    static const char text[] = "{\"query\": \"\", \"image\": \"tiny-9x5.png\"}\n"
                               "{\"query\": \"\", \"image\": {\"path\": \"tiny-9x5.png\", \"bytes\": null}}\n"
                               "{\"query\": \"\", \"image\": \"absent.png\"}\n"
                               "{\"query\": \"\", \"image\": \"images.jsonl\"}\n"
                               "{\"query\": \"\", \"image\": \"/9j/absent.jpg\"}\n"
                               "{\"query\": \"\", \"image\": \"file:///absent/file.jpg\"}\n";
    assert_int_equal(q3_jsonl_open_memory(&f, text, sizeof text - 1, IMAGES "x.jsonl", &DEFAULTS), Q3_OK);
    for (int i = 0; i < 6; i++) {
        q3_sample s;
        q3_image img;
        int w, h;
        assert_int_equal(q3_jsonl_get(&s, f, i), Q3_OK);
        assert_int_equal(q3_sample_image(&img, &s, NULL), i < 2 ? Q3_OK : Q3_ERR_DATA);
        if (i == 2)
            assert_string_equal(q3_error(),
                                IMAGES "x.jsonl:3: " IMAGES "absent.png: No such file or directory");
        if (i == 3)
            assert_error(IMAGES "x.jsonl:4: " IMAGES "images.jsonl: this is text (JSON)");
        if (i == 4)
            assert_error("x.jsonl:5: /9j/absent.jpg: No such file");
        if (i == 5)
            assert_error("x.jsonl:6: /absent/file.jpg: No such file");
        assert_int_equal(q3_sample_image_size(&w, &h, &s, NULL), i < 2 ? Q3_OK : Q3_ERR_DATA);
        assert_true(i >= 2 || (img.width == 9 && w == 9 && h == 5));
        q3_image_free(&img);
        q3_sample_free(&s);
    }
    q3_jsonl_close(f);
}

static void unusable_picture_fields_are_refused(void **state)
{
    (void)state;
    assert_refused("{\"query\": \"\", \"image\": \"\"}", &DEFAULTS,
                   "d/train.jsonl:1: \"image\": the path of the picture is empty");
    assert_refused("{\"query\": \"\", \"image\": \"https://x.org/a.png\"}", &DEFAULTS,
                   "pictures are not downloaded");
    assert_refused("{\"query\": \"\", \"image\": \"data:image/png,abc\"}", &DEFAULTS, "must be in base64");
    assert_refused("{\"query\": \"\", \"image\": \"data:;base64,ab*d\"}", &DEFAULTS,
                   "not valid base64 at character 3 of 4");
    assert_refused("{\"query\": \"\", \"image\": {}}", &DEFAULTS, "must have \"path\"");
    assert_refused("{\"query\": \"\", \"image\": {\"bytes\": \"a\"}}", &DEFAULTS, "not valid base64");
}

static void base64_is_decoded_or_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *bytes;
    } good[] = { { "", "" },        { "Zg==", "f" },      { "Zm8=", "fo" },
                 { "Zm9v", "foo" }, { "Zm9vYg", "foob" }, { "Zm9v\nYmE=", "fooba" } };
    static const char *const bad[] = { "Z", "Zg=", "Zg===", "Z=g=", "Zg==Zg==", "Zm-_", "Zm9v=" };
    unsigned char *bytes;
    size_t n;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(q3_base64_decode(&bytes, &n, good[i].text, strlen(good[i].text)), Q3_OK);
        assert_int_equal(n, strlen(good[i].bytes));
        assert_memory_equal(bytes, good[i].bytes, n);
        q3_free(bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (q3_base64_decode(&bytes, &n, bad[i], strlen(bad[i])) != Q3_ERR_DATA || bytes)
            fail_msg("accepted: %s", bad[i]);
}

/* ---- the data set on top ---- */

enum { SAMPLES = 500, THREADS = 4 };

static void *read_all(void *p)
{
    q3_dataset *ds = p;
    for (int i = 0; i < SAMPLES; i++) {
        q3_sample s;
        char id[20];
        int k = i * 7 % SAMPLES;
        snprintf(id, sizeof id, "%d", k);
        if (q3_dataset_get(&s, ds, k) != Q3_OK || strcmp(s.id, id) != 0)
            return p;
        q3_sample_free(&s);
    }
    return NULL;
}

static void threads_read_a_data_set_at_random(void **state)
{
    (void)state;
    char path[4096];
    q3_text text = { 0 };
    snprintf(path, sizeof path, "%s/many.jsonl", getenv("Q3_TEST_DIR"));
    assert_int_equal(q3_dir_create(getenv("Q3_TEST_DIR")), Q3_OK);
    for (int i = 0; i < SAMPLES; i++)
        q3_text_printf(&text, "{\"id\": %d, \"image\": \"%d.png\", \"query\": \"%*s\"}\n", i, i, i % 50, "");
    assert_int_equal(q3_file_write(path, text.data, text.size), Q3_OK);
    q3_text_free(&text);
    q3_dataset *ds;
    assert_int_equal(q3_dataset_open(&ds, path, NULL), Q3_OK);
    assert_int_equal(q3_dataset_size(ds), SAMPLES);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_all, ds), 0);
    for (int i = 0; i < THREADS; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    q3_dataset_close(ds);
    assert_int_equal(q3_dataset_open(&ds, "absent.jsonl", NULL), Q3_ERR_DATA);
    assert_error("absent.jsonl: No such file");
    assert_int_equal(q3_dataset_open(&ds, "absent", NULL), Q3_ERR_DATA);
    assert_error("absent: no such data set");
    assert_int_equal(q3_dataset_open(&ds, "CMakeLists.txt", NULL), Q3_ERR_DATA);
    assert_error("CMakeLists.txt: not a kind of data set");
}

static void a_failing_allocation_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    static const char text[] =
        "{\"id\": 5, \"image\": \"data:;base64,Zm9v\", \"query\": \"b\", \"caption\": \"c\", "
        "\"label\": \"x\", \"system\": \"s\"}\n";
    const q3_data_keys keys = { .target_template = "<{label}>", .need_target = true };
    q3_status st = Q3_ERR_FAIL;
    int64_t n = 0;
    while (st != Q3_OK) {
        q3_jsonl *f;
        q3_sample s;
        q3_heap_fail_at(++n);
        st = q3_jsonl_open_memory(&f, text, sizeof text - 1, "a.jsonl", &keys);
        if (st == Q3_OK)
            st = q3_jsonl_get(&s, f, 0);
        q3_heap_fail_at(0);
        if (st == Q3_OK) {
            assert_string_equal(s.target, "<x>");
            q3_sample_free(&s);
        }
        q3_jsonl_close(f);
        assert_true(n < 200);
        if (n < 5) // behind that, cJSON calls lack of memory a syntax error
            assert_int_equal(st, Q3_ERR_MEMORY);
    }
    assert_true(n > 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_fields_are_read),
        cmocka_unit_test(ids_keep_all_their_digits),
        cmocka_unit_test(keys_can_be_named),
        cmocka_unit_test(targets_are_made_from_labels),
        cmocka_unit_test(pictures_are_made_from_fields),
        cmocka_unit_test(one_question_serves_samples_without_one),
        cmocka_unit_test(labels_that_are_numbers_get_names),
        cmocka_unit_test(lines_that_cannot_be_used_are_refused_with_their_place),
        cmocka_unit_test(text_only_rows_need_permission),
        cmocka_unit_test(blank_lines_marks_and_carriage_returns_do_not_count),
        cmocka_unit_test(a_file_without_samples_is_refused),
        cmocka_unit_test(very_long_lines_are_refused),
        cmocka_unit_test(pictures_come_inside_the_line_too),
        cmocka_unit_test(pictures_by_path_are_found_and_named_in_errors),
        cmocka_unit_test(unusable_picture_fields_are_refused),
        cmocka_unit_test(base64_is_decoded_or_refused),
        cmocka_unit_test(threads_read_a_data_set_at_random),
        cmocka_unit_test(a_failing_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
