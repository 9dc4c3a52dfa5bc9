/* eval/bench.h - how fast a model answers: requests of one size through the scheduler, timed token by token.
 *
 * Two runs for each number N of requests at a time. Together: N requests begin at once, so that their prompts are
 * computed first and all of them decode side by side behind that; this gives the two speeds. Under load: N requests are
 * kept going, each that ends makes room for the next, and their answers differ in length, so that prompts of some are
 * computed between tokens of others; this gives the latencies.
 *
 * Prompts are ids that share no beginning, answers are greedy and never end by themselves.
 */
#ifndef Q3_EVAL_BENCH_H
#define Q3_EVAL_BENCH_H

#include "infer/subject.h"

typedef struct q3_bench_options {
    int batch;             /* N, at least 1 */
    int64_t prompt_tokens; /* at least 1 */
    int64_t new_tokens;    /* at least 2: a speed needs an interval */
    int rounds;            /* under load: N * rounds requests, at least 1 */
} q3_bench_options;

/* The smallest value that so many of 100 do not exceed; 0 where there are none. Seconds. */
typedef struct q3_percentiles {
    double p50, p90, p99;
} q3_percentiles;

typedef struct q3_bench {
    double prefill, decode;        /* tokens a second of all N together */
    q3_percentiles first, between; /* under load: submission to first token, token to token */
    int64_t requests, tokens;      /* under load */
    double seconds;
} q3_bench;

/* The engine shares no prefixes and holds N (prompt_tokens + new_tokens + Q3_ENGINE_BLOCK) tokens. Errors: those of the
 * scheduler. */
q3_status q3_bench_run(q3_bench *out, q3_engine *engine, const q3_bench_options *o);

/* Sorts the values [n]. */
q3_percentiles q3_percentiles_of(double *values, int64_t n);

#endif
