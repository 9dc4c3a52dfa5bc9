#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collate/image_processor.h"
#include "core/sha256.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "data/image_resize.h"

static const q3_vision_spec SPEC = { 16, 2, 2, 4096, 65536, { 0.5, 0.5, 0.5 }, { 0.5, 0.5, 0.5 } };

/* Calls `each` for every line of a JSONL file. */
static void for_each_line(const char *path, int expected, void (*each)(const cJSON *))
{
    char *text;
    size_t size;
    int lines = 0;
    assert_int_equal(q3_file_read(&text, &size, path, 1 << 20), Q3_OK);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        cJSON *object = cJSON_Parse(line);
        assert_non_null(object);
        each(object);
        cJSON_Delete(object);
    }
    assert_int_equal(lines, expected);
    q3_free(text);
}

static int64_t number(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    assert_true(cJSON_IsNumber(item));
    return (int64_t)item->valuedouble;
}

static const char *string(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    assert_true(cJSON_IsString(item));
    return item->valuestring;
}

static void assert_sha256(const void *data, size_t n, const char *hex)
{
    char got[65];
    q3_sha256_hex(got, data, n);
    assert_string_equal(got, hex);
}

static void one_size(const cJSON *v)
{
    int h = 0, w = 0;
    q3_status st =
        q3_smart_resize(&h, &w, (int)number(v, "height"), (int)number(v, "width"), (int)number(v, "factor"),
                        number(v, "min_pixels"), number(v, "max_pixels"));
    const cJSON *result = cJSON_GetObjectItemCaseSensitive(v, "result");
    if (cJSON_IsNull(result)) {
        assert_int_equal(st, Q3_ERR_DATA);
        return;
    }
    assert_int_equal(st, Q3_OK);
    assert_int_equal(h, cJSON_GetArrayItem(result, 0)->valueint);
    assert_int_equal(w, cJSON_GetArrayItem(result, 1)->valueint);
    q3_vision_spec spec = SPEC;
    spec.min_pixels = number(v, "min_pixels");
    spec.max_pixels = number(v, "max_pixels");
    int grid[3];
    if (number(v, "factor") != 32)
        return;
    assert_int_equal(q3_image_grid(grid, (int)number(v, "width"), (int)number(v, "height"), &spec), Q3_OK);
    assert_int_equal(q3_image_tokens(grid, &spec), number(v, "image_tokens"));
}

static void sizes_equal_the_reference(void **state)
{
    (void)state;
    for_each_line("tests/golden/vectors/qwen3-vl-smart-resize.jsonl", 55, one_size);
}

/* The two kinds of synthetic pictures of the vectors. */
static q3_image synthetic(const cJSON *v)
{
    q3_image img = { (int)number(v, "width"), (int)number(v, "height"), NULL };
    img.rgb = q3_malloc((size_t)img.width * (size_t)img.height * 3);
    uint32_t x = (uint32_t)number(v, "seed");
    uint8_t *p = img.rgb;
    bool lcg = strcmp(string(v, "kind"), "lcg") == 0;
    for (int row = 0; row < img.height; row++)
        for (int column = 0; column < img.width; column++, p += 3) {
            for (int c = 0; lcg && c < 3; c++)
                p[c] = (uint8_t)((x = 1664525u * x + 1013904223u) >> 24);
            if (!lcg) {
                p[0] = (uint8_t)(column * 255 / (img.width - 1));
                p[1] = (uint8_t)(row * 255 / (img.height - 1));
                p[2] = (uint8_t)((7 * column) ^ (13 * row));
            }
        }
    assert_sha256(img.rgb, (size_t)(p - img.rgb), string(v, "src_sha256"));
    return img;
}

static void assert_resized(const q3_image *img, const cJSON *v, q3_resize_flavour flavour, const char *key)
{
    q3_image out;
    int width = (int)number(v, "resized_width"), height = (int)number(v, "resized_height");
    assert_int_equal(q3_image_resize(&out, img, width, height, flavour), Q3_OK);
    assert_sha256(out.rgb, (size_t)width * (size_t)height * 3, string(v, key));
    q3_image_free(&out);
}

