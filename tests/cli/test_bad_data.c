/* What is wrong with data, settings or the machine ends a training with one sentence, its exit code, and nothing
 * half-written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "data/image.h"
#include "tests/support/run.h"

#define COLLATE "Qwen3-VL SFT failed: Qwen3 collate failed: "
#define SFT "Qwen3-VL SFT failed: "

enum { BAD_LINE = 17, LINES = 20 };

typedef struct refusal {
    const char *line;             /* the 17th sample; NULL: a good one */
    const char *more[8];          /* further arguments */
    int code;                     /* exit code */
    const char *prefix, *rest[3]; /* "qwen3-sft: <prefix><data set><rest[0]>", and what else must occur */
    bool running;                 /* found while training: the directory and whole checkpoints are there */
    long file_limit;
} refusal;

static const char *home, *train, *output;

static int set_up(void **state)
{
    (void)state;
    char command[2048];
    home = q3_run_path("bad");
    assert_int_equal(q3_dir_create(home), Q3_OK);
    snprintf(command, sizeof command, "cp -r tests/golden/training/data/images '%s'", home);
    assert_int_equal(system(command), 0);
    train = q3_path_join(home, "train.jsonl");
    output = q3_path_join(home, "run");
    assert_true(train && output);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    q3_free((void *)(uintptr_t)train);
    q3_free((void *)(uintptr_t)output);
    return 0;
}

/* Twenty samples of which one may be bad. */
static void write_samples(const char *bad)
{
    q3_text text = { 0 };
    for (int i = 1; i <= LINES; i++) {
        if (i == BAD_LINE && bad)
            q3_text_printf(&text, "%s\n", bad);
        else
            q3_text_printf(
                &text, "{\"image\": \"images/001.png\", \"query\": \"line %d\", \"target_json\": \"yes\"}\n",
                i);
    }
    assert_false(text.failed);
    q3_run_write(home, "train.jsonl", text.data);
    q3_text_free(&text);
}

/* Nothing that ends in .tmp is left, and an output that was refused before the first step is not there at all. */
static void nothing_half_written(const refusal *r)
{
    char command[2048];
    assert_int_equal(q3_dir_exists(output), r->running);
    assert_false(q3_file_exists(q3_run_file(output, "training_meta.json")));
    assert_false(q3_file_exists(q3_run_file(output, "adapter_model.safetensors")));
    snprintf(command, sizeof command, "test -z \"$(find '%s' -name '*.tmp*')\"", home);
    assert_int_equal(system(command), 0);
}

static void expect(const refusal *r)
{
    static const char *const settings[] = { "-q",
                                            "eval.pre=false",
                                            "eval.post=false",
                                            "train.max_steps=5",
                                            "train.warmup_steps=0",
                                            "data.max_pixels=2048",
                                            "train.save_strategy=steps",
                                            "train.save_steps=2",
                                            NULL };
    char data[4200], want[8192];
    assert_int_equal(q3_dir_remove(output), Q3_OK);
    snprintf(data, sizeof data, "data.train=%s", train);
    q3_process p = q3_run_start(Q3_PROGRAM, settings);
    q3_process_add(&p, data);
    q3_process_add(&p, "--output-dir");
    q3_process_add(&p, output);
    for (int i = 0; i < 8 && r->more[i]; i++)
        q3_process_add(&p, r->more[i]);
    p.file_limit = r->file_limit;
    q3_run_expect(&p, r->code);
    snprintf(want, sizeof want, "qwen3-sft: %s%s%s", r->prefix,
             r->rest[0] && r->rest[0][0] == ':' ? train : "", r->rest[0] ? r->rest[0] : "");
    const char *line = strstr(p.err, "qwen3-sft: ");
    if (!line || strncmp(line, want, strlen(want)) != 0)
        fail_msg("want: %s\ngot:  %s", want, p.err);
    assert_non_null(strchr(line, '\n'));
    assert_string_equal(strchr(line, '\n'), "\n"); // one sentence, and it is the last line
    for (int i = 1; i < 3 && r->rest[i]; i++)
        if (!strstr(line, r->rest[i]))
            fail_msg("no \"%s\" in: %s", r->rest[i], line);
    assert_string_equal(p.out, "");
    q3_process_free(&p);
    nothing_half_written(r);
}

static void expect_all(const refusal *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        write_samples(list[i].line);
        expect(&list[i]);
    }
}

#define EXPECT_ALL(list) expect_all(list, sizeof(list) / sizeof *(list))

