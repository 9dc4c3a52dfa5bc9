#include "kernels/cudnn_api.h"

#include <stdio.h>

#include "kernels/library.h"

static q3_cudnn_api api;

static const q3_symbol symbols[] = {
    { "cudnnGetVersion", &api.version },
    { "cudnnGetErrorString", &api.error },
    { "cudnnGetLastErrorString", &api.last_error },
    { "cudnnCreate", &api.create },
    { "cudnnDestroy", &api.destroy },
    { "cudnnSetStream", &api.set_stream },
    { "cudnnBackendCreateDescriptor", &api.descriptor_new },
    { "cudnnBackendDestroyDescriptor", &api.descriptor_drop },
    { "cudnnBackendFinalize", &api.finalize },
    { "cudnnBackendSetAttribute", &api.set },
    { "cudnnBackendGetAttribute", &api.get },
    { "cudnnBackendExecute", &api.execute },
    { NULL, NULL },
};

static const char *const names[] = { "libcudnn.so.9", NULL };
static q3_library library = { .title = "cuDNN", .names = names, .folder = "cudnn/lib", .symbols = symbols };

const q3_cudnn_api *q3_cudnn_open(char *why)
{
    if (!q3_library_open(&library)) {
        snprintf(why, Q3_CUDNN_SENTENCE, "%s", library.why);
        return NULL;
    }
    size_t version = api.version();
    if (version < Q3_CUDNN_OLDEST) {
        snprintf(why, Q3_CUDNN_SENTENCE,
                 "cuDNN %zu.%zu.%zu in %s is too old: attention needs 9.10.2 or later", version / 10000,
                 version / 100 % 100, version % 100, library.path);
        return NULL;
    }
    return &api;
}

bool q3_cudnn_describe(char *text)
{
    if (!q3_cudnn_open(text))
        return false;
    q3_library_describe(text, &library, api.version());
    return true;
}

bool q3_cudnn_describe_compiler(char *text)
{
    static const char *const compilers[] = { "libnvrtc.so.13", "libnvrtc.so.12", NULL };
    static int (*get_version)(int *, int *);
    static const q3_symbol version_only[] = { { "nvrtcVersion", &get_version }, { NULL, NULL } };
    static q3_library compiler = {
        .title = "NVRTC", .names = compilers, .folder = "cuda_nvrtc/lib", .symbols = version_only
    };
    int major = 0, minor = 0;
    if (q3_library_open(&compiler))
        get_version(&major, &minor);
    q3_library_describe(text, &compiler, (size_t)(10000 * major + 100 * minor));
    return compiler.handle != NULL;
}
