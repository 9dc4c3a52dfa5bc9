#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "core/sha256.h"
#include "data/dataset.h"
#include "data/parquet_meta.h"
#include "tests/support/run.h"

#define FILES "tests/golden/formats/parquet/"
#define TRAINING "tests/golden/training/data/"

static const char *root;
static q3_json expected; // what pyarrow reads, tests/golden/make_parquet_golden.py

static const char *below(const char *name)
{
    return q3_run_file(root, name);
}

static void must(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static int set_up(void **state)
{
    (void)state;
    root = q3_run_path("parquet");
    q3_log_set_level(Q3_LOG_WARN);
    must(q3_dir_remove(root));
    must(q3_json_open(&expected, FILES "expected.json", 1 << 20));
    return q3_dir_create(root) != Q3_OK;
}

static int tear_down(void **state)
{
    (void)state;
    q3_json_close(&expected);
    return 0;
}

static void assert_error(const char *part)
{
    if (!strstr(q3_error(), part))
        fail_msg("\"%s\" lacks \"%s\"", q3_error(), part);
}

static q3_dataset *open_set(const char *path, const q3_data_keys *keys)
{
    q3_dataset *ds;
    if (q3_dataset_open(&ds, path, keys) != Q3_OK)
        fail_msg("%s", q3_error());
    return ds;
}

static void assert_refused(const char *path, const q3_data_keys *keys, const char *part)
{
    q3_dataset *ds;
    q3_sample s = { 0 };
    q3_status st = q3_dataset_open(&ds, path, keys);
    if (st == Q3_OK)
        st = q3_dataset_get(&s, ds, 0);
    assert_int_equal(st, Q3_ERR_DATA);
    assert_error(path);
    assert_error(part);
    q3_dataset_close(ds);
}

/* ---- values ---- */

static const cJSON *rows_of(const char *table)
{
    return cJSON_GetObjectItemCaseSensitive(expected.root, table);
}

static const char *text_of(const cJSON *row, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, key));
}

static void assert_same_text(const char *a, const char *b)
{
    if (!a != !b)
        fail_msg("%s is not %s", a ? a : "null", b ? b : "null");
    if (a)
        assert_string_equal(a, b);
}

static q3_image_source picture_of(const q3_sample *s)
{
    return s->n_pictures ? s->pictures[0] : (q3_image_source){ 0 };
}

static void assert_picture(const q3_sample *s, const cJSON *want)
{
    char digest[65];
    const q3_image_source picture = picture_of(s);
    const char *hash = text_of(want, "sha256"), *path = text_of(want, "path");
    assert_true(!hash == !picture.bytes);
    if (hash) {
        q3_sha256_hex(digest, picture.bytes, picture.size);
        assert_string_equal(digest, hash);
        assert_same_text(picture.path, path);
    }
}

static void assert_row(const q3_sample *s, const cJSON *row)
{
    static const char *const names[] = { "not_sarcastic", "sarcastic" };
    const char *class = text_of(row, "label");
    assert_same_text(s->id, text_of(row, "id"));
    assert_same_text(s->query, text_of(row, "query"));
    assert_same_text(s->caption, text_of(row, "caption"));
    assert_same_text(s->source, text_of(row, "source"));
    assert_same_text(s->label, class && *class != '-' ? names[atoi(class)] : NULL);
    assert_picture(s, cJSON_GetObjectItemCaseSensitive(row, "image"));
}

