#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collate/pack.h"
#include "core/file.h"
#include "core/safetensors.h"
#include "core/sha256.h"
#include "infer/sequence.h"
#include "model/weights.h"
#include "tests/support/golden.h"
#include "tests/support/golden_prompts.h"

enum { ROWS = T_PROMPTS, LENGTH = 31, TOKENS = T_ANSWER, MODELS = T_MODELS, CACHE = 640, IMAGES = 4 };

/* The golden models and prompts, with hashes for their pictures, and adapters of model-a. */
typedef t_bed bed;
#define beds t_beds

static unsigned char hashes_of[MODELS][ROWS][IMAGES][Q3_PICTURE_HASH_BYTES];
static q3_adapters adapters; // before and after training, and a third

static void ok(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static void hash_pictures(unsigned char hashes[IMAGES][Q3_PICTURE_HASH_BYTES], q3_prompt *p, int64_t width)
{
    const float *patches = p->patches;
    assert_true(p->n_images <= IMAGES);
    for (int i = 0; i < p->n_images; i++) {
        const int32_t *g = p->grids + 3 * (ptrdiff_t)i;
        int64_t n = (int64_t)g[0] * g[1] * g[2] * width;
        q3_sha256 s;
        q3_sha256_begin(&s);
        q3_sha256_add(&s, g, 3 * sizeof *g);
        q3_sha256_add(&s, patches, (size_t)n * sizeof *patches);
        q3_sha256_end(hashes[i], &s);
        patches += n;
    }
    p->hashes = (const unsigned char(*)[Q3_PICTURE_HASH_BYTES])hashes;
}

static int setup(void **state)
{
    bed *a = &beds[0];
    if (t_beds_open(state) != 0)
        return -1;
    for (int i = 0; i < MODELS; i++)
        for (int row = 0; row < ROWS; row++)
            hash_pictures(hashes_of[i][row], &beds[i].prompts[row], q3_dim(beds[i].model.patch_embed.w, 1));
    ok(q3_adapters_create(&adapters, &a->run, 4));
    ok(q3_adapters_load(&adapters, &a->model, &a->run, &a->values, "init",
                        "tests/golden/model-a/lora-fp32-init"));
    ok(q3_adapters_load(&adapters, &a->model, &a->run, &a->values, "final",
                        "tests/golden/model-a/lora-fp32-final"));
    ok(q3_adapters_load(&adapters, &a->model, &a->run, &a->values, "third",
                        "tests/golden/model-a/lora-nf4-final"));
    return 0;
}

static q3_engine *engine_of(bed *t, q3_engine_options o)
{
    q3_engine *e;
    o.tokens = o.tokens ? o.tokens : CACHE;
    o.feature_bytes = o.feature_bytes ? o.feature_bytes : 1 << 20;
    ok(q3_engine_create(&e, &t->model, &t->ctx, t == &beds[0] ? &adapters : NULL, &o));
    return e;
}

static q3_engine *engine(bed *t)
{
    return engine_of(t, (q3_engine_options){ .kv_type = Q3_DTYPES });
}

/* All blocks must have come back. */
static void close_engine(q3_engine *e)
{
    assert_int_equal(q3_engine_free_blocks(e), q3_engine_blocks(e));
    q3_engine_destroy(e);
}

static q3_sequence *begin(q3_engine *e, const q3_prompt *p)
{
    q3_sequence *s;
    ok(q3_sequence_create(&s, e, p, p->n + 2 * TOKENS));
    return s;
}

static int64_t rest(const q3_sequence *s)
{
    int64_t n;
    q3_sequence_ids(&n, s);
    return n - q3_sequence_cached(s);
}

/* The next tokens of all sequences: at most `chunk` each (0: all); logits of the last where they end. */
static void pass(q3_engine *e, q3_feed *feeds, q3_sequence *const *s, int n, int64_t chunk, q3_want want)
{
    for (int i = 0; i < n; i++) {
        int64_t all = rest(s[i]), now = chunk && chunk < all ? chunk : all;
        assert_true(q3_sequence_reserve(s[i], now));
        feeds[i] = (q3_feed){ .sequence = s[i], .n = now, .want = now == all ? want : Q3_WANT_NOTHING };
    }
    ok(q3_engine_pass(e, feeds, n, NULL));
}

/* Runs one sequence to its end, and copies the logits behind it. */
static void logits_of(float *out, q3_engine *e, q3_sequence *s, int64_t chunk)
{
    q3_feed feed;
    do
        pass(e, &feed, &s, 1, chunk, Q3_WANT_LAST);
    while (rest(s));
    memcpy(out, feed.values, (size_t)q3_engine_model(e)->config.text.vocab_size * sizeof *out);
}

/* Greedy answers of n sequences together: out [n, TOKENS]. Prompts go in chunks, side by side with tokens. */
static void generate(int32_t *out, q3_engine *e, q3_sequence *const *s, int n, int64_t chunk)
{
    int done[ROWS] = { 0 };
    for (int left = n; left;) {
        q3_feed feeds[ROWS];
        q3_sequence *open[ROWS];
        int who[ROWS], k = 0;
        for (int i = 0; i < n; i++)
            if (done[i] < TOKENS) {
                who[k] = i;
                open[k++] = s[i];
            }
        pass(e, feeds, open, k, chunk, Q3_WANT_LIKELIEST);
        for (int i = 0; i < k; i++)
            if (feeds[i].want == Q3_WANT_LIKELIEST) {
                out[who[i] * TOKENS + done[who[i]]++] = feeds[i].likeliest;
                assert_true(q3_sequence_push(open[i], &feeds[i].likeliest, 1));
                left -= done[who[i]] == TOKENS;
            }
    }
}

static void assert_golden(const bed *t, const int32_t *ids, int row)
{
    for (int i = 0; i < TOKENS; i++)
        assert_int_equal(ids[i], t->tokens[row * TOKENS + i]);
}

static void greedy_answers_equal_the_reference(void **state)
{
    (void)state;
    static const int64_t chunks[] = { 0, 5, 1 };
    for (int k = 0; k < MODELS * 3; k++) {
        bed *t = &beds[k % MODELS];
        q3_engine *e = engine(t);
        q3_sequence *s[ROWS];
        int32_t out[ROWS * TOKENS];
        for (int i = 0; i < ROWS; i++)
            s[i] = begin(e, &t->prompts[i]);
        generate(out, e, s, ROWS, chunks[k / MODELS]);
        for (int i = 0; i < ROWS; i++) {
            assert_golden(t, out + i * TOKENS, i);
            q3_sequence_destroy(s[i]);
        }
        close_engine(e);
    }
}

static void a_sequence_alone_gives_the_same_answer(void **state)
{
    (void)state;
    for (int k = 0; k < MODELS * ROWS; k++) {
        bed *t = &beds[k % MODELS];
        q3_engine *e = engine_of(t, (q3_engine_options){ .kv_type = Q3_F32, .no_sharing = k % 2 != 0 });
        q3_sequence *s = begin(e, &t->prompts[k / MODELS]);
        int32_t out[TOKENS];
        generate(out, e, &s, 1, 0);
        assert_golden(t, out, k / MODELS);
        q3_sequence_destroy(s);
        close_engine(e);
    }
}

/* Logits behind a prompt of n ids, all at once and without a cache. */
static void uncached(float *out, bed *t, const q3_prompt *p, const int32_t *ids, int64_t n)
{
    int32_t *positions = Q3_NEW(&t->run, int32_t, 3 * n), row = (int32_t)n - 1, last = 0;
    const int64_t begins[2] = { 0, n };
    for (int64_t i = 0; i < 3 * p->n; i++)
        last = p->positions[i] > last ? p->positions[i] : last;
    for (int axis = 0; axis < 3; axis++)
        for (int64_t i = 0; i < n; i++)
            positions[axis * n + i] =
                i < p->n ? p->positions[axis * p->n + i] : last + 1 + (int32_t)(i - p->n);
    const q3_batch b = { .n_rows = 1,
                         .n_tokens = n,
                         .row_begin = begins,
                         .ids = ids,
                         .positions = positions,
                         .n_images = p->n_images,
                         .grids = p->grids,
                         .patches = p->patches,
                         .n_patches = p->n_patches,
                         .image_rows = p->image_rows,
                         .n_image_rows = p->n_image_rows };
    q3_step_begin(&t->ctx, false);
    q3_read(out, &t->ctx, q3_qwen3vl_logits(&t->ctx, &t->model, &(q3_forward){ 0 }, &b, &row, 1));
    ok(q3_ctx_status(&t->ctx));
}

static void cached_logits_equal_those_without_a_cache(void **state)
{
    (void)state;
    static const int64_t chunks[] = { 0, 1, 5, 16 };
    static const int32_t more[] = { 17, 200, 4, 99, 5 };
    for (int k = 0; k < MODELS * ROWS * 4; k++) {
        bed *t = &beds[k % MODELS];
        const q3_prompt *p = &t->prompts[k / MODELS % ROWS];
        int64_t V = t->model.config.text.vocab_size, n;
        q3_engine *e = engine(t);
        q3_sequence *s = begin(e, p);
        float *got = Q3_NEW(&t->run, float, V), *want = Q3_NEW(&t->run, float, V);
        for (int round = 0; round < 2; round++) {
            logits_of(got, e, s, chunks[k / MODELS / ROWS]);
            const int32_t *ids = q3_sequence_ids(&n, s);
            uncached(want, t, p, ids, n);
            assert_true(q3_golden_distance(got, want, V) < 1e-5);
            assert_true(q3_sequence_push(s, more, 5));
        }
        q3_sequence_destroy(s);
        close_engine(e);
    }
}

static void a_picture_goes_through_the_tower_once(void **state)
{
    (void)state;
    bed *t = &beds[0];
    q3_engine *e = engine(t);
    int64_t V = t->model.config.text.vocab_size, pictures = 0;
    float *first = Q3_NEW(&t->run, float, V), *again = Q3_NEW(&t->run, float, V);
    for (int i = 0; i < ROWS; i++) {
        const q3_prompt *p = &t->prompts[i];
        q3_sequence *s = begin(e, p);
        logits_of(first, e, s, 3);
        pictures += p->n_images;
        assert_int_equal(q3_features_seen(e->features), pictures);
        q3_sequence_destroy(s);
        s = begin(e, p);
        assert_int_equal(q3_sequence_found(s), p->n == 16 ? 15 : p->n / 16 * 16);
        q3_sequence_evict(s);
        logits_of(again, e, s, 3);
        assert_memory_equal(first, again, (size_t)V * sizeof *first);
        assert_int_equal(q3_features_seen(e->features), pictures);
        q3_sequence_destroy(s);
    }
    assert_true(pictures > 1);
    close_engine(e);
}

/* A long prompt with a picture: that of row `row` with ids behind it. */
static q3_prompt longer(bed *t, int row, int64_t more, int32_t id)
{
    q3_prompt p = t->prompts[row];
    int64_t n = p.n + more;
    int32_t *ids = Q3_NEW(&t->run, int32_t, n), *positions = Q3_NEW(&t->run, int32_t, 3 * n), last = 0;
    for (int64_t i = 0; i < 3 * p.n; i++)
        last = p.positions[i] > last ? p.positions[i] : last;
    for (int64_t i = 0; i < n; i++)
        ids[i] = i < p.n ? p.ids[i] : (id + (int32_t)i * 7) % 200;
    for (int axis = 0; axis < 3; axis++)
        for (int64_t i = 0; i < n; i++)
            positions[axis * n + i] = i < p.n ? p.positions[axis * p.n + i] : last + 1 + (int32_t)(i - p.n);
    p.ids = ids;
    p.positions = positions;
    p.n = n;
    return p;
}

static void prompts_that_begin_alike_share_blocks(void **state)
{
    (void)state;
    bed *t = &beds[0];
    q3_engine *e = engine(t);
    int64_t V = t->model.config.text.vocab_size, n0 = t->prompts[1].n;
    float *shared = Q3_NEW(&t->run, float, V), *alone = Q3_NEW(&t->run, float, V);
    q3_prompt a = longer(t, 1, 40, 3), b = longer(t, 1, 37, 3);
    int32_t *ids = Q3_NEW(&t->run, int32_t, b.n);
    memcpy(ids, b.ids, (size_t)b.n * sizeof *ids);
    ids[n0 + 20] = 1; // from here on the second says something else
    b.ids = ids;
    q3_sequence *s = begin(e, &a);
    logits_of(shared, e, s, 0);
    int64_t used = q3_engine_blocks(e) - q3_engine_free_blocks(e);
    q3_sequence *other = begin(e, &b);
    assert_int_equal(q3_sequence_found(other), (n0 + 20) / 16 * 16);
    assert_int_equal(q3_engine_blocks(e) - q3_engine_free_blocks(e), used);
    logits_of(shared, e, other, 0);
    assert_int_equal(q3_features_seen(e->features), a.n_images);
    uncached(alone, t, &b, b.ids, b.n);
    assert_true(q3_golden_distance(shared, alone, V) < 1e-5);
    q3_sequence_destroy(other);
    q3_sequence_destroy(s);

    unsigned char hashes[IMAGES][Q3_PICTURE_HASH_BYTES] = { { 1 } }; // another picture
    b.hashes = (const unsigned char(*)[Q3_PICTURE_HASH_BYTES])hashes;
    other = begin(e, &b);
    assert_int_equal(q3_sequence_found(other), a.image_rows[0] / 16 * 16);
    q3_sequence_destroy(other);
    b = a;
    b.hashes = NULL; // pictures that nobody knows
    other = begin(e, &b);
    assert_int_equal(q3_sequence_found(other), a.image_rows[0] / 16 * 16);
    q3_sequence_destroy(other);
    b = a;
    b.adapter = 1;
    other = begin(e, &b);
    assert_int_equal(q3_sequence_found(other), 0);
    q3_sequence_destroy(other);
    close_engine(e);
}

static void a_known_prompt_of_whole_blocks_computes_its_last_token_alone(void **state)
{
    (void)state;
    bed *t = &beds[0];
    q3_engine *e = engine(t);
    int64_t V = t->model.config.text.vocab_size;
    float *first = Q3_NEW(&t->run, float, V), *again = Q3_NEW(&t->run, float, V);
    const q3_prompt p = longer(t, 1, 64 - t->prompts[1].n, 9);
    q3_sequence *s = begin(e, &p), *other;
    logits_of(first, e, s, 0);
    other = begin(e, &p); // while the first has the blocks
    assert_int_equal(q3_sequence_found(other), 63);
    logits_of(again, e, other, 0);
    assert_true(q3_golden_distance(again, first, V) < 1e-6);
    q3_sequence_destroy(s);
    q3_sequence_destroy(other);
    other = begin(e, &p); // nobody has them
    assert_int_equal(q3_sequence_found(other), 63);
    logits_of(again, e, other, 0);
    assert_true(q3_golden_distance(again, first, V) < 1e-6);
    q3_sequence_destroy(other);
    close_engine(e);
}

static void forks_that_go_apart_equal_sequences_of_their_own(void **state)
{
    (void)state;
    static const int32_t words[3][4] = { { 17, 200, 4, 99 }, { 17, 3, 3, 3 }, { 8, 200, 4, 99 } };
    for (int m = 0; m < MODELS; m++)
        for (int row = 0; row < ROWS; row++) {
            bed *t = &beds[m];
            int64_t V = t->model.config.text.vocab_size;
            float *got = Q3_NEW(&t->run, float, V), *want = Q3_NEW(&t->run, float, V);
            q3_engine *e = engine(t);
            q3_sequence *s[3] = { begin(e, &t->prompts[row]) };
            logits_of(got, e, s[0], 0);
            ok(q3_sequence_fork(&s[1], s[0]));
            ok(q3_sequence_fork(&s[2], s[1]));
            q3_feed feeds[3];
            for (int i = 0; i < 3; i++) {
                assert_true(q3_sequence_push(s[i], words[i], 4));
                assert_true(q3_sequence_reserve(s[i], 4));
                feeds[i] = (q3_feed){ .sequence = s[i], .n = 4, .want = Q3_WANT_ALL };
            }
            ok(q3_engine_pass(e, feeds, 3, NULL));
            float *all = Q3_NEW(&t->run, float, 12 * V);
            for (int i = 0; i < 3; i++)
                memcpy(all + 4 * i * V, feeds[i].values, 4 * (size_t)V * sizeof *all);
            for (int i = 0; i < 3; i++)
                for (int64_t k = 0; k < 4; k++) {
                    int64_t n;
                    const int32_t *ids = q3_sequence_ids(&n, s[i]);
                    uncached(want, t, &t->prompts[row], ids, n - 3 + k);
                    assert_true(q3_golden_distance(all + (4 * i + k) * V, want, V) < 1e-5);
                }
            q3_sequence_destroy(s[1]);
            q3_sequence_destroy(s[0]);
            q3_sequence_destroy(s[2]);
            close_engine(e);
        }
}

static void wrong_guesses_leave_no_trace(void **state)
{
    (void)state;
    static const int32_t guesses[20] = { 5, 6, 7, 8, 9, 10, 11 };
    for (int row = 0; row < ROWS; row++) {
        bed *t = &beds[1];
        q3_engine *e = engine(t);
        q3_sequence *s = begin(e, &t->prompts[row]);
        int32_t out[TOKENS];
        for (int i = 0; i < TOKENS; i++) {
            q3_feed feed;
            int64_t n;
            pass(e, &feed, &s, 1, 0, Q3_WANT_LIKELIEST);
            out[i] = feed.likeliest;
            assert_true(q3_sequence_push(s, &out[i], 1));
            if (i % 3)
                continue;
            q3_sequence_ids(&n, s);
            assert_true(q3_sequence_push(s, guesses, 20));
            pass(e, &feed, &s, 1, 0, Q3_WANT_NOTHING);
            q3_sequence_truncate(s, n);
            assert_int_equal(q3_sequence_cached(s), n);
            q3_sequence_truncate(s, n - 1); // its logits have not been asked for
            assert_true(q3_sequence_push(s, &out[i], 1));
        }
        assert_golden(t, out, row);
        q3_sequence_destroy(s);
        close_engine(e);
    }
}

static void an_evicted_sequence_is_computed_again(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        bed *t = &beds[m];
        q3_engine *e = engine(t);
        q3_sequence *s[ROWS];
        int32_t out[ROWS * TOKENS];
        for (int i = 0; i < ROWS; i++)
            s[i] = begin(e, &t->prompts[i]);
        for (int k = 0; k < TOKENS; k++) {
            q3_feed feeds[ROWS];
            pass(e, feeds, s, ROWS, 0, Q3_WANT_LIKELIEST);
            for (int i = 0; i < ROWS; i++) {
                out[i * TOKENS + k] = feeds[i].likeliest;
                assert_true(q3_sequence_push(s[i], &feeds[i].likeliest, 1));
            }
            if (k % 5 == 0)
                q3_sequence_evict(s[k % ROWS]);
        }
        for (int i = 0; i < ROWS; i++) {
            assert_golden(t, out + i * TOKENS, i);
            q3_sequence_destroy(s[i]);
        }
        close_engine(e);
    }
}

