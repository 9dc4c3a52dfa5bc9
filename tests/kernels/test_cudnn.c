/* kernels/cudnn.c against a stand-in for cuDNN and for the device: plain C that reads a launch's tables and pointers as
 * cuDNN does. It shows that batches, offsets, logs and workspace are right; what cuDNN itself makes of the graphs is
 * for tests/cudnn (engines) and for a GPU (numbers). */
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

/* ---- one sequence, in double: what stand-in and expectation have in common ---- */

typedef struct sequence {
    int64_t q_len, kv_len;
    int heads, kv_heads, D;
    bool causal;
    float scale;
    const uint16_t *q, *k, *v, *dout; // bf16, at the sequence's first row
    uint16_t *o, *dq, *dk, *dv;
    float *lse;                // of head 0 and row 0
    int64_t lse_head, lse_row; // its strides
} sequence;

static double at(const uint16_t *x, int64_t i)
{
    return q3_bf16_to_f32(x[i]);
}

static double score(const sequence *s, int64_t i, int64_t j, int h)
{
    int64_t kv = h / (s->heads / s->kv_heads);
    double sum = 0;
    for (int d = 0; d < s->D; d++)
        sum += at(s->q, (i * s->heads + h) * s->D + d) * at(s->k, (j * s->kv_heads + kv) * s->D + d);
    return sum * s->scale;
}

static void attend(const sequence *s)
{
    for (int h = 0; h < s->heads; h++)
        for (int64_t i = 0; i < s->q_len; i++) {
            int64_t seen = s->causal ? i + 1 : s->kv_len, kv = h / (s->heads / s->kv_heads);
            double sum = 0, o[64] = { 0 };
            for (int64_t j = 0; j < seen; j++) {
                double p = exp(score(s, i, j, h));
                sum += p;
                for (int d = 0; d < s->D; d++)
                    o[d] += p * at(s->v, (j * s->kv_heads + kv) * s->D + d);
            }
            for (int d = 0; d < s->D; d++)
                s->o[(i * s->heads + h) * s->D + d] = q3_f32_to_bf16((float)(o[d] / sum));
            if (s->lse)
                s->lse[h * s->lse_head + i * s->lse_row] = (float)log(sum);
        }
}

static void attend_backward_row(const sequence *s, int h, int64_t i, double *dk, double *dv)
{
    int64_t seen = s->causal ? i + 1 : s->kv_len, kv = h / (s->heads / s->kv_heads);
    int64_t row = (i * s->heads + h) * s->D;
    double delta = 0, dq[64] = { 0 };
    for (int d = 0; d < s->D; d++)
        delta += at(s->dout, row + d) * at(s->o, row + d);
    for (int64_t j = 0; j < seen; j++) {
        int64_t key = (j * s->kv_heads + kv) * s->D;
        double p = exp(score(s, i, j, h) - s->lse[h * s->lse_head + i * s->lse_row]), dp = 0;
        for (int d = 0; d < s->D; d++)
            dp += at(s->dout, row + d) * at(s->v, key + d);
        for (int d = 0; d < s->D; d++) {
            dq[d] += p * (dp - delta) * s->scale * at(s->k, key + d);
            dk[key + d] += p * (dp - delta) * s->scale * at(s->q, row + d);
            dv[key + d] += p * at(s->dout, row + d);
        }
    }
    for (int d = 0; d < s->D; d++)
        s->dq[row + d] = q3_f32_to_bf16((float)dq[d]);
}

static void attend_backward(const sequence *s)
{
    int64_t n = s->kv_len * s->kv_heads * s->D;
    double *dk = calloc((size_t)n * 2 + 1, sizeof *dk), *dv = dk + n;
    for (int h = 0; h < s->heads; h++)
        for (int64_t i = 0; i < s->q_len; i++)
            attend_backward_row(s, h, i, dk, dv);
    for (int64_t i = 0; i < n; i++) {
        s->dk[i] = q3_f32_to_bf16((float)dk[i]);
        s->dv[i] = q3_f32_to_bf16((float)dv[i]);
    }
    free(dk);
}

