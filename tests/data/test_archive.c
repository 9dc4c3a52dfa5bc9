#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <archive.h>
#include <archive_entry.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "collate/loader.h"
#include "core/file.h"
#include "data/archive_members.h"
#include "data/dataset.h"
#include "tests/support/run.h"

#define TRAINING "tests/golden/training"
#define IMAGES "tests/golden/formats/images/"

static const char *root;

/* A path below the folder of this test; rotating buffers. */
static const char *below(const char *name)
{
    return q3_run_file(root, name);
}

static int set_up(void **state)
{
    (void)state;
    root = q3_run_path("archives");
    return q3_dir_create(root) != Q3_OK;
}

static void must(q3_status st)
{
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
}

static void assert_error(const char *part)
{
    if (!strstr(q3_error(), part))
        fail_msg("\"%s\" lacks \"%s\"", q3_error(), part);
}

/* ---- archives made here ---- */

/* A member: `text`, or the content of the file `from`, or a symbolic link to `link`. */
typedef struct item {
    const char *name, *text, *from, *link;
} item;

#define TEXT(n, t) ((item){ .name = (n), .text = (t) })
#define FILE_OF(n, f) ((item){ .name = (n), .from = (f) })
#define LINK(n, to) ((item){ .name = (n), .link = (to) })

static struct archive *begin(const char *path, int format, int filter)
{
    struct archive *a = archive_write_new();
    assert_int_equal(archive_write_set_format(a, format), ARCHIVE_OK);
    assert_int_equal(archive_write_add_filter(a, filter), ARCHIVE_OK);
    assert_int_equal(archive_write_set_bytes_in_last_block(a, 1), ARCHIVE_OK);
    assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
    return a;
}

static void add(struct archive *a, const item *m)
{
    char *bytes = NULL;
    size_t n = m->text ? strlen(m->text) : 0;
    if (m->from)
        must(q3_file_read(&bytes, &n, m->from, 1 << 24));
    struct archive_entry *e = archive_entry_new();
    archive_entry_set_pathname(e, m->name);
    archive_entry_set_mode(e, (m->link ? AE_IFLNK : AE_IFREG) | 0644);
    archive_entry_set_symlink(e, m->link);
    archive_entry_set_size(e, (la_int64_t)n);
    if (archive_write_header(a, e) < ARCHIVE_WARN)
        fail_msg("%s: %s", m->name, archive_error_string(a));
    assert_int_equal(archive_write_data(a, bytes ? bytes : m->text, n), n);
    archive_entry_free(e);
    q3_free(bytes);
}

static void end(struct archive *a)
{
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
}

static const char *pack_as(const char *name, int format, int filter, const item *items, int n)
{
    const char *path = below(name);
    struct archive *a = begin(path, format, filter);
    for (int i = 0; i < n; i++)
        add(a, &items[i]);
    end(a);
    return path;
}

/* A plain tar. */
#define PACK(name, ...)                                                                                      \
    pack_as(name, ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FILTER_NONE, (const item[]){ __VA_ARGS__ },     \
            sizeof((const item[]){ __VA_ARGS__ }) / sizeof(item))

static const struct {
    const char *ending;
    int format, filter;
} KINDS[] = {
    { ".tar", ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FILTER_NONE },
    { ".gnu.tar", ARCHIVE_FORMAT_TAR_GNUTAR, ARCHIVE_FILTER_NONE },
    { ".ustar.tar", ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_NONE },
    { ".tar.gz", ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FILTER_GZIP },
    { ".tgz", ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FILTER_GZIP },
    { ".tar.bz2", ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FILTER_BZIP2 },
    { ".tar.xz", ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FILTER_XZ },
    { ".tar.zst", ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FILTER_ZSTD },
    { ".tar.lz4", ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FILTER_LZ4 },
    { ".zip", ARCHIVE_FORMAT_ZIP, ARCHIVE_FILTER_NONE },
};
enum { N_KINDS = sizeof KINDS / sizeof *KINDS };

/* The JSONL file and the pictures of tests/golden/training, packed from there; `folder` goes before their names. */
static const char *pack_training(int kind, const char *folder)
{
    char name[200], from[300];
    snprintf(name, sizeof name, "training%s", KINDS[kind].ending);
    const char *path = below(name);
    struct archive *a = begin(path, KINDS[kind].format, KINDS[kind].filter);
    snprintf(name, sizeof name, "%strain.jsonl", folder);
    add(a, &(item){ .name = name, .from = TRAINING "/data/train.jsonl" });
    for (int i = 0; i < 100; i++)
        for (int k = 0; k < 2; k++) {
            snprintf(from, sizeof from, TRAINING "/data/images/%03d.%s", i, k ? "png" : "jpg");
            snprintf(name, sizeof name, "%simages/%03d.%s", folder, i, k ? "png" : "jpg");
            if (q3_file_exists(from))
                add(a, &(item){ .name = name, .from = from });
        }
    end(a);
    return path;
}

