#include "collate/vision_sft.h"

#include <string.h>

#include "collate/chat_template.h"
#include "collate/chat_tokens.h"
#include "data/messages.h"

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

/* What a row is rendered from: the messages of its sample, the answer last. */
typedef struct talk {
    q3_text user; // of a sample with one question
    q3_part parts[2];
    q3_message few[3];
    q3_chat chat;               // of a conversation
    const q3_message *messages; // [n]
    int n;
} talk;

static void free_talk(talk *t)
{
    if (t->messages && t->messages != t->few)
        q3_free((void *)(uintptr_t)t->messages);
    q3_chat_free(&t->chat);
    q3_text_free(&t->user);
}

static const char *system_of(const q3_collator *c, const q3_sample *s)
{
    return s->system ? s->system : c->system_prompt;
}

static q3_status ask(talk *t, const q3_collator *c, const q3_sample *s, bool picture)
{
    const char *system = system_of(c, s);
    Q3_TRY(check_literals(c, "query", s->query));
    Q3_TRY(check_literals(c, "caption", s->caption));
    Q3_TRY(check_literals(c, "system prompt", system));
    Q3_TRY(user_text(&t->user, s));
    t->parts[0] = (q3_part){ .kind = Q3_PART_IMAGE };
    t->parts[1] = (q3_part){ .kind = Q3_PART_TEXT, .text = t->user.data ? t->user.data : "" };
    if (system)
        t->few[t->n++] = (q3_message){ .role = "system", .text = system };
    t->few[t->n++] = (q3_message){ .role = "user",
                                   .parts = picture ? t->parts : t->parts + 1,
                                   .n_parts = picture ? 2 : 1 };
    t->few[t->n++] = (q3_message){ .role = "assistant", .text = s->target };
    t->messages = t->few;
    return Q3_OK;
}

static q3_status check_messages(const q3_collator *c, const q3_chat *chat)
{
    for (int i = 0; i < chat->n; i++)
        for (int k = 0; k < chat->messages[i].n_parts; k++) {
            const q3_chat_tokens tokens = tokens_of(c);
            // never leniently: <|im_start|> in a text would count as a turn
            q3_status st = q3_chat_check_text(&tokens, chat->messages[i].parts[k].text, false, "text",
                                              "remove it from the data");
            if (st != Q3_OK)
                return q3_wrap(st, "message %d (%s)", i + 1, chat->messages[i].role);
        }
    return Q3_OK;
}

/* The conversation, with a system turn in front where it has none of its own. */
static q3_status converse(talk *t, const q3_collator *c, const q3_sample *s)
{
    const char *system = q3_messages_system(s->messages) ? NULL : system_of(c, s);
    Q3_TRY(q3_chat_from_json(&t->chat, s->messages));
    Q3_TRY(check_messages(c, &t->chat));
    Q3_TRY(check_literals(c, "system prompt", system));
    q3_message *all = q3_malloc(((size_t)t->chat.n + 1) * sizeof *all);
    if (!all)
        return Q3_ERR_MEMORY;
    t->messages = all;
    if (system)
        all[t->n++] = (q3_message){ .role = "system", .text = system };
    memcpy(all + t->n, t->chat.messages, (size_t)t->chat.n * sizeof *all);
    t->n += t->chat.n;
    return Q3_OK;
}

static int64_t last_image_token(const q3_row *row, const q3_collator *c)
{
    int64_t t = row->n;
    while (t > 0 && row->ids[t - 1] != c->image_id)
        t--;
    return t;
}

/* The rules of length (spec: keep the first max_length tokens, never cut a picture or the whole answer). */
static q3_status limit(q3_row *row, const q3_collator *c, const q3_sample *s)
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
    const char *what = cuts_picture              ? "the cut would fall into the picture's tokens"
                       : cuts_all && s->messages ? "the cut would fall before its last answer"
                       : cuts_all                ? "no supervised token would be left"
                                                 : "its answer would be cut";
    return q3_fail(
        Q3_ERR_DATA,
        "the sample has %lld tokens (prompt %lld) and collator.max_length is %lld: %s; raise max_length, "
        "lower data.max_pixels, or set collator.on_overflow",
        (long long)row->n, (long long)row->prompt_n, (long long)c->max_length, what);
}

/* Where in a conversation a token is. Each turn begins with <|im_start|>, which no text has. */
typedef struct turns {
    int32_t start_id;
    int64_t opening; // tokens of "<|im_start|>assistant\n"
    int64_t begin;   // of the turn
    int turn;        // its number, from 0; -1: before the first
} turns;

