#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "collate/pack.h"
#include "core/file.h"
#include "core/safetensors.h"
#include "data/dataset.h"
#include "data/jsonl.h"

#define QWEN3 "tests/golden/tokenizer/qwen3"
#define TRAINING "tests/golden/training"
#define PREFIX "Qwen3 collate failed: "

enum {
    PAD = 151643,
    IM_START = 151644,
    IM_END = 151645,
    IMAGE_PAD = 151655,
    VIDEO_PAD = 151656,
    VOCAB = 151936
};

static q3_tokenizer *qwen3, *small;
static q3_arena mem;

static int setup(void **state)
{
    (void)state;
    return q3_tokenizer_open(&qwen3, QWEN3) || q3_tokenizer_open(&small, TRAINING "/model") ||
           q3_arena_create(&mem, "test", (size_t)1 << 28);
}

static int teardown(void **state)
{
    (void)state;
    q3_arena_destroy(&mem);
    q3_tokenizer_close(qwen3);
    q3_tokenizer_close(small);
    return 0;
}

static int reset(void **state)
{
    (void)state;
    q3_arena_reset(&mem);
    return 0;
}

/* A collator with the real tokenizer, and the bounds of Qwen3-VL unless others are given. */
static q3_collator collator(int64_t min_pixels, int64_t max_pixels)
{
    q3_collator c = { 0 };
    assert_int_equal(q3_collator_init(&c, TRAINING "/model", qwen3, IMAGE_PAD, VIDEO_PAD, VOCAB), Q3_OK);
    assert_int_equal(
        q3_vision_spec_limit(&c.vision, min_pixels ? min_pixels : 65536, max_pixels ? max_pixels : 16777216),
        Q3_OK);
    return c;
}

static q3_collator strict(void)
{
    return collator(1024, 65536);
}

static q3_patches blank(const q3_collator *c, int height, int width)
{
    q3_patches p;
    q3_image img = { .width = width, .height = height, .rgb = calloc((size_t)width * (size_t)height, 3) };
    assert_non_null(img.rgb);
    assert_int_equal(q3_image_patches(&p, &mem, &img, &c->vision), Q3_OK);
    free(img.rgb);
    return p;
}

/* ---- the vectors ---- */

