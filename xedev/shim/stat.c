/* SPDX-License-Identifier: MIT */
/*
 * stat(2) and its family: the nodes of a mock are character devices.
 *
 * A server of files may not make device files, so it has regular ones.
 */
#include "shim.h"

#include <sys/sysmacros.h>

/* ---- what is corrected ---- */

static RARE void correct_node(struct stat *status, int fd, const char *path, int flags)
{
	int minor = mock_minor(status->st_dev, status->st_ino, fd, path, flags);

	if (minor < 0)
		return;
	status->st_mode = (status->st_mode & ~(mode_t)S_IFMT) | S_IFCHR;
	status->st_rdev = makedev(MOCK_MAJOR, (unsigned int)minor);
}

/* path is NULL for fd itself. */
static inline int corrected(int result, struct stat *status, int fd, const char *path, int flags)
{
	if (!result && mock_maybe(major(status->st_dev), status->st_mode, status->st_ino))
		correct_node(status, fd, path, flags);
	return result;
}

/* The two structures are one on these machines. */
_Static_assert(sizeof(struct stat) == sizeof(struct stat64), "struct stat64 is another");

/* ---- stat, lstat, fstat, fstatat ---- */

static int raw_path_stat(const char *path, void *status)
{
	return (int)returned(raw_fstatat(AT_FDCWD, path, status, 0));
}

static int raw_path_lstat(const char *path, void *status)
{
	return (int)returned(raw_fstatat(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW));
}

static int raw_fd_stat(int fd, void *status)
{
	return (int)returned(raw_fstat(fd, status));
}

static int raw_at_stat(int dir, const char *path, void *status, int flags)
{
	return (int)returned(raw_fstatat(dir, path, status, flags));
}

/* The path that fstatat means, or NULL for the descriptor itself. */
static const char *path_at(const char *path, int flags)
{
	return flags & AT_EMPTY_PATH && (!path || !*path) ? NULL : path;
}

/* Flags of open(2) that find what fstatat found. */
static int open_flags(int flags)
{
	return flags & AT_SYMLINK_NOFOLLOW ? O_NOFOLLOW : 0;
}

#define STAT_FAMILY(suffix, type) \
	NEXT(int, stat##suffix, (const char *, void *), raw_path_stat) \
	NEXT(int, lstat##suffix, (const char *, void *), raw_path_lstat) \
	NEXT(int, fstat##suffix, (int, void *), raw_fd_stat) \
	NEXT(int, fstatat##suffix, (int, const char *, void *, int), raw_at_stat) \
	EXPORT int stat##suffix(const char *path, type *out) \
	{ \
		return corrected(next_stat##suffix(path, out), (void *)out, AT_FDCWD, path, 0); \
	} \
	EXPORT int lstat##suffix(const char *path, type *out) \
	{ \
		return corrected(next_lstat##suffix(path, out), (void *)out, AT_FDCWD, path, \
				 O_NOFOLLOW); \
	} \
	EXPORT int fstat##suffix(int fd, type *out) \
	{ \
		return corrected(next_fstat##suffix(fd, out), (void *)out, fd, NULL, 0); \
	} \
	EXPORT int fstatat##suffix(int dir, const char *path, type *out, int flags) \
	{ \
		return corrected(next_fstatat##suffix(dir, path, out, flags), (void *)out, dir, \
				 path_at(path, flags), open_flags(flags)); \
	}

STAT_FAMILY(, struct stat)
STAT_FAMILY(64, struct stat64)

/* ---- what programs built before glibc 2.33 call; the version says which structure ---- */

static int raw_xstat(int version, const char *path, void *status)
{
	(void)version;
	return raw_path_stat(path, status);
}

static int raw_lxstat(int version, const char *path, void *status)
{
	(void)version;
	return raw_path_lstat(path, status);
}

static int raw_fxstat(int version, int fd, void *status)
{
	(void)version;
	return raw_fd_stat(fd, status);
}

static int raw_fxstatat(int version, int dir, const char *path, void *status, int flags)
{
	(void)version;
	return raw_at_stat(dir, path, status, flags);
}

#define XSTAT_FAMILY(suffix, type) \
	int __xstat##suffix(int, const char *, type *); \
	int __lxstat##suffix(int, const char *, type *); \
	int __fxstat##suffix(int, int, type *); \
	int __fxstatat##suffix(int, int, const char *, type *, int); \
	NEXT(int, __xstat##suffix, (int, const char *, void *), raw_xstat) \
	NEXT(int, __lxstat##suffix, (int, const char *, void *), raw_lxstat) \
	NEXT(int, __fxstat##suffix, (int, int, void *), raw_fxstat) \
	NEXT(int, __fxstatat##suffix, (int, int, const char *, void *, int), raw_fxstatat) \
	EXPORT int __xstat##suffix(int version, const char *path, type *out) \
	{ \
		return corrected(next___xstat##suffix(version, path, out), (void *)out, AT_FDCWD, \
				 path, 0); \
	} \
	EXPORT int __lxstat##suffix(int version, const char *path, type *out) \
	{ \
		return corrected(next___lxstat##suffix(version, path, out), (void *)out, \
				 AT_FDCWD, path, O_NOFOLLOW); \
	} \
	EXPORT int __fxstat##suffix(int version, int fd, type *out) \
	{ \
		return corrected(next___fxstat##suffix(version, fd, out), (void *)out, fd, NULL, \
				 0); \
	} \
	EXPORT int __fxstatat##suffix(int version, int dir, const char *path, type *out, int flags) \
	{ \
		return corrected(next___fxstatat##suffix(version, dir, path, out, flags), \
				 (void *)out, dir, path_at(path, flags), open_flags(flags)); \
	}

XSTAT_FAMILY(, struct stat)
XSTAT_FAMILY(64, struct stat64)

/* ---- statx ---- */

static int raw_statx_call(int dir, const char *path, int flags, unsigned int mask,
			  struct statx *status)
{
	return (int)returned(raw_statx(dir, path, flags, mask, status));
}

NEXT(int, statx, (int, const char *, int, unsigned int, struct statx *), raw_statx_call)

static RARE void correct_statx(struct statx *status, int fd, const char *path, int flags)
{
	dev_t device = makedev(status->stx_dev_major, status->stx_dev_minor);
	int minor = mock_minor(device, status->stx_ino, fd, path, flags);

	if (minor < 0)
		return;
	status->stx_mode = (uint16_t)((status->stx_mode & ~S_IFMT) | S_IFCHR);
	status->stx_rdev_major = MOCK_MAJOR;
	status->stx_rdev_minor = (uint32_t)minor;
}

EXPORT int statx(int dir, const char *restrict path, int flags, unsigned int mask,
		 struct statx *restrict status)
{
	int result = next_statx(dir, path, flags, mask, status);

	/* Type and inode number come always, whatever was asked for: they cost a server nothing. */
	if (!result && mock_maybe(status->stx_dev_major, status->stx_mode, status->stx_ino))
		correct_statx(status, dir, path_at(path, flags), open_flags(flags));
	return result;
}
