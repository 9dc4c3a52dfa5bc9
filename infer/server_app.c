#include "infer/server_app.h"

#include <string.h>
#include <sys/random.h>

#include "core/log.h"

void q3_app_take_defaults(q3_app *app)
{
    const q3_generation_config *g = &app->session->model.config.generation;
    app->sampling = (q3_sampling){ .do_sample = g->do_sample,
                                   .temperature = g->temperature,
                                   .top_k = g->top_k,
                                   .top_p = g->top_p,
                                   .repetition_penalty = g->repetition_penalty,
                                   .min_p = g->min_p,
                                   .presence_penalty = g->presence_penalty,
                                   .frequency_penalty = g->frequency_penalty };
}

bool q3_app_find_model(int *adapter, const q3_app *app, const char *model)
{
    *adapter = app->default_adapter;
    if (!model || !*model || strcmp(model, app->session->name) == 0)
        return true;
    return q3_session_adapter_find(adapter, app->session, model) == Q3_OK;
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

void q3_pictures_free(q3_pictures *p)
{
    for (int i = 0; i < p->n; i++)
        q3_image_free(&p->list[i]);
    q3_free(p->list);
    *p = (q3_pictures){ 0 };
}
