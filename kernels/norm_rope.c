#include "kernels/norm_rope.h"

#include "kernels/rmsnorm.h"
#include "kernels/rope.h"

void q3_norm_rope_forward_cpu(const q3_norm_rope_args *a)
{
    q3_rmsnorm_forward_cpu(&(q3_rmsnorm_args){ .y = a->scratch,
                                               .r = a->r,
                                               .x = a->x,
                                               .w = a->w,
                                               .rows = a->T * a->heads,
                                               .C = a->D,
                                               .eps = a->eps,
                                               .dtype = a->dtype });
    q3_rope_rotate_cpu(&(q3_rope_args){ .y = a->y,
                                        .x = a->scratch,
                                        .cos_sin = a->cos_sin,
                                        .T = a->T,
                                        .heads = a->heads,
                                        .D = a->D,
                                        .dtype = a->dtype });
}

void q3_norm_rope_backward_cpu(const q3_norm_rope_backward_args *a)
{
    q3_rope_rotate_cpu(&(q3_rope_args){ .y = a->scratch,
                                        .x = a->dy,
                                        .cos_sin = a->cos_sin,
                                        .T = a->T,
                                        .heads = a->heads,
                                        .D = a->D,
                                        .inverse = true,
                                        .dtype = a->dtype });
    q3_rmsnorm_backward_cpu(&(q3_rmsnorm_backward_args){ .dx = a->dx,
                                                         .dw = a->dw,
                                                         .dy = a->scratch,
                                                         .x = a->x,
                                                         .r = a->r,
                                                         .w = a->w,
                                                         .partial = a->partial,
                                                         .rows = a->T * a->heads,
                                                         .C = a->D,
                                                         .dx_beta = a->dx_beta,
                                                         .dw_beta = a->dw_beta,
                                                         .dtype = a->dtype });
}
