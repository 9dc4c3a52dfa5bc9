/* The emulated device: right kernels come out right in every schedule, wrong ones are told. And kernels/cuda.c on it, with
 * the stand-in for cuBLASLt, which Q3_LIBRARY_PATH names. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include <cuda_runtime_api.h>

#include "kernels/dtype.h"
#include "tests/cuda_emu/probe.h"

#if defined(__SANITIZE_ADDRESS__)
#define ASAN true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ASAN true
#endif
#endif
#ifndef ASAN
#define ASAN false
#endif

enum { SCHEDULES = 6 };

static void schedule(int number)
{
    char text[16];
    snprintf(text, sizeof text, "%d", number);
    setenv("Q3_CUDA_EMU_SCHEDULE", text, 1);
}

static q3_cuda *open_device(int ordinal)
{
    char why[Q3_CUDA_SENTENCE];
    q3_cuda *cuda = q3_cuda_open(ordinal, why);
    if (!cuda)
        fail_msg("%s", why);
    return cuda;
}

static void assert_good(q3_cuda *cuda)
{
    char why[Q3_CUDA_SENTENCE];
    if (q3_cuda_take_failure(cuda, why))
        fail_msg("%s", why);
}

static void assert_failed(q3_cuda *cuda, const char *sentence)
{
    char why[Q3_CUDA_SENTENCE];
    assert_true(q3_cuda_take_failure(cuda, why));
    if (!strstr(why, sentence))
        fail_msg("\"%s\" has no \"%s\"", why, sentence);
    assert_false(q3_cuda_take_failure(cuda, why));
}

static void *device_copy(q3_cuda *cuda, const void *from, size_t bytes)
{
    void *p = q3_cuda_alloc(cuda, bytes);
    assert_non_null(p);
    q3_cuda_upload(cuda, p, from, bytes);
    return p;
}

static void *device_new(q3_cuda *cuda, size_t bytes)
{
    void *p = q3_cuda_alloc(cuda, bytes);
    assert_non_null(p);
    return p;
}

static uint32_t random_state = 1;
static float random_float(void) /* [-1, 1), multiples of 2^-7: products of bfloat16 are exact */
{
    random_state = random_state * 1664525 + 1013904223; // Numerical Recipes
    return (float)(random_state >> 24) / 128 - 1;
}

/* The kernels of probe.cu. */

static void elements_are_each_visited_once(void **state)
{
    q3_cuda *cuda = *state;
    enum { N = 4097 };
    float x[N], y[N], out[N];
    uint16_t x16[N], y16[N], out16[N];
    for (int i = 0; i < N; i++) {
        x[i] = random_float(), y[i] = random_float();
        x16[i] = q3_f32_to_bf16(x[i]), y16[i] = q3_f32_to_bf16(y[i]);
    }
    for (int s = 0; s < SCHEDULES; s++) {
        schedule(s);
        float *dx = device_copy(cuda, x, sizeof x), *dy = device_copy(cuda, y, sizeof y);
        uint16_t *dx16 = device_copy(cuda, x16, sizeof x16), *dy16 = device_copy(cuda, y16, sizeof y16);
        probe_axpy(cuda, dy, dx, 2, N, false);
        probe_axpy(cuda, dy16, dx16, 2, N, true);
        q3_cuda_download(cuda, out, dy, sizeof out);
        q3_cuda_download(cuda, out16, dy16, sizeof out16);
        assert_good(cuda);
        for (int i = 0; i < N; i++) {
            assert_true(out[i] == 2 * x[i] + y[i]);
            assert_int_equal(out16[i], q3_f32_to_bf16(2 * x[i] + y[i])); // the inputs are exact in 16 bits
        }
        q3_cuda_free(cuda, dx), q3_cuda_free(cuda, dy), q3_cuda_free(cuda, dx16), q3_cuda_free(cuda, dy16);
    }
}

