/* serve/api_openai_work.h - a request to the OpenAI-like API on its way: from its body to an order, from
 * the order's events to a reply.
 *
 * Handlers fill a q3_openai_work, make its order and its tasks, and submit it; the polls write the reply,
 * whole or as a stream. Whatever goes wrong on the way becomes the exchange's answer.
 */
#ifndef Q3_SERVE_API_OPENAI_WORK_H
#define Q3_SERVE_API_OPENAI_WORK_H

#include "serve/api_openai_reply.h"
#include "serve/api_openai_request.h"

enum { Q3_OPENAI_PROMPTS = 1024 }; /* of one request, where the app sets no number */

/* A request that is being answered. */
typedef struct q3_openai_work {
    q3_json doc;
    q3_openai_request request;
    q3_openai_head head;
    q3_order *order;
    int n_choices;    /* tasks of the order: prompts * request.n */
    q3_text *echoes;  /* [n_choices]; NULL without echo */
    int64_t *offsets; /* [n_choices]: bytes sent of each, while streaming */
    bool *begun;      /* [n_choices] */
    q3_openai_usage usage;
    bool sent_something;     /* while streaming: an error cannot be the answer any more */
    q3_event *events, *last; /* all that came, when it is sent at the end */
} q3_openai_work;

/* The answer is an error; param and code may be NULL. _plain is the face's. _status tells the sentence of
 * a function that failed; prompts that are too long have a code of their own. */
void q3_openai_fail(q3_exchange *x, int status, const char *param, const char *code, const char *sentence);
void q3_openai_fail_plain(q3_exchange *x, int status, const char *sentence);
void q3_openai_fail_status(q3_exchange *x, q3_status st, const char *param);
void q3_openai_fail_no_model(q3_exchange *x, const char *model);

/* Whether the model is there; the body as a JSON object. false: the exchange has its answer. */
bool q3_openai_ready(q3_exchange *x);
bool q3_openai_read_body(q3_json *doc, q3_exchange *x);

/* Whether a task ended as it should; otherwise the status and the sentence. */
bool q3_openai_ended_well(int *status, const char **sentence, const q3_event *e);

/* Adds an event to those that are kept. */
void q3_openai_keep(q3_openai_work *a, q3_event *e);

/* An order of request.n tasks for each prompt, and what streams need. */
q3_status q3_openai_make_order(q3_openai_work *a, int n_prompts);

void q3_openai_fill_head(q3_openai_head *head, const q3_exchange *x, const q3_openai_request *r, bool chat,
                         int adapter);

/* Hands the order in; from then on the exchange, whose state begins with a q3_openai_work, waits for what
 * comes of it. */
void q3_openai_submit(q3_exchange *x, q3_order *order, int width, bool streaming,
                      q3_poll (*poll)(q3_exchange *));
q3_poll q3_openai_poll_whole(q3_exchange *x);
q3_poll q3_openai_poll_stream(q3_exchange *x);
void q3_openai_release(void *work);

/* A list of token ids, on the heap. Q3_ERR_DATA, Q3_ERR_MEMORY. */
q3_status q3_openai_ids(int32_t **out, int64_t *n, const cJSON *list);

/* The session's prompter; thinking as in q3_openai_request. */
q3_prompter q3_openai_prompter(const q3_app *app, int thinking);

/* The prompt of a request with messages, pictures included. Errors: those of q3_openai_chat and q3_prompt_make. */
q3_status q3_openai_chat_prompt(q3_prompt *out, q3_arena *mem, const q3_openai_request *r, const q3_app *app);

/* Routes. */
void q3_openai_handle_chat(q3_exchange *x);
void q3_openai_handle_completions(q3_exchange *x);
void q3_openai_handle_rerank(q3_exchange *x);
void q3_openai_handle_score(q3_exchange *x);
void q3_openai_handle_page(q3_exchange *x);

#endif
