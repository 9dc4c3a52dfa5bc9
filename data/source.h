/* data/source.h - what a kind of place that holds samples offers; data/dataset.c has the table of all kinds.
 */
#ifndef Q3_DATA_SOURCE_H
#define Q3_DATA_SOURCE_H

#include "data/sample.h"

typedef struct q3_source {
    bool (*accepts)(
        const char *path); /* by name and kind of file; the first of the table that accepts is taken */
    q3_status (*open)(void **self, const char *path,
                      const q3_data_keys *keys); /* refuses a place without samples */
    int64_t (*size)(const void *self);
    q3_status (*get)(q3_sample *out, const void *self, int64_t index); /* 0 <= index < size; thread-safe */
    void (*close)(void *self);
} q3_source;

#endif
