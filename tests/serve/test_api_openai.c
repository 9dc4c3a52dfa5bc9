/* The OpenAI-like face, by a client over sockets in front of a tiny model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/file.h"
#include "tests/support/http.h"
#include "tests/support/serve.h"

#define CHAT "/v1/chat/completions"
#define HELLO "\"messages\":[{\"role\":\"user\",\"content\":\"this is wonderful\"}]"

static q3_serve_bed bed;

static q3_reply post(const char *path, const char *body)
{
    return q3_http(bed.port, "POST", path, NULL, body);
}

static void expect_error(const char *path, const char *body, int status, const char *sentence)
{
    q3_reply_expect(post(path, body), status, "error.message", sentence);
}

/* The texts of a stream's chunks, joined; those of choice `index`. */
static char *join_stream(const q3_reply *r, int index, bool chat)
{
    q3_text text = { 0 };
    for (const char *line = r->body; line; line = strstr(line + 6, "data: ")) {
        q3_json doc;
        const char *end = strchr(line, '\n');
        assert_non_null(end);
        assert_memory_equal(line, "data: ", 6);
        if (strncmp(line + 6, "[DONE]", 6) == 0)
            break;
        assert_int_equal(q3_json_parse(&doc, line + 6, (size_t)(end - line - 6), "chunk", 1), Q3_OK);
        const cJSON *choice = cJSON_GetArrayItem(cJSON_GetObjectItem(doc.root, "choices"), 0);
        const cJSON *holder = chat ? cJSON_GetObjectItem(choice, "delta") : choice;
        const char *piece = cJSON_GetStringValue(cJSON_GetObjectItem(holder, chat ? "content" : "text"));
        if (piece && cJSON_GetObjectItem(choice, "index")->valueint == index)
            q3_text_append(&text, piece, strlen(piece));
        q3_json_close(&doc);
    }
    return text.data ? text.data : q3_strdup("");
}

static void a_chat_is_answered(void **state)
{
    (void)state;
    q3_reply r = post(CHAT, "{" HELLO ",\"temperature\":0,\"max_tokens\":12}");
    assert_int_equal(r.status, 200);
    assert_string_equal(q3_reply_string(&r, "object"), "chat.completion");
    assert_string_equal(q3_reply_string(&r, "model"), "model");
    assert_string_equal(q3_reply_string(&r, "choices.0.message.role"), "assistant");
    assert_memory_equal(q3_reply_string(&r, "id"), "chatcmpl-", 9);
    double prompt = q3_reply_number(&r, "usage.prompt_tokens"),
           output = q3_reply_number(&r, "usage.completion_tokens");
    assert_true(prompt > 5 && output > 0);
    assert_true(q3_reply_number(&r, "usage.total_tokens") == prompt + output);
    assert_true(q3_reply_number(&r, "timings.predicted_n") == output);
    q3_reply_free(&r);
}

static void pieces_of_a_stream_make_the_whole_answer(void **state)
{
    (void)state;
    static const char *const options[] = { "\"temperature\":0,\"max_tokens\":30",
                                           "\"seed\":5,\"max_tokens\":30,\"n\":2",
                                           "\"guided_regex\":\"([é☀a-c] ){20}\",\"max_tokens\":200" };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        char body[400];
        snprintf(body, sizeof body, "{" HELLO ",%s}", options[i]);
        q3_reply whole = post(CHAT, body);
        snprintf(body, sizeof body, "{" HELLO ",%s,\"stream\":true}", options[i]);
        q3_reply stream = post(CHAT, body);
        assert_string_equal(q3_reply_header(&stream, "Content-Type"), "text/event-stream; charset=utf-8");
        for (int k = 0; k < (i == 1 ? 2 : 1); k++) {
            char path[40];
            snprintf(path, sizeof path, "choices.%d.message.content", k);
            char *text = join_stream(&stream, k, true);
            assert_string_equal(text, q3_reply_string(&whole, path));
            q3_free(text);
        }
        assert_non_null(strstr(stream.body, "\"delta\":{\"role\":\"assistant\""));
        assert_non_null(strstr(stream.body, "\"finish_reason\":\""));
        assert_string_equal(stream.body + stream.size - 14, "data: [DONE]\n\n");
        assert_null(strstr(stream.body, "\"usage\""));
        q3_reply_free(&whole);
        q3_reply_free(&stream);
    }
}

