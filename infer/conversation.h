/* infer/conversation.h - a conversation that grows: texts and pictures of its turns, and the prompt they make.
 *
 * Pictures are added before the question they belong to, and stand in front of its text.
 */
#ifndef Q3_INFER_CONVERSATION_H
#define Q3_INFER_CONVERSATION_H

#include "infer/prompt.h"

typedef struct q3_turn {
    bool assistant;
    char *text;
    int n_pictures; /* of q3_conversation.pictures, in order */
} q3_turn;

/* Starts as all zeros; owns everything. */
typedef struct q3_conversation {
    char *system;   /* NULL: none */
    q3_turn *turns; /* [n] */
    int n, capacity;
    q3_image *pictures; /* [n_pictures]: those of the turns, then those that wait for a question */
    char **paths;       /* where they came from */
    int n_pictures, n_waiting, picture_capacity;
} q3_conversation;

void q3_conversation_free(q3_conversation *c);

/* Replaces the system message; NULL or "" takes it away. */
q3_status q3_conversation_system(q3_conversation *c, const char *text);

/* Decodes a file for the next question. Errors: Q3_ERR_DATA, Q3_ERR_MEMORY. */
q3_status q3_conversation_picture(q3_conversation *c, const char *path, const q3_image_options *options);

q3_status q3_conversation_ask(q3_conversation *c, const char *text);
q3_status q3_conversation_answer(q3_conversation *c, const char *text);

/* Takes the last answer back; false when the last turn is none. */
bool q3_conversation_unanswer(q3_conversation *c);

/* Takes the last question back, with its answer. Its pictures go too, or wait again. False when there is none. */
bool q3_conversation_unask(q3_conversation *c, bool keep_pictures);

/* Forgets all turns and pictures; the system message stays. */
void q3_conversation_reset(q3_conversation *c);

/* The text of the last question; NULL when there is none. */
const char *q3_conversation_question(const q3_conversation *c);

/* The prompt that its next answer continues. Errors: those of q3_prompt_make. */
q3_status q3_conversation_prompt(q3_prompt *out, q3_arena *mem, const q3_conversation *c,
                                 const q3_prompter *p);

/* Appends the turns as an array of {role, content}, which q3_chat_from_json reads again; pictures by their paths. */
void q3_conversation_json(q3_text *out, const q3_conversation *c);

#endif
