#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/file.h"
#include "model/checkpoint_4bit.h"

static q3_arena mem;
static char dir[512];

static int prepare(void **state)
{
    (void)state;
    const char *base = getenv("Q3_TEST_DIR");
    snprintf(dir, sizeof dir, "%s/model", base ? base : "/tmp/q3-test");
    return q3_dir_create(dir) != Q3_OK || q3_arena_create(&mem, "test arena", 64 << 20) != Q3_OK;
}

static int release(void **state)
{
    (void)state;
    q3_arena_destroy(&mem);
    return 0;
}

static q3_weights *open_dir(const char *path)
{
    q3_weights *w;
    if (q3_weights_open(&w, path) != Q3_OK)
        fail_msg("%s", q3_error());
    return w;
}

static void golden_matrices_dequantize_to_the_same_bits(void **state)
{
    (void)state;
    static const char *const models[] = { "tests/golden/model-a", "tests/golden/model-b" };
    for (int m = 0; m < 2; m++) {
        char path[256], name[256];
        snprintf(path, sizeof path, "%s/model-nf4", models[m]);
        q3_weights *w = open_dir(path);
        q3_safetensors *plain;
        snprintf(path, sizeof path, "%s/model-nf4-dequantized.safetensors", models[m]);
        assert_int_equal(q3_safetensors_open(&plain, path), Q3_OK);
        for (int64_t i = 0; i < q3_safetensors_count(plain); i++) {
            const q3_st_tensor *want = q3_safetensors_at(plain, i);
            snprintf(name, sizeof name, "%s.weight", want->name);
            q3_quantized q;
            int64_t shape[2];
            assert_true(q3_weights_is_quantized(w, name));
            assert_int_equal(q3_weights_quantized(&q, shape, &mem, w, name), Q3_OK);
            assert_memory_equal(shape, want->shape, sizeof shape);
            assert_true(q.code == Q3_NF4 && q.source == Q3_F32 && q.block == 64 &&
                        q.n == q3_st_elements(want));
            float *got = malloc(want->bytes);
            q3_dequantize(got, Q3_F32, &q);
            assert_memory_equal(got, want->data, want->bytes);
            free(got);
        }
        q3_safetensors_close(plain);
        q3_weights_close(w);
    }
}

/* The 4-bit checkpoint of the model in `from`, written to our directory: every matrix that `like` has in 4
 * bits. */
static void write_quantized(const char *from, const char *like)
{
    q3_weights *a = open_dir(from), *b = open_dir(like);
    q3_st_tensor t[1024];
    int64_t n = 0;
    for (int64_t i = 0; i < q3_weights_count(a); i++) {
        const q3_st_tensor *x = q3_weights_at(a, i);
        if (!q3_weights_is_quantized(b, q3_weights_name(a, i))) {
            t[n++] = *x;
            continue;
        }
        q3_quantized q;
        int count;
        q3_quantize_args args = { x->name, x->data, x->dtype, q3_st_elements(x), Q3_NF4, 64, true };
        assert_int_equal(q3_quantize(&q, &mem, &args), Q3_OK);
        assert_int_equal(q3_quantized_tensors(t + n, &count, &mem, x->name, &q, x->shape), Q3_OK);
        n += count;
    }
    char path[600];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(q3_safetensors_write(path, t, n), Q3_OK);
    q3_weights_close(a);
    q3_weights_close(b);
}

static void golden_checkpoints_are_written_byte_for_byte(void **state)
{
    (void)state;
    static const char *const models[][2] = {
        { "tests/golden/model-a/model", "tests/golden/model-a/model-nf4" },
        { "tests/golden/model-b/model", "tests/golden/model-b/model-nf4" }
    };
    for (int m = 0; m < 2; m++) {
        write_quantized(models[m][0], models[m][1]);
        char ours[600], theirs[256];
        snprintf(ours, sizeof ours, "%s/model.safetensors", dir);
        snprintf(theirs, sizeof theirs, "%s/model.safetensors", models[m][1]);
        q3_map x, y;
        assert_int_equal(q3_map_open(&x, ours), Q3_OK);
        assert_int_equal(q3_map_open(&y, theirs), Q3_OK);
        assert_int_equal(x.size, y.size);
        assert_memory_equal(x.data, y.data, x.size);
        q3_map_close(&x);
        q3_map_close(&y);
    }
}

