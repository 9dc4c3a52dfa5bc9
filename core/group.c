#include "core/group.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "kernels/library.h"
#include "kernels/mpi_api.h"

enum {
    MOST_BYTES = 1 << 30, // of one message: MPI counts in int
    TAG = 7,              // of all messages between two ranks: they come in order
};

static struct {
    q3_mpi_init_thread *init_thread;
    q3_mpi_finalize *finalize;
    q3_mpi_comm_number *comm_rank, *comm_size;
    q3_mpi_barrier *barrier;
    q3_mpi_abort *abort;
    q3_mpi_bcast *bcast;
    q3_mpi_allgather *allgather;
    q3_mpi_send *send;
    q3_mpi_recv *recv;
    q3_mpi_comm world;
    q3_mpi_type byte;
} mpi;

static const q3_symbol symbols[] = {
    { "MPI_Init_thread", &mpi.init_thread },
    { "MPI_Finalize", &mpi.finalize },
    { "MPI_Comm_rank", &mpi.comm_rank },
    { "MPI_Comm_size", &mpi.comm_size },
    { "MPI_Barrier", &mpi.barrier },
    { "MPI_Abort", &mpi.abort },
    { "MPI_Bcast", &mpi.bcast },
    { "MPI_Allgather", &mpi.allgather },
    { "MPI_Send", &mpi.send },
    { "MPI_Recv", &mpi.recv },
    { "ompi_mpi_comm_world", &mpi.world },
    { "ompi_mpi_byte", &mpi.byte },
    { NULL, NULL },
};
static const char *const names[] = { "libmpi.so.40", "libmpi.so", NULL };
static q3_library library = { .title = "Open MPI", .names = names, .symbols = symbols, .global = true };

struct q3_group {
    int rank, size;
    float *parts; // [size, capacity]: what is summed
    int64_t capacity;
};

int q3_group_started(void)
{
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    return size && atoi(size) > 1 ? atoi(size) : 1;
}

bool q3_group_follows(void)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    return q3_group_started() > 1 && rank && atoi(rank) > 0;
}

q3_status q3_group_join(q3_group **out)
{
    int provided;
    *out = NULL;
    if (q3_group_started() == 1)
        return Q3_OK;
    if (!q3_library_open(&library))
        return q3_fail(Q3_ERR_USAGE, "mpirun has started %d processes, but %s", q3_group_started(),
                       library.why);
    q3_group *g = q3_calloc(1, sizeof *g);
    if (!g)
        return Q3_ERR_MEMORY;
    if (mpi.init_thread(NULL, NULL, Q3_MPI_THREAD_SERIALIZED, &provided) != Q3_MPI_SUCCESS ||
        provided < Q3_MPI_THREAD_SERIALIZED) {
        q3_free(g);
        return q3_fail(Q3_ERR_FAIL, "Open MPI (%s) could not be started with threads", library.path);
    }
    mpi.comm_rank(mpi.world, &g->rank);
    mpi.comm_size(mpi.world, &g->size);
    *out = g;
    return Q3_OK;
}

void q3_group_leave(q3_group *g)
{
    if (!g)
        return;
    mpi.barrier(mpi.world);
    mpi.finalize();
    q3_free(g->parts);
    q3_free(g);
}

int q3_group_rank(const q3_group *g)
{
    return g ? g->rank : 0;
}

int q3_group_size(const q3_group *g)
{
    return g ? g->size : 1;
}

static int piece_of(size_t left)
{
    return left < MOST_BYTES ? (int)left : MOST_BYTES;
}

void q3_group_broadcast(q3_group *g, void *x, size_t bytes, int from)
{
    char *at = x;
    for (int n; g && bytes; at += n, bytes -= (size_t)n) {
        n = piece_of(bytes);
        mpi.bcast(at, n, mpi.byte, from, mpi.world);
    }
}

void q3_group_send(q3_group *g, const void *x, size_t bytes, int to)
{
    const char *at = x;
    for (int n; bytes; at += n, bytes -= (size_t)n) {
        n = piece_of(bytes);
        mpi.send(at, n, mpi.byte, to, TAG, mpi.world);
    }
    (void)g;
}

void q3_group_receive(q3_group *g, void *x, size_t bytes, int from)
{
    char *at = x;
    for (int n; bytes; at += n, bytes -= (size_t)n) {
        n = piece_of(bytes);
        mpi.recv(at, n, mpi.byte, from, TAG, mpi.world, Q3_MPI_STATUS_IGNORE);
    }
    (void)g;
}

void q3_group_gather(q3_group *g, void *all, const void *own, size_t bytes)
{
    if (!g) {
        memcpy(all, own, bytes);
    } else if (bytes <= MOST_BYTES) {
        mpi.allgather(own, (int)bytes, mpi.byte, all, (int)bytes, mpi.byte, mpi.world);
    } else {
        memcpy((char *)all + (size_t)g->rank * bytes, own, bytes);
        for (int r = 0; r < g->size; r++)
            q3_group_broadcast(g, (char *)all + (size_t)r * bytes, bytes, r);
    }
}

void q3_group_gather_pieces(q3_group *g, void *all, const void *own, const size_t *bytes)
{
    char *at = all;
    if (!g) {
        memcpy(all, own, bytes[0]);
        return;
    }
    for (int r = 0; r < g->size; at += bytes[r++]) {
        if (r == g->rank)
            memcpy(at, own, bytes[r]);
        q3_group_broadcast(g, at, bytes[r], r);
    }
}

q3_status q3_group_sum(q3_group *g, float *x, int64_t n)
{
    if (!g)
        return Q3_OK;
    if (n > g->capacity) {
        q3_free(g->parts);
        g->parts = q3_calloc((size_t)n * (size_t)g->size, sizeof *g->parts);
        g->capacity = g->parts ? n : 0;
        if (!g->parts)
            return Q3_ERR_MEMORY;
    }
    q3_group_gather(g, g->parts, x, (size_t)n * sizeof *x);
    memcpy(x, g->parts, (size_t)n * sizeof *x);
    for (int r = 1; r < g->size; r++)
        for (int64_t i = 0; i < n; i++)
            x[i] += g->parts[r * n + i];
    return Q3_OK;
}

void q3_group_abort(q3_group *g, int exit_code)
{
    if (g)
        mpi.abort(mpi.world, exit_code);
    exit(exit_code);
}
