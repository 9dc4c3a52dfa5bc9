/* eval/report.h - report.html: what a run did, on one page that needs nothing but itself.
 *
 * Title, tiles with the main numbers, the loss curve, metrics before and after training side by side, confusion matrices,
 * examples with their pictures, the settings. Styles, drawings (SVG) and pictures (data URLs) are inside;
 * there is no script. Every text from outside is escaped, invalid UTF-8 becomes U+FFFD. Whatever is missing
 * in the data (NULL, 0, NAN) has no place on the page.
 */
#ifndef Q3_EVAL_REPORT_H
#define Q3_EVAL_REPORT_H

#include "core/json.h"
#include "eval/metrics.h"

typedef struct q3_report_point {
    double step, value; /* points with a value that is not finite are left out */
} q3_report_point;

typedef struct q3_report_curve {
    const q3_report_point *points; /* by rising step */
    int64_t n;
} q3_report_curve;

typedef struct q3_report_example {
    const void *image; /* file bytes of a PNG, JPEG or WebP; NULL: no picture */
    size_t image_bytes;
    const char *text;   /* the question or comment */
    const char *gold;   /* what would be right */
    const char *before; /* the answers; NULL: not asked */
    const char *after;
    bool before_right, after_right;
} q3_report_example;

typedef struct q3_report_data {
    const char *title;    /* "sarcasm, seed 42" */
    const char *subtitle; /* model, device, date */
    const char *note;     /* one paragraph; NULL: none */
    q3_report_curve train_loss;
    q3_report_curve eval_loss;
    q3_report_curve rate;     /* learning rate */
    q3_report_curve accuracy, macro_f1; /* of generated answers in the course of training */
    const q3_metrics *before; /* NULL: not evaluated */
    const q3_metrics *after;
    int64_t trainable, total; /* parameters */
    int64_t steps;
    double seconds; /* of training */
    double tokens_per_second;
    double peak_bytes; /* of memory */
    const q3_report_example *examples;
    int n_examples;
    const char *settings; /* the effective config as JSON; NULL: none */
} q3_report_data;

/* Appends the page to `out`. Error: Q3_ERR_MEMORY. */
q3_status q3_report_write(q3_text *out, const q3_report_data *data);

#endif
