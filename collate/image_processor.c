#include "collate/image_processor.h"

#include <math.h>
#include <string.h>

#include "core/file.h"
#include "core/json.h"
#include "data/image_resize.h"

#define CONFIG_LIMIT ((size_t)1 << 20)
#define MAX_ASPECT 200

static q3_status missing(const q3_json *doc, const char *key)
{
    return q3_fail(Q3_ERR_MODEL, "%s: \"%s\" is missing; the file must describe the image processor in full",
                   doc->name, key);
}

static q3_status read_count(int64_t *out, const q3_json *doc, const cJSON *object, const char *key,
                            int64_t most)
{
    Q3_TRY(q3_json_int(out, doc, object, key, -1));
    if (*out == -1)
        return missing(doc, key);
    if (*out < 1 || *out > most)
        return q3_fail(Q3_ERR_MODEL, "%s: \"%s\" is %lld, and 1 to %lld is possible", doc->name, key,
                       (long long)*out, (long long)most);
    return Q3_OK;
}

static q3_status read_colors(double out[3], const q3_json *doc, const cJSON *object, const char *key,
                             double least)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!list)
        return missing(doc, key);
    bool good = cJSON_IsArray(list) && cJSON_GetArraySize(list) == 3;
    for (int c = 0; good && c < 3; c++) {
        const cJSON *item = cJSON_GetArrayItem(list, c);
        good = cJSON_IsNumber(item) && item->valuedouble >= least && item->valuedouble <= 1e6;
        if (good)
            out[c] = item->valuedouble;
    }
    return good ? Q3_OK
                : q3_fail(Q3_ERR_MODEL, "%s: \"%s\" must be three numbers of at least %g", doc->name, key,
                          least);
}

/* The area bounds: `size`, whose edges are pixel counts despite their names; min_pixels and max_pixels
 * overrule it. */
static q3_status read_bounds(q3_vision_spec *spec, const q3_json *doc, const cJSON *object)
{
    const cJSON *size = cJSON_GetObjectItemCaseSensitive(object, "size");
    int64_t min = -1, max = -1;
    if (size && !cJSON_IsNull(size) && !cJSON_IsObject(size))
        return q3_fail(Q3_ERR_MODEL, "%s: \"size\" must be an object with shortest_edge and longest_edge",
                       doc->name);
    if (cJSON_IsObject(size)) {
        Q3_TRY(q3_json_int(&min, doc, size, "shortest_edge", -1));
        Q3_TRY(q3_json_int(&max, doc, size, "longest_edge", -1));
    }
    Q3_TRY(q3_json_int(&min, doc, object, "min_pixels", min));
    Q3_TRY(q3_json_int(&max, doc, object, "max_pixels", max));
    if (min == -1 || max == -1)
        return missing(doc, min == -1 ? "size.shortest_edge" : "size.longest_edge");
    if (min < 1 || max < min || max > Q3_VISION_MAX_PIXELS)
        return q3_fail(Q3_ERR_MODEL, "%s: pictures of %lld to %lld pixels are not possible (1 to %lld)",
                       doc->name, (long long)min, (long long)max, (long long)Q3_VISION_MAX_PIXELS);
    spec->min_pixels = min;
    spec->max_pixels = max;
    return Q3_OK;
}

/* Settings that may stand in the file, but only with the value that this program implements. */
static q3_status refuse_others(const q3_json *doc, const cJSON *object)
{
    bool value = true;
    static const char *const on[] = { "do_resize", "do_rescale", "do_normalize", "do_convert_rgb" };
    for (size_t i = 0; i < sizeof on / sizeof *on; i++) {
        Q3_TRY(q3_json_bool(&value, doc, object, on[i], true));
        if (!value)
            return q3_fail(Q3_ERR_MODEL, "%s: \"%s\": false is not supported", doc->name, on[i]);
    }
    static const char *const off[] = { "do_center_crop", "do_pad" };
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        Q3_TRY(q3_json_bool(&value, doc, object, off[i], false));
        if (value)
            return q3_fail(Q3_ERR_MODEL, "%s: \"%s\": true is not supported", doc->name, off[i]);
    }
    int64_t resample;
    Q3_TRY(q3_json_int(&resample, doc, object, "resample", 3));
    if (resample != 3)
        return q3_fail(Q3_ERR_MODEL, "%s: \"resample\" is %lld; only 3 (bicubic) is supported", doc->name,
                       (long long)resample);
    double factor;
    Q3_TRY(q3_json_float(&factor, doc, object, "rescale_factor", 1.0 / 255));
    if (fabs(factor * 255 - 1) > 1e-6)
        return q3_fail(Q3_ERR_MODEL, "%s: \"rescale_factor\" is %g; only 1/255 is supported", doc->name,
                       factor);
    return Q3_OK;
}

