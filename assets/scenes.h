/* assets/scenes.h - the pictures of the built-in demo: 14 kinds of 96x96 scenes, each drawn from one 64-bit
 * seed.
 *
 * Seven objects, each in a good and a bad state (a sunny beach, a storm over a beach; a cake, a smashed cake
 * ...). Colour, count, place, size, mirror image, sky, ground, distractors, brightness and noise come from
 * the seed; sky and ground come from the same pools in both states, so that only the object tells the mood.
 *
 * A picture is a pure function of (seed, object, good), the same on every machine: integers and double
 * arithmetic in the written order (compile without contraction to fused multiply-add), a pixel is painted
 * when its centre lies inside a shape, later shapes cover earlier ones, and nothing is smoothed.
 * tests/assets/test_scenes.c holds checksums.
 */
#ifndef Q3_ASSETS_SCENES_H
#define Q3_ASSETS_SCENES_H

#include <stdbool.h>
#include <stdint.h>

/* Changes whenever a seed gives another picture or text than before; stored beside generated data. */
#define Q3_SCENE_VERSION 1

#define Q3_SCENE_SIDE 96
#define Q3_SCENE_BYTES (Q3_SCENE_SIDE * Q3_SCENE_SIDE * 3)

typedef enum q3_scene_object {
    Q3_BEACH,
    Q3_HOUSE,
    Q3_CAKE,
    Q3_FLOWERS,
    Q3_FACE,
    Q3_COFFEE,
    Q3_ROAD,
    Q3_SCENE_OBJECTS,
} q3_scene_object;

enum { Q3_SCENE_COLOURS = 6 };

extern const char *const q3_scene_object_names[Q3_SCENE_OBJECTS]; /* "beach", "house" ... */
extern const char *const q3_scene_colour_names[Q3_SCENE_COLOURS]; /* "red", "orange" ... */

/* What a picture shows, as far as captions and questions speak of it. */
typedef struct q3_scene {
    q3_scene_object object;
    bool good;
    int colour; /* of the object: index into q3_scene_colour_names */
    int n;      /* candles, flowers or cars: 1 to 4; 1 for the other objects */
} q3_scene;

/* Draws the picture into rgb [96, 96, 3] (rows from the top) and says in *info what it shows. */
void q3_scene_render(uint8_t rgb[Q3_SCENE_BYTES], q3_scene *info, uint64_t seed, q3_scene_object object,
                     bool good);

/* The generator of pictures and texts: splitmix64 (Steele, Lea and Flood, OOPSLA 2014). Every draw counts:
 * the order of the calls is part of what a seed means. */
typedef struct q3_scene_rng {
    uint64_t state;
} q3_scene_rng;

q3_scene_rng q3_scene_rng_new(uint64_t seed);
uint64_t q3_scene_next(q3_scene_rng *r);
int q3_scene_int(q3_scene_rng *r, int low, int high);           /* low to high, both included */
double q3_scene_real(q3_scene_rng *r, double low, double high); /* low to high, 53 bits */

#endif
