/* download: a model or a data set of the hub into the cache. */
#include <stdio.h>
#include <string.h>

#include "cli/options.h"
#include "data/hub.h"

static const q3_option options[] = {
    { .name = "revision",
      .kind = Q3_OPTION_VALUE,
      .value = "R",
      .help = "branch, tag or commit (default: main, or NAME@R)" },
    { .name = "type",
      .kind = Q3_OPTION_VALUE,
      .value = "model|dataset",
      .initial = "model",
      .help = "what NAME is",
      .alias = "repo-type" },
    { .name = "include",
      .kind = Q3_OPTION_VALUE,
      .value = "PATTERN",
      .help = "these files; *: anything",
      .repeats = true },
    { .name = "dry-run", .kind = Q3_OPTION_FLAG, .help = "list the files and fetch nothing" },
};

enum { PATTERNS_MAX = 64 };

static q3_status read_options(q3_hub_options *out, const char **patterns, const q3_options *o)
{
    static const char *const types[] = { "model", "dataset", NULL };
    const char *pattern;
    int type;
    Q3_TRY(q3_options_choice(&type, o, "type", 0, types));
    *out = (q3_hub_options){ .kind = type ? Q3_HUB_DATASET : Q3_HUB_MODEL,
                             .wish.include = patterns,
                             .revision = q3_options_get(o, "revision"),
                             .refresh = true };
    while ((pattern = q3_options_nth(o, "include", out->wish.n_include))) {
        if (out->wish.n_include == PATTERNS_MAX)
            return q3_fail(Q3_ERR_USAGE, "there are more than %d patterns", PATTERNS_MAX);
        if (!*pattern)
            return q3_fail(Q3_ERR_USAGE, "--include is empty; '*' takes every file");
        patterns[out->wish.n_include++] = pattern;
    }
    return Q3_OK;
}

static q3_status run(const q3_options *o)
{
    const char *patterns[PATTERNS_MAX];
    q3_hub_options options_of;
    q3_hub_repo repo;
    q3_text text = { 0 };
    char *dir;
    Q3_TRY(read_options(&options_of, patterns, o));
    if (!o->n_words)
        return q3_fail(Q3_ERR_USAGE, "download needs a name: org/name (see qwen3-sft download --help)");
    const char *name = o->words[0];
    if (!q3_hub_parse(&repo, name, options_of.kind))
        return q3_fail(Q3_ERR_USAGE, "\"%.100s\" is no name on the hub; write org/name or org/name@revision",
                       name);
    if (options_of.revision && repo.pinned)
        return q3_fail(Q3_ERR_USAGE, "%.100s names a revision, and so does --revision; leave out one", name);
    if (q3_options_given(o, "dry-run")) {
        Q3_TRY(q3_hub_preview(&text, name, &options_of));
        return q3_options_print(&text);
    }
    Q3_TRY(q3_hub_fetch(&dir, name, &options_of));
    printf("%s\n", dir);
    q3_free(dir);
    return Q3_OK;
}

const q3_command q3_command_download = {
    .name = "download",
    .summary = "fetch a model or a data set of the hub into the cache; prints its directory",
    .usage = "NAME [--revision R] [--type model|dataset] [options]",
    .example = "download Qwen/Qwen3-VL-2B-Instruct",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .groups = Q3_COMMAND_HUB,
    .max_words = 1,
    .run = run,
};
