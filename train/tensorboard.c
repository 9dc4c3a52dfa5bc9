#include "train/tensorboard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/file.h"

enum { KEPT_BYTES = 16 << 20, HOST_BYTES = 256, METRICS_LIMIT = 1 << 30 };

/* ---- records ---- */

uint32_t q3_crc32c(const void *data, size_t n)
{
    const unsigned char *p = data;
    uint32_t crc = 0xFFFFFFFF;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78 : 0);
    }
    return ~crc;
}

static void put_fixed(q3_text *out, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        char byte = (char)(value >> 8 * i & 0xFF);
        q3_text_append(out, &byte, 1);
    }
}

static void put_crc(q3_text *out, const char *data, size_t n)
{
    uint32_t crc = q3_crc32c(data, n);
    put_fixed(out, (crc >> 15 | crc << 17) + 0xA282EAD8, 4);
}

/* Ends the message. */
static void put_record(q3_text *out, q3_text *event)
{
    if (!event->failed) {
        char length[8];
        for (int i = 0; i < 8; i++)
            length[i] = (char)(event->size >> 8 * i & 0xFF);
        q3_text_append(out, length, sizeof length);
        put_crc(out, length, sizeof length);
        q3_text_append(out, event->data, event->size);
        put_crc(out, event->data, event->size);
    }
    out->failed = out->failed || event->failed;
    q3_text_free(event);
}

/* ---- protobuf: a field is its number and wire type, then its value ---- */

typedef enum wire { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 } wire;

static void put_varint(q3_text *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        put_fixed(out, (value & 0x7F) | 0x80, 1);
    put_fixed(out, value, 1);
}

static void put_key(q3_text *out, int field, wire type)
{
    put_varint(out, (uint64_t)field << 3 | (uint64_t)type);
}

static void put_int(q3_text *out, int field, int64_t value)
{
    put_key(out, field, VARINT);
    put_varint(out, (uint64_t)value);
}

static void put_double(q3_text *out, int field, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(out, field, FIXED64);
    put_fixed(out, bits, 8);
}

static void put_float(q3_text *out, int field, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(out, field, FIXED32);
    put_fixed(out, bits, 4);
}

static void put_bytes(q3_text *out, int field, const char *data, size_t n)
{
    put_key(out, field, BYTES);
    put_varint(out, n);
    q3_text_append(out, data, n);
}

static void put_string(q3_text *out, int field, const char *text)
{
    put_bytes(out, field, text, strlen(text));
}

/* Ends the inner message. */
static void put_message(q3_text *out, int field, q3_text *inner)
{
    if (!inner->failed)
        put_bytes(out, field, inner->data, inner->size);
    out->failed = out->failed || inner->failed;
    q3_text_free(inner);
}

/* ---- events ---- */

/* Event: 1 wall_time, 2 step (0 is not written), 3 file_version, 5 summary, 7 session_log. */
static q3_text event_of(double time, int64_t step)
{
    q3_text event = { 0 };
    put_double(&event, 1, time);
    if (step)
        put_int(&event, 2, step);
    return event;
}

void q3_event_version(q3_text *out, double time)
{
    q3_text event = event_of(time, 0);
    put_string(&event, 3, "brain.Event:2");
    put_record(out, &event);
}

void q3_event_session(q3_text *out, double time, int64_t step)
{
    q3_text event = event_of(time, step), session = { 0 };
    put_int(&session, 1, 1); // SessionLog: 1 status, START
    put_message(&event, 7, &session);
    put_record(out, &event);
}

/* Summary: 1 value, repeated. Value: 1 tag, 2 simple_value. */
void q3_event_scalars(q3_text *out, const q3_log_call *call)
{
    q3_text summary = { 0 };
    for (const cJSON *v = call->line->child; v; v = v->next) {
        if (!cJSON_IsNumber(v) || strcmp(v->string, "step") == 0)
            continue;
        q3_text tag = { 0 }, value = { 0 };
        q3_logger_tag(&tag, v->string);
        put_message(&value, 1, &tag);
        put_float(&value, 2, (float)v->valuedouble);
        put_message(&summary, 1, &value);
    }
    if (!summary.size && !summary.failed)
        return;
    q3_text event = event_of(call->time, call->step);
    put_message(&event, 5, &summary);
    put_record(out, &event);
}

/* TensorProto: 1 dtype (DT_STRING 7), 2 tensor_shape {2 dim {1 size}}, 8 string_val. */
static q3_text string_tensor(const char *text)
{
    q3_text tensor = { 0 }, shape = { 0 }, dim = { 0 };
    put_int(&tensor, 1, 7);
    put_int(&dim, 1, 1);
    put_message(&shape, 2, &dim);
    put_message(&tensor, 2, &shape);
    put_string(&tensor, 8, text);
    return tensor;
}

