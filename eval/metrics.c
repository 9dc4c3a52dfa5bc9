#include "eval/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"

enum { RESAMPLES = 1000 };

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static void count(q3_metrics *m, const q3_outcome *outcomes)
{
    int columns = m->labels->n + 2;
    for (int64_t i = 0; i < m->n; i++) {
        const q3_outcome *o = &outcomes[i];
        Q3_CHECK(o->gold >= 0 && o->gold < m->labels->n, "gold label %d of %d", o->gold, m->labels->n);
        bool failed = o->answer.stage == Q3_ANSWER_FAILED, other = !failed && o->answer.label < 0;
        int column = failed ? m->labels->n + 1 : other ? m->labels->n : o->answer.label;
        m->confusion[o->gold * columns + column]++;
        m->label[o->gold].support++;
        m->stages[o->answer.stage]++;
        m->failed += failed;
        m->n_other += other;
        if (column < m->labels->n)
            m->label[column].predicted++;
        m->correct += column == o->gold;
    }
}

static void score_labels(q3_metrics *m)
{
    int n = m->labels->n, present = 0;
    double sum = 0, sum_present = 0;
    m->sarcastic = -1;
    for (int i = 0; i < n; i++) {
        q3_label_scores *s = &m->label[i];
        double hits = (double)m->confusion[i * (n + 2) + i];
        s->precision = ratio(hits, (double)s->predicted);
        s->recall = ratio(hits, (double)s->support);
        s->f1 = ratio(2 * s->precision * s->recall, s->precision + s->recall);
        sum += s->f1;
        if (s->support) {
            sum_present += s->f1;
            present++;
        }
        if (strcmp(m->labels->normal[i], "sarcastic") == 0)
            m->sarcastic = i;
    }
    m->macro_f1 = sum / n;
    m->macro_f1_present = ratio(sum_present, present);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The accuracy of a resample depends only on how many of its draws fall on the `correct` right ones of n.
static void bootstrap(q3_metrics *m, uint64_t seed)
{
    double accuracies[RESAMPLES];
    for (uint32_t k = 0; k < RESAMPLES; k++) {
        const q3_random r = { .seed = seed, .purpose = Q3_RANDOM_BOOTSTRAP, .step = k };
        int64_t hits = 0;
        for (int64_t i = 0; i < m->n; i++)
            hits += q3_random_below(&r, (uint64_t)i, (uint32_t)m->n) < m->correct;
        accuracies[k] = (double)hits / (double)m->n;
    }
    qsort(accuracies, RESAMPLES, sizeof *accuracies, ascending);
    m->interval[0] = accuracies[RESAMPLES * 25 / 1000 - 1];
    m->interval[1] = accuracies[RESAMPLES * 975 / 1000 - 1];
}

static q3_status group_by_source(q3_metrics *m, q3_arena *mem, const q3_outcome *outcomes)
{
    int capacity = 0;
    for (int64_t i = 0; i < m->n; i++) {
        const char *source = outcomes[i].source;
        int k = 0;
        while (source && k < m->n_sources && strcmp(m->sources[k].name, source) != 0)
            k++;
        if (!source)
            continue;
        if (k == capacity) {
            capacity = capacity ? 2 * capacity : 8;
            q3_source_scores *grown = Q3_ZNEW(mem, q3_source_scores, capacity);
            if (!grown)
                return Q3_ERR_MEMORY;
            if (k)
                memcpy(grown, m->sources, sizeof *grown * (size_t)k);
            m->sources = grown;
        }
        m->n_sources += k == m->n_sources;
        m->sources[k].name = source;
        m->sources[k].n++;
        m->sources[k].correct += outcomes[i].answer.label == outcomes[i].gold;
    }
    return Q3_OK;
}

typedef struct ranked {
    double score;
    int first; /* gold is label 0 */
} ranked;

static int by_score(const void *a, const void *b)
{
    double x = ((const ranked *)a)->score, y = ((const ranked *)b)->score;
    return (x > y) - (x < y);
}

/* Mann and Whitney (1947): the part of pairs (label 0, label 1) in which the first has the higher score. */
static double auroc(ranked *r, int64_t n, int64_t firsts)
{
    double wins = 0, below = 0; // samples of label 1 with a lower score
    for (int64_t i = 0; i < n;) {
        int64_t end = i, tied_first = 0;
        for (; end < n && r[end].score == r[i].score; end++)
            tied_first += r[end].first;
        double tied_second = (double)(end - i - tied_first);
        wins += (double)tied_first * (below + tied_second / 2);
        below += tied_second;
        i = end;
    }
    return wins / ((double)firsts * (double)(n - firsts));
}

static q3_status score_forced(q3_metrics *m, q3_arena *mem, const q3_outcome *outcomes)
{
    int64_t scored = 0, correct = 0, firsts = 0;
    ranked *r = Q3_NEW(mem, ranked, m->n);
    if (!r)
        return Q3_ERR_MEMORY;
    for (int64_t i = 0; i < m->n; i++) {
        if (outcomes[i].forced < 0)
            continue;
        r[scored++] = (ranked){ outcomes[i].forced_score, outcomes[i].gold == 0 };
        correct += outcomes[i].forced == outcomes[i].gold;
        firsts += outcomes[i].gold == 0;
    }
    m->has_forced = scored > 0;
    m->forced_accuracy = ratio((double)correct, (double)scored);
    m->has_auroc = m->labels->n == 2 && firsts > 0 && firsts < scored;
    if (m->has_auroc) {
        qsort(r, (size_t)scored, sizeof *r, by_score);
        m->forced_auroc = auroc(r, scored, firsts);
    }
    return Q3_OK;
}

q3_status q3_metrics_compute(q3_metrics *out, q3_arena *mem, const q3_labels *labels,
                             const q3_outcome *outcomes, int64_t n, uint64_t seed)
{
    *out = (q3_metrics){ .labels = labels, .n = n };
    if (n < 1 || n > UINT32_MAX)
        return q3_fail(Q3_ERR_DATA, "%lld samples to evaluate; there must be at least one", (long long)n);
    out->confusion = Q3_ZNEW(mem, int64_t, labels->n * (labels->n + 2));
    if (!out->confusion)
        return Q3_ERR_MEMORY;
    count(out, outcomes);
    out->accuracy = (double)out->correct / (double)n;
    score_labels(out);
    bootstrap(out, seed);
    Q3_TRY(group_by_source(out, mem, outcomes));
    return score_forced(out, mem, outcomes);
}

/* The writer: a comma and a new line before each key but the first. */
typedef struct writer {
    q3_text *out;
    int indent;
    bool first;
} writer;

static void key(writer *w, const char *name, const char *label)
{
    q3_text_printf(w->out, "%s\n%*s", w->first ? "" : ",", w->indent, "");
    w->first = false;
    q3_text text = { 0 };
    q3_text_printf(&text, "%s%s", name, label ? label : "");
    q3_text_json_string(w->out, text.data ? text.data : "", text.size);
    w->out->failed |= text.failed;
    q3_text_free(&text);
    q3_text_append(w->out, ": ", 2);
}

static void number(writer *w, const char *name, const char *label, double value)
{
    key(w, name, label);
    q3_text_json_number(w->out, value);
}

static void whole(writer *w, const char *name, const char *label, int64_t value)
{
    key(w, name, label);
    q3_text_printf(w->out, "%lld", (long long)value);
}

static writer inner(writer *w, const char *name)
{
    key(w, name, NULL);
    q3_text_append(w->out, "{", 1);
    return (writer){ w->out, w->indent + 2, true };
}

static void end_object(writer *w)
{
    q3_text_printf(w->out, "\n%*s}", w->indent - 2, "");
}

static void write_labels(writer *w, const q3_metrics *m)
{
    for (int i = 0; i < m->labels->n; i++) {
        const char *label = m->labels->normal[i];
        number(w, "precision_", label, m->label[i].precision);
        number(w, "recall_", label, m->label[i].recall);
        number(w, "f1_", label, m->label[i].f1);
        whole(w, "support_", label, m->label[i].support);
    }
    if (m->sarcastic >= 0) {
        number(w, "binary_precision", NULL, m->label[m->sarcastic].precision);
        number(w, "binary_recall", NULL, m->label[m->sarcastic].recall);
        number(w, "binary_f1", NULL, m->label[m->sarcastic].f1);
    }
}

static void write_counts(writer *w, const q3_metrics *m)
{
    writer d = inner(w, "pred_dist");
    for (int i = 0; i < m->labels->n; i++)
        whole(&d, m->labels->normal[i], NULL, m->label[i].predicted);
    if (m->n_other)
        whole(&d, "other_words", NULL, m->n_other);
    end_object(&d);
    d = inner(w, "gold_dist");
    for (int i = 0; i < m->labels->n; i++)
        whole(&d, m->labels->normal[i], NULL, m->label[i].support);
    end_object(&d);
    whole(w, "num_eval_samples", NULL, m->n);
    whole(w, "num_failed_preds", NULL, m->failed);
    d = inner(w, "parse_stages");
    for (int i = 0; i < Q3_ANSWER_STAGES; i++)
        whole(&d, q3_answer_stage_names[i], NULL, m->stages[i]);
    end_object(&d);
}

static void write_confusion(writer *w, const q3_metrics *m)
{
    int n = m->labels->n;
    writer d = inner(w, "confusion_matrix");
    key(&d, "columns", NULL);
    for (int i = 0; i < n; i++) {
        q3_text_append(d.out, i ? ", " : "[", i ? 2 : 1);
        q3_text_json_string(d.out, m->labels->normal[i], strlen(m->labels->normal[i]));
    }
    q3_text_printf(d.out, ", \"other_words\", \"failed\"]");
    for (int i = 0; i < n; i++) {
        key(&d, "gold_", m->labels->normal[i]);
        for (int k = 0; k < n + 2; k++)
            q3_text_printf(d.out, "%s%lld", k ? ", " : "[", (long long)m->confusion[i * (n + 2) + k]);
        q3_text_append(d.out, "]", 1);
    }
    end_object(&d);
}

static void write_sources(writer *w, const q3_metrics *m)
{
    writer d = inner(w, "by_source");
    for (int i = 0; i < m->n_sources; i++) {
        const q3_source_scores *s = &m->sources[i];
        key(&d, s->name, NULL);
        q3_text_printf(d.out, "{\"n\": %lld, \"accuracy\": ", (long long)s->n);
        q3_text_json_number(d.out, (double)s->correct / (double)s->n);
        q3_text_append(d.out, "}", 1);
    }
    end_object(&d);
}

void q3_metrics_write(q3_text *out, const q3_metrics *m, int indent)
{
    q3_text_append(out, "{", 1);
    writer w = { out, indent + 2, true };
    number(&w, "accuracy", NULL, m->accuracy);
    key(&w, "accuracy_interval", NULL);
    q3_text_append(out, "[", 1);
    q3_text_json_number(out, m->interval[0]);
    q3_text_append(out, ", ", 2);
    q3_text_json_number(out, m->interval[1]);
    q3_text_append(out, "]", 1);
    number(&w, "macro_f1", NULL, m->macro_f1);
    number(&w, "macro_f1_present", NULL, m->macro_f1_present);
    write_labels(&w, m);
    write_counts(&w, m);
    write_confusion(&w, m);
    if (m->n_sources)
        write_sources(&w, m);
    if (m->has_forced)
        number(&w, "forced_accuracy", NULL, m->forced_accuracy);
    if (m->has_auroc)
        number(&w, "forced_auroc", NULL, m->forced_auroc);
    end_object(&w);
}
