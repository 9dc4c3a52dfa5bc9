#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/file.h"
#include "infer/answer.h"
#include "infer/conversation.h"
#include "kernels/pool.h"
#include "tests/support/ask.h"

#include "cli/show_picture.c" // the program's rooms are a library, its command line is not

#define PICTURE_1 "tests/golden/generate/picture-1.png"
#define PICTURE_2 "tests/golden/generate/picture-2.png"

static char dir[400];

static int setup(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s/chat", base ? base : "/tmp/q3-test");
    return q3_dir_remove(dir) || q3_dir_create(dir);
}

static int teardown(void **state)
{
    (void)state;
    q3_pool_stop();
    return 0;
}

/* What chat says to these lines; it must end well. */
static q3_process chat(const char *options, const char *lines)
{
    char line[600];
    snprintf(line, sizeof line, "chat --model assets/tiny-base --threads 1 --greedy --max-new-tokens 24 %s",
             options);
    q3_process p = q3_ask(Q3_PROGRAM, line, lines, strlen(lines));
    if (p.code != 0)
        fail_msg("%s: exit %d: %s", line, p.code, p.err);
    return p;
}

static void says(const char *options, const char *lines, const char *want)
{
    q3_process p = chat(options, lines);
    if (strcmp(p.out, want) != 0)
        fail_msg("%s\nis answered with\n%s\nand not with\n%s", lines, p.out, want);
    q3_process_free(&p);
}

/* The answer to a conversation in one go, without a cache from before. */
static void answer_at_once(q3_text *out, q3_conversation *c)
{
    const q3_session_options options = { .model = "assets/tiny-base",
                                         .device = "cpu",
                                         .engine = { .kv_type = Q3_DTYPES, .no_sharing = true } };
    const q3_answer_options greedy = { .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 },
                                       .max_new_tokens = 24,
                                       .logprobs = -1 };
    q3_session s;
    q3_arena mem;
    q3_prompt prompt;
    q3_answer answer;
    assert_int_equal(q3_arena_create(&mem, "test arena", (size_t)1 << 26), Q3_OK);
    if (q3_session_open(&s, &options) != Q3_OK)
        fail_msg("%s", q3_error());
    assert_int_equal(q3_conversation_prompt(&prompt, &mem, c, &s.prompter), Q3_OK);
    assert_int_equal(q3_answer_begin(&answer, &s, &prompt, 0, &greedy), Q3_OK);
    assert_int_equal(q3_scheduler_run(s.scheduler), Q3_OK);
    assert_int_equal(q3_answer_status(&answer), Q3_OK);
    q3_text_append(out, answer.text.data, answer.text.size);
    q3_answer_free(&answer);
    q3_session_close(&s);
    q3_arena_destroy(&mem);
}

static void the_second_turn_answers_as_one_call_with_the_history_does(void **state)
{
    (void)state;
    q3_conversation c = { 0 };
    q3_text first = { 0 }, second = { 0 }, want = { 0 };
    assert_int_equal(q3_conversation_system(&c, "be kind"), Q3_OK);
    assert_int_equal(q3_conversation_picture(&c, PICTURE_1, NULL), Q3_OK);
    assert_int_equal(q3_conversation_ask(&c, "what a lovely garden"), Q3_OK);
    answer_at_once(&first, &c);
    assert_int_equal(q3_conversation_answer(&c, first.data), Q3_OK);
    assert_int_equal(q3_conversation_picture(&c, PICTURE_2, NULL), Q3_OK);
    assert_int_equal(q3_conversation_ask(&c, "and this"), Q3_OK);
    answer_at_once(&second, &c);
    q3_text_printf(&want, "%s\n%s\n", first.data, second.data);
    q3_process p = chat("-v --system 'be kind' --image " PICTURE_1,
                        "what a lovely garden\n/image " PICTURE_2 "\nand this\n");
    assert_string_equal(p.out, want.data);
    assert_non_null(strstr(p.err, "cached      32 of ")); // two blocks of the first turn are there
    q3_process_free(&p);
    q3_text_free(&first);
    q3_text_free(&second);
    q3_text_free(&want);
    q3_conversation_free(&c);
}

static void commands_change_the_conversation(void **state)
{
    (void)state;
    says("",
         "Is this post sarcastic?\n/retry\n/undo\n/history\nIs this post sarcastic?\n/quit\nnever asked\n",
         "yes\nyes\nyes\n");
    says("", "Is this post sarcastic?\n/reset\nIs this post sarcastic?\n/history\n",
         "yes\nyes\nuser: Is this post sarcastic?\nassistant: yes\n");
    says("", "what\n/edit Is this post sarcastic?\n/system\n/history\n/undo\n/history\n",
         "a green cake\nyes\nuser: Is this post sarcastic?\nassistant: yes\n");
    says("", "/system be kind\n/history\n/system\n/history\n", "system: be kind\n");
    q3_process p = chat("", "/help\n");
    assert_non_null(strstr(p.out, "/undo           take the last question and its answer back\n"));
    q3_process_free(&p);
}

