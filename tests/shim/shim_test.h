/* What the test programs share.  argv[1] is the directory of the nodes. */
#ifndef SHIM_TEST_H
#define SHIM_TEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <drm/drm.h>
#include <drm/xe_drm.h>

#define PAGE 4096
#define RW (PROT_READ | PROT_WRITE)

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, \
				strerror(errno)); \
			exit(1); \
		} \
	} while (0)

/* The call fails with this errno. */
#define REFUSED(error, call) CHECK((errno = 0, (long)(call) == -1) && errno == (error))

static inline const char *path_in(const char *directory, const char *name)
{
	static char path[4][1024];
	static unsigned int turn;
	char *made = path[turn++ % 4];

	snprintf(made, sizeof(path[0]), "%s/%s", directory, name);
	return made;
}

static inline int open_node(const char *directory)
{
	int fd = open(path_in(directory, "renderD128"), O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	return fd;
}

static inline uint32_t create_bo(int drm, uint64_t size)
{
	struct drm_xe_gem_create create = {
		.size = size,
		.placement = 1,
		.cpu_caching = DRM_XE_GEM_CPU_CACHING_WB,
	};

	CHECK(!ioctl(drm, DRM_IOCTL_XE_GEM_CREATE, &create));
	return create.handle;
}

static inline off_t mmap_offset(int drm, uint32_t handle)
{
	struct drm_xe_gem_mmap_offset offset = { .handle = handle };

	CHECK(!ioctl(drm, DRM_IOCTL_XE_GEM_MMAP_OFFSET, &offset));
	return (off_t)offset.offset;
}

static inline int export_bo(int drm, uint32_t handle, uint32_t flags)
{
	struct drm_prime_handle prime = { .handle = handle, .flags = flags };

	CHECK(!ioctl(drm, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime));
	CHECK(prime.fd >= 0 && prime.fd < 1024);
	return prime.fd;
}

static inline void close_bo(int drm, uint32_t handle)
{
	struct drm_gem_close arg = { .handle = handle };

	CHECK(!ioctl(drm, DRM_IOCTL_GEM_CLOSE, &arg));
}

#endif
