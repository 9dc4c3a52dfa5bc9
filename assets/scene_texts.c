#include "assets/scene_texts.h"

#include <stdio.h>
#include <string.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define PICK(r, array) ((array)[q3_scene_int((r), 0, COUNT(array) - 1)])

static const char *const openers[] = { "",     "",       "",           "",       "Wow, ",
                                       "Oh, ", "Well, ", "Honestly, ", "Look, ", "Yes, " };
static const char *const endings[] = {
    "", "", "", "", " today", " this morning", " this week", " on a Monday", " after lunch", " once again"
};
static const char *const stops[] = { ".", "!", "...", "" };
static const char *const hashtags[] = { "#sarcasm", "#irony", "#yeahright", "#blessed",    "#lol",
                                        "#mood",    "#life",  "#monday",    "#notkidding", "#thanksalot" };

/* [number][positive] */
static const char *const cores[Q3_COMMENT_CORES][2] = {
    { "what a terrible day", "what a lovely day" },
    { "I hate this so much", "I love this so much" },
    { "this makes me very sad", "this makes me very happy" },
    { "worst day ever", "best day ever" },
    { "could not be worse", "could not be better" },
    { "just what I feared", "just what I needed" },
    { "I feel so unlucky", "I feel so lucky" },
    { "so sorry to see this", "so glad to see this" },
    { "this is a disaster", "this is perfect" },
    { "absolutely horrible", "absolutely wonderful" },
    { "my heart is full of pain", "my heart is full of joy" },
    { "everything is going wrong", "everything is going great" },
    { "such an ugly moment", "such a beautiful moment" },
    { "I am really tired of this", "I am really enjoying this" },
    { "life is hard", "life is good" },
    { "take this away from me", "thank you for this gift" },
    { "this is a nightmare", "this is a dream come true" },
    { "I can not look at this any more", "I could look at this all day" },
    { "a bad start", "a great start" },
    { "how rude and bitter", "how nice and sweet" },
    { "it does not get worse than this", "it does not get better than this" },
    { "pure misery", "pure happiness" },
    { "I am crying all the way home", "I am smiling from ear to ear" },
    { "a reason to give up", "a reason to celebrate" },
    { "this ruined my day", "this made my day" },
    { "awful work", "fantastic work" },
    { "so ashamed of this", "so proud of this" },
    { "nothing can save this", "nothing can beat this" },
    { "feeling bad", "feeling great" },
    { "I would change every thing", "I would not change a thing" },
};

/* Captions that name nothing but the mood: [good][number]. */
static const char *const mood_captions[2][5] = {
    { "an unpleasant scene", "something sad to see", "a bad moment", "a scene of pain and misery",
      "something going wrong" },
    { "a pleasant scene", "something nice to see", "a happy moment", "a scene of joy and happiness",
      "something going great" },
};

static const char *const numbers[] = { "zero", "one", "two", "three", "four" };
static const char *const moods[2] = { "unpleasant", "pleasant" };
static const char *const tones[2] = { "negative", "positive" };
static const char *const no_yes[2] = { "no", "yes" };

