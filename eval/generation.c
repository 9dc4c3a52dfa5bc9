#include "eval/generation.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"
#include "core/log.h"

#define PREFIX "evaluate_qwen3 failed: "
#define FORCED_PREFIX "{\"label\": \""

enum { PATH_BYTES = 4096 };

/* An evaluation on its way. */
typedef struct evaluator {
    q3_evaluation *out;
    q3_generator *engine;
    const q3_tokenizer *tokenizer;
    const q3_generation_options *o;
    q3_choice *choices;     /* [n_labels]; NULL without the forced choice */
    int64_t room;           /* tokens behind a prompt */
    q3_answer_ids *answers; /* [batch_size] */
    double *scores;         /* [batch_size, n_labels] */
} evaluator;

/* Tokens that begin with a quote: any of them closes a word. */
static q3_status closing_ids(int32_t **ids, int64_t *n, evaluator *ev)
{
    int64_t size = q3_tokenizer_size(ev->tokenizer), vocab = ev->engine->model->config.text.vocab_size;
    *n = 0;
    *ids = Q3_NEW(&ev->out->mem, int32_t, size);
    if (!*ids)
        return Q3_ERR_MEMORY;
    for (int64_t id = 0; id < size && id < vocab; id++) {
        size_t bytes;
        const char *text = q3_tokenizer_token(&bytes, ev->tokenizer, (int32_t)id);
        if (text && bytes && text[0] == '"' && !q3_tokenizer_is_special(ev->tokenizer, (int32_t)id))
            (*ids)[(*n)++] = (int32_t)id;
    }
    return Q3_OK;
}

static bool is_quote(const q3_tokenizer *t, int32_t id)
{
    size_t bytes;
    const char *text = q3_tokenizer_token(&bytes, t, id);
    return text && bytes == 1 && text[0] == '"';
}

/* Prefix, word and quote are tokenized as one, for a seam may merge. A quote that is a token of its own
 * stands for all tokens that begin with one. */
static q3_status create_choice(q3_choice *out, evaluator *ev, const char *label, const int32_t *closing,
                               int64_t n_closing)
{
    const char *prefix = ev->o->forced_prefix ? ev->o->forced_prefix : FORCED_PREFIX;
    q3_text text = { 0 }, word = { 0 };
    q3_ids ids = { 0 };
    q3_text_json_string(&word, label, strlen(label));
    q3_text_printf(&text, "%s%s", prefix,
                   word.data ? word.data + 1 : ""); // its opening quote is the prefix's
    q3_status st = text.failed || word.failed ? Q3_ERR_MEMORY : Q3_OK;
    st = st ? st : q3_tokenizer_encode(&ids, ev->tokenizer, text.data, text.size);
    int32_t *kept = st == Q3_OK ? Q3_NEW(&ev->out->mem, int32_t, ids.n) : NULL;
    st = st || kept ? st : Q3_ERR_MEMORY;
    for (size_t i = 0; i < ids.n && st == Q3_OK; i++) {
        kept[i] = ids.ids[i];
        if (kept[i] >= ev->engine->model->config.text.vocab_size)
            st = q3_fail(Q3_ERR_MODEL,
                         "token %d of label \"%s\" is beyond the model's vocabulary of %d; do tokenizer and "
                         "model belong together?",
                         (int)kept[i], label, ev->engine->model->config.text.vocab_size);
    }
    *out = (q3_choice){ .ids = kept, .n = (int64_t)ids.n };
    if (st == Q3_OK && ids.n > 1 && is_quote(ev->tokenizer, kept[ids.n - 1]))
        *out = (q3_choice){ .ids = kept, .n = (int64_t)ids.n - 1, .any = closing, .n_any = n_closing };
    q3_ids_free(&ids);
    q3_text_free(&text);
    q3_text_free(&word);
    return st;
}

static q3_status create_choices(evaluator *ev)
{
    int32_t *closing;
    int64_t n_closing;
    ev->choices = Q3_NEW(&ev->out->mem, q3_choice, ev->o->n_labels);
    ev->scores = Q3_NEW(&ev->out->mem, double, ev->o->n_labels * ev->o->source.batch_size);
    if (!ev->choices || !ev->scores)
        return Q3_ERR_MEMORY;
    Q3_TRY(closing_ids(&closing, &n_closing, ev));
    for (int i = 0; i < ev->o->n_labels; i++) {
        Q3_TRY(create_choice(&ev->choices[i], ev, ev->o->labels[i], closing, n_closing));
        if (ev->choices[i].n > ev->room)
            ev->room = ev->choices[i].n;
    }
    return Q3_OK;
}

