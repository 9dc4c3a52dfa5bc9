#include "collate/vision_sft.h"

#include <string.h>

#include "collate/chat_template.h"
#include "collate/chat_tokens.h"

#define PREFIX "Qwen3 collate failed: "

/* Length of a character of Python's str.strip() at s, 0 for any other. */
static size_t strippable(const unsigned char *s, size_t n)
{
    if (n >= 1 && ((s[0] >= 0x09 && s[0] <= 0x0D) || (s[0] >= 0x1C && s[0] <= 0x20)))
        return 1;
    if (n >= 2 && s[0] == 0xC2 && (s[1] == 0x85 || s[1] == 0xA0))
        return 2;
    if (n < 3)
        return 0;
    unsigned c = (unsigned)(s[0] & 0x0F) << 12 | (unsigned)(s[1] & 0x3F) << 6 | (s[2] & 0x3F);
    bool three = s[0] >> 4 == 0xE;
    return three && (c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
                     c == 0x202F || c == 0x205F || c == 0x3000)
               ? 3
               : 0;
}

static void strip(const char **text, size_t *n)
{
    for (size_t k; (k = strippable((const unsigned char *)*text, *n)) > 0;) {
        *text += k;
        *n -= k;
    }
    for (bool more = true; more;) {
        more = false;
        for (size_t k = 1; k <= 3 && k <= *n && !more; k++)
            if (strippable((const unsigned char *)*text + *n - k, k) == k) {
                *n -= k;
                more = true;
            }
    }
}

static q3_status user_text(q3_text *out, const q3_sample *s)
{
    const char *query = s->query ? s->query : "";
    size_t n = strlen(query);
    strip(&query, &n);
    q3_text_append(out, query, n);
    if (s->caption && *s->caption)
        q3_text_printf(out, "\nCAPTION: %s", s->caption);
    return out->failed ? Q3_ERR_MEMORY : Q3_OK;
}

static q3_chat_tokens tokens_of(const q3_collator *c)
{
    return (q3_chat_tokens){ c->tokenizer, c->image_id, c->video_id, c->vocab_size };
}

static q3_status check_literals(const q3_collator *c, const char *field, const char *text)
{
    const q3_chat_tokens tokens = tokens_of(c);
    return q3_chat_check_text(&tokens, text, c->lenient, field, "remove it from the data");
}

static const char *system_of(const q3_collator *c, const q3_sample *s)
{
    return s->system ? s->system : c->system_prompt;
}

static q3_status render(q3_text *out, const q3_collator *c, const q3_sample *s, const char *user,
                        bool picture, const char *target)
{
    const q3_part parts[] = { { .kind = Q3_PART_IMAGE }, { .kind = Q3_PART_TEXT, .text = user } };
    const char *system = system_of(c, s);
    q3_message m[3];
    int n = 0;
    if (system)
        m[n++] = (q3_message){ .role = "system", .text = system };
    m[n++] = (q3_message){ .role = "user", .parts = picture ? parts : parts + 1, .n_parts = picture ? 2 : 1 };
    if (target)
        m[n++] = (q3_message){ .role = "assistant", .text = target };
    return q3_chat_render(out, m, n, &(q3_chat_options){ .add_generation_prompt = !target });
}

static int64_t last_image_token(const q3_row *row, const q3_collator *c)
{
    int64_t t = row->n;
    while (t > 0 && row->ids[t - 1] != c->image_id)
        t--;
    return t;
}

/* The rules of length (spec: keep the first max_length tokens, never cut a picture or the whole answer). */
static q3_status limit(q3_row *row, const q3_collator *c)
{
    if (!c->max_length || row->n <= c->max_length)
        return Q3_OK;
    bool cuts_picture = last_image_token(row, c) > c->max_length, cuts_all = row->prompt_n >= c->max_length;
    if (c->on_overflow == Q3_OVERFLOW_SKIP) {
        *row = (q3_row){ .skipped = true };
        return Q3_OK;
    }
    if (c->on_overflow == Q3_OVERFLOW_TRUNCATE && !cuts_picture && !cuts_all) {
        row->n = c->max_length;
        row->truncated = true;
        return Q3_OK;
    }
    const char *what = cuts_picture ? "the cut would fall into the picture's tokens"
                       : cuts_all   ? "no supervised token would be left"
                                    : "its answer would be cut";
    return q3_fail(
        Q3_ERR_DATA,
        "the sample has %lld tokens (prompt %lld) and collator.max_length is %lld: %s; raise max_length, "
        "lower data.max_pixels, or set collator.on_overflow",
        (long long)row->n, (long long)row->prompt_n, (long long)c->max_length, what);
}

static q3_status label(q3_row *row, q3_arena *mem, const q3_collator *c)
{
    row->labels = Q3_NEW(mem, int32_t, row->n + 1);
    if (!row->labels)
        return Q3_ERR_MEMORY;
    row->n_supervised = 0;
    for (int64_t t = 0; t < row->n; t++) {
        bool masked = t < row->prompt_n || row->ids[t] == c->pad_id;
        row->labels[t] = masked ? -100 : row->ids[t];
        row->n_supervised += !masked;
    }
    return row->n_supervised ? Q3_OK : q3_fail(Q3_ERR_DATA, "no supervised token is left");
}

