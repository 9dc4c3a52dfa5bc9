/* data/source.h - what a kind of place that holds samples offers; data/dataset.c has the table of kinds. */
#ifndef Q3_DATA_SOURCE_H
#define Q3_DATA_SOURCE_H

#include "data/sample.h"

typedef struct q3_source {
    /* By name and kind of file; the first of the table that accepts is taken. */
    bool (*accepts)(const char *path);
    /* Refuses a place without samples. */
    q3_status (*open)(void **self, const char *path, const q3_data_keys *keys);
    int64_t (*size)(const void *self); /* samples, at least 1 */
    /* 0 <= index < size; thread-safe. The caller frees the sample. */
    q3_status (*get)(q3_sample *out, const void *self, int64_t index);
    void (*close)(void *self);
} q3_source;

#endif