static q3_status gold_of(int *gold, const q3_labels *labels, const q3_sample *s)
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

static q3_status keep_output(q3_prediction *p, evaluator *ev, const q3_answer_ids *a)
{
    q3_text text = { 0 };
    int32_t *ids = Q3_NEW(&ev->out->mem, int32_t, a->n);
    Q3_TRY(ids ? Q3_OK : Q3_ERR_MEMORY);
    memcpy(ids, a->ids, (size_t)a->n * sizeof *ids);
    q3_status st = q3_tokenizer_decode(&text, ev->tokenizer, ids, (size_t)a->n, true);
    char *output = st == Q3_OK ? q3_arena_alloc(&ev->out->mem, text.size + 1) : NULL;
    st = st || output ? st : Q3_ERR_MEMORY;
    if (st == Q3_OK) {
        if (text.size)
            memcpy(output, text.data, text.size);
        output[text.size] = 0;
    }
    p->output_ids = ids;
    p->n_output = a->n;
    p->ended = a->ended;
    p->output = output;
    p->output_bytes = text.size;
    q3_text_free(&text);
    return st ? st : q3_answer_parse(&p->answer, ev->out->labels, p->output, p->output_bytes);
}

/* Probabilities of the labels from their log-likelihoods. */
static q3_status keep_forced(q3_prediction *p, evaluator *ev, const double *scores)
{
    int n = ev->o->n_labels;
    double *probs = Q3_NEW(&ev->out->mem, double, n), sum = 0;
    if (!probs)
        return Q3_ERR_MEMORY;
    p->forced = 0;
    for (int i = 1; i < n; i++)
        if (scores[i] > scores[p->forced])
            p->forced = i;
    for (int i = 0; i < n; i++)
        sum += probs[i] = exp(scores[i] - scores[p->forced]);
    for (int i = 0; i < n; i++)
        probs[i] /= sum;
    p->forced_probs = probs;
    return Q3_OK;
}

static q3_status keep_prediction(evaluator *ev, const q3_sample *s, const q3_row *row, const q3_answer_ids *a,
                                 const double *scores)
{
    q3_prediction *p = &ev->out->predictions[ev->out->n];
    *p = (q3_prediction){ .prompt_tokens = row->n, .forced = -1 };
    Q3_TRY(gold_of(&p->gold, ev->out->labels, s));
    Q3_TRY(keep(&p->where, ev, s->where));
    Q3_TRY(keep(&p->id, ev, s->id));
    Q3_TRY(keep(&p->source, ev, s->source));
    Q3_TRY(keep_output(p, ev, a));
    if (scores)
        Q3_TRY(keep_forced(p, ev, scores));
    ev->out->n++;
    return Q3_OK;
}

static q3_status answer_batch(evaluator *ev, const q3_loaded *l)
{
    const q3_generation_options *o = ev->o;
    const q3_generate_options generate = { .max_new_tokens = o->max_new_tokens,
                                           .sampling = o->sampling,
                                           .eos = o->eos,
                                           .n_eos = o->n_eos,
                                           .first_request = (uint32_t)(l->index * o->source.batch_size) };
    Q3_TRY(q3_generator_begin(ev->engine, &l->batch, ev->room));
    if (ev->choices)
        Q3_TRY(q3_score(ev->scores, ev->engine, ev->choices, o->n_labels));
    Q3_TRY(q3_generate(ev->answers, ev->engine, &generate));
    int64_t row = 0;
    for (int64_t i = 0; i < l->n_samples; i++) {
        if (l->rows[i].skipped)
            continue;
        Q3_TRY(keep_prediction(ev, &l->samples[i], &l->rows[i], &ev->answers[row],
                               ev->choices ? ev->scores + row * o->n_labels : NULL));
        row++;
    }
    return Q3_OK;
}

