/* eval/report_chart.h - the loss curve, and that of the answers, as SVG.
 *
 * Training loss as a line (with a running mean through it when there are many points), evaluation loss as points joined by a
 * line, the learning rate as a faint area with its scale at the right. The loss scale is logarithmic when the largest
 * value is more than twelve times the smallest. Colours come from the page's style sheet.
 */
#ifndef Q3_EVAL_REPORT_CHART_H
#define Q3_EVAL_REPORT_CHART_H

#include "eval/report.h"

/* False when there are not two finite points to draw: nothing is written then. */
bool q3_report_chart(q3_text *out, const q3_report_curve *train, const q3_report_curve *eval,
                     const q3_report_curve *rate);

/* Accuracy as points joined by a line, macro F1 as a line, between 0 and 1. False where accuracy has not two points. */
bool q3_report_answers_chart(q3_text *out, const q3_report_curve *accuracy, const q3_report_curve *macro_f1);

#endif
