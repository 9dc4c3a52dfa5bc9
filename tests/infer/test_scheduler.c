#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "infer/scheduler.h"
#include "infer/sequence.h"
#include "tests/support/golden_prompts.h"

enum { MOST = 32, MANY = 8, PLENTY = 1024 };

static const q3_sampling greedy = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 };
static const q3_sampling drawing = {
    .do_sample = true, .temperature = 0.8f, .top_k = 20, .top_p = 0.9f, .repetition_penalty = 1.1f, .seed = 5
};

/* What became of a request. */
typedef struct answer {
    int32_t ids[MOST];
    float logprobs[MOST];
    int64_t n;
    int64_t stop_at; // on_token says no at this token; 0: never
    int hidden_calls, ends;
    float hidden[256];
    q3_outcome_of_request outcome;
    char error[256];
    int *order, place; // the how-manieth end this was
} answer;

static bool on_token(void *arg, const q3_token_event *e)
{
    answer *a = arg;
    assert_int_equal(e->index, a->n);
    assert_int_equal(a->ends, 0);
    assert_true(a->n < MOST);
    a->logprobs[a->n] = e->logprob;
    a->ids[a->n++] = e->id;
    return a->n != a->stop_at;
}

static void on_hidden(void *arg, const float *hidden, int64_t n)
{
    answer *a = arg;
    assert_true(n <= 256);
    assert_int_equal(a->n, 0);
    memcpy(a->hidden, hidden, (size_t)n * sizeof *hidden);
    a->hidden_calls++;
}

static void on_end(void *arg, const q3_outcome_of_request *outcome)
{
    answer *a = arg;
    a->ends++;
    a->outcome = *outcome;
    a->place = a->order ? ++*a->order : 0;
    if (outcome->finish == Q3_FINISH_FAILED)
        strncpy(a->error, q3_error(), sizeof a->error - 1);
    q3_fail(Q3_ERR_FAIL, "what a callback does with the sentence is its own business");
}

static q3_request request_of(const q3_prompt *p, answer *a, int64_t max_new_tokens)
{
    *a = (answer){ .n = 0 };
    return (q3_request){ .prompt = *p,
                         .sampling = greedy,
                         .max_new_tokens = max_new_tokens,
                         .logprobs = -1,
                         .on_token = on_token,
                         .on_end = on_end,
                         .arg = a };
}

typedef struct desk {
    q3_engine *engine;
    q3_scheduler *s;
} desk;

static desk open_with(t_bed *t, int64_t tokens, int max_running, int64_t chunk)
{
    desk d;
    const q3_engine_options engine = { .kv_type = Q3_F32, .tokens = tokens };
    const q3_scheduler_options options = { .max_running = max_running, .chunk = chunk };
    if (q3_engine_create(&d.engine, &t->model, &t->ctx, NULL, &engine) != Q3_OK ||
        q3_scheduler_create(&d.s, d.engine, &options) != Q3_OK)
        fail_msg("%s", q3_error());
    return d;
}

/* Everything that was taken is given back. */
static void close_desk(desk *d)
{
    q3_scheduler_destroy(d->s);
    assert_int_equal(q3_engine_free_blocks(d->engine), q3_engine_blocks(d->engine));
    q3_engine_destroy(d->engine);
}

static uint64_t submit(desk *d, const q3_request *r)
{
    uint64_t ticket;
    if (q3_scheduler_submit(&ticket, d->s, r) != Q3_OK)
        fail_msg("%s", q3_error());
    return ticket;
}

static void step(desk *d, int times)
{
    for (int i = 0; i < times; i++)
        if (q3_scheduler_step(d->s) != Q3_OK)
            fail_msg("%s", q3_error());
}

static void run(desk *d)
{
    if (q3_scheduler_run(d->s) != Q3_OK)
        fail_msg("%s", q3_error());
    assert_true(q3_scheduler_idle(d->s));
}

static q3_scheduler_stats stats_of(const desk *d)
{
    q3_scheduler_stats s;
    q3_scheduler_stats_of(&s, d->s);
    return s;
}

static void assert_golden_so_far(const t_bed *t, const answer *a, int row, int64_t n)
{
    assert_int_equal(a->n, n);
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(a->ids[i], t->tokens[row * T_ANSWER + i]);
}

static void assert_golden(const t_bed *t, const answer *a, int row, int64_t n)
{
    assert_int_equal(a->ends, 1);
    assert_int_equal(a->outcome.timing.output_tokens, n);
    assert_golden_so_far(t, a, row, n);
}

static void assert_same(const answer *a, const answer *b)
{
    assert_int_equal(a->n, b->n);
    for (int64_t i = 0; i < a->n; i++)
        assert_int_equal(a->ids[i], b->ids[i]);
}

