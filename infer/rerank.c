#include "infer/rerank.h"

#include <math.h>
#include <string.h>

#include "collate/chat_tokens.h"
#include "core/device.h"

/* The recipe, from QwenLM/Qwen3-Embedding (README) and QwenLM/Qwen3-VL-Embedding (qwen3_vl_reranker.py). */
#define TASK                                                                                                 \
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "       \
    "Note that the answer can only be \"yes\" or \"no\"."
#define PREFIX "<|im_start|>system\n" TASK "<|im_end|>\n<|im_start|>user\n"
#define TURN_END "<|im_end|>\n"
#define ANSWER "<|im_start|>assistant\n<think>\n\n</think>\n\n"

enum {
    MAX_LENGTH = 8192,     // tokens
    MAX_LENGTH_VL = 10240, // tokens
    KEPT_IDS = 5,          // VL: the last ones, which close the turn and open the answer
    MIN_IMAGE_TOKENS = 4,
    MAX_IMAGE_TOKENS = 1800,
    SIDE_PARTS = 2, // texts of a side: its name and its own
};

struct q3_reranker {
    q3_prompter prompter; // a copy with the bounds of pictures
    int64_t max_length;
    bool blank_lines;
    int32_t yes, no;
    q3_ids prefix, turn_end, answer; // text-only
    float *row;                      // [n]: head_yes - head_no
    int64_t n;
};

static bool has_vision(const q3_reranker *r)
{
    return r->prompter.config->has_vision;
}

const char *q3_reranker_instruction(const q3_reranker *r)
{
    return has_vision(r) ? Q3_RERANK_INSTRUCTION_VL : Q3_RERANK_INSTRUCTION;
}

void q3_reranker_ids(int32_t *yes, int32_t *no, const q3_reranker *r)
{
    *yes = r->yes;
    *no = r->no;
}

/* ---- the row ---- */

/* Scales [blocks] from the first of them on, out of double quantization where that is how they lie there. */
static q3_status read_scales(float *out, q3_cuda *cuda, const q3_tensor *w, int64_t first, int64_t blocks)
{
    if (w->absmax) {
        q3_device_read(cuda, out, w->absmax + first, (size_t)blocks * sizeof *out);
        return Q3_OK;
    }
    float map[256];
    uint8_t *codes = q3_malloc((size_t)blocks);
    if (!codes)
        return Q3_ERR_MEMORY;
    q3_device_read(cuda, map, w->nested.map, sizeof map);
    q3_device_read(cuda, codes, w->nested.codes + first, (size_t)blocks);
    for (int64_t i = 0; i < blocks; i++) {
        float scale;
        q3_device_read(cuda, &scale, w->nested.scale + (first + i) / 256, sizeof scale);
        float value = map[codes[i]] * scale;
        out[i] = value + w->nested.offset;
    }
    q3_free(codes);
    return Q3_OK;
}

/* Where elements [first, end) of the head lie: whole bytes, and the blocks whose scales they have. */
typedef struct window {
    int64_t first, end;
    int64_t begin;                      // first, rounded down to a byte
    int64_t block, first_block, blocks; // 0 blocks: no scales
} window;

static window window_of(const q3_tensor *w, int64_t row)
{
    int64_t width = w->shape[1];
    window at = { .first = row * width, .end = (row + 1) * width };
    at.begin = w->dtype == Q3_NF4 || w->dtype == Q3_FP4 ? at.first & ~INT64_C(1) : at.first;
    if (w->dtype > Q3_F16) {
        at.block = w->block;
        at.first_block = at.begin / at.block;
        at.blocks = (at.end - 1) / at.block + 1 - at.first_block;
    }
    return at;
}

static q3_status fetch(float *out, char *data, float *scales, q3_cuda *cuda, const q3_tensor *w,
                       const window *at)
{
    if (!data || !scales)
        return Q3_ERR_MEMORY;
    if (at->blocks)
        Q3_TRY(read_scales(scales, cuda, w, at->first_block, at->blocks));
    q3_device_read(cuda, data, (const char *)w->data + q3_dtype_bytes(w->dtype, at->begin),
                   q3_dtype_bytes(w->dtype, at->end - at->begin));
    for (int64_t i = at->first; i < at->end; i++) {
        // one block as long as there are elements, whose scale is that of element i
        const float *scale = at->blocks ? scales + (i / at->block - at->first_block) : NULL;
        const q3_weight one = { .data = data, .dtype = w->dtype, .block = INT32_MAX, .absmax = scale };
        out[i - at->first] = q3_weight_at(&one, i - at->begin);
    }
    return Q3_OK;
}

