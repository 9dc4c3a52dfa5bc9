#include "train/wandb.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "core/file.h"
#include "core/log.h"
#include "train/kept_file.h"
#include "train/protobuf.h"

enum {
    BLOCK_BYTES = 32768,
    HEAD_BYTES = 7,   // of a piece, and of the file
    NAME_BYTES = 128, // of an id or a project, as the client has it
    ID_CHARS = 8,     // of a drawn id
    STATE_BYTES = 4096,
};

/* Numbers of fields in wandb_internal.proto, which releases 0.20 and 0.31 share. */
enum {
    RECORD_NUM = 1,
    RECORD_HISTORY = 2,
    RECORD_SUMMARY = 3,
    RECORD_METRIC = 12,
    RECORD_RUN = 17,
    RECORD_EXIT = 18,
    RECORD_HEADER = 21
};
enum { ITEM_KEY = 1, ITEM_NESTED_KEY = 2, ITEM_JSON = 16 }; // of config, history and summary

typedef struct offline {
    q3_kept_file file;
    char *dir; // of the file
    char *id;
    size_t offset; // where the next message goes, bytes that are kept included
    int64_t records, calls;
    double start; // whole seconds since 1970
} offline;

/* ---- the environment ---- */

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

bool q3_wandb_disabled(void)
{
    const char *mode = environment("WANDB_MODE");
    return mode && strcmp(mode, "disabled") == 0;
}

static q3_status check_name(const char *variable, const char *refused)
{
    const char *name = environment(variable);
    size_t n = name ? strlen(name) : 0;
    if (n > NAME_BYTES)
        return q3_fail(Q3_ERR_USAGE, "%s has %zu bytes; the most are %d", variable, n, (int)NAME_BYTES);
    if (name && (name[strcspn(name, refused)] || name[0] == ' ' || name[n - 1] == ' '))
        return q3_fail(Q3_ERR_USAGE,
                       "%s is \"%s\"; Weights & Biases takes none with one of %s or with a space at an end",
                       variable, name, refused);
    return Q3_OK;
}

q3_status q3_wandb_check(void)
{
    static const char *const modes[] = { "disabled", "offline", "online", "dryrun", "shared" };
    const char *mode = environment("WANDB_MODE");
    bool known = !mode;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        known = known || strcmp(mode, modes[i]) == 0;
    if (!known)
        return q3_fail(Q3_ERR_USAGE, "WANDB_MODE is \"%.60s\"; set it to offline or disabled", mode);
    Q3_TRY(check_name("WANDB_PROJECT", "/\\#?%:"));
    return check_name("WANDB_RUN_ID", ":;,#?/'");
}

/* ---- the log ---- */

static void put_piece(q3_text *out, int type, const char *data, size_t n)
{
    const unsigned char kind = (unsigned char)type;
    uLong crc = crc32(crc32(0, &kind, 1), (const unsigned char *)data, (uInt)n);
    q3_put_fixed(out, crc, 4);
    q3_put_fixed(out, n, 2);
    q3_put_fixed(out, kind, 1);
    q3_text_append(out, data, n);
}

void q3_wandb_frame(q3_text *out, size_t offset, const char *message, size_t n)
{
    for (bool first = true, last = false; !last; first = false) {
        size_t room = BLOCK_BYTES - offset % BLOCK_BYTES;
        if (room < HEAD_BYTES) {
            q3_put_fixed(out, 0, (int)room);
            offset += room;
            room = BLOCK_BYTES;
        }
        room -= HEAD_BYTES;
        last = n <= room;
        size_t part = last ? n : room;
        put_piece(out, first && last ? 1 : first ? 2 : last ? 4 : 3, message, part);
        message += part;
        n -= part;
        offset += HEAD_BYTES + part;
    }
}

/* ---- messages ---- */