static q3_dataset *open_set(const char *path, const q3_data_keys *keys)
{
    q3_dataset *ds;
    if (q3_dataset_open(&ds, path, keys) != Q3_OK)
        fail_msg("%s", q3_error());
    return ds;
}

/* Why the data set cannot be opened, or its first sample (picture included) not be had. */
static void assert_refused(const char *path, const q3_data_keys *keys, const char *part)
{
    q3_dataset *ds;
    q3_sample s = { 0 };
    q3_image img = { 0 };
    q3_status st = q3_dataset_open(&ds, path, keys);
    if (st == Q3_OK)
        st = q3_dataset_get(&s, ds, 0);
    if (st == Q3_OK)
        st = q3_sample_image(&img, &s, NULL);
    assert_int_equal(st, Q3_ERR_DATA);
    assert_error(path);
    assert_error(part);
    q3_image_free(&img);
    q3_sample_free(&s);
    q3_dataset_close(ds);
}

/* ---- both layouts ---- */

static void assert_same_text(const char *a, const char *b)
{
    assert_true(!a == !b);
    if (a)
        assert_string_equal(a, b);
}

static void assert_same_samples(const q3_dataset *x, const q3_dataset *y)
{
    assert_int_equal(q3_dataset_size(x), q3_dataset_size(y));
    for (int64_t i = q3_dataset_size(x) - 1; i >= 0; i--) {
        q3_sample a, b;
        q3_image p, q;
        must(q3_dataset_get(&a, x, i));
        must(q3_dataset_get(&b, y, i));
        assert_same_text(a.id, b.id);
        assert_same_text(a.query, b.query);
        assert_same_text(a.caption, b.caption);
        assert_same_text(a.target, b.target);
        must(q3_sample_image(&p, &a, NULL));
        must(q3_sample_image(&q, &b, NULL));
        assert_true(p.width == q.width && p.height == q.height);
        assert_memory_equal(p.rgb, q.rgb, (size_t)p.width * (size_t)p.height * 3);
        int w, h;
        must(q3_sample_image_size(&w, &h, &b, NULL));
        assert_true(w == p.width && h == p.height);
        q3_image_free(&p);
        q3_image_free(&q);
        q3_sample_free(&a);
        q3_sample_free(&b);
    }
}

static void every_kind_of_archive_holds_the_samples_of_the_directory(void **state)
{
    (void)state;
    q3_dataset *want = open_set(TRAINING "/data/train.jsonl", NULL);
    for (int k = 0; k < N_KINDS; k++) {
        const char *path = pack_training(k, k % 2 ? "./some/folder/" : "");
        q3_dataset *ds = open_set(path, NULL);
        assert_same_samples(want, ds);
        q3_dataset_close(ds);
    }
    q3_dataset_close(want);
}

static void members_that_share_a_key_are_a_sample(void **state)
{
    (void)state;
    const char *path =
        PACK("keys.tar", TEXT("a/2.json", "{\"query\": \"two\", \"image\": \"no.png\"}"),
             FILE_OF("a/2.PNG", IMAGES "tiny-9x5.png"), TEXT("README", "passed over"),
             FILE_OF("a/1.jpg", IMAGES "gray-77x33.jpg"), TEXT("a/1.seg.png", "passed over as well"),
             TEXT("a/1.d/x.json", "{\"query\": \"x\"}"), TEXT("a/._1.json", "hidden"),
             FILE_OF("a/1.d/x.webp", IMAGES "lossy-80x60.webp"),
             TEXT("a/1.json", "{\n \"query\": \"one\", \"id\": 1}"));
    static const char *const queries[] = { "two", "one", "x" }; // as they begin in the archive
    static const char *const places[] = { "a/2.json", "a/1.json", "a/1.d/x.json" };
    static const int widths[] = { 9, 77, 80 };
    q3_dataset *ds = open_set(path, NULL);
    assert_int_equal(q3_dataset_size(ds), 3);
    for (int i = 2; i >= 0; i--) {
        q3_sample s;
        q3_image img;
        must(q3_dataset_get(&s, ds, i));
        assert_string_equal(s.query, queries[i]);
        assert_string_equal(s.where, q3_run_file(path, places[i]));
        must(q3_sample_image(&img, &s, NULL));
        assert_int_equal(img.width, widths[i]);
        q3_image_free(&img);
        q3_sample_free(&s);
    }
    q3_dataset_close(ds);
}

