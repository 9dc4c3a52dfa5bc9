#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/file.h"
#include "core/safetensors.h"

static const char *scratch(const char *name)
{
    static char path[1024];
    const char *dir = getenv("Q3_TEST_DIR");
    snprintf(path, sizeof path, "%s/%s", dir ? dir : "/tmp/q3-test", name);
    return path;
}

static int prepare_dir(void **state)
{
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s", scratch(""));
    return q3_dir_create(path) != Q3_OK;
}

/* Opens a file with this header, `data` bytes of counting values behind it, and expects a failure that says
 * `what`. */
static q3_status open_text(q3_safetensors **out, const char *header, size_t data)
{
    unsigned char bytes[4096] = { 0 };
    size_t n = strlen(header);
    assert_true(8 + n + data <= sizeof bytes);
    bytes[0] = (unsigned char)n;
    bytes[1] = (unsigned char)(n >> 8);
    memcpy(bytes + 8, header, n);
    for (size_t i = 0; i < data; i++)
        bytes[8 + n + i] = (unsigned char)i;
    assert_int_equal(q3_file_write(scratch("hand.safetensors"), bytes, 8 + n + data), Q3_OK);
    return q3_safetensors_open(out, scratch("hand.safetensors"));
}

static void expect_refused(const char *header, size_t data, q3_status code, const char *what)
{
    q3_safetensors *f;
    assert_int_equal(open_text(&f, header, data), code);
    assert_null(f);
    if (!strstr(q3_error(), what) || !strstr(q3_error(), "hand.safetensors"))
        fail_msg("\"%s\" does not say \"%s\"", q3_error(), what);
}

static void a_golden_model_is_read(void **state)
{
    (void)state;
    q3_safetensors *f;
    assert_int_equal(q3_safetensors_open(&f, "tests/golden/model-a/model/model.safetensors"), Q3_OK);
    const q3_st_tensor *t = q3_safetensors_find(f, "model.visual.patch_embed.proj.weight");
    assert_non_null(t);
    assert_int_equal(t->dtype, Q3_F32);
    assert_string_equal(t->dtype_name, "F32");
    assert_string_equal(q3_st_shape(t), "[48, 3, 2, 16, 16]");
    assert_int_equal(t->bytes, 4 * q3_st_elements(t));
    assert_int_equal((uintptr_t)t->data % 4, 0);
    assert_null(q3_safetensors_find(f, "model.visual.patch_embed.proj"));
    assert_string_equal(q3_safetensors_metadata(f, "format"), "pt");
    assert_null(q3_safetensors_metadata(f, "other"));
    for (int64_t i = 0; i < q3_safetensors_count(f); i++)
        assert_ptr_equal(q3_safetensors_find(f, q3_safetensors_at(f, i)->name), q3_safetensors_at(f, i));
    q3_safetensors_close(f);
}

static void wrong_expectations_are_named(void **state)
{
    (void)state;
    q3_safetensors *f;
    const q3_st_tensor *t;
    assert_int_equal(q3_safetensors_open(&f, "tests/golden/model-a/model/model.safetensors"), Q3_OK);
    const char *name = "model.visual.pos_embed.weight";
    assert_int_equal(q3_safetensors_get(&t, f, name, Q3_F32, 2, (int64_t[]){ -1, 48 }), Q3_OK);
    assert_int_equal(q3_safetensors_get(&t, f, name, Q3_F32, 2, (int64_t[]){ 64, 47 }), Q3_ERR_FORMAT);
    assert_non_null(strstr(q3_error(), "pos_embed.weight is [64, 48], expected [64, 47]"));
    assert_int_equal(q3_safetensors_get(&t, f, name, Q3_BF16, 2, (int64_t[]){ 64, 48 }), Q3_ERR_FORMAT);
    assert_non_null(strstr(q3_error(), "is F32, expected BF16"));
    assert_int_equal(q3_safetensors_get(&t, f, "nothing", Q3_F32, 0, NULL), Q3_ERR_FORMAT);
    q3_safetensors_close(f);
}