static void requests_that_come_one_after_the_other_get_their_own_answers(void **state)
{
    (void)state;
    static const int64_t chunks[] = { 0, 5, 1 };
    for (int m = 0; m < T_MODELS; m++)
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            t_bed *t = &t_beds[m];
            desk d = open_with(t, PLENTY, 0, chunks[c]);
            answer a[T_PROMPTS];
            for (int i = 0; i < T_PROMPTS; i++) {
                const q3_request r = request_of(&t->prompts[i], &a[i], T_ANSWER);
                submit(&d, &r);
                step(&d, 3);
            }
            run(&d);
            for (int i = 0; i < T_PROMPTS; i++) {
                assert_golden(t, &a[i], i, T_ANSWER);
                assert_int_equal(a[i].outcome.finish, Q3_FINISH_LENGTH);
                const q3_outcome_timing *w = &a[i].outcome.timing;
                assert_int_equal(w->prompt_tokens, t->prompts[i].n);
                assert_true(w->submitted <= w->admitted && w->admitted < w->first_token &&
                            w->first_token < w->ended);
            }
            close_desk(&d);
        }
}

static void drawn_answers_are_the_same_alone_and_together(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    answer together[MANY], alone, other;
    desk d = open_with(t, PLENTY, 0, 0), one = open_with(t, PLENTY, 0, 0);
    int differ = 0;
    for (int turn = 0; turn < 2; turn++)
        for (int i = 0; i < MANY; i++) {
            const q3_prompt p = t_text_prompt(t, i, 5 + 3 * i);
            q3_request r = request_of(&p, turn ? &alone : &together[i], T_ANSWER);
            r.sampling = drawing;
            r.number = 40 + (uint32_t)i;
            submit(turn ? &one : &d, &r);
            if (!turn)
                continue;
            if (!i)
                run(&d);
            run(&one);
            assert_int_equal(alone.n, T_ANSWER);
            assert_same(&alone, &together[i]);
            r.number = 7;
            r.arg = &other;
            other = (answer){ .n = 0 };
            submit(&one, &r);
            run(&one);
            for (int k = 0; k < T_ANSWER; k++)
                differ += other.ids[k] != alone.ids[k];
        }
    assert_true(differ > T_ANSWER);
    close_desk(&one);
    close_desk(&d);
}

static void leave_all(void *arg, float *logits, int64_t vocab)
{
    (void)arg;
    (void)logits;
    (void)vocab;
}

/* Requests with settings of their own, some by candidates alone; with a filter all see whole rows. */
static void draw(answer *a, t_bed *t, bool whole)
{
    desk d = open_with(t, PLENTY, 0, 0);
    for (int i = 0; i < MANY; i++) {
        const q3_prompt p = t_text_prompt(t, i, 5 + 3 * i);
        q3_request r = request_of(&p, &a[i], T_ANSWER);
        r.sampling = drawing;
        r.sampling.repetition_penalty = i == 6 ? 1.1f : 1;
        r.sampling.temperature = 0.5f + 0.2f * (float)i;
        r.sampling.top_k = i == 7 ? 0 : 1 + (Q3_WANT_TOP_K - 1) * i / 5;
        r.sampling.do_sample = i != 3;
        r.number = (uint32_t)i;
        r.filter = whole ? leave_all : NULL;
        submit(&d, &r);
    }
    run(&d);
    if (t->cuda)
        assert_true(q3_replays_launched(d.engine->replays) > 0);
    close_desk(&d);
}

static void draws_from_candidates_are_those_from_whole_rows(void **state)
{
    (void)state;
    answer few[MANY], all[MANY];
    for (int m = 0; m < T_MODELS; m++) {
        draw(few, &t_beds[m], false);
        draw(all, &t_beds[m], true);
        for (int i = 0; i < MANY; i++) {
            assert_int_equal(few[i].n, T_ANSWER);
            assert_same(&few[i], &all[i]);
        }
    }
}

static void rows_in_which_too_many_tie_are_drawn_from_whole(void **state)
{
    (void)state;
    t_bed *t = &t_beds[1]; // its head is not tied
    const size_t bytes = q3_nbytes(t->model.head);
    assert_true(t->model.head != t->model.embed && t->model.config.text.vocab_size > Q3_WANT_MOST);
    void *kept = t->model.head->data;
    answer few[MANY], all[MANY];
    t->model.head->data = q3_arena_alloc(&t->values, bytes);
    assert_non_null(t->model.head->data);
    q3_device_fill(t->cuda, t->model.head->data, 0, bytes);
    draw(few, t, false);
    draw(all, t, true);
    t->model.head->data = kept;
    for (int i = 0; i < MANY; i++)
        assert_same(&few[i], &all[i]);
}

