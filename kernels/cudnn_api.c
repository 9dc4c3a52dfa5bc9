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

const q3_cudnn_api *q3_cudnn_open(char *why)
{
    static const char *const names[] = { "libcudnn.so.9", NULL };
    static q3_library library = {
        .title = "cuDNN", .names = names, .folder = "cudnn/lib", .symbols = symbols
    };
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
