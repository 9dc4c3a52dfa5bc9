#include "train/kept_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { KEPT_BYTES = 16 << 20 };

q3_status q3_kept_add(q3_kept_file *f, q3_text *bytes)
{
    q3_status st = bytes->failed ? Q3_ERR_MEMORY : Q3_OK;
    if (st == Q3_OK && f->kept.size + bytes->size > KEPT_BYTES)
        st = q3_fail(Q3_ERR_LIMIT, "%s: cannot be written for too long; later values are left out", f->path);
    if (st == Q3_OK && bytes->size)
        q3_text_append(&f->kept, bytes->data, bytes->size);
    if (f->kept.failed) // what it had stays
        st = Q3_ERR_MEMORY;
    f->kept.failed = false;
    q3_text_free(bytes);
    return st;
}

q3_status q3_kept_flush(q3_kept_file *f)
{
    if (f->fd < 0)
        f->fd = open(f->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    errno = f->fd < 0 ? errno : ENOSPC; // what a short write means
    ssize_t n = f->fd < 0 ? -1 : write(f->fd, f->kept.data, f->kept.size);
    if (n == (ssize_t)f->kept.size) {
        f->kept.size = 0;
        return Q3_OK;
    }
    int why = errno;
    if (n > 0) {
        memmove(f->kept.data, f->kept.data + n, f->kept.size - (size_t)n);
        f->kept.size -= (size_t)n;
    }
    return q3_fail(Q3_ERR_IO, "%s: cannot be written: %s", f->path, strerror(why));
}

void q3_kept_close(q3_kept_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    q3_text_free(&f->kept);
    q3_free(f->path);
    *f = (q3_kept_file){ .fd = -1 };
}
