/* On a device, emulated or real: the kernels that turn logs of sums over. On a real one with cuDNN: cuDNN's attention
 * against the program's plain kernels, which have their own test. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/attention.h"
#include "kernels/cudnn.h"
#include "tests/support/device.h"

enum { SEQUENCES = 4, ROOM = 256, HEADS = 5, ROWS = 400 };

static const int32_t lengths[SEQUENCES] = { 7, 256, 0, 100 }, first[SEQUENCES] = { 3, 20, 0, 290 };

static bool in_a_sequence(int64_t row)
{
    bool inside = false;
    for (int b = 0; b < SEQUENCES; b++)
        inside |= row >= first[b] && row < first[b] + lengths[b];
    return inside;
}

static void logs_go_there_and_back(void **state)
{
    (void)state;
    static float lse[ROWS * HEADS], back[ROWS * HEADS], stats[SEQUENCES * HEADS * ROOM];
    q3_cuda *cuda = t_device();
    t_fill(lse, ROWS * HEADS, 1, 3);
    t_array l = t_upload(cuda, lse, sizeof lse, 0), s = t_upload(cuda, NULL, sizeof stats, 0);
    t_array n = t_upload(cuda, lengths, sizeof lengths, 0), f = t_upload(cuda, first, sizeof first, 0);
    q3_cudnn_stats_args a = {
        .stats = s.at, .lse = l.at, .lengths = n.at, .first = f.at, .B = SEQUENCES, .S = ROOM, .heads = HEADS
    };
    q3_cudnn_lse_to_stats_cuda(&a, cuda);
    t_download(stats, &s);
    for (int b = 0; b < SEQUENCES; b++)
        for (int h = 0; h < HEADS; h++)
            for (int i = 0; i < ROOM; i++)
                assert_true(stats[(b * HEADS + h) * ROOM + i] ==
                            (i < lengths[b] ? lse[(first[b] + i) * HEADS + h] : 0));
    q3_cuda_fill(cuda, l.at, 0, sizeof lse);
    q3_cudnn_stats_to_lse_cuda(&a, cuda);
    t_download(back, &l);
    for (int i = 0; i < ROWS * HEADS; i++)
        assert_true(back[i] == (in_a_sequence(i / HEADS) ? lse[i] : 0));
    t_drop(&l), t_drop(&s), t_drop(&n), t_drop(&f);
    q3_cuda_close(cuda);
}

/* ---- cuDNN itself ---- */

typedef struct shape {
    int heads, kv_heads, D;
    bool causal;
} shape;

enum { SEGMENTS = 6, T = 7 + 300 + 1 + 256 + 640 + 33 };

static const int64_t segments[SEGMENTS][4] = { { 0, 7, 0, 7 },         { 7, 300, 7, 300 },
                                               { 307, 1, 307, 1 },     { 308, 256, 308, 256 },
                                               { 564, 640, 564, 640 }, { 1204, 33, 1204, 33 } };

enum { Q, K, V, DOUT, INPUTS, O = INPUTS, DQ, DK, DV, ARRAYS };

typedef struct problem {
    t_array x[ARRAYS], lse, delta, segments;
    int64_t n[ARRAYS];
    q3_attention_backward_args args;
} problem;

static problem problem_of(q3_cuda *cuda, shape s)
{
    problem p;
    for (int i = 0; i < ARRAYS; i++) {
        bool kv = i == K || i == V || i == DK || i == DV;
        p.n[i] = (int64_t)T * (kv ? s.kv_heads : s.heads) * s.D;
        float *wide = malloc((size_t)p.n[i] * sizeof *wide);
        uint16_t *halves = malloc((size_t)p.n[i] * sizeof *halves);
        t_fill(wide, p.n[i], 1, (uint32_t)i + 1);
        t_round(halves, wide, p.n[i], Q3_BF16);
        p.x[i] = t_upload(cuda, i < INPUTS ? halves : NULL, (size_t)p.n[i] * 2, 0);
        free(wide);
        free(halves);
    }
    p.lse = t_upload(cuda, NULL, (size_t)T * (size_t)s.heads * sizeof(float), 0);
    p.delta = t_upload(cuda, NULL, (size_t)T * (size_t)s.heads * sizeof(float), 0);
    p.segments = t_upload(cuda, segments, sizeof segments, 0);
    p.args = (q3_attention_backward_args){
        .f = { .o = p.x[O].at,
               .lse = p.lse.at,
               .q = p.x[Q].at,
               .k = p.x[K].at,
               .v = p.x[V].at,
               .segments = &segments[0][0],
               .device_segments = p.segments.at,
               .n_segments = SEGMENTS,
               .heads = s.heads,
               .kv_heads = s.kv_heads,
               .head_size = s.D,
               .scale = 1 / sqrtf((float)s.D),
               .causal = s.causal,
               .dtype = Q3_BF16 },
        .dout = p.x[DOUT].at,
        .delta = p.delta.at,
        .queries = T,
        .keys = T,
        .dq = p.x[DQ].at,
        .dk = p.x[DK].at,
        .dv = p.x[DV].at,
    };
    return p;
}

