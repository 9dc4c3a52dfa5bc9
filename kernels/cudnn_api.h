/* kernels/cudnn_api.h - the part of cuDNN's graph API that attention needs, declared by ourselves, so that neither the
 * build nor the tests need NVIDIA's headers, and bound when the program runs.
 *
 * Everything cuDNN knows is a descriptor: created by type, filled attribute by attribute, finalized (which checks it),
 * used. Names are those of cudnn_graph.h with Q3_CUDNN_ for CUDNN_; tests/cudnn/check_abi.c compares every value with
 * the toolkit's where there is one. Enumerations are `int` here, as they are in memory.
 */
#ifndef Q3_KERNELS_CUDNN_API_H
#define Q3_KERNELS_CUDNN_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
#define Q3_CUDNN_CONSTANT(name, value) Q3_CUDNN_##name = value,
#include "kernels/cudnn_constant_list.h"
#undef Q3_CUDNN_CONSTANT
};

typedef struct q3_cudnn_descriptor *q3_cudnn_ref; /* cudnnBackendDescriptor_t */

typedef size_t q3_cudnn_version_fn(void); /* 91900 is 9.19.0 */
typedef const char *q3_cudnn_error_fn(int status);
typedef void q3_cudnn_last_error_fn(char *message, size_t bytes);
typedef int q3_cudnn_create_fn(void **handle);
typedef int q3_cudnn_destroy_fn(void *handle);
typedef int q3_cudnn_stream_fn(void *handle, void *stream);
typedef int q3_cudnn_new_fn(int type, q3_cudnn_ref *out);
typedef int q3_cudnn_drop_fn(q3_cudnn_ref d);
typedef int q3_cudnn_finalize_fn(q3_cudnn_ref d);
typedef int q3_cudnn_set_fn(q3_cudnn_ref d, int attribute, int type, int64_t count, const void *values);
typedef int q3_cudnn_get_fn(q3_cudnn_ref d, int attribute, int type, int64_t asked, int64_t *count,
                            void *values);
typedef int q3_cudnn_execute_fn(void *handle, q3_cudnn_ref plan, q3_cudnn_ref pointers);

/* Functions return a status, Q3_CUDNN_STATUS_SUCCESS or an error. */
typedef struct q3_cudnn_api {
    q3_cudnn_version_fn *version;
    q3_cudnn_error_fn *error;           /* name of a status */
    q3_cudnn_last_error_fn *last_error; /* what the last failing call of this thread had to say */
    q3_cudnn_create_fn *create;
    q3_cudnn_destroy_fn *destroy;
    q3_cudnn_stream_fn *set_stream;
    q3_cudnn_new_fn *descriptor_new;
    q3_cudnn_drop_fn *descriptor_drop;
    q3_cudnn_finalize_fn *finalize;
    q3_cudnn_set_fn *set;
    q3_cudnn_get_fn *get;
    q3_cudnn_execute_fn *execute;
} q3_cudnn_api;

/* Versions that attention needs: 9.10.0 and 9.10.1 have known bugs (NVIDIA/cudnn-frontend 3929da2,
 * sdpa_support_surface.h); backward over packed rows came to sm_8x and sm_12x with 9.18.1 (its release notes). */
enum { Q3_CUDNN_OLDEST = 91002, Q3_CUDNN_OLDEST_PACKED = 91801 };

enum { Q3_CUDNN_SENTENCE = 320 }; /* bytes of a `why` */

/* Opens libcudnn once for the process; NULL with one sentence in `why` [Q3_CUDNN_SENTENCE] where there is none or it
 * is too old. Not thread-safe. */
const q3_cudnn_api *q3_cudnn_open(char *why);

/* text [Q3_LIBRARY_TEXT] = version and file, true; or false with one sentence why it cannot be used. The compiler is
 * NVRTC, which cuDNN makes its attention kernels with. Needs no device. */
bool q3_cudnn_describe(char *text);
bool q3_cudnn_describe_compiler(char *text);

#ifdef __cplusplus
}
#endif

#endif
