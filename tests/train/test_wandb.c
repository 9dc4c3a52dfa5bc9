/* The offline run of Weights & Biases: bytes as the client's own writer makes them, and whole files, read back by hand and
 * compared with metrics.jsonl. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <glob.h>
#include <signal.h>
#include <sys/resource.h>
#include <zlib.h>

#include "core/file.h"
#include "core/log.h"
#include "tests/support/protobuf.h"
#include "tests/support/run.h"
#include "train/wandb.h"

enum { BLOCK = 32768, HEAD = 7, WORD = 128 };

/* ---- a reader of its own ---- */

typedef struct log_file {
    cJSON *history;          /* an object a line */
    cJSON *summary, *config; /* objects */
    char id[WORD], entity[WORD], project[WORD], name[WORD];
    int64_t records, start, exit; /* exit: -1 when there is none */
    int axes, pieces;
} log_file;

static void take_word(char out[WORD], q3_span bytes)
{
    assert_true(bytes.end - bytes.at < WORD);
    snprintf(out, WORD, "%.*s", (int)(bytes.end - bytes.at), (const char *)bytes.at);
}

static void read_item(cJSON *out, q3_span item)
{
    char key[WORD] = "";
    uint64_t number;
    q3_span bytes = { NULL, NULL };
    cJSON *value = NULL;
    while (item.at < item.end)
        if (q3_read_field(&item, &number, &bytes) == 16)
            value = cJSON_ParseWithLength((const char *)bytes.at, (size_t)(bytes.end - bytes.at));
        else
            take_word(key, bytes);
    assert_non_null(value);
    assert_true(key[0]);
    cJSON_DeleteItemFromObjectCaseSensitive(out, key);
    cJSON_AddItemToObject(out, key, value);
}

/* The items of a message, its field 1. */
static void read_items(cJSON *out, q3_span message)
{
    uint64_t number;
    q3_span bytes = { NULL, NULL };
    while (message.at < message.end)
        if (q3_read_field(&message, &number, &bytes) == 1)
            read_item(out, bytes);
}

static void read_run_record(log_file *out, q3_span run)
{
    uint64_t number;
    q3_span bytes = { NULL, NULL };
    while (run.at < run.end) {
        switch (q3_read_field(&run, &number, &bytes)) {
        case 1:
            take_word(out->id, bytes);
            break;
        case 2:
            take_word(out->entity, bytes);
            break;
        case 3:
            take_word(out->project, bytes);
            break;
        case 4:
            read_items(out->config, bytes);
            break;
        case 8:
            take_word(out->name, bytes);
            break;
        case 17:
            assert_int_equal(q3_read_field(&bytes, &number, &bytes), 1);
            out->start = (int64_t)number;
            break;
        default:
            break;
        }
    }
}

static void read_record(log_file *out, q3_span record)
{
    uint64_t number = 0;
    q3_span bytes = { NULL, NULL };
    cJSON *line;
    assert_int_equal(out->exit, -1);
    assert_int_equal(q3_read_field(&record, &number, &bytes), 1);
    assert_int_equal(number, ++out->records);
    switch (q3_read_field(&record, &number, &bytes)) {
    case 2:
        cJSON_AddItemToArray(out->history, line = cJSON_CreateObject());
        read_items(line, bytes);
        break;
    case 3:
        read_items(out->summary, bytes);
        break;
    case 12:
        out->axes++;
        break;
    case 17:
        assert_int_equal(out->records, 2);
        read_run_record(out, bytes);
        break;
    case 18:
        assert_int_equal(q3_read_field(&bytes, &number, &bytes), 1);
        out->exit = (int64_t)number;
        break;
    case 21:
        assert_int_equal(out->records, 1);
        break;
    default:
        fail_msg("a record of no meaning");
    }
    assert_ptr_equal(record.at, record.end);
}

