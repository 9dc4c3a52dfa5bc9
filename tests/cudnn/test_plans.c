/* Asks cuDNN itself, on a machine without a GPU, whether it has an engine for every attention graph that the program
 * builds: cuDNN 9.8 and later judge for a device described in JSON (tests/cudnn/devices, written by hand after the
 * data sheets), all the way to the compiled kernel. Needs libcudnn and the toolkit's stub driver, else it skips.
 *
 *   test_cudnn_plans        some buckets of rows with the most sequences, four compiled plans
 *   test_cudnn_plans full   every bucket of rows and of sequences, more head sizes, all plans (many minutes)
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <glob.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cudnn_graph.h"

/* Read by the address sanitizer: cuDNN and its compiler keep memory until the process ends. That the program gives every
 * descriptor back is for tests/kernels/test_cudnn.c. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

typedef struct model {
    const char *name;
    int heads, kv_heads, head_size;
    bool causal;
} model;

/* Qwen3-VL: docs/model.md. The other head sizes are those of no released tower, and only part of the full run. */
static const model models[] = {
    { "text 2B", 16, 8, 128, true },         { "text 4B, 8B", 32, 8, 128, true },
    { "text 32B", 64, 8, 128, true },        { "vision 2B, 4B", 16, 16, 64, false },
    { "vision 8B, 32B", 16, 16, 72, false }, { "vision of 80", 16, 16, 80, false },
    { "vision of 96", 16, 16, 96, false },   { "vision of 128", 16, 16, 128, false },
};

typedef struct form {
    const char *name;
    bool backward, stats, deterministic;
} form;

static const form forms[] = {
    { "forward", .backward = false },
    { "forward, stats", .stats = true },
    { "backward", .backward = true },
    { "backward, deterministic", .backward = true, .deterministic = true },
};

enum {
    N_MODELS = sizeof models / sizeof *models,
    RELEASED = 5,
    N_FORMS = sizeof forms / sizeof *forms,
    LONGEST = 8192
};

static const q3_cudnn_api *api;
static char why_not[Q3_CUDNN_SENTENCE] = "no cuDNN";
static bool full;

/* What cuDNN 9.19 is known to refuse; the program falls back to its own kernels there. */
static bool expected(int sm, const form *f)
{
    bool old_style = sm / 10 == 8 || sm / 10 == 12;
    if (f->backward && old_style && api->version() < Q3_CUDNN_OLDEST_PACKED)
        return false;
    return !f->deterministic || sm == 90;
}

static void read_device(int sm, char *to, size_t bytes)
{
    char path[64];
    snprintf(path, sizeof path, "tests/cudnn/devices/sm_%d.json", sm);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(to, 1, bytes - 1, f);
    fclose(f);
    to[n] = 0;
    to[strcspn(to, "\n")] = 0;
}

typedef struct tally {
    int asked, found;
    size_t most_bytes; // workspace and scratch of one launch
    int64_t engine;
    char why[Q3_CUDNN_SENTENCE];
} tally;

static void ask(tally *t, const q3_cudnn_shape *shape, const char *device)
{
    q3_cudnn_graph *g = q3_cudnn_graph_create(api, shape, NULL, device, t->why);
    t->asked++;
    if (!g)
        return;
    q3_cudnn_config c = q3_cudnn_graph_config(g, 0);
    size_t bytes = c.workspace_bytes;
    for (int i = 0; i < Q3_CUDNN_TENSORS; i++)
        bytes += q3_cudnn_scratch_bytes(shape, i);
    t->found++;
    t->engine = c.engine;
    t->most_bytes = bytes > t->most_bytes ? bytes : t->most_bytes;
    q3_cudnn_graph_destroy(g);
}

static q3_cudnn_shape shape_of(const model *m, const form *f, int64_t S)
{
    return (q3_cudnn_shape){ .S = S,
                             .B = 1,
                             .heads = m->heads,
                             .kv_heads = m->kv_heads,
                             .head_size = m->head_size,
                             .causal = m->causal,
                             .backward = f->backward,
                             .stats = f->stats,
                             .deterministic = f->deterministic };
}

static tally ask_all(const model *m, const form *f, const char *device)
{
    static const bool by_default[] = { [0] = true, [4] = true, [9] = true }; // 256 1536 8192
    tally t = { 0 };
    int bucket = 0;
    for (int64_t S = 256; S <= LONGEST; S = q3_cudnn_rows_bucket(S + 1)) {
        if (!full && !by_default[bucket++])
            continue;
        q3_cudnn_shape shape = shape_of(m, f, S);
        int64_t most = q3_cudnn_most_sequences(&shape);
        for (int64_t B = full ? 1 : most; B <= most; B *= 2) {
            shape.B = B;
            ask(&t, &shape, device);
        }
    }
    return t;
}

