/* data/temporary.h - a file without a name, for what is unpacked: gone when the last use of it ends. */
#ifndef Q3_DATA_TEMPORARY_H
#define Q3_DATA_TEMPORARY_H

#include "core/arena.h"

/* Opens one for reading and writing; -1 with errno when there is none. *dir becomes where it lies: TMPDIR,
 * else /tmp. */
int q3_temporary_open(const char **dir);

#endif
