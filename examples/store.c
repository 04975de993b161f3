/*
 * Every engine of the device stores a number, and we read it through our own mapping.
 *
 * For each engine a buffer object with a batch at its begin is made, mapped, bound into an address
 * space and submitted to a queue; syncobjs tell the ends of bind and batch.
 *
 *     python -m ziglang cc -target $(uname -m)-linux-gnu -Wall -I uapi -o store examples/store.c
 *     ./store DIR/dev/dri/renderD128
 *
 * It needs the headers that hello.c needs, and the mock's own xe_mock.h, which stands in uapi/ and is
 * installed with the package `uapi`. Of that it takes xe_mock_map(), which is mmap(2) on a real device.
 */
#include "client.h"
#include "xe_mock.h"

#define BO_SIZE 65536 /* what any region can hold */
#define ADDRESS 0x1a0000
#define DATA 0x800 /* where the number goes, behind the batch */
#define NUMBER 0xc0ffee00u

#define MI_STORE_DWORD_IMM (0x20 << 23 | 2)
#define MI_BATCH_BUFFER_END (0x0a << 23)

static const char *const class_names[] = {
	[DRM_XE_ENGINE_CLASS_RENDER] = "rcs",
	[DRM_XE_ENGINE_CLASS_COPY] = "bcs",
	[DRM_XE_ENGINE_CLASS_VIDEO_DECODE] = "vcs",
	[DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE] = "vecs",
	[DRM_XE_ENGINE_CLASS_COMPUTE] = "ccs",
};

/* --- what the device has ------------------------------------------------------------------ */

/* The answer to a query, which the caller frees. */
static void *query(int fd, uint32_t number)
{
	struct drm_xe_device_query query = { .query = number };
	void *answer;

	/* Asked without room, the driver tells how much it needs. */
	MUST(fd, DRM_IOCTL_XE_DEVICE_QUERY, &query);
	answer = calloc(1, query.size);
	if (!answer)
		fail("calloc");
	query.data = (uintptr_t)answer;
	MUST(fd, DRM_IOCTL_XE_DEVICE_QUERY, &query);
	return answer;
}

/* Number of a region of VRAM; 0, which is system memory, on an integrated device. */
static uint32_t find_vram(int fd)
{
	struct drm_xe_query_mem_regions *regions = query(fd, DRM_XE_DEVICE_QUERY_MEM_REGIONS);
	uint32_t found = 0;

	for (uint32_t i = 0; i < regions->num_mem_regions; i++)
		if (regions->mem_regions[i].mem_class == DRM_XE_MEM_REGION_CLASS_VRAM)
			found = regions->mem_regions[i].instance;
	free(regions);
	return found;
}

/* --- one engine --------------------------------------------------------------------------- */

static uint32_t create_bo(int fd, uint32_t vm, uint32_t region)
{
	struct drm_xe_gem_create create = {
		.size = BO_SIZE,
		.vm_id = vm,
		.placement = 1u << region,
		.cpu_caching = DRM_XE_GEM_CPU_CACHING_WB,
	};

	if (region) {
		create.flags = DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM;
		create.cpu_caching = DRM_XE_GEM_CPU_CACHING_WC;
	}
	MUST(fd, DRM_IOCTL_XE_GEM_CREATE, &create);
	return create.handle;
}

static void map(int fd, uint32_t bo, struct xe_mock_mapping *mapping)
{
	struct drm_xe_gem_mmap_offset offset = { .handle = bo };

	MUST(fd, DRM_IOCTL_XE_GEM_MMAP_OFFSET, &offset);
	if (xe_mock_map(mapping, NULL, BO_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			offset.offset))
		fail("mmap");
}

static uint32_t create_syncobj(int fd)
{
	struct drm_syncobj_create create = { .flags = 0 };

	MUST(fd, DRM_IOCTL_SYNCOBJ_CREATE, &create);
	return create.handle;
}

static void bind_one(int fd, uint32_t vm, struct drm_xe_vm_bind_op op, uint32_t bound)
{
	struct drm_xe_sync sync = {
		.type = DRM_XE_SYNC_TYPE_SYNCOBJ,
		.flags = DRM_XE_SYNC_FLAG_SIGNAL,
		.handle = bound,
	};
	struct drm_xe_vm_bind bind = {
		.vm_id = vm,
		.num_binds = 1,
		.bind = op,
		.num_syncs = 1,
		.syncs = (uintptr_t)&sync,
	};

	MUST(fd, DRM_IOCTL_XE_VM_BIND, &bind);
}

