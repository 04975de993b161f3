/* SPDX-License-Identifier: MIT */
/*
 * xe-mock's private ioctls, and CPU mappings that work on the mock and on a real Xe device.
 *
 * A server of files cannot answer mmap(2) of a device node with the memory of a buffer object.
 * xe_mock_map() asks the mock for the file that holds this memory and maps that; on a real
 * device it is mmap(2).  See docs/protocol.md, "Mapping memory".
 *
 * C99 or C++, with POSIX.1-2008 (_POSIX_C_SOURCE 200809L, or _GNU_SOURCE).  Where off_t has 32
 * bits, define _FILE_OFFSET_BITS to 64.  Nothing is to be linked.
 */
#ifndef XE_MOCK_H
#define XE_MOCK_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- private ioctls ----------------------------------------------------------------------- */

#define XE_MOCK_IOCTL_BASE	'x'

/* First number that stands for a descriptor which the client has yet to open. */
#define XE_MOCK_TOKEN_BASE	0x40000000
/* Hidden directory beside the device nodes where tokens are opened, by eight hex digits. */
#define XE_MOCK_FD_DIR		".xe-mock-fd"
/* Room for a path in an argument, bytes, with the NUL at its end. */
#define XE_MOCK_PATH_MAX	512
/* Room for the text of an fdinfo file, bytes, with the NUL at its end. */
#define XE_MOCK_FDINFO_MAX	4072

/* xe_mock_bo_info.state */
#define XE_MOCK_BO_WILLNEED	0
#define XE_MOCK_BO_DONTNEED	1
#define XE_MOCK_BO_PURGED	2
/* xe_mock_bo_info.placement of a BO that has no pages yet, or no more. */
#define XE_MOCK_BO_NOWHERE	0xffffffffu

/* MMAP: mmap(2) of this open file, a DRM node or a dma-buf: its errno, or what to map instead. */
struct xe_mock_mmap {
	uint64_t offset;	/* in: fake offset; of a dma-buf the byte where it begins */
	uint64_t length;	/* in: bytes */
	uint32_t prot;		/* in: PROT_* */
	uint32_t flags;		/* in: MAP_* */
	uint64_t file_offset;	/* out: byte of the file at path where the mapping begins */
	uint64_t ino;		/* out: inode number of that file */
	uint32_t token;		/* out: token of the lease */
	uint32_t pad;
	char path[XE_MOCK_PATH_MAX];	/* out: file to map, NUL-terminated */
	uint64_t reserved[2];
};

/* FAULT: what happens when the CPU touches a mapping. */
struct xe_mock_fault {
	uint64_t offset;	/* in: fake offset of the byte touched */
	uint32_t write;		/* in: 1 for a store, 0 for a load */
	uint32_t sigbus;	/* out: 1 when it would raise SIGBUS */
	uint64_t reserved[2];
};

/* IMPORT_FOREIGN: imports a dma-buf of the built-in test exporter as a foreign BO. */
struct xe_mock_import_foreign {
	uint64_t size;		/* in: bytes */
	uint32_t handle;	/* out: GEM handle */
	uint32_t flags;		/* in: 0 */
	uint64_t reserved[2];
};

/* BO_INFO: the mock's inner numbers of a BO. */
struct xe_mock_bo_info {
	uint32_t handle;	/* in: GEM handle */
	uint32_t pad;
	uint64_t id;		/* out: number of the BO on its device */
	uint64_t size;		/* out: bytes */
	uint32_t state;		/* out: purgeable state */
	uint32_t vma_count;	/* out: GPU mappings */
	uint32_t willneed_count;	/* out: holders that keep it from being purged */
	uint32_t placement;	/* out: instance of the region it is in, or XE_MOCK_BO_NOWHERE */
	uint32_t exported;	/* out: 1 when a dma-buf of it is alive */
	uint32_t imported;	/* out: 1 when it belongs to another exporter */
	uint64_t reserved[2];
};

/* FDINFO: what /proc/self/fdinfo/N of a DRM file says, without what the kernel says of every file. */
struct xe_mock_fdinfo {
	uint32_t length;	/* out: bytes of text */
	uint32_t pad;
	uint64_t reserved[2];
	char text[XE_MOCK_FDINFO_MAX];	/* out: lines, NUL-terminated */
};

/*
 * MMU_NOTIFY: stands in for the kernel's MMU notifier.  The caller is about to change what it has
 * mapped, or has done so.  Answered when no job uses user memory there any more; until the second
 * call none begins.
 */
