/* data/messages.h - the conversation of a sample, checked and brought to one form.
 *
 * It is read as transformers and TRL write it, {"role": "system|user|assistant", "content": "text" | [parts]} with parts
 * {"type": "text", "text": ...} and {"type": "image"}, or as ShareGPT does, {"from": "system|human|gpt", "value": "text"}. A
 * part may bring its picture (image, url, path, base64, image_url); the others take those of the sample's list, in order. In
 * a content that is one string each "<image>" is such a place, if the sample has a list; without any place all its pictures
 * stand in front of the first question (TRL, prepare_multimodal_messages).
 *
 * What the template would leave out without a word is refused: system turns behind the first message, pictures of others
 * than the user. So are videos, tools and turns of the assistant that say nothing. The last turn is the assistant's.
 */
#ifndef Q3_DATA_MESSAGES_H
#define Q3_DATA_MESSAGES_H

#include "data/sample.h"

/* Sets messages, pictures, query (all before the last answer, as text) and target (that answer) of `sample`. sample->messages
 * becomes an array of {role, content: [parts]} with parts of type text and image only, the latter without their pictures.
 * `images` is an array of pictures, one picture, or NULL. Errors: Q3_ERR_DATA, without a place in front; Q3_ERR_MEMORY. */
q3_status q3_messages_read(q3_sample *sample, const cJSON *messages, const cJSON *images, const char *dir);

/* True when the first message of sample->messages is a system turn. */
bool q3_messages_system(const cJSON *messages);

#endif