/* ---- stand-in for the device ---- */

static int uploads, live_allocations;

void *q3_cuda_alloc(q3_cuda *cuda, size_t bytes)
{
    (void)cuda;
    live_allocations++;
    return malloc(bytes);
}
void q3_cuda_free(q3_cuda *cuda, void *p)
{
    (void)cuda;
    live_allocations -= p != NULL;
    free(p);
}
void q3_cuda_upload(q3_cuda *cuda, void *to, const void *from, size_t bytes)
{
    (void)cuda;
    uploads++;
    memcpy(to, from, bytes);
}
void q3_cuda_fill(q3_cuda *cuda, void *to, int byte, size_t bytes)
{
    (void)cuda;
    memset(to, byte, bytes);
}
void q3_cuda_wait(q3_cuda *cuda)
{
    (void)cuda;
}
void q3_cudnn_use_device_cuda(q3_cuda *cuda)
{
    (void)cuda;
}
void q3_cudnn_stats_to_lse_cuda(const q3_cudnn_stats_args *a, q3_cuda *cuda)
{
    (void)cuda;
    for (int64_t b = 0; b < a->B; b++)
        for (int h = 0; h < a->heads; h++)
            for (int64_t i = 0; i < a->lengths[b]; i++)
                a->lse[(a->first[b] + i) * a->heads + h] = a->stats[(b * a->heads + h) * a->S + i];
}
void q3_cudnn_lse_to_stats_cuda(const q3_cudnn_stats_args *a, q3_cuda *cuda)
{
    (void)cuda;
    for (int64_t b = 0; b < a->B; b++)
        for (int h = 0; h < a->heads; h++)
            for (int64_t i = 0; i < a->S; i++)
                a->stats[(b * a->heads + h) * a->S + i] =
                    i < a->lengths[b] ? a->lse[(a->first[b] + i) * a->heads + h] : 0;
}

/* ---- stand-in for cuDNN: a graph is what its operands say ---- */

typedef struct recorded {
    int64_t B, S, D;
    int heads, kv_heads;
    bool causal, backward, stats, deterministic;
} recorded;

struct q3_cudnn_descriptor {
    int type, n;
    int64_t id, size[4], ids[Q3_CUDNN_TENSORS];
    void *pointers[Q3_CUDNN_TENSORS], *workspace;
    recorded graph;
};

static recorded building; // cudnn.c builds one graph at a time
static int live_descriptors, graphs, launches;
static bool no_deterministic, fails_to_run;
enum { OWN_WORKSPACE = 1000 }; // bytes that every plan wants

static size_t fake_version(void)
{
    return 91900;
}
static const char *fake_error(int status)
{
    return status ? "STATUS" : "SUCCESS";
}
static void fake_last_error(char *message, size_t bytes)
{
    snprintf(message, bytes, "as told");
}
static int fake_create(void **handle)
{
    *handle = &building;
    return 0;
}
static int fake_destroy(void *handle)
{
    return handle != &building;
}
static int fake_set_stream(void *handle, void *stream)
{
    (void)stream;
    return handle != &building;
}
static int fake_new(int type, q3_cudnn_ref *out)
{
    *out = calloc(1, sizeof **out);
    (*out)->type = type;
    live_descriptors++;
    return 0;
}
static int fake_drop(q3_cudnn_ref d)
{
    free(d);
    live_descriptors--;
    return 0;
}

static void note_tensor(const struct q3_cudnn_descriptor *d)
{
    if (d->id == Q3_CUDNN_Q + 1) {
        building = (recorded){ .B = d->size[0], .heads = (int)d->size[1], .S = d->size[2], .D = d->size[3] };
        building.deterministic = true;
    }
    if (d->id == Q3_CUDNN_K + 1)
        building.kv_heads = (int)d->size[1];
    building.backward |= d->id == Q3_CUDNN_DQ + 1;
    building.stats |= d->id == Q3_CUDNN_STATS + 1;
    building.deterministic &= d->id != Q3_CUDNN_DQ_SUM + 1;
}

