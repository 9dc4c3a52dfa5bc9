/* collate/image_processor.h - resize a decoded picture and cut it into vision patches.
 *
 * Input: RGB pixels (data/image.h decodes files). Output: float patches [P, Cp], Cp = 3 * tpatch * patch^2,
 * normalized with the spec's mean and std, in merge order: the m^2 patches that become one token (m = merge)
 * are neighbors, and the patch at (py, px) is
 *
 *   row    = ((py / m) * (cols / m) + px / m) * m^2 + (py % m) * m + px % m
 *   column = ((c * tpatch + t) * patch + y) * patch + x             a still picture repeats in t
 *
 * The bits are those of transformers' Qwen2VLImageProcessorFast on the CPU (torchvision; checked with
 * transformers 5.17.0, torchvision 0.26.0): 8-bit antialiased bicubic with 16-bit weights, then (p - 255
 * mean) / (255 std) in f32.
 */
#ifndef Q3_COLLATE_IMAGE_PROCESSOR_H
#define Q3_COLLATE_IMAGE_PROCESSOR_H

#include "core/arena.h"
#include "data/image.h"
#include "model/config.h"

#define Q3_VISION_MAX_PIXELS (INT64_C(1) << 30) /* bound of max_pixels itself: all sizes fit an int */

typedef struct q3_vision_spec {
    int patch;              /* side of a patch in pixels (16) */
    int tpatch;             /* frames of a patch (2) */
    int merge;              /* merge x merge patches make one token (2) */
    int64_t min_pixels;     /* pictures are enlarged to this area ... */
    int64_t max_pixels;     /* ... and shrunk to this one, both after rounding the sides to patch * merge */
    double mean[3], std[3]; /* of R, G, B, on the scale 0..1 */
} q3_vision_spec;

typedef struct q3_patches {
    float *data; /* [n, 3 * tpatch * patch^2], in the arena */
    int64_t n;   /* patches: grid[0] * grid[1] * grid[2] */
    int grid[3]; /* frames, rows, columns, counted in patches */
} q3_patches;

/* Reads the image processor of a model directory: `image_processor` in processor_config.json if it is there,
 * otherwise preprocessor_config.json. Every number must be in the file, nothing is guessed. Errors
 * (Q3_ERR_MODEL): no such file, a missing or impossible value, a setting that is not supported (another
 * resampling, do_resize false ...). */
q3_status q3_vision_spec_load(q3_vision_spec *out, const char *model_dir);

/* Replaces the bounds by the caller's; 0 keeps one. Error: Q3_ERR_USAGE when they cannot be met. */
q3_status q3_vision_spec_limit(q3_vision_spec *spec, int64_t min_pixels, int64_t max_pixels);

/* Image processor and network must cut alike. Error: Q3_ERR_MODEL. */
q3_status q3_vision_spec_check(const q3_vision_spec *spec, const q3_vision_config *network,
                               const char *model_dir);

/* The size to resize to: both sides multiples of `factor`, area between the bounds, aspect ratio kept
 * roughly. Error: Q3_ERR_DATA (a side below 1, aspect ratio over 200). transformers 4.57-5.17, qwen2_vl,
 * smart_resize. */
q3_status q3_smart_resize(int *out_height, int *out_width, int height, int width, int factor,
                          int64_t min_pixels, int64_t max_pixels);

/* The grid of a picture of this size, without the picture: what planning and sorting by length need. */
q3_status q3_image_grid(int grid[3], int width, int height, const q3_vision_spec *spec);

/* Image tokens of a grid. */
int64_t q3_image_tokens(const int grid[3], const q3_vision_spec *spec);

/* The patches of a picture, in `mem`; only counted when the arena is dry. Errors: Q3_ERR_DATA,
 * Q3_ERR_MEMORY. */
q3_status q3_image_patches(q3_patches *out, q3_arena *mem, const q3_image *img, const q3_vision_spec *spec);

#endif