static char *text_of(const cJSON *example, const char *key)
{
    const cJSON *item = cJSON_GetObjectItem(example, key);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

static int64_t number_of(const cJSON *options, const char *key)
{
    const cJSON *item = cJSON_GetObjectItem(options, key);
    return cJSON_IsNumber(item) ? (int64_t)item->valuedouble : 0;
}

static q3_status collate_example(q3_row *out, const q3_collator *c, const cJSON *example, bool training)
{
    const cJSON *hw = cJSON_GetObjectItem(example, "image_hw");
    q3_patches p = blank(c, cJSON_GetArrayItem(hw, 0)->valueint, cJSON_GetArrayItem(hw, 1)->valueint);
    q3_sample s = { .where = (char *)"vectors:1",
                    .query = text_of(example, "query"),
                    .caption = text_of(example, "caption"),
                    .target = text_of(example, "target_json"),
                    .system = text_of(example, "system") };
    return q3_collate_text(out, &mem, c, &s, &p, 1, training);
}

/* Compares an array of arrays with `got` [rows, columns], row by row, over the columns that `got` has. */
static void same_matrix(const char *name, const cJSON *want, const int64_t *got, int64_t rows,
                        int64_t columns)
{
    assert_true(cJSON_GetArraySize(want) >= rows);
    for (int64_t r = 0; r < rows; r++) {
        const cJSON *v = cJSON_GetArrayItem(want, (int)r)->child;
        for (int64_t i = 0; i < columns; i++, v = v->next) {
            if (!v || (int64_t)v->valuedouble != got[r * columns + i])
                fail_msg("%s: [%d, %d] is %lld, not %lld", name, (int)r, (int)i,
                         (long long)got[r * columns + i], v ? (long long)v->valuedouble : -1);
        }
    }
}

static void same_types(const char *name, const cJSON *want, const q3_padded *p)
{
    int64_t *types = calloc((size_t)(p->rows * p->length), sizeof *types);
    for (int64_t t = 0; t < p->rows * p->length; t++)
        types[t] = p->input_ids[t] == IMAGE_PAD;
    same_matrix(name, want, types, p->rows, p->length);
    free(types);
}

/* The packed form of the padded rows is the one that is made of the rows at once. */
static void same_batches(const q3_collator *c, const q3_padded *p, const q3_row *const *rows, int n)
{
    q3_batch a, b;
    assert_int_equal(q3_pack(&a, &mem, c, rows, n), Q3_OK);
    assert_int_equal(q3_unpad(&b, &mem, p, c->image_id, c->video_id, c->vision.merge), Q3_OK);
    assert_int_equal(a.n_rows, b.n_rows);
    assert_int_equal(a.n_tokens, b.n_tokens);
    assert_int_equal(a.n_images, b.n_images);
    assert_int_equal(a.n_patches, b.n_patches);
    assert_int_equal(a.n_image_rows, b.n_image_rows);
    assert_int_equal(a.n_tokens, a.row_begin[a.n_rows]);
    size_t tokens = (size_t)a.n_tokens * sizeof *a.ids;
    assert_memory_equal(a.row_begin, b.row_begin, (size_t)(a.n_rows + 1) * sizeof *a.row_begin);
    assert_memory_equal(a.ids, b.ids, tokens);
    assert_memory_equal(a.positions, b.positions, 3 * tokens);
    assert_true((a.labels != NULL) == (b.labels != NULL));
    if (a.labels)
        assert_memory_equal(a.labels, b.labels, tokens);
    assert_memory_equal(a.grids, b.grids, 3 * (size_t)a.n_images * sizeof *a.grids);
    assert_memory_equal(a.image_rows, b.image_rows, (size_t)a.n_image_rows * sizeof *a.image_rows);
    assert_memory_equal(a.patches, b.patches, (size_t)(a.n_patches * p->patch_width) * sizeof *a.patches);
}

static void same_result(const char *name, const cJSON *want, const q3_collator *c, const q3_row *const *rows,
                        int n, bool training)
{
    q3_padded p;
    assert_int_equal(q3_pad(&p, &mem, c, rows, n, !training), Q3_OK);
    same_matrix(name, cJSON_GetObjectItem(want, "input_ids"), p.input_ids, p.rows, p.length);
    same_matrix(name, cJSON_GetObjectItem(want, "attention_mask"), p.attention_mask, p.rows, p.length);
    same_matrix(name, cJSON_GetObjectItem(want, "image_grid_thw"), p.image_grid_thw, p.n_images, 3);
    same_types(name, cJSON_GetObjectItem(want, "mm_token_type_ids"), &p);
    const cJSON *labels = cJSON_GetObjectItem(want, "labels");
    assert_true(cJSON_IsArray(labels) == (p.labels != NULL) && (p.labels != NULL) == training);
    if (p.labels)
        same_matrix(name, labels, p.labels, p.rows, p.length);
    for (int i = 0, row = 0; i < n; i++) {
        if (rows[i]->skipped)
            continue;
        assert_int_equal(cJSON_GetArrayItem(cJSON_GetObjectItem(want, "prompt_len"), row)->valueint,
                         rows[i]->prompt_n);
        if (training)
            assert_int_equal(
                cJSON_GetArrayItem(cJSON_GetObjectItem(want, "supervised_tokens"), row)->valueint,
                rows[i]->n_supervised);
        row++;
    }
    same_batches(c, &p, rows, n);
}

enum { EXAMPLES = 4 };

/* One case of the file, under the policy that is closest to the reference: it cuts rows. */
static void run_case(const cJSON *line)
{
    const cJSON *options = cJSON_GetObjectItem(line, "options"),
                *examples = cJSON_GetObjectItem(line, "examples");
    const char *name = text_of(line, "name"), *mode = text_of(options, "mode");
    bool training = !mode || strcmp(mode, "gen") != 0, refused = cJSON_GetObjectItem(line, "error") != NULL;
    bool lost = cJSON_GetObjectItem(line, "required") !=
                NULL; // nothing supervised: trained silently there, refused here
    q3_collator c = collator(number_of(options, "min_pixels"), number_of(options, "max_pixels"));
    c.lenient = true;
    c.on_overflow = Q3_OVERFLOW_TRUNCATE;
    c.max_length = number_of(options, "max_length");
    q3_row rows[EXAMPLES];
    const q3_row *order[EXAMPLES];
    int n = 0, failures = 0;
    const cJSON *example;
    cJSON_ArrayForEach(example, examples)
    {
        assert_true(n < EXAMPLES);
        q3_status st = collate_example(&rows[n], &c, example, training);
        if (st != Q3_OK) {
            failures++;
            assert_int_equal(st, Q3_ERR_DATA);
            assert_memory_equal(q3_error(), PREFIX "vectors:1: ", strlen(PREFIX "vectors:1: "));
            if (lost)
                assert_non_null(strstr(q3_error(), "no supervised token"));
            rows[n] = (q3_row){ .skipped = true };
        }
        order[n] = &rows[n];
        n++;
    }
    if (failures != (refused || lost))
        fail_msg("%s: %d rows were refused: %s", name, failures, q3_error());
    if (!refused)
        same_result(name, cJSON_GetObjectItem(line, "result"), &c, order, n, training);
}

static void all_vectors_of_the_reference_collator_are_met(void **state)
{
    (void)state;
    char *text;
    size_t size;
    int cases = 0;
    assert_int_equal(
        q3_file_read(&text, &size, "tests/golden/vectors/qwen3-vl-collator.jsonl", (size_t)1 << 24), Q3_OK);
    for (char *next, *at = strtok_r(text, "\n", &next); at; at = strtok_r(NULL, "\n", &next), cases++) {
        cJSON *line = cJSON_Parse(at);
        assert_non_null(line);
        run_case(line);
        cJSON_Delete(line);
        q3_arena_reset(&mem);
    }
    q3_free(text);
    assert_int_equal(cases, 27);
}

/* ---- whole batches from files ---- */

static q3_collator training_collator(void)
{
    q3_collator c = { .system_prompt = "You judge posts." };
    assert_int_equal(q3_collator_init(&c, TRAINING "/model", small, 358, 359, 384), Q3_OK);
    return c;
}

static void same_tensor(const q3_safetensors *f, const char *name, const void *got, int64_t rows,
                        int64_t columns, size_t element)
{
    const q3_st_tensor *t = q3_safetensors_find(f, name);
    assert_non_null(t);
    assert_int_equal(t->ndim, 2);
    if (t->shape[0] != rows || t->shape[1] != columns)
        fail_msg("%s is [%d, %d], not %s", name, (int)rows, (int)columns, q3_st_shape(t));
    assert_int_equal(t->bytes, (size_t)(rows * columns) * element);
    assert_memory_equal(got, t->data, t->bytes);
}

static void same_file(const char *path, const char *data, int n, bool training)
{
    q3_safetensors *f;
    q3_dataset *ds;
    q3_row rows[EXAMPLES];
    const q3_row *order[EXAMPLES];
    const q3_collator c = training_collator();
    assert_int_equal(q3_safetensors_open(&f, path), Q3_OK);
    assert_int_equal(q3_dataset_open(&ds, data, &(q3_data_keys){ .need_target = training }), Q3_OK);
    for (int i = 0; i < n; i++) {
        q3_sample s;
        assert_int_equal(q3_dataset_get(&s, ds, i), Q3_OK);
        if (q3_collate_row(&rows[i], &mem, &c, &s, training) != Q3_OK)
            fail_msg("%s", q3_error());
        assert_false(rows[i].seam);
        order[i] = &rows[i];
        q3_sample_free(&s);
    }
    q3_padded p;
    assert_int_equal(q3_pad(&p, &mem, &c, order, n, !training), Q3_OK);
    same_tensor(f, "input_ids", p.input_ids, p.rows, p.length, 8);
    same_tensor(f, "attention_mask", p.attention_mask, p.rows, p.length, 8);
    same_tensor(f, "image_grid_thw", p.image_grid_thw, p.n_images, 3, 8);
    same_tensor(f, "pixel_values", p.pixel_values, p.n_patches, p.patch_width, 4); // bit for bit, JPEGs too
    if (training)
        same_tensor(f, "labels", p.labels, p.rows, p.length, 8);
    assert_true((q3_safetensors_find(f, "labels") != NULL) == training && (p.labels != NULL) == training);
    same_batches(&c, &p, order, n);
    q3_dataset_close(ds);
    q3_safetensors_close(f);
}

static void a_training_batch_equals_the_reference_in_every_tensor(void **state)
{
    (void)state;
    same_file(TRAINING "/collated-train-first4.safetensors", TRAINING "/data/train.jsonl", 4, true);
}

static void a_prompt_batch_equals_the_reference_in_every_tensor(void **state)
{
    (void)state;
    same_file(TRAINING "/collated-eval-first3.safetensors", TRAINING "/data/eval.jsonl", 3, false);
}

static void same_ids(const int32_t *got, int64_t n, const cJSON *want, const char *where)
{
    if (n != cJSON_GetArraySize(want))
        fail_msg("%s: %d tokens, want %d", where, (int)n, cJSON_GetArraySize(want));
    const cJSON *item;
    cJSON_ArrayForEach(item, want) assert_int_equal(*got++, item->valueint);
}

/* Samples with a picture and without, one by one (tests/golden/make_mixed_golden.py). */
static void a_row_without_a_picture_equals_the_reference(void **state)
{
    (void)state;
    q3_json golden;
    q3_dataset *ds;
    const q3_collator c = training_collator();
    const q3_data_keys keys = { .need_target = true, .allow_text_only = true };
    assert_int_equal(q3_json_open(&golden, TRAINING "/mixed.json", 1 << 24), Q3_OK);
    assert_int_equal(q3_dataset_open(&ds, TRAINING "/data/mixed.jsonl", &keys), Q3_OK);
    const cJSON *want = cJSON_GetObjectItem(golden.root, "rows")->child;
    int texts = 0;
    for (int64_t i = 0; i < q3_dataset_size(ds); i++, want = want->next) {
        q3_sample s;
        q3_row row;
        assert_int_equal(q3_dataset_get(&s, ds, i), Q3_OK);
        assert_int_equal(q3_collate_row(&row, &mem, &c, &s, true), Q3_OK);
        same_ids(row.ids, row.n, cJSON_GetObjectItem(want, "input_ids"), s.where);
        same_ids(row.labels, row.n, cJSON_GetObjectItem(want, "labels"), s.where);
        texts += row.n_pictures == 0;
        q3_sample_free(&s);
    }
    assert_int_equal(texts, 5);
    q3_dataset_close(ds);
    q3_json_close(&golden);
}

/* ---- conversations (tests/golden/make_conversation_golden.py) ---- */

static q3_collator tiny_collator(bool last_only)
{
    q3_collator c = training_collator();
    c.last_only = last_only;
    assert_int_equal(q3_vision_spec_limit(&c.vision, 1024, 16384), Q3_OK);
    return c;
}

static void same_grids(const q3_row *row, const cJSON *want)
{
    assert_int_equal(row->n_pictures, cJSON_GetArraySize(want));
    for (int i = 0; i < 3 * row->n_pictures; i++)
        assert_int_equal(row->pictures[i / 3].grid[i % 3],
                         cJSON_GetArrayItem(cJSON_GetArrayItem(want, i / 3), i % 3)->valueint);
}

static void same_positions(const q3_collator *c, const q3_row *row, const cJSON *want, const char *where)
{
    q3_batch b;
    const q3_row *rows[] = { row };
    assert_int_equal(q3_pack(&b, &mem, c, rows, 1), Q3_OK);
    for (int axis = 0; axis < 3; axis++)
        same_ids(b.positions + axis * row->n, row->n, cJSON_GetArrayItem(want, axis), where);
}

static void compare_conversation(const q3_sample *s, const cJSON *want)
{
    q3_row row, layout, last, prompt;
    const q3_collator all = tiny_collator(false), one = tiny_collator(true);
    if (q3_collate_row(&row, &mem, &all, s, true) != Q3_OK)
        fail_msg("%s", q3_error());
    same_ids(row.ids, row.n, cJSON_GetObjectItem(want, "input_ids"), s->where);
    same_ids(row.labels, row.n, cJSON_GetObjectItem(want, "labels"), s->where);
    same_grids(&row, cJSON_GetObjectItem(want, "image_grid_thw"));
    same_positions(&all, &row, cJSON_GetObjectItem(want, "positions"), s->where);
    assert_int_equal(q3_collate_layout(&layout, &mem, &all, s, true), Q3_OK);
    assert_true(layout.n == row.n && layout.n_supervised == row.n_supervised &&
                q3_row_patches(&layout) == q3_row_patches(&row));
    assert_int_equal(q3_collate_row(&last, &mem, &one, s, true), Q3_OK);
    same_ids(last.labels, last.n, cJSON_GetObjectItem(want, "labels_last"), s->where);
    assert_int_equal(q3_collate_row(&prompt, &mem, &all, s, false), Q3_OK);
    same_ids(prompt.ids, prompt.n, cJSON_GetObjectItem(want, "prompt"), s->where);
    assert_true(prompt.n == row.prompt_n && q3_row_patches(&prompt) == q3_row_patches(&row));
}

static void conversations_equal_the_reference(void **state)
{
    (void)state;
    q3_json golden;
    q3_dataset *ds;
    const q3_data_keys keys = { .need_target = true, .allow_text_only = true };
    assert_int_equal(q3_json_open(&golden, TRAINING "/conversations.json", 1 << 24), Q3_OK);
    assert_int_equal(q3_dataset_open(&ds, TRAINING "/data/conversations.jsonl", &keys), Q3_OK);
    const cJSON *want = cJSON_GetObjectItem(golden.root, "rows")->child;
    int pictures = 0;
    for (int64_t i = 0; i < q3_dataset_size(ds); i++, want = want->next) {
        q3_sample s;
        if (q3_dataset_get(&s, ds, i) != Q3_OK)
            fail_msg("%s", q3_error());
        compare_conversation(&s, want);
        pictures += s.n_pictures;
        q3_sample_free(&s);
    }
    assert_null(want);
    assert_int_equal(pictures, 13);
    q3_dataset_close(ds);
    q3_json_close(&golden);
}

/* Its rows are those of the same sample with picture, query and target, whose text has nothing to strip. */
static void a_conversation_of_one_turn_is_the_single_form(void **state)
{
    (void)state;
    static const char lines[] =
        "{\"image\": \"000.jpg\", \"query\": \"so nice\", \"target_json\": \"yes\"}\n"
        "{\"images\": [\"000.jpg\"], \"messages\": [{\"role\": \"user\", \"content\": [{\"type\": "
        "\"image\"}, "
        "{\"type\": \"text\", \"text\": \"so nice\"}]}, {\"role\": \"assistant\", \"content\": \"yes\"}]}\n";
    q3_jsonl *file;
    q3_row rows[2];
    const q3_collator c = tiny_collator(false);
    assert_int_equal(q3_jsonl_open_memory(&file, lines, sizeof lines - 1, TRAINING "/data/images/x.jsonl",
                                          &(q3_data_keys){ .need_target = true }),
                     Q3_OK);
    for (int i = 0; i < 2; i++) {
        q3_sample s;
        assert_int_equal(q3_jsonl_get(&s, file, i), Q3_OK);
        assert_int_equal(q3_collate_row(&rows[i], &mem, &c, &s, true), Q3_OK);
        q3_sample_free(&s);
    }
    assert_true(rows[0].n == rows[1].n && rows[0].prompt_n == rows[1].prompt_n);
    assert_memory_equal(rows[0].ids, rows[1].ids, (size_t)rows[0].n * sizeof *rows[0].ids);
    assert_memory_equal(rows[0].labels, rows[1].labels, (size_t)rows[0].n * sizeof *rows[0].labels);
    q3_jsonl_close(file);
}

/* ---- length ---- */

static q3_sample post(const char *target)
{
    return (q3_sample){ .where = (char *)"train.jsonl:7",
                        .query = (char *)"  i love waiting <num> min for a cab .  ",
                        .target = (char *)target };
}

#define TARGET "{\"label\": \"sarcastic\"}" // 75 tokens of prompt with the picture below, 85 in all

static q3_status collate(q3_row *out, const q3_collator *c, const q3_sample *s)
{
    q3_patches p = blank(c, 480, 640);
    return q3_collate_text(out, &mem, c, s, &p, 1, true);
}

static void refused(const q3_collator *c, const q3_sample *s, const char *part)
{
    q3_row row;
    q3_fail(Q3_ERR_FAIL, "an old sentence");
    assert_int_equal(collate(&row, c, s), Q3_ERR_DATA);
    assert_memory_equal(q3_error(), PREFIX "train.jsonl:7: ", strlen(PREFIX "train.jsonl:7: "));
    if (!strstr(q3_error(), part))
        fail_msg("\"%s\" does not say \"%s\"", q3_error(), part);
}

/* What a policy makes of a maximal length: the tokens kept, 0 for skipped, -1 for refused. */
static int64_t kept(q3_overflow policy, int64_t max_length)
{
    q3_row row;
    q3_collator c = strict();
    q3_sample s = post(TARGET);
    c.on_overflow = policy;
    c.max_length = max_length;
    if (collate(&row, &c, &s) != Q3_OK)
        return -1;
    if (row.skipped) {
        assert_true(!row.n && !row.ids && !row.n_pictures);
        return 0;
    }
    assert_true(row.truncated == (row.n < 85) && row.prompt_n == 75 && row.n_supervised == row.n - 75);
    return row.n;
}

static void the_policies_decide_what_becomes_of_long_samples(void **state)
{
    (void)state;
    static const struct {
        int64_t max_length, error, skip, truncate;
    } table[] = {
        { 0, 85, 85, 85 }, { 86, 85, 85, 85 }, { 85, 85, 85, 85 }, { 84, -1, 0, 84 }, { 83, -1, 0, 83 },
        { 76, -1, 0, 76 },                                                           // inside the target
        { 75, -1, 0, -1 }, { 67, -1, 0, -1 },                                        // no target left
        { 57, -1, 0, -1 }, { 20, -1, 0, -1 },  { 3, -1, 0, -1 },   { 1, -1, 0, -1 }, // in or before the picture
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        assert_int_equal(kept(Q3_OVERFLOW_ERROR, table[i].max_length), table[i].error);
        assert_int_equal(kept(Q3_OVERFLOW_SKIP, table[i].max_length), table[i].skip);
        assert_int_equal(kept(Q3_OVERFLOW_TRUNCATE, table[i].max_length), table[i].truncate);
        q3_arena_reset(&mem);
    }
}

static void a_refusal_for_length_says_which_token_would_be_lost(void **state)
{
    (void)state;
    const q3_sample s = post(TARGET);
    q3_collator c = strict();
    c.max_length = 84;
    refused(&c, &s, "85 tokens (prompt 75) and collator.max_length is 84: its answer would be cut");
    c.on_overflow = Q3_OVERFLOW_TRUNCATE;
    c.max_length = 75;
    refused(&c, &s, "no supervised token would be left");
    c.max_length = 40;
    refused(&c, &s, "the picture's tokens");
}

static void a_prompt_is_never_cut(void **state)
{
    (void)state;
    q3_collator c = strict();
    c.max_length = 20;
    c.on_overflow = Q3_OVERFLOW_TRUNCATE;
    q3_row row;
    q3_sample s = post(NULL);
    q3_patches p = blank(&c, 480, 640);
    assert_int_equal(q3_collate_text(&row, &mem, &c, &s, &p, 1, false), Q3_OK);
    assert_true(row.n == 75 && row.prompt_n == 75 && !row.labels && !row.truncated);
    assert_int_equal(row.ids[74], 198); // "<|im_start|>assistant\n"
    assert_int_equal(row.ids[72], IM_START);
}

/* The conversation with number `id` of the golden data, whose rows have 84, 95 ... tokens. */
static q3_sample conversation(int id)
{
    q3_dataset *ds;
    q3_sample s;
    const q3_data_keys keys = { .allow_text_only = true };
    assert_int_equal(q3_dataset_open(&ds, TRAINING "/data/conversations.jsonl", &keys), Q3_OK);
    assert_int_equal(q3_dataset_get(&s, ds, id - 1), Q3_OK);
    q3_dataset_close(ds);
    return s;
}

/* Number 1: 84 tokens, the last answer begins at 76, the pictures end at 36. */
static void of_a_long_conversation_only_the_last_answer_is_cut(void **state)
{
    (void)state;
    q3_row row;
    q3_collator c = tiny_collator(false);
    q3_sample s = conversation(1);
    c.max_length = 77;
    assert_int_equal(q3_collate_row(&row, &mem, &c, &s, true), Q3_ERR_DATA);
    assert_non_null(strstr(q3_error(), "conversations.jsonl:1: the sample has 84 tokens (prompt 76) and "
                                       "collator.max_length is 77: its answer would be cut"));
    c.on_overflow = Q3_OVERFLOW_SKIP;
    assert_int_equal(q3_collate_row(&row, &mem, &c, &s, true), Q3_OK);
    assert_true(row.skipped && !row.n && !row.n_pictures);
    c.on_overflow = Q3_OVERFLOW_TRUNCATE;
    assert_int_equal(q3_collate_row(&row, &mem, &c, &s, true), Q3_OK);
    assert_true(row.truncated && row.n == 77 && row.labels[76] == row.ids[76] && row.n_supervised == 17 - 7);
    c.max_length = 76;
    assert_int_equal(q3_collate_row(&row, &mem, &c, &s, true), Q3_ERR_DATA);
    assert_non_null(strstr(q3_error(), "the cut would fall before its last answer"));
    c.max_length = 30;
    assert_int_equal(q3_collate_row(&row, &mem, &c, &s, true), Q3_ERR_DATA);
    assert_non_null(strstr(q3_error(), "the picture's tokens"));
    q3_sample_free(&s);
}

static void control_tokens_in_a_turn_are_refused_by_its_number(void **state)
{
    (void)state;
    q3_row row;
    q3_collator c = tiny_collator(false);
    c.lenient = true; // a turn would begin where none is
    q3_sample s = conversation(4);
    cJSON *part = cJSON_GetObjectItem(cJSON_GetArrayItem(s.messages, 2), "content")->child;
    assert_non_null(cJSON_SetValuestring(cJSON_GetObjectItem(part, "text"), "<|im_start|>"));
    assert_int_equal(q3_collate_row(&row, &mem, &c, &s, true), Q3_ERR_DATA);
    assert_non_null(strstr(q3_error(),
                           "conversations.jsonl:4: message 3 (user): the text contains the control token "
                           "<|im_start|>"));
    q3_sample_free(&s);
}

/* 13 pictures of at most 16384 pixels; without a limit of tokens eight of twice the bound are decoded. */
static void more_pictures_than_there_is_room_for_are_refused(void **state)
{
    (void)state;
    q3_row row;
    q3_collator c = tiny_collator(false);
    q3_sample s = conversation(4);
    const q3_image_source one = { .path = (char *)TRAINING "/data/images/000.jpg" };
    q3_image_source many[90];
    c.max_length = 20; // of the training row; a prompt has no limit
    cJSON *content = cJSON_GetObjectItem(cJSON_GetArrayItem(s.messages, 0), "content");
    for (s.n_pictures = 0; s.n_pictures < 90; many[s.n_pictures++] = one)
        cJSON_AddItemToArray(content, cJSON_Parse("{\"type\": \"image\"}"));
    s.pictures = many;
    assert_int_equal(q3_collate_row(&row, &mem, &c, &s, false), Q3_ERR_DATA);
    assert_non_null(strstr(
        q3_error(), "conversations.jsonl:4: its 90 pictures have 1105920 pixels together, and 98304 are "
                    "possible; lower data.max_pixels"));
    s.pictures = NULL;
    s.n_pictures = 0;
    q3_sample_free(&s);
}

/* ---- what is not a sample ---- */

static void control_tokens_in_texts_are_refused_by_name(void **state)
{
    (void)state;
    q3_collator c = strict();
    q3_sample s = post("{\"t\": \"<|endoftext|>\"}");
    refused(&c, &s, "the target contains the control token <|endoftext|>");
    s = post("a<|im_end|>b");
    refused(&c, &s, "the target contains the control token <|im_end|>");
    s = post("<think>a</think><|im_start|>"); // behind tokens that may stand there
    refused(&c, &s, "the target contains the control token <|im_start|>");
    s = post(TARGET);
    s.query = (char *)"x <|image_pad|> y";
    refused(&c, &s, "the query contains the control token <|image_pad|>");
    s = post(TARGET);
    s.caption = (char *)"<|vision_start|>";
    refused(&c, &s, "the caption contains the control token <|vision_start|>");
    s = post(TARGET);
    s.system = (char *)"<|video_pad|>";
    refused(&c, &s, "the system prompt contains the control token <|video_pad|>");
    s = post(TARGET);
    c.system_prompt = "Look: <|image_pad|>";
    refused(&c, &s, "the system prompt contains the control token <|image_pad|>");
}

static void the_lenient_collator_still_refuses_placeholders(void **state)
{
    (void)state;
    q3_collator c = strict();
    c.lenient = true;
    q3_sample s = post("a<|im_end|><|image_pad|>");
    refused(&c, &s, "the target contains the control token <|image_pad|>");
    s = post(TARGET);
    s.query = (char *)"<|video_pad|>";
    refused(&c, &s, "the query contains the control token <|video_pad|>");
}

static void tokens_that_are_not_special_may_stand_in_an_answer(void **state)
{
    (void)state;
    q3_row row;
    const q3_collator c = strict();
    q3_sample s = post("<think>\nhm</think><tool_call>");
    assert_int_equal(collate(&row, &c, &s), Q3_OK);
    assert_int_equal(row.labels[75], 151667);
    assert_int_equal(row.labels[row.n - 3], 151657);
}

static void a_training_sample_without_target_is_refused(void **state)
{
    (void)state;
    q3_collator c = strict();
    q3_sample s = post(NULL);
    refused(&c, &s, "the target is empty");
    s = post("");
    refused(&c, &s, "the target is empty");
    c.lenient = true;
    s = post(NULL);
    refused(&c, &s, "the target is empty");
}

static void a_row_without_supervised_token_is_refused(void **state)
{
    (void)state;
    q3_collator c = strict();
    q3_sample s = post("<|endoftext|><|endoftext|>rest");
    c.lenient = true; // pads within the target are not trained
    c.max_length = 77;
    c.on_overflow = Q3_OVERFLOW_TRUNCATE;
    refused(&c, &s, "no supervised token is left");
}

static void ids_beyond_the_models_vocabulary_are_refused(void **state)
{
    (void)state;
    q3_collator c = strict();
    const q3_sample s = post(TARGET);
    c.vocab_size = IMAGE_PAD;
    refused(&c, &s, "token id 151655 is beyond the model's vocabulary of 151655");
    c.vocab_size = 20000;
    refused(&c, &s, "is beyond the model's vocabulary of 20000");
}

static void a_sample_without_picture_becomes_a_row_of_text(void **state)
{
    (void)state;
    q3_row row, with;
    q3_batch b;
    q3_padded p;
    const q3_collator c = strict();
    const q3_sample s = post(TARGET);
    assert_int_equal(q3_collate_row(&row, &mem, &c, &s, true), Q3_OK);
    assert_int_equal(collate(&with, &c, &s), Q3_OK);
    assert_true(row.n == with.n - 56 && !row.n_pictures && row.n_supervised == 10); // 54 pads, start and end
    const q3_row *order[] = { &row, &with, &row };
    assert_int_equal(q3_pack(&b, &mem, &c, order, 3), Q3_OK);
    assert_true(b.n_rows == 3 && b.n_images == 1 && b.n_image_rows == 54);
    assert_int_equal(b.image_rows[0], row.n + 4);
    assert_int_equal(q3_pad(&p, &mem, &c, order, 3, false), Q3_OK);
    same_batches(&c, &p, order, 3);
}

static void a_picture_that_cannot_be_used_names_its_sample(void **state)
{
    (void)state;
    q3_row row;
    const q3_collator c = strict();
    q3_sample s = post(TARGET);
    q3_image_source p = { .path = (char *)"tests/golden/no-such-picture.png" };
    s.pictures = &p;
    s.n_pictures = 1;
    assert_int_equal(q3_collate_row(&row, &mem, &c, &s, true), Q3_ERR_DATA);
    assert_memory_equal(q3_error(), PREFIX "train.jsonl:7: ", strlen(PREFIX "train.jsonl:7: "));
    assert_non_null(strstr(q3_error(), "no-such-picture.png"));
    p = (q3_image_source){ .bytes = (unsigned char *)"not a picture", .size = 13 };
    assert_int_equal(q3_collate_row(&row, &mem, &c, &s, true), Q3_ERR_DATA);
    assert_memory_equal(q3_error(), PREFIX "train.jsonl:7: ", strlen(PREFIX "train.jsonl:7: "));
    assert_null(strstr(q3_error() + strlen(PREFIX "train"), "train.jsonl:7")); // named once
    unsigned char *png;
    q3_image thin = { .width = 402, .height = 2, .rgb = calloc(402 * 2, 3) };
    assert_int_equal(q3_image_encode_png(&png, &p.size, &thin), Q3_OK);
    p.bytes = png;
    assert_int_equal(q3_collate_row(&row, &mem, &c, &s, true), Q3_ERR_DATA);
    assert_memory_equal(q3_error(), PREFIX "train.jsonl:7: ", strlen(PREFIX "train.jsonl:7: "));
    assert_non_null(strstr(q3_error(), "200")); // the aspect ratio
    q3_free(png);
    free(thin.rgb);
}

static void a_target_that_merges_with_the_prompt_is_marked(void **state)
{
    (void)state;
    q3_row row;
    const q3_collator c = strict();
    q3_sample s = post("\n{\"a\":1}");
    assert_int_equal(collate(&row, &c, &s), Q3_OK);
    assert_true(row.seam && row.ids[74] == 271); // "\n\n"; the rule of length stays
    s = post(" {\"a\":1}");
    assert_int_equal(collate(&row, &c, &s), Q3_OK);
    assert_false(row.seam);
}

/* ---- packing ---- */

static void skipped_rows_leave_no_trace_in_a_batch(void **state)
{
    (void)state;
    const q3_row skipped = { .skipped = true };
    q3_row row;
    q3_collator c = strict();
    const q3_sample s = post(TARGET);
    assert_int_equal(collate(&row, &c, &s), Q3_OK);
    const q3_row *order[] = { &skipped, &row, &skipped }, *none[] = { &skipped };
    q3_batch b;
    q3_padded p;
    assert_int_equal(q3_pack(&b, &mem, &c, order, 3), Q3_OK);
    assert_true(b.n_rows == 1 && b.n_tokens == 85 && b.n_images == 1 && b.labels);
    assert_int_equal(q3_pad(&p, &mem, &c, order, 3, false), Q3_OK);
    assert_true(p.rows == 1 && p.length == 85 && p.n_images == 1);
    assert_int_equal(q3_pack(&b, &mem, &c, none, 1), Q3_OK);
    assert_true(b.n_rows == 0 && b.n_tokens == 0 && b.n_images == 0);
}

static void a_padded_batch_from_outside_is_checked(void **state)
{
    (void)state;
    int64_t ids[] = { 1, 7, 7, 2, 1, 3, 0, 0 }, mask[] = { 1, 1, 1, 1, 1, 1, 0, 0 };
    int64_t labels[] = { -100, -100, -100, 2, -100, 3, -100, -100 }, grid[] = { 1, 2, 4 };
    float pixels[8] = { 0 };
    const q3_padded good = { .rows = 2,
                             .length = 4,
                             .input_ids = ids,
                             .attention_mask = mask,
                             .labels = labels,
                             .image_grid_thw = grid,
                             .n_images = 1,
                             .pixel_values = pixels,
                             .n_patches = 8,
                             .patch_width = 1 };
    q3_batch b;
    assert_int_equal(q3_unpad(&b, &mem, &good, 7, 8, 2), Q3_OK);
    assert_true(b.n_rows == 2 && b.n_tokens == 6 && b.row_begin[1] == 4 && b.n_image_rows == 2 &&
                b.image_rows[1] == 2);
    q3_padded bad = good;
    bad.n_patches = 4;
    assert_int_equal(q3_unpad(&b, &mem, &bad, 7, 8, 2), Q3_ERR_DATA);
    bad = good;
    bad.n_images = 0;
    bad.n_patches = 0;
    assert_int_equal(q3_unpad(&b, &mem, &bad, 7, 8, 2), Q3_ERR_DATA); // placeholders without a picture
    assert_int_equal(q3_unpad(&b, &mem, &good, 3, 8, 2), Q3_ERR_DATA);
    const int64_t wrong[][2] = { { 0, INT64_C(1) << 32 }, { 5, -1 } };
    for (int i = 0; i < 2; i++) {
        int64_t *value = &ids[wrong[i][0]], old = *value;
        *value = wrong[i][1];
        assert_int_equal(q3_unpad(&b, &mem, &good, 7, 8, 2), Q3_ERR_DATA);
        assert_non_null(strstr(q3_error(), "input_ids["));
        *value = old;
    }
    labels[3] = -5;
    assert_int_equal(q3_unpad(&b, &mem, &good, 7, 8, 2), Q3_ERR_DATA);
    labels[3] = 2;
    const int64_t grids[][3] = {
        { 1, 3, 4 }, { 0, 2, 4 }, { -1, -2, 4 }, { 2, 2, 2 }, { 1, INT64_C(1) << 40, 4 }
    };
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++) {
        memcpy(grid, grids[i], sizeof grid);
        q3_status st = q3_unpad(&b, &mem, &good, 7, 8, 2);
        assert_int_equal(st, i == 3 ? Q3_OK : Q3_ERR_DATA); // two frames of one token are two tokens as well
    }
}