static void a_stream_tells_its_usage_when_asked(void **state)
{
    (void)state;
    q3_reply r = post(CHAT, "{" HELLO ",\"temperature\":0,\"max_tokens\":4,\"stream\":true,"
                            "\"stream_options\":{\"include_usage\":true}}");
    assert_non_null(strstr(r.body, "\"choices\":[],\"usage\":{\"prompt_tokens\":"));
    q3_reply_free(&r);
}

static void a_stop_string_ends_the_answer_in_front_of_it(void **state)
{
    (void)state;
    q3_reply r = post(
        CHAT, "{" HELLO ",\"guided_regex\":\"ab cd[e]{20}\",\"max_tokens\":50,\"stop\":[\"zzz\",\"b c\"]}");
    assert_string_equal(q3_reply_string(&r, "choices.0.message.content"), "a");
    assert_string_equal(q3_reply_string(&r, "choices.0.finish_reason"), "stop");
    q3_reply_free(&r);
    r = post(CHAT, "{" HELLO
                   ",\"guided_regex\":\"ab cd[e]{20}\",\"max_tokens\":50,\"stream\":true,\"stop\":\"b c\"}");
    char *text = join_stream(&r, 0, true);
    assert_string_equal(text, "a");
    q3_free(text);
    q3_reply_free(&r);
}

static void a_length_ends_the_answer(void **state)
{
    (void)state;
    q3_reply r = post(CHAT, "{" HELLO ",\"guided_regex\":\"[ab]{100}\",\"max_tokens\":3}");
    assert_string_equal(q3_reply_string(&r, "choices.0.finish_reason"), "length");
    assert_true(q3_reply_number(&r, "usage.completion_tokens") == 3);
    q3_reply_free(&r);
}

static void several_answers_differ_and_come_again_with_their_seed(void **state)
{
    (void)state;
    const char *body =
        "{" HELLO
        ",\"temperature\":1.5,\"seed\":11,\"n\":3,\"guided_regex\":\"[a-z]{12}\",\"max_tokens\":30}";
    q3_reply a = post(CHAT, body), b = post(CHAT, body);
    char path[40];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "choices.%d.message.content", i);
        assert_string_equal(q3_reply_string(&a, path), q3_reply_string(&b, path));
    }
    assert_string_not_equal(q3_reply_string(&a, "choices.0.message.content"),
                            q3_reply_string(&a, "choices.1.message.content"));
    q3_reply_free(&a);
    q3_reply_free(&b);
}

static void an_answer_keeps_to_its_schema(void **state)
{
    (void)state;
    q3_reply r = post(
        CHAT,
        "{" HELLO ",\"temperature\":1,\"seed\":3,\"max_tokens\":100,\"response_format\":{\"type\":"
        "\"json_schema\",\"json_schema\":{\"name\":\"x\",\"schema\":{\"type\":\"object\",\"properties\":{"
        "\"label\":{\"enum\":[\"sarcastic\",\"not_sarcastic\"]}},\"required\":[\"label\"],"
        "\"additionalProperties\":false}}}}");
    q3_json doc;
    const char *text = q3_reply_string(&r, "choices.0.message.content");
    assert_int_equal(q3_json_parse(&doc, text, strlen(text), "answer", 1), Q3_OK);
    const char *label = cJSON_GetStringValue(cJSON_GetObjectItem(doc.root, "label"));
    assert_true(label && (strcmp(label, "sarcastic") == 0 || strcmp(label, "not_sarcastic") == 0));
    q3_json_close(&doc);
    q3_reply_free(&r);
    r = post(CHAT,
             "{" HELLO
             ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"type\":7}}}}");
    assert_int_equal(r.status, 400);
    assert_string_equal(q3_reply_string(&r, "error.param"), "response_format");
    q3_reply_free(&r);
}

