#include "infer/constraint.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "infer/constraint_automaton.h"
#include "infer/constraint_regex.h"
#include "infer/constraint_schema.h"
#include "infer/constraint_vocabulary.h"

static const char too_much[] = "the form of the answer takes more memory to follow than there is for it";

enum {
    MAX_MASKS = 512,        /* kept at a time: 10 MB with 151936 tokens */
    RENEW_BYTES = 64 << 20, /* of positions; then all but those in use are forgotten */
};

/* What clones share. */
typedef struct form {
    pthread_mutex_t lock; /* of everything below */
    int users;
    const q3_tokenizer *tokenizer;
    int32_t *eos; /* [n_eos] */
    int n_eos;
    q3_grammar grammar;
    const q3_vocabulary *vocabulary;
    q3_automaton automaton;
    int32_t *trail;             /* [vocabulary.depth + 1]: positions on the way to a node */
    uint64_t *masks[MAX_MASKS]; /* [n_words] a bit for each token that may come */
    int n_masks;
    int64_t n_words;
    q3_constraint *first; /* of those in use */
} form;

struct q3_constraint {
    form *form;
    q3_constraint *next; /* in use too */
    int32_t position;
    bool ended;
    const char *failure;
};

/* ---- making ---- */

static void drop_masks(form *f)
{
    for (int i = 0; i < f->n_masks; i++)
        q3_free(f->masks[i]);
    f->n_masks = 0;
    for (int64_t i = 0; i < f->automaton.n_positions; i++)
        f->automaton.positions[i].mask = -1;
}

static void destroy_form(form *f)
{
    drop_masks(f);
    q3_automaton_free(&f->automaton);
    q3_vocabulary_release(f->vocabulary);
    q3_grammar_free(&f->grammar);
    q3_free(f->trail);
    q3_free(f->eos);
    pthread_mutex_destroy(&f->lock);
    q3_free(f);
}

static q3_status create_form(form **out, const q3_tokenizer *tokenizer, const int32_t *eos, int n_eos)
{
    form *f = *out = q3_calloc(1, sizeof *f);
    if (!f)
        return Q3_ERR_MEMORY;
    pthread_mutex_init(&f->lock, NULL);
    f->tokenizer = tokenizer;
    f->n_eos = n_eos;
    f->eos = q3_calloc((size_t)n_eos + 1, sizeof *f->eos);
    if (!f->eos)
        return Q3_ERR_MEMORY;
    int64_t ids = q3_tokenizer_size(tokenizer);
    for (int i = 0; i < n_eos; i++) {
        Q3_CHECK(eos[i] >= 0, "end token %d", (int)eos[i]);
        f->eos[i] = eos[i];
        ids = eos[i] >= ids ? eos[i] + 1 : ids;
    }
    f->n_words = (ids + 63) / 64;
    Q3_TRY(q3_vocabulary_acquire(&f->vocabulary, tokenizer));
    f->trail = q3_calloc((size_t)f->vocabulary->depth + 1, sizeof *f->trail);
    return f->trail ? Q3_OK : Q3_ERR_MEMORY;
}

static q3_status compile_regex(q3_grammar *g, const char *pattern)
{
    q3_fragment f;
    int32_t rule = q3_grammar_rule(g), culprit;
    q3_status st = q3_regex_compile(&f, g, pattern, &(q3_regex_options){ 0 });
    if (st == Q3_OK) {
        q3_grammar_define(g, rule, f);
        st = q3_grammar_finish(g, &culprit);
        return q3_wrap(st, "the pattern");
    }
    return g->status != Q3_OK ? q3_wrap(st, "the pattern") : st;
}

/* A user of the form, at its start; the lock is held, or nobody else knows the form. */
static q3_status join(q3_constraint **out, form *f)
{
    q3_constraint *c = *out = q3_calloc(1, sizeof *c);
    if (!c)
        return Q3_ERR_MEMORY;
    c->position = q3_automaton_start(&f->automaton);
    if (c->position < 0) {
        f->automaton.failed = false;
        q3_free(c);
        *out = NULL;
        return q3_fail(Q3_ERR_MEMORY, "%s", too_much);
    }
    c->form = f;
    c->next = f->first;
    f->first = c;
    f->users++;
    return Q3_OK;
}

static q3_status create(q3_constraint **out, const q3_tokenizer *tokenizer, const int32_t *eos, int n_eos,
                        const char *pattern, const cJSON *schema)
{
    form *f;
    *out = NULL;
    q3_status st = create_form(&f, tokenizer, eos, n_eos);
    if (st == Q3_OK)
        st = pattern ? compile_regex(&f->grammar, pattern) : q3_schema_compile(&f->grammar, schema);
    if (st == Q3_OK) {
        q3_automaton_init(&f->automaton, &f->grammar);
        st = join(out, f);
    }
    if (st != Q3_OK && f)
        destroy_form(f);
    return st;
}

q3_status q3_constraint_regex(q3_constraint **out, const q3_tokenizer *tokenizer, const int32_t *eos,
                              int n_eos, const char *pattern)
{
    return create(out, tokenizer, eos, n_eos, pattern, NULL);
}

q3_status q3_constraint_json(q3_constraint **out, const q3_tokenizer *tokenizer, const int32_t *eos,
                             int n_eos, const cJSON *schema)
{
    return create(out, tokenizer, eos, n_eos, NULL, schema);
}

q3_status q3_constraint_clone(q3_constraint **out, const q3_constraint *c)
{
    pthread_mutex_lock(&c->form->lock);
    q3_status st = join(out, c->form);
    pthread_mutex_unlock(&c->form->lock);
    return st;
}

