/* infer/session.h - a model made ready to answer: weights, adapters, tokenizer, device, engine, scheduler.
 *
 * What generate, chat, rerank, serve, bench and quality begin with. A LoRA directory may be given instead of a model's:
 * its base is then taken from adapter_config.json.
 */
#ifndef Q3_INFER_SESSION_H
#define Q3_INFER_SESSION_H

#include "infer/ground.h"
#include "infer/scheduler.h"
#include "model/adapters.h"
#include "model/weights.h"

typedef struct q3_session_adapter {
    const char *name; /* what requests call it */
    const char *dir;
} q3_session_adapter;

typedef struct q3_session_options {
    const char *model;                  /* directory */
    const q3_session_adapter *adapters; /* [n_adapters] */
    int n_adapters;
    bool merge; /* the first adapter is added into the weights, which must be 16 or 32 bits wide */
    /* auto, f32, bf16, nf4, fp4, int8, int4, int4-g32; NULL: auto, as the directory has them */
    const char *weights;
    const char *dtype;  /* auto, float32, bfloat16: activations; auto: float32 on the CPU, bfloat16 on CUDA */
    const char *device; /* auto, cpu, cuda, cuda:N; NULL: auto */
    const char *attention;          /* as model.attention; NULL: auto */
    int64_t min_pixels, max_pixels; /* of a picture; 0: the model's */
    int image_width, image_height;  /* every picture gets this size; 0: the model's rule of areas */
    int64_t max_tokens;             /* of a prompt and its answer; 0: the model's */
    const char *
        parallel; /* tensor, pipeline, sequence: how mpirun's processes share the model (model/split.h); NULL */
    bool
        offload; /* layers beyond `resident` bytes are read from their files at each pass (model/offload.h) */
    size_t resident;
    q3_engine_options engine;
    q3_scheduler_options scheduler;
} q3_session_options;

typedef struct q3_session {
    const char *name; /* of the model: the last part of its path */
    q3_group *group;  /* that shares the model; NULL: this process alone */
    q3_ground ground;
    q3_model model;
    /* Numbered as given, behind that of a LoRA directory given as model; -1 is the bare model. */
    q3_adapters adapters;
    const char *merged; /* name of the adapter that has become part of the weights; NULL: none */
    q3_tokenizer *tokenizer;
    q3_prompter prompter;
    q3_engine *engine;
    q3_scheduler *scheduler;
} q3_session;

/* Tells on stderr what was loaded: model, weights, device, cache. Nothing is left to free on failure. Where processes share
 * the model, all but the first work here until the first closes its session, and then get Q3_ENDED, which goes up as a failure
 * does. */
q3_status q3_session_open(q3_session *out, const q3_session_options *options);
void q3_session_close(q3_session *s); /* fine on a zeroed one */

/* Number of the adapter with this name, -1 for NULL, "", "base" or the merged one; Q3_ERR_USAGE names those there are. */
q3_status q3_session_adapter_find(int *out, const q3_session *s, const char *name);

#endif
