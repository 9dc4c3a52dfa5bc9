/* infer/rerank.h - how well documents answer a query, by Qwen3-Reranker and Qwen3-VL-Reranker.
 *
 * The model is asked whether a document meets the query; the score compares its answers "yes" and "no" behind the prompt
 * (QwenLM/Qwen3-Embedding, README; QwenLM/Qwen3-VL-Embedding, qwen3_vl_reranker.py):
 *
 *   logit = (head_yes - head_no) . h_last       probability = 1 / (1 + exp(-logit))
 *
 * One row instead of the whole head. The prompt begins with instruction and query, so all documents of a query share
 * the cache of that prefix.
 *
 * Text-only models: prefix, pair text and suffix are encoded apart and joined as ids; the pair is cut to max_length less
 * the other two, which never are. In Qwen's vLLM form what is cut is everything but the opening of the answer.
 * VL models: everything but the last 5 ids is cut to max_length, ordinary tokens only, from the end.
 */
#ifndef Q3_INFER_RERANK_H
#define Q3_INFER_RERANK_H

#include "infer/prompt.h"
#include "infer/scheduler.h"
#include "model/network.h"

#define Q3_RERANK_INSTRUCTION "Given a web search query, retrieve relevant passages that answer the query"
#define Q3_RERANK_INSTRUCTION_VL "Given a search query, retrieve relevant candidates that answer the query."

/* Bounds of a job: those of the request that documents are sent in. */
enum { Q3_RERANK_MAX_TOP_K = 100, Q3_RERANK_MAX_BATCH = 32 };

typedef struct q3_reranker q3_reranker; /* read-only once made; any number of threads */

typedef struct q3_reranker_options {
    int64_t
        max_length;   /* tokens of a prompt; 0: 8192 (10240 for VL), but at most the model's max_positions */
    bool blank_lines; /* Qwen's vLLM form: a blank line between the three parts; text-only models */
    int64_t min_pixels, max_pixels; /* of a picture; 0: 4 and 1800 image tokens */
} q3_reranker_options;

/* Finds the ids of yes and no and makes the row; model, tokenizer, prompter borrowed. Q3_ERR_MODEL where they are no
 * single tokens, Q3_ERR_USAGE for a max_length that leaves no room for a pair or that the model does not reach. */
q3_status q3_reranker_create(q3_reranker **out, const q3_model *model, const q3_prompter *prompter,
                             const q3_reranker_options *options);
void q3_reranker_destroy(q3_reranker *r);

/* What is asked where a job has no instruction. */
const char *q3_reranker_instruction(const q3_reranker *r);
/* The ids whose logits are compared. */
void q3_reranker_ids(int32_t *yes, int32_t *no, const q3_reranker *r);

/* A query or a document: a text, pictures, or both; both empty is "NULL" for VL models. */
typedef struct q3_rerank_side {
    const char *text; /* NULL: none */
    const q3_image *pictures;
    int n_pictures; /* 0 for text-only models */
} q3_rerank_side;

/* The prompt of one pair, for the bare model; instruction NULL: the model's default. Q3_ERR_DATA, Q3_ERR_MEMORY. */
q3_status q3_rerank_prompt(q3_prompt *out, q3_arena *mem, const q3_reranker *r, const char *instruction,
                           const q3_rerank_side *query, const q3_rerank_side *document);

/* The logit difference from the prompt's last hidden state [n] (q3_request.on_hidden). */
double q3_rerank_logit(const q3_reranker *r, const float *hidden, int64_t n);
double q3_rerank_probability(double logit);

/* Indices of n scores, best first; ties keep their order. order [n]. */
void q3_rerank_order(int64_t *order, const double *logits, int64_t n);

/* A query with its documents, in an arena: instruction, query, documents, top_k (5), batch_size (8) of S1's JSON; documents
 * may be a list of strings or of objects with text and image, a JSON string that holds such a list, or one text. A
 * picture is a path, a data: URL or base64. Errors: Q3_ERR_DATA. */
typedef struct q3_rerank_job {
    const char *instruction; /* NULL: the default */
    q3_rerank_side query;
    q3_rerank_side *documents; /* [n] */
    int64_t n, top_k, batch_size;
} q3_rerank_job;
q3_status q3_rerank_job_parse(q3_rerank_job *out, q3_arena *mem, const cJSON *json,
                              const q3_image_options *image);
void q3_rerank_job_free(q3_rerank_job *job); /* its pictures */

/* Scores the documents of a job in turns of batch_size: logits [n]. The first runs alone, so that the others find the
 * prefix. `adapter` is the engine's, -1: the bare model. *cached (NULL: not wanted): prompt tokens found in the cache.
 * Steps the scheduler, which must have nothing else to do. Errors: those of prompts ("document 3: ...") and passes. */
q3_status q3_rerank_run(double *logits, int64_t *cached, q3_scheduler *s, const q3_reranker *r,
                        const q3_rerank_job *job, int adapter);

/* S1's answer, with the best top_k: {"instruction", "query", "results": [{"document", "score", "index"}],
 * "total_documents"}; scores with 6 digits, probabilities or logits. A document without text is null. */
void q3_rerank_write(q3_text *out, const q3_rerank_job *job, const double *logits, bool as_logits,
                     bool pretty);

#endif
