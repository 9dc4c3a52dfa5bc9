/* kernels/cuda_about.h - what can be said of CUDA on this machine without opening a device: the build, the driver, the
 * cards. For people; kernels/cuda.h decides by itself.
 */
#ifndef Q3_KERNELS_CUDA_ABOUT_H
#define Q3_KERNELS_CUDA_ABOUT_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* "nvcc 13.0.88, architectures 80-real 90", or that it is emulated. */
const char *q3_cuda_build(void);

/* Whether code for `architectures` ("80-real 90", as CMAKE_CUDA_ARCHITECTURES with spaces) runs on compute capability
 * sm: machine code on later minor versions of its major one, PTX on all later ones. Words that name no number ("native")
 * are taken to fit. q3_cuda_serves asks of this build. */
bool q3_cuda_architectures_serve(const char *architectures, int sm);
bool q3_cuda_serves(int sm);

/* text [Q3_LIBRARY_TEXT] = version and file of the driver, true; or false with one sentence. */
bool q3_cuda_describe_driver(char *text);

typedef struct q3_cuda_card {
    char name[64];
    int sm; /* 90 stands for 9.0 */
    size_t bytes;
} q3_cuda_card;

/* Card N of q3_cuda_count; false when the runtime does not say. */
bool q3_cuda_card_at(q3_cuda_card *out, int ordinal);

#ifdef __cplusplus
}
#endif

#endif
