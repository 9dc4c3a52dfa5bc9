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

/* The type of matrices that are not quantized. */
typedef enum q3_wide {
    Q3_WIDE_STORED, /* as the directory has them */
    Q3_WIDE_F32,    /* what is quantized there is expanded too */
    Q3_WIDE_BF16,
} q3_wide;

typedef struct q3_load_options {
    bool load_in_4bit; /* quantize the linears; a quantized directory is read as such, unless `strict` */
    bool load_in_8bit; /* quantize them to int8; not both */
    q3_dtype code;     /* of 4 bits: Q3_NF4, Q3_FP4 or Q3_I4 */
    int block;         /* elements a scale of 4 bits, a power of two; 0: 64 */
    bool double_quant; /* the block scales are quantized too; not with Q3_I4 */
    bool strict;       /* a directory that is quantized in another form is refused */
    q3_wide wide;      /* STORED, if the linears are to be quantized */
    const char *const *skip; /* modules left in 16 bits; NULL: model.visual and lm_head */
    int n_skip;
    bool random; /* from config.json alone */
    bool
        blank; /* random without the drawing: matrices have their place, 16-bit ones as bf16, and no values yet */
    uint64_t seed; /* of random weights */
    q3_arena
        *values; /* what the parameters shall lie in: an arena of the device that computes; NULL: `mem`. One that is
                    dry counts them: shapes and types are set, no value is read or made */
} q3_load_options;

/* Sets the fields above by one word, and leaves the others: auto (as the directory has them), f32, bf16, nf4, fp4 (both
 * with double quantization), int8, int4 (a scale for 128), int4-g32. Q3_ERR_USAGE otherwise. */
q3_status q3_load_options_word(q3_load_options *out, const char *word);

/* The word for what a model's weights are now, for messages and reports: "nf4", "int4-g32", "bf16" ... */
const char *q3_model_weights_word(const q3_model *m);
/* Their type: that of the quantized matrices, else of the embedding. */
q3_dtype q3_model_weights_type(const q3_model *m);

/* Is this module left in 16 bits by the options? transformers 5: a prefix of the module's name, or its
 * end. */
bool q3_module_skipped(const q3_load_options *o, const char *path);

/* Memory maps stay open until q3_model_close. Headers and names live in `mem`, values in options->values; the struct
 * stays where it is, for m->projections point into it. */
q3_status q3_model_load(q3_model *out, q3_arena *mem, const char *dir, const q3_load_options *options);
void q3_model_close(q3_model *m);

/* The name under which the model's own class saves a parameter or module: text-only models have no
 * "language_model.". In `mem`, NULL when it is full. */
const char *q3_saved_name(q3_arena *mem, const q3_model_config *c, const char *name);

/* Every parameter becomes trainable: f32, in one flat buffer, in checkpoint order. The model must not be
 * quantized. */
q3_status q3_model_train_all(q3_trainable *out, q3_model *m, q3_arena *mem);

/* Writes a plain Hugging Face directory in f32 or bf16: config.json, generation_config.json,
 * model.safetensors; the tokenizer and processor files are copied from `from`. Quantized weights are expanded, and an
 * adapter that lies on a projection is added to its weight, one matrix at a time: w + scale B A, formed in f32. On a
 * device weights must be f32, and without adapters. */
q3_status q3_model_save(const q3_model *m, const char *from, const char *dir, q3_dtype dtype);

/* Copies the files beside the weights that a model directory needs to be used: tokenizer, processor, chat
 * template. */
q3_status q3_model_copy_files(const char *from, const char *dir);

/* Reads the wide matrices of `from`, writes them quantized to `dir` (made if absent), with all other files: what
 * `quantize` does. NF4, FP4 and int8 in the form of bitsandbytes, int4 in our own (model/checkpoint_int4.h). */
q3_status q3_model_quantize(const char *from, const char *dir, const q3_load_options *options);

#endif