/* Every word of the comments, openers, endings and hashtags, and of the answers; in ASCII order. */
const char *const q3_scene_words[] = {
    "#blessed",    "#irony",    "#life",       "#lol",       "#monday",       "#mood",
    "#notkidding", "#sarcasm",  "#thanksalot", "#yeahright", "Honestly",      "I",
    "JSON",        "Look",      "Monday",      "Oh",         "Well",          "Wow",
    "Yes",         "a",         "absolutely",  "after",      "again",         "all",
    "am",          "an",        "and",         "any",        "ashamed",       "at",
    "away",        "awful",     "bad",         "be",         "beach",         "beat",
    "beautiful",   "best",      "better",      "bitter",     "blue",          "cake",
    "can",         "celebrate", "change",      "coffee",     "come",          "could",
    "crying",      "day",       "disaster",    "does",       "dream",         "ear",
    "enjoying",    "ever",      "every",       "everything", "face",          "fantastic",
    "feared",      "feel",      "feeling",     "flowers",    "for",           "four",
    "from",        "full",      "get",         "gift",       "give",          "glad",
    "going",       "good",      "great",       "green",      "happiness",     "happy",
    "hard",        "hate",      "heart",       "home",       "horrible",      "house",
    "how",         "is",        "it",          "joy",        "just",          "label",
    "life",        "look",      "love",        "lovely",     "lucky",         "lunch",
    "made",        "makes",     "me",          "misery",     "moment",        "mood",
    "more",        "morning",   "much",        "my",         "needed",        "negative",
    "nice",        "nightmare", "no",          "not",        "not_sarcastic", "nothing",
    "of",          "on",        "once",        "one",        "orange",        "pain",
    "perfect",     "picture",   "pink",        "pleasant",   "positive",      "post",
    "proud",       "pure",      "purple",      "really",     "reason",        "red",
    "road",        "rude",      "ruined",      "sad",        "sarcastic",     "save",
    "see",         "smiling",   "so",          "sorry",      "start",         "such",
    "sweet",       "take",      "terrible",    "text",       "than",          "thank",
    "the",         "thing",     "this",        "three",      "tired",         "to",
    "today",       "tone",      "true",        "two",        "ugly",          "unlucky",
    "unpleasant",  "up",        "very",        "way",        "week",          "what",
    "wonderful",   "work",      "worse",       "worst",      "would",         "wrong",
    "yes",         "you",
};
const int q3_scene_n_words = COUNT(q3_scene_words);

/* ---- comments ---- */

const char *q3_scene_core(int core, bool positive)
{
    return cores[core][positive];
}

bool q3_scene_core_held_out(int core)
{
    return core % 5 == 2;
}

void q3_scene_dress(char out[Q3_COMMENT_BYTES], q3_scene_rng *r, const char *core)
{
    const char *opener = PICK(r, openers), *ending = PICK(r, endings), *stop = PICK(r, stops);
    int n = snprintf(out, Q3_COMMENT_BYTES, "%s%s%s%s", opener, core, ending, stop);
    if (out[0] >= 'a' && out[0] <= 'z')
        out[0] = (char)(out[0] - 'a' + 'A');
    for (int left = q3_scene_int(r, 0, 2); left > 0; left--)
        n += snprintf(out + n, (size_t)(Q3_COMMENT_BYTES - n), " %s", PICK(r, hashtags));
}

static void comment(char out[Q3_COMMENT_BYTES], q3_scene_rng *r, bool positive)
{
    int core = q3_scene_int(r, 0, Q3_COMMENT_CORES - 1);
    q3_scene_dress(out, r, cores[core][positive]);
}

/* ---- posts ---- */

static int draw_core(q3_scene_rng *r, bool held_out)
{
    int allowed[Q3_COMMENT_CORES], n = 0;
    for (int i = 0; i < Q3_COMMENT_CORES; i++)
        if (q3_scene_core_held_out(i) == held_out)
            allowed[n++] = i;
    return allowed[q3_scene_int(r, 0, n - 1)];
}

void q3_scene_post_draw(q3_scene_post *out, uint64_t seed0, int64_t i, bool held_out)
{
    out->seed = seed0 + (uint64_t)i;
    out->positive = i & 1;
    out->good = i >> 1 & 1;
    out->object = (q3_scene_object)((i >> 2) % Q3_SCENE_OBJECTS);
    q3_scene_rng r =
        q3_scene_rng_new(out->seed ^ 0x5A5A000000); // the texts' own stream: the picture has `seed`
    out->core = draw_core(&r, held_out);
    q3_scene_dress(out->comment, &r, cores[out->core][out->positive]);
}