static void rows_are_reduced(void **state)
{
    q3_cuda *cuda = *state;
    const int widths[] = { 1, 7, 33, 257, 4097 };
    enum { R = 5, MOST = 4097 };
    float *x = malloc(sizeof(float) * R * MOST), sum[R], max[R];
    for (int w = 0; w < 5; w++)
        for (int s = 0; s < SCHEDULES; s++) {
            int C = widths[w];
            for (int i = 0; i < R * C; i++)
                x[i] = random_float();
            schedule(s);
            float *dx = device_copy(cuda, x, sizeof(float) * (size_t)(R * C));
            float *dsum = device_new(cuda, sizeof sum), *dmax = device_new(cuda, sizeof max);
            probe_rows(cuda, dsum, dmax, dx, R, C);
            q3_cuda_download(cuda, sum, dsum, sizeof sum);
            q3_cuda_download(cuda, max, dmax, sizeof max);
            assert_good(cuda);
            for (int r = 0; r < R; r++) {
                float total = 0, most = -INFINITY; // exact: multiples of 2^-7 below 2^13
                for (int c = 0; c < C; c++)
                    total += x[r * C + c], most = fmaxf(most, x[r * C + c]);
                assert_true(sum[r] == total && max[r] == most);
            }
            q3_cuda_free(cuda, dx), q3_cuda_free(cuda, dsum), q3_cuda_free(cuda, dmax);
        }
    free(x);
}

static void matrices_multiply_on_tensor_cores(void **state)
{
    q3_cuda *cuda = *state;
    const int sizes[][3] = { { 64, 64, 32 }, { 72, 8, 8 }, { 136, 200, 104 } };
    for (int n = 0; n < 3; n++) {
        int M = sizes[n][0], N = sizes[n][1], K = sizes[n][2];
        uint16_t *a = malloc(sizeof *a * (size_t)(M * K)), *b = malloc(sizeof *b * (size_t)(K * N));
        float *c = malloc(sizeof *c * (size_t)(M * N));
        for (int i = 0; i < M * K; i++)
            a[i] = q3_f32_to_bf16(random_float());
        for (int i = 0; i < K * N; i++)
            b[i] = q3_f32_to_bf16(random_float());
        uint16_t *da = device_copy(cuda, a, sizeof *a * (size_t)(M * K));
        uint16_t *db = device_copy(cuda, b, sizeof *b * (size_t)(K * N));
        for (int s = 0; s < SCHEDULES; s++) {
            schedule(s);
            float *dc = device_new(cuda, sizeof *c * (size_t)(M * N));
            probe_matmul(cuda, dc, da, db, M, N, K);
            q3_cuda_download(cuda, c, dc, sizeof *c * (size_t)(M * N));
            assert_good(cuda);
            q3_cuda_free(cuda, dc);
            for (int i = 0; i < M; i++)
                for (int j = 0; j < N; j++) {
                    float sum = 0; // exact, as above
                    for (int k = 0; k < K; k++)
                        sum += q3_bf16_to_f32(a[i * K + k]) * q3_bf16_to_f32(b[k * N + j]);
                    if (c[i * N + j] != sum)
                        fail_msg("schedule %d: c[%d, %d] is %g, expected %g", s, i, j, (double)c[i * N + j],
                                 (double)sum);
                }
        }
        q3_cuda_free(cuda, da), q3_cuda_free(cuda, db);
        free(a), free(b), free(c);
    }
}

/* CUDA C++ Programming Guide, "Warp Shuffle Functions" and "Warp Vote Functions". */
static int expected_of_warp(int row, int lane)
{
    switch (row) {
    case 0:
        return 105;
    case 1:
        return 100 + (lane & 24) + (lane + 1) % 8;
    case 2:
        return 100 + (lane ^ 3);
    case 3:
        return 100 + (lane % 16 < 14 ? lane + 2 : lane);
    case 4:
        return 100 + (lane % 16 >= 2 ? lane - 2 : lane);
    case 5:
        return 0x49249249;
    case 6:
        return 1;
    case 7:
        return 0;
    case 8:
        return lane < 16 ? 100 + (lane ^ 3) : (int)0xaaaa0000;
    case 9:
        return 3 + 2 * (31 - lane);
    default:
        return 31;
    }
}

