/* collate/chat_template.h - a conversation as the text that Qwen3-VL-Instruct was trained on.
 *
 * The template is written out as code, with the output of Qwen/Qwen3-VL-*-Instruct's chat_template.jinja byte
 * for byte: no default system prompt; a system message that is not the first and messages of unknown roles
 * give nothing; consecutive tool messages share one user turn; each picture is one
 * <|vision_start|><|image_pad|><|vision_end|>, whose pad the collator expands. Text is taken as it is: a
 * control token written in it becomes one (q3_tokenizer_find_added).
 *
 * With text_only it is the form of Qwen/Qwen3-* instead: a system message may stand anywhere, and an assistant's thoughts
 * (`reasoning`, or what its text has before </think>) are shown behind the last question only. Lists of items, which that
 * template leaves out, give their texts.
 */
#ifndef Q3_COLLATE_CHAT_TEMPLATE_H
#define Q3_COLLATE_CHAT_TEMPLATE_H

#include "core/json.h"

/* One item of a content list. A user's or tool's picture or video is shown as such; system and assistant
 * turns show only texts, those of pictures too. */
typedef struct q3_part {
    enum { Q3_PART_TEXT, Q3_PART_IMAGE, Q3_PART_VIDEO, Q3_PART_OTHER } kind;
    const char *text; /* NULL when the item has none */
} q3_part;

/* Content is `text`, or the list `parts` when text is NULL; both empty is an empty turn. All is borrowed. */
typedef struct q3_message {
    const char *role; /* system, user, assistant, tool */
    const char *text;
    const q3_part *parts; /* [n_parts] */
    int n_parts;
    const char *reasoning;   /* text-only, assistant: what it thought; NULL: look in its text */
    const cJSON *tool_calls; /* assistant: array of {name, arguments} or {function: {...}}; NULL if none */
} q3_message;

typedef struct q3_chat_options {
    bool add_generation_prompt; /* end with the opening of an assistant turn */
    bool add_vision_id;         /* "Picture 1: ", "Video 1: " before each, counted over the conversation */
    bool text_only;             /* the form of Qwen3 without pictures */
    bool no_thinking;           /* text-only: an empty think block opens the answer (enable_thinking=False) */
    const cJSON *tools; /* array of function descriptions for the system turn; NULL or empty if none */
} q3_chat_options;

/* Appends the rendered conversation; `options` may be NULL (all off). Errors: Q3_ERR_DATA for no message at
 * all or tool calls of another shape, Q3_ERR_MEMORY; `out` may then hold a part of the text. */
q3_status q3_chat_render(q3_text *out, const q3_message *messages, int n, const q3_chat_options *options);

/* Messages built from JSON. The strings are borrowed from the tree, which must outlive the chat. */
typedef struct q3_chat {
    q3_message *messages; /* [n] */
    int n;
    q3_part *parts; /* of all messages */
} q3_chat;

/* From an array of {role, content, reasoning_content?, tool_calls?}: content is a string, a list of items, or null; a picture is
 * an item of type "image" or with a key `image` or `image_url`, a video one of type "video" or with a key
 * `video`. Errors: Q3_ERR_DATA with the number of the message, Q3_ERR_MEMORY. */
q3_status q3_chat_from_json(q3_chat *out, const cJSON *messages);
void q3_chat_free(q3_chat *chat);

/* Appends a value as Python's json.dumps(value, ensure_ascii=False) does: ", " and ": ", keys in their order.
 * Numbers went through a double: 1.0 comes out as 1, and integers beyond 2^53 lose digits. */
void q3_chat_json(q3_text *out, const cJSON *value);

/* False when the directory of a model brings a chat template other than those above (compared by SHA-256),
 * so that what this program renders may differ. Looks at chat_template.json, else chat_template.jinja, else
 * tokenizer_config.json; a directory without a template, or with an unreadable one, counts as known. */
bool q3_chat_template_known(const char *dir);

#endif
