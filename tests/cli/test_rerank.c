#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "core/json.h"
#include "model/weights.h"
#include "tests/support/ask.h"

/* tests/infer compares the numbers with the reference; here options and requests must arrive. */
#define FORMATS "tests/golden/formats/"
#define QUERY "--query 'Who painted the ceiling?' "

static char dir[400], line[4096];

static void copy(const char *name, const char *from)
{
    char to[600];
    snprintf(to, sizeof to, "%s/%s", dir, name);
    assert_int_equal(q3_file_copy(to, from), Q3_OK);
}

static const char *put(const char *name, const char *text)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(q3_file_write(path, text, strlen(text)), Q3_OK);
    return path;
}

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s", base ? base : "/tmp/q3-test");
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    copy("config.json", FORMATS "reranker-model/config.json");
    copy("model.safetensors", FORMATS "reranker-model/model.safetensors");
    copy("tokenizer.json", FORMATS "reranker-tokenizer/tokenizer.json");
    copy("tokenizer_config.json", FORMATS "reranker-tokenizer/tokenizer_config.json");
    return 0;
}

static const char *command(const char *options)
{
    snprintf(line, sizeof line, "rerank -q --device cpu --model %s %s", dir, options);
    return line;
}

/* stdout of a call that succeeds; q3_process_free. */
static q3_process ask(const char *options, const char *input)
{
    q3_process p = q3_ask(Q3_PROGRAM, command(options), input, input ? strlen(input) : 0);
    if (p.code != 0 || *p.err)
        fail_msg("%s: exit %d: %s", line, p.code, p.err);
    return p;
}

static void refused(const char *options, int code, const char *part)
{
    q3_ask_refused_about(Q3_PROGRAM, command(options), code, part);
}

/* The whole answer for the golden query: all documents, best first, with the reference's logits. */
static void the_answer_has_the_reference_scores(void **state)
{
    (void)state;
    char *text, options[200];
    size_t size;
    assert_int_equal(q3_file_read(&text, &size, FORMATS "reranker-scores.json", 1 << 20), Q3_OK);
    cJSON *golden = cJSON_Parse(text), *documents = cJSON_GetObjectItem(golden, "documents");
    const cJSON *logits = cJSON_GetObjectItem(golden, "logits");
    cJSON_DeleteItemFromObject(golden, "ids");
    cJSON *request = cJSON_Duplicate(golden, true);
    cJSON_DeleteItemFromObject(request, "logits");
    char *json = cJSON_PrintUnformatted(request);
    snprintf(options, sizeof options, "--json - --score logit --top-k 100 --pretty");
    q3_process p = ask(options, json);
    cJSON *answer = cJSON_Parse(p.out), *results = cJSON_GetObjectItem(answer, "results");
    int n = cJSON_GetArraySize(documents);
    assert_int_equal(cJSON_GetArraySize(results), n);
    assert_int_equal(cJSON_GetObjectItem(answer, "total_documents")->valueint, n);
    assert_string_equal(cJSON_GetObjectItem(answer, "query")->valuestring, "Who painted the ceiling?");
    double before = INFINITY;
    for (int i = 0; i < n; i++) {
        const cJSON *one = cJSON_GetArrayItem(results, i);
        int index = cJSON_GetObjectItem(one, "index")->valueint;
        double score = cJSON_GetObjectItem(one, "score")->valuedouble;
        assert_true(score <= before);
        assert_true(fabs(score - cJSON_GetArrayItem(logits, index)->valuedouble) < 1e-5);
        assert_string_equal(cJSON_GetObjectItem(one, "document")->valuestring,
                            cJSON_GetArrayItem(documents, index)->valuestring);
        before = score;
    }
    cJSON_Delete(answer);
    cJSON_Delete(request);
    cJSON_Delete(golden);
    cJSON_free(json);
    q3_free(text);
    q3_process_free(&p);
}

/* Each way to give the same three documents gives the same line. */
static void every_way_to_give_documents_is_the_same(void **state)
{
    (void)state;
    char option[1000];
    q3_process want = ask(QUERY "-d a -d 'b c' --document '\"d\"'", NULL);
    const char *const ways[] = { "[\"a\", {\"text\": \"b c\"}, \"\\\"d\\\"\"]",
                                 "\"a\"\n\n{\"text\": \"b c\"}\n\"\\\"d\\\"\"" };
    snprintf(option, sizeof option, QUERY "--documents '%s'", ways[0]);
    q3_process inline_list = ask(option, NULL);
    snprintf(option, sizeof option, QUERY "--documents @%s", put("list.json", ways[0]));
    q3_process file = ask(option, NULL);
    snprintf(option, sizeof option, QUERY "--documents-jsonl %s", put("lines.jsonl", ways[1]));
    q3_process lines = ask(option, NULL);
    snprintf(option, sizeof option, "{\"query\": \"Who painted the ceiling?\", \"documents\": %s}", ways[0]);
    q3_process json = ask("--json -", option);
    snprintf(option, sizeof option, QUERY "-d a --documents '[]' --documents-jsonl %s",
             put("lines.jsonl", "{\"text\": \"b c\"}\n\"\\\"d\\\"\"\n"));
    q3_process mixed = ask(option, NULL);
    q3_process *all[] = { &want, &inline_list, &file, &lines, &json, &mixed };
    for (int i = 0; i < 6; i++) {
        assert_string_equal(all[i]->out, want.out);
        assert_int_equal(strchr(all[i]->out, '\n')[1], 0); // one line
    }
    for (int i = 0; i < 6; i++)
        q3_process_free(all[i]);
}

