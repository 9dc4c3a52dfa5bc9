/* cli/rerank_check.h - `rerank --selftest`: is this model, as it was loaded, a reranker that can be trusted?
 *
 * Few texts go through the whole program: the ids of yes and no, the one row against the whole head, shared prefixes
 * against none, one order of documents against another.
 */
#ifndef Q3_CLI_RERANK_CHECK_H
#define Q3_CLI_RERANK_CHECK_H

#include "infer/rerank.h"
#include "infer/session.h"

/* Appends a line for each check, "ok    ..." or "FAIL  ...". Q3_ERR_FAIL when one failed. */
q3_status q3_rerank_check(q3_text *out, q3_session *s, const q3_reranker *r, int adapter);

#endif
