/* data/image.h - encoded pictures (JPEG, PNG, WebP, BMP) to RGB pixels and back.
 *
 * The format is found from the content, never from a name. The pixels equal those of PIL's convert("RGB")
 * (checked with Pillow 13.0): alpha is dropped, not composited; palettes are looked up without tRNS; CMYK
 * JPEGs follow Adobe's inverted convention; 16-bit grey PNGs are clipped at 255, other 16-bit PNGs keep their
 * high byte; no colour management. JPEGs are decoded by libjpeg-turbo with its defaults, so that the bits
 * agree. The EXIF orientation is applied unless the options say otherwise; a broken EXIF block is ignored.
 *
 * A truncated or corrupt file is Q3_ERR_DATA with a sentence that begins with `name`; missing pixels are
 * never filled in. Pictures own their pixels (heap): q3_image_free. All functions are thread-safe.
 */
#ifndef Q3_DATA_IMAGE_H
#define Q3_DATA_IMAGE_H

#include "core/status.h"

typedef struct q3_image {
    int width, height; /* pixels, >= 1 */
    uint8_t *rgb;      /* [height, width, 3], heap */
} q3_image;

#define Q3_IMAGE_MAX_PIXELS INT64_C(178956970) /* where Pillow raises DecompressionBombError */
#define Q3_IMAGE_CAP_PIXELS 6000000            /* the area that max_side allows besides */

/* All zero = the defaults. */
typedef struct q3_image_options {
    bool ignore_exif;   /* leave the picture as stored, whatever its EXIF orientation says */
    int max_side;       /* > 0: shrink (bicubic, as PIL) to sides <= max_side, area <= Q3_IMAGE_CAP_PIXELS */
    int64_t max_pixels; /* larger pictures are refused before they are decoded; 0 = Q3_IMAGE_MAX_PIXELS */
} q3_image_options;

/* Decodes the `n` bytes of an image file; `opt` may be NULL. `name` stands in messages. */
q3_status q3_image_decode(q3_image *out, const void *bytes, size_t n, const q3_image_options *opt,
                          const char *name);

/* The size that q3_image_decode would give, from the header alone. */
q3_status q3_image_measure(int *width, int *height, const void *bytes, size_t n, const q3_image_options *opt,
                           const char *name);

/* Reads and decodes a file. Errors: Q3_ERR_DATA, the path first. */
q3_status q3_image_open(q3_image *out, const char *path, const q3_image_options *opt);

/* Writes the picture as an 8-bit RGB PNG into a new heap block *out (q3_free) of *size bytes. */
q3_status q3_image_encode_png(unsigned char **out, size_t *size, const q3_image *img);

/* Frees the pixels; fine on a zeroed picture. */
void q3_image_free(q3_image *img);

#endif
