/* infer/constraint_regex.h - regular expressions as fragments of a grammar.
 *
 * Characters are Unicode's, in UTF-8: . is any but a line feed, [^...] any other character. Known are
 *
 *   abc  .  [a-z_]  [^...]  \d \w \s \D \W \S (ASCII)  \n \r \t \f \v \0 \xHH \uHHHH  \ before punctuation
 *   (...)  (?:...)  a|b  ?  *  +  {m}  {m,}  {m,n}, each with ? behind it, which changes nothing here
 */
#ifndef Q3_INFER_CONSTRAINT_REGEX_H
#define Q3_INFER_CONSTRAINT_REGEX_H

#include "infer/constraint_grammar.h"

typedef struct q3_regex_options {
    bool in_json; /* the characters stand in a JSON string */
    bool
        search; /* a match anywhere counts; ^ and $ may begin and end the pattern or its outermost alternatives */
} q3_regex_options;

/* Errors: Q3_ERR_USAGE with the place in the pattern (bytes, from 1), and those of building. */
q3_status q3_regex_compile(q3_fragment *out, q3_grammar *g, const char *pattern,
                           const q3_regex_options *options);

#endif
