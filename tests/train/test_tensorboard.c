/* Event files: the bytes of single records, and the file of a whole training, read back by hand and compared with
 * metrics.jsonl. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <dirent.h>

#include "core/file.h"
#include "core/log.h"
#include "tests/support/protobuf.h"
#include "tests/support/run.h"
#include "train/tensorboard.h"

/* ---- a reader of its own ---- */

enum { MOST = 1024, TAG_BYTES = 64 };

typedef struct scalar {
    char tag[TAG_BYTES];
    int64_t step;
    double time;
    float value;
} scalar;

typedef struct log_file {
    scalar scalars[MOST];
    int n, records, sessions, texts;
    char *text;        /* of the last text, heap */
    int64_t text_step; /* and its step */
    bool version;
} log_file;

static void read_text(log_file *out, q3_span value, int64_t step)
{
    q3_span text = q3_read_inner(q3_read_inner(value, 8), 8),
            plugin = q3_read_inner(q3_read_inner(q3_read_inner(value, 9), 1), 1);
    assert_int_equal(plugin.end - plugin.at, 4);
    assert_memory_equal(plugin.at, "text", 4);
    free(out->text);
    out->text = strndup((const char *)text.at, (size_t)(text.end - text.at));
    out->text_step = step;
    out->texts++;
}

static void read_value(log_file *out, q3_span value, double time, int64_t step)
{
    q3_span tag = q3_read_inner(value, 1), all = value, bytes;
    uint64_t number = 0;
    bool simple = false;
    while (value.at < value.end && !simple)
        simple = q3_read_field(&value, &number, &bytes) == 2;
    if (!simple) {
        read_text(out, all, step);
        return;
    }
    assert_true(out->n < MOST && tag.end - tag.at < TAG_BYTES);
    scalar *s = &out->scalars[out->n++];
    uint32_t bits = (uint32_t)number;
    *s = (scalar){ .step = step, .time = time };
    memcpy(s->tag, tag.at, (size_t)(tag.end - tag.at));
    memcpy(&s->value, &bits, sizeof s->value);
}

/* A session drops what is there from its step on, as TensorBoard does. */
static void purge(log_file *out, int64_t step)
{
    int kept = 0;
    for (int i = 0; i < out->n; i++)
        if (out->scalars[i].step < step)
            out->scalars[kept++] = out->scalars[i];
    out->n = kept;
    out->sessions++;
}

static void read_event(log_file *out, q3_span event)
{
    uint64_t number = 0, wall = 0;
    int64_t step = 0;
    double time = 0;
    q3_span bytes = { NULL, NULL };
    while (event.at < event.end) {
        switch (q3_read_field(&event, &number, &bytes)) {
        case 1:
            wall = number;
            memcpy(&time, &wall, sizeof time);
            break;
        case 2:
            step = (int64_t)number;
            break;
        case 3:
            assert_int_equal(out->records, 0);
            assert_memory_equal(bytes.at, "brain.Event:2", 13);
            out->version = true;
            break;
        case 5:
            while (bytes.at < bytes.end) {
                q3_span value;
                assert_int_equal(q3_read_field(&bytes, &number, &value), 1);
                read_value(out, value, time, step);
            }
            break;
        case 7:
            purge(out, step);
            break;
        default:
            fail_msg("an event has a field of no meaning");
        }
    }
}

static uint32_t masked(const unsigned char *p, size_t n)
{
    uint32_t c = q3_crc32c(p, n);
    return (c >> 15 | c << 17) + 0xA282EAD8u;
}

static void read_events(log_file *out, const char *data, size_t size)
{
    const unsigned char *p = (const unsigned char *)data, *end = p + size;
    out->records = 0;
    while (p < end) {
        assert_true(end - p >= 16);
        uint64_t n = q3_read_fixed(p, 8);
        assert_int_equal(q3_read_fixed(p + 8, 4), masked(p, 8));
        assert_true(n <= (uint64_t)(end - p) - 16);
        assert_int_equal(q3_read_fixed(p + 12 + n, 4), masked(p + 12, n));
        read_event(out, (q3_span){ p + 12, p + 12 + n });
        out->records++;
        p += 16 + n;
    }
    assert_true(out->version);
}