/* A line that is nothing but a picture's path is that picture, as terminals write it when a file is dropped on them. */
static void a_path_alone_is_a_picture(void **state)
{
    (void)state;
    char lines[1000], path[440];
    snprintf(path, sizeof path, "%s/a picture's.png", dir);
    assert_int_equal(q3_file_copy(path, PICTURE_1), Q3_OK);
    snprintf(lines, sizeof lines, "%s/a\\ picture\\'s.png \nwhat a lovely garden\n", dir);
    says("", lines, "a pink face\n");
    says("", PICTURE_1 "\nwhat a lovely garden\n", "a pink face\n");
    says("", "'" PICTURE_1 "'\nwhat a lovely garden\n", "a pink face\n");
    says("", "/image " PICTURE_2 "\n/reset\n/image \"" PICTURE_1 "\"\nwhat a lovely garden\n",
         "a pink face\n");
}

static void an_error_leaves_the_conversation_as_it_was(void **state)
{
    (void)state;
    static const char *const errors[] = {
        "error: /image needs a file\n",
        "error: none.png: No such file or directory\n",
        "error: the text contains the control token <|im_end|>; remove it, or allow it with "
        "--allow-special-tokens\n",
        "error: unknown command /undoo; did you mean /undo?\n",
        "error: there is no question to take back\n",
        "error: there is no question to answer again\n",
        "error: there is no adapter \"x\"; there are: base\n",
        "error: /edit needs the new text of the last question\n",
    };
    q3_process p = chat("", "/image\n/image none.png\na<|im_end|>\n/undoo\n/undo\n/retry\n/adapter x\n/edit\n"
                            "Is this post sarcastic?\n");
    assert_string_equal(p.out, "yes\n");
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (!strstr(p.err, errors[i]))
            fail_msg("no \"%s\" in\n%s", errors[i], p.err);
    q3_process_free(&p);
}

static void a_conversation_is_saved_as_json(void **state)
{
    (void)state;
    char path[440], lines[600], *saved;
    size_t size;
    q3_json doc;
    q3_chat messages;
    snprintf(path, sizeof path, "%s/saved.json", dir);
    snprintf(lines, sizeof lines, "/image " PICTURE_1 "\nwhat a lovely garden\n/save %s\n", path);
    q3_process p = chat("--system 'be \"kind\"'", lines);
    assert_int_equal(q3_file_read(&saved, &size, path, 1 << 20), Q3_OK);
    assert_int_equal(q3_json_parse(&doc, saved, size, path, 1), Q3_OK);
    assert_string_equal(cJSON_GetObjectItem(doc.root, "model")->valuestring, "tiny-base");
    assert_int_equal(q3_chat_from_json(&messages, cJSON_GetObjectItem(doc.root, "messages")), Q3_OK);
    assert_int_equal(messages.n, 3);
    assert_string_equal(messages.messages[0].text, "be \"kind\"");
    assert_int_equal(messages.messages[1].n_parts, 2);
    size_t n = strlen(messages.messages[2].text);
    assert_int_equal(strlen(p.out), n + 1);
    assert_memory_equal(p.out, messages.messages[2].text, n);
    q3_process_free(&p);
    q3_chat_free(&messages);
    q3_json_close(&doc);
    q3_free(saved);
}

static void an_adapter_is_chosen_by_name(void **state)
{
    (void)state;
    static const char line[] =
        "chat --model tests/golden/training/model --greedy --max-new-tokens 4 --adapter "
        "one=tests/golden/training/float32-adapter-final";
    static const char lines[] = "is it\n/undo\n/adapter base\nis it\n/undo\n/adapter one\nis it\n";
    q3_process p = q3_ask(Q3_PROGRAM, line, lines, sizeof lines - 1);
    assert_int_equal(p.code, 0);
    char *first = p.out, *second = strchr(first, '\n') + 1, *third = strchr(second, '\n') + 1;
    assert_true(strncmp(first, second, (size_t)(second - first)) != 0);
    assert_int_equal(strncmp(first, third, (size_t)(second - first)), 0);
    q3_process_free(&p);
}

static void a_picture_is_drawn_in_half_blocks(void **state)
{
    (void)state;
    uint8_t pixels[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18 };
    const q3_image picture = { 2, 3, pixels };
    q3_text out = { 0 };
    assert_int_equal(q3_picture_draw(&out, &picture, 2, 2), Q3_OK);
    assert_string_equal(out.data,
                        "\033[38;2;1;2;3m\033[48;2;7;8;9m\xE2\x96\x80\033[38;2;4;5;6m\033[48;2;10;11;12m"
                        "\xE2\x96\x80\033[0m\n\033[38;2;13;14;15m\xE2\x96\x80\033[38;2;16;17;18m"
                        "\xE2\x96\x80\033[0m\n");
    q3_text_free(&out);
    setenv("COLORTERM", "truecolor", 1);
    assert_false(q3_picture_showable(0x7fffffff)); // no terminal at all
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_second_turn_answers_as_one_call_with_the_history_does),
        cmocka_unit_test(commands_change_the_conversation),
        cmocka_unit_test(a_path_alone_is_a_picture),
        cmocka_unit_test(an_error_leaves_the_conversation_as_it_was),
        cmocka_unit_test(a_conversation_is_saved_as_json),
        cmocka_unit_test(an_adapter_is_chosen_by_name),
        cmocka_unit_test(a_picture_is_drawn_in_half_blocks),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
