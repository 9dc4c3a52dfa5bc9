#include "eval/report.h"

#include <math.h>
#include <string.h>

#include "eval/report_chart.h"
#include "eval/report_style.h"
#include "eval/report_text.h"

static void head(q3_text *out, const q3_report_data *d)
{
    q3_html_raw(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                     "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>");
    q3_html_text(out, d->title ? d->title : "Report");
    q3_html_raw(out, "</title>\n<style>\n");
    for (size_t i = 0; i < sizeof q3_report_style / sizeof *q3_report_style; i++)
        q3_html_raw(out, q3_report_style[i]);
    q3_html_raw(out, "</style>\n</head>\n<body>\n<main>\n<header>\n<h1>");
    q3_html_text(out, d->title ? d->title : "Report");
    q3_html_raw(out, "</h1>\n");
    if (d->subtitle) {
        q3_html_raw(out, "<p class=\"sub\">");
        q3_html_text(out, d->subtitle);
        q3_html_raw(out, "</p>\n");
    }
    if (d->note) {
        q3_html_raw(out, "<p class=\"note\">");
        q3_html_text(out, d->note);
        q3_html_raw(out, "</p>\n");
    }
    q3_html_raw(out, "</header>\n");
}

static void tile_begin(q3_text *out, const char *name, bool main)
{
    q3_text_printf(out, "<div class=\"tile%s\"><div class=\"name\">%s</div><div class=\"value\">",
                   main ? " main" : "", name);
}

static void tile_more(q3_text *out)
{
    q3_html_raw(out, "</div><div class=\"more\">");
}

static void tile_end(q3_text *out)
{
    q3_html_raw(out, "</div></div>\n");
}

static void before_and_after(q3_text *out, bool has_before, double before, bool has_after, double after)
{
    if (has_before && has_after)
        q3_html_raw(out, "<small>");
    if (has_before)
        q3_html_percent(out, before);
    if (has_before && has_after)
        q3_html_raw(out, " \xE2\x86\x92 </small>");
    if (has_after)
        q3_html_percent(out, after);
}

static void quality_tiles(q3_text *out, const q3_report_data *d)
{
    const q3_metrics *before = d->before, *after = d->after, *last = after ? after : before;
    if (!last)
        return;
    q3_html_raw(out, "<section class=\"tiles\">\n");
    tile_begin(out, "Accuracy of generated answers", true);
    before_and_after(out, before != NULL, before ? before->accuracy : 0, after != NULL,
                     after ? after->accuracy : 0);
    tile_more(out);
    q3_html_raw(out, "95\xE2\x80\xAF% interval ");
    q3_html_percent(out, last->interval[0]);
    q3_html_raw(out, " to ");
    q3_html_percent(out, last->interval[1]);
    q3_html_raw(out, ", ");
    q3_html_count(out, last->n);
    q3_html_raw(out, last->n == 1 ? " sample" : " samples");
    tile_end(out);
    bool forced_before = before && before->has_forced, forced_after = after && after->has_forced;
    if (forced_before || forced_after) {
        tile_begin(out, "Accuracy of forced choice", true);
        before_and_after(out, forced_before, forced_before ? before->forced_accuracy : 0, forced_after,
                         forced_after ? after->forced_accuracy : 0);
        tile_more(out);
        q3_html_raw(out, "the likeliest of the label words");
        tile_end(out);
    }
    q3_html_raw(out, "</section>\n");
}