static void a_cache_too_small_for_all_changes_no_answer(void **state)
{
    (void)state;
    for (int m = 0; m < T_MODELS; m++) {
        t_bed *t = &t_beds[m];
        desk d = open_with(t, 6 * Q3_ENGINE_BLOCK, 0, 0); // an answered prompt takes up to 4
        answer a[2 * T_PROMPTS];
        int order = 0;
        for (int i = 0; i < 2 * T_PROMPTS; i++) {
            const q3_request r = request_of(&t->prompts[i % T_PROMPTS], &a[i], T_ANSWER);
            a[i].order = &order;
            submit(&d, &r);
        }
        run(&d);
        assert_true(stats_of(&d).preempted > 0);
        for (int i = 0; i < 2 * T_PROMPTS; i++) {
            assert_golden(t, &a[i], i % T_PROMPTS, T_ANSWER);
            assert_int_equal(a[i].place, i + 1); // the older ones are never kept waiting by younger ones
        }
        assert_int_equal(stats_of(&d).finished, 2 * T_PROMPTS);
        assert_int_equal(stats_of(&d).output_tokens, 2 * T_PROMPTS * T_ANSWER);
        close_desk(&d);
    }
}

static void a_large_request_is_not_passed_by_small_ones(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    desk d = open_with(t, 8 * Q3_ENGINE_BLOCK, 0, 0);
    const q3_prompt prompts[] = { t_text_prompt(t, 0, 40), t_text_prompt(t, 1, 100), t_text_prompt(t, 2, 5),
                                  t_text_prompt(t, 3, 5) };
    answer a[4];
    for (int i = 0; i < 4; i++) {
        const q3_request r = request_of(&prompts[i], &a[i], 8);
        submit(&d, &r);
    }
    step(&d, 4);
    assert_int_equal(stats_of(&d).running, 1); // two small ones would fit
    run(&d);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(a[i].n, 8);
        assert_true(!i || a[i].outcome.timing.admitted >= a[i - 1].outcome.timing.admitted);
    }
    assert_int_equal(stats_of(&d).preempted, 0);
    close_desk(&d);
}

/* A reader that asks on when it has its answer. */
typedef struct asker {
    answer a;
    desk *d;
    t_bed *t;
    int left;
} asker;

static void ask_again(void *arg, const q3_outcome_of_request *outcome)
{
    asker *x = arg;
    assert_golden_so_far(x->t, &x->a, x->left, outcome->timing.output_tokens);
    assert_int_equal(q3_engine_free_blocks(x->d->engine), q3_engine_blocks(x->d->engine));
    if (x->left-- == 0)
        return;
    q3_request r = request_of(&x->t->prompts[x->left], &x->a, T_ANSWER);
    r.on_end = ask_again;
    submit(x->d, &r);
}

static void the_end_of_one_request_may_be_the_beginning_of_the_next(void **state)
{
    (void)state;
    t_bed *t = &t_beds[1];
    desk d = open_with(t, PLENTY, 0, 0);
    asker x = { .d = &d, .t = t, .left = T_PROMPTS - 1 };
    q3_request r = request_of(&t->prompts[x.left], &x.a, T_ANSWER);
    r.on_end = ask_again;
    submit(&d, &r);
    run(&d);
    assert_int_equal(x.left, -1);
    assert_int_equal(stats_of(&d).finished, T_PROMPTS);
    close_desk(&d);
}

static void max_running_bounds_what_runs(void **state)
{
    (void)state;
    t_bed *t = &t_beds[1];
    desk d = open_with(t, PLENTY, 2, 0);
    answer a[2 * T_PROMPTS];
    for (int i = 0; i < 2 * T_PROMPTS; i++) {
        const q3_request r = request_of(&t->prompts[i % T_PROMPTS], &a[i], T_ANSWER);
        submit(&d, &r);
    }
    assert_int_equal(stats_of(&d).waiting, 2 * T_PROMPTS);
    while (!q3_scheduler_idle(d.s)) {
        step(&d, 1);
        assert_true(stats_of(&d).running <= 2);
    }
    for (int i = 0; i < 2 * T_PROMPTS; i++)
        assert_golden(t, &a[i], i % T_PROMPTS, T_ANSWER);
    close_desk(&d);
}

static void a_cancelled_request_frees_its_blocks_and_disturbs_nobody(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    desk d = open_with(t, PLENTY, 2, 0);
    answer a[T_PROMPTS];
    uint64_t tickets[T_PROMPTS];
    for (int i = 0; i < T_PROMPTS; i++) {
        const q3_request r = request_of(&t->prompts[i], &a[i], T_ANSWER);
        tickets[i] = submit(&d, &r);
    }
    step(&d, 4);
    int64_t before = q3_engine_free_blocks(d.engine);
    q3_scheduler_cancel(d.s, tickets[0]);
    q3_scheduler_cancel(d.s, tickets[2]); // still waits
    q3_scheduler_cancel(d.s, 12345);
    step(&d, 1);
    assert_true(q3_engine_free_blocks(d.engine) > before);
    for (int i = 0; i < T_PROMPTS; i += 2) {
        assert_int_equal(a[i].ends, 1);
        assert_int_equal(a[i].outcome.finish, Q3_FINISH_CANCELLED);
    }
    assert_true(a[0].n > 0 && a[0].n < T_ANSWER);
    assert_true(a[2].n == 0 && a[2].outcome.timing.admitted == 0);
    run(&d);
    assert_golden(t, &a[1], 1, T_ANSWER);
    assert_int_equal(q3_engine_free_blocks(d.engine), q3_engine_blocks(d.engine));
    close_desk(&d);
}

