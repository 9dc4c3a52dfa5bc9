/* cli/answering.h - a model ready to answer as the command line says: what generate and chat share. */
#ifndef Q3_CLI_ANSWERING_H
#define Q3_CLI_ANSWERING_H

#include "cli/model_options.h"
#include "infer/answer.h"
#include "infer/conversation.h"

typedef struct q3_answering {
    const q3_options *o; /* borrowed; has q3_model_list and q3_sampling_list */
    q3_session session;
    q3_sampling_settings settings;
    q3_answer_options options; /* of every answer; points into settings */
    q3_constraint *form;       /* --regex, --json-schema; NULL: none */
    int adapter;               /* that answers, -1: none */
    uint32_t n_asked;          /* answers begun, which numbers their draws */
    q3_scheduler_stats before; /* what the last q3_answering_tell knew */
    int64_t searched;          /* tokens of answers by beam search since then, and their seconds */
    double search_seconds;
} q3_answering;

/* Checks options, then loads. Must not move afterwards. Nothing is left to free on failure. */
q3_status q3_answering_open(q3_answering *out, const q3_options *o);
void q3_answering_close(q3_answering *a);

/* Begins the answer to a prompt. */
q3_status q3_answering_begin(q3_answer *out, q3_answering *a, const q3_prompt *prompt);

/* The same to its end; Ctrl-C ends it early where it is caught (cli/line_input.h). Its own failure is returned. */
q3_status q3_answering_run(q3_answer *out, q3_answering *a, const q3_prompt *prompt);

/* One line on stderr: tokens since the last call, and how fast prompts and answers went. */
void q3_answering_tell(q3_answering *a);

/* Text of answers goes to stdout as it comes. */
void q3_answering_stream(q3_answering *a);

/* What is left to do when an answer has ended: white space around it goes where the profile says so. q3_answering_run does
 * it itself. */
void q3_answering_finish(q3_answer *answer, const q3_answering *a);

#endif