/* Value: 1 tag, 8 tensor, 9 metadata. SummaryMetadata: 1 plugin_data {1 plugin_name}, 4 data_class (tensor 2). */
void q3_event_text(q3_text *out, double time, int64_t step, const char *tag, const char *markdown)
{
    q3_text event = event_of(time, step), summary = { 0 }, value = { 0 }, metadata = { 0 }, plugin = { 0 },
            tensor = string_tensor(markdown);
    put_string(&plugin, 1, "text");
    put_message(&metadata, 1, &plugin);
    put_int(&metadata, 4, 2);
    put_string(&value, 1, tag);
    put_message(&value, 8, &tensor);
    put_message(&value, 9, &metadata);
    put_message(&summary, 1, &value);
    put_message(&event, 5, &summary);
    put_record(out, &event);
}

/* ---- the file ---- */

typedef struct board {
    char *path;
    int fd;       /* -1: not open yet */
    q3_text kept; /* bytes that are not in the file yet */
} board;

static q3_status flush(board *b)
{
    if (b->fd < 0)
        b->fd = open(b->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    errno = b->fd < 0 ? errno : ENOSPC; // what a short write means
    ssize_t n = b->fd < 0 ? -1 : write(b->fd, b->kept.data, b->kept.size);
    if (n == (ssize_t)b->kept.size) {
        b->kept.size = 0;
        return Q3_OK;
    }
    int why = errno;
    if (n > 0) {
        memmove(b->kept.data, b->kept.data + n, b->kept.size - (size_t)n);
        b->kept.size -= (size_t)n;
    }
    return q3_fail(Q3_ERR_IO, "%s: cannot be written: %s", b->path, strerror(why));
}

/* Keeps the records and ends them. */
static q3_status keep(board *b, q3_text *records)
{
    q3_status st = records->failed ? Q3_ERR_MEMORY : Q3_OK;
    if (st == Q3_OK && b->kept.size + records->size > KEPT_BYTES)
        st = q3_fail(Q3_ERR_LIMIT, "%s: cannot be written for too long; later values are left out", b->path);
    if (st == Q3_OK && records->size)
        q3_text_append(&b->kept, records->data, records->size);
    if (b->kept.failed) // what it had stays
        st = Q3_ERR_MEMORY;
    b->kept.failed = false;
    q3_text_free(records);
    return st;
}

static q3_status board_write(void *view, const q3_log_call *call)
{
    board *b = view;
    q3_text records = { 0 };
    q3_event_scalars(&records, call);
    q3_status st = keep(b, &records), written = flush(b);
    return st ? st : written;
}

/* The lines of metrics.jsonl that have the step at which the run goes on. */
static void tell_again(q3_text *out, const q3_view_run *run, double now)
{
    char *path = q3_path_join(run->dir, "metrics.jsonl"), *text = NULL;
    size_t size = 0;
    if (path && q3_file_exists(path) && q3_file_read(&text, &size, path, METRICS_LIMIT) != Q3_OK)
        out->failed = true;
    for (size_t at = 0, n; at < size; at += n + 1) {
        q3_json doc = { 0 };
        q3_log_call call = { .step = -1, .time = now };
        n = strcspn(text + at, "\n");
        if (q3_json_parse(&doc, text + at, n, path, 1) == Q3_OK &&
            q3_json_int(&call.step, &doc, doc.root, "step", -1) == Q3_OK && call.step == run->step) {
            call.line = doc.root;
            q3_event_scalars(out, &call);
        }
        q3_json_close(&doc);
    }
    q3_free(text);
    q3_free(path);
}

static void begin(q3_text *out, const q3_view_run *run)
{
    double now = (double)time(NULL);
    q3_text config = { 0 };
    q3_event_version(out, now);
    q3_event_session(out, now, run->step);
    tell_again(out, run, now);
    q3_text_printf(&config, "```json\n");
    q3_config_json(&config, run->config);
    q3_text_printf(&config, "```\n");
    if (!config.failed)
        q3_event_text(out, now, run->step, "config/text_summary", config.data);
    out->failed = out->failed || config.failed;
    q3_text_free(&config);
}

static char *path_of(const char *dir)
{
    char host[HOST_BYTES] = "localhost", name[HOST_BYTES + 64];
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, Q3_TENSORBOARD_PREFIX "%010lld.%s.%ld.0", (long long)time(NULL), host,
             (long)getpid());
    return q3_path_join(dir, name);
}

static q3_status board_open(void **out, const q3_view_run *run)
{
    board *b = *out = q3_calloc(1, sizeof *b);
    char *path = path_of(run->dir);
    if (!b || !path) {
        q3_free(b);
        q3_free(path);
        *out = NULL;
        return Q3_ERR_MEMORY;
    }
    *b = (board){ .path = path, .fd = -1 };
    q3_text records = { 0 };
    begin(&records, run);
    q3_status st = keep(b, &records), written = flush(b);
    return st ? st : written;
}

static q3_status board_close(void *view, q3_status how)
{
    board *b = view;
    (void)how;
    q3_status st = flush(b);
    if (b->fd >= 0)
        close(b->fd);
    q3_text_free(&b->kept);
    q3_free(b->path);
    q3_free(b);
    return st;
}

const q3_view_kind q3_tensorboard = { "tensorboard", board_open, board_write, board_close };