static void a_bad_sample_is_named_before_training(void **state)
{
    (void)state;
    static const refusal list[] = {
        { .line = "{\"query\": \"x\", \"target_json\": \"y\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17: missing field \"image\"" } },
        { .line = "{\"image\": \"images/001.png\", \"query\": \"x\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17: missing field \"target_json\"" } },
        { .line = "{\"image\": \"images/001.png\", \"query\": \"x\", \"target_json\": \"\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17:43: \"target_json\" is empty" } },
        { .line = "{\"image\": \"images/001.png\", \"query\": \"\xff\xfe\", \"target_json\": \"y\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17:39: not valid UTF-8" } },
        { .line = "{\"image\": \"images/001.png\", \"query\": \"\xed\xa0\x80\", \"target_json\": \"y\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17:39: not valid UTF-8" } },
        { .line = "{\"image\": \"images/001.png\", \"query\": \"a <|image_pad|> b\", \"target_json\": \"y\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17: the query contains the control token <|image_pad|>" } },
        { .line = "{\"image\": \"images/001.png\", \"query\": \"x\", \"target_json\": \"y<|im_end|>\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17: the target contains the control token <|im_end|>" } },
        { .line = "{\"image\": \"images/none.png\", \"query\": \"x\", \"target_json\": \"y\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17: ", "images/none.png: No such file or directory" } },
        { .line = "{\"image\": \"train.jsonl\", \"query\": \"x\", \"target_json\": \"y\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17: ", "train.jsonl: " } },
        { .line = "{\"image\": 17, \"query\": \"x\", \"target_json\": \"y\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17:2: \"image\" must be a path" } },
        { .line = "{\"image\": \"images/001.png\", \"query\" \"x\", \"target_json\": \"y\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17:37: " } },
        { .line = "[1, 2]", .code = 3, .prefix = COLLATE, .rest = { ":17" } },
    };
    EXPECT_ALL(list);
}

/* The first `n` bytes of a picture as images/<name>. */
static void cut_picture(const char *from, const char *name, size_t n)
{
    size_t size;
    char *bytes = q3_run_read(home, from, &size);
    assert_true(n < size);
    assert_int_equal(q3_file_write(q3_run_file(home, name), bytes, n), Q3_OK);
    q3_free(bytes);
}

static void a_picture_cut_short_is_named_when_it_is_read(void **state)
{
    (void)state;
    cut_picture("images/000.jpg", "images/cut.jpg", 700);
    cut_picture("images/001.png", "images/cut.png", 3000);
    cut_picture("images/001.png", "images/stub.png", 10);
    static const refusal list[] = {
        { .line = "{\"image\": \"images/cut.jpg\", \"query\": \"x\", \"target_json\": \"y\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17: ", "images/cut.jpg: the JPEG cannot be decoded" },
          .running = true },
        { .line = "{\"image\": \"images/cut.png\", \"query\": \"x\", \"target_json\": \"y\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17: ", "images/cut.png: the PNG cannot be decoded" },
          .running = true },
        { .line = "{\"images\": [\"images/000.jpg\"], \"messages\": [{\"role\": \"user\", \"content\": \"x\"}, "
                  "{\"role\": \"function\", \"content\": \"y\"}]}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17: \"messages\": message 2: the role is \"function\"" } },
        { .line = "{\"image\": \"images/stub.png\", \"query\": \"x\", \"target_json\": \"y\"}",
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":17: ", "images/stub.png: " } },
    };
    EXPECT_ALL(list);
}

static void an_unusable_data_set_is_refused(void **state)
{
    (void)state;
    static const refusal empty = { .code = 3, .prefix = SFT, .rest = { ": the file holds no samples" } };
    static const refusal absent = { .code = 3, .prefix = SFT, .rest = { ": is not there; data.train is relative to the working directory" } };
    q3_run_write(home, "train.jsonl", "");
    expect(&empty);
    assert_int_equal(remove(train), 0);
    expect(&absent);
    static const refusal list[] = {
        { .more = { "collator.max_length=10" },
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":1: the sample has", "collator.max_length is 10", "raise max_length" } },
        { .more = { "collator.max_length=10", "collator.on_overflow=truncate" },
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":1: the sample has", "picture's tokens" } },
        { .more = { "collator.max_length=10", "collator.on_overflow=skip" },
          .code = 3,
          .prefix = SFT,
          .rest = { ": every sample is skipped by collator.on_overflow" } },
        { .more = { "collator.max_length=22", "collator.on_overflow=truncate" },
          .code = 3,
          .prefix = COLLATE,
          .rest = { ":1: the sample has", "no supervised token would be left" } },
        { .more = { "~data.train" }, .code = 2, .prefix = "data.train is not set" },
        { .more = { "data.eval=tests/golden/none.jsonl" },
          .code = 3,
          .prefix = SFT "tests/golden/none.jsonl: " },
    };
    EXPECT_ALL(list);
}

static void settings_that_cannot_be_met_name_their_keys(void **state)
{
    (void)state;
    static const refusal list[] = {
        { .more = { "train.tune=full", "quantization.load_in_4bit=true" },
          .code = 2,
          .prefix = "command line: \"train.tune\" is \"full\" and \"quantization.load_in_4bit\" is true" },
        { .more = { "lora.target_modules=no_such_proj" },
          .code = 2,
          .prefix = "lora.target_modules: \"no_such_proj\" matches no linear layer of the model" },
        { .more = { "lora.target_modules=.*((" },
          .code = 2,
          .prefix = "lora.target_modules: \".*((\" is no regular expression" },
        { .more = { "lora.init_adapter=tests/golden/training/float32-adapter-init", "lora.r=4" },
          .code = 2,
          .prefix = "tests/golden/training/float32-adapter-init has r 8",
          .rest = { NULL, "lora.r" } },
        { .more = { "lora.init_adapter=tests/golden/none" },
          .code = 4,
          .prefix = SFT "tests/golden/none/adapter_config.json: " },
        { .more = { "model.path=tests/golden/none" },
          .code = 4,
          .prefix = SFT "tests/golden/none/config.json: " },
        { .more = { "~model.path" }, .code = 2, .prefix = "model.path is not set" },
        { .more = { "data.system_prompt=@tests/golden/none" },
          .code = 2,
          .prefix = "",
          .rest = { NULL, "tests/golden/none" } },
    };
    EXPECT_ALL(list);
}

