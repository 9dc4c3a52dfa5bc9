/* cli/rerank_request.h - what `rerank` is asked to rank: from its options, or from a request in JSON (--json). */
#ifndef Q3_CLI_RERANK_REQUEST_H
#define Q3_CLI_RERANK_REQUEST_H

#include "cli/options.h"
#include "infer/rerank.h"

/* The job (q3_rerank_job_free), in `mem`; numbers and instruction given as options win over the request's. Errors:
 * Q3_ERR_USAGE for contradicting options and for no document at all, Q3_ERR_DATA. */
q3_status q3_rerank_request_read(q3_rerank_job *out, q3_arena *mem, const q3_options *o);

/* The options about instruction, top_k and batch size alone, over what the job has. */
q3_status q3_rerank_request_numbers(q3_rerank_job *job, const q3_options *o);

#endif
