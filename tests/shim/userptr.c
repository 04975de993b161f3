/* User memory is unmapped and replaced while jobs use it. */
#include "shim_test.h"

#include <limits.h>
#include <sys/syscall.h>

#define SIZE (16 * PAGE)
#define BATCH_AT 0x40000000ull
#define CELL_AT 0x50000000ull
#define ROUNDS 50

static int drm;
static uint32_t vm, queue, syncobj;
static volatile uint32_t *cell;

static void bind(uint32_t num_binds, const struct drm_xe_vm_bind_op *ops)
{
	struct drm_xe_vm_bind arg = { .vm_id = vm, .num_binds = num_binds };

	if (num_binds == 1)
		arg.bind = *ops;
	else
		arg.vector_of_binds = (uintptr_t)ops;
	CHECK(!ioctl(drm, DRM_IOCTL_XE_VM_BIND, &arg));
}

static struct drm_xe_vm_bind_op userptr_at(void *memory, size_t size, uint64_t addr)
{
	return (struct drm_xe_vm_bind_op) {
		.op = DRM_XE_VM_BIND_OP_MAP_USERPTR,
		.pat_index = 2,
		.userptr = (uintptr_t)memory,
		.range = size,
		.addr = addr,
	};
}

static void set_up(void)
{
	struct drm_xe_engine_class_instance engine = { 0 };
	struct drm_xe_vm_create create = { 0 };
	struct drm_xe_exec_queue_create make = {
		.width = 1,
		.num_placements = 1,
		.instances = (uintptr_t)&engine,
	};
	struct drm_syncobj_create sync = { 0 };
	struct drm_xe_vm_bind_op op = {
		.op = DRM_XE_VM_BIND_OP_MAP,
		.pat_index = 2,
		.range = PAGE,
		.addr = CELL_AT,
	};

	CHECK(!ioctl(drm, DRM_IOCTL_XE_VM_CREATE, &create));
	vm = create.vm_id;
	make.vm_id = vm;
	CHECK(!ioctl(drm, DRM_IOCTL_XE_EXEC_QUEUE_CREATE, &make));
	queue = make.exec_queue_id;
	CHECK(!ioctl(drm, DRM_IOCTL_SYNCOBJ_CREATE, &sync));
	syncobj = sync.handle;
	op.obj = create_bo(drm, PAGE);
	bind(1, &op);
	cell = mmap(NULL, PAGE, RW, MAP_SHARED, drm, mmap_offset(drm, op.obj));
	CHECK(cell != MAP_FAILED);
}

/* Submits a batch that lies in the memory and stores a value in the cell. */
static void submit(uint32_t *batch, uint64_t addr, uint32_t value)
{
	struct drm_xe_sync sync = {
		.type = DRM_XE_SYNC_TYPE_SYNCOBJ,
		.flags = DRM_XE_SYNC_FLAG_SIGNAL,
		.handle = syncobj,
	};
	struct drm_xe_exec exec = {
		.exec_queue_id = queue,
		.num_batch_buffer = 1,
		.address = addr,
		.num_syncs = 1,
		.syncs = (uintptr_t)&sync,
	};

	batch[0] = 0x10000002;	/* MI_STORE_DWORD_IMM */
	batch[1] = (uint32_t)CELL_AT;
	batch[2] = CELL_AT >> 32;
	batch[3] = value;
	batch[4] = 0x05000000;	/* MI_BATCH_BUFFER_END */
	CHECK(!ioctl(drm, DRM_IOCTL_XE_EXEC, &exec));
}

static void wait_done(void)
{
	struct drm_syncobj_wait wait = {
		.handles = (uintptr_t)&syncobj,
		.count_handles = 1,
		.timeout_nsec = INT64_MAX,
	};

	CHECK(!ioctl(drm, DRM_IOCTL_SYNCOBJ_WAIT, &wait));
}

static void *anonymous(void *place, size_t size)
{
	int fixed = place ? MAP_FIXED : 0;
	void *memory = mmap(place, size, RW, MAP_SHARED | MAP_ANONYMOUS | fixed, -1, 0);

	CHECK(memory != MAP_FAILED);
	return memory;
}

/* The job's batch would be gone, did the call not wait for it. */
static void memory_is_replaced(void)
{
	char *memory = anonymous(NULL, SIZE);
	struct drm_xe_vm_bind_op op = userptr_at(memory, SIZE, BATCH_AT);
	uint32_t round;

	bind(1, &op);
	for (round = 1; round <= ROUNDS; round++) {
		submit((uint32_t *)memory, BATCH_AT, round);
		errno = 77;
		CHECK(anonymous(memory, SIZE) == memory && errno == 77);
		CHECK(*cell == round);
	}
	wait_done();
	CHECK(!munmap(memory, SIZE));
}

/* A part of one of several, bound by an array. */
static void a_part_is_unmapped(void)
{
	char *memory = anonymous(NULL, SIZE);
	struct drm_xe_vm_bind_op ops[] = {
		userptr_at(memory, SIZE / 2, BATCH_AT),
		userptr_at(memory + SIZE / 2, SIZE / 2, BATCH_AT + SIZE / 2),
	};

	bind(2, ops);
	submit((uint32_t *)(memory + SIZE - PAGE), BATCH_AT + SIZE - PAGE, 1000);
	CHECK(!munmap(memory + SIZE - PAGE, PAGE));
	CHECK(*cell == 1000);
	wait_done();
	CHECK(!munmap(memory, SIZE));
}

/* Memory of a parent is not the child's: its munmap(2) waits for nothing. */
static void a_child_goes_its_own_way(void)
{
	char *memory = anonymous(NULL, SIZE);
	struct drm_xe_vm_bind_op op = userptr_at(memory, SIZE, BATCH_AT);
	int status;
	pid_t pid;

	bind(1, &op);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		_exit(munmap(memory, SIZE) ? 1 : 0);
	CHECK(waitpid(pid, &status, 0) == pid && !status);
	submit((uint32_t *)memory, BATCH_AT, 2000);
	CHECK(anonymous(memory, SIZE) == memory && *cell == 2000);
	wait_done();
	CHECK(!munmap(memory, SIZE));
}

/* More than the library has rows for. */
static void many_ranges(void)
{
	char *memory = anonymous(NULL, 200 * PAGE);
	unsigned int index;

	for (index = 0; index < 100; index++) {
		struct drm_xe_vm_bind_op op = userptr_at(memory + 2 * index * PAGE, PAGE,
							 BATCH_AT + 2 * index * PAGE);

		bind(1, &op);
	}
	for (index = 0; index < 100; index++) {
		char *page = memory + 2 * index * PAGE;

		submit((uint32_t *)page, BATCH_AT + 2 * index * PAGE, 3000 + index);
		CHECK(!munmap(page, PAGE));
		CHECK(*cell == 3000 + index);
	}
	wait_done();
}

static void the_device_may_be_closed(void)
{
	char *memory = anonymous(NULL, SIZE);
	struct drm_xe_vm_bind_op op = userptr_at(memory, SIZE, BATCH_AT);

	bind(1, &op);
	CHECK(!close(drm));
	CHECK(!munmap(memory, SIZE));
}

int main(int argc, char **argv)
{
	CHECK(argc == 2);
	drm = open_node(argv[1]);
	set_up();
	memory_is_replaced();
	a_part_is_unmapped();
	a_child_goes_its_own_way();
	many_ranges();
	the_device_may_be_closed();
	return 0;
}
