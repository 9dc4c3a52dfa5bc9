/* data/image_resize.h - antialiased bicubic resizing of pictures, bit for bit as two other libraries do it.
 *
 * Separable, Keys' cubic with a = -0.5, stretched by the scale when shrinking, cut and renormalized at the
 * edges; horizontal pass first, 8-bit pixels between the passes, a pass of unchanged length is skipped. The
 * two flavours differ only in how the weights are made integers:
 *
 *   Q3_RESIZE_PILLOW       22 bits always (Pillow, src/libImaging/Resample.c)
 *   Q3_RESIZE_TORCHVISION  16-bit weights, as many fraction bits as fit
 *                          (PyTorch, UpSampleKernelAVXAntialias.h)
 *
 * Cost: 3 * taps multiplications per output pixel and pass, taps about 4 * max(in / out, 1) + 1.
 */
#ifndef Q3_DATA_IMAGE_RESIZE_H
#define Q3_DATA_IMAGE_RESIZE_H

#include "data/image.h"

typedef enum q3_resize_flavour { Q3_RESIZE_PILLOW, Q3_RESIZE_TORCHVISION } q3_resize_flavour;

/* `out` becomes a new picture of width x height (both >= 1), also when the size is unchanged. Error:
 * Q3_ERR_MEMORY. */
q3_status q3_image_resize(q3_image *out, const q3_image *in, int width, int height,
                          q3_resize_flavour flavour);

#endif