static void lanes_exchange(void **state)
{
    q3_cuda *cuda = *state;
    int32_t out[11 * 32];
    int32_t *d = device_new(cuda, sizeof out);
    for (int s = 0; s < SCHEDULES; s++) {
        schedule(s);
        probe_warp(cuda, d);
        q3_cuda_download(cuda, out, d, sizeof out);
        assert_good(cuda);
        for (int i = 0; i < 11 * 32; i++)
            if (out[i] != expected_of_warp(i / 32, i % 32))
                fail_msg("schedule %d, row %d, lane %d: %d", s, i / 32, i % 32, out[i]);
    }
    q3_cuda_free(cuda, d);
}

static void integers_count(void **state)
{
    q3_cuda *cuda = *state;
    unsigned counts[2];
    unsigned *d = device_new(cuda, sizeof counts);
    for (int s = 0; s < SCHEDULES; s++) {
        schedule(s);
        q3_cuda_fill(cuda, d, 0, sizeof counts);
        probe_atomics(cuda, d, 7);
        q3_cuda_download(cuda, counts, d, sizeof counts);
        assert_good(cuda);
        assert_int_equal(counts[0], 7 * 6 * 60);
        assert_int_equal(counts[1], 7 * 6 * 60 - 1);
    }
    q3_cuda_free(cuda, d);
}

/* f16 bits of x by the definition: the nearest of the neighbours, to even when between. */
static uint16_t nearest_half(float x)
{
    uint16_t best = 0;
    if (isnan(x))
        return 0x7fff;
    for (int step = 1 << 14; step; step >>= 1) // greatest half not above |x|
        if (best + step < 0x7c00 && q3_f16_to_f32((uint16_t)(best + step)) <= fabsf(x))
            best = (uint16_t)(best + step);
    double low = q3_f16_to_f32(best), high = best == 0x7bff ? 65536 : q3_f16_to_f32((uint16_t)(best + 1));
    double middle = (low + high) / 2, size = fabs((double)x);
    if (size > middle || (size == middle && best % 2))
        best++;
    return (uint16_t)(best | (signbit(x) ? 0x8000 : 0));
}

static void conversions_round_to_nearest_even(void **state)
{
    q3_cuda *cuda = *state;
    enum { N = 65536 };
    float *x = malloc(sizeof(float) * N), *back = malloc(sizeof(float) * N);
    uint16_t *half = malloc(2 * N), *brain = malloc(2 * N);
    for (int i = 0; i < N; i++) { // all exponents; fractions that sit between two halves are frequent
        random_state = random_state * 1664525 + 1013904223;
        uint32_t low = i % 3 == 0 ? 0 : i % 3 == 1 ? 0x1000u : random_state >> 16;
        uint32_t bits = (uint32_t)i << 16 | low;
        memcpy(&x[i], &bits, sizeof bits);
    }
    float *dx = device_copy(cuda, x, sizeof(float) * N), *dback = device_new(cuda, sizeof(float) * N);
    uint16_t *dhalf = device_new(cuda, 2 * N), *dbrain = device_new(cuda, 2 * N);
    probe_convert(cuda, dhalf, dbrain, dback, dx, N);
    q3_cuda_download(cuda, half, dhalf, 2 * N);
    q3_cuda_download(cuda, brain, dbrain, 2 * N);
    q3_cuda_download(cuda, back, dback, sizeof(float) * N);
    assert_good(cuda);
    for (int i = 0; i < N; i++) {
        float value = q3_f16_to_f32(half[i]);
        if (half[i] != nearest_half(x[i]))
            fail_msg("%a becomes %04x, expected %04x", (double)x[i], half[i], nearest_half(x[i]));
        assert_int_equal(brain[i], q3_f32_to_bf16(x[i]));
        assert_true(isnan(value) ? isnan(back[i]) : back[i] == value);
    }
    q3_cuda_free(cuda, dx), q3_cuda_free(cuda, dback), q3_cuda_free(cuda, dhalf), q3_cuda_free(cuda, dbrain);
    free(x), free(back), free(half), free(brain);
}

