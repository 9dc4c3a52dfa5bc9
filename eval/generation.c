#include "eval/generation.h"

#include <string.h>

#include "core/log.h"
#include "infer/choice.h"

#define PREFIX "evaluate_qwen3 failed: "
#define FORCED_PREFIX "{\"label\": \""

enum {
    CHUNK = 2048,             // prompt tokens of a pass: nobody waits for the first token of an answer here
    PICTURE_BYTES = 64 << 20, // kept features: a picture is asked about twice, for its score and its answer
};

typedef struct question question;

/* An evaluation on its way. */
typedef struct evaluator {
    q3_evaluation *out;
    q3_ctx *ctx;
    const q3_model *model;
    const q3_tokenizer *tokenizer;
    const q3_generation_options *o;
    q3_eval_progress *progress;
    void *arg;
    q3_choice *choices;   /* [n_labels]; NULL without the forced choice */
    int64_t room;         /* tokens behind a prompt */
    question **questions; /* [batch_size] not handed to the scheduler yet */
    int n_questions;
    q3_prompt *prompts; /* [batch_size] theirs */
    double *scores;     /* [batch_size, n_labels] */
    q3_engine *engine;  /* NULL before the first batch */
    q3_scheduler *scheduler;
    int64_t done;     /* samples answered or skipped */
    q3_status status; /* of what happened within a callback */
} evaluator;

/* A sample that is being answered; gone when it is. */
struct question {
    evaluator *ev;
    q3_prediction *p;
    uint32_t number; // of the sample
    q3_arena mem;    // the prompt and the answer's ids
    q3_prompt prompt;
    int32_t *ids; // [max_new_tokens]
    int64_t n;
};

static q3_status create_choices(evaluator *ev)
{
    const q3_choice_options options = { .prefix = ev->o->forced_prefix ? ev->o->forced_prefix : FORCED_PREFIX,
                                        .quoted = true };
    ev->scores = Q3_NEW(&ev->out->mem, double, ev->o->n_labels * ev->o->source.batch_size);
    if (!ev->scores)
        return Q3_ERR_MEMORY;
    Q3_TRY(q3_choices_create(&ev->choices, &ev->out->mem, ev->tokenizer, ev->model->config.text.vocab_size,
                             ev->o->labels, ev->o->n_labels, &options));
    int64_t longest = q3_choices_longest(ev->choices, ev->o->n_labels);
    ev->room = longest > ev->room ? longest : ev->room;
    return Q3_OK;
}

q3_status q3_sample_gold(int *gold, const q3_labels *labels, const q3_sample *s)
{
    q3_answer answer;
    if (!s->target && !s->label)
        return q3_fail(Q3_ERR_DATA, "%s: there is neither a target nor a label to compare an answer with",
                       s->where);
    if (!s->target) {
        q3_status st = q3_label_gold(gold, labels, s->label);
        return st ? q3_wrap(st, "%s", s->where) : Q3_OK;
    }
    Q3_TRY(q3_answer_parse(&answer, labels, s->target, strlen(s->target)));
    if (answer.label < 0)
        return q3_fail(Q3_ERR_DATA, "%s: the target %.100s means %s, which is none of eval.labels", s->where,
                       s->target, answer.word ? answer.word : "no label");
    *gold = answer.label;
    return Q3_OK;
}

/* Copies into the evaluation's memory; NULL stays NULL. */
static q3_status keep(const char **out, evaluator *ev, const char *text)
{
    *out = text ? q3_arena_strdup(&ev->out->mem, text) : NULL;
    return text && !*out ? Q3_ERR_MEMORY : Q3_OK;
}

static q3_status keep_output(q3_prediction *p, evaluator *ev, const question *q)
{
    q3_text text = { 0 };
    int32_t *ids = Q3_NEW(&ev->out->mem, int32_t, q->n);
    Q3_TRY(ids ? Q3_OK : Q3_ERR_MEMORY);
    memcpy(ids, q->ids, (size_t)q->n * sizeof *ids);
    q3_status st = q3_tokenizer_decode(&text, ev->tokenizer, ids, (size_t)q->n, true);
    char *output = st == Q3_OK ? q3_arena_alloc(&ev->out->mem, text.size + 1) : NULL;
    st = st || output ? st : Q3_ERR_MEMORY;
    if (st == Q3_OK) {
        if (text.size)
            memcpy(output, text.data, text.size);
        output[text.size] = 0;
    }
    p->output_ids = ids;
    p->n_output = q->n;
    p->output = output;
    p->output_bytes = text.size;
    q3_text_free(&text);
    return st ? st : q3_answer_parse(&p->answer, ev->out->labels, p->output, p->output_bytes);
}