static void cost_tiles(q3_text *out, const q3_report_data *d)
{
    if (!(d->trainable > 0 || d->seconds > 0 || d->tokens_per_second > 0 || d->peak_bytes > 0))
        return;
    q3_html_raw(out, "<section class=\"tiles\">\n");
    if (d->trainable > 0) {
        tile_begin(out, "Trainable parameters", false);
        q3_html_count(out, d->trainable);
        tile_more(out);
        if (d->total > 0) {
            q3_text_printf(out, "%.2f\xE2\x80\xAF%% of ", 100 * (double)d->trainable / (double)d->total);
            q3_html_count(out, d->total);
        }
        tile_end(out);
    }
    if (d->seconds > 0) {
        tile_begin(out, "Training time", false);
        q3_html_duration(out, d->seconds);
        tile_more(out);
        if (d->steps > 0) {
            q3_html_count(out, d->steps);
            q3_html_raw(out, d->steps == 1 ? " step" : " steps");
        }
        tile_end(out);
    }
    if (d->tokens_per_second > 0) {
        tile_begin(out, "Speed", false);
        q3_html_count(out, (int64_t)(d->tokens_per_second + 0.5));
        tile_more(out);
        q3_html_raw(out, "tokens a second");
        tile_end(out);
    }
    if (d->peak_bytes > 0) {
        tile_begin(out, "Peak memory", false);
        q3_html_bytes(out, d->peak_bytes);
        tile_more(out);
        q3_html_raw(out, "of the whole process");
        tile_end(out);
    }
    q3_html_raw(out, "</section>\n");
}

/* One row of the comparison: a share before, after, and the change in percentage points. */
static void share_row(q3_text *out, const char *name, const double *before, const double *after)
{
    q3_text_printf(out, "<tr><th scope=\"row\">%s</th>", name);
    const double *values[] = { before, after };
    for (int i = 0; i < 2; i++) {
        q3_html_raw(out, "<td>");
        if (values[i])
            q3_html_percent(out, *values[i]);
        q3_html_raw(out, "</td>");
    }
    if (before && after) {
        double change = 100 * (*after - *before);
        const char *class = fabs(change) < 0.05 ? "flat" : change > 0 ? "up" : "down";
        q3_text_printf(out, "<td class=\"%s\">%s%.1f</td></tr>\n", class,
                       fabs(change) < 0.05 ? ""
                       : change > 0        ? "+"
                                           : "\xE2\x88\x92",
                       fabs(change));
    } else {
        q3_html_raw(out, "<td></td></tr>\n");
    }
}

static void interval_row(q3_text *out, const q3_metrics *before, const q3_metrics *after)
{
    q3_html_raw(out, "<tr class=\"minor\"><th scope=\"row\">95\xE2\x80\xAF% interval</th>");
    const q3_metrics *both[] = { before, after };
    for (int i = 0; i < 2; i++) {
        q3_html_raw(out, "<td>");
        if (both[i]) {
            q3_text_printf(out, "%.1f \xE2\x80\x93 ", 100 * both[i]->interval[0]);
            q3_html_percent(out, both[i]->interval[1]);
        }
        q3_html_raw(out, "</td>");
    }
    q3_html_raw(out, "<td></td></tr>\n");
}

static void count_row(q3_text *out, const char *name, const int64_t *before, const int64_t *after)
{
    q3_text_printf(out, "<tr><th scope=\"row\">%s</th>", name);
    const int64_t *values[] = { before, after };
    for (int i = 0; i < 2; i++) {
        q3_html_raw(out, "<td>");
        if (values[i])
            q3_html_count(out, *values[i]);
        q3_html_raw(out, "</td>");
    }
    q3_html_raw(out, "<td></td></tr>\n");
}

#define OF(m, field) ((m) ? &(m)->field : NULL)
#define OF_IF(m, flag, field) ((m) && (m)->flag ? &(m)->field : NULL)

