/* Still WebP pictures through libwebp: lossy, lossless, with or without alpha. */
#include <string.h>

#include <webp/decode.h>

#include "core/arena.h"
#include "data/image_codecs.h"

static size_t read_u32(const unsigned char *p)
{
    return (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
}

/* The EXIF chunk of the RIFF container; some writers keep JPEG's "Exif\0\0" in front of it. */
static int orientation_of(const q3_image_source *src)
{
    for (size_t at = 12; at < src->size && src->size - at >= 8;) {
        const unsigned char *p = src->bytes + at;
        size_t n = read_u32(p + 4);
        if (n > src->size - at - 8)
            return 1;
        if (memcmp(p, "EXIF", 4) == 0) {
            size_t skip = n > 6 && memcmp(p + 8, "Exif\0\0", 6) == 0 ? 6 : 0;
            return q3_exif_orientation(p + 8 + skip, n - skip);
        }
        at += 8 + n + (n & 1);
    }
    return 1;
}

static const char *reason(VP8StatusCode code)
{
    switch (code) {
    case VP8_STATUS_NOT_ENOUGH_DATA:
        return "the file ends too early; is the download complete?";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return "it uses an unknown feature";
    default:
        return "the data is corrupt";
    }
}

static q3_status fail(VP8StatusCode code, const q3_image_source *src)
{
    if (code == VP8_STATUS_OUT_OF_MEMORY)
        return q3_fail(Q3_ERR_MEMORY, "%s: out of memory while decoding a WebP", src->name);
    return q3_fail(Q3_ERR_DATA, "%s: the WebP cannot be decoded: %s", src->name, reason(code));
}

q3_status q3_image_webp(q3_image *out, int *orientation, const q3_image_source *src)
{
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return q3_fail(Q3_ERR_FAIL, "libwebp: the library is not the one this program was built for");
    VP8StatusCode code = WebPGetFeatures(src->bytes, src->size, &config.input);
    if (code != VP8_STATUS_OK)
        return fail(code, src);
    if (config.input.has_animation)
        return q3_fail(Q3_ERR_DATA, "%s: animated WebP is not supported; save one frame as a still picture",
                       src->name);
    *orientation = orientation_of(src);
    Q3_TRY(q3_image_reserve(out, config.input.width, config.input.height, src));
    if (src->header_only)
        return Q3_OK;
    config.output.colorspace = MODE_RGB; // colour as stored: no alpha is multiplied in
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = out->rgb;
    config.output.u.RGBA.stride = 3 * out->width;
    config.output.u.RGBA.size = (size_t)out->width * (size_t)out->height * 3;
    code = WebPDecode(src->bytes, src->size, &config);
    WebPFreeDecBuffer(&config.output);
    return code == VP8_STATUS_OK ? Q3_OK : fail(code, src);
}
