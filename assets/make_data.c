/* q3-scenes - writes the demo's data sets and pictures (see assets/README.md): options, and what goes into
 * each set. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assets/data_files.h"
#include "assets/scene_texts.h"
#include "core/file.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

enum { SAMPLES_MAX = 10000000 };

static const char usage[] =
    "q3-scenes sarcasm OUT_DIR     posts for fine-tuning: train.jsonl, eval.jsonl, heldout.jsonl, images/\n"
    "    --train 2016              posts in each set: multiples of 28 are balanced, 0 leaves the set out\n"
    "    --eval 280\n"
    "    --heldout 280\n"
    "    --seed0 200000000         first seed of each set\n"
    "    --eval-seed0 300000000\n"
    "    --heldout-seed0 400000000\n"
    "    --blank none              or image, text: take it away (a grey picture, an empty comment)\n"
    "q3-scenes pretrain OUT_DIR    questions and answers for a base model: train.jsonl, images/\n"
    "    --samples 24000           pictures\n"
    "    --visits 1                times each picture is taken up, with 1 to 3 questions a time\n"
    "    --seed0 100000000         first seed\n"
    "    --stage full              or objects, moods: the same with fewer kinds of questions\n"
    "q3-scenes picture OUT.png     all 14 kinds of scenes on one sheet\n"
    "    --columns 7               pictures in a row\n"
    "    --zoom 1                  screen pixels per pixel\n"
    "    --seed0 220               seed of the first picture\n"
    "The numbers and words shown are the defaults. A directory is made whole or not at all; one that\n"
    "is there with the same options is left alone.\n";

/* ---- options ---- */

typedef struct setting {
    const char *name;
    int64_t *number; /* a whole number from low to high ... */
    int64_t low, high;
    const char **text; /* ... or one of the words, which end with NULL */
    const char *const *words;
} setting;

static const setting *find_setting(const setting *list, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(list[i].name, name))
            return &list[i];
    return NULL;
}

static q3_status set_number(const setting *s, const char *value)
{
    char *end;
    errno = 0;
    int64_t v = strtoll(value, &end, 10);
    if (end == value || *end || errno || v < s->low || v > s->high)
        return q3_fail(Q3_ERR_USAGE, "%s %s: expected a whole number from %" PRId64 " to %" PRId64, s->name,
                       value, s->low, s->high);
    *s->number = v;
    return Q3_OK;
}

static q3_status set_text(const setting *s, const char *value)
{
    for (const char *const *w = s->words; *w; w++) {
        if (!strcmp(*w, value)) {
            *s->text = *w;
            return Q3_OK;
        }
    }
    return q3_fail(Q3_ERR_USAGE, "%s %s: expected %s, %s%s%s", s->name, value, s->words[0], s->words[1],
                   s->words[2] ? " or " : "", s->words[2] ? s->words[2] : "");
}

/* argv: "--name value" pairs, and the one output path. */
static q3_status read_options(char **out, int argc, char **argv, const setting *list, int n)
{
    *out = NULL;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "--", 2)) {
            if (*out)
                return q3_fail(Q3_ERR_USAGE, "%s: there is one output path, and %s was given already",
                               argv[i], *out);
            *out = argv[i];
            for (size_t end = strlen(*out); end > 1 && (*out)[end - 1] == '/';)
                (*out)[--end] = 0; // "dir/" is "dir"
            continue;
        }
        const setting *s = find_setting(list, n, argv[i]);
        if (!s)
            return q3_fail(Q3_ERR_USAGE, "%s is no option of this command; q3-scenes --help lists them",
                           argv[i]);
        if (++i == argc)
            return q3_fail(Q3_ERR_USAGE, "%s needs a value", s->name);
        Q3_TRY(s->number ? set_number(s, argv[i]) : set_text(s, argv[i]));
    }
    if (!*out || !**out)
        return q3_fail(Q3_ERR_USAGE, "the output path is missing; q3-scenes --help says more");
    return Q3_OK;
}

/* ---- sarcasm ---- */

