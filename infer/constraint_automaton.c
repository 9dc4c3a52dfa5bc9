#include "infer/constraint_automaton.h"

#include <stdlib.h>
#include <string.h>

void q3_automaton_init(q3_automaton *a, const q3_grammar *grammar)
{
    *a = (q3_automaton){ .grammar = grammar };
}

void q3_automaton_free(q3_automaton *a)
{
    void *const all[] = { a->positions,     a->next, a->items, a->nodes,         a->by_items.slots,
                          a->by_call.slots, a->work, a->found, a->visited.slots, a->visits };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        q3_free(all[i]);
    q3_automaton_init(a, a->grammar);
}

size_t q3_automaton_bytes(const q3_automaton *a)
{
    return (size_t)a->n_positions * sizeof *a->positions + (size_t)a->next_capacity * sizeof *a->next +
           (size_t)a->n_items * sizeof *a->items + (size_t)a->n_nodes * sizeof *a->nodes +
           (size_t)(a->by_items.capacity + a->by_call.capacity) * sizeof(int32_t);
}

/* Room for n elements in all. */
static bool reserve(q3_automaton *a, void **array, int64_t n, int64_t *capacity, size_t bytes)
{
    if (n <= *capacity)
        return true;
    int64_t more = *capacity ? *capacity : 64;
    while (more < n)
        more *= 2;
    void *p = q3_realloc(*array, (size_t)more * bytes);
    if (!p) {
        a->failed = true;
        return false;
    }
    *array = p;
    *capacity = more;
    return true;
}

/* ---- numbered things, found again by what they are ---- */

static uint64_t mix(uint64_t h, uint64_t x) // splitmix64's finalizer (Steele et al. 2014)
{
    h = (h ^ x) * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9u;
    return h ^ h >> 27;
}

static uint64_t hash_pair(int32_t x, int32_t y)
{
    return mix(1, (uint64_t)(uint32_t)x << 32 | (uint32_t)y);
}

static uint64_t hash_items(const q3_position_item *items, int64_t n)
{
    uint64_t h = (uint64_t)n;
    for (int64_t i = 0; i < n; i++)
        h = mix(h, (uint64_t)(uint32_t)items[i].state << 32 | (uint32_t)items[i].calls);
    return h;
}

static uint64_t hash_of(const q3_automaton *a, const q3_hash *table, int32_t number)
{
    if (table == &a->by_call)
        return hash_pair(a->nodes[number].then, a->nodes[number].rest);
    if (table == &a->visited)
        return hash_pair(a->visits[number].state, a->visits[number].calls);
    return hash_items(a->items + a->positions[number].first, a->positions[number].n);
}

static void put(q3_hash *table, uint64_t hash, int32_t number)
{
    uint64_t at = hash & (uint64_t)(table->capacity - 1);
    while (table->slots[at] >= 0)
        at = (at + 1) & (uint64_t)(table->capacity - 1);
    table->slots[at] = number;
}

/* At most half full, with one more to come. */
static bool widen(q3_automaton *a, q3_hash *table)
{
    if (2 * (table->n + 1) <= table->capacity)
        return true;
    int64_t capacity = table->capacity ? 2 * table->capacity : 64;
    int32_t *slots = q3_malloc((size_t)capacity * sizeof *slots);
    if (!slots) {
        a->failed = true;
        return false;
    }
    memset(slots, 0xff, (size_t)capacity * sizeof *slots);
    q3_free(table->slots);
    table->slots = slots;
    table->capacity = capacity;
    for (int32_t i = 0; i < table->n; i++)
        put(table, hash_of(a, table, i), i);
    return true;
}

/* The node of a call; -2 when memory ran out. */
static int32_t call_node(q3_automaton *a, int32_t then, int32_t rest)
{
    uint64_t hash = hash_pair(then, rest);
    if (!widen(a, &a->by_call) ||
        !reserve(a, (void **)&a->nodes, a->n_nodes + 1, &a->nodes_capacity, sizeof *a->nodes))
        return -2;
    uint64_t last = (uint64_t)(a->by_call.capacity - 1), at = hash & last;
    for (int32_t i; (i = a->by_call.slots[at]) >= 0; at = (at + 1) & last)
        if (a->nodes[i].then == then && a->nodes[i].rest == rest)
            return i;
    a->nodes[a->n_nodes] = (q3_call_node){ then, rest };
    a->by_call.slots[at] = (int32_t)a->n_nodes;
    a->by_call.n++;
    return (int32_t)a->n_nodes++;
}

