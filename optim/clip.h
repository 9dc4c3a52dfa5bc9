/* optim/clip.h - the norm of all gradients, and clipping by it (torch.nn.utils.clip_grad_norm_, torch 2.11).
 *
 *   total = || (||g_1||, ..., ||g_k||) ||        g = g * min(1, max_norm / (total + 1e-6))
 *
 * Sums run in double and in a fixed order (kernels/gradient.h); the factor is rounded to f32 once.
 */
#ifndef Q3_OPTIM_CLIP_H
#define Q3_OPTIM_CLIP_H

#include "core/device.h"
#include "optim/params.h"

typedef struct q3_clip {
    const q3_params *params; /* borrowed */
    q3_cuda *cuda;           /* where the gradients are; NULL: the CPU */
    double *norms;           /* [params->n] norm of each tensor before clipping, after q3_clip_gradients */
    double *sums;            /* [params->n] on the device: sums of squares */
    int64_t *begin, *count;  /* [params->n] on the device: the tensors' runs */
} q3_clip;

/* `values` is an arena of the device on which the gradients lie. */
q3_status q3_clip_create(q3_clip *out, q3_arena *mem, q3_arena *values, const q3_params *params);

/* *total is the norm before clipping. max_norm 0 (or below) only measures. A gradient that is NaN or infinite
 * is Q3_ERR_FAIL, the sentence names the parameter; nothing is scaled then. */
q3_status q3_clip_gradients(double *total, q3_clip *clip, double max_norm);

#endif
