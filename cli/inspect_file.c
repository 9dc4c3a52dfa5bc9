#include <string.h>

#include "cli/inspect.h"
#include "core/log.h"

enum { TYPES = 32 }; // more than safetensors knows

typedef struct type_sum {
    const char *name;
    int64_t tensors, elements;
    size_t bytes;
} type_sum;

static int sum_types(type_sum *types, q3_tensor_at *at, const void *arg, int64_t n)
{
    int n_types = 0;
    for (int64_t i = 0; i < n; i++) {
        const q3_st_tensor *t = at(arg, i);
        int k = 0;
        while (k < n_types && strcmp(types[k].name, t->dtype_name) != 0)
            k++;
        if (k == TYPES)
            continue;
        if (k == n_types)
            types[n_types++] = (type_sum){ .name = t->dtype_name };
        types[k].tensors++;
        types[k].elements += q3_st_elements(t);
        types[k].bytes += t->bytes;
    }
    return n_types;
}

static void show_type(q3_facts *f, const type_sum *t)
{
    if (f->json)
        q3_text_printf(
            &f->text, "%s{\"type\": \"%s\", \"tensors\": %lld, \"elements\": %lld, \"bytes\": %zu}",
            f->items++ ? ", " : "", t->name, (long long)t->tensors, (long long)t->elements, t->bytes);
    else
        q3_fact_item(f, "%s: %lld tensors, %s elements, %s", t->name, (long long)t->tensors,
                     q3_count((uint64_t)t->elements), q3_bytes(t->bytes));
}

static void show_tensor(q3_facts *f, const q3_st_tensor *t)
{
    if (!f->json) {
        q3_fact_item(f, "%s %s %s %zu", t->name, t->dtype_name, q3_st_shape(t), t->bytes);
        return;
    }
    q3_text_printf(&f->text, "%s{\"name\": ", f->items++ ? ", " : "");
    q3_text_json_string(&f->text, t->name, strlen(t->name));
    q3_text_printf(&f->text, ", \"type\": \"%s\", \"shape\": %s, \"bytes\": %zu}", t->dtype_name,
                   q3_st_shape(t), t->bytes);
}

void q3_inspect_tensors(q3_facts *f, q3_tensor_at *at, const void *arg, int64_t n, bool tensors)
{
    type_sum types[TYPES];
    int n_types = sum_types(types, at, arg, n);
    q3_fact_list(f, "types");
    for (int i = 0; i < n_types; i++)
        show_type(f, &types[i]);
    q3_fact_list_end(f);
    if (!tensors)
        return;
    bool all = f->all;
    f->all = true; // who asks for tensors wants them
    q3_fact_list(f, "tensors");
    for (int64_t i = 0; i < n; i++)
        show_tensor(f, at(arg, i));
    q3_fact_list_end(f);
    f->all = all;
}

static const q3_st_tensor *at_of_file(const void *arg, int64_t index)
{
    return q3_safetensors_at(arg, index);
}

q3_status q3_inspect_file(q3_facts *f, const char *path, bool tensors)
{
    q3_safetensors *file;
    Q3_TRY(q3_status_as(q3_safetensors_open(&file, path), Q3_ERR_MODEL));
    const char *format = q3_safetensors_metadata(file, "format");
    if (format)
        q3_fact_text(f, "format", "%s", format);
    q3_inspect_tensors(f, at_of_file, file, q3_safetensors_count(file), tensors);
    q3_safetensors_close(file);
    return Q3_OK;
}
