/* Any bytes as the model.safetensors of a model directory: refused, or every 4-bit matrix in it can be dequantized. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "model/checkpoint_4bit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/q3-fuzz-XXXXXX";

static void remove_dir(void)
{
    (void)q3_dir_remove(dir);
}

static void read_matrix(q3_weights *w, const char *name, q3_arena *mem)
{
    q3_quantized q;
    int64_t shape[2];
    if (q3_weights_quantized(&q, shape, mem, w, name) != Q3_OK)
        return;
    Q3_CHECK(shape[0] * shape[1] == q.n && q.n <= 1 << 20, "%lld elements", (long long)q.n);
    float *values = malloc((size_t)q.n * sizeof *values);
    if (values)
        q3_dequantize(values, Q3_F32, &q);
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool made;
    if (!made && !(made = mkdtemp(dir) != NULL && atexit(remove_dir) == 0))
        return 0;
    char path[64];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    FILE *f = fopen(path, "wb"); // not q3_file_write, whose fsync is slow
    bool written = f && fwrite(data, 1, size, f) == size;
    if (f)
        written = fclose(f) == 0 && written;
    q3_weights *w;
    q3_arena mem;
    if (!written || q3_arena_create(&mem, "fuzz arena", 64 << 20) != Q3_OK)
        return 0;
    if (q3_weights_open(&w, dir) == Q3_OK) {
        for (int64_t i = 0; i < q3_weights_count(w); i++)
            if (q3_weights_is_quantized(w, q3_weights_name(w, i)))
                read_matrix(w, q3_weights_name(w, i), &mem);
        q3_weights_close(w);
    }
    q3_arena_destroy(&mem);
    return 0;
}
