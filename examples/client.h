/*
 * What the C examples share: ioctls that have to succeed, and the way to an open node.
 */
#ifndef EXAMPLES_CLIENT_H
#define EXAMPLES_CLIENT_H

#include <drm/drm.h>
#include <drm/xe_drm.h>

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PAT_WRITE_BACK 2 /* on graphics version 20 and 30 */

/* An ioctl that a signal interrupted is made again, as libdrm's drmIoctl does. */
static inline int try_ioctl(int fd, unsigned long request, void *arg)
{
	int result;

	do {
		result = ioctl(fd, request, arg);
	} while (result == -1 && (errno == EINTR || errno == EAGAIN));
	return result;
}

/* Ends the program. */
static inline void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(EXIT_FAILURE);
}

static inline void must_ioctl(int fd, unsigned long request, void *arg, const char *name)
{
	if (try_ioctl(fd, request, arg) == -1)
		fail(name);
}

/* Every ioctl of an example is expected to succeed: the first that does not ends the program. */
#define MUST(fd, request, arg) must_ioctl(fd, request, arg, #request)

/*
 * A driver in the kernel reads what an ioctl's argument points to in our own context. The mock is
 * another process: it needs the right to trace us, which Yama (sysctl kernel.yama.ptrace_scope = 1,
 * Ubuntu's default) keeps to our ancestors unless we say otherwise. Kernels without Yama refuse
 * the call; they need none.
 */
static inline void allow_the_mock_to_read_our_memory(void)
{
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
}

/* Opens the node that is the program's only argument. */
static inline int open_node(int argc, char **argv)
{
	int fd;

	if (argc != 2) {
		fprintf(stderr, "usage: %s NODE\n", argv[0]);
		exit(2);
	}
	allow_the_mock_to_read_our_memory();
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd == -1)
		fail(argv[1]);
	return fd;
}

#endif