static void values_are_those_that_pyarrow_reads_by_any_codec_and_encoding(void **state)
{
    (void)state;
    static const char *const kinds[] = { "none-v1-dictionary",   "none-v2-dictionary",   "none-v1-plain",
                                         "snappy-v1-dictionary", "snappy-v2-dictionary", "snappy-v2-plain",
                                         "gzip-v1-dictionary",   "gzip-v2-dictionary",   "zstd-v1-dictionary",
                                         "zstd-v2-dictionary",   "zstd-v1-fallback" };
    const cJSON *rows = rows_of("table");
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        char path[200], where[220];
        snprintf(path, sizeof path, FILES "%s.parquet", kinds[k]);
        q3_dataset *ds = open_set(path, NULL);
        assert_int_equal(q3_dataset_size(ds), cJSON_GetArraySize(rows));
        for (int i = (int)q3_dataset_size(ds) - 1; i >= 0; i--) {
            q3_sample s;
            must(q3_dataset_get(&s, ds, i));
            assert_row(&s, cJSON_GetArrayItem(rows, i));
            snprintf(where, sizeof where, "%s:%d", path, i + 1);
            assert_string_equal(s.where, where);
            q3_sample_free(&s);
        }
        q3_dataset_close(ds);
    }
}

static void bools_are_labels_in_every_page_version(void **state)
{
    (void)state;
    static const char *const kinds[] = { "none-v1-plain", "zstd-v2-dictionary", "snappy-v2-plain" };
    const q3_data_keys keys = { .label_key = "flag" };
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        char path[200];
        snprintf(path, sizeof path, FILES "%s.parquet", kinds[k]);
        q3_dataset *ds = open_set(path, &keys);
        for (int i = 0; i < q3_dataset_size(ds); i++) {
            q3_sample s;
            const cJSON *flag =
                cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(rows_of("table"), i), "flag");
            must(q3_dataset_get(&s, ds, i));
            assert_same_text(s.label, cJSON_IsNull(flag) ? NULL : cJSON_IsTrue(flag) ? "true" : "false");
            q3_sample_free(&s);
        }
        q3_dataset_close(ds);
    }
}

static void integers_keep_all_their_digits(void **state)
{
    (void)state;
    static const char *const columns[] = { "i8", "u8", "i16", "i32", "u32", "i64", "u64", "null", "text" };
    for (size_t k = 0; k < sizeof columns / sizeof *columns; k++) {
        const q3_data_keys keys = { .label_key = columns[k], .allow_text_only = true };
        q3_dataset *ds = open_set(FILES "types.parquet", &keys);
        for (int i = 0; i < 3; i++) {
            q3_sample s;
            must(q3_dataset_get(&s, ds, i));
            assert_same_text(s.label, text_of(cJSON_GetArrayItem(rows_of("types"), i), columns[k]));
            q3_sample_free(&s);
        }
        q3_dataset_close(ds);
    }
}

static void a_column_of_bytes_or_of_paths_is_a_picture(void **state)
{
    (void)state;
    static const char *const columns[] = { "picture", "fixed" };
    for (int k = 0; k < 2; k++) {
        const q3_data_keys keys = { .image_key = columns[k], .allow_text_only = true };
        q3_dataset *ds = open_set(FILES "types.parquet", &keys);
        for (int i = 0; i < 3; i++) {
            q3_sample s;
            const cJSON *row = cJSON_GetArrayItem(rows_of("types"), i);
            must(q3_dataset_get(&s, ds, i));
            assert_picture(&s, cJSON_GetObjectItemCaseSensitive(row, columns[k]));
            q3_sample_free(&s);
        }
        q3_dataset_close(ds);
    }
    const q3_data_keys keys = { .image_key = "file" };
    q3_dataset *ds = open_set(FILES "types.parquet", &keys);
    q3_sample s;
    must(q3_dataset_get(&s, ds, 0));
    assert_string_equal(picture_of(&s).path, FILES "tiny-9x5.png"); // beside the file
    q3_sample_free(&s);
    assert_int_equal(q3_dataset_get(&s, ds, 1), Q3_ERR_DATA);
    assert_error("types.parquet:2: missing field \"file\"");
    q3_dataset_close(ds);
}

