#include "serve/api_cog_schema.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "infer/rerank.h"

/* S0's inputs and defaults. */
static const q3_cog_input generate_inputs[] = {
    { .name = "prompt",
      .kind = Q3_COG_STRING,
      .description = "Text that the model is to answer",
      .required = true },
    { .name = "image",
      .kind = Q3_COG_URI,
      .description = "Picture that the text is about: a data: URL, or a URL that the server fetches",
      .nullable = true },
    { .name = "max_new_tokens",
      .kind = Q3_COG_INTEGER,
      .description = "Longest answer, in tokens",
      .initial = "512",
      .min = 1,
      .max = 4096 },
    { .name = "temperature",
      .kind = Q3_COG_NUMBER,
      .description = "Higher is more varied; 0 always takes the likeliest token",
      .initial = "0.7",
      .min = 0,
      .max = 2 },
    { .name = "top_p",
      .kind = Q3_COG_NUMBER,
      .description = "Draw from the likeliest tokens that make up this much of the probability",
      .initial = "0.9",
      .min = 0,
      .max = 1 },
};

/* S1's. */
static const q3_cog_input rerank_inputs[] = {
    { .name = "instruction",
      .kind = Q3_COG_STRING,
      .description = "What makes a document fit a query",
      .initial = "\"" Q3_RERANK_INSTRUCTION "\"" },
    { .name = "query", .kind = Q3_COG_STRING, .description = "What is looked for", .required = true },
    { .name = "documents",
      .kind = Q3_COG_DOCUMENTS,
      .description = "A JSON list of texts, or a string that holds one",
      .required = true },
    { .name = "top_k",
      .kind = Q3_COG_INTEGER,
      .description = "How many of the best are returned",
      .initial = "5",
      .min = 1,
      .max = 100 },
    { .name = "batch_size",
      .kind = Q3_COG_INTEGER,
      .description = "Documents that are computed at a time",
      .initial = "8",
      .min = 1,
      .max = 32 },
};

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

const q3_cog_input *q3_cog_inputs(int *n, q3_cog_task task)
{
    *n = task == Q3_COG_GENERATE ? COUNT(generate_inputs) : COUNT(rerank_inputs);
    return task == Q3_COG_GENERATE ? generate_inputs : rerank_inputs;
}

/* ---- the document ---- */

static void put(q3_text *out, const char *text)
{
    q3_text_append(out, text, strlen(text));
}

static void put_string(q3_text *out, const char *text)
{
    q3_text_json_string(out, text, strlen(text));
}

/* "max_new_tokens": "Max New Tokens", as Cog makes titles. */
static void put_title(q3_text *out, const char *name)
{
    char title[64];
    bool first = true;
    snprintf(title, sizeof title, "%s", name);
    for (char *p = title; *p; p++) {
        if (*p == '_')
            *p = ' ';
        else if (first && *p >= 'a' && *p <= 'z')
            *p = (char)(*p - 'a' + 'A');
        first = *p == ' ';
    }
    put_string(out, title);
}

static const char *type_of(q3_cog_kind kind)
{
    switch (kind) {
    case Q3_COG_INTEGER:
        return "\"type\":\"integer\"";
    case Q3_COG_NUMBER:
        return "\"type\":\"number\"";
    case Q3_COG_URI:
        return "\"type\":\"string\",\"format\":\"uri\"";
    case Q3_COG_DOCUMENTS:
        return "\"anyOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"items\":{}}]";
    default:
        return "\"type\":\"string\"";
    }
}

static void put_property(q3_text *out, const q3_cog_input *i, int order)
{
    put_string(out, i->name);
    put(out, ":{\"title\":");
    put_title(out, i->name);
    q3_text_printf(out, ",%s,\"description\":", type_of(i->kind));
    put_string(out, i->description);
    if (i->initial)
        q3_text_printf(out, ",\"default\":%s", i->initial);
    if (i->nullable)
        put(out, ",\"nullable\":true");
    if (i->min != 0 || i->max != 0)
        q3_text_printf(out, ",\"minimum\":%g,\"maximum\":%g", i->min, i->max);
    q3_text_printf(out, ",\"x-order\":%d}", order);
}

static void put_input(q3_text *out, q3_cog_task task)
{
    int n;
    const q3_cog_input *list = q3_cog_inputs(&n, task);
    const char *between = "";
    put(out, "\"Input\":{\"title\":\"Input\",\"type\":\"object\",\"required\":[");
    for (int i = 0; i < n; i++)
        if (list[i].required) {
            q3_text_printf(out, "%s\"%s\"", between, list[i].name);
            between = ",";
        }
    put(out, "],\"properties\":{");
    for (int i = 0; i < n; i++) {
        put(out, i ? "," : "");
        put_property(out, &list[i], i);
    }
    put(out, "}},\"Output\":{\"title\":\"Output\",\"type\":\"string\"}");
}

