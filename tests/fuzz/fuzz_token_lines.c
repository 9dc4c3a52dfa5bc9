/* The lines of `tokenize`: the parser for strings and the one for ids over the same bytes. A string that is accepted
 * comes back through the writer. The parser belongs to the program, not to the library, so it is compiled in. */
#include <stdlib.h>
#include <string.h>

#include "cli/token_lines.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const q3_token_line line = { (const char *)data, size, "line", 1 };
    q3_text text = { 0 }, written = { 0 }, again = { 0 };
    q3_ids ids = { 0 };
    if (q3_token_line_string(&text, &line) == Q3_OK) {
        q3_text_json_string(&written, text.size ? text.data : "", text.size);
        const q3_token_line second = { written.data, written.size, "again", 1 };
        if (q3_token_line_string(&again, &second) != Q3_OK || again.size != text.size ||
            (text.size && memcmp(again.data, text.data, text.size) != 0))
            abort();
    } else if (!*q3_error()) {
        abort();
    }
    if (q3_token_line_ids(&ids, &line, 1000) == Q3_OK)
        for (size_t i = 0; i < ids.n; i++)
            if (ids.ids[i] < 0 || ids.ids[i] >= 1000)
                abort();
    q3_ids_free(&ids);
    q3_text_free(&text);
    q3_text_free(&written);
    q3_text_free(&again);
    return 0;
}