struct xe_mock_mmu_notify {
	uint64_t address;	/* in: first byte, a multiple of the page size */
	uint64_t length;	/* in: bytes */
	uint64_t cookie;	/* in: 0 before the change, after it what the first call gave;
				 * out: 0 for nothing that has to be told of the end */
	uint32_t flags;		/* in: 0 */
	uint32_t pad;
	uint64_t reserved[2];
};

#define XE_MOCK_IOCTL_MMAP	_IOWR(XE_MOCK_IOCTL_BASE, 0x00, struct xe_mock_mmap)
#define XE_MOCK_IOCTL_FAULT	_IOWR(XE_MOCK_IOCTL_BASE, 0x01, struct xe_mock_fault)
#define XE_MOCK_IOCTL_IMPORT_FOREIGN \
	_IOWR(XE_MOCK_IOCTL_BASE, 0x02, struct xe_mock_import_foreign)
#define XE_MOCK_IOCTL_BO_INFO	_IOWR(XE_MOCK_IOCTL_BASE, 0x03, struct xe_mock_bo_info)
#define XE_MOCK_IOCTL_FDINFO	_IOWR(XE_MOCK_IOCTL_BASE, 0x04, struct xe_mock_fdinfo)
#define XE_MOCK_IOCTL_MMU_NOTIFY \
	_IOWR(XE_MOCK_IOCTL_BASE, 0x05, struct xe_mock_mmu_notify)

/* --- pieces of a mapping ------------------------------------------------------------------ */

/* Closes fd and leaves errno as it was. */
static inline void xe_mock_close_quietly(int fd)
{
	int error = errno;

	close(fd);
	errno = error;
}

/*
 * Where to open a token that an ioctl on fd returned.  fd is a DRM node or was opened as a token
 * itself, as a dma-buf is.  -1 and an errno of readlink(2), or ENAMETOOLONG.
 */
static inline int xe_mock_token_path(int fd, uint32_t token, char *path, size_t size)
{
	char link[32], *name, *parent;
	const char *format;
	ssize_t length;
	size_t room;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, size);
	if (length < 0)
		return -1;
	if ((size_t)length == size) {
		errno = ENAMETOOLONG;
		return -1;
	}
	path[length] = '\0';
	name = strrchr(path, '/');
	if (!name) {	/* a pipe, a socket */
		errno = ENOENT;
		return -1;
	}
	*name = '\0';
	parent = strrchr(path, '/');
	format = parent && !strcmp(parent + 1, XE_MOCK_FD_DIR) ? "/" : "/" XE_MOCK_FD_DIR "/";
	room = size - (size_t)(name - path);
	if ((size_t)snprintf(name, room, "%s%08x", format, (unsigned int)token) >= room) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return 0;
}

/*
 * Turns a token that an ioctl on fd returned into a descriptor.  -1 and an errno: ENOENT: no
 * such token, or it was opened before.  EACCES: another process got it.
 */
static inline int xe_mock_open_token(int fd, uint32_t token, int flags)
{
	char path[4096];

	if (xe_mock_token_path(fd, token, path, sizeof(path)))
		return -1;
	return open(path, flags);
}

/*
 * Opens the file that the answer to MMAP names.  -1 and an errno: EACCES, ENOENT: it is out of
 * reach, as for another user or in another pid namespace; the mock then has to be mounted with
 * `--memory tmpfs`.  ENXIO: the path names another file, by now or to us.
 */