static q3_status read_spec(q3_vision_spec *out, const q3_json *doc, const cJSON *object)
{
    int64_t patch, tpatch, merge;
    if (!cJSON_IsObject(object))
        return q3_fail(Q3_ERR_MODEL, "%s: the image processor must be a JSON object", doc->name);
    Q3_TRY(read_count(&patch, doc, object, "patch_size", 256));
    Q3_TRY(read_count(&tpatch, doc, object, "temporal_patch_size", 16));
    Q3_TRY(read_count(&merge, doc, object, "merge_size", 16));
    *out = (q3_vision_spec){ .patch = (int)patch, .tpatch = (int)tpatch, .merge = (int)merge };
    Q3_TRY(read_bounds(out, doc, object));
    Q3_TRY(read_colors(out->mean, doc, object, "image_mean", 0));
    Q3_TRY(read_colors(out->std, doc, object, "image_std", 1e-6));
    return refuse_others(doc, object);
}

/* Reads `file` of the directory, or only its member `key`; *found tells whether there was one. */
static q3_status load_from(q3_vision_spec *out, bool *found, const char *dir, const char *file,
                           const char *key)
{
    char *path = q3_path_join(dir, file);
    if (!path)
        return Q3_ERR_MEMORY;
    q3_status st = Q3_OK;
    *found = q3_file_exists(path);
    if (*found) {
        q3_json doc;
        st = q3_json_open(&doc, path, CONFIG_LIMIT);
        if (st == Q3_OK) {
            const cJSON *object = key ? cJSON_GetObjectItemCaseSensitive(doc.root, key) : doc.root;
            *found = object != NULL;
            st = object ? read_spec(out, &doc, object) : Q3_OK;
            q3_json_close(&doc);
        }
    }
    q3_free(path);
    return q3_status_as(st, Q3_ERR_MODEL);
}

q3_status q3_vision_spec_load(q3_vision_spec *out, const char *model_dir)
{
    bool found;
    Q3_TRY(load_from(out, &found, model_dir, "processor_config.json", "image_processor"));
    if (found)
        return Q3_OK;
    Q3_TRY(load_from(out, &found, model_dir, "preprocessor_config.json", NULL));
    if (found)
        return Q3_OK;
    return q3_fail(
        Q3_ERR_MODEL,
        "%s: neither preprocessor_config.json nor an image_processor in processor_config.json was found; "
        "copy it from the original model",
        model_dir);
}

q3_status q3_vision_spec_limit(q3_vision_spec *spec, int64_t min_pixels, int64_t max_pixels)
{
    int64_t min = min_pixels ? min_pixels : spec->min_pixels;
    int64_t max = max_pixels ? max_pixels : spec->max_pixels;
    int64_t cell = (int64_t)spec->patch * spec->merge * spec->patch * spec->merge;
    if (min < 1 || max < min || max > Q3_VISION_MAX_PIXELS)
        return q3_fail(Q3_ERR_USAGE,
                       "min_pixels %lld and max_pixels %lld: 1 <= min <= max <= %lld is possible",
                       (long long)min, (long long)max, (long long)Q3_VISION_MAX_PIXELS);
    if (max < cell)
        return q3_fail(Q3_ERR_USAGE, "max_pixels is %lld, and one image token alone covers %lld pixels",
                       (long long)max, (long long)cell);
    spec->min_pixels = min;
    spec->max_pixels = max;
    return Q3_OK;
}

q3_status q3_vision_spec_check(const q3_vision_spec *spec, const q3_vision_config *network,
                               const char *model_dir)
{
    if (spec->patch == network->patch_size && spec->tpatch == network->temporal_patch_size &&
        spec->merge == network->merge_size)
        return Q3_OK;
    return q3_fail(
        Q3_ERR_MODEL,
        "%s: patch sizes of the image processor (%d, %d, merge %d) and of config.json (%d, %d, merge %d) "
        "differ",
        model_dir, spec->patch, spec->tpatch, spec->merge, network->patch_size, network->temporal_patch_size,
        network->merge_size);
}

