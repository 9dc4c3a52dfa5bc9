#include "optim/optimizer.h"

#include <stdio.h>
#include <string.h>

#include "optim/adamw.h"
#include "optim/adamw8bit.h"

struct q3_optimizer {
    q3_optimizer_kind kind;
    q3_params params;
    q3_adamw_hyper hyper;
    q3_arena *values; // what the states lie in
    int64_t steps;
    q3_adamw8bit_state *moments; /* [params.n] */
    q3_optimizer_state *states;  /* [n_states] */
    int n_states;
};

static q3_status check(const q3_params *params, const q3_adamw_hyper *h)
{
    if (!(h->beta1 >= 0 && h->beta1 < 1 && h->beta2 >= 0 && h->beta2 < 1))
        return q3_fail(Q3_ERR_USAGE, "adam_beta1 is %g and adam_beta2 %g; both must lie in [0, 1)", h->beta1,
                       h->beta2);
    if (!(h->eps >= 0 && h->weight_decay >= 0))
        return q3_fail(Q3_ERR_USAGE, "adam_epsilon is %g and weight_decay %g; neither may be negative",
                       h->eps, h->weight_decay);
    for (int i = 0; i < params->n; i++) {
        const q3_param *p = &params->table[i];
        Q3_CHECK(p->n >= 0 && p->offset >= 0 && p->offset <= params->total - p->n, "%s: %lld at %lld of %lld",
                 p->name, (long long)p->n, (long long)p->offset, (long long)params->total);
    }
    return Q3_OK;
}

/* One zeroed array under the name "state.<param>.<what>"; NULL when the arena is full. */
static void *add_state(q3_optimizer *o, q3_arena *mem, const q3_param *p, const char *what, q3_dtype dtype,
                       int64_t n)
{
    size_t name_bytes = strlen("state..") + strlen(p->name) + strlen(what) + 1;
    char *name = q3_arena_alloc(mem, name_bytes);
    void *data = q3_arena_alloc(o->values, q3_dtype_bytes(dtype, n));
    if (!name || !data)
        return NULL;
    if (!o->values->dry)
        q3_device_fill(o->values->cuda, data, 0, q3_dtype_bytes(dtype, n));
    if (!mem->dry) {
        snprintf(name, name_bytes, "state.%s.%s", p->name, what);
        o->states[o->n_states] = (q3_optimizer_state){ name, dtype, n, data };
    }
    o->n_states++;
    return data;
}

static bool add_moments(q3_optimizer *o, q3_arena *mem, const q3_param *p, q3_adamw8bit_state *s)
{
    *s = (q3_adamw8bit_state){ 0 };
    if (o->kind == Q3_OPTIMIZER_ADAMW || p->n < Q3_ADAMW_8BIT_MIN) {
        s->m = add_state(o, mem, p, "exp_avg", Q3_F32, p->n);
        s->v = add_state(o, mem, p, "exp_avg_sq", Q3_F32, p->n);
        return s->m && s->v;
    }
    int64_t blocks = (p->n + Q3_ADAMW_BLOCK - 1) / Q3_ADAMW_BLOCK;
    s->code1 = add_state(o, mem, p, "c1", Q3_U8, p->n);
    s->code2 = add_state(o, mem, p, "c2", Q3_U8, p->n);
    s->absmax1 = add_state(o, mem, p, "absmax1", Q3_F32, blocks);
    s->absmax2 = add_state(o, mem, p, "absmax2", Q3_F32, blocks);
    return s->code1 && s->code2 && s->absmax1 && s->absmax2;
}

q3_status q3_optimizer_create(q3_optimizer **out, q3_arena *mem, q3_arena *values, q3_optimizer_kind kind,
                              const q3_params *params, const q3_adamw_hyper *hyper)
{
    *out = NULL;
    Q3_TRY(check(params, hyper));
    q3_optimizer made = { .kind = kind, .params = *params, .hyper = *hyper, .values = values };
    q3_optimizer *o = Q3_NEW(mem, q3_optimizer, 1);
    made.moments = Q3_NEW(mem, q3_adamw8bit_state, params->n);
    made.states = Q3_NEW(mem, q3_optimizer_state, 4 * (int64_t)params->n);
    q3_param *table = Q3_NEW(mem, q3_param, params->n);
    if (!o || !made.moments || !made.states || !table)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < params->n; i++) {
        q3_adamw8bit_state s;
        if (!add_moments(&made, mem, &params->table[i], &s))
            return Q3_ERR_MEMORY;
        if (!mem->dry)
            made.moments[i] = s;
    }
    if (mem->dry)
        return Q3_OK;
    if (params->n)
        memcpy(table, params->table, sizeof *table * (size_t)params->n);
    made.params.table = table;
    made.params.grads = NULL; // each step brings its own
    *o = made;
    *out = o;
    return Q3_OK;
}

void q3_optimizer_step(q3_optimizer *o, const float *grads, double lr)
{
    o->steps++;
    for (int i = 0; i < o->params.n; i++) {
        const q3_param *t = &o->params.table[i];
        const q3_adamw8bit_state *s = &o->moments[i];
        float *p = o->params.values + t->offset;
        const float *g = grads + t->offset;
        if (o->kind == Q3_OPTIMIZER_ADAMW)
            q3_adamw_step(o->values->cuda, p, g, s->m, s->v, t->n, &o->hyper, lr, o->steps, t->decay);
        else
            q3_adamw8bit_step(o->values->cuda, p, g, s, t->n, &o->hyper, lr, o->steps, t->decay);
    }
}

int64_t q3_optimizer_steps(const q3_optimizer *o)
{
    return o->steps;
}

void q3_optimizer_set_steps(q3_optimizer *o, int64_t steps)
{
    Q3_CHECK(steps >= 0, "%lld steps", (long long)steps);
    o->steps = steps;
}

const q3_optimizer_state *q3_optimizer_states(const q3_optimizer *o, int *n)
{
    *n = o->n_states;
    return o->states;
}
