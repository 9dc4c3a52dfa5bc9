/* data/sample.h - one example of a data set: texts, and a picture that is not decoded yet.
 *
 * q3_sample_parse makes one from a JSON object (a line of a JSONL file, the json member of an archive). A
 * picture is given as a path (relative to the file that names it, or absolute), as a data: URL, as plain
 * base64, or as an object
 * {"path": ..., "bytes": base64}. An id may be a string or an integer of any length; a label a string, an
 * integer or a bool. null is the same as absent. In place of picture, query, caption and target an object may
 * hold a conversation (data/messages.h).
 *
 * Everything in a sample is owned by it (heap, q3_sample_free), but for the bytes of a lent picture. Sentences begin with sample->where. Errors:
 * Q3_ERR_DATA, Q3_ERR_MEMORY.
 */
#ifndef Q3_DATA_SAMPLE_H
#define Q3_DATA_SAMPLE_H

#include "core/json.h"
#include "data/image.h"

/* Names of the fields and what is demanded of them. Zero is a good default; the strings are borrowed and must
 * outlive the data set. */
typedef struct q3_data_keys {
    const char *image_key;       /* NULL: "image" (in image folders "file_name" always) */
    const char *query_key;       /* NULL: "query"; where there is no "query", "text" is taken */
    const char *caption_key;     /* NULL: "caption"; the field may be missing */
    const char *target_key;      /* NULL: "target_json" */
    const char *label_key;       /* NULL: "label"; the field may be missing */
    const char *target_template; /* the target where none is given: each "{label}" becomes the label; NULL: no
                                    target */
    const char *image_template;  /* the picture where none is given: each "{field}" becomes that field of the
                                    sample, a string or an integer; NULL: no picture */
    const char *question;        /* the query where none is given, "text" or not; NULL: that is an error */
    const char *const *label_names; /* [n_label_names] of the labels 0, 1 ... and false, true; other labels are
                                       names. NULL: labels stay as they are */
    int n_label_names;
    const char *split;           /* folder of an image folder's root: NULL: "train" */
    bool need_target;            /* training: a missing or empty target is an error */
    bool allow_text_only;        /* a missing picture is fine */
    const char *messages_key;    /* NULL: "messages", else "conversations"; the field may be missing */
    const char *images_key;      /* NULL: "images": pictures of a conversation; where there is none, image_key */
} q3_data_keys;

/* A picture that is not decoded yet. */
typedef struct q3_image_source {
    char *path;           /* its file, or NULL; where there are bytes as well, only their name */
    unsigned char *bytes; /* the encoded picture itself, or NULL */
    size_t size;          /* bytes of it */
    bool lent;            /* the bytes belong to the data set */
} q3_image_source;

typedef struct q3_sample {
    char *where;   /* "data/train.jsonl:17", for messages */
    char *id;      /* NULL when there is none */
    char *query;   /* UTF-8, never NULL; of a conversation all before its last answer */
    char *caption; /* NULL when there is none */
    char *target;  /* byte for byte what the model shall answer; NULL when there is none; of a conversation the last answer */
    char *label;   /* the known class as text: "sarcastic", "1", "true"; NULL when there is none */
    char *system;  /* a system prompt of its own; NULL when there is none */
    char *source;  /* which collection it is from, for reports; NULL when there is none */
    cJSON *messages;      /* a conversation as q3_messages_read leaves it; NULL: query, caption and target are all */
    q3_image_source *pictures; /* [n_pictures], in the order of their places */
    int n_pictures;       /* without a conversation at most 1 */
} q3_sample;

/* Makes a sample of the object doc->root; `dir` is where relative paths begin (NULL: the working
 * directory). */
q3_status q3_sample_parse(q3_sample *out, const q3_json *doc, const q3_data_keys *keys, const char *dir,
                          const char *where);

/* Adds a picture given as a path, a data: URL or base64 (q3_sample_add_image), or as a string or object of a JSON text.
 * The sentence has no place in front: the caller adds it. */
q3_status q3_sample_add_image(q3_sample *sample, const char *text, const char *dir);
q3_status q3_sample_add_json(q3_sample *sample, const cJSON *item, const char *dir);
/* Adds an encoded picture that stays the data set's; takes `name` (heap, or NULL). */
q3_status q3_sample_lend_image(q3_sample *sample, const void *bytes, size_t size, char *name);

/* True when the sample has a picture. */
bool q3_sample_has_image(const q3_sample *sample);

/* Reads and decodes its first picture (data/image.h); `opt` may be NULL. */
q3_status q3_sample_image(q3_image *out, const q3_sample *sample, const q3_image_options *opt);

/* Only its size as q3_sample_image would give it: for planning. */
q3_status q3_sample_image_size(int *width, int *height, const q3_sample *sample, const q3_image_options *opt);

/* The same for picture 0 <= i < n_pictures. */
q3_status q3_sample_picture(q3_image *out, const q3_sample *sample, int i, const q3_image_options *opt);
q3_status q3_sample_picture_size(int *width, int *height, const q3_sample *sample, int i,
                                 const q3_image_options *opt);

/* Frees what the sample holds and zeroes it; fine on a zeroed one. */
void q3_sample_free(q3_sample *sample);

#endif