static void bits_are_permuted(void **state)
{
    q3_cuda *cuda = *state;
    uint32_t out[4];
    uint32_t *d = device_new(cuda, sizeof out);
    probe_bits(cuda, d, 0x44332211, 0x80776655, 0xf407);
    q3_cuda_download(cuda, out, d, sizeof out);
    assert_good(cuda);
    assert_int_equal(out[0], 0xff551180); // byte 7's sign; bytes 4, 0, 7
    assert_int_equal(out[1], 10);
    assert_int_equal(out[2], 0);
    assert_int_equal(out[3], 0x40000000);
    q3_cuda_free(cuda, d);
}

/* Mistakes that show in the result. */

static int wrong_neighbours(q3_cuda *cuda, int schedule_, bool wait)
{
    int32_t out[256];
    int wrong = 0;
    schedule(schedule_);
    int32_t *d = device_new(cuda, sizeof out);
    probe_neighbour(cuda, d, wait);
    q3_cuda_download(cuda, out, d, sizeof out);
    assert_good(cuda);
    q3_cuda_free(cuda, d);
    for (int i = 0; i < 256; i++)
        wrong += out[i] != (i + 1) % 256;
    return wrong;
}

static void a_missing_barrier_shows(void **state)
{
    for (int s = 0; s < SCHEDULES; s++)
        assert_int_equal(wrong_neighbours(*state, s, true), 0);
    assert_int_equal(wrong_neighbours(*state, 0, false),
                     255); // all but the last read ahead of their neighbour
    assert_int_equal(wrong_neighbours(*state, 1, false), 1);
    assert_true(wrong_neighbours(*state, 2, false) > 50);
}

static void a_missing_wait_for_a_copy_shows(void **state)
{
    q3_cuda *cuda = *state;
    float in[128], out[128];
    for (int i = 0; i < 128; i++)
        in[i] = (float)i;
    float *din = device_copy(cuda, in, sizeof in), *dout = device_new(cuda, sizeof out);
    for (int wait = 0; wait < 2; wait++) {
        probe_copy(cuda, dout, din, wait);
        q3_cuda_download(cuda, out, dout, sizeof out);
        assert_good(cuda);
        for (int i = 0; i < 128; i++)
            assert_true(wait ? out[i] == in[i] : isnan(out[i]));
    }
    q3_cuda_free(cuda, din), q3_cuda_free(cuda, dout);
}

/* Mistakes that end the process. */

typedef void wrong_kernel(q3_cuda *cuda, int32_t *out);

static void in_child(q3_cuda *cuda, wrong_kernel *run, int to)
{
    signal(SIGABRT, SIG_DFL);
    dup2(to, STDERR_FILENO);
    int32_t *out = q3_cuda_alloc(cuda, 64 * sizeof *out);
    run(cuda, out);
    _exit(0);
}

