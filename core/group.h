/* core/group.h - processes that compute one thing together: the ranks of an MPI job.
 *
 *   mpirun -n 2 qwen3-sft generate --parallel tensor ...
 *
 * Open MPI is opened at run time, and only where mpirun has started the program; nothing of it is needed to build. All functions but
 * join are collective or meet a partner: every rank calls the same ones in the same order. What is summed is gathered
 * first and then added in the order of the ranks by each, so all have the same bits. A group of NULL is one process
 * alone: rank 0 of 1, whose sums and broadcasts are what it has.
 *
 * A rank that is lost ends the job: Open MPI says so and stops the others.
 */
#ifndef Q3_CORE_GROUP_H
#define Q3_CORE_GROUP_H

#include "core/status.h"

typedef struct q3_group q3_group;

/* The job that this process was started in, once per process; *out is NULL where there is none, or of one rank. Errors:
 * Q3_ERR_USAGE where mpirun's variables are set and Open MPI's library cannot be opened. */
q3_status q3_group_join(q3_group **out);
void q3_group_leave(q3_group *g); /* waits for all; NULL is fine */

/* Known before joining: mpirun has started this process, and it is not the first one. */
bool q3_group_follows(void);
int q3_group_started(void); /* processes that mpirun has started; 1 without it */

int q3_group_rank(const q3_group *g);
int q3_group_size(const q3_group *g);

/* x [n] = the sum of all ranks' x. Error: Q3_ERR_MEMORY. */
q3_status q3_group_sum(q3_group *g, float *x, int64_t n);

/* all [size, bytes] = the ranks' own [bytes], in order. */
void q3_group_gather(q3_group *g, void *all, const void *own, size_t bytes);

/* The same for pieces of different sizes, bytes [size], laid end to end. */
void q3_group_gather_pieces(q3_group *g, void *all, const void *own, const size_t *bytes);

void q3_group_broadcast(q3_group *g, void *x, size_t bytes, int from);
void q3_group_send(q3_group *g, const void *x, size_t bytes, int to);
void q3_group_receive(q3_group *g, void *x, size_t bytes, int from);

/* Tells the others to stop, after this rank has failed on its own: does not return. */
void q3_group_abort(q3_group *g, int exit_code);

#endif
