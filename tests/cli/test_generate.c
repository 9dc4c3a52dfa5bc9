#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/file.h"
#include "core/json.h"
#include "tests/support/ask.h"

#define GOLDEN "tests/golden/generate/"
#define MODEL "--model assets/tiny-base --threads 1 "
#define LORA "tests/golden/training/float32-adapter-final"
#define BASE "--model tests/golden/training/model --threads 1 "

static char dir[400];
static q3_json golden;

static int setup(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s/generate", base ? base : "/tmp/q3-test");
    assert_int_equal(q3_dir_remove(dir), Q3_OK);
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    return q3_json_open(&golden, GOLDEN "generate.json", 1 << 20);
}

static int teardown(void **state)
{
    (void)state;
    q3_json_close(&golden);
    return 0;
}

/* The program's stdout and stderr; it must end well. */
static q3_process run(const char *options, const char *input)
{
    char line[2000];
    snprintf(line, sizeof line, "generate %s", options);
    q3_process p = q3_ask(Q3_PROGRAM, line, input, input ? strlen(input) : 0);
    if (p.code != 0)
        fail_msg("%s: exit %d: %s", line, p.code, p.err);
    return p;
}

static void answers(const char *options, const char *want)
{
    q3_process p = run(options, NULL);
    if (strcmp(p.out, want) != 0)
        fail_msg("%s\nanswers \"%s\" and not \"%s\"", options, p.out, want);
    q3_process_free(&p);
}

static const cJSON *field(const cJSON *object, const char *key)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!value)
        fail_msg("there is no \"%s\"", key);
    return value;
}

static const char *text(const cJSON *object, const char *key)
{
    return field(object, key)->valuestring;
}

static const cJSON *golden_case(const char *name)
{
    for (const cJSON *c = golden.root->child; c; c = c->next)
        if (strcmp(text(c, "name"), name) == 0)
            return c;
    fail_msg("no golden case %s", name);
    return NULL;
}

/* Puts the file below the test's directory and its path into `path`. */
static const char *file(char path[440], const char *name, const char *content)
{
    snprintf(path, 440, "%s/%s", dir, name);
    assert_int_equal(q3_file_write(path, content, strlen(content)), Q3_OK);
    return path;
}

/* Options that ask what the golden case with one question asks. */
static void options_of(char *out, size_t room, const cJSON *item)
{
    size_t n = (size_t)snprintf(out, room, MODEL "--greedy --max-new-tokens 24 %s ", text(item, "options"));
    for (const cJSON *m = field(item, "messages")->child; m; m = m->next) {
        const cJSON *content = field(m, "content");
        const char *option = strcmp(text(m, "role"), "system") == 0 ? "system" : "prompt";
        if (cJSON_IsString(content))
            n += (size_t)snprintf(out + n, room - n, "--%s '%s' ", option, content->valuestring);
        for (const cJSON *part = content->child; part; part = part->next)
            if (strcmp(text(part, "type"), "text") == 0)
                n += (size_t)snprintf(out + n, room - n, "--prompt '%s' ", text(part, "text"));
            else
                n += (size_t)snprintf(out + n, room - n, "--image " GOLDEN "%s ", text(part, "image"));
    }
}

static void check_case(const cJSON *item)
{
    char options[1000];
    q3_json doc;
    options_of(options, sizeof options, item);
    snprintf(options + strlen(options), sizeof options - strlen(options), "--json");
    q3_process p = run(options, NULL);
    assert_int_equal(q3_json_parse(&doc, p.out, strlen(p.out), "stdout", 1), Q3_OK);
    assert_string_equal(text(doc.root, "text"), text(item, "text"));
    assert_string_equal(text(doc.root, "finish_reason"), text(item, "finish_reason"));
    assert_true(cJSON_Compare(field(doc.root, "ids"), field(item, "ids"), true));
    const cJSON *usage = field(doc.root, "usage");
    assert_int_equal(field(usage, "prompt_tokens")->valueint, cJSON_GetArraySize(field(item, "prompt_ids")));
    assert_int_equal(field(usage, "completion_tokens")->valueint, cJSON_GetArraySize(field(item, "ids")));
    assert_true(field(field(doc.root, "timings"), "prefill_tokens_per_second")->valuedouble >= 0);
    q3_json_close(&doc);
    q3_process_free(&p);
}

