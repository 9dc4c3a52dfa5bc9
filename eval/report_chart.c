#include "eval/report_chart.h"

#include <math.h>

#include "eval/report_text.h"

enum { WIDTH = 960, HEIGHT = 340, LEFT = 62, RIGHT = 68, TOP = 18, BOTTOM = 46, MANY = 80 };

typedef struct axis {
    double low, high;
    bool log;
} axis;

typedef struct chart {
    q3_text *out;
    axis x, y;
} chart;

static double place(const axis *a, double v)
{
    if (a->log)
        return (log10(v) - log10(a->low)) / (log10(a->high) - log10(a->low));
    return (v - a->low) / (a->high - a->low);
}

static double x_of(const chart *c, double step)
{
    return LEFT + place(&c->x, step) * (WIDTH - LEFT - RIGHT);
}

static double y_of(const axis *a, double value)
{
    return HEIGHT - BOTTOM - place(a, value) * (HEIGHT - TOP - BOTTOM);
}

static bool drawable(const q3_report_point *p)
{
    return isfinite(p->step) && isfinite(p->value);
}

static int64_t widen(axis *x, axis *y, const q3_report_curve *curve)
{
    int64_t seen = 0;
    for (int64_t i = 0; i < curve->n; i++) {
        const q3_report_point *p = &curve->points[i];
        if (!drawable(p))
            continue;
        x->low = fmin(x->low, p->step);
        x->high = fmax(x->high, p->step);
        y->low = fmin(y->low, p->value);
        y->high = fmax(y->high, p->value);
        seen++;
    }
    return seen;
}

/* 1, 2 or 5 times a power of ten: at most `most` of them cover the span. */
static double tick_of(double span, int most)
{
    double unit = pow(10, floor(log10(span / most)));
    while (span / unit > most)
        unit *= span / (2 * unit) <= most ? 2 : span / (5 * unit) <= most ? 5 : 10;
    return unit;
}

static void fit(axis *y)
{
    y->log = y->low > 0 && y->high > 12 * y->low;
    if (y->log) {
        y->low /= 1.15;
        y->high *= 1.15;
        return;
    }
    double span = y->high > y->low ? y->high - y->low : fmax(fabs(y->high), 1e-9);
    double tick = tick_of(span, 5);
    double low = floor((y->low - span * 0.02) / tick) * tick;
    y->low = y->low >= 0 && low < 2 * tick ? 0 : low;
    y->high = ceil((y->high + span * 0.02) / tick) * tick;
}

static void grid_line(const chart *c, double value)
{
    double y = y_of(&c->y, value);
    q3_text_printf(c->out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT,
                   WIDTH - RIGHT, y, y);
    q3_text_printf(c->out, "<text class=\"tick\" text-anchor=\"end\" x=\"%d\" y=\"%.1f\">%.4g</text>\n",
                   LEFT - 9, y + 4, value);
}

static void value_scale(const chart *c)
{
    if (!c->y.log) {
        double tick = tick_of(c->y.high - c->y.low, 6);
        for (int i = 0; c->y.low + i * tick <= c->y.high * (1 + 1e-9); i++)
            grid_line(c, c->y.low + i * tick);
        return;
    }
    bool dense = c->y.high / c->y.low < 200;
    for (double unit = pow(10, floor(log10(c->y.low))); unit <= c->y.high; unit *= 10)
        for (int k = 1; k <= (dense ? 5 : 1); k += k == 2 ? 3 : 1)
            if (unit * k >= c->y.low && unit * k <= c->y.high)
                grid_line(c, unit * k);
}

static void step_scale(const chart *c, const char *name)
{
    double tick = fmax(1, tick_of(c->x.high - c->x.low, 8));
    for (double step = ceil(c->x.low / tick) * tick; step <= c->x.high; step += tick)
        q3_text_printf(c->out,
                       "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%d\">%.0f</text>\n",
                       x_of(c, step), HEIGHT - BOTTOM + 18, step);
    q3_text_printf(c->out, "<line class=\"axis\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>\n", LEFT,
                   WIDTH - RIGHT, HEIGHT - BOTTOM, HEIGHT - BOTTOM);
    q3_text_printf(c->out, "<text class=\"name\" text-anchor=\"middle\" x=\"%d\" y=\"%d\">step</text>\n",
                   (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8);
    q3_text_printf(c->out,
                   "<text class=\"name\" text-anchor=\"middle\" transform=\"translate(15,%d) rotate(-90)\">"
                   "%s%s</text>\n",
                   (TOP + HEIGHT - BOTTOM) / 2, name, c->y.log ? " (logarithmic)" : "");
}

static void polyline(const chart *c, const axis *y, const q3_report_curve *curve, const char *class)
{
    q3_text_printf(c->out, "<polyline class=\"%s\" points=\"", class);
    for (int64_t i = 0; i < curve->n; i++)
        if (drawable(&curve->points[i]))
            q3_text_printf(c->out, "%.1f,%.1f ", x_of(c, curve->points[i].step),
                           y_of(y, curve->points[i].value));
    q3_html_raw(c->out, "\"/>\n");
}

/* Mean of the finite values within `reach` points of point i. */
static double local_mean(const q3_report_curve *curve, int64_t i, int64_t reach)
{
    double sum = 0;
    int64_t n = 0;
    for (int64_t k = i - reach; k <= i + reach; k++) {
        if (k >= 0 && k < curve->n && drawable(&curve->points[k])) {
            sum += curve->points[k].value;
            n++;
        }
    }
    return sum / (double)n;
}

static void running_mean(const chart *c, const q3_report_curve *curve)
{
    int64_t reach = curve->n / 50;
    q3_html_raw(c->out, "<polyline class=\"train\" points=\"");
    for (int64_t i = 0; i < curve->n; i++)
        if (drawable(&curve->points[i]))
            q3_text_printf(c->out, "%.1f,%.1f ", x_of(c, curve->points[i].step),
                           y_of(&c->y, local_mean(curve, i, reach)));
    q3_html_raw(c->out, "\"/>\n");
}

static void rate_area(const chart *c, const q3_report_curve *rate)
{
    axis all = c->x, y = { 0, 0, false };
    if (widen(&all, &y, rate) < 2 || !(y.high > 0))
        return;
    double first = 0, last = 0;
    for (int64_t i = rate->n - 1; i >= 0; i--)
        first = drawable(&rate->points[i]) ? x_of(c, rate->points[i].step) : first;
    for (int64_t i = 0; i < rate->n; i++)
        last = drawable(&rate->points[i]) ? x_of(c, rate->points[i].step) : last;
    y.high *= 1.05;
    q3_text_printf(c->out, "<path class=\"rate\" d=\"M%.1f,%d ", first, HEIGHT - BOTTOM);
    for (int64_t i = 0; i < rate->n; i++)
        if (drawable(&rate->points[i]))
            q3_text_printf(c->out, "L%.1f,%.1f ", x_of(c, rate->points[i].step),
                           y_of(&y, rate->points[i].value));
    q3_text_printf(c->out, "L%.1f,%d Z\"/>\n", last, HEIGHT - BOTTOM);
    y.high /= 1.05;
    double top = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) / 1.05;
    q3_text_printf(c->out, "<text class=\"tick faint\" x=\"%d\" y=\"%.1f\">%.3g</text>\n", WIDTH - RIGHT + 8,
                   top + 4, y.high);
    q3_text_printf(c->out, "<text class=\"tick faint\" x=\"%d\" y=\"%d\">0</text>\n", WIDTH - RIGHT + 8,
                   HEIGHT - BOTTOM + 4);
}

