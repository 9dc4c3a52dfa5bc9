/* core/sha256.h - SHA-256 (FIPS 180-4), to recognize content that the program has seen: files, pictures, beginnings
 * of prompts. */
#ifndef Q3_CORE_SHA256_H
#define Q3_CORE_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { Q3_SHA256_BYTES = 32 };

/* The hash of `n` bytes: 64 hexadecimal digits and a NUL. */
void q3_sha256_hex(char out[65], const void *data, size_t n);

/* The hash of what is added piece by piece. */
typedef struct q3_sha256 {
    uint32_t h[8];
    uint64_t n;              /* bytes so far */
    unsigned char block[64]; /* the last n % 64 of them */
} q3_sha256;

void q3_sha256_begin(q3_sha256 *s);
void q3_sha256_add(q3_sha256 *s, const void *data, size_t n);
void q3_sha256_end(unsigned char out[Q3_SHA256_BYTES], q3_sha256 *s);

#endif
