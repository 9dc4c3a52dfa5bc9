#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "infer/lookup.h"

enum { MOST = 8 };

/* What is expected is what PromptLookupCandidateGenerator (transformers 5.17) appends to the same ids. */
static void assert_guess(const int32_t *ids, int64_t n, int most, int ngram, const int32_t *expected,
                         int n_expected)
{
    int32_t out[MOST + 1] = { [0] = -9, [MOST] = -9 };
    assert_int_equal(q3_lookup(out, most, ids, n, ngram), n_expected);
    for (int i = 0; i < n_expected; i++)
        assert_int_equal(out[i], expected[i]);
    for (int i = n_expected; i < MOST; i++)
        assert_int_equal(out[i], i ? 0 : -9); // nothing is written behind them
    assert_int_equal(out[MOST], -9);
}

#define GUESS(most, ngram, n_expected, expected, ...)                                                        \
    do {                                                                                                     \
        const int32_t ids[] = { __VA_ARGS__ };                                                               \
        assert_guess(ids, sizeof ids / sizeof *ids, most, ngram, (const int32_t[])expected, n_expected);     \
    } while (0)
#define LIST(...)                                                                                            \
    {                                                                                                        \
        __VA_ARGS__                                                                                          \
    }

static void what_followed_the_last_tokens_is_guessed(void **state)
{
    (void)state;
    GUESS(3, 2, 3, LIST(3, 4, 5), 1, 2, 3, 4, 5, 6, 1, 2);
    GUESS(8, 2, 8, LIST(3, 4, 5, 6, 7, 8, 9, 1), 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2);
    GUESS(8, 2, 3, LIST(9, 1, 2), 1, 2, 9, 1, 2); // no more than there is
}

static void the_longest_suffix_wins_over_an_earlier_shorter_one(void **state)
{
    (void)state;
    GUESS(1, 2, 1, LIST(8), 2, 7, 1, 2, 8, 1, 2);
    GUESS(1, 1, 1, LIST(7), 2, 7, 1, 2, 8, 1, 2);
    GUESS(1, 3, 1, LIST(8), 5, 1, 2, 8, 6, 1, 2, 9, 5, 1, 2);
}

static void of_equal_suffixes_the_first_is_taken(void **state)
{
    (void)state;
    GUESS(2, 2, 2, LIST(3, 1), 1, 2, 3, 1, 2, 4, 1, 2);
}

static void a_suffix_may_overlap_its_own_beginning(void **state)
{
    (void)state;
    GUESS(4, 2, 2, LIST(6, 6), 6, 6, 6, 6);
    GUESS(4, 2, 1, LIST(6), 6, 6, 6);
    GUESS(4, 2, 1, LIST(6), 6, 6);
}

static void nothing_is_guessed_where_nothing_matches(void **state)
{
    (void)state;
    GUESS(4, 2, 0, LIST(0), 1, 2, 3, 4);
    GUESS(4, 2, 0, LIST(0), 1);
    GUESS(4, 0, 0, LIST(0), 1, 1, 1);
    int32_t out = -9;
    assert_int_equal(q3_lookup(&out, 4, NULL, 0, 2), 0);
    assert_int_equal(out, -9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_followed_the_last_tokens_is_guessed),
        cmocka_unit_test(the_longest_suffix_wins_over_an_earlier_shorter_one),
        cmocka_unit_test(of_equal_suffixes_the_first_is_taken),
        cmocka_unit_test(a_suffix_may_overlap_its_own_beginning),
        cmocka_unit_test(nothing_is_guessed_where_nothing_matches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