static int fake_finalize(q3_cudnn_ref d)
{
    if (d->type == Q3_CUDNN_BACKEND_TENSOR_DESCRIPTOR)
        note_tensor(d);
    if (d->type == Q3_CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)
        graphs++;
    if (d->type == Q3_CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR && no_deterministic && building.backward &&
        building.deterministic)
        return 3000;
    if (d->type == Q3_CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)
        d->graph = building;
    return 0;
}

static int fake_set(q3_cudnn_ref d, int attribute, int type, int64_t count, const void *values)
{
    (void)type;
    if (attribute == Q3_CUDNN_ATTR_TENSOR_UNIQUE_ID)
        d->id = *(const int64_t *)values;
    else if (attribute == Q3_CUDNN_ATTR_TENSOR_DIMENSIONS)
        memcpy(d->size, values, sizeof d->size);
    else if (attribute == Q3_CUDNN_ATTR_POINTWISE_MODE)
        building.causal |= *(const int *)values == Q3_CUDNN_POINTWISE_CMP_GE;
    else if (attribute == Q3_CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS) {
        memcpy(d->ids, values, (size_t)count * sizeof *d->ids);
        d->n = (int)count;
    } else if (attribute == Q3_CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS)
        memcpy(d->pointers, values, (size_t)count * sizeof *d->pointers);
    else if (attribute == Q3_CUDNN_ATTR_VARIANT_PACK_WORKSPACE)
        d->workspace = *(void *const *)values;
    return 0;
}

static int fake_get(q3_cudnn_ref d, int attribute, int type, int64_t asked, int64_t *count, void *values)
{
    (void)d, (void)type, (void)asked;
    *count = 1;
    if (attribute == Q3_CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE ||
        attribute == Q3_CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)
        *(int64_t *)values = OWN_WORKSPACE;
    return 0;
}

static void poison(void *p, size_t bytes)
{
    memset(p, 0xff, bytes); // NaN
}

static void run_sequence(const recorded *g, void *const *p, int64_t b)
{
    const int32_t *oq = p[Q3_CUDNN_OFFSETS_Q], *okv = p[Q3_CUDNN_OFFSETS_KV];
    sequence s = { .heads = g->heads,
                   .kv_heads = g->kv_heads,
                   .D = (int)g->D,
                   .causal = g->causal,
                   .scale = *(float *)p[Q3_CUDNN_SCALE] };
    s.q_len = ((int32_t *)p[Q3_CUDNN_LENGTHS_Q])[b];
    s.kv_len = ((int32_t *)p[Q3_CUDNN_LENGTHS_KV])[b];
    assert_true(s.q_len <= g->S && s.kv_len <= g->S);
    assert_true(oq[b] + s.q_len * g->heads * g->D <= oq[b + 1] && okv[b] <= okv[b + 1]);
    s.q = (uint16_t *)p[Q3_CUDNN_Q] + oq[b];
    s.k = (uint16_t *)p[Q3_CUDNN_K] + okv[b];
    s.v = (uint16_t *)p[Q3_CUDNN_V] + okv[b];
    s.o = (uint16_t *)p[Q3_CUDNN_O] + oq[b];
    s.lse = g->stats ? (float *)p[Q3_CUDNN_STATS] + b * g->heads * g->S : NULL;
    s.lse_head = g->S;
    s.lse_row = 1;
    if (!g->backward) {
        attend(&s);
        return;
    }
    for (int h = 0; h < g->heads; h++)
        for (int64_t i = s.q_len; i < g->S; i++)
            assert_true(s.lse[h * g->S + i] == 0);
    s.dout = (uint16_t *)p[Q3_CUDNN_DO] + oq[b];
    s.dq = (uint16_t *)p[Q3_CUDNN_DQ] + oq[b];
    s.dk = (uint16_t *)p[Q3_CUDNN_DK] + okv[b];
    s.dv = (uint16_t *)p[Q3_CUDNN_DV] + okv[b];
    attend_backward(&s);
}