static void probabilities_are_told(void **state)
{
    (void)state;
    q3_reply r =
        post(CHAT, "{" HELLO ",\"temperature\":0,\"max_tokens\":3,\"logprobs\":true,\"top_logprobs\":2}");
    double p = q3_reply_number(&r, "choices.0.logprobs.content.0.logprob");
    assert_true(p <= 0 && p == q3_reply_number(&r, "choices.0.logprobs.content.0.top_logprobs.0.logprob"));
    assert_true(p >= q3_reply_number(&r, "choices.0.logprobs.content.0.top_logprobs.1.logprob"));
    assert_true(cJSON_IsArray(q3_reply_json(&r, "choices.0.logprobs.content.0.bytes")));
    q3_reply_free(&r);
    r = post("/v1/completions",
             "{\"prompt\":\"this is\",\"temperature\":0,\"max_tokens\":3,\"logprobs\":1,\"guided_regex\":"
             "\"abc\"}");
    assert_true(q3_reply_number(&r, "choices.0.logprobs.text_offset.0") == 0);
    assert_true(q3_reply_number(&r, "choices.0.logprobs.token_logprobs.0") <= 0);
    q3_reply_free(&r);
}

static void the_model_names_the_adapter(void **state)
{
    (void)state;
    const char *query =
        "\"messages\":[{\"role\":\"user\",\"content\":\"this is wonderful\\nCAPTION: a broken phone\"}],"
        "\"temperature\":0,\"max_tokens\":20";
    char body[400];
    snprintf(body, sizeof body, "{\"model\":\"tuned\",%s}", query);
    q3_reply tuned = post(CHAT, body);
    snprintf(body, sizeof body, "{\"model\":\"model\",%s}", query);
    q3_reply bare = post(CHAT, body);
    assert_string_equal(q3_reply_string(&tuned, "model"), "tuned");
    assert_string_not_equal(q3_reply_string(&tuned, "choices.0.message.content"),
                            q3_reply_string(&bare, "choices.0.message.content"));
    q3_reply_free(&tuned);
    q3_reply_free(&bare);
    q3_reply r = q3_http(bed.port, "GET", "/v1/models", NULL, NULL);
    assert_string_equal(q3_reply_string(&r, "data.0.id"), "model");
    assert_string_equal(q3_reply_string(&r, "data.1.id"), "tuned");
    q3_reply_free(&r);
    q3_reply_expect(q3_http(bed.port, "GET", "/v1/models/tuned", NULL, NULL), 200, "id", "tuned");
    q3_reply_expect(q3_http(bed.port, "GET", "/v1/models/other", NULL, NULL), 404, "error.message",
                    "there is no model \"other\"; GET /v1/models lists them");
    r = post(CHAT, "{\"model\":\"other\"," HELLO "}");
    assert_string_equal(q3_reply_string(&r, "error.code"), "model_not_found");
    q3_reply_expect(r, 404, "error.message", "there is no model \"other\"; GET /v1/models lists them");
}

/* ---- pictures ---- */

static char *encode(const char *path)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *bytes;
    size_t n;
    q3_text out = { 0 };
    assert_int_equal(q3_file_read(&bytes, &n, path, 1 << 20), Q3_OK);
    for (size_t i = 0; i < n; i += 3) {
        uint32_t word = 0;
        for (size_t k = 0; k < 3; k++)
            word = word << 8 | (i + k < n ? (unsigned char)bytes[i + k] : 0);
        for (size_t k = 0; k < 4; k++)
            q3_text_append(&out, i + k > n ? "=" : &letters[word >> (18 - 6 * k) & 63], 1);
    }
    q3_free(bytes);
    return out.data;
}

static q3_reply ask_about(const char *url)
{
    q3_text body = { 0 };
    q3_text_printf(
        &body,
        "{\"temperature\":0,\"max_tokens\":12,\"messages\":[{\"role\":\"user\",\"content\":["
        "{\"type\":\"image_url\",\"image_url\":{\"url\":\"%s\"}},{\"type\":\"text\",\"text\":\"what is "
        "it\"}]}]}",
        url);
    q3_reply r = post(CHAT, body.data);
    q3_text_free(&body);
    return r;
}

