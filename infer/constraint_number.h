/* infer/constraint_number.h - the integers of a range as fragments of a grammar. */
#ifndef Q3_INFER_CONSTRAINT_NUMBER_H
#define Q3_INFER_CONSTRAINT_NUMBER_H

#include "infer/constraint_grammar.h"

#define Q3_INTEGER_MOST INT64_C(999999999999999) /* 15 digits: doubles hold these exactly */

/* -Q3_INTEGER_MOST <= least <= most <= Q3_INTEGER_MOST, in decimal without leading zeros. */
q3_fragment q3_fragment_integers(q3_grammar *g, int64_t least, int64_t most);

#endif
