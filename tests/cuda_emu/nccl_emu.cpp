/* tests/cuda_emu/nccl_emu.cpp - a stand-in for libnccl.so.2 that gathers through memory shared by the ranks.
 *
 * Built as a shared library of that name and found through Q3_LIBRARY_PATH: the calls of kernels/nccl_api.h with the real
 * names and numbers, and nothing else. Ranks are threads of one process or processes of one machine. They meet in a
 * file of /dev/shm that the id names; whoever joins last unlinks it. An array crosses in parts of PART floats for each
 * rank. What the real one refuses, or would hang or go wrong on, is refused here with one line on stderr: ranks that do
 * not agree on their number or on what is gathered, a place taken twice, other types, an own part in the wrong place of
 * the whole. A rank that never comes keeps the others waiting, as it does there.
 */
#include <atomic>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/nccl_api.h"

#define Q3_NCCL_EXPORT extern "C" __attribute__((visibility("default")))

namespace
{

enum {
    MAX_RANKS = 16,
    PART = 1 << 14, // floats: 64 KiB, so that tests cross with more than one
    VERSION = 22803,
    PAUSE_US = 20, // between looks at the other ranks: there may be fewer processors than ranks
};

struct meeting { // in shared memory, which begins as zeros
    std::atomic<int> arrived, round;
    std::atomic<int> taken[MAX_RANKS];
    std::atomic<int> joined, ranks;
    size_t count[MAX_RANKS];
    float part[MAX_RANKS][PART];
};

__attribute__((format(printf, 2, 3))) int refuse(int result, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("nccl_emu: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    return result;
}

/* Returns when all ranks have called it. */
void wait_for_all(meeting *m, int ranks)
{
    int round = m->round.load();
    if (m->arrived.fetch_add(1) + 1 == ranks) {
        m->arrived.store(0);
        m->round.store(round + 1);
        return;
    }
    while (m->round.load() == round)
        usleep(PAUSE_US);
}

meeting *attach(const char *name, int flags)
{
    int file = shm_open(name, O_RDWR | flags, 0600);
    if (file < 0)
        return NULL;
    void *p = MAP_FAILED;
    if (ftruncate(file, sizeof(meeting)) == 0)
        p = mmap(NULL, sizeof(meeting), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return p == MAP_FAILED ? NULL : (meeting *)p;
}

} // namespace

struct q3_nccl_comm_body {
    meeting *m;
    int rank, ranks;
};

Q3_NCCL_EXPORT int ncclGetVersion(int *version)
{
    *version = VERSION;
    return Q3_NCCL_SUCCESS;
}

Q3_NCCL_EXPORT int ncclGetUniqueId(q3_nccl_unique_id *out)
{
    static std::atomic<int> made;
    memset(out, 0, sizeof *out);
    snprintf(out->bytes, sizeof out->bytes, "/q3-nccl-%d-%d", (int)getpid(), made.fetch_add(1));
    meeting *m = attach(out->bytes, O_CREAT | O_EXCL);
    if (!m)
        return refuse(Q3_NCCL_SYSTEM_ERROR, "no shared memory");
    munmap(m, sizeof *m);
    return Q3_NCCL_SUCCESS;
}

Q3_NCCL_EXPORT int ncclCommInitRank(q3_nccl_comm *out, int ranks, q3_nccl_unique_id id, int rank)
{
    *out = NULL;
    if (ranks < 1 || ranks > MAX_RANKS || rank < 0 || rank >= ranks)
        return refuse(Q3_NCCL_INVALID_ARGUMENT, "rank %d of %d", rank, ranks);
    if (memchr(id.bytes, 0, sizeof id.bytes) == NULL || strncmp(id.bytes, "/q3-nccl-", 9) != 0)
        return refuse(Q3_NCCL_INVALID_ARGUMENT, "the id was not made here");
    meeting *m = attach(id.bytes, 0);
    if (!m)
        return refuse(Q3_NCCL_SYSTEM_ERROR, "%s: all ranks have met already", id.bytes);
    int none = 0;
    if ((!m->ranks.compare_exchange_strong(none, ranks) && none != ranks) || m->taken[rank].exchange(1)) {
        munmap(m, sizeof *m);
        return refuse(Q3_NCCL_INVALID_USAGE, "%s: rank %d of %d is taken, or of another number", id.bytes,
                      rank, ranks);
    }
    if (m->joined.fetch_add(1) + 1 == ranks)
        shm_unlink(id.bytes);
    wait_for_all(m, ranks);
    *out = new q3_nccl_comm_body{ m, rank, ranks };
    return Q3_NCCL_SUCCESS;
}

Q3_NCCL_EXPORT int ncclCommDestroy(q3_nccl_comm comm)
{
    if (!comm)
        return Q3_NCCL_INVALID_ARGUMENT;
    munmap(comm->m, sizeof *comm->m);
    delete comm;
    return Q3_NCCL_SUCCESS;
}

Q3_NCCL_EXPORT int ncclAllGather(const void *own, void *all, size_t count, int type, q3_nccl_comm comm,
                                 void *)
{
    if (!comm || !own || !all || type != Q3_NCCL_FLOAT32)
        return refuse(Q3_NCCL_INVALID_ARGUMENT, "a gather of type %d, own %p, all %p", type, own, all);
    const float *from = (const float *)own;
    float *to = (float *)all, *place = to + (size_t)comm->rank * count;
    if (from + count > to && from < to + (size_t)comm->ranks * count && from != place)
        return refuse(Q3_NCCL_INVALID_USAGE, "rank %d: its own part lies elsewhere in the whole", comm->rank);
    meeting *m = comm->m;
    m->count[comm->rank] = count;
    wait_for_all(m, comm->ranks);
    bool agreed = true;
    for (int r = 0; r < comm->ranks; r++)
        agreed = agreed && m->count[r] == count;
    wait_for_all(m, comm->ranks);
    if (!agreed)
        return refuse(Q3_NCCL_INVALID_USAGE, "rank %d gathers %zu values, another rank does not", comm->rank,
                      count);
    for (size_t done = 0; done < count; done += PART) {
        size_t n = count - done < PART ? count - done : (size_t)PART;
        memcpy(m->part[comm->rank], from + done, n * sizeof *from);
        wait_for_all(m, comm->ranks);
        for (int r = 0; r < comm->ranks; r++)
            memmove(to + (size_t)r * count + done, m->part[r], n * sizeof *to);
        wait_for_all(m, comm->ranks);
    }
    return Q3_NCCL_SUCCESS;
}

Q3_NCCL_EXPORT const char *ncclGetErrorString(int result)
{
    switch (result) {
    case Q3_NCCL_SUCCESS:
        return "no error";
    case Q3_NCCL_SYSTEM_ERROR:
        return "unhandled system error";
    case Q3_NCCL_INVALID_ARGUMENT:
        return "invalid argument";
    case Q3_NCCL_INVALID_USAGE:
        return "invalid usage";
    default:
        return "unknown result code";
    }
}

Q3_NCCL_EXPORT const char *ncclGetLastError(q3_nccl_comm)
{
    return "";
}
