#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "collate/chat_template.h"
#include "collate/tokenizer.h"
#include "core/file.h"

static q3_chat_options options_of(const cJSON *kwargs, bool text_only)
{
    return (q3_chat_options){
        .text_only = text_only,
        .no_thinking = cJSON_IsFalse(cJSON_GetObjectItem(kwargs, "enable_thinking")),
        .add_generation_prompt = cJSON_IsTrue(cJSON_GetObjectItem(kwargs, "add_generation_prompt")),
        .add_vision_id = cJSON_IsTrue(cJSON_GetObjectItem(kwargs, "add_vision_id")),
        .tools = cJSON_GetObjectItem(kwargs, "tools"),
    };
}

static void check_ids(const q3_tokenizer *t, const q3_text *text, const cJSON *want)
{
    q3_ids ids = { 0 };
    assert_int_equal(q3_tokenizer_encode(&ids, t, text->data, text->size), Q3_OK);
    assert_int_equal(ids.n, cJSON_GetArraySize(want));
    int i = 0;
    for (const cJSON *id = want->child; id; id = id->next)
        assert_int_equal(ids.ids[i++], id->valueint);
    q3_ids_free(&ids);
}

static void check_vector(const q3_tokenizer *t, const cJSON *vector, bool text_only)
{
    q3_chat chat;
    q3_text text = { 0 };
    const char *name = cJSON_GetObjectItem(vector, "name")->valuestring;
    const char *want = cJSON_GetObjectItem(vector, "rendered")->valuestring;
    const q3_chat_options options = options_of(cJSON_GetObjectItem(vector, "kwargs"), text_only);
    assert_int_equal(q3_chat_from_json(&chat, cJSON_GetObjectItem(vector, "messages")), Q3_OK);
    assert_int_equal(q3_chat_render(&text, chat.messages, chat.n, &options), Q3_OK);
    if (strcmp(text.data, want) != 0)
        fail_msg("%s: rendered\n%s\nbut the template gives\n%s", name, text.data, want);
    if (!text_only)
        check_ids(t, &text, cJSON_GetObjectItem(vector, "ids"));
    q3_text_free(&text);
    q3_chat_free(&chat);
}

static int check_vectors(const char *vectors, bool text_only)
{
    q3_tokenizer *t;
    char *text;
    size_t size;
    int n = 0;
    assert_int_equal(q3_tokenizer_open(&t, "tests/golden/tokenizer/qwen3"), Q3_OK);
    assert_int_equal(q3_file_read(&text, &size, vectors, 1 << 20), Q3_OK);
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        q3_json doc;
        assert_int_equal(q3_json_parse(&doc, line, (size_t)(end - line), vectors, ++n), Q3_OK);
        check_vector(t, doc.root, text_only);
        q3_json_close(&doc);
    }
    q3_free(text);
    q3_tokenizer_close(t);
    return n;
}

static void every_conversation_renders_as_the_template_does(void **state)
{
    (void)state;
    assert_int_equal(check_vectors("tests/golden/vectors/qwen3-vl-chat-template.jsonl", false), 27);
    assert_int_equal(check_vectors("tests/golden/vectors/qwen3-chat-template.jsonl", true), 33);
}

/* The template leaves lists out; here their texts stand where a string would. */
static void lists_of_texts_read_as_one_text_without_pictures(void **state)
{
    (void)state;
    const q3_part parts[] = { { Q3_PART_TEXT, "<think>1" }, { Q3_PART_TEXT, "</think>b" } };
    const q3_message messages[] = { { .role = "user", .parts = parts, .n_parts = 2 },
                                    { .role = "assistant", .parts = parts, .n_parts = 2 } };
    q3_text text = { 0 };
    assert_int_equal(q3_chat_render(&text, messages, 2, &(q3_chat_options){ .text_only = true }), Q3_OK);
    assert_string_equal(text.data, "<|im_start|>user\n<think>1</think>b<|im_end|>\n"
                                   "<|im_start|>assistant\n<think>\n1\n</think>\n\nb<|im_end|>\n");
    q3_text_free(&text);
}

/* Renders the JSON array `messages` and compares. */
static void renders(const char *messages, const char *want)
{
    q3_json doc;
    q3_chat chat;
    q3_text text = { 0 };
    assert_int_equal(q3_json_parse(&doc, messages, strlen(messages), "messages", 1), Q3_OK);
    assert_int_equal(q3_chat_from_json(&chat, doc.root), Q3_OK);
    assert_int_equal(q3_chat_render(&text, chat.messages, chat.n, NULL), Q3_OK);
    assert_string_equal(text.data ? text.data : "", want);
    q3_text_free(&text);
    q3_chat_free(&chat);
    q3_json_close(&doc);
}

static void oddities_of_the_template_are_kept(void **state)
{
    (void)state;
    renders("[{\"role\": \"critic\", \"content\": \"x\"}]", "");
    renders("[{\"role\": \"user\", \"content\": null}]", "<|im_start|>user\n<|im_end|>\n");
    renders("[{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"text\": \"alt\"}]}]",
            "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n");
    renders("[{\"role\": \"system\", \"content\": [{\"type\": \"image\", \"text\": \"alt\"}]}]",
            "<|im_start|>system\nalt<|im_end|>\n");
    renders("[{\"role\": \"user\", \"content\": [{\"video\": 1}, {\"image_url\": {\"url\": \"a\"}}]}]",
            "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|><|vision_start|><|image_pad|><|"
            "vision_end|>"
            "<|im_end|>\n");
    renders(
        "[{\"role\": \"assistant\", \"content\": \"a\", \"tool_calls\": [{\"name\": \"f\", \"arguments\": "
        "{\"k\": [1, 2.5, true, null, \"\\u00e9\\n\\\"\"]}}]}]",
        "<|im_start|>assistant\na\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"k\": [1, 2.5, true, "
        "null, "
        "\"\xC3\xA9\\n\\\"\"]}}\n</tool_call><|im_end|>\n");
}