/* ---- the collator itself ---- */

static void a_tokenizer_of_another_model_is_refused(void **state)
{
    (void)state;
    q3_collator c = { 0 };
    assert_int_equal(q3_collator_init(&c, TRAINING "/model", qwen3, 358, VIDEO_PAD, VOCAB), Q3_ERR_MODEL);
    assert_non_null(
        strstr(q3_error(), "<|image_pad|> is token 151655 in tokenizer.json and 358 in config.json"));
    assert_int_equal(q3_collator_init(&c, TRAINING "/model", qwen3, IMAGE_PAD, 5, VOCAB), Q3_ERR_MODEL);
    assert_int_equal(q3_collator_init(&c, TRAINING "/model", qwen3, -1, -1, VOCAB), Q3_OK);
    assert_true(c.pad_id == PAD && c.image_id == IMAGE_PAD && c.video_id == VIDEO_PAD &&
                c.vocab_size == VOCAB);
    assert_int_equal(q3_collator_init(&c, TRAINING "/data", qwen3, -1, -1, VOCAB),
                     Q3_ERR_MODEL); // no processor there
}

/* A copy of the small tokenizer whose pad_token is `pad`. */
static q3_tokenizer *tokenizer_with_pad(const char *pad)
{
    const char *dir = getenv("Q3_TEST_DIR");
    assert_non_null(dir);
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    char *to = q3_path_join(dir, "tokenizer.json"), *config = q3_path_join(dir, "tokenizer_config.json"),
         *text;
    size_t size;
    assert_int_equal(q3_file_copy(to, TRAINING "/model/tokenizer.json"), Q3_OK);
    assert_int_equal(q3_file_read(&text, &size, TRAINING "/model/tokenizer_config.json", 1 << 20), Q3_OK);
    cJSON *root = cJSON_Parse(text);
    cJSON_ReplaceItemInObject(root, "pad_token", cJSON_CreateString(pad));
    char *changed = cJSON_Print(root);
    assert_int_equal(q3_file_write(config, changed, strlen(changed)), Q3_OK);
    q3_tokenizer *t;
    assert_int_equal(q3_tokenizer_open(&t, dir), Q3_OK);
    cJSON_free(changed);
    cJSON_Delete(root);
    q3_free(text);
    q3_free(to);
    q3_free(config);
    return t;
}

