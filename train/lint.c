#include "train/lint.h"

#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/sha256.h"
#include "eval/generation.h"
#include "kernels/pool.h"

#define COLLATE "Qwen3 collate failed: " // before a sentence that begins with the place

enum { CHUNK = 1024 }; // samples between two words about how far it is

const q3_lint_about q3_lint_kinds[Q3_LINT_KINDS] = {
    [Q3_LINT_RECORD] = { "record", "samples that cannot be read",
                         "mend the lines, or name their fields in data.image_key, data.query_key and "
                         "data.target_key" },
    [Q3_LINT_PICTURE] = { "picture", "samples whose picture cannot be used",
                          "bring a whole picture (JPEG, PNG, WebP, BMP), or take the samples out" },
    [Q3_LINT_TEXT] = { "text", "samples whose text cannot be trained on",
                       "take control tokens out of the texts" },
    [Q3_LINT_LENGTH] = { "length", "samples that are too long",
                         "raise collator.max_length, or lower data.max_pixels" },
    [Q3_LINT_GOLD] = { "gold", "samples whose target is none of eval.labels",
                       "correct the targets or eval.labels, or set eval.pre and eval.post to false" },
    [Q3_LINT_LABEL] = { "label", "samples whose label does not fit", "correct label, target or eval.labels" },
    [Q3_LINT_CUT] = { "cut", "samples whose answer is cut",
                      "raise collator.max_length, or lower data.max_pixels" },
    [Q3_LINT_TWICE] = { "twice", "samples that are there twice", "keep one of each" },
    [Q3_LINT_LEAK] = { "leak", "evaluation samples that are in the training data too",
                       "take them out of one of the two, or scores will flatter" },
};

/* What is known of a sample. */
typedef struct seen {
    char *told[Q3_LINT_KINDS]; // sentences, heap
    int64_t tokens, supervised;
    int64_t *sizes; // [n_pictures] that were decoded, heap
    int n_pictures;
    int label;  // what the target means; -1: none of the labels
    bool whole; // question and answer are set
    unsigned char question[Q3_SHA256_BYTES], answer[Q3_SHA256_BYTES]; // pixels, query and caption; target
    q3_status status;                                                 // what is no fault of the sample
} seen;

typedef struct job {
    const q3_trainer *t;
    const q3_dataset *data;
    const q3_labels *labels;
    q3_collator unlimited; // as the trainer's, for samples of any length
    int64_t first;         // sample that the run begins with
    bool judging;          // answers are generated and judged, so targets are labels
    int64_t n_judged;      // samples that are
    q3_arena *mem;         // [threads]
    seen *all;
} job;

/* Keeps the sentence of a failure, if it is the sample's. */
static void tell(seen *s, q3_lint_kind kind, q3_status st)
{
    const char *sentence = q3_error();
    const size_t prefix = strlen(COLLATE);
    if (q3_status_as(st, Q3_ERR_DATA) != Q3_ERR_DATA) {
        s->status = st;
        return;
    }
    s->told[kind] = q3_strdup(strncmp(sentence, COLLATE, prefix) == 0 ? sentence + prefix : sentence);
    if (!s->told[kind])
        s->status = Q3_ERR_MEMORY;
}

static void hash_text(q3_sha256 *hash, const char *text)
{
    text = text ? text : "";
    q3_sha256_add(hash, text, strlen(text) + 1);
}

/* Sizes as numbers in the order of their areas: area (at most 2^28, data/image.h), then width. */
static int64_t size_key(int width, int height)
{
    return (int64_t)width * height << 31 | width;
}

/* Decodes a picture: its size, its place in the question, its grid. */
static q3_status see_picture(q3_patches *out, seen *s, q3_sha256 *question, const job *j,
                             const q3_sample *sample, int i)
{
    q3_image image;
    const q3_collator *c = &j->t->collator;
    *out = (q3_patches){ 0 };
    Q3_TRY(q3_sample_picture(&image, sample, i, &c->image));
    const int width = image.width, height = image.height;
    s->sizes[s->n_pictures++] = size_key(width, height);
    q3_sha256_add(question, &width, sizeof width);
    q3_sha256_add(question, image.rgb, 3 * (size_t)width * (size_t)height);
    q3_image_free(&image);
    q3_status st = q3_image_grid(out->grid, width, height, &c->vision);
    out->n = (int64_t)out->grid[0] * out->grid[1] * out->grid[2];
    return st ? q3_wrap(st, "%s", sample->where) : Q3_OK;
}

