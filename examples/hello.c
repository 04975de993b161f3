/*
 * The smallest useful C client: opens a node, makes a buffer object and an address space, maps the
 * one into the other, and says that the contents are not needed for a while.
 *
 * It needs the xe_drm.h of Linux 7.2 or later, which the PyPI package ziglang brings along:
 *
 *     python -m ziglang cc -target $(uname -m)-linux-gnu -Wall -o hello examples/hello.c
 *     ./hello DIR/dev/dri/renderD128
 *
 * With a new enough linux-libc-dev, `cc -Wall -o hello examples/hello.c` does as well.
 *
 * Nothing here is special to the mock but one call of prctl(2) in client.h, which a real driver does
 * not need.
 */
#include "client.h"

#define BO_SIZE 4096
#define ADDRESS 0x1a0000
#define FENCE_VALUE 0x600d
#define SYSTEM_MEMORY (1 << 0) /* bit n of a placement is memory region number n */

static const char *const advice_names[] = {
	[DRM_XE_VMA_PURGEABLE_STATE_WILLNEED] = "WILLNEED",
	[DRM_XE_VMA_PURGEABLE_STATE_DONTNEED] = "DONTNEED",
};

static void say_hello(int fd)
{
	char name[16] = "";
	struct drm_version version = {
		.name_len = sizeof(name) - 1,
		.name = name,
	};

	MUST(fd, DRM_IOCTL_VERSION, &version);
	if (strcmp(name, "xe") != 0) {
		fprintf(stderr, "this is the driver of \"%s\", not of an Xe device\n", name);
		exit(EXIT_FAILURE);
	}
	printf("hello from %s %d.%d.%d\n", name, version.version_major, version.version_minor,
	       version.version_patchlevel);
}

static uint32_t create_bo(int fd)
{
	struct drm_xe_gem_create create = {
		.size = BO_SIZE,
		.placement = SYSTEM_MEMORY,
		.cpu_caching = DRM_XE_GEM_CPU_CACHING_WB,
	};

	MUST(fd, DRM_IOCTL_XE_GEM_CREATE, &create);
	printf("buffer object: handle %u\n", create.handle);
	return create.handle;
}

static uint32_t create_vm(int fd)
{
	struct drm_xe_vm_create create = { .flags = 0 };

	MUST(fd, DRM_IOCTL_XE_VM_CREATE, &create);
	printf("address space: id %u\n", create.vm_id);
	return create.vm_id;
}

/* Runs one bind operation and checks that the driver told its end through the user fence. */
static void bind_one(int fd, uint32_t vm, struct drm_xe_vm_bind_op op)
{
	/* The driver writes here behind the compiler's back. */
	volatile uint64_t fence = 0;
	struct drm_xe_sync sync = {
		.type = DRM_XE_SYNC_TYPE_USER_FENCE,
		.flags = DRM_XE_SYNC_FLAG_SIGNAL,
		.addr = (uintptr_t)&fence,
		.timeline_value = FENCE_VALUE,
	};
	struct drm_xe_vm_bind bind = {
		.vm_id = vm,
		.num_binds = 1,
		.bind = op,
		.num_syncs = 1,
		.syncs = (uintptr_t)&sync,
	};

	MUST(fd, DRM_IOCTL_XE_VM_BIND, &bind);
	for (int tries = 0; fence != FENCE_VALUE && tries < 1000; tries++)
		usleep(1000);
	if (fence != FENCE_VALUE) {
		fprintf(stderr, "the bind never signalled its fence\n");
		exit(EXIT_FAILURE);
	}
}

static void map(int fd, uint32_t vm, uint32_t bo)
{
	bind_one(fd, vm, (struct drm_xe_vm_bind_op){
		.op = DRM_XE_VM_BIND_OP_MAP,
		.obj = bo,
		.addr = ADDRESS,
		.range = BO_SIZE,
		.pat_index = PAT_WRITE_BACK,
	});
	printf("mapped at %#x\n", ADDRESS);
}

static void unmap(int fd, uint32_t vm)
{
	bind_one(fd, vm, (struct drm_xe_vm_bind_op){
		.op = DRM_XE_VM_BIND_OP_UNMAP,
		.addr = ADDRESS,
		.range = BO_SIZE,
		.pat_index = PAT_WRITE_BACK,
	});
	printf("unmapped\n");
}

/* Gives advice and returns whether the pages still exist. */
static uint32_t advise(int fd, uint32_t vm, uint32_t state)
{
	uint32_t retained = 0; /* must be 0 before the call: that is the answer if nobody writes */
	struct drm_xe_madvise madvise = {
		.vm_id = vm,
		.start = ADDRESS,
		.range = BO_SIZE,
		.type = DRM_XE_VMA_ATTR_PURGEABLE_STATE,
		.purge_state_val = {
			.val = state,
			.retained_ptr = (uintptr_t)&retained,
		},
	};

	MUST(fd, DRM_IOCTL_XE_MADVISE, &madvise);
	printf("advised %s: retained=%u\n", advice_names[state], retained);
	return retained;
}

int main(int argc, char **argv)
{
	uint32_t bo, vm, retained;
	int fd = open_node(argc, argv);

	say_hello(fd);
	bo = create_bo(fd);
	vm = create_vm(fd);
	map(fd, vm, bo);

	/* From here the driver may take the pages when memory is short ... */
	advise(fd, vm, DRM_XE_VMA_PURGEABLE_STATE_DONTNEED);
	/* ... and here we learn whether it did. */
	retained = advise(fd, vm, DRM_XE_VMA_PURGEABLE_STATE_WILLNEED);
	printf(retained ? "the contents are still there\n" : "the contents are lost\n");

	unmap(fd, vm);
	MUST(fd, DRM_IOCTL_XE_VM_DESTROY, &(struct drm_xe_vm_destroy){ .vm_id = vm });
	MUST(fd, DRM_IOCTL_GEM_CLOSE, &(struct drm_gem_close){ .handle = bo });
	close(fd);
	return EXIT_SUCCESS;
}
