#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "collate/loader.h"
#include "core/file.h"
#include "core/log.h"
#include "core/rng.h"

#define TRAINING "tests/golden/training"

enum { SAMPLES = 22, BATCH = 4, PER_EPOCH = 6, BATCHES = 15 }; // 15: well into the third epoch

static q3_tokenizer *tokenizer;
static q3_dataset *data;
static q3_collator collator = { .system_prompt = "You judge posts." };

static int setup(void **state)
{
    (void)state;
    return q3_tokenizer_open(&tokenizer, TRAINING "/model") ||
           q3_collator_init(&collator, TRAINING "/model", tokenizer, 358, 359, 384) ||
           q3_dataset_open(&data, TRAINING "/data/train.jsonl", &(q3_data_keys){ .need_target = true });
}

static int teardown(void **state)
{
    (void)state;
    q3_dataset_close(data);
    q3_tokenizer_close(tokenizer);
    return 0;
}

static q3_loader_source source(bool shuffle)
{
    return (q3_loader_source){ .data = data,
                               .collator = &collator,
                               .n_samples = SAMPLES,
                               .batch_size = BATCH,
                               .training = true,
                               .shuffle = shuffle,
                               .seed = 42 };
}

/* ---- a batch as one number (FNV-1a over all of it) ---- */

static uint64_t hash(uint64_t h, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const uint8_t *)bytes)[i]) * 0x100000001B3;
    return h;
}

static uint64_t print_of(const q3_batch *b)
{
    uint64_t h = 0xCBF29CE484222325;
    h = hash(h, b->row_begin, (size_t)(b->n_rows + 1) * sizeof *b->row_begin);
    h = hash(h, b->ids, (size_t)b->n_tokens * sizeof *b->ids);
    h = hash(h, b->positions, (size_t)b->n_tokens * 3 * sizeof *b->positions);
    h = hash(h, b->grids, (size_t)b->n_images * 3 * sizeof *b->grids);
    h = hash(h, b->image_rows, (size_t)b->n_image_rows * sizeof *b->image_rows);
    h = hash(h, b->patches, (size_t)b->n_patches * 3 * 2 * 16 * 16 * sizeof *b->patches);
    return b->labels ? hash(h, b->labels, (size_t)b->n_tokens * sizeof *b->labels) : h;
}

/* The batch that the definition asks for, made here and now. */
static uint64_t defined(const q3_loader_source *s, int64_t number)
{
    int64_t order[SAMPLES], epoch = number / PER_EPOCH, begin = number % PER_EPOCH * s->batch_size;
    for (int64_t i = 0; i < SAMPLES; i++)
        order[i] = i;
    if (s->shuffle)
        q3_randperm(order, SAMPLES, s->seed + (uint64_t)epoch);
    q3_arena mem;
    q3_row rows[BATCH];
    const q3_row *list[BATCH];
    q3_batch b;
    int n = 0;
    assert_int_equal(q3_arena_create(&mem, "test", (size_t)1 << 28), Q3_OK);
    for (int64_t i = begin; i < begin + s->batch_size && i < s->n_samples; i++, n++) {
        q3_sample sample;
        assert_int_equal(q3_dataset_get(&sample, s->data, order[i]), Q3_OK);
        assert_int_equal(q3_collate_row(&rows[n], &mem, s->collator, &sample, s->training), Q3_OK);
        list[n] = &rows[n];
        q3_sample_free(&sample);
    }
    assert_int_equal(q3_pack(&b, &mem, s->collator, list, n), Q3_OK);
    uint64_t h = print_of(&b);
    q3_arena_destroy(&mem);
    return h;
}

static q3_loader *open_loader(const q3_loader_source *s, int64_t first, int threads, int ahead)
{
    q3_loader *l;
    assert_int_equal(q3_loader_create(&l, s, first, threads, ahead), Q3_OK);
    assert_non_null(l);
    return l;
}

static const q3_loaded *next(q3_loader *l)
{
    const q3_loaded *b = NULL;
    if (q3_loader_next(&b, l) != Q3_OK)
        fail_msg("%s", q3_error());
    return b;
}

