/* tests/fuzz/fuzz_regex.c - any bytes as a pattern and as a text. Up to the first line feed: the pattern; the rest: a
 * text that is followed as far as the pattern goes with it. The first byte of the file chooses how the pattern is read. */
#include <stdint.h>
#include <string.h>

#include "infer/constraint_automaton.h"
#include "infer/constraint_regex.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* From wherever the text leads an end can be reached, so some byte leads on or the text may end. */
static void follow(const q3_grammar *g, const uint8_t *text, size_t n)
{
    q3_automaton a;
    q3_automaton_init(&a, g);
    int32_t at = q3_automaton_start(&a);
    for (size_t i = 0; i < n && i < 64 && at >= 0; i++) {
        bool goes_on = a.positions[at].may_end;
        for (int c = 0; c < g->n_classes && !goes_on; c++)
            goes_on = q3_automaton_step(&a, at, g->example[c]) >= 0;
        Q3_CHECK(goes_on || a.failed, "a dead end at byte %zu", i);
        at = q3_automaton_step(&a, at, text[i]);
        if (at >= 0)
            Q3_CHECK(q3_automaton_renew(&a, &at, 1) == Q3_OK && at == 0, "%s", q3_error());
    }
    q3_automaton_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    const q3_regex_options options = { .in_json = data[0] & 1, .search = data[0] & 2 };
    const uint8_t *end = memchr(data + 1, '\n', size - 1);
    size_t n = end ? (size_t)(end - data - 1) : size - 1;
    char *pattern = q3_calloc(n + 1, 1);
    if (!pattern)
        return 0;
    memcpy(pattern, data + 1, n);
    q3_grammar g = { 0 };
    q3_fragment f;
    int32_t rule = q3_grammar_rule(&g), culprit;
    if (q3_regex_compile(&f, &g, pattern, &options) == Q3_OK) {
        q3_grammar_define(&g, rule, f);
        if (q3_grammar_finish(&g, &culprit) == Q3_OK && end)
            follow(&g, end + 1, size - n - 2);
    }
    q3_grammar_free(&g);
    q3_free(pattern);
    return 0;
}
