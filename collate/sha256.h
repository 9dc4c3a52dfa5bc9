/* collate/sha256.h - SHA-256 (FIPS 180-4), to recognize files whose content the program knows. */
#ifndef Q3_COLLATE_SHA256_H
#define Q3_COLLATE_SHA256_H

#include <stddef.h>

/* The hash of `n` bytes: 64 hexadecimal digits and a NUL. */
void q3_sha256_hex(char out[65], const void *data, size_t n);

#endif
