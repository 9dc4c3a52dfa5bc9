#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "eval/trace.h"
#include "kernels/cpu.h"
#include "kernels/pool.h"
#include "tests/support/golden.h"

/* The bounds of the golden files: norm of the difference over norm of the reference. */
#define FORWARD_BOUND 1e-5
#define GRADIENT_BOUND 1e-4
#define INT8_BOUND 0.03 /* of logits; measured 0.0202 and 0.0185, and 0.265 and 0.283 for NF4 */

static const char *const models[] = { "tests/golden/model-a", "tests/golden/model-b" };

static char dir[400], batch_path[512], out_path[512], other_path[512];
static q3_arena mem;

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s", base ? base : "/tmp/q3-test");
    snprintf(batch_path, sizeof batch_path, "%s/batch.safetensors", dir);
    snprintf(out_path, sizeof out_path, "%s/trace.safetensors", dir);
    snprintf(other_path, sizeof other_path, "%s/other.safetensors", dir);
    return q3_dir_create(dir) != Q3_OK || q3_arena_create(&mem, "test arena", (size_t)1 << 28) != Q3_OK;
}

static int release(void **state)
{
    (void)state;
    q3_arena_destroy(&mem);
    q3_pool_stop();
    return 0;
}

/* "<model>/<name>" in one of a few rotating buffers. */
static const char *in_model(int m, const char *name)
{
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", models[m], name);
    return path;
}

static q3_safetensors *golden(int m, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s.safetensors", models[m], name);
    return q3_golden_open(path);
}

/* The golden batch `name` (its tensors begin with `prefix`) becomes the file that is traced. */
static q3_padded use_batch(int m, const char *name, const char *prefix)
{
    q3_safetensors *file = golden(m, name);
    q3_padded p = q3_golden_batch(&mem, file, prefix);
    q3_safetensors_close(file);
    q3_golden_write(batch_path, &p);
    return p;
}

/* The device under test: the CPU, or what Q3_TEST_DEVICE names. */
static const char *device(void)
{
    return getenv("Q3_TEST_DEVICE");
}

static q3_safetensors *traced(q3_trace_options o)
{
    o.device = device();
    o.batch = batch_path;
    o.out = o.out ? o.out : out_path;
    if (q3_trace(&o) != Q3_OK)
        fail_msg("%s", q3_error());
    return q3_golden_open(o.out);
}

static void compare(const q3_st_tensor *got, const q3_st_tensor *want, const int64_t *mask, double bound,
                    const char *what)
{
    if (got->ndim != want->ndim || got->dtype != want->dtype ||
        memcmp(got->shape, want->shape, sizeof got->shape[0] * (size_t)want->ndim))
        fail_msg("%s: %s is %s %s, want %s %s", what, want->name, q3_st_shape(got), got->dtype_name,
                 q3_st_shape(want), want->dtype_name);
    if (want->dtype == Q3_I64) {
        assert_memory_equal(got->data, want->data, want->bytes);
        return;
    }
    int64_t width = want->ndim ? want->shape[want->ndim - 1] : 1,
            rows = width ? q3_st_elements(want) / width : 0;
    double d = q3_golden_row_distance(got->data, want->data, mask, rows, width);
    if (!(d <= bound))
        fail_msg("%s: %s differs by %.3g, more than %g", what, want->name, d, bound);
}

/* All out.* of the golden file; returns their number. Hidden states of padding are not compared: they are arbitrary. */
static int compare_outputs(const q3_safetensors *got, const q3_safetensors *want, const q3_padded *p,
                           const char *what)
{
    int n = 0;
    for (int64_t i = 0; i < q3_safetensors_count(want); i++) {
        const q3_st_tensor *t = q3_safetensors_at(want, i);
        if (strncmp(t->name, "out.", 4) != 0)
            continue;
        bool tokens = strncmp(t->name, "out.text.", 9) == 0 || strcmp(t->name, "out.logits") == 0;
        compare(q3_golden_find(got, t->name), t, tokens ? p->attention_mask : NULL, FORWARD_BOUND, what);
        n++;
    }
    return n;
}

