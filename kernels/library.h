/* kernels/library.h - shared libraries opened at run time: the CUDA driver, cuBLASLt, cuDNN, NCCL.
 *
 * A library is looked for by its versions' names, newest first, in this order: the folders of the environment variable
 * Q3_LIBRARY_PATH (separated by colons), the system's own search, the folders of CUDA toolkits (/usr/local/cuda*,
 * CUDA_HOME), and the nvidia folders of Python environments (VIRTUAL_ENV, CONDA_PREFIX, and the site-packages of
 * python3 on PATH): the cuDNN of a GPU machine is often the one that came with PyTorch.
 */
#ifndef Q3_KERNELS_LIBRARY_H
#define Q3_KERNELS_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct q3_symbol {
    const char *name;
    void *to; /* address of the function pointer to fill */
} q3_symbol;

typedef struct q3_library {
    const char *title;        /* "cuBLASLt", for messages */
    const char *const *names; /* { "libcublasLt.so.13", "libcublasLt.so.12", NULL } */
    const char *folder;       /* below a Python environment's nvidia/: "cublas/lib"; NULL: not there */
    const q3_symbol *symbols; /* ends with a NULL name */
    bool global;              /* its symbols are there for what it opens itself (Open MPI's components) */
    void *handle;             /* NULL until opened */
    char path[512];           /* the file that was opened */
    char why[320];            /* one sentence when it was not */
} q3_library;

/* Opens the library and binds all symbols; true when that has worked, now or before. On failure `why` says what was
 * looked for and what would help; another call does not try again. Not thread-safe. */
bool q3_library_open(q3_library *library);

enum { Q3_LIBRARY_TEXT = 640 }; /* bytes of a description: a path and a version, or `why` */

/* text [Q3_LIBRARY_TEXT] = "13.1.0, /usr/local/cuda/lib64/libcublasLt.so.13"; the version is 10000 major + 100 minor +
 * patch, as NVIDIA's libraries tell it. Of one that is not open: `why`. */
void q3_library_describe(char *text, const q3_library *library, size_t version);

#ifdef __cplusplus
}
#endif

#endif
