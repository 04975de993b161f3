/* SPDX-License-Identifier: MIT */
/* lseek(2): in a dma-buf only its beginning and its end are places (kernel: dma_buf_llseek). */
#include "shim.h"
#include "xe_mock.h"

static off_t raw_seek(int fd, off_t offset, int whence)
{
	return returned(raw_lseek(fd, offset, whence));
}

NEXT(off_t, lseek, (int, off_t, int), raw_seek)
NEXT(off_t, lseek64, (int, off_t, int), raw_seek)

static bool is_place(off_t offset, int whence)
{
	return !offset && (whence == SEEK_SET || whence == SEEK_END);
}

/* A dma-buf, or another file of a mock that came as a token and cannot be sought in. */
static RARE bool is_dma_buf(int fd)
{
	char path[MOCK_PATH_MAX];

	return mock_fd(fd) && text_path_of(fd, path, sizeof(path)) &&
	       strstr(path, "/" XE_MOCK_FD_DIR "/");
}

static inline off_t seek(off_t (*next)(int, off_t, int), int fd, off_t offset, int whence)
{
	if (unlikely(drm_used) && !is_place(offset, whence) && is_dma_buf(fd)) {
		errno = EINVAL;
		return -1;
	}
	return next(fd, offset, whence);
}

EXPORT off_t lseek(int fd, off_t offset, int whence)
{
	return seek(next_lseek, fd, offset, whence);
}

EXPORT off64_t lseek64(int fd, off64_t offset, int whence)
{
	return seek(next_lseek64, fd, offset, whence);
}