q3_status q3_smart_resize(int *out_height, int *out_width, int height, int width, int factor,
                          int64_t min_pixels, int64_t max_pixels)
{
    int longest = height > width ? height : width, shortest = height > width ? width : height;
    if (shortest < 1)
        return q3_fail(Q3_ERR_DATA, "the picture is empty (%d x %d pixels)", width, height);
    if ((double)longest / shortest > MAX_ASPECT)
        return q3_fail(Q3_ERR_DATA, "%d x %d pixels: the aspect ratio is over %d; crop the picture", width,
                       height, MAX_ASPECT);
    double area = (double)((int64_t)height * width), f = factor;
    double h = rint(height / f) * f, w = rint(width / f) * f; // ties to even, as Python's round
    if (h * w > (double)max_pixels) {
        double beta = sqrt(area / (double)max_pixels);
        h = fmax(f, floor(height / beta / f) * f);
        w = fmax(f, floor(width / beta / f) * f);
    } else if (h * w < (double)min_pixels) {
        double beta = sqrt((double)min_pixels / area);
        h = ceil(height * beta / f) * f;
        w = ceil(width * beta / f) * f;
    }
    if (h < f || w < f || h * w > 0x7FFFFFFF)
        return q3_fail(Q3_ERR_DATA, "%d x %d pixels cannot be resized to %lld .. %lld pixels", width, height,
                       (long long)min_pixels, (long long)max_pixels);
    *out_height = (int)h;
    *out_width = (int)w;
    return Q3_OK;
}

q3_status q3_image_grid(int grid[3], int width, int height, const q3_vision_spec *spec)
{
    int h, w;
    Q3_TRY(q3_smart_resize(&h, &w, height, width, spec->patch * spec->merge, spec->min_pixels,
                           spec->max_pixels));
    grid[0] = 1;
    grid[1] = h / spec->patch;
    grid[2] = w / spec->patch;
    return Q3_OK;
}

int64_t q3_image_tokens(const int grid[3], const q3_vision_spec *spec)
{
    return (int64_t)grid[0] * grid[1] * grid[2] / ((int64_t)spec->merge * spec->merge);
}

/* What each byte value becomes, per color: one correctly rounded division, as torch's normalize in f32. */
static void fill_table(float table[3][256], const q3_vision_spec *spec)
{
    for (int c = 0; c < 3; c++) {
        float mean = (float)spec->mean[c] * 255.0f, std = (float)spec->std[c] * 255.0f;
        for (int p = 0; p < 256; p++)
            table[c][p] = ((float)p - mean) / std;
    }
}

/* One patch [3, tpatch, patch, patch] from the pixel at `from` on. */
static void cut_patch(float *out, const uint8_t *from, int64_t row_bytes, const q3_vision_spec *spec,
                      float table[3][256])
{
    int side = spec->patch;
    size_t plane = (size_t)side * (size_t)side;
    for (int c = 0; c < 3; c++) {
        float *first = out;
        for (int y = 0; y < side; y++, out += side)
            for (int x = 0; x < side; x++)
                out[x] = table[c][from[y * row_bytes + 3 * x + c]];
        for (int t = 1; t < spec->tpatch; t++, out += plane)
            memcpy(out, first, plane * sizeof *out);
    }
}

static void cut(float *out, const q3_image *img, const int grid[3], const q3_vision_spec *spec)
{
    float table[3][256];
    fill_table(table, spec);
    int m = spec->merge;
    int64_t row_bytes = 3 * (int64_t)img->width,
            columns = 3 * (int64_t)spec->tpatch * spec->patch * spec->patch;
    for (int by = 0; by < grid[1]; by += m)
        for (int bx = 0; bx < grid[2]; bx += m)
            for (int i = 0; i < m * m; i++, out += columns) {
                int64_t y = (int64_t)(by + i / m) * spec->patch, x = (int64_t)(bx + i % m) * spec->patch;
                cut_patch(out, img->rgb + y * row_bytes + 3 * x, row_bytes, spec, table);
            }
}

q3_status q3_image_patches(q3_patches *out, q3_arena *mem, const q3_image *img, const q3_vision_spec *spec)
{
    *out = (q3_patches){ 0 };
    Q3_TRY(q3_image_grid(out->grid, img->width, img->height, spec));
    out->n = (int64_t)out->grid[0] * out->grid[1] * out->grid[2];
    out->data = Q3_NEW(mem, float, out->n * 3 * spec->tpatch * spec->patch * spec->patch);
    if (!out->data)
        return q3_wrap(Q3_ERR_MEMORY, "image patches");
    if (mem->dry)
        return Q3_OK;
    int height = out->grid[1] * spec->patch, width = out->grid[2] * spec->patch;
    if (height == img->height && width == img->width) {
        cut(out->data, img, out->grid, spec);
        return Q3_OK;
    }
    q3_image resized;
    Q3_TRY(q3_image_resize(&resized, img, width, height, Q3_RESIZE_TORCHVISION));
    cut(out->data, &resized, out->grid, spec);
    q3_image_free(&resized);
    return Q3_OK;
}
