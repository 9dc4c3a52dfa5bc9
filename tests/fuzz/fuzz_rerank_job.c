/* Any bytes as a request to the reranker. What is accepted is in range, and its answer is JSON again. */
#include <stdint.h>
#include <string.h>

#include "core/json.h"
#include "infer/rerank.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void answer(const q3_rerank_job *job, q3_arena *mem)
{
    double *logits = Q3_ZNEW(mem, double, job->n + 1);
    q3_text out = { 0 };
    q3_json again;
    if (!logits)
        return;
    for (int64_t i = 0; i < job->n; i++)
        logits[i] = (double)(i % 7) - 3;
    q3_rerank_write(&out, job, logits, job->n % 2, job->n % 3 == 0);
    if (!out.failed) {
        Q3_CHECK(q3_json_parse(&again, out.data, out.size, "answer", 1) == Q3_OK, "%s", q3_error());
        int n = cJSON_GetArraySize(cJSON_GetObjectItem(again.root, "results"));
        Q3_CHECK(n == (job->n < job->top_k ? job->n : job->top_k), "%d results", n);
        q3_json_close(&again);
    }
    q3_text_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q3_arena mem;
    q3_json doc;
    q3_rerank_job job;
    const q3_image_options small = { .max_pixels = 1 << 16 };
    if (q3_arena_create(&mem, "fuzz arena", 64 << 20) != Q3_OK)
        return 0;
    if (q3_json_parse(&doc, (const char *)data, size, "request", 1) == Q3_OK) {
        if (q3_rerank_job_parse(&job, &mem, doc.root, &small) == Q3_OK) {
            Q3_CHECK(job.top_k >= 1 && job.top_k <= Q3_RERANK_MAX_TOP_K, "%lld", (long long)job.top_k);
            Q3_CHECK(job.batch_size >= 1 && job.batch_size <= Q3_RERANK_MAX_BATCH, "%lld",
                     (long long)job.batch_size);
            answer(&job, &mem);
            q3_rerank_job_free(&job);
        }
        q3_json_close(&doc);
    }
    q3_arena_destroy(&mem);
    return 0;
}