static void put_item(q3_text *out, int key_field, const char *key, const q3_text *json)
{
    q3_text item = { 0 };
    q3_put_string(&item, key_field, key);
    q3_put_string(&item, ITEM_JSON, json->failed ? "" : json->data);
    item.failed = item.failed || json->failed;
    q3_put_message(out, 1, &item);
}

static void put_number(q3_text *out, const char *key, double value)
{
    q3_text json = { 0 };
    q3_text_json_number(&json, value);
    put_item(out, ITEM_NESTED_KEY, key, &json);
    q3_text_free(&json);
}

static void put_count(q3_text *out, const char *key, int64_t value)
{
    q3_text json = { 0 };
    q3_text_printf(&json, "%" PRId64, value);
    put_item(out, ITEM_NESTED_KEY, key, &json);
    q3_text_free(&json);
}

void q3_wandb_summary(q3_text *out, const q3_log_call *call, int64_t count, double start)
{
    for (const cJSON *v = call->line->child; v; v = v->next) {
        if (!cJSON_IsNumber(v) || strcmp(v->string, "step") == 0)
            continue;
        q3_text tag = { 0 };
        q3_logger_tag(&tag, v->string);
        put_number(out, tag.failed ? "" : tag.data, v->valuedouble);
        out->failed = out->failed || tag.failed;
        q3_text_free(&tag);
    }
    put_count(out, "train/global_step", call->step);
    put_number(out, "_timestamp", call->time);
    put_number(out, "_runtime", call->time - start);
    put_count(out, "_step", count);
}

/* HistoryRecord: 1 item, repeated; 2 step {1 num}. */
void q3_wandb_history(q3_text *out, const q3_log_call *call, int64_t count, double start)
{
    q3_text step = { 0 };
    q3_wandb_summary(out, call, count, start);
    q3_put_int(&step, 1, count);
    q3_put_message(out, 2, &step);
}

/* HeaderRecord: 1 version_info {1 producer}. */
static q3_text header(void)
{
    q3_text out = { 0 }, version = { 0 };
    q3_put_string(&version, 1, "qwen3-sft " Q3_VERSION);
    q3_put_message(&out, 1, &version);
    return out;
}

/* The config, an item a section. */
static q3_status put_config(q3_text *out, const q3_config *config)
{
    q3_text text = { 0 };
    q3_json doc = { 0 };
    q3_config_json(&text, config);
    q3_status st = text.failed ? Q3_ERR_MEMORY : q3_json_parse(&doc, text.data, text.size, "config", 1);
    for (const cJSON *v = st ? NULL : doc.root->child; v; v = v->next) {
        q3_text json = { 0 };
        char *printed = cJSON_PrintUnformatted(v);
        q3_text_printf(&json, "%s", printed ? printed : "");
        json.failed = json.failed || !printed;
        put_item(out, ITEM_KEY, v->string, &json);
        q3_text_free(&json);
        cJSON_free(printed);
    }
    q3_json_close(&doc);
    q3_text_free(&text);
    return st;
}

static void put_if(q3_text *out, int field, const char *value)
{
    if (value)
        q3_put_string(out, field, value);
}

/* RunRecord: 1 run_id, 2 entity, 3 project, 4 config, 8 display_name, 13 host, 17 start_time {1 seconds}. */
static q3_text run_record(const offline *w, const q3_view_run *run)
{
    q3_text out = { 0 }, config = { 0 }, start = { 0 };
    char host[256] = "localhost";
    gethostname(host, sizeof host - 1);
    q3_put_string(&out, 1, w->id);
    put_if(&out, 2, environment("WANDB_ENTITY"));
    put_if(&out, 3, environment("WANDB_PROJECT"));
    if (put_config(&config, run->config) != Q3_OK)
        config.failed = true;
    q3_put_message(&out, 4, &config);
    const char *name = environment("WANDB_NAME");
    q3_put_string(&out, 8, name ? name : q3_path_base(run->dir));
    q3_put_string(&out, 13, host);
    q3_put_int(&start, 1, (int64_t)w->start);
    q3_put_message(&out, 17, &start);
    return out;
}

