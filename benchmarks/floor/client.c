// SPDX-License-Identifier: MIT
/*
 * Times one kind of request against a node, call by call.
 *
 *   cc -O2 -o client client.c
 *   ./client PATH KIND COUNT CPU      (CPU -1: not pinned)
 *
 * Prints one line of JSON, times in nanoseconds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

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

static const struct kind kinds[] = {
	{ "ioctl64", NULL, step_ioctl },
	{ "write_read64", NULL, step_write_read },
};

static const struct kind *find_kind(const char *name)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kinds[i].name, name))
			return &kinds[i];
	return NULL;
}

static void die(const char *what)
{
	fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

static void step(const struct kind *kind, int fd)
{
	if (kind->step(fd))
		die(kind->name);
}

static int by_size(const void *a, const void *b)
{
	int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;

	return (left > right) - (left < right);
}

static void print_summary(const char *name, int64_t *samples, size_t count)
{
	qsort(samples, count, sizeof(*samples), by_size);
	printf("{\"kind\": \"%s\", \"count\": %zu, \"median\": %lld, \"p99\": %lld, \"worst\": %lld}\n",
	       name, count, (long long)samples[count / 2], (long long)samples[count * 99 / 100],
	       (long long)samples[count - 1]);
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fprintf(stderr, "usage: client PATH KIND COUNT CPU\nkinds:");
		for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
			fprintf(stderr, " %s", kinds[i].name);
		fprintf(stderr, "\n");
		return 2;
	}
	const struct kind *kind = find_kind(argv[2]);
	long count = atol(argv[3]);
	int cpu = atoi(argv[4]);

	if (!kind || count < 1) {
		fprintf(stderr, "client: no such kind, or no positive count\n");
		return 2;
	}
	if (cpu >= 0)
		pin(cpu);
	int fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0)
		die(argv[1]);
	int64_t *samples = calloc(count, sizeof(*samples));
	if (!samples)
		die("calloc");
	if (kind->prepare && kind->prepare(fd))
		die(kind->name);
	for (int i = 0; i < WARM_UP; i++)
		step(kind, fd);
	for (long i = 0; i < count; i++) {
		int64_t start = now();

		step(kind, fd);
		samples[i] = now() - start;
	}
	print_summary(kind->name, samples, count);
	return 0;
}
