/* SPDX-License-Identifier: MIT */
/* What the parts of the preload library know of each other.  See docs/preload.md. */
#ifndef XE_MOCK_SHIM_H
#define XE_MOCK_SHIM_H

#include "raw.h"

#include <errno.h>
#include <stdbool.h>

/* Only entry points are seen from outside. */
#pragma GCC visibility push(hidden)

/* An entry point that takes the place of the C library's. */
#define EXPORT __attribute__((visibility("default")))
/* Work that only files of a mock cause; kept out of the wrappers, whose frames stay small. */
#define RARE __attribute__((noinline, cold))
#define unlikely(condition) __builtin_expect(!!(condition), 0)

#define MOCK_PATH_MAX 4096

/* As the C library returns it: -1 with errno, or the result. */
static inline long returned(long result)
{
	if (!raw_failed(result))
		return result;
	errno = (int)-result;
	return -1;
}

/* ---- next.c: the functions that are wrapped ---- */

/* The definition after this library's, or fallback where there is none. */
void *next_function(const char *name, void *fallback);

/*
 * Defines next_NAME: a system call until the constructor found the function itself, so that it
 * can be called at any time.
 */
#define NEXT(result, name, parameters, fallback) \
	static result (*next_##name) parameters = fallback; \
	__attribute__((constructor)) static void find_##name(void) \
	{ \
		next_##name = (result (*) parameters)next_function(#name, (void *)fallback); \
	}

/* ---- text.c ---- */

/* Appends to a string in a buffer; false when it does not fit. */
bool text_add(char *buffer, size_t size, const char *text);
/* Writes /proc/self/fd/FD, or the like; buffer has room for 64 bytes. */
void text_fd(char *buffer, const char *directory, int fd);
/* Reads a decimal number of at most nine digits that is all there is; -1 otherwise. */
int text_number(const char *text);
/* The path of an open file as this process sees it; false when there is none. */
bool text_path_of(int fd, char *path, size_t size);

/* ---- mock.c: which files are a mock's ---- */

/*
 * Cheap test that nearly every file fails: a regular file without a disk, and with the large
 * inode number that all files of a mock have.
 */
static inline bool mock_maybe(uint64_t device_major, unsigned int mode, uint64_t ino)
{
	return unlikely(device_major == 0 && (mode & S_IFMT) == S_IFREG && ino >> 40);
}

/* Whether a device number is that of a mock's mount. */
bool mock_device(dev_t device);
/* Whether an open file is one of a mock: a node, a dma-buf, ...; never changes errno. */
bool mock_fd(int fd);
/* Minor number of the node behind a file of a mock, or -1.  path is NULL for fd itself. */
int mock_minor(dev_t device, ino_t ino, int fd, const char *path, int flags);
/* Opens a path that is given from the root of the mount that device is; a descriptor or -errno. */
int mock_open(dev_t device, const char *path, int flags);

#define MOCK_MAJOR 226

/* ---- token.c ---- */

/* Opens a token that an ioctl on fd gave: a descriptor or -errno. */
int token_open(int fd, uint32_t token, int flags);

/* ---- lease.c: mappings of a mock's memory ---- */

/* Number of leases that this process holds. */
extern _Atomic size_t lease_count;

typedef void *(*mmap_function)(void *, size_t, int, int, int, off_t);
typedef int (*munmap_function)(void *, size_t);

/* What is to be mapped, and how. */
struct memory {
	int fd;	/* or -errno */
	int prot, flags;
	off_t offset;
	bool barrier;	/* the page of barrier.c */
};

/* Maps memory, and a page of the lease which lasts as long: an address or -errno. */
long lease_map(void *addr, size_t length, const struct memory *memory, int lease);
/* munmap(2), and the end of what leases have no memory left. */
int lease_munmap(munmap_function next, void *addr, size_t length);
/* mmap(2) with MAP_FIXED: what was there ends. */
void *lease_replace(mmap_function next, void *addr, size_t length, int prot, int flags, int fd,
		    off_t offset);
/* The first page of the barrier that ends behind an address, or NULL; at any time. */
void *lease_barrier_from(uintptr_t address);

/* ---- barrier.c: the page of the PCI barrier ---- */

/* Whether stores there are to vanish. */
extern bool barrier_strict;

/* A new file with what is read there; a descriptor or -errno. */
int barrier_memory(void);
/* To be called before such a page is mapped. */
void barrier_take_signals(void);

/* ---- userptr.c: user memory that the GPU works on ---- */

#define USERPTR_DEVICES 4

/* Of memory that is about to go: whom to tell when it has. */
struct userptr_change {
	size_t count;
	int fd[USERPTR_DEVICES];
	uint64_t cookie[USERPTR_DEVICES];
};

/* Set once user memory was bound. */
extern _Atomic bool userptr_used;

/* A VM_BIND succeeded. */
void userptr_bound(int fd, const void *argument);
/* Waits until no job uses the memory; none begins before the end. */
void userptr_begin(struct userptr_change *change, const void *addr, size_t length);
void userptr_end(const struct userptr_change *change);

/* ---- ioctl.c ---- */

/* Set once a DRM ioctl succeeded.  Other programs are spared what only those of DRM may need. */
extern _Atomic bool drm_used;

#pragma GCC visibility pop

#endif
