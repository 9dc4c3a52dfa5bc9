/* assets/scene_painter.h - the brush of scenes.c, and of nobody else: a canvas of 96x96 pixels, hard-edged
 * shapes on it, and the same shapes in the coordinates of the object that is being drawn.
 *
 * An object is described around (0, 0), about 40 units wide; the painter's place, scale and flip map it to
 * the canvas. The functions local_* take such coordinates, the plain ones canvas pixels. A pixel is painted
 * when its centre lies inside the shape. Random draws happen in the order of the calls: give each draw a name
 * before it becomes an argument, since C leaves the order of arguments open.
 */
#ifndef Q3_ASSETS_SCENE_PAINTER_H
#define Q3_ASSETS_SCENE_PAINTER_H

#include <math.h>

#include "assets/scenes.h"

#ifdef __clang__ // gcc gets -ffp-contract=off: a fused multiply-add moves single pixels at the borders of
                 // shapes
#pragma STDC FP_CONTRACT OFF
#endif

typedef struct colour {
    int r, g, b;
} colour;

typedef struct point {
    double x, y;
} point;

typedef struct painter {
    uint8_t *rgb;
    q3_scene_rng rng;
    colour body;  // the object's colour, after jitter
    colour dark;  // smoke and storm clouds
    int horizon;  // first row of the ground
    int n;        // see q3_scene
    double x, y;  // canvas place of the local origin
    double scale; // canvas pixels per local unit
    double flip;  // 1, or -1 for the mirror image
} painter;

#define RGB(red, green, blue) ((colour){ (red), (green), (blue) })

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

static int draw_int(painter *p, int low, int high)
{
    return q3_scene_int(&p->rng, low, high);
}

static double draw_real(painter *p, double low, double high)
{
    return q3_scene_real(&p->rng, low, high);
}

static int jitter_channel(painter *p, int value, int by)
{
    value += draw_int(p, -by, by);
    return value < 0 ? 0 : value > 255 ? 255 : value;
}

static colour jitter(painter *p, colour c, int by)
{
    c.r = jitter_channel(p, c.r, by);
    c.g = jitter_channel(p, c.g, by);
    c.b = jitter_channel(p, c.b, by);
    return c;
}

/* ---- shapes on the canvas ---- */

/* The pixels worth testing for a shape between the given corners; empty when x0 >= x1 or y0 >= y1. */
typedef struct box {
    int x0, y0, x1, y1;
} box;

static int clip(double v)
{
    return v < 0 ? 0 : v > Q3_SCENE_SIDE ? Q3_SCENE_SIDE : (int)v;
}

static box box_of(double x0, double y0, double x1, double y1)
{
    return (box){ clip(floor(x0) - 1), clip(floor(y0) - 1), clip(ceil(x1) + 1), clip(ceil(y1) + 1) };
}

static void put(painter *p, int x, int y, colour c)
{
    uint8_t *to = p->rgb + (y * Q3_SCENE_SIDE + x) * 3;
    to[0] = (uint8_t)c.r;
    to[1] = (uint8_t)c.g;
    to[2] = (uint8_t)c.b;
}

/* for each pixel of the box: (column, row), centre (px, py) */
#define EACH_PIXEL(box_expression)                                                                           \
    for (box each_ = (box_expression); each_.y0 < each_.y1; each_.y0++)                                      \
        for (int row = each_.y0, column = each_.x0; column < each_.x1; column++)                             \
            for (double py = row + 0.5, px = column + 0.5, once = 1; once > 0; once = 0)

static void rect(painter *p, double x0, double y0, double x1, double y1, colour c)
{
    EACH_PIXEL(box_of(x0, y0, x1, y1))
    {
        if (px >= x0 && px < x1 && py >= y0 && py < y1)
            put(p, column, row, c);
    }
}

static void ellipse(painter *p, double x, double y, double rx, double ry, colour c)
{
    EACH_PIXEL(box_of(x - rx, y - ry, x + rx, y + ry))
    {
        double u = (px - x) / rx, v = (py - y) / ry;
        if (u * u + v * v <= 1)
            put(p, column, row, c);
    }
}