static void what_is_left_at_the_end_is_cancelled(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    desk d = open_with(t, PLENTY, 1, 0);
    answer a[2];
    for (int i = 0; i < 2; i++) {
        const q3_request r = request_of(&t->prompts[i], &a[i], T_ANSWER);
        submit(&d, &r);
    }
    step(&d, 2);
    close_desk(&d);
    assert_true(a[0].ends == 1 && a[1].ends == 1);
    assert_int_equal(a[0].outcome.finish, Q3_FINISH_CANCELLED);
    assert_int_equal(a[1].outcome.finish, Q3_FINISH_CANCELLED);
}

static void any_end_token_ends_its_request_alone(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    static const int32_t eos[] = { 205, 9 }; // the 13th token of row 0, the first of row 1
    static const int64_t lengths[T_PROMPTS] = { 12, 0, T_ANSWER };
    desk d = open_with(t, PLENTY, 0, 0);
    answer a[T_PROMPTS];
    for (int i = 0; i < T_PROMPTS; i++) {
        q3_request r = request_of(&t->prompts[i], &a[i], T_ANSWER);
        r.eos = eos;
        r.n_eos = 2;
        submit(&d, &r);
    }
    run(&d);
    for (int i = 0; i < T_PROMPTS; i++) {
        assert_golden(t, &a[i], i, lengths[i]);
        assert_int_equal(a[i].outcome.finish, i < 2 ? Q3_FINISH_STOP : Q3_FINISH_LENGTH);
    }
    close_desk(&d);
}

static void an_answer_ends_where_its_reader_says_so(void **state)
{
    (void)state;
    t_bed *t = &t_beds[1];
    desk d = open_with(t, PLENTY, 0, 0);
    answer a;
    for (int64_t n = 0; n <= 5; n++) {
        q3_request r = request_of(&t->prompts[0], &a, n ? T_ANSWER : 5);
        a.stop_at = n;
        submit(&d, &r);
        run(&d);
        assert_golden(t, &a, 0, n ? n : 5);
        assert_int_equal(a.outcome.finish, n ? Q3_FINISH_STOP : Q3_FINISH_LENGTH);
    }
    close_desk(&d);
}

static void an_answer_ends_where_the_cache_does(void **state)
{
    (void)state;
    t_bed *t = &t_beds[1];
    const q3_prompt *p = &t->prompts[0];
    int64_t tokens = (p->n + 8 + Q3_ENGINE_BLOCK - 1) / Q3_ENGINE_BLOCK * Q3_ENGINE_BLOCK;
    desk d = open_with(t, tokens, 0, 0);
    answer a;
    q3_request r = request_of(p, &a, INT64_MAX);
    submit(&d, &r);
    run(&d);
    assert_golden(t, &a, 0, tokens - p->n);
    assert_int_equal(a.outcome.finish, Q3_FINISH_LENGTH);
    const q3_prompt whole = t_text_prompt(t, 0, tokens), more = t_text_prompt(t, 0, tokens + 1);
    uint64_t ticket;
    r = request_of(&whole, &a, 1);
    assert_int_equal(q3_scheduler_submit(&ticket, d.s, &r), Q3_ERR_LIMIT);
    assert_non_null(strstr(q3_error(), "shorten it"));
    r = request_of(&more, &a, 0);
    assert_int_equal(q3_scheduler_submit(&ticket, d.s, &r), Q3_ERR_LIMIT);
    assert_int_equal(a.ends, 0);
    r = request_of(&whole, &a, 0);
    submit(&d, &r);
    run(&d);
    assert_int_equal(a.ends, 1);
    close_desk(&d);
}

/* Logits behind a prompt, or its last hidden state, without a cache. */
static void uncached(float *out, t_bed *t, const q3_prompt *p, bool hidden)
{
    const q3_forward forward = { 0 };
    int32_t last = (int32_t)p->n - 1, *plain = Q3_NEW(&t->run, int32_t, 3 * p->n);
    const int64_t begin[2] = { 0, p->n };
    for (int64_t i = 0; i < 3 * p->n; i++)
        plain[i] = (int32_t)(i % p->n);
    const q3_batch b = { .n_rows = 1,
                         .n_tokens = p->n,
                         .row_begin = begin,
                         .ids = p->ids,
                         .positions = p->positions ? p->positions : plain,
                         .n_images = p->n_images,
                         .grids = p->grids,
                         .patches = p->patches,
                         .n_patches = p->n_patches,
                         .image_rows = p->image_rows,
                         .n_image_rows = p->n_image_rows };
    q3_step_begin(&t->ctx, false);
    q3_tensor *x = hidden ? q3_qwen3vl_hidden(&t->ctx, &t->model, &forward, &b, &last, 1)
                          : q3_qwen3vl_logits(&t->ctx, &t->model, &forward, &b, &last, 1);
    memcpy(out, q3_on_host(&t->ctx, x), (size_t)q3_dim(x, -1) * sizeof *out);
}