static int fake_execute(void *handle, q3_cudnn_ref plan, q3_cudnn_ref pack)
{
    const recorded *g = &plan->graph;
    void *p[Q3_CUDNN_TENSORS] = { NULL };
    size_t rows = (size_t)(g->B * g->heads * g->S) * sizeof(float);
    assert_ptr_equal(handle, &building);
    for (int i = 0; i < pack->n; i++) {
        p[pack->ids[i] - 1] = pack->pointers[i];
        assert_non_null(pack->pointers[i]);
        assert_true(pack->ids[i] > Q3_CUDNN_SCALE || (uintptr_t)pack->pointers[i] % 16 == 0);
    }
    if (fails_to_run)
        return 5000;
    poison(pack->workspace, OWN_WORKSPACE);
    if (p[Q3_CUDNN_DQ_SUM])
        poison(p[Q3_CUDNN_DQ_SUM], rows * (size_t)g->D);
    if (p[Q3_CUDNN_ROW_DOT])
        poison(p[Q3_CUDNN_ROW_DOT], rows);
    if (g->stats && !g->backward)
        poison(p[Q3_CUDNN_STATS], rows);
    for (int64_t b = 0; b < g->B; b++)
        run_sequence(g, p, b);
    launches++;
    return 0;
}

const q3_cudnn_api *q3_cudnn_open(char *why)
{
    static const q3_cudnn_api api = { fake_version,  fake_error,      fake_last_error, fake_create,
                                      fake_destroy,  fake_set_stream, fake_new,        fake_drop,
                                      fake_finalize, fake_set,        fake_get,        fake_execute };
    *why = 0;
    return &api;
}

/* ---- a call and what it should give ---- */

typedef struct problem {
    int64_t rows, n;
    int heads, kv_heads, D;
    bool causal;
    int64_t segments[200][4];
    uint16_t *q, *k, *v, *o, *dout, *dq, *dk, *dv; // what is given, what is got
    uint16_t *want_o, *want_dq, *want_dk, *want_dv;
    float *lse, *want_lse;
    q3_attention_backward_args args;
    q3_cuda cuda;
} problem;

static uint32_t state = 5;

