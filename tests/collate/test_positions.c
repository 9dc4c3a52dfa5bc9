#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "collate/pack.h"
#include "collate/positions.h"
#include "core/safetensors.h"

enum { IMAGE = 7, VIDEO = 8, VS = 5, VE = 6, MAX = 64 };

/* Positions of a row; [3][MAX]. */
typedef struct axes {
    int32_t p[3][MAX];
} axes;

static int64_t positions(axes *out, const int32_t *ids, int64_t n, const int32_t *grids, int n_grids,
                         int merge)
{
    memset(out, 0xEE, sizeof *out);
    return q3_positions(out->p[0], out->p[1], out->p[2], ids, n, IMAGE, VIDEO, grids, n_grids, merge);
}

static void expect(const int32_t *got, const int32_t *want, int n)
{
    for (int i = 0; i < n; i++)
        if (got[i] != want[i])
            fail_msg("position %d is %d, not %d", i, (int)got[i], (int)want[i]);
}

static void text_counts_up_and_pictures_spread_over_rows_and_columns(void **state)
{
    (void)state;
    const int32_t ids[] = { 1, VS, IMAGE, IMAGE, IMAGE, IMAGE, IMAGE, IMAGE, VE,
                            2, VS, IMAGE, IMAGE, IMAGE, IMAGE, VE,    3,     4 };
    const int32_t grids[] = { 1, 4, 6, 1, 4, 4 };
    const int32_t t[] = { 0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7, 8, 8, 8, 8, 10, 11, 12 };
    const int32_t h[] = { 0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 8, 8, 9, 9, 10, 11, 12 };
    const int32_t w[] = { 0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8, 9, 8, 9, 10, 11, 12 };
    axes a;
    assert_int_equal(positions(&a, ids, 18, grids, 2, 2), 13);
    expect(a.p[0], t, 18);
    expect(a.p[1], h, 18);
    expect(a.p[2], w, 18);
    assert_int_equal(a.p[0][18], (int32_t)0xEEEEEEEE); // nothing is written behind the row
}

static void a_row_of_text_has_equal_axes(void **state)
{
    (void)state;
    const int32_t ids[] = { 1, 2, 3, 4, 5 }, want[] = { 0, 1, 2, 3, 4 };
    axes a;
    assert_int_equal(positions(&a, ids, 5, NULL, 0, 2), 5);
    for (int k = 0; k < 3; k++)
        expect(a.p[k], want, 5);
    assert_int_equal(positions(&a, ids, 0, NULL, 0, 2), 0);
}

static void frames_advance_the_time_axis(void **state)
{
    (void)state;
    const int32_t ids[] = { 1, VIDEO, VIDEO, VIDEO, VIDEO, VIDEO, VIDEO, 2 }; // 3 frames of 1 x 2
    const int32_t grid[] = { 3, 2, 4 };
    const int32_t t[] = { 0, 1, 1, 2, 2, 3, 3, 3 }, h[] = { 0, 1, 1, 1, 1, 1, 1, 3 },
                  w[] = { 0, 1, 2, 1, 2, 1, 2, 3 };
    axes a;
    assert_int_equal(positions(&a, ids, 8, grid, 1, 2), 4);
    expect(a.p[0], t, 8);
    expect(a.p[1], h, 8);
    expect(a.p[2], w, 8);
}

static void a_tall_picture_ends_at_its_rows(void **state)
{
    (void)state;
    const int32_t ids[] = { IMAGE, IMAGE, IMAGE, 9 }, grid[] = { 1, 9, 3 }, last[] = { 3 };
    axes a;
    assert_int_equal(positions(&a, ids, 4, grid, 1, 3), 4); // merge 3: 3 x 1 tokens
    for (int k = 0; k < 3; k++)
        expect(a.p[k] + 3, last, 1);
}

