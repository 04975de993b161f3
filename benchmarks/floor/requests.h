/* SPDX-License-Identifier: MIT */
/*
 * The requests that client.c and memory.c make: as much of the DRM and Xe uAPI, and of the
 * mock's frames, as they need.  Written out here because few systems have headers as new as the
 * MADVISE ioctl; the sizes are part of the ioctl numbers, so that a wrong struct is refused by
 * the node.
 */
#ifndef XE_MOCK_BENCH_REQUESTS_H
#define XE_MOCK_BENCH_REQUESTS_H

#include <stdint.h>
#include <sys/ioctl.h>

struct version_request {
	int32_t major, minor, patchlevel;
	uint64_t name_len, name;
	uint64_t date_len, date;
	uint64_t desc_len, desc;
};

struct gem_create_request {
	uint64_t extensions;
	uint64_t size;
	uint32_t placement;
	uint32_t flags;
	uint32_t vm_id;
	uint32_t handle;	/* out */
	uint16_t cpu_caching;
	uint16_t pad[3];
	uint64_t reserved[2];
};

struct gem_close_request {
	uint32_t handle;
	uint32_t pad;
};

struct gem_mmap_offset_request {
	uint64_t extensions;
	uint32_t handle;
	uint32_t flags;
	uint64_t offset;	/* out */
	uint64_t reserved[2];
};

struct vm_create_request {
	uint64_t extensions;
	uint32_t flags;
	uint32_t vm_id;		/* out */
	uint64_t reserved[2];
};

struct vm_bind_request {
	uint64_t extensions;
	uint32_t vm_id;
	uint32_t exec_queue_id;
	uint32_t pad;
	uint32_t num_binds;	/* 1: the one below */
	struct {
		uint64_t extensions;
		uint32_t obj;
		uint16_t pat_index;
		uint16_t pad;
		uint64_t obj_offset;
		uint64_t range;
		uint64_t addr;
		uint32_t op;
		uint32_t flags;
		uint32_t prefetch_region;
		uint32_t pad2;
		uint64_t reserved[3];
	} bind;
	uint32_t pad2;
	uint32_t num_syncs;
	uint64_t syncs;
	uint64_t reserved[2];
};

struct madvise_request {
	uint64_t extensions;
	uint64_t start;
	uint64_t range;
	uint32_t vm_id;
	uint32_t type;
	uint32_t purge_state;
	uint32_t pad;
	uint64_t retained_ptr;
	uint64_t reserved[2];
};

#define VERSION_IOCTL _IOWR('d', 0x00, struct version_request)
#define GEM_CLOSE_IOCTL _IOW('d', 0x09, struct gem_close_request)
#define GEM_CREATE_IOCTL _IOWR('d', 0x41, struct gem_create_request)
#define GEM_MMAP_OFFSET_IOCTL _IOWR('d', 0x42, struct gem_mmap_offset_request)
#define VM_CREATE_IOCTL _IOWR('d', 0x43, struct vm_create_request)
#define VM_BIND_IOCTL _IOW('d', 0x45, struct vm_bind_request)
#define MADVISE_IOCTL _IOW('d', 0x4c, struct madvise_request)

enum { PLACEMENT_VRAM = 1 << 1, CACHING_WC = 2, PAT_WRITE_BACK = 2 };
enum { BIND_OP_MAP = 0, BIND_OP_UNMAP = 1 };
enum { MADVISE_PURGEABLE = 3, WILLNEED = 0, DONTNEED = 1 };

/* A BO in VRAM: its handle, or 0 with errno. */
static inline uint32_t create_bo(int fd, uint64_t size)
{
	struct gem_create_request bo = {
		.size = size, .placement = PLACEMENT_VRAM, .cpu_caching = CACHING_WC,
	};

	return ioctl(fd, GEM_CREATE_IOCTL, &bo) < 0 ? 0 : bo.handle;
}

static inline int close_bo(int fd, uint32_t handle)
{
	struct gem_close_request bo = { .handle = handle };

	return ioctl(fd, GEM_CLOSE_IOCTL, &bo) < 0 ? -1 : 0;
}

/* A request frame for the node that takes frames, with one VERSION in it, and its answer. */

struct version_frame {
	uint32_t magic;
	uint32_t length;	/* bytes of all this */
	uint64_t cookie;
	uint32_t cmd;
	uint32_t arg_length;	/* bytes of the ioctl's argument */
	uint32_t num_windows;
	uint32_t flags;
	struct version_request arg;
};

struct version_reply {
	uint32_t magic;
	uint32_t length;
	uint64_t cookie;
	int32_t result;
	uint32_t arg_length;
	uint32_t num_windows;
	uint32_t reason_length;
	struct version_request arg;
};

#define FRAME_REQUEST_MAGIC 0x714D6558

#endif
