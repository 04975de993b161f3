// SPDX-License-Identifier: MIT
/*
 * Times what a client does with mapped memory: of a BO of the mock, or of a memfd of its own.
 *
 *   cc -O2 -I ../../uapi -o memory memory.c
 *   ./memory PATH KIND SIZE COUNT CPU      (PATH -: a memfd; SIZE in bytes; CPU -1: not pinned)
 *
 * map      set up a mapping of memory that is there, store to each of its pages, end it
 * sigbus   from the call that drops the pages to the SIGBUS of a load.  For the mock that is a
 *          write to the control file "pressure", and a DONTNEED BO
 * read     copy all of a mapping that was touched to memory of our own
 * write    the other way
 *
 * Prints one line of JSON, times in nanoseconds.
 */
#define _GNU_SOURCE
#define PROGRAM "memory"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "requests.h"
#include "samples.h"
#include "xe_mock.h"

#define PAGE 4096
#define WARM_UP 20	/* steps, at most, that are not counted */
#define BO_ADDRESS 0	/* in the VM */
#define PROT_RW (PROT_READ | PROT_WRITE)

static size_t size;	/* of the memory, bytes */
static char *own;	/* as much memory of our own */

static void check(int result, const char *what)
{
	if (result)
		die(what);
}

/* --- a memfd, and a BO -------------------------------------------------------------------- */

struct memory {
	void (*start)(const char *path);	/* once */
	void (*make)(void);			/* memory that nobody has touched */
	void (*end)(void);
	char *(*map)(void);
	void (*unmap)(char *addr);
	void (*condemn)(void);			/* what has to be done before `drop` */
	void (*drop)(void);			/* the pages go */
};

static int memfd;
static char memfd_path[64];

static void memfd_start(const char *path)
{
}

static void memfd_make(void)
{
	memfd = memfd_create("bench", MFD_CLOEXEC);
	if (memfd < 0 || ftruncate(memfd, size))
		die("memfd");
	snprintf(memfd_path, sizeof(memfd_path), "/proc/%d/fd/%d", getpid(), memfd);
}

static void memfd_end(void)
{
	close(memfd);
}