/* The event files of a run in the order of their names, which begin with the time. Returns their number. */
static int read_run(log_file *out, const char *dir)
{
    struct dirent **names;
    int files = 0, n = scandir(dir, &names, NULL, alphasort);
    *out = (log_file){ 0 };
    for (int i = 0; i < n; i++) {
        if (strncmp(names[i]->d_name, Q3_TENSORBOARD_PREFIX, sizeof Q3_TENSORBOARD_PREFIX - 1) == 0) {
            size_t size;
            char *data = q3_run_read(dir, names[i]->d_name, &size);
            read_events(out, data, size);
            q3_free(data);
            files++;
        }
        free(names[i]);
    }
    free(names);
    return files;
}

/* ---- single records ---- */

static void expect_hex(q3_text *record, const char *hex)
{
    q3_text got = { 0 };
    for (size_t i = 0; i < record->size; i++)
        q3_text_printf(&got, "%02x", (unsigned)(unsigned char)record->data[i]);
    assert_string_equal(got.data, hex);
    q3_text_free(&got);
    q3_text_free(record);
}

static void the_check_value_of_crc32c_is_met(void **state)
{
    (void)state;
    assert_int_equal(q3_crc32c("123456789", 9), 0xE3069283);
    assert_int_equal(masked((const unsigned char *)"123456789", 9), 0xC78AB0E5);
    assert_int_equal(q3_crc32c("", 0), 0);
}

static void records_have_the_bytes_of_tensorboards_own(void **state)
{
    (void)state;
    static const char text[] = "{\"step\": 10, \"loss\": 0.5}";
    q3_text version = { 0 }, scalars = { 0 };
    q3_json doc;
    q3_event_version(&version, 1.0);
    expect_hex(&version, "1800000000000000a37f4b2209000000000000f03f1a0d627261696e2e4576656e743a3286bf577a");
    assert_int_equal(q3_json_parse(&doc, text, strlen(text), "x", 1), Q3_OK);
    const q3_log_call call = { .step = 10, .time = 2.0, .line = doc.root };
    q3_event_scalars(&scalars, &call);
    expect_hex(
        &scalars,
        "200000000000000029eda950090000000000000040100a2a130a110a0a747261696e2f6c6f7373150000003f4da05bd9");
    q3_json_close(&doc);
}

static void a_line_without_numbers_makes_no_record(void **state)
{
    (void)state;
    static const char text[] = "{\"step\": 10, \"loss\": null, \"name\": \"x\"}";
    q3_text out = { 0 };
    q3_json doc;
    assert_int_equal(q3_json_parse(&doc, text, strlen(text), "x", 1), Q3_OK);
    const q3_log_call call = { .step = 10, .time = 2.0, .line = doc.root };
    q3_event_scalars(&out, &call);
    assert_true(out.size == 0 && !out.failed);
    q3_json_close(&doc);
}

static void names_are_grouped_as_transformers_groups_them(void **state)
{
    (void)state;
    static const char *const names[][2] = { { "loss", "train/loss" },
                                            { "eval_loss", "eval/loss" },
                                            { "eval_samples_per_second", "eval/samples_per_second" },
                                            { "train_runtime", "train/train_runtime" },
                                            { "gen_eval/pre_accuracy", "gen_eval/pre_accuracy" } };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        q3_text tag = { 0 };
        q3_logger_tag(&tag, names[i][0]);
        assert_string_equal(tag.data, names[i][1]);
        q3_text_free(&tag);
    }
}

/* ---- a view ---- */

static void a_failed_allocation_is_a_failed_text(void **state)
{
    (void)state;
    for (int at = 1;; at++) {
        q3_text out = { 0 };
        q3_heap_fail_at(at);
        q3_event_session(&out, 1, 2);
        q3_event_text(&out, 1, 2, "a/text_summary", "text");
        bool failed = out.failed;
        q3_heap_fail_at(0);
        if (!failed) {
            log_file l = { 0 };
            q3_text file = { 0 };
            q3_event_version(&file, 1);
            q3_text_append(&file, out.data, out.size);
            read_events(&l, file.data, file.size);
            assert_string_equal(l.text, "text");
            assert_int_equal(l.records, 3);
            free(l.text);
            q3_text_free(&file);
            q3_text_free(&out);
            assert_true(at > 5);
            return;
        }
        q3_text_free(&out);
    }
}

