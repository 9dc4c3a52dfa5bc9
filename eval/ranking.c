#include "eval/ranking.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"

/* ---- measures ---- */

static double gain(double relevance, int64_t place)
{
    return relevance / log2((double)place + 2); // place 0 is rank 1
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

q3_status q3_ndcg(double *out, const int64_t *order, const double *relevance, int64_t n, int64_t k)
{
    double got = 0, best = 0, *sorted = q3_malloc((size_t)(n + 1) * sizeof *sorted);
    if (!sorted)
        return Q3_ERR_MEMORY;
    memcpy(sorted, relevance, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, descending);
    for (int64_t i = 0; i < n && i < k; i++) {
        got += gain(relevance[order[i]], i);
        best += gain(sorted[i], i);
    }
    q3_free(sorted);
    *out = best > 0 ? got / best : 0;
    return Q3_OK;
}

double q3_reciprocal_rank(const int64_t *order, const double *relevance, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (relevance[order[i]] > 0)
            return 1 / (double)(i + 1);
    return 0;
}

/* ---- a file of queries ---- */

typedef struct ranker {
    q3_ranking *out;
    const q3_image_options *image;
    q3_ranking_scorer *scorer;
    void *arg;
    q3_arena mem; // of one query
} ranker;

static q3_status read_relevances(double *out, const cJSON *json)
{
    const cJSON *documents = cJSON_GetObjectItemCaseSensitive(json, "documents"), *item;
    int64_t i = 0;
    if (!cJSON_IsArray(documents) || !cJSON_GetArraySize(documents))
        return q3_fail(Q3_ERR_DATA, "documents must be a list of objects with text and relevance");
    cJSON_ArrayForEach(item, documents)
    {
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(item, "relevance");
        if (!cJSON_IsNumber(value) || !(value->valuedouble >= 0 && value->valuedouble < 1e6))
            return q3_fail(Q3_ERR_DATA, "documents[%lld] needs a relevance, a number from 0 on",
                           (long long)i);
        out[i++] = value->valuedouble;
    }
    return Q3_OK;
}

static q3_status rank(ranker *r, const q3_rerank_job *job, const double *relevance)
{
    double *logits = Q3_ZNEW(&r->mem, double, job->n), ndcg;
    int64_t *order = Q3_ZNEW(&r->mem, int64_t, job->n);
    if (!logits || !order)
        return Q3_ERR_MEMORY;
    Q3_TRY(r->scorer(logits, r->arg, job));
    q3_rerank_order(order, logits, job->n);
    Q3_TRY(q3_ndcg(&ndcg, order, relevance, job->n, Q3_RANKING_CUT));
    r->out->ndcg += ndcg;
    r->out->mrr += q3_reciprocal_rank(order, relevance, job->n);
    r->out->documents += job->n;
    r->out->queries++;
    return Q3_OK;
}

static q3_status rank_query(ranker *r, const cJSON *json)
{
    q3_rerank_job job;
    Q3_TRY(q3_rerank_job_parse(&job, &r->mem, json, r->image));
    double *relevance = Q3_ZNEW(&r->mem, double, job.n + 1);
    q3_status st = relevance ? read_relevances(relevance, json) : Q3_ERR_MEMORY;
    if (st == Q3_OK)
        st = rank(r, &job, relevance);
    q3_rerank_job_free(&job);
    return st;
}

static q3_status rank_line(ranker *r, const char *line, size_t n, const char *path, int number)
{
    q3_json doc;
    if (strspn(line, " \t\r") >= n)
        return Q3_OK;
    Q3_TRY(q3_status_as(q3_json_parse(&doc, line, n, path, number), Q3_ERR_DATA));
    q3_arena_reset(&r->mem);
    q3_status st = q3_wrap(rank_query(r, doc.root), "%s:%d", path, number);
    q3_json_close(&doc);
    return st;
}

static q3_status rank_lines(ranker *r, const char *text, size_t size, const char *path)
{
    int number = 1;
    for (const char *at = text, *end = text + size; at < end; number++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop)
            stop = end;
        Q3_TRY(rank_line(r, at, (size_t)(stop - at), path, number));
        at = stop + 1;
    }
    return r->out->queries ? Q3_OK : q3_fail(Q3_ERR_DATA, "%s: has no query", path);
}

q3_status q3_ranking_run(q3_ranking *out, const char *path, const q3_image_options *image,
                         q3_ranking_scorer *scorer, void *arg)
{
    enum { MOST_BYTES = 1 << 30 }; // of the file, read whole
    ranker r = { .out = out, .image = image, .scorer = scorer, .arg = arg };
    char *text;
    size_t size;
    *out = (q3_ranking){ 0 };
    Q3_TRY(q3_status_as(q3_file_read(&text, &size, path, MOST_BYTES), Q3_ERR_DATA));
    q3_status st = q3_arena_create(&r.mem, "query", (size_t)1 << 40);
    if (st == Q3_OK)
        st = rank_lines(&r, text, size, path);
    q3_arena_destroy(&r.mem);
    q3_free(text);
    out->ndcg /= out->queries ? (double)out->queries : 1;
    out->mrr /= out->queries ? (double)out->queries : 1;
    return st;
}

void q3_ranking_write(q3_text *out, const q3_ranking *r)
{
    q3_text_printf(out, "{\"queries\": %lld, \"documents\": %lld, \"ndcg@%d\": %.6g, \"mrr\": %.6g}\n",
                   (long long)r->queries, (long long)r->documents, (int)Q3_RANKING_CUT, r->ndcg, r->mrr);
}