static void json_is_what_python_writes(void **state)
{
    (void)state;
    const uint8_t codes[1] = { 0 };
    q3_quantized q = {
        .code = Q3_NF4, .source = Q3_BF16, .block = 64, .n = 1 << 24, .nested = codes, .offset = 0.0425f
    };
    q3_text t = { 0 };
    q3_quant_state_json(&t, &q, (int64_t[]){ 4096, 4096 });
    assert_string_equal(t.data,
                        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", "
                        "\"shape\": [4096, 4096], \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", "
                        "\"nested_offset\": 0.042500000447034836}");
    q3_text_free(&t);
    q = (q3_quantized){ .code = Q3_FP4, .source = Q3_F16, .block = 128, .n = 6 };
    q3_quant_state_json(&t, &q, (int64_t[]){ 2, 3 });
    assert_string_equal(
        t.data, "{\"quant_type\": \"fp4\", \"blocksize\": 128, \"dtype\": \"float16\", \"shape\": [2, 3]}");
    q3_text_free(&t);
}

/* ---- one small matrix of our own, with parts to spoil ---- */

enum { ROWS = 6, COLS = 50, N = ROWS * COLS }; // 300 elements, 5 blocks, the last one short
static const char *const matrix = "model.language_model.layers.0.mlp.up_proj.weight";

typedef struct small {
    q3_st_tensor t[Q3_4BIT_TENSORS];
    int n;
    q3_quantized q;
} small;

static small make_small(q3_dtype code, bool nested)
{
    static float x[N];
    for (int i = 0; i < N; i++)
        x[i] = (float)((i * 37) % 101 - 50) * 0.01f;
    small s;
    q3_quantize_args a = { matrix, x, Q3_F32, N, code, 64, nested };
    assert_int_equal(q3_quantize(&s.q, &mem, &a), Q3_OK);
    assert_int_equal(q3_quantized_tensors(s.t, &s.n, &mem, matrix, &s.q, (int64_t[]){ ROWS, COLS }), Q3_OK);
    return s;
}

/* Writes the tensors and reads the matrix back. */
static q3_status read_small(const small *s, q3_quantized *q, float *w)
{
    char path[600];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(q3_safetensors_write(path, s->t, s->n), Q3_OK);
    q3_weights *files = open_dir(dir);
    int64_t shape[2];
    q3_status st = q3_weights_quantized(q, shape, &mem, files, matrix);
    if (st == Q3_OK) {
        assert_true(shape[0] == ROWS && shape[1] == COLS);
        assert_int_equal(q3_weights_all_used(files), Q3_OK);
        q3_dequantize(w, Q3_F32, q);
    }
    q3_weights_close(files);
    return st;
}

static void what_was_written_is_read(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) {
        small s = make_small(k & 1 ? Q3_FP4 : Q3_NF4, k & 2);
        assert_int_equal(s.n, k & 2 ? 6 : 4);
        float want[N], got[N];
        q3_quantized q;
        q3_dequantize(want, Q3_F32, &s.q);
        assert_int_equal(read_small(&s, &q, got), Q3_OK);
        assert_int_equal(q.code, s.q.code);
        assert_memory_equal(got, want, sizeof want);
    }
}

static void packed_bytes_may_have_another_type(void **state)
{
    (void)state;
    static const struct {
        q3_dtype dtype;
        int64_t size;
    } forms[] = { { Q3_BF16, 2 }, { Q3_F16, 2 } };
    for (int i = 0; i < 2; i++) {
        small s = make_small(Q3_NF4, true);
        s.t[0].dtype = forms[i].dtype;
        s.t[0].shape[0] /= forms[i].size; // 150 bytes
        float want[N], got[N];
        q3_quantized q;
        q3_dequantize(want, Q3_F32, &s.q);
        assert_int_equal(read_small(&s, &q, got), Q3_OK);
        assert_memory_equal(got, want, sizeof want);
    }
}

static void expect_refused(const small *s, const char *what)
{
    q3_quantized q;
    float w[N];
    assert_int_equal(read_small(s, &q, w), Q3_ERR_MODEL);
    if (!strstr(q3_error(), what))
        fail_msg("\"%s\" does not say \"%s\"", q3_error(), what);
}

static void spoiled_parts_are_refused(void **state)
{
    (void)state;
    static const float nan_scale[1] = { NAN };
    small s = make_small(Q3_NF4, true);
    s.t[0].shape[0]--;
    expect_refused(&s, "has 149 bytes; its quant_state needs 150");
    s = make_small(Q3_NF4, true);
    s.t[1].shape[0]--;
    expect_refused(&s, "weight.absmax is U8 [4]; expected U8 with 5 elements");
    s = make_small(Q3_NF4, true);
    s.t[2].data = q3_fp4_values;
    expect_refused(&s, "weight.quant_map is not the code book");
    s = make_small(Q3_NF4, true);
    s.t[3].data = nan_scale;
    expect_refused(&s, "holds NaN");
    for (int drop = 0; drop < 5; drop++) {
        s = make_small(Q3_NF4, true);
        s.t[drop] = s.t[--s.n]; // the quant_state moves into the gap
        expect_refused(&s, "there is no tensor model.language_model.layers.0.mlp.up_proj.weight");
    }
    s = make_small(Q3_NF4, true);
    s.n--;
    expect_refused(&s, "is not stored in 4 bits");
}

