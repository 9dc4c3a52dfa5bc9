/* kernels/nccl_api.h - the part of NCCL's interface that kernels/nccl.c calls, in our own words.
 *
 * Numbers and layouts are those of NVIDIA's nccl.h, version 2 (tests/cuda_emu/check_nccl_abi.c compares them where it is
 * installed), so neither building nor testing needs NVIDIA's header. Enumerations are `int` here, as they are in memory.
 */
#ifndef Q3_KERNELS_NCCL_API_H
#define Q3_KERNELS_NCCL_API_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { /* ncclResult_t */
       Q3_NCCL_SUCCESS = 0,
       Q3_NCCL_SYSTEM_ERROR = 2,
       Q3_NCCL_INVALID_ARGUMENT = 4,
       Q3_NCCL_INVALID_USAGE = 5,
};
enum { Q3_NCCL_FLOAT32 = 7 };    /* ncclDataType_t */
enum { Q3_NCCL_ID_BYTES = 128 }; /* of an ncclUniqueId */

typedef struct q3_nccl_unique_id { /* ncclUniqueId; passed by value */
    char bytes[Q3_NCCL_ID_BYTES];
} q3_nccl_unique_id;

typedef struct q3_nccl_comm_body *q3_nccl_comm; /* ncclComm_t */

typedef int q3_nccl_get_version(int *version); /* 10000 major + 100 minor + patch */
typedef int q3_nccl_get_unique_id(q3_nccl_unique_id *out);
typedef int q3_nccl_comm_init_rank(q3_nccl_comm *out, int ranks, q3_nccl_unique_id id, int rank);
typedef int q3_nccl_comm_destroy(q3_nccl_comm comm);
typedef int q3_nccl_all_gather(const void *own, void *all, size_t count, int type, q3_nccl_comm comm,
                               void *stream);
typedef const char *q3_nccl_get_error_string(int result);
typedef const char *
q3_nccl_get_last_error(q3_nccl_comm comm); /* what the last failure was about; may be empty */

#ifdef __cplusplus
}
#endif

#endif
