/* Any bytes as a safetensors file: opened or refused, and whatever is opened can be read to the last byte. */
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = memfd_create("fuzz", 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    q3_safetensors *file = NULL;
    if (write(fd, data, size) == (ssize_t)size && q3_safetensors_open(&file, path) == Q3_OK) {
        unsigned sum = 0;
        for (int64_t i = 0; i < q3_safetensors_count(file); i++) {
            const q3_st_tensor *t = q3_safetensors_at(file, i);
            for (size_t k = 0; k < t->bytes; k++)
                sum += ((const uint8_t *)t->data)[k];
            Q3_CHECK(q3_safetensors_find(file, t->name) == t, "%s is not found", t->name);
            sum += (unsigned)q3_st_shape(t)[0];
        }
        sum += q3_safetensors_metadata(file, "format") != NULL;
        Q3_CHECK(sum != UINT32_MAX, "%u", sum); // keeps the reads alive
    }
    q3_safetensors_close(file);
    close(fd);
    return 0;
}
