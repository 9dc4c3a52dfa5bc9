/* One seed, one picture: background, distractors, the object in its own coordinates, then light and noise. */
#include "assets/scenes.h"

#include <math.h>

#include "assets/scene_painter.h"

#define PI 3.14159265358979323846

const char *const q3_scene_object_names[Q3_SCENE_OBJECTS] = { "beach", "house",  "cake", "flowers",
                                                              "face",  "coffee", "road" };
const char *const q3_scene_colour_names[Q3_SCENE_COLOURS] = { "red",  "orange", "green",
                                                              "blue", "purple", "pink" };

static const colour body_colours[Q3_SCENE_COLOURS] = {
    { 214, 48, 49 }, { 240, 140, 40 }, { 60, 170, 80 }, { 60, 110, 220 }, { 150, 80, 190 }, { 245, 140, 190 }
};
static const colour skies[] = {
    { 170, 200, 230 }, { 205, 195, 175 }, { 150, 160, 175 }, { 212, 212, 216 }, { 185, 205, 185 }
};
static const colour grounds[] = { { 120, 150, 90 }, { 200, 180, 130 }, { 130, 125, 120 }, { 150, 110, 80 } };

/* ---- random numbers ---- */

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

#define GOLDEN 0x9E3779B97F4A7C15u

q3_scene_rng q3_scene_rng_new(uint64_t seed)
{
    return (q3_scene_rng){ seed * GOLDEN + 0x1234567 };
}

uint64_t q3_scene_next(q3_scene_rng *r)
{
    return mix(r->state += GOLDEN);
}

int q3_scene_int(q3_scene_rng *r, int low, int high)
{
    return low + (int)(q3_scene_next(r) % (uint64_t)(high - low + 1));
}

double q3_scene_real(q3_scene_rng *r, double low, double high)
{
    double unit = (double)(q3_scene_next(r) >> 11) * 0x1p-53;
    return low + (high - low) * unit;
}

/* ---- things that several scenes share ---- */

static void cloud(painter *p, double x, double y, double s, colour c)
{
    ellipse(p, x - 9 * s, y, 8 * s, 6 * s, c);
    ellipse(p, x + 9 * s, y, 8 * s, 6 * s, c);
    ellipse(p, x, y - 3 * s, 10 * s, 8 * s, c);
}

static void sun(painter *p, double x, double y, double s)
{
    colour c = jitter(p, RGB(250, 210, 60), 12);
    ellipse(p, x, y, 7 * s, 7 * s, c);
    for (int i = 0; i < 8; i++) {
        double a = i * PI / 4;
        line(p, x + 9 * s * cos(a), y + 9 * s * sin(a), x + 12 * s * cos(a), y + 12 * s * sin(a), 1.6, c);
    }
}

static void bird(painter *p, int x, int y)
{
    line(p, x - 4, y - 2, x, y, 1.5, RGB(60, 60, 60));
    line(p, x, y, x + 4, y - 2, 1.5, RGB(60, 60, 60));
}

static void bush(painter *p, int x)
{
    double rx = draw_real(p, 5, 9), ry = draw_real(p, 3, 6);
    ellipse(p, x, p->horizon, rx, ry, jitter(p, RGB(70, 120, 60), 15));
}

static void fence(painter *p, int x)
{
    for (int i = 0; i < 4; i++)
        rect(p, x + 4 * i, p->horizon - 7, x + 4 * i + 2, p->horizon + 2, RGB(120, 95, 70));
}

static void distractor(painter *p)
{
    int kind = draw_int(p, 0, 2), x = draw_int(p, 6, 90);
    if (kind == 0)
        bird(p, x, draw_int(p, 6, 24));
    else if (kind == 1)
        bush(p, x);
    else
        fence(p, x);
}

/* Everything from row y down. */
static void floor_from(painter *p, int y, colour c)
{
    rect(p, 0, y, Q3_SCENE_SIDE, Q3_SCENE_SIDE, c);
}

/* ---- beach ---- */

static void lightning(painter *p, double x, double y, double s)
{
    const point q[] = { { x + s, y + 4 * s },      { x - 4 * s, y + 16 * s }, { x, y + 15 * s },
                        { x - 3 * s, y + 26 * s }, { x + 6 * s, y + 11 * s }, { x + 2 * s, y + 12 * s },
                        { x + 5 * s, y + 4 * s } };
    polygon(p, q, COUNT(q), RGB(250, 225, 70));
}

static void rain(painter *p)
{
    for (int i = 0; i < 6; i++) {
        int x = draw_int(p, 4, 90), y = draw_int(p, 20, 70);
        line(p, x, y, x - 3, y + 7, 1.2, RGB(110, 130, 170));
    }
}