/* A piece at `at`; returns its end, or 0 where it is not there whole. */
static size_t read_piece(const unsigned char *data, size_t at, size_t size, int *type)
{
    if (at + HEAD > size || at + HEAD + q3_read_fixed(data + at + 4, 2) > size)
        return 0;
    size_t n = q3_read_fixed(data + at + 4, 2);
    assert_true(at / BLOCK == (at + HEAD + n - 1) / BLOCK);
    assert_int_equal(q3_read_fixed(data + at, 4), crc32(0, data + at + 6, (uInt)n + 1));
    *type = data[at + 6];
    return at + HEAD + n;
}

/* Up to the last whole record. Returns how many bytes lie behind it. */
static size_t read_log(log_file *out, const void *bytes, size_t size)
{
    const unsigned char *data = bytes;
    q3_text message = { 0 };
    size_t whole = HEAD;
    *out = (log_file){ .history = cJSON_CreateArray(),
                       .summary = cJSON_CreateObject(),
                       .config = cJSON_CreateObject(),
                       .exit = -1 };
    assert_true(size >= HEAD);
    assert_memory_equal(data, ":W&B\xe1\xbe\x00", HEAD);
    for (size_t at = HEAD, end; at < size; at = end) {
        int type = 0;
        for (; at % BLOCK > BLOCK - HEAD && at < size; at++)
            assert_int_equal(data[at], 0);
        end = read_piece(data, at, size, &type);
        if (!end)
            break;
        assert_true(type == (message.size ? 3 : 1) || type == (message.size ? 4 : 2));
        q3_text_append(&message, (const char *)data + at + HEAD, end - at - HEAD);
        out->pieces++;
        if (type == 2 || type == 3)
            continue;
        const unsigned char *m = (const unsigned char *)message.data;
        read_record(out, (q3_span){ m, m + message.size });
        message.size = 0;
        whole = end;
    }
    q3_text_free(&message);
    return size - whole;
}

static void log_free(log_file *l)
{
    cJSON_Delete(l->history);
    cJSON_Delete(l->summary);
    cJSON_Delete(l->config);
}

/* The one file of a run below `root`. */
static const char *the_file(const char *root)
{
    static char path[4096];
    char pattern[4096];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/wandb/offline-run-*_*-*/run-*.wandb", root);
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    assert_int_equal(found.gl_pathc, 1);
    snprintf(path, sizeof path, "%s", found.gl_pathv[0]);
    globfree(&found);
    return path;
}

static void read_file(log_file *out, const char *root)
{
    size_t size;
    char *data = q3_run_read("", the_file(root), &size);
    assert_int_equal(read_log(out, data, size), 0);
    q3_free(data);
}

static double number_of(const cJSON *object, const char *key)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!cJSON_IsNumber(value))
        fail_msg("no number is named %s", key);
    return value->valuedouble;
}

/* One line of metrics.jsonl against one of the history. Returns how many values it has. */
static int expect_line(const log_file *l, const cJSON *line, int64_t index)
{
    const cJSON *told = cJSON_GetArrayItem(l->history, (int)index);
    int n = 0;
    assert_non_null(told);
    for (const cJSON *v = line->child; v; v = v->next) {
        if (!cJSON_IsNumber(v) || strcmp(v->string, "step") == 0)
            continue;
        q3_text tag = { 0 };
        q3_logger_tag(&tag, v->string);
        assert_true(number_of(told, tag.data) == v->valuedouble);
        q3_text_free(&tag);
        n++;
    }
    assert_true(number_of(told, "train/global_step") == number_of(line, "step"));
    assert_true(number_of(told, "_step") == (double)index);
    assert_true(number_of(told, "_timestamp") >= (double)l->start);
    assert_true(number_of(told, "_runtime") == number_of(told, "_timestamp") - (double)l->start);
    assert_int_equal(cJSON_GetArraySize(told), n + 4);
    return n;
}