static void forward_equals_golden(int m, const char *name, q3_trace_options o)
{
    q3_safetensors *want = golden(m, name);
    bool has_inputs = q3_safetensors_find(want, "in.input_ids") != NULL;
    q3_padded p = use_batch(m, has_inputs ? name : "forward-right-padded", "in.");
    q3_safetensors *got = traced(o);
    char what[300];
    snprintf(what, sizeof what, "%s %s", o.model, name);
    assert_true(compare_outputs(got, want, &p, what) >= 2);
    q3_safetensors_close(got);
    q3_safetensors_close(want);
}

static void every_forward_tensor_equals_the_reference(void **state)
{
    (void)state;
    static const char *const batches[] = { "forward-right-padded", "forward-left-padded", "forward-row-1",
                                           "forward-row-2", "forward-row-3" };
    for (int m = 0; m < 2; m++)
        for (int i = 0; i < 5; i++)
            forward_equals_golden(m, batches[i], (q3_trace_options){ .model = in_model(m, "model") });
}

static void four_bit_forward_equals_the_reference(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        forward_equals_golden(m, "forward-nf4-right-padded",
                              (q3_trace_options){ .model = in_model(m, "model"), .load_in_4bit = true });
        forward_equals_golden(m, "forward-nf4-right-padded",
                              (q3_trace_options){ .model = in_model(m, "model-nf4") });
    }
}

/* How far the logits are from those of float32. */
static double logits_apart(int m, q3_trace_options o)
{
    q3_safetensors *want = golden(m, "forward-right-padded");
    q3_padded p = use_batch(m, "forward-right-padded", "in.");
    q3_safetensors *got = traced(o);
    const q3_st_tensor *x = q3_golden_find(got, "out.logits"), *y = q3_golden_find(want, "out.logits");
    int64_t width = y->shape[y->ndim - 1], rows = q3_st_elements(y) / width;
    double d = q3_golden_row_distance(x->data, y->data, p.attention_mask, rows, width);
    q3_safetensors_close(got);
    q3_safetensors_close(want);
    return d;
}

static void int8_forward_is_near_that_of_float32(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        double d = logits_apart(m, (q3_trace_options){ .model = in_model(m, "model"), .load_in_8bit = true });
        double nf4 =
            logits_apart(m, (q3_trace_options){ .model = in_model(m, "model"), .load_in_4bit = true });
        if (!(d > 0 && d < INT8_BOUND && d < nf4 / 5))
            fail_msg("%s: int8 logits differ by %.3g, NF4 logits by %.3g", models[m], d, nf4);
    }
}

static void adapters_forward_equals_the_reference(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        forward_equals_golden(
            m, "lora-fp32-final-forward",
            (q3_trace_options){ .model = in_model(m, "model"), .adapter = in_model(m, "lora-fp32-final") });
        forward_equals_golden(m, "lora-nf4-final-forward",
                              (q3_trace_options){ .model = in_model(m, "model-nf4"),
                                                  .adapter = in_model(m, "lora-nf4-final") });
    }
}

static void hidden_states_of_padding_are_zero(void **state)
{
    (void)state;
    const q3_padded p = use_batch(0, "forward-left-padded", "in.");
    q3_safetensors *got = traced((q3_trace_options){ .model = in_model(0, "model") });
    const q3_st_tensor *logits = q3_golden_find(got, "out.logits");
    const float *at = logits->data;
    int64_t pads = 0;
    for (int64_t i = 0; i < p.rows * p.length; i++, at += logits->shape[2])
        if (!p.attention_mask[i]) {
            pads++;
            for (int64_t k = 0; k < logits->shape[2]; k++)
                assert_true(at[k] == 0);
        }
    assert_true(pads > 0);
    q3_safetensors_close(got);
}