static void a_list_of_one_picture_is_a_picture(void **state)
{
    (void)state;
    static const char *const paths[] = { FILES "list-v1.parquet", FILES "list-v2.parquet" };
    const q3_data_keys keys = { .image_key = "images", .allow_text_only = true };
    for (int k = 0; k < 2; k++) {
        q3_dataset *ds = open_set(paths[k], &keys);
        assert_int_equal(q3_dataset_size(ds), 7);
        for (int i = 0; i < 7; i++) {
            q3_sample s;
            const cJSON *list =
                cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(rows_of("list"), i), "images");
            q3_status st = q3_dataset_get(&s, ds, i);
            if (i == 4) {
                assert_int_equal(st, Q3_ERR_DATA);
                assert_error(":5: \"images\" holds 2 pictures, and a sample has one");
                continue;
            }
            must(st);
            assert_picture(&s, cJSON_GetArrayItem(list, 0));
            assert_same_text(picture_of(&s).path, i == 0 ? "a.png" : i == 6 ? FILES "c.png" : NULL);
            q3_sample_free(&s);
        }
        q3_dataset_close(ds);
    }
}

/* ---- places ---- */

/* The rows of tests/golden/training that the data set of datasets has, as JSONL: pictures below 12000 bytes. */
static const char *jsonl_of_hub(void)
{
    q3_text out = { 0 };
    q3_dataset *all = open_set(TRAINING "train.jsonl", NULL);
    for (int64_t i = 0; i < q3_dataset_size(all); i++) {
        q3_sample s;
        q3_map map;
        char cwd[2000];
        must(q3_dataset_get(&s, all, i));
        must(q3_map_open(&map, picture_of(&s).path));
        bool small = map.size < 12000;
        q3_map_close(&map);
        assert_non_null(getcwd(cwd, sizeof cwd));
        if (small) {
            q3_text_printf(&out, "{\"id\": \"%s\", \"image\": \"%s/%s\", \"query\": ", s.id, cwd,
                           picture_of(&s).path);
            q3_text_json_string(&out, s.query, strlen(s.query));
            q3_text_printf(&out, ", \"caption\": ");
            if (s.caption)
                q3_text_json_string(&out, s.caption, strlen(s.caption));
            else
                q3_text_printf(&out, "null");
            q3_text_printf(&out, ", \"label\": \"%s\", \"target_json\": ",
                           strstr(s.target, "\"not") ? "not_sarcastic" : "sarcastic");
            q3_text_json_string(&out, s.target, strlen(s.target));
            q3_text_printf(&out, "}\n");
        }
        q3_sample_free(&s);
    }
    q3_dataset_close(all);
    must(q3_file_write(below("hub.jsonl"), out.data, out.size));
    q3_text_free(&out);
    return below("hub.jsonl");
}

static void assert_same_samples(const q3_dataset *x, const q3_dataset *y)
{
    assert_int_equal(q3_dataset_size(x), q3_dataset_size(y));
    for (int64_t i = 0; i < q3_dataset_size(x); i++) {
        q3_sample a, b;
        q3_image p, q;
        must(q3_dataset_get(&a, x, i));
        must(q3_dataset_get(&b, y, i));
        assert_same_text(a.id, b.id);
        assert_same_text(a.query, b.query);
        assert_same_text(a.caption, b.caption);
        assert_same_text(a.target, b.target);
        assert_same_text(a.label, b.label);
        must(q3_sample_image(&p, &a, NULL));
        must(q3_sample_image(&q, &b, NULL));
        assert_true(p.width == q.width && p.height == q.height);
        assert_memory_equal(p.rgb, q.rgb, (size_t)p.width * (size_t)p.height * 3);
        q3_image_free(&p);
        q3_image_free(&q);
        q3_sample_free(&a);
        q3_sample_free(&b);
    }
}

