/* serve/api_openai_reply.h - answers in the form of OpenAI's API: whole ones and chunks of a stream.
 *
 * Besides that API's fields there is `timings`, named as llama-server names them.
 */
#ifndef Q3_SERVE_API_OPENAI_REPLY_H
#define Q3_SERVE_API_OPENAI_REPLY_H

#include "serve/service.h"

/* What all parts of a reply have in common. */
typedef struct q3_openai_head {
    char id[48];
    const char *model;
    int64_t created; /* seconds since 1970 */
    bool chat;
    bool logprobs;
    const q3_tokenizer *tokenizer;
} q3_openai_head;

/* Tokens and times of a request, from its tasks' ends. */
typedef struct q3_openai_usage {
    int64_t prompt_tokens, cached_tokens, output_tokens;
    double prompt_seconds, output_seconds; /* of the first task, and from its first token to the last end */
    double first_token;                    /* time */
} q3_openai_usage;

/* Adds a task's end; `again`: its prompt has been counted with another task. */
void q3_openai_count(q3_openai_usage *u, const q3_event *end, bool again);

/* "stop" or "length". */
const char *q3_openai_finish(q3_finish finish);

/* The whole reply. `events` is the list of all that came; n choices, whose texts begin with `echoes` ([n],
 * NULL: none). */
void q3_openai_write(q3_text *out, const q3_openai_head *head, const q3_event *events, int n,
                     const q3_text *echoes, const q3_openai_usage *usage);

/* Chunks, each as an event of a stream: "data: {...}" and an empty line. `offset`: bytes of the choice's
 * text so far. */
void q3_openai_write_role(q3_text *out, const q3_openai_head *head, int index);
void q3_openai_write_piece(q3_text *out, const q3_openai_head *head, const q3_event *e, int64_t offset);
void q3_openai_write_finish(q3_text *out, const q3_openai_head *head, const q3_event *e,
                            const q3_openai_usage *timings);
void q3_openai_write_usage(q3_text *out, const q3_openai_head *head, const q3_openai_usage *usage);
void q3_openai_write_done(q3_text *out);

/* {"error": {...}}; param and code may be NULL. */
void q3_openai_write_error(q3_text *out, int status, const char *param, const char *code,
                           const char *sentence);

#endif