static void beach(painter *p, bool good)
{
    rect(p, 0, p->horizon - 10, Q3_SCENE_SIDE, p->horizon, jitter(p, RGB(60, 130, 190), 18));
    floor_from(p, p->horizon, jitter(p, RGB(225, 200, 140), 12));
    local_line(p, 8, -2, 8, 24, 2, RGB(110, 80, 50));
    ring(p, place(p, 8, 0), 0, 15 * p->scale, UPPER, p->body); // the umbrella
    double x = p->x - p->flip * draw_real(p, 16, 26), y = draw_real(p, 13, 22);
    if (good) {
        sun(p, x, y, p->scale);
    } else {
        cloud(p, x, y, p->scale, p->dark);
        lightning(p, x, y, p->scale);
        rain(p);
    }
}

/* ---- house ---- */

static void rainbow(painter *p)
{
    static const colour bands[] = {
        { 220, 60, 60 }, { 240, 160, 50 }, { 245, 220, 80 }, { 80, 180, 90 }, { 70, 110, 210 }
    };
    for (int i = 0; i < COUNT(bands); i++)
        ring(p, place(p, 0, 14), (30 - 2.4 * (i + 1)) * p->scale * 1.15, (30 - 2.4 * i) * p->scale * 1.15,
             UPPER, bands[i]);
}

static void fire(painter *p)
{
    for (int i = 0; i < 3; i++) {
        double x = -9 + 9 * i + draw_real(p, -2, 2), h = draw_real(p, 12, 18);
        LOCAL_POLYGON(p, RGB(240, 120, 30), { x - 5, -2 }, { x - 4, -h + 3 }, { x - 1, -h * 0.6 },
                      { x + 1, -h - 6 }, { x + 3, -h * 0.5 }, { x + 5, -h + 1 }, { x + 5, -2 });
        LOCAL_POLYGON(p, RGB(250, 215, 70), { x - 2, -2 }, { x, -h * 0.6 }, { x + 2, -2 });
    }
    for (int i = 0; i < 3; i++)
        local_ellipse(p, draw_real(p, -12, 12), -24 - 5 * i, 6 + i, 5, p->dark);
}

static void house(painter *p, bool good)
{
    if (good)
        rainbow(p);
    local_rect(p, -13, -4, 13, 18, p->body);
    LOCAL_POLYGON(p, jitter(p, RGB(130, 80, 60), 15), { -17, -4 }, { 0, -18 }, { 17, -4 });
    local_rect(p, -3, 6, 3, 18, RGB(90, 65, 50));
    local_rect(p, -10, 0, -5, 5, RGB(235, 230, 190));
    local_rect(p, 5, 0, 10, 5, RGB(235, 230, 190));
    if (!good)
        fire(p);
}

/* ---- cake ---- */

static void whole_cake(painter *p)
{
    local_rect(p, -18, 0, 18, 18, p->body);
    local_rect(p, -18, 0, 18, 5, RGB(245, 240, 230));
    local_rect(p, -22, 18, 22, 20, RGB(225, 225, 230));
    for (int i = 0; i < p->n; i++) {
        double x = (i - (p->n - 1) / 2.0) * 8;
        local_rect(p, x - 1, -9, x + 1, 0, RGB(90, 120, 210));
        local_ellipse(p, x, -12, 2, 3.2, RGB(255, 205, 70));
    }
}

static void smashed_cake(painter *p)
{
    LOCAL_POLYGON(p, p->body, { -22, 18 }, { -16, 6 }, { -7, 9 }, { 1, 3 }, { 9, 10 }, { 16, 7 }, { 23, 18 });
    LOCAL_POLYGON(p, RGB(245, 240, 230), { -9, 9 }, { -3, 6 }, { 1, 3 }, { 6, 7 }, { 9, 10 }, { 2, 13 },
                  { -5, 12 });
    for (int i = 0; i < p->n; i++) {
        int x = -18 + 12 * i, tilt = i % 2;
        local_line(p, x - 4, 21 + 2 * tilt, x + 4, 19 + 3 * tilt, 2, RGB(90, 120, 210));
    }
    for (int i = 0; i < 6; i++) {
        double x = draw_real(p, -26, 26), y = draw_real(p, 8, 24), rx = draw_real(p, 1.2, 2.6);
        double ry = draw_real(p, 1, 2);
        local_ellipse(p, x, y, rx, ry, p->body);
    }
}

static void cake(painter *p, bool good)
{
    floor_from(p, p->horizon + 6, jitter(p, RGB(165, 120, 85), 18));
    if (good)
        whole_cake(p);
    else
        smashed_cake(p);
}

/* ---- flowers ---- */

