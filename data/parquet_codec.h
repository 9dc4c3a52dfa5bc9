/* data/parquet_codec.h - compressed pages of Parquet files.
 *
 * Errors: Q3_ERR_DATA, Q3_ERR_MEMORY. Thread-safe.
 */
#ifndef Q3_DATA_PARQUET_CODEC_H
#define Q3_DATA_PARQUET_CODEC_H

#include "core/arena.h"

/* As the format numbers them. */
enum { Q3_PARQUET_RAW = 0, Q3_PARQUET_SNAPPY = 1, Q3_PARQUET_GZIP = 2, Q3_PARQUET_ZSTD = 6 };

/* Whether pages of this codec can be read. */
q3_status q3_parquet_codec_check(int codec);

/* Whether `from` [n] can become `size` bytes at all: asked before room is made for them. */
q3_status q3_parquet_codec_size(int codec, const unsigned char *from, size_t n, size_t size);

/* Unpacks to exactly `size` bytes. */
q3_status q3_parquet_unpack(int codec, unsigned char *to, size_t size, const unsigned char *from, size_t n);

#endif