static q3_status see_pictures(q3_patches **out, seen *s, q3_arena *mem, q3_sha256 *question, const job *j,
                              const q3_sample *sample)
{
    *out = Q3_NEW(mem, q3_patches, sample->n_pictures + 1);
    s->sizes = q3_malloc((size_t)sample->n_pictures * sizeof *s->sizes + 1);
    q3_status st = *out && s->sizes ? Q3_OK : Q3_ERR_MEMORY;
    for (int i = 0; i < sample->n_pictures && st == Q3_OK; i++)
        st = see_picture(&(*out)[i], s, question, j, sample, i);
    return st;
}

/* The row of a sample that is too long, as training makes it. */
static void see_long(seen *s, q3_arena *mem, const job *j, const q3_sample *sample, const q3_patches *patches)
{
    q3_row row;
    const q3_collator *c = &j->t->collator;
    q3_status st = q3_collate_text(&row, mem, c, sample, patches, sample->n_pictures, true);
    if (st != Q3_OK) {
        tell(s, Q3_LINT_LENGTH, st);
        return;
    }
    tell(s, row.skipped ? Q3_LINT_LENGTH : Q3_LINT_CUT,
         q3_fail(Q3_ERR_DATA, "%s: the sample has %lld tokens and collator.max_length is %lld: %s",
                 sample->where, (long long)s->tokens, (long long)c->max_length,
                 row.skipped ? "it is left out" : "its answer is cut"));
    s->tokens = row.n;
    s->supervised = row.n_supervised;
}

static void see_row(seen *s, q3_arena *mem, const job *j, const q3_sample *sample, const q3_patches *patches)
{
    q3_row row;
    q3_status st = q3_collate_text(&row, mem, &j->unlimited, sample, patches, sample->n_pictures, true);
    if (st != Q3_OK) {
        tell(s, Q3_LINT_TEXT, st);
        return;
    }
    s->tokens = row.n;
    s->supervised = row.n_supervised;
    int64_t most = j->t->collator.max_length;
    if (most && row.n > most)
        see_long(s, mem, j, sample, patches);
}

/* A label beside the target must be known, and mean the same. */
static q3_status compare_label(const seen *s, const job *j, const q3_sample *sample)
{
    int own;
    q3_status st = q3_label_gold(&own, j->labels, sample->label);
    if (st != Q3_OK)
        return q3_wrap(st, "%s", sample->where);
    if (s->label < 0 || own == s->label)
        return Q3_OK;
    return q3_fail(Q3_ERR_DATA, "%s: the label is \"%.80s\", and the target means %s", sample->where,
                   sample->label, j->labels->normal[s->label]);
}

static void see_label(seen *s, const job *j, const q3_sample *sample, bool judged)
{
    q3_status st = q3_sample_gold(&s->label, j->labels, sample);
    if (st != Q3_OK)
        s->label = -1;
    if (st != Q3_OK && j->judging)
        tell(s, judged ? Q3_LINT_GOLD : Q3_LINT_LABEL, st);
    else if (sample->label && (st = compare_label(s, j, sample)) != Q3_OK)
        tell(s, Q3_LINT_LABEL, st);
}

static void see(seen *s, q3_arena *mem, const job *j, const q3_sample *sample, bool judged)
{
    q3_sha256 question, answer;
    q3_patches *pictures;
    q3_sha256_begin(&question);
    q3_status st = see_pictures(&pictures, s, mem, &question, j, sample);
    if (st != Q3_OK)
        tell(s, Q3_LINT_PICTURE, st);
    else
        see_row(s, mem, j, sample, pictures);
    see_label(s, j, sample, judged);
    hash_text(&question, sample->query);
    hash_text(&question, sample->caption);
    q3_sha256_end(s->question, &question);
    q3_sha256_begin(&answer);
    hash_text(&answer, sample->target);
    q3_sha256_end(s->answer, &answer);
    s->whole = st == Q3_OK;
}