/* Every number of metrics.jsonl, in its order, and nothing else; the last of each in the summary. */
static int expect_metrics(const log_file *l, const char *dir)
{
    size_t size;
    char *text = q3_run_read(dir, "metrics.jsonl", &size);
    int count = 0, lines = 0;
    cJSON *last = cJSON_CreateObject();
    for (char *line = text; *line; line += strcspn(line, "\n") + 1) {
        q3_json doc;
        assert_int_equal(q3_json_parse(&doc, line, strcspn(line, "\n"), "metrics.jsonl", 1), Q3_OK);
        const cJSON *told = cJSON_GetArrayItem(l->history, lines);
        count += expect_line(l, doc.root, lines++);
        for (const cJSON *v = told->child; v; v = v->next) {
            cJSON_DeleteItemFromObjectCaseSensitive(last, v->string);
            cJSON_AddNumberToObject(last, v->string, v->valuedouble);
        }
        q3_json_close(&doc);
    }
    assert_int_equal(cJSON_GetArraySize(l->history), lines);
    assert_true(cJSON_Compare(l->summary, last, true));
    cJSON_Delete(last);
    q3_free(text);
    return count;
}

/* ---- bytes ---- */

static void expect_hex(q3_text *bytes, const char *hex)
{
    q3_text got = { 0 };
    for (size_t i = 0; i < bytes->size; i++)
        q3_text_printf(&got, "%02x", (unsigned)(unsigned char)bytes->data[i]);
    assert_string_equal(got.data, hex);
    q3_text_free(&got);
    q3_text_free(bytes);
}

#define ITEMS                                                                                                \
    "0a12120a747261696e2f6c6f7373820103302e350a13120b747261696e2f65706f6368820103312e300a18121174726169"     \
    "6e2f676c6f62616c5f7374657082010231300a1b120a5f74696d657374616d7082010c313730303030303030322e350a10"     \
    "12085f72756e74696d65820103322e350a0b12055f7374657082010133"

/* By the Python client's protobuf classes, releases 0.20.1 and 0.31.0. */
static void messages_have_the_bytes_of_the_clients_own(void **state)
{
    (void)state;
    static const char text[] = "{\"step\": 10, \"loss\": 0.5, \"epoch\": 1.0, \"grad_norm\": null}";
    q3_text history = { 0 }, summary = { 0 };
    q3_json doc;
    assert_int_equal(q3_json_parse(&doc, text, strlen(text), "x", 1), Q3_OK);
    const q3_log_call call = { .step = 10, .time = 1700000002.5, .line = doc.root };
    q3_wandb_history(&history, &call, 3, 1700000000);
    q3_wandb_summary(&summary, &call, 3, 1700000000);
    expect_hex(&history, ITEMS "12020803");
    expect_hex(&summary, ITEMS);
    q3_json_close(&doc);
}

/* By wandb.sdk.internal.datastore.DataStore of release 0.20.1: byte i of a message is 7 i mod 251. */
static void blocks_have_the_bytes_of_the_clients_own(void **state)
{
    (void)state;
    static const struct {
        size_t offset, n, bytes;
        uint32_t crc; /* crc-32 of all pieces */
    } cases[] = {
        { 32760, 1, 8, 0xADEF556C },         { 32761, 1, 15, 0x167EF3B4 },
        { 32762, 1, 14, 0x1976F3C2 },        { 32767, 1, 9, 0x2EC49EAB },
        { 32768, 1, 8, 0xADEF556C },         { 32760, 100, 114, 0x683F636F },
        { 32761, 100, 114, 0x035A7CB2 },     { 32762, 100, 113, 0x7B6F4547 },
        { 32767, 100, 108, 0x13DA26A5 },     { 32768, 100, 107, 0x6FC86C39 },
        { 32760, 32761, 32775, 0x122504A0 }, { 32761, 32761, 32775, 0x0F02D91B },
        { 32762, 32761, 32774, 0xE6E2B185 }, { 32767, 32761, 32769, 0xF1AF84DB },
        { 32768, 32761, 32768, 0x1D068ED1 }, { 32760, 32762, 32776, 0xE62985F8 },
        { 32761, 32762, 32783, 0xFF70EACF }, { 32762, 32762, 32782, 0xC0131257 },
        { 32767, 32762, 32777, 0x1BE22B76 }, { 32768, 32762, 32776, 0xFD650208 },
        { 32760, 70000, 70028, 0x4EBEF448 }, { 32761, 70000, 70028, 0xF8F08FC1 },
        { 32762, 70000, 70027, 0xF08C0F78 }, { 32767, 70000, 70022, 0x55F3BA28 },
        { 32768, 70000, 70021, 0xD8D8FAFC },
    };
    static char message[70000];
    for (size_t i = 0; i < sizeof message; i++)
        message[i] = (char)(i * 7 % 251);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        q3_text out = { 0 };
        q3_wandb_frame(&out, cases[i].offset, message, cases[i].n);
        assert_int_equal(out.size, cases[i].bytes);
        assert_int_equal(crc32(0, (const unsigned char *)out.data, (uInt)out.size), cases[i].crc);
        q3_text_free(&out);
    }
}

