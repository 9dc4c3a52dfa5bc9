/* Any bytes as a JSON array of samples: what the scan accepts is an array for the parser too, with as many elements. */
#include <stdint.h>
#include <string.h>

#include "core/json.h"
#include "data/jsonl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool fits(const char *text, size_t size)
{
    return size < 3 ||
           memcmp(text, "\xEF\xBB\xBF", 3) != 0; // the parser of a whole text knows no byte order mark
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const q3_data_keys keys = { .allow_text_only = true };
    const char *text = (const char *)data;
    q3_jsonl *file;
    if (q3_jsonl_open_memory(&file, text, size, "dir/fuzz.json", &keys) != Q3_OK) {
        Q3_CHECK(strncmp(q3_error(), "dir/fuzz.json:", 14) == 0, "%s", q3_error());
        return 0;
    }
    q3_json doc;
    if (fits(text, size) && q3_json_parse(&doc, text, size, "whole", 1) == Q3_OK) {
        Q3_CHECK(cJSON_IsArray(doc.root) && cJSON_GetArraySize(doc.root) == q3_jsonl_size(file),
                 "%lld elements", (long long)q3_jsonl_size(file));
        q3_json_close(&doc);
    }
    for (int64_t i = 0; i < q3_jsonl_size(file); i++) {
        q3_sample s;
        if (q3_jsonl_get(&s, file, i) == Q3_OK)
            Q3_CHECK(s.where && s.query, "%s", s.where);
        else
            Q3_CHECK(strncmp(q3_error(), "dir/fuzz.json:", 14) == 0, "%s", q3_error());
        q3_sample_free(&s);
    }
    q3_jsonl_close(file);
    return 0;
}
