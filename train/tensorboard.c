#include "train/tensorboard.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/file.h"
#include "train/kept_file.h"
#include "train/protobuf.h"

enum { HOST_BYTES = 256 };

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

static void put_crc(q3_text *out, const char *data, size_t n)
{
    uint32_t crc = q3_crc32c(data, n);
    q3_put_fixed(out, (crc >> 15 | crc << 17) + 0xA282EAD8, 4);
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

/* ---- events ---- */

/* Event: 1 wall_time, 2 step (0 is not written), 3 file_version, 5 summary, 7 session_log. */
static q3_text event_of(double time, int64_t step)
{
    q3_text event = { 0 };
    q3_put_double(&event, 1, time);
    if (step)
        q3_put_int(&event, 2, step);
    return event;
}

void q3_event_version(q3_text *out, double time)
{
    q3_text event = event_of(time, 0);
    q3_put_string(&event, 3, "brain.Event:2");
    put_record(out, &event);
}

void q3_event_session(q3_text *out, double time, int64_t step)
{
    q3_text event = event_of(time, step), session = { 0 };
    q3_put_int(&session, 1, 1); // SessionLog: 1 status, START
    q3_put_message(&event, 7, &session);
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
        q3_put_message(&value, 1, &tag);
        q3_put_float(&value, 2, (float)v->valuedouble);
        q3_put_message(&summary, 1, &value);
    }
    if (!summary.size && !summary.failed)
        return;
    q3_text event = event_of(call->time, call->step);
    q3_put_message(&event, 5, &summary);
    put_record(out, &event);
}

/* TensorProto: 1 dtype (DT_STRING 7), 2 tensor_shape {2 dim {1 size}}, 8 string_val. */
static q3_text string_tensor(const char *text)
{
    q3_text tensor = { 0 }, shape = { 0 }, dim = { 0 };
    q3_put_int(&tensor, 1, 7);
    q3_put_int(&dim, 1, 1);
    q3_put_message(&shape, 2, &dim);
    q3_put_message(&tensor, 2, &shape);
    q3_put_string(&tensor, 8, text);
    return tensor;
}

/* Value: 1 tag, 8 tensor, 9 metadata. SummaryMetadata: 1 plugin_data {1 plugin_name}, 4 data_class (tensor 2). */
void q3_event_text(q3_text *out, double time, int64_t step, const char *tag, const char *markdown)
{
    q3_text event = event_of(time, step), summary = { 0 }, value = { 0 }, metadata = { 0 }, plugin = { 0 },
            tensor = string_tensor(markdown);
    q3_put_string(&plugin, 1, "text");
    q3_put_message(&metadata, 1, &plugin);
    q3_put_int(&metadata, 4, 2);
    q3_put_string(&value, 1, tag);
    q3_put_message(&value, 8, &tensor);
    q3_put_message(&value, 9, &metadata);
    q3_put_message(&summary, 1, &value);
    q3_put_message(&event, 5, &summary);
    put_record(out, &event);
}

/* ---- the file ---- */

static q3_status board_write(void *view, const q3_log_call *call)
{
    q3_kept_file *f = view;
    q3_text records = { 0 };
    q3_event_scalars(&records, call);
    q3_status st = q3_kept_add(f, &records), written = q3_kept_flush(f);
    return st ? st : written;
}

typedef struct again {
    q3_text *out;
    int64_t step;
} again;

/* A line of metrics.jsonl, where it has the step at which the run goes on. */
static q3_status tell_again(void *arg, const q3_log_call *call)
{
    const again *a = arg;
    if (call->step == a->step)
        q3_event_scalars(a->out, call);
    return Q3_OK;
}

static void begin(q3_text *out, const q3_view_run *run)
{
    double now = (double)time(NULL);
    q3_text config = { 0 };
    q3_event_version(out, now);
    q3_event_session(out, now, run->step);
    if (q3_logger_each(run->dir, tell_again, &(again){ out, run->step }) != Q3_OK)
        out->failed = true;
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
    q3_kept_file *f = *out = q3_calloc(1, sizeof *f);
    char *path = path_of(run->dir);
    if (!f || !path) {
        q3_free(f);
        q3_free(path);
        *out = NULL;
        return Q3_ERR_MEMORY;
    }
    *f = (q3_kept_file){ .path = path, .fd = -1 };
    q3_text records = { 0 };
    begin(&records, run);
    q3_status st = q3_kept_add(f, &records), written = q3_kept_flush(f);
    return st ? st : written;
}

static q3_status board_close(void *view, q3_status how)
{
    q3_kept_file *f = view;
    (void)how;
    q3_status st = q3_kept_flush(f);
    q3_kept_close(f);
    q3_free(f);
    return st;
}

const q3_view_kind q3_tensorboard = { "tensorboard", board_open, board_write, board_close };
