/* data/image_codecs.h - one function per file format, for data/image.c alone.
 *
 * Each fills `out` (pixels as stored, orientation not applied) and *orientation (EXIF tag 0x0112, 1 when
 * there is none). With src->header_only the pixels stay NULL and only the size and the orientation are filled
 * in. On failure `out` may hold pixels: the caller frees it.
 */
#ifndef Q3_DATA_IMAGE_CODECS_H
#define Q3_DATA_IMAGE_CODECS_H

#include "data/image.h"

typedef struct q3_image_source {
    const unsigned char *bytes; /* the encoded file, borrowed */
    size_t size;
    const char *name;   /* for messages */
    int64_t max_pixels; /* > 0 */
    bool header_only;
} q3_image_source;

q3_status q3_image_jpeg(q3_image *out, int *orientation, const q3_image_source *src);
q3_status q3_image_png(q3_image *out, int *orientation, const q3_image_source *src);
q3_status q3_image_webp(q3_image *out, int *orientation, const q3_image_source *src);
q3_status q3_image_bmp(q3_image *out, int *orientation, const q3_image_source *src);

/* Checks the size against the limits and allocates the pixels (not with header_only). */
q3_status q3_image_reserve(q3_image *out, int64_t width, int64_t height, const q3_image_source *src);

/* The orientation (1..8) in a TIFF-structured EXIF block of `n` bytes; 1 when it holds none or is broken. */
int q3_exif_orientation(const unsigned char *exif, size_t n);

#endif