static void assert_hidden(t_bed *t, const answer *a, const q3_prompt *p)
{
    float expected[256];
    double diff = 0, norm = 0;
    uncached(expected, t, p, true);
    for (int i = 0; i < t->model.config.text.hidden_size; i++) {
        diff += pow((double)a->hidden[i] - expected[i], 2);
        norm += pow(expected[i], 2);
    }
    assert_int_equal(a->hidden_calls, 1);
    assert_true(sqrt(diff / norm) < 1e-5);
}

static void the_last_hidden_state_is_told_with_and_without_an_answer(void **state)
{
    (void)state;
    for (int m = 0; m < T_MODELS; m++)
        for (int64_t more = 0; more <= T_ANSWER; more += T_ANSWER) {
            t_bed *t = &t_beds[m];
            desk d = open_with(t, PLENTY, 0, 7);
            answer a[T_PROMPTS];
            for (int i = 0; i < T_PROMPTS; i++) {
                q3_request r = request_of(&t->prompts[i], &a[i], more);
                r.on_hidden = on_hidden;
                submit(&d, &r);
            }
            run(&d);
            for (int i = 0; i < T_PROMPTS; i++) {
                assert_hidden(t, &a[i], &t->prompts[i]);
                assert_golden(t, &a[i], i, more);
                assert_int_equal(a[i].outcome.finish, Q3_FINISH_LENGTH);
            }
            close_desk(&d);
        }
}

/* What on_token checks beside: probabilities. */
typedef struct told {
    answer a;
    t_bed *t;
    const q3_prompt *p;
    bool first_seen;
} told;

static bool check_first(void *arg, const q3_token_event *e)
{
    told *x = arg;
    int64_t V = x->t->model.config.text.vocab_size;
    float *logits = Q3_NEW(&x->t->run, float, V);
    double sum = 0;
    assert_int_equal(e->n_top, 4);
    for (int i = 1; i < 4; i++)
        assert_true(e->top[i].logprob <= e->top[i - 1].logprob && e->top[i].id != e->top[i - 1].id);
    if (x->first_seen)
        return true;
    x->first_seen = true;
    uncached(logits, x->t, x->p, false);
    for (int64_t i = 0; i < V; i++)
        sum += exp((double)logits[i]);
    assert_true(fabs(e->logprob - (logits[e->id] - log(sum))) < 1e-4);
    for (int i = 0; i < 4; i++) {
        int above = 0;
        assert_true(fabs(e->top[i].logprob - (logits[e->top[i].id] - log(sum))) < 1e-4);
        for (int64_t k = 0; k < V; k++)
            above += logits[k] > logits[e->top[i].id];
        assert_int_equal(above, i);
    }
    return true;
}

static void probabilities_are_those_before_penalties_and_temperature(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    desk d = open_with(t, PLENTY, 0, 0);
    told x = { .t = t, .p = &t->prompts[2] };
    q3_request r = request_of(x.p, &x.a, 4);
    r.sampling = drawing;
    r.sampling.repetition_penalty = 3;
    r.logprobs = 4;
    r.on_token = check_first;
    submit(&d, &r);
    run(&d);
    assert_true(x.first_seen);
    assert_int_equal(x.a.outcome.timing.output_tokens, 4);
    close_desk(&d);
}

static void probabilities_change_no_answer(void **state)
{
    (void)state;
    t_bed *t = &t_beds[1];
    desk d = open_with(t, PLENTY, 0, 0);
    answer a;
    q3_request r = request_of(&t->prompts[1], &a, T_ANSWER);
    r.logprobs = 0;
    submit(&d, &r);
    run(&d);
    assert_golden(t, &a, 1, T_ANSWER);
    for (int i = 0; i < T_ANSWER; i++)
        assert_true(a.logprobs[i] < 0 && a.logprobs[i] > -8); // the likeliest of 300
    close_desk(&d);
}

/* Bans what the answer has had, and the lower half of what is left of the vocabulary. */
static void ban(void *arg, float *logits, int64_t vocab)
{
    const answer *a = arg;
    for (int64_t i = 0; i < vocab / 2; i++)
        logits[i] = -INFINITY;
    for (int64_t i = 0; i < a->n; i++)
        logits[a->ids[i]] = -INFINITY;
}

