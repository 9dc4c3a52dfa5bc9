/* collate/positions.h - 3-axis positions of a row for interleaved M-RoPE (transformers 5.17, get_rope_index).
 *
 * A text token advances all axes by one. The merged tokens of a picture share the time position; height and
 * width count its rows and columns; behind it the count goes on at max(rows, columns).
 */
#ifndef Q3_COLLATE_POSITIONS_H
#define Q3_COLLATE_POSITIONS_H

#include <stdint.h>

/* Fills time, height and width [n] for one row without padding. grids [n_grids, 3] are its pictures in
 * patches, in order; runs of `image_token` (or `video_token`) take one each. Returns the next position, or -1
 * when runs and grids do not match. */
int64_t q3_positions(int32_t *time, int32_t *height, int32_t *width, const int32_t *ids, int64_t n,
                     int32_t image_token, int32_t video_token, const int32_t *grids, int n_grids, int merge);

#endif
