/* Any bytes as an answer: judged without a fault, and a word found is one that the labels or the task know.
 */
#include <stdint.h>
#include <string.h>

#include "eval/answers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const q3_labels labels = {
        .n = 2,
        .spelled = { "sarcastic", "non_sarcastic" },
        .normal = { "sarcastic", "not_sarcastic" },
        .sarcasm = true,
    };
    q3_answer a;
    Q3_CHECK(q3_answer_parse(&a, &labels, (const char *)data, size) == Q3_OK, "%s", q3_error());
    Q3_CHECK((a.stage == Q3_ANSWER_FAILED) == (a.word == NULL), "stage %d", (int)a.stage);
    Q3_CHECK(a.label < labels.n && (a.label < 0 || strcmp(labels.normal[a.label], a.word) == 0), "%d",
             a.label);
    return 0;
}
