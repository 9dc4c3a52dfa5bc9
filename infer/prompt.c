#include "infer/prompt.h"

#include <string.h>

#include "collate/chat_tokens.h"
#include "collate/positions.h"
#include "core/sha256.h"
#include "data/image_resize.h"

#define REMEDY "remove it, or allow it with --allow-special-tokens"

q3_status q3_prompter_init(q3_prompter *out, const char *model_dir, const q3_tokenizer *tokenizer,
                           const q3_model_config *config)
{
    *out = (q3_prompter){ .tokenizer = tokenizer, .config = config };
    if (q3_tokenizer_id(tokenizer, "<|im_end|>") < 0)
        return q3_fail(Q3_ERR_MODEL,
                       "%s: the tokenizer has no token <|im_end|>; is it that of a Qwen3 model?", model_dir);
    if (!config->has_vision)
        return Q3_OK;
    int32_t image = q3_tokenizer_id(tokenizer, "<|image_pad|>");
    if (image != config->image_token)
        return q3_fail(Q3_ERR_MODEL, "%s: <|image_pad|> is token %d in tokenizer.json and %d in config.json",
                       model_dir, (int)image, (int)config->image_token);
    Q3_TRY(q3_vision_spec_load(&out->vision, model_dir));
    return q3_vision_spec_check(&out->vision, &config->vision, model_dir);
}

q3_status q3_prompter_fix_size(q3_prompter *p, int width, int height)
{
    int side = p->vision.patch * p->vision.merge;
    if (width < side || height < side || width % side || height % side ||
        (int64_t)width * height > Q3_VISION_MAX_PIXELS)
        return q3_fail(Q3_ERR_USAGE, "pictures of %dx%d are impossible; both sides must be multiples of %d",
                       width, height, side);
    p->width = width;
    p->height = height;
    return q3_vision_spec_limit(&p->vision, (int64_t)width * height, (int64_t)width * height);
}

static q3_chat_tokens tokens_of(const q3_prompter *p)
{
    return (q3_chat_tokens){ p->tokenizer, p->config->image_token, p->config->video_token,
                             p->config->text.vocab_size };
}

/* ---- text ---- */

/* Pictures that the template shows: those of users and tools. Without it, all. */
static bool shows_pictures(const q3_prompter *p, const q3_message *m)
{
    return !m->text && (p->plain || strcmp(m->role, "user") == 0 || strcmp(m->role, "tool") == 0);
}

static q3_status count_pictures(int *out, const q3_prompter *p, const q3_message *messages, int n)
{
    *out = 0;
    for (int i = 0; i < n; i++) {
        const q3_message *m = &messages[i];
        for (int k = 0; shows_pictures(p, m) && k < m->n_parts; k++) {
            if (m->parts[k].kind == Q3_PART_VIDEO)
                return q3_fail(Q3_ERR_DATA, "message %d has a video; only pictures are understood", i);
            *out += m->parts[k].kind == Q3_PART_IMAGE;
        }
    }
    return Q3_OK;
}

static void put_plain(q3_text *out, const q3_message *messages, int n, int n_pictures)
{
    for (int i = 0; i < n_pictures; i++)
        q3_text_printf(out, "<|vision_start|><|image_pad|><|vision_end|>");
    for (int i = 0; i < n; i++) {
        const q3_message *m = &messages[i];
        if (m->text)
            q3_text_append(out, m->text, strlen(m->text));
        for (int k = 0; !m->text && k < m->n_parts; k++)
            if (m->parts[k].text)
                q3_text_append(out, m->parts[k].text, strlen(m->parts[k].text));
    }
}

q3_status q3_prompt_text(q3_text *out, const q3_prompter *p, const q3_message *messages, int n)
{
    const q3_chat_options options = { .add_generation_prompt = true,
                                      .text_only = !p->config->has_vision,
                                      .no_thinking = !p->thinking,
                                      .tools = p->tools };
    int n_pictures;
    Q3_TRY(count_pictures(&n_pictures, p, messages, n));
    if (n_pictures && !p->config->has_vision)
        return q3_fail(Q3_ERR_DATA, "the model is a text-only one and cannot see pictures");
    if (!p->plain)
        return q3_chat_render(out, messages, n, &options);
    put_plain(out, messages, n, n_pictures);
    return out->failed ? q3_fail(Q3_ERR_MEMORY, "out of memory for the text of a prompt") : Q3_OK;
}

static q3_status check_text(const q3_prompter *p, const char *text, const char *what)
{
    const q3_chat_tokens tokens = tokens_of(p);
    size_t bad;
    if (text && !q3_utf8_valid(text, strlen(text), &bad))
        return q3_fail(Q3_ERR_DATA, "the %s is not valid UTF-8 at byte %zu", what, bad);
    return p->allow_special ? Q3_OK : q3_chat_check_text(&tokens, text, false, what, REMEDY);
}