/* The logger's line, and what comes back. */
static q3_status write_line(q3_logger *logger, const char *text)
{
    q3_text line = { 0 };
    q3_text_printf(&line, "%s\n", text);
    return q3_logger_write(logger, &line, false);
}

static void what_could_not_be_written_is_written_later(void **state)
{
    (void)state;
    static log_file l;
    q3_config config;
    q3_logger *logger;
    const char *dir = q3_run_path("later");
    assert_int_equal(q3_config_defaults(&config), Q3_OK);
    const q3_view_run run = { .dir = dir, .config = &config };
    q3_log_set_level(Q3_LOG_WARN);
    assert_int_equal(q3_logger_open(&logger, &run), Q3_OK); // there is no such directory
    assert_int_equal(write_line(logger, "{\"step\": 1, \"loss\": 1.5}"), Q3_ERR_IO);
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    assert_int_equal(write_line(logger, "{\"step\": 2, \"loss\": 2.5}"), Q3_OK);
    q3_logger_close(logger, Q3_OK);
    assert_int_equal(read_run(&l, dir), 1);
    assert_int_equal(l.records, 4); // version, session, config, the line
    assert_int_equal(l.n, 1);
    assert_true(l.scalars[0].value == 2.5F && l.scalars[0].step == 2);
    free(l.text);
    q3_config_free(&config);
}

static void nobody_is_shown_anything_where_nobody_is_named(void **state)
{
    (void)state;
    static log_file l;
    static const char *const lists[] = { "train.report_to=none", "train.report_to=[]" };
    const char *dir = q3_run_path("none");
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    for (int i = 0; i < 2; i++) {
        q3_config config;
        q3_logger *logger;
        assert_int_equal(q3_config_load(&config, NULL, lists + i, 1), Q3_OK);
        assert_int_equal(q3_config_check(&config), Q3_OK);
        const q3_view_run run = { .dir = dir, .config = &config };
        assert_int_equal(q3_logger_open(&logger, &run), Q3_OK);
        assert_int_equal(write_line(logger, "{\"step\": 2, \"loss\": 2.5}"), Q3_OK);
        q3_logger_close(logger, Q3_OK);
        q3_config_free(&config);
    }
    assert_int_equal(read_run(&l, dir), 0);
}

/* ---- whole trainings ---- */

static const scalar *find(const log_file *l, int *from, const char *tag, int64_t step)
{
    for (; *from < l->n; ++*from)
        if (strcmp(l->scalars[*from].tag, tag) == 0 && l->scalars[*from].step == step)
            return &l->scalars[(*from)++];
    return NULL;
}

/* Every number of metrics.jsonl, in its order, and nothing else. Returns how many. */
static int expect_metrics(const log_file *l, const char *dir)
{
    size_t size;
    char *text = q3_run_read(dir, "metrics.jsonl", &size);
    int count = 0, from = 0;
    for (char *line = text; *line; line += strcspn(line, "\n") + 1) {
        q3_json doc;
        int64_t step;
        assert_int_equal(q3_json_parse(&doc, line, strcspn(line, "\n"), "metrics.jsonl", 1), Q3_OK);
        assert_int_equal(q3_json_int(&step, &doc, doc.root, "step", -1), Q3_OK);
        for (const cJSON *v = doc.root->child; v; v = v->next) {
            if (!cJSON_IsNumber(v) || strcmp(v->string, "step") == 0)
                continue;
            q3_text tag = { 0 };
            q3_logger_tag(&tag, v->string);
            const scalar *s = find(l, &from, tag.data, step);
            if (!s || s->value != (float)v->valuedouble || s->time < 1e9)
                fail_msg("%s of step %lld is not there", tag.data, (long long)step);
            q3_text_free(&tag);
            count++;
        }
        q3_json_close(&doc);
    }
    q3_free(text);
    assert_int_equal(l->n, count);
    return count;
}

static void expect_config(const log_file *l, const char *dir)
{
    size_t size;
    char *config = q3_run_read(dir, "config.json", &size);
    q3_text want = { 0 };
    q3_text_printf(&want, "```json\n%s```\n", config);
    assert_string_equal(l->text, want.data);
    q3_text_free(&want);
    q3_free(config);
}