static void one_picture(const cJSON *v)
{
    q3_image img = synthetic(v);
    assert_resized(&img, v, Q3_RESIZE_PILLOW, "pillow_rgb_sha256");
    assert_resized(&img, v, Q3_RESIZE_TORCHVISION, "torch_emul_rgb_sha256");
    q3_vision_spec spec = SPEC;
    spec.min_pixels = number(v, "min_pixels");
    spec.max_pixels = number(v, "max_pixels");
    q3_arena mem;
    assert_int_equal(q3_arena_create(&mem, "batch", 16 << 20), Q3_OK);
    q3_patches patches;
    assert_int_equal(q3_image_patches(&patches, &mem, &img, &spec), Q3_OK);
    const cJSON *grid = cJSON_GetObjectItemCaseSensitive(v, "grid_thw");
    for (int i = 0; i < 3; i++)
        assert_int_equal(patches.grid[i], cJSON_GetArrayItem(grid, i)->valueint);
    assert_int_equal(q3_image_tokens(patches.grid, &spec), number(v, "image_tokens"));
    assert_sha256(patches.data, (size_t)patches.n * 1536 * 4,
                  string(v, "torch_emul_pixel_values_f32le_sha256"));
    q3_arena_destroy(&mem);
    q3_image_free(&img);
}

static void resized_pixels_equal_pillow_and_torchvision(void **state)
{
    (void)state;
    for_each_line("tests/golden/vectors/qwen3-vl-image-resize.jsonl", 20, one_picture);
}

/* tests/golden/formats/images (Pillow 13.0, transformers 5.17, torchvision 0.26): `.rgb` are the decoded
 * pixels, so this does not depend on the decoders. */
static void one_golden(const cJSON *v)
{
    char path[300];
    snprintf(path, sizeof path, "tests/golden/formats/images/%s.rgb", string(v, "file"));
    char *rgb;
    size_t size;
    assert_int_equal(q3_file_read(&rgb, &size, path, 1 << 20), Q3_OK);
    const q3_image img = { (int)number(v, "width"), (int)number(v, "height"), (uint8_t *)rgb };
    assert_int_equal(size, img.width * img.height * 3);
    q3_arena mem;
    assert_int_equal(q3_arena_create(&mem, "batch", 16 << 20), Q3_OK);
    q3_patches patches;
    assert_int_equal(q3_image_patches(&patches, &mem, &img, &SPEC), Q3_OK);
    const cJSON *grid = cJSON_GetObjectItemCaseSensitive(v, "grid");
    for (int i = 0; i < 3; i++)
        assert_int_equal(patches.grid[i], cJSON_GetArrayItem(grid, i)->valueint);
    assert_sha256(patches.data, (size_t)patches.n * 1536 * 4, string(v, "pixel_values_sha256"));
    q3_arena_destroy(&mem);
    q3_free(rgb);
}

static void patches_equal_the_reference(void **state)
{
    (void)state;
    for_each_line("tests/golden/formats/images/images.jsonl", 17, one_golden);
}

static void a_dry_arena_counts_the_same_bytes(void **state)
{
    (void)state;
    uint8_t *rgb = q3_calloc(100 * 70, 3);
    const q3_image img = { 100, 70, rgb };
    q3_arena real, dry;
    assert_int_equal(q3_arena_create(&real, "real", 16 << 20), Q3_OK);
    assert_int_equal(q3_arena_create(&dry, "dry", 16 << 20), Q3_OK);
    dry.dry = true;
    q3_patches a, b;
    assert_int_equal(q3_image_patches(&a, &real, &img, &SPEC), Q3_OK);
    assert_int_equal(q3_image_patches(&b, &dry, &img, &SPEC), Q3_OK);
    assert_int_equal(a.n, b.n);
    assert_int_equal(real.used, dry.used);
    q3_arena_destroy(&real);
    q3_arena_destroy(&dry);
    q3_free(rgb);
}

