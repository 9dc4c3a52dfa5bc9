#include "kernels/nccl.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/library.h"
#include "kernels/nccl_api.h"

enum { OLDEST = 21300 }; // ncclGetLastError came with 2.13 (NCCL release notes)

_Static_assert(Q3_NCCL_ID == sizeof(q3_nccl_unique_id), "an id is NCCL's");

static struct {
    q3_nccl_get_version *get_version;
    q3_nccl_get_unique_id *get_unique_id;
    q3_nccl_comm_init_rank *init_rank;
    q3_nccl_comm_destroy *destroy;
    q3_nccl_all_gather *all_gather;
    q3_nccl_get_error_string *error_string;
    q3_nccl_get_last_error *last_error;
} nccl_api;

static const q3_symbol symbols[] = {
    { "ncclGetVersion", &nccl_api.get_version },  { "ncclGetUniqueId", &nccl_api.get_unique_id },
    { "ncclCommInitRank", &nccl_api.init_rank },  { "ncclCommDestroy", &nccl_api.destroy },
    { "ncclAllGather", &nccl_api.all_gather },    { "ncclGetErrorString", &nccl_api.error_string },
    { "ncclGetLastError", &nccl_api.last_error }, { NULL, NULL },
};
static const char *const names[] = { "libnccl.so.2", NULL };
static q3_library library = { .title = "NCCL", .names = names, .folder = "nccl/lib", .symbols = symbols };

struct q3_nccl {
    q3_cuda *cuda;
    q3_nccl_comm comm;
    int rank, ranks;
};

static size_t version_of(void)
{
    int version = 0;
    nccl_api.get_version(&version);
    return version > 0 ? (size_t)version : 0;
}

/* False with one sentence in `why` [size] where there is none, or one too old. */
static bool open_library(char *why, size_t size)
{
    if (!q3_library_open(&library)) {
        snprintf(why, size, "%s", library.why);
        return false;
    }
    size_t version = version_of();
    if (version < OLDEST)
        snprintf(why, size, "NCCL: %s is version %zu.%zu; 2.13 or newer is needed", library.path,
                 version / 10000, version / 100 % 100);
    return version >= OLDEST;
}

bool q3_nccl_describe(char *text)
{
    if (!open_library(text, Q3_LIBRARY_TEXT))
        return false;
    q3_library_describe(text, &library, version_of());
    return true;
}

/* What NCCL says of a failure, with what to do to hear more. */
static void explain(char *why, int result, q3_nccl_comm comm, const char *what)
{
    const char *more = nccl_api.last_error(comm);
    bool silent = !more || !*more;
    snprintf(why, Q3_CUDA_SENTENCE, "NCCL cannot %s: %s%s%.120s%s; NCCL_DEBUG=INFO tells more", what,
             nccl_api.error_string(result), silent ? "" : " (", silent ? "" : more, silent ? "" : ")");
}

bool q3_nccl_id(unsigned char *id, char *why)
{
    q3_nccl_unique_id made;
    if (!open_library(why, Q3_CUDA_SENTENCE))
        return false;
    int result = nccl_api.get_unique_id(&made);
    if (result)
        explain(why, result, NULL, "make an id for the ranks to meet at");
    else
        memcpy(id, &made, sizeof made);
    return !result;
}

static bool join(q3_nccl *nccl, const unsigned char *id, char *why)
{
    q3_nccl_unique_id given;
    char what[64];
    memcpy(&given, id, sizeof given);
    cudaError_t error = cudaSetDevice(nccl->cuda->ordinal); // the rank's card is the thread's current one
    if (error) {
        snprintf(why, Q3_CUDA_SENTENCE, "cuda:%d: cannot use the device: %s", nccl->cuda->ordinal,
                 cudaGetErrorString(error));
        return false;
    }
    int result = nccl_api.init_rank(&nccl->comm, nccl->ranks, given, nccl->rank);
    snprintf(what, sizeof what, "join as rank %d of %d on cuda:%d", nccl->rank, nccl->ranks,
             nccl->cuda->ordinal);
    if (result)
        explain(why, result, NULL, what);
    return !result;
}

q3_nccl *q3_nccl_create(q3_cuda *cuda, const unsigned char *id, int rank, int ranks, char *why)
{
    if (!open_library(why, Q3_CUDA_SENTENCE))
        return NULL;
    q3_nccl *nccl = calloc(1, sizeof *nccl);
    if (!nccl) {
        snprintf(why, Q3_CUDA_SENTENCE, "NCCL: no host memory left");
        return NULL;
    }
    *nccl = (q3_nccl){ .cuda = cuda, .rank = rank, .ranks = ranks };
    if (join(nccl, id, why))
        return nccl;
    free(nccl);
    return NULL;
}

void q3_nccl_destroy(q3_nccl *nccl)
{
    if (!nccl)
        return;
    q3_cuda_wait(nccl->cuda); // also makes its card the current one
    nccl_api.destroy(nccl->comm);
    free(nccl);
}

void q3_nccl_gather(q3_nccl *nccl, float *all, const float *own, int64_t n)
{
    char why[Q3_CUDA_SENTENCE];
    cudaError_t error = cudaSetDevice(nccl->cuda->ordinal);
    if (error) {
        q3_cuda_fail(nccl->cuda, "cuda:%d: cannot use the device: %s", nccl->cuda->ordinal,
                     cudaGetErrorString(error));
        return;
    }
    int result = nccl_api.all_gather(own, all, (size_t)n, Q3_NCCL_FLOAT32, nccl->comm, nccl->cuda->stream);
    if (!result)
        return;
    explain(why, result, nccl->comm, "gather what the ranks have computed");
    q3_cuda_fail(nccl->cuda, "%s", why);
}