static void odd_but_legal_headers_are_read(void **state)
{
    (void)state;
    q3_safetensors *f;
    assert_int_equal(open_text(&f, "{}", 0), Q3_OK);
    assert_int_equal(q3_safetensors_count(f), 0);
    assert_null(q3_safetensors_find(f, "a"));
    q3_safetensors_close(f);
    // a scalar, an empty tensor, a type of which nothing is known, and a float at an odd byte
    const char *header = "{\"s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
                         "\"e\":{\"dtype\":\"F32\",\"shape\":[0,9007199254740992],\"data_offsets\":[1,1]},"
                         "\"f\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[1,9]},"
                         "\"x\":{\"dtype\":\"F2\",\"shape\":[5],\"data_offsets\":[9,12]}}  ";
    assert_int_equal(open_text(&f, header, 12), Q3_OK);
    assert_int_equal(q3_safetensors_find(f, "s")->ndim, 0);
    assert_int_equal(q3_st_elements(q3_safetensors_find(f, "s")), 1);
    assert_int_equal(q3_safetensors_find(f, "e")->bytes, 0);
    const q3_st_tensor *t = q3_safetensors_find(f, "f");
    assert_int_equal((uintptr_t)t->data % 4, 0);
    assert_memory_equal(t->data, ((unsigned char[]){ 1, 2, 3, 4, 5, 6, 7, 8 }), 8);
    t = q3_safetensors_find(f, "x");
    assert_int_equal(t->dtype, Q3_DTYPES);
    assert_string_equal(t->dtype_name, "F2");
    assert_int_equal(t->bytes, 3);
    q3_safetensors_close(f);
}