static q3_status make(q3_row *out, q3_arena *mem, const q3_collator *c, const q3_sample *s,
                      const q3_patches *patches, bool training, q3_text *user, q3_text *text)
{
    int64_t image_tokens = patches ? q3_image_tokens(patches->grid, &c->vision) : 0;
    const q3_chat_tokens tokens = tokens_of(c);
    int32_t *prompt;
    Q3_TRY(check_literals(c, "query", s->query));
    Q3_TRY(check_literals(c, "caption", s->caption));
    Q3_TRY(check_literals(c, "system prompt", system_of(c, s)));
    if (training) {
        if (!s->target || (!*s->target && !c->lenient))
            return q3_fail(Q3_ERR_DATA, "the target is empty");
        Q3_TRY(check_literals(c, "target", s->target));
    }
    Q3_TRY(user_text(user, s));
    const char *said = user->data ? user->data : "";
    Q3_TRY(render(text, c, s, said, patches != NULL, NULL));
    Q3_TRY(q3_chat_tokenize(&prompt, &out->prompt_n, mem, &tokens, text, &image_tokens, patches != NULL));
    out->ids = prompt;
    out->n = out->prompt_n;
    if (patches)
        out->patches = *patches;
    if (!training)
        return Q3_OK;
    text->size = 0;
    Q3_TRY(render(text, c, s, said, patches != NULL, s->target));
    Q3_TRY(q3_chat_tokenize(&out->ids, &out->n, mem, &tokens, text, &image_tokens, patches != NULL));
    out->seam =
        out->n < out->prompt_n || memcmp(out->ids, prompt, (size_t)out->prompt_n * sizeof *prompt) != 0;
    Q3_TRY(limit(out, c));
    return out->skipped ? Q3_OK : label(out, mem, c);
}

q3_status q3_collate_text(q3_row *out, q3_arena *mem, const q3_collator *c, const q3_sample *s,
                          const q3_patches *patches, bool training)
{
    q3_text user = { 0 }, text = { 0 };
    *out = (q3_row){ 0 };
    q3_status st = make(out, mem, c, s, patches, training, &user, &text);
    q3_text_free(&user);
    q3_text_free(&text);
    if (st == Q3_OK)
        return st;
    q3_wrap(st, "%s", s->where);
    return q3_prefix(q3_status_as(st, Q3_ERR_DATA), PREFIX);
}

q3_status q3_collate_row(q3_row *out, q3_arena *mem, const q3_collator *c, const q3_sample *s, bool training)
{
    q3_image image = { 0 };
    q3_patches patches;
    if (!q3_sample_has_image(s))
        return q3_collate_text(out, mem, c, s, NULL, training);
    q3_status st = q3_sample_image(&image, s, &c->image);
    if (st == Q3_OK) {
        st = q3_image_patches(&patches, mem, &image, &c->vision);
        if (st != Q3_OK)
            q3_wrap(st, "%s", s->where);
    }
    q3_image_free(&image);
    if (st != Q3_OK)
        return q3_prefix(q3_status_as(st, Q3_ERR_DATA), PREFIX);
    return q3_collate_text(out, mem, c, s, &patches, training);
}

size_t q3_collate_bytes(const q3_collator *c)
{
    const size_t text = (size_t)1 << 26; // 16 bytes a token: four million tokens
    // q3_smart_resize: rounding leaves the area below twice the bound and 64 Ki pixels, at any aspect ratio
    size_t pixels = 2 * (size_t)c->vision.max_pixels + ((size_t)1 << 16);
    return text + pixels * 3 * (size_t)c->vision.tpatch * sizeof(float);
}

static q3_status check_id(const char *name, int32_t file, int32_t model)
{
    if (file < 0)
        return q3_fail(Q3_ERR_MODEL,
                       "the tokenizer has no token %s; is it the tokenizer of a Qwen3-VL model?", name);
    if (model >= 0 && file != model)
        return q3_fail(Q3_ERR_MODEL, "%s is token %d in tokenizer.json and %d in config.json", name,
                       (int)file, (int)model);
    return Q3_OK;
}

q3_status q3_collator_init(q3_collator *c, const char *model_dir, const q3_tokenizer *tokenizer,
                           int32_t image_id, int32_t video_id, int32_t vocab_size)
{
    c->tokenizer = tokenizer;
    c->vocab_size = vocab_size;
    c->image_id = q3_tokenizer_id(tokenizer, "<|image_pad|>");
    c->video_id = q3_tokenizer_id(tokenizer, "<|video_pad|>");
    int32_t end = q3_tokenizer_id(tokenizer, "<|im_end|>");
    c->pad_id = q3_tokenizer_pad_id(tokenizer);
    if (c->pad_id < 0)
        c->pad_id = q3_tokenizer_id(tokenizer, "<|endoftext|>");
    Q3_TRY(check_id("<|image_pad|>", c->image_id, image_id));
    if (c->video_id >= 0)
        Q3_TRY(check_id("<|video_pad|>", c->video_id, video_id));
    Q3_TRY(check_id("<|im_end|>", end, -1));
    Q3_TRY(check_id("<|endoftext|>", c->pad_id, -1));
    if (c->pad_id == end)
        return q3_fail(Q3_ERR_MODEL,
                       "%s: the pad token is <|im_end|>, so the end of an answer could not be trained; set "
                       "pad_token to <|endoftext|> in tokenizer_config.json",
                       model_dir);
    return q3_vision_spec_load(&c->vision, model_dir);
}