static void a_picture_comes_as_a_data_url(void **state)
{
    (void)state;
    q3_text url = { 0 };
    char *base64 = encode("tests/golden/formats/images/rgb-96x64.png");
    q3_text_printf(&url, "data:image/png;base64,%s", base64);
    q3_reply with = ask_about(url.data), again = ask_about(url.data);
    assert_int_equal(with.status, 200);
    assert_true(q3_reply_number(&with, "usage.prompt_tokens") > 12);
    assert_string_equal(q3_reply_string(&with, "choices.0.message.content"),
                        q3_reply_string(&again, "choices.0.message.content"));
    q3_reply_free(&with);
    q3_reply_free(&again);
    q3_free(base64);
    q3_text_free(&url);
}

static void pictures_that_are_none_are_refused(void **state)
{
    (void)state;
    const char *place = "messages[0].content[0]: ";
    static const char *const urls[] = { "http://127.0.0.1/x.png", "file:///etc/passwd",
                                        "data:image/png;base64,%%%" };
    static const char *const sentences[] = {
        "pictures of other servers are off (the server can be started with --allow-remote-images); send a "
        "data: URL",
        "file:// URLs are off; the server can be started with --media-path DIR",
    };
    char sentence[300];
    for (int i = 0; i < 2; i++) {
        snprintf(sentence, sizeof sentence, "%s%s", place, sentences[i]);
        q3_reply_expect(ask_about(urls[i]), 400, "error.message", sentence);
    }
    q3_reply r = ask_about(urls[2]);
    assert_int_equal(r.status, 400);
    assert_memory_equal(q3_reply_string(&r, "error.message"), place, strlen(place));
    q3_reply_free(&r);
    expect_error(CHAT,
                 "{\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"image_url\",\"image_url\":{"
                 "\"url\":\"data:\"}}]},"
                 "{\"role\":\"user\",\"content\":\"x\"}]}",
                 400, "messages[0].content[0]: pictures belong in messages of the user");
}

/* ---- what is refused ---- */

static void bad_requests_are_refused_with_a_sentence(void **state)
{
    (void)state;
    static const struct {
        const char *body, *sentence;
    } cases[] = {
        { "{\"messages\":", "request body:1:12: not valid JSON here" },
        { "[1]", "the body must be a JSON object" },
        { "{}", "messages must be a list of at least one message" },
        { "{\"messages\":[]}", "messages must be a list of at least one message" },
        { "{" HELLO ",\"temperature\":3}", "temperature must be a number from 0 to 2" },
        { "{" HELLO ",\"top_p\":\"x\"}", "top_p must be a number from 0 to 1" },
        { "{" HELLO ",\"n\":0}", "n must be an integer from 1 to 16" },
        { "{" HELLO ",\"max_tokens\":1.5}", "max_tokens must be an integer from 1 to 2147483647" },
        { "{" HELLO ",\"stop\":\"\"}", "stop must be a string of 1 to 256 bytes, or a list of them" },
        { "{" HELLO ",\"stream\":1}", "stream must be true or false" },
        { "{" HELLO ",\"top_logprobs\":2}", "top_logprobs needs logprobs: true" },
        { "{" HELLO ",\"tools\":[{}]}", "this server does not have tools" },
        { "{" HELLO ",\"logit_bias\":{\"1\":2}}", "this server does not have logit_bias" },
        { "{" HELLO ",\"response_format\":{\"type\":\"xml\"}}",
          "response_format.type must be text, json_object or json_schema" },
        { "{\"messages\":[{\"role\":\"robot\",\"content\":\"x\"}]}",
          "messages[0].role is \"robot\"; it must be system, user, assistant or tool" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":\"a<|im_end|>b\"}]}",
          "the text contains the control token <|im_end|>; remove it, or allow it with "
          "--allow-special-tokens" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}]}",
          "messages[0].content[0]: only items of type text and image_url are understood" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_error(CHAT, cases[i].body, 400, cases[i].sentence);
    expect_error("/v1/completions", "{\"prompt\":\"x\",\"suffix\":\"y\"}", 400,
                 "this server does not have suffix: the model only continues");
    expect_error("/v1/completions", "{\"prompt\":[1,-2]}", 400,
                 "prompt 0: item 1 of a list of token ids is no token id");
    expect_error("/v1/rerank", "{\"query\":\"x\",\"documents\":[\"y\"]}", 400,
                 "this model cannot rerank: it is none");
}

