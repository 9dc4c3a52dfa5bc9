/* Jobs of the reranker: from JSON, through the scheduler, to JSON. */
#include <math.h>
#include <string.h>

#include "core/json.h"
#include "data/sample.h"
#include "infer/rerank.h"

enum { TOP_K = 5, BATCH_SIZE = 8 }; // S1's defaults

/* ---- from JSON ---- */

static const cJSON *get(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return item && !cJSON_IsNull(item) ? item : NULL;
}

static q3_status copy_text(const char **out, q3_arena *mem, const char *text)
{
    *out = q3_arena_strdup(mem, text);
    return *out ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_status read_picture(q3_image *out, const cJSON *item, const q3_image_options *image)
{
    q3_sample sample = { 0 };
    if (!cJSON_IsString(item))
        return q3_fail(Q3_ERR_DATA, "image must be a path, a data: URL or base64, or a list of such");
    q3_status st = q3_sample_add_image(&sample, item->valuestring, NULL);
    if (st == Q3_OK)
        st = q3_sample_image(out, &sample, image);
    q3_sample_free(&sample);
    return st;
}

/* One picture or a list of them. */
static q3_status read_pictures(q3_rerank_side *out, q3_arena *mem, const cJSON *item,
                               const q3_image_options *image)
{
    int n = cJSON_IsArray(item) ? cJSON_GetArraySize(item) : item ? 1 : 0;
    q3_image *pictures = Q3_ZNEW(mem, q3_image, n + 1);
    if (!pictures)
        return Q3_ERR_MEMORY;
    out->pictures = pictures;
    for (; out->n_pictures < n; out->n_pictures++) {
        const cJSON *one = cJSON_IsArray(item) ? cJSON_GetArrayItem(item, out->n_pictures) : item;
        Q3_TRY(read_picture(&pictures[out->n_pictures], one, image));
    }
    return Q3_OK;
}

/* A string, or an object with text and image. */
static q3_status read_side(q3_rerank_side *out, q3_arena *mem, const cJSON *item,
                           const q3_image_options *image)
{
    if (cJSON_IsString(item))
        return copy_text(&out->text, mem, item->valuestring);
    if (!cJSON_IsObject(item))
        return q3_fail(Q3_ERR_DATA, "must be a text, or an object with text or image");
    const cJSON *text = get(item, "text"), *picture = get(item, "image");
    if (get(item, "video"))
        return q3_fail(Q3_ERR_DATA, "has a video, which is not supported; send pictures of it as image");
    if (!text && !picture)
        return q3_fail(Q3_ERR_DATA, "has neither text nor image");
    if (text && !cJSON_IsString(text))
        return q3_fail(Q3_ERR_DATA, "text must be a string");
    if (text)
        Q3_TRY(copy_text(&out->text, mem, text->valuestring));
    return read_pictures(out, mem, picture, image);
}

static q3_status read_list(q3_rerank_job *out, q3_arena *mem, const cJSON *list,
                           const q3_image_options *image)
{
    int n = cJSON_GetArraySize(list);
    if (!(out->documents = Q3_ZNEW(mem, q3_rerank_side, n + 1)))
        return Q3_ERR_MEMORY;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        q3_rerank_side *side = &out->documents[out->n++];
        Q3_TRY(q3_wrap(read_side(side, mem, item, image), "documents[%lld]", (long long)out->n - 1));
    }
    return Q3_OK;
}

static q3_status read_one(q3_rerank_job *out, q3_arena *mem, const cJSON *item, const q3_image_options *image)
{
    if (!(out->documents = Q3_ZNEW(mem, q3_rerank_side, 1)))
        return Q3_ERR_MEMORY;
    out->n = 1;
    return q3_wrap(read_side(&out->documents[0], mem, item, image), "documents");
}

/* A string may hold a list or a string in JSON, as forms on the web send them; everything else is a text itself. */
static q3_status read_string(q3_rerank_job *out, q3_arena *mem, const cJSON *string,
                             const q3_image_options *image)
{
    q3_json inner;
    const char *text = string->valuestring;
    q3_status st = q3_json_parse(&inner, text, strlen(text), "documents", 1);
    if (st != Q3_OK)
        return st == Q3_ERR_MEMORY ? st : read_one(out, mem, string, image);
    if (cJSON_IsArray(inner.root))
        st = read_list(out, mem, inner.root, image);
    else
        st = read_one(out, mem, cJSON_IsString(inner.root) ? inner.root : string, image);
    q3_json_close(&inner);
    return st;
}

static q3_status read_documents(q3_rerank_job *out, q3_arena *mem, const cJSON *item,
                                const q3_image_options *image)
{
    if (!item)
        return q3_fail(Q3_ERR_DATA, "documents is missing");
    if (cJSON_IsArray(item))
        return read_list(out, mem, item, image);
    return cJSON_IsString(item) ? read_string(out, mem, item, image) : read_one(out, mem, item, image);
}

