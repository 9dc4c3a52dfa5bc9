/* Orders from several threads, answered by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "tests/support/serve.h"

static q3_serve_bed bed;

/* An owner that sleeps on a condition. */
typedef struct owner {
    q3_order *order;
    pthread_mutex_t lock;
    pthread_cond_t news;
    bool asleep;
} owner;

static void fall_asleep(void *arg)
{
    owner *w = arg;
    pthread_mutex_lock(&w->lock);
    w->asleep = true;
    pthread_mutex_unlock(&w->lock);
}

static void wake_up(void *arg)
{
    owner *w = arg;
    pthread_mutex_lock(&w->lock);
    w->asleep = false;
    pthread_cond_signal(&w->news);
    pthread_mutex_unlock(&w->lock);
}

/* An order of n tasks that continue a text, not yet submitted. A form of `length` letters makes them long. */
static void make_order(owner *w, int n, const char *text, const char *form)
{
    *w = (owner){ .lock = PTHREAD_MUTEX_INITIALIZER, .news = PTHREAD_COND_INITIALIZER };
    const q3_generation_config *g = &bed.session.model.config.generation;
    const q3_message message = { .role = "user", .text = text };
    assert_int_equal(q3_order_create(&w->order, n), Q3_OK);
    q3_task *first = q3_order_task(w->order, 0);
    assert_int_equal(q3_prompt_make(&first->prompt, q3_order_memory(w->order), &bed.session.prompter,
                                    &message, 1, NULL, 0),
                     Q3_OK);
    for (int i = 0; i < n; i++) {
        q3_task *t = q3_order_task(w->order, i);
        *t = (q3_task){ .prompt = first->prompt,
                        .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 },
                        .number = (uint32_t)i,
                        .max_new_tokens = 1000,
                        .logprobs = -1 };
        if (form &&
            q3_constraint_regex(&t->constraint, bed.session.tokenizer, g->eos, g->n_eos, form) != Q3_OK)
            fail_msg("%s", q3_error());
    }
}

static q3_admission submit(owner *w)
{
    return q3_service_submit(bed.service, w->order, 0, &(q3_waiter){ fall_asleep, wake_up, w });
}

/* The next event; NULL when all have come. */
static q3_event *next(owner *w)
{
    bool done;
    for (;;) {
        q3_event *e = q3_order_next(w->order, false, &done);
        if (e || done)
            return e;
        pthread_mutex_lock(&w->lock);
        while (w->asleep)
            pthread_cond_wait(&w->news, &w->lock);
        pthread_mutex_unlock(&w->lock);
    }
}

/* The text of a task, and its end in *end; the others' events are dropped. */
static void read_all(q3_text *texts, q3_event *ends, owner *w)
{
    for (q3_event *e; (e = next(w)) != NULL; q3_event_free(e)) {
        if (e->text.size)
            q3_text_append(&texts[e->task], e->text.data, e->text.size);
        if (e->ended)
            ends[e->task] = (q3_event){ .finish = e->finish, .status = e->status, .timing = e->timing };
    }
}

static void an_order_is_answered(void **state)
{
    (void)state;
    owner w;
    q3_text text = { 0 };
    q3_event end = { 0 };
    make_order(&w, 1, "this is wonderful", "[ab]{40}");
    assert_int_equal(submit(&w), Q3_ADMITTED);
    read_all(&text, &end, &w);
    assert_int_equal(text.size, 40);
    assert_int_equal(end.finish, Q3_FINISH_STOP);
    assert_true(end.timing.output_tokens > 0 && end.timing.first_token > 0);
    q3_text_free(&text);
    q3_order_close(w.order);
    q3_serve_expect_idle(&bed);
}

