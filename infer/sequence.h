/* infer/sequence.h - what the parts of the engine share: the engine's own things, and a sequence with its table of
 * blocks. */
#ifndef Q3_INFER_SEQUENCE_H
#define Q3_INFER_SEQUENCE_H

#include "infer/engine.h"
#include "infer/features.h"
#include "infer/kvcache.h"
#include "infer/replay.h"

struct q3_engine {
    const q3_model *model;
    q3_ctx *ctx;
    const q3_adapters *adapters; /* NULL: none */
    q3_engine_options options;   /* with the defaults filled in */
    q3_replays *replays;         /* passes of decoding, recorded on CUDA; NULL on the CPU */
    q3_features *features;       /* of pictures */
    q3_kvcache *cache;           /* who has which block */
    int32_t n_blocks;
    q3_arena slabs;        /* keys and values, on the device */
    q3_kv_slab *k, *v;     /* [layers] */
    q3_arena pass;         /* what a pass packs, on the host */
    uint64_t own_pictures; /* without a hash, so far */
};

struct q3_sequence {
    q3_engine *engine;
    const q3_prompt *prompt;
    int32_t *ids; /* [limit] */
    int64_t n, limit;
    int64_t cached, found;
    int32_t *blocks; /* [n_blocks], room for limit tokens: the first ceil(cached / 16) hold something */
    int64_t n_blocks;
    q3_block_name *names; /* [n_named]: of the full blocks among the cached tokens, known so far */
    int64_t n_named;
    unsigned char (
        *pictures)[Q3_PICTURE_HASH_BYTES]; /* [n_images]: the prompt's, or made up where it has none */
    int32_t next;                          /* position behind the prompt, on all three axes */
};

static inline const q3_adapter *q3_sequence_adapter(const q3_sequence *s)
{
    return s->prompt->adapter < 0 ? NULL : &s->engine->adapters->list[s->prompt->adapter];
}

/* Position of a token on an axis. */
int32_t q3_sequence_position(const q3_sequence *s, int axis, int64_t token);

/* Tokens up to `cached` are there now: full blocks get names. */
void q3_sequence_advance(q3_sequence *s, int64_t cached);

#endif