/* ---- waiting ---- */

/* Holds the loader up for its first batch. */
static bool slow_at_first(const void *arg, int64_t number)
{
    (void)arg;
    if (number == 0)
        nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
    return false;
}

static void the_time_spent_waiting_is_counted(void **state)
{
    (void)state;
    q3_loader_source s = source(false);
    s.wanted = slow_at_first;
    q3_loader *l = open_loader(&s, 0, 1, 4);
    assert_true(q3_loader_waited(l) == 0);
    double start = q3_seconds();
    next(l);
    double waited = q3_loader_waited(l);
    assert_true(waited > 0.02 && waited <= q3_seconds() - start);
    nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL); // the others are made meanwhile
    next(l);
    assert_true(q3_loader_waited(l) - waited < 0.05);
    q3_loader_destroy(l);
}

/* ---- what a batch is ---- */

static void run_compare(const q3_loader_source *s, const uint64_t *want, int64_t first, int threads,
                        int ahead)
{
    q3_loader *l = open_loader(s, first, threads, ahead);
    for (int64_t i = first; i < BATCHES; i++) {
        const q3_loaded *b = next(l);
        assert_int_equal(b->epoch, i / PER_EPOCH);
        assert_int_equal(b->index, i % PER_EPOCH);
        if (print_of(&b->batch) != want[i])
            fail_msg("batch %d with %d threads, %d ahead, differs", (int)i, threads, ahead);
    }
    q3_loader_destroy(l);
}

static void a_batch_depends_on_seed_epoch_and_index_alone(void **state)
{
    (void)state;
    uint64_t want[BATCHES];
    const q3_loader_source s = source(true);
    for (int i = 0; i < BATCHES; i++)
        want[i] = defined(&s, i);
    assert_true(want[0] != want[PER_EPOCH]);
    run_compare(&s, want, 0, 1, 1);
    run_compare(&s, want, 0, 2, 2);
    run_compare(&s, want, 0, 4, 5);
    run_compare(&s, want, 0, 0, 0); // counts as 1 and 1
    run_compare(&s, want, 1, 2, 1); // a resumed run
    run_compare(&s, want, 5, 4, 3);
    run_compare(&s, want, 8, 1, 4);
    run_compare(&s, want, 14, 4, 8);
}

static void without_shuffle_each_epoch_is_the_file(void **state)
{
    (void)state;
    const q3_loader_source s = source(false);
    q3_loader *l = open_loader(&s, 0, 2, 3);
    for (int i = 0; i < 2 * PER_EPOCH; i++) {
        const q3_loaded *b = next(l);
        int n = i % PER_EPOCH == PER_EPOCH - 1 ? 2 : BATCH; // 22 samples: the last batch is short
        assert_int_equal(b->n_samples, n);
        assert_int_equal(b->batch.n_rows, n);
        assert_int_equal(b->n_skipped + b->n_truncated, 0);
        for (int k = 0; k < n; k++) {
            char where[64];
            snprintf(where, sizeof where, "train.jsonl:%d", i % PER_EPOCH * BATCH + k + 1);
            assert_non_null(strstr(b->samples[k].where, where));
            assert_true(b->rows[k].n == b->batch.row_begin[k + 1] - b->batch.row_begin[k]);
        }
    }
    q3_loader_destroy(l);
}

static void shuffled_epochs_are_torch_randperm_of_seed_plus_epoch(void **state)
{
    (void)state;
    // torch.randperm(8, generator=Generator().manual_seed(42)), and 43 (torch 2.11)
    static const int order[2][8] = { { 6, 3, 0, 7, 2, 1, 4, 5 }, { 4, 5, 7, 1, 3, 2, 6, 0 } };
    q3_loader_source s = source(true);
    s.n_samples = 8;
    s.batch_size = 3;
    assert_int_equal(q3_loader_per_epoch(&s), 3);
    q3_loader *l = open_loader(&s, 0, 2, 2);
    for (int i = 0; i < 6; i++) {
        const q3_loaded *b = next(l);
        assert_int_equal(b->n_samples, i % 3 == 2 ? 2 : 3);
        for (int k = 0; k < b->n_samples; k++) {
            const char *colon = strrchr(b->samples[k].where, ':');
            assert_int_equal(atoi(colon + 1), order[i / 3][i % 3 * 3 + k] + 1);
        }
    }
    q3_loader_destroy(l);
}