/* MetricRecord: 1 name, 2 glob_name, 4 step_metric, 6 options {1 step_sync, 3 defined}. */
static q3_text axis(bool itself)
{
    q3_text out = { 0 }, options = { 0 };
    q3_put_string(&out, itself ? 1 : 2, itself ? "train/global_step" : "*");
    if (!itself) {
        q3_put_string(&out, 4, "train/global_step");
        q3_put_int(&options, 1, 1);
    }
    q3_put_int(&options, 3, 1);
    q3_put_message(&out, 6, &options);
    return out;
}

/* RunExitRecord: 1 exit_code, 2 runtime, in seconds. */
static q3_text exit_record(const offline *w, q3_status how)
{
    q3_text out = { 0 };
    q3_put_int(&out, 1, how ? 1 : 0);
    q3_put_int(&out, 2, (int64_t)((double)time(NULL) - w->start));
    return out;
}

/* ---- the file ---- */

/* Puts a record behind the others and ends the message. */
static q3_status add(offline *w, int field, q3_text message)
{
    q3_text record = { 0 }, framed = { 0 };
    q3_put_int(&record, RECORD_NUM, w->records + 1);
    q3_put_message(&record, field, &message);
    if (!record.failed)
        q3_wandb_frame(&framed, w->offset, record.data, record.size);
    framed.failed = framed.failed || record.failed;
    size_t size = framed.size;
    q3_text_free(&record);
    Q3_TRY(q3_kept_add(&w->file, &framed));
    w->offset += size;
    w->records++;
    return Q3_OK;
}

static q3_status flush(offline *w)
{
    if (w->file.fd < 0) {
        if (q3_dir_exists(w->dir)) // an earlier part of the run, with what the client notes beside it
            Q3_TRY(q3_dir_remove(w->dir));
        Q3_TRY(q3_dir_create(w->dir));
    }
    return q3_kept_flush(&w->file);
}

static q3_status offline_write(void *view, const q3_log_call *call)
{
    offline *w = view;
    q3_text summary = { 0 }, history = { 0 };
    q3_wandb_summary(&summary, call, w->calls, w->start);
    q3_wandb_history(&history, call, w->calls, w->start);
    q3_status st = add(w, RECORD_SUMMARY, summary), told = add(w, RECORD_HISTORY, history);
    w->calls++;
    q3_status written = flush(w);
    return st ? st : told ? told : written;
}

/* What must not be missing; only memory can. */
static q3_status begin(offline *w, const q3_view_run *run)
{
    q3_text first = { 0 };
    q3_text_append(&first, ":W&B\xe1\xbe\x00", HEAD_BYTES);
    Q3_TRY(q3_kept_add(&w->file, &first));
    w->offset = HEAD_BYTES;
    Q3_TRY(add(w, RECORD_HEADER, header()));
    Q3_TRY(add(w, RECORD_RUN, run_record(w, run)));
    Q3_TRY(add(w, RECORD_METRIC, axis(true)));
    return add(w, RECORD_METRIC, axis(false));
}

/* ---- id and place ---- */

static char *drawn_id(void)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    unsigned char random[ID_CHARS];
    char id[ID_CHARS + 1] = { 0 };
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return NULL;
    for (int i = 0; i < ID_CHARS; i++)
        id[i] = letters[random[i] % (sizeof letters - 1)];
    return q3_strdup(id);
}

