/* cli/facts.h - what a command has found out, for the eye or as one JSON object, by the same calls.
 *
 *   base        Qwen/Qwen3-VL-2B-Instruct        {"base": "Qwen/Qwen3-VL-2B-Instruct",
 *   text        layers 28, hidden 2048            "text": {"layers": 28, "hidden": 2048},
 *   targets     q_proj                            "targets": ["q_proj", "v_proj"]}
 *               v_proj
 *
 * Facts stand at the top or in a group. Lists are of the top; text shows a dozen of their items unless `all` is set.
 * Problems are gathered and come last. Out of memory shows at the end.
 */
#ifndef Q3_CLI_FACTS_H
#define Q3_CLI_FACTS_H

#include "core/json.h"

typedef struct q3_facts {
    bool json, all;   /* set by the caller; the rest begins as zeros */
    q3_text text;     /* what is printed */
    q3_text problems; /* sentences, each with a NUL behind it */
    int64_t n_problems;
    int64_t items; /* of the list that is open */
    bool in_group, started;
} q3_facts;

void q3_fact_text(q3_facts *f, const char *name, const char *fmt, ...) Q3_PRINTF(3, 4);
void q3_fact_int(q3_facts *f, const char *name, int64_t value);
void q3_fact_number(q3_facts *f, const char *name, double value); /* NaN: none */
void q3_fact_bool(q3_facts *f, const char *name, bool value);
void q3_fact_bytes(q3_facts *f, const char *name, size_t bytes); /* JSON: the number */

void q3_fact_group(q3_facts *f, const char *name);
void q3_fact_group_end(q3_facts *f);

void q3_fact_list(q3_facts *f, const char *name);
void q3_fact_item(q3_facts *f, const char *fmt, ...) Q3_PRINTF(2, 3);
void q3_fact_list_end(q3_facts *f);

/* Something is wrong with what is looked at. */
void q3_fact_problem(q3_facts *f, const char *fmt, ...) Q3_PRINTF(2, 3);
/* The sentence of a failure that is what is looked at's own; Q3_OK then. What is none of its own comes back. */
q3_status q3_fact_failure(q3_facts *f, q3_status st);

/* Prints everything to stdout and frees it. Q3_ERR_MODEL when there were problems; the sentence begins with `what`. */
q3_status q3_facts_print(q3_facts *f, const char *what);
void q3_facts_free(q3_facts *f);

#endif
