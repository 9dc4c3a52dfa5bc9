#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/rng.h"
#include "infer/constraint.h"

static q3_tokenizer *real, *tiny;
static int32_t real_eos[2], tiny_eos;

static int setup(void **state)
{
    (void)state;
    assert_int_equal(q3_tokenizer_open(&real, "tests/golden/tokenizer/qwen3"), Q3_OK);
    assert_int_equal(q3_tokenizer_open(&tiny, "tests/golden/training/model"), Q3_OK);
    real_eos[0] = q3_tokenizer_id(real, "<|im_end|>");
    real_eos[1] = q3_tokenizer_id(real, "<|endoftext|>");
    tiny_eos = q3_tokenizer_id(tiny, "<|im_end|>");
    assert_true(real_eos[0] > 0 && real_eos[1] > 0 && tiny_eos > 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    q3_tokenizer_close(real);
    q3_tokenizer_close(tiny);
    return 0;
}

/* Feeds a text in tokens of the tiny tokenizer; whether all of it is taken and may end there. */
static bool takes_whole(q3_constraint *c, const char *text)
{
    q3_ids ids = { 0 };
    bool taken = true;
    assert_int_equal(q3_tokenizer_encode(&ids, tiny, text, strlen(text)), Q3_OK);
    for (size_t i = 0; i < ids.n && taken; i++)
        taken = q3_constraint_advance(c, ids.ids[i]);
    q3_ids_free(&ids);
    return taken && q3_constraint_advance(c, tiny_eos);
}

static bool fits(const q3_constraint *form, const char *text)
{
    q3_constraint *c;
    assert_int_equal(q3_constraint_clone(&c, form), Q3_OK);
    bool yes = takes_whole(c, text);
    q3_constraint_destroy(c);
    return yes;
}

static q3_constraint *regex_of(const char *pattern)
{
    q3_constraint *c;
    if (q3_constraint_regex(&c, tiny, &tiny_eos, 1, pattern) != Q3_OK)
        fail_msg("%s: %s", pattern, q3_error());
    return c;
}

static q3_constraint *schema_of(const q3_tokenizer *t, const cJSON *schema)
{
    q3_constraint *c;
    if (q3_constraint_json(&c, t, t == real ? real_eos : &tiny_eos, t == real ? 2 : 1, schema) != Q3_OK)
        fail_msg("%s", q3_error());
    return c;
}

static void expect_fits(const q3_constraint *form, const cJSON *texts, bool yes, const char *what)
{
    for (const cJSON *t = texts->child; t; t = t->next)
        if (fits(form, t->valuestring) != yes)
            fail_msg("%s: '%s' should %s", what, t->valuestring, yes ? "fit" : "not fit");
}

/* Calls `use` with each line of a file of JSON. */
static void each_line(const char *path, void (*use)(const cJSON *line))
{
    char *text, *at;
    size_t size;
    assert_int_equal(q3_file_read(&text, &size, path, 1 << 20), Q3_OK);
    int n = 0;
    for (at = text; *at; n++) {
        size_t length = strcspn(at, "\n");
        cJSON *line = cJSON_ParseWithLength(at, length);
        assert_non_null(line);
        use(line);
        cJSON_Delete(line);
        at += length + (at[length] == '\n');
    }
    assert_true(n > 10);
    q3_free(text);
}

static void check_pattern(const cJSON *line)
{
    const char *pattern = cJSON_GetObjectItem(line, "pattern")->valuestring;
    q3_constraint *form = regex_of(pattern);
    expect_fits(form, cJSON_GetObjectItem(line, "yes"), true, pattern);
    expect_fits(form, cJSON_GetObjectItem(line, "no"), false, pattern);
    q3_constraint_destroy(form);
}

static void patterns_match_what_python_matches(void **state)
{
    (void)state;
    each_line("tests/golden/formats/regex.jsonl", check_pattern);
}

static void check_schema(const cJSON *line)
{
    const cJSON *schema = cJSON_GetObjectItem(line, "schema");
    char *what = cJSON_PrintUnformatted(schema);
    q3_constraint *form = schema_of(tiny, schema);
    expect_fits(form, cJSON_GetObjectItem(line, "yes"), true, what);
    expect_fits(form, cJSON_GetObjectItem(line, "no"), false, what);
    q3_constraint_destroy(form);
    cJSON_free(what);
}

static void schemas_take_what_fits_and_refuse_what_does_not(void **state)
{
    (void)state;
    each_line("tests/golden/formats/schema.jsonl", check_schema);
}

static void wrong_patterns_are_refused_with_the_place(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        { "a(b", "byte 2: the parenthesis is not closed" },
        { "ab)", "byte 3: this parenthesis was never opened" },
        { "[a", "byte 3: the class is not closed" },
        { "[]a]", "byte 2: the class is empty" },
        { "[z-a]", "byte 2: the range runs backwards" },
        { "*a", "byte 1: there is nothing to repeat" },
        { "a**", "byte 3: repetitions cannot be repeated" },
        { "a{2", "byte 4: the brace is not closed" },
        { "a{3,2}", "byte 2: the range runs backwards" },
        { "a{70000}", "byte 3: more than 65535 repetitions" },
        { "a{}", "byte 3: a number is missing" },
        { "^a", "byte 1: anchors are not supported" },
        { "a$", "byte 2: anchors are not supported" },
        { "(a)\\1", "byte 5: back references are not supported" },
        { "a\\b", "byte 3: boundaries are not supported" },
        { "(?=a)", "byte 3: of groups with ? only" },
        { "\\p{L}", "byte 2: this escape is not supported" },
        { "a\\", "byte 3: nothing follows the backslash" },
        { "\\xg0", "byte 3: a hexadecimal digit is missing" },
        { "\\ud800", "surrogates are no characters" },
        { "\xFF", "byte 1: it is not valid UTF-8" },
        { "((a{99}){99}){99}", "the pattern: it takes more than 262144 states" },
        { "[^\\d\\D]", "the pattern: no text fits it" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        q3_constraint *c;
        assert_int_equal(q3_constraint_regex(&c, tiny, &tiny_eos, 1, wrong[i][0]), Q3_ERR_USAGE);
        assert_null(c);
        if (!strstr(q3_error(), wrong[i][1]))
            fail_msg("%s: %s", wrong[i][0], q3_error());
    }
}

static void what_schemas_cannot_express_is_refused_by_name(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {
        { "{\"not\": {}}", "schema #: the keyword not is not supported" },
        { "{\"type\": \"array\", \"items\": {\"type\": \"string\", \"minLenght\": 2}}",
          "schema #/items: the keyword minLenght is not supported" },
        { "{\"properties\": {\"a\": {\"multipleOf\": 2}}}", "schema #/properties/a: the keyword multipleOf" },
        { "{\"anyOf\": [{}], \"required\": [\"a\"]}", "the keyword required is not supported beside anyOf" },
        { "{\"$ref\": \"#/$defs/x\"}", "there is no schema at #/$defs/x" },
        { "{\"$ref\": \"http://x\"}", "$ref must lead to a place in the schema" },
        { "{\"$ref\": \"#\"}", "it refers to itself with nothing in front" },
        { "{\"anyOf\": [{\"type\": \"null\"}, {\"$ref\": \"#\"}]}",
          "it refers to itself with nothing in front" },
        { "{\"type\": \"object\", \"properties\": {\"a\": {\"$ref\": \"#\"}}, \"required\": [\"a\"]}",
          "no text fits it" },
        { "{\"allOf\": [{}, {}]}", "allOf of more than one schema" },
        { "{\"type\": \"text\"}", "type must be one or more of" },
        { "{\"type\": []}", "type is an empty list" },
        { "{\"enum\": []}", "enum has no value of its type" },
        { "{\"type\": \"number\", \"minimum\": 1}", "type number has a minimum or maximum" },
        { "{\"type\": \"integer\", \"minimum\": 3, \"maximum\": 2}", "leave no integer" },
        { "{\"type\": \"string\", \"format\": \"email\"}", "format is none of date" },
        { "{\"type\": \"string\", \"pattern\": \"a\", \"minLength\": 1}",
          "pattern is not supported beside another" },
        { "{\"type\": \"string\", \"pattern\": \"(\"}", "schema #: the pattern is wrong at byte 1" },
        { "{\"type\": \"string\", \"maxLength\": 1.5}", "maxLength must be a count" },
        { "{\"type\": \"array\", \"minItems\": 3, \"maxItems\": 2}", "maxItems is less than the minimum" },
        { "{\"type\": \"array\", \"minItems\": 2, \"prefixItems\": [{}], \"items\": false}",
          "minItems is more than" },
        { "{\"type\": \"object\", \"properties\": {}, \"required\": [\"a\"], \"additionalProperties\": "
          "false}",
          "names a property that additionalProperties forbids" },
        { "{\"type\": \"array\", \"minItems\": 100000, \"items\": {\"type\": \"string\"}}",
          "schema #: it takes more than" },
        { "3", "a schema must be a JSON object" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        q3_constraint *c;
        cJSON *schema = cJSON_Parse(wrong[i][0]);
        assert_non_null(schema);
        q3_status st = q3_constraint_json(&c, tiny, &tiny_eos, 1, schema);
        if (st != Q3_ERR_USAGE || !strstr(q3_error(), wrong[i][1]))
            fail_msg("%s: %s", wrong[i][0], st ? q3_error() : "was accepted");
        cJSON_Delete(schema);
    }
}

/* ---- masks ---- */

static float logits[152064];

/* What comes most readily to an end: the walk turns to it after a while. */
static bool closes(const q3_tokenizer *t, int32_t id)
{
    size_t n = 0;
    const char *bytes = q3_tokenizer_token(&n, t, id);
    return bytes && n == 1 && strchr("\"}]:", bytes[0]);
}

/* Random tokens that the form allows, until the text ends. */
static void walk(q3_text *out, const q3_constraint *form, const q3_tokenizer *t, const int32_t *eos,
                 uint32_t seed)
{
    int64_t V = q3_tokenizer_size(t) + 13; // a model's table is longer than its vocabulary
    q3_constraint *c;
    assert_int_equal(q3_constraint_clone(&c, form), Q3_OK);
    for (uint32_t step = 0;; step++) {
        const q3_random r = { seed, Q3_RANDOM_TEST, step, 0 };
        int64_t best = -1;
        for (int64_t i = 0; i < V; i++)
            logits[i] = (float)(q3_random_u32(&r, (uint64_t)i / 4) >> 8 * (i % 4) & 0xFF);
        for (int32_t id = 0; step > 25 && id < 300; id++)
            logits[id] += closes(t, id) ? 1000 : 0;
        if (step > 25)
            logits[eos[0]] += 2000;
        q3_constraint_mask(c, logits, V);
        for (int64_t i = 0; i < V; i++)
            if (logits[i] > -INFINITY && (best < 0 || logits[i] > logits[best]))
                best = i;
        assert_true(best >= 0 && best < q3_tokenizer_size(t));
        assert_true(q3_constraint_advance(c, (int32_t)best));
        assert_null(q3_constraint_failure(c));
        if (best == eos[0] || (t == real && best == eos[1]))
            break;
        assert_false(q3_tokenizer_is_special(t, (int32_t)best));
        assert_true(step < 400);
        size_t n = 0;
        const char *bytes = q3_tokenizer_token(&n, t, (int32_t)best);
        q3_text_append(out, bytes, n);
    }
    assert_true(q3_constraint_done(c));
    q3_constraint_destroy(c);
    q3_text_append(out, "", 0);
}

static cJSON *parsed(const q3_text *text)
{
    size_t bad;
    if (!q3_utf8_valid(text->data, text->size, &bad))
        fail_msg("not UTF-8 at byte %zu", bad);
    cJSON *json = cJSON_ParseWithLengthOpts(text->data, text->size + 1, NULL, 1);
    if (!json)
        fail_msg("not JSON: %s", text->data);
    return json;
}

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static const char sarcasm[] =
    "{\"type\": \"object\", \"properties\": {\"label\": {\"type\": \"string\", \"enum\": [\"sarcastic\", "
    "\"non_sarcastic\"]},"
    " \"explanation\": {\"type\": \"string\"}}, \"required\": [\"label\", \"explanation\"],"
    " \"additionalProperties\": false}";

static void random_answers_have_the_form_of_the_schema(void **state)
{
    (void)state;
    cJSON *schema = cJSON_Parse(sarcasm);
    for (int i = 0; i < 2; i++) {
        const q3_tokenizer *t = i ? real : tiny;
        q3_constraint *form = schema_of(t, schema);
        int labels[2] = { 0 };
        for (uint32_t seed = 0; seed < (i ? 3 : 40); seed++) {
            q3_text text = { 0 };
            walk(&text, form, t, i ? real_eos : &tiny_eos, seed);
            cJSON *json = parsed(&text);
            assert_int_equal(cJSON_GetArraySize(json), 2);
            const char *label = get(json, "label")->valuestring;
            assert_true(!strcmp(label, "sarcastic") || !strcmp(label, "non_sarcastic"));
            labels[label[0] == 's']++;
            assert_true(cJSON_IsString(get(json, "explanation")));
            cJSON_Delete(json);
            q3_text_free(&text);
        }
        if (!i)
            assert_true(labels[0] && labels[1]);
        q3_constraint_destroy(form);
    }
    cJSON_Delete(schema);
}

static bool is_tree(const cJSON *v)
{
    const cJSON *name = get(v, "name"), *count = get(v, "count"), *children = get(v, "children");
    if (!cJSON_IsObject(v) || !cJSON_IsString(name) || !cJSON_IsArray(children) ||
        cJSON_GetArraySize(children) > 2)
        return false;
    int characters = 0;
    for (const char *p = name->valuestring; *p; p++)
        characters += (*p & 0xC0) != 0x80;
    if (characters < 1 || characters > 4 || (count && (count->valuedouble < -3 || count->valuedouble > 17)))
        return false;
    for (const cJSON *c = children->child; c; c = c->next)
        if (!cJSON_IsNull(c) && !is_tree(c))
            return false;
    return cJSON_GetArraySize(v) == 2 + (count != NULL);
}

static void recursion_lengths_and_ranges_hold_in_random_answers(void **state)
{
    (void)state;
    cJSON *schema =
        cJSON_Parse("{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\", \"minLength\": "
                    "1, \"maxLength\": 4},"
                    " \"count\": {\"type\": \"integer\", \"minimum\": -3, \"maximum\": 17}, \"children\": "
                    "{\"type\": \"array\","
                    " \"maxItems\": 2, \"items\": {\"anyOf\": [{\"type\": \"null\"}, {\"$ref\": \"#\"}]}}},"
                    " \"required\": [\"name\", \"children\"]}");
    q3_constraint *form = schema_of(tiny, schema);
    cJSON_Delete(schema); // is not needed any more
    for (uint32_t seed = 0; seed < 60; seed++) {
        q3_text text = { 0 };
        walk(&text, form, tiny, &tiny_eos, seed);
        cJSON *json = parsed(&text);
        if (!is_tree(json))
            fail_msg("%s", text.data);
        cJSON_Delete(json);
        q3_text_free(&text);
    }
    q3_constraint_destroy(form);
}

static void random_objects_are_objects(void **state)
{
    (void)state;
    q3_constraint *form = schema_of(tiny, NULL);
    for (uint32_t seed = 0; seed < 60; seed++) {
        q3_text text = { 0 };
        walk(&text, form, tiny, &tiny_eos, seed);
        cJSON *json = parsed(&text);
        assert_true(cJSON_IsObject(json));
        cJSON_Delete(json);
        q3_text_free(&text);
    }
    q3_constraint_destroy(form);
}

static void random_answers_match_the_pattern(void **state)
{
    (void)state;
    static const char *const patterns[] = { "(yes|no)(: [a-z ]{3,12}\\.)?", "[A-Z]{2}-[0-9]{4}(,[0-9]+)*;?",
                                            "\"(0|[1-9][0-9]{0,5})\"", "(a|b)*abb" };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        char whole[100];
        regex_t posix;
        snprintf(whole, sizeof whole, "^(%s)$", patterns[i]);
        assert_int_equal(regcomp(&posix, whole, REG_EXTENDED | REG_NOSUB), 0);
        q3_constraint *form = regex_of(patterns[i]);
        for (uint32_t seed = 0; seed < 30; seed++) {
            q3_text text = { 0 };
            q3_constraint *c;
            assert_int_equal(q3_constraint_clone(&c, form), Q3_OK);
            for (uint32_t step = 0;; step++) {
                const q3_random r = { seed, Q3_RANDOM_TEST, step, 1 };
                int32_t allowed[400], n = 0;
                memset(logits, 0, sizeof logits);
                q3_constraint_mask(c, logits, q3_tokenizer_size(tiny));
                for (int32_t id = 0; id < q3_tokenizer_size(tiny); id++)
                    if (logits[id] == 0)
                        allowed[n++] = id;
                assert_true(n > 0);
                int32_t id = logits[tiny_eos] == 0 && step > 15
                                 ? tiny_eos
                                 : allowed[q3_random_below(&r, 0, (uint32_t)n)];
                assert_true(q3_constraint_advance(c, id));
                if (id == tiny_eos)
                    break;
                size_t size = 0;
                const char *bytes = q3_tokenizer_token(&size, tiny, id);
                q3_text_append(&text, bytes, size);
            }
            if (regexec(&posix, text.data, 0, NULL, 0) != 0)
                fail_msg("%s does not match %s", text.data, patterns[i]);
            q3_constraint_destroy(c);
            q3_text_free(&text);
        }
        q3_constraint_destroy(form);
        regfree(&posix);
    }
}

/* Each token is tried on its own; the mask found them all at once. */
static void masks_allow_exactly_what_can_be_taken(void **state)
{
    (void)state;
    static const char text[] = "{\"label\": \"sarcastic\", \"explanation\": \"d\u00e9j\u00e0 \\\"vu\\\"\"}";
    cJSON *schema = cJSON_Parse(sarcasm);
    q3_constraint *form = schema_of(tiny, schema), *c;
    for (size_t n = 0; n < sizeof text; n++) {
        assert_int_equal(q3_constraint_clone(&c, form), Q3_OK);
        q3_ids ids = { 0 };
        if (q3_tokenizer_encode(&ids, tiny, text, n) == Q3_OK) { // not inside a character
            for (size_t i = 0; i < ids.n; i++)
                assert_true(q3_constraint_advance(c, ids.ids[i]));
            memset(logits, 0, sizeof logits);
            q3_constraint_mask(c, logits, q3_tokenizer_size(tiny) + 5);
            for (int32_t id = 0; id < q3_tokenizer_size(tiny) + 5; id++) {
                q3_constraint *probe;
                assert_int_equal(q3_constraint_clone(&probe, form), Q3_OK);
                for (size_t i = 0; i < ids.n; i++)
                    q3_constraint_advance(probe, ids.ids[i]);
                assert_int_equal(q3_constraint_advance(probe, id), logits[id] == 0);
                q3_constraint_destroy(probe);
            }
            assert_int_equal(logits[tiny_eos] == 0, n == sizeof text - 1);
            assert_int_equal(q3_constraint_done(c), n == sizeof text - 1);
        }
        q3_ids_free(&ids);
        q3_constraint_destroy(c);
    }
    q3_constraint_destroy(form);
    cJSON_Delete(schema);
}

static void a_refused_token_changes_nothing(void **state)
{
    (void)state;
    q3_constraint *c = regex_of("ab?c");
    assert_false(q3_constraint_advance(c, tiny_eos));
    assert_false(q3_constraint_advance(c, q3_tokenizer_id(tiny, "b")));
    assert_false(q3_constraint_advance(c, -1));
    assert_false(q3_constraint_advance(c, 1 << 20));
    assert_true(q3_constraint_advance(c, q3_tokenizer_id(tiny, "a")));
    assert_false(q3_constraint_done(c));
    assert_true(takes_whole(c, "c"));
    assert_true(q3_constraint_done(c));
    q3_constraint_destroy(c);
}

static void a_text_may_end_where_more_could_come(void **state)
{
    (void)state;
    q3_constraint *c = regex_of("a*");
    memset(logits, 0, sizeof logits);
    q3_constraint_mask(c, logits, 400);
    assert_true(logits[tiny_eos] == 0 && logits[q3_tokenizer_id(tiny, "a")] == 0);
    assert_false(q3_constraint_done(c));
    q3_constraint_destroy(c);
}

/* Vocabularies have a token for each byte; here one of them is taken for the end. */
static void a_vocabulary_that_cannot_go_on_is_reported(void **state)
{
    (void)state;
    int32_t eos = q3_tokenizer_id(tiny, "c");
    q3_constraint *c;
    assert_int_equal(q3_constraint_regex(&c, tiny, &eos, 1, "ac"), Q3_OK);
    assert_true(q3_constraint_advance(c, q3_tokenizer_id(tiny, "a")));
    assert_null(q3_constraint_failure(c));
    memset(logits, 0, sizeof logits);
    q3_constraint_mask(c, logits, 400);
    for (int32_t id = 0; id < 400; id++)
        assert_int_equal(logits[id] == 0, id == eos);
    assert_string_equal(q3_constraint_failure(c),
                        "no token of the vocabulary leads on in the form of the answer");
    assert_true(q3_constraint_done(c));
    assert_true(q3_constraint_advance(c, eos));
    q3_constraint_destroy(c);
}

/* Two alternatives that say the same double the positions with each bracket. */
static void ambiguity_that_grows_without_end_is_reported(void **state)
{
    (void)state;
    cJSON *schema = cJSON_Parse("{\"anyOf\": [{\"type\": \"array\", \"items\": {\"$ref\": \"#\"}},"
                                " {\"type\": \"array\", \"maxItems\": 9, \"items\": {\"$ref\": \"#\"}}]}");
    q3_constraint *c = schema_of(tiny, schema);
    bool taken = true;
    for (int i = 0; i < 60 && taken; i++)
        taken = q3_constraint_advance(c, q3_tokenizer_id(tiny, "["));
    assert_false(taken);
    assert_string_equal(q3_constraint_failure(c),
                        "the form of the answer takes more memory to follow than there is for it");
    q3_constraint_destroy(c);
    cJSON_Delete(schema);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    cJSON *schema = cJSON_Parse("{\"properties\": {\"a\": {\"type\": \"string\", \"pattern\": \"x\"}},"
                                " \"additionalProperties\": {\"type\": \"integer\"}}");
    q3_status st = Q3_ERR_MEMORY;
    for (int64_t n = 1; st != Q3_OK; n++) {
        q3_constraint *c;
        q3_heap_fail_at(n);
        st = q3_constraint_json(&c, tiny, &tiny_eos, 1, schema);
        if (st == Q3_OK) {
            memset(logits, 0, sizeof logits);
            q3_constraint_mask(c, logits, 400);
            if (q3_constraint_failure(c)) {
                assert_true(logits[tiny_eos] == 0);
                st = Q3_ERR_MEMORY;
            }
        }
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
        q3_constraint_destroy(c);
    }
    cJSON_Delete(schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_match_what_python_matches),
        cmocka_unit_test(schemas_take_what_fits_and_refuse_what_does_not),
        cmocka_unit_test(wrong_patterns_are_refused_with_the_place),
        cmocka_unit_test(what_schemas_cannot_express_is_refused_by_name),
        cmocka_unit_test(random_answers_have_the_form_of_the_schema),
        cmocka_unit_test(recursion_lengths_and_ranges_hold_in_random_answers),
        cmocka_unit_test(random_objects_are_objects),
        cmocka_unit_test(random_answers_match_the_pattern),
        cmocka_unit_test(masks_allow_exactly_what_can_be_taken),
        cmocka_unit_test(a_refused_token_changes_nothing),
        cmocka_unit_test(a_text_may_end_where_more_could_come),
        cmocka_unit_test(a_vocabulary_that_cannot_go_on_is_reported),
        cmocka_unit_test(ambiguity_that_grows_without_end_is_reported),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