/* A row of the head as f32, from the device and whatever type it lies in; only its bytes are fetched. */
static q3_status read_row(float *out, q3_cuda *cuda, const q3_tensor *w, int64_t row)
{
    if (w->dtype > Q3_F16 && w->dtype != Q3_NF4 && w->dtype != Q3_FP4 && w->dtype != Q3_I8)
        return q3_fail(Q3_ERR_USAGE,
                       "the head is of a type that scores are not made from; leave lm_head in 16 bits");
    const window at = window_of(w, row);
    char *data = q3_malloc(q3_dtype_bytes(w->dtype, at.end - at.begin));
    float *scales = q3_malloc((size_t)(at.blocks + 1) * sizeof *scales);
    q3_status st = fetch(out, data, scales, cuda, w, &at);
    q3_free(scales);
    q3_free(data);
    return st;
}

static q3_status make_row(q3_reranker *r, const q3_model *m)
{
    q3_cuda *cuda = m->values ? m->values->cuda : NULL;
    r->n = m->head->shape[1];
    r->row = q3_malloc((size_t)r->n * sizeof *r->row);
    float *no = q3_malloc((size_t)r->n * sizeof *no);
    q3_status st = r->row && no ? read_row(r->row, cuda, m->head, r->yes) : Q3_ERR_MEMORY;
    if (st == Q3_OK)
        st = read_row(no, cuda, m->head, r->no);
    for (int64_t i = 0; st == Q3_OK && i < r->n; i++)
        r->row[i] -= no[i];
    q3_free(no);
    return st;
}

double q3_rerank_logit(const q3_reranker *r, const float *hidden, int64_t n)
{
    Q3_CHECK(n == r->n, "%lld values for a row of %lld", (long long)n, (long long)r->n);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)r->row[i] * hidden[i];
    return sum;
}

double q3_rerank_probability(double logit)
{
    return 1 / (1 + exp(-logit));
}

/* ---- create ---- */

static q3_status encode(q3_ids *out, const q3_reranker *r, const char *text)
{
    return q3_tokenizer_encode(out, r->prompter.tokenizer, text, strlen(text));
}

static q3_status find_answer(int32_t *out, const q3_reranker *r, const char *word)
{
    q3_ids ids = { 0 };
    Q3_TRY(encode(&ids, r, word));
    bool single = ids.n == 1 && ids.ids[0] < r->prompter.config->text.vocab_size;
    *out = single ? ids.ids[0] : -1;
    size_t n = ids.n;
    q3_ids_free(&ids);
    return single ? Q3_OK
                  : q3_fail(Q3_ERR_MODEL,
                            "\"%s\" is %zu tokens of this model, and scores compare single ones; is it a "
                            "Qwen3 model?",
                            word, n);
}

static q3_status set_length(q3_reranker *r, int64_t wanted)
{
    int64_t most = r->prompter.config->text.max_positions - (has_vision(r) ? KEPT_IDS : 0);
    int64_t least = (int64_t)(r->prefix.n + r->turn_end.n + r->answer.n) + 1;
    int64_t usual = has_vision(r) ? MAX_LENGTH_VL : MAX_LENGTH;
    r->max_length = wanted ? wanted : usual < most ? usual : most;
    if (r->max_length > most)
        return q3_fail(Q3_ERR_USAGE, "max_length is %lld; this model reaches %lld tokens",
                       (long long)r->max_length, (long long)most);
    if (r->max_length < least)
        return q3_fail(Q3_ERR_USAGE, "max_length is %lld; the prompt around a pair alone takes %lld tokens",
                       (long long)r->max_length, (long long)least - 1);
    return Q3_OK;
}

static q3_status set_pixels(q3_reranker *r, const q3_reranker_options *o)
{
    int64_t side = (int64_t)r->prompter.vision.patch * r->prompter.vision.merge, token = side * side;
    return q3_vision_spec_limit(&r->prompter.vision, o->min_pixels ? o->min_pixels : MIN_IMAGE_TOKENS * token,
                                o->max_pixels ? o->max_pixels : MAX_IMAGE_TOKENS * token);
}

static q3_status fill(q3_reranker *r, const q3_model *model, const q3_reranker_options *o)
{
    Q3_TRY(find_answer(&r->yes, r, "yes"));
    Q3_TRY(find_answer(&r->no, r, "no"));
    if (has_vision(r)) {
        Q3_TRY(set_pixels(r, o));
    } else {
        Q3_TRY(encode(&r->prefix, r, PREFIX));
        Q3_TRY(encode(&r->turn_end, r, TURN_END));
        Q3_TRY(encode(&r->answer, r, ANSWER));
    }
    if (r->prompter.width)
        return q3_fail(Q3_ERR_USAGE,
                       "pictures of a fixed size are not what rerankers were made with; leave it out");
    if (has_vision(r) && o->blank_lines)
        return q3_fail(Q3_ERR_USAGE, "the vLLM form is of text-only rerankers; this model reads pictures");
    Q3_TRY(set_length(r, o->max_length));
    return make_row(r, model);
}