static void answers_are_those_of_transformers(void **state)
{
    (void)state;
    int n = 0;
    for (const cJSON *item = golden.root->child; item; item = item->next)
        if (strncmp(text(item, "name"), "turns", 5) != 0) { // those are chat's
            check_case(item);
            n++;
        }
    assert_int_equal(n, 7);
}

static void a_prompt_comes_from_an_option_a_file_or_stdin(void **state)
{
    (void)state;
    char path[440], options[600];
    answers(MODEL "-i prompt='what a lovely garden' -i image=@" GOLDEN "picture-1.png -i temperature=0",
            "a pink face\n");
    answers("--model_dir assets/tiny-base --text 'Is this post sarcastic?' --no_sample", "yes\n");
    snprintf(options, sizeof options, MODEL "--greedy --prompt-file %s",
             file(path, "prompt.txt", "Is this post sarcastic?\n"));
    answers(options, "yes\n");
    q3_process p = run(MODEL "--greedy --prompt -", "Is this post sarcastic?\n");
    assert_string_equal(p.out, "yes\n");
    q3_process_free(&p);
    p = run(MODEL "--profile onnx --greedy", NULL); // its own question
    assert_true(strlen(p.out) > 1);
    q3_process_free(&p);
}

static void the_last_line_counts_tokens_and_tells_the_speed(void **state)
{
    (void)state;
    q3_process p = run(MODEL "--greedy --prompt 'Is this post sarcastic?'", NULL);
    const char *last = strstr(p.err, "1 tokens | prefill 13 at ");
    assert_non_null(last);
    assert_non_null(strstr(last, " tok/s | decode at "));
    assert_ptr_equal(strchr(last, '\n') + 1, p.err + strlen(p.err));
    q3_process_free(&p);
    p = run(MODEL "-q --greedy --prompt x", NULL);
    assert_string_equal(p.err, "");
    q3_process_free(&p);
}

static void many_prompts_are_answered_as_one_by_one(void **state)
{
    (void)state;
    char path[440], options[600], want[1000] = "", lines[2000] = "";
    static const char *const names[] = { "text", "picture", "two_pictures", "picture", "text" };
    for (int i = 0; i < 5; i++)
        snprintf(want + strlen(want), sizeof want - strlen(want), "%s\n",
                 text(golden_case(names[i]), "text"));
    static const char *const prompts[] = {
        "\"Is this post sarcastic?\"",
        "{\"prompt\": \"what a lovely garden\", \"image\": \"%s/picture-1.png\"}",
        "{\"text\": \"both of them\", \"image\": [\"%s/picture-1.png\", \"%s/picture-2.png\"]}\n"
    };
    char here[400];
    assert_non_null(getcwd(here, sizeof here - 30));
    strcat(here, "/tests/golden/generate");
    for (int i = 0; i < 5; i++)
        snprintf(lines + strlen(lines), sizeof lines - strlen(lines), prompts[i < 3 ? i : 4 - i], here, here),
            strcat(lines, "\n");
    snprintf(options, sizeof options, MODEL "--greedy --max-new-tokens 24 --prompts-file %s",
             file(path, "prompts.jsonl", lines));
    answers(options, want);
    snprintf(options, sizeof options, MODEL "--greedy --prompts-file %s",
             file(path, "prompts.txt", "Is this post sarcastic?\n\n \nIs this post sarcastic?"));
    answers(options, "yes\nyes\n");
}

static void more_prompts_than_are_held_at_a_time_keep_their_order(void **state)
{
    (void)state;
    char path[440], options[600], lines[4000] = "";
    for (int i = 0; i < 70; i++)
        strcat(lines, i % 7 ? "Is this post sarcastic?\n" : "what is that thing there\n");
    snprintf(options, sizeof options, MODEL "-q --greedy --max-new-tokens 1 --prompts-file %s",
             file(path, "many.txt", lines));
    q3_process p = run(options, NULL);
    char *line = p.out;
    int n = 0;
    for (char *end; (end = strchr(line, '\n')); line = end + 1, n++)
        assert_int_equal(strncmp(line, "yes\n", 4) == 0, n % 7 != 0);
    assert_int_equal(n, 70);
    q3_process_free(&p);
}