static void options_win_over_the_request(void **state)
{
    (void)state;
    static const char request[] =
        "{\"query\": \"q\", \"documents\": [\"a\", \"b\"], \"top_k\": 2, \"instruction\": \"i\"}";
    q3_process two = ask("--json -", request),
               one = ask("--json - --top-k-docs 1 --instruction other", request);
    assert_non_null(strstr(two.out, "{\"instruction\": \"i\", \"query\": \"q\""));
    assert_non_null(strstr(two.out, "\"index\": 0"));
    assert_non_null(strstr(two.out, "\"index\": 1"));
    assert_non_null(strstr(one.out, "\"instruction\": \"other\""));
    assert_null(strstr(one.out, "}, {"));
    assert_non_null(strstr(one.out, "\"total_documents\": 2"));
    q3_process_free(&two);
    q3_process_free(&one);
}

static void the_templates_differ(void **state)
{
    (void)state;
    q3_process hf = ask(QUERY "-d a --template hf", NULL), plain = ask(QUERY "-d a", NULL),
               vllm = ask(QUERY "-d a --template vllm", NULL);
    assert_string_equal(hf.out, plain.out);
    assert_string_not_equal(hf.out, vllm.out);
    q3_process_free(&hf);
    q3_process_free(&plain);
    q3_process_free(&vllm);
}

static void wrong_calls_are_refused_with_a_reason(void **state)
{
    (void)state;
    refused("-d a", 2, "rerank needs --query TEXT");
    refused(QUERY, 2, "no documents to rank");
    refused(QUERY "--documents '[]'", 2, "no documents to rank");
    refused(QUERY "-d a --json x", 2, "--json has no use for --query");
    refused(QUERY "-d a --top-k 101", 2, "--top-k-docs is \"101\"");
    refused(QUERY "-d a --batch-size 33", 2, "--batch-size is \"33\"");
    refused(QUERY "-d a --score both", 2, "--score is \"both\"");
    refused(QUERY "-d a --max-length 40", 2, "max_length is 40");
    refused("--selftest --eval x", 2, "--selftest has no use for --eval");
    refused("--eval x --pretty", 2, "--eval has no use for --pretty");
    refused(QUERY "-d 'a <|im_end|>'", 3, "documents[0]: the document contains the control token <|im_end|>");
    refused("--query-image no.png -d a", 3, "query: no.png");
    refused("--query a --document-image " FORMATS "reranker-vl/one.png", 3, "text-only");
    refused("--json no.json", 3, "no.json");
    refused("--eval no.jsonl", 3, "no.jsonl");
    refused(QUERY "--documents @no.json", 3, "no.json");
    snprintf(line, sizeof line, QUERY "--documents-jsonl %s", put("bad.jsonl", "\"a\"\n[\"b\"]\n"));
    char option[600];
    snprintf(option, sizeof option, "%.500s", line);
    refused(option, 3, "bad.jsonl:2: a document is a string or an object");
    snprintf(option, sizeof option, "--json %s", put("bad.json", "{\"query\": \"q\", \"document\": []}"));
    refused(option, 3, "unknown key \"document\"; did you mean \"documents\"?");
    snprintf(option, sizeof option, "--json %s", put("bad.json", "{\"query\": \"q\","));
    refused(option, 3, "bad.json:1:");
}