q3_status q3_reranker_create(q3_reranker **out, const q3_model *model, const q3_prompter *prompter,
                             const q3_reranker_options *options)
{
    *out = NULL;
    q3_reranker *r = q3_calloc(1, sizeof *r);
    if (!r)
        return Q3_ERR_MEMORY;
    r->prompter = *prompter;
    r->prompter.max_tokens = 0; // max_length is the bound here
    r->blank_lines = options->blank_lines;
    q3_status st = fill(r, model, options);
    if (st == Q3_OK)
        *out = r;
    else
        q3_reranker_destroy(r);
    return st;
}

void q3_reranker_destroy(q3_reranker *r)
{
    if (!r)
        return;
    q3_ids_free(&r->prefix);
    q3_ids_free(&r->turn_end);
    q3_ids_free(&r->answer);
    q3_free(r->row);
    q3_free(r);
}

/* ---- prompts of text-only models ---- */

static q3_chat_tokens tokens_of(const q3_prompter *p)
{
    return (q3_chat_tokens){ .tokenizer = p->tokenizer,
                             .image_id = p->config->image_token,
                             .video_id = p->config->video_token,
                             .vocab_size = p->config->text.vocab_size };
}

static q3_status check_text(const q3_reranker *r, const char *text, const char *what)
{
    const q3_chat_tokens tokens = tokens_of(&r->prompter);
    return r->prompter.allow_special ? Q3_OK : q3_chat_check_text(&tokens, text, false, what, "remove it");
}

static q3_status check_texts(const q3_reranker *r, const char *instruction, const q3_rerank_side *query,
                             const q3_rerank_side *document)
{
    Q3_TRY(check_text(r, instruction, "instruction"));
    Q3_TRY(check_text(r, query->text, "query"));
    return check_text(r, document->text, "document");
}

static q3_status encode_pair(q3_ids *out, const q3_reranker *r, const char *instruction, const char *query,
                             const char *document)
{
    const char *line = r->blank_lines ? "\n\n" : "\n";
    q3_text text = { 0 };
    q3_text_printf(&text, "<Instruct>: %s%s<Query>: %s%s<Document>: %s", instruction, line,
                   query ? query : "", line, document ? document : "");
    q3_status st =
        text.failed ? Q3_ERR_MEMORY : q3_tokenizer_encode(out, r->prompter.tokenizer, text.data, text.size);
    q3_text_free(&text);
    return st;
}

/* Prefix, pair and end of the turn; what of it is cut is the difference between the two forms. */
static q3_status join(q3_ids *ids, const q3_reranker *r, const q3_ids *pair)
{
    size_t room = (size_t)r->max_length - r->answer.n, around = r->prefix.n + r->turn_end.n;
    size_t n = r->blank_lines || pair->n < room - around ? pair->n : room - around;
    Q3_TRY(q3_ids_append(ids, r->prefix.ids, r->prefix.n));
    Q3_TRY(q3_ids_append(ids, pair->ids, n));
    Q3_TRY(q3_ids_append(ids, r->turn_end.ids, r->turn_end.n));
    if (ids->n > room)
        ids->n = room;
    return q3_ids_append(ids, r->answer.ids, r->answer.n);
}

static q3_status text_prompt(q3_prompt *out, q3_arena *mem, const q3_reranker *r, const char *instruction,
                             const char *query, const char *document)
{
    q3_ids pair = { 0 }, ids = { 0 };
    q3_status st = encode_pair(&pair, r, instruction, query, document);
    if (st == Q3_OK)
        st = join(&ids, r, &pair);
    if (st == Q3_OK)
        st = q3_prompt_of_ids(out, mem, &r->prompter, ids.ids, (int64_t)ids.n, NULL, 0);
    q3_ids_free(&pair);
    q3_ids_free(&ids);
    return st;
}

/* ---- prompts of VL models ---- */