/* A line that cannot be answered keeps its place, and the others are answered. */
static void a_bad_line_does_not_take_the_others_along(void **state)
{
    (void)state;
    char path[440], line[600];
    file(path, "bad.jsonl",
         "\"Is this post sarcastic?\"\n{\"image\": \"none.png\", \"prompt\": \"x\"}\n{\"promt\": 1}\n"
         "\"<|im_end|>\"\n\"Is this post sarcastic?\"\n");
    snprintf(line, sizeof line, "generate " MODEL "--greedy --prompts-file %s", path);
    q3_process p = q3_ask(Q3_PROGRAM, line, NULL, 0);
    assert_int_equal(p.code, 3);
    assert_string_equal(p.out, "yes\n\n\n\nyes\n");
    assert_non_null(strstr(p.err, "bad.jsonl:3: unknown key \"promt\"; there are prompt, image and system"));
    assert_non_null(strstr(p.err, "qwen3-sft: 3 of 5 prompts have no answer; the first: line 2: "));
    q3_process_free(&p);
}

/* The reference predictor strips its text; with this model and prompt there is a space in front. */
static void the_predictors_profile_strips_the_answer(void **state)
{
    (void)state;
    q3_json doc;
    answers(MODEL "--greedy --no-chat-template --prompt 'the weather is' --profile cog",
            "horrible blue what horrible horrible\n");
    q3_process p =
        run(MODEL "--greedy --no-chat-template --prompt 'the weather is' --profile cog --json", NULL);
    assert_int_equal(q3_json_parse(&doc, p.out, strlen(p.out), "stdout", 1), Q3_OK);
    assert_string_equal(text(doc.root, "text"), "horrible blue what horrible horrible");
    q3_json_close(&doc);
    q3_process_free(&p);
}

static void a_seed_fixes_the_draws_and_is_told(void **state)
{
    (void)state;
    static const char drawn[] = MODEL "--prompt 'Is it' --temperature 1.5 --top-k 0 --max-new-tokens 12 ";
    char options[400];
    snprintf(options, sizeof options, "%s--seed 7", drawn);
    q3_process a = run(options, NULL), b = run(options, NULL);
    assert_string_equal(a.out, b.out);
    q3_process c = run(drawn, NULL);
    const char *told = strstr(c.err, "seed        ");
    assert_non_null(told);
    snprintf(options, sizeof options, "%s--seed %ld", drawn, atol(told + 12));
    q3_process d = run(options, NULL);
    assert_string_equal(c.out, d.out);
    assert_null(strstr(d.err, "seed        "));
    q3_process_free(&a);
    q3_process_free(&b);
    q3_process_free(&c);
    q3_process_free(&d);
}

static void origins(const char *options, const char *const *lines)
{
    char line[600];
    snprintf(line, sizeof line, MODEL "--prompt x --max-new-tokens 1 --seed 1 -v %s", options);
    q3_process p = run(line, NULL);
    for (; *lines; lines++)
        if (!strstr(p.err, *lines))
            fail_msg("%s: no line \"%s\" in\n%s", options, *lines, p.err);
    q3_process_free(&p);
}

static void each_value_comes_from_the_strongest_that_says_it(void **state)
{
    (void)state;
    origins("", (const char *const[]){ "sampling             off      (default)", NULL });
    origins("--top-k 3", (const char *const[]){ "sampling             on       (--top-k)",
                                                "top-k                3        (--top-k)",
                                                "temperature          1        (default)", NULL });
    origins("--profile onnx --preset code --top-p 0.5",
            (const char *const[]){ "temperature          0.2      (--preset code)",
                                   "top-k                20       (--preset code)",
                                   "top-p                0.5      (--top-p)", NULL });
    origins("--profile cog", (const char *const[]){ "temperature          0.7      (--profile cog)",
                                                    "top-k                50       (default)",
                                                    "top-p                0.9      (--profile cog)", NULL });
    origins("--temperature 0 --top-k 5",
            (const char *const[]){ "warning: --top-k has no effect where nothing is drawn (--temperature)",
                                   "sampling             off      (--temperature)", NULL });
}

