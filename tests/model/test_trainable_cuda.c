/* The bf16 shadow of trained values; needs a device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "model/trainable.h"

enum { TENSORS = 3, LONGEST = 24 };
static const int64_t lengths[TENSORS] = { 24, 5, 8 }; // the third begins off 16 bytes in the shadow

static q3_cuda *device;
static q3_arena run, values;
static q3_tensor *tensors[TENSORS];
static q3_trainable trainable;

static void fill(float start)
{
    float x[LONGEST];
    for (int i = 0; i < TENSORS; i++) {
        for (int64_t k = 0; k < lengths[i]; k++)
            x[k] = start + (float)(100 * i + k) / 3;
        assert_int_equal(q3_trainable_set(&trainable, i, x, Q3_F32), Q3_OK);
    }
}

static int open_all(void **unused)
{
    static const char *const names[TENSORS] = { "a", "b", "c" };
    (void)unused;
    if (q3_device_open(&device, "cuda") != Q3_OK)
        print_message("no device: %s\n", q3_error());
    if (!device)
        return 0;
    if (q3_arena_create(&run, "run", (size_t)1 << 24) ||
        q3_device_arena_create(&values, device, "values", (size_t)1 << 24))
        return -1;
    for (int i = 0; i < TENSORS; i++)
        tensors[i] = q3_tensor_wrap(&run, NULL, Q3_F32, 1, &lengths[i]);
    return q3_trainable_create(&trainable, &run, &values, tensors, names, TENSORS);
}

static int close_all(void **unused)
{
    (void)unused;
    if (device) {
        q3_arena_destroy(&values);
        q3_arena_destroy(&run);
    }
    q3_device_close(device);
    return 0;
}

static void expect(float start)
{
    uint16_t half[LONGEST];
    for (int i = 0; i < 2; i++) {
        q3_device_read(device, half, tensors[i]->half, (size_t)lengths[i] * sizeof *half);
        for (int64_t k = 0; k < lengths[i]; k++)
            assert_int_equal(half[k], q3_f32_to_bf16(start + (float)(100 * i + k) / 3));
    }
}

static void the_shadow_follows_the_values(void **unused)
{
    (void)unused;
    if (!device)
        skip();
    fill(1);
    assert_int_equal(q3_trainable_shadow(&trainable, &values, Q3_F32), Q3_OK);
    assert_null(tensors[0]->half); // nobody would read it
    assert_int_equal(q3_trainable_shadow(&trainable, &values, Q3_BF16), Q3_OK);
    expect(1);
    fill(2);
    q3_trainable_refresh(&trainable);
    expect(2);
    assert_int_equal(q3_device_status(device), Q3_OK);
}

static void a_tensor_off_16_bytes_goes_without(void **unused)
{
    (void)unused;
    if (!device)
        skip();
    assert_non_null(tensors[1]->half);
    assert_null(tensors[2]->half);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_shadow_follows_the_values),
        cmocka_unit_test(a_tensor_off_16_bytes_goes_without),
    };
    return cmocka_run_group_tests_name("trainable on cuda", tests, open_all, close_all);
}
