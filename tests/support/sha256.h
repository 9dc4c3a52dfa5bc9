/* tests/support/sha256.h - SHA-256 (FIPS 180-4) of a block, for golden files that are too large to keep. */
#ifndef Q3_TESTS_SUPPORT_SHA256_H
#define Q3_TESTS_SUPPORT_SHA256_H

#include <stddef.h>

/* 64 hexadecimal digits and a NUL. */
void q3_sha256_hex(char out[65], const void *data, size_t n);

#endif
