/* Any bytes as a JSONL file: every line becomes a sample or is refused with a sentence. */
#include <stdint.h>
#include <string.h>

#include "data/jsonl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const q3_data_keys keys = { .target_template = "<{label}>",
                                .need_target = size & 1,
                                .allow_text_only = size & 2 };
    q3_jsonl *file;
    if (q3_jsonl_open_memory(&file, (const char *)data, size, "dir/fuzz.jsonl", &keys) != Q3_OK)
        return 0;
    for (int64_t i = 0; i < q3_jsonl_size(file); i++) {
        q3_sample s;
        if (q3_jsonl_get(&s, file, i) != Q3_OK) {
            Q3_CHECK(strncmp(q3_error(), "dir/fuzz.jsonl:", 15) == 0, "%s", q3_error());
            continue;
        }
        Q3_CHECK(s.where && s.query && (keys.allow_text_only || q3_sample_has_image(&s)), "%s", s.where);
        Q3_CHECK(!keys.need_target || *s.target, "%s", s.where);
        q3_image img;
        if (s.n_pictures && s.pictures->bytes &&
            q3_sample_image(&img, &s, &(q3_image_options){ .max_pixels = 4096 }) == Q3_OK)
            q3_image_free(&img);
        q3_sample_free(&s);
    }
    q3_jsonl_close(file);
    return 0;
}
