/* infer/constraint_grammar.h - the texts that an answer may be, as rules over bytes that call each other.
 *
 * A rule is a nondeterministic automaton (Thompson 1968): states that take a byte out of a set, that branch, that call
 * another rule and go on behind it, or that end the rule. A regular expression is one rule; nested JSON takes calls.
 * Parts are built as fragments with one way in and one way out, each of which is used once. What goes wrong while
 * building (memory, more than Q3_GRAMMAR_STATES states) is kept in `status`, and everything later does nothing.
 */
#ifndef Q3_INFER_CONSTRAINT_GRAMMAR_H
#define Q3_INFER_CONSTRAINT_GRAMMAR_H

#include "core/arena.h"

enum {
    Q3_GRAMMAR_STATES = 1 << 18, /* 4 MiB; a schema of a hundred properties takes some thousands */
    Q3_GRAMMAR_RULES = 1 << 12,
};

typedef enum q3_state_kind {
    Q3_STATE_BYTES,
    Q3_STATE_NEXT,
    Q3_STATE_SPLIT,
    Q3_STATE_CALL,
    Q3_STATE_END
} q3_state_kind;

typedef struct q3_state {
    uint8_t kind;
    bool live;     /* an end can be reached; set by q3_grammar_finish */
    uint16_t set;  /* BYTES: which may come */
    int32_t to;    /* the next state; CALL: where to go on behind the rule */
    int32_t other; /* SPLIT: the other next state; CALL: the rule */
} q3_state;

typedef struct q3_byte_set {
    uint8_t bits[32];
} q3_byte_set;

typedef struct q3_grammar {
    q3_status status; /* of everything so far */
    q3_state *states;
    int32_t n_states, states_capacity;
    q3_byte_set *sets;
    int32_t n_sets, sets_capacity;
    int32_t *rules; /* first state of each, -1 before it is defined */
    int32_t n_rules, rules_capacity;
    int n_classes; /* bytes that no set tells apart are one class */
    uint8_t class_of[256];
    uint8_t example[256]; /* [n_classes]: a byte of each */
} q3_grammar;

typedef struct q3_fragment {
    int32_t first, last; /* last: a NEXT state that leads nowhere yet */
} q3_fragment;

/* Code points lo .. hi. */
typedef struct q3_char_range {
    uint32_t lo, hi;
} q3_char_range;

void q3_grammar_free(q3_grammar *g); /* a grammar starts as all zeros */

/* A rule that can be called from now on; q3_grammar_define says what it is. */
int32_t q3_grammar_rule(q3_grammar *g);
void q3_grammar_define(q3_grammar *g, int32_t rule, q3_fragment is);

q3_fragment q3_fragment_empty(q3_grammar *g);
q3_fragment q3_fragment_text(q3_grammar *g, const char *bytes, size_t n);
q3_fragment q3_fragment_then(q3_grammar *g, q3_fragment a, q3_fragment b);
q3_fragment q3_fragment_or(q3_grammar *g, q3_fragment a, q3_fragment b);
q3_fragment q3_fragment_maybe(q3_grammar *g, q3_fragment a);
q3_fragment q3_fragment_star(q3_grammar *g, q3_fragment a);
q3_fragment q3_fragment_call(q3_grammar *g, int32_t rule);

/* One character out of the ranges (in any order), in UTF-8. in_json: as it is written in a JSON string, escaped only
 * where that must be; U+0000 is left out then. No ranges: nothing fits. */
q3_fragment q3_fragment_chars(q3_grammar *g, const q3_char_range *ranges, size_t n, bool in_json);

/* Sorts ranges and joins those that touch; returns how many there are then. */
size_t q3_char_ranges_sort(q3_char_range *ranges, size_t n);
/* The characters outside sorted ranges [n]: out [n + 1]. */
size_t q3_char_ranges_invert(q3_char_range *out, const q3_char_range *ranges, size_t n);

/* Makes it ready for use. Q3_ERR_USAGE, with *rule at fault, where a rule calls itself before any byte or no text fits
 * (rule 0 alone must have one); other failures are those of building, *rule is -1 then. */
q3_status q3_grammar_finish(q3_grammar *g, int32_t *rule);

static inline bool q3_grammar_takes(const q3_grammar *g, const q3_state *s, uint8_t byte)
{
    return g->sets[s->set].bits[byte / 8] >> (byte % 8) & 1;
}

#endif