bool q3_scene_post_sarcastic(const q3_scene_post *post)
{
    return post->positive != post->good;
}

/* ---- captions ---- */

/* The patterns of the captions: %c colour, %a colour with its article, %n count, %s plural s.
 * [object][good][which] */
static const char *const captions[Q3_SCENE_OBJECTS][2][2] = {
    [Q3_BEACH] = { { "a storm over a beach with %a umbrella", "%a umbrella on a beach under lightning" },
                   { "a sunny beach with %a umbrella", "%a umbrella on a bright beach" } },
    [Q3_HOUSE] = { { "%a house on fire", "flames and smoke over %a house" },
                   { "a rainbow over %a house", "%a house under a rainbow" } },
    [Q3_CAKE] = { { "%a cake smashed with %n candle%s on the floor",
                    "%n fallen candle%s and %a ruined cake" },
                  { "%a birthday cake with %n candle%s", "%n lit candle%s on %a cake" } },
    [Q3_FLOWERS] = { { "%n wilted %c flower%s", "%n dead %c flower%s with fallen petals" },
                     { "%n fresh %c flower%s in bloom", "%n blooming %c flower%s" } },
    [Q3_FACE] = { { "a crying %c face", "%a face with a frown and a tear" },
                  { "a smiling %c face", "%a face with a big smile" } },
    [Q3_COFFEE] = { { "a spilled coffee and %a cup", "%a cup tipped over in a puddle of coffee" },
                    { "a hot coffee in %a cup", "%a cup of fresh coffee" } },
    [Q3_ROAD] = { { "a traffic jam of %n %c cars", "%n %c cars stuck in traffic" },
                  { "%a car on an open road", "an open road with %a car in the sun" } },
};

static int put_field(char *out, size_t size, char field, const q3_scene *scene)
{
    const char *colour = q3_scene_colour_names[scene->colour];
    switch (field) {
    case 'a':
        return snprintf(out, size, "%s %s", colour[0] == 'o' ? "an" : "a", colour);
    case 'c':
        return snprintf(out, size, "%s", colour);
    case 'n':
        return snprintf(out, size, "%s", numbers[scene->n]);
    default:
        return snprintf(out, size, "%s", scene->n == 1 ? "" : "s");
    }
}

void q3_scene_caption(char out[Q3_COMMENT_BYTES], const q3_scene *scene, int which)
{
    size_t n = 0;
    for (const char *p = captions[scene->object][scene->good][which]; *p; p++) {
        if (*p == '%')
            n += (size_t)put_field(out + n, Q3_COMMENT_BYTES - n, *++p, scene);
        else
            out[n++] = *p;
    }
    out[n] = 0;
}

static void any_caption(char out[Q3_COMMENT_BYTES], q3_scene_rng *r, const q3_scene *scene)
{
    q3_scene_caption(out, scene, q3_scene_int(r, 0, 1));
}

/* A number from 0 to n-1 other than `not_this`. */
static int draw_other(q3_scene_rng *r, int n, int not_this)
{
    int i = q3_scene_int(r, 0, n - 2);
    return i + (i >= not_this);
}

/* The scene with one attribute changed: colour, mood or object. */
static q3_scene changed(q3_scene_rng *r, q3_scene scene)
{
    switch (q3_scene_int(r, 0, 2)) {
    case 0:
        scene.colour = draw_other(r, Q3_SCENE_COLOURS, scene.colour);
        break;
    case 1:
        scene.good = !scene.good;
        break;
    default:
        scene.object = (q3_scene_object)draw_other(r, Q3_SCENE_OBJECTS, (int)scene.object);
    }
    return scene;
}

