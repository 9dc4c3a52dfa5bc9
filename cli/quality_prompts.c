#include "cli/quality_prompts.h"

#include <string.h>

#include "collate/vision_sft.h"
#include "core/file.h"
#include "data/dataset.h"
#include "eval/quality.h"

enum { MAX_TEXT = 64 << 20 };          // bytes of a text
#define PROMPT_BYTES ((size_t)1 << 40) // reserved addresses, not memory

/* ---- a text ---- */

static q3_status check_ids(const q3_quality_source *s, const int32_t *ids, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (ids[i] >= s->config->text.vocab_size)
            return q3_fail(Q3_ERR_MODEL,
                           "%s: the tokenizer has token %d, and the model %d rows of its embedding", s->dir,
                           (int)ids[i], s->config->text.vocab_size);
    return Q3_OK;
}

static q3_status from_ids(q3_quality_prompts *out, const q3_quality_source *s, const q3_ids *ids)
{
    const int64_t n = (int64_t)ids->n;
    if (n < 2)
        return q3_fail(Q3_ERR_DATA, "%s has %lld tokens; to predict the next one takes two at least",
                       s->text ? s->text : "the text", (long long)n);
    Q3_TRY(check_ids(s, ids->ids, n));
    int32_t *kept = Q3_NEW(&out->mem, int32_t, n);
    if (!kept)
        return Q3_ERR_MEMORY;
    memcpy(kept, ids->ids, (size_t)n * sizeof *kept);
    out->prompts = q3_quality_windows(&out->n, &out->mem, kept, n, s->window);
    return out->prompts ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_status from_text(q3_quality_prompts *out, const q3_quality_source *s, const q3_tokenizer *tokenizer)
{
    q3_ids ids = { 0 };
    char *text = NULL;
    size_t n = strlen(q3_quality_text);
    if (s->text)
        Q3_TRY(q3_file_read(&text, &n, s->text, MAX_TEXT));
    q3_status st = q3_tokenizer_encode(&ids, tokenizer, text ? text : q3_quality_text, n);
    if (st != Q3_OK && s->text)
        st = q3_wrap(st, "%s", s->text);
    st = st ? st : from_ids(out, s, &ids);
    q3_free(text);
    q3_ids_free(&ids);
    return st;
}

/* ---- samples ---- */

/* What makes a sample a prompt that holds its answer too. */
typedef struct kit {
    q3_collator collator;
    q3_prompter prompter;
    q3_dataset *dataset;
} kit;

static q3_status from_sample(q3_prompt *out, q3_arena *mem, const kit *k, int64_t index)
{
    q3_sample sample;
    q3_row row;
    Q3_TRY(q3_dataset_get(&sample, k->dataset, index));
    q3_status st = q3_collate_row(&row, mem, &k->collator, &sample, true);
    q3_sample_free(&sample);
    return st ? st : q3_prompt_of_ids(out, mem, &k->prompter, row.ids, row.n, row.pictures, row.n_pictures);
}

static q3_status from_samples(q3_quality_prompts *out, const q3_quality_source *s, const kit *k)
{
    const int64_t all = q3_dataset_size(k->dataset), n = all < s->samples ? all : s->samples;
    out->prompts = Q3_ZNEW(&out->mem, q3_prompt, n);
    if (!out->prompts)
        return Q3_ERR_MEMORY;
    for (; out->n < n; out->n++)
        Q3_TRY(from_sample(&out->prompts[out->n], &out->mem, k, out->n));
    return Q3_OK;
}

static q3_status from_data(q3_quality_prompts *out, const q3_quality_source *s, const q3_tokenizer *tokenizer)
{
    const q3_model_config *m = s->config;
    kit k = { .collator = { .tokenizer = tokenizer } };
    Q3_TRY(q3_prompter_init(&k.prompter, s->dir, tokenizer, m));
    if (m->has_vision)
        Q3_TRY(q3_vision_spec_load(&k.collator.vision, s->dir));
    Q3_TRY(
        q3_collator_init(&k.collator, s->dir, tokenizer, m->image_token, m->video_token, m->text.vocab_size));
    Q3_TRY(q3_dataset_open(&k.dataset, s->data, NULL));
    q3_status st = from_samples(out, s, &k);
    q3_dataset_close(k.dataset);
    return st;
}

/* ---- either ---- */

q3_status q3_quality_prompts_make(q3_quality_prompts *out, const q3_quality_source *s)
{
    q3_tokenizer *tokenizer;
    *out = (q3_quality_prompts){ 0 };
    Q3_TRY(q3_arena_create(&out->mem, "prompts", PROMPT_BYTES));
    q3_status st = q3_tokenizer_open(&tokenizer, s->dir);
    if (st == Q3_OK)
        st = s->data ? from_data(out, s, tokenizer) : from_text(out, s, tokenizer);
    q3_tokenizer_close(tokenizer);
    for (int i = 0; st == Q3_OK && i < out->n; i++)
        out->longest = out->prompts[i].n > out->longest ? out->prompts[i].n : out->longest;
    if (st != Q3_OK)
        q3_quality_prompts_free(out);
    return st;
}

void q3_quality_prompts_free(q3_quality_prompts *p)
{
    q3_arena_destroy(&p->mem);
    *p = (q3_quality_prompts){ 0 };
}