#define T(name, dtype, shape, begin, end)                                                                    \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static void damaged_headers_are_refused(void **state)
{
    (void)state;
    expect_refused("{" T("a", "F32", "[2]", 0, 8) "}", 7, Q3_ERR_FORMAT,
                   "a ends at byte 8 of 7; is the download complete?");
    expect_refused("{" T("a", "F32", "[3]", 0, 8) "}", 8, Q3_ERR_FORMAT,
                   "needs 12 bytes, the file gives it 8");
    expect_refused("{" T("a", "F32", "[2]", 0, 8) "}", 9, Q3_ERR_FORMAT, "the tensors end at byte 8 of 9");
    expect_refused("{" T("a", "U8", "[4]", 0, 4) "," T("b", "U8", "[4]", 3, 7) "}", 7, Q3_ERR_FORMAT,
                   "a and b overlap");
    expect_refused("{" T("a", "U8", "[4]", 0, 4) "," T("b", "U8", "[4]", 0, 4) "}", 4, Q3_ERR_FORMAT,
                   "overlap");
    expect_refused("{" T("a", "U8", "[4]", 0, 4) "," T("b", "U8", "[3]", 5, 8) "}", 8, Q3_ERR_FORMAT,
                   "1 bytes in front of tensor b");
    expect_refused("{" T("a", "U8", "[0]", 0, 0) "," T("a", "U8", "[4]", 0, 4) "}", 4, Q3_ERR_FORMAT,
                   "a occurs twice");
    expect_refused("{" T("a", "F32", "[4294967296,4294967296]", 0, 0) "}", 0, Q3_ERR_FORMAT, "impossible");
    expect_refused("{" T("a", "F9", "[4294967296,4294967296]", 0, 0) "}", 0, Q3_ERR_FORMAT, "impossible");
    expect_refused("{" T("a", "F32", "[-2]", 0, 8) "}", 8, Q3_ERR_FORMAT, "size 1 of tensor a");
    expect_refused("{" T("a", "F32", "[1.5]", 0, 8) "}", 8, Q3_ERR_FORMAT, "size 1 of tensor a");
    expect_refused("{" T("a", "F32", "[1e300]", 0, 8) "}", 8, Q3_ERR_FORMAT, "size 1 of tensor a");
    expect_refused("{" T("a", "F4", "[3]", 0, 2) "}", 2, Q3_ERR_FORMAT, "impossible");
    expect_refused("{" T("a", "F32", "[2]", 8, 0) "}", 8, Q3_ERR_FORMAT, "no valid data_offsets");
    expect_refused("{" T("a", "F32", "[2]", -8, 0) "}", 8, Q3_ERR_FORMAT, "no valid data_offsets");
    expect_refused("{" T("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1, Q3_ERR_LIMIT,
                   "more than 8 dimensions");
    expect_refused("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, Q3_ERR_FORMAT, "a has no shape");
    expect_refused("{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, Q3_ERR_FORMAT, "a has no dtype");
    expect_refused("{\"a\":3}", 8, Q3_ERR_FORMAT, "a has no dtype");
    expect_refused("{\"__metadata__\":{\"n\":1}}", 0, Q3_ERR_FORMAT, "__metadata__.n is not a string");
    expect_refused("{\"__metadata__\":[]}", 0, Q3_ERR_FORMAT, "__metadata__");
    expect_refused("{\"a\":", 0, Q3_ERR_FORMAT, "header");
    expect_refused("[]", 0, Q3_ERR_FORMAT, "not a JSON object");
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    (void)state;
    const char *header = "{" T("a", "F32", "[2]", 0, 8) "," T("b", "U8", "[3]", 8, 11) "}";
    q3_safetensors *f;
    assert_int_equal(open_text(&f, header, 11), Q3_OK);
    q3_safetensors_close(f);
    char *whole;
    size_t size;
    assert_int_equal(q3_file_read(&whole, &size, scratch("hand.safetensors"), 1 << 20), Q3_OK);
    for (size_t cut = 0; cut < size; cut++) {
        assert_int_equal(q3_file_write(scratch("cut.safetensors"), whole, cut), Q3_OK);
        assert_int_equal(q3_safetensors_open(&f, scratch("cut.safetensors")), Q3_ERR_FORMAT);
        assert_non_null(strstr(q3_error(), "cut.safetensors"));
    }
    q3_free(whole);
    const unsigned char huge[16] = { 0, 0, 0, 0, 0, 0, 0, 0x80, '{', '}' };
    assert_int_equal(q3_file_write(scratch("cut.safetensors"), huge, sizeof huge), Q3_OK);
    assert_int_equal(q3_safetensors_open(&f, scratch("cut.safetensors")), Q3_ERR_FORMAT);
    assert_int_equal(q3_safetensors_open(&f, scratch("absent.safetensors")), Q3_ERR_IO);
}

static void assert_same_files(const char *a, const char *b)
{
    q3_map x, y;
    assert_int_equal(q3_map_open(&x, a), Q3_OK);
    assert_int_equal(q3_map_open(&y, b), Q3_OK);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    q3_map_close(&x);
    q3_map_close(&y);
}

/* Writes the tensors of `path` in another order than the file's and compares all bytes. */
static void check_rewritten(const char *path)
{
    q3_safetensors *f;
    assert_int_equal(q3_safetensors_open(&f, path), Q3_OK);
    int64_t n = q3_safetensors_count(f);
    q3_st_tensor *tensors = calloc((size_t)n, sizeof *tensors);
    for (int64_t i = 0; i < n; i++)
        tensors[n - 1 - i] = *q3_safetensors_at(f, i);
    const q3_st_pair pt = { "format", "pt" };
    q3_st_write w = { .path = scratch("again.safetensors"), .tensors = tensors, .n = n, .metadata = &pt };
    w.n_metadata = q3_safetensors_metadata(f, "format") != NULL;
    assert_int_equal(q3_safetensors_stream(&w), Q3_OK);
    assert_same_files(path, w.path);
    free(tensors);
    q3_safetensors_close(f);
}

static void golden_files_are_written_byte_for_byte(void **state)
{
    (void)state;
    check_rewritten("tests/golden/model-a/model/model.safetensors");
    check_rewritten("tests/golden/model-a/model-nf4/model.safetensors");
    check_rewritten("tests/golden/model-b/model-nf4/model.safetensors");
    check_rewritten("tests/golden/model-a/lora-fp32-init/adapter_model.safetensors");
    check_rewritten("tests/golden/model-a/forward-row-1.safetensors"); // I64 in front of F32
    check_rewritten("tests/golden/formats/quantize-4bit.safetensors"); // F32, BF16, U8
}

static q3_status count_up(const void **data, const q3_st_tensor *t, void *arg)
{
    static const unsigned char bytes[4] = { 9, 8, 7, 6 };
    int *calls = arg;
    *data = bytes;
    return ++*calls < 3 ? Q3_OK : q3_fail(Q3_ERR_FAIL, "%s: enough", t->name);
}

static void data_may_be_made_while_writing(void **state)
{
    (void)state;
    int calls = 0;
    q3_st_tensor t[3] = { { .name = "a", .dtype = Q3_U8, .ndim = 1, .shape = { 4 } },
                          { .name = "b", .dtype = Q3_BF16, .ndim = 2, .shape = { 1, 2 } },
                          { .name = "c", .dtype = Q3_F32, .ndim = 1, .shape = { 0 } } };
    q3_st_write w = {
        .path = scratch("made.safetensors"), .tensors = t, .n = 3, .fill = count_up, .arg = &calls
    };
    assert_int_equal(q3_safetensors_stream(&w), Q3_OK);
    assert_int_equal(calls, 2); // nothing to make for c
    q3_safetensors *f;
    assert_int_equal(q3_safetensors_open(&f, w.path), Q3_OK);
    assert_string_equal(q3_safetensors_at(f, 1)->name, "b"); // behind the empty F32, before U8
    assert_memory_equal(q3_safetensors_find(f, "b")->data, ((unsigned char[]){ 9, 8, 7, 6 }), 4);
    q3_safetensors_close(f);
    // a failure on the way leaves the old file and no temporary one
    calls = 1;
    assert_int_equal(q3_safetensors_stream(&w), Q3_ERR_FAIL);
    assert_int_equal(q3_safetensors_open(&f, w.path), Q3_OK);
    q3_safetensors_close(f);
    assert_false(q3_file_exists(scratch("made.safetensors.tmp")));
}

static void impossible_writes_are_refused(void **state)
{
    (void)state;
    q3_st_tensor t[2] = { { .name = "a", .dtype = Q3_U8, .ndim = 1, .shape = { 1 }, .data = "x" },
                          { .name = "a", .dtype = Q3_F32, .ndim = 1, .shape = { 1 }, .data = "xxxx" } };
    assert_int_equal(q3_safetensors_write(scratch("no.safetensors"), t, 2), Q3_ERR_FORMAT);
    assert_non_null(strstr(q3_error(), "a would be written twice"));
    t[1] = (q3_st_tensor){ .name = "b", .dtype = Q3_NF4, .ndim = 1, .shape = { 1 }, .data = "x" };
    assert_int_equal(q3_safetensors_write(scratch("no.safetensors"), t, 2), Q3_ERR_FORMAT);
    t[1].dtype_name = "F33";
    assert_int_equal(q3_safetensors_write(scratch("no.safetensors"), t, 2), Q3_ERR_FORMAT);
    assert_non_null(strstr(q3_error(), "F33"));
    assert_false(q3_file_exists(scratch("no.safetensors")));
    assert_int_equal(q3_safetensors_write(scratch("absent/no.safetensors"), t, 1), Q3_ERR_IO);
    assert_int_equal(q3_safetensors_write(scratch("none.safetensors"), t, 0), Q3_OK);
    q3_safetensors *f;
    assert_int_equal(q3_safetensors_open(&f, scratch("none.safetensors")), Q3_OK);
    assert_string_equal(q3_safetensors_metadata(f, "format"), "pt");
    q3_safetensors_close(f);
}

static void every_failing_allocation_is_survived(void **state)
{
    (void)state;
    q3_safetensors *f;
    const char *header = "{" T("s", "U8", "[1]", 0, 1) "," T("f", "F32", "[2]", 1, 9) "}";
    assert_int_equal(open_text(&f, header, 9), Q3_OK);
    q3_st_tensor copy[2] = { *q3_safetensors_at(f, 0), *q3_safetensors_at(f, 1) };
    q3_status st = Q3_ERR_MEMORY;
    for (int64_t i = 1; st != Q3_OK; i++) {
        assert_in_range(i, 1, 100);
        q3_heap_fail_at(i);
        st = q3_safetensors_write(scratch("fault.safetensors"), copy, 2);
        q3_heap_fail_at(0);
    }
    q3_safetensors_close(f);
    st = Q3_ERR_MEMORY;
    for (int64_t i = 1; st != Q3_OK; i++) {
        assert_in_range(i, 1, 200);
        q3_heap_fail_at(i);
        st = q3_safetensors_open(&f, scratch("hand.safetensors"));
        q3_heap_fail_at(0);
    }
    q3_safetensors_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_golden_model_is_read),
        cmocka_unit_test(wrong_expectations_are_named),
        cmocka_unit_test(odd_but_legal_headers_are_read),
        cmocka_unit_test(damaged_headers_are_refused),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(golden_files_are_written_byte_for_byte),
        cmocka_unit_test(data_may_be_made_while_writing),
        cmocka_unit_test(impossible_writes_are_refused),
        cmocka_unit_test(every_failing_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, prepare_dir, NULL);
}
