/* model/rotary.h - tables of cosines and sines for q3_rope.
 *
 * A table is [T, D] f32: D/2 cosines, then D/2 sines of the angles of one token. Frequencies and angles are
 * made in float as the reference does (transformers 5.17, modeling_qwen3_vl.py): powf, then the reciprocal,
 * then the product.
 */
#ifndef Q3_MODEL_ROTARY_H
#define Q3_MODEL_ROTARY_H

#include <stdint.h>

/* Interleaved M-RoPE: frequency i of D/2 turns with the time, height or width position; axis H for i % 3 == 1
 * below
 * 3 section[1], W for i % 3 == 2 below 3 section[2], else T. positions [3, T]. Without sections (text-only
 * models) pass {D/2, 0, 0}. */
void q3_rotary_text(float *table, const int32_t *positions, int64_t n_tokens, int head_dim, double theta,
                    const int section[3]);

/* 2-D rotary of the vision tower over the patches of one picture, [frames rows columns, D] in merge order:
 * the first D/4 frequencies turn with the row, the next with the column; base 10000. */
void q3_rotary_vision(float *table, int frames, int rows, int columns, int merge, int head_dim);

#endif