static void tasks_of_an_order_share_their_prompt(void **state)
{
    (void)state;
    owner w;
    q3_text texts[3] = { { 0 } };
    q3_event ends[3] = { { 0 } };
    make_order(&w, 3,
               "a text that fills more than one block of the cache, for it is long enough to do so by far",
               "[ab]{9}");
    assert_int_equal(submit(&w), Q3_ADMITTED);
    read_all(texts, ends, &w);
    int64_t prompt = ends[0].timing.prompt_tokens;
    assert_true(prompt > Q3_ENGINE_BLOCK);
    for (int i = 1; i < 3; i++) {
        assert_true(ends[i].timing.cached_tokens >= prompt - Q3_ENGINE_BLOCK);
        assert_string_equal(texts[i].data, texts[0].data);
    }
    for (int i = 0; i < 3; i++)
        q3_text_free(&texts[i]);
    q3_order_close(w.order);
}

static const char *const questions[2] = { "this is wonderful", "no seats left" };
static const char *const forms[2] = { "[a-m]{60}", "[n-z]{60}" };

static void *ask(void *arg)
{
    owner w;
    q3_event end = { 0 };
    q3_text *text = arg;
    int i = text->capacity == 1; // which question, told in an empty text
    text->capacity = 0;
    make_order(&w, 1, questions[i], forms[i]);
    assert_int_equal(submit(&w), Q3_ADMITTED);
    read_all(text, &end, &w);
    q3_order_close(w.order);
    return NULL;
}

static void orders_at_once_are_not_mixed(void **state)
{
    (void)state;
    q3_text alone[2] = { { 0 }, { .capacity = 1 } }, together[2] = { { 0 }, { .capacity = 1 } };
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        ask(&alone[i]);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask, &together[i]), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(alone[i].size, 60);
        assert_string_equal(together[i].data, alone[i].data);
        q3_text_free(&alone[i]);
        q3_text_free(&together[i]);
    }
}

static int64_t cancelled_so_far(void)
{
    q3_service_stats stats;
    q3_service_stats_of(&stats, bed.service);
    return stats.cancelled;
}

/* A machine under load may let the answer end before it is closed; not every time. */
static void a_closed_order_gives_its_blocks_back(void **state)
{
    (void)state;
    owner w;
    int64_t before = cancelled_so_far();
    for (int i = 0; i < 10 && cancelled_so_far() == before; i++) {
        make_order(&w, 4, "this is wonderful", "[ab]{900}");
        assert_int_equal(submit(&w), Q3_ADMITTED);
        q3_event_free(next(&w));
        q3_order_close(w.order);
        q3_serve_expect_idle(&bed);
    }
    assert_true(cancelled_so_far() > before);
}

static void an_order_that_was_never_submitted_is_closed(void **state)
{
    (void)state;
    owner w;
    make_order(&w, 2, "this is wonderful", "[ab]*");
    q3_order_close(w.order);
    q3_order_close(NULL);
}

static void a_prompt_beyond_the_cache_fails_with_a_sentence(void **state)
{
    (void)state;
    owner w;
    char text[2601];
    memset(text, 'x', sizeof text - 1);
    for (size_t i = 1; i < sizeof text; i += 2)
        text[i] = ' ';
    text[sizeof text - 1] = 0;
    make_order(&w, 1, text, NULL);
    assert_true(q3_order_task(w.order, 0)->prompt.n > 2048);
    assert_int_equal(submit(&w), Q3_ADMITTED);
    q3_event *e = next(&w);
    assert_true(e->ended);
    assert_int_equal(e->finish, Q3_FINISH_FAILED);
    assert_int_equal(e->status, Q3_ERR_LIMIT);
    assert_non_null(e->sentence);
    q3_event_free(e);
    assert_null(next(&w));
    q3_order_close(w.order);
}