void q3_constraint_destroy(q3_constraint *c)
{
    if (!c)
        return;
    form *f = c->form;
    pthread_mutex_lock(&f->lock);
    q3_constraint **at = &f->first;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    bool last = --f->users == 0;
    pthread_mutex_unlock(&f->lock);
    q3_free(c);
    if (last)
        destroy_form(f);
}

/* ---- masks ---- */

static void set_bit(uint64_t *mask, int32_t id, bool value)
{
    uint64_t bit = UINT64_C(1) << (id % 64);
    mask[id / 64] = value ? mask[id / 64] | bit : mask[id / 64] & ~bit;
}

/* Tokens that may come at a position. */
static void find_tokens(uint64_t *mask, form *f, int32_t position)
{
    const q3_vocabulary *v = f->vocabulary;
    f->trail[0] = position;
    for (int32_t i = 0; i < v->n;) {
        const q3_vocabulary_node *n = &v->nodes[i];
        int32_t to = q3_automaton_step(&f->automaton, f->trail[n->depth - 1], n->byte);
        if (to < 0) {
            i = n->skip;
            continue;
        }
        f->trail[n->depth] = to;
        if (n->token >= 0)
            set_bit(mask, n->token, true);
        i++;
    }
    for (int i = 0; i < f->n_eos; i++)
        set_bit(mask, f->eos[i], f->automaton.positions[position].may_end);
}

/* Forgets what is not in use once it has grown large. */
static void renew(form *f)
{
    int64_t n = 0;
    if (q3_automaton_bytes(&f->automaton) < RENEW_BYTES)
        return;
    int32_t *kept = q3_calloc((size_t)f->users, sizeof *kept);
    drop_masks(f);
    for (q3_constraint *c = f->first; c && kept; c = c->next)
        kept[n++] = c->position;
    if (kept && q3_automaton_renew(&f->automaton, kept, n) == Q3_OK) {
        n = 0;
        for (q3_constraint *c = f->first; c; c = c->next)
            c->position = kept[n++];
    }
    q3_free(kept);
}

static bool is_empty(const uint64_t *mask, int64_t words)
{
    for (int64_t i = 0; i < words; i++)
        if (mask[i])
            return false;
    return true;
}

/* The mask of the present position; NULL, with c->failure, when there is none. */
static const uint64_t *mask_of(q3_constraint *c)
{
    form *f = c->form;
    int32_t known = f->automaton.positions[c->position].mask;
    if (known >= 0)
        return f->masks[known];
    if (f->n_masks == MAX_MASKS)
        drop_masks(f);
    renew(f);
    uint64_t *mask = q3_calloc((size_t)f->n_words, sizeof *mask);
    if (mask)
        find_tokens(mask, f, c->position);
    if (!mask || f->automaton.failed)
        c->failure = too_much;
    else if (is_empty(mask, f->n_words))
        c->failure = "no token of the vocabulary leads on in the form of the answer";
    f->automaton.failed = false;
    if (c->failure) {
        q3_free(mask);
        return NULL;
    }
    f->automaton.positions[c->position].mask = f->n_masks;
    return f->masks[f->n_masks++] = mask;
}

static bool ends(const form *f, int32_t id)
{
    for (int i = 0; i < f->n_eos; i++)
        if (f->eos[i] == id)
            return true;
    return false;
}

static void apply(float *logits, int64_t vocab, const uint64_t *mask, int64_t words)
{
    for (int64_t w = 0; w * 64 < vocab; w++) {
        uint64_t bits = w < words ? mask[w] : 0;
        int64_t end = vocab < w * 64 + 64 ? vocab : w * 64 + 64;
        for (int64_t i = w * 64; i < end && bits != UINT64_MAX; i++)
            logits[i] = bits && bits >> (i - w * 64) & 1 ? logits[i] : -INFINITY;
    }
}

void q3_constraint_mask(q3_constraint *c, float *logits, int64_t vocab)
{
    form *f = c->form;
    pthread_mutex_lock(&f->lock);
    const uint64_t *mask = c->ended || c->failure ? NULL : mask_of(c);
    if (mask)
        apply(logits, vocab, mask, f->n_words);
    else
        for (int64_t i = 0; i < vocab; i++)
            logits[i] = ends(f, (int32_t)i) ? logits[i] : -INFINITY;
    pthread_mutex_unlock(&f->lock);
}

/* ---- tokens ---- */

static bool take_text(q3_constraint *c, int32_t id)
{
    form *f = c->form;
    size_t n = 0;
    const char *bytes = q3_tokenizer_token(&n, f->tokenizer, id);
    if (c->ended || c->failure || !bytes || !n || q3_tokenizer_is_special(f->tokenizer, id))
        return false;
    int32_t at = c->position;
    for (size_t i = 0; i < n && at >= 0; i++)
        at = q3_automaton_step(&f->automaton, at, (uint8_t)bytes[i]);
    if (f->automaton.failed)
        c->failure = too_much;
    f->automaton.failed = false;
    if (at < 0)
        return false;
    c->position = at;
    return true;
}

bool q3_constraint_advance(q3_constraint *c, int32_t id)
{
    form *f = c->form;
    pthread_mutex_lock(&f->lock);
    bool taken;
    if (ends(f, id)) {
        taken = c->ended || c->failure || f->automaton.positions[c->position].may_end;
        c->ended |= taken;
    } else {
        taken = take_text(c, id);
    }
    pthread_mutex_unlock(&f->lock);
    return taken;
}

bool q3_constraint_done(const q3_constraint *c)
{
    form *f = c->form;
    pthread_mutex_lock(&f->lock);
    bool done = c->ended || c->failure || !f->automaton.positions[c->position].may_go_on;
    pthread_mutex_unlock(&f->lock);
    return done;
}

const char *q3_constraint_failure(const q3_constraint *c)
{
    return c->failure;
}
