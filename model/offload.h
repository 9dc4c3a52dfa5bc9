/* model/offload.h - layers that do not fit into memory: read from their files when they are due, given back behind.
 *
 * Matrices that lie in mapped files as they are computed with (16-bit directories, and directories that are quantized
 * already) need no memory of their own: the first layers, as many as fit, stay mapped, and each of the others is asked
 * for while the layer before it is computed and unmapped when it is done. Same bits, for it is the same memory.
 *
 * When it pays: where the alternative is not to run at all. Every pass reads the offloaded layers once, from the system's
 * page cache or from the disk: a disk of 3 GB/s gives a model of 4 GB a token a second or so, and a prompt for the same price.
 */
#ifndef Q3_MODEL_OFFLOAD_H
#define Q3_MODEL_OFFLOAD_H

#include "model/network.h"

/* At most `resident` bytes of layers' matrices stay mapped between uses. Errors: Q3_ERR_USAGE where matrices were made while
 * loading, or lie on a CUDA device. */
q3_status q3_model_offload(q3_model *m, size_t resident);

/* To be called around a layer's use; nothing for layers that stay. */
void q3_offload_before(const q3_model *m, int layer);
void q3_offload_behind(const q3_model *m, int layer);

#endif