static q3_status answer_all(evaluator *ev, q3_eval_progress *progress, void *arg)
{
    q3_loader *loader;
    q3_loader_source source = ev->o->source;
    source.training = source.shuffle = false;
    int64_t batches = q3_loader_per_epoch(&source), done = 0;
    Q3_TRY(q3_loader_create(&loader, &source, 0, 1, 3));
    q3_status st = Q3_OK;
    for (int64_t i = 0; i < batches && st == Q3_OK; i++) {
        const q3_loaded *l;
        st = q3_loader_next(&l, loader);
        st = st ? st : answer_batch(ev, l);
        if (st != Q3_OK)
            break;
        done += l->n_samples;
        if (progress)
            st = progress(arg, done, source.n_samples);
    }
    q3_loader_destroy(loader);
    return st;
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

static q3_status evaluate(evaluator *ev, q3_eval_progress *progress, void *arg)
{
    q3_evaluation *e = ev->out;
    Q3_TRY(q3_arena_create(&e->mem, "evaluation", room_for(ev->o)));
    e->labels = Q3_NEW(&e->mem, q3_labels, 1);
    e->predictions = Q3_NEW(&e->mem, q3_prediction, ev->o->source.n_samples);
    ev->answers = Q3_NEW(&e->mem, q3_answer_ids, ev->o->source.batch_size);
    if (!e->labels || !e->predictions || !ev->answers)
        return Q3_ERR_MEMORY;
    Q3_TRY(q3_labels_create(e->labels, &e->mem, ev->o->labels, ev->o->n_labels));
    if (ev->o->forced)
        Q3_TRY(create_choices(ev));
    Q3_TRY(answer_all(ev, progress, arg));
    return q3_evaluation_measure(e, ev->o->sampling.seed);
}

q3_status q3_evaluate(q3_evaluation *out, q3_generator *engine, const q3_tokenizer *tokenizer,
                      const q3_generation_options *options, q3_eval_progress *progress, void *arg)
{
    double start = q3_seconds();
    evaluator ev = {
        .out = out, .engine = engine, .tokenizer = tokenizer, .o = options, .room = options->max_new_tokens
    };
    *out = (q3_evaluation){ 0 };
    q3_status st = evaluate(&ev, progress, arg);
    q3_step_begin(engine->ctx, false);
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

static void write_string(q3_text *out, const char *key, const char *text)
{
    q3_text_printf(out, "%s", key);
    if (text)
        q3_text_json_string(out, text, strlen(text));
    else
        q3_text_printf(out, "null");
}

static void write_prediction(q3_text *out, const q3_evaluation *e, const q3_prediction *p)
{
    const char *const *names = e->labels->normal;
    write_string(out, "{\"id\": ", p->id ? p->id : p->where);
    q3_text_printf(out, ", \"prompt_tokens\": %lld, \"output\": ", (long long)p->prompt_tokens);
    q3_text_json_string(out, p->output, p->output_bytes);
    q3_text_printf(out, ", \"output_ids\": [");
    for (int64_t i = 0; i < p->n_output; i++)
        q3_text_printf(out, "%s%d", i ? ", " : "", (int)p->output_ids[i]);
    write_string(out, "], \"stage\": ", q3_answer_stage_names[p->answer.stage]);
    write_string(out, ", \"pred\": ", p->answer.word);
    write_string(out, ", \"gold\": ", names[p->gold]);
    if (p->source)
        write_string(out, ", \"source\": ", p->source);
    if (p->forced >= 0) {
        write_string(out, ", \"forced\": ", names[p->forced]);
        q3_text_printf(out, ", \"forced_probs\": [");
        for (int i = 0; i < e->labels->n; i++) {
            q3_text_printf(out, "%s", i ? ", " : "");
            q3_text_json_number(out, p->forced_probs[i]);
        }
        q3_text_printf(out, "]");
    }
    q3_text_printf(out, "}\n");
}

/* Writes what was collected and empties it. */
static q3_status write_out(q3_text *text, const char *dir, const char *name, const char *ending)
{
    char path[PATH_BYTES];
    q3_status st = text->failed ? Q3_ERR_MEMORY : Q3_OK;
    if (st == Q3_OK && snprintf(path, sizeof path, "%s/eval/%s%s", dir, name, ending) >= PATH_BYTES)
        st = q3_fail(Q3_ERR_LIMIT, "%s/eval/%s%s: the path is too long", dir, name, ending);
    st = st ? st : q3_file_write(path, text->data ? text->data : "", text->size);
    q3_text_free(text);
    *text = (q3_text){ 0 };
    return st;
}

static q3_status write_files(const q3_evaluation *e, const char *dir, const char *name)
{
    q3_text text = { 0 };
    char *folder = q3_path_join(dir, "eval");
    q3_status st = folder ? q3_dir_create(folder) : Q3_ERR_MEMORY;
    q3_free(folder);
    Q3_TRY(st);
    for (int64_t i = 0; i < e->n; i++)
        write_prediction(&text, e, &e->predictions[i]);
    Q3_TRY(write_out(&text, dir, name, "_predictions.jsonl"));
    q3_metrics_write(&text, &e->metrics, 0);
    q3_text_printf(&text, "\n");
    return write_out(&text, dir, name, ".json");
}

q3_status q3_evaluation_write(const q3_evaluation *e, const char *dir, const char *name)
{
    return q3_prefix(write_files(e, dir, name), PREFIX);
}