static void a_filter_sees_the_answer_so_far_and_is_obeyed(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    for (int lookup = 0; lookup <= 4; lookup += 4) {
        desk d = open_with(t, PLENTY, 0, 0);
        answer a[2];
        for (int i = 0; i < 2; i++) {
            q3_request r = request_of(&t->prompts[i], &a[i], T_ANSWER);
            r.filter = ban;
            r.lookup = lookup;
            submit(&d, &r);
        }
        run(&d);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(a[i].n, T_ANSWER);
            for (int k = 0; k < T_ANSWER; k++) {
                assert_true(a[i].ids[k] >= t->model.config.text.vocab_size / 2);
                for (int j = 0; j < k; j++)
                    assert_int_not_equal(a[i].ids[j], a[i].ids[k]);
            }
        }
        close_desk(&d);
    }
}

static void the_penalty_sees_prompt_and_answer(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0]; // its greedy answers repeat themselves
    desk d = open_with(t, PLENTY, 0, 0);
    answer a[T_PROMPTS];
    for (int i = 0; i < T_PROMPTS; i++) {
        q3_request r = request_of(&t->prompts[i], &a[i], T_ANSWER);
        r.sampling.repetition_penalty = 1e6f;
        submit(&d, &r);
    }
    run(&d);
    for (int i = 0; i < T_PROMPTS; i++)
        for (int k = 0; k < T_ANSWER; k++) {
            for (int j = 0; j < k; j++)
                assert_int_not_equal(a[i].ids[j], a[i].ids[k]);
            for (int64_t j = 0; j < t->prompts[i].n; j++)
                assert_int_not_equal(t->prompts[i].ids[j], a[i].ids[k]);
        }
    close_desk(&d);
}

/* Passes that a request takes, drawn or greedy, with and without guesses. */
static int64_t passes_of(answer *a, t_bed *t, const q3_prompt *p, int lookup, const q3_sampling *how)
{
    desk d = open_with(t, PLENTY, 0, 0);
    q3_request r = request_of(p, a, MOST);
    r.sampling = *how;
    r.lookup = lookup;
    submit(&d, &r);
    run(&d);
    int64_t passes = stats_of(&d).passes;
    assert_int_equal(stats_of(&d).accepted, a->outcome.timing.accepted);
    assert_int_equal(stats_of(&d).guessed, a->outcome.timing.guessed);
    close_desk(&d);
    return passes;
}

static void guesses_save_passes_and_change_no_answer(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0]; // its greedy answers repeat themselves
    q3_sampling cold = drawing;
    cold.temperature = 0.05f;
    cold.repetition_penalty = 1;
    const q3_sampling *const ways[] = { &greedy, &cold };
    for (int way = 0; way < 2; way++) {
        answer plain, guessed;
        int64_t without = passes_of(&plain, t, &t->prompts[0], 0, ways[way]);
        int64_t with = passes_of(&guessed, t, &t->prompts[0], 4, ways[way]);
        assert_same(&plain, &guessed);
        assert_int_equal(plain.n, MOST);
        assert_int_equal(without, MOST);
        assert_true(with < without);
        const q3_outcome_timing *w = &guessed.outcome.timing;
        assert_int_equal(without - with, w->accepted);
        assert_true(w->accepted > 0 && w->accepted <= w->guessed);
        assert_int_equal(plain.outcome.timing.guessed, 0);
    }
}

static void many_with_guesses_get_the_same_answers(void **state)
{
    (void)state;
    for (int m = 0; m < T_MODELS; m++)
        for (int small = 0; small < 2; small++) {
            t_bed *t = &t_beds[m];
            desk d = open_with(t, small ? 6 * Q3_ENGINE_BLOCK : PLENTY, 0, 0);
            answer a[MANY];
            for (int i = 0; i < MANY; i++) {
                q3_request r = request_of(&t->prompts[i % T_PROMPTS], &a[i], T_ANSWER);
                r.lookup = i;
                submit(&d, &r);
            }
            run(&d);
            for (int i = 0; i < MANY; i++)
                assert_golden(t, &a[i], i % T_PROMPTS, T_ANSWER);
            close_desk(&d);
        }
}

static void a_prefix_that_was_computed_before_is_found_and_told(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    desk d = open_with(t, PLENTY, 0, 0);
    answer a[2];
    const q3_prompt p = t_text_prompt(t, 0, 40);
    for (int i = 0; i < 2; i++) {
        const q3_request r = request_of(&p, &a[i], T_ANSWER);
        submit(&d, &r);
        run(&d);
        assert_int_equal(a[i].outcome.timing.cached_tokens, i ? 2 * Q3_ENGINE_BLOCK : 0);
    }
    assert_same(&a[0], &a[1]);
    assert_int_equal(stats_of(&d).cached_tokens, 2 * Q3_ENGINE_BLOCK);
    close_desk(&d);
}

static void prompts_that_begin_alike_let_the_first_compute_it_for_all(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    desk d = open_with(t, PLENTY, 0, 0);
    answer a[MANY];
    for (int i = 0; i < MANY; i++) {
        const q3_prompt p = t_text_prompt(t, 3, 40 + i % 3);
        const q3_request r = request_of(&p, &a[i], T_ANSWER);
        submit(&d, &r);
    }
    step(&d, 1);
    assert_int_equal(stats_of(&d).running, 1);
    step(&d, 1);
    assert_int_equal(stats_of(&d).running, MANY);
    run(&d);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(a[i].outcome.timing.cached_tokens, i ? 2 * Q3_ENGINE_BLOCK : 0);
    close_desk(&d);
}

