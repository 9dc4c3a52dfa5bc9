#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/device.h"
#include "kernels/cpu.h"
#include "tests/support/ask.h"

static q3_process doctor(void)
{
    q3_process p = q3_ask(Q3_PROGRAM, "doctor", NULL, 0);
    if (p.code != 0)
        fail_msg("doctor: exit code %d: %s", p.code, p.err);
    assert_string_equal(p.err, "");
    return p;
}

static void assert_tells(const q3_process *p, const char *part)
{
    if (!strstr(p->out, part))
        fail_msg("no \"%s\" in\n%s", part, p->out);
}

static void the_processor_is_described(void **state)
{
    (void)state;
    char in_use[64];
    q3_process p = doctor();
    snprintf(in_use, sizeof in_use, "%s (in use)", q3_cpu_level_name(q3_cpu_level()));
    assert_tells(&p, in_use);
    assert_tells(&p, "\n  threads       ");
    assert_tells(&p, "\n  memory        ");
    q3_process_free(&p);
}

/* Tests have no device: the driver of the emulated one says so. */
static void it_does_without_a_card(void **state)
{
    (void)state;
    q3_process p = doctor();
    if (q3_device_built()) {
        assert_tells(&p, "\n  driver        ");
        assert_tells(&p, "\n  devices       none: ");
    } else {
        assert_tells(&p, "this build has no CUDA");
    }
    q3_process_free(&p);
}

#if defined(Q3_CUDA_EMULATED)

static void a_library_is_told_with_version_and_file(void **state)
{
    (void)state;
    const char *stand_ins = getenv("Q3_TEST_LIBRARIES");
    assert_non_null(stand_ins);
    setenv("Q3_LIBRARY_PATH", stand_ins, 1);
    q3_process p = doctor();
    assert_tells(&p, "\n  cuBLASLt      13.");
    assert_tells(&p, stand_ins);
    q3_process_free(&p);
    unsetenv("Q3_LIBRARY_PATH");
}

static void cards_are_listed(void **state)
{
    (void)state;
    const char *none = getenv("Q3_CUDA_EMU_DEVICES");
    char before[16];
    snprintf(before, sizeof before, "%s", none ? none : "1");
    setenv("Q3_CUDA_EMU_DEVICES", "2", 1);
    setenv("Q3_CUDA_EMU_SM", "75", 1);
    q3_process p = doctor();
    assert_tells(
        &p, "\n  cuda:0        emulated sm_75, compute capability 7.5, 16.0 GiB: too old, the kernels need "
            "8.0 or newer\n");
    q3_process_free(&p);
    setenv("Q3_CUDA_EMU_SM", "90", 1);
    p = doctor();
    assert_tells(&p, "\n  cuda:1        emulated sm_90, compute capability 9.0, 16.0 GiB: supported\n");
    q3_process_free(&p);
    unsetenv("Q3_CUDA_EMU_SM");
    setenv("Q3_CUDA_EMU_DEVICES", before, 1);
}

static void a_driver_too_old_is_told(void **state)
{
    (void)state;
    setenv("Q3_CUDA_EMU_DRIVER", "11040", 1);
    q3_process p = doctor();
    assert_tells(&p, "serves CUDA 11.4");
    assert_tells(&p, "install a newer driver");
    q3_process_free(&p);
    unsetenv("Q3_CUDA_EMU_DRIVER");
}

#endif

static void words_are_refused(void **state)
{
    (void)state;
    q3_ask_refused_about(Q3_PROGRAM, "doctor please", 2, "please");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_processor_is_described),
        cmocka_unit_test(it_does_without_a_card),
#if defined(Q3_CUDA_EMULATED)
        cmocka_unit_test(a_library_is_told_with_version_and_file),
        cmocka_unit_test(cards_are_listed),
        cmocka_unit_test(a_driver_too_old_is_told),
#endif
        cmocka_unit_test(words_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