static uint32_t create_queue(int fd, uint32_t vm, struct drm_xe_engine_class_instance engine)
{
	struct drm_xe_exec_queue_create create = {
		.width = 1,
		.num_placements = 1,
		.vm_id = vm,
		.instances = (uintptr_t)&engine,
	};

	MUST(fd, DRM_IOCTL_XE_EXEC_QUEUE_CREATE, &create);
	return create.exec_queue_id;
}

/* Submits the batch at ADDRESS, which begins when the bind is done. */
static void submit(int fd, uint32_t queue, uint32_t bound, uint32_t done)
{
	struct drm_xe_sync syncs[] = {
		{ .type = DRM_XE_SYNC_TYPE_SYNCOBJ, .handle = bound },
		{
			.type = DRM_XE_SYNC_TYPE_SYNCOBJ,
			.flags = DRM_XE_SYNC_FLAG_SIGNAL,
			.handle = done,
		},
	};
	struct drm_xe_exec exec = {
		.exec_queue_id = queue,
		.num_syncs = 2,
		.syncs = (uintptr_t)syncs,
		.address = ADDRESS,
		.num_batch_buffer = 1,
	};

	MUST(fd, DRM_IOCTL_XE_EXEC, &exec);
}

static void wait_for(int fd, uint32_t syncobj)
{
	struct drm_syncobj_wait wait = {
		.handles = (uintptr_t)&syncobj,
		.count_handles = 1,
		.timeout_nsec = INT64_MAX,
	};

	MUST(fd, DRM_IOCTL_SYNCOBJ_WAIT, &wait);
}

/* Lets an engine store a number; returns what we find then. */
static uint32_t store(int fd, uint32_t vm, uint32_t region,
		      struct drm_xe_engine_class_instance engine, uint32_t number)
{
	const uint32_t batch[] = {
		MI_STORE_DWORD_IMM, ADDRESS + DATA, 0, number,
		MI_BATCH_BUFFER_END,
	};
	uint32_t bo = create_bo(fd, vm, region);
	uint32_t queue = create_queue(fd, vm, engine);
	uint32_t bound = create_syncobj(fd), done = create_syncobj(fd), found;
	struct xe_mock_mapping mapping;

	bind_one(fd, vm, (struct drm_xe_vm_bind_op){
		.op = DRM_XE_VM_BIND_OP_MAP,
		.obj = bo,
		.addr = ADDRESS,
		.range = BO_SIZE,
		.pat_index = PAT_WRITE_BACK,
	}, bound);
	map(fd, bo, &mapping);
	memcpy(mapping.addr, batch, sizeof(batch));
	submit(fd, queue, bound, done);
	wait_for(fd, done);
	found = *(volatile uint32_t *)((char *)mapping.addr + DATA);

	xe_mock_unmap(&mapping);
	MUST(fd, DRM_IOCTL_XE_EXEC_QUEUE_DESTROY,
	     &(struct drm_xe_exec_queue_destroy){ .exec_queue_id = queue });
	bind_one(fd, vm, (struct drm_xe_vm_bind_op){
		.op = DRM_XE_VM_BIND_OP_UNMAP,
		.addr = ADDRESS,
		.range = BO_SIZE,
		.pat_index = PAT_WRITE_BACK,
	}, bound);
	wait_for(fd, bound);
	MUST(fd, DRM_IOCTL_SYNCOBJ_DESTROY, &(struct drm_syncobj_destroy){ .handle = bound });
	MUST(fd, DRM_IOCTL_SYNCOBJ_DESTROY, &(struct drm_syncobj_destroy){ .handle = done });
	MUST(fd, DRM_IOCTL_GEM_CLOSE, &(struct drm_gem_close){ .handle = bo });
	return found;
}

int main(int argc, char **argv)
{
	int fd = open_node(argc, argv);
	struct drm_xe_query_engines *engines = query(fd, DRM_XE_DEVICE_QUERY_ENGINES);
	uint32_t region = find_vram(fd);
	struct drm_xe_vm_create create = { .flags = 0 };

	MUST(fd, DRM_IOCTL_XE_VM_CREATE, &create);
	for (uint32_t i = 0; i < engines->num_engines; i++) {
		struct drm_xe_engine_class_instance engine = engines->engines[i].instance;
		uint32_t found = store(fd, create.vm_id, region, engine, NUMBER + i);

		printf("%s%u on gt%u stored %#x\n", class_names[engine.engine_class],
		       engine.engine_instance, engine.gt_id, found);
		if (found != NUMBER + i) {
			fprintf(stderr, "expected %#x\n", NUMBER + i);
			return EXIT_FAILURE;
		}
	}
	MUST(fd, DRM_IOCTL_XE_VM_DESTROY, &(struct drm_xe_vm_destroy){ .vm_id = create.vm_id });
	free(engines);
	close(fd);
	return EXIT_SUCCESS;
}
