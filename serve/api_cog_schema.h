/* serve/api_cog_schema.h - the inputs of Cog predictions: one table each for generating and reranking,
 * from which the OpenAPI document, the checks and the defaults come.
 */
#ifndef Q3_SERVE_API_COG_SCHEMA_H
#define Q3_SERVE_API_COG_SCHEMA_H

#include "core/json.h"

typedef enum q3_cog_task { Q3_COG_GENERATE, Q3_COG_RERANK } q3_cog_task;

typedef enum q3_cog_kind {
    Q3_COG_STRING,
    Q3_COG_INTEGER,
    Q3_COG_NUMBER,
    Q3_COG_URI,
    Q3_COG_DOCUMENTS
} q3_cog_kind;

typedef struct q3_cog_input {
    const char *name;
    q3_cog_kind kind;
    const char *description;
    const char *initial; /* JSON; NULL: none */
    bool required;
    bool nullable;
    double min, max; /* of numbers; both 0: any */
} q3_cog_input;

/* In the order of x-order. */
const q3_cog_input *q3_cog_inputs(int *n, q3_cog_task task);

/* The OpenAPI 3.0.2 document. */
void q3_cog_schema_write(q3_text *out, q3_cog_task task);

/* Checks `input` (NULL or null: {}). true: it fits. Otherwise `out` is {"detail": [...]} with everything
 * that does not. Unknown names are left alone. */
bool q3_cog_check(q3_text *out, const cJSON *input, q3_cog_task task);

/* Values of checked input, or the table's defaults. */
const char *q3_cog_string(const cJSON *input, const char *name); /* NULL: not given */
double q3_cog_number(const cJSON *input, q3_cog_task task, const char *name);

#endif