static void orders_beyond_the_room_are_refused(void **state)
{
    (void)state;
    owner w[3];
    for (int i = 0; i < 3; i++)
        make_order(&w[i], 1, "this is wonderful", "[ab]{900}");
    q3_serve_stop(&bed, 10);
    q3_serve_create(&bed, &(q3_service_options){ .max_running = 1, .max_waiting = 1 });
    assert_int_equal(submit(&w[0]), Q3_ADMITTED);
    assert_int_equal(submit(&w[1]), Q3_ADMITTED);
    assert_int_equal(submit(&w[2]), Q3_ADMISSION_FULL);
    assert_true(q3_service_retry_after(bed.service) >= 1);
    assert_null(next(&w[2]));
    q3_serve_run(&bed);
    for (int i = 0; i < 3; i++)
        q3_order_close(w[i].order);
    q3_serve_expect_idle(&bed);
}

static void time_ends_an_answer_as_length_does(void **state)
{
    (void)state;
    owner w;
    q3_text text = { 0 };
    q3_event end = { 0 };
    q3_serve_stop(&bed, 10);
    q3_serve_start(&bed, &(q3_service_options){ .max_seconds = 0.001 });
    make_order(&w, 1, "this is wonderful", "[ab]{900}");
    assert_int_equal(submit(&w), Q3_ADMITTED);
    read_all(&text, &end, &w);
    assert_int_equal(end.finish, Q3_FINISH_LENGTH);
    assert_true(text.size < 900);
    q3_text_free(&text);
    q3_order_close(w.order);
}

static void draining_answers_what_is_open_and_takes_no_more(void **state)
{
    (void)state;
    owner w, late;
    q3_text text = { 0 };
    q3_event end = { 0 };
    q3_serve_stop(&bed, 10);
    q3_serve_create(&bed, &(q3_service_options){ 0 });
    make_order(&w, 1, "this is wonderful", "[ab]{60}");
    make_order(&late, 1, "this is wonderful", "[ab]{60}");
    assert_int_equal(submit(&w), Q3_ADMITTED);
    q3_service_drain(bed.service, 30);
    assert_int_equal(submit(&late), Q3_ADMISSION_DRAINING);
    q3_serve_run(&bed);
    read_all(&text, &end, &w);
    assert_int_equal(text.size, 60);
    q3_order_close(w.order);
    q3_order_close(late.order);
    q3_text_free(&text);
    q3_serve_stop(&bed, 30);
    assert_true(bed.all_answered);
}

static void draining_ends_what_takes_too_long(void **state)
{
    (void)state;
    owner w;
    q3_text text = { 0 };
    q3_event end = { 0 };
    q3_serve_create(&bed, &(q3_service_options){ 0 });
    make_order(&w, 1, "this is wonderful", "[ab]{900}");
    assert_int_equal(submit(&w), Q3_ADMITTED);
    q3_service_drain(bed.service, 0);
    q3_serve_run(&bed);
    q3_serve_stop(&bed, 0);
    assert_false(bed.all_answered);
    read_all(&text, &end, &w);
    assert_int_equal(end.finish, Q3_FINISH_CANCELLED);
    q3_text_free(&text);
    q3_order_close(w.order);
    q3_serve_start(&bed, &(q3_service_options){ 0 });
}

static int open_bed(void **state)
{
    (void)state;
    q3_serve_open_model(&bed);
    q3_serve_start(&bed, &(q3_service_options){ 0 });
    return 0;
}

static int close_bed(void **state)
{
    (void)state;
    q3_serve_stop(&bed, 10);
    q3_serve_close_model(&bed);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_order_is_answered),
        cmocka_unit_test(tasks_of_an_order_share_their_prompt),
        cmocka_unit_test(orders_at_once_are_not_mixed),
        cmocka_unit_test(a_closed_order_gives_its_blocks_back),
        cmocka_unit_test(an_order_that_was_never_submitted_is_closed),
        cmocka_unit_test(a_prompt_beyond_the_cache_fails_with_a_sentence),
        cmocka_unit_test(orders_beyond_the_room_are_refused),
        cmocka_unit_test(time_ends_an_answer_as_length_does),
        cmocka_unit_test(draining_answers_what_is_open_and_takes_no_more),
        cmocka_unit_test(draining_ends_what_takes_too_long),
    };
    return cmocka_run_group_tests(tests, open_bed, close_bed);
}
