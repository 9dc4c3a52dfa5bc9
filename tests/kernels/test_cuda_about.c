#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/cuda.h"
#include "kernels/cuda_about.h"
#include "kernels/library.h"

static void machine_code_serves_later_minor_versions(void **unused)
{
    (void)unused;
    assert_true(q3_cuda_architectures_serve("80-real", 80));
    assert_true(q3_cuda_architectures_serve("80-real", 86));
    assert_false(q3_cuda_architectures_serve("80-real", 90));
    assert_false(q3_cuda_architectures_serve("86-real", 80));
    assert_true(q3_cuda_architectures_serve("80-real 100-real", 103));
}

static void ptx_serves_all_later_versions(void **unused)
{
    (void)unused;
    assert_true(q3_cuda_architectures_serve("80-real 90", 120));
    assert_true(q3_cuda_architectures_serve("120-virtual", 121));
    assert_false(q3_cuda_architectures_serve("90", 89));
}

static void special_architectures_serve_their_own(void **unused)
{
    (void)unused;
    assert_true(q3_cuda_architectures_serve("90a-real", 90));
    assert_false(q3_cuda_architectures_serve("90a", 100));
    assert_true(q3_cuda_architectures_serve("100f", 103));
    assert_false(q3_cuda_architectures_serve("100f", 120));
    assert_true(q3_cuda_architectures_serve("native", 90));
}

static void a_card_of_the_driver_is_described(void **unused)
{
    (void)unused;
    char why[Q3_CUDA_SENTENCE];
    q3_cuda_card card;
    int n = q3_cuda_count(why);
    if (!n)
        skip();
    assert_true(q3_cuda_card_at(&card, 0));
    assert_true(card.name[0] && card.sm >= 10 && card.bytes > 0);
    assert_false(q3_cuda_card_at(&card, n));
    q3_cuda *cuda = q3_cuda_open(0, why); // the question left no failure behind
    if (!cuda)
        fail_msg("%s", why);
    assert_false(q3_cuda_take_failure(cuda, why));
    q3_cuda_close(cuda);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(machine_code_serves_later_minor_versions),
        cmocka_unit_test(ptx_serves_all_later_versions),
        cmocka_unit_test(special_architectures_serve_their_own),
        cmocka_unit_test(a_card_of_the_driver_is_described),
    };
    return cmocka_run_group_tests_name("cuda_about", tests, NULL, NULL);
}