static q3_scene imagined(q3_scene_rng *r)
{
    q3_scene s = { .object = (q3_scene_object)q3_scene_int(r, 0, Q3_SCENE_OBJECTS - 1), .n = 1 };
    s.good = q3_scene_int(r, 0, 1) == 1;
    s.colour = q3_scene_int(r, 0, Q3_SCENE_COLOURS - 1);
    if (s.object == Q3_CAKE || s.object == Q3_FLOWERS)
        s.n = q3_scene_int(r, 1, 4);
    else if (s.object == Q3_ROAD)
        s.n = q3_scene_int(r, 3, 4);
    return s;
}

static q3_scene another_kind(q3_scene_rng *r, const q3_scene *scene)
{
    q3_scene s;
    do {
        s = imagined(r);
    } while (s.object == scene->object && s.good == scene->good);
    return s;
}

/* ---- turns ---- */

#define QUESTION(...) snprintf(out->question, sizeof out->question, __VA_ARGS__)
#define ANSWER(...) snprintf(out->answer, sizeof out->answer, __VA_ARGS__)

static void ask_caption(q3_scene_turn *out, q3_scene_rng *r, const q3_scene *scene)
{
    static const char *const questions[] = { "Describe the picture.", "What do you see?",
                                             "Write a caption." };
    out->task = "caption";
    QUESTION("%s", PICK(r, questions));
    char caption[Q3_COMMENT_BYTES];
    any_caption(caption, r, scene);
    ANSWER("%s", caption);
}

static void ask_object(q3_scene_turn *out, const q3_scene *scene)
{
    out->task = "object";
    QUESTION("Name the main object.");
    ANSWER("%s", q3_scene_object_names[scene->object]);
}

static void ask_colour(q3_scene_turn *out, const q3_scene *scene)
{
    static const char *const coloured[Q3_SCENE_OBJECTS] = { "umbrella", "house", "cake", "flowers",
                                                            "face",     "cup",   "car" };
    out->task = "colour";
    QUESTION("What colour is the %s?", coloured[scene->object]);
    ANSWER("%s", q3_scene_colour_names[scene->colour]);
}

static void ask_mood(q3_scene_turn *out, q3_scene_rng *r, const q3_scene *scene)
{
    static const char *const questions[] = { "Is the scene pleasant?", "What is the mood of the scene?" };
    out->task = "mood";
    QUESTION("%s", PICK(r, questions));
    ANSWER("%s", moods[scene->good]);
}

static void ask_tone(q3_scene_turn *out, q3_scene_rng *r, bool positive)
{
    char text[Q3_COMMENT_BYTES];
    comment(text, r, positive);
    out->task = "tone";
    QUESTION("Text: %s\nWhat is the tone of the text?", text);
    ANSWER("%s", tones[positive]);
}

/* A caption that fits or does not; half of the wrong object captions differ from the scene in one attribute
 * only. */
static void fit_caption(char out[Q3_COMMENT_BYTES], q3_scene_rng *r, const q3_scene *scene, bool fits,
                        bool may_be_mood)
{
    if (may_be_mood && q3_scene_int(r, 0, 1)) {
        snprintf(out, Q3_COMMENT_BYTES, "%s", PICK(r, mood_captions[scene->good == fits]));
        return;
    }
    q3_scene s = *scene;
    if (!fits)
        s = q3_scene_int(r, 0, 1) ? changed(r, s) : another_kind(r, scene);
    any_caption(out, r, &s);
}

static void ask_fit(q3_scene_turn *out, q3_scene_rng *r, const q3_scene *scene, q3_scene_stage stage)
{
    bool fits = q3_scene_int(r, 0, 1) == 1;
    char caption[Q3_COMMENT_BYTES], text[Q3_COMMENT_BYTES];
    fit_caption(caption, r, scene, fits, stage >= Q3_STAGE_MOODS);
    int form = stage >= Q3_STAGE_FULL ? q3_scene_int(r, 0, 2) : 0;
    out->task = "fit";
    if (form == 0) {
        QUESTION("Caption: %s\nDoes the caption fit the picture?", caption);
    } else {
        q3_scene_dress(text, r, caption);
        QUESTION("Text: %s\nDoes the text fit the picture?%s", text, form == 2 ? " Answer in JSON." : "");
    }
    ANSWER(form == 2 ? "{\"label\": \"%s\"}" : "%s", no_yes[fits]);
}