static q3_status check_json(const q3_prompter *p, const cJSON *value, const char *what)
{
    q3_text text = { 0 };
    if (!value)
        return Q3_OK;
    q3_chat_json(&text, value);
    q3_status st = text.failed ? Q3_ERR_MEMORY : check_text(p, text.data, what);
    q3_text_free(&text);
    return st;
}

static q3_status check_message(const q3_prompter *p, const q3_message *m)
{
    Q3_TRY(check_text(p, m->text, "text"));
    Q3_TRY(check_text(p, m->reasoning, "reasoning"));
    for (int i = 0; !m->text && i < m->n_parts; i++)
        Q3_TRY(check_text(p, m->parts[i].text, "text"));
    return check_json(p, m->tool_calls, "tool call");
}

static q3_status check_texts(const q3_prompter *p, const q3_message *messages, int n)
{
    for (int i = 0; i < n; i++) {
        q3_status st = check_message(p, &messages[i]);
        if (st != Q3_OK)
            return n == 1 ? st : q3_wrap(st, "message %d (%.20s)", i, messages[i].role);
    }
    return check_json(p, p->tools, "list of tools");
}

/* ---- ids and pictures ---- */

/* Two pictures share features when patches and grid are the same. */
static void hash_picture(unsigned char out[Q3_PICTURE_HASH_BYTES], const q3_patches *patches, int64_t width)
{
    q3_sha256 hash;
    q3_sha256_begin(&hash);
    q3_sha256_add(&hash, patches->grid, sizeof patches->grid);
    q3_sha256_add(&hash, patches->data, (size_t)(patches->n * width) * sizeof *patches->data);
    q3_sha256_end(out, &hash);
}

/* The patches of all pictures, end to end. */
static q3_status join_pictures(q3_prompt *out, q3_arena *mem, const q3_prompter *p, const q3_patches *patches,
                               int n)
{
    const q3_vision_config *v = &p->config->vision;
    int64_t width = (int64_t)v->channels * v->temporal_patch_size * v->patch_size * v->patch_size, at = 0;
    int32_t *grids = Q3_NEW(mem, int32_t, 3 * (int64_t)n);
    unsigned char(*hashes)[Q3_PICTURE_HASH_BYTES] = q3_arena_alloc(mem, (size_t)n * sizeof *hashes);
    for (int i = 0; i < n; i++)
        out->n_patches += patches[i].n;
    float *all = n > 1 ? Q3_NEW(mem, float, out->n_patches *width) : patches->data;
    if (!grids || !hashes || !all)
        return Q3_ERR_MEMORY;
    for (int i = 0; i < n; at += patches[i++].n) {
        for (int k = 0; k < 3; k++)
            grids[3 * i + k] = patches[i].grid[k];
        hash_picture(hashes[i], &patches[i], width);
        if (n > 1)
            memcpy(all + at * width, patches[i].data, (size_t)(patches[i].n * width) * sizeof *all);
    }
    out->n_images = n;
    out->grids = grids;
    out->hashes = (const unsigned char(*)[Q3_PICTURE_HASH_BYTES])hashes;
    out->patches = all;
    return Q3_OK;
}

static q3_status place_pictures(q3_prompt *out, q3_arena *mem, const q3_prompter *p)
{
    int32_t *positions = Q3_NEW(mem, int32_t, 3 * out->n), *rows = Q3_NEW(mem, int32_t, out->n);
    const q3_model_config *c = p->config;
    if (!positions || !rows)
        return Q3_ERR_MEMORY;
    if (q3_positions(positions, positions + out->n, positions + 2 * out->n, out->ids, out->n, c->image_token,
                     c->video_token, out->grids, out->n_images, c->vision.merge_size) < 0)
        return q3_fail(Q3_ERR_DATA, "the places for pictures in the prompt do not fit its %d pictures",
                       out->n_images);
    for (int64_t t = 0; t < out->n; t++)
        if (out->ids[t] == c->image_token)
            rows[out->n_image_rows++] = (int32_t)t;
    out->positions = positions;
    out->image_rows = rows;
    return Q3_OK;
}

static q3_status check_ids(const q3_prompt *prompt, const q3_prompter *p, int n_pictures)
{
    const q3_model_config *c = p->config;
    int64_t most = p->max_tokens ? p->max_tokens : c->text.max_positions;
    if (prompt->n < 1)
        return q3_fail(Q3_ERR_DATA, "the prompt is empty");
    if (prompt->n > most)
        return q3_fail(Q3_ERR_LIMIT,
                       "the prompt has %lld tokens, and at most %lld are possible; shorten it%s",
                       (long long)prompt->n, (long long)most,
                       n_pictures ? ", or take smaller pictures (--max-pixels)" : "");
    for (int64_t t = 0; t < prompt->n; t++) {
        if (prompt->ids[t] < 0 || prompt->ids[t] >= c->text.vocab_size)
            return q3_fail(Q3_ERR_DATA, "token id %d is not in the model's vocabulary of %d",
                           (int)prompt->ids[t], c->text.vocab_size);
        bool place = c->has_vision && (prompt->ids[t] == c->image_token || prompt->ids[t] == c->video_token);
        if (place && !n_pictures)
            return q3_fail(Q3_ERR_DATA, "the prompt has a place for a picture at token %lld, and no picture",
                           (long long)t);
    }
    return n_pictures && !c->has_vision
               ? q3_fail(Q3_ERR_DATA, "the model is a text-only one and cannot see pictures")
               : Q3_OK;
}