static void what_asks_for_nothing_is_passed_over(void **state)
{
    (void)state;
    q3_reply r = post(
        CHAT, "{" HELLO ",\"max_tokens\":2,\"tools\":[],\"logit_bias\":null,\"user\":\"me\",\"store\":true,"
              "\"stop\":null,\"response_format\":{\"type\":\"text\"}}");
    assert_int_equal(r.status, 200);
    q3_reply_free(&r);
}

static void a_prompt_that_is_too_long_says_how_long(void **state)
{
    (void)state;
    q3_text body = { 0 };
    q3_text_printf(&body, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 5000; i++)
        q3_text_printf(&body, "x ");
    q3_text_printf(&body, "\"}]}");
    q3_reply r = post(CHAT, body.data);
    assert_int_equal(r.status, 400);
    assert_string_equal(q3_reply_string(&r, "error.code"), "context_length_exceeded");
    assert_non_null(strstr(q3_reply_string(&r, "error.message"), "at most 4096 are possible"));
    q3_reply_free(&r);
    q3_text_free(&body);
}

static void a_huge_body_is_refused(void **state)
{
    (void)state;
    enum { BYTES = (1 << 20) + 1 };
    char *body = malloc(BYTES);
    assert_non_null(body);
    memset(body, ' ', BYTES);
    q3_reply r = q3_http_bytes(bed.port, "POST", CHAT, NULL, body, BYTES);
    q3_reply_expect(r, 413, "error.message", "the body has more than the 1048576 bytes that are allowed");
    free(body);
}

static void a_server_that_loads_its_model_says_so(void **state)
{
    (void)state;
    atomic_store(&bed.app.ready, false);
    q3_reply r = q3_http(bed.port, "GET", "/health", NULL, NULL);
    assert_true(q3_reply_number(&r, "error.code") == 503);
    assert_string_equal(q3_reply_string(&r, "error.type"), "unavailable_error");
    q3_reply_expect(r, 503, "error.message", "Loading model");
    expect_error(CHAT, "{" HELLO "}", 503, "Loading model");
    atomic_store(&bed.app.ready, true);
    r = q3_http(bed.port, "GET", "/health", NULL, NULL);
    q3_reply_expect(r, 200, "status", "ok");
}

/* ---- others ---- */

static void completions_continue_texts_and_ids(void **state)
{
    (void)state;
    q3_reply r = post("/v1/completions",
                      "{\"prompt\":[\"this is\",\"no seats\"],\"n\":2,\"temperature\":0,\"max_tokens\":4,"
                      "\"echo\":true,\"guided_regex\":\" abc\"}");
    assert_int_equal(r.status, 200);
    assert_string_equal(q3_reply_string(&r, "object"), "text_completion");
    assert_string_equal(q3_reply_string(&r, "choices.1.text"), "this is abc");
    assert_string_equal(q3_reply_string(&r, "choices.2.text"), "no seats abc");
    assert_true(q3_reply_number(&r, "choices.3.index") == 3);
    q3_reply_free(&r);
    q3_reply ids = post("/tokenize", "{\"content\":\"this is\"}");
    char *list = cJSON_PrintUnformatted(q3_reply_json(&ids, "tokens")), body[300];
    snprintf(body, sizeof body, "{\"prompt\":%s,\"temperature\":0,\"max_tokens\":6}", list);
    q3_reply by_ids = post("/v1/completions", body);
    q3_reply by_text = post("/v1/completions", "{\"prompt\":\"this is\",\"temperature\":0,\"max_tokens\":6}");
    assert_string_equal(q3_reply_string(&by_ids, "choices.0.text"),
                        q3_reply_string(&by_text, "choices.0.text"));
    snprintf(body, sizeof body, "{\"tokens\":%s}", list);
    q3_reply_expect(post("/detokenize", body), 200, "content", "this is");
    cJSON_free(list);
    q3_reply_free(&ids);
    q3_reply_free(&by_ids);
    q3_reply_free(&by_text);
    q3_reply_expect(post("/apply-template", "{" HELLO "}"), 200, "prompt",
                    "<|im_start|>user\nthis is wonderful<|im_end|>\n<|im_start|>assistant\n");
}