static void a_data_set_of_the_hub_holds_the_samples_of_its_jsonl(void **state)
{
    (void)state;
    q3_dataset *want = open_set(jsonl_of_hub(), NULL);
    static const char *const paths[] = { FILES "hub", FILES "hub/data",
                                         FILES "hub/data/train-{00000..00001}-of-00002.parquet" };
    for (int i = 0; i < 3; i++) {
        must(q3_dataset_check(paths[i]));
        q3_dataset *ds = open_set(paths[i], NULL);
        assert_same_samples(want, ds);
        q3_dataset_close(ds);
    }
    q3_dataset_close(want);
    q3_dataset *validation = open_set(FILES "hub", &(q3_data_keys){ .split = "dev" });
    assert_int_equal(q3_dataset_size(validation), 2);
    q3_dataset_close(validation);
    assert_refused(FILES "hub", &(q3_data_keys){ .split = "test" },
                   "holds no parquet files of the split \"test\"");
    assert_int_equal(q3_dataset_check(FILES "hub/data/train-{00000..00002}-of-00002.parquet"), Q3_ERR_DATA);
    assert_error("train-00002-of-00002.parquet: is not there");
}

static void copy_to(const char *name)
{
    char *dir = q3_path_dir(below(name));
    must(q3_dir_create(dir));
    must(q3_file_copy(below(name), FILES "none-v1-plain.parquet"));
    q3_free(dir);
}

static void assert_splits(const char *dir, int train, int validation)
{
    bool found;
    q3_dataset *ds = open_set(below(dir), NULL);
    assert_int_equal(q3_dataset_size(ds), train * 25);
    q3_dataset_close(ds);
    must(q3_dataset_has_split(&found, below(dir), "validation"));
    assert_int_equal(found, validation > 0);
    if (!found)
        return;
    ds = open_set(below(dir), &(q3_data_keys){ .split = "validation" });
    assert_int_equal(q3_dataset_size(ds), validation * 25);
    q3_dataset_close(ds);
}

static void splits_are_told_by_names_of_files_and_of_folders(void **state)
{
    (void)state;
    copy_to("a/train.parquet");
    copy_to("a/valid.parquet");
    copy_to("a/training-notes.parquet");
    assert_splits("a", 1, 1);
    copy_to("b/data/train/0000.parquet");
    copy_to("b/data/train/0001.parquet");
    copy_to("b/data/validation/0000.parquet");
    copy_to("b/data/test/0000.parquet");
    assert_splits("b", 2, 1);
    copy_to("c/part-0.parquet");
    copy_to("c/part-1.parquet");
    copy_to("c/.hidden.parquet");
    assert_splits("c", 2, 0);
    copy_to("d/data/mine-00000-of-00001.parquet");
    copy_to("d/data/train-00000-of-00001.parquet");
    bool found;
    must(q3_dataset_has_split(&found, below("d"), "mine"));
    assert_true(found);
    must(q3_dataset_has_split(&found, below("d"), "train"));
    assert_false(found);
    copy_to("e/train-00001-of-00002.parquet");
    assert_refused(below("e"), NULL, "is one of 2 files, and 1 are there; is the download complete?");
    copy_to("f/metadata.parquet"); // an image folder all the same
    must(q3_file_write(below("f/metadata.jsonl"), "{\"file_name\": \"x\", \"query\": \"q\"}\n", 33));
    q3_dataset *ds = open_set(below("f"), NULL);
    assert_int_equal(q3_dataset_size(ds), 1);
    q3_dataset_close(ds);
}