/* ---- a step ---- */

/* Follows an item later, unless it was met in this step. */
static void follow(q3_automaton *a, int32_t state, int32_t calls)
{
    if (a->failed || !a->grammar->states[state].live || !widen(a, &a->visited))
        return;
    uint64_t last = (uint64_t)(a->visited.capacity - 1), at = hash_pair(state, calls) & last;
    for (int32_t i; (i = a->visited.slots[at]) >= 0; at = (at + 1) & last)
        if (a->visits[i].state == state && a->visits[i].calls == calls)
            return;
    a->failed = a->n_visits == Q3_AUTOMATON_WIDTH;
    if (a->failed ||
        !reserve(a, (void **)&a->visits, a->n_visits + 1, &a->visits_capacity, sizeof *a->visits) ||
        !reserve(a, (void **)&a->work, a->n_work + 1, &a->work_capacity, sizeof *a->work))
        return;
    a->visited.slots[at] = (int32_t)a->n_visits;
    a->visited.n++;
    a->visits[a->n_visits++] = a->work[a->n_work++] = (q3_position_item){ state, calls };
}

static void keep(q3_automaton *a, q3_position_item item)
{
    if (reserve(a, (void **)&a->found, a->n_found + 1, &a->found_capacity, sizeof *a->found))
        a->found[a->n_found++] = item;
}

/* What follows a state without a byte. */
static void expand(q3_automaton *a, q3_position_item item)
{
    const q3_state *s = &a->grammar->states[item.state];
    switch ((q3_state_kind)s->kind) {
    case Q3_STATE_BYTES:
        keep(a, item);
        return;
    case Q3_STATE_NEXT:
        follow(a, s->to, item.calls);
        return;
    case Q3_STATE_SPLIT:
        follow(a, s->to, item.calls);
        follow(a, s->other, item.calls);
        return;
    case Q3_STATE_CALL: {
        // a rule's last call needs no return of its own
        bool last = a->grammar->states[s->to].kind == Q3_STATE_END;
        int32_t calls = last ? item.calls : call_node(a, s->to, item.calls);
        follow(a, a->grammar->rules[s->other], calls);
        return;
    }
    case Q3_STATE_END:
        if (item.calls < 0)
            keep(a, (q3_position_item){ item.state, -1 });
        else
            follow(a, a->nodes[item.calls].then, a->nodes[item.calls].rest);
        return;
    }
}

static int by_number(const void *a, const void *b)
{
    const q3_position_item *x = a, *y = b;
    return x->state != y->state ? (x->state > y->state) - (x->state < y->state)
                                : (x->calls > y->calls) - (x->calls < y->calls);
}

/* A new position of `found`. */
static int32_t add_position(q3_automaton *a, uint64_t at)
{
    int64_t C = a->grammar->n_classes, n = a->n_found;
    if (!reserve(a, (void **)&a->positions, a->n_positions + 1, &a->positions_capacity,
                 sizeof *a->positions) ||
        !reserve(a, (void **)&a->next, (a->n_positions + 1) * C, &a->next_capacity, sizeof *a->next) ||
        !reserve(a, (void **)&a->items, a->n_items + n, &a->items_capacity, sizeof *a->items))
        return Q3_POSITION_NONE;
    q3_position p = { .first = a->n_items, .n = (int32_t)n, .mask = -1 };
    for (int64_t i = 0; i < n; i++) {
        bool end = a->grammar->states[a->found[i].state].kind == Q3_STATE_END;
        p.may_end |= end;
        p.may_go_on |= !end;
    }
    memcpy(a->items + a->n_items, a->found, (size_t)n * sizeof *a->items);
    a->n_items += n;
    a->positions[a->n_positions] = p;
    for (int64_t c = 0; c < C; c++)
        a->next[a->n_positions * C + c] = Q3_POSITION_UNKNOWN;
    a->by_items.slots[at] = (int32_t)a->n_positions;
    a->by_items.n++;
    return (int32_t)a->n_positions++;
}