/* The value of a metric. */
static double metric(const char *name)
{
    q3_reply r = q3_http(bed.port, "GET", "/metrics", NULL, NULL);
    char line[100];
    snprintf(line, sizeof line, "\nqwen3_sft:%s ", name);
    const char *at = strstr(r.body, line);
    if (!at)
        fail_msg("no %s in %s", name, r.body);
    double value = strtod(at + strlen(line), NULL);
    q3_reply_free(&r);
    return value;
}

static void metrics_count(void **state)
{
    (void)state;
    double before = metric("tokens_predicted_total"), orders = metric("orders_total");
    q3_reply r = post(CHAT, "{" HELLO ",\"guided_regex\":\"[ab]{100}\",\"max_tokens\":7}");
    q3_reply_free(&r);
    q3_serve_expect_idle(&bed);
    assert_true(metric("tokens_predicted_total") == before + 7);
    assert_true(metric("orders_total") == orders + 1);
    assert_true(metric("kv_blocks") == metric("kv_blocks_free"));
    assert_true(metric("time_to_first_token_seconds_count") >= 1);
    assert_true(metric("inter_token_seconds_bucket{le=\"+Inf\"}") == metric("inter_token_seconds_count"));
}

/* A client that leaves in mid-stream; a machine under load may be done by then, but not every time. */
static void a_client_that_vanishes_frees_its_blocks(void **state)
{
    (void)state;
    double before = metric("answers_cancelled_total");
    for (int i = 0; i < 10 && metric("answers_cancelled_total") == before; i++) {
        const char *body =
            "{" HELLO ",\"guided_regex\":\"a[ab]{900}\",\"max_tokens\":1000,\"n\":4,\"stream\":true}";
        q3_text request = { 0 }, all = { 0 };
        int fd = q3_http_connect(bed.port);
        q3_http_compose(&request, "POST", CHAT, NULL, body, strlen(body));
        q3_http_send(fd, request.data, request.size);
        assert_true(q3_http_read_until(&all, fd, "\"content\":\"a"));
        close(fd);
        q3_text_free(&request);
        q3_text_free(&all);
        q3_serve_expect_idle(&bed);
    }
    assert_true(metric("answers_cancelled_total") > before);
    assert_true(metric("kv_blocks") == metric("kv_blocks_free"));
}

static void *ask_in_a_thread(void *arg)
{
    q3_reply *r = arg;
    const char *body =
        r->status
            ? "{" HELLO ",\"guided_regex\":\"[a-m]{200}\",\"max_tokens\":300,\"stream\":true,\"seed\":1}"
            : "{" HELLO ",\"guided_regex\":\"[n-z]{200}\",\"max_tokens\":300,\"stream\":true,\"seed\":1}";
    *r = post(CHAT, body);
    return NULL;
}

static void streams_at_once_are_not_mixed(void **state)
{
    (void)state;
    q3_reply replies[2] = { { 0 }, { .status = 1 } };
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_in_a_thread, &replies[i]), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        q3_reply alone = { .status = i };
        ask_in_a_thread(&alone);
        char *text = join_stream(&replies[i], 0, true), *want = join_stream(&alone, 0, true);
        assert_int_equal(strlen(text), 200);
        assert_string_equal(text, want);
        q3_free(text);
        q3_free(want);
        q3_reply_free(&replies[i]);
        q3_reply_free(&alone);
    }
}

static void the_page_is_told_to_load_nothing(void **state)
{
    (void)state;
    q3_reply r = q3_http(bed.port, "GET", "/", NULL, NULL);
    assert_string_equal(q3_reply_header(&r, "Content-Type"), "text/html; charset=utf-8");
    assert_non_null(strstr(r.body, "<title>"));
    const char *policy = q3_reply_header(&r, "Content-Security-Policy");
    assert_non_null(policy);
    assert_non_null(strstr(policy, "default-src 'none'; script-src 'sha256-"));
    assert_null(strstr(policy, "unsafe"));
    q3_reply_free(&r);
}

static int open_bed(void **state)
{
    (void)state;
    q3_serve_open_model(&bed);
    q3_serve_listen(&bed, &(q3_service_options){ 0 }, &(q3_cog_options){ 0 });
    q3_serve_run(&bed);
    return 0;
}

static int close_bed(void **state)
{
    (void)state;
    q3_serve_hang_up(&bed);
    q3_serve_close_model(&bed);
    return 0;
}

/* ---- a service that is full, and one that stops ---- */