static void a_full_cache_refuses_and_forgets_what_nobody_uses(void **state)
{
    (void)state;
    bed *t = &beds[0];
    q3_engine *e = engine_of(t, (q3_engine_options){ .kv_type = Q3_F32, .tokens = 70 });
    assert_int_equal(q3_engine_blocks(e), 5);
    const q3_prompt p = longer(t, 0, 80 - t->prompts[0].n, 3);
    q3_sequence *s = begin(e, &p), *other = begin(e, &t->prompts[1]);
    assert_false(q3_sequence_reserve(s, p.n + 1));
    assert_int_equal(q3_engine_free_blocks(e), 5);
    assert_true(q3_sequence_reserve(s, p.n));
    assert_false(q3_sequence_reserve(other, 1));
    float *x = Q3_NEW(&t->run, float, t->model.config.text.vocab_size);
    logits_of(x, e, s, 0);
    q3_sequence_destroy(s);
    assert_int_equal(q3_engine_free_blocks(e), 5);
    logits_of(x, e, other, 0); // takes the ends of the other's prefix
    s = begin(e, &p);
    assert_int_equal(q3_sequence_found(s), 16 * (5 - (t->prompts[1].n + 15) / 16));
    q3_sequence_destroy(s);
    q3_sequence_destroy(other);
    close_engine(e);
}