static void a_pad_token_that_is_the_end_of_an_answer_is_refused(void **state)
{
    (void)state;
    q3_collator c = { 0 };
    q3_tokenizer *t = tokenizer_with_pad("<|im_end|>");
    assert_int_equal(q3_collator_init(&c, TRAINING "/model", t, 358, 359, 384), Q3_ERR_MODEL);
    assert_non_null(strstr(q3_error(), "the pad token is <|im_end|>"));
    q3_tokenizer_close(t);
    t = tokenizer_with_pad("<|endoftext|>");
    assert_int_equal(q3_collator_init(&c, TRAINING "/model", t, 358, 359, 384), Q3_OK);
    q3_tokenizer_close(t);
}

/* Every request for memory fails once; each failure is a status, and nothing leaks (the sanitizer looks). */
static void running_out_of_memory_is_a_status(void **state)
{
    (void)state;
    const q3_collator c = training_collator();
    q3_dataset *ds;
    q3_sample s;
    q3_row row;
    assert_int_equal(q3_dataset_open(&ds, TRAINING "/data/train.jsonl", NULL), Q3_OK);
    assert_int_equal(q3_dataset_get(&s, ds, 0), Q3_OK);
    q3_status st = Q3_ERR_MEMORY;
    int64_t n = 0;
    while (st != Q3_OK) {
        q3_arena_reset(&mem);
        q3_heap_fail_at(++n);
        st = q3_collate_row(&row, &mem, &c, &s, true);
        q3_heap_fail_at(0);
        if (st != Q3_OK)
            assert_memory_equal(q3_error(), PREFIX, strlen(PREFIX));
        assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
    }
    assert_true(n > 5);
    q3_sample_free(&s);
    q3_dataset_close(ds);
}

