#include "tests/support/golden.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

q3_safetensors *q3_golden_open(const char *path)
{
    q3_safetensors *file;
    if (q3_safetensors_open(&file, path) != Q3_OK)
        fail_msg("%s", q3_error());
    return file;
}

const q3_st_tensor *q3_golden_find(const q3_safetensors *file, const char *name)
{
    const q3_st_tensor *t = q3_safetensors_find(file, name);
    if (!t)
        fail_msg("%s: no tensor %s", q3_safetensors_path(file), name);
    return t;
}

/* A copy of the tensor's values; NULL when it is absent. */
static void *copy_of(q3_arena *mem, const q3_safetensors *file, const char *prefix, const char *name,
                     int64_t shape[2])
{
    char full[128];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const q3_st_tensor *t = q3_safetensors_find(file, full);
    if (!t)
        return NULL;
    assert_int_equal(t->ndim, 2);
    memcpy(shape, t->shape, 2 * sizeof *shape);
    if (t->dtype == Q3_U8) {
        float *out = Q3_NEW(mem, float, t->bytes + 1);
        assert_non_null(out);
        for (size_t i = 0; i < t->bytes; i++)
            out[i] = (float)(((const uint8_t *)t->data)[i] / 127.5 - 1);
        return out;
    }
    void *out = q3_arena_alloc(mem, t->bytes + 1);
    assert_non_null(out);
    memcpy(out, t->data, t->bytes);
    return out;
}

q3_padded q3_golden_batch(q3_arena *mem, const q3_safetensors *file, const char *prefix)
{
    q3_padded p = { 0 };
    int64_t size[2] = { 0 }, grids[2] = { 0 }, pixels[2] = { 0, 1536 };
    p.attention_mask = copy_of(mem, file, prefix, "attention_mask", size);
    p.labels = copy_of(mem, file, prefix, "labels", size);
    p.input_ids = copy_of(mem, file, prefix, "input_ids", size);
    assert_non_null(p.input_ids);
    p.image_grid_thw = copy_of(mem, file, prefix, "image_grid_thw", grids);
    p.pixel_values = copy_of(mem, file, prefix, "pixel_values", pixels);
    p.rows = size[0];
    p.length = size[1];
    p.n_images = grids[0];
    p.n_patches = pixels[0];
    p.patch_width = pixels[1];
    return p;
}

void q3_golden_write(const char *path, const q3_padded *p)
{
    const q3_st_tensor all[] = {
        { .name = "input_ids",
          .dtype = Q3_I64,
          .ndim = 2,
          .shape = { p->rows, p->length },
          .data = p->input_ids },
        { .name = "attention_mask",
          .dtype = Q3_I64,
          .ndim = 2,
          .shape = { p->rows, p->length },
          .data = p->attention_mask },
        { .name = "labels", .dtype = Q3_I64, .ndim = 2, .shape = { p->rows, p->length }, .data = p->labels },
        { .name = "image_grid_thw",
          .dtype = Q3_I64,
          .ndim = 2,
          .shape = { p->n_images, 3 },
          .data = p->image_grid_thw },
        { .name = "pixel_values",
          .dtype = Q3_F32,
          .ndim = 2,
          .shape = { p->n_patches, p->patch_width },
          .data = p->pixel_values },
    };
    q3_st_tensor present[5];
    int n = 0;
    for (int i = 0; i < 5; i++)
        if (all[i].data)
            present[n++] = all[i];
    if (q3_safetensors_write(path, present, n) != Q3_OK)
        fail_msg("%s", q3_error());
}

double q3_golden_row_distance(const float *a, const float *b, const int64_t *mask, int64_t rows,
                              int64_t width)
{
    double difference = 0, norm = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = r * width; i < (r + 1) * width && (!mask || mask[r]); i++) {
            difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
            norm += (double)b[i] * b[i];
        }
    if (norm == 0)
        return difference == 0 ? 0 : INFINITY;
    return isfinite(difference) ? sqrt(difference / norm) : INFINITY;
}

double q3_golden_distance(const float *a, const float *b, int64_t n)
{
    return q3_golden_row_distance(a, b, NULL, 1, n);
}
