/* infer/constraint_automaton.h - where a text stands in a grammar, found out as far as it is asked for.
 *
 * A position is everything the text so far may be: a set of states, each with the calls that it is in. Positions are
 * numbered as they are met and remember where each class of bytes leads (the lazy subset construction of Thompson 1968
 * and RE2, with stacks: without recursion it is a finite automaton). Calls in progress are shared nodes that
 * say where to go on and what comes after that.
 */
#ifndef Q3_INFER_CONSTRAINT_AUTOMATON_H
#define Q3_INFER_CONSTRAINT_AUTOMATON_H

#include "infer/constraint_grammar.h"

enum { Q3_POSITION_NONE = -1, Q3_POSITION_UNKNOWN = -2 };

/* What it may come to between two calls of q3_automaton_renew, and what one step may look at: ambiguous recursion doubles
 * that with each level, so there must be an end. A list of ten thousand words takes ten thousand. */
enum { Q3_AUTOMATON_BYTES = 1 << 28, Q3_AUTOMATON_WIDTH = 1 << 17 };

typedef struct q3_position_item {
    int32_t state; /* BYTES, or END where the text may end */
    int32_t calls; /* number of a node, -1: none */
} q3_position_item;

typedef struct q3_position {
    int64_t first; /* of its items */
    int32_t n;
    bool may_end, may_go_on;
    int32_t mask; /* the caller's; -1 at first */
} q3_position;

typedef struct q3_call_node {
    int32_t then, rest; /* the state behind the call; the node of the calls around it, or -1 */
} q3_call_node;

typedef struct q3_hash {
    int32_t *slots; /* [capacity], -1: empty */
    int64_t n, capacity;
} q3_hash;

typedef struct q3_automaton {
    const q3_grammar *grammar; /* borrowed, finished */
    bool failed;               /* out of memory, or at one of these ends: it leads nowhere any more */
    q3_position *positions;    /* [n_positions] */
    int32_t *next;             /* [n_positions, classes] */
    int64_t n_positions, positions_capacity, next_capacity;
    q3_position_item *items;
    int64_t n_items, items_capacity;
    q3_call_node *nodes;
    int64_t n_nodes, nodes_capacity;
    q3_hash by_items, by_call;
    q3_position_item *work, *found; /* of a step: what is still to be followed, what stays */
    int64_t n_work, work_capacity, n_found, found_capacity;
    q3_hash visited;
    q3_position_item *visits; /* what `visited` numbers */
    int64_t n_visits, visits_capacity;
} q3_automaton;

/* Nothing is allocated yet. */
void q3_automaton_init(q3_automaton *a, const q3_grammar *grammar);
void q3_automaton_free(q3_automaton *a);

/* The position before any text: rule 0. Q3_POSITION_NONE when memory ran out. */
int32_t q3_automaton_start(q3_automaton *a);
int32_t q3_automaton_find_step(q3_automaton *a, int32_t position, uint8_t byte);

/* Where a byte leads; Q3_POSITION_NONE: it may not come, or `failed`. */
static inline int32_t q3_automaton_step(q3_automaton *a, int32_t position, uint8_t byte)
{
    int32_t to = a->next[(int64_t)position * a->grammar->n_classes + a->grammar->class_of[byte]];
    return to != Q3_POSITION_UNKNOWN ? to : q3_automaton_find_step(a, position, byte);
}

/* Bytes of memory in use. */
size_t q3_automaton_bytes(const q3_automaton *a);

/* Forgets everything but these positions and renumbers them in place. On failure (memory) `a` is as it was. */
q3_status q3_automaton_renew(q3_automaton *a, int32_t *positions, int64_t n);

#endif