static uint32_t next(void)
{
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static uint16_t *halves(int64_t n, bool random)
{
    uint16_t *x = aligned_alloc(64, (size_t)(n * 2 + 127) / 64 * 64);
    for (int64_t i = 0; i < n; i++)
        x[i] = random ? q3_f32_to_bf16((float)next() * 0x1p-23f - 1) : 0xffff;
    return x;
}

static void add_segment(problem *p, int64_t length)
{
    p->segments[p->n][0] = p->segments[p->n][2] = p->rows;
    p->segments[p->n][1] = p->segments[p->n][3] = length;
    p->n++;
    p->rows += length;
}

static sequence expected_sequence(const problem *p, const int64_t *s)
{
    int64_t q = s[0] * p->heads * p->D, kv = s[2] * p->kv_heads * p->D;
    return (sequence){ .q_len = s[1],
                       .kv_len = s[3],
                       .heads = p->heads,
                       .kv_heads = p->kv_heads,
                       .D = p->D,
                       .causal = p->causal,
                       .scale = 0.25f,
                       .q = p->q + q,
                       .k = p->k + kv,
                       .v = p->v + kv,
                       .dout = p->dout + q,
                       .o = p->want_o + q,
                       .dq = p->want_dq + q,
                       .dk = p->want_dk + kv,
                       .dv = p->want_dv + kv,
                       .lse = p->want_lse + s[0] * p->heads,
                       .lse_head = 1,
                       .lse_row = p->heads };
}

static void open_problem(problem *p, size_t workspace_bytes)
{
    char why[Q3_CUDA_SENTENCE];
    int64_t q = p->rows * p->heads * p->D, kv = p->rows * p->kv_heads * p->D;
    p->q = halves(q, true), p->k = halves(kv, true), p->v = halves(kv, true), p->dout = halves(q, true);
    p->o = halves(q, false), p->dq = halves(q, false), p->dk = halves(kv, false), p->dv = halves(kv, false);
    p->want_o = halves(q, false), p->want_dq = halves(q, false);
    p->want_dk = halves(kv, false), p->want_dv = halves(kv, false);
    p->lse = calloc((size_t)(p->rows * p->heads) + 1, sizeof *p->lse);
    p->want_lse = calloc((size_t)(p->rows * p->heads) + 1, sizeof *p->lse);
    p->cuda = (q3_cuda){ .sm = 90, .workspace_bytes = workspace_bytes };
    p->cuda.workspace = aligned_alloc(256, (workspace_bytes + 255) / 256 * 256);
    p->cuda.cudnn = q3_cudnn_create(&p->cuda, why);
    p->args = (q3_attention_backward_args){
        .f = { .o = p->o,
               .lse = p->lse,
               .q = p->q,
               .k = p->k,
               .v = p->v,
               .segments = &p->segments[0][0],
               .n_segments = p->n,
               .heads = p->heads,
               .kv_heads = p->kv_heads,
               .head_size = p->D,
               .scale = 0.25f,
               .causal = p->causal,
               .dtype = Q3_BF16 },
        .dout = p->dout,
        .queries = p->rows,
        .keys = p->rows,
        .dq = p->dq,
        .dk = p->dk,
        .dv = p->dv,
    };
    uploads = graphs = launches = 0;
}

static void close_problem(problem *p)
{
    void *all[] = { p->q,       p->k,       p->v,   p->o,        p->dout,
                    p->dq,      p->dk,      p->dv,  p->want_o,   p->want_dq,
                    p->want_dk, p->want_dv, p->lse, p->want_lse, p->cuda.workspace };
    q3_cudnn_destroy(p->cuda.cudnn);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    assert_int_equal(live_descriptors, 0);
    assert_int_equal(live_allocations, 0);
}

static void expect(problem *p)
{
    for (int64_t i = 0; i < p->n; i++) {
        const sequence s = expected_sequence(p, p->segments[i]);
        attend(&s);
        attend_backward(&s);
    }
}

static void assert_same_halves(const uint16_t *got, const uint16_t *want, int64_t n)
{
    double error = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        error += pow(at(got, i) - at(want, i), 2);
        norm += pow(at(want, i), 2);
    }
    assert_true(sqrt(error) <= 1e-2 * sqrt(norm)); // false for NaN: what was not written
}

static void check_problem(problem *p)
{
    int64_t q = p->rows * p->heads * p->D, kv = p->rows * p->kv_heads * p->D;
    expect(p);
    assert_true(q3_cudnn_attention_forward(&p->args.f, &p->cuda));
    assert_same_halves(p->o, p->want_o, q);
    for (int64_t i = 0; i < p->rows * p->heads; i++)
        assert_true(fabsf(p->lse[i] - p->want_lse[i]) < 1e-5f * fabsf(p->want_lse[i]) + 1e-6f);
    assert_true(q3_cudnn_attention_backward(&p->args, &p->cuda));
    assert_same_halves(p->dq, p->want_dq, q);
    assert_same_halves(p->dk, p->want_dk, kv);
    assert_same_halves(p->dv, p->want_dv, kv);
    assert_null(q3_cudnn_refusal(&p->cuda));
}

enum { MUCH = 64 << 20 }; // bytes of workspace

static void segments_of_all_lengths_come_back_in_place(void **unused)
{
    (void)unused;
    problem p = { .heads = 4, .kv_heads = 2, .D = 16, .causal = true };
    const int64_t lengths[] = { 7, 300, 1, 0, 256, 40, 257, 520, 33 };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        add_segment(&p, lengths[i]);
    open_problem(&p, MUCH);
    check_problem(&p);
    assert_int_equal(launches, 2 * 3); // buckets of 256, 512 and 768 rows
    close_problem(&p);
}

static void full_attention_and_many_segments_take_several_launches(void **unused)
{
    (void)unused;
    problem p = { .heads = 2, .kv_heads = 2, .D = 8 };
    for (int i = 0; i < 150; i++)
        add_segment(&p, 1 + next() % 9);
    open_problem(&p, MUCH);
    q3_cudnn_set_deterministic(&p.cuda, false);
    check_problem(&p);
    assert_int_equal(launches, 2 * 3); // of 64, 64 and 22 segments
    assert_int_equal(graphs, 2 * 2);
    close_problem(&p);
}