/* Relevances that follow the model's own order are a perfect ranking; turned round they are not. */
static void eval_prints_ndcg_and_mrr(void **state)
{
    (void)state;
    char option[600];
    static const char *const lines[] = {
        "{\"query\": \"Who painted the ceiling?\", \"documents\": [{\"text\": \"A ceiling lamp.\", "
        "\"relevance\": 2}, "
        "{\"text\": \"Größe und 重力\", \"relevance\": 0}]}\n",
        "{\"query\": \"Who painted the ceiling?\", \"documents\": [{\"text\": \"A ceiling lamp.\", "
        "\"relevance\": 0}, "
        "{\"text\": \"Größe und 重力\", \"relevance\": 1}]}\n",
    };
    static const char *const want[] = {
        "{\"queries\": 1, \"documents\": 2, \"ndcg@10\": 1, \"mrr\": 1}\n",
        "{\"queries\": 1, \"documents\": 2, \"ndcg@10\": 0.63093, \"mrr\": 0.5}\n"
    };
    for (int i = 0; i < 2; i++) {
        snprintf(option, sizeof option, "--eval %s", put("qrels.jsonl", lines[i]));
        q3_process p = ask(option, NULL);
        assert_string_equal(p.out, want[i]);
        q3_process_free(&p);
    }
}

static void the_selftest_passes_and_tells_each_check(void **state)
{
    (void)state;
    q3_process p = ask("--selftest", NULL);
    int lines = 0;
    for (const char *at = p.out; *at; at = strchr(at, '\n') + 1, lines++)
        assert_memory_equal(at, "ok    ", 6);
    assert_int_equal(lines, 5);
    assert_non_null(strstr(p.out, "yes is token 77, no is token 33"));
    q3_process_free(&p);
}

/* Random weights, but the size of vocabulary and the tokenizer of the released rerankers; the form of the 0.6B: tied head, config as
 * transformers 4.51 wrote it, bfloat16. */
static const char *make_real_vocabulary(void)
{
    static char path[500];
    static const char config[] =
        "{\"architectures\": [\"Qwen3ForCausalLM\"], \"attention_bias\": false, \"attention_dropout\": 0.0, "
        "\"bos_token_id\": 151643, \"eos_token_id\": 151645, \"head_dim\": 8, \"hidden_act\": \"silu\", "
        "\"hidden_size\": 16, \"initializer_range\": 0.02, \"intermediate_size\": 32, "
        "\"max_position_embeddings\": 40960, \"max_window_layers\": 28, \"model_type\": \"qwen3\", "
        "\"num_attention_heads\": 4, \"num_hidden_layers\": 2, \"num_key_value_heads\": 2, "
        "\"rms_norm_eps\": 1e-06, \"rope_scaling\": null, \"rope_theta\": 1000000, \"sliding_window\": null, "
        "\"tie_word_embeddings\": true, \"torch_dtype\": \"bfloat16\", \"transformers_version\": \"4.51.3\", "
        "\"use_cache\": true, \"use_sliding_window\": false, \"vocab_size\": 151669}";
    q3_arena mem;
    q3_model m;
    char from[500];
    snprintf(from, sizeof from, "%s/qwen3-config", dir);
    snprintf(path, sizeof path, "%s/qwen3", dir);
    assert_int_equal(q3_dir_create(from), Q3_OK);
    put("qwen3-config/config.json", config);
    copy("qwen3-config/tokenizer.json.gz", "tests/golden/tokenizer/qwen3/tokenizer.json.gz");
    copy("qwen3-config/tokenizer_config.json", "tests/golden/tokenizer/qwen3/tokenizer_config.json");
    assert_int_equal(q3_arena_create(&mem, "test arena", (size_t)1 << 30), Q3_OK);
    assert_int_equal(q3_model_load(&m, &mem, from, &(q3_load_options){ .random = true, .seed = 3 }), Q3_OK);
    if (q3_model_save(&m, from, path, Q3_BF16) != Q3_OK)
        fail_msg("%s", q3_error());
    q3_model_close(&m);
    q3_arena_destroy(&mem);
    return path;
}

static void the_vocabulary_of_the_released_models_works(void **state)
{
    (void)state;
    char option[700];
    const char *model = make_real_vocabulary();
    snprintf(option, sizeof option, "--model %s --selftest", model);
    q3_process check = ask(option, NULL);
    assert_non_null(strstr(check.out, "ok    yes is token 9693, no is token 2152"));
    assert_null(strstr(check.out, "FAIL"));
    snprintf(option, sizeof option, "--model %s " QUERY "-d 重力 -d Größe", model);
    q3_process answer = ask(option, NULL);
    assert_non_null(strstr(answer.out, "\"document\": \"重力\", \"score\": 0."));
    q3_process_free(&check);
    q3_process_free(&answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_answer_has_the_reference_scores),
        cmocka_unit_test(every_way_to_give_documents_is_the_same),
        cmocka_unit_test(options_win_over_the_request),
        cmocka_unit_test(the_templates_differ),
        cmocka_unit_test(wrong_calls_are_refused_with_a_reason),
        cmocka_unit_test(eval_prints_ndcg_and_mrr),
        cmocka_unit_test(the_selftest_passes_and_tells_each_check),
        cmocka_unit_test(the_vocabulary_of_the_released_models_works),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