static void assert_conversation(const char *path, int index, int n_pictures, int width)
{
    q3_sample s;
    q3_image img;
    q3_dataset *ds = open_set(path, NULL);
    must(q3_dataset_get(&s, ds, index));
    assert_int_equal(s.n_pictures, n_pictures);
    must(q3_sample_picture(&img, &s, n_pictures - 1, NULL));
    assert_int_equal(img.width, width);
    q3_image_free(&img);
    q3_sample_free(&s);
    q3_dataset_close(ds);
}

#define TALK(parts, more)                                                                                    \
    "{\"messages\": [{\"role\": \"user\", \"content\": [" parts                                              \
    "]}, {\"role\": \"assistant\", \"content\": \"b\"}]" more "}"

/* The member beside it is its picture; without one its list names members. */
static void conversations_find_their_pictures_in_the_archive(void **state)
{
    (void)state;
    const char one[] = TALK("{\"type\": \"image\"}", ", \"images\": [\"/was/elsewhere.png\"]");
    const char two[] =
        TALK("{\"type\": \"image\"}, {\"type\": \"image\"}", ", \"images\": [\"x.png\", \"../a/y.jpg\"]");
    const char *keyed = PACK("talks.tar", TEXT("a/1.json", one), FILE_OF("a/1.png", IMAGES "tiny-9x5.png"),
                             TEXT("a/2.json", two), FILE_OF("a/x.png", IMAGES "tiny-9x5.png"),
                             FILE_OF("a/y.jpg", IMAGES "gray-77x33.jpg"));
    assert_conversation(keyed, 0, 1, 9);
    assert_conversation(keyed, 1, 2, 77);
    const char *lines =
        PACK("talk-lines.tar", TEXT("a/train.jsonl", two), FILE_OF("a/x.png", IMAGES "tiny-9x5.png"),
             FILE_OF("a/y.jpg", IMAGES "gray-77x33.jpg"));
    assert_conversation(lines, 0, 2, 77);
    const char *outside =
        PACK("talk-out.tar", TEXT("train.jsonl", two), FILE_OF("x.png", IMAGES "tiny-9x5.png"));
    q3_sample s;
    q3_dataset *ds = open_set(outside, NULL);
    assert_int_equal(q3_dataset_get(&s, ds, 0), Q3_ERR_DATA);
    assert_error("no such member in the archive");
    q3_dataset_close(ds);
}

static void endings_that_are_data_keys_are_fields(void **state)
{
    (void)state;
    const char *path = PACK("fields.tar", TEXT("1.cls", "3\n"), TEXT("1.question.txt", "which?\r\n"),
                            FILE_OF("1.png", IMAGES "tiny-9x5.png"));
    const q3_data_keys keys = {
        .query_key = "question.txt", .label_key = "cls", .target_template = "<{label}>", .need_target = true
    };
    q3_dataset *ds = open_set(path, &keys);
    q3_sample s;
    assert_int_equal(q3_dataset_size(ds), 1);
    must(q3_dataset_get(&s, ds, 0));
    assert_string_equal(s.query, "which?");
    assert_string_equal(s.label, "3");
    assert_string_equal(s.target, "<3>");
    q3_sample_free(&s);
    q3_dataset_close(ds);
    assert_refused(path, &(q3_data_keys){ .label_key = "cls" }, "fields.tar/1.cls: missing field \"query\"");
    assert_refused(path, NULL, "holds no samples");
}

static void shards_follow_each_other(void **state)
{
    (void)state;
    q3_sample s;
    for (int i = 8; i <= 11; i++) {
        char name[40], text[40];
        snprintf(name, sizeof name, "s-%04d.tar", i);
        snprintf(text, sizeof text, "{\"query\": \"%d\"}\n%s", i, i == 9 ? "{\"query\": \"9b\"}" : "");
        PACK(name, TEXT("x.jsonl", text));
    }
    static const char *const queries[] = { "8", "9", "9b", "10", "11" };
    const q3_data_keys keys = { .allow_text_only = true };
    q3_dataset *ds = open_set(below("s-{0008..0011}.tar"), &keys);
    assert_int_equal(q3_dataset_size(ds), 5);
    for (int i = 4; i >= 0; i--) {
        must(q3_dataset_get(&s, ds, i));
        assert_string_equal(s.query, queries[i]);
        q3_sample_free(&s);
    }
    q3_dataset_close(ds);
    must(q3_dataset_check(below("s-{0008..0011}.tar")));
    assert_int_equal(q3_dataset_check(below("s-{0008..0012}.tar")), Q3_ERR_DATA);
    assert_error("s-0012.tar: is not there");
    assert_int_equal(q3_dataset_open(&ds, below("s-{8..11}.tar"), &keys), Q3_ERR_DATA);
    assert_error("s-8.tar: No such file");
    assert_int_equal(q3_dataset_open(&ds, below("s-{0011..0008}.tar"), &keys), Q3_ERR_USAGE);
    assert_error("{0011..0008} must count upwards");
}

