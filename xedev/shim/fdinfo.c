/* SPDX-License-Identifier: MIT */
/*
 * /proc/PID/fdinfo/N of a node: with what the device tells of the client (drm-usage-stats).
 *
 * The kernel's file cannot say it, since the node is a server's.  Opening it gives a file in
 * memory with the text as it is at that time.  Another process' descriptor is asked through a copy
 * of it, for which this process needs the right to trace that one.
 */
#include "shim.h"
#include "xe_mock.h"

#include <stdarg.h>
#include <sys/sysmacros.h>

#define FDINFO "/fdinfo"
#define SELF 0

/* Descriptor number of a process; fd is -1 for none. */
struct described {
	int pid, fd;
};

static const struct described nothing = { SELF, -1 };

/* ---- which descriptor a path means ---- */

/* Cuts a prefix off; NULL when the text begins otherwise. */
static const char *without(const char *text, const char *prefix)
{
	size_t length = strlen(prefix);

	return strncmp(text, prefix, length) ? NULL : text + length;
}

/* This process' number as this procfs counts, or -1. */
static int own_number(void)
{
	char self[16] = "";

	return raw_readlink("/proc/self", self, sizeof(self) - 1) > 0 ? text_number(self) : -1;
}

/* Whose a directory in procfs is: SELF, a process' number, or -1.  What stands behind is rest. */
static int process_of(const char *path, const char **rest)
{
	const char *name = without(path, "/proc/");
	char digits[16];
	size_t length = 0;
	int pid, own;

	if (!name)
		return -1;
	if ((*rest = without(name, "self")) || (*rest = without(name, "thread-self")))
		return SELF;
	while (name[length] && name[length] != '/' && length + 1 < sizeof(digits)) {
		digits[length] = name[length];
		length++;
	}
	digits[length] = '\0';
	*rest = name + length;
	pid = text_number(digits);
	own = own_number();
	if (pid == own)
		return pid < 0 ? -1 : SELF;
	/* A procfs of other numbers than those of our system calls tells of nobody else. */
	return own == raw_getpid() ? pid : -1;
}

/* What stands behind the directory fdinfo of a process, or NULL. */
static const char *behind_fdinfo(const char *path, int *pid)
{
	const char *rest, *found = strstr(path, FDINFO);

	if (!found)
		return NULL;
	*pid = process_of(path, &rest);
	/* Directly below, or in the directory of one of the threads. */
	if (*pid < 0 || (found != rest && !without(rest, "/task/")))
		return NULL;
	return found + strlen(FDINFO);
}

static RARE struct described by_absolute_path(const char *path)
{
	struct described found = nothing;
	const char *rest = behind_fdinfo(path, &found.pid);

	found.fd = rest && *rest == '/' ? text_number(rest + 1) : -1;
	return found;
}

static RARE struct described by_name(int dir, const char *name)
{
	struct described found = nothing;
	char path[MOCK_PATH_MAX];
	const char *rest;

	if (text_number(name) < 0 || !text_path_of(dir, path, sizeof(path)))
		return nothing;
	rest = behind_fdinfo(path, &found.pid);
	found.fd = rest && !*rest ? text_number(name) : -1;
	return found;
}

static inline struct described described_by(int dir, const char *path)
{
	if (!path)
		return nothing;
	if (unlikely(path[0] == '/' && path[1] == 'p' && without(path, "/proc/")))
		return by_absolute_path(path);
	if (unlikely(path[0] >= '0' && path[0] <= '9' && dir >= 0))
		return by_name(dir, path);
	return nothing;
}

/* ---- the descriptor of another process ---- */

static void proc_path(char *path, const char *directory, struct described which)
{
	char head[64];

	text_fd(head, "/proc/", which.pid);
	text_add(head, sizeof(head), directory);
	text_fd(path, head, which.fd);
}

/* Looks first: nobody's pipe is to be held open by a copy. */
static bool is_mocks(struct described which)
{
	struct stat status;
	char path[64];

	proc_path(path, "/fd/", which);
	return !raw_fstatat(AT_FDCWD, path, &status, 0) &&
	       mock_maybe(major(status.st_dev), status.st_mode, status.st_ino) &&
	       mock_device(status.st_dev);
}

/* A copy of it in this process, if it is a mock's; -1 otherwise. */
static int copy_of(struct described which)
{
	int process, fd;

	if (!is_mocks(which))
		return -1;
	process = raw_pidfd_open(which.pid);
	if (process < 0)
		return -1;
	fd = raw_pidfd_getfd(process, which.fd);
	raw_close(process);
	return fd;
}

/* ---- the text ---- */

static void copy_kernels(struct described which, int out)
{
	char path[64], buffer[512];
	long length;
	int in;

	if (which.pid == SELF)
		text_fd(path, "/proc/self/fdinfo/", which.fd);
	else
		proc_path(path, "/fdinfo/", which);
	in = raw_openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (in < 0)
		return;
	while ((length = raw_read(in, buffer, sizeof(buffer))) > 0)
		raw_write(out, buffer, (size_t)length);
	raw_close(in);
}

/* What the device tells of an open node: 0, or less. */
static long ask(int fd, struct xe_mock_fdinfo *answer)
{
	memset(answer, 0, sizeof(*answer));
	return mock_fd(fd) ? raw_ioctl(fd, XE_MOCK_IOCTL_FDINFO, answer) : -1;
}

/* A file with the whole text, or -1 when there is nothing to add to the kernel's. */
static RARE int open_text(struct described which, int flags)
{
	struct xe_mock_fdinfo answer;
	int fd = which.pid == SELF ? which.fd : copy_of(which);
	long refused = ask(fd, &answer);
	int out;

	if (which.pid != SELF && fd >= 0)
		raw_close(fd);
	if (refused)
		return -1;
	out = raw_memfd("fdinfo", flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
	if (out < 0)
		return -1;
	copy_kernels(which, out);
	raw_write(out, answer.text, answer.length);
	raw_lseek(out, 0, SEEK_SET);
	return out;
}

static inline int open_described(int dir, const char *path, int flags)
{
	struct described which = described_by(dir, path);

	return unlikely(which.fd >= 0) ? open_text(which, flags) : -1;
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