static void assert_told(q3_cuda *cuda, wrong_kernel *run, const char *line)
{
    char text[4096] = "";
    size_t n = 0;
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        in_child(cuda, run, ends[1]);
    close(ends[1]);
    for (ssize_t got; n < sizeof text - 1 && (got = read(ends[0], text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!strstr(text, line))
        fail_msg("\"%s\" has no \"%s\"", text, line);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void barriers_must_be_reached_by_all(void **state)
{
    for (int s = 0; s < 3; s++) {
        schedule(s);
        assert_told(*state, probe_divergent_barrier,
                    "__syncthreads while others stand at the one at ");
        assert_told(*state, probe_left_before_barrier,
                    "__syncthreads waits for thread (33,0,0), which has left the kernel");
        assert_told(*state, probe_deadlock,
                    "deadlock: __ballot_sync with mask ffffffff waits for lanes that stand at __syncthreads");
    }
    schedule(0);
    assert_told(*state, probe_divergent_barrier,
                "cuda_emu: kernel divergent_barrier_kernel, block (0,0,0), thread (40,0,0), ");
}

static void warps_must_name_who_takes_part(void **state)
{
    for (int s = 0; s < 3; s++) {
        schedule(s);
        assert_told(*state, probe_mask_without_caller,
                    "__shfl_xor_sync with mask 0000ffff, which lacks the calling lane");
        assert_told(*state, probe_mask_with_gone_lane, "__ballot_sync with mask ffffffff");
        assert_told(*state, probe_mask_with_gone_lane, " left the kernel");
        assert_told(*state, probe_masks_differ, "of the warp wait in __ballot_sync with mask");
        assert_told(*state, probe_short_warp,
                    "__shfl_xor_sync with mask ffffffff: the warp has lanes 0000ffff alone");
    }
}

static void host_memory(q3_cuda *cuda, int32_t *out)
{
    int32_t here[256];
    (void)out;
    probe_neighbour(cuda, here, true);
}

static void memory_must_be_the_kernel_s(void **state)
{
    schedule(0);
    assert_told(*state, probe_much_static_shared,
                "with `more` the block has 49156 bytes of static shared memory; 49152 are allowed");
    assert_told(*state, probe_misaligned_copy, "which is not aligned to 16 bytes");
    assert_told(*state, host_memory, "kernel neighbour_kernel: argument 1, ");
    if (ASAN)
        assert_told(*state, probe_out_of_bounds_shared, "probe.cu");
}

static void launches_have_limits(void **state)
{
    q3_cuda *cuda = *state;
    schedule(0);
    int *out = device_new(cuda, sizeof *out);
    probe_shape(cuda, out, 1, 1, 1024, 227 * 1024);
    probe_shape(cuda, out, 2, 65535, 1, 0);
    assert_good(cuda);
    probe_shape(cuda, out, 0, 1, 32, 0);
    assert_int_equal(cudaPeekAtLastError(), cudaErrorInvalidConfiguration);
    assert_failed(cuda, "kernel shape_kernel (grid 0 x 1 x 1, block 32 x 1 x 1");
    probe_shape(cuda, out, 1, 65536, 32, 0);
    assert_failed(cuda, "invalid configuration argument");
    probe_shape(cuda, out, 1, 1, 1025, 0);
    assert_failed(cuda, "invalid configuration argument");
    probe_shape(cuda, out, 1, 1, 32, 227 * 1024 + 1);
    assert_failed(cuda, "232449 bytes");
    setenv("Q3_CUDA_EMU_SM", "89", 1);
    probe_shape(cuda, out, 1, 1, 32, 100 * 1024);
    assert_failed(cuda, "invalid argument");
    unsetenv("Q3_CUDA_EMU_SM");
    q3_cuda_free(cuda, out);
}

/* kernels/cuda.c, and the runtime below it. */

static void opening_says_what_is_missing(void **state)
{
    static const struct {
        const char *name, *value, *sentence;
        int ordinal;
    } cases[] = {
        { "Q3_CUDA_EMU_DRIVER", "0", "there is no NVIDIA driver", 0 },
        { "Q3_CUDA_EMU_DRIVER", "12040",
          "the NVIDIA driver serves CUDA 12.4, this program is built for CUDA 13.0", 0 },
        { "Q3_CUDA_EMU_DEVICES", "0", "the NVIDIA driver offers no card", 0 },
        { "Q3_CUDA_EMU_DEVICES", "2", "there is no cuda:2; the driver offers 2 devices", 2 },
        { "Q3_CUDA_EMU_SM", "75", "has compute capability 7.5; the kernels need 8.0 (Ampere) or newer", 0 },
        { "Q3_CUDA_EMU_MEMORY", "1000000", "cuda:0 has no 64 MiB of memory left for the workspace", 0 },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char why[Q3_CUDA_SENTENCE] = "";
        setenv(cases[i].name, cases[i].value, 1);
        assert_null(q3_cuda_open(cases[i].ordinal, why));
        unsetenv(cases[i].name);
        if (!strstr(why, cases[i].sentence))
            fail_msg("\"%s\" has no \"%s\"", why, cases[i].sentence);
        assert_int_equal(cudaGetLastError(), cudaSuccess);
    }
}

static void devices_are_told_apart(void **state)
{
    (void)state;
    char why[Q3_CUDA_SENTENCE];
    setenv("Q3_CUDA_EMU_DEVICES", "2", 1);
    assert_int_equal(q3_cuda_count(why), 2);
    q3_cuda *first = open_device(0), *second = open_device(1);
    assert_int_equal(second->ordinal, 1);
    assert_int_equal(second->sm, 90);
    float one = 1, x[2];
    float *a = device_copy(first, &one, sizeof one), *b = device_copy(second, &one, sizeof one);
    probe_axpy(first, a, a, 2, 1, false); // each launch makes its device current
    probe_axpy(second, b, b, 3, 1, false);
    q3_cuda_download(first, &x[0], a, sizeof one);
    q3_cuda_download(second, &x[1], b, sizeof one);
    assert_good(first);
    assert_good(second);
    assert_true(x[0] == 3 && x[1] == 4);
    q3_cuda_free(first, a), q3_cuda_free(second, b);
    q3_cuda_close(first), q3_cuda_close(second);
    unsetenv("Q3_CUDA_EMU_DEVICES");
}

/* Sums rows on a device of its own; the number of wrong ones. */
static void *launch_many(void *arg)
{
    enum { R = 8, C = 500 };
    float x[R * C], sum[R], max[R];
    intptr_t wrong = 0;
    q3_cuda *cuda = arg;
    for (int i = 0; i < R * C; i++)
        x[i] = (float)(i % 13);
    float *dx = q3_cuda_alloc(cuda, sizeof x), *dsum = q3_cuda_alloc(cuda, sizeof sum),
          *dmax = q3_cuda_alloc(cuda, sizeof max);
    q3_cuda_upload(cuda, dx, x, sizeof x);
    for (int i = 0; i < 20; i++) {
        probe_rows(cuda, dsum, dmax, dx, R, C);
        q3_cuda_download(cuda, sum, dsum, sizeof sum);
        for (int r = 0; r < R; r++) {
            float total = 0;
            for (int c = 0; c < C; c++)
                total += x[r * C + c];
            wrong += sum[r] != total;
        }
    }
    q3_cuda_free(cuda, dx), q3_cuda_free(cuda, dsum), q3_cuda_free(cuda, dmax);
    return (void *)wrong;
}

static void host_threads_launch_side_by_side(void **state)
{
    (void)state;
    schedule(0);
    setenv("Q3_CUDA_EMU_DEVICES", "2", 1);
    q3_cuda *devices[2] = { open_device(0), open_device(1) };
    pthread_t threads[2];
    void *wrong;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, launch_many, devices[i]), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(threads[i], &wrong), 0);
        assert_null(wrong);
        assert_good(devices[i]);
        q3_cuda_close(devices[i]);
    }
    unsetenv("Q3_CUDA_EMU_DEVICES");
}