static void one_of_several_files_can_be_named(void **state)
{
    (void)state;
    const q3_data_keys keys = { .allow_text_only = true };
    const char *path = PACK("several.tar", TEXT("b.jsonl", "{\"query\": \"b\"}"),
                            TEXT("a.jsonl", "{\"query\": \"a\"}\n{\"query\": \"a2\"}"));
    q3_dataset *ds = open_set(path, &keys);
    assert_int_equal(q3_dataset_size(ds), 3);
    q3_dataset_close(ds);
    ds = open_set(q3_run_file(path, "./a.jsonl"), &keys);
    assert_int_equal(q3_dataset_size(ds), 2);
    q3_dataset_close(ds);
    assert_int_equal(q3_dataset_open(&ds, q3_run_file(path, "c.jsonl"), &keys), Q3_ERR_DATA);
    assert_error("several.tar/c.jsonl: no such .jsonl member");
    path = PACK("splits.tar", TEXT("train.jsonl", "{\"query\": \"a\"}"),
                TEXT("more.jsonl", "{\"query\": \"b\"}"), TEXT("val/metadata.jsonl", "{\"query\": \"a\"}"));
    assert_refused(path, &keys, "holds train.jsonl and val/metadata.jsonl, which are different splits");
}

static void an_array_that_shares_no_key_holds_samples(void **state)
{
    (void)state;
    const char *path =
        PACK("array.tar",
             TEXT("json/train.json", "\n[{\"query\": \"a\", \"image\": \"../p/1.png\"},"
                                     "{\"query\": 1, \"image\": \"\"}]"),
             FILE_OF("p/1.png", IMAGES "tiny-9x5.png"), TEXT("json/valid.json", "[{\"query\": \"b\"}]"));
    q3_dataset *ds = open_set(q3_run_file(path, "json/train.json"), NULL);
    q3_sample s;
    assert_int_equal(q3_dataset_size(ds), 2);
    must(q3_dataset_get(&s, ds, 0));
    assert_true(s.pictures[0].lent);
    assert_non_null(strstr(s.where, "array.tar/json/train.json:2"));
    q3_sample_free(&s);
    assert_int_equal(q3_dataset_get(&s, ds, 1), Q3_ERR_DATA);
    assert_error("array.tar/json/train.json:2:40: ");
    q3_dataset_close(ds);
    assert_refused(path, NULL, "holds json/train.json and json/valid.json, which are different splits");
}

static void metadata_names_its_pictures_as_in_image_folders(void **state)
{
    (void)state;
    const char *path =
        PACK("folder.tar", TEXT("train/metadata.jsonl", "{\"file_name\": \"../p/a.png\", \"text\": \"t\"}\n"),
             FILE_OF("p/a.png", IMAGES "tiny-9x5.png"));
    q3_dataset *ds = open_set(path, NULL);
    q3_sample s;
    q3_image img;
    must(q3_dataset_get(&s, ds, 0));
    must(q3_sample_image(&img, &s, NULL));
    assert_int_equal(img.width, 9);
    q3_image_free(&img);
    q3_sample_free(&s);
    q3_dataset_close(ds);
}

/* ---- where the bytes lie ---- */

static void plain_archives_need_no_temporary_file(void **state)
{
    (void)state;
    char *before = getenv("TMPDIR") ? q3_strdup(getenv("TMPDIR")) : NULL;
    setenv("TMPDIR", below("absent"), 1);
    q3_dataset *ds = open_set(pack_training(0, ""), NULL),
               *want = open_set(TRAINING "/data/train.jsonl", NULL);
    assert_same_samples(want, ds);
    q3_dataset_close(ds);
    q3_dataset_close(want);
    assert_int_equal(q3_dataset_open(&ds, pack_training(3, ""), NULL), Q3_ERR_IO);
    assert_error("training.tar.gz: no temporary file in ");
    assert_error("archives/absent to unpack it to: No such file or directory; set TMPDIR");
    if (before)
        setenv("TMPDIR", before, 1);
    else
        unsetenv("TMPDIR");
    q3_free(before);
}

enum { THREADS = 4 };