static void eval_points(const chart *c, const q3_report_curve *eval)
{
    polyline(c, &c->y, eval, "eval");
    for (int64_t i = 0; i < eval->n; i++) {
        const q3_report_point *p = &eval->points[i];
        if (drawable(p))
            q3_text_printf(
                c->out,
                "<circle class=\"eval\" r=\"4\" cx=\"%.1f\" cy=\"%.1f\"><title>step %.0f: %.4f</title>"
                "</circle>\n",
                x_of(c, p->step), y_of(&c->y, p->value), p->step, p->value);
    }
}

/* NULL: not shown. */
static void legend(const chart *c, const char *train, const char *eval, const char *rate)
{
    const char *const names[] = { train, eval, rate };
    const char *const keys[] = { "key-train", "key-eval", "key-rate" };
    q3_html_raw(c->out, "<figcaption>");
    for (int i = 0; i < 3; i++)
        if (names[i])
            q3_text_printf(c->out, "<span class=\"key %s\">%s</span>", keys[i], names[i]);
    q3_html_raw(c->out, "</figcaption>");
}

static void begin(const chart *c, const char *what)
{
    q3_text_printf(c->out,
                   "<figure class=\"chart\"><svg viewBox=\"0 0 %d %d\" role=\"img\" "
                   "aria-label=\"%s over training steps\">\n",
                   WIDTH, HEIGHT, what);
}

bool q3_report_chart(q3_text *out, const q3_report_curve *train, const q3_report_curve *eval,
                     const q3_report_curve *rate)
{
    chart c = { .out = out, .x = { INFINITY, -INFINITY, false }, .y = { INFINITY, -INFINITY, false } };
    int64_t n_train = widen(&c.x, &c.y, train), n_eval = widen(&c.x, &c.y, eval);
    if (!(c.x.high > c.x.low))
        return false;
    fit(&c.y);
    begin(&c, "Loss");
    // Clips a rate curve that is longer than the loss curves.
    q3_text_printf(out,
                   "<clipPath id=\"plot\"><rect x=\"%d\" y=\"0\" width=\"%d\" height=\"%d\"/></clipPath>\n",
                   LEFT - 5, WIDTH - LEFT + 5, HEIGHT);
    q3_html_raw(out, "<g clip-path=\"url(#plot)\">");
    rate_area(&c, rate);
    q3_html_raw(out, "</g>");
    value_scale(&c);
    step_scale(&c, "loss");
    if (n_train) {
        polyline(&c, &c.y, train, n_train > MANY ? "train raw" : "train");
        if (n_train > MANY)
            running_mean(&c, train);
    }
    if (n_eval)
        eval_points(&c, eval);
    q3_html_raw(out, "</svg>");
    legend(&c, n_train ? "training loss" : NULL, n_eval ? "evaluation loss" : NULL,
           rate->n > 1 ? "learning rate" : NULL);
    q3_html_raw(out, "</figure>\n");
    return true;
}

bool q3_report_answers_chart(q3_text *out, const q3_report_curve *accuracy, const q3_report_curve *macro_f1)
{
    chart c = { .out = out, .x = { INFINITY, -INFINITY, false }, .y = { 0, 1, false } };
    widen(&c.x, &c.y, accuracy);
    if (!(c.x.high > c.x.low))
        return false;
    begin(&c, "Generated answers");
    value_scale(&c);
    step_scale(&c, "share");
    polyline(&c, &c.y, macro_f1, "train");
    eval_points(&c, accuracy);
    q3_html_raw(out, "</svg>");
    legend(&c, "macro F1", "accuracy", NULL);
    q3_html_raw(out, "</figure>\n");
    return true;
}
