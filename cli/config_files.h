/* cli/config_files.h - are the files there that a config names? */
#ifndef Q3_CLI_CONFIG_FILES_H
#define Q3_CLI_CONFIG_FILES_H

#include "train/config.h"

/* The number of files and directories that are not; each is told as a warning with its key and where that is set. A name
 * of the hub is no file, and is told as such. */
int q3_config_missing(const q3_config *cfg);

#endif
