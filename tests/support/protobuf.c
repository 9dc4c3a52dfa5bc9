#include "tests/support/protobuf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

uint64_t q3_read_fixed(const unsigned char *p, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)p[i] << 8 * i;
    return value;
}

static uint64_t varint(q3_span *s)
{
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
        assert_true(s->at < s->end && shift < 64);
        value |= (uint64_t)(*s->at & 0x7F) << shift;
        if (!(*s->at++ & 0x80))
            return value;
    }
}

int q3_read_field(q3_span *s, uint64_t *number, q3_span *bytes)
{
    uint64_t key = varint(s);
    int size = (key & 7) == 1 ? 8 : 4;
    if ((key & 7) == 0) {
        *number = varint(s);
    } else if ((key & 7) == 2) {
        uint64_t n = varint(s);
        assert_true(n <= (uint64_t)(s->end - s->at));
        *bytes = (q3_span){ s->at, s->at + n };
        s->at += n;
    } else {
        assert_true((key & 7) == 1 || (key & 7) == 5);
        assert_true(s->end - s->at >= size);
        *number = q3_read_fixed(s->at, size);
        s->at += size;
    }
    return (int)(key >> 3);
}

q3_span q3_read_inner(q3_span message, int wanted)
{
    uint64_t number;
    q3_span bytes = { NULL, NULL };
    while (message.at < message.end)
        if (q3_read_field(&message, &number, &bytes) == wanted)
            return bytes;
    fail_msg("a message lacks field %d", wanted);
    return bytes;
}