/* ---- a view ---- */

static const char *fresh(const char *name)
{
    const char *dir = q3_run_path(name);
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    return dir;
}

static q3_logger *start(const char *dir)
{
    static const char *const overrides[] = { "train.report_to=wandb" };
    q3_config config;
    q3_logger *logger;
    assert_int_equal(q3_config_load(&config, NULL, overrides, 1), Q3_OK);
    assert_int_equal(q3_config_check(&config), Q3_OK);
    assert_int_equal(q3_logger_check(&config), Q3_OK);
    const q3_view_run run = { .dir = dir, .config = &config };
    assert_int_equal(q3_logger_open(&logger, &run), Q3_OK);
    q3_config_free(&config);
    return logger;
}

static void write_line(q3_logger *logger, int step)
{
    q3_text line = { 0 };
    q3_text_printf(&line, "{\"step\": %d, \"loss\": %.9f, \"gen_eval/accuracy\": %d}\n", step, 1.0 / step,
                   step % 2);
    assert_int_equal(q3_logger_write(logger, &line, false), Q3_OK);
}

static void a_long_run_crosses_blocks_and_loses_nothing(void **state)
{
    (void)state;
    log_file l;
    const char *dir = fresh("long");
    q3_logger *logger = start(dir);
    for (int i = 1; i <= 300; i++)
        write_line(logger, i);
    q3_logger_close(logger, Q3_OK);
    read_file(&l, dir);
    assert_int_equal(expect_metrics(&l, dir), 600);
    assert_true(l.pieces > l.records); // some record lies in two blocks
    assert_int_equal(l.exit, 0);
    assert_int_equal(l.axes, 2);
    log_free(&l);
}

static void a_run_that_is_killed_leaves_what_it_has_logged(void **state)
{
    (void)state;
    log_file l;
    size_t size;
    const char *dir = fresh("killed");
    q3_logger *logger = start(dir);
    write_line(logger, 1);
    write_line(logger, 2);
    char *data = q3_run_read("", the_file(dir), &size);
    assert_int_equal(read_log(&l, data, size), 0);
    expect_metrics(&l, dir);
    assert_int_equal(l.exit, -1);
    log_free(&l);
    size_t rest = 1;
    for (size_t cut = size - 1; rest > 0; cut--) { // within the last record, that of line 2
        rest = read_log(&l, data, cut);
        assert_int_equal(cJSON_GetArraySize(l.history), 1);
        assert_true(number_of(l.summary, "_step") == 1);
        log_free(&l);
    }
    q3_free(data);
    q3_logger_close(logger, Q3_ERR_INTERRUPTED);
    read_file(&l, dir);
    assert_int_equal(l.exit, 1);
    log_free(&l);
}