static void stop_strings_and_lengths_end_an_answer(void **state)
{
    (void)state;
    answers(MODEL "--greedy --prompt 'what a lovely garden' --image " GOLDEN
                  "picture-1.png --stop 'k f' --stop xyz",
            "a pin\n");
    answers(MODEL "--greedy --prompt 'what a lovely garden' --image " GOLDEN
                  "picture-1.png --max-new-tokens 2",
            "a pink\n");
    answers(MODEL "--greedy --prompt 'what a lovely garden' --image " GOLDEN "picture-1.png --lookup 4",
            "a pink face\n");
}

static void an_answer_keeps_to_the_form_that_is_asked_for(void **state)
{
    (void)state;
    char path[440], options[600];
    q3_json doc;
    answers(MODEL "--greedy --prompt 'Is this post sarcastic?' --regex '(no|never), [a-c]{2}'", "no, ac\n");
    file(path, "schema.json",
         "{\"type\": \"object\", \"properties\": {\"label\": {\"enum\": [\"sarcastic\", \"fine\"]}}, "
         "\"required\": [\"label\"]}");
    for (int i = 0; i < 2; i++) { // drawn answers keep to it too
        snprintf(options, sizeof options, MODEL "%s --prompt 'Is this post sarcastic?' --json-schema %s",
                 i ? "--temperature 2 --top-k 0 --seed 5" : "--greedy", path);
        q3_process p = run(options, NULL);
        assert_int_equal(q3_json_parse(&doc, p.out, strlen(p.out), "stdout", 1), Q3_OK);
        const char *label = text(doc.root, "label");
        assert_true(strcmp(label, "sarcastic") == 0 || strcmp(label, "fine") == 0);
        q3_json_close(&doc);
        q3_process_free(&p);
    }
}

static void probabilities_come_with_the_tokens(void **state)
{
    (void)state;
    q3_json doc;
    q3_process p = run(MODEL "--greedy --prompt 'Is this post sarcastic?' --json --logprobs 2", NULL);
    assert_int_equal(q3_json_parse(&doc, p.out, strlen(p.out), "stdout", 1), Q3_OK);
    const cJSON *all = field(doc.root, "logprobs"), *first = all->child, *top = field(first, "top");
    assert_int_equal(cJSON_GetArraySize(all), cJSON_GetArraySize(field(doc.root, "ids")));
    assert_int_equal(cJSON_GetArraySize(top), 2);
    assert_string_equal(text(first, "token"), "yes");
    assert_string_equal(text(top->child, "token"), "yes");
    assert_true(field(first, "logprob")->valuedouble < 0);
    assert_true(field(top->child->next, "logprob")->valuedouble < field(first, "logprob")->valuedouble);
    q3_json_close(&doc);
    q3_process_free(&p);
}

static void typed_prompts_stand_alone_and_errors_do_not_end_them(void **state)
{
    (void)state;
    q3_process p = run(
        MODEL "--greedy --interactive",
        "Is this post sarcastic?\n\n<|im_end|>\nIs this post sarcastic?\nQuit\nIs this post sarcastic?\n");
    assert_string_equal(p.out, "yes\nyes\n");
    assert_non_null(
        strstr(p.err, "error: the text contains the control token <|im_end|>; remove it, or allow it with "
                      "--allow-special-tokens\n"));
    q3_process_free(&p);
}

