/* rerank: how well documents answer a query. */
#include <string.h>

#include "cli/model_options.h"
#include "cli/rerank_check.h"
#include "cli/rerank_request.h"
#include "eval/ranking.h"

static const char *const scores[] = { "prob", "logit", NULL };
static const char *const templates[] = { "hf", "vllm", NULL };

static const q3_option options[] = {
    { .name = "query", .kind = Q3_OPTION_VALUE, .value = "TEXT", .help = "what is asked" },
    { .name = "document",
      .letter = 'd',
      .kind = Q3_OPTION_VALUE,
      .value = "TEXT",
      .help = "a document",
      .repeats = true },
    { .name = "documents",
      .kind = Q3_OPTION_VALUE,
      .value = "@FILE|JSON",
      .help = "list of texts, or objects with text, image" },
    { .name = "documents-jsonl", .kind = Q3_OPTION_VALUE, .value = "FILE", .help = "the same, one a line" },
    { .name = "query-image",
      .kind = Q3_OPTION_VALUE,
      .value = "FILE",
      .help = "a picture of the query",
      .repeats = true },
    { .name = "document-image",
      .kind = Q3_OPTION_VALUE,
      .value = "FILE",
      .help = "a picture that is a document",
      .repeats = true },
    { .name = "json",
      .kind = Q3_OPTION_VALUE,
      .value = "FILE|-",
      .help = "a request: query, documents ... (docs/rerank.md)" },
    { .name = "instruction",
      .kind = Q3_OPTION_VALUE,
      .value = "TEXT",
      .help = "the task (default: the model's own)" },
    { .name = "top-k-docs",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "best ones to tell, to 100 (default: 5)",
      .alias = "top-k" },
    { .name = "batch-size",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "computed together, to 32 (default: 8)" },
    { .name = "score",
      .kind = Q3_OPTION_VALUE,
      .value = "prob|logit",
      .initial = "prob",
      .help = "of yes, or logit yes - no" },
    { .name = "template",
      .kind = Q3_OPTION_VALUE,
      .value = "hf|vllm",
      .initial = "hf",
      .help = "vllm: blank lines between parts" },
    { .name = "max-length",
      .kind = Q3_OPTION_VALUE,
      .value = "N",
      .help = "tokens (default: 8192; 10240 with pictures)" },
    { .name = "allow-special-tokens", .kind = Q3_OPTION_FLAG, .help = "control tokens in texts become such" },
    { .name = "pretty", .kind = Q3_OPTION_FLAG, .help = "indent the answer" },
    { .name = "eval",
      .kind = Q3_OPTION_VALUE,
      .value = "QRELS",
      .help = "nDCG@10 and MRR over a file of queries" },
    { .name = "selftest", .kind = Q3_OPTION_FLAG, .help = "check the model as it was loaded" },
};

typedef struct ranking_run {
    const q3_options *o;
    q3_model_settings model;
    q3_reranker_options reranker;
    bool as_logits;
    q3_session session;
    q3_reranker *r;
    int adapter;
} ranking_run;

/* Fails when `mode` is given together with one of `others`, which would have no effect. */
static q3_status excludes(const q3_options *o, const char *mode, const char *const *others)
{
    for (int i = 0; q3_options_given(o, mode) && others[i]; i++)
        if (q3_options_given(o, others[i]))
            return q3_fail(Q3_ERR_USAGE, "--%s has no use for --%s; leave it out", mode, others[i]);
    return Q3_OK;
}

static q3_status check_modes(const q3_options *o)
{
    static const char *const texts[] = { "query",       "document",       "documents", "documents-jsonl",
                                         "query-image", "document-image", NULL };
    static const char *const answers[] = { "json", "top-k-docs", "score", "pretty", NULL };
    static const char *const others[] = { "eval", "batch-size", "instruction", NULL };
    Q3_TRY(excludes(o, "json", texts));
    Q3_TRY(excludes(o, "eval", texts));
    Q3_TRY(excludes(o, "eval", answers));
    Q3_TRY(excludes(o, "selftest", texts));
    Q3_TRY(excludes(o, "selftest", answers));
    return excludes(o, "selftest", others);
}

static q3_status read_settings(ranking_run *run)
{
    int score, template;
    const q3_options *o = run->o;
    Q3_TRY(check_modes(o));
    Q3_TRY(q3_options_choice(&score, o, "score", 0, scores));
    Q3_TRY(q3_options_choice(&template, o, "template", 0, templates));
    Q3_TRY(q3_options_int(&run->reranker.max_length, o, "max-length", 0, 1, 32768));
    run->as_logits = score == 1;
    run->reranker.blank_lines = template == 1;
    Q3_TRY(q3_model_settings_read(&run->model, o));
    run->reranker.min_pixels = run->model.session.min_pixels;
    run->reranker.max_pixels = run->model.session.max_pixels;
    return Q3_OK;
}