/* Probabilities of the labels from their log-likelihoods. */
static q3_status keep_forced(q3_prediction *p, evaluator *ev, const double *scores)
{
    int n = ev->o->n_labels;
    double *probs = Q3_NEW(&ev->out->mem, double, n);
    if (!probs)
        return Q3_ERR_MEMORY;
    p->forced = 0;
    for (int i = 1; i < n; i++)
        if (scores[i] > scores[p->forced])
            p->forced = i;
    q3_choices_normalize(probs, scores, n);
    p->forced_probs = probs;
    return Q3_OK;
}

/* What is known of a sample before it is answered. */
static q3_status keep_sample(q3_prediction *p, evaluator *ev, const q3_sample *s, const q3_row *row)
{
    *p = (q3_prediction){ .prompt_tokens = row->n, .forced = -1 };
    Q3_TRY(q3_sample_gold(&p->gold, ev->out->labels, s));
    Q3_TRY(keep(&p->where, ev, s->where));
    Q3_TRY(keep(&p->id, ev, s->id));
    return keep(&p->source, ev, s->source);
}

static void free_question(question *q)
{
    q3_arena_destroy(&q->mem);
    q3_free(q);
}

/* Ids, positions, picture and answer, with red zones. */
static size_t question_bytes(const evaluator *ev, const q3_row *row)
{
    const q3_vision_spec *v = &ev->o->source.collator->vision;
    size_t patch = 3 * sizeof(float) * (size_t)v->tpatch * (size_t)v->patch * (size_t)v->patch;
    size_t token = 5 * sizeof(int32_t); // id, three positions, a row of the picture
    return ((size_t)row->n + 1) * token + (size_t)q3_row_patches(row) * patch +
           (size_t)row->n_pictures * (Q3_PICTURE_HASH_BYTES + 3 * sizeof(int32_t)) +
           (size_t)ev->o->max_new_tokens * sizeof(int32_t) + ((size_t)64 << 10);
}

/* What the features of its pictures are found by: names that no other picture has, nobody else asks about them. */
static q3_status name_pictures(question *q, int n)
{
    unsigned char(*names)[Q3_PICTURE_HASH_BYTES] = q3_arena_alloc(&q->mem, (size_t)n * sizeof *names + 1);
    if (!names)
        return Q3_ERR_MEMORY;
    memset(names, 0, (size_t)n * sizeof *names);
    for (int i = 0; i < n; i++) {
        memcpy(names[i], &q->number, sizeof q->number);
        memcpy(names[i] + sizeof q->number, &i, sizeof i);
    }
    q->prompt.hashes = (const unsigned char(*)[Q3_PICTURE_HASH_BYTES])names;
    return Q3_OK;
}

/* The loader's batch goes with the next one, so the prompt is copied. */
static q3_status fill_question(question *q, const q3_row *row)
{
    q3_batch b;
    const q3_row *const rows[] = { row };
    Q3_TRY(q3_arena_create(&q->mem, "question", question_bytes(q->ev, row)));
    Q3_TRY(q3_pack(&b, &q->mem, q->ev->o->source.collator, rows, 1));
    q->ids = Q3_NEW(&q->mem, int32_t, q->ev->o->max_new_tokens);
    if (!q->ids)
        return Q3_ERR_MEMORY;
    q->prompt = q3_prompt_of_batch(&b);
    return name_pictures(q, b.n_images);
}

static q3_status create_question(evaluator *ev, const q3_sample *s, const q3_row *row, int64_t number)
{
    question *q = q3_calloc(1, sizeof *q);
    if (!q)
        return Q3_ERR_MEMORY;
    *q = (question){ .ev = ev, .p = &ev->out->predictions[ev->out->n], .number = (uint32_t)number };
    q3_status st = fill_question(q, row);
    st = st ? st : keep_sample(q->p, ev, s, row);
    if (st != Q3_OK) {
        free_question(q);
        return st;
    }
    ev->out->n++;
    ev->prompts[ev->n_questions] = q->prompt;
    ev->questions[ev->n_questions++] = q;
    return Q3_OK;
}

/* One sample more is done. */
static q3_status count(evaluator *ev)
{
    const q3_loader_source *source = &ev->o->source;
    ev->done++;
    if (!ev->progress || (ev->done % source->batch_size && ev->done < source->n_samples))
        return Q3_OK;
    return ev->progress(ev->arg, ev->done, source->n_samples);
}

static bool on_token(void *arg, const q3_token_event *e)
{
    question *q = arg;
    q->ids[q->n++] = e->id;
    return true;
}

