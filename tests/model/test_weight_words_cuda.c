#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/device.h"
#include "kernels/nf4.h"
#include "model/weights.h"
#include "tests/support/device.h"

#define A "tests/golden/model-a/model"

static q3_arena mem;

static void must(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static void same_bytes(q3_cuda *cuda, const void *there, const void *here, size_t bytes, const char *what)
{
    void *copy = malloc(bytes);
    q3_device_read(cuda, copy, there, bytes);
    if (memcmp(copy, here, bytes) != 0)
        fail_msg("%s is not that of the host", what);
    free(copy);
}

/* The scales that double quantization leaves on the device, decoded there by hand. */
static void same_nested(q3_cuda *cuda, const q3_tensor *there, const q3_tensor *here)
{
    const int64_t blocks = (q3_numel(here) + here->block - 1) / here->block;
    float *absmax = malloc((size_t)blocks * sizeof *absmax);
    uint8_t *codes = malloc((size_t)blocks);
    float *scale = malloc((size_t)(blocks / Q3_NF4_GROUP + 1) * sizeof *scale);
    q3_device_read(cuda, codes, there->nested.codes, (size_t)blocks);
    q3_device_read(cuda, scale, there->nested.scale,
                   (size_t)((blocks + Q3_NF4_GROUP - 1) / Q3_NF4_GROUP) * sizeof *scale);
    q3_nf4_unnest_cpu(absmax, codes, scale, there->nested.offset, q3_nf4_nested_map(), blocks);
    assert_memory_equal(absmax, here->absmax, (size_t)blocks * sizeof *absmax);
    free(absmax);
    free(codes);
    free(scale);
}

static void compare(q3_cuda *cuda, const char *word)
{
    q3_load_options o = { 0 };
    q3_model host, device;
    q3_arena values;
    must(q3_load_options_word(&o, word));
    must(q3_model_load(&host, &mem, A, &o));
    must(q3_device_arena_create(&values, cuda, "parameters", (size_t)1 << 28));
    o.values = &values;
    must(q3_model_load(&device, &mem, A, &o));
    assert_string_equal(q3_model_weights_word(&device), q3_model_weights_word(&host));
    for (int i = 0; i < host.n_params; i++) {
        const q3_tensor *h = host.params[i].tensor, *d = device.params[i].tensor;
        assert_true(h->dtype == d->dtype && h->block == d->block);
        same_bytes(cuda, d->data, h->data, q3_nbytes(h), h->name);
        if (d->nested.codes)
            same_nested(cuda, d, h);
        else if (h->absmax)
            same_bytes(cuda, d->absmax, h->absmax,
                       (size_t)((q3_numel(h) + h->block - 1) / h->block) * sizeof(float), h->name);
    }
    q3_model_close(&host);
    q3_model_close(&device);
    q3_arena_destroy(&values);
    q3_arena_reset(&mem);
}

static void weights_on_a_device_are_those_of_the_host(void **state)
{
    (void)state;
    static const char *const words[] = { "f32", "bf16", "nf4", "fp4", "int8", "int4", "int4-g32" };
    q3_cuda *cuda = t_device();
    must(q3_arena_create(&mem, "test arena", (size_t)1 << 28));
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        compare(cuda, words[i]);
    q3_arena_destroy(&mem);
    q3_cuda_close(cuda);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(weights_on_a_device_are_those_of_the_host) };
    return cmocka_run_group_tests_name("weight words on a device", tests, NULL, NULL);
}
