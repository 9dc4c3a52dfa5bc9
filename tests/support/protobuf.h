/* tests/support/protobuf.h - messages of Protocol Buffers, read field by field; one that is none fails the test.
 */
#ifndef Q3_TESTS_SUPPORT_PROTOBUF_H
#define Q3_TESTS_SUPPORT_PROTOBUF_H

#include <stdint.h>

typedef struct q3_span {
    const unsigned char *at, *end;
} q3_span;

uint64_t q3_read_fixed(const unsigned char *p, int bytes); /* little-endian */

/* The next field: its number, and its value as a number or as bytes. */
int q3_read_field(q3_span *s, uint64_t *number, q3_span *bytes);

/* The bytes of field `wanted` of a message, which it must have. */
q3_span q3_read_inner(q3_span message, int wanted);

#endif