static void other_patch_sizes_and_means_are_laid_out_by_the_formula(void **state)
{
    (void)state;
    const q3_vision_spec spec = {
        7, 3, 3, 1, 1 << 20, { 0.48145466, 0.4578275, 0.40821073 }, { 0.26862954, 0.26130258, 0.27577711 }
    };
    enum { H = 42, W = 63 };
    q3_image img = { W, H, q3_malloc(3 * H * W) };
    for (int i = 0; i < 3 * H * W; i++)
        img.rgb[i] = (uint8_t)(i * 37 + i / 101);
    q3_arena mem;
    assert_int_equal(q3_arena_create(&mem, "batch", 16 << 20), Q3_OK);
    q3_patches p;
    assert_int_equal(q3_image_patches(&p, &mem, &img, &spec), Q3_OK);
    assert_int_equal(p.n, 6 * 9);
    for (int py = 0; py < 6; py++)
        for (int px = 0; px < 9; px++)
            for (int i = 0; i < 3 * 3 * 49; i++) {
                int c = i / 147, y = i % 49 / 7, x = i % 7;
                int row = (py / 3 * 3 + px / 3) * 9 + py % 3 * 3 + px % 3;
                double v = img.rgb[((py * 7 + y) * W + px * 7 + x) * 3 + c] / 255.0;
                assert_float_equal(p.data[(int64_t)row * 441 + i], (v - spec.mean[c]) / spec.std[c], 1e-5);
            }
    q3_arena_destroy(&mem);
    q3_image_free(&img);
}

static void extreme_aspect_ratios_are_refused(void **state)
{
    (void)state;
    int grid[3];
    assert_int_equal(q3_image_grid(grid, 200, 1, &SPEC), Q3_OK);
    assert_int_equal(q3_image_grid(grid, 201, 1, &SPEC), Q3_ERR_DATA);
    assert_non_null(strstr(q3_error(), "201 x 1 pixels: the aspect ratio is over 200"));
    assert_int_equal(q3_image_grid(grid, 0, 5, &SPEC), Q3_ERR_DATA);
}

static void a_failing_allocation_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    uint8_t *rgb = q3_calloc(90 * 70, 3);
    const q3_image img = { 90, 70, rgb };
    q3_arena mem;
    assert_int_equal(q3_arena_create(&mem, "batch", 16 << 20), Q3_OK);
    q3_status st = Q3_ERR_FAIL;
    int64_t n = 0;
    while (st != Q3_OK) {
        q3_patches p;
        q3_arena_reset(&mem);
        q3_heap_fail_at(++n);
        st = q3_image_patches(&p, &mem, &img, &SPEC);
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
    }
    assert_true(n > 8);
    q3_arena_destroy(&mem);
    q3_free(rgb);
}

static char dir[4096];

static q3_status load(q3_vision_spec *out, const char *preprocessor, const char *processor)
{
    char path[4200];
    snprintf(dir, sizeof dir, "%s/model", getenv("Q3_TEST_DIR"));
    assert_int_equal(q3_dir_remove(dir), Q3_OK);
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    if (preprocessor) {
        snprintf(path, sizeof path, "%s/preprocessor_config.json", dir);
        assert_int_equal(q3_file_write(path, preprocessor, strlen(preprocessor)), Q3_OK);
    }
    if (processor) {
        snprintf(path, sizeof path, "%s/processor_config.json", dir);
        assert_int_equal(q3_file_write(path, processor, strlen(processor)), Q3_OK);
    }
    return q3_vision_spec_load(out, dir);
}

#define BASE                                                                                                 \
    "\"patch_size\": 16, \"temporal_patch_size\": 2, \"merge_size\": 2, \"image_mean\": [0.5, 0.5, 0.5], "   \
    "\"image_std\": [0.5, 0.5, 0.25]"
#define SIZE "\"size\": {\"longest_edge\": 16777216, \"shortest_edge\": 65536}"

