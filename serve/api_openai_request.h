/* serve/api_openai_request.h - what a request to an OpenAI-like API asks for.
 *
 * Nothing is quietly left out: a parameter that would change the answer and that this server does not have
 * is refused by name, unless its value means that it is not used. What changes no answer (user, metadata,
 * store ...) is passed over.
 */
#ifndef Q3_SERVE_API_OPENAI_REQUEST_H
#define Q3_SERVE_API_OPENAI_REQUEST_H

#include "serve/server_app.h"

typedef enum q3_openai_form { Q3_FORM_NONE, Q3_FORM_JSON, Q3_FORM_SCHEMA, Q3_FORM_PATTERN } q3_openai_form;

typedef struct q3_openai_request {
    const char *model;     /* NULL: none named */
    const cJSON *messages; /* chat */
    const cJSON *prompt;   /* completions: a string, ids, or a list of either */
    q3_sampling sampling;
    int64_t max_new_tokens;
    const cJSON *stop; /* a string or a list of them; NULL: none */
    int n;             /* answers to each prompt */
    bool stream, include_usage, echo;
    int logprobs; /* likeliest tokens told with each token; -1: none */
    q3_openai_form form;
    const cJSON *schema;
    const char *pattern;
    int thinking; /* chat_template_kwargs.enable_thinking: 0, 1; -1: not said */
} q3_openai_request;

/* Reads a request; *param is the parameter that an error is about, or NULL. What is pointed to lies in the
 * document. Errors: Q3_ERR_USAGE. */
q3_status q3_openai_parse(q3_openai_request *out, const char **param, const cJSON *root, bool chat,
                          const q3_app *app);

/* The stop strings, copied into `mem`, and behind them those of all requests. Errors: Q3_ERR_USAGE,
 * Q3_ERR_MEMORY. */
q3_status q3_openai_stops(const char *const **out, int *n, q3_arena *mem, const cJSON *stop,
                          const q3_app *app);

/* The conversation of `messages`, its pictures loaded; both are freed by the caller, also after an error.
 * Errors: Q3_ERR_DATA with the place of the message, and those of q3_picture_load. */
q3_status q3_openai_chat(q3_chat *chat, q3_pictures *pictures, const cJSON *messages,
                         const q3_picture_policy *policy);

#endif