/* A prompt that ends with a picture whose values are not finite. */
static q3_prompt flawed_prompt(t_bed *t)
{
    const q3_vision_config *v = &t->model.config.vision;
    int row = 0;
    while (row < T_PROMPTS && t->prompts[row].n_images != 1)
        row++;
    assert_true(row < T_PROMPTS);
    q3_prompt p = t->prompts[row];
    int64_t width = 3 * (int64_t)v->temporal_patch_size * v->patch_size * v->patch_size;
    int64_t n = p.image_rows[p.n_image_rows - 1] + 1;
    float *patches = Q3_NEW(&t->run, float, p.n_patches *width);
    int32_t *positions = Q3_NEW(&t->run, int32_t, 3 * n);
    for (int64_t i = 0; i < p.n_patches * width; i++)
        patches[i] = NAN;
    for (int axis = 0; axis < 3; axis++)
        memcpy(positions + axis * n, p.positions + axis * p.n, (size_t)n * sizeof *positions);
    p.n = n;
    p.positions = positions;
    p.patches = patches;
    return p;
}

static void what_is_not_finite_fails_alone(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    desk d = open_with(t, PLENTY, 0, 0);
    const q3_prompt flawed = flawed_prompt(t);
    answer a[T_PROMPTS + 1];
    for (int i = 0; i <= T_PROMPTS; i++) {
        q3_request r = request_of(i < T_PROMPTS ? &t->prompts[i] : &flawed, &a[i], T_ANSWER);
        r.lookup = 3;
        submit(&d, &r);
        step(&d, 2);
    }
    run(&d);
    for (int i = 0; i < T_PROMPTS; i++)
        assert_golden(t, &a[i], i, T_ANSWER);
    assert_int_equal(a[T_PROMPTS].ends, 1);
    assert_int_equal(a[T_PROMPTS].outcome.finish, Q3_FINISH_FAILED);
    assert_int_equal(a[T_PROMPTS].outcome.status, Q3_ERR_FAIL);
    assert_non_null(strstr(a[T_PROMPTS].error, "not finite"));
    close_desk(&d);
}

static void no_memory_for_a_pass_fails_all_that_run_and_the_next_go_on(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    desk d = open_with(t, PLENTY, 2, 0);
    answer a[T_PROMPTS];
    for (int i = 0; i < T_PROMPTS; i++) {
        const q3_request r = request_of(&t->prompts[i], &a[i], T_ANSWER);
        submit(&d, &r);
    }
    size_t limit = t->step.limit;
    t->step.limit = 64 << 10;
    assert_int_equal(q3_scheduler_run(d.s), Q3_ERR_MEMORY);
    assert_non_null(strstr(q3_error(), "step arena"));
    t->step.limit = limit;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(a[i].outcome.finish, Q3_FINISH_FAILED);
        assert_int_equal(a[i].outcome.status, Q3_ERR_MEMORY);
        assert_non_null(strstr(a[i].error, "step arena"));
    }
    assert_int_equal(a[2].ends, 0);
    run(&d);
    assert_golden(t, &a[2], 2, T_ANSWER);
    close_desk(&d);
}

static void a_failing_allocation_is_an_error_and_nothing_leaks(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    const q3_scheduler_options options = { 0 };
    q3_status st = Q3_ERR_MEMORY;
    desk d = open_with(t, PLENTY, 0, 0), other = d;
    for (int64_t n = 1; st != Q3_OK; n++) {
        q3_heap_fail_at(n);
        st = q3_scheduler_create(&other.s, d.engine, &options);
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
    }
    q3_scheduler_destroy(other.s);
    answer a;
    q3_request r = request_of(&t->prompts[0], &a, T_ANSWER);
    r.logprobs = 3;
    st = Q3_ERR_MEMORY;
    for (int64_t n = 1; st != Q3_OK; n++) {
        uint64_t ticket;
        q3_heap_fail_at(n);
        st = q3_scheduler_submit(&ticket, d.s, &r);
        q3_heap_fail_at(0);
        assert_true(st == Q3_OK || st == Q3_ERR_MEMORY);
        assert_int_equal(a.ends, 0);
    }
    q3_heap_fail_at(1); // of the sequence: the request alone fails
    assert_int_equal(q3_scheduler_step(d.s), Q3_OK);
    q3_heap_fail_at(0);
    assert_int_equal(a.ends, 1);
    assert_int_equal(a.outcome.status, Q3_ERR_MEMORY);
    close_desk(&d);
}

