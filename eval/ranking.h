/* eval/ranking.h - how good an order of documents is: nDCG and reciprocal rank, as trec_eval and MTEB have them.
 *
 *   DCG@k = sum over the first k of relevance / log2(rank + 1)     nDCG = DCG / DCG of the best order     (Jaervelin &
 *   RR    = 1 / rank of the first relevant document                        Kekaelaeinen, ACM TOIS 20(4), 2002)
 *
 * Both are 0 for a query without a relevant document; means count all queries.
 */
#ifndef Q3_EVAL_RANKING_H
#define Q3_EVAL_RANKING_H

#include "infer/rerank.h"

enum { Q3_RANKING_CUT = 10 }; /* k of nDCG@10 */

/* `order` [n] are indices into relevance [n], best first; relevances are not negative. Error: Q3_ERR_MEMORY. */
q3_status q3_ndcg(double *out, const int64_t *order, const double *relevance, int64_t n, int64_t k);
double q3_reciprocal_rank(const int64_t *order, const double *relevance, int64_t n);

typedef struct q3_ranking {
    int64_t queries, documents;
    double ndcg, mrr; /* means over the queries */
} q3_ranking;

/* Gives the logits [job->n]. */
typedef q3_status q3_ranking_scorer(double *logits, void *arg, const q3_rerank_job *job);

/* Ranks the documents of each line of a JSONL file: {"query": ..., "documents": [{"text": ..., "relevance": 2}, ...]},
 * with what else a job may have (infer/rerank.h). Errors: Q3_ERR_DATA "qrels.jsonl:3: ...", those of the scorer. */
q3_status q3_ranking_run(q3_ranking *out, const char *path, const q3_image_options *image,
                         q3_ranking_scorer *scorer, void *arg);

/* {"queries", "documents", "ndcg@10", "mrr"} */
void q3_ranking_write(q3_text *out, const q3_ranking *r);

#endif