static void rows_and_grids_that_do_not_match_are_refused(void **state)
{
    (void)state;
    const int32_t row[] = { 1, IMAGE, IMAGE, IMAGE, IMAGE, 2 }, cut[] = { 1, IMAGE, IMAGE };
    const int32_t split[] = { 1, IMAGE, IMAGE, 2, IMAGE, IMAGE };
    const int32_t good[] = { 1, 4, 4 }, large[] = { 1, 4, 6 }, two[] = { 1, 4, 4, 1, 4, 4 };
    const int32_t bad[][3] = { { 0, 4, 4 },         { 1, 0, 4 },
                               { 1, 4, 1 },         { -1, 4, 4 },
                               { 1, -4, -4 },       { INT32_MAX, 4, 4 },
                               { 1, 4, INT32_MAX }, { INT32_MAX, INT32_MAX, INT32_MAX } };
    axes a;
    assert_int_equal(positions(&a, row, 6, good, 1, 2), 4);
    assert_int_equal(positions(&a, row, 6, NULL, 0, 2), -1);  // a picture without a grid
    assert_int_equal(positions(&a, row, 6, large, 1, 2), -1); // text where the picture should go on
    assert_int_equal(positions(&a, row, 6, two, 2, 2), -1);   // a grid without a picture
    assert_int_equal(positions(&a, cut, 3, good, 1, 2), -1);  // the row ends within the picture
    assert_int_equal(positions(&a, split, 6, good, 1, 2), -1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(positions(&a, row, 6, bad[i], 1, 2), -1);
}

/* ---- what transformers 5.17 computed ---- */

static const void *tensor(const q3_safetensors *f, const char *name, int64_t *shape)
{
    const q3_st_tensor *t = q3_safetensors_find(f, name);
    assert_non_null(t);
    memcpy(shape, t->shape, 3 * sizeof *shape);
    return t->data;
}

/* The engine's positions are rows without padding: compared where attention_mask is 1. */
static void compare_with(const char *path)
{
    q3_safetensors *f;
    q3_arena mem;
    int64_t ids[3], grids[3], patches[3], pos[3], at = 0;
    assert_int_equal(q3_safetensors_open(&f, path), Q3_OK);
    assert_int_equal(q3_arena_create(&mem, "test", (size_t)1 << 24), Q3_OK);
    q3_padded p = { .input_ids = (int64_t *)tensor(f, "in.input_ids", ids),
                    .attention_mask = (int64_t *)tensor(f, "in.attention_mask", ids),
                    .pixel_values = (float *)tensor(f, "in.pixel_values", patches),
                    .image_grid_thw = (int64_t *)tensor(f, "in.image_grid_thw", grids) };
    const int64_t *want = tensor(f, "out.position_ids", pos), *kind = tensor(f, "in.mm_token_type_ids", ids);
    p.rows = ids[0];
    p.length = ids[1];
    p.n_images = grids[0];
    p.n_patches = patches[0];
    p.patch_width = patches[1];
    assert_true(p.rows >= 3 && p.n_images >= 3 && pos[0] == 3 && pos[1] == p.rows && pos[2] == p.length);
    int64_t n = p.rows * p.length, image = -1;
    for (int64_t t = 0; t < n && image < 0; t++)
        image = kind[t] == 1 ? p.input_ids[t] : -1;
    q3_batch b;
    assert_int_equal(q3_unpad(&b, &mem, &p, (int32_t)image, -1, 2), Q3_OK);
    for (int64_t t = 0; t < n; t++) {
        if (!p.attention_mask[t])
            continue;
        for (int k = 0; k < 3; k++)
            if (b.positions[k * b.n_tokens + at] != want[k * n + t])
                fail_msg("%s: axis %d of token %d is %d, not %d", path, k, (int)t,
                         (int)b.positions[k * b.n_tokens + at], (int)want[k * n + t]);
        at++;
    }
    assert_int_equal(at, b.n_tokens);
    assert_true(at > 60 && at < n);
    q3_arena_destroy(&mem);
    q3_safetensors_close(f);
}

static void positions_equal_those_of_transformers(void **state)
{
    (void)state;
    compare_with("tests/golden/model-a/forward-right-padded.safetensors");
    compare_with("tests/golden/model-a/forward-left-padded.safetensors");
    compare_with("tests/golden/model-b/forward-right-padded.safetensors");
    compare_with("tests/golden/model-b/forward-left-padded.safetensors");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_counts_up_and_pictures_spread_over_rows_and_columns),
        cmocka_unit_test(a_row_of_text_has_equal_axes),
        cmocka_unit_test(frames_advance_the_time_axis),
        cmocka_unit_test(a_tall_picture_ends_at_its_rows),
        cmocka_unit_test(rows_and_grids_that_do_not_match_are_refused),
        cmocka_unit_test(positions_equal_those_of_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
