/* Any bytes as a model's config.json and generation_config.json. What is accepted is edited, and the edited
 * text must be accepted again with the same network. */
#include <stdint.h>
#include <string.h>

#include "model/config.h"
#include "model/config_edit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void edit_and_read_again(const q3_model_config *c, q3_arena *mem)
{
    const q3_quantization_config q = { .present = true, .code = Q3_NF4, .nested = true, .compute = Q3_BF16 };
    const q3_config_edit edits[] = {
        { 0 }, { .dtype = "bfloat16" }, { .drop_quantization = true }, { .quantization = &q }
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        q3_text text;
        q3_model_config again;
        Q3_CHECK(q3_model_config_text(&text, c, &edits[i]) == Q3_OK, "%s", q3_error());
        Q3_CHECK(q3_model_config_parse(&again, mem, text.data, text.size, "edited") == Q3_OK, "%s",
                 q3_error());
        Q3_CHECK(memcmp(&again.text, &c->text, sizeof c->text) == 0, "edit %zu", i);
        Q3_CHECK(!edits[i].drop_quantization || !again.quantization.present, "edit %zu", i);
        q3_text_free(&text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q3_arena mem;
    q3_model_config c;
    int64_t text, vision;
    if (q3_arena_create(&mem, "fuzz arena", 64 << 20) != Q3_OK)
        return 0;
    if (q3_model_config_parse(&c, &mem, (const char *)data, size, "config.json") == Q3_OK) {
        q3_model_parameters(&c, &text, &vision);
        Q3_CHECK(text > 0 && vision >= 0, "%lld %lld", (long long)text, (long long)vision);
        edit_and_read_again(&c, &mem);
    }
    c.text.vocab_size = 1000;
    (void)q3_generation_config_parse(&c, (const char *)data, size, "generation_config.json");
    q3_arena_destroy(&mem);
    return 0;
}
