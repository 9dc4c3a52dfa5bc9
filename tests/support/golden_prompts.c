#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "tests/support/golden_prompts.h"

#include "collate/pack.h"

static const char *const dirs[T_MODELS] = { "tests/golden/model-a", "tests/golden/model-b" };

enum { LENGTH = 31 }; // of the padded prompts

t_bed t_beds[T_MODELS];

static const void *values(const t_bed *t, const char *name)
{
    const q3_st_tensor *found = q3_safetensors_find(t->file, name);
    assert_non_null(found);
    return found->data;
}

/* Row `row` of the golden batch: the pictures of the rows before it are skipped. */
static q3_prompt prompt_of(t_bed *t, int row)
{
    const q3_model_config *c = &t->model.config;
    const int64_t *in = values(t, "in.input_ids"), *mask = values(t, "in.attention_mask");
    const int64_t *grid = values(t, "in.image_grid_thw");
    int64_t merged = (int64_t)c->vision.merge_size * c->vision.merge_size, skipped = 0, patches = 0;
    int64_t width = 3 * (int64_t)c->vision.temporal_patch_size * c->vision.patch_size * c->vision.patch_size;
    int first = 0, next = 0;
    for (int i = 0; i <= row; i++) {
        first = next;
        skipped += patches;
        patches = 0;
        int64_t left = 0;
        for (int k = 0; k < LENGTH; k++)
            left += mask[i * LENGTH + k] && in[i * LENGTH + k] == c->image_token;
        for (; left * merged > patches; next++)
            patches += grid[3 * next] * grid[3 * next + 1] * grid[3 * next + 2];
    }
    const q3_padded p = { .rows = 1,
                          .length = LENGTH,
                          .input_ids = (int64_t *)(uintptr_t)in + (ptrdiff_t)row * LENGTH,
                          .attention_mask = (int64_t *)(uintptr_t)mask + (ptrdiff_t)row * LENGTH,
                          .image_grid_thw = (int64_t *)(uintptr_t)grid + (ptrdiff_t)3 * first,
                          .n_images = next - first,
                          .pixel_values = (float *)(uintptr_t)values(t, "in.pixel_values") + skipped * width,
                          .n_patches = patches,
                          .patch_width = width };
    q3_batch b;
    if (q3_unpad(&b, &t->run, &p, c->image_token, c->video_token, c->vision.merge_size) != Q3_OK)
        fail_msg("%s", q3_error());
    return q3_prompt_of_batch(&b);
}

int t_beds_open(void **state)
{
    (void)state;
    for (int i = 0; i < T_MODELS; i++) {
        t_bed *t = &t_beds[i];
        const q3_load_options options = { .values = &t->values };
        char path[256];
        t->dir = dirs[i];
        const char *device = getenv("Q3_TEST_DEVICE");
        if (q3_device_open(&t->cuda, device ? device : "cpu") != Q3_OK)
            fail_msg("%s", q3_error());
        assert_int_equal(q3_arena_create(&t->run, "run arena", (size_t)64 << 20), Q3_OK);
        assert_int_equal(q3_device_arena_create(&t->values, t->cuda, "parameters", (size_t)64 << 20), Q3_OK);
        assert_int_equal(q3_device_arena_create(&t->step, t->cuda, "step arena", (size_t)256 << 20), Q3_OK);
        assert_int_equal(q3_ctx_create(&t->ctx, &t->step), Q3_OK);
        snprintf(path, sizeof path, "%s/model", t->dir);
        if (q3_model_load(&t->model, &t->run, path, &options) != Q3_OK)
            fail_msg("%s", q3_error());
        snprintf(path, sizeof path, "%s/generate-greedy.safetensors", t->dir);
        assert_int_equal(q3_safetensors_open(&t->file, path), Q3_OK);
        t->tokens = values(t, "out.tokens");
        for (int row = 0; row < T_PROMPTS; row++)
            t->prompts[row] = prompt_of(t, row);
    }
    return 0;
}

int t_beds_close(void **state)
{
    (void)state;
    for (int i = 0; i < T_MODELS; i++) {
        t_bed *t = &t_beds[i];
        q3_safetensors_close(t->file);
        q3_model_close(&t->model);
        q3_ctx_destroy(&t->ctx);
        q3_arena_destroy(&t->step);
        q3_arena_destroy(&t->values);
        q3_arena_destroy(&t->run);
        q3_device_close(t->cuda);
    }
    return 0;
}

q3_prompt t_text_prompt(t_bed *t, int number, int64_t n)
{
    int32_t *ids = Q3_NEW(&t->run, int32_t, n);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * i + 7 * number) % 90) + 10;
    return (q3_prompt){ .ids = ids, .n = n, .adapter = -1 };
}
