#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/file.h"
#include "core/json.h"
#include "tests/support/ask.h"

#define SMALL "tokenize --model tests/golden/tokenizer/small"
#define QWEN3 "tokenize --model tests/golden/tokenizer/qwen3"

static char dir[400];

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s", base ? base : "/tmp/q3-test");
    return q3_dir_create(dir) != Q3_OK;
}

static void assert_answer(const char *arguments, const char *input, const char *out)
{
    q3_process p = q3_ask(Q3_PROGRAM, arguments, input, strlen(input));
    assert_string_equal(p.err, "");
    assert_string_equal(p.out, out);
    assert_int_equal(p.code, 0);
    q3_process_free(&p);
}

/* Lines before the bad one are answered. */
static void assert_refused(const char *arguments, const char *input, size_t n, const char *out,
                           const char *sentence)
{
    q3_process p = q3_ask(Q3_PROGRAM, arguments, input, n);
    char want[600];
    snprintf(want, sizeof want, "qwen3-sft: <stdin>:%s\n", sentence);
    assert_string_equal(p.err, want);
    assert_string_equal(p.out, out);
    assert_int_equal(p.code, 3);
    q3_process_free(&p);
}

static void a_line_gives_a_line(void **state)
{
    (void)state;
    assert_answer(QWEN3, "\"Hello, world!\"\n \"\" \r\n\t\"<|im_end|>\\n\"",
                  "[9707,11,1879,0]\n[]\n[151645,198]\n");
    assert_answer(QWEN3, "", "");
    assert_answer(QWEN3 " --decode", "[9707,11,1879,0]\n[]\n [ 151645 , 198 ] \n",
                  "\"Hello, world!\"\n\"\"\n\"<|im_end|>\\n\"\n");
}

static void escapes_are_characters(void **state)
{
    (void)state;
    static const char raw[] = "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80/\x7f\"\n";
    static const char escaped[] = "\"\\u0000\\b\\f\\n\\r\\t\\\"\\\\\"\n";
    q3_process plain = q3_ask(Q3_PROGRAM, SMALL, raw, sizeof raw - 1);
    assert_int_equal(plain.code, 0);
    assert_true(strlen(plain.out) > 4);
    assert_answer(SMALL, "\"\\u00e9\\u20AC\\ud83D\\uDE00\\/\\u007f\"\n", plain.out);
    q3_process_free(&plain);
    q3_process ids = q3_ask(Q3_PROGRAM, SMALL, escaped, sizeof escaped - 1);
    assert_int_equal(ids.code, 0);
    assert_answer(SMALL " --decode", ids.out, escaped);
    q3_process_free(&ids);
}