typedef struct sarcasm_options {
    int64_t n[3], seed0[3]; /* train, eval, heldout */
    const char *blank;      /* "none", "image" or "text" */
} sarcasm_options;

static const char *const set_names[3] = { "train", "eval", "heldout" };

/* The picture of a post, or the one grey picture of all posts. */
static q3_status post_picture(char image[64], const char *dir, const char *id, const q3_scene_post *post,
                              bool grey)
{
    static uint8_t rgb[Q3_SCENE_BYTES];
    char path[Q3_PATH_BYTES];
    q3_scene scene;
    snprintf(image, 64, "images/%s.png", grey ? "grey" : id);
    Q3_TRY(q3_scene_path(path, dir, image));
    if (grey && q3_file_exists(path))
        return Q3_OK;
    if (grey)
        memset(rgb, 127, sizeof rgb);
    else
        q3_scene_render(rgb, &scene, post->seed, post->object, post->good);
    return q3_scene_png(path, rgb, Q3_SCENE_SIDE, Q3_SCENE_SIDE, false);
}

static q3_status put_post(q3_rows *to, const char *dir, const char *id, const q3_scene_post *post,
                          const char *blank)
{
    char image[64], query[Q3_TURN_BYTES], target[64], source[64];
    const char *label = q3_scene_post_sarcastic(post) ? "sarcastic" : "not_sarcastic";
    Q3_TRY(post_picture(image, dir, id, post, !strcmp(blank, "image")));
    snprintf(query, sizeof query, "Text: %s\nIs this post sarcastic? Answer in JSON.",
             strcmp(blank, "text") ? post->comment : "");
    snprintf(target, sizeof target, "{\"label\": \"%s\"}", label);
    snprintf(source, sizeof source, "%s text, %s scene", post->positive ? "positive" : "negative",
             post->good ? "good" : "bad");
    return q3_rows_put(to, &(q3_row){ id, image, query, target, label, source });
}

static q3_status put_posts(q3_rows *to, const q3_data_set *set, const sarcasm_options *o, int which)
{
    for (int64_t i = 0; i < o->n[which]; i++) {
        char id[40];
        q3_scene_post post;
        snprintf(id, sizeof id, "%s-%05" PRId64, set_names[which], i);
        q3_scene_post_draw(&post, (uint64_t)o->seed0[which], i, which == 2);
        Q3_TRY(put_post(to, set->tmp, id, &post, o->blank));
    }
    return Q3_OK;
}

static q3_status fill_sarcasm(const q3_data_set *set, const void *options)
{
    const sarcasm_options *o = options;
    for (int which = 0; which < 3; which++) {
        char name[32];
        q3_rows to;
        if (!o->n[which])
            continue;
        snprintf(name, sizeof name, "%s.jsonl", set_names[which]);
        Q3_TRY(q3_rows_open(&to, set->tmp, name));
        Q3_TRY(q3_rows_close(&to, put_posts(&to, set, o, which)));
    }
    printf("%s: %" PRId64 " posts to train on, %" PRId64 " to evaluate, %" PRId64 " with held-out comments\n",
           set->out, o->n[0], o->n[1], o->n[2]);
    return Q3_OK;
}

static q3_status cmd_sarcasm(int argc, char **argv)
{
    static const char *const blanks[] = { "none", "image", "text", NULL };
    sarcasm_options o = { { 2016, 280, 280 }, { 200000000, 300000000, 400000000 }, "none" };
    const setting settings[] = {
        { "--train", &o.n[0], 0, SAMPLES_MAX, NULL, NULL },
        { "--eval", &o.n[1], 0, SAMPLES_MAX, NULL, NULL },
        { "--heldout", &o.n[2], 0, SAMPLES_MAX, NULL, NULL },
        { "--seed0", &o.seed0[0], 0, INT64_MAX / 2, NULL, NULL },
        { "--eval-seed0", &o.seed0[1], 0, INT64_MAX / 2, NULL, NULL },
        { "--heldout-seed0", &o.seed0[2], 0, INT64_MAX / 2, NULL, NULL },
        { "--blank", NULL, 0, 0, &o.blank, blanks },
    };
    q3_data_set set = { 0 };
    Q3_TRY(read_options(&set.out, argc, argv, settings, COUNT(settings)));
    int n =
        snprintf(set.stamp, sizeof set.stamp, "q3-scenes %d sarcasm, blank %s", Q3_SCENE_VERSION, o.blank);
    for (int i = 0; i < 3; i++)
        n += snprintf(set.stamp + n, sizeof set.stamp - (size_t)n, ", %s %" PRId64 " from %" PRId64,
                      set_names[i], o.n[i], o.seed0[i]);
    snprintf(set.stamp + n, sizeof set.stamp - (size_t)n, "\n");
    return q3_data_set_make(&set, fill_sarcasm, &o);
}

