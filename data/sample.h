/* data/sample.h - one example of a data set: texts, and a picture that is not decoded yet.
 *
 * q3_sample_parse makes one from a JSON object (a line of a JSONL file, the json member of an archive). A
 * picture is given as a path (relative to the file that names it, or absolute), as a data: URL, as plain
 * base64, or as an object
 * {"path": ..., "bytes": base64}. An id may be a string or an integer of any length; a label a string, an
 * integer or a bool. null is the same as absent.
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
} q3_data_keys;

typedef struct q3_sample {
    char *where;      /* "data/train.jsonl:17", for messages */
    char *id;         /* NULL when there is none */
    char *query;      /* UTF-8, never NULL */
    char *caption;    /* NULL when there is none */
    char *target;     /* byte for byte what the model shall answer; NULL when there is none */
    char *label;      /* the known class as text: "sarcastic", "1", "true"; NULL when there is none */
    char *system;     /* a system prompt of its own; NULL when there is none */
    char *source;     /* which collection it is from, for reports; NULL when there is none */
    char *image_path; /* the file of the picture, or NULL; where there are bytes as well, only their name */
    unsigned char *image_bytes; /* the encoded picture itself, or NULL */
    size_t image_size;          /* bytes of it */
    bool image_lent;            /* the bytes belong to the data set */
} q3_sample;

/* Makes a sample of the object doc->root; `dir` is where relative paths begin (NULL: the working
 * directory). */
q3_status q3_sample_parse(q3_sample *out, const q3_json *doc, const q3_data_keys *keys, const char *dir,
                          const char *where);

/* Sets the picture from a path, a data: URL or base64. The sentence has no place in front: the caller adds
 * it. */
q3_status q3_sample_set_image(q3_sample *sample, const char *text, const char *dir);

/* True when the sample has a picture. */
bool q3_sample_has_image(const q3_sample *sample);

/* Reads and decodes the picture (data/image.h); `opt` may be NULL. */
q3_status q3_sample_image(q3_image *out, const q3_sample *sample, const q3_image_options *opt);

/* Only its size as q3_sample_image would give it: for planning. */
q3_status q3_sample_image_size(int *width, int *height, const q3_sample *sample, const q3_image_options *opt);

/* Frees what the sample holds and zeroes it; fine on a zeroed one. */
void q3_sample_free(q3_sample *sample);

#endif