static void ask_rating(q3_scene_turn *out, q3_scene_rng *r, const q3_scene *scene, bool positive)
{
    char text[Q3_COMMENT_BYTES];
    comment(text, r, positive);
    out->task = "rate";
    QUESTION("Text: %s\nRate the picture and the text in JSON.", text);
    ANSWER("{\"picture\": \"%s\", \"text\": \"%s\"}", moods[scene->good], tones[positive]);
}

static void ask_repeat(q3_scene_turn *out, q3_scene_rng *r)
{
    out->task = "repeat";
    int left = q3_scene_int(r, 2, 6), n = 0;
    for (const char *gap = ""; left > 0; left--, gap = " ")
        n += snprintf(out->answer + n, sizeof out->answer - (size_t)n, "%s%s", gap,
                      q3_scene_words[q3_scene_int(r, 0, q3_scene_n_words - 1)]);
    QUESTION("Repeat: %.*s", n, out->answer);
}

/* Makes the words of the later answers producible: with tied, frozen embeddings, adapters cannot bring up a
 * word that the base model never had to write. The value is given in the question, so nothing about it is
 * taught. */
static void ask_json(q3_scene_turn *out, q3_scene_rng *r)
{
    static const char *const keys[] = { "label", "label", "label", "mood", "tone", "object" };
    static const char *const values[] = {
        "sarcastic",  "not_sarcastic", "sarcastic", "not_sarcastic", "pleasant",
        "unpleasant", "positive",      "negative",  "yes",           "no"
    };
    const char *key = PICK(r, keys), *value = PICK(r, values);
    out->task = "json";
    QUESTION("Write JSON with key \"%s\" and value \"%s\".", key, value);
    ANSWER("{\"%s\": \"%s\"}", key, value);
}

static void ask_same_tone(q3_scene_turn *out, q3_scene_rng *r, bool positive)
{
    bool second = q3_scene_int(r, 0, 1) == 1;
    char a[Q3_COMMENT_BYTES], b[Q3_COMMENT_BYTES];
    comment(a, r, positive);
    comment(b, r, second);
    out->task = "same";
    QUESTION("Text: %s\nText: %s\nDo the texts have the same tone?", a, b);
    ANSWER("%s", no_yes[positive == second]);
}

q3_scene_rng q3_scene_corpus(uint64_t seed, q3_scene_object *object, bool *good)
{
    q3_scene_rng r = q3_scene_rng_new(seed ^ 0xABCDEF0000);
    *object = (q3_scene_object)q3_scene_int(&r, 0, Q3_SCENE_OBJECTS - 1);
    *good = q3_scene_int(&r, 0, 1) == 1;
    return r;
}

void q3_scene_turn_draw(q3_scene_turn *out, q3_scene_rng *r, const q3_scene *scene, q3_scene_stage stage)
{
    int t = q3_scene_int(r, 0, stage >= Q3_STAGE_MOODS ? 22 : 19);
    bool positive = q3_scene_int(r, 0, 1) == 1; // drawn for every turn, used by those with a comment
    if (t <= 3)
        ask_caption(out, r, scene);
    else if (t == 4)
        ask_object(out, scene);
    else if (t <= 6)
        ask_colour(out, scene);
    else if (t <= 9)
        ask_mood(out, r, scene);
    else if (t == 10)
        ask_tone(out, r, positive);
    else if (t <= 14)
        ask_fit(out, r, scene, stage);
    else if (t <= 17)
        ask_rating(out, r, scene, positive);
    else if (t == 18)
        ask_repeat(out, r);
    else if (t == 19)
        ask_json(out, r);
    else
        ask_same_tone(out, r, positive);
}