enum { UPPER = -1, LOWER = 1 };

/* The half of a ring between the radii r0 and r1 that lies above (UPPER) or below (LOWER) its centre. */
static void ring(painter *p, point at, double r0, double r1, int half, colour c)
{
    EACH_PIXEL(box_of(at.x - r1, at.y - r1, at.x + r1, at.y + r1))
    {
        double dx = px - at.x, dy = py - at.y, d = dx * dx + dy * dy;
        if (d >= r0 * r0 && d <= r1 * r1 && dy * half > 0)
            put(p, column, row, c);
    }
}

static double min2(double a, double b)
{
    return a < b ? a : b;
}
static double max2(double a, double b)
{
    return a > b ? a : b;
}

/* A segment of width w with round ends. */
static void line(painter *p, double x0, double y0, double x1, double y1, double w, colour c)
{
    double dx = x1 - x0, dy = y1 - y0, length2 = max2(dx * dx + dy * dy, 1e-9);
    EACH_PIXEL(box_of(min2(x0, x1) - w, min2(y0, y1) - w, max2(x0, x1) + w, max2(y0, y1) + w))
    {
        double t = max2(0, min2(1, ((px - x0) * dx + (py - y0) * dy) / length2));
        double ex = px - x0 - t * dx, ey = py - y0 - t * dy;
        if (ex * ex + ey * ey <= w * w / 4)
            put(p, column, row, c);
    }
}

/* Even-odd rule: a ray to the right from the centre crosses an odd number of edges. */
static bool in_polygon(const point *q, int n, double px, double py)
{
    bool inside = false;
    for (int i = 0; i < n; i++) {
        point a = q[i], b = q[(i + 1) % n];
        if (a.y != b.y && py >= min2(a.y, b.y) && py < max2(a.y, b.y) &&
            px < (b.x - a.x) * (py - a.y) / (b.y - a.y) + a.x)
            inside = !inside;
    }
    return inside;
}

static void polygon(painter *p, const point *q, int n, colour c)
{
    point low = q[0], high = q[0];
    for (int i = 1; i < n; i++) {
        low = (point){ min2(low.x, q[i].x), min2(low.y, q[i].y) };
        high = (point){ max2(high.x, q[i].x), max2(high.y, q[i].y) };
    }
    EACH_PIXEL(box_of(low.x, low.y, high.x, high.y))
    {
        if (in_polygon(q, n, px, py))
            put(p, column, row, c);
    }
}

/* ---- shapes in the object's own coordinates ---- */

static point place(const painter *p, double x, double y)
{
    return (point){ p->x + p->flip * x * p->scale, p->y + y * p->scale };
}

static void local_rect(painter *p, double x0, double y0, double x1, double y1, colour c)
{
    point a = place(p, x0, y0), b = place(p, x1, y1);
    rect(p, min2(a.x, b.x), a.y, max2(a.x, b.x), b.y, c);
}

static void local_ellipse(painter *p, double x, double y, double rx, double ry, colour c)
{
    point at = place(p, x, y);
    ellipse(p, at.x, at.y, rx * p->scale, ry * p->scale, c);
}

static void local_line(painter *p, double x0, double y0, double x1, double y1, double w, colour c)
{
    point a = place(p, x0, y0), b = place(p, x1, y1);
    line(p, a.x, a.y, b.x, b.y, w * p->scale, c);
}

enum { MAX_CORNERS = 8 };

static void local_polygon(painter *p, const point *local, int n, colour c)
{
    point q[MAX_CORNERS];
    for (int i = 0; i < n; i++)
        q[i] = place(p, local[i].x, local[i].y);
    polygon(p, q, n, c);
}

/* local_polygon over corners written out: LOCAL_POLYGON(p, c, { x, y }, { x, y }, ...) */
#define LOCAL_POLYGON(p, c, ...)                                                                             \
    local_polygon(p, (const point[]){ __VA_ARGS__ }, COUNT(((const point[]){ __VA_ARGS__ })), c)

#endif
