/* model/weights.h - the parameters of a network: from a Hugging Face directory, or from a seed; and back to
 * one.
 *
 * Matrices that are frozen stay in the file's memory map in their 16-bit form, or are quantized to 4 or 8 bits
 * one at a time (so that a model larger than memory in 16 bits still loads); a directory that bitsandbytes has
 * already quantized is used as it is. Norms and biases are widened to f32. Errors: Q3_ERR_MODEL.
 */
#ifndef Q3_MODEL_WEIGHTS_H
#define Q3_MODEL_WEIGHTS_H

#include "model/network.h"
#include "model/trainable.h"

typedef struct q3_load_options {
    bool load_in_4bit;       /* quantize the linears; a quantized directory is read as such in any case */
    bool load_in_8bit;       /* quantize them to int8; not both */
    q3_dtype code;           /* Q3_NF4 or Q3_FP4 */
    bool double_quant;       /* the block scales are quantized too */
    const char *const *skip; /* modules left in 16 bits; NULL: model.visual and lm_head */
    int n_skip;
    bool random;      /* from config.json alone */
    bool blank;       /* random without the drawing: matrices have their place, 16-bit ones as bf16, and no values yet */
    uint64_t seed;    /* of random weights */
    q3_arena *values; /* what the parameters shall lie in: an arena of the device that computes; NULL: `mem` */
} q3_load_options;

/* Is this module left in 16 bits by the options? transformers 5: a prefix of the module's name, or its
 * end. */
bool q3_module_skipped(const q3_load_options *o, const char *path);

/* Memory maps stay open until q3_model_close. Headers and names live in `mem`, values in options->values. */
q3_status q3_model_load(q3_model *out, q3_arena *mem, const char *dir, const q3_load_options *options);
void q3_model_close(q3_model *m);

/* The name under which the model's own class saves a parameter or module: text-only models have no
 * "language_model.". In `mem`, NULL when it is full. */
const char *q3_saved_name(q3_arena *mem, const q3_model_config *c, const char *name);

/* Every parameter becomes trainable: f32, in one flat buffer, in checkpoint order. The model must not be
 * quantized. */
q3_status q3_model_train_all(q3_trainable *out, q3_model *m, q3_arena *mem);

/* Writes a plain Hugging Face directory in f32 or bf16: config.json, generation_config.json,
 * model.safetensors; the tokenizer and processor files are copied from `from`. */
q3_status q3_model_save(const q3_model *m, const char *from, const char *dir, q3_dtype dtype);

/* Copies the files beside the weights that a model directory needs to be used: tokenizer, processor, chat
 * template. */
q3_status q3_model_copy_files(const char *from, const char *dir);

/* Reads the 16-bit matrices of `from`, writes the 4-bit form of bitsandbytes to `dir` (made if absent), with
 * all other files: what `quantize` does. */
q3_status q3_model_quantize(const char *from, const char *dir, const q3_load_options *options);

#endif