/* The first thing that goes wrong is what is told. */
static void on_end(void *arg, const q3_outcome_of_request *outcome)
{
    question *q = arg;
    evaluator *ev = q->ev;
    bool answered = outcome->finish == Q3_FINISH_STOP || outcome->finish == Q3_FINISH_LENGTH;
    q->p->ended = outcome->finish == Q3_FINISH_STOP;
    if (ev->status == Q3_OK && outcome->finish == Q3_FINISH_FAILED)
        ev->status = outcome->status;
    if (ev->status == Q3_OK && answered)
        ev->status = keep_output(q->p, ev, q);
    if (ev->status == Q3_OK && answered)
        ev->status = count(ev);
    free_question(q);
}

/* Steps until nobody waits to be answered, or until all are. */
static q3_status work(evaluator *ev, bool all)
{
    while (ev->scheduler) {
        q3_scheduler_stats now;
        q3_scheduler_stats_of(&now, ev->scheduler);
        if (!now.waiting && (!all || !now.running))
            break;
        Q3_TRY(q3_scheduler_step(ev->scheduler));
        Q3_TRY(ev->status);
    }
    return Q3_OK;
}

static void close_engine(evaluator *ev)
{
    q3_scheduler_destroy(ev->scheduler);
    q3_engine_destroy(ev->engine);
    ev->scheduler = NULL;
    ev->engine = NULL;
}

/* A cache for a batch that is answered and one whose prompts are computed; for one, where memory is short. */
static q3_status open_engine(evaluator *ev, int64_t tokens)
{
    q3_status st = Q3_ERR_MEMORY;
    for (int batches = 2; batches > 0 && st == Q3_ERR_MEMORY; batches--) {
        const q3_engine_options options = { .kv_type = Q3_DTYPES,
                                            .tokens = batches * tokens,
                                            .feature_bytes = PICTURE_BYTES };
        st = q3_engine_create(&ev->engine, ev->model, ev->ctx, NULL, &options);
    }
    if (st != Q3_OK) {
        ev->engine = NULL;
        return st;
    }
    const q3_scheduler_options options = { .max_running = (int)ev->o->source.batch_size, .chunk = CHUNK };
    return q3_scheduler_create(&ev->scheduler, ev->engine, &options);
}

/* The cache grows when prompts come that are longer than all before. */
static q3_status prepare_engine(evaluator *ev)
{
    int64_t longest = 0;
    for (int i = 0; i < ev->n_questions; i++)
        longest = ev->prompts[i].n > longest ? ev->prompts[i].n : longest;
    int64_t blocks = (longest + ev->room) / Q3_ENGINE_BLOCK + 2; // a begun one, and one that a fork writes to
    int64_t needed = ev->o->source.batch_size * blocks;
    if (ev->engine && q3_engine_blocks(ev->engine) >= needed)
        return Q3_OK;
    Q3_TRY(work(ev, true));
    close_engine(ev);
    return open_engine(ev, needed * Q3_ENGINE_BLOCK);
}

static q3_status score(evaluator *ev)
{
    q3_status st =
        q3_engine_score(ev->scores, ev->engine, ev->prompts, ev->n_questions, ev->choices, ev->o->n_labels);
    if (st != Q3_ERR_MEMORY || q3_scheduler_idle(ev->scheduler))
        return st;
    Q3_TRY(work(ev, true)); // those that are being answered have the blocks
    return q3_engine_score(ev->scores, ev->engine, ev->prompts, ev->n_questions, ev->choices,
                           ev->o->n_labels);
}

static q3_status submit(evaluator *ev, question *q)
{
    uint64_t ticket;
    const q3_request r = { .prompt = q->prompt,
                           .sampling = ev->o->sampling,
                           .number = q->number,
                           .max_new_tokens = ev->o->max_new_tokens,
                           .eos = ev->o->eos,
                           .n_eos = ev->o->n_eos,
                           .logprobs = -1,
                           .on_token = on_token,
                           .on_end = on_end,
                           .arg = q };
    q3_status st = q3_scheduler_submit(&ticket, ev->scheduler, &r);
    return st ? q3_wrap(st, "%s", q->p->where) : Q3_OK;
}

static void free_questions(evaluator *ev)
{
    while (ev->n_questions)
        free_question(ev->questions[--ev->n_questions]);
}

