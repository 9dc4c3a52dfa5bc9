/* core/op.h - what an op is: a table entry; what a call leaves on the tape: a node. */
#ifndef Q3_CORE_OP_H
#define Q3_CORE_OP_H

#include "core/tensor.h"

typedef struct q3_ctx q3_ctx; /* core/tape.h */
typedef struct q3_op q3_op;

/* A run of rows that attend to each other: queries [q_begin, q_begin + q_len) see keys [kv_begin, kv_begin +
 * kv_len). Causal: query i sees keys up to kv_len - q_len + i, so a cached prefix is a kv_len greater than
 * q_len. */
typedef struct q3_segment {
    int64_t q_begin, q_len, kv_begin, kv_len;
} q3_segment;

/* Settings of a call; each op reads its own few. Pointers are host arrays that outlive the step, or device
 * memory where it says so. */
typedef struct q3_attr {
    float eps;            /* norms */
    float scale;          /* attention: 1/sqrt(D); lora_linear: alpha/r; cross_entropy: of the sum */
    float dropout;        /* lora_linear, dropout: probability of a zero */
    uint64_t key[2];      /* lora_linear, dropout: Philox key and stream (see q3_dropout) */
    int heads, kv_heads;  /* rope, norm_rope: heads of x; attention */
    bool causal;          /* attention */
    int kind;             /* gelu: 0 exact (erf), 1 tanh */
    int64_t begin;        /* get_columns: first column */
    int64_t n;            /* number of indices or segments */
    int32_t skip;         /* embedding: id whose row gets no gradient, -1 for none */
    const int32_t *index; /* embedding ids, rows, taps, targets */
    const q3_segment *segments; /* attention */
    const void *device_index;   /* device: a copy of index or segments */
    const float *weights;       /* device: interpolate [P, 4]; rope, norm_rope: cos and sin [T, D] (D/2 cosines, then D/2 sines) */
} q3_attr;

enum { Q3_MAX_INPUTS = 6, Q3_MAX_SAVED = 2 };

typedef struct q3_node {
    const q3_op *op;
    q3_tensor *in[Q3_MAX_INPUTS]; /* NULL for an optional input that is absent */
    q3_tensor *out;
    q3_tensor *saved[Q3_MAX_SAVED]; /* values forward leaves for backward */
    q3_attr attr;
    struct q3_node *prev; /* the node before, on the tape */
} q3_node;

/* What an op has to do at least: operations, and bytes in and out of memory. Where nothing is said of backward it is that
 * of an element-wise op: twice the operations, and dy beside x and y. */
typedef struct q3_cost {
    double flops, bytes;           /* of forward */
    double back_flops, back_bytes; /* of backward, for the gradients that are wanted */
} q3_cost;

struct q3_op {
    const char *name;
    void (*forward)(q3_ctx *ctx, q3_node *n);
    /* out->grad is set; adds to the gradient of each input that wants one */
    void (*backward)(q3_ctx *ctx, q3_node *n);
    q3_cost (*cost)(const q3_node *n);
};

enum q3_op_id {
#define Q3_OP(id, stem) Q3_OP_##id,
#include "core/op_list.h"
#undef Q3_OP
    Q3_OP_COUNT
};

extern const q3_op *const q3_ops[Q3_OP_COUNT];

/* Of one direction of a node, in `flops` and `bytes`. */
q3_cost q3_op_cost(const q3_node *n, bool back);

#endif