static void comparison(q3_text *out, const q3_metrics *b, const q3_metrics *a)
{
    const q3_metrics *any = a ? a : b;
    q3_html_raw(
        out, "<div class=\"card scroll\"><table><thead><tr><th></th><th>before</th><th>after</th><th>change"
             "</th></tr></thead><tbody>\n");
    share_row(out, "Accuracy", OF(b, accuracy), OF(a, accuracy));
    interval_row(out, b, a);
    share_row(out, "Macro F1", OF(b, macro_f1), OF(a, macro_f1));
    share_row(out, "Macro F1 of the labels present", OF(b, macro_f1_present), OF(a, macro_f1_present));
    if (any->sarcastic >= 0) {
        int s = any->sarcastic;
        share_row(out, "Precision of \xE2\x80\x9Csarcastic\xE2\x80\x9D", OF(b, label[s].precision),
                  OF(a, label[s].precision));
        share_row(out, "Recall of \xE2\x80\x9Csarcastic\xE2\x80\x9D", OF(b, label[s].recall),
                  OF(a, label[s].recall));
        share_row(out, "F1 of \xE2\x80\x9Csarcastic\xE2\x80\x9D", OF(b, label[s].f1), OF(a, label[s].f1));
    }
    if ((b && b->has_forced) || (a && a->has_forced))
        share_row(out, "Forced choice: accuracy", OF_IF(b, has_forced, forced_accuracy),
                  OF_IF(a, has_forced, forced_accuracy));
    if ((b && b->has_auroc) || (a && a->has_auroc))
        share_row(out, "Forced choice: area under the ROC curve", OF_IF(b, has_auroc, forced_auroc),
                  OF_IF(a, has_auroc, forced_auroc));
    count_row(out, "Samples", OF(b, n), OF(a, n));
    static const char *const stages[Q3_ANSWER_STAGES] = { "Answers read as strict JSON", "JSON found in text",
                                                          "JSON repaired", "Label found in text",
                                                          "Answers without a label" };
    for (int i = 0; i < Q3_ANSWER_STAGES; i++)
        count_row(out, stages[i], OF(b, stages[i]), OF(a, stages[i]));
    q3_html_raw(out, "</tbody></table></div>\n");
}

static void label_cells(q3_text *out, const q3_metrics *m, int label)
{
    const q3_label_scores *s = &m->label[label];
    const double values[] = { s->precision, s->recall, s->f1 };
    for (int i = 0; i < 3; i++) {
        q3_html_raw(out, i ? "<td>" : "<td class=\"gap\">");
        q3_html_percent(out, values[i]);
        q3_html_raw(out, "</td>");
    }
    q3_html_raw(out, "<td>");
    q3_html_count(out, s->predicted);
    q3_html_raw(out, "</td>");
}

static void by_label(q3_text *out, const q3_metrics *b, const q3_metrics *a)
{
    const q3_metrics *any = a ? a : b;
    q3_html_raw(out, "<div class=\"card scroll\"><table><thead><tr><th></th><th></th>");
    if (b)
        q3_html_raw(out, "<th class=\"group\" colspan=\"4\">before</th>");
    if (a)
        q3_html_raw(out, "<th class=\"group\" colspan=\"4\">after</th>");
    q3_html_raw(out, "</tr><tr><th>label</th><th>samples</th>");
    for (int i = 0; i < (b ? 1 : 0) + (a ? 1 : 0); i++)
        q3_html_raw(out, "<th class=\"gap\">precision</th><th>recall</th><th>F1</th><th>answers</th>");
    q3_html_raw(out, "</tr></thead><tbody>\n");
    for (int i = 0; i < any->labels->n; i++) {
        q3_html_raw(out, "<tr><th scope=\"row\">");
        q3_html_text(out, any->labels->normal[i]);
        q3_html_raw(out, "</th><td>");
        q3_html_count(out, any->label[i].support);
        q3_html_raw(out, "</td>");
        if (b)
            label_cells(out, b, i);
        if (a)
            label_cells(out, a, i);
        q3_html_raw(out, "</tr>\n");
    }
    q3_html_raw(out, "</tbody></table></div>\n");
}

