#include "model/offload.h"

#include <sys/mman.h>
#include <unistd.h>

enum { MATRICES = 7 };

static void matrices_of(const q3_tensor *out[MATRICES], const q3_text_layer *l)
{
    const q3_proj *all[MATRICES] = { &l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down };
    for (int i = 0; i < MATRICES; i++)
        out[i] = all[i]->w;
}

static bool in_files(const q3_weights *files, const q3_tensor *t)
{
    const char *data = t->data;
    for (int64_t i = 0; files && i < q3_weights_count(files); i++) {
        const q3_st_tensor *f = q3_weights_at(files, i);
        const char *begin = f->data;
        if (data >= begin && data < begin + f->bytes)
            return true;
    }
    return false;
}

q3_status q3_model_offload(q3_model *m, size_t resident)
{
    size_t used = 0;
    m->offload_from = m->config.text.layers;
    m->offloading = true;
    for (int i = m->split.first; i < m->split.end; i++) {
        const q3_tensor *w[MATRICES];
        matrices_of(w, &m->layers[i]);
        for (int k = 0; k < MATRICES; k++) {
            used += q3_nbytes(w[k]);
            if (!in_files(m->files, w[k]))
                return q3_fail(
                    Q3_ERR_USAGE,
                    "layers can be offloaded only to the files they lie in, and %s was made while loading; "
                    "take a directory that has the weights in the form asked for (qwen3-sft quantize writes "
                    "one)",
                    w[k]->name);
        }
        if (used > resident && i < m->offload_from)
            m->offload_from = i;
    }
    return Q3_OK;
}

/* The whole pages of a matrix; others belong to its neighbors too. */
static void advise(const q3_tensor *t, int advice)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)t->data, end = begin + q3_nbytes(t);
    begin = (begin + page - 1) / page * page;
    end = end / page * page;
    if (begin < end)
        madvise((void *)begin, end - begin, advice);
}

static void advise_layer(const q3_model *m, int layer, int advice)
{
    const q3_tensor *w[MATRICES];
    if (!m->offloading || layer < m->offload_from || layer >= m->split.end)
        return;
    matrices_of(w, &m->layers[layer]);
    for (int i = 0; i < MATRICES; i++)
        advise(w[i], advice);
}

void q3_offload_before(const q3_model *m, int layer)
{
    advise_layer(m, layer + 1, MADV_WILLNEED);
}

void q3_offload_behind(const q3_model *m, int layer)
{
    advise_layer(m, layer, MADV_DONTNEED);
}
