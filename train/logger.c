#include "train/logger.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/file.h"
#include "core/log.h"
#include "train/mlflow.h"
#include "train/run_dir.h"
#include "train/tensorboard.h"
#include "train/wandb.h"

enum { VIEWS = 3, METRICS_LIMIT = 1 << 30 };

typedef struct shown {
    const q3_view_kind *kind;
    void *view;
    bool told; /* a failure of it */
} shown;

struct q3_logger {
    char *dir;
    shown views[VIEWS];
    int n;
};

bool q3_logger_wants(const q3_config *config, const char *word)
{
    const q3_config_words *words = &config->train.report_to;
    for (int i = 0; i < words->n; i++)
        if (strcmp(words->items[i], word) == 0)
            return true;
    return false;
}

void q3_logger_tag(q3_text *out, const char *key)
{
    if (strchr(key, '/'))
        q3_text_printf(out, "%s", key);
    else if (strncmp(key, "eval_", 5) == 0)
        q3_text_printf(out, "eval/%s", key + 5);
    else
        q3_text_printf(out, "train/%s", key);
}

static void tell(shown *s, q3_status st)
{
    if (st == Q3_OK || s->told)
        return;
    s->told = true;
    q3_warn("%s: %s; metrics.jsonl has every value", s->kind->name, q3_error());
}

static void add_view(q3_logger *logger, const q3_view_kind *kind, const q3_view_run *run)
{
    shown s = { .kind = kind };
    tell(&s, kind->open(&s.view, run));
    if (s.view)
        logger->views[logger->n++] = s;
}

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* Where somebody expects Weights & Biases: how to get it. */
static void tell_wandb(const q3_config *config)
{
    bool expected = environment("WANDB_API_KEY") || environment("WANDB_PROJECT");
    if (expected && !q3_wandb_disabled() && config->train.report_to.n && !q3_logger_wants(config, "none"))
        q3_info("W&B         is told nothing; train.report_to=wandb writes a run for `wandb sync`");
}

q3_status q3_logger_check(const q3_config *config)
{
    if (q3_logger_wants(config, "wandb"))
        Q3_TRY(q3_wandb_check());
    return q3_logger_wants(config, "mlflow") ? q3_mlflow_check() : Q3_OK;
}

q3_status q3_logger_open(q3_logger **out, const q3_view_run *run)
{
    q3_logger *logger = *out = q3_calloc(1, sizeof *logger);
    if (!logger || !(logger->dir = q3_strdup(run->dir))) {
        q3_free(logger);
        *out = NULL;
        return Q3_ERR_MEMORY;
    }
    if (q3_logger_wants(run->config, "tensorboard"))
        add_view(logger, &q3_tensorboard, run);
    if (!q3_logger_wants(run->config, "wandb"))
        tell_wandb(run->config);
    else if (!q3_wandb_disabled())
        add_view(logger, &q3_wandb, run);
    if (q3_logger_wants(run->config, "mlflow"))
        add_view(logger, &q3_mlflow, run);
    return Q3_OK;
}

void q3_logger_close(q3_logger *logger, q3_status how)
{
    for (int i = 0; logger && i < logger->n; i++)
        tell(&logger->views[i], logger->views[i].kind->close(logger->views[i].view, how));
    if (logger)
        q3_free(logger->dir);
    q3_free(logger);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A line that is none is left out, as one is that a full disk has cut. */
q3_status q3_logger_each(const char *dir, q3_status (*tell_call)(void *arg, const q3_log_call *call),
                         void *arg)
{
    char *path = q3_path_join(dir, "metrics.jsonl"), *text = NULL;
    size_t size = 0;
    q3_status st = path ? Q3_OK : Q3_ERR_MEMORY;
    if (path && q3_file_exists(path))
        st = q3_file_read(&text, &size, path, METRICS_LIMIT);
    for (size_t at = 0, n; at < size; at += n + 1) {
        q3_json doc = { 0 };
        q3_log_call call = { .time = now() };
        n = strcspn(text + at, "\n");
        if (q3_json_parse(&doc, text + at, n, path, 1) == Q3_OK &&
            q3_json_int(&call.step, &doc, doc.root, "step", 0) == Q3_OK) {
            call.line = doc.root;
            q3_status told = tell_call(arg, &call);
            st = st ? st : told;
        }
        q3_json_close(&doc);
    }
    q3_free(text);
    q3_free(path);
    return st;
}

static void show(q3_logger *logger, const q3_text *line)
{
    q3_json doc = { 0 };
    q3_log_call call = { .time = now() };
    q3_status st = q3_json_parse(&doc, line->data, line->size, "metrics.jsonl", 1);
    st = st ? st : q3_json_int(&call.step, &doc, doc.root, "step", 0);
    call.line = doc.root;
    for (int i = 0; i < logger->n; i++) {
        shown *s = &logger->views[i];
        tell(s, st ? st : s->kind->write(s->view, &call));
    }
    q3_json_close(&doc);
}

q3_status q3_logger_write(q3_logger *logger, q3_text *line, bool sync)
{
    q3_status st =
        line->failed ? Q3_ERR_MEMORY : q3_metrics_append(logger->dir, line->data, line->size, sync);
    if (st == Q3_OK && logger->n)
        show(logger, line);
    q3_text_free(line);
    return st;
}