static q3_status finish(q3_prompt *out, q3_arena *mem, const q3_prompter *p, const int32_t *ids, int64_t n,
                        const q3_patches *patches, int n_pictures)
{
    *out = (q3_prompt){ .ids = ids, .n = n, .adapter = -1 };
    Q3_TRY(check_ids(out, p, n_pictures));
    if (!n_pictures)
        return Q3_OK;
    Q3_TRY(join_pictures(out, mem, p, patches, n_pictures));
    return place_pictures(out, mem, p);
}

q3_status q3_prompt_of_ids(q3_prompt *out, q3_arena *mem, const q3_prompter *p, const int32_t *ids, int64_t n,
                           const q3_patches *patches, int n_pictures)
{
    int32_t *copy = Q3_NEW(mem, int32_t, n + 1);
    if (!copy)
        return Q3_ERR_MEMORY;
    memcpy(copy, ids, (size_t)n * sizeof *copy);
    return finish(out, mem, p, copy, n, patches, n_pictures);
}

/* The patches of a picture, which may be brought to the fixed size first. */
static q3_status cut_picture(q3_patches *out, q3_arena *mem, const q3_prompter *p, const q3_image *picture)
{
    q3_image sized;
    if (!p->width)
        return q3_image_patches(out, mem, picture, &p->vision);
    Q3_TRY(q3_image_resize(&sized, picture, p->width, p->height, Q3_RESIZE_TORCHVISION));
    q3_status st = q3_image_patches(out, mem, &sized, &p->vision);
    q3_image_free(&sized);
    return st;
}

static q3_status cut_pictures(q3_patches *out, int64_t *tokens, q3_arena *mem, const q3_prompter *p,
                              const q3_image *pictures, int n)
{
    for (int i = 0; i < n; i++) {
        q3_status st = cut_picture(&out[i], mem, p, &pictures[i]);
        if (st != Q3_OK)
            return n == 1 ? q3_wrap(st, "the picture") : q3_wrap(st, "picture %d", i + 1);
        tokens[i] = q3_image_tokens(out[i].grid, &p->vision);
    }
    return Q3_OK;
}

static q3_status make(q3_prompt *out, q3_arena *mem, const q3_prompter *p, const q3_text *text,
                      const q3_image *pictures, int n_pictures)
{
    const q3_chat_tokens tokens = tokens_of(p);
    q3_patches *patches = Q3_NEW(mem, q3_patches, n_pictures + 1);
    int64_t *image_tokens = Q3_NEW(mem, int64_t, n_pictures + 1), n;
    int32_t *ids;
    if (!patches || !image_tokens)
        return Q3_ERR_MEMORY;
    Q3_TRY(cut_pictures(patches, image_tokens, mem, p, pictures, n_pictures));
    Q3_TRY(q3_chat_tokenize(&ids, &n, mem, &tokens, text, image_tokens, n_pictures));
    return finish(out, mem, p, ids, n, patches, n_pictures);
}

q3_status q3_prompt_make(q3_prompt *out, q3_arena *mem, const q3_prompter *p, const q3_message *messages,
                         int n, const q3_image *pictures, int n_pictures)
{
    q3_text text = { 0 };
    int wanted;
    Q3_TRY(count_pictures(&wanted, p, messages, n));
    if (wanted != n_pictures)
        return q3_fail(Q3_ERR_DATA, "the messages speak of %d pictures, and there are %d", wanted,
                       n_pictures);
    Q3_TRY(check_texts(p, messages, n));
    q3_status st = q3_prompt_text(&text, p, messages, n);
    st = st ? st : make(out, mem, p, &text, pictures, n_pictures);
    q3_text_free(&text);
    return st;
}

q3_prompt q3_prompt_of_batch(const q3_batch *b)
{
    Q3_CHECK(b->n_rows == 1, "%d rows", b->n_rows);
    return (q3_prompt){ .ids = b->ids,
                        .n = b->n_tokens,
                        .positions = b->positions,
                        .n_images = b->n_images,
                        .grids = b->grids,
                        .patches = b->patches,
                        .n_patches = b->n_patches,
                        .image_rows = b->image_rows,
                        .n_image_rows = b->n_image_rows,
                        .adapter = -1 };
}