static void see_run(void *arg, int64_t begin, int64_t end, int thread)
{
    const job *j = arg;
    q3_arena *mem = &j->mem[thread];
    for (int64_t i = j->first + begin; i < j->first + end; i++) {
        q3_sample sample;
        seen *s = &j->all[i];
        q3_status st = q3_dataset_get(&sample, j->data, i);
        if (st != Q3_OK) {
            tell(s, Q3_LINT_RECORD, st);
            continue;
        }
        see(s, mem, j, &sample, i < j->n_judged);
        q3_sample_free(&sample);
        q3_arena_reset(mem);
    }
}

static void destroy_arenas(q3_arena *mem)
{
    for (int i = 0; mem && i < q3_pool_threads(); i++)
        q3_arena_destroy(&mem[i]);
    q3_free(mem);
}

static q3_status create_arenas(q3_arena **out, const q3_collator *c)
{
    q3_status st = Q3_OK;
    *out = q3_calloc((size_t)q3_pool_threads(), sizeof **out);
    for (int i = 0; *out && st == Q3_OK && i < q3_pool_threads(); i++)
        st = q3_arena_create(&(*out)[i], "sample", q3_collate_bytes(c));
    return *out ? st : Q3_ERR_MEMORY;
}

static q3_status see_all(job *j, int64_t n)
{
    for (j->first = 0; j->first < n; j->first += CHUNK) {
        int64_t run = n - j->first < CHUNK ? n - j->first : CHUNK;
        q3_parallel(run, 1, see_run, j);
        q3_log_live("looking at the samples: %lld of %lld", (long long)(j->first + run), (long long)n);
        for (int64_t i = 0; i < run; i++)
            if (j->all[j->first + i].status != Q3_OK) // a worker's sentence stays with the worker
                return q3_fail(j->all[j->first + i].status, "out of memory at sample %lld",
                               (long long)(j->first + i + 1));
    }
    return Q3_OK;
}

/* ---- what samples have in common ---- */

typedef struct twin {
    const seen *s;
    int set;
    int64_t index;
} twin;

static int by_question(const void *a, const void *b)
{
    const twin *x = a, *y = b;
    int order = memcmp(x->s->question, y->s->question, sizeof x->s->question);
    if (order || x->set != y->set)
        return order ? order : x->set - y->set;
    return x->index < y->index ? -1 : x->index > y->index;
}

static void say_twin(seen *s, q3_lint_kind kind, const char *where, const char *first, bool same_answer)
{
    tell(s, kind,
         q3_fail(Q3_ERR_DATA, "%s: picture and question are those of %s%s", where, first,
                 same_answer ? "" : ", the answer is another"));
}

/* `a` comes before `b`. */
static q3_status tell_twin(const q3_trainer *t, seen *const all[2], const twin *a, const twin *b)
{
    q3_sample first, second;
    const q3_dataset *data[] = { t->train_data, t->eval_data };
    Q3_TRY(q3_dataset_get(&first, data[a->set], a->index));
    q3_status st = q3_dataset_get(&second, data[b->set], b->index);
    if (st == Q3_OK) {
        seen *s = &all[b->set][b->index];
        say_twin(s, a->set == b->set ? Q3_LINT_TWICE : Q3_LINT_LEAK, second.where, first.where,
                 memcmp(a->s->answer, b->s->answer, sizeof a->s->answer) == 0);
        st = s->status;
        q3_sample_free(&second);
    }
    q3_sample_free(&first);
    return st;
}

static q3_status tell_twins(const q3_trainer *t, seen *const all[2], const twin *list, int64_t n)
{
    for (int64_t i = 1, first = 0, own = 0; i < n; i++) { // first of the question; first in the same data set
        bool same = memcmp(list[i].s->question, list[first].s->question, sizeof list[i].s->question) == 0;
        if (!same)
            first = own = i;
        else if (list[i].set != list[own].set)
            own = i;
        if (same && list[i].set != list[first].set)
            Q3_TRY(tell_twin(t, all, &list[first], &list[i]));
        if (same && own != i)
            Q3_TRY(tell_twin(t, all, &list[own], &list[i]));
    }
    return Q3_OK;
}