static void same_files(const char *a, const char *b)
{
    q3_map x, y;
    assert_int_equal(q3_map_open(&x, a), Q3_OK);
    assert_int_equal(q3_map_open(&y, b), Q3_OK);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    q3_map_close(&x);
    q3_map_close(&y);
}

/* model-a with the config that transformers 4.57 writes. */
static void both_forms_of_config_give_the_same_bits(void **state)
{
    (void)state;
    char old[512], path[600];
    snprintf(old, sizeof old, "%s/model-4.57", dir);
    assert_int_equal(q3_dir_create(old), Q3_OK);
    snprintf(path, sizeof path, "%s/config.json", old);
    assert_int_equal(q3_file_copy(path, in_model(0, "config-transformers-4.57.json")), Q3_OK);
    snprintf(path, sizeof path, "%s/model.safetensors", old);
    assert_int_equal(q3_file_copy(path, in_model(0, "model/model.safetensors")), Q3_OK);
    use_batch(0, "forward-right-padded", "in.");
    q3_safetensors_close(
        traced((q3_trace_options){ .model = in_model(0, "model"), .backward = Q3_TRACE_FULL }));
    q3_safetensors_close(
        traced((q3_trace_options){ .model = old, .backward = Q3_TRACE_FULL, .out = other_path }));
    same_files(out_path, other_path);
}

/* The last deepstack features of model-b enter behind its last layer, at rows that have no target: no gradient at all. */
static bool without_effect(int m, const char *name)
{
    return m == 1 && strstr(name, "deepstack_merger_list.2.") != NULL;
}

static void compare_gradients(int m, const q3_safetensors *got, const q3_safetensors *want, const char *what)
{
    char name[300];
    for (int64_t i = 0; i < q3_safetensors_count(want); i++) {
        const q3_st_tensor *t = q3_safetensors_at(want, i);
        snprintf(name, sizeof name, "grad.%s", t->name);
        q3_st_tensor g = *q3_golden_find(got, name);
        if (strcmp(t->name, "model.visual.patch_embed.proj.weight") == 0 &&
            g.ndim == 2) { // the kernel as a matrix
            assert_int_equal(q3_st_elements(&g), q3_st_elements(t));
            g.ndim = t->ndim;
            memcpy(g.shape, t->shape, sizeof g.shape);
        }
        compare(&g, t, NULL, without_effect(m, t->name) ? 0 : GRADIENT_BOUND, what);
    }
}

static int count_gradients(const q3_safetensors *file)
{
    int n = 0;
    for (int64_t i = 0; i < q3_safetensors_count(file); i++)
        n += strncmp(q3_safetensors_at(file, i)->name, "grad.", 5) == 0;
    return n;
}

static void every_gradient_equals_the_reference_at_every_cpu_level(void **state)
{
    (void)state;
    q3_cpu_isa best = q3_cpu_level();
    for (int m = 0; m < 2; m++) {
        const q3_padded p = use_batch(m, "forward-right-padded", "in.");
        q3_safetensors *forward = golden(m, "forward-right-padded"), *gradients = golden(m, "full-gradients");
        for (int level = 0; level < Q3_CPU_LEVELS; level++) {
            if ((device() && level != (int)best) || !q3_cpu_set_level((q3_cpu_isa)level))
                continue;
            q3_safetensors *got =
                traced((q3_trace_options){ .model = in_model(m, "model"), .backward = Q3_TRACE_FULL });
            const char *what = q3_cpu_level_name((q3_cpu_isa)level);
            assert_true(compare_outputs(got, forward, &p, what) > 10);
            compare_gradients(m, got, gradients, what);
            assert_int_equal(count_gradients(got), q3_safetensors_count(gradients));
            q3_safetensors_close(got);
        }
        q3_cpu_set_level(best);
        q3_safetensors_close(forward);
        q3_safetensors_close(gradients);
    }
}

/* Roundings to 8 bits add up over the layers: each op is within 1e-2 (core_ops_ops_cuda), four layers of them are not. */
#define BF16_BOUND 3e-2

