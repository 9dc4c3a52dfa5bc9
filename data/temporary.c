#include "data/temporary.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/file.h"

int q3_temporary_open(const char **dir)
{
    const char *set = getenv("TMPDIR");
    *dir = set && *set ? set : "/tmp";
    int fd = open(*dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    char *name = q3_path_join(*dir, "qwen3-sft-XXXXXX"); // some file systems have no O_TMPFILE
    if (!name) {
        errno = ENOMEM;
        return -1;
    }
    fd = mkostemp(name, O_CLOEXEC);
    int why = errno;
    if (fd >= 0)
        unlink(name);
    q3_free(name);
    errno = why;
    return fd;
}
