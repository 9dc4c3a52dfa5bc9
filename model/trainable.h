/* model/trainable.h - what training changes: one flat buffer of values, and where each tensor lies in it.
 *
 * Values and gradients are f32. The order is the reference's named_parameters(). A step binds the tensors'
 * gradients to a flat buffer of the same layout (q3_trainable_bind); the optimizer and the checkpoint see
 * only the flat arrays.
 *
 * A device that computes in bf16 reads the values through a shadow, a copy in bf16 that is made anew when they have
 * changed: after each update, and after loading. A product would round them for itself otherwise, with the same bits.
 */
#ifndef Q3_MODEL_TRAINABLE_H
#define Q3_MODEL_TRAINABLE_H

#include "core/device.h"
#include "core/tensor.h"

typedef struct q3_trainable_slot {
    const char *name; /* as saved: "base_model.model....lora_A.weight", or the checkpoint's name */
    q3_tensor *tensor;
    int64_t offset, n; /* elements, in the flat buffers */
} q3_trainable_slot;

typedef struct q3_trainable {
    float *values;    /* [n], on the device */
    uint16_t *shadow; /* [n] bf16, as values were at the last q3_trainable_refresh; NULL: none */
    q3_cuda *cuda;    /* the device; NULL: the CPU */
    bool dry;         /* only laid out: there are no values */
    int64_t n;
    q3_trainable_slot *slots;
    int n_slots;
} q3_trainable;

/* Lays out `tensors` (their shapes are set) over one buffer of the arena `values`: data pointers are set, values are
 * copied from former data of type f32, bf16 or f16 on the same device, or left uninitialized where there was none. The
 * table lies in `mem`, names are borrowed. */
q3_status q3_trainable_create(q3_trainable *out, q3_arena *mem, q3_arena *values, q3_tensor *const *tensors,
                              const char *const *names, int n);

/* Values of one tensor from the host: `data` [n] of type f32, bf16 or f16. Error: Q3_ERR_MEMORY. */
q3_status q3_trainable_set(q3_trainable *t, int slot, const void *data, q3_dtype dtype);

/* Gives the tensors a shadow in `values`, where a context of this type on the device of `values` reads one; nothing
 * otherwise. Error: Q3_ERR_MEMORY. */
q3_status q3_trainable_shadow(q3_trainable *t, q3_arena *values, q3_dtype activations);

/* The shadow follows the values; who changes them calls this. Nothing without a shadow. */
void q3_trainable_refresh(const q3_trainable *t);

/* Gradients of the tensors are added into `grads` [n] from now on; NULL: no gradient is wanted. The buffer
 * must hold zeros, or what shall be added to. */
void q3_trainable_bind(q3_trainable *t, float *grads);

#endif