static void layers_share_plans_and_tables(void **unused)
{
    (void)unused;
    problem p = { .heads = 2, .kv_heads = 1, .D = 8, .causal = true };
    add_segment(&p, 5), add_segment(&p, 300);
    open_problem(&p, MUCH);
    for (int layer = 0; layer < 3; layer++)
        check_problem(&p);
    assert_int_equal(graphs, 4);
    assert_int_equal(uploads, 2);
    close_problem(&p);
}

static void rows_of_no_segment_get_no_gradient(void **unused)
{
    (void)unused;
    problem p = { .heads = 2, .kv_heads = 1, .D = 8, .causal = true };
    add_segment(&p, 5);
    p.rows += 3;
    add_segment(&p, 4);
    open_problem(&p, MUCH);
    for (int i = 0; i < 12 * 2 * 8; i++)
        p.want_o[i] = p.want_dq[i] = 0;
    for (int i = 0; i < 12 * 8; i++)
        p.want_dk[i] = p.want_dv[i] = 0;
    expect(&p);
    assert_true(q3_cudnn_attention_forward(&p.args.f, &p.cuda));
    assert_true(q3_cudnn_attention_backward(&p.args, &p.cuda));
    assert_same_halves(p.dq, p.want_dq, 12 * 2 * 8);
    assert_same_halves(p.dk, p.want_dk, 12 * 8);
    assert_same_halves(p.dv, p.want_dv, 12 * 8);
    close_problem(&p);
}

static void keys_may_lie_elsewhere_than_queries(void **unused)
{
    (void)unused;
    problem p = { .heads = 2, .kv_heads = 1, .D = 8, .causal = true };
    add_segment(&p, 5), add_segment(&p, 6);
    p.rows = 30;
    p.segments[0][2] = 9, p.segments[1][2] = 20; // in a cache of 30 rows
    open_problem(&p, MUCH);
    expect(&p);
    assert_true(q3_cudnn_attention_forward(&p.args.f, &p.cuda));
    assert_same_halves(p.o, p.want_o, 11 * 2 * 8);
    close_problem(&p);
}

static void what_cudnn_does_not_take_is_told_once(void **unused)
{
    (void)unused;
    problem p = { .heads = 2, .kv_heads = 1, .D = 8, .causal = true };
    add_segment(&p, 5), add_segment(&p, 6);
    open_problem(&p, MUCH);
    q3_attention_backward_args a = p.args;
    assert_null(q3_cudnn_refusal(&p.cuda));
    p.segments[0][1] = 1; // one query after four keys of a cache
    assert_false(q3_cudnn_attention_forward(&a.f, &p.cuda));
    assert_non_null(strstr(q3_cudnn_refusal(&p.cuda), "cached prefix"));
    p.segments[0][1] = 5;
    a.f.dtype = Q3_F32;
    assert_false(q3_cudnn_attention_forward(&a.f, &p.cuda));
    a = p.args;
    a.dk_beta = 1;
    assert_false(q3_cudnn_attention_backward(&a, &p.cuda));
    a = p.args;
    a.dq = NULL;
    assert_false(q3_cudnn_attention_backward(&a, &p.cuda));
    a = p.args;
    a.f.head_size = 12;
    assert_false(q3_cudnn_attention_forward(&a.f, &p.cuda));
    a = p.args;
    a.f.q = p.q + 1;
    assert_false(q3_cudnn_attention_forward(&a.f, &p.cuda));
    assert_non_null(strstr(q3_cudnn_refusal(&p.cuda), "cached prefix"));
    assert_int_equal(graphs, 0);
    close_problem(&p);
}