static void check_device(int sm)
{
    char device[2048];
    read_device(sm, device, sizeof device);
    for (int i = 0; i < (full ? N_MODELS : RELEASED); i++)
        for (int j = 0; j < N_FORMS; j++) {
            const model *m = &models[i];
            const tally t = ask_all(m, &forms[j], device);
            printf("sm_%-3d  %-14s %2d/%-2d x %-3d  %-23s  %2d of %d", sm, m->name, m->heads, m->kv_heads,
                   m->head_size, forms[j].name, t.found, t.asked);
            if (t.found)
                printf("  engine %lld, up to %5.0f MiB", (long long)t.engine, (double)t.most_bytes / 1048576);
            printf("\n");
            if (expected(sm, &forms[j]) && t.found < t.asked)
                fail_msg("sm_%d, %s, %s: %s", sm, m->name, forms[j].name, t.why);
        }
}

/* Loading the compiled kernel is the first thing the stub driver refuses (CUDA_ERROR_STUB_LIBRARY, 34). */
static void check_plan(int sm, const form *f)
{
    char device[2048], why[Q3_CUDNN_SENTENCE] = "";
    read_device(sm, device, sizeof device);
    q3_cudnn_shape shape = shape_of(&models[1], f, 2048);
    shape.B = q3_cudnn_most_sequences(&shape);
    q3_cudnn_graph *g = q3_cudnn_graph_create(api, &shape, NULL, device, why);
    if (!g)
        fail_msg("sm_%d, %s: %s", sm, f->name, why);
    bool compiled = q3_cudnn_graph_plan(g, why) || (strstr(why, "cuLibraryLoadData") && strstr(why, "(34)"));
    q3_cudnn_graph_destroy(g);
    printf("sm_%-3d  plan: %-23s  %s\n", sm, f->name, compiled ? "compiled" : why);
    assert_true(compiled);
}

static void run(int sm)
{
    if (!api) {
        printf("skipped: %s\n", why_not);
        skip();
    }
    check_device(sm);
    bool some = sm == 80 || sm == 90; // a second or two each
    for (int j = 0; j < N_FORMS; j++)
        if (expected(sm, &forms[j]) && (full || (some && (j == 1 || j == 3))))
            check_plan(sm, &forms[j]);
}

static void every_graph_has_an_engine_on_sm_80(void **state)
{
    (void)state;
    run(80);
}
static void every_graph_has_an_engine_on_sm_86(void **state)
{
    (void)state;
    run(86);
}
static void every_graph_has_an_engine_on_sm_89(void **state)
{
    (void)state;
    run(89);
}
static void every_graph_has_an_engine_on_sm_90(void **state)
{
    (void)state;
    run(90);
}
static void every_graph_has_an_engine_on_sm_100(void **state)
{
    (void)state;
    run(100);
}
static void every_graph_has_an_engine_on_sm_120(void **state)
{
    (void)state;
    run(120);
}

static void buckets_hold_what_they_are_for(void **state)
{
    (void)state;
    const int64_t rows[][2] = {
        { 1, 256 },     { 256, 256 },   { 257, 512 },   { 513, 768 },   { 769, 1024 },
        { 1025, 1536 }, { 1537, 2048 }, { 2049, 3072 }, { 3073, 4096 }, { 8192, 8192 }
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(q3_cudnn_rows_bucket(rows[i][0]), rows[i][1]);
    assert_int_equal(q3_cudnn_sequences_bucket(1), 1);
    assert_int_equal(q3_cudnn_sequences_bucket(5), 8);
    q3_cudnn_shape shape = { .S = 768, .heads = 32, .kv_heads = 8, .head_size = 128 };
    assert_int_equal(q3_cudnn_most_sequences(&shape), 16);
    shape.S = 32768;
    assert_int_equal(q3_cudnn_most_sequences(&shape), 1);
}

/* cuDNN asks for libcuda.so.1, which is the name inside the toolkit's stub: opened first, it is the one found. */
static bool open_stub_driver(void)
{
    glob_t found;
    void *stub = NULL;
    if (glob("/usr/local/cuda*/lib64/stubs/libcuda.so", 0, NULL, &found) == 0)
        stub = dlopen(found.gl_pathv[0], RTLD_NOW | RTLD_GLOBAL);
    globfree(&found);
    return stub;
}

int main(int argc, char **argv)
{
    full = argc > 1 && !strcmp(argv[1], "full");
    if (open_stub_driver())
        api = q3_cudnn_open(why_not);
    else
        snprintf(why_not, sizeof why_not, "no stub driver (lib64/stubs/libcuda.so of a CUDA toolkit)");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_hold_what_they_are_for),
        cmocka_unit_test(every_graph_has_an_engine_on_sm_80),
        cmocka_unit_test(every_graph_has_an_engine_on_sm_86),
        cmocka_unit_test(every_graph_has_an_engine_on_sm_89),
        cmocka_unit_test(every_graph_has_an_engine_on_sm_90),
        cmocka_unit_test(every_graph_has_an_engine_on_sm_100),
        cmocka_unit_test(every_graph_has_an_engine_on_sm_120),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