static void expect_state_refused(const char *json, const char *what)
{
    small s = make_small(Q3_NF4, true);
    s.t[s.n - 1].data = json;
    s.t[s.n - 1].shape[0] = (int64_t)strlen(json);
    expect_refused(&s, what);
}

#define STATE(type, block, dtype, shape, nested, offset)                                                     \
    "{\"quant_type\":\"" type "\",\"blocksize\":" block ",\"dtype\":\"" dtype "\",\"shape\":" shape          \
    ",\"nested_blocksize\":" nested ",\"nested_dtype\":\"float32\",\"nested_offset\":" offset "}"

static void spoiled_quant_states_are_refused(void **state)
{
    (void)state;
    const char *good = STATE("nf4", "64", "float32", "[6, 50]", "256", "0.1");
    small s = make_small(Q3_NF4, true);
    s.t[s.n - 1].data = good;
    s.t[s.n - 1].shape[0] = (int64_t)strlen(good);
    q3_quantized q;
    float w[N];
    assert_int_equal(read_small(&s, &q, w), Q3_OK);
    expect_state_refused(STATE("fp4", "64", "float32", "[6, 50]", "256", "0"),
                         "quant_type is fp4 in a tensor named for nf4");
    expect_state_refused(STATE("nf4", "63", "float32", "[6, 50]", "256", "0"), "blocksize is 63");
    expect_state_refused(STATE("nf4", "0", "float32", "[6, 50]", "256", "0"), "blocksize is 0");
    expect_state_refused(STATE("nf4", "64", "int8", "[6, 50]", "256", "0"), "dtype is \"int8\"");
    expect_state_refused(STATE("nf4", "64", "float32", "[300]", "256", "0"), "shape must be [rows, columns]");
    expect_state_refused(STATE("nf4", "64", "float32", "[6, -50]", "256", "0"), "sizes from 1 to 2^30");
    expect_state_refused(STATE("nf4", "64", "float32", "[6, 51]", "256", "0"),
                         "has 150 bytes; its quant_state needs 153");
    expect_state_refused(STATE("nf4", "64", "float32", "[1073741824, 1073741824]", "256", "0"),
                         "needs 576460752303423488");
    expect_state_refused(STATE("nf4", "64", "float32", "[6, 50]", "128", "0"), "nested_blocksize is 128");
    expect_state_refused(STATE("nf4", "64", "float32", "[6, 50]", "256", "\"x\""), "must be a number");
    expect_state_refused("[]", "");
    expect_state_refused("{\"a\"", "quant_state");
}

static void a_full_arena_is_a_status(void **state)
{
    (void)state;
    q3_weights *w = open_dir("tests/golden/model-a/model-nf4");
    q3_status st = Q3_ERR_MEMORY;
    for (int64_t i = 1; st != Q3_OK; i++) {
        q3_quantized q;
        int64_t shape[2];
        assert_in_range(i, 1, 200);
        q3_heap_fail_at(i);
        st = q3_weights_quantized(&q, shape, &mem, w, "model.language_model.layers.0.mlp.up_proj.weight");
        q3_heap_fail_at(0);
        // the JSON parser's failed allocations look like a broken text: any status, never a crash or leak
    }
    q3_weights_close(w);
    small s = make_small(Q3_NF4, true);
    st = Q3_ERR_MEMORY;
    for (int64_t i = 1; st != Q3_OK; i++) {
        assert_in_range(i, 1, 50);
        q3_heap_fail_at(i);
        st = q3_quantized_tensors(s.t, &s.n, &mem, matrix, &s.q, (int64_t[]){ ROWS, COLS });
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_matrices_dequantize_to_the_same_bits),
        cmocka_unit_test(golden_checkpoints_are_written_byte_for_byte),
        cmocka_unit_test(json_is_what_python_writes),
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(packed_bytes_may_have_another_type),
        cmocka_unit_test(spoiled_parts_are_refused),
        cmocka_unit_test(spoiled_quant_states_are_refused),
        cmocka_unit_test(a_full_arena_is_a_status),
    };
    return cmocka_run_group_tests(tests, prepare, release);
}
