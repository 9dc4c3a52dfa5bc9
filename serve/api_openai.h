/* serve/api_openai.h - the routes of an OpenAI-like API, those of llama-server that are useful beside
 * them, and the page.
 *
 *   POST /v1/chat/completions, /v1/completions, /v1/rerank, /v1/score    GET /v1/models, /health, /metrics
 *   POST /tokenize, /detokenize, /apply-template              GET /
 *
 * The exchange's app is a q3_app.
 */
#ifndef Q3_SERVE_API_OPENAI_H
#define Q3_SERVE_API_OPENAI_H

#include "serve/server_app.h"

extern const q3_face q3_openai_face;

/* serve/page.html, compiled in. */
extern const unsigned char q3_page[];
extern const size_t q3_page_size;

/* Figures in Prometheus' text form. */
void q3_server_metrics_write(q3_text *out, const q3_service_stats *service, const q3_server_stats *server);

#endif