static void bfloat16_stays_near_the_reference(void **state)
{
    (void)state;
    if (!device())
        skip();
    for (int m = 0; m < 2; m++) {
        const q3_padded p = use_batch(m, "forward-right-padded", "in.");
        q3_safetensors *want = golden(m, "forward-right-padded");
        q3_safetensors *got = traced((q3_trace_options){ .model = in_model(m, "model"), .bf16 = true });
        for (int64_t i = 0; i < q3_safetensors_count(want); i++) {
            const q3_st_tensor *t = q3_safetensors_at(want, i);
            bool text = strncmp(t->name, "out.text.", 9) == 0 || strcmp(t->name, "out.logits") == 0;
            if (text || strncmp(t->name, "out.vision.", 11) == 0 || strcmp(t->name, "out.loss") == 0)
                compare(q3_golden_find(got, t->name), t, text ? p.attention_mask : NULL,
                        strcmp(t->name, "out.loss") == 0 ? 1e-2 : BF16_BOUND, "bfloat16");
        }
        q3_safetensors_close(got);
        q3_safetensors_close(want);
    }
}

static int64_t targets_of(const q3_padded *p)
{
    int64_t n = 0;
    for (int64_t i = 0; i < p->rows * p->length; i++)
        n += i % p->length && p->labels[i] != -100;
    return n;
}

/* Golden: of the sum over both micro-batches of step 1 over all their tokens. A trace has the mean of its batch. */
static void adapter_gradients_equal_the_reference(int m, const char *model, const char *tag)
{
    const char *paths[] = { out_path, other_path };
    q3_safetensors *got[2];
    double n[2];
    for (int i = 0; i < 2; i++) {
        char prefix[16];
        snprintf(prefix, sizeof prefix, "0-%d.", i);
        const q3_padded p = use_batch(m, "lora-batches", prefix);
        n[i] = (double)targets_of(&p);
        got[i] = traced((q3_trace_options){ // both runs began with the same adapter
                                            .model = model,
                                            .adapter = in_model(m, "lora-fp32-init"),
                                            .backward = Q3_TRACE_LORA,
                                            .out = paths[i] });
    }
    char name[300];
    snprintf(name, sizeof name, "lora-%s-gradients-0", tag);
    q3_safetensors *want = golden(m, name);
    assert_int_equal(count_gradients(got[0]), q3_safetensors_count(want));
    for (int64_t i = 0; i < q3_safetensors_count(want); i++) {
        q3_st_tensor t = *q3_safetensors_at(want, i);
        snprintf(name, sizeof name, "grad.%s", t.name);
        const float *x = q3_golden_find(got[0], name)->data, *y = q3_golden_find(got[1], name)->data;
        float *sum = Q3_NEW(&mem, float, q3_st_elements(&t));
        for (int64_t k = 0; k < q3_st_elements(&t); k++)
            sum[k] = (float)((n[0] * x[k] + n[1] * y[k]) / (n[0] + n[1]));
        q3_st_tensor g = t;
        g.data = sum;
        compare(&g, &t, NULL, GRADIENT_BOUND, tag);
    }
    for (int i = 0; i < 2; i++)
        q3_safetensors_close(got[i]);
    q3_safetensors_close(want);
}

static void adapter_gradients_equal_the_reference_in_both_precisions(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        adapter_gradients_equal_the_reference(m, in_model(m, "model"), "fp32");
        adapter_gradients_equal_the_reference(m, in_model(m, "model-nf4"), "nf4");
    }
}

/* Every tensor that both files have is the same bits; returns their number. */
static int same_tensors(const q3_safetensors *a, const q3_safetensors *b)
{
    int n = 0;
    for (int64_t i = 0; i < q3_safetensors_count(a); i++) {
        const q3_st_tensor *x = q3_safetensors_at(a, i), *y = q3_safetensors_find(b, x->name);
        if (!y)
            continue;
        assert_int_equal(x->bytes, y->bytes);
        if (memcmp(x->data, y->data, x->bytes) != 0)
            fail_msg("%s differs", x->name);
        n++;
    }
    return n;
}