static void memory_has_an_end_and_comes_back(void **state)
{
    q3_cuda *cuda = *state;
    size_t before, during, after, total;
    q3_cuda_memory(cuda, &before, &total);
    assert_int_equal(total, (size_t)16 << 30);
    unsigned char *p = device_new(cuda, 1000), byte;
    q3_cuda_memory(cuda, &during, &total);
    assert_int_equal(before - during, 1000);
    q3_cuda_download(cuda, &byte, p + 999, 1);
    assert_int_equal(byte, 0xff); // nothing is zeroed for us
    assert_null(q3_cuda_alloc(cuda, (size_t)17 << 30));
    assert_good(cuda); // an answer, not a failure
    q3_cuda_free(cuda, p);
    q3_cuda_memory(cuda, &after, &total);
    assert_int_equal(after, before);
}

static void copies_know_host_from_device(void **state)
{
    q3_cuda *cuda = *state;
    char here[65] = "";
    char *there = device_new(cuda, 64);
    q3_cuda_copy(cuda, there, here, 64);
    assert_failed(cuda, "cannot copy: invalid argument");
    q3_cuda_upload(cuda, there, here, 65);
    assert_failed(cuda, "cannot upload: invalid argument");
    q3_cuda_upload(cuda, here, here, 1);
    assert_failed(cuda, "cannot upload: invalid argument");
    q3_cuda_fail(cuda, "the first %d", 1);
    q3_cuda_fail(cuda, "the second");
    assert_failed(cuda, "the first 1");
    q3_cuda_free(cuda, there);
    char *pinned = q3_cuda_pinned_alloc(10);
    assert_non_null(pinned);
    q3_cuda_pinned_free(pinned);
}

