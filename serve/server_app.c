#include "serve/server_app.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "core/log.h"

bool q3_app_find_model(int *adapter, const q3_app *app, const char *model)
{
    *adapter = app->default_adapter;
    if (!model || !*model || q3_session_adapter_find(adapter, app->session, model) == Q3_OK)
        return true;
    *adapter = -1;
    return strcmp(model, app->session->name) == 0;
}

/* ---- documents from outside ---- */

static bool is_data_url(const cJSON *item)
{
    return cJSON_IsString(item) && strncmp(item->valuestring, "data:", 5) == 0;
}

static q3_status guard_side(const cJSON *side, const char *name)
{
    const cJSON *image = cJSON_GetObjectItemCaseSensitive(side, "image");
    const cJSON *one = cJSON_IsArray(image) ? image->child : image;
    for (; one; one = cJSON_IsArray(image) ? one->next : NULL)
        if (!cJSON_IsNull(one) && !is_data_url(one))
            return q3_fail(Q3_ERR_DATA, "%s: image must be a data: URL, or a list of them", name);
    return Q3_OK;
}

static q3_status unpack_documents(cJSON *request)
{
    q3_json inner;
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "documents"));
    if (!text || q3_json_parse(&inner, text, strlen(text), "documents", 1) != Q3_OK)
        return Q3_OK; // no JSON: a text
    q3_status st = Q3_OK;
    if (cJSON_IsArray(inner.root)) {
        cJSON *list = cJSON_Duplicate(inner.root, true);
        if (!list || !cJSON_ReplaceItemInObjectCaseSensitive(request, "documents", list))
            st = q3_fail(Q3_ERR_MEMORY, "out of memory for documents");
    }
    q3_json_close(&inner);
    return st;
}

q3_status q3_app_guard_documents(cJSON *request)
{
    char name[32];
    int i = 0;
    if (!cJSON_IsObject(request))
        return Q3_OK;
    Q3_TRY(unpack_documents(request));
    Q3_TRY(guard_side(cJSON_GetObjectItemCaseSensitive(request, "query"), "query"));
    const cJSON *documents = cJSON_GetObjectItemCaseSensitive(request, "documents");
    if (!cJSON_IsArray(documents))
        return guard_side(documents, "documents");
    for (const cJSON *one = documents->child; one; one = one->next) {
        snprintf(name, sizeof name, "documents[%d]", i++);
        Q3_TRY(guard_side(one, name));
    }
    return Q3_OK;
}

uint64_t q3_random_seed(void)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, 0) == (ssize_t)sizeof seed)
        return seed;
    double now = q3_seconds();
    memcpy(&seed, &now, sizeof seed);
    return seed;
}

uint64_t q3_app_seed(const q3_app *app)
{
    return app->seeded ? app->sampling.seed : q3_random_seed();
}

void q3_pictures_free(q3_pictures *p)
{
    for (int i = 0; i < p->n; i++)
        q3_image_free(&p->list[i]);
    q3_free(p->list);
    *p = (q3_pictures){ 0 };
}