/* Shades are shares of the row; columns of words and failures that never occur are left out. */
static void confusion(q3_text *out, const char *name, const q3_metrics *m)
{
    int n = m->labels->n, columns = n + 2;
    bool shown[Q3_LABELS_MAX + 2] = { false };
    for (int k = 0; k < columns; k++)
        for (int i = 0; i < n; i++)
            shown[k] = shown[k] || k < n || m->confusion[i * columns + k] > 0;
    q3_text_printf(out, "<div class=\"card scroll\"><h3>%s</h3><table class=\"matrix\"><thead><tr><th>",
                   name);
    q3_html_raw(out, "right label \xE2\x86\x93 \xE2\x80\x83 answer \xE2\x86\x92</th>");
    for (int k = 0; k < columns; k++) {
        if (!shown[k])
            continue;
        q3_html_raw(out, "<th>");
        q3_html_text(out, k < n ? m->labels->normal[k] : k == n ? "other word" : "no label");
        q3_html_raw(out, "</th>");
    }
    q3_html_raw(out, "</tr></thead><tbody>\n");
    for (int i = 0; i < n; i++) {
        q3_html_raw(out, "<tr><th scope=\"row\">");
        q3_html_text(out, m->labels->normal[i]);
        q3_html_raw(out, "</th>");
        for (int k = 0; k < columns; k++) {
            int64_t count = m->confusion[i * columns + k], all = m->label[i].support;
            if (!shown[k])
                continue;
            q3_text_printf(out, "<td%s style=\"--s:%.3f\">", i == k ? " class=\"hit\"" : "",
                           all ? (double)count / (double)all : 0);
            q3_html_count(out, count);
            q3_html_raw(out, "</td>");
        }
        q3_html_raw(out, "</tr>\n");
    }
    q3_html_raw(out, "</tbody></table></div>\n");
}

/* Groups of samples, matched by name between the two evaluations. */
static void by_source(q3_text *out, const q3_metrics *b, const q3_metrics *a)
{
    const q3_metrics *any = a ? a : b;
    if (any->n_sources < 1)
        return;
    q3_html_raw(
        out,
        "<div class=\"card scroll\"><table><thead><tr><th>accuracy by source</th><th>before</th><th>after"
        "</th><th>change</th></tr></thead><tbody>\n");
    for (int i = 0; i < any->n_sources; i++) {
        const q3_metrics *both[] = { b, a };
        double value[2] = { 0, 0 };
        const double *found[2] = { NULL, NULL };
        for (int side = 0; side < 2; side++) {
            for (int k = 0; both[side] && k < both[side]->n_sources; k++) {
                const q3_source_scores *s = &both[side]->sources[k];
                if (strcmp(s->name, any->sources[i].name) == 0) {
                    value[side] = (double)s->correct / (double)s->n;
                    found[side] = &value[side];
                }
            }
        }
        q3_text name = { 0 };
        q3_html_text(&name, any->sources[i].name);
        out->failed |= name.failed;
        share_row(out, name.data ? name.data : "", found[0], found[1]);
        q3_text_free(&name);
    }
    q3_html_raw(out, "</tbody></table></div>\n");
}

static void quality(q3_text *out, const q3_metrics *before, const q3_metrics *after)
{
    if (!before && !after)
        return;
    q3_html_raw(out, "<section>\n<h2>Quality</h2>\n<div class=\"stack\">\n");
    comparison(out, before, after);
    by_label(out, before, after);
    by_source(out, before, after);
    q3_html_raw(out, "</div>\n</section>\n<section>\n<h2>Confusion</h2>\n<div class=\"pair\">\n");
    if (before)
        confusion(out, "Before training", before);
    if (after)
        confusion(out, "After training", after);
    q3_html_raw(
        out,
        "</div>\n<p class=\"hint\">Rows are the right labels; the darker a cell, the larger its share of the "
        "row.</p>\n</section>\n");
}

static void given_answer(q3_text *out, const char *name, const char *answer, bool right)
{
    if (!answer)
        return;
    q3_text_printf(out, "<dt>%s</dt><dd><span class=\"mark %s\" title=\"%s\">%s</span><code>", name,
                   right ? "up" : "down", right ? "right" : "wrong", right ? "\xE2\x9C\x93" : "\xE2\x9C\x97");
    q3_html_text(out, answer);
    q3_html_raw(out, "</code></dd>");
}

static void example(q3_text *out, const q3_report_example *e)
{
    q3_html_raw(out, "<article class=\"example\">");
    if (e->image && e->image_bytes) {
        q3_html_raw(out, "<div class=\"picture\"><img alt=\"\" src=\"");
        q3_html_data_url(out, e->image, e->image_bytes);
        q3_html_raw(out, "\"></div>");
    }
    q3_html_raw(out, "<div class=\"body\">");
    if (e->text) {
        q3_html_raw(out, "<p>");
        q3_html_text(out, e->text);
        q3_html_raw(out, "</p>");
    }
    q3_html_raw(out, "<dl>");
    if (e->gold) {
        q3_html_raw(out, "<dt>correct</dt><dd>");
        q3_html_text(out, e->gold);
        q3_html_raw(out, "</dd>");
    }
    given_answer(out, "before", e->before, e->before_right);
    given_answer(out, "after", e->after, e->after_right);
    q3_html_raw(out, "</dl></div></article>\n");
}