static void long_uploads_arrive_whole(void **state)
{
    q3_cuda *cuda = *state;
    size_t n = 9 * 1024 * 1024 + 123; // two stages and a bit
    unsigned char *from = malloc(n), *back = malloc(n);
    for (size_t i = 0; i < n; i++)
        from[i] = (unsigned char)(i * 7 + (i >> 16));
    unsigned char *p = device_copy(cuda, from, n), *q = device_new(cuda, n);
    q3_cuda_copy(cuda, q, p, n);
    q3_cuda_download(cuda, back, q, n);
    assert_good(cuda);
    assert_memory_equal(from, back, n);
    q3_cuda_free(cuda, p), q3_cuda_free(cuda, q);
    free(from), free(back);
}

static void ranges_grow_in_place(void **state)
{
    q3_cuda *cuda = *state;
    const size_t MiB = 1 << 20;
    q3_cuda_range range;
    size_t free_bytes, before, total;
    q3_cuda_memory(cuda, &before, &total);
    assert_true(q3_cuda_reserve(cuda, &range, (size_t)64 << 30)); // more than the device has
    assert_int_equal(range.committed, 0);
    assert_true(q3_cuda_commit(cuda, &range, 1));
    assert_int_equal(range.committed, 64 * MiB);
    char *base = range.base;
    q3_cuda_fill(cuda, base, 7, 64 * MiB);
    assert_true(q3_cuda_commit(cuda, &range, 63 * MiB));
    assert_true(q3_cuda_commit(cuda, &range, 193 * MiB));
    assert_int_equal(range.committed, 194 * MiB); // pages are of 2 MiB
    assert_ptr_equal(range.base, base);
    q3_cuda_memory(cuda, &free_bytes, &total);
    assert_int_equal(before - free_bytes, range.committed);
    unsigned char bytes[2];
    q3_cuda_download(cuda, bytes, base + 64 * MiB - 1, 2);
    assert_int_equal(bytes[0], 7);
    assert_int_equal(bytes[1], 0xff);
    probe_axpy(cuda, base, base + 100 * MiB, 1, 1, false);
    assert_false(q3_cuda_commit(cuda, &range, (size_t)20 << 30));
    assert_good(cuda);
    assert_int_equal(range.committed, 194 * MiB);
    q3_cuda_release(cuda, &range);
    q3_cuda_memory(cuda, &free_bytes, &total);
    assert_int_equal(free_bytes, before);
    assert_good(cuda);
}

static void the_last_piece_of_a_range_may_be_small(void **state)
{
    q3_cuda *cuda = *state;
    q3_cuda_range range;
    size_t free_bytes, total;
    char text[32];
    q3_cuda_memory(cuda, &free_bytes, &total);
    snprintf(text, sizeof text, "%zu", total - free_bytes + ((size_t)70 << 20));
    setenv("Q3_CUDA_EMU_MEMORY", text, 1);
    assert_true(q3_cuda_reserve(cuda, &range, (size_t)1 << 30));
    assert_true(q3_cuda_commit(cuda, &range, (size_t)64 << 20));
    assert_true(q3_cuda_commit(cuda, &range, (size_t)65 << 20));
    assert_int_equal(range.committed, 66 << 20);
    assert_false(q3_cuda_commit(cuda, &range, (size_t)71 << 20));
    q3_cuda_release(cuda, &range);
    unsetenv("Q3_CUDA_EMU_MEMORY");
    assert_good(cuda);
}

static void recordings_replay(void **state)
{
    q3_cuda *cuda = *state;
    float host[3] = { 1, 2, 3 };
    float *x = device_copy(cuda, host, sizeof host), *y = device_new(cuda, sizeof host);
    q3_cuda_record_begin(cuda);
    float factor = 2; // taken at the recording
    q3_cuda_fill(cuda, y, 0, sizeof host);
    probe_axpy(cuda, y, x, factor, 3, false);
    q3_cuda_copy(cuda, x, y, sizeof host);
    factor = 100;
    void *recording = q3_cuda_record_end(cuda);
    assert_good(cuda);
    assert_non_null(recording);
    q3_cuda_download(cuda, host, x, sizeof host);
    assert_true(host[2] == 3); // nothing has run
    for (int i = 0; i < 3; i++)
        q3_cuda_replay(cuda, recording);
    q3_cuda_download(cuda, host, x, sizeof host);
    assert_true(host[0] == 8 && host[1] == 16 && host[2] == 24 && factor == 100);
    q3_cuda_record_free(cuda, recording);
    assert_good(cuda);
    q3_cuda_free(cuda, x), q3_cuda_free(cuda, y);
}

