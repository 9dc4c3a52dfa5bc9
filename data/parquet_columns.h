/* data/parquet_columns.h - the columns of a Parquet file that are fields of a sample, and their values as
 * JSON.
 *
 * A field is a column of text, integers or bools (data/sample.h says which field may be what); integers that
 * `datasets` knows as ClassLabel become the names of their classes, and -1 is none. The picture is a struct
 * of bytes and path, as the image feature of `datasets`, a list of one such, a column of bytes, or one of
 * text. Errors: Q3_ERR_DATA, Q3_ERR_MEMORY.
 */
#ifndef Q3_DATA_PARQUET_COLUMNS_H
#define Q3_DATA_PARQUET_COLUMNS_H

#include "data/parquet_page.h"
#include "data/sample.h"

enum { Q3_PARQUET_FIELDS = 7 }; /* id, question, caption, answer, label, system prompt, source */

typedef struct q3_parquet_field {
    const char *key;
    int leaf;           /* of the file's */
    bool name;          /* what may be an integer: it keeps all its digits */
    const cJSON *names; /* of classes; NULL: it is no ClassLabel */
} q3_parquet_field;

typedef struct q3_parquet_columns {
    q3_parquet_field fields[Q3_PARQUET_FIELDS];
    int n;
    const char *image_key;
    int picture, picture_path; /* leaves: encoded pictures, and their paths; -1: none */
    q3_json features;          /* what `datasets` wrote of the columns; empty: nothing */
} q3_parquet_columns;

q3_status q3_parquet_columns_find(q3_parquet_columns *out, const q3_parquet_meta *m,
                                  const q3_data_keys *keys);
void q3_parquet_columns_free(q3_parquet_columns *c);

/* Adds a value to the sample's object; null adds nothing. Sentences say the column, the caller adds the
 * row. */
q3_status q3_parquet_add_field(cJSON *object, const q3_parquet_field *f, const q3_parquet_leaf *leaf,
                               const q3_parquet_value *value);

/* A value as text, in a new heap string. */
q3_status q3_parquet_text(char **out, const q3_parquet_leaf *leaf, const q3_parquet_value *value);

#endif
