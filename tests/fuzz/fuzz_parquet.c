/* Any bytes as a Parquet file: every row is a sample or is refused with a sentence, and all its bytes are there. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "data/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink; // what every byte is read for

static void read_sample(const q3_dataset *ds, int64_t i, const char *path)
{
    q3_sample s;
    if (q3_dataset_get(&s, ds, i) != Q3_OK) {
        Q3_CHECK(strncmp(q3_error(), path, strlen(path)) == 0, "%s", q3_error());
        return;
    }
    Q3_CHECK(s.where && s.query, "%s", s.where);
    for (size_t k = 0; s.n_pictures && k < s.pictures[0].size; k++)
        sink = s.pictures[0].bytes[k];
    q3_sample_free(&s);
}

static void read_samples(const char *path, const q3_data_keys *keys)
{
    q3_dataset *ds;
    if (q3_dataset_open(&ds, path, keys) != Q3_OK) {
        Q3_CHECK(strncmp(q3_error(), path, strlen(path)) == 0, "%s", q3_error());
        return;
    }
    int64_t n = q3_dataset_size(ds);
    for (int64_t i = 0; i < n && i < 100; i++) // a run of nulls makes millions of rows
        read_sample(ds, i, path);
    read_sample(ds, n - 1, path);
    q3_dataset_close(ds);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const q3_data_keys keys[] = {
        { .allow_text_only = true },
        { .image_key = "images", .allow_text_only = true },
        { .image_key = "picture", .label_key = "flag", .allow_text_only = true }
    };
    char file[40], path[60];
    q3_log_set_level(Q3_LOG_WARN);
    int fd = memfd_create("fuzz", 0); // a data set is opened by its path, whose ending says what it is
    Q3_CHECK(fd >= 0, "memfd_create");
    snprintf(file, sizeof file, "/proc/self/fd/%d", fd);
    snprintf(path, sizeof path, "/tmp/q3-fuzz-%ld.parquet", (long)getpid());
    unlink(path);
    if (q3_file_put(fd, data, size, path) == Q3_OK && symlink(file, path) == 0)
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            read_samples(path, &keys[i]);
    unlink(path);
    close(fd);
    return 0;
}
