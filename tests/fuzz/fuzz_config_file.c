/* A config file of any bytes: refused with a sentence, or read, checked, printed and read back to the same
 * values. */
#include <stdint.h>
#include <stdlib.h>

#include "train/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_back(const q3_config *cfg)
{
    q3_text json = { 0 };
    q3_config again;
    int ids[Q3_CONFIG_KEYS];
    q3_config_json(&json, cfg);
    Q3_CHECK(!json.failed && q3_config_parse(&again, json.data, json.size, "copy", NULL, 0) == Q3_OK, "%s",
             q3_error());
    Q3_CHECK(q3_config_diff(ids, cfg, &again) == 0, "%s differs", q3_config_table[ids[0]].name);
    q3_config_free(&again);
    q3_text_free(&json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q3_config cfg;
    if (q3_config_parse(&cfg, (const char *)data, size, "fuzz", NULL, 0) != Q3_OK) {
        Q3_CHECK(*q3_error(), "refused without a sentence");
        return 0;
    }
    if (q3_config_check(&cfg) != Q3_OK)
        Q3_CHECK(*q3_error(), "refused without a sentence");
    q3_text shown = { 0 };
    q3_config_print(&shown, &cfg);
    q3_text_free(&shown);
    read_back(&cfg);
    q3_config_free(&cfg);
    return 0;
}