static void *read_all(void *p)
{
    q3_dataset **both = p;
    for (int64_t i = 0; i < q3_dataset_size(both[0]); i++) {
        q3_sample a = { 0 }, b = { 0 };
        bool same = q3_dataset_get(&a, both[0], i) == Q3_OK && q3_dataset_get(&b, both[1], i) == Q3_OK &&
                    strcmp(a.query, b.query) == 0 && a.pictures->size == b.pictures->size &&
                    memcmp(a.pictures->bytes, b.pictures->bytes, a.pictures->size) == 0;
        q3_sample_free(&a);
        q3_sample_free(&b);
        if (!same)
            return p;
    }
    return NULL;
}

static void threads_read_an_archive_at_random(void **state)
{
    (void)state;
    q3_dataset *both[] = { open_set(pack_training(0, ""), NULL), open_set(pack_training(7, ""), NULL) };
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

static void names_that_are_not_ascii_are_found(void **state)
{
    (void)state;
    for (int k = 0; k < N_KINDS; k++) {
        char name[60];
        snprintf(name, sizeof name, "names%s", KINDS[k].ending);
        const item items[] = { TEXT("gr\xC3\xBC\xC3\x9F.jsonl",
                                    "{\"query\": \"a\", \"image\": \"\xE2\x82\xAC.png\"}"),
                               FILE_OF("\xE2\x82\xAC.png", IMAGES "tiny-9x5.png") };
        q3_dataset *ds = open_set(pack_as(name, KINDS[k].format, KINDS[k].filter, items, 2), NULL);
        q3_sample s;
        must(q3_dataset_get(&s, ds, 0));
        assert_true(s.pictures->size > 0);
        q3_sample_free(&s);
        q3_dataset_close(ds);
    }
}

/* ---- what is refused ---- */

#define LINE(path) "{\"query\": \"q\", \"image\": \"" path "\"}\n"

static void pictures_are_never_looked_for_on_disk(void **state)
{
    (void)state;
    char text[5000], cwd[4096];
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(text, sizeof text, LINE("%s/" IMAGES "tiny-9x5.png"), cwd); // it is there
    assert_refused(PACK("absolute.tar", TEXT("a.jsonl", text)), NULL, "a.jsonl:1: /");
    assert_error("tiny-9x5.png: no such member in the archive");
    snprintf(text, sizeof text, "\n" LINE("file://%s/" IMAGES "tiny-9x5.png"), cwd);
    assert_refused(PACK("url.tar", TEXT("a.jsonl", text)), NULL, "a.jsonl:2: /");
    must(q3_file_copy(below("beside.png"), IMAGES "tiny-9x5.png"));
    assert_refused(PACK("up.tar", TEXT("a.jsonl", LINE("../beside.png"))), NULL,
                   "up.tar/../beside.png: no such member in the archive");
    assert_refused(PACK("link.tar", TEXT("a.jsonl", LINE("b.png")), LINK("b.png", "../beside.png")), NULL,
                   "link.tar/a.jsonl:1: ");
    assert_error("link.tar/b.png: is a link");
    assert_refused(PACK("linked.tar", LINK("a.jsonl", "/etc/passwd")), NULL, "a.jsonl: is a link");
    assert_refused(PACK("key.tar", TEXT("a.json", LINE("b.png")), LINK("a.png", "../beside.png")), NULL,
                   "key.tar/a.png: is a link");
    q3_dataset *ds = open_set(PACK("none.tar", TEXT("a.json", "{\"query\": \"q\", \"\": \"/etc/passwd\"}")),
                              &(q3_data_keys){ .allow_text_only = true });
    q3_sample s;
    must(q3_dataset_get(&s, ds, 0));
    assert_false(q3_sample_has_image(&s));
    q3_sample_free(&s);
    q3_dataset_close(ds);
}

static void what_cannot_be_used_is_named(void **state)
{
    (void)state;
    assert_refused(PACK("missing.tar", TEXT("d/a.jsonl", "\n\n" LINE("x.png"))), NULL,
                   "missing.tar/d/a.jsonl:3: ");
    assert_error("missing.tar/d/x.png: no such member in the archive");
    assert_refused(PACK("bad.tar", TEXT("a.jsonl", LINE("x.png")), TEXT("x.png", "no picture")), NULL,
                   "bad.tar/a.jsonl:1: ");
    assert_error("bad.tar/x.png: not a picture that can be read");
    assert_refused(PACK("void.tar", TEXT("a.jsonl", LINE("x.png")), TEXT("x.png", "")), NULL,
                   "x.png: the image file is empty");
    assert_refused(PACK("field.tar", TEXT("a.jsonl", "{\"query\": 3, \"image\": \"a\"}")), NULL,
                   "field.tar/a.jsonl:1:2: \"query\" must be a string");
    assert_refused(PACK("json.tar", TEXT("a.json", "{\n\"query\" 3}"), TEXT("a.png", "")), NULL,
                   "json.tar/a.json:2:9");
    assert_refused(PACK("place.tar", TEXT("a.json", "{\n \"query\": 3}"), TEXT("a.png", "")), NULL,
                   "place.tar/a.json:2:2: \"query\" must be a string");
    assert_refused(PACK("list.tar", TEXT("a.json", "[]"), TEXT("a.png", "")), NULL, "must be a JSON object");
    assert_refused(PACK("alone.tar", TEXT("a.json", "{\"query\": \"\"}")), NULL,
                   "a.json: no picture beside it");
    assert_refused(PACK("two.tar", TEXT("a.json", "{}"), TEXT("a.png", ""), TEXT("a.jpg", "")), NULL,
                   "stands for the same; a sample has one of them");
    assert_refused(
        PACK("twice.tar", TEXT("x.png", "1"), TEXT("a.jsonl", LINE("x.png")), TEXT("./x.png", "2")), NULL,
        "two members are named x.png");
    assert_refused(PACK("outside.tar", TEXT("a/../../x.jsonl", "{}")), NULL,
                   "the member \"a/../../x.jsonl\" lies outside of the archive");
    assert_refused(PACK("empty.tar", TEXT(".hidden", "1")), NULL, "holds no samples");
    assert_refused(PACK("blank.tar", TEXT("a.jsonl", "\n")), NULL,
                   "blank.tar/a.jsonl: the file holds no samples");
    assert_refused(PACK("field2.tar", TEXT("a.json", "{\"label\": 1, \"query\": \"\"}"), TEXT("a.png", ""),
                        TEXT("a.label", "2")),
                   NULL, "\"label\" occurs twice");
    assert_refused(
        PACK("nul.tar", TEXT("a.json", "{\"query\": \"\"}"), TEXT("a.png", ""), TEXT("a.label", "\xFF")),
        NULL, "nul.tar/a.label: is no text in UTF-8");
    assert_refused(below("absent.tar"), NULL, "No such file");
    must(q3_file_write(below("text.tar"), "no archive at all, only a few words", 35));
    assert_refused(below("text.tar"), NULL, "text.tar: cannot be read as a tar or zip archive");
    must(q3_file_write(below("nothing.zip"), "", 0));
    assert_refused(below("nothing.zip"), NULL, "nothing.zip: the file is empty (0 bytes)");
}

static void members_beyond_the_limit_are_refused_by_their_header(void **state)
{
    (void)state;
    struct archive *a = begin(below("large.tar"), ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_NONE);
    struct archive_entry *e = archive_entry_new();
    archive_entry_set_pathname(e, "x.png");
    archive_entry_set_mode(e, AE_IFREG | 0644);
    archive_entry_set_size(e, ((la_int64_t)512 << 20) + 1);
    assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
    archive_entry_free(e);
    archive_write_free(a); // without its data
    assert_refused(below("large.tar"), NULL, "large.tar/x.png: the member has 512 MiB, and at most 512 MiB");
}

static void members_with_holes_are_refused(void **state)
{
    (void)state;
    for (int at = 0; at < 2; at++) { // 512 bytes of data, before or behind the hole
        struct archive *a = begin(below("holes.tar"), ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FILTER_NONE);
        struct archive_entry *e = archive_entry_new();
        static const char bytes[8192];
        archive_entry_set_pathname(e, "x.png");
        archive_entry_set_mode(e, AE_IFREG | 0644);
        archive_entry_set_size(e, sizeof bytes);
        archive_entry_sparse_add_entry(e, at ? (la_int64_t)sizeof bytes - 512 : 0, 512);
        assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
        assert_int_equal(archive_write_data(a, bytes, sizeof bytes), sizeof bytes);
        archive_entry_free(e);
        end(a);
        assert_refused(below("holes.tar"), NULL, "holes.tar/x.png: is stored with holes");
    }
}

static void encrypted_members_are_refused(void **state)
{
    (void)state;
    const char *path = below("secret.zip");
    struct archive *a = archive_write_new();
    assert_int_equal(archive_write_set_format_zip(a), ARCHIVE_OK);
    assert_int_equal(archive_write_set_options(a, "zip:encryption=zipcrypt"), ARCHIVE_OK);
    assert_int_equal(archive_write_set_passphrase(a, "open sesame"), ARCHIVE_OK);
    assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
    add(a, &(item){ .name = "a.jsonl", .text = LINE("x.png") });
    end(a);
    assert_refused(path, NULL, "secret.zip/a.jsonl: the member is encrypted");
}

/* Every cut is refused where it is made, or the archive is whole all the same (a zip without its index, the padding of
 * a tar). */
static void cut_archives_are_refused(void **state)
{
    (void)state;
    for (int k = 0; k < N_KINDS; k++) {
        char *bytes;
        size_t n;
        must(q3_file_read(&bytes, &n, pack_training(k, ""), 1 << 24));
        int64_t all = -1;
        int refused = 0;
        for (size_t cut = n; cut > 0; cut = cut > n / 30 ? cut - n / 30 : 0) {
            q3_members m;
            q3_status st = q3_members_open_memory(&m, bytes, cut, "cut.tar");
            if (cut == n)
                must(st), all = m.n;
            assert_true(st == Q3_ERR_DATA || (st == Q3_OK && m.n == all));
            refused += st != Q3_OK;
            if (st == Q3_OK)
                q3_members_close(&m);
            else
                assert_true(strncmp(q3_error(), "cut.tar", 7) == 0);
        }
        assert_true(refused >= 25);
        q3_free(bytes);
    }
}

static void a_tar_cut_between_two_members_is_refused(void **state)
{
    (void)state;
    char *bytes;
    size_t n;
    q3_members m;
    must(q3_file_read(&bytes, &n,
                      PACK("ends.tar", TEXT("a.jsonl", LINE("x.png")), TEXT(".b", "1"), TEXT("x.png", "1")),
                      1 << 20));
    for (size_t cut = 1024; cut <= 3072; cut += 1024) { // a header and a block each
        assert_int_equal(q3_members_open_memory(&m, bytes, cut, "ends.tar"), Q3_ERR_DATA);
        assert_error("ends.tar: the archive lacks its end after ");
    }
    must(q3_members_open_memory(&m, bytes, 3072 + 512, "ends.tar"));
    q3_members_close(&m);
    const char *gz = below("ends.tar.gz"); // compressed as it is, with its end cut off
    struct archive *a = begin(gz, ARCHIVE_FORMAT_RAW, ARCHIVE_FILTER_GZIP);
    struct archive_entry *e = archive_entry_new();
    archive_entry_set_mode(e, AE_IFREG | 0644);
    assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
    assert_int_equal(archive_write_data(a, bytes, 3072), 3072);
    archive_entry_free(e);
    end(a);
    assert_refused(gz, NULL, "ends.tar.gz: the archive lacks its end after 2 members");
    bytes[1024 + 1] ^= 1;
    assert_int_equal(q3_members_open_memory(&m, bytes, n, "ends.tar"), Q3_ERR_DATA);
    assert_error("ends.tar: the archive is damaged or cut short");
    q3_free(bytes);
}

static void joined_tars_are_read_to_the_last(void **state)
{
    (void)state;
    char *a, *b;
    size_t na, nb;
    q3_members m;
    must(q3_file_read(&a, &na, PACK("one.tar", TEXT("1.txt", "1")), 1 << 20));
    must(q3_file_read(&b, &nb, PACK("two.tar", TEXT("2.txt", "2")), 1 << 20));
    a = q3_realloc(a, na + nb);
    memcpy(a + na, b, nb);
    must(q3_members_open_memory(&m, a, na + nb, "joined.tar"));
    assert_int_equal(m.n, 2);
    q3_members_close(&m);
    q3_free(a);
    q3_free(b);
}

static void paths_are_cleaned_or_leave_the_archive(void **state)
{
    (void)state;
    static const struct {
        const char *path, *clean;
    } cases[] = { { "a", "a" },           { "./a//b/", "a/b" }, { "/a", "a" },       { "a/./b/../c", "a/c" },
                  { "a/b/../../c", "c" }, { "..", NULL },       { "a/../..", NULL }, { "../a", NULL },
                  { "", NULL },           { "a/..", NULL },     { "...", "..." },    { "/..", NULL } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[40];
        strcpy(path, cases[i].path);
        bool clean = q3_member_clean(path);
        assert_int_equal(clean, cases[i].clean != NULL);
        if (clean)
            assert_string_equal(path, cases[i].clean);
    }
}

static void a_failing_allocation_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    const char *paths[] = { PACK("memory.tar", TEXT("a.jsonl", LINE("x.png")), TEXT("x.png", "1")),
                            PACK("memory-keys.tar", TEXT("a.json", LINE("x.png")), TEXT("a.png", "1"),
                                 TEXT("a.label", "l")) };
    for (int i = 0; i < 2; i++) {
        q3_status st = Q3_ERR_FAIL;
        int64_t n = 0;
        while (st != Q3_OK) {
            q3_dataset *ds;
            q3_sample s;
            q3_heap_fail_at(++n);
            st = q3_dataset_open(&ds, paths[i], NULL);
            if (st == Q3_OK)
                st = q3_dataset_get(&s, ds, 0);
            q3_heap_fail_at(0);
            if (st == Q3_OK)
                q3_sample_free(&s);
            q3_dataset_close(ds);
            assert_true(n < 200);
        }
        assert_true(n > 10);
    }
}