static turns before_first(const q3_row *row)
{
    turns at = { .start_id = row->ids[0], .opening = 1, .turn = -1 };
    while (row->ids[row->prompt_n - at.opening] != at.start_id) // the prompt ends with an opening
        at.opening++;
    return at;
}

/* True of what the assistant says, <|im_end|> and newline included. Asked of every token in order. */
static bool supervised(turns *at, const q3_row *row, int64_t t, const q3_collator *c, const talk *said)
{
    if (row->ids[t] == at->start_id) {
        at->turn++;
        at->begin = t;
    }
    return t >= at->begin + at->opening && strcmp(said->messages[at->turn].role, "assistant") == 0 &&
           (!c->last_only || at->turn == said->n - 1);
}

static q3_status label(q3_row *row, q3_arena *mem, const q3_collator *c, const q3_sample *s, const talk *said)
{
    turns at = s->messages ? before_first(row) : (turns){ 0 };
    row->labels = Q3_NEW(mem, int32_t, row->n + 1);
    if (!row->labels)
        return Q3_ERR_MEMORY;
    row->n_supervised = 0;
    for (int64_t t = 0; t < row->n; t++) {
        bool answer = s->messages ? supervised(&at, row, t, c, said) : t >= row->prompt_n;
        bool masked = !answer || row->ids[t] == c->pad_id;
        row->labels[t] = masked ? -100 : row->ids[t];
        row->n_supervised += !masked;
    }
    return row->n_supervised ? Q3_OK : q3_fail(Q3_ERR_DATA, "no supervised token is left");
}

static q3_status tokenize(int32_t **ids, int64_t *n, q3_arena *mem, const q3_collator *c, const talk *t,
                          int n_messages, const int64_t *image_tokens, int n_images)
{
    q3_text text = { 0 };
    const q3_chat_tokens tokens = tokens_of(c);
    const q3_chat_options options = { .add_generation_prompt = n_messages < t->n };
    q3_status st = q3_chat_render(&text, t->messages, n_messages, &options);
    st = st ? st : q3_chat_tokenize(ids, n, mem, &tokens, &text, image_tokens, n_images);
    q3_text_free(&text);
    return st;
}

static q3_status make(q3_row *out, q3_arena *mem, const q3_collator *c, const q3_sample *s, bool training,
                      talk *t)
{
    int32_t *prompt;
    int64_t *image_tokens = Q3_NEW(mem, int64_t, out->n_pictures + 1);
    if (!image_tokens)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < out->n_pictures; i++)
        image_tokens[i] = q3_image_tokens(out->pictures[i].grid, &c->vision);
    Q3_TRY(s->messages ? converse(t, c, s) : ask(t, c, s, out->n_pictures > 0));
    if (training && !s->messages) {
        if (!s->target || (!*s->target && !c->lenient))
            return q3_fail(Q3_ERR_DATA, "the target is empty");
        Q3_TRY(check_literals(c, "target", s->target));
    }
    Q3_TRY(tokenize(&prompt, &out->prompt_n, mem, c, t, t->n - 1, image_tokens, out->n_pictures));
    out->ids = prompt;
    out->n = out->prompt_n;
    if (!training)
        return Q3_OK;
    Q3_TRY(tokenize(&out->ids, &out->n, mem, c, t, t->n, image_tokens, out->n_pictures));
    out->seam =
        out->n < out->prompt_n || memcmp(out->ids, prompt, (size_t)out->prompt_n * sizeof *prompt) != 0;
    Q3_TRY(limit(out, c, s));
    return out->skipped ? Q3_OK : label(out, mem, c, s, t);
}

q3_status q3_collate_text(q3_row *out, q3_arena *mem, const q3_collator *c, const q3_sample *s,
                          const q3_patches *pictures, int n, bool training)
{
    talk t = { 0 };
    q3_patches *own = Q3_NEW(mem, q3_patches, n + 1);
    *out = (q3_row){ .pictures = own, .n_pictures = n };
    if (own && n)
        memcpy(own, pictures, (size_t)n * sizeof *own);
    q3_status st = own ? make(out, mem, c, s, training, &t) : Q3_ERR_MEMORY;
    free_talk(&t);
    if (st == Q3_OK)
        return st;
    q3_wrap(st, "%s", s->where);
    return q3_prefix(q3_status_as(st, Q3_ERR_DATA), PREFIX);
}