static void adapters_and_the_base_in_one_pass_equal_each_alone(void **state)
{
    (void)state;
    bed *t = &beds[0];
    int64_t V = t->model.config.text.vocab_size;
    float *alone = Q3_NEW(&t->run, float, 6 * V);
    q3_prompt p[6];
    q3_sequence *s[6];
    q3_feed feeds[6];
    q3_engine *e = engine(t);
    for (int i = 0; i < 6; i++) {
        p[i] = t->prompts[i / 2];
        p[i].adapter = 1 - i % 3;
        s[i] = begin(e, &p[i]);
        logits_of(alone + i * V, e, s[i], 0);
        q3_sequence_destroy(s[i]);
        s[i] = begin(e, &p[i]);
        q3_sequence_evict(s[i]);
    }
    pass(e, feeds, s, 6, 0, Q3_WANT_LAST);
    for (int i = 0; i < 6; i++)
        assert_true(q3_golden_distance(feeds[i].values, alone + i * V, V) < 1e-5);
    // what each means is fixed by the old way of loading one
    assert_true(q3_golden_distance(alone, alone + V, V) > 1e-4);
    for (int i = 0; i < 6; i++)
        q3_sequence_destroy(s[i]);
    close_engine(e);
}

static double log_p(const float *logits, int64_t vocab, int32_t id)
{
    double sum = 0;
    for (int64_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i]);
    return logits[id] - log(sum);
}

