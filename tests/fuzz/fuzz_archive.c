/* Any bytes as a tar or zip archive: every member is there whole, every sample is one or is refused with a sentence. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/file.h"
#include "data/archive_members.h"
#include "data/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink; // what every byte is read for

static void read_members(const uint8_t *data, size_t size)
{
    q3_members m;
    if (q3_members_open_memory(&m, data, size, "fuzz.tar") != Q3_OK)
        return;
    for (int64_t i = 0; i < m.n; i++) {
        const q3_member *one = &m.list[i];
        Q3_CHECK(q3_members_find(&m, one->name) == one && *one->name != '/', "%s", one->name);
        for (size_t k = 0; one->bytes && k < one->size; k++)
            sink = one->bytes[k];
    }
    q3_members_close(&m);
}

static void read_samples(const char *path)
{
    const q3_data_keys keys = { .label_key = "cls", .target_template = "<{label}>", .allow_text_only = true };
    q3_dataset *ds;
    if (q3_dataset_open(&ds, path, &keys) != Q3_OK) {
        Q3_CHECK(strncmp(q3_error(), path, strlen(path)) == 0, "%s", q3_error());
        return;
    }
    for (int64_t i = 0; i < q3_dataset_size(ds); i++) {
        q3_sample s;
        q3_image img;
        if (q3_dataset_get(&s, ds, i) != Q3_OK) {
            Q3_CHECK(strncmp(q3_error(), path, strlen(path)) == 0, "%s", q3_error());
            continue;
        }
        Q3_CHECK(s.where && s.query && (!s.n_pictures || s.pictures->bytes), "%s", s.where);
        if (s.n_pictures && q3_sample_image(&img, &s, &(q3_image_options){ .max_pixels = 4096 }) == Q3_OK)
            q3_image_free(&img);
        q3_sample_free(&s);
    }
    q3_dataset_close(ds);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char file[40], path[60];
    read_members(data, size);
    int fd = memfd_create("fuzz", 0); // a data set is opened by its path, whose ending says what it is
    Q3_CHECK(fd >= 0, "memfd_create");
    snprintf(file, sizeof file, "/proc/self/fd/%d", fd);
    snprintf(path, sizeof path, "/tmp/q3-fuzz-%ld.tar", (long)getpid());
    unlink(path);
    if (q3_file_put(fd, data, size, path) == Q3_OK && symlink(file, path) == 0)
        read_samples(path);
    unlink(path);
    close(fd);
    return 0;
}