static q3_status ask_batch(evaluator *ev, const q3_loaded *l)
{
    for (int64_t i = 0; i < l->n_samples; i++) {
        int64_t number = l->index * ev->o->source.batch_size + i;
        Q3_TRY(l->rows[i].skipped ? count(ev) : create_question(ev, &l->samples[i], &l->rows[i], number));
    }
    if (!ev->n_questions)
        return Q3_OK;
    Q3_TRY(prepare_engine(ev));
    if (ev->choices)
        Q3_TRY(score(ev));
    for (int i = 0; i < ev->n_questions && ev->choices; i++)
        Q3_TRY(keep_forced(ev->questions[i]->p, ev, ev->scores + (ptrdiff_t)i * ev->o->n_labels));
    int n = ev->n_questions;
    ev->n_questions = 0;
    for (int i = 0; i < n; i++) {
        q3_status st = submit(ev, ev->questions[i]);
        if (st == Q3_OK)
            continue;
        for (; i < n; i++)
            free_question(ev->questions[i]);
        return st;
    }
    return work(ev, false);
}

static q3_status ask_all(evaluator *ev)
{
    q3_loader *loader;
    q3_loader_source source = ev->o->source;
    source.training = source.shuffle = false;
    int64_t batches = q3_loader_per_epoch(&source);
    Q3_TRY(q3_loader_create(&loader, &source, 0, 1, 3));
    q3_status st = Q3_OK;
    for (int64_t i = 0; i < batches && st == Q3_OK; i++) {
        const q3_loaded *l;
        st = q3_loader_next(&l, loader);
        st = st ? st : ask_batch(ev, l);
    }
    q3_loader_destroy(loader);
    return st ? st : work(ev, true);
}

q3_status q3_evaluation_measure(q3_evaluation *e, uint64_t seed)
{
    q3_outcome *outcomes = Q3_NEW(&e->mem, q3_outcome, e->n + 1);
    if (!outcomes)
        return Q3_ERR_MEMORY;
    for (int64_t i = 0; i < e->n; i++) {
        const q3_prediction *p = &e->predictions[i];
        outcomes[i] = (q3_outcome){ .gold = p->gold,
                                    .answer = p->answer,
                                    .forced = p->forced,
                                    .forced_score = p->forced_probs ? p->forced_probs[0] : 0,
                                    .source = p->source };
    }
    return q3_metrics_compute(&e->metrics, &e->mem, e->labels, outcomes, e->n, seed);
}

/* Address space for n answers and what belongs to them; memory is taken as it fills. */
static size_t room_for(const q3_generation_options *o)
{
    const size_t token = 256, sample = (size_t)16 << 10; // a token's id and text; ids, names, probabilities
    return ((size_t)64 << 20) + (size_t)o->source.n_samples * (sample + (size_t)o->max_new_tokens * token);
}

static q3_status evaluate(evaluator *ev)
{
    q3_evaluation *e = ev->out;
    int64_t batch = ev->o->source.batch_size;
    Q3_TRY(q3_arena_create(&e->mem, "evaluation", room_for(ev->o)));
    e->labels = Q3_NEW(&e->mem, q3_labels, 1);
    e->predictions = Q3_NEW(&e->mem, q3_prediction, ev->o->source.n_samples);
    ev->questions = Q3_NEW(&e->mem, question *, batch);
    ev->prompts = Q3_NEW(&e->mem, q3_prompt, batch);
    if (!e->labels || !e->predictions || !ev->questions || !ev->prompts)
        return Q3_ERR_MEMORY;
    Q3_TRY(q3_labels_create(e->labels, &e->mem, ev->o->labels, ev->o->n_labels));
    if (ev->o->forced)
        Q3_TRY(create_choices(ev));
    Q3_TRY(ask_all(ev));
    return q3_evaluation_measure(e, ev->o->sampling.seed);
}

q3_status q3_evaluate(q3_evaluation *out, q3_ctx *ctx, const q3_model *model, const q3_tokenizer *tokenizer,
                      const q3_generation_options *options, q3_eval_progress *progress, void *arg)
{
    double start = q3_seconds();
    evaluator ev = { .out = out,
                     .ctx = ctx,
                     .model = model,
                     .tokenizer = tokenizer,
                     .o = options,
                     .progress = progress,
                     .arg = arg,
                     .room = options->max_new_tokens };
    *out = (q3_evaluation){ 0 };
    q3_status st = evaluate(&ev);
    free_questions(&ev);
    close_engine(&ev);
    q3_step_begin(ctx, false);
    out->seconds = q3_seconds() - start;
    if (st == Q3_OK)
        return Q3_OK;
    q3_evaluation_free(out);
    return q3_prefix(st, PREFIX);
}

void q3_evaluation_free(q3_evaluation *e)
{
    q3_arena_destroy(&e->mem);
    *e = (q3_evaluation){ 0 };
}