static void fresh_flower(painter *p, double x)
{
    const colour green = RGB(50, 130, 60);
    local_line(p, x, 2, x, 24, 2, green);
    local_ellipse(p, x - 4, 14, 4, 2, green);
    local_ellipse(p, x + 4, 18, 4, 2, green);
    for (int k = 0; k < 5; k++) {
        double a = -PI / 2 + k * 2 * PI / 5;
        local_ellipse(p, x + 4.6 * cos(a), 4.6 * sin(a), 3.4, 3.4, p->body);
    }
    local_ellipse(p, x, 0, 2.6, 2.6, RGB(250, 220, 70));
}

static void wilted_flower(painter *p, double x)
{
    const colour brown = RGB(120, 100, 60);
    local_line(p, x, 6, x, 24, 2, brown);
    local_line(p, x, 6, x + 3, 2, 2, brown);
    local_line(p, x + 3, 2, x + 6, 8, 2, brown);
    local_ellipse(p, x + 4, 12, 1.8, 3.6, p->body);
    local_ellipse(p, x + 8, 12, 1.8, 3.6, p->body);
    local_ellipse(p, x + 6, 13, 1.8, 3.8, p->body);
    local_ellipse(p, x + 6, 9, 2.2, 2, RGB(130, 100, 50));
    local_ellipse(p, x - 4 + draw_real(p, -2, 2), 25, 2.4, 1.3, p->body); // a petal on the ground
}

static void flowers(painter *p, bool good)
{
    for (int i = 0; i < p->n; i++) {
        double x = (i - (p->n - 1) / 2.0) * 12;
        if (good)
            fresh_flower(p, x);
        else
            wilted_flower(p, x);
    }
}

/* ---- face ---- */

static void face(painter *p, bool good)
{
    const colour ink = RGB(30, 30, 30);
    local_ellipse(p, 0, 0, 21, 21, RGB(40, 40, 40));
    local_ellipse(p, 0, 0, 19.5, 19.5, p->body);
    local_ellipse(p, -7, -6, 2.6, 3.4, ink);
    local_ellipse(p, 7, -6, 2.6, 3.4, ink);
    if (good) {
        ring(p, place(p, 0, 3), 8.5 * p->scale, 11.5 * p->scale, LOWER, ink);
        return;
    }
    ring(p, place(p, 0, 15), 8.5 * p->scale, 11.5 * p->scale, UPPER, ink);
    local_ellipse(p, 9, 1, 1.8, 3.2, RGB(120, 190, 250)); // a tear
    local_line(p, -11, -13, -4, -11, 1.8, ink);
    local_line(p, 11, -13, 4, -11, 1.8, ink);
}

/* ---- coffee ---- */

static void full_cup(painter *p, colour brown)
{
    ring(p, place(p, 15, 6), 4 * p->scale, 6.5 * p->scale, UPPER, p->body);
    ring(p, place(p, 15, 6), 4 * p->scale, 6.5 * p->scale, LOWER, p->body);
    LOCAL_POLYGON(p, p->body, { -14, -4 }, { 14, -4 }, { 11, 18 }, { -11, 18 });
    local_ellipse(p, 0, -4, 14, 3.6, RGB(240, 240, 235));
    local_ellipse(p, 0, -4, 12, 2.6, brown);
    local_ellipse(p, 0, 19, 19, 2.6, RGB(235, 235, 235));
    for (int i = 0; i < 3; i++) {
        int x = -6 + 6 * i;
        local_line(p, x, -10, x + 2, -14, 1.6, RGB(245, 245, 245));
        local_line(p, x + 2, -14, x, -19, 1.6, RGB(245, 245, 245));
    }
}

static void tipped_cup(painter *p, colour brown)
{
    local_ellipse(p, -6, 18, 24, 6, brown);
    local_ellipse(p, -20, 21, 8, 3, brown);
    ring(p, place(p, 9, 4), 4 * p->scale, 6.5 * p->scale, UPPER, p->body);
    LOCAL_POLYGON(p, p->body, { -4, 2 }, { -4, 20 }, { 20, 18 }, { 20, 5 });
    local_ellipse(p, -4, 11, 3.6, 9, RGB(240, 240, 235));
    local_ellipse(p, -4, 11, 2.6, 7, brown);
    for (int i = 0; i < 4; i++) {
        double x = draw_real(p, -28, 0), y = draw_real(p, 12, 26), rx = draw_real(p, 1, 2);
        double ry = draw_real(p, 0.8, 1.5);
        local_ellipse(p, x, y, rx, ry, brown);
    }
}

static void coffee(painter *p, bool good)
{
    floor_from(p, p->horizon + 2, jitter(p, RGB(150, 110, 80), 18));
    colour brown = jitter(p, RGB(92, 58, 32), 8);
    if (good)
        full_cup(p, brown);
    else
        tipped_cup(p, brown);
}

/* ---- road ---- */