static void setting(q3_text *out, const cJSON *item)
{
    char *value = cJSON_IsString(item) ? NULL : cJSON_PrintUnformatted(item);
    q3_html_raw(out, "<tr><th scope=\"row\">");
    q3_html_text(out, item->string ? item->string : "");
    q3_html_raw(out, "</th><td>");
    q3_html_text(out, cJSON_IsString(item) ? item->valuestring : value);
    q3_html_raw(out, "</td></tr>\n");
    out->failed |= !cJSON_IsString(item) && !value;
    cJSON_free(value);
}

/* Single values first, then one section for each object. */
static void settings_table(q3_text *out, const cJSON *root)
{
    q3_html_raw(out, "<table class=\"settings\"><tbody>\n");
    const cJSON *item, *inner;
    cJSON_ArrayForEach(item, root)
    {
        if (!cJSON_IsObject(item))
            setting(out, item);
    }
    cJSON_ArrayForEach(item, root)
    {
        if (!cJSON_IsObject(item))
            continue;
        q3_html_raw(out, "<tr class=\"section\"><th colspan=\"2\">");
        q3_html_text(out, item->string ? item->string : "");
        q3_html_raw(out, "</th></tr>\n");
        cJSON_ArrayForEach(inner, item)
        {
            setting(out, inner);
        }
    }
    q3_html_raw(out, "</tbody></table>\n");
}

static void settings(q3_text *out, const char *json)
{
    q3_json doc;
    q3_html_raw(out, "<details><summary>Settings</summary>\n<div class=\"card\">\n");
    bool parsed = q3_json_parse(&doc, json, strlen(json), "settings", 1) == Q3_OK;
    if (parsed && cJSON_IsObject(doc.root)) {
        settings_table(out, doc.root);
    } else {
        q3_html_raw(out, "<pre>");
        q3_html_text(out, json);
        q3_html_raw(out, "</pre>");
    }
    if (parsed)
        q3_json_close(&doc);
    q3_html_raw(out, "</div>\n</details>\n");
}

static void answers_curve(q3_text *out, const q3_report_data *d)
{
    q3_text chart = { 0 };
    if (q3_report_answers_chart(&chart, &d->accuracy, &d->macro_f1) && !chart.failed) {
        q3_html_raw(out, "<section>\n<h2>Answers in the course of training</h2>\n");
        q3_text_append(out, chart.data, chart.size);
        q3_html_raw(out, "</section>\n");
    }
    out->failed |= chart.failed;
    q3_text_free(&chart);
}

q3_status q3_report_write(q3_text *out, const q3_report_data *d)
{
    head(out, d);
    quality_tiles(out, d);
    cost_tiles(out, d);
    q3_text chart = { 0 };
    if (q3_report_chart(&chart, &d->train_loss, &d->eval_loss, &d->rate) && !chart.failed) {
        q3_html_raw(out, "<section>\n<h2>Loss</h2>\n");
        q3_text_append(out, chart.data, chart.size);
        q3_html_raw(out, "</section>\n");
    }
    out->failed |= chart.failed;
    q3_text_free(&chart);
    answers_curve(out, d);
    quality(out, d->before, d->after);
    if (d->n_examples > 0) {
        q3_html_raw(out, "<section>\n<h2>Examples</h2>\n<div class=\"examples\">\n");
        for (int i = 0; i < d->n_examples; i++)
            example(out, &d->examples[i]);
        q3_html_raw(out, "</div>\n</section>\n");
    }
    if (d->settings)
        settings(out, d->settings);
    q3_html_raw(out, "<footer>qwen3-sft " Q3_VERSION "</footer>\n</main>\n</body>\n</html>\n");
    return out->failed ? q3_fail(Q3_ERR_MEMORY, "report.html: out of memory") : Q3_OK;
}
