#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "core/arena.h"
#include "data/jsonl.h"
#include "data/messages.h"

#define USER(text) "{\"role\": \"user\", \"content\": \"" text "\"}"
#define BOT(text) "{\"role\": \"assistant\", \"content\": \"" text "\"}"
#define PARTS(role, parts) "{\"role\": \"" role "\", \"content\": [" parts "]}"
#define IMAGE "{\"type\": \"image\"}"
#define SAID(text) "{\"type\": \"text\", \"text\": \"" text "\"}"
#define TALK(messages, more) "{\"messages\": [" messages "]" more "}"

static const q3_data_keys PICTURES = { .need_target = true };
static const q3_data_keys TEXTS = { .need_target = true, .allow_text_only = true };

static q3_status read_with(q3_sample *out, const char *line, const q3_data_keys *keys)
{
    q3_jsonl *f;
    q3_status st = q3_jsonl_open_memory(&f, line, strlen(line), "d/train.jsonl", keys);
    if (st != Q3_OK)
        return st;
    st = q3_jsonl_get(out, f, 0);
    q3_jsonl_close(f);
    return st;
}

static q3_sample must_read(const char *line, const q3_data_keys *keys)
{
    q3_sample s;
    if (read_with(&s, line, keys) != Q3_OK)
        fail_msg("%s", q3_error());
    return s;
}

/* The messages as JSON text. */
static void assert_messages(const q3_sample *s, const char *want)
{
    char *got = cJSON_PrintUnformatted(s->messages);
    assert_string_equal(got, want);
    cJSON_free(got);
}

static void parts_take_the_pictures_of_the_list_in_order(void **state)
{
    (void)state;
    q3_sample s = must_read(
        TALK(PARTS("user", IMAGE ", " SAID("a") ", {\"type\": \"image\", \"url\": \"own.png\"}") ", " BOT(
                 "b") ", " PARTS("user", IMAGE) ", " BOT("c"),
             ", \"images\": [\"1.png\", {\"path\": \"/2.png\"}], \"label\": 1, \"id\": 7"),
        &PICTURES);
    assert_int_equal(s.n_pictures, 3);
    assert_string_equal(s.pictures[0].path, "d/1.png");
    assert_string_equal(s.pictures[1].path, "d/own.png");
    assert_string_equal(s.pictures[2].path, "/2.png");
    assert_messages(
        &s,
        "[{\"role\":\"user\",\"content\":[{\"type\":\"image\"},{\"type\":\"text\",\"text\":\"a\"},"
        "{\"type\":\"image\"}]},{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"b\"}]},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]},"
        "{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"c\"}]}]");
    assert_string_equal(s.query, "user: [picture]a[picture]\nassistant: b\nuser: [picture]");
    assert_string_equal(s.target, "c");
    assert_string_equal(s.label, "1");
    assert_string_equal(s.id, "7");
    q3_sample_free(&s);
}

static void a_part_may_bring_its_picture_in_every_way(void **state)
{
    (void)state;
    static const char *const ways[] = {
        "{\"type\": \"image\", \"image\": \"p.png\"}",
        "{\"type\": \"image\", \"path\": \"p.png\"}",
        "{\"type\": \"image\", \"url\": \"file://p.png\"}",
        "{\"image\": \"p.png\", \"text\": null}",
        "{\"type\": \"image_url\", \"image_url\": {\"url\": \"p.png\"}}",
        "{\"type\": \"image\", \"image\": {\"path\": \"p.png\"}}",
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        char line[400];
        snprintf(line, sizeof line, TALK(PARTS("user", "%s") ", " BOT("b"), ""), ways[i]);
        q3_sample s = must_read(line, &PICTURES);
        assert_int_equal(s.n_pictures, 1);
        assert_string_equal(s.pictures->path, "d/p.png");
        q3_sample_free(&s);
    }
    q3_sample s = must_read(
        TALK(PARTS("user", "{\"type\": \"image\", \"image\": \"data:image/png;base64,AAAA\"}") ", " BOT("b"),
             ""),
        &PICTURES);
    assert_int_equal(s.pictures->size, 3);
    assert_null(s.pictures->path);
    q3_sample_free(&s);
}