/* Of an earlier part of this run, where there was one and WANDB_RUN_ID names no other. */
static q3_status recall(offline *w, const char *path)
{
    const char *id, *wanted = environment("WANDB_RUN_ID");
    q3_json doc = { 0 };
    int64_t start;
    if (!q3_file_exists(path))
        return Q3_OK;
    Q3_TRY(q3_json_open(&doc, path, STATE_BYTES));
    q3_status st = q3_json_string(&id, &doc, doc.root, "id", NULL);
    st = st ? st : q3_json_int(&start, &doc, doc.root, "start", -1);
    if (st == Q3_OK && (!id || !*id || strchr(id, '/') || start < 0))
        st = q3_fail(Q3_ERR_FORMAT, "%s: names no run; remove it to begin a new one", path);
    if (st == Q3_OK && (!wanted || strcmp(wanted, id) == 0)) {
        w->start = (double)start;
        st = (w->id = q3_strdup(id)) ? Q3_OK : Q3_ERR_MEMORY;
    }
    q3_json_close(&doc);
    return st;
}

static q3_status remember(const offline *w, const char *path)
{
    q3_text text = { 0 };
    q3_text_printf(&text, "{\"id\": ");
    q3_text_json_string(&text, w->id, strlen(w->id));
    q3_text_printf(&text, ", \"start\": %" PRId64 "}\n", (int64_t)w->start);
    q3_status st = text.failed ? Q3_ERR_MEMORY : q3_file_write(path, text.data, text.size);
    q3_text_free(&text);
    return st;
}

/* Who the run is. What cannot be remembered does not end it. */
static q3_status identify(offline *w, q3_status *remembered, const char *dir)
{
    char *path = q3_path_join(dir, "wandb-run.json");
    q3_status st = path ? recall(w, path) : Q3_ERR_MEMORY;
    if (st == Q3_OK && !w->id) {
        const char *id = environment("WANDB_RUN_ID");
        w->start = (double)time(NULL);
        w->id = id ? q3_strdup(id) : drawn_id();
        st = w->id ? Q3_OK : Q3_ERR_MEMORY;
        *remembered = st ? st : remember(w, path);
    }
    q3_free(path);
    return st;
}

static q3_status locate(offline *w, const char *dir)
{
    const char *root = environment("WANDB_DIR");
    const time_t start = (time_t)w->start;
    struct tm t;
    char date[32];
    q3_text place = { 0 };
    strftime(date, sizeof date, "%Y%m%d_%H%M%S", localtime_r(&start, &t));
    q3_text_printf(&place, "%s/wandb/offline-run-%s-%s", root ? root : dir, date, w->id);
    if (place.failed)
        return Q3_ERR_MEMORY;
    w->dir = place.data;
    q3_text path = { 0 };
    q3_text_printf(&path, "%s/run-%s.wandb", w->dir, w->id);
    w->file.path = path.failed ? NULL : path.data;
    return path.failed ? Q3_ERR_MEMORY : Q3_OK;
}

static void offline_free(offline *w)
{
    q3_kept_close(&w->file);
    q3_free(w->dir);
    q3_free(w->id);
    q3_free(w);
}

static q3_status offline_open(void **out, const q3_view_run *run)
{
    offline *w = q3_calloc(1, sizeof *w);
    q3_status remembered = Q3_OK;
    *out = NULL;
    if (!w)
        return Q3_ERR_MEMORY;
    w->file.fd = -1;
    q3_status st = identify(w, &remembered, run->dir);
    st = st ? st : locate(w, run->dir);
    st = st ? st : begin(w, run);
    if (st != Q3_OK) {
        offline_free(w);
        return st;
    }
    *out = w;
    q3_info("W&B         written offline; `wandb sync %s` uploads it", w->dir);
    st = q3_logger_each(run->dir, offline_write, w);
    q3_status written = flush(w);
    return remembered ? remembered : st ? st : written;
}

static q3_status offline_close(void *view, q3_status how)
{
    offline *w = view;
    q3_status st = add(w, RECORD_EXIT, exit_record(w, how)), written = flush(w);
    offline_free(w);
    return st ? st : written;
}

const q3_view_kind q3_wandb = { "wandb", offline_open, offline_write, offline_close };
