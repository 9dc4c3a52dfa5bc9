/* model/config_edit.h - write a model's config.json again with few changes; unknown keys stay.
 *
 * The text is edited in place: a value is replaced, a key goes in front of the first greater one (the
 * reference sorts them), everything else keeps its characters.
 */
#ifndef Q3_MODEL_CONFIG_EDIT_H
#define Q3_MODEL_CONFIG_EDIT_H

#include "model/config.h"

/* Zero keeps everything. */
typedef struct q3_config_edit {
    const char *dtype;      /* "bfloat16" ...: in all places that name one, and at the top; NULL keeps them */
    bool drop_quantization; /* the weights are no longer in 4 or 8 bits */
    const q3_quantization_config
        *quantization; /* the weights are in 4 or 8 bits now; NULL keeps what is there */
} q3_config_edit;

/* The edited text of config.json; heap, q3_text_free also after a failure (Q3_ERR_MEMORY). */
q3_status q3_model_config_text(q3_text *out, const q3_model_config *c, const q3_config_edit *edit);

/* Writes it to dir/config.json. */
q3_status q3_model_config_write(const q3_model_config *c, const char *dir, const q3_config_edit *edit);

#endif