/* A request as Cog's own documents have it; `Input` is the only part that differs between models. */
static const char request_schemas[] =
    ",\"PredictionRequest\":{\"title\":\"PredictionRequest\",\"type\":\"object\",\"properties\":{"
    "\"input\":{\"$ref\":\"#/components/schemas/Input\"},"
    "\"id\":{\"title\":\"Id\",\"type\":\"string\",\"nullable\":true},"
    "\"context\":{\"title\":\"Context\",\"type\":\"object\",\"nullable\":true},"
    "\"created_at\":{\"title\":\"Created "
    "At\",\"type\":\"string\",\"format\":\"date-time\",\"nullable\":true},"
    "\"webhook\":{\"title\":\"Webhook\",\"type\":\"string\",\"format\":\"uri\",\"nullable\":true},"
    "\"webhook_events_filter\":{\"title\":\"Webhook Events Filter\",\"type\":\"array\",\"nullable\":true,"
    "\"items\":{\"$ref\":\"#/components/schemas/WebhookEvent\"},"
    "\"default\":[\"start\",\"output\",\"logs\",\"completed\"]}}}"
    ",\"WebhookEvent\":{\"title\":\"WebhookEvent\",\"type\":\"string\","
    "\"enum\":[\"start\",\"output\",\"logs\",\"completed\"]}";

static const char response_schemas[] =
    ",\"PredictionResponse\":{\"title\":\"PredictionResponse\",\"type\":\"object\",\"properties\":{"
    "\"input\":{\"$ref\":\"#/components/schemas/Input\",\"nullable\":true},"
    "\"output\":{\"$ref\":\"#/components/schemas/Output\",\"nullable\":true},"
    "\"id\":{\"title\":\"Id\",\"type\":\"string\",\"nullable\":true},"
    "\"version\":{\"title\":\"Version\",\"type\":\"string\",\"nullable\":true},"
    "\"created_at\":{\"title\":\"Created "
    "At\",\"type\":\"string\",\"format\":\"date-time\",\"nullable\":true},"
    "\"started_at\":{\"title\":\"Started "
    "At\",\"type\":\"string\",\"format\":\"date-time\",\"nullable\":true},"
    "\"completed_at\":{\"title\":\"Completed "
    "At\",\"type\":\"string\",\"format\":\"date-time\",\"nullable\":true},"
    "\"status\":{\"$ref\":\"#/components/schemas/Status\",\"nullable\":true},"
    "\"error\":{\"title\":\"Error\",\"type\":\"string\",\"nullable\":true},"
    "\"logs\":{\"title\":\"Logs\",\"type\":\"string\",\"default\":\"\"},"
    "\"metrics\":{\"title\":\"Metrics\",\"type\":\"object\",\"nullable\":true}}}"
    ",\"Status\":{\"title\":\"Status\",\"type\":\"string\","
    "\"enum\":[\"starting\",\"processing\",\"succeeded\",\"canceled\",\"failed\"]}"
    ",\"HTTPValidationError\":{\"title\":\"HTTPValidationError\",\"type\":\"object\",\"properties\":{"
    "\"detail\":{\"title\":\"Detail\",\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/"
    "ValidationError\"}}}}"
    ",\"ValidationError\":{\"title\":\"ValidationError\",\"type\":\"object\",\"required\":[\"loc\",\"msg\","
    "\"type\"],"
    "\"properties\":{\"loc\":{\"title\":\"Location\",\"type\":\"array\",\"items\":{\"anyOf\":[{\"type\":"
    "\"string\"},"
    "{\"type\":\"integer\"}]}},\"msg\":{\"title\":\"Message\",\"type\":\"string\"},"
    "\"type\":{\"title\":\"Error Type\",\"type\":\"string\"}}}";

typedef struct operation {
    const char *path, *method, *name, *summary;
    bool predicts; // takes a request, gives a prediction
} operation;

static const operation operations[] = {
    { "/", "get", "root", "What this server offers", false },
    { "/health-check", "get", "healthcheck", "State of the server", false },
    { "/predictions", "post", "predict", "Run a prediction", true },
    { "/predictions/{prediction_id}", "put", "predict_idempotent", "Run a prediction once", true },
    { "/predictions/{prediction_id}/cancel", "post", "cancel", "Cancel a prediction", false },
    { "/shutdown", "post", "start_shutdown", "Stop the server", false },
};