/* The score of a choice, token by token without a cache. */
static double uncached_score(bed *t, const q3_prompt *p, const q3_choice *c)
{
    float logits[512];
    int32_t ids[LENGTH + 8];
    double sum = 0, any = 0;
    int64_t V = t->model.config.text.vocab_size;
    assert_true(V <= 512);
    memcpy(ids, p->ids, (size_t)p->n * sizeof *ids);
    memcpy(ids + p->n, c->ids, (size_t)c->n * sizeof *ids);
    for (int64_t k = 0; k < c->n; k++) {
        uncached(logits, t, p, ids, p->n + k);
        sum += log_p(logits, V, c->ids[k]);
    }
    uncached(logits, t, p, ids, p->n + c->n);
    for (int64_t k = 0; k < c->n_any; k++)
        any += exp(log_p(logits, V, c->any[k]));
    return c->n_any ? sum + log(any) : sum;
}

static void scores_equal_those_without_a_cache(void **state)
{
    (void)state;
    static const int32_t ids[] = { 17, 200, 4, 99, 5 }, other[] = { 17, 200, 8 }, any[] = { 1, 50, 300 };
    const q3_choice choices[] = {
        { ids, 5, NULL, 0 }, { other, 3, any, 3 }, { ids + 1, 1, NULL, 0 }, { other, 1, any, 2 }
    };
    for (int m = 0; m < MODELS; m++) {
        bed *t = &beds[m];
        double want[ROWS * 4], got[ROWS * 4];
        for (int i = 0; i < 4 * ROWS; i++)
            want[i] = uncached_score(t, &t->prompts[i / 4], &choices[i % 4]);
        for (int small = 0; small < 2; small++) {
            q3_engine *e = engine_of(t, (q3_engine_options){ .kv_type = Q3_F32, .tokens = small ? 64 : 0 });
            ok(q3_engine_score(got, e, t->prompts, ROWS, choices, 4));
            for (int i = 0; i < 4 * ROWS; i++)
                assert_true(fabs(got[i] - want[i]) < 1e-5 * fabs(want[i]));
            for (int n = 0; n < 5; n++) { // one at a time, two at a time ...
                ok(q3_engine_score(got, e, t->prompts + 1, 1, choices, n));
                for (int a = 0; a < n; a++)
                    assert_true(fabs(got[a] - want[4 + a]) < 1e-5 * fabs(want[4 + a]));
            }
            close_engine(e);
        }
    }
}

/* Of the softmaxes: sum p log(p / q). */
static double divergence(const float *p, const float *q, int64_t n)
{
    double all[2] = { 0 }, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        all[0] += exp((double)p[i]);
        all[1] += exp((double)q[i]);
    }
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)p[i]) / all[0] * ((double)p[i] - q[i] - log(all[0]) + log(all[1]));
    return sum;
}

