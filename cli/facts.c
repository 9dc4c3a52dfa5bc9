#include "cli/facts.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/options.h"
#include "core/log.h"

enum { SHOWN = 12, LINE = 2048 };

static void name_fact(q3_facts *f, const char *name)
{
    if (f->json)
        q3_text_printf(&f->text, "%s\"%s\": ", f->started ? ", " : f->in_group ? "" : "{", name);
    else if (f->in_group)
        q3_text_printf(&f->text, "%s%s ", f->started ? ", " : "", name);
    else
        q3_text_printf(&f->text, "%-11s ", name);
    f->started = true;
}

static void end_fact(q3_facts *f)
{
    if (!f->json && !f->in_group)
        q3_text_append(&f->text, "\n", 1);
}

static void put_string(q3_facts *f, const char *text)
{
    if (f->json)
        q3_text_json_string(&f->text, text, strlen(text));
    else
        q3_text_append(&f->text, text, strlen(text));
}

void q3_fact_text(q3_facts *f, const char *name, const char *fmt, ...)
{
    char line[LINE];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    name_fact(f, name);
    put_string(f, line);
    end_fact(f);
}

void q3_fact_int(q3_facts *f, const char *name, int64_t value)
{
    name_fact(f, name);
    q3_text_printf(&f->text, "%lld", (long long)value);
    end_fact(f);
}

void q3_fact_number(q3_facts *f, const char *name, double value)
{
    name_fact(f, name);
    if (f->json)
        q3_text_json_number(&f->text, value);
    else if (isnan(value))
        q3_text_printf(&f->text, "none");
    else
        q3_text_printf(&f->text, "%.6g", value);
    end_fact(f);
}

void q3_fact_bool(q3_facts *f, const char *name, bool value)
{
    name_fact(f, name);
    q3_text_printf(&f->text, "%s", f->json ? value ? "true" : "false" : value ? "yes" : "no");
    end_fact(f);
}

void q3_fact_bytes(q3_facts *f, const char *name, size_t bytes)
{
    name_fact(f, name);
    if (f->json)
        q3_text_printf(&f->text, "%zu", bytes);
    else
        q3_text_printf(&f->text, "%s", q3_bytes(bytes));
    end_fact(f);
}

void q3_fact_group(q3_facts *f, const char *name)
{
    name_fact(f, name);
    if (f->json)
        q3_text_append(&f->text, "{", 1);
    f->in_group = true;
    f->started = false;
}

void q3_fact_group_end(q3_facts *f)
{
    if (f->json)
        q3_text_append(&f->text, "}", 1);
    f->in_group = false;
    f->started = true;
    end_fact(f);
}

void q3_fact_list(q3_facts *f, const char *name)
{
    name_fact(f, name);
    if (f->json)
        q3_text_append(&f->text, "[", 1);
    f->items = 0;
}

void q3_fact_item(q3_facts *f, const char *fmt, ...)
{
    char line[LINE];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    f->items++;
    if (!f->json && !f->all && f->items > SHOWN)
        return;
    if (f->items > 1 && f->json)
        q3_text_append(&f->text, ", ", 2);
    else if (f->items > 1)
        q3_text_printf(&f->text, "\n%-11s ", "");
    put_string(f, line);
}

void q3_fact_list_end(q3_facts *f)
{
    if (f->json)
        q3_text_append(&f->text, "]", 1);
    else if (!f->items)
        q3_text_printf(&f->text, "none\n");
    else if (!f->all && f->items > SHOWN)
        q3_text_printf(&f->text, "\n%-11s and %lld more; --all shows them\n", "",
                       (long long)(f->items - SHOWN));
    else
        q3_text_append(&f->text, "\n", 1);
}

void q3_fact_problem(q3_facts *f, const char *fmt, ...)
{
    char line[LINE];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    q3_text_append(&f->problems, line, n < LINE ? (size_t)n + 1 : LINE);
    f->n_problems++;
}

q3_status q3_fact_failure(q3_facts *f, q3_status st)
{
    if (q3_status_as(st, Q3_ERR_MODEL) != Q3_ERR_MODEL)
        return st;
    q3_fact_problem(f, "%s", q3_error());
    return Q3_OK;
}

static void list_problems(q3_facts *f)
{
    if (!f->json && !f->n_problems)
        return;
    q3_fact_list(f, "problems");
    for (size_t at = 0; at < f->problems.size; at += strlen(f->problems.data + at) + 1)
        q3_fact_item(f, "%s", f->problems.data + at);
    q3_fact_list_end(f);
}

q3_status q3_facts_print(q3_facts *f, const char *what)
{
    list_problems(f);
    if (f->json)
        q3_text_printf(&f->text, "}\n");
    int64_t n = f->n_problems;
    q3_status st = f->problems.failed ? Q3_ERR_MEMORY : q3_options_print(&f->text);
    q3_facts_free(f);
    if (st == Q3_OK && n)
        return q3_fail(Q3_ERR_MODEL, "%s: %lld %s", what, (long long)n, n == 1 ? "problem" : "problems");
    return st;
}

void q3_facts_free(q3_facts *f)
{
    q3_text_free(&f->text);
    q3_text_free(&f->problems);
}