static q3_status read_count(int64_t *out, const cJSON *json, const char *key, int64_t def, int64_t max)
{
    const cJSON *item = get(json, key);
    *out = def;
    if (!item)
        return Q3_OK;
    double value = cJSON_IsNumber(item) ? item->valuedouble : 0;
    if (!(value >= 1 && value <= (double)max && value == floor(value)))
        return q3_fail(Q3_ERR_DATA, "%s must be an integer from 1 to %lld", key, (long long)max);
    *out = (int64_t)value;
    return Q3_OK;
}

static q3_status read_job(q3_rerank_job *out, q3_arena *mem, const cJSON *json, const q3_image_options *image)
{
    const cJSON *instruction = get(json, "instruction"), *query = get(json, "query");
    if (!cJSON_IsObject(json))
        return q3_fail(Q3_ERR_DATA, "an object with query and documents is needed");
    if (instruction && !cJSON_IsString(instruction))
        return q3_fail(Q3_ERR_DATA, "instruction must be a string");
    if (instruction)
        Q3_TRY(copy_text(&out->instruction, mem, instruction->valuestring));
    if (!query)
        return q3_fail(Q3_ERR_DATA, "query is missing");
    Q3_TRY(q3_wrap(read_side(&out->query, mem, query, image), "query"));
    Q3_TRY(read_count(&out->top_k, json, "top_k", TOP_K, Q3_RERANK_MAX_TOP_K));
    Q3_TRY(read_count(&out->batch_size, json, "batch_size", BATCH_SIZE, Q3_RERANK_MAX_BATCH));
    return read_documents(out, mem, get(json, "documents"), image);
}

q3_status q3_rerank_job_parse(q3_rerank_job *out, q3_arena *mem, const cJSON *json,
                              const q3_image_options *image)
{
    *out = (q3_rerank_job){ 0 };
    q3_status st = read_job(out, mem, json, image);
    if (st != Q3_OK)
        q3_rerank_job_free(out);
    return st;
}

static void free_pictures(q3_rerank_side *side)
{
    for (int i = 0; i < side->n_pictures; i++)
        q3_image_free((q3_image *)(uintptr_t)&side->pictures[i]);
    side->n_pictures = 0;
}

void q3_rerank_job_free(q3_rerank_job *job)
{
    free_pictures(&job->query);
    for (int64_t i = 0; i < job->n; i++)
        free_pictures(&job->documents[i]);
    *job = (q3_rerank_job){ 0 };
}

/* ---- through the scheduler ---- */

enum { SENTENCE_BYTES = 512 };

typedef struct job_run {
    const q3_reranker *r;
    const q3_rerank_job *job;
    q3_scheduler *scheduler;
    q3_arena mem; // prompts of the turn
    int adapter;
    int64_t cached; // tokens
    q3_status status;
    char sentence[SENTENCE_BYTES];
} job_run;

/* What a request knows. */
typedef struct pair {
    job_run *run;
    int64_t index; // of the document
    double *logit;
    bool scored;
} pair;

static void on_hidden(void *arg, const float *hidden, int64_t n)
{
    pair *p = arg;
    *p->logit = q3_rerank_logit(p->run->r, hidden, n);
    p->scored = isfinite(*p->logit);
}

static void on_end(void *arg, const q3_outcome_of_request *outcome)
{
    pair *p = arg;
    job_run *r = p->run;
    r->cached += outcome->timing.cached_tokens;
    if (p->scored || r->status != Q3_OK)
        return;
    if (outcome->finish == Q3_FINISH_FAILED)
        r->status = q3_wrap(outcome->status, "documents[%lld]", (long long)p->index);
    else
        r->status = q3_fail(Q3_ERR_FAIL, "documents[%lld]: no finite score", (long long)p->index);
    strncpy(r->sentence, q3_error(), sizeof r->sentence - 1);
}

static q3_status submit(job_run *r, pair *p, double *logits, int64_t index)
{
    q3_request request = {
        .logprobs = -1, .number = (uint32_t)index, .on_hidden = on_hidden, .on_end = on_end, .arg = p
    };
    uint64_t ticket;
    *p = (pair){ .run = r, .index = index, .logit = &logits[index] };
    const q3_rerank_job *job = r->job;
    q3_status st = q3_rerank_prompt(&request.prompt, &r->mem, r->r, job->instruction, &job->query,
                                    &job->documents[index]);
    request.prompt.adapter = r->adapter;
    if (st == Q3_OK)
        st = q3_scheduler_submit(&ticket, r->scheduler, &request);
    return q3_wrap(st, "documents[%lld]", (long long)index);
}

/* Documents [begin, end). What was submitted is run even after a failure: requests point into this turn. */
static q3_status turn(job_run *r, double *logits, int64_t begin, int64_t end)
{
    q3_arena_reset(&r->mem);
    pair *pairs = Q3_ZNEW(&r->mem, pair, end - begin);
    q3_status st = pairs ? Q3_OK : Q3_ERR_MEMORY;
    char sentence[SENTENCE_BYTES] = "";
    for (int64_t i = begin; st == Q3_OK && i < end; i++)
        st = submit(r, &pairs[i - begin], logits, i);
    if (st != Q3_OK)
        strncpy(sentence, q3_error(), sizeof sentence - 1);
    q3_status ran = q3_scheduler_run(r->scheduler);
    if (st != Q3_OK)
        return q3_fail(st, "%s", sentence);
    if (r->status != Q3_OK)
        return q3_fail(r->status, "%s", r->sentence);
    return ran;
}