/* ---- training on it ---- */

static void batches_are_those_of_the_directory(void **state)
{
    (void)state;
    q3_tokenizer *tokenizer;
    q3_collator collator = { .system_prompt = "You judge posts." };
    must(q3_tokenizer_open(&tokenizer, TRAINING "/model"));
    must(q3_collator_init(&collator, TRAINING "/model", tokenizer, 358, 359, 384));
    q3_dataset *sets[] = { open_set(TRAINING "/data/train.jsonl", NULL),
                           open_set(pack_training(7, ""), NULL) };
    q3_loader *loaders[2];
    for (int i = 0; i < 2; i++) {
        const q3_loader_source source = { .data = sets[i],
                                          .collator = &collator,
                                          .n_samples = q3_dataset_size(sets[i]),
                                          .batch_size = 4,
                                          .training = true,
                                          .shuffle = true,
                                          .seed = 7 };
        must(q3_loader_create(&loaders[i], &source, 0, 1 + i, 2));
    }
    for (int k = 0; k < 8; k++) {
        const q3_loaded *x, *y;
        must(q3_loader_next(&x, loaders[0]));
        must(q3_loader_next(&y, loaders[1]));
        assert_true(x->batch.n_tokens == y->batch.n_tokens && x->batch.n_patches == y->batch.n_patches);
        assert_memory_equal(x->batch.ids, y->batch.ids, (size_t)x->batch.n_tokens * sizeof *x->batch.ids);
        assert_memory_equal(x->batch.patches, y->batch.patches,
                            (size_t)x->batch.n_patches * 3 * 2 * 16 * 16 * sizeof *x->batch.patches);
    }
    for (int i = 0; i < 2; i++) {
        q3_loader_destroy(loaders[i]);
        q3_dataset_close(sets[i]);
    }
    q3_tokenizer_close(tokenizer);
}