static void drop(problem *p)
{
    for (int i = 0; i < ARRAYS; i++)
        t_drop(&p->x[i]);
    t_drop(&p->lse), t_drop(&p->delta), t_drop(&p->segments);
}

static double distance(const problem *a, const problem *b, int which)
{
    int64_t n = a->n[which];
    uint16_t *halves = malloc((size_t)n * sizeof *halves);
    float *x = malloc((size_t)n * sizeof *x), *y = malloc((size_t)n * sizeof *y);
    double *wide = malloc((size_t)n * sizeof *wide);
    t_download(halves, &a->x[which]);
    t_widen(x, halves, n, Q3_BF16);
    t_download(halves, &b->x[which]);
    t_widen(y, halves, n, Q3_BF16);
    for (int64_t i = 0; i < n; i++)
        wide[i] = y[i];
    double d = t_distance(x, wide, n);
    free(halves), free(x), free(y), free(wide);
    return d;
}

static void compare(q3_cuda *cuda, shape s)
{
    static const char *const names[ARRAYS] = { [O] = "o", [DQ] = "dq", [DK] = "dk", [DV] = "dv" };
    problem theirs = problem_of(cuda, s), ours = problem_of(cuda, s);
    cuda->attention = Q3_ATTENTION_REFERENCE;
    q3_attention_forward_cuda(&ours.args.f, cuda);
    q3_attention_backward_cuda(&ours.args, cuda);
    bool forward = q3_cudnn_attention_forward(&theirs.args.f, cuda);
    bool backward = q3_cudnn_attention_backward(&theirs.args, cuda);
    print_message("%d/%d heads of %d: forward %s, backward %s%s%s\n", s.heads, s.kv_heads, s.D,
                  forward ? "taken" : "not taken", backward ? "taken" : "not taken",
                  q3_cudnn_refusal(cuda) ? "; " : "", q3_cudnn_refusal(cuda) ? q3_cudnn_refusal(cuda) : "");
    assert_true(forward && backward);
    for (int i = O; i < ARRAYS; i++) {
        double d = distance(&theirs, &ours, i);
        print_message("  %s %.2e\n", names[i], d);
        assert_true(d < 1e-2);
    }
    drop(&theirs);
    drop(&ours);
}

static void cudnn_and_the_plain_kernels_agree(void **state)
{
    (void)state;
    static const shape shapes[] = {
        { 16, 8, 128, true }, { 32, 8, 128, true }, { 16, 16, 64, false }, { 16, 16, 72, false }
    };
    char why[Q3_CUDA_SENTENCE] = "the emulated device has no cuDNN";
    q3_cuda *cuda = t_device();
#if !defined(Q3_CUDA_EMULATED)
    cuda->cudnn = q3_cudnn_create(cuda, why);
#endif
    if (!cuda->cudnn) {
        print_message("%s\n", why);
        q3_cuda_close(cuda);
        skip();
    }
    q3_cudnn_set_deterministic(cuda, false);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const q3_cudnn_shape most = { .heads = shapes[i].heads,
                                      .kv_heads = shapes[i].kv_heads,
                                      .head_size = shapes[i].D,
                                      .causal = shapes[i].causal,
                                      .backward = true };
        assert_true(q3_cudnn_reserve(cuda, q3_cudnn_workspace_bytes(cuda, &most, T)));
        compare(cuda, shapes[i]);
    }
    q3_cudnn_destroy(cuda->cudnn);
    cuda->cudnn = NULL;
    q3_cuda_close(cuda);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logs_go_there_and_back),
        cmocka_unit_test(cudnn_and_the_plain_kernels_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
