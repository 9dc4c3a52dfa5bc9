#include "infer/subject.h"

#include "data/hub.h"

static q3_status open_all(q3_subject *s, const q3_subject_options *o)
{
    const q3_ground_options ground = { .device = o->device, .dtype = o->dtype };
    q3_load_options load = { .random = o->random, .seed = o->seed, .values = &s->ground.values };
    Q3_TRY(q3_load_options_word(&load, o->weights ? o->weights : "auto"));
    Q3_TRY(q3_ground_open(&s->ground, &ground));
    const char *dir;
    Q3_TRY(q3_hub_place(&dir, &s->ground.run, o->model, &(q3_hub_options){ .wish.light = o->random }));
    Q3_TRY(q3_model_load(&s->model, &s->ground.run, dir, &load));
    return q3_engine_create(&s->engine, &s->model, &s->ground.ctx, NULL, &o->engine);
}

q3_status q3_subject_open(q3_subject *out, const q3_subject_options *o)
{
    *out = (q3_subject){ 0 };
    q3_status st = open_all(out, o);
    if (st != Q3_OK)
        q3_subject_close(out);
    return st;
}

void q3_subject_close(q3_subject *s)
{
    q3_engine_destroy(s->engine);
    q3_model_close(&s->model);
    q3_ground_close(&s->ground);
    *s = (q3_subject){ 0 };
}