static void messages_can_be_built_without_json(void **state)
{
    (void)state;
    const q3_part parts[] = { { Q3_PART_IMAGE, NULL }, { Q3_PART_TEXT, "q" }, { Q3_PART_OTHER, NULL } };
    const q3_message messages[] = {
        { .role = "user", .parts = parts, .n_parts = 3 },
        { .role = "assistant", .text = "a" },
    };
    q3_text text = { 0 };
    q3_text_append(&text, ">", 1);
    assert_int_equal(q3_chat_render(&text, messages, 2, &(q3_chat_options){ .add_generation_prompt = true }),
                     Q3_OK);
    assert_string_equal(text.data,
                        "><|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>q<|im_end|>\n"
                        "<|im_start|>assistant\na<|im_end|>\n<|im_start|>assistant\n");
    q3_text_free(&text);
}

/* The array is refused by q3_chat_from_json or q3_chat_render, with `part` in the sentence. */
static void refused(const char *messages, const char *part)
{
    q3_json doc;
    q3_chat chat = { 0 };
    q3_text text = { 0 };
    assert_int_equal(q3_json_parse(&doc, messages, strlen(messages), "messages", 1), Q3_OK);
    q3_status st = q3_chat_from_json(&chat, doc.root);
    if (st == Q3_OK)
        st = q3_chat_render(&text, chat.messages, chat.n, NULL);
    assert_int_equal(st, Q3_ERR_DATA);
    if (!strstr(q3_error(), part))
        fail_msg("\"%s\" does not say \"%s\"", q3_error(), part);
    q3_text_free(&text);
    q3_chat_free(&chat);
    q3_json_close(&doc);
}

static void malformed_conversations_are_refused_by_number(void **state)
{
    (void)state;
    refused("{}", "\"messages\" must be an array");
    refused("[]", "no message");
    refused("[{\"role\": \"user\", \"content\": \"a\"}, 7]", "message 1: \"role\"");
    refused("[{\"role\": \"user\", \"content\": 7}]", "message 0: \"content\"");
    refused("[{\"role\": \"user\", \"content\": [\"a\"]}]", "message 0: an item");
    refused("[{\"role\": \"user\", \"content\": [{\"text\": null}]}]", "\"text\"");
    refused("[{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": 1}]", "\"tool_calls\"");
    refused("[{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{\"name\": \"f\"}]}]",
            "message 0: a tool call");
}

static void running_out_of_memory_is_reported(void **state)
{
    (void)state;
    const char *messages = "[{\"role\": \"user\", \"content\": [{\"type\": \"image\"}, {\"text\": \"a\"}]}]";
    q3_json doc;
    assert_int_equal(q3_json_parse(&doc, messages, strlen(messages), "messages", 1), Q3_OK);
    q3_status st = Q3_ERR_MEMORY;
    for (int n = 1; st != Q3_OK; n++) {
        q3_chat chat = { 0 };
        q3_text text = { 0 };
        assert_true(n < 100);
        q3_heap_fail_at(n);
        st = q3_chat_from_json(&chat, doc.root);
        if (st == Q3_OK)
            st = q3_chat_render(&text, chat.messages, chat.n, NULL);
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
        assert_true(n > 1 || st == Q3_ERR_MEMORY);
        q3_text_free(&text);
        q3_chat_free(&chat);
    }
    q3_json_close(&doc);
}

static void a_template_of_another_model_is_noticed(void **state)
{
    (void)state;
    const char *root = getenv("Q3_TEST_DIR");
    char *dir = q3_path_join(root ? root : "/tmp", "chat_template");
    assert_non_null(dir);
    assert_int_equal(q3_dir_remove(dir), Q3_OK);
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    assert_true(q3_chat_template_known(dir));                             // none at all
    assert_false(q3_chat_template_known("tests/golden/tokenizer/small")); // in tokenizer_config.json
    assert_true(q3_chat_template_known("assets/tiny-base"));
    assert_true(q3_chat_template_known("tests/golden/tokenizer/qwen3")); // text only
    char *path = q3_path_join(dir, "chat_template.jinja");
    assert_int_equal(q3_file_write(path, "{{ messages }}", 14), Q3_OK);
    assert_false(q3_chat_template_known(dir));
    q3_free(path);
    path = q3_path_join(dir, "chat_template.json"); // goes before the other file
    assert_int_equal(q3_file_write(path, "{\"chat_template\": 7}", 20), Q3_OK);
    assert_false(q3_chat_template_known(dir));
    q3_free(path);
    q3_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_conversation_renders_as_the_template_does),
        cmocka_unit_test(lists_of_texts_read_as_one_text_without_pictures),
        cmocka_unit_test(oddities_of_the_template_are_kept),
        cmocka_unit_test(messages_can_be_built_without_json),
        cmocka_unit_test(malformed_conversations_are_refused_by_number),
        cmocka_unit_test(running_out_of_memory_is_reported),
        cmocka_unit_test(a_template_of_another_model_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