static void a_run_on_an_archive_is_the_run_on_its_files(void **state)
{
    (void)state;
    char train[4400];
    snprintf(train, sizeof train, "data.train=%s", pack_training(3, ""));
    const char *dirs[] = { q3_run_path("from-files"), q3_run_path("from-archive") };
    for (int i = 0; i < 2; i++) {
        char out[4400];
        snprintf(out, sizeof out, "train.output_dir=%s", dirs[i]);
        q3_process p = q3_run_start(
            Q3_PROGRAM, (const char *[]){ out, "train.max_steps=3", "train.eval_strategy=no",
                                          "eval.pre=false", "eval.post=false", i ? train : NULL, NULL });
        q3_run_expect(&p, 0);
        q3_process_free(&p);
    }
    q3_run_assert_same_file(dirs[0], dirs[1], "adapter_model.safetensors");
    q3_run_assert_same_metrics(dirs[0], dirs[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_archive_holds_the_samples_of_the_directory),
        cmocka_unit_test(members_that_share_a_key_are_a_sample),
        cmocka_unit_test(conversations_find_their_pictures_in_the_archive),
        cmocka_unit_test(endings_that_are_data_keys_are_fields),
        cmocka_unit_test(shards_follow_each_other),
        cmocka_unit_test(one_of_several_files_can_be_named),
        cmocka_unit_test(an_array_that_shares_no_key_holds_samples),
        cmocka_unit_test(metadata_names_its_pictures_as_in_image_folders),
        cmocka_unit_test(plain_archives_need_no_temporary_file),
        cmocka_unit_test(threads_read_an_archive_at_random),
        cmocka_unit_test(names_that_are_not_ascii_are_found),
        cmocka_unit_test(pictures_are_never_looked_for_on_disk),
        cmocka_unit_test(what_cannot_be_used_is_named),
        cmocka_unit_test(members_beyond_the_limit_are_refused_by_their_header),
        cmocka_unit_test(members_with_holes_are_refused),
        cmocka_unit_test(encrypted_members_are_refused),
        cmocka_unit_test(cut_archives_are_refused),
        cmocka_unit_test(a_tar_cut_between_two_members_is_refused),
        cmocka_unit_test(joined_tars_are_read_to_the_last),
        cmocka_unit_test(paths_are_cleaned_or_leave_the_archive),
        cmocka_unit_test(a_failing_allocation_is_reported_and_leaks_nothing),
        cmocka_unit_test(batches_are_those_of_the_directory),
        cmocka_unit_test(a_run_on_an_archive_is_the_run_on_its_files),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