static q3_serve_bed held; // it does not compute before it is told to

static int open_held(void **state)
{
    (void)state;
    q3_serve_open_model(&held);
    q3_serve_listen(&held, &(q3_service_options){ .max_running = 1, .max_waiting = 1 },
                    &(q3_cog_options){ 0 });
    return 0;
}

static int close_held(void **state)
{
    (void)state;
    q3_serve_hang_up(&held);
    q3_serve_close_model(&held);
    return 0;
}

static void *ask_the_held(void *arg)
{
    *(q3_reply *)arg = q3_http(held.port, "POST", CHAT, NULL, "{" HELLO ",\"max_tokens\":3}");
    return NULL;
}

static void wait_for_orders(int n)
{
    static const struct timespec moment = { .tv_nsec = 5000000 };
    q3_service_stats stats = { 0 };
    for (int i = 0; i < 2000 && stats.open < n; i++, nanosleep(&moment, NULL))
        q3_service_stats_of(&stats, held.service);
    assert_int_equal(stats.open, n);
}

static void requests_beyond_the_room_may_come_again_later(void **state)
{
    (void)state;
    q3_reply replies[2];
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_the_held, &replies[i]), 0);
    wait_for_orders(2);
    q3_reply r = q3_http(held.port, "POST", CHAT, NULL, "{" HELLO "}");
    assert_string_equal(q3_reply_header(&r, "Retry-After"), "1");
    assert_string_equal(q3_reply_string(&r, "error.type"), "rate_limit_error");
    q3_reply_expect(r, 429, "error.message", "too many requests are waiting; try again later");
    q3_service_drain(held.service, 30);
    q3_reply_expect(q3_http(held.port, "POST", CHAT, NULL, "{" HELLO "}"), 503, "error.message",
                    "the server is stopping and takes no more requests");
    q3_reply_expect(q3_http(held.port, "GET", "/health", NULL, NULL), 503, "error.message",
                    "the server is stopping");
    q3_serve_run(&held);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(replies[i].status, 200);
        q3_reply_free(&replies[i]);
    }
}

/* Sends one request and reads what comes, without the heap; false without an answer. */
static bool ask_without_heap(char *reply, size_t size, const char *request)
{
    size_t n = 0;
    int fd = q3_http_connect(held.port);
    q3_http_send(fd, request, strlen(request));
    for (ssize_t k; n < size - 1 && (k = recv(fd, reply + n, size - 1 - n, 0)) > 0;)
        n += (size_t)k;
    close(fd);
    reply[n] = 0;
    return n > 0;
}

/* Whatever allocation fails on the way to the service, which takes nothing any more, the request ends with an answer or
 * its connection, and the next one is answered. */
static void a_lack_of_memory_ends_one_request_only(void **state)
{
    (void)state;
    static char reply[1 << 16];
    static const char *const bodies[] = { "{" HELLO ",\"n\":2,\"stop\":\"zz\",\"guided_regex\":\"[ab]+\"}",
                                          "{\"model\":\"tuned\"," HELLO ",\"stream\":true}" };
    for (int i = 0; i < 2; i++) {
        q3_text request = { 0 };
        int failures = 0;
        bool reached = true;
        q3_http_compose(&request, "POST", CHAT, NULL, bodies[i], strlen(bodies[i]));
        for (int n = 1; reached; n++) {
            q3_heap_fail_at(n);
            bool answered = ask_without_heap(reply, sizeof reply, request.data);
            reached = q3_heap_requests() >= n;
            q3_heap_fail_at(0);
            bool refused = answered && strstr(reply, "takes no more requests");
            failures += !refused;
            if (reached && answered && !refused && !strstr(reply, "HTTP/1.1 503") &&
                !strstr(reply, "HTTP/1.1 400"))
                fail_msg("allocation %d: %s", n, reply);
            assert_true(reached || refused);
        }
        assert_true(failures > 5);
        q3_text_free(&request);
    }
}

/* ---- reranking, with a model that can ---- */

static q3_serve_bed reranker;

static int open_reranker(void **state)
{
    (void)state;
    q3_serve_open_reranker(&reranker);
    q3_serve_listen(&reranker, &(q3_service_options){ 0 }, &(q3_cog_options){ 0 });
    q3_serve_run(&reranker);
    return 0;
}