static void what_could_not_be_written_is_written_later(void **state)
{
    (void)state;
    log_file l;
    const char *dir = fresh("later");
    q3_run_write(dir, "wandb", "in the way");
    q3_logger *logger = start(dir);
    write_line(logger, 1);
    write_line(logger, 2);
    assert_int_equal(unlink(q3_run_file(dir, "wandb")), 0);
    write_line(logger, 3);
    q3_logger_close(logger, Q3_OK);
    read_file(&l, dir);
    assert_int_equal(expect_metrics(&l, dir), 6);
    log_free(&l);
    assert_int_equal(q3_dir_remove(q3_run_file(dir, "wandb")), Q3_OK);
    q3_run_write(dir, "wandb", "in the way");
    logger = start(dir); // as a resumed run does, which tells three lines again
    assert_int_equal(unlink(q3_run_file(dir, "wandb")), 0);
    write_line(logger, 4);
    q3_logger_close(logger, Q3_OK);
    read_file(&l, dir);
    assert_int_equal(expect_metrics(&l, dir), 8);
    log_free(&l);
}

/* In the middle of a record, as a full disk does. */
static void what_was_written_in_part_is_written_to_its_end(void **state)
{
    (void)state;
    enum { FULL = 20000 }; // bytes of a file; metrics.jsonl has fewer
    log_file l;
    struct rlimit old, full;
    const char *dir = fresh("part");
    q3_logger *logger = start(dir);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    full = (struct rlimit){ FULL, old.rlim_max };
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &full), 0);
    for (int i = 1; i <= 60; i++)
        write_line(logger, i);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    size_t size;
    q3_free(q3_run_read("", the_file(dir), &size));
    assert_int_equal(size, FULL);
    write_line(logger, 61);
    q3_logger_close(logger, Q3_OK);
    read_file(&l, dir);
    assert_int_equal(expect_metrics(&l, dir), 122);
    log_free(&l);
}

static void a_failed_allocation_is_a_failure_and_no_more(void **state)
{
    (void)state;
    const char *dir = fresh("memory");
    q3_run_write(dir, "wandb-run.json", "{\"id\": \"abcd\", \"start\": 1000}");
    q3_config config;
    assert_int_equal(q3_config_defaults(&config), Q3_OK);
    const q3_view_run run = { .dir = dir, .config = &config };
    static const char text[] = "{\"step\": 10, \"loss\": 0.5}";
    q3_json doc;
    assert_int_equal(q3_json_parse(&doc, text, strlen(text), "x", 1), Q3_OK);
    const q3_log_call call = { .step = 10, .time = 1.0, .line = doc.root };
    q3_status st = Q3_ERR_MEMORY;
    int at = 0;
    while (st != Q3_OK) {
        void *view = NULL;
        q3_heap_fail_at(++at);
        st = q3_wandb.open(&view, &run);
        q3_status written = view ? q3_wandb.write(view, &call) : st;
        q3_status closed = view ? q3_wandb.close(view, Q3_OK) : st;
        q3_heap_fail_at(0);
        st = st ? st : written ? written : closed;
    }
    assert_true(at > 20);
    log_file l;
    read_file(&l, dir);
    assert_int_equal(cJSON_GetArraySize(l.history), 1);
    log_free(&l);
    q3_json_close(&doc);
    q3_config_free(&config);
}

/* ---- the environment ---- */