/* Bounds are three times what these models show. */
static void fewer_bits_cost_little(void **state)
{
    (void)state;
    static const struct {
        q3_dtype type;
        double distance, divergence;
    } kinds[] = { { Q3_BF16, 1e-2, 1e-5 }, { Q3_I8, 4e-2, 2e-4 }, { Q3_I4, 6e-1, 3e-2 } };
    for (int k = 0; k < MODELS * 3; k++) {
        bed *t = &beds[k % MODELS];
        q3_dtype type = kinds[k / MODELS].type;
        if (type == Q3_I4 && t->model.config.text.head_dim % Q3_KV_I4_GROUP)
            continue;
        int64_t V = t->model.config.text.vocab_size;
        const q3_prompt p = longer(t, 1, 60, 3);
        float *got = Q3_NEW(&t->run, float, V), *want = Q3_NEW(&t->run, float, V);
        q3_engine *e = engine_of(t, (q3_engine_options){ .kv_type = type });
        q3_sequence *s = begin(e, &p);
        logits_of(got, e, s, 7);
        uncached(want, t, &p, p.ids, p.n);
        double distance = q3_golden_distance(got, want, V), far = divergence(want, got, V);
        assert_true(distance < kinds[k / MODELS].distance && far < kinds[k / MODELS].divergence);
        assert_true(distance > 1e-6);
        q3_sequence_destroy(s);
        close_engine(e);
    }
}

static void a_type_that_heads_do_not_allow_is_refused(void **state)
{
    (void)state;
    q3_engine *e;
    for (int m = 0; m < MODELS; m++)
        if (beds[m].model.config.text.head_dim % Q3_KV_I4_GROUP) {
            const q3_engine_options o = { .kv_type = Q3_I4, .tokens = CACHE };
            assert_int_equal(q3_engine_create(&e, &beds[m].model, &beds[m].ctx, NULL, &o), Q3_ERR_USAGE);
            assert_null(e);
        }
    const q3_engine_options o = { .kv_type = Q3_F16, .tokens = CACHE };
    assert_int_equal(q3_engine_create(&e, &beds[0].model, &beds[0].ctx, NULL, &o), Q3_ERR_USAGE);
}

/* Tokens further back than (window - 1) layers are out of reach of the last. */
static void a_window_hides_what_lies_before_it(void **state)
{
    (void)state;
    bed *t = &beds[0];
    int64_t V = t->model.config.text.vocab_size, reach = 2 * t->model.config.text.layers + 1;
    q3_prompt p = longer(t, 0, 60, 3), other = p;
    int32_t *ids = Q3_NEW(&t->run, int32_t, p.n);
    memcpy(ids, p.ids, (size_t)p.n * sizeof *ids);
    ids[p.n - 1 - reach] ^= 1;
    other.ids = ids;
    float *x[4] = { 0 };
    for (int i = 0; i < 4; i++)
        x[i] = Q3_NEW(&t->run, float, V);
    q3_engine *e = engine_of(t, (q3_engine_options){ .kv_type = Q3_F32, .window = 3, .no_sharing = true });
    const q3_prompt *prompts[] = { &p, &p, &other };
    for (int i = 0; i < 3; i++) {
        q3_sequence *s = begin(e, prompts[i]);
        logits_of(x[i], e, s, i == 1 ? 5 : 0);
        q3_sequence_destroy(s);
    }
    close_engine(e);
    assert_true(q3_golden_distance(x[1], x[0], V) < 1e-5);
    assert_true(q3_golden_distance(x[2], x[0], V) < 1e-7);
    uncached(x[3], t, &p, p.ids, p.n);
    assert_true(q3_golden_distance(x[0], x[3], V) > 1e-3);
    e = engine_of(t, (q3_engine_options){ .kv_type = Q3_F32, .window = p.n });
    q3_sequence *s = begin(e, &p);
    logits_of(x[0], e, s, 5);
    assert_true(q3_golden_distance(x[0], x[3], V) < 1e-5);
    q3_sequence_destroy(s);
    close_engine(e);
}

static void each_feed_gets_what_it_wants(void **state)
{
    (void)state;
    static const q3_want wants[5] = { Q3_WANT_HIDDEN, Q3_WANT_ALL, Q3_WANT_LIKELIEST, Q3_WANT_NOTHING,
                                      Q3_WANT_LAST };
    for (int m = 0; m < MODELS; m++) {
        bed *t = &beds[m];
        int64_t V = t->model.config.text.vocab_size, C = t->model.config.text.hidden_size;
        float *head = Q3_NEW(&t->run, float, V *C), *want = Q3_NEW(&t->run, float, V),
              *got = Q3_NEW(&t->run, float, V);
        q3_device_read(t->cuda, head, t->model.head->data, (size_t)(V * C) * sizeof *head);
        q3_engine *e = engine_of(t, (q3_engine_options){ .kv_type = Q3_F32, .no_sharing = true });
        q3_sequence *s[5];
        q3_feed feeds[5];
        for (int i = 0; i < 5; i++) {
            s[i] = begin(e, &t->prompts[(i + 1) % ROWS]);
            assert_true(q3_sequence_reserve(s[i], rest(s[i])));
            feeds[i] = (q3_feed){ .sequence = s[i], .n = rest(s[i]), .want = wants[i] };
        }
        ok(q3_engine_pass(e, feeds, 5, NULL));
        const float *hidden = feeds[0].values;
        assert_non_null(hidden);
        for (int64_t v = 0; v < V; v++) {
            double sum = 0;
            for (int64_t c = 0; c < C; c++)
                sum += (double)hidden[c] * head[v * C + c];
            got[v] = (float)sum;
        }
        float *all = Q3_NEW(&t->run, float, t->prompts[2].n *V), *last = Q3_NEW(&t->run, float, V);
        memcpy(all, feeds[1].values, (size_t)(t->prompts[2].n * V) * sizeof *all);
        memcpy(last, feeds[4].values, (size_t)V * sizeof *last);
        assert_null(feeds[2].values);
        assert_null(feeds[3].values);
        assert_int_equal(feeds[2].likeliest, t->tokens[0]);
        uncached(want, t, &t->prompts[1], t->prompts[1].ids, t->prompts[1].n);
        assert_true(q3_golden_distance(got, want, V) < 1e-5);
        uncached(want, t, &t->prompts[2], t->prompts[2].ids, t->prompts[2].n);
        assert_true(q3_golden_distance(all + (t->prompts[2].n - 1) * V, want, V) < 1e-5);
        uncached(want, t, &t->prompts[2], t->prompts[2].ids, 26); // behind both pictures
        assert_true(q3_golden_distance(all + 25 * V, want, V) < 1e-5);
        uncached(want, t, &t->prompts[2], t->prompts[2].ids, t->prompts[2].n);
        assert_true(q3_golden_distance(last, want, V) < 1e-5);
        for (int i = 0; i < 5; i++)
            q3_sequence_destroy(s[i]);
        close_engine(e);
    }
}