static int close_reranker(void **state)
{
    (void)state;
    q3_serve_hang_up(&reranker);
    q3_serve_close_model(&reranker);
    return 0;
}

static void documents_are_ranked(void **state)
{
    (void)state;
    q3_reply r = q3_http(
        reranker.port, "POST", "/v1/rerank", NULL,
        "{\"query\":\"a cat\",\"documents\":[\"a dog\",{\"text\":\"a cat sleeps\"},\"a car\"],\"top_n\":2}");
    assert_int_equal(r.status, 200);
    assert_int_equal(cJSON_GetArraySize(q3_reply_json(&r, "results")), 2);
    double first = q3_reply_number(&r, "results.0.relevance_score"),
           second = q3_reply_number(&r, "results.1.relevance_score");
    assert_true(first >= second && first <= 1 && second >= 0);
    static const char *const documents[] = { "a dog", "a cat sleeps", "a car" };
    assert_string_equal(q3_reply_string(&r, "results.0.document.text"),
                        documents[(int)q3_reply_number(&r, "results.0.index")]);
    assert_true(q3_reply_number(&r, "usage.total_tokens") > 0);
    q3_reply_free(&r);
}

static void documents_are_no_files_of_the_server(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "{\"query\":\"a\",\"documents\":[\"x\",{\"text\":\"b\",\"image\":\"/etc/passwd\"}]}",
        "{\"query\":\"a\",\"documents\":\"[\\\"x\\\",{\\\"image\\\":\\\"/etc/passwd\\\"}]\"}",
        "{\"query\":\"a\",\"documents\":[\"x\",{\"image\":[\"file:///etc/passwd\"]}]}",
    };
    for (int i = 0; i < 3; i++)
        q3_reply_expect(q3_http(reranker.port, "POST", "/v1/rerank", NULL, bodies[i]), 400, "error.message",
                        "documents[1]: image must be a data: URL, or a list of them");
    q3_reply_expect(q3_http(reranker.port, "POST", "/v1/rerank", NULL, "{\"query\":\"a\",\"documents\":[]}"),
                    400, "error.message", "there are 0 documents; it must be 1 to 1024");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_is_answered),
        cmocka_unit_test(pieces_of_a_stream_make_the_whole_answer),
        cmocka_unit_test(a_stream_tells_its_usage_when_asked),
        cmocka_unit_test(a_stop_string_ends_the_answer_in_front_of_it),
        cmocka_unit_test(a_length_ends_the_answer),
        cmocka_unit_test(several_answers_differ_and_come_again_with_their_seed),
        cmocka_unit_test(an_answer_keeps_to_its_schema),
        cmocka_unit_test(probabilities_are_told),
        cmocka_unit_test(the_model_names_the_adapter),
        cmocka_unit_test(a_picture_comes_as_a_data_url),
        cmocka_unit_test(pictures_that_are_none_are_refused),
        cmocka_unit_test(bad_requests_are_refused_with_a_sentence),
        cmocka_unit_test(what_asks_for_nothing_is_passed_over),
        cmocka_unit_test(a_prompt_that_is_too_long_says_how_long),
        cmocka_unit_test(a_huge_body_is_refused),
        cmocka_unit_test(a_server_that_loads_its_model_says_so),
        cmocka_unit_test(completions_continue_texts_and_ids),
        cmocka_unit_test(metrics_count),
        cmocka_unit_test(a_client_that_vanishes_frees_its_blocks),
        cmocka_unit_test(streams_at_once_are_not_mixed),
        cmocka_unit_test(the_page_is_told_to_load_nothing),
    };
    const struct CMUnitTest ranking[] = {
        cmocka_unit_test(documents_are_ranked),
        cmocka_unit_test(documents_are_no_files_of_the_server),
    };
    const struct CMUnitTest full[] = { cmocka_unit_test(requests_beyond_the_room_may_come_again_later),
                                       cmocka_unit_test(a_lack_of_memory_ends_one_request_only) };
    return cmocka_run_group_tests(tests, open_bed, close_bed) +
           cmocka_run_group_tests(full, open_held, close_held) +
           cmocka_run_group_tests(ranking, open_reranker, close_reranker);
}