static void a_name_that_the_client_refuses_is_refused(void **state)
{
    (void)state;
    static const char *const bad[][2] = { { "WANDB_RUN_ID", "a/b" },
                                          { "WANDB_RUN_ID", " a" },
                                          { "WANDB_PROJECT", "a#b" },
                                          { "WANDB_PROJECT", "50%" },
                                          { "WANDB_MODE", "on line" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        setenv(bad[i][0], bad[i][1], 1);
        assert_int_equal(q3_wandb_check(), Q3_ERR_USAGE);
        assert_non_null(strstr(q3_error(), bad[i][0]));
        unsetenv(bad[i][0]);
    }
    setenv("WANDB_MODE", "online", 1);
    setenv("WANDB_RUN_ID", "a-b_1", 1);
    assert_int_equal(q3_wandb_check(), Q3_OK);
    unsetenv("WANDB_MODE");
    unsetenv("WANDB_RUN_ID");
}

static void disabled_writes_nothing(void **state)
{
    (void)state;
    const char *dir = fresh("disabled");
    setenv("WANDB_MODE", "disabled", 1);
    q3_logger *logger = start(dir);
    write_line(logger, 1);
    q3_logger_close(logger, Q3_OK);
    unsetenv("WANDB_MODE");
    assert_false(q3_file_exists(q3_run_file(dir, "wandb")));
    assert_false(q3_file_exists(q3_run_file(dir, "wandb-run.json")));
}

static void the_environment_names_the_run(void **state)
{
    (void)state;
    log_file l;
    const char *dir = fresh("named"), *root = fresh("elsewhere");
    static const char *const names[][2] = { { "WANDB_PROJECT", "sarcasm" },
                                            { "WANDB_ENTITY", "team" },
                                            { "WANDB_NAME", "a name" },
                                            { "WANDB_RUN_ID", "mine-1" } };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        setenv(names[i][0], names[i][1], 1);
    setenv("WANDB_DIR", root, 1);
    q3_logger_close(start(dir), Q3_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unsetenv(names[i][0]);
    unsetenv("WANDB_DIR");
    read_file(&l, root);
    assert_string_equal(l.project, "sarcasm");
    assert_string_equal(l.entity, "team");
    assert_string_equal(l.name, "a name");
    assert_string_equal(l.id, "mine-1");
    assert_non_null(strstr(the_file(root), "-mine-1/run-mine-1.wandb"));
    log_free(&l);
}

static void what_names_no_run_is_left_alone(void **state)
{
    (void)state;
    static const char *const bad[] = { "{\"id\": \"../x\", \"start\": 1}", "{\"id\": \"x\"}",
                                       "{\"start\": 1}", "{" };
    const char *dir = fresh("damaged");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t size;
        q3_run_write(dir, "wandb-run.json", bad[i]);
        q3_logger *logger = start(dir);
        write_line(logger, 1);
        q3_logger_close(logger, Q3_OK);
        char *kept = q3_run_read(dir, "wandb-run.json", &size);
        assert_string_equal(kept, bad[i]);
        assert_false(q3_dir_exists(q3_run_file(dir, "wandb")));
        q3_free(kept);
    }
}

/* ---- whole trainings ---- */

static q3_process small(const char *dir)
{
    static const char *const overrides[] = { "quantization.load_in_4bit=false",
                                             "data.train=tests/golden/training/data/noise.jsonl",
                                             "data.max_eval_samples=2",
                                             "data.max_pixels=2048",
                                             "train.max_steps=4",
                                             "train.per_device_train_batch_size=1",
                                             "train.logging_steps=1",
                                             "train.eval_strategy=steps",
                                             "train.eval_steps=2",
                                             "train.save_strategy=steps",
                                             "train.save_steps=2",
                                             "train.save_total_limit=0",
                                             "eval.pre=false",
                                             "eval.max_new_tokens=3",
                                             "eval.max_samples=2",
                                             "--output-dir",
                                             NULL };
    q3_process p = q3_run_start(Q3_PROGRAM, overrides);
    q3_process_add(&p, dir);
    return p;
}

static void expect_config(const log_file *l, const char *dir)
{
    size_t size;
    char *text = q3_run_read(dir, "config.json", &size);
    cJSON *config = cJSON_Parse(text);
    assert_true(cJSON_Compare(config, l->config, true));
    cJSON_Delete(config);
    q3_free(text);
}

/* Resumed from the first checkpoint, as if the process had been killed behind it and the client had sent the file. */
static void a_training_is_told_as_metrics_jsonl_tells_it_and_resumed_with_its_id(void **state)
{
    (void)state;
    log_file first, second;
    char mark[4200];
    const char *dir = q3_run_path("whole");
    q3_process p = small(dir);
    q3_process_add(&p, "train.report_to=wandb");
    q3_run_expect(&p, 0);
    snprintf(mark, sizeof mark, "`wandb sync %s", dir);
    assert_non_null(strstr(p.err, mark));
    q3_process_free(&p);
    read_file(&first, dir);
    assert_true(expect_metrics(&first, dir) > 30);
    expect_config(&first, dir);
    assert_string_equal(first.name, "whole");
    assert_string_equal(first.project, "");
    assert_int_equal(strlen(first.id), 8);
    assert_int_equal(first.exit, 0);

    snprintf(mark, sizeof mark, "%s.synced", the_file(dir));
    assert_int_equal(q3_file_write(mark, "", 0), Q3_OK);
    assert_int_equal(unlink(q3_run_file(dir, "training_meta.json")), 0);
    assert_int_equal(q3_dir_remove(q3_run_file(dir, "checkpoint-4")), Q3_OK);
    p = small(dir);
    q3_process_add(&p, "train.report_to=wandb");
    q3_process_add(&p, "--resume");
    q3_run_expect(&p, 0);
    q3_process_free(&p);
    assert_false(q3_file_exists(mark));
    read_file(&second, dir);
    expect_metrics(&second, dir);
    assert_string_equal(second.id, first.id);
    assert_int_equal(second.start, first.start);
    assert_int_equal(cJSON_GetArraySize(second.history), cJSON_GetArraySize(first.history));
    log_free(&first);
    log_free(&second);
}

static int times(const char *text, const char *word)
{
    int n = 0;
    for (; (text = strstr(text, word)) != NULL; text++)
        n++;
    return n;
}

static void a_place_that_takes_nothing_is_told_once_and_training_goes_on(void **state)
{
    (void)state;
    const char *dir = q3_run_path("nowhere");
    setenv("WANDB_DIR", "README.md", 1);
    q3_process p = small(dir);
    q3_process_add(&p, "train.report_to=wandb");
    q3_run_expect(&p, 0);
    unsetenv("WANDB_DIR");
    assert_int_equal(times(p.err, "wandb: README.md"), 1);
    assert_true(q3_file_exists(q3_run_file(dir, "training_meta.json")));
    q3_process_free(&p);
}

static void who_has_a_key_is_told_how_to_use_it(void **state)
{
    (void)state;
    static const char line[] = "train.report_to=wandb writes a run";
    setenv("WANDB_API_KEY", "x", 1);
    q3_process p = small(q3_run_path("key"));
    q3_process_add(&p, "eval.post=false");
    q3_process_add(&p, "train.max_steps=3");
    q3_run_expect(&p, 0);
    assert_int_equal(times(p.err, line), 1);
    q3_process_free(&p);
    setenv("WANDB_MODE", "disabled", 1);
    p = small(q3_run_path("no-key"));
    q3_process_add(&p, "eval.post=false");
    q3_process_add(&p, "train.max_steps=3");
    q3_run_expect(&p, 0);
    assert_int_equal(times(p.err, line), 0);
    q3_process_free(&p);
    unsetenv("WANDB_API_KEY");
    unsetenv("WANDB_MODE");
}

int main(void)
{
    static const char *const variables[] = { "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_NAME",
                                             "WANDB_RUN_ID",  "WANDB_DIR",     "WANDB_MODE" };
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]);
    q3_log_set_level(Q3_LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_have_the_bytes_of_the_clients_own),
        cmocka_unit_test(blocks_have_the_bytes_of_the_clients_own),
        cmocka_unit_test(a_long_run_crosses_blocks_and_loses_nothing),
        cmocka_unit_test(a_run_that_is_killed_leaves_what_it_has_logged),
        cmocka_unit_test(what_could_not_be_written_is_written_later),
        cmocka_unit_test(what_was_written_in_part_is_written_to_its_end),
        cmocka_unit_test(a_failed_allocation_is_a_failure_and_no_more),
        cmocka_unit_test(a_name_that_the_client_refuses_is_refused),
        cmocka_unit_test(disabled_writes_nothing),
        cmocka_unit_test(the_environment_names_the_run),
        cmocka_unit_test(what_names_no_run_is_left_alone),
        cmocka_unit_test(a_training_is_told_as_metrics_jsonl_tells_it_and_resumed_with_its_id),
        cmocka_unit_test(a_place_that_takes_nothing_is_told_once_and_training_goes_on),
        cmocka_unit_test(who_has_a_key_is_told_how_to_use_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
