/* MMSD2.0 as it is published, made up here in little: arrays of image_id, text and label in data/text_json_final, pictures
 * in data/dataset_image; configs/mmsd2-qwen3-vl-2b.json trains it as it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/file.h"
#include "data/dataset.h"
#include "tests/support/run.h"
#include "train/trainer.h"

#define CONFIG "configs/mmsd2-qwen3-vl-2b.json"
#define PICTURE "tests/golden/formats/images/rgb-120x88.jpg"

static const char *root;

static void must(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static void add_picture(const char *id)
{
    char name[64];
    snprintf(name, sizeof name, "data/dataset_image/%s.jpg", id);
    must(q3_file_copy(q3_run_file(root, name), PICTURE));
}

static int set_up(void **state)
{
    (void)state;
    static const char *const ids[] = { "682716753374351360", "682716753374351361", "840006160660983809" };
    root = q3_run_path("MMSD2.0");
    must(q3_dir_create(q3_run_file(root, "data/text_json_final")));
    must(q3_dir_create(q3_run_file(root, "data/dataset_image")));
    for (int i = 0; i < 3; i++)
        add_picture(ids[i]);
    q3_run_write(
        root, "data/text_json_final/train.json",
        "[{\"image_id\":682716753374351360,\"text\":\"so happy to stand in line <num> hours \\u2026\","
        "\"label\":1},{\"image_id\":682716753374351361,\"text\":\"a bridge at night\",\"label\":0}]");
    q3_run_write(
        root, "data/text_json_final/valid.json",
        "[{\"image_id\":840006160660983809,\"text\":\"thanks <user> , great service\",\"label\":1}]");
    q3_run_write(root, "data/text_json_final/bad.json",
                 "[{\"image_id\":682716753374351360,\"text\":\"a\",\"label\":1},\n"
                 "{\"image_id\":682716753374351362,\"text\":\"b\",\"label\":0}]");
    return 0;
}

/* "data.train=ROOT/data/text_json_final/NAME"; rotating buffers. */
static const char *setting(const char *key, const char *name)
{
    static char buffers[4][4096];
    static int next;
    char *out = buffers[next++ % 4];
    snprintf(out, sizeof *buffers, "%s=%s/data/text_json_final/%s", key, root, name);
    return out;
}

static void assert_sample(const q3_dataset *ds, int64_t i, const char *picture, const char *text,
                          const char *label)
{
    char target[64];
    q3_sample s;
    q3_image img;
    must(q3_dataset_get(&s, ds, i));
    assert_non_null(strstr(s.pictures[0].path, picture));
    must(q3_sample_image(&img, &s, NULL));
    assert_int_equal(img.width, 120);
    q3_image_free(&img);
    assert_non_null(strstr(s.query, "sarcastic, picture and text"));
    assert_string_equal(s.caption, text);
    assert_string_equal(s.label, label);
    snprintf(target, sizeof target, "{\"label\": \"%s\"}", label);
    assert_string_equal(s.target, target);
    q3_sample_free(&s);
}

static void its_files_are_samples_with_the_config_that_comes_along(void **state)
{
    (void)state;
    const char *const overrides[] = { "model.path=assets/tiny-base", setting("data.train", "train.json"),
                                      setting("data.eval", "valid.json") };
    q3_config config;
    q3_trainer t;
    must(q3_config_load(&config, CONFIG, overrides, 3));
    must(q3_config_check(&config));
    must(q3_trainer_open_data(&t, &config));
    assert_int_equal(t.n_train, 2);
    assert_int_equal(t.n_eval, 1);
    assert_sample(t.train_data, 0, "/data/text_json_final/../dataset_image/682716753374351360.jpg",
                  "so happy to stand in line <num> hours \xE2\x80\xA6", "sarcastic");
    assert_sample(t.train_data, 1, "682716753374351361.jpg", "a bridge at night", "not_sarcastic");
    assert_sample(t.eval_data, 0, "840006160660983809.jpg", "thanks <user> , great service", "sarcastic");
    q3_trainer_close(&t);
    q3_config_free(&config);
}

static q3_process start(const char *command, const char *train)
{
    q3_process p = { 0 };
    const char *const words[] = { Q3_PROGRAM,
                                  command,
                                  "--config",
                                  CONFIG,
                                  "--threads",
                                  "1",
                                  "model.path=assets/tiny-base",
                                  setting("data.train", train),
                                  setting("data.eval", "valid.json") };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        q3_process_add(&p, words[i]);
    return p;
}

static void it_trains_to_the_adapter_and_its_judgement(void **state)
{
    (void)state;
    const char *dir = q3_run_path("run");
    q3_process p = start("train", "train.json");
    const char *const more[] = { "train.num_train_epochs=1", "eval.max_new_tokens=2", "eval.pre=false",
                                 "--output-dir", dir };
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        q3_process_add(&p, more[i]);
    q3_run_expect(&p, 0);
    q3_process_free(&p);
    assert_true(q3_file_exists(q3_run_file(dir, "adapter_model.safetensors")));
    size_t size;
    char *answers = q3_run_read(dir, "eval/post_predictions.jsonl", &size);
    assert_non_null(strstr(answers, "\"gold\": \"sarcastic\""));
    q3_free(answers);
}

static void a_missing_picture_is_named_by_lint(void **state)
{
    (void)state;
    q3_process p = start("lint", "bad.json");
    q3_run_expect(&p, 3);
    assert_non_null(strstr(p.out, "/bad.json:2: "));
    assert_non_null(strstr(p.out, "dataset_image/682716753374351362.jpg: No such file"));
    q3_process_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(its_files_are_samples_with_the_config_that_comes_along),
        cmocka_unit_test(it_trains_to_the_adapter_and_its_judgement),
        cmocka_unit_test(a_missing_picture_is_named_by_lint),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
