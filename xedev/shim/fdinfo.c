/* SPDX-License-Identifier: MIT */
/*
 * /proc/self/fdinfo/N of a node: with what the device tells of the client (drm-usage-stats).
 *
 * The kernel's file cannot say it, since the node is a server's.  Opening it gives a file in
 * memory with the text as it is at that time; of this process' own descriptors only.
 */
#include "shim.h"
#include "xe_mock.h"

#include <stdarg.h>

#define FDINFO "/fdinfo"

/* ---- which descriptor a path means ---- */

/* Cuts a prefix off; NULL when the text begins otherwise. */
static const char *without(const char *text, const char *prefix)
{
	size_t length = strlen(prefix);

	return strncmp(text, prefix, length) ? NULL : text + length;
}

/* What stands behind this process' directory in procfs, or NULL. */
static const char *below_self(const char *path)
{
	char self[64] = "";
	const char *rest = without(path, "/proc/");
	const char *found;

	if (!rest)
		return NULL;
	if ((found = without(rest, "self")) || (found = without(rest, "thread-self")))
		return found;
	/* By number: ours is what the link says, as this procfs counts. */
	if (raw_readlink("/proc/self", self, sizeof(self) - 1) <= 0)
		return NULL;
	return without(rest, self);
}

/* The last part, behind fdinfo, or NULL. */
static const char *behind_fdinfo(const char *path)
{
	const char *rest = below_self(path);
	const char *found = rest ? strstr(rest, FDINFO) : NULL;

	/* Directly below, or in the directory of one of the threads. */
	if (!found || (found != rest && !without(rest, "/task/")))
		return NULL;
	return found + strlen(FDINFO);
}

static RARE int by_absolute_path(const char *path)
{
	const char *rest = behind_fdinfo(path);

	return rest && *rest == '/' ? text_number(rest + 1) : -1;
}

static RARE int by_name(int dir, const char *name)
{
	char path[MOCK_PATH_MAX];
	const char *rest;

	if (text_number(name) < 0 || !text_path_of(dir, path, sizeof(path)))
		return -1;
	rest = behind_fdinfo(path);
	return rest && !*rest ? text_number(name) : -1;
}

static inline int described_fd(int dir, const char *path)
{
	if (!path)
		return -1;
	if (unlikely(path[0] == '/' && path[1] == 'p' && without(path, "/proc/")))
		return by_absolute_path(path);
	if (unlikely(path[0] >= '0' && path[0] <= '9' && dir >= 0))
		return by_name(dir, path);
	return -1;
}

/* ---- the text ---- */

static void copy_kernels(int fd, int out)
{
	char path[64], buffer[512];
	long length;
	int in;

	text_fd(path, "/proc/self/fdinfo/", fd);
	in = raw_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (in < 0)
		return;
	while ((length = raw_read(in, buffer, sizeof(buffer))) > 0)
		raw_write(out, buffer, (size_t)length);
	raw_close(in);
}

/* A file with the whole text, or -1 when there is nothing to add to the kernel's. */
static RARE int open_text(int fd, int flags)
{
	struct xe_mock_fdinfo answer;
	int out;

	if (!mock_fd(fd))
		return -1;
	memset(&answer, 0, sizeof(answer));
	if (raw_ioctl(fd, XE_MOCK_IOCTL_FDINFO, &answer))
		return -1;
	out = raw_memfd("fdinfo", flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
	if (out < 0)
		return -1;
	copy_kernels(fd, out);
	raw_write(out, answer.text, answer.length);
	raw_lseek(out, 0, SEEK_SET);
	return out;
}

static inline int open_described(int dir, const char *path, int flags)
{
	int fd = described_fd(dir, path);

	return unlikely(fd >= 0) ? open_text(fd, flags) : -1;
}

/* ---- open, openat ---- */

static int raw_open_path(const char *path, int flags, unsigned int mode)
{
	return (int)returned(raw_openat(AT_FDCWD, path, flags, mode));
}

static int raw_open_at(int dir, const char *path, int flags, unsigned int mode)
{
	return (int)returned(raw_openat(dir, path, flags, mode));
}

static int raw_open_2(const char *path, int flags)
{
	return raw_open_path(path, flags, 0);
}

static int raw_openat_2(int dir, const char *path, int flags)
{
	return raw_open_at(dir, path, flags, 0);
}

/* The mode is passed on whether there is one or not: it is looked at only where there is. */
#define MODE_OF(last, mode) \
	do { \
		va_list rest; \
		va_start(rest, last); \
		mode = va_arg(rest, unsigned int); \
		va_end(rest); \
	} while (0)

#define OPEN_FAMILY(suffix) \
	int __open##suffix##_2(const char *, int); \
	int __openat##suffix##_2(int, const char *, int); \
	NEXT(int, open##suffix, (const char *, int, unsigned int), raw_open_path) \
	NEXT(int, openat##suffix, (int, const char *, int, unsigned int), raw_open_at) \
	NEXT(int, __open##suffix##_2, (const char *, int), raw_open_2) \
	NEXT(int, __openat##suffix##_2, (int, const char *, int), raw_openat_2) \
	EXPORT int open##suffix(const char *path, int flags, ...) \
	{ \
		int fd = open_described(AT_FDCWD, path, flags); \
		unsigned int mode; \
		MODE_OF(flags, mode); \
		return fd >= 0 ? fd : next_open##suffix(path, flags, mode); \
	} \
	EXPORT int openat##suffix(int dir, const char *path, int flags, ...) \
	{ \
		int fd = open_described(dir, path, flags); \
		unsigned int mode; \
		MODE_OF(flags, mode); \
		return fd >= 0 ? fd : next_openat##suffix(dir, path, flags, mode); \
	} \
	EXPORT int __open##suffix##_2(const char *path, int flags) \
	{ \
		int fd = open_described(AT_FDCWD, path, flags); \
		return fd >= 0 ? fd : next___open##suffix##_2(path, flags); \
	} \
	EXPORT int __openat##suffix##_2(int dir, const char *path, int flags) \
	{ \
		int fd = open_described(dir, path, flags); \
		return fd >= 0 ? fd : next___openat##suffix##_2(dir, path, flags); \
	}

OPEN_FAMILY()
OPEN_FAMILY(64)

/* ---- fopen ---- */

static FILE *no_fopen(const char *path, const char *mode)
{
	(void)path;
	(void)mode;
	errno = ENOSYS;
	return NULL;
}

NEXT(FILE *, fopen, (const char *, const char *), no_fopen)
NEXT(FILE *, fopen64, (const char *, const char *), no_fopen)

static inline FILE *open_stream(FILE *(*next)(const char *, const char *), const char *path,
				const char *mode)
{
	int fd = open_described(AT_FDCWD, path, mode && strchr(mode, 'e') ? O_CLOEXEC : 0);

	return unlikely(fd >= 0) ? fdopen(fd, "r") : next(path, mode);
}

/* There is no system call for it: before the constructor it has to be found first. */
#define FOPEN(name) \
	EXPORT FILE *name(const char *restrict path, const char *restrict mode) \
	{ \
		if (unlikely(next_##name == no_fopen)) \
			find_##name(); \
		return open_stream(next_##name, path, mode); \
	}

FOPEN(fopen)
FOPEN(fopen64)