static void checkpointing_changes_no_bit(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        use_batch(m, "forward-right-padded", "in.");
        for (int lora = 0; lora < 2; lora++) {
            q3_trace_options o = { .model = in_model(m, "model"),
                                   .backward = lora ? Q3_TRACE_LORA : Q3_TRACE_FULL };
            o.adapter = lora ? in_model(m, "lora-fp32-final") : NULL;
            q3_safetensors *plain = traced(o);
            for (int c = Q3_CHECKPOINT_HALF; c <= Q3_CHECKPOINT_FULL; c++) {
                o.checkpointing = (q3_checkpointing)c;
                o.out = other_path;
                q3_safetensors *again = traced(o);
                assert_int_equal(same_tensors(again, plain), q3_safetensors_count(again));
                assert_int_equal(count_gradients(again), count_gradients(plain));
                q3_safetensors_close(again);
            }
            q3_safetensors_close(plain);
        }
    }
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        use_batch(m, "forward-right-padded", "in.");
        for (int threads = 1; threads <= 3; threads++) {
            q3_pool_start(threads);
            q3_safetensors_close(traced((q3_trace_options){ .model = in_model(m, "model"),
                                                            .backward = Q3_TRACE_FULL,
                                                            .out = threads == 1 ? out_path : other_path }));
            if (threads > 1)
                same_files(out_path, other_path);
        }
        q3_pool_stop();
    }
}

static void refuses(q3_trace_options o, q3_status code, const char *words)
{
    o.batch = o.batch ? o.batch : batch_path;
    o.out = other_path;
    assert_int_equal(q3_trace(&o), code);
    if (!strstr(q3_error(), words))
        fail_msg("\"%s\" does not say \"%s\"", q3_error(), words);
}

static void bad_batches_are_refused_with_a_reason(void **state)
{
    (void)state;
    const q3_trace_options o = { .model = in_model(0, "model") };
    q3_padded p = use_batch(0, "forward-right-padded", "in."), bad = p;

    bad.input_ids[3] = 320; // the vocabulary is 0 .. 319
    q3_golden_write(batch_path, &bad);
    refuses(o, Q3_ERR_DATA, "320");
    bad.input_ids[3] = -1;
    q3_golden_write(batch_path, &bad);
    refuses(o, Q3_ERR_DATA, "-1");
    bad.input_ids[3] = 300; // one placeholder too many
    q3_golden_write(batch_path, &bad);
    refuses(o, Q3_ERR_DATA, "placeholders");
    bad.input_ids[3] = 7;
    int64_t label = bad.labels[3];
    bad.labels[3] = 1 << 20;
    q3_golden_write(batch_path, &bad);
    refuses(o, Q3_ERR_DATA, "1048576");
    bad.labels[3] = label;

    bad.n_patches--; // a patch is missing
    q3_golden_write(batch_path, &bad);
    refuses(o, Q3_ERR_DATA, "patches");
    bad = p;
    bad.patch_width = 768;
    bad.n_patches *= 2;
    q3_golden_write(batch_path, &bad);
    refuses(o, Q3_ERR_DATA, "1536 columns");
    bad = p;
    bad.image_grid_thw[1] = 3; // odd
    q3_golden_write(batch_path, &bad);
    refuses(o, Q3_ERR_DATA, "image_grid_thw");
    bad.image_grid_thw[1] = 4;
}

static void write_ids(const q3_st_tensor *tensors, int n)
{
    if (q3_safetensors_write(batch_path, tensors, n) != Q3_OK)
        fail_msg("%s", q3_error());
}