static inline int xe_mock_open_memory(const struct xe_mock_mmap *answer, int access)
{
	/* Should the path name a stranger's file: do not wait for it, nor take its terminal. */
	int fd = open(answer->path, access | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat status;

	if (fd < 0)
		return -1;
	if (!fstat(fd, &status) && (uint64_t)status.st_ino == answer->ino)
		return fd;
	errno = ENXIO;
	xe_mock_close_quietly(fd);
	return -1;
}

/* --- mappings ----------------------------------------------------------------------------- */

/* A mapping.  The lease is a page of a file that tells the mock, when it goes, that it ended. */
struct xe_mock_mapping {
	void *addr;	/* of the memory */
	size_t length;	/* bytes, as asked for */
	void *lease;	/* NULL on a real device */
};

/* Places the memory behind fd, and the lease unless that is -1.  The descriptors stay open. */
static inline int xe_mock_place(struct xe_mock_mapping *mapping, void *addr, size_t length,
				int prot, int flags, int fd, uint64_t offset, int lease)
{
	/* The memory first: with MAP_FIXED the lease must not get where the memory goes. */
	mapping->addr = mmap(addr, length, prot, flags, fd, (off_t)offset);
	if (mapping->addr == MAP_FAILED)
		return -1;
	mapping->length = length;
	mapping->lease = NULL;
	if (lease < 0)
		return 0;
	mapping->lease = mmap(NULL, 1, PROT_NONE, MAP_PRIVATE, lease, 0);
	if (mapping->lease == MAP_FAILED) {
		int error = errno;

		munmap(mapping->addr, length);
		errno = error;
		return -1;
	}
	return 0;
}

/*
 * How the memory is to be opened for a mapping of fd: read-write even when it is only to be read
 * so far, since mprotect(2) may change that.  A private mapping is a read-only one.
 */
static inline int xe_mock_access(int fd, int flags)
{
	int mode = fcntl(fd, F_GETFL);

	if (mode < 0)
		return -1;
	return flags & MAP_SHARED ? mode & O_ACCMODE : O_RDONLY;
}

/* Maps what an answer to MMAP says.  -1 and ENXIO or ENOENT: the answer is out of date. */
static inline int xe_mock_map_answer(struct xe_mock_mapping *mapping, void *addr, int fd,
				     const struct xe_mock_mmap *answer)
{
	/* Shared in any case: a private mapping, too, sees what others store. */
	int flags = ((int)answer->flags & ~MAP_PRIVATE) | MAP_SHARED;
	int access = xe_mock_access(fd, (int)answer->flags);
	int lease, memory, result = -1;

	if (access < 0)
		return -1;
	lease = xe_mock_open_token(fd, answer->token, O_RDONLY | O_CLOEXEC);
	if (lease < 0)
		return -1;
	memory = xe_mock_open_memory(answer, access);
	if (memory >= 0) {
		result = xe_mock_place(mapping, addr, (size_t)answer->length, (int)answer->prot,
				       flags, memory, answer->file_offset, lease);
		xe_mock_close_quietly(memory);
	}
	xe_mock_close_quietly(lease);
	return result;
}

/* Runs an ioctl as libdrm's drmIoctl does. */
static inline int xe_mock_ioctl(int fd, unsigned long request, void *arg)
{
	int result;

	do
		result = ioctl(fd, request, arg);
	while (result < 0 && (errno == EINTR || errno == EAGAIN));
	return result;
}

/*
 * mmap(2) of a DRM node or a dma-buf, of the mock or not.  Returns 0, or -1 with mmap(2)'s errno
 * and as little changed as by mmap(2).  Beyond these errnos: those of xe_mock_open_token() and
 * xe_mock_open_memory().
 *
 * The mapping takes no descriptor and outlives fd.  A forked child shares it, and the memory
 * lives until each process that has the mapping ended it, or itself.  munmap(2) of the memory
 * alone leaves the lease, and so the buffer object, alive.
 */
static inline int xe_mock_map(struct xe_mock_mapping *mapping, void *addr, size_t length,
			      int prot, int flags, int fd, uint64_t offset)
{
	int tries;

	for (tries = 0; tries < 2; tries++) {
		struct xe_mock_mmap ask;

		memset(&ask, 0, sizeof(ask));
		ask.offset = offset;
		ask.length = length;
		ask.prot = (uint32_t)prot;
		ask.flags = (uint32_t)flags;
		if (xe_mock_ioctl(fd, XE_MOCK_IOCTL_MMAP, &ask)) {
			/* No mock: ENOTTY, or ECANCELED when the real device is wedged. */
			if (errno != ENOTTY && errno != ECANCELED)
				return -1;
			return xe_mock_place(mapping, addr, length, prot, flags, fd, offset, -1);
		}
		if (!xe_mock_map_answer(mapping, addr, fd, &ask))
			return 0;
		/* The memory may have changed its file between the answer and our open(2). */
		if (errno != ENXIO && errno != ENOENT)
			return -1;
	}
	return -1;
}

/* Ends a mapping of xe_mock_map().  -1 and an errno of munmap(2). */
static inline int xe_mock_unmap(const struct xe_mock_mapping *mapping)
{
	if (munmap(mapping->addr, mapping->length))
		return -1;
	return mapping->lease ? munmap(mapping->lease, 1) : 0;
}

#ifdef __cplusplus
}
#endif

#endif /* XE_MOCK_H */
