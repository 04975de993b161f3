// SPDX-License-Identifier: MIT
/*
 * Times one kind of request against a node, call by call.
 *
 *   cc -O2 -o client client.c
 *   ./client PATH KIND COUNT CPU [LIVE]      (CPU -1: not pinned)
 *
 * With LIVE, so many BOs of a page each exist meanwhile, with handles of the same open file.
 * Kinds that end in 64 work with any server that takes 64-byte blocks, the others with the mock.
 * Prints one line of JSON, times in nanoseconds.
 */
#define _GNU_SOURCE
#define PROGRAM "client"
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "requests.h"
#include "samples.h"

#define BLOCK_SIZE 64 /* bytes */
#define WARM_UP 2000  /* calls that are not counted */

#define NOOP_IOCTL _IOC(_IOC_READ | _IOC_WRITE, 'x', 0x7f, BLOCK_SIZE)

struct kind {
	const char *name;
	int (*prepare)(int fd);	/* once, untimed; may be NULL */
	int (*step)(int fd);	/* timed; 0, or -1 with errno */
};

static char block[BLOCK_SIZE];

static int step_ioctl(int fd)
{
	return ioctl(fd, NOOP_IOCTL, block) < 0 ? -1 : 0;
}

static int step_write_read(int fd)
{
	if (write(fd, block, BLOCK_SIZE) != BLOCK_SIZE)
		return -1;
	return read(fd, block, BLOCK_SIZE) == BLOCK_SIZE ? 0 : -1;
}

static int step_version_null(int fd)
{
	struct version_request version = { 0 };

	return ioctl(fd, VERSION_IOCTL, &version) < 0 ? -1 : 0;
}

static int step_version_strings(int fd)
{
	static char name[64], date[64], desc[64];
	struct version_request version = {
		.name_len = sizeof(name), .name = (uintptr_t)name,
		.date_len = sizeof(date), .date = (uintptr_t)date,
		.desc_len = sizeof(desc), .desc = (uintptr_t)desc,
	};

	return ioctl(fd, VERSION_IOCTL, &version) < 0 ? -1 : 0;
}

static int step_version_frame(int fd)
{
	struct version_frame frame = {
		.magic = FRAME_REQUEST_MAGIC,
		.length = sizeof(frame),
		.cmd = VERSION_IOCTL,
		.arg_length = sizeof(frame.arg),
	};
	struct version_reply reply;

	if (write(fd, &frame, sizeof(frame)) != sizeof(frame))
		return -1;
	if (read(fd, &reply, sizeof(reply)) != sizeof(reply))
		return -1;
	errno = -reply.result;
	return reply.result ? -1 : 0;
}

#define BO_SIZE 0x10000		/* bytes */
#define BO_ADDRESS 0x100000	/* in the VM */
#define PAGE 0x1000		/* bytes */

static struct vm_bind_request map_bo, unmap_bo;
static struct madvise_request advice;
static uint32_t retained;

static int step_gem_pair(int fd)
{
	uint32_t handle = create_bo(fd, BO_SIZE);

	return handle ? close_bo(fd, handle) : -1;
}

/* A BO and a VM to bind it in. */
static int prepare_bind(int fd)
{
	struct vm_create_request vm = { 0 };
	uint32_t bo = create_bo(fd, BO_SIZE);

	if (!bo || ioctl(fd, VM_CREATE_IOCTL, &vm) < 0)
		return -1;
	map_bo = (struct vm_bind_request){
		.vm_id = vm.vm_id, .num_binds = 1,
		.bind = { .pat_index = PAT_WRITE_BACK, .range = BO_SIZE, .addr = BO_ADDRESS },
	};
	unmap_bo = map_bo;
	map_bo.bind.op = BIND_OP_MAP;
	map_bo.bind.obj = bo;
	unmap_bo.bind.op = BIND_OP_UNMAP;
	return 0;
}

static int step_bind_pair(int fd)
{
	if (ioctl(fd, VM_BIND_IOCTL, &map_bo) < 0)
		return -1;
	return ioctl(fd, VM_BIND_IOCTL, &unmap_bo) < 0 ? -1 : 0;
}

static int prepare_madvise(int fd)
{
	if (prepare_bind(fd) || ioctl(fd, VM_BIND_IOCTL, &map_bo) < 0)
		return -1;
	advice = (struct madvise_request){
		.vm_id = map_bo.vm_id, .start = BO_ADDRESS, .range = BO_SIZE,
		.type = MADVISE_PURGEABLE, .purge_state = WILLNEED,
		.retained_ptr = (uintptr_t)&retained,
	};
	return 0;
}

/* A change of state each time. */
static int step_madvise(int fd)
{
	advice.purge_state = advice.purge_state == WILLNEED ? DONTNEED : WILLNEED;
	retained = 0;
	if (ioctl(fd, MADVISE_IOCTL, &advice) < 0)
		return -1;
	errno = ENODATA;
	return retained == 1 ? 0 : -1;
}

static const struct kind kinds[] = {
	{ "ioctl64", NULL, step_ioctl },
	{ "write_read64", NULL, step_write_read },
	{ "version_null", NULL, step_version_null },
	{ "version_strings", NULL, step_version_strings },
	{ "version_frame", NULL, step_version_frame },
	{ "gem_pair", NULL, step_gem_pair },
	{ "bind_pair", prepare_bind, step_bind_pair },
	{ "madvise", prepare_madvise, step_madvise },
};

static const struct kind *find_kind(const char *name)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kinds[i].name, name))
			return &kinds[i];
	return NULL;
}

static void step(const struct kind *kind, int fd)
{
	if (kind->step(fd))
		die(kind->name);
}

/* Their handles; at the end they go one by one, so that the close has nothing left to do. */
static uint32_t *create_bos(int fd, long count)
{
	uint32_t *handles = calloc(count + 1, sizeof(*handles));

	if (!handles)
		die("calloc");
	for (long i = 0; i < count; i++)
		if (!(handles[i] = create_bo(fd, PAGE)))
			die("GEM_CREATE");
	return handles;
}

static void close_bos(int fd, const uint32_t *handles, long count)
{
	for (long i = 0; i < count; i++)
		if (close_bo(fd, handles[i]))
			die("GEM_CLOSE");
}

int main(int argc, char **argv)
{
	if (argc != 5 && argc != 6) {
		fprintf(stderr, "usage: client PATH KIND COUNT CPU [LIVE]\nkinds:");
		for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
			fprintf(stderr, " %s", kinds[i].name);
		fprintf(stderr, "\n");
		return 2;
	}
	const struct kind *kind = find_kind(argv[2]);
	long count = atol(argv[3]);
	int cpu = atoi(argv[4]);
	long live = argc > 5 ? atol(argv[5]) : 0;

	if (!kind || count < 1 || live < 0) {
		fprintf(stderr, "client: no such kind, or no such count\n");
		return 2;
	}
	pin(cpu);
	allow_memory_access();
	int fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0)
		die(argv[1]);
	int64_t *samples = new_samples(count);
	uint32_t *handles = create_bos(fd, live);
	if (kind->prepare && kind->prepare(fd))
		die(kind->name);
	for (int i = 0; i < WARM_UP; i++)
		step(kind, fd);
	for (long i = 0; i < count; i++) {
		int64_t start = now();

		step(kind, fd);
		samples[i] = now() - start;
	}
	close_bos(fd, handles, live);
	print_summary(kind->name, samples, count);
	return 0;
}
