/* Any bytes as a picture: decoded or refused; its header and its pixels agree on the size. */
#include <stdint.h>

#include "data/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const q3_image_options opt = { .max_pixels = 1 << 16,
                                   .max_side = size & 1 ? 50 : 0,
                                   .ignore_exif = size & 2 };
    q3_image img;
    int width = 0, height = 0;
    q3_status measured = q3_image_measure(&width, &height, data, size, &opt, "picture");
    q3_status decoded = q3_image_decode(&img, data, size, &opt, "picture");
    if (decoded == Q3_OK) {
        Q3_CHECK(measured == Q3_OK && width == img.width && height == img.height, "%d x %d, measured %d x %d",
                 img.width, img.height, width, height);
        unsigned sum = 0;
        for (int64_t i = 0; i < 3 * (int64_t)width * height; i++)
            sum += img.rgb[i];
        Q3_CHECK(sum <= 255u * 3 << 16, "%u", sum); // keeps the reads alive
    }
    q3_image_free(&img);
    return 0;
}