/* Log-likelihoods of a few ids behind the golden prompts. */
static void weigh(double *out, t_bed *t, const desk *d)
{
    static const int32_t ids[] = { 17, 200, 4, 99, 5 };
    const q3_choice choice = { ids, 5, NULL, 0 };
    if (q3_engine_score(out, d->engine, t->prompts, T_PROMPTS, &choice, 1) != Q3_OK)
        fail_msg("%s", q3_error());
}

static void repeated_runs_are_the_same_and_take_no_more_memory(void **state)
{
    (void)state;
    t_bed *t = &t_beds[1];
    desk d = open_with(t, PLENTY, 0, 0);
    double first[T_PROMPTS], again[T_PROMPTS];
    int64_t requests = 0;
    size_t peak = 0;
    for (int round = 0; round < 4; round++) {
        answer a[T_PROMPTS];
        t->step.peak = 0;
        q3_heap_fail_at(0); // counts anew
        weigh(round ? again : first, t, &d);
        for (int i = 0; i < T_PROMPTS; i++) {
            const q3_request r = request_of(&t->prompts[i], &a[i], T_ANSWER);
            submit(&d, &r);
        }
        run(&d);
        for (int i = 0; i < T_PROMPTS; i++) {
            assert_golden(t, &a[i], i, T_ANSWER);
            assert_true(!round || fabs(again[i] - first[i]) < 1e-5 * fabs(first[i]));
        }
        if (round > 1) { // the second finds what the first has computed
            assert_int_equal(q3_heap_requests(), requests);
            assert_int_equal(t->step.peak, peak);
        }
        requests = q3_heap_requests();
        peak = t->step.peak;
    }
    close_desk(&d);
}

static void decoding_is_recorded_on_a_device(void **state)
{
    (void)state;
    t_bed *t = &t_beds[0];
    desk d = open_with(t, PLENTY, 0, 0);
    answer a;
    const q3_request r = request_of(&t->prompts[0], &a, T_ANSWER);
    submit(&d, &r);
    run(&d);
    assert_golden(t, &a, 0, T_ANSWER);
    int64_t launched = q3_replays_launched(d.engine->replays);
    if (t->cuda)
        assert_true(launched >= T_ANSWER / 2);
    else
        assert_int_equal(launched, 0);
    close_desk(&d);
}

static void an_idle_scheduler_does_nothing(void **state)
{
    (void)state;
    desk d = open_with(&t_beds[0], PLENTY, 0, 0);
    assert_true(q3_scheduler_idle(d.s));
    run(&d);
    step(&d, 2);
    assert_int_equal(stats_of(&d).passes, 0);
    close_desk(&d);
    q3_scheduler_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_that_come_one_after_the_other_get_their_own_answers),
        cmocka_unit_test(drawn_answers_are_the_same_alone_and_together),
        cmocka_unit_test(draws_from_candidates_are_those_from_whole_rows),
        cmocka_unit_test(rows_in_which_too_many_tie_are_drawn_from_whole),
        cmocka_unit_test(a_cache_too_small_for_all_changes_no_answer),
        cmocka_unit_test(a_large_request_is_not_passed_by_small_ones),
        cmocka_unit_test(the_end_of_one_request_may_be_the_beginning_of_the_next),
        cmocka_unit_test(max_running_bounds_what_runs),
        cmocka_unit_test(a_cancelled_request_frees_its_blocks_and_disturbs_nobody),
        cmocka_unit_test(what_is_left_at_the_end_is_cancelled),
        cmocka_unit_test(any_end_token_ends_its_request_alone),
        cmocka_unit_test(an_answer_ends_where_its_reader_says_so),
        cmocka_unit_test(an_answer_ends_where_the_cache_does),
        cmocka_unit_test(the_last_hidden_state_is_told_with_and_without_an_answer),
        cmocka_unit_test(probabilities_are_those_before_penalties_and_temperature),
        cmocka_unit_test(probabilities_change_no_answer),
        cmocka_unit_test(a_filter_sees_the_answer_so_far_and_is_obeyed),
        cmocka_unit_test(the_penalty_sees_prompt_and_answer),
        cmocka_unit_test(guesses_save_passes_and_change_no_answer),
        cmocka_unit_test(many_with_guesses_get_the_same_answers),
        cmocka_unit_test(a_prefix_that_was_computed_before_is_found_and_told),
        cmocka_unit_test(prompts_that_begin_alike_let_the_first_compute_it_for_all),
        cmocka_unit_test(what_is_not_finite_fails_alone),
        cmocka_unit_test(no_memory_for_a_pass_fails_all_that_run_and_the_next_go_on),
        cmocka_unit_test(a_failing_allocation_is_an_error_and_nothing_leaks),
        cmocka_unit_test(repeated_runs_are_the_same_and_take_no_more_memory),
        cmocka_unit_test(decoding_is_recorded_on_a_device),
        cmocka_unit_test(an_idle_scheduler_does_nothing),
    };
    return cmocka_run_group_tests(tests, t_beds_open, t_beds_close);
}