/* The content of a side: its name, its pictures, its text; "NULL" when it has neither. Returns the parts' number. */
static int side_parts(q3_part *out, const char *name, const q3_rerank_side *side)
{
    int n = 0;
    bool text = side->text && *side->text;
    out[n++] = (q3_part){ .kind = Q3_PART_TEXT, .text = name };
    for (int i = 0; i < side->n_pictures; i++)
        out[n++] = (q3_part){ .kind = Q3_PART_IMAGE };
    if (text || !side->n_pictures)
        out[n++] = (q3_part){ .kind = Q3_PART_TEXT, .text = text ? side->text : "NULL" };
    return n;
}

static q3_status render(q3_text *out, q3_arena *mem, const char *instruction, const q3_rerank_side *query,
                        const q3_rerank_side *document)
{
    q3_part *parts = Q3_NEW(mem, q3_part, 1 + 2 * SIDE_PARTS + query->n_pictures + document->n_pictures);
    const char *first = q3_arena_printf(mem, "<Instruct>: %s", instruction);
    if (!parts || !first)
        return Q3_ERR_MEMORY;
    int n = 0;
    parts[n++] = (q3_part){ .kind = Q3_PART_TEXT, .text = first };
    n += side_parts(parts + n, "<Query>:", query);
    n += side_parts(parts + n, "\n<Document>:", document);
    const q3_message messages[] = { { .role = "system", .text = TASK },
                                    { .role = "user", .parts = parts, .n_parts = n } };
    return q3_chat_render(out, messages, 2, &(q3_chat_options){ .add_generation_prompt = true });
}

static q3_status cut_pictures(q3_patches *out, int64_t *tokens, q3_arena *mem, const q3_reranker *r,
                              const q3_rerank_side *side)
{
    for (int i = 0; i < side->n_pictures; i++) {
        Q3_TRY(q3_image_patches(&out[i], mem, &side->pictures[i], &r->prompter.vision));
        tokens[i] = q3_image_tokens(out[i].grid, &r->prompter.vision);
    }
    return Q3_OK;
}

/* Drops ordinary tokens, the last ones first, so that all but the last KEPT_IDS are max_length; special tokens,
 * placeholders among them, always stay. */
static int64_t cut_ids(int32_t *ids, int64_t n, const q3_reranker *r)
{
    int64_t head = n - KEPT_IDS, special = 0, kept = 0, ordinary = 0;
    if (head <= r->max_length)
        return n;
    for (int64_t i = 0; i < head; i++)
        special += q3_tokenizer_is_special(r->prompter.tokenizer, ids[i]);
    for (int64_t i = 0; i < n; i++) {
        bool stays = i >= head || q3_tokenizer_is_special(r->prompter.tokenizer, ids[i]);
        if (stays || ordinary++ < r->max_length - special)
            ids[kept++] = ids[i];
    }
    return kept;
}

static q3_status vision_prompt(q3_prompt *out, q3_arena *mem, const q3_reranker *r, const char *instruction,
                               const q3_rerank_side *query, const q3_rerank_side *document)
{
    const q3_chat_tokens tokens = tokens_of(&r->prompter);
    int pictures = query->n_pictures + document->n_pictures;
    q3_patches *patches = Q3_ZNEW(mem, q3_patches, pictures + 1);
    int64_t *counts = Q3_ZNEW(mem, int64_t, pictures + 1), n = 0;
    if (!patches || !counts)
        return Q3_ERR_MEMORY;
    Q3_TRY(cut_pictures(patches, counts, mem, r, query));
    Q3_TRY(cut_pictures(patches + query->n_pictures, counts + query->n_pictures, mem, r, document));
    q3_text text = { 0 };
    int32_t *ids = NULL;
    q3_status st = render(&text, mem, instruction, query, document);
    if (st == Q3_OK)
        st = q3_chat_tokenize(&ids, &n, mem, &tokens, &text, counts, pictures);
    q3_text_free(&text);
    if (st != Q3_OK)
        return st;
    return q3_prompt_of_ids(out, mem, &r->prompter, ids, cut_ids(ids, n, r), patches, pictures);
}

q3_status q3_rerank_prompt(q3_prompt *out, q3_arena *mem, const q3_reranker *r, const char *instruction,
                           const q3_rerank_side *query, const q3_rerank_side *document)
{
    if (!instruction || (has_vision(r) && !*instruction))
        instruction = q3_reranker_instruction(r);
    Q3_TRY(check_texts(r, instruction, query, document));
    if (!has_vision(r) && (query->n_pictures || document->n_pictures))
        return q3_fail(Q3_ERR_DATA,
                       "there is a picture, and the model is text-only; use a Qwen3-VL reranker");
    return has_vision(r) ? vision_prompt(out, mem, r, instruction, query, document)
                         : text_prompt(out, mem, r, instruction, query->text, document->text);
}
