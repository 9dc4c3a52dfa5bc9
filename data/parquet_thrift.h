/* data/parquet_thrift.h - Thrift's compact protocol, as far as Parquet files need it: nothing is copied.
 *
 * A reader walks over bytes that are not trusted. What does not fit sets `bad`, and from then on every call
 * returns zeros and ends every loop, so it is enough to look at `bad` at the end.
 */
#ifndef Q3_DATA_PARQUET_THRIFT_H
#define Q3_DATA_PARQUET_THRIFT_H

#include "core/arena.h"

typedef struct q3_thrift {
    const unsigned char *at, *end;
    bool bad;
} q3_thrift;

/* Bytes inside the text that is read; NULL and 0: none. */
typedef struct q3_thrift_bytes {
    const char *at;
    size_t size;
} q3_thrift_bytes;

/* What stands in a struct or a list; a bool of a struct is its type alone. */
enum {
    Q3_THRIFT_TRUE = 1,
    Q3_THRIFT_FALSE = 2,
    Q3_THRIFT_BYTE = 3,
    Q3_THRIFT_I16 = 4,
    Q3_THRIFT_I32 = 5,
    Q3_THRIFT_I64 = 6,
    Q3_THRIFT_DOUBLE = 7,
    Q3_THRIFT_BINARY = 8,
    Q3_THRIFT_LIST = 9,
    Q3_THRIFT_SET = 10,
    Q3_THRIFT_MAP = 11,
    Q3_THRIFT_STRUCT = 12
};

/* The next field of a struct: false at its end. Both begin as 0 in front of the struct. */
bool q3_thrift_field(q3_thrift *t, int *id, int *type);

/* The value of a field of this type. One of another type makes the reader bad. */
int64_t q3_thrift_int(q3_thrift *t, int type); /* I16, I32, I64 */
q3_thrift_bytes q3_thrift_binary(q3_thrift *t, int type);
int64_t q3_thrift_list(q3_thrift *t, int type, int of); /* how many elements of type `of` follow */
void q3_thrift_struct(q3_thrift *t, int type);          /* its fields follow */

void q3_thrift_skip(q3_thrift *t, int type);

#endif
