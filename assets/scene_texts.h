/* assets/scene_texts.h - what the demo says about its pictures: posts, captions, questions and answers.
 *
 * A post puts a comment under a picture. It is sarcastic when the tone of the comment (positive, negative)
 * and the mood of the scene (good, bad) disagree. The four cells of tone and mood are equally frequent, so
 * that the text alone or the picture alone tells nothing. Openers, endings and hashtags ("#sarcasm" too) are
 * drawn without regard to either.
 *
 * The corpus for training the base model from scratch (turns) teaches objects, colours, mood, tone, whether a
 * caption fits, and the JSON form. No turn asks about sarcasm or relates the tone of a comment to the mood of
 * the picture.
 *
 * All texts are ASCII and pure functions of the generator's state; buffers are large enough for every text
 * (tested).
 */
#ifndef Q3_ASSETS_SCENE_TEXTS_H
#define Q3_ASSETS_SCENE_TEXTS_H

#include <stddef.h>

#include "assets/scenes.h"

enum {
    Q3_COMMENT_BYTES = 160, /* any comment or caption, NUL included */
    Q3_TURN_BYTES = 480,    /* any question or answer, NUL included */
    Q3_COMMENT_CORES = 30,  /* comments in each tone, before they are dressed */
};

/* The comment without its dress, e.g. "what a lovely day". Number `core` of both tones forms a pair that
 * shares most of its words. Held-out numbers (2, 7, 12 ...) never occur in the sarcasm training set, only in
 * a test set of their own. */
const char *q3_scene_core(int core, bool positive);
bool q3_scene_core_held_out(int core);

/* `core` with opener, ending, punctuation, up to two hashtags and a capital letter. */
void q3_scene_dress(char out[Q3_COMMENT_BYTES], q3_scene_rng *r, const char *core);

/* One of the two captions (which: 0 or 1) that describe the scene in plain words. */
void q3_scene_caption(char out[Q3_COMMENT_BYTES], const q3_scene *scene, int which);

typedef struct q3_scene_post {
    uint64_t seed; /* of the picture */
    q3_scene_object object;
    bool good;     /* mood of the picture */
    bool positive; /* tone of the comment */
    int core;      /* number of the comment, see q3_scene_core */
    char comment[Q3_COMMENT_BYTES];
} q3_scene_post;

/* Post i of the set that begins at `seed0`; tone, mood and object cycle, so any 28 posts in a row are
 * balanced. */
void q3_scene_post_draw(q3_scene_post *out, uint64_t seed0, int64_t i, bool held_out);
bool q3_scene_post_sarcastic(const q3_scene_post *post);

/* Which turns a corpus holds; each stage adds to the one before. */
typedef enum q3_scene_stage {
    Q3_STAGE_OBJECTS, /* captions, attributes, mood, tone, JSON; fitting: object captions, as "Caption:" */
    Q3_STAGE_MOODS,   /* and: do two comments have the same tone; captions that name only the mood */
    Q3_STAGE_FULL,    /* and: fitting asked for dressed captions, as "Text:", answered in words or JSON */
} q3_scene_stage;

typedef struct q3_scene_turn {
    const char *task; /* "caption", "object", "colour", "mood", "tone", "fit", "rate", "repeat", "json", "same" */
    char question[Q3_TURN_BYTES];
    char answer[Q3_TURN_BYTES];
} q3_scene_turn;

/* The generator of picture `seed` of the corpus, and what the picture is to show; then the turns are drawn
 * from it. */
q3_scene_rng q3_scene_corpus(uint64_t seed, q3_scene_object *object, bool *good);
void q3_scene_turn_draw(q3_scene_turn *out, q3_scene_rng *r, const q3_scene *scene, q3_scene_stage stage);

/* The words that "repeat" turns are made of, sorted; for tests. */
extern const char *const q3_scene_words[];
extern const int q3_scene_n_words;

#endif
