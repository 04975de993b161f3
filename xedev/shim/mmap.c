/* SPDX-License-Identifier: MIT */
/*
 * mmap(2) of nodes and dma-bufs of a mock: the memory comes from another file, see "Mapping
 * memory" in docs/protocol.md.
 */
#include "shim.h"
#include "xe_mock.h"

/* Where a node has the page of the PCI barrier (kernel: XE_PCI_BARRIER_MMAP_OFFSET). */
#define BARRIER_OFFSET 0x50000

/* ---- of a mock ---- */

static long ask(int fd, struct xe_mock_mmap *question)
{
	long result;

	do
		result = raw_ioctl(fd, XE_MOCK_IOCTL_MMAP, question);
	while (result == -EINTR || result == -EAGAIN);
	return result;
}

static int open_memory(const struct xe_mock_mmap *answer, int access)
{
	/* Should the path name a stranger's file: do not wait for it, nor take its terminal. */
	int fd = raw_openat(AT_FDCWD, answer->path, access | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0);
	struct stat status;

	if (fd < 0)
		return fd;
	if (!raw_fstat(fd, &status) && status.st_ino == answer->ino)
		return fd;
	raw_close(fd);
	return -ENXIO;
}

/* Memory that can be written can be read, too: also by the mock, on the client's behalf. */
static int memory_prot(int prot)
{
	return prot & PROT_WRITE ? prot | PROT_READ : prot;
}

static struct memory memory_of(int fd, const struct xe_mock_mmap *answer)
{
	/* Read-write also for a mapping that is only read so far, since mprotect(2) may change it. */
	int access = (int)answer->flags & MAP_SHARED ? raw_getfl(fd) & O_ACCMODE : O_RDONLY;

	return (struct memory) {
		.fd = open_memory(answer, access),
		.prot = memory_prot((int)answer->prot),
		/* Shared in any case: a private mapping, too, sees what others store. */
		.flags = ((int)answer->flags & ~MAP_PRIVATE) | MAP_SHARED,
		.offset = (off_t)answer->file_offset,
	};
}

/* The page that is what the barrier is on the device, instead of the mock's. */
static RARE struct memory strict_barrier(const struct xe_mock_mmap *answer)
{
	barrier_take_signals();
	return (struct memory) {
		.fd = barrier_memory(),
		.prot = PROT_READ,
		.flags = ((int)answer->flags & ~MAP_TYPE) | MAP_PRIVATE,
		.barrier = true,
	};
}

static bool is_node(int fd)
{
	struct stat status;

	return !raw_fstat(fd, &status) &&
	       mock_minor(status.st_dev, status.st_ino, fd, NULL, 0) >= 0;
}

static bool is_strict_barrier(int fd, off_t offset)
{
	return unlikely(barrier_strict) && offset == BARRIER_OFFSET && is_node(fd);
}

static long map_answer(void *addr, int fd, off_t offset, const struct xe_mock_mmap *answer)
{
	int lease = token_open(fd, answer->token, O_RDONLY | O_CLOEXEC);
	struct memory memory;
	long result;

	if (lease < 0)
		return lease;
	memory = is_strict_barrier(fd, offset) ? strict_barrier(answer) : memory_of(fd, answer);
	result = memory.fd;
	if (memory.fd >= 0) {
		result = lease_map(addr, (size_t)answer->length, &memory, lease);
		raw_close(memory.fd);
	}
	raw_close(lease);
	return result;
}

static RARE void *map_mock(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	long result = -ENXIO;
	int tries;

	/* The memory may change its file between the answer and our open(2). */
	for (tries = 0; tries < 2 && (result == -ENXIO || result == -ENOENT); tries++) {
		struct xe_mock_mmap question;

		memset(&question, 0, sizeof(question));
		question.offset = (uint64_t)offset;
		question.length = length;
		question.prot = (uint32_t)prot;
		question.flags = (uint32_t)flags;
		result = ask(fd, &question);
		if (!result)
			result = map_answer(addr, fd, offset, &question);
		else
			break;
	}
	return (void *)returned(result);
}

/* ---- the entry points ---- */

static void *raw_map(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return (void *)returned(raw_mmap(addr, length, prot, flags, fd, offset));
}

static int raw_unmap(void *addr, size_t length)
{
	return (int)returned(raw_munmap(addr, length));
}

NEXT(void *, mmap, (void *, size_t, int, int, int, off_t), raw_map)
NEXT(void *, mmap64, (void *, size_t, int, int, int, off_t), raw_map)
NEXT(int, munmap, (void *, size_t), raw_unmap)

/* mmap(2) of what is not a mock's. */
static inline void *map_other(mmap_function next, void *addr, size_t length, int prot, int flags,
			      int fd, off_t offset)
{
	if (unlikely(flags & MAP_FIXED && lease_count))
		return lease_replace(next, addr, length, prot, flags, fd, offset);
	return next(addr, length, prot, flags, fd, offset);
}

/*
 * Whether the kernel must not be asked first.  A private mapping it would make, to pages that are
 * not there; and a fixed one may end what was there even when it fails.  Programs map many files
 * privately, but none of DRM before its first ioctl.
 */
static inline bool must_look_first(int flags)
{
	return flags & MAP_SHARED ? flags & MAP_FIXED : drm_used;
}

static inline void *map_any(mmap_function next, void *addr, size_t length, int prot, int flags,
			    int fd, off_t offset)
{
	int error;
	void *result;

	if (fd < 0 || flags & MAP_ANONYMOUS)
		return map_other(next, addr, length, prot, flags, fd, offset);
	if (must_look_first(flags))
		return mock_fd(fd) ? map_mock(addr, length, prot, flags, fd, offset)
				   : map_other(next, addr, length, prot, flags, fd, offset);
	error = errno;
	result = next(addr, length, prot, flags, fd, offset);
	/* What the kernel says of a shared mapping where there are no pages to share. */
	if (result != MAP_FAILED || errno != ENODEV || !mock_fd(fd))
		return result;
	errno = error;
	return map_mock(addr, length, prot, flags, fd, offset);
}

/* A fixed mapping in the place of user memory that the GPU may work on. */
static RARE void *map_over(mmap_function next, void *addr, size_t length, int prot, int flags,
			   int fd, off_t offset)
{
	struct userptr_change change;
	void *result;

	userptr_begin(&change, addr, length);
	result = map_any(next, addr, length, prot, flags, fd, offset);
	userptr_end(&change);
	return result;
}

static inline void *map(mmap_function next, void *addr, size_t length, int prot, int flags, int fd,
			off_t offset)
{
	if (unlikely(flags & MAP_FIXED && userptr_used))
		return map_over(next, addr, length, prot, flags, fd, offset);
	return map_any(next, addr, length, prot, flags, fd, offset);
}

EXPORT void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return map(next_mmap, addr, length, prot, flags, fd, offset);
}

EXPORT void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off64_t offset)
{
	return map(next_mmap64, addr, length, prot, flags, fd, offset);
}

static inline int unmap_any(void *addr, size_t length)
{
	if (unlikely(lease_count))
		return lease_munmap(next_munmap, addr, length);
	return next_munmap(addr, length);
}

static RARE int unmap_userptr(void *addr, size_t length)
{
	struct userptr_change change;
	int result;

	userptr_begin(&change, addr, length);
	result = unmap_any(addr, length);
	userptr_end(&change);
	return result;
}

EXPORT int munmap(void *addr, size_t length)
{
	if (unlikely(userptr_used))
		return unmap_userptr(addr, length);
	return unmap_any(addr, length);
}
