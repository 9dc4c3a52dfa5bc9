/* serve/api_cog_request.h - from a request of Cog's face to a prediction that can be started. */
#ifndef Q3_SERVE_API_COG_REQUEST_H
#define Q3_SERVE_API_COG_REQUEST_H

#include "serve/api_cog_prediction.h"

/* Reads body and headers: id, webhook, checked input. false: the exchange has its answer. */
bool q3_cog_read_request(q3_prediction *p, q3_exchange *x);

/* Decodes, makes prompts, and puts them into the prediction's order. Errors: what the model will not take. */
q3_status q3_cog_make_order(q3_prediction *p);

/* The answer to an input that the model will not take: a failed prediction. */
void q3_cog_reject(q3_exchange *x, q3_prediction *p, q3_status st);

#endif