static void a_name_on_the_hub_is_its_snapshot_in_the_cache(void **state)
{
    (void)state;
    static const char commit[] = "0123456789abcdef0123456789abcdef01234567";
    static const char *const names[] = { "train-00000-of-00002", "train-00001-of-00002",
                                         "validation-00000-of-00001" };
    char folder[300], from[300], to[600];
    snprintf(folder, sizeof folder, "cache/datasets--org--posts/snapshots/%s/data", commit);
    must(q3_dir_create(below(folder)));
    must(q3_dir_create(below("cache/datasets--org--posts/refs")));
    must(q3_file_write(below("cache/datasets--org--posts/refs/main"), commit, strlen(commit)));
    for (int i = 0; i < 3; i++) {
        snprintf(from, sizeof from, FILES "hub/data/%s.parquet", names[i]);
        snprintf(to, sizeof to, "%s/%s.parquet", folder, names[i]);
        must(q3_file_copy(below(to), from));
    }
    setenv("HF_HUB_CACHE", below("cache"), 1);
    q3_arena mem;
    const char *place;
    must(q3_arena_create(&mem, "test", 1 << 20));
    assert_true(q3_dataset_on_hub("org/posts"));
    must(q3_dataset_place(&place, &mem, "org/posts"));
    q3_dataset *ds = open_set(place, NULL), *want = open_set(FILES "hub", NULL);
    assert_same_samples(want, ds);
    q3_dataset_close(ds);
    q3_dataset_close(want);
    static const char *const here[] = { "data/absent.parquet", "data/absent.jsonl", "data/absent.tar",
                                        FILES "hub" };
    for (int i = 0; i < 4; i++) {
        must(q3_dataset_place(&place, &mem, here[i]));
        assert_ptr_equal(place, here[i]);
    }
    assert_int_equal(q3_dataset_place(&place, &mem, "org/absent"), Q3_ERR_NETWORK);
    assert_error("org/absent (revision main) is neither a directory here nor in the cache ");
    q3_arena_destroy(&mem);
}

enum { THREADS = 4 };

static void *read_all(void *p)
{
    q3_dataset **both = p;
    for (int64_t i = q3_dataset_size(both[0]); i-- > 0;) {
        q3_sample a = { 0 }, b = { 0 };
        bool same = q3_dataset_get(&a, both[0], i) == Q3_OK && q3_dataset_get(&b, both[1], i) == Q3_OK &&
                    strcmp(a.query, b.query) == 0 && picture_of(&a).size == picture_of(&b).size &&
                    memcmp(picture_of(&a).bytes, picture_of(&b).bytes, picture_of(&a).size) == 0;
        q3_sample_free(&a);
        q3_sample_free(&b);
        if (!same)
            return p;
    }
    return NULL;
}

static void threads_read_row_groups_that_none_has_touched(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        q3_dataset *both[] = { open_set(FILES "none-v1-plain.parquet", NULL),
                               open_set(FILES "zstd-v2-dictionary.parquet", NULL) };
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, read_all, both), 0);
        for (int i = 0; i < THREADS; i++) {
            void *failed;
            pthread_join(threads[i], &failed);
            assert_null(failed);
        }
        q3_dataset_close(both[0]);
        q3_dataset_close(both[1]);
    }
}

static void what_is_not_compressed_needs_no_temporary_file(void **state)
{
    (void)state;
    char *before = getenv("TMPDIR") ? q3_strdup(getenv("TMPDIR")) : NULL;
    setenv("TMPDIR", below("absent"), 1);
    q3_sample s;
    q3_dataset *ds = open_set(FILES "none-v2-dictionary.parquet", NULL);
    must(q3_dataset_get(&s, ds, 24));
    q3_sample_free(&s);
    q3_dataset_close(ds);
    ds = open_set(FILES "snappy-v1-dictionary.parquet", NULL);
    assert_int_equal(q3_dataset_get(&s, ds, 24), Q3_ERR_IO);
    assert_error("no temporary file of ");
    assert_error("parquet/absent to unpack it to: No such file or directory; set TMPDIR");
    if (before)
        setenv("TMPDIR", before, 1);
    else
        unsetenv("TMPDIR");
    must(q3_dataset_get(&s, ds, 24)); // it is asked again
    q3_sample_free(&s);
    q3_dataset_close(ds);
    q3_free(before);
}

/* ---- what is refused ---- */