static q3_status open_model(ranking_run *run, int64_t batch_size)
{
    run->model.session.scheduler.max_running = (int)batch_size;
    Q3_TRY(q3_session_open(&run->session, &run->model.session));
    run->session.prompter.allow_special = q3_options_given(run->o, "allow-special-tokens");
    run->adapter = q3_session_first_adapter(&run->session);
    return q3_reranker_create(&run->r, &run->session.model, &run->session.prompter, &run->reranker);
}

static q3_status score(double *logits, void *arg, const q3_rerank_job *job)
{
    ranking_run *run = arg;
    return q3_rerank_run(logits, NULL, run->session.scheduler, run->r, job, run->adapter);
}

static q3_status answer(q3_text *out, ranking_run *run, q3_rerank_job *job)
{
    Q3_TRY(open_model(run, job->batch_size));
    double *logits = q3_calloc((size_t)job->n, sizeof *logits);
    if (!logits)
        return Q3_ERR_MEMORY;
    if (!job->instruction)
        job->instruction = q3_reranker_instruction(run->r);
    q3_status st = score(logits, run, job);
    if (st == Q3_OK)
        q3_rerank_write(out, job, logits, run->as_logits, q3_options_given(run->o, "pretty"));
    q3_text_append(out, "\n", 1);
    q3_free(logits);
    return st;
}

static q3_status rank_documents(q3_text *out, ranking_run *run)
{
    q3_arena mem;
    q3_rerank_job job;
    Q3_TRY(q3_arena_create(&mem, "request", (size_t)1 << 40));
    q3_status st = q3_rerank_request_read(&job, &mem, run->o);
    if (st == Q3_OK) {
        st = answer(out, run, &job);
        q3_rerank_job_free(&job);
    }
    q3_arena_destroy(&mem);
    return st;
}

/* Instruction and batch size of the command line are for every query of the file. */
static q3_status score_query(double *logits, void *arg, const q3_rerank_job *job)
{
    ranking_run *run = arg;
    q3_rerank_job changed = *job;
    Q3_TRY(q3_rerank_request_numbers(&changed, run->o));
    return score(logits, run, &changed);
}

static q3_status judge(q3_text *out, ranking_run *run, const char *qrels)
{
    q3_ranking ranking;
    Q3_TRY(open_model(run, Q3_RERANK_MAX_BATCH));
    Q3_TRY(q3_ranking_run(&ranking, qrels, NULL, score_query, run));
    q3_ranking_write(out, &ranking);
    return Q3_OK;
}

static q3_status check(q3_text *out, ranking_run *run)
{
    Q3_TRY(open_model(run, Q3_RERANK_MAX_BATCH));
    return q3_rerank_check(out, &run->session, run->r, run->adapter);
}

static q3_status work(q3_text *out, ranking_run *run)
{
    Q3_TRY(read_settings(run));
    if (q3_options_given(run->o, "selftest"))
        return check(out, run);
    const char *qrels = q3_options_get(run->o, "eval");
    return qrels ? judge(out, run, qrels) : rank_documents(out, run);
}

/* Lines of a failed selftest are shown too; other answers are whole or absent. */
static q3_status run(const q3_options *o)
{
    ranking_run *run = q3_calloc(1, sizeof *run);
    q3_text out = { 0 };
    if (!run)
        return Q3_ERR_MEMORY;
    run->o = o;
    q3_status st = work(&out, run);
    q3_reranker_destroy(run->r);
    q3_session_close(&run->session);
    q3_free(run);
    if (st != Q3_OK && !q3_options_given(o, "selftest")) {
        q3_text_free(&out);
        return st;
    }
    q3_status printed = q3_options_print(&out);
    return st != Q3_OK ? st : printed;
}

const q3_command q3_command_rerank = {
    .name = "rerank",
    .summary = "order documents by how well they answer a query",
    .usage = "--model DIR --query TEXT -d TEXT [-d TEXT ...] [options]",
    .example = "rerank --model models/reranker --query \"capital\" -d Paris -d Bread",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .lists = { &q3_model_list },
    .groups = Q3_COMMAND_ENGINE | Q3_COMMAND_HUB | Q3_COMMAND_RANKS,
    .run = run,
};
