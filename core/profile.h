/* core/profile.h - where the time of steps goes: by op and direction, beside what the op has to do and what the device
 * can do.
 *
 * On the CPU an op is timed as it runs. On a CUDA device marks are put into its stream around what the op launches and
 * read at the end of the step, so the device is not waited for in between and runs as it does unmeasured (each mark takes
 * it about a microsecond). Runs of a checkpointed layer in backward count as forward. What is in no row is "rest": data,
 * copies outside of ops, gaps between launches. Ceilings are those of main memory: what finds its data in a cache exceeds
 * the copy's.
 */
#ifndef Q3_CORE_PROFILE_H
#define Q3_CORE_PROFILE_H

#include "core/device.h"
#include "core/op.h"

enum {
    Q3_PROFILE_UPDATE = Q3_OP_COUNT, /* sums of gradients, clipping, the optimizer */
    Q3_PROFILE_ROWS,
    Q3_PROFILE_SPANS = 4096, /* marks are read after so many ops at the latest */
};

typedef struct q3_profile_row {
    int64_t calls;
    double seconds;
    q3_cost cost; /* sums of flops and bytes */
} q3_profile_row;

typedef struct q3_profile_span {
    void *first, *last; /* marks */
    q3_profile_row *row;
} q3_profile_span;

typedef struct q3_profile {
    q3_cuda *cuda;                           /* NULL: the CPU */
    q3_profile_row rows[Q3_PROFILE_ROWS][2]; /* forward, backward */
    int64_t steps;
    double seconds;      /* of the steps, by the clock on the wall */
    double copy_rate;    /* bytes/s of a copy, read and written; 0: not measured */
    double product_rate; /* flops/s of a matrix product: bf16 on CUDA, f32 on the CPU */
    double start;        /* of the step */
    int n_spans;         /* waiting to be read */
    q3_profile_span spans[Q3_PROFILE_SPANS];
} q3_profile;

/* When a piece of work began. */
typedef struct q3_moment {
    double seconds;
    void *mark;
} q3_moment;

/* Around a piece of work, which counts in rows[row][back]; nothing where p is NULL. */
q3_moment q3_profile_begin(q3_profile *p);
void q3_profile_end(q3_profile *p, q3_moment begin, int row, bool back, q3_cost cost);

/* Around a step; its end waits for the device. Nothing where p is NULL. */
void q3_profile_step_begin(q3_profile *p);
void q3_profile_step_end(q3_profile *p);

/* Forgets the steps so far, which had plans to make and memory to touch; the ceilings stay. */
void q3_profile_clear(q3_profile *p);

/* Measures copy_rate and product_rate, on arrays as large as it takes; some tenths of a second. What there is no memory
 * for is left out. */
q3_status q3_profile_ceilings(q3_profile *p);

/* The table, on stderr. */
void q3_profile_print(const q3_profile *p);

#endif