/* The position that `found` is. */
static int32_t position_of_found(q3_automaton *a)
{
    if (!a->n_found || a->failed || !widen(a, &a->by_items))
        return Q3_POSITION_NONE;
    qsort(a->found, (size_t)a->n_found, sizeof *a->found, by_number);
    size_t bytes = (size_t)a->n_found * sizeof *a->found;
    uint64_t last = (uint64_t)(a->by_items.capacity - 1), at = hash_items(a->found, a->n_found) & last;
    for (int32_t i; (i = a->by_items.slots[at]) >= 0; at = (at + 1) & last) {
        const q3_position *p = &a->positions[i];
        if (p->n == a->n_found && memcmp(a->items + p->first, a->found, bytes) == 0)
            return i;
    }
    return add_position(a, at);
}

static void begin(q3_automaton *a)
{
    a->n_work = a->n_found = a->n_visits = a->visited.n = 0;
    if (a->visited.capacity > 4096) { // a wide step must not slow all later ones
        q3_free(a->visited.slots);
        a->visited = (q3_hash){ 0 };
    } else if (a->visited.capacity) {
        memset(a->visited.slots, 0xff, (size_t)a->visited.capacity * sizeof *a->visited.slots);
    }
}

static int32_t finish(q3_automaton *a)
{
    while (a->n_work && !a->failed)
        expand(a, a->work[--a->n_work]);
    return position_of_found(a);
}

int32_t q3_automaton_start(q3_automaton *a)
{
    begin(a);
    follow(a, a->grammar->rules[0], -1);
    return finish(a);
}

int32_t q3_automaton_find_step(q3_automaton *a, int32_t position, uint8_t byte)
{
    const q3_grammar *g = a->grammar;
    const q3_position p = a->positions[position];
    begin(a);
    if (q3_automaton_bytes(a) > Q3_AUTOMATON_BYTES)
        a->failed = true;
    for (int64_t i = p.first; i < p.first + p.n; i++) {
        const q3_state *s = &g->states[a->items[i].state];
        if (s->kind == Q3_STATE_BYTES && q3_grammar_takes(g, s, byte))
            follow(a, s->to, a->items[i].calls);
    }
    int32_t to = finish(a);
    if (!a->failed)
        a->next[(int64_t)position * g->n_classes + g->class_of[byte]] = to;
    return to;
}

/* ---- forgetting ---- */

/* The node of `from` that stands for the same calls as `node` of `old`, from the outermost on. */
static int32_t same_calls(q3_automaton *from, const q3_automaton *old, int32_t node, int32_t *path)
{
    int64_t n = 0;
    int32_t made = -1;
    for (; node >= 0; node = old->nodes[node].rest)
        path[n++] = old->nodes[node].then;
    while (n && made != -2)
        made = call_node(from, path[--n], made);
    return made;
}

q3_status q3_automaton_renew(q3_automaton *a, int32_t *positions, int64_t n)
{
    q3_automaton fresh;
    int32_t *kept = q3_calloc((size_t)(n + a->n_nodes + 1), sizeof *kept), *path = kept + n;
    q3_automaton_init(&fresh, a->grammar);
    if (!kept)
        return Q3_ERR_MEMORY;
    for (int64_t k = 0; k < n && !fresh.failed; k++) {
        const q3_position *p = &a->positions[positions[k]];
        fresh.n_found = 0;
        for (int64_t i = p->first; i < p->first + p->n; i++)
            keep(&fresh,
                 (q3_position_item){ a->items[i].state, same_calls(&fresh, a, a->items[i].calls, path) });
        kept[k] = position_of_found(&fresh);
    }
    bool failed = fresh.failed;
    if (!failed) {
        memcpy(positions, kept, (size_t)n * sizeof *kept);
        q3_automaton_free(a);
        *a = fresh;
    } else {
        q3_automaton_free(&fresh);
    }
    q3_free(kept);
    return failed ? Q3_ERR_MEMORY : Q3_OK;
}