static void sharegpt_is_read_with_places_in_its_texts(void **state)
{
    (void)state;
    q3_sample s = must_read("{\"conversations\": [{\"from\": \"system\", \"value\": \"s\"}, "
                            "{\"from\": \"human\", \"value\": \"<image>\\nor <image>?\"}, {\"from\": "
                            "\"gpt\", \"value\": \"<image>\"}], "
                            "\"images\": [\"1.png\", \"2.png\"], \"tools\": \"\"}",
                            &PICTURES);
    assert_int_equal(s.n_pictures, 2);
    assert_true(q3_messages_system(s.messages));
    assert_messages(&s, "[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"s\"}]},{\"role\":"
                        "\"user\",\"content\":["
                        "{\"type\":\"image\"},{\"type\":\"text\",\"text\":\"\\nor \"},{\"type\":\"image\"},"
                        "{\"type\":\"text\",\"text\":\"?\"}]},{\"role\":\"assistant\",\"content\":["
                        "{\"type\":\"text\",\"text\":\"<image>\"}]}]");
    q3_sample_free(&s);
}

static void without_a_place_pictures_stand_in_front_of_the_first_question(void **state)
{
    (void)state;
    q3_sample s = must_read(
        TALK(USER("a") ", " BOT("b") ", " USER("c") ", " BOT("d"), ", \"image\": \"1.png\""), &PICTURES);
    assert_int_equal(s.n_pictures, 1);
    assert_string_equal(s.query, "user: [picture]a\nassistant: b\nuser: c");
    q3_sample_free(&s);
    s = must_read(TALK(USER("a <image>") ", " BOT("b"), ""), &TEXTS); // no pictures: ordinary text
    assert_string_equal(s.query, "a <image>");
    assert_int_equal(s.n_pictures, 0);
    q3_sample_free(&s);
}

static void fields_can_be_named(void **state)
{
    (void)state;
    const q3_data_keys keys = { .messages_key = "talk", .images_key = "shots", .need_target = true };
    q3_sample s = must_read(
        "{\"talk\": [" USER("a") ", " BOT("b") "], \"shots\": \"1.png\", \"images\": [\"no\", \"no\"]}",
        &keys);
    assert_int_equal(s.n_pictures, 1);
    assert_string_equal(s.pictures->path, "d/1.png");
    q3_sample_free(&s);
}