static void columns_that_do_not_fit_are_named(void **state)
{
    (void)state;
    static const char path[] = FILES "types.parquet";
    assert_refused(path, NULL,
                   "has no column \"image\"; set data.image_key to one of its columns (query, i8, ");
    assert_refused(path, &(q3_data_keys){ .allow_text_only = true, .query_key = "ask" },
                   "has no column \"ask\"; set data.query_key");
    assert_refused(path, &(q3_data_keys){ .allow_text_only = true, .need_target = true },
                   "has no column \"target_json\"; set data.target_key");
    assert_refused(path, &(q3_data_keys){ .image_key = "i8" }, "column \"i8\" holds no pictures");
    static const char *const labels[][2] = { { "date", "column \"date\" holds a date" },
                                             { "time", "column \"time\" holds a time" },
                                             { "decimal", "column \"decimal\" holds a decimal number" },
                                             { "list", "column \"list\" is a list or a struct" },
                                             { "struct", "column \"struct\" is a list or a struct" },
                                             { "picture", "column \"picture\": is no text in UTF-8" },
                                             { "float", "\"float\" must be a string, an integer or a bool" },
                                             { "double",
                                               "\"double\" must be a string, an integer or a bool" } };
    for (size_t i = 0; i < sizeof labels / sizeof *labels; i++)
        assert_refused(path, &(q3_data_keys){ .allow_text_only = true, .label_key = labels[i][0] },
                       labels[i][1]);
    assert_refused(path, &(q3_data_keys){ .allow_text_only = true, .query_key = "i64" },
                   "types.parquet:1: \"i64\" must be a string");
    const q3_data_keys text = { .allow_text_only = true };
    assert_refused(FILES "delta.parquet", &text,
                   "row group 1: column query: is encoded as DELTA_LENGTH_BYTE_ARRAY, which is not read");
    assert_refused(FILES "brotli.parquet", &text,
                   "row group 1: column query: is compressed with brotli, which is not read; write it with");
    assert_refused(FILES "no-rows.parquet", &text, "holds no rows");
    assert_refused(below("absent.parquet"), NULL, "No such file");
    must(q3_file_write(below("text.parquet"), "no parquet at all, only words", 29));
    assert_refused(below("text.parquet"), NULL, "is no parquet file (it does not begin with PAR1)");
    must(q3_file_write(below("short.parquet"), "PAR1", 4));
    assert_refused(below("short.parquet"), NULL, "is no parquet file");
}

/* Opens the file and reads all rows: whether all of that went well. A failure must have its sentence. */
static bool read_rows(const char *path)
{
    static const q3_data_keys keys = { .allow_text_only = true };
    q3_dataset *ds;
    q3_status st = q3_dataset_open(&ds, path, &keys);
    for (int64_t i = 0; st == Q3_OK && i < q3_dataset_size(ds); i++) {
        q3_sample s;
        st = q3_dataset_get(&s, ds, i);
        if (st == Q3_OK)
            q3_sample_free(&s);
    }
    if (st != Q3_OK) {
        assert_int_equal(st, Q3_ERR_DATA);
        assert_true(strncmp(q3_error(), path, strlen(path)) == 0);
    }
    q3_dataset_close(ds);
    return st == Q3_OK;
}

static void cut_files_are_refused(void **state)
{
    (void)state;
    char *bytes;
    size_t n;
    must(q3_file_read(&bytes, &n, FILES "snappy-v1-dictionary.parquet", 1 << 20));
    const char *path = below("cut.parquet");
    for (size_t cut = 0; cut < n; cut += 211) {
        must(q3_file_write(path, bytes, cut));
        assert_false(read_rows(path));
    }
    must(q3_file_write(path, bytes, n));
    assert_true(read_rows(path));
    q3_free(bytes);
}

/* Bytes of a page that carries its checksum cannot change unseen; in the headers between these small pages some may,
 * where they do not matter. */