static void the_feed_that_is_not_finite_is_named(void **state)
{
    (void)state;
    bed *t = &beds[0];
    static const q3_want wants[] = { Q3_WANT_LAST, Q3_WANT_ALL, Q3_WANT_LIKELIEST, Q3_WANT_HIDDEN,
                                     Q3_WANT_CANDIDATES };
    const q3_adapter_part *part = &adapters.list[2].parts[t->model.layers[0].q.stream];
    float kept, bad = NAN;
    q3_device_read(t->cuda, &kept, part->b->data, sizeof kept);
    q3_device_write(t->cuda, part->b->data, &bad, sizeof bad);
    for (int k = 0; k < 5; k++) {
        q3_engine *e = engine(t);
        q3_prompt p[ROWS];
        q3_sequence *s[ROWS];
        q3_feed feeds[ROWS];
        int flawed = 7;
        for (int i = 0; i < ROWS; i++) {
            p[i] = t->prompts[i];
            p[i].adapter = i == 1 ? 2 : i - 1;
            s[i] = begin(e, &p[i]);
            assert_true(q3_sequence_reserve(s[i], p[i].n));
            feeds[i] =
                (q3_feed){ .sequence = s[i], .n = p[i].n, .want = wants[k], .temperature = 1, .top_k = 3 };
        }
        assert_int_equal(q3_engine_pass(e, feeds, ROWS, &flawed), Q3_ERR_FAIL);
        assert_int_equal(flawed, 1);
        assert_non_null(strstr(q3_error(), "not finite"));
        for (int i = 0; i < ROWS; i++)
            assert_int_equal(q3_sequence_cached(s[i]), 0);
        feeds[1] = feeds[2];
        ok(q3_engine_pass(e, feeds, 2, &flawed));
        assert_int_equal(flawed, -1);
        for (int i = 0; i < ROWS; i++)
            q3_sequence_destroy(s[i]);
        close_engine(e);
    }
    q3_device_write(t->cuda, part->b->data, &kept, sizeof kept);
}

static void a_merged_adapter_equals_one_beside_the_model(void **state)
{
    (void)state;
    bed *t = &beds[0], merged = { 0 };
    int64_t V = t->model.config.text.vocab_size;
    float *x = Q3_NEW(&t->run, float, V), *y = Q3_NEW(&t->run, float, V);
    ok(q3_model_load(&merged.model, &t->run, "tests/golden/model-a/model",
                     &(q3_load_options){ .values = &t->values }));
    ok(q3_adapter_merge(&merged.model, &t->values, &adapters.list[1]));
    for (int row = 0; row < ROWS; row++) {
        q3_prompt p = t->prompts[row];
        q3_engine *e, *other = engine(t);
        ok(q3_engine_create(&e, &merged.model, &t->ctx, NULL, &(q3_engine_options){ .tokens = CACHE }));
        q3_sequence *s = begin(e, &p);
        logits_of(x, e, s, 0);
        q3_sequence_destroy(s);
        close_engine(e);
        p.adapter = 1;
        s = begin(other, &p);
        logits_of(y, other, s, 0);
        q3_sequence_destroy(s);
        close_engine(other);
        assert_true(q3_golden_distance(x, y, V) < 1e-5);
    }
    q3_model_close(&merged.model);
}

/* Adapters on the tower, of which only saved and loaded ones are known to the engine. */
static void an_adapter_of_the_tower_has_features_of_its_own(void **state)
{
    (void)state;
    static const char *const targets[] = { "attn.qkv", "mlp.linear_fc1", "linear_fc2", "q_proj" };
    const q3_lora_config config = { .r = 2, .alpha = 4, .targets = targets, .n_targets = 4, .base = "model" };
    bed *t = &beds[0];
    int64_t V = t->model.config.text.vocab_size;
    const char *dir = getenv("Q3_TEST_DIR");
    char *path = q3_arena_printf(&t->run, "%s/tower", dir ? dir : "/tmp/q3-test");
    float *want = Q3_NEW(&t->run, float, V), *bare = Q3_NEW(&t->run, float, V);
    q3_prompt p = t->prompts[2];
    uncached(bare, t, &p, p.ids, p.n);
    q3_trainable lora;
    q3_lora_config read;
    ok(q3_dir_create(path));
    ok(q3_lora_create(&lora, &t->model, &t->run, &config, 3));
    for (int i = 1; i < lora.n_slots; i += 2) { // B is zero otherwise
        float *b = Q3_NEW(&t->run, float, lora.slots[i].n);
        for (int64_t k = 0; k < lora.slots[i].n; k++)
            b[k] = 0.02f * (float)(k % 11) - 0.1f;
        ok(q3_trainable_set(&lora, i, b, Q3_F32));
    }
    ok(q3_lora_save(&lora, &config, path));
    ok(q3_lora_load(&lora, &read, &t->model, &t->run, path));
    uncached(want, t, &p, p.ids, p.n);
    assert_true(q3_golden_distance(want, bare, V) > 1e-3);
    ok(q3_adapters_load(&adapters, &t->model, &t->run, &t->values, "tower", path));
    p.adapter = adapters.n - 1;
    q3_engine *e = engine(t);
    q3_sequence *s = begin(e, &p), *other = begin(e, &t->prompts[2]);
    q3_feed feeds[2];
    q3_sequence *both[2] = { s, other };
    pass(e, feeds, both, 2, 0, Q3_WANT_LAST);
    assert_int_equal(q3_features_seen(e->features), 2 * p.n_images);
    assert_true(q3_golden_distance(feeds[0].values, want, V) < 1e-5);
    assert_true(q3_golden_distance(feeds[1].values, bare, V) < 1e-5);
    q3_sequence_destroy(s);
    q3_sequence_destroy(other);
    adapters.n--;
    close_engine(e);
}