/* ---- pretrain ---- */

typedef struct pretrain_options {
    int64_t samples, visits, seed0;
    const char *stage;
} pretrain_options;

static const char *const stage_names[] = { "objects", "moods", "full", NULL }; /* by q3_scene_stage */

static q3_scene_stage stage_of(const char *name)
{
    int i = 0;
    while (strcmp(stage_names[i], name))
        i++;
    return (q3_scene_stage)i;
}

/* The turns of one picture, a row each; they share the picture's file. */
static q3_status put_turns(q3_rows *to, const char *image, q3_scene_rng *r, const q3_scene *scene,
                           uint64_t seed, const pretrain_options *o)
{
    int number = 0;
    for (int64_t visit = 0; visit < o->visits; visit++) {
        for (int left = q3_scene_int(r, 1, 3); left > 0; left--) {
            q3_scene_turn turn;
            char id[48];
            q3_scene_turn_draw(&turn, r, scene, stage_of(o->stage));
            snprintf(id, sizeof id, "%" PRIu64 "-%d", seed, number++);
            Q3_TRY(q3_rows_put(to, &(q3_row){ id, image, turn.question, turn.answer, NULL, turn.task }));
        }
    }
    return Q3_OK;
}

static q3_status put_picture(q3_rows *to, const q3_data_set *set, uint64_t seed, const pretrain_options *o)
{
    static uint8_t rgb[Q3_SCENE_BYTES];
    char image[64], path[Q3_PATH_BYTES];
    q3_scene_object object;
    bool good;
    q3_scene scene;
    q3_scene_rng r = q3_scene_corpus(seed, &object, &good);
    q3_scene_render(rgb, &scene, seed, object, good);
    snprintf(image, sizeof image, "images/%" PRIu64 ".png", seed);
    Q3_TRY(q3_scene_path(path, set->tmp, image));
    Q3_TRY(q3_scene_png(path, rgb, Q3_SCENE_SIDE, Q3_SCENE_SIDE, false));
    return put_turns(to, image, &r, &scene, seed, o);
}

static q3_status fill_pretrain(const q3_data_set *set, const void *options)
{
    const pretrain_options *o = options;
    q3_rows to;
    q3_status st = Q3_OK;
    Q3_TRY(q3_rows_open(&to, set->tmp, "train.jsonl"));
    for (int64_t i = 0; i < o->samples && st == Q3_OK; i++)
        st = put_picture(&to, set, (uint64_t)(o->seed0 + i), o);
    Q3_TRY(q3_rows_close(&to, st));
    printf("%s: %" PRId64 " pictures, each taken up %" PRId64 " times\n", set->out, o->samples, o->visits);
    return Q3_OK;
}

static q3_status cmd_pretrain(int argc, char **argv)
{
    pretrain_options o = { 24000, 1, 100000000, "full" };
    const setting settings[] = {
        { "--samples", &o.samples, 1, SAMPLES_MAX, NULL, NULL },
        { "--visits", &o.visits, 1, 1000, NULL, NULL },
        { "--seed0", &o.seed0, 0, INT64_MAX / 2, NULL, NULL },
        { "--stage", NULL, 0, 0, &o.stage, stage_names },
    };
    q3_data_set set = { 0 };
    Q3_TRY(read_options(&set.out, argc, argv, settings, COUNT(settings)));
    snprintf(set.stamp, sizeof set.stamp,
             "q3-scenes %d pretrain, stage %s, %" PRId64 " pictures from %" PRId64 ", %" PRId64 " visits\n",
             Q3_SCENE_VERSION, o.stage, o.samples, o.seed0, o.visits);
    return q3_data_set_make(&set, fill_pretrain, &o);
}

