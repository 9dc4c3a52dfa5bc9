#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "kernels/library.h"

static double (*cosine)(double);
static void (*missing)(void);

static const q3_symbol cosine_only[] = { { "cos", &cosine }, { NULL, NULL } };
static const q3_symbol two[] = { { "cos", &cosine }, { "q3_no_such_function", &missing }, { NULL, NULL } };
static const char *const mathematics[] = { "libm.so.99", "libm.so.6", NULL };
static const char *const nowhere[] = { "libq3nowhere.so.2", "libq3nowhere.so.1", NULL };

static void a_library_of_the_system_is_bound(void **unused)
{
    (void)unused;
    q3_library library = { .title = "mathematics", .names = mathematics, .symbols = cosine_only };
    assert_true(q3_library_open(&library));
    assert_true(cosine(0) == 1);
    assert_non_null(strstr(library.path, "libm.so.6"));
    assert_string_equal(library.why, "");
    assert_true(q3_library_open(&library));
}

static void what_was_looked_for_is_told(void **unused)
{
    (void)unused;
    q3_library library = {
        .title = "cuNothing", .names = nowhere, .folder = "nothing/lib", .symbols = cosine_only
    };
    assert_false(q3_library_open(&library));
    assert_string_equal(
        library.why,
        "cuNothing was not found: no libq3nowhere.so.2, libq3nowhere.so.1 in Q3_LIBRARY_PATH, the "
        "system's folders, CUDA toolkits or Python environments; install it, or name its folder in "
        "Q3_LIBRARY_PATH");
    assert_false(q3_library_open(&library)); // the sentence stays
}

static void a_missing_function_is_named(void **unused)
{
    (void)unused;
    q3_library library = { .title = "mathematics", .names = mathematics, .symbols = two };
    assert_false(q3_library_open(&library));
    assert_non_null(strstr(library.why, "has no q3_no_such_function"));
    assert_null(library.handle);
}

/* Makes the folders of a path and a copy of `from` at its end. */
static void place(const char *path, const char *from)
{
    char command[1024];
    snprintf(command, sizeof command, "mkdir -p \"$(dirname %s)\" && cp %s %s", path, from, path);
    assert_int_equal(system(command), 0);
}

static void folders_are_searched_in_order(void **unused)
{
    (void)unused;
    static const char *const odd[] = { "libq3odd.so.2", "libq3odd.so.1", NULL };
    char root[400], path[512], real[512] = "";
    snprintf(root, sizeof root, "%s/library", getenv("Q3_TEST_DIR") ? getenv("Q3_TEST_DIR") : "/tmp");
    q3_library system_library = { .title = "m", .names = mathematics, .symbols = cosine_only };
    assert_true(q3_library_open(&system_library));
    assert_non_null(realpath(system_library.path, real));

    snprintf(path, sizeof path, "%s/env/lib/python3.11/site-packages/nvidia/odd/lib/libq3odd.so.1", root);
    place(path, real);
    snprintf(path, sizeof path, "%s/env", root);
    setenv("VIRTUAL_ENV", path, 1);
    q3_library in_python = { .title = "odd", .names = odd, .folder = "odd/lib", .symbols = cosine_only };
    assert_true(q3_library_open(&in_python));
    assert_non_null(strstr(in_python.path, "nvidia/odd/lib/libq3odd.so.1"));
    q3_library elsewhere = { .title = "odd", .names = odd, .symbols = cosine_only };
    assert_false(q3_library_open(&elsewhere)); // no folder: Python is not asked

    snprintf(path, sizeof path, "%s/second/libq3odd.so.2", root);
    place(path, real);
    snprintf(path, sizeof path, "%s/first:%s/second", root, root);
    setenv("Q3_LIBRARY_PATH", path, 1);
    q3_library named = { .title = "odd", .names = odd, .folder = "odd/lib", .symbols = cosine_only };
    assert_true(q3_library_open(&named));
    assert_non_null(strstr(named.path, "second/libq3odd.so.2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_library_of_the_system_is_bound),
        cmocka_unit_test(what_was_looked_for_is_told),
        cmocka_unit_test(a_missing_function_is_named),
        cmocka_unit_test(folders_are_searched_in_order),
    };
    return cmocka_run_group_tests_name("library", tests, NULL, NULL);
}
