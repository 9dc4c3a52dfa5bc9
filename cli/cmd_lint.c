/* lint: all samples of a config and the config itself, with everything that is wrong told at once. */
#include <string.h>

#include "cli/config_files.h"
#include "cli/options.h"
#include "train/lint.h"

enum { SHOWN = 12 }; // findings of a kind, unless all are asked for

static const q3_option options[] = {
    { .name = "all", .kind = Q3_OPTION_FLAG, .help = "every finding, not only the first 12 of a kind" },
    { .name = "json",
      .kind = Q3_OPTION_FLAG,
      .help = "findings, all of them, and summary as one JSON object" },
};

static void print_kind(q3_text *out, const q3_lint *lint, int64_t first, bool all)
{
    q3_lint_kind kind = lint->findings[first].kind;
    int64_t n = lint->counts[kind], shown = all || n <= SHOWN ? n : SHOWN;
    q3_text_printf(out, "%s%s: %lld; %s\n",
                   q3_lint_counts(kind) ? "" : "warning: ", q3_lint_kinds[kind].heading, (long long)n,
                   q3_lint_kinds[kind].remedy);
    for (int64_t i = first; i < first + shown; i++)
        q3_text_printf(out, "  %s\n", lint->findings[i].sentence);
    if (shown < n)
        q3_text_printf(out, "  and %lld more; --all shows them\n", (long long)(n - shown));
    q3_text_append(out, "\n", 1);
}

static void print_range(q3_text *out, const char *name, const q3_lint_range *r)
{
    q3_text_printf(out, "  %-11s %lld to %lld, median %lld, %lld in all\n", name, (long long)r->min,
                   (long long)r->max, (long long)r->median, (long long)r->total);
}

static void print_pictures(q3_text *out, const q3_lint_set *set)
{
    q3_text_printf(out, "  %-11s %lld, %d x %d", "pictures", (long long)set->n_pictures, set->smallest[0],
                   set->smallest[1]);
    if (set->n_sizes > 1)
        q3_text_printf(out, " to %d x %d, %lld sizes", set->largest[0], set->largest[1],
                       (long long)set->n_sizes);
    q3_text_append(out, "\n", 1);
}

static void print_set(q3_text *out, const q3_lint *lint, const q3_lint_set *set)
{
    q3_text_printf(out, "%-11s %s\n  %-11s %lld, %lld of them usable\n", set->name, set->path, "samples",
                   (long long)set->n, (long long)set->usable);
    if (set->usable) {
        print_range(out, "tokens", &set->tokens);
        print_range(out, "supervised", &set->supervised);
    }
    if (set->n_pictures)
        print_pictures(out, set);
    q3_text_printf(out, "  %-11s", "labels");
    for (int i = 0; i < lint->labels.n; i++)
        q3_text_printf(out, " %s %lld,", lint->labels.spelled[i], (long long)set->labels[i]);
    q3_text_printf(out, " none of these %lld\n", (long long)set->unlabelled);
}

static void print(q3_text *out, const q3_lint *lint, bool all)
{
    for (int64_t i = 0; i < lint->n; i += lint->counts[lint->findings[i].kind])
        print_kind(out, lint, i, all);
    for (int i = 0; i < lint->n_sets; i++)
        print_set(out, lint, &lint->sets[i]);
}

static void json_text(q3_text *out, const char *before, const char *text)
{
    q3_text_printf(out, "%s", before);
    q3_text_json_string(out, text, strlen(text));
}

static void json_findings(q3_text *out, const q3_lint *lint)
{
    q3_text_printf(out, ", \"findings\": [");
    for (int64_t i = 0; i < lint->n; i++) {
        const q3_lint_finding *f = &lint->findings[i];
        q3_text_printf(out, "%s\n  {\"kind\": \"%s\", \"warning\": %s", i ? "," : "",
                       q3_lint_kinds[f->kind].name, q3_lint_counts(f->kind) ? "false" : "true");
        json_text(out, ", \"set\": ", lint->sets[f->set].name);
        q3_text_printf(out, ", \"sample\": %lld", (long long)f->sample);
        json_text(out, ", \"sentence\": ", f->sentence);
        q3_text_append(out, "}", 1);
    }
    q3_text_append(out, "]", 1);
}

static void json_range(q3_text *out, const char *name, const q3_lint_range *r)
{
    q3_text_printf(out, ", \"%s\": {\"min\": %lld, \"median\": %lld, \"max\": %lld, \"total\": %lld}", name,
                   (long long)r->min, (long long)r->median, (long long)r->max, (long long)r->total);
}

static void json_set(q3_text *out, const q3_lint *lint, const q3_lint_set *set)
{
    json_text(out, "\n  {\"name\": ", set->name);
    json_text(out, ", \"path\": ", set->path);
    q3_text_printf(out, ", \"samples\": %lld, \"usable\": %lld", (long long)set->n, (long long)set->usable);
    json_range(out, "tokens", &set->tokens);
    json_range(out, "supervised", &set->supervised);
    q3_text_printf(out,
                   ", \"pictures\": {\"n\": %lld, \"sizes\": %lld, \"smallest\": [%d, %d], \"largest\": [%d, "
                   "%d]}, \"labels\": {",
                   (long long)set->n_pictures, (long long)set->n_sizes, set->smallest[0], set->smallest[1],
                   set->largest[0], set->largest[1]);
    for (int i = 0; i < lint->labels.n; i++) {
        json_text(out, i ? ", " : "", lint->labels.spelled[i]);
        q3_text_printf(out, ": %lld", (long long)set->labels[i]);
    }
    q3_text_printf(out, "}, \"unlabelled\": %lld}", (long long)set->unlabelled);
}

static void print_json(q3_text *out, const q3_lint *lint)
{
    q3_text_printf(out, "{\"unusable\": %lld", (long long)q3_lint_unusable(lint));
    json_findings(out, lint);
    q3_text_printf(out, ", \"sets\": [");
    for (int i = 0; i < lint->n_sets; i++) {
        q3_text_printf(out, "%s", i ? "," : "");
        json_set(out, lint, &lint->sets[i]);
    }
    q3_text_printf(out, "]}\n");
}

static q3_status look(q3_config *config, const q3_options *o)
{
    q3_lint lint;
    q3_text text = { 0 };
    int missing = q3_config_missing(config);
    Q3_TRY(q3_lint_run(&lint, config));
    if (q3_options_given(o, "json"))
        print_json(&text, &lint);
    else
        print(&text, &lint, q3_options_given(o, "all"));
    int64_t unusable = q3_lint_unusable(&lint), n = lint.sets[0].n + lint.sets[1].n;
    q3_lint_free(&lint);
    Q3_TRY(q3_options_print(&text));
    if (unusable)
        return q3_fail(Q3_ERR_DATA, "%lld of %lld samples would stop a training or be left out",
                       (long long)unusable, (long long)n);
    return missing
               ? q3_fail(Q3_ERR_USAGE, "the samples are fine, but the config names files that are not there")
               : Q3_OK;
}

static q3_status run(const q3_options *o)
{
    q3_config config;
    Q3_TRY(q3_options_begin(&config, o));
    q3_status st = look(&config, o);
    q3_config_free(&config);
    return st;
}

const q3_command q3_command_lint = {
    .name = "lint",
    .summary = "look at a config and all its samples, and tell everything that is wrong",
    .usage = "--config FILE [key.sub=value ...]",
    .example = "lint --config configs/sarcasm.json",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_CONFIG | Q3_COMMAND_ENGINE | Q3_COMMAND_HUB,
    .run = run,
};