static void prompts_come_without_labels(void **state)
{
    (void)state;
    q3_loader_source s = source(false);
    s.training = false;
    q3_loader *l = open_loader(&s, 0, 1, 1);
    const q3_loaded *b = next(l);
    assert_true(b->batch.labels == NULL && b->batch.n_rows == BATCH);
    assert_int_equal(print_of(&b->batch), defined(&s, 0));
    q3_loader_destroy(l);
}

static void skipped_and_cut_samples_are_counted(void **state)
{
    (void)state;
    q3_collator strict = collator;
    q3_loader_source s = source(false);
    s.collator = &strict;
    strict.max_length = 10;
    strict.on_overflow = Q3_OVERFLOW_SKIP;
    q3_loader *l = open_loader(&s, 0, 1, 1);
    const q3_loaded *b = next(l);
    assert_true(b->n_samples == BATCH && b->n_skipped == BATCH && b->batch.n_rows == 0 &&
                b->batch.n_tokens == 0);
    q3_loader_destroy(l);
    l = open_loader(
        &(q3_loader_source){
            .data = data, .collator = &collator, .n_samples = 1, .batch_size = 1, .training = true },
        0, 1, 1);
    strict.max_length = next(l)->rows[0].n - 1;
    strict.on_overflow = Q3_OVERFLOW_TRUNCATE;
    q3_loader_destroy(l);
    s.n_samples = s.batch_size = 1;
    l = open_loader(&s, 0, 1, 1);
    b = next(l);
    assert_true(b->n_truncated == 1 && b->n_skipped == 0 && b->batch.n_tokens == strict.max_length);
    q3_loader_destroy(l);
}

/* ---- threads ---- */

static void a_batch_on_loan_is_left_alone(void **state)
{
    (void)state;
    const q3_loader_source s = source(true);
    for (int ahead = 1; ahead <= 3; ahead += 2) {
        q3_loader *l = open_loader(&s, 0, 4, ahead);
        for (int i = 0; i < 3; i++) {
            const q3_loaded *b = next(l);
            uint64_t print = print_of(&b->batch);
            usleep(30000); // the workers fill whatever they may
            assert_int_equal(print_of(&b->batch), print);
            assert_non_null(strstr(b->samples[0].where, "train.jsonl:"));
        }
        q3_loader_destroy(l);
    }
}

static void a_loader_may_be_destroyed_at_any_time(void **state)
{
    (void)state;
    const q3_loader_source s = source(true);
    q3_loader_destroy(NULL);
    for (int i = 0; i < 12; i++) {
        q3_loader *l = open_loader(&s, i, 1 + i % 4, 1 + i % 3);
        for (int k = 0; k < i % 3; k++)
            next(l);
        q3_loader_destroy(l);
    }
}

/* ---- failures ---- */

/* Data of n samples without pictures, the third of which has no target where `bad`. */
static q3_dataset *texts(int n, bool bad)
{
    const char *dir = getenv("Q3_TEST_DIR");
    assert_non_null(dir);
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    char *path = q3_path_join(dir, "texts.jsonl");
    q3_text t = { 0 };
    for (int i = 0; i < n; i++)
        q3_text_printf(&t, "{\"query\": \"post %d\", \"target_json\": \"%s\"}\n", i,
                       bad && i == 2 ? "<|im_end|>" : "{\\\"label\\\": 1}");
    assert_int_equal(q3_file_write(path, t.data, t.size), Q3_OK);
    q3_dataset *ds;
    assert_int_equal(q3_dataset_open(&ds, path, &(q3_data_keys){ .allow_text_only = true }), Q3_OK);
    q3_text_free(&t);
    q3_free(path);
    return ds;
}