/* ---- picture ---- */

enum { KINDS = 2 * Q3_SCENE_OBJECTS, MARGIN = 8 };

typedef struct sheet {
    uint8_t *rgb;
    int columns, zoom, width, height;
} sheet;

static void paste(sheet *to, const uint8_t rgb[Q3_SCENE_BYTES], int place)
{
    int cell = Q3_SCENE_SIDE * to->zoom + MARGIN;
    int left = MARGIN + place % to->columns * cell, top = MARGIN + place / to->columns * cell;
    for (int y = 0; y < Q3_SCENE_SIDE * to->zoom; y++) {
        for (int x = 0; x < Q3_SCENE_SIDE * to->zoom; x++) {
            const uint8_t *from = rgb + (y / to->zoom * Q3_SCENE_SIDE + x / to->zoom) * 3;
            memcpy(to->rgb + ((size_t)(top + y) * (size_t)to->width + (size_t)(left + x)) * 3, from, 3);
        }
    }
}

/* The good scenes first, then the bad ones, in the order of the objects. */
static q3_status cmd_picture(int argc, char **argv)
{
    static uint8_t rgb[Q3_SCENE_BYTES];
    int64_t columns = 7, zoom = 1, seed0 = 220;
    const setting settings[] = {
        { "--columns", &columns, 1, KINDS, NULL, NULL },
        { "--zoom", &zoom, 1, 16, NULL, NULL },
        { "--seed0", &seed0, 0, INT64_MAX / 2, NULL, NULL },
    };
    char *out;
    Q3_TRY(read_options(&out, argc, argv, settings, COUNT(settings)));
    int lines = (KINDS + (int)columns - 1) / (int)columns, cell = Q3_SCENE_SIDE * (int)zoom + MARGIN;
    sheet s = { NULL, (int)columns, (int)zoom, MARGIN + (int)columns * cell, MARGIN + lines * cell };
    size_t bytes = (size_t)s.width * (size_t)s.height * 3;
    s.rgb = q3_malloc(bytes);
    if (!s.rgb)
        return q3_wrap(Q3_ERR_MEMORY, "%s", out);
    memset(s.rgb, 255, bytes);
    for (int i = 0; i < KINDS; i++) {
        q3_scene scene;
        bool good = i < Q3_SCENE_OBJECTS;
        q3_scene_render(rgb, &scene, (uint64_t)(seed0 + i), (q3_scene_object)(i % Q3_SCENE_OBJECTS), good);
        paste(&s, rgb, i);
    }
    q3_status st = q3_scene_png(out, s.rgb, s.width, s.height, true);
    q3_free(s.rgb);
    return st;
}

/* ---- main ---- */

static q3_status run(int argc, char **argv)
{
    if (argc < 2)
        return q3_fail(Q3_ERR_USAGE,
                       "a command is missing: sarcasm, pretrain or picture; q3-scenes --help says more");
    if (!strcmp(argv[1], "sarcasm"))
        return cmd_sarcasm(argc - 2, argv + 2);
    if (!strcmp(argv[1], "pretrain"))
        return cmd_pretrain(argc - 2, argv + 2);
    if (!strcmp(argv[1], "picture"))
        return cmd_picture(argc - 2, argv + 2);
    return q3_fail(Q3_ERR_USAGE, "%s is no command: expected sarcasm, pretrain or picture", argv[1]);
}

int main(int argc, char **argv)
{
    if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        fputs(usage, stdout);
        return 0;
    }
    q3_status st = run(argc, argv);
    if (st != Q3_OK)
        fprintf(stderr, "q3-scenes: %s\n", q3_error());
    return q3_exit_code(st);
}