static void put_operation(q3_text *out, const operation *o)
{
    static const char parameter[] =
        ",\"parameters\":[{\"name\":\"prediction_id\",\"in\":\"path\",\"required\":true,"
        "\"schema\":{\"title\":\"Prediction ID\",\"type\":\"string\"}}]";
    static const char body[] = ",\"requestBody\":{\"content\":{\"application/json\":{\"schema\":{\"$ref\":"
                               "\"#/components/schemas/PredictionRequest\"}}}}";
    q3_text_printf(out, "\"%s\":{\"%s\":{\"summary\":\"%s\",\"operationId\":\"%s\"", o->path, o->method,
                   o->summary, o->name);
    if (strchr(o->path, '{'))
        put(out, parameter);
    if (o->predicts)
        put(out, body);
    q3_text_printf(
        out,
        ",\"responses\":{\"200\":{\"description\":\"Successful Response\",\"content\":{\"application/json\":{"
        "\"schema\":{%s}}}}",
        o->predicts ? "\"$ref\":\"#/components/schemas/PredictionResponse\"" : "");
    if (o->predicts)
        put(out,
            ",\"422\":{\"description\":\"Validation Error\",\"content\":{\"application/json\":{\"schema\":{"
            "\"$ref\":\"#/components/schemas/HTTPValidationError\"}}}}");
    put(out, "}}}");
}

void q3_cog_schema_write(q3_text *out, q3_cog_task task)
{
    put(out,
        "{\"openapi\":\"3.0.2\",\"info\":{\"title\":\"Cog\",\"version\":\"" Q3_VERSION "\"},\"paths\":{");
    for (int i = 0; i < COUNT(operations); i++) {
        put(out, i ? "," : "");
        put_operation(out, &operations[i]);
    }
    put(out, "},\"components\":{\"schemas\":{");
    put_input(out, task);
    put(out, request_schemas);
    put(out, response_schemas);
    put(out, "}}}");
}

/* ---- checks ---- */

static void add_fault(q3_text *out, const char *name, const char *type, const char *message)
{
    put(out, out->size ? "," : "{\"detail\":[");
    put(out, "{\"loc\":[\"body\",\"input\"");
    if (name) {
        put(out, ",");
        put_string(out, name);
    }
    put(out, "],\"msg\":");
    put_string(out, message);
    q3_text_printf(out, ",\"type\":\"%s\"}", type);
}

static bool has_kind(const cJSON *v, q3_cog_kind kind)
{
    switch (kind) {
    case Q3_COG_INTEGER:
        return cJSON_IsNumber(v) && v->valuedouble == floor(v->valuedouble);
    case Q3_COG_NUMBER:
        return cJSON_IsNumber(v);
    case Q3_COG_DOCUMENTS:
        return cJSON_IsString(v) || cJSON_IsArray(v);
    default:
        return cJSON_IsString(v);
    }
}

static bool is_uri(const cJSON *v)
{
    static const char *const schemes[] = { "http://", "https://", "data:", "file://" };
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
        if (strncmp(v->valuestring, schemes[i], strlen(schemes[i])) == 0)
            return true;
    return false;
}

static void check_value(q3_text *out, const cJSON *v, const q3_cog_input *i)
{
    static const char *const kinds[] = { "must be a string", "must be an integer", "must be a number",
                                         "must be a URL", "must be a list or a string" };
    char message[80];
    if (!has_kind(v, i->kind) || (i->kind == Q3_COG_URI && !is_uri(v))) {
        add_fault(out, i->name, "value_error", kinds[i->kind]);
        return;
    }
    if ((i->min != 0 || i->max != 0) && !(v->valuedouble >= i->min && v->valuedouble <= i->max)) {
        snprintf(message, sizeof message, "must be from %g to %g", i->min, i->max);
        add_fault(out, i->name, "value_error", message);
    }
}

bool q3_cog_check(q3_text *out, const cJSON *input, q3_cog_task task)
{
    int n;
    const q3_cog_input *list = q3_cog_inputs(&n, task);
    if (input && !cJSON_IsNull(input) && !cJSON_IsObject(input))
        add_fault(out, NULL, "value_error", "must be an object");
    bool object = !out->size;
    for (int i = 0; object && i < n; i++) {
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(input, list[i].name);
        bool given = v && !(cJSON_IsNull(v) && (list[i].nullable || list[i].required));
        if (given)
            check_value(out, v, &list[i]);
        else if (list[i].required)
            add_fault(out, list[i].name, "value_error.missing", "Field required");
    }
    if (out->size)
        put(out, "]}");
    return !out->size;
}

const char *q3_cog_string(const cJSON *input, const char *name)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(input, name));
}

double q3_cog_number(const cJSON *input, q3_cog_task task, const char *name)
{
    int n;
    const q3_cog_input *list = q3_cog_inputs(&n, task);
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(input, name);
    if (cJSON_IsNumber(v))
        return v->valuedouble;
    double value = 0;
    for (int i = 0; i < n; i++)
        if (strcmp(list[i].name, name) == 0 && list[i].initial)
            sscanf(list[i].initial, "%lf", &value);
    return value;
}
