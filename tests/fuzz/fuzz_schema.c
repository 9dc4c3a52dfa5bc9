/* tests/fuzz/fuzz_schema.c - any bytes as a JSON schema. What is accepted is walked at random; where the walk may end,
 * the text must be JSON. */
#include <stdint.h>
#include <string.h>

#include "core/json.h"
#include "core/rng.h"
#include "infer/constraint_automaton.h"
#include "infer/constraint_schema.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One of the bytes that lead on; -1 when none does. */
static int some_byte(q3_automaton *a, int32_t at, const q3_random *r)
{
    uint32_t first = q3_random_below(r, 0, 256);
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t byte = (first + i * 37) % 256; // 37 is odd: each byte once
        if (q3_automaton_step(a, at, (uint8_t)byte) >= 0)
            return (int)byte;
    }
    return -1;
}

static void check_text(const char *text, size_t n)
{
    cJSON *json = cJSON_ParseWithLengthOpts(text, n, NULL, 0);
    Q3_CHECK(json, "%zu bytes: %.*s", n, (int)n, text);
    cJSON_Delete(json);
}

static void walk(const q3_grammar *g, uint64_t seed)
{
    char text[128];
    q3_automaton a;
    q3_automaton_init(&a, g);
    int32_t at = q3_automaton_start(&a);
    for (size_t n = 0; at >= 0; n++) {
        const q3_random r = { seed, Q3_RANDOM_TEST, (uint32_t)n, 0 };
        if (a.positions[at].may_end)
            check_text(text, n);
        int byte = n < sizeof text ? some_byte(&a, at, &r) : -1;
        Q3_CHECK(byte >= 0 || a.failed || n == sizeof text || a.positions[at].may_end,
                 "a dead end at byte %zu", n);
        if (byte < 0)
            break;
        text[n] = (char)byte;
        at = q3_automaton_step(&a, at, (uint8_t)byte);
    }
    q3_automaton_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q3_json doc;
    if (q3_json_parse(&doc, (const char *)data, size, "schema", 1) != Q3_OK)
        return 0;
    q3_grammar g = { 0 };
    if (q3_schema_compile(&g, doc.root) == Q3_OK)
        for (uint64_t seed = 0; seed < 8; seed++)
            walk(&g, seed);
    q3_grammar_free(&g);
    q3_json_close(&doc);
    return 0;
}
