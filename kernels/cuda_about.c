#include "kernels/cuda_about.h"

#include <ctype.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/library.h"

#if !defined(Q3_CUDA_ARCHITECTURES)
#define Q3_CUDA_ARCHITECTURES "" // emulated: there are none
#endif

const char *q3_cuda_build(void)
{
#if defined(Q3_NVCC)
    return "nvcc " Q3_NVCC ", architectures " Q3_CUDA_ARCHITECTURES;
#else
    return "emulated on the processor, for tests";
#endif
}

/* One word: "80-real", "90a", "120-virtual"; without an ending it stands for machine code and PTX. */
static bool word_serves(const char *word, int sm)
{
    char *end;
    int from = (int)strtol(word, &end, 10);
    if (end == word)
        return true;
    if (*end == 'a') // architecture-specific: no other card has it
        return sm == from;
    if (*end == 'f' || strncmp(end, "-real", 5) == 0)
        return sm / 10 == from / 10 && sm >= from;
    return sm >= from;
}

bool q3_cuda_architectures_serve(const char *architectures, int sm)
{
    if (!*architectures)
        return true;
    for (const char *word = architectures; *word; word += strspn(word, " ")) {
        if (word_serves(word, sm))
            return true;
        word += strcspn(word, " ");
    }
    return false;
}

bool q3_cuda_serves(int sm)
{
    return q3_cuda_architectures_serve(Q3_CUDA_ARCHITECTURES, sm);
}

#if defined(Q3_CUDA_EMULATED)

bool q3_cuda_describe_driver(char *text)
{
    int version = 0;
    cudaDriverGetVersion(&version);
    snprintf(text, Q3_LIBRARY_TEXT, "emulated, serves CUDA %d.%d", version / 1000, version % 1000 / 10);
    return true;
}

#else

/* "580.95.05, ": the release of the kernel's module, which the driver's own interface does not tell; else nothing. */
static void release_of_module(char *out, size_t size)
{
    char line[256] = "", *rest = NULL;
    FILE *f = fopen("/proc/driver/nvidia/version", "r");
    *out = '\0';
    if (f && !fgets(line, sizeof line, f))
        line[0] = '\0';
    if (f)
        fclose(f);
    for (char *word = strtok_r(line, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        if (isdigit((unsigned char)*word) && strchr(word, '.')) {
            snprintf(out, size, "%.40s, ", word);
            return;
        }
}

bool q3_cuda_describe_driver(char *text)
{
    static const char *const names[] = { "libcuda.so.1", NULL };
    static int (*get_version)(int *);
    static const q3_symbol symbols[] = { { "cuDriverGetVersion", &get_version }, { NULL, NULL } };
    static q3_library library = { .title = "the NVIDIA driver", .names = names, .symbols = symbols };
    int version = 0;
    char release[48];
    if (!q3_library_open(&library)) {
        snprintf(text, Q3_LIBRARY_TEXT, "%s", library.why);
        return false;
    }
    release_of_module(release, sizeof release);
    get_version(&version);
    snprintf(text, Q3_LIBRARY_TEXT, "%sserves CUDA %d.%d, %s", release, version / 1000, version % 1000 / 10,
             library.path);
    return true;
}

#endif

bool q3_cuda_card_at(q3_cuda_card *out, int ordinal)
{
    struct cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, ordinal) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    snprintf(out->name, sizeof out->name, "%.63s", properties.name);
    out->sm = 10 * properties.major + properties.minor;
    out->bytes = properties.totalGlobalMem;
    return true;
}