static void recordings_refuse_what_cannot_be_replayed(void **state)
{
    q3_cuda *cuda = *state;
    float host = 1;
    float *x = device_copy(cuda, &host, sizeof host);
    q3_cuda_record_begin(cuda);
    assert_null(q3_cuda_alloc(cuda, 16));
    assert_null(q3_cuda_record_end(cuda));
    assert_failed(cuda, "cannot allocate memory: operation not permitted when stream is capturing");
    q3_cuda_record_begin(cuda);
    q3_cuda_download(cuda, &host, x, sizeof host);
    assert_null(q3_cuda_record_end(cuda));
    assert_failed(cuda, "operation not permitted when stream is capturing");
    q3_cuda_record_begin(cuda);
    q3_cuda_upload(cuda, x, &host, sizeof host);
    assert_null(q3_cuda_record_end(cuda));
    assert_failed(cuda, "an upload cannot be recorded");
    q3_cuda_record_begin(cuda);
    assert_int_equal(cudaMemcpy(&host, x, sizeof host, cudaMemcpyDeviceToHost),
                     cudaErrorStreamCaptureUnsupported);
    assert_null(q3_cuda_record_end(cuda));
    assert_failed(cuda, "cannot end a recording: operation failed due to a previous error during capture");
    q3_cuda_upload(cuda, x, &host, sizeof host); // and the stream works again
    assert_good(cuda);
    q3_cuda_free(cuda, x);
}

static void marks_measure(void **state)
{
    q3_cuda *cuda = *state;
    float *x = device_new(cuda, 4096 * sizeof *x);
    q3_cuda_fill(cuda, x, 0, 4096 * sizeof *x);
    void *first = q3_cuda_mark(cuda);
    probe_axpy(cuda, x, x, 1, 4096, false);
    void *last = q3_cuda_mark(cuda);
    double seconds = q3_cuda_between(cuda, first, last);
    assert_good(cuda);
    assert_true(seconds > 0 && seconds < 10);
    q3_cuda_free(cuda, x);
}

static int open_first(void **state)
{
    *state = open_device(0);
    return 0;
}

static int close_first(void **state)
{
    q3_cuda_close(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elements_are_each_visited_once),
        cmocka_unit_test(rows_are_reduced),
        cmocka_unit_test(matrices_multiply_on_tensor_cores),
        cmocka_unit_test(lanes_exchange),
        cmocka_unit_test(integers_count),
        cmocka_unit_test(conversions_round_to_nearest_even),
        cmocka_unit_test(bits_are_permuted),
        cmocka_unit_test(a_missing_barrier_shows),
        cmocka_unit_test(a_missing_wait_for_a_copy_shows),
        cmocka_unit_test(barriers_must_be_reached_by_all),
        cmocka_unit_test(warps_must_name_who_takes_part),
        cmocka_unit_test(memory_must_be_the_kernel_s),
        cmocka_unit_test(launches_have_limits),
        cmocka_unit_test(opening_says_what_is_missing),
        cmocka_unit_test(devices_are_told_apart),
        cmocka_unit_test(host_threads_launch_side_by_side),
        cmocka_unit_test(memory_has_an_end_and_comes_back),
        cmocka_unit_test(copies_know_host_from_device),
        cmocka_unit_test(long_uploads_arrive_whole),
        cmocka_unit_test(ranges_grow_in_place),
        cmocka_unit_test(the_last_piece_of_a_range_may_be_small),
        cmocka_unit_test(recordings_replay),
        cmocka_unit_test(recordings_refuse_what_cannot_be_replayed),
        cmocka_unit_test(marks_measure),
    };
    return cmocka_run_group_tests(tests, open_first, close_first);
}