static void bad_strings_are_named_by_line_and_column(void **state)
{
    (void)state;
    static const struct {
        const char *input, *sentence;
    } cases[] = {
        { "\n", "1: the line is empty; a JSON string is needed" },
        { " \t\r\n", "1: the line is empty; a JSON string is needed" },
        { "  [1]", "1:3: a JSON string is needed" },
        { "null", "1:1: a JSON string is needed" },
        { "\"a", "1:3: the string is not closed" },
        { "\"\xc3\xa9\" \"b\"", "1:5: unexpected text behind the value" },
        { "\"\xc3\xa9\xc3\"", "1:3: not valid UTF-8" },
        { "\"\\x\"", "1:2: no escape of JSON" },
        { "\"a\\", "1:3: no escape of JSON" },
        { "\"\\u12g4\"", "1:2: \\u needs four hexadecimal digits" },
        { "\"\\u12", "1:2: \\u needs four hexadecimal digits" },
        { "\"\\ud800\"", "1:2: half of a surrogate pair, which is no character" },
        { "\"\\ud800\\u0041\"", "1:2: half of a surrogate pair, which is no character" },
        { "\"\\ud800\\u\"", "1:2: half of a surrogate pair, which is no character" },
        { "\"\\udc00\\ud800\"", "1:2: half of a surrogate pair, which is no character" },
        { "\"a\tb\"", "1:3: control characters must be escaped" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(SMALL, cases[i].input, strlen(cases[i].input), "", cases[i].sentence);
    assert_refused(QWEN3, "\"a\"\n\"a\"\n\n\"a\"\n", 13, "[64]\n[64]\n",
                   "3: the line is empty; a JSON string is needed");
    assert_refused(SMALL, "\"a\0\"", 5, "", "1:3: control characters must be escaped");
}

static void bad_ids_are_named_by_line_and_column(void **state)
{
    (void)state;
    static const struct {
        const char *input, *sentence;
    } cases[] = {
        { "\n", "1: the line is empty; a JSON array of token ids is needed" },
        { "\"a\"", "1:1: a JSON array of token ids is needed" },
        { "[", "1:2: a token id is an integer that is not negative" },
        { "[1", "1:3: the array is not closed" },
        { "[1 2]", "1:4: expected ',' or ']'" },
        { "[1,]", "1:4: a token id is an integer that is not negative" },
        { "[1, -2]", "1:5: a token id is an integer that is not negative" },
        { "[1.0]", "1:2: a token id is an integer that is not negative" },
        { "[1e1]", "1:2: a token id is an integer that is not negative" },
        { "[01]", "1:2: a token id is an integer that is not negative" },
        { "[[1]]", "1:2: a token id is an integer that is not negative" },
        { "[\"1\"]", "1:2: a token id is an integer that is not negative" },
        { "[1]]", "1:4: unexpected text behind the value" },
        { "[371, 372]", "1:7: token id 372 is out of range; the vocabulary has 372 ids" },
        { "[99999999999999999999999]",
          "1:2: token id 99999999999999999999 is out of range; the vocabulary has 372 ids" },
        { "[4294967297]", "1:2: token id 4294967297 is out of range; the vocabulary has 372 ids" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(SMALL " --decode", cases[i].input, strlen(cases[i].input), "", cases[i].sentence);
}

/* A network has more rows than its tokenizer has tokens. Here it has 320 for 372 tokens, then 400. */
static void ids_of_the_network_decode_to_nothing(void **state)
{
    (void)state;
    char path[600], line[600];
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    assert_int_equal(q3_file_copy(path, "tests/golden/tokenizer/small/tokenizer.json"), Q3_OK);
    char *text, *at;
    size_t size;
    assert_int_equal(q3_file_read(&text, &size, "tests/golden/model-a/model/config.json", 1 << 20), Q3_OK);
    snprintf(line, sizeof line, "tokenize --decode --model %s", dir);
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(q3_file_write(path, text, size), Q3_OK);
    assert_refused(line, "[372]", 5, "", "1:2: token id 372 is out of range; the vocabulary has 372 ids");
    at = strstr(text, "\"vocab_size\": 320");
    assert_non_null(at);
    memcpy(at + 14, "400", 3);
    assert_int_equal(q3_file_write(path, text, size), Q3_OK);
    q3_free(text);
    assert_answer(line, "[399, 372]", "\"\"\n");
    assert_refused(line, "[400]", 5, "", "1:2: token id 400 is out of range; the vocabulary has 400 ids");
}

/* Every text of the reference vectors, through both directions. */
static void the_vectors_come_out_as_the_reference_has_them(void **state)
{
    (void)state;
    q3_text texts = { 0 }, ids = { 0 };
    q3_map map;
    assert_int_equal(q3_map_open(&map, "tests/golden/vectors/qwen3-tokenizer-fuzz.jsonl"), Q3_OK);
    const char *p = (const char *)map.data, *end = p + map.size;
    int n = 0;
    while (p < end) { // {"i":8,"text":"...","ids":[...]}
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        const char *text = memmem(p, (size_t)(stop - p), "\"text\":", 7), *array = stop;
        assert_non_null(text);
        while (*array != '[')
            array--;
        q3_text_append(&texts, text + 7, (size_t)(array - 7 - (text + 7)));
        q3_text_append(&texts, "\n", 1);
        q3_text_append(&ids, array, (size_t)(stop - 1 - array));
        q3_text_append(&ids, "\n", 1);
        p = stop + 1;
        n++;
    }
    assert_true(n > 100);
    q3_process out = q3_ask(Q3_PROGRAM, QWEN3, texts.data, texts.size);
    assert_string_equal(out.err, "");
    assert_string_equal(out.out, ids.data);
    q3_process back = q3_ask(Q3_PROGRAM, QWEN3 " --decode", out.out, strlen(out.out));
    q3_process again = q3_ask(Q3_PROGRAM, QWEN3, back.out, strlen(back.out));
    assert_string_equal(again.out, ids.data); // texts in NFC come back as they were, and so do their ids
    q3_process_free(&out);
    q3_process_free(&back);
    q3_process_free(&again);
    q3_text_free(&texts);
    q3_text_free(&ids);
    q3_map_close(&map);
}

static void a_line_of_megabytes_is_one_text(void **state)
{
    (void)state;
    enum { WORDS = 1 << 20 };
    q3_text line = { 0 };
    q3_text_append(&line, "\"", 1);
    for (int i = 0; i < WORDS; i++)
        q3_text_append(&line, " the", 4);
    q3_text_append(&line, "\"\n\"a\"\n", 6);
    assert_false(line.failed);
    q3_process p = q3_ask(Q3_PROGRAM, QWEN3, line.data, line.size);
    assert_int_equal(p.code, 0);
    assert_int_equal(strlen(p.out), 4 * (size_t)WORDS + 1 + 1 + 5); // "[279,...,279]" and "[64]"
    assert_string_equal(p.out + strlen(p.out) - 11, ",279]\n[64]\n");
    q3_process back = q3_ask(Q3_PROGRAM, QWEN3 " --decode", p.out, strlen(p.out));
    assert_int_equal(strlen(back.out), line.size);
    assert_memory_equal(back.out, line.data, line.size);
    q3_process_free(&p);
    q3_process_free(&back);
    q3_text_free(&line);
}

/* A question, its answer, the next question: the program may not wait for more input. */
static void it_answers_each_line_before_it_reads_the_next(void **state)
{
    (void)state;
    int to[2], from[2], status;
    assert_int_equal(pipe(to) | pipe(from), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(to[0], 0);
        dup2(from[1], 1);
        close(to[1]);
        close(from[0]);
        execl(Q3_PROGRAM, Q3_PROGRAM, "tokenize", "--model", "tests/golden/tokenizer/small", (char *)NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    FILE *answers = fdopen(from[0], "r");
    char first[64], later[64];
    alarm(120); // instead of waiting for ever
    for (int i = 0; i < 3; i++) {
        assert_int_equal(write(to[1], "\"ab", 3), 3); // a line may come in pieces
        assert_int_equal(write(to[1], "c\"\n", 3), 3);
        assert_non_null(fgets(i ? later : first, 64, answers));
        assert_string_equal(i ? later : first, first);
    }
    alarm(0);
    close(to[1]);
    assert_null(fgets(later, 64, answers));
    fclose(answers);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void usage_and_output_errors(void **state)
{
    (void)state;
    q3_ask_refused(Q3_PROGRAM, "tokenize", 2, "tokenize needs --model DIR (see qwen3-sft tokenize --help)");
    q3_ask_refused(Q3_PROGRAM, "tokenize --model tests/golden/vectors", 4,
                   "tests/golden/vectors: no tokenizer.json here, nor vocab.json with merges.txt");
    int status = system("echo '\"a\"' | " Q3_PROGRAM " " SMALL " >/dev/full 2>/dev/null");
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    status = system(Q3_PROGRAM " " SMALL " <tests >/dev/null 2>/dev/null"); // a directory
    assert_int_equal(WEXITSTATUS(status), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_gives_a_line),
        cmocka_unit_test(escapes_are_characters),
        cmocka_unit_test(bad_strings_are_named_by_line_and_column),
        cmocka_unit_test(bad_ids_are_named_by_line_and_column),
        cmocka_unit_test(ids_of_the_network_decode_to_nothing),
        cmocka_unit_test(the_vectors_come_out_as_the_reference_has_them),
        cmocka_unit_test(a_line_of_megabytes_is_one_text),
        cmocka_unit_test(it_answers_each_line_before_it_reads_the_next),
        cmocka_unit_test(usage_and_output_errors),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