static void a_refused_shape_is_asked_about_once(void **unused)
{
    (void)unused;
    problem p = { .heads = 2, .kv_heads = 1, .D = 8, .causal = true };
    add_segment(&p, 5);
    open_problem(&p, MUCH);
    no_deterministic = true;
    assert_false(q3_cudnn_attention_backward(&p.args, &p.cuda));
    assert_false(q3_cudnn_attention_backward(&p.args, &p.cuda));
    assert_int_equal(graphs, 1);
    assert_non_null(strstr(q3_cudnn_refusal(&p.cuda), "deterministic"));
    no_deterministic = false;
    q3_cudnn_set_deterministic(&p.cuda, false);
    assert_true(q3_cudnn_attention_forward(&p.args.f, &p.cuda));
    assert_true(q3_cudnn_attention_backward(&p.args, &p.cuda));
    close_problem(&p);
}

static void workspace_is_what_a_launch_wants_or_is_set_aside(void **unused)
{
    (void)unused;
    problem p = { .heads = 2, .kv_heads = 1, .D = 8, .causal = true };
    add_segment(&p, 5), add_segment(&p, 600);
    open_problem(&p, 256);
    assert_false(q3_cudnn_attention_forward(&p.args.f, &p.cuda));
    assert_non_null(strstr(q3_cudnn_refusal(&p.cuda), "bytes of workspace"));
    const q3_cudnn_shape shape = {
        .heads = 2, .kv_heads = 1, .head_size = 8, .causal = true, .backward = true
    };
    q3_cudnn_set_deterministic(&p.cuda, false);
    size_t bytes = q3_cudnn_workspace_bytes(&p.cuda, &shape, 600);
    assert_int_equal(bytes,
                     16384 * 2 * 4 * (2 + 8) + OWN_WORKSPACE); // stats, dots, dq; buckets fill 16384 rows
    assert_true(q3_cudnn_reserve(&p.cuda, bytes));
    expect(&p);
    assert_true(q3_cudnn_attention_forward(&p.args.f, &p.cuda));
    assert_true(q3_cudnn_attention_backward(&p.args, &p.cuda));
    assert_same_halves(p.dk, p.want_dk, p.rows * 8);
    assert_true(q3_cudnn_reserve(&p.cuda, 0));
    close_problem(&p);
}

static void old_plans_make_room(void **unused)
{
    (void)unused;
    problem p = { .heads = 100, .kv_heads = 1, .D = 8, .causal = true };
    add_segment(&p, 2);
    open_problem(&p, MUCH);
    for (int round = 0; round < 2; round++)
        for (int heads = 1; heads <= 100; heads++) {
            p.args.f.heads = heads;
            assert_true(q3_cudnn_attention_forward(&p.args.f, &p.cuda));
        }
    assert_int_equal(graphs, 200);
    assert_true(q3_cudnn_attention_forward(&p.args.f, &p.cuda));
    assert_int_equal(graphs, 200);
    close_problem(&p);
}

static void a_launch_that_fails_is_the_last(void **unused)
{
    (void)unused;
    problem p = { .heads = 2, .kv_heads = 1, .D = 8, .causal = true };
    add_segment(&p, 5);
    open_problem(&p, MUCH);
    fails_to_run = true;
    assert_false(q3_cudnn_attention_forward(&p.args.f, &p.cuda));
    assert_non_null(strstr(q3_cudnn_refusal(&p.cuda), "as told"));
    fails_to_run = false;
    assert_false(q3_cudnn_attention_forward(&p.args.f, &p.cuda));
    close_problem(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(segments_of_all_lengths_come_back_in_place),
        cmocka_unit_test(full_attention_and_many_segments_take_several_launches),
        cmocka_unit_test(layers_share_plans_and_tables),
        cmocka_unit_test(rows_of_no_segment_get_no_gradient),
        cmocka_unit_test(keys_may_lie_elsewhere_than_queries),
        cmocka_unit_test(what_cudnn_does_not_take_is_told_once),
        cmocka_unit_test(a_refused_shape_is_asked_about_once),
        cmocka_unit_test(workspace_is_what_a_launch_wants_or_is_set_aside),
        cmocka_unit_test(old_plans_make_room),
        cmocka_unit_test(a_launch_that_fails_is_the_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