static void an_adapter_answers_merged_or_not(void **state)
{
    (void)state;
    static const char ask[] = "-q --greedy --max-new-tokens 8 --json --prompt 'is it'";
    char line[400];
    const char *const forms[] = { BASE "%s", BASE "--adapter " LORA " %s",
                                  BASE "--adapter mine=" LORA "/ --merge %s",
                                  BASE "--adapter a=" LORA " --adapter b=" LORA " %s" };
    q3_json doc[4];
    q3_process p[4];
    for (int i = 0; i < 4; i++) {
        snprintf(line, sizeof line, forms[i], ask);
        p[i] = run(line, NULL);
        assert_int_equal(q3_json_parse(&doc[i], p[i].out, strlen(p[i].out), "stdout", 1), Q3_OK);
    }
    assert_false(cJSON_Compare(field(doc[0].root, "ids"), field(doc[1].root, "ids"), true));
    assert_true(cJSON_Compare(field(doc[1].root, "ids"), field(doc[2].root, "ids"), true));
    assert_true(cJSON_Compare(field(doc[1].root, "ids"), field(doc[3].root, "ids"), true));
    for (int i = 0; i < 4; i++) {
        q3_json_close(&doc[i]);
        q3_process_free(&p[i]);
    }
}

/* A copy of the golden adapter whose base is `base`. */
static void write_adapter(char path[440], const char *base)
{
    char *config, *from = "\"base_model_name_or_path\": \"model\"";
    size_t size;
    q3_text out = { 0 };
    snprintf(path, 440, "%s/lora", dir);
    assert_int_equal(q3_dir_create(path), Q3_OK);
    assert_int_equal(q3_file_read(&config, &size, LORA "/adapter_config.json", 1 << 20), Q3_OK);
    char *at = strstr(config, from);
    assert_non_null(at);
    q3_text_append(&out, config, (size_t)(at - config));
    q3_text_printf(&out, "\"base_model_name_or_path\": \"%s\"%s", base, at + strlen(from));
    char name[480];
    snprintf(name, sizeof name, "%s/adapter_config.json", path);
    assert_int_equal(q3_file_write(name, out.data, out.size), Q3_OK);
    snprintf(name, sizeof name, "%s/adapter_model.safetensors", path);
    assert_int_equal(q3_file_copy(name, LORA "/adapter_model.safetensors"), Q3_OK);
    q3_text_free(&out);
    q3_free(config);
}

static void write_settings(const char *path)
{
    static const char settings[] = "{\"model\": {\"path\": \"tests/golden/training/model\"}}";
    char name[480];
    snprintf(name, sizeof name, "%s/config.json", path);
    assert_int_equal(q3_file_write(name, settings, sizeof settings - 1), Q3_OK);
}

static void an_adapter_given_as_model_finds_its_base(void **state)
{
    (void)state;
    static const char ask[] = "-q --greedy --max-new-tokens 8 --prompt 'is it'";
    char path[440], line[600];
    write_adapter(path, "tests/golden/training/model");
    snprintf(line, sizeof line, BASE "--adapter " LORA " %s", ask);
    q3_process want = run(line, NULL);
    snprintf(line, sizeof line, "--model %s %s", path, ask);
    answers(line, want.out);
    write_settings(path); // as a run leaves them beside its adapter
    answers(line, want.out);
    q3_process_free(&want);
    write_adapter(path, "nowhere");
    snprintf(line, sizeof line, "generate --model %s %s", path, ask);
    q3_ask_refused_about(Q3_PROGRAM, line, 4,
                         "is an adapter for \"nowhere\", which is no model's directory here");
}

static void weights_and_cache_come_in_the_asked_form(void **state)
{
    (void)state;
    static const char *const forms[] = { "--weights bf16",  "--weights f32",    "--quant nf4",
                                         "--weights int8",  "--kv-type int8",   "--kv-type bf16",
                                         "--kv-type int4",  "--precision fp32", "--kv-tokens 64",
                                         "--attn-window 32" };
    char line[300];
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        snprintf(line, sizeof line, MODEL "--greedy --max-new-tokens 4 --prompt 'Is this post sarcastic?' %s",
                 forms[i]);
        q3_process p = run(line, NULL);
        assert_true(strlen(p.out) > 1);
        q3_process_free(&p);
    }
}

static void refused(const char *options, int code, const char *sentence)
{
    char line[600];
    snprintf(line, sizeof line, "generate -q %s", options);
    q3_ask_refused(Q3_PROGRAM, line, code, sentence);
}

