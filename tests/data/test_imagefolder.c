#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/file.h"
#include "data/dataset.h"
#include "data/imagefolder.h"

static char root[2000];

/* A path below the folder of this test; rotating buffers. */
static const char *below(const char *name)
{
    static char paths[4][2400];
    static int next;
    char *p = paths[next++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", root, name);
    return p;
}

static void put(const char *folder, const char *file, const char *text)
{
    char name[200];
    snprintf(name, sizeof name, "%s/%s", folder, file);
    assert_int_equal(q3_dir_create(below(folder)), Q3_OK);
    assert_int_equal(q3_file_write(below(name), text, strlen(text)), Q3_OK);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "%s/folders", getenv("Q3_TEST_DIR"));
    return q3_dir_remove(root) != Q3_OK || q3_dir_create(root) != Q3_OK;
}

static void assert_error(const char *part)
{
    if (!strstr(q3_error(), part))
        fail_msg("\"%s\" lacks \"%s\"", q3_error(), part);
}

/* The query of the only sample behind `path`. */
static void assert_query(const char *path, const char *split, const char *query)
{
    q3_dataset *ds;
    const q3_data_keys keys = { .split = split };
    if (q3_dataset_open(&ds, path, &keys) != Q3_OK)
        fail_msg("%s", q3_error());
    q3_sample s;
    assert_int_equal(q3_dataset_size(ds), 1);
    assert_int_equal(q3_dataset_get(&s, ds, 0), Q3_OK);
    assert_string_equal(s.query, query);
    q3_sample_free(&s);
    q3_dataset_close(ds);
}

static void pictures_lie_beside_their_metadata(void **state)
{
    (void)state;
    put("plain", "metadata.jsonl",
        "{\"file_name\": \"pictures/a.png\", \"text\": \"hello\", \"label\": 1}\n{\"file_name\": \"b.png\", "
        "\"text\": \"there\"}\n{\"image\": \"c.png\", \"text\": \"no file_name\"}\n");
    assert_int_equal(q3_dir_create(below("plain/pictures")), Q3_OK);
    assert_int_equal(q3_file_copy(below("plain/pictures/a.png"), "tests/golden/formats/images/tiny-9x5.png"),
                     Q3_OK);
    q3_dataset *ds;
    q3_sample s;
    q3_image img;
    assert_int_equal(q3_dataset_open(&ds, below("plain/"), &(q3_data_keys){ .image_key = "image" }), Q3_OK);
    assert_int_equal(q3_dataset_size(ds), 3);
    assert_int_equal(q3_dataset_get(&s, ds, 0), Q3_OK);
    assert_string_equal(s.query, "hello");
    assert_string_equal(s.label, "1");
    assert_int_equal(q3_sample_image(&img, &s, NULL), Q3_OK);
    assert_int_equal(img.width, 9);
    q3_image_free(&img);
    q3_sample_free(&s);
    assert_int_equal(q3_dataset_get(&s, ds, 1), Q3_OK);
    assert_int_equal(q3_sample_image(&img, &s, NULL), Q3_ERR_DATA);
    assert_error("plain/metadata.jsonl:2: ");
    assert_error("plain/b.png: No such file");
    q3_sample_free(&s);
    assert_int_equal(q3_dataset_get(&s, ds, 2), Q3_ERR_DATA);
    assert_error("plain/metadata.jsonl:3: missing field \"file_name\"");
    q3_dataset_close(ds);
}

static void a_conversation_takes_the_picture_of_its_line(void **state)
{
    (void)state;
    put("talk", "metadata.jsonl",
        "{\"file_name\": \"a.png\", \"messages\": [{\"role\": \"user\", \"content\": [{\"type\": "
        "\"image\"}]}, "
        "{\"role\": \"assistant\", \"content\": \"b\"}]}\n");
    q3_dataset *ds;
    q3_sample s;
    assert_int_equal(q3_dataset_open(&ds, below("talk"), NULL), Q3_OK);
    assert_int_equal(q3_dataset_get(&s, ds, 0), Q3_OK);
    assert_int_equal(s.n_pictures, 1);
    assert_string_equal(s.pictures->path, below("talk/a.png"));
    q3_sample_free(&s);
    q3_dataset_close(ds);
}

static void splits_are_folders_with_several_names(void **state)
{
    (void)state;
    put("splits/train", "metadata.jsonl", "{\"file_name\": \"a\", \"text\": \"in train\"}\n");
    put("splits/valid", "metadata.jsonl", "{\"file_name\": \"a\", \"text\": \"in valid\"}\n");
    put("splits/fold-3", "metadata.jsonl", "{\"file_name\": \"a\", \"text\": \"in fold 3\"}\n");
    assert_query(below("splits"), NULL, "in train");
    assert_query(below("splits"), "train", "in train");
    assert_query(below("splits"), "validation", "in valid");
    assert_query(below("splits"), "dev", "in valid");
    assert_query(below("splits"), "fold-3", "in fold 3");
    assert_query(below("splits/valid"), NULL, "in valid");
    q3_dataset *ds;
    assert_int_equal(q3_dataset_open(&ds, below("splits"), &(q3_data_keys){ .split = "test" }), Q3_ERR_DATA);
    assert_error("splits: holds neither metadata.jsonl nor test/metadata.jsonl");
}

static void folders_without_samples_are_refused(void **state)
{
    (void)state;
    q3_dataset *ds;
    put("empty", "metadata.jsonl", "\n");
    assert_int_equal(q3_dataset_open(&ds, below("empty"), NULL), Q3_ERR_DATA);
    assert_error("empty/metadata.jsonl: the file holds no samples");
    put("table", "metadata.csv", "file_name,text\n");
    assert_int_equal(q3_dataset_open(&ds, below("table"), NULL), Q3_ERR_DATA);
    assert_error("table: metadata.csv is not read");
    assert_null(ds);
}

static void a_failing_allocation_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    put("memory/val", "metadata.jsonl", "{\"file_name\": \"a\", \"text\": \"b\"}\n");
    int64_t n = 0, asked = 1; // beyond the last request nothing fails
    while (asked > n) {
        q3_dataset *ds;
        q3_heap_fail_at(++n);
        q3_status st = q3_dataset_open(&ds, below("memory"), &(q3_data_keys){ .split = "validation" });
        asked = q3_heap_requests() + 1;
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
        q3_dataset_close(ds);
    }
    assert_true(n > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures_lie_beside_their_metadata),
        cmocka_unit_test(a_conversation_takes_the_picture_of_its_line),
        cmocka_unit_test(splits_are_folders_with_several_names),
        cmocka_unit_test(folders_without_samples_are_refused),
        cmocka_unit_test(a_failing_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