static void features_that_find_no_room_are_made_again(void **state)
{
    (void)state;
    bed *t = &beds[0];
    int64_t V = t->model.config.text.vocab_size, seen = 0;
    float *got = Q3_NEW(&t->run, float, V), *want = Q3_NEW(&t->run, float, V);
    q3_engine *e =
        engine_of(t, (q3_engine_options){ .kv_type = Q3_F32, .feature_bytes = 1, .no_sharing = true });
    for (int round = 0; round < 3; round++)
        for (int row = 1; row < ROWS; row++) {
            const q3_prompt *p = &t->prompts[row];
            q3_sequence *s = begin(e, p);
            logits_of(got, e, s, 4);
            uncached(want, t, p, p->ids, p->n);
            assert_true(q3_golden_distance(got, want, V) < 1e-5);
            assert_true(q3_features_seen(e->features) > seen);
            seen = q3_features_seen(e->features);
            q3_sequence_destroy(s);
        }
    close_engine(e);
}

static void repeated_work_takes_no_more_memory(void **state)
{
    (void)state;
    bed *t = &beds[1];
    q3_engine *e = engine(t);
    size_t step = 0, host = 0, slabs = e->slabs.used;
    for (int round = 0; round < 4; round++) {
        q3_sequence *s[ROWS];
        int32_t out[ROWS * TOKENS];
        for (int i = 0; i < ROWS; i++)
            s[i] = begin(e, &t->prompts[i]);
        generate(out, e, s, ROWS, 5);
        for (int i = 0; i < ROWS; i++)
            q3_sequence_destroy(s[i]);
        if (round == 0) {
            step = t->step.peak;
            host = e->pass.peak;
        }
        assert_int_equal(t->step.peak, step);
        assert_int_equal(e->pass.peak, host);
        assert_int_equal(e->slabs.used, slabs);
    }
    close_engine(e);
}

static void a_full_step_arena_leaves_everything_as_it_was(void **state)
{
    (void)state;
    bed *t = &beds[0];
    q3_engine *e = engine(t);
    q3_sequence *s = begin(e, &t->prompts[2]);
    q3_feed feed = { .sequence = s, .n = 9, .want = Q3_WANT_NOTHING };
    size_t limit = t->step.limit;
    ok(q3_engine_pass(e, &feed, 1, NULL));
    feed = (q3_feed){ .sequence = s, .n = rest(s), .want = Q3_WANT_LAST };
    t->step.limit = 20 << 10;
    assert_int_equal(q3_engine_pass(e, &feed, 1, NULL), Q3_ERR_MEMORY);
    assert_non_null(strstr(q3_error(), "step arena"));
    assert_int_equal(q3_sequence_cached(s), 9);
    t->step.limit = limit;
    int32_t out[TOKENS];
    generate(out, e, &s, 1, 0);
    assert_golden(t, out, 2);
    q3_sequence_destroy(s);
    close_engine(e);
}

static void a_cache_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    q3_engine *e;
    q3_engine_options o = { .kv_type = Q3_F32, .tokens = INT32_MAX - 20 };
    assert_int_equal(q3_engine_create(&e, &beds[0].model, &beds[0].ctx, NULL, &o), Q3_ERR_MEMORY);
    assert_non_null(strstr(q3_error(), "key/value cache"));
    o.tokens = (int64_t)1 << 40;
    assert_int_equal(q3_engine_create(&e, &beds[0].model, &beds[0].ctx, NULL, &o), Q3_ERR_LIMIT);
    assert_null(e);
    o.tokens = 0; // as long as the model's sequences
    ok(q3_engine_create(&e, &beds[0].model, &beds[0].ctx, NULL, &o));
    assert_int_equal(q3_engine_settings(e)->tokens, (beds[0].model.config.text.max_positions + 15) / 16 * 16);
    assert_int_equal(q3_engine_settings(e)->feature_bytes, 256 << 20);
    close_engine(e);
}

static void each_failing_allocation_is_an_error(void **state)
{
    (void)state;
    enum { PACKED = 11 }; // arrays of a pass; what the network asks for cannot fail so
    bed *t = &beds[0];
    const q3_engine_options o = { .kv_type = Q3_F32, .tokens = CACHE };
    q3_engine *e = NULL;
    q3_status st = Q3_ERR_MEMORY;
    for (int64_t n = 1; st != Q3_OK; n++) {
        q3_heap_fail_at(n);
        st = q3_engine_create(&e, &t->model, &t->ctx, NULL, &o);
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || (st == Q3_ERR_MEMORY && !e));
    }
    q3_sequence *s = NULL, *fork = NULL;
    st = Q3_ERR_MEMORY;
    for (int64_t n = 1; st != Q3_OK; n++) {
        q3_heap_fail_at(n);
        st = q3_sequence_create(&s, e, &t->prompts[0], LENGTH);
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || (st == Q3_ERR_MEMORY && !s));
    }
    q3_feed feed = { .sequence = s, .n = t->prompts[0].n, .want = Q3_WANT_LAST };
    for (int64_t n = 1; n <= PACKED; n++) {
        q3_heap_fail_at(n);
        st = q3_engine_pass(e, &feed, 1, NULL);
        q3_heap_fail_at(0);
        assert_int_equal(st, Q3_ERR_MEMORY);
        assert_int_equal(q3_sequence_cached(s), 0);
    }
    ok(q3_engine_pass(e, &feed, 1, NULL));
    st = Q3_ERR_MEMORY;
    for (int64_t n = 1; st != Q3_OK; n++) {
        q3_heap_fail_at(n);
        st = q3_sequence_fork(&fork, s);
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || (st == Q3_ERR_MEMORY && !fork));
    }
    q3_sequence_destroy(fork);
    q3_sequence_destroy(s);
    close_engine(e);
}