/* By its path, as a BO's pages are mapped. */
static char *memfd_map(void)
{
	int fd = open(memfd_path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die(memfd_path);
	char *addr = mmap(NULL, size, PROT_RW, MAP_SHARED, fd, 0);
	if (addr == MAP_FAILED)
		die("mmap");
	close(fd);
	return addr;
}

static void memfd_unmap(char *addr)
{
	check(munmap(addr, size), "munmap");
}

static void memfd_condemn(void)
{
}

static void memfd_drop(void)
{
	check(ftruncate(memfd, 0), "ftruncate");
}

static int node, pressure;
static uint32_t bo, vm;
static uint64_t bo_offset;
static struct xe_mock_mapping mapping;
static char pressure_command[64];

static void bo_start(const char *path)
{
	struct vm_create_request create = { 0 };
	char control[4096];

	allow_memory_access();
	node = open(path, O_RDWR | O_CLOEXEC);
	if (node < 0)
		die(path);
	check(ioctl(node, VM_CREATE_IOCTL, &create), "VM_CREATE");
	vm = create.vm_id;
	/* PATH is DIR/dev/dri/NODE of the first card. */
	snprintf(control, sizeof(control), "%.*s/../../debug/dri/0/pressure",
		 (int)(strrchr(path, '/') - path), path);
	pressure = open(control, O_WRONLY | O_CLOEXEC);
	if (pressure < 0)
		die(control);
}

static void bo_make(void)
{
	struct gem_mmap_offset_request where = { 0 };

	bo = create_bo(node, size);
	if (!bo)
		die("GEM_CREATE");
	where.handle = bo;
	check(ioctl(node, GEM_MMAP_OFFSET_IOCTL, &where), "GEM_MMAP_OFFSET");
	bo_offset = where.offset;
}

static void bo_end(void)
{
	check(close_bo(node, bo), "GEM_CLOSE");
}

static char *bo_map(void)
{
	check(xe_mock_map(&mapping, NULL, size, PROT_RW, MAP_SHARED, node, bo_offset), "map");
	return mapping.addr;
}

static void bo_unmap(char *addr)
{
	check(xe_mock_unmap(&mapping), "unmap");
}

/* DONTNEED needs a VMA, which takes the place of the last BO's. */
static void bo_condemn(void)
{
	struct vm_bind_request bind = {
		.vm_id = vm, .num_binds = 1,
		.bind = {
			.op = BIND_OP_MAP, .obj = bo, .pat_index = PAT_WRITE_BACK,
			.addr = BO_ADDRESS, .range = size,
		},
	};
	struct madvise_request advice = {
		.vm_id = vm, .start = BO_ADDRESS, .range = size,
		.type = MADVISE_PURGEABLE, .purge_state = DONTNEED,
	};
	struct xe_mock_bo_info info = { .handle = bo };

	check(ioctl(node, VM_BIND_IOCTL, &bind), "VM_BIND");
	check(ioctl(node, MADVISE_IOCTL, &advice), "MADVISE");
	check(ioctl(node, XE_MOCK_IOCTL_BO_INFO, &info), "BO_INFO");
	snprintf(pressure_command, sizeof(pressure_command), "bo %llu evict",
		 (unsigned long long)info.id);
}

static void bo_drop(void)
{
	ssize_t length = strlen(pressure_command);

	if (write(pressure, pressure_command, length) != length)
		die(pressure_command);
}

static const struct memory a_memfd = {
	memfd_start, memfd_make, memfd_end, memfd_map, memfd_unmap, memfd_condemn, memfd_drop,
};
static const struct memory a_bo = {
	bo_start, bo_make, bo_end, bo_map, bo_unmap, bo_condemn, bo_drop,
};

/* --- what is timed: each returns nanoseconds ---------------------------------------------- */

static void touch(char *addr)
{
	for (size_t at = 0; at < size; at += PAGE)
		((volatile char *)addr)[at] = 1;
}

static void make_touched(const struct memory *memory)
{
	memory->make();
	char *addr = memory->map();
	touch(addr);
	memory->unmap(addr);
}

static int64_t step_map(const struct memory *memory)
{
	int64_t start = now();
	char *addr = memory->map();

	touch(addr);
	memory->unmap(addr);
	return now() - start;
}

static sigjmp_buf after_sigbus;

static void on_sigbus(int number)
{
	siglongjmp(after_sigbus, 1);
}

static int64_t step_sigbus(const struct memory *memory)
{
	static char *addr;
	static volatile int64_t start, end;

	memory->make();
	addr = memory->map();
	touch(addr);
	memory->condemn();
	if (!sigsetjmp(after_sigbus, 0)) {
		start = now();
		memory->drop();
		(void)*(volatile char *)addr;
		errno = ENODATA;
		die("no SIGBUS");
	}
	end = now();
	memory->unmap(addr);
	memory->end();
	return end - start;
}

static char *copied;	/* the mapping that is read and written */

static void make_mapped(const struct memory *memory)
{
	memory->make();
	copied = memory->map();
	touch(copied);
}

static int64_t step_read(const struct memory *memory)
{
	int64_t start = now();

	memcpy(own, copied, size);
	return now() - start;
}

static int64_t step_write(const struct memory *memory)
{
	int64_t start = now();

	memcpy(copied, own, size);
	return now() - start;
}

struct kind {
	const char *name;
	void (*prepare)(const struct memory *memory);	/* once; may be NULL */
	int64_t (*step)(const struct memory *memory);
};

static const struct kind kinds[] = {
	{ "map", make_touched, step_map },
	{ "sigbus", NULL, step_sigbus },
	{ "read", make_mapped, step_read },
	{ "write", make_mapped, step_write },
};

static const struct kind *find_kind(const char *name)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kinds[i].name, name))
			return &kinds[i];
	return NULL;
}

int main(int argc, char **argv)
{
	const struct kind *kind = argc == 6 ? find_kind(argv[2]) : NULL;
	long count = kind ? atol(argv[4]) : 0;

	if (count < 1) {
		fprintf(stderr, "usage: memory PATH|- map|sigbus|read|write SIZE COUNT CPU\n");
		return 2;
	}
	const struct memory *memory = strcmp(argv[1], "-") ? &a_bo : &a_memfd;
	struct sigaction action = { .sa_handler = on_sigbus, .sa_flags = SA_NODEFER };

	size = strtoul(argv[3], NULL, 0);
	pin(atoi(argv[5]));
	sigaction(SIGBUS, &action, NULL);
	own = malloc(size);
	if (!own)
		die("malloc");
	memset(own, 1, size);
	memory->start(argv[1]);
	if (kind->prepare)
		kind->prepare(memory);
	int64_t *samples = new_samples(count);
	for (long i = 0; i < WARM_UP && i < count; i++)
		kind->step(memory);
	for (long i = 0; i < count; i++)
		samples[i] = kind->step(memory);
	print_summary(kind->name, samples, count);
	return 0;
}