static void damaged_pages_are_refused(void **state)
{
    (void)state;
    char *bytes;
    size_t n;
    q3_map map;
    q3_parquet_meta meta;
    must(q3_map_open(&map, FILES "zstd-v2-dictionary.parquet"));
    must(q3_parquet_meta_read(&meta, &map, "x"));
    int picture = 0;
    while (strcmp(meta.leaves[picture].path, "image.bytes") != 0)
        picture++;
    const q3_parquet_chunk chunk = meta.groups[1].chunks[picture];
    q3_parquet_meta_free(&meta);
    q3_map_close(&map);
    must(q3_file_read(&bytes, &n, FILES "zstd-v2-dictionary.parquet", 1 << 20));
    const char *path = below("damaged.parquet");
    int refused = 0, tried = 0;
    for (size_t at = chunk.at; at < chunk.at + chunk.size; at += 23, tried++) {
        bytes[at] ^= 0x55;
        must(q3_file_write(path, bytes, n));
        refused += !read_rows(path);
        if (strstr(q3_error(), "row group 2: column image.bytes: "))
            assert_error("is the download complete?");
        bytes[at] ^= 0x55;
    }
    assert_true(tried > 50 && refused >= tried * 2 / 3);
    q3_free(bytes);
}

static void a_failing_allocation_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    static const char *const paths[] = { FILES "zstd-v2-dictionary.parquet", FILES "hub" };
    for (int i = 0; i < 2; i++) {
        int failed = 0;
        for (int64_t n = 1; n < 100; n++) {
            q3_dataset *ds;
            q3_sample s;
            q3_heap_fail_at(n);
            q3_status st = q3_dataset_open(&ds, paths[i], NULL);
            if (st == Q3_OK)
                st = q3_dataset_get(&s, ds, 0);
            q3_heap_fail_at(0);
            if (st == Q3_OK)
                q3_sample_free(&s);
            else
                assert_int_equal(st, Q3_ERR_MEMORY);
            failed += st != Q3_OK;
            q3_dataset_close(ds);
        }
        assert_true(failed > 20);
    }
}

/* ---- training on it ---- */

static void a_run_on_parquet_is_the_run_on_jsonl(void **state)
{
    (void)state;
    char train[4400];
    const char *dirs[] = { q3_run_path("from-jsonl"), q3_run_path("from-parquet") };
    for (int i = 0; i < 2; i++) {
        char out[4400];
        snprintf(out, sizeof out, "train.output_dir=%s", dirs[i]);
        snprintf(train, sizeof train, "data.train=%s", i ? "org/posts" : jsonl_of_hub());
        q3_process p = q3_run_start(Q3_PROGRAM, (const char *[]){ out, train, "train.max_steps=3",
                                                                  "train.eval_strategy=no", "eval.pre=false",
                                                                  "eval.post=false", NULL });
        q3_run_expect(&p, 0);
        q3_process_free(&p);
    }
    q3_run_assert_same_file(dirs[0], dirs[1], "adapter_model.safetensors");
    q3_run_assert_same_metrics(dirs[0], dirs[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_those_that_pyarrow_reads_by_any_codec_and_encoding),
        cmocka_unit_test(bools_are_labels_in_every_page_version),
        cmocka_unit_test(integers_keep_all_their_digits),
        cmocka_unit_test(a_column_of_bytes_or_of_paths_is_a_picture),
        cmocka_unit_test(a_list_of_one_picture_is_a_picture),
        cmocka_unit_test(a_data_set_of_the_hub_holds_the_samples_of_its_jsonl),
        cmocka_unit_test(splits_are_told_by_names_of_files_and_of_folders),
        cmocka_unit_test(a_name_on_the_hub_is_its_snapshot_in_the_cache),
        cmocka_unit_test(threads_read_row_groups_that_none_has_touched),
        cmocka_unit_test(what_is_not_compressed_needs_no_temporary_file),
        cmocka_unit_test(columns_that_do_not_fit_are_named),
        cmocka_unit_test(cut_files_are_refused),
        cmocka_unit_test(damaged_pages_are_refused),
        cmocka_unit_test(a_failing_allocation_is_reported_and_leaks_nothing),
        cmocka_unit_test(a_run_on_parquet_is_the_run_on_jsonl),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