static void mistakes_are_named(void **state)
{
    (void)state;
    refused("--prompt x", 2, "generate needs --model DIR (see qwen3-sft generate --help)");
    refused(MODEL, 2, "generate needs --prompt TEXT (see qwen3-sft generate --help)");
    refused(MODEL "--prompt x --interactive", 2, "--prompt and --interactive exclude each other");
    refused(MODEL "--prompt x --temperature -1", 2,
            "--temperature is \"-1\"; it must be a number from 0 to 100");
    refused(MODEL "--prompt x --top-p 1.5", 2, "--top-p is \"1.5\"; it must be a number from 0 to 1");
    refused(MODEL "--prompt x --max-new-tokens 0", 2,
            "--max-new-tokens is \"0\"; it must be an integer from 1 to 1073741824");
    refused(MODEL "--prompt x --preset wild", 2,
            "--preset is \"wild\"; it must be factual, creative or code");
    refused(MODEL "--prompt x --kv-type f8", 2, "--kv-type is \"f8\"; it must be f32, bf16, int8 or int4");
    refused(MODEL "--prompt x --image-size 100", 2,
            "--image-size is \"100\"; it must be WIDTHxHEIGHT, 384x384 for example");
    refused(MODEL "--prompt x --image-size 100x64", 2,
            "pictures of 100x64 are impossible; both sides must be multiples of 32");
    refused(MODEL "--prompt x --logprobs 2", 2, "--logprobs are shown with --json only; add it");
    refused(MODEL "--prompt x --num-beams 2 --top-k 3", 2,
            "--num-beams and --top-k exclude each other: beams are not drawn");
    refused(MODEL "--prompt x --num-beams 2 --lookup 3", 2, "--num-beams and --lookup exclude each other");
    refused(MODEL "--prompt x --regex a --json-schema b", 2, "--regex and --json-schema exclude each other");
    refused(MODEL "--prompt x --json-schema none.json", 2, "none.json: No such file or directory");
    refused(MODEL "--prompt x -i temperature", 2, "--input temperature: write -i key=value");
    refused(MODEL "--prompt x -i tempo=1", 2, "unknown option --tempo (see qwen3-sft generate --help)");
    refused(MODEL "--prompt x --image none.png", 3, "none.png: No such file or directory");
    refused(
        MODEL "--prompt 'a<|im_end|>'", 3,
        "the text contains the control token <|im_end|>; remove it, or allow it with --allow-special-tokens");
    refused(MODEL "--prompt x --dtype bfloat16 --device cpu", 2,
            "--dtype is bfloat16, and the CPU computes in float32; use auto or float32");
    refused(MODEL "--prompt x --merge", 2, "--merge is for one adapter, and there are 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_those_of_transformers),
        cmocka_unit_test(a_prompt_comes_from_an_option_a_file_or_stdin),
        cmocka_unit_test(the_last_line_counts_tokens_and_tells_the_speed),
        cmocka_unit_test(many_prompts_are_answered_as_one_by_one),
        cmocka_unit_test(more_prompts_than_are_held_at_a_time_keep_their_order),
        cmocka_unit_test(a_bad_line_does_not_take_the_others_along),
        cmocka_unit_test(the_predictors_profile_strips_the_answer),
        cmocka_unit_test(a_seed_fixes_the_draws_and_is_told),
        cmocka_unit_test(each_value_comes_from_the_strongest_that_says_it),
        cmocka_unit_test(stop_strings_and_lengths_end_an_answer),
        cmocka_unit_test(an_answer_keeps_to_the_form_that_is_asked_for),
        cmocka_unit_test(probabilities_come_with_the_tokens),
        cmocka_unit_test(typed_prompts_stand_alone_and_errors_do_not_end_them),
        cmocka_unit_test(an_adapter_answers_merged_or_not),
        cmocka_unit_test(an_adapter_given_as_model_finds_its_base),
        cmocka_unit_test(weights_and_cache_come_in_the_asked_form),
        cmocka_unit_test(mistakes_are_named),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
