#include "data/parquet_codec.h"

#include <snappy-c.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

// What a byte can become at most: a block of zstd is 128 KiB from 4 bytes; deflate's limit is its own figure.
#define ZSTD_RATIO 32768
#define GZIP_RATIO 1032

q3_status q3_parquet_codec_check(int codec)
{
    static const char *const names[] = {
        "none", "snappy", "gzip", "lzo", "brotli", "lz4", "zstd", "lz4_raw"
    };
    if (codec == Q3_PARQUET_RAW || codec == Q3_PARQUET_SNAPPY || codec == Q3_PARQUET_GZIP ||
        codec == Q3_PARQUET_ZSTD)
        return Q3_OK;
    const char *name =
        codec > 0 && codec < (int)(sizeof names / sizeof *names) ? names[codec] : "an unknown codec";
    return q3_fail(Q3_ERR_DATA,
                   "is compressed with %s, which is not read; write it with snappy, gzip, zstd or none",
                   name);
}

static q3_status damaged(const char *codec)
{
    return q3_fail(Q3_ERR_DATA, "a page cannot be unpacked (%s); is the download complete?", codec);
}

q3_status q3_parquet_codec_size(int codec, const unsigned char *from, size_t n, size_t size)
{
    if (codec == Q3_PARQUET_SNAPPY) {
        size_t own;
        bool same = snappy_uncompressed_length((const char *)from, n, &own) == SNAPPY_OK && own == size;
        return same ? Q3_OK : damaged("snappy");
    }
    if (codec == Q3_PARQUET_GZIP)
        return size / GZIP_RATIO <= n ? Q3_OK : damaged("gzip");
    unsigned long long own = ZSTD_getFrameContentSize(from, n);
    bool fits = own == ZSTD_CONTENTSIZE_UNKNOWN || own <= size; // of the first frame alone
    return fits && size / ZSTD_RATIO <= n ? Q3_OK : damaged("zstd");
}

static q3_status gunzip(unsigned char *to, size_t size, const unsigned char *from, size_t n)
{
    z_stream z = {
        .next_in = (Bytef *)(uintptr_t)from, .avail_in = (uInt)n, .next_out = to, .avail_out = (uInt)size
    };
    if (inflateInit2(&z, 15 + 32) != Z_OK) // the largest window; gzip or zlib, as the header says
        return q3_fail(Q3_ERR_MEMORY, "no memory to unpack a page");
    int code = inflate(&z, Z_FINISH);
    while (code == Z_STREAM_END && z.avail_in > 0 && z.avail_out > 0 && inflateReset(&z) == Z_OK)
        code = inflate(&z, Z_FINISH); // members that follow each other
    bool whole = code == Z_STREAM_END && z.avail_out == 0;
    inflateEnd(&z);
    return whole ? Q3_OK : damaged("gzip");
}

q3_status q3_parquet_unpack(int codec, unsigned char *to, size_t size, const unsigned char *from, size_t n)
{
    if (codec == Q3_PARQUET_GZIP)
        return gunzip(to, size, from, n);
    if (codec == Q3_PARQUET_ZSTD)
        return ZSTD_decompress(to, size, from, n) == size ? Q3_OK : damaged("zstd");
    size_t done = size;
    bool whole = snappy_uncompress((const char *)from, n, (char *)to, &done) == SNAPPY_OK && done == size;
    return whole ? Q3_OK : damaged("snappy");
}