static void the_config_is_read_in_both_forms(void **state)
{
    (void)state;
    q3_vision_spec s;
    assert_int_equal(load(&s, "{" BASE "," SIZE "}", NULL), Q3_OK);
    assert_int_equal(s.patch, 16);
    assert_int_equal(s.tpatch, 2);
    assert_int_equal(s.merge, 2);
    assert_int_equal(s.min_pixels, 65536);
    assert_int_equal(s.max_pixels, 16777216);
    assert_true(s.mean[0] == 0.5 && s.std[1] == 0.5 && s.std[2] == 0.25);
    const char *nested =
        "{\"video_processor\": {\"size\": {\"longest_edge\": 99, \"shortest_edge\": 4}},"
        " \"image_processor\": {" BASE ", \"size\": {\"longest_edge\": 9216, \"shortest_edge\": 9216}}}";
    assert_int_equal(load(&s, NULL, nested), Q3_OK);
    assert_int_equal(s.max_pixels, 9216);
    assert_int_equal(load(&s, "{" BASE "," SIZE "}", nested), Q3_OK); // the nested form comes first
    assert_int_equal(s.max_pixels, 9216);
    assert_int_equal(load(&s, "{" BASE "," SIZE "}", "{\"processor_class\": \"Qwen3VLProcessor\"}"), Q3_OK);
    assert_int_equal(s.max_pixels, 16777216);
    assert_int_equal(load(&s, "{" BASE "," SIZE ", \"max_pixels\": 65537}", NULL), Q3_OK);
    assert_int_equal(s.max_pixels, 65537);
    assert_int_equal(s.min_pixels, 65536);
}

static void assert_refused(const char *json, const char *part)
{
    q3_vision_spec s;
    assert_int_equal(load(&s, json, NULL), Q3_ERR_MODEL);
    if (!strstr(q3_error(), part))
        fail_msg("\"%s\" lacks \"%s\"", q3_error(), part);
}

static void unusable_configs_are_refused(void **state)
{
    (void)state;
    assert_refused(NULL, "neither preprocessor_config.json");
    assert_refused("{\n \"patch_size\" 16}", "preprocessor_config.json:2:");
    assert_refused("[]", "must be a JSON object");
    assert_refused("{" BASE "}", "\"size.shortest_edge\" is missing");
    assert_refused("{\"patch_size\": 16}", "\"temporal_patch_size\" is missing");
    assert_refused("{\"patch_size\": 0}", "\"patch_size\" is 0");
    assert_refused("{" BASE "," SIZE ", \"resample\": 2}", "only 3 (bicubic)");
    assert_refused("{" BASE "," SIZE ", \"do_resize\": false}", "\"do_resize\": false is not supported");
    assert_refused("{" BASE "," SIZE ", \"do_pad\": true}", "\"do_pad\": true is not supported");
    assert_refused("{" BASE "," SIZE ", \"rescale_factor\": 1.0}", "only 1/255");
    assert_refused("{" BASE ", \"size\": {\"longest_edge\": 10, \"shortest_edge\": 20}}", "20 to 10 pixels");
    assert_refused("{" BASE ", \"size\": {\"height\": 10, \"width\": 20}}", "is missing");
    assert_refused("{\"patch_size\": 16, \"temporal_patch_size\": 2, \"merge_size\": 2," SIZE
                   ", \"image_mean\": [1]}",
                   "three numbers");
}

static void callers_bounds_are_checked(void **state)
{
    (void)state;
    q3_vision_spec s = SPEC;
    assert_int_equal(q3_vision_spec_limit(&s, 0, 262144), Q3_OK);
    assert_int_equal(s.min_pixels, 4096);
    assert_int_equal(s.max_pixels, 262144);
    assert_int_equal(q3_vision_spec_limit(&s, 300000, 0), Q3_ERR_USAGE);
    assert_int_equal(q3_vision_spec_limit(&s, 1, 1000), Q3_ERR_USAGE);
    assert_non_null(strstr(q3_error(), "one image token alone covers 1024 pixels"));
    assert_int_equal(q3_vision_spec_limit(&s, -1, 0), Q3_ERR_USAGE);
    assert_int_equal(s.max_pixels, 262144);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_equal_the_reference),
        cmocka_unit_test(resized_pixels_equal_pillow_and_torchvision),
        cmocka_unit_test(patches_equal_the_reference),
        cmocka_unit_test(a_dry_arena_counts_the_same_bytes),
        cmocka_unit_test(other_patch_sizes_and_means_are_laid_out_by_the_formula),
        cmocka_unit_test(extreme_aspect_ratios_are_refused),
        cmocka_unit_test(a_failing_allocation_is_reported_and_leaks_nothing),
        cmocka_unit_test(the_config_is_read_in_both_forms),
        cmocka_unit_test(unusable_configs_are_refused),
        cmocka_unit_test(callers_bounds_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
