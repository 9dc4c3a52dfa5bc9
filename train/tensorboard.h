/* train/tensorboard.h - event files of TensorBoard, by hand: a stream of records, each a small protobuf
 * message.
 *
 *   record   u64 length, u32 mask(crc of these 8 bytes), the bytes of an Event, u32 mask(crc of them); little-endian
 *   mask(c)  = rotate right(c, 15) + 0xa282ead8 modulo 2^32, of CRC-32C (Castagnoli, reflected 0x82F63B78)
 *
 * (tensorflow/core/lib/io/record_writer.cc; tensorboard/compat/proto event.proto, summary.proto,
 * tensor.proto.) A file begins with its version and the mark of a session that starts with the run's step:
 * readers drop what earlier files of the run have from there on. The lines that metrics.jsonl keeps of that
 * step are told again, so a resumed run shows each value once, whenever it was killed. Then come the config
 * as a text, and an Event a log call. Each is written to the file at once (train/kept_file.h).
 */
#ifndef Q3_TRAIN_TENSORBOARD_H
#define Q3_TRAIN_TENSORBOARD_H

#include "train/logger.h"

#define Q3_TENSORBOARD_PREFIX "events.out.tfevents."

/* The file is dir/events.out.tfevents.<seconds>.<host>.<process>.0 */
extern const q3_view_kind q3_tensorboard;

uint32_t q3_crc32c(const void *data, size_t n);

/* One record each, appended. `time` is in seconds since 1970. */
void q3_event_version(q3_text *out, double time);
void q3_event_session(q3_text *out, double time, int64_t step); /* it begins with this step */
void q3_event_scalars(q3_text *out, const q3_log_call *call); /* none where the line has no numbers */
void q3_event_text(q3_text *out, double time, int64_t step, const char *tag, const char *markdown);

#endif