static void tensors_of_another_shape_are_refused(void **state)
{
    (void)state;
    const q3_trace_options o = { .model = in_model(0, "model") };
    static const int64_t ids[] = { 1, 2, 3, 4, 5, 6 };
    static const float floats[6] = { 1 };
    const q3_st_tensor good = {
        .name = "input_ids", .dtype = Q3_I64, .ndim = 2, .shape = { 2, 3 }, .data = ids
    };
    const q3_st_tensor flat = {
        .name = "input_ids", .dtype = Q3_I64, .ndim = 1, .shape = { 6 }, .data = ids
    };
    const q3_st_tensor real = {
        .name = "input_ids", .dtype = Q3_F32, .ndim = 2, .shape = { 2, 3 }, .data = floats
    };
    const q3_st_tensor mask = {
        .name = "attention_mask", .dtype = Q3_I64, .ndim = 2, .shape = { 3, 2 }, .data = ids
    };
    const q3_st_tensor other = {
        .name = "labels", .dtype = Q3_I64, .ndim = 2, .shape = { 1, 3 }, .data = ids
    };
    write_ids(&mask, 1);
    refuses(o, Q3_ERR_DATA, "no input_ids");
    write_ids(&flat, 1);
    refuses(o, Q3_ERR_DATA, "input_ids");
    write_ids(&real, 1);
    refuses(o, Q3_ERR_DATA, "F32");
    write_ids((q3_st_tensor[]){ good, mask }, 2);
    refuses(o, Q3_ERR_DATA, "attention_mask");
    write_ids((q3_st_tensor[]){ good, other }, 2);
    refuses(o, Q3_ERR_DATA, "labels");
    write_ids(&good, 1); // no mask, no labels, no pictures: fine, but nothing to differentiate
    q3_safetensors *got = traced(o);
    assert_null(q3_safetensors_find(got, "out.loss"));
    q3_safetensors_close(got);
    refuses((q3_trace_options){ .model = o.model, .backward = Q3_TRACE_FULL }, Q3_ERR_DATA,
            "no supervised token");
}

static void what_cannot_be_differentiated_is_refused(void **state)
{
    (void)state;
    use_batch(0, "forward-right-padded", "in.");
    refuses((q3_trace_options){ .model = in_model(0, "model"), .backward = Q3_TRACE_LORA }, Q3_ERR_USAGE,
            "--adapter");
    refuses((q3_trace_options){ .model = in_model(0, "model"),
                                .adapter = in_model(0, "lora-fp32-init"),
                                .backward = Q3_TRACE_FULL },
            Q3_ERR_USAGE, "--adapter");
    refuses((q3_trace_options){ .model = in_model(0, "model-nf4"), .backward = Q3_TRACE_FULL }, Q3_ERR_USAGE,
            "4 bits");
    refuses((q3_trace_options){ .model = in_model(0, "model"), .adapter = in_model(1, "lora-fp32-init") },
            Q3_ERR_MODEL, "lora_");
    refuses((q3_trace_options){ .model = in_model(0, "no-such") }, Q3_ERR_MODEL, "no-such");
    refuses((q3_trace_options){ .model = in_model(0, "model"), .batch = in_model(0, "golden.json") },
            Q3_ERR_DATA, "golden.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_forward_tensor_equals_the_reference),
        cmocka_unit_test(four_bit_forward_equals_the_reference),
        cmocka_unit_test(int8_forward_is_near_that_of_float32),
        cmocka_unit_test(adapters_forward_equals_the_reference),
        cmocka_unit_test(hidden_states_of_padding_are_zero),
        cmocka_unit_test(both_forms_of_config_give_the_same_bits),
        cmocka_unit_test(every_gradient_equals_the_reference_at_every_cpu_level),
        cmocka_unit_test(bfloat16_stays_near_the_reference),
        cmocka_unit_test(adapter_gradients_equal_the_reference_in_both_precisions),
        cmocka_unit_test(checkpointing_changes_no_bit),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(bad_batches_are_refused_with_a_reason),
        cmocka_unit_test(tensors_of_another_shape_are_refused),
        cmocka_unit_test(what_cannot_be_differentiated_is_refused),
    };
    return cmocka_run_group_tests(tests, prepare, release);
}