/* A car of size k whose sill is at canvas point (x, y). */
static void car(painter *p, double x, double y, double k)
{
    rect(p, x - 11 * k, y - 5 * k, x + 11 * k, y + k, p->body);
    const point roof[] = { { x - 7 * k, y - 5 * k },
                           { x - 4 * k, y - 10 * k },
                           { x + 4 * k, y - 10 * k },
                           { x + 7 * k, y - 5 * k } };
    polygon(p, roof, COUNT(roof), p->body);
    rect(p, x - 4 * k, y - 9 * k, x + 4 * k, y - 5 * k, RGB(190, 215, 230));
    ellipse(p, x - 6 * k, y + 1.5 * k, 2.8 * k, 2.8 * k, RGB(25, 25, 25));
    ellipse(p, x + 6 * k, y + 1.5 * k, 2.8 * k, 2.8 * k, RGB(25, 25, 25));
}

static void brake_light_and_exhaust(painter *p, double x, double y, double k)
{
    double tail = x - p->flip * 11 * k;
    rect(p, tail - 1.5, y - 4 * k, tail + 1.5, y - k, RGB(255, 40, 30));
    ellipse(p, x - p->flip * 15 * k, y - 6 * k, 4 * k, 3 * k, RGB(150, 150, 150));
    ellipse(p, x - p->flip * 18 * k, y - 10 * k, 3 * k, 2.4 * k, RGB(160, 160, 160));
}

static void jam(painter *p)
{
    p->n = draw_int(p, 3, 4);
    double k = 0.8 * p->scale;
    for (int i = 0; i < p->n; i++) {
        double x = (i % 2 == 0 ? 22 : 68) + draw_real(p, -5, 5);
        double y = p->horizon + 4 + 13 * (i / 2) + draw_real(p, 0, 2);
        car(p, x, y, k);
        brake_light_and_exhaust(p, x, y, k);
    }
}

static void road(painter *p, bool good)
{
    floor_from(p, p->horizon - 2, RGB(95, 95, 100));
    for (int i = 0; i < 5; i++)
        rect(p, 4 + 20 * i, 92, 14 + 20 * i, 94, RGB(235, 235, 220));
    if (!good) {
        jam(p);
        return;
    }
    double x = p->x - p->flip * draw_real(p, 14, 24), y = draw_real(p, 14, 22);
    sun(p, x, y, p->scale);
    car(p, p->x, p->horizon + draw_real(p, 8, 14), p->scale);
}

/* ---- the whole picture ---- */

static void background(painter *p)
{
    colour sky = skies[draw_int(p, 0, COUNT(skies) - 1)];
    sky = jitter(p, sky, 20);
    colour ground = grounds[draw_int(p, 0, COUNT(grounds) - 1)];
    ground = jitter(p, ground, 20);
    p->horizon = draw_int(p, 56, 70);
    floor_from(p, 0, sky);
    floor_from(p, p->horizon, ground);
    for (int left = draw_int(p, 0, 2); left > 0; left--)
        distractor(p);
}

static void pose(painter *p)
{
    p->scale = draw_real(p, 0.8, 1.15);
    p->x = draw_real(p, 36, 60);
    p->y = draw_real(p, 44, 56);
    p->flip = draw_int(p, 0, 1) ? 1 : -1;
    p->dark = jitter(p, RGB(70, 70, 80), 12);
}

/* Another exposure, and noise that depends on the pixel's index alone. */
static void expose(painter *p)
{
    double gain = draw_real(p, 0.86, 1.12), amplitude = draw_real(p, 5, 14);
    uint64_t base = q3_scene_next(&p->rng);
    for (int i = 0; i < Q3_SCENE_BYTES; i++) {
        double noise = ((double)(mix(base + (uint64_t)(i + 1) * GOLDEN) >> 56) - 127.5) / 127.5 * amplitude;
        double v = floor(p->rgb[i] * gain + noise + 0.5);
        p->rgb[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
    }
}

void q3_scene_render(uint8_t rgb[Q3_SCENE_BYTES], q3_scene *info, uint64_t seed, q3_scene_object object,
                     bool good)
{
    static void (*const draw[Q3_SCENE_OBJECTS])(painter *, bool) = { beach, house,  cake, flowers,
                                                                     face,  coffee, road };
    static const bool counted[Q3_SCENE_OBJECTS] = { [Q3_CAKE] = true, [Q3_FLOWERS] = true };
    painter p = { .rgb = rgb, .rng = q3_scene_rng_new(seed) };
    int name = draw_int(&p, 0, Q3_SCENE_COLOURS - 1);
    p.body = jitter(&p, body_colours[name], 18);
    p.n = draw_int(
        &p, 1, 4); // drawn for every object, so that the rest of the picture does not depend on the object
    if (!counted[object])
        p.n = 1;
    background(&p);
    pose(&p);
    draw[object](&p, good);
    expose(&p);
    *info = (q3_scene){ .object = object, .good = good, .colour = name, .n = p.n };
}