static q3_status find_twins(const q3_trainer *t, seen *const all[2], const int64_t n[2])
{
    int64_t found = 0;
    twin *list = q3_malloc((size_t)(n[0] + n[1]) * sizeof *list);
    if (!list)
        return Q3_ERR_MEMORY;
    for (int set = 0; set < 2; set++)
        for (int64_t i = 0; i < n[set]; i++)
            if (all[set][i].whole)
                list[found++] = (twin){ &all[set][i], set, i };
    qsort(list, (size_t)found, sizeof *list, by_question);
    q3_status st = tell_twins(t, all, list, found);
    q3_free(list);
    return st;
}

/* ---- the summary ---- */

static bool usable(const seen *s)
{
    for (int kind = 0; kind < Q3_LINT_KINDS; kind++)
        if (q3_lint_counts((q3_lint_kind)kind) && s->told[kind])
            return false;
    return true;
}

static int ascending(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* Of `n` values, which are sorted; the lower one of two in the middle. */
static q3_lint_range range_of(int64_t *values, int64_t n)
{
    q3_lint_range r = { 0 };
    if (!n)
        return r;
    qsort(values, (size_t)n, sizeof *values, ascending);
    r = (q3_lint_range){ .min = values[0], .median = values[(n - 1) / 2], .max = values[n - 1] };
    for (int64_t i = 0; i < n; i++)
        r.total += values[i];
    return r;
}

static void take_sizes(q3_lint_set *out, int64_t *keys)
{
    if (!out->n_pictures)
        return;
    qsort(keys, (size_t)out->n_pictures, sizeof *keys, ascending);
    for (int64_t i = 0; i < out->n_pictures; i++)
        out->n_sizes += !i || keys[i] != keys[i - 1];
    const int64_t ends[] = { keys[0], keys[out->n_pictures - 1] }, mask = ((int64_t)1 << 31) - 1;
    int *sizes[] = { out->smallest, out->largest };
    for (int i = 0; i < 2; i++) {
        sizes[i][0] = (int)(ends[i] & mask);
        sizes[i][1] = (int)((ends[i] >> 31) / sizes[i][0]);
    }
}

static q3_status summarize(q3_lint_set *out, const seen *all)
{
    int64_t pictures = 0;
    for (int64_t i = 0; i < out->n; i++)
        pictures += all[i].n_pictures;
    int64_t *tokens = q3_malloc((size_t)(2 * out->n + pictures) * sizeof *tokens);
    if (!tokens)
        return Q3_ERR_MEMORY;
    int64_t *supervised = tokens + out->n, *sizes = supervised + out->n;
    for (int64_t i = 0; i < out->n; i++) {
        const seen *s = &all[i];
        for (int k = 0; k < s->n_pictures; k++)
            sizes[out->n_pictures++] = s->sizes[k];
        if (!usable(s))
            continue;
        tokens[out->usable] = s->tokens;
        supervised[out->usable++] = s->supervised;
        (*(s->label < 0 ? &out->unlabelled : &out->labels[s->label]))++;
    }
    out->tokens = range_of(tokens, out->usable);
    out->supervised = range_of(supervised, out->usable);
    take_sizes(out, sizes);
    q3_free(tokens);
    return Q3_OK;
}

/* The sentences go over into the report. */
static q3_status collect(q3_lint *out, seen *const all[2])
{
    int64_t n = 0;
    for (int set = 0; set < out->n_sets; set++)
        for (int64_t i = 0; i < out->sets[set].n; i++)
            for (int kind = 0; kind < Q3_LINT_KINDS; kind++)
                n += all[set][i].told[kind] != NULL;
    out->findings = q3_malloc((size_t)n * sizeof *out->findings);
    if (!out->findings)
        return Q3_ERR_MEMORY;
    for (int kind = 0; kind < Q3_LINT_KINDS; kind++)
        for (int set = 0; set < out->n_sets; set++)
            for (int64_t i = 0; i < out->sets[set].n; i++) {
                char **told = &all[set][i].told[kind];
                if (!*told)
                    continue;
                out->findings[out->n++] = (q3_lint_finding){ (q3_lint_kind)kind, set, i + 1, *told };
                out->counts[kind]++;
                *told = NULL;
            }
    return Q3_OK;
}

static void free_seen(seen *all, int64_t n)
{
    for (int64_t i = 0; all && i < n; i++) {
        for (int kind = 0; kind < Q3_LINT_KINDS; kind++)
            q3_free(all[i].told[kind]);
        q3_free(all[i].sizes);
    }
    q3_free(all);
}

/* Samples of data set `set` that are asked and judged, if any are. */
static int64_t judged(const q3_lint *lint, int set)
{
    const q3_trainer *t = &lint->trainer;
    const q3_config_eval *e = &t->config->eval;
    if (set != lint->n_sets - 1)
        return 0;
    return e->max_samples > 0 && e->max_samples < t->n_eval ? e->max_samples : t->n_eval;
}

static q3_status see_set(seen **all, q3_lint *lint, q3_arena *mem, int set)
{
    const q3_trainer *t = &lint->trainer;
    int64_t n = lint->sets[set].n;
    *all = q3_calloc((size_t)n, sizeof **all);
    if (!*all)
        return Q3_ERR_MEMORY;
    job j = { .t = t,
              .data = set ? t->eval_data : t->train_data,
              .labels = &lint->labels,
              .unlimited = t->collator,
              .judging = t->config->eval.pre || t->config->eval.post,
              .n_judged = judged(lint, set),
              .mem = mem,
              .all = *all };
    j.unlimited.max_length = 0;
    return see_all(&j, n);
}

static q3_status look(q3_lint *lint)
{
    q3_arena *mem;
    seen *all[2] = { NULL, NULL };
    const int64_t n[2] = { lint->sets[0].n, lint->sets[1].n };
    q3_status st = create_arenas(&mem, &lint->trainer.collator);
    for (int set = 0; st == Q3_OK && set < lint->n_sets; set++)
        st = see_set(&all[set], lint, mem, set);
    destroy_arenas(mem);
    st = st ? st : find_twins(&lint->trainer, all, n);
    for (int set = 0; st == Q3_OK && set < lint->n_sets; set++)
        st = summarize(&lint->sets[set], all[set]);
    st = st ? st : collect(lint, all);
    for (int set = 0; set < 2; set++)
        free_seen(all[set], n[set]);
    return st;
}

q3_status q3_lint_run(q3_lint *out, q3_config *config)
{
    *out = (q3_lint){ 0 };
    q3_trainer *t = &out->trainer;
    Q3_TRY(q3_trainer_open_data(t, config));
    bool slice = t->eval_data == t->train_data;
    out->n_sets = slice ? 1 : 2;
    out->sets[0] = (q3_lint_set){ .name = "train", .path = config->data.train, .n = t->n_train };
    if (!slice)
        out->sets[1] = (q3_lint_set){ .name = t->eval_name,
                                      .path = config->data.eval ? config->data.eval : config->data.train,
                                      .n = t->n_eval };
    q3_status st = q3_labels_create(&out->labels, &t->run, config->eval.labels.items, config->eval.labels.n);
    st = st ? st : look(out);
    if (st != Q3_OK)
        q3_lint_free(out);
    return st;
}

void q3_lint_free(q3_lint *lint)
{
    for (int64_t i = 0; i < lint->n; i++)
        q3_free(lint->findings[i].sentence);
    q3_free(lint->findings);
    q3_trainer_close(&lint->trainer);
    *lint = (q3_lint){ 0 };
}

int64_t q3_lint_unusable(const q3_lint *lint)
{
    int64_t n = 0;
    for (int set = 0; set < lint->n_sets; set++)
        n += lint->sets[set].n - lint->sets[set].usable;
    return n;
}