static void what_cannot_be_trained_is_told_with_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *line, *sentence;
    } cases[] = {
        { "{\"messages\": 3}", "d/train.jsonl:1: \"messages\": must be an array" },
        { TALK("", ""), "d/train.jsonl:1: \"messages\": the last turn must be the assistant's" },
        { TALK(USER("a"), ""), "the last turn must be the assistant's" },
        { TALK(USER("a") ", 3, " BOT("b"), ""), "message 2: must be an object with a \"role\"" },
        { TALK(USER("a") ", " PARTS("tool", "") ", " BOT("b"), ""),
          "message 2: the role is \"tool\"; system, user and" },
        { "{\"conversations\": [{\"from\": \"observation\", \"value\": \"\"}]}",
          "\"conversations\": message 1: the role is \"observation\"" },
        { TALK(USER("a") ", {\"role\": \"assistant\", \"content\": \"b\", \"tool_calls\": [{}]}", ""),
          "message 2: has \"tool_calls\"" },
        { TALK(USER("a") ", " BOT("b"), ", \"tools\": [{}]"), "\"tools\" cannot be trained on" },
        { TALK(USER("a") ", " BOT("") ", " USER("c") ", " BOT("d"), ""),
          "message 2: a turn of the assistant says nothing" },
        { TALK(USER("a") ", {\"role\": \"assistant\"}", ""),
          "message 2: a turn of the assistant says nothing" },
        { TALK(USER("a") ", {\"role\": \"system\", \"content\": \"s\"}, " BOT("b"), ""),
          "message 2: a system turn behind the first message" },
        { TALK(PARTS("system", IMAGE) ", " BOT("b"), ""), "message 1: a picture in a turn of the system" },
        { TALK(PARTS("user", "{\"type\": \"video\", \"video\": \"a.mp4\"}") ", " BOT("b"), ""),
          "message 1: an item is of type \"video\"" },
        { TALK(PARTS("user", "{\"type\": \"text\"}") ", " BOT("b"), ""),
          "message 1: an item of type \"text\" must have" },
        { TALK(PARTS("user", "\"a\"") ", " BOT("b"), ""),
          "message 1: an item of the content must be an object" },
        { TALK("{\"role\": \"user\", \"content\": 3}, " BOT("b"), ""),
          "message 1: \"content\" must be a string or an array" },
        { TALK(PARTS("user", IMAGE ", " IMAGE) ", " BOT("b"), ", \"images\": [\"1.png\"]"),
          "the turns have places for 2 pictures, and there are 1" },
        { TALK(PARTS("user", IMAGE) ", " BOT("b"), ""),
          "the turns have places for 1 pictures, and there are 0" },
        { TALK(PARTS("user", SAID("a")) ", " BOT("b"), ", \"images\": [\"1.png\"]"),
          "the turns have places for 0 pictures, and there are 1" },
        { TALK(PARTS("user", IMAGE) ", " BOT("b"), ", \"images\": [3]"),
          "message 1: picture 1 of the list: a picture must be" },
        { TALK(PARTS("user", "{\"type\": \"image\", \"image\": \"http://x/a.png\"}") ", " BOT("b"), ""),
          "message 1: a picture: http://x/a.png: pictures are not downloaded" },
        { TALK(USER("a") ", " BOT("b"), ", \"query\": \"q\""), "\"query\" stands beside \"messages\"" },
        { TALK("{\"role\": \"system\", \"content\": \"s\"}, " BOT("b"), ", \"system\": \"t\""),
          "begins with a system turn, and there is a field \"system\"" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        q3_sample s;
        if (read_with(&s, cases[i].line, &TEXTS) != Q3_ERR_DATA)
            fail_msg("no Q3_ERR_DATA for %s", cases[i].line);
        if (strncmp(q3_error(), "d/train.jsonl:1:", 16) != 0 || !strstr(q3_error(), cases[i].sentence))
            fail_msg("\"%s\" lacks \"%s\"", q3_error(), cases[i].sentence);
    }
    q3_sample s;
    assert_int_equal(read_with(&s, TALK(USER("a") ", " BOT("b"), ""), &PICTURES), Q3_ERR_DATA);
    assert_non_null(strstr(
        q3_error(), "d/train.jsonl:1: \"messages\" has no picture; allow it with data.allow_text_only"));
}

static void a_failing_allocation_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    static const char *const lines[] = {
        TALK(PARTS("user", IMAGE ", " SAID("a")) ", " BOT("b") ", " USER("c") ", " BOT("d"),
             ", \"images\": [\"1.png\"]"),
        TALK(USER("a") ", " BOT("b"), ", \"images\": [\"1.png\", \"2.png\"]"),
    };
    for (int i = 0; i < 2; i++) {
        q3_status st = Q3_ERR_FAIL;
        for (int64_t n = 1; st != Q3_OK; n++) {
            q3_sample s;
            q3_heap_fail_at(n);
            st = read_with(&s, lines[i], &PICTURES);
            q3_heap_fail_at(0);
            if (st == Q3_OK)
                q3_sample_free(&s);
            assert_true(n < 400);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_take_the_pictures_of_the_list_in_order),
        cmocka_unit_test(a_part_may_bring_its_picture_in_every_way),
        cmocka_unit_test(sharegpt_is_read_with_places_in_its_texts),
        cmocka_unit_test(without_a_place_pictures_stand_in_front_of_the_first_question),
        cmocka_unit_test(fields_can_be_named),
        cmocka_unit_test(what_cannot_be_trained_is_told_with_its_line),
        cmocka_unit_test(a_failing_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