static void an_output_that_cannot_be_written_is_told_before_training(void **state)
{
    (void)state;
    static const refusal list[] = {
        { .more = { "--output-dir", "tests/golden/README.md/run" },
          .code = 1,
          .prefix = SFT "tests/golden/README.md/run: cannot be created: Not a directory" },
        { .more = { "--output-dir", "/proc/none/run" },
          .code = 1,
          .prefix = SFT "/proc/none: cannot be created: " },
    };
    EXPECT_ALL(list);
}

/* A limit on the size of files stands for the full disk: a write fails in the same way, for root too. */
static void a_full_disk_leaves_no_half_checkpoint(void **state)
{
    (void)state;
    static const refusal list[] = {
        { .code = 1,
          .file_limit = 64 << 10,
          .running = true,
          .prefix = SFT,
          .rest = { NULL, "checkpoint-2.tmp/adapter_model.safetensors: cannot be written: File too large" } },
        { .code = 1,
          .file_limit = 130 << 10,
          .running = true,
          .prefix = SFT,
          .rest = { NULL, "checkpoint-2.tmp/optimizer.safetensors: cannot be written: File too large" } },
    };
    EXPECT_ALL(list);
    assert_false(q3_dir_exists(q3_run_file(output, "checkpoint-2")));
}

static void a_loss_that_is_no_number_stops_the_run(void **state)
{
    (void)state;
    static const refusal list[] = {
        { .more = { "train.learning_rate=1", "train.weight_decay=1000", "train.max_steps=50",
                    "train.max_grad_norm=0", "train.num_train_epochs=50" },
          .code = 1,
          .running = true,
          .prefix = SFT,
          .rest = { NULL, "in step ", "train.jsonl:" } },
        { .more = { "train.learning_rate=1", "train.weight_decay=1000", "train.max_steps=50",
                    "train.optim=adamw_8bit", "train.num_train_epochs=50" },
          .code = 1,
          .running = true,
          .prefix = SFT,
          .rest = { NULL, "lower train.learning_rate" } },
    };
    EXPECT_ALL(list);
}

/* Pictures of which the header alone is there: nobody decodes them for the plan. */
static void a_step_beyond_all_memory_is_refused_by_the_plan(void **state)
{
    (void)state;
    static const refusal list[] = {
        { .more = { "train.per_device_train_batch_size=60000", "data.max_pixels=999999999",
                    "collator.max_length=1000000" },
          .code = 5,
          .prefix = SFT "a step needs ",
          .rest = { NULL, "with gradient checkpointing full and",
                    "lower train.per_device_train_batch_size or data.max_pixels\n" } },
        { .more = { "train.per_device_train_batch_size=60000", "data.max_pixels=999999999",
                    "collator.max_length=1000000", "train.gradient_checkpointing=none" },
          .code = 5,
          .prefix = SFT "a step needs ",
          .rest = { NULL, "train.jsonl:1;", "or set train.gradient_checkpointing to full" } },
    };
    const q3_image big = { .width = 4000, .height = 4000, .rgb = calloc(4000 * 4000, 3) };
    unsigned char *png;
    size_t size;
    assert_non_null(big.rgb);
    assert_int_equal(q3_image_encode_png(&png, &size, &big), Q3_OK);
    free(big.rgb);
    assert_int_equal(q3_file_write(q3_run_file(home, "images/big.png"), png, size), Q3_OK);
    q3_free(png);
    q3_text text = { 0 };
    for (int i = 0; i < 2000; i++)
        q3_text_printf(&text, "{\"image\": \"images/big.png\", \"query\": \"x\", \"target_json\": \"y\"}\n");
    assert_false(text.failed);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        q3_run_write(home, "train.jsonl", text.data);
        expect(&list[i]);
    }
    q3_text_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bad_sample_is_named_before_training),
        cmocka_unit_test(a_picture_cut_short_is_named_when_it_is_read),
        cmocka_unit_test(an_unusable_data_set_is_refused),
        cmocka_unit_test(settings_that_cannot_be_met_name_their_keys),
        cmocka_unit_test(an_output_that_cannot_be_written_is_told_before_training),
        cmocka_unit_test(a_full_disk_leaves_no_half_checkpoint),
        cmocka_unit_test(a_loss_that_is_no_number_stops_the_run),
        cmocka_unit_test(a_step_beyond_all_memory_is_refused_by_the_plan),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