int64_t q3_row_patches(const q3_row *row)
{
    int64_t n = 0;
    for (int i = 0; i < row->n_pictures; i++)
        n += row->pictures[i].n;
    return n;
}

int64_t q3_row_image_tokens(const q3_row *row, const q3_collator *c)
{
    return q3_row_patches(row) / (c->vision.merge * c->vision.merge);
}

/* ---- pictures ---- */

static q3_status see(q3_patches *out, q3_arena *mem, const q3_collator *c, const q3_sample *s, int i)
{
    q3_image image;
    Q3_TRY(q3_sample_picture(&image, s, i, &c->image));
    q3_status st = q3_image_patches(out, mem, &image, &c->vision);
    q3_image_free(&image);
    return q3_wrap(st, "%s", s->where);
}

static q3_status lay(q3_patches *out, const q3_collator *c, const q3_sample *s, int i)
{
    int width, height;
    Q3_TRY(q3_sample_picture_size(&width, &height, s, i, &c->image));
    *out = (q3_patches){ 0 };
    q3_status st = q3_image_grid(out->grid, width, height, &c->vision);
    out->n = (int64_t)out->grid[0] * out->grid[1] * out->grid[2];
    return q3_wrap(st, "%s", s->where);
}

static q3_status as_data(q3_status st)
{
    return q3_prefix(q3_status_as(st, Q3_ERR_DATA), PREFIX);
}

q3_status q3_collate_layout(q3_row *out, q3_arena *mem, const q3_collator *c, const q3_sample *s,
                            bool training)
{
    q3_patches *pictures = Q3_NEW(mem, q3_patches, s->n_pictures + 1);
    q3_status st = pictures ? Q3_OK : Q3_ERR_MEMORY;
    for (int i = 0; i < s->n_pictures && st == Q3_OK; i++)
        st = lay(&pictures[i], c, s, i);
    return st ? as_data(st) : q3_collate_text(out, mem, c, s, pictures, s->n_pictures, training);
}

/* Room for the patches of a row, in pixels. */
static int64_t most_pixels(const q3_collator *c)
{
    // q3_smart_resize: rounding leaves the area below twice the bound and 64 Ki pixels, at any aspect ratio
    const int64_t one = 2 * c->vision.max_pixels + ((int64_t)1 << 16), some = 8;
    const int64_t side = (int64_t)c->vision.patch * c->vision.merge, all = c->max_length * side * side;
    return !c->max_length ? some * one : all > one ? all : one;
}

/* The pictures of a sample are looked at before they are decoded: their number has no bound but that of tokens. */
static q3_status check_room(bool *decode, q3_arena *mem, const q3_collator *c, const q3_sample *s,
                            bool training)
{
    q3_row row;
    size_t mark = q3_arena_mark(mem);
    Q3_TRY(q3_collate_layout(&row, mem, c, s, training));
    const int64_t patch = (int64_t)c->vision.patch * c->vision.patch, n = q3_row_patches(&row) * patch;
    q3_arena_rewind(mem, mark);
    *decode = !row.skipped;
    if (row.skipped || n <= most_pixels(c))
        return Q3_OK;
    return as_data(
        q3_fail(Q3_ERR_DATA,
                "%s: its %d pictures have %lld pixels together, and %lld are possible; lower data.max_pixels",
                s->where, s->n_pictures, (long long)n, (long long)most_pixels(c)));
}

q3_status q3_collate_row(q3_row *out, q3_arena *mem, const q3_collator *c, const q3_sample *s, bool training)
{
    q3_patches *pictures = Q3_NEW(mem, q3_patches, s->n_pictures + 1);
    bool decode = true;
    q3_status st = pictures ? Q3_OK : Q3_ERR_MEMORY;
    if (st == Q3_OK && s->n_pictures > 1)
        st = check_room(&decode, mem, c, s, training);
    for (int i = 0; i < s->n_pictures && st == Q3_OK && decode; i++)
        st = see(&pictures[i], mem, c, s, i);
    if (st == Q3_OK && !decode)
        *out = (q3_row){ .skipped = true };
    return st        ? as_data(st)
           : !decode ? Q3_OK
                     : q3_collate_text(out, mem, c, s, pictures, s->n_pictures, training);
}

size_t q3_collate_bytes(const q3_collator *c)
{
    const size_t text = (size_t)1 << 26; // 16 bytes a token: four million tokens
    return text + (size_t)most_pixels(c) * 3 * (size_t)c->vision.tpatch * sizeof(float);
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