#define T(name) cmocka_unit_test_teardown(name, reset)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(all_vectors_of_the_reference_collator_are_met),
        T(a_training_batch_equals_the_reference_in_every_tensor),
        T(a_prompt_batch_equals_the_reference_in_every_tensor),
        T(a_row_without_a_picture_equals_the_reference),
        T(conversations_equal_the_reference),
        T(a_conversation_of_one_turn_is_the_single_form),
        T(the_policies_decide_what_becomes_of_long_samples),
        T(a_refusal_for_length_says_which_token_would_be_lost),
        T(a_prompt_is_never_cut),
        T(of_a_long_conversation_only_the_last_answer_is_cut),
        T(control_tokens_in_a_turn_are_refused_by_its_number),
        T(more_pictures_than_there_is_room_for_are_refused),
        T(control_tokens_in_texts_are_refused_by_name),
        T(the_lenient_collator_still_refuses_placeholders),
        T(tokens_that_are_not_special_may_stand_in_an_answer),
        T(a_training_sample_without_target_is_refused),
        T(a_row_without_supervised_token_is_refused),
        T(ids_beyond_the_models_vocabulary_are_refused),
        T(a_sample_without_picture_becomes_a_row_of_text),
        T(a_picture_that_cannot_be_used_names_its_sample),
        T(a_target_that_merges_with_the_prompt_is_marked),
        T(skipped_rows_leave_no_trace_in_a_batch),
        T(a_padded_batch_from_outside_is_checked),
        T(a_tokenizer_of_another_model_is_refused),
        T(a_pad_token_that_is_the_end_of_an_answer_is_refused),
        T(running_out_of_memory_is_a_status),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