static void a_bad_sample_is_named_and_the_next_batch_still_comes(void **state)
{
    (void)state;
    q3_dataset *ds = texts(6, true);
    for (int threads = 1; threads <= 4; threads *= 2) {
        q3_loader_source s = source(false);
        s.data = ds;
        s.n_samples = 6;
        s.batch_size = 1;
        q3_loader *l = open_loader(&s, 0, threads, 3);
        const q3_loaded *b;
        assert_non_null(strstr(next(l)->samples[0].where, "texts.jsonl:1"));
        assert_non_null(strstr(next(l)->samples[0].where, "texts.jsonl:2"));
        q3_fail(Q3_ERR_FAIL, "an old sentence");
        assert_int_equal(q3_loader_next(&b, l), Q3_ERR_DATA);
        assert_memory_equal(q3_error(), "Qwen3 collate failed: ", 22);
        assert_non_null(
            strstr(q3_error(), "texts.jsonl:3: the target contains the control token <|im_end|>"));
        assert_non_null(strstr(next(l)->samples[0].where, "texts.jsonl:4"));
        q3_loader_destroy(l);
    }
    q3_dataset_close(ds);
}

static void a_sample_that_cannot_be_read_is_a_status_too(void **state)
{
    (void)state;
    q3_loader_source s = source(false);
    q3_dataset *ds;
    assert_int_equal(q3_dataset_open(&ds, TRAINING "/data/train.jsonl",
                                     &(q3_data_keys){ .target_key = "answer", .need_target = true }),
                     Q3_OK);
    s.data = ds;
    q3_loader *l = open_loader(&s, 3, 2, 2);
    const q3_loaded *b;
    assert_int_equal(q3_loader_next(&b, l), Q3_ERR_DATA);
    assert_non_null(strstr(q3_error(), "train.jsonl:13"));
    assert_non_null(strstr(q3_error(), "answer"));
    q3_loader_destroy(l);
    q3_dataset_close(ds);
}

/* Each request for memory fails once, in the creation, in a worker or not at all: never a hang, never a
 * leak. */
static void running_out_of_memory_is_a_status(void **state)
{
    (void)state;
    q3_dataset *ds = texts(2, false);
    q3_loader_source s = source(true);
    s.data = ds;
    s.n_samples = 2;
    s.batch_size = 2;
    int64_t n = 0, requests, failures = 0;
    do {
        q3_loader *l;
        const q3_loaded *b;
        q3_heap_fail_at(++n);
        q3_status st = q3_loader_create(&l, &s, 0, 1, 1);
        for (int i = 0; i < 2 && st == Q3_OK; i++)
            st = q3_loader_next(&b, l);
        q3_loader_destroy(l);
        requests = q3_heap_requests();
        q3_heap_fail_at(0);
        if (st != Q3_OK && st != Q3_ERR_MEMORY)
            fail_msg("request %d: status %d: %s", (int)n, (int)st, q3_error());
        failures += st != Q3_OK;
    } while (requests >= n && n < 2000);
    assert_true(n < 2000 && failures > 10);
    q3_dataset_close(ds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_time_spent_waiting_is_counted),
        cmocka_unit_test(a_batch_depends_on_seed_epoch_and_index_alone),
        cmocka_unit_test(without_shuffle_each_epoch_is_the_file),
        cmocka_unit_test(shuffled_epochs_are_torch_randperm_of_seed_plus_epoch),
        cmocka_unit_test(prompts_come_without_labels),
        cmocka_unit_test(skipped_and_cut_samples_are_counted),
        cmocka_unit_test(a_batch_on_loan_is_left_alone),
        cmocka_unit_test(a_loader_may_be_destroyed_at_any_time),
        cmocka_unit_test(a_bad_sample_is_named_and_the_next_batch_still_comes),
        cmocka_unit_test(a_sample_that_cannot_be_read_is_a_status_too),
        cmocka_unit_test(running_out_of_memory_is_a_status),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
