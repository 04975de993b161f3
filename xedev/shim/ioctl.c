/* SPDX-License-Identifier: MIT */
/*
 * ioctl(2): where an answer holds a token in place of a descriptor, opens it.
 *
 * A token is larger than any descriptor, so an answer tells by itself that it is a mock's.
 */
#include "shim.h"
#include "xe_mock.h"

#include <stdarg.h>

/* Of DRM ioctls only the number counts: their structures grow.  Of others the whole command. */
#define DRM_TYPE 'd'
#define DRM_NR(command) ((command) & 0xffff)
#define DRM(nr) (DRM_TYPE << 8 | (nr))

#define PRIME_HANDLE_TO_FD DRM(0x2d)
#define SYNCOBJ_HANDLE_TO_FD DRM(0xc1)
#define XE_VM_BIND DRM(0x45)
#define XE_OBSERVATION DRM(0x4b)
#define SW_SYNC_CREATE_FENCE 0xc0285700u
#define SYNC_MERGE 0xc0303e03u
#define DMA_BUF_EXPORT_SYNC_FILE 0xc0086202u

#define SW_SYNC_FENCE_AT 36	/* struct sw_sync_create_fence_data.fence */
#define SYNC_MERGE_FENCE_AT 36	/* struct sync_merge_data.fence */
#define SYNC_FILE_AT 4		/* struct dma_buf_export_sync_file.fd */
#define DRM_FLAGS_AT 4		/* struct drm_prime_handle.flags, and of drm_syncobj_handle */
#define DRM_FD_AT 8		/* and .fd */
#define VM_BIND_SIZE 136	/* struct drm_xe_vm_bind */

_Atomic bool drm_used;

static inline uint32_t type_of(uint32_t command)
{
	return command >> 8 & 0xff;
}

static inline uint32_t size_of(uint32_t command)
{
	return command >> 16 & 0x3fff;
}

/* Whether it is a DRM command with a structure that reaches to its descriptor. */
static inline bool is_drm(uint32_t command)
{
	return type_of(command) == DRM_TYPE && command >> 30 == 3 &&
	       size_of(command) >= DRM_FD_AT + sizeof(int);
}

static uint32_t *word_at(void *argument, size_t offset)
{
	return (uint32_t *)(void *)((char *)argument + offset);
}

/* Where the descriptor stands in the answer, or NULL when this command returns none there. */
static inline uint32_t *descriptor_in(uint32_t command, void *argument)
{
	switch (DRM_NR(command)) {
	case PRIME_HANDLE_TO_FD:
	case SYNCOBJ_HANDLE_TO_FD:
		return is_drm(command) ? word_at(argument, DRM_FD_AT) : NULL;
	}
	switch (command) {
	case SW_SYNC_CREATE_FENCE:
		return word_at(argument, SW_SYNC_FENCE_AT);
	case SYNC_MERGE:
		return word_at(argument, SYNC_MERGE_FENCE_AT);
	case DMA_BUF_EXPORT_SYNC_FILE:
		return word_at(argument, SYNC_FILE_AT);
	}
	return NULL;
}

/* How the kernel opens such a descriptor. */
static int flags_of(uint32_t command, void *argument)
{
	if (DRM_NR(command) != PRIME_HANDLE_TO_FD)
		return O_RDONLY | O_CLOEXEC;
	return (int)*word_at(argument, DRM_FLAGS_AT) & (O_ACCMODE | O_CLOEXEC);
}

static RARE int install(int fd, uint32_t command, uint32_t *place, void *argument)
{
	int opened;

	if (!mock_fd(fd))
		return 0;
	opened = token_open(fd, *place, flags_of(command, argument));
	if (opened < 0) {
		*place = (uint32_t)-1;
		return (int)returned(opened);
	}
	*place = (uint32_t)opened;
	return 0;
}

/* A stream of observations is returned by the call itself. */
static RARE int install_stream(int fd, uint32_t token)
{
	return mock_fd(fd) ? (int)returned(token_open(fd, token, O_RDONLY)) : (int)token;
}

static int raw_control(int fd, unsigned long request, void *argument)
{
	return (int)returned(raw_ioctl(fd, request, argument));
}

/* Not variadic: the third argument comes in the same register. */
NEXT(int, ioctl, (int, unsigned long, void *), raw_control)

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	uint32_t command = (uint32_t)request, *place;
	void *argument;
	va_list rest;
	int result;

	va_start(rest, request);
	argument = va_arg(rest, void *);
	va_end(rest);
	result = next_ioctl(fd, request, argument);
	if (result < 0)
		return result;
	if (unlikely(type_of(command) == DRM_TYPE)) {
		drm_used = true;
		if (DRM_NR(command) == XE_VM_BIND && size_of(command) == VM_BIND_SIZE)
			userptr_bound(fd, argument);
	}
	if (unlikely(result >= XE_MOCK_TOKEN_BASE && DRM_NR(command) == XE_OBSERVATION))
		return install_stream(fd, (uint32_t)result);
	place = descriptor_in(command, argument);
	if (!place || *place < XE_MOCK_TOKEN_BASE || *place > INT32_MAX)
		return result;
	return install(fd, command, place, argument);
}