q3_status q3_rerank_run(double *logits, int64_t *cached, q3_scheduler *s, const q3_reranker *r,
                        const q3_rerank_job *job, int adapter)
{
    job_run all = { .r = r, .job = job, .scheduler = s, .adapter = adapter };
    Q3_TRY(q3_arena_create(&all.mem, "prompts", (size_t)1 << 40));
    q3_status st = Q3_OK;
    for (int64_t begin = 0, n = 1; st == Q3_OK && begin < job->n; begin += n, n = job->batch_size) {
        if (n > job->n - begin)
            n = job->n - begin;
        st = turn(&all, logits, begin, begin + n);
    }
    q3_arena_destroy(&all.mem);
    if (cached)
        *cached = all.cached;
    return st;
}

/* ---- best first ---- */

static bool better(const double *logits, int64_t a, int64_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

/* Sinks order[i] below its betters: the worst is on top of the heap. */
static void sink(int64_t *order, const double *logits, int64_t i, int64_t n)
{
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(logits, order[child], order[child + 1]))
            child++;
        if (!better(logits, order[i], order[child]))
            return;
        int64_t other = order[i];
        order[i] = order[child];
        order[child] = other;
    }
}

void q3_rerank_order(int64_t *order, const double *logits, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        order[i] = i;
    for (int64_t i = n / 2; i-- > 0;)
        sink(order, logits, i, n);
    for (int64_t last = n; last-- > 1;) { // the worst goes to the end
        int64_t worst = order[0];
        order[0] = order[last];
        order[last] = worst;
        sink(order, logits, 0, last);
    }
}

/* ---- to JSON ---- */

/* The layouts of Python's json.dumps, without and with indent=2: what stands in front of an item. */
static void item(q3_text *out, bool pretty, int depth, bool first)
{
    q3_text_printf(out, "%s", first ? "" : ",");
    if (pretty)
        q3_text_printf(out, "\n%*s", 2 * depth, "");
    else if (!first)
        q3_text_printf(out, " ");
}

static void text_or_null(q3_text *out, const char *text)
{
    if (text)
        q3_text_json_string(out, text, strlen(text));
    else
        q3_text_printf(out, "null");
}

static void close_with(q3_text *out, char bracket, bool pretty, int depth)
{
    if (pretty)
        q3_text_printf(out, "\n%*s", 2 * depth, "");
    q3_text_append(out, &bracket, 1);
}

static void write_result(q3_text *out, const char *document, double score, int64_t index, bool pretty)
{
    q3_text_printf(out, "{");
    item(out, pretty, 3, true);
    q3_text_printf(out, "\"document\": ");
    text_or_null(out, document);
    item(out, pretty, 3, false);
    q3_text_printf(out, "\"score\": %.6g", score);
    item(out, pretty, 3, false);
    q3_text_printf(out, "\"index\": %lld", (long long)index);
    close_with(out, '}', pretty, 2);
}

static void write_results(q3_text *out, const q3_rerank_job *job, const double *logits, const int64_t *order,
                          bool as_logits, bool pretty)
{
    int64_t n = job->n < job->top_k ? job->n : job->top_k;
    q3_text_printf(out, "[");
    for (int64_t i = 0; i < n; i++) {
        double logit = logits[order[i]], score = as_logits ? logit : q3_rerank_probability(logit);
        item(out, pretty, 2, i == 0);
        write_result(out, job->documents[order[i]].text, score, order[i], pretty);
    }
    if (n)
        close_with(out, ']', pretty, 1);
    else
        q3_text_printf(out, "]");
}

void q3_rerank_write(q3_text *out, const q3_rerank_job *job, const double *logits, bool as_logits,
                     bool pretty)
{
    int64_t *order = q3_calloc((size_t)job->n + 1, sizeof *order);
    if (!order) {
        out->failed = true;
        return;
    }
    q3_rerank_order(order, logits, job->n);
    q3_text_printf(out, "{");
    item(out, pretty, 1, true);
    q3_text_printf(out, "\"instruction\": ");
    text_or_null(out, job->instruction ? job->instruction : Q3_RERANK_INSTRUCTION);
    item(out, pretty, 1, false);
    q3_text_printf(out, "\"query\": ");
    text_or_null(out, job->query.text);
    item(out, pretty, 1, false);
    q3_text_printf(out, "\"results\": ");
    write_results(out, job, logits, order, as_logits, pretty);
    item(out, pretty, 1, false);
    q3_text_printf(out, "\"total_documents\": %lld", (long long)job->n);
    close_with(out, '}', pretty, 0);
    q3_free(order);
}