/* The first pictures: the list of them, the new ones, the slab with its rows, an entry. */
static void each_failing_allocation_for_features_is_an_error(void **state)
{
    (void)state;
    bed *t = &beds[0];
    for (int64_t n = 1; n <= (t->cuda ? 5 : 7); n++) {
        q3_engine *e = engine(t);
        q3_sequence *s = begin(e, &t->prompts[2]);
        float *x = Q3_NEW(&t->run, float, t->model.config.text.vocab_size);
        q3_feed feed = { .sequence = s, .n = t->prompts[2].n, .want = Q3_WANT_LAST };
        q3_heap_fail_at(n);
        assert_int_equal(q3_engine_pass(e, &feed, 1, NULL), Q3_ERR_MEMORY);
        q3_heap_fail_at(0);
        logits_of(x, e, s, 0);
        assert_int_equal(q3_features_seen(e->features), t->prompts[2].n_images);
        q3_sequence_destroy(s);
        close_engine(e);
    }
}

static void a_sequence_ends_at_its_limit(void **state)
{
    (void)state;
    bed *t = &beds[0];
    static const int32_t ids[3] = { 1, 2, 3 };
    q3_engine *e = engine(t);
    q3_sequence *s;
    assert_int_equal(q3_sequence_create(&s, e, &t->prompts[0], t->prompts[0].n - 1), Q3_ERR_LIMIT);
    ok(q3_sequence_create(&s, e, &t->prompts[0], t->prompts[0].n + 2));
    assert_false(q3_sequence_push(s, ids, 3));
    assert_true(q3_sequence_push(s, ids, 2));
    assert_false(q3_sequence_push(s, ids, 1));
    q3_sequence_destroy(s);
    close_engine(e);
}

/* The reference's tokens came from them too: see greedy_answers_equal_the_reference. */
static void decoding_is_recorded_on_a_device(void **state)
{
    (void)state;
    bed *t = &beds[0];
    q3_engine *e = engine(t);
    q3_sequence *s[ROWS];
    q3_prompt p[ROWS];
    int32_t out[ROWS * TOKENS];
    for (int i = 0; i < ROWS; i++) {
        p[i] = t->prompts[i];
        p[i].adapter = i - 1;
        s[i] = begin(e, &p[i]);
    }
    generate(out, e, s, ROWS, 0);
    assert_golden(t, out, 0);
    if (t->cuda)
        assert_true(q3_replays_launched(e->replays) >= TOKENS / 2);
    else
        assert_int_equal(q3_replays_launched(e->replays), 0);
    for (int i = 0; i < ROWS; i++)
        q3_sequence_destroy(s[i]);
    close_engine(e);
}

/* What a device computes in by itself. */
static void bf16_activations_go_through_the_cache(void **state)
{
    (void)state;
    bed *t = &beds[0];
    if (!t->cuda)
        skip();
    int64_t V = t->model.config.text.vocab_size;
    float *got = Q3_NEW(&t->run, float, V), *want = Q3_NEW(&t->run, float, V);
    static const q3_dtype types[] = { Q3_DTYPES, Q3_I8 };
    for (int k = 0; k < 2 * ROWS; k++) {
        q3_prompt p = t->prompts[k / 2];
        uncached(want, t, &p, p.ids, p.n);
        t->ctx.dtype = Q3_BF16;
        q3_engine *e = engine_of(t, (q3_engine_options){ .kv_type = types[k % 2] });
        assert_int_equal(q3_engine_settings(e)->kv_type, k % 2 ? Q3_I8 : Q3_BF16);
        q3_sequence *s = begin(e, &p), *other;
        logits_of(got, e, s, k % 2 ? 7 : 0);
        assert_true(q3_golden_distance(got, want, V) < 4e-2); // rounded in every layer
        p.adapter = 1;
        other = begin(e, &p);
        q3_feed feeds[2];
        q3_sequence *both[2] = { s, other };
        for (int i = 0; i < 5; i++) {
            assert_true(q3_sequence_push(s, &p.ids[i], 1));
            pass(e, feeds, both, 2, 0, i % 2 ? Q3_WANT_LIKELIEST : Q3_WANT_LAST);
            assert_true(q3_sequence_push(other, &p.ids[i], 1));
        }
        q3_sequence_destroy(s);
        q3_sequence_destroy(other);
        close_engine(e);
        t->ctx.dtype = Q3_F32;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_answers_equal_the_reference),
        cmocka_unit_test(a_sequence_alone_gives_the_same_answer),
        cmocka_unit_test(cached_logits_equal_those_without_a_cache),
        cmocka_unit_test(a_picture_goes_through_the_tower_once),
        cmocka_unit_test(fewer_bits_cost_little),
        cmocka_unit_test(a_type_that_heads_do_not_allow_is_refused),
        cmocka_unit_test(a_window_hides_what_lies_before_it),
        cmocka_unit_test(each_feed_gets_what_it_wants),
        cmocka_unit_test(the_feed_that_is_not_finite_is_named),
        cmocka_unit_test(a_merged_adapter_equals_one_beside_the_model),
        cmocka_unit_test(an_adapter_of_the_tower_has_features_of_its_own),
        cmocka_unit_test(features_that_find_no_room_are_made_again),
        cmocka_unit_test(repeated_work_takes_no_more_memory),
        cmocka_unit_test(a_full_step_arena_leaves_everything_as_it_was),
        cmocka_unit_test(a_cache_that_does_not_fit_is_refused),
        cmocka_unit_test(each_failing_allocation_is_an_error),
        cmocka_unit_test(each_failing_allocation_for_features_is_an_error),
        cmocka_unit_test(a_sequence_ends_at_its_limit),
        cmocka_unit_test(decoding_is_recorded_on_a_device),
        cmocka_unit_test(bf16_activations_go_through_the_cache),
        cmocka_unit_test(prompts_that_begin_alike_share_blocks),
        cmocka_unit_test(a_known_prompt_of_whole_blocks_computes_its_last_token_alone),
        cmocka_unit_test(forks_that_go_apart_equal_sequences_of_their_own),
        cmocka_unit_test(wrong_guesses_leave_no_trace),
        cmocka_unit_test(an_evicted_sequence_is_computed_again),
        cmocka_unit_test(a_full_cache_refuses_and_forgets_what_nobody_uses),
        cmocka_unit_test(adapters_and_the_base_in_one_pass_equal_each_alone),
        cmocka_unit_test(scores_equal_those_without_a_cache),
    };
    return cmocka_run_group_tests(tests, setup, t_beds_close);
}
