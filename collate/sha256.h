/* collate/sha256.h - SHA-256 (FIPS 180-4), to recognize files whose content the program knows. */
#ifndef Q3_COLLATE_SHA256_H
#define Q3_COLLATE_SHA256_H

#include <stddef.h>
#include <stdint.h>

/* The hash of `n` bytes as eight words: printed with %08x each they are the usual hexadecimal form. */
void q3_sha256(uint32_t out[8], const void *data, size_t n);

#endif
