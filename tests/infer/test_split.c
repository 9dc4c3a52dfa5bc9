/* A model over several ranks (model/split.h, infer/mirror.h) answers as a whole one does. Started by mpirun; alone it has
 * nothing to share and only looks at slices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "collate/positions.h"
#include "infer/sequence.h"
#include "kernels/gemm.h"
#include "model/split.h"
#include "model/weights.h"
#include "tests/support/golden.h"

enum {
    PROMPTS = 3,
    LENGTH = 70, // of the longest: more than Q3_SPLIT_TOKENS
    TOKENS = 20,
    CACHE = 640,
};

#define MODEL "tests/golden/model-b/model"

static q3_group *group;

/* A model of this process' own, whole or cut. */
typedef struct bed {
    q3_arena run, values, step;
    q3_ctx ctx;
    q3_model model;
    q3_adapters adapters;
} bed;

/* What the prompts are answered with. */
typedef struct answers {
    int32_t ids[PROMPTS][TOKENS];
    float logits[PROMPTS][1024]; // behind the prompts
} answers;

static void ok(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static void open_bed(bed *b, const char *model, const char *adapter, const char *weights)
{
    q3_load_options options = { .values = &b->values };
    *b = (bed){ 0 };
    ok(q3_load_options_word(&options, weights));
    options.values = &b->values;
    ok(q3_arena_create(&b->run, "run", (size_t)64 << 20));
    ok(q3_arena_create(&b->values, "values", (size_t)64 << 20));
    ok(q3_arena_create(&b->step, "step", (size_t)256 << 20));
    ok(q3_ctx_create(&b->ctx, &b->step));
    ok(q3_model_load(&b->model, &b->run, model, &options));
    ok(q3_adapters_create(&b->adapters, &b->run, 1));
    if (adapter)
        ok(q3_adapters_load(&b->adapters, &b->model, &b->run, &b->values, "final", adapter));
}

static void close_bed(bed *b)
{
    q3_model_close(&b->model);
    q3_ctx_destroy(&b->ctx);
    q3_arena_destroy(&b->step);
    q3_arena_destroy(&b->values);
    q3_arena_destroy(&b->run);
}

/* Prompt i: some ids, and in the first one a picture of 4 x 8 patches. */
static q3_prompt prompt_of(bed *b, int i, int adapter)
{
    const q3_model_config *c = &b->model.config;
    int64_t n = LENGTH - 13 * i, width = q3_dim(b->model.patch_embed.w, 1), n_image = 0;
    int32_t *ids = Q3_NEW(&b->run, int32_t, n), *at = Q3_NEW(&b->run, int32_t, 3 * n);
    int32_t *rows = Q3_NEW(&b->run, int32_t, n);
    static const int32_t grid[3] = { 1, 4, 8 };
    float *patches = Q3_NEW(&b->run, float, 32 * width);
    for (int64_t k = 0; k < n; k++) {
        bool image = i == 0 && k >= 30 && k < 38;
        ids[k] = image ? c->image_token : (int32_t)(3 + (k * 7 + i * 31) % 200);
        if (image)
            rows[n_image++] = (int32_t)k;
    }
    for (int64_t k = 0; k < 32 * width; k++)
        patches[k] = sinf((float)k * 0.37f);
    assert_true(q3_positions(at, at + n, at + 2 * n, ids, n, c->image_token, c->video_token, grid, i == 0,
                             c->vision.merge_size) > 0);
    return (q3_prompt){ .ids = ids,
                        .n = n,
                        .positions = at,
                        .n_images = i == 0,
                        .grids = grid,
                        .patches = i == 0 ? patches : NULL,
                        .n_patches = i == 0 ? 32 : 0,
                        .image_rows = rows,
                        .n_image_rows = n_image,
                        .adapter = i == 2 ? -1 : adapter };
}

/* Tokens of a sequence that are not computed yet, at most `chunk`. */
static int64_t due(int64_t *rest, const q3_sequence *s, int64_t chunk)
{
    int64_t length;
    q3_sequence_ids(&length, s);
    *rest = length - q3_sequence_cached(s);
    return *rest < chunk ? *rest : chunk;
}

/* The next token of answer i, whose sequence goes on in a fork of itself at the first. */
static void take(answers *out, q3_sequence **s, int i, int at, const q3_feed *f, int64_t V)
{
    int32_t best = 0;
    for (int64_t v = 1; v < V; v++)
        if (f->values[v] > f->values[best])
            best = (int32_t)v;
    out->ids[i][at] = best;
    if (at == 0) {
        q3_sequence *fork;
        memcpy(out->logits[i], f->values, (size_t)V * sizeof(float));
        ok(q3_sequence_fork(&fork, *s));
        q3_sequence_destroy(*s);
        *s = fork;
    }
    assert_true(q3_sequence_push(*s, &best, 1));
}

/* All prompts side by side, in chunks. */
static void answer(answers *out, q3_engine *e, const q3_prompt *prompts, int64_t chunk)
{
    q3_sequence *s[PROMPTS];
    int64_t V = q3_engine_model(e)->config.text.vocab_size, rest;
    int done[PROMPTS] = { 0 };
    assert_true(V <= 1024);
    for (int i = 0; i < PROMPTS; i++)
        ok(q3_sequence_create(&s[i], e, &prompts[i], prompts[i].n + TOKENS + 1));
    for (int left = PROMPTS * TOKENS; left;) {
        q3_feed feeds[PROMPTS];
        int who[PROMPTS], n = 0;
        for (int i = 0; i < PROMPTS; i++) {
            int64_t now = due(&rest, s[i], chunk);
            if (done[i] == TOKENS)
                continue;
            feeds[n] =
                (q3_feed){ .sequence = s[i], .n = now, .want = now == rest ? Q3_WANT_LAST : Q3_WANT_NOTHING };
            who[n++] = i;
        }
        ok(q3_engine_pass(e, feeds, n, NULL));
        for (int k = 0; k < n; k++)
            if (feeds[k].want == Q3_WANT_LAST) {
                take(out, &s[who[k]], who[k], done[who[k]]++, &feeds[k], V);
                left--;
            }
    }
    for (int i = 0; i < PROMPTS; i++)
        q3_sequence_destroy(s[i]);
    assert_int_equal(q3_engine_free_blocks(e), q3_engine_blocks(e));
}

/* The answers of a model that is cut so among the ranks; only the first rank hears them. */
static void answers_of(answers *out, q3_split_kind kind, const char *model, const char *adapter,
                       const char *weights, int64_t chunk)
{
    bed b;
    q3_engine *e;
    const q3_engine_options options = { .kv_type = Q3_F32, .tokens = CACHE };
    open_bed(&b, model, adapter, weights);
    ok(q3_model_split(&b.model, &b.adapters, &b.run, &b.values, kind, kind == Q3_SPLIT_NONE ? NULL : group));
    ok(q3_engine_create(&e, &b.model, &b.ctx, &b.adapters, &options));
    if (kind != Q3_SPLIT_NONE && q3_group_rank(group)) {
        ok(q3_mirror_follow(e, group));
    } else {
        q3_prompt prompts[PROMPTS];
        for (int i = 0; i < PROMPTS; i++)
            prompts[i] = prompt_of(&b, i, adapter ? 0 : -1);
        answer(out, e, prompts, chunk);
    }
    assert_int_equal(q3_engine_free_blocks(e), q3_engine_blocks(e));
    q3_engine_destroy(e);
    close_bed(&b);
}

static void compare(q3_split_kind kind, const char *model, const char *adapter, const char *weights,
                    int64_t chunk)
{
    static answers whole, cut;
    answers_of(&cut, kind, model, adapter, weights, chunk);
    if (q3_group_rank(group))
        return;
    answers_of(&whole, Q3_SPLIT_NONE, model, adapter, weights, chunk);
    for (int i = 0; i < PROMPTS; i++) {
        assert_memory_equal(cut.ids[i], whole.ids[i], sizeof whole.ids[i]);
        assert_true(q3_golden_distance(cut.logits[i], whole.logits[i], 1024) < 1e-5);
        if (kind == Q3_SPLIT_PIPELINE) // the same sums in the same order
            assert_memory_equal(cut.logits[i], whole.logits[i], sizeof whole.logits[i]);
    }
}

static void ranks_share_heads(void **state)
{
    (void)state;
    compare(Q3_SPLIT_TENSOR, "tests/golden/model-a/model", NULL, "f32", 512);
    compare(Q3_SPLIT_TENSOR, "tests/golden/model-a/model", "tests/golden/model-a/lora-fp32-final", "f32", 16);
    compare(Q3_SPLIT_TENSOR, "tests/golden/model-a/model", NULL, "nf4", 512);
    compare(Q3_SPLIT_TENSOR, "tests/golden/model-a/model", NULL, "int8", 512);
}

static void ranks_share_layers(void **state)
{
    (void)state;
    compare(Q3_SPLIT_PIPELINE, "tests/golden/model-a/model", NULL, "f32", 20);
    compare(Q3_SPLIT_PIPELINE, "tests/golden/model-a/model", "tests/golden/model-a/lora-nf4-final", "nf4",
            512);
}

static void ranks_share_tokens(void **state)
{
    (void)state;
    compare(Q3_SPLIT_SEQUENCE, "tests/golden/model-a/model", NULL, "f32", 512);
    compare(Q3_SPLIT_SEQUENCE, "tests/golden/model-a/model", "tests/golden/model-a/lora-fp32-final", "f32",
            40);
    compare(Q3_SPLIT_SEQUENCE, MODEL, NULL, "nf4", 40);
}

static void what_ranks_cannot_share_is_refused(void **state)
{
    (void)state;
    bed b;
    if (q3_group_size(group) <= 1)
        return;
    open_bed(&b, MODEL, NULL, "f32"); // one key head
    assert_int_equal(q3_model_split(&b.model, NULL, &b.run, &b.values, Q3_SPLIT_TENSOR, group), Q3_ERR_USAGE);
    close_bed(&b);
    open_bed(&b, MODEL, NULL, "f32"); // pictures go into all three layers
    assert_int_equal(q3_model_split(&b.model, NULL, &b.run, &b.values, Q3_SPLIT_PIPELINE, group),
                     Q3_ERR_USAGE);
    close_bed(&b);
}

static int join(void **state)
{
    (void)state;
    return q3_group_join(&group) != Q3_OK;
}

static int leave(void **state)
{
    (void)state;
    q3_group_leave(group);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_share_heads),
        cmocka_unit_test(ranks_share_layers),
        cmocka_unit_test(ranks_share_tokens),
        cmocka_unit_test(what_ranks_cannot_share_is_refused),
    };
    return cmocka_run_group_tests(tests, join, leave);
}