static q3_process small(const char *dir)
{
    static const char *const overrides[] = { "quantization.load_in_4bit=false",
                                             "data.train=tests/golden/training/data/noise.jsonl",
                                             "data.max_eval_samples=2",
                                             "data.max_pixels=2048",
                                             "train.max_steps=6",
                                             "train.per_device_train_batch_size=1",
                                             "train.logging_steps=1",
                                             "train.eval_strategy=steps",
                                             "train.eval_steps=2",
                                             "train.save_strategy=steps",
                                             "train.save_steps=2",
                                             "train.save_total_limit=0",
                                             "eval.max_new_tokens=3",
                                             "eval.max_samples=2",
                                             "--output-dir",
                                             NULL };
    q3_process p = q3_run_start(Q3_PROGRAM, overrides);
    q3_process_add(&p, dir);
    return p;
}

static void train(const char *dir, const char *more, const char *further)
{
    q3_process p = small(dir);
    if (more)
        q3_process_add(&p, more);
    if (further)
        q3_process_add(&p, further);
    q3_run_expect(&p, 0);
    q3_process_free(&p);
}

static const char *whole; /* the directory of the next test's training, and of the one behind it */

static void a_training_is_told_as_metrics_jsonl_tells_it(void **state)
{
    (void)state;
    static log_file l;
    const char *dir = whole = q3_run_path("whole");
    train(dir, NULL, NULL);
    assert_int_equal(read_run(&l, dir), 1);
    assert_int_equal(l.sessions, 1);
    assert_int_equal(l.texts, 1);
    assert_int_equal(l.text_step, 0);
    expect_config(&l, dir);
    assert_true(expect_metrics(&l, dir) > 50);
    free(l.text);
}

/* Names begin with the second, and tests do not wait for the next one. */
static void date_back(const char *dir, const char *name)
{
    struct dirent **names;
    int n = scandir(dir, &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        if (strncmp(names[i]->d_name, Q3_TENSORBOARD_PREFIX "1", sizeof Q3_TENSORBOARD_PREFIX) == 0)
            assert_int_equal(rename(q3_run_file(dir, names[i]->d_name), q3_run_file(dir, name)), 0);
        free(names[i]);
    }
    free(names);
}

/* Three more files: of a run that was killed at its very end, of one that has forgotten what came behind its fourth step,
 * and of one in another directory. */
static void a_resumed_training_is_told_once(void **state)
{
    (void)state;
    static log_file l;
    const char *dir = whole, *moved = q3_run_path("moved");
    date_back(dir, Q3_TENSORBOARD_PREFIX "0000000001");
    assert_int_equal(unlink(q3_run_file(dir, "training_meta.json")), 0);
    train(dir, "--resume", NULL);
    assert_int_equal(read_run(&l, dir), 2);
    assert_int_equal(l.text_step, 6);
    expect_metrics(&l, dir);
    free(l.text);
    date_back(dir, Q3_TENSORBOARD_PREFIX "0000000002");
    assert_int_equal(unlink(q3_run_file(dir, "training_meta.json")), 0);
    assert_int_equal(q3_dir_remove(q3_run_file(dir, "checkpoint-6")), Q3_OK);
    train(dir, "--resume", NULL);
    assert_int_equal(read_run(&l, dir), 3);
    assert_int_equal(l.text_step, 4);
    expect_metrics(&l, dir);
    free(l.text);
    date_back(dir, Q3_TENSORBOARD_PREFIX "0000000003");
    train(moved, "--resume", q3_run_file(dir, "checkpoint-2"));
    assert_int_equal(read_run(&l, moved), 4);
    assert_int_equal(l.text_step, 2);
    expect_metrics(&l, moved);
    free(l.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_check_value_of_crc32c_is_met),
        cmocka_unit_test(records_have_the_bytes_of_tensorboards_own),
        cmocka_unit_test(a_line_without_numbers_makes_no_record),
        cmocka_unit_test(names_are_grouped_as_transformers_groups_them),
        cmocka_unit_test(a_failed_allocation_is_a_failed_text),
        cmocka_unit_test(what_could_not_be_written_is_written_later),
        cmocka_unit_test(nobody_is_shown_anything_where_nobody_is_named),
        cmocka_unit_test(a_training_is_told_as_metrics_jsonl_tells_it),
        cmocka_unit_test(a_resumed_training_is_told_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
