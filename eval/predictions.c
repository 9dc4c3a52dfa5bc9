#include "eval/predictions.h"

#include <stdio.h>
#include <string.h>

#include "core/file.h"

enum { FILE_LIMIT = 1 << 30, PATH_BYTES = 4096 };

#define PREFIX "evaluate_qwen3 failed: "

#define ARENA_BYTES ((size_t)1 << 34) // reserved addresses, not memory

static q3_status read_forced(q3_prediction *p, q3_evaluation *e, const cJSON *probs)
{
    p->forced = -1;
    if (!cJSON_IsArray(probs) || cJSON_GetArraySize(probs) != e->labels->n)
        return Q3_OK;
    double *values = Q3_NEW(&e->mem, double, e->labels->n);
    if (!values)
        return Q3_ERR_MEMORY;
    p->forced = 0;
    for (int i = 0; i < e->labels->n; i++) {
        values[i] = cJSON_GetNumberValue(cJSON_GetArrayItem(probs, i));
        if (values[i] > values[p->forced])
            p->forced = i;
    }
    p->forced_probs = values;
    return Q3_OK;
}

static q3_status read_line(q3_prediction *p, q3_evaluation *e, const q3_json *doc)
{
    const char *output, *gold, *id, *source;
    *p = (q3_prediction){ .where = doc->name };
    Q3_TRY(q3_json_string(&id, doc, doc->root, "id", NULL));
    Q3_TRY(q3_json_string(&source, doc, doc->root, "source", NULL));
    Q3_TRY(q3_json_string(&output, doc, doc->root, "output", ""));
    Q3_TRY(q3_json_string(&gold, doc, doc->root, "gold", ""));
    Q3_TRY(q3_json_int(&p->prompt_tokens, doc, doc->root, "prompt_tokens", 0));
    Q3_TRY(q3_label_gold(&p->gold, e->labels, gold));
    p->output_bytes = strlen(output);
    p->output = q3_arena_strdup(&e->mem, output);
    p->id = id ? q3_arena_strdup(&e->mem, id) : NULL;
    p->source = source ? q3_arena_strdup(&e->mem, source) : NULL;
    if (!p->output || (id && !p->id) || (source && !p->source))
        return Q3_ERR_MEMORY;
    Q3_TRY(read_forced(p, e, cJSON_GetObjectItemCaseSensitive(doc->root, "forced_probs")));
    return q3_answer_parse(&p->answer, e->labels, p->output, p->output_bytes);
}

static q3_status read_lines(q3_evaluation *e, const char *text, size_t size, const char *path)
{
    int64_t lines = 0;
    for (size_t i = 0; i < size; i++)
        lines += text[i] == '\n';
    e->predictions = Q3_NEW(&e->mem, q3_prediction, lines + 1);
    if (!e->predictions)
        return Q3_ERR_MEMORY;
    for (size_t at = 0; at < size;) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t n = end ? (size_t)(end - (text + at)) : size - at;
        q3_json doc;
        Q3_TRY(q3_json_parse(&doc, text + at, n, path, (int)e->n + 1));
        q3_status st = read_line(&e->predictions[e->n], e, &doc);
        e->predictions[e->n].where = NULL;
        q3_json_close(&doc);
        Q3_TRY(st);
        e->n++;
        at += n + 1;
    }
    return Q3_OK;
}

static q3_status read_evaluation(q3_evaluation *e, const char *path, const char *const *labels, int n_labels,
                                 uint64_t seed)
{
    char *text;
    size_t size;
    Q3_TRY(q3_arena_create(&e->mem, "evaluation", ARENA_BYTES));
    e->labels = Q3_ZNEW(&e->mem, q3_labels, 1);
    if (!e->labels)
        return Q3_ERR_MEMORY;
    Q3_TRY(q3_labels_create(e->labels, &e->mem, labels, n_labels));
    Q3_TRY(q3_file_read(&text, &size, path, FILE_LIMIT));
    q3_status st = read_lines(e, text, size, path);
    q3_free(text);
    return st ? st : q3_evaluation_measure(e, seed);
}

q3_status q3_evaluation_read(q3_evaluation *out, const char *dir, const char *name, const char *const *labels,
                             int n_labels, uint64_t seed)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/eval/%s_predictions.jsonl", dir, name);
    *out = (q3_evaluation){ 0 };
    q3_status st = read_evaluation(out, path, labels, n_labels, seed);
    if (st != Q3_OK)
        q3_evaluation_free(out);
    return st;
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
