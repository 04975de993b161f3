// SPDX-License-Identifier: MIT
/*
 * Times calls that have nothing to do with DRM: with and without the preload library, to see what
 * that costs everybody else.
 *
 *   cc -O2 -o plain plain.c
 *   ./plain KIND COUNT CPU             (CPU -1: not pinned)
 *
 * fstat    of a file
 * mmap     of a page of a file, and munmap
 * ioctl    FIONREAD of a pipe
 *
 * A sample is BLOCK calls.  Prints one line of JSON, times in nanoseconds.
 */
#define _GNU_SOURCE
#define PROGRAM "plain"
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "samples.h"

#define BLOCK 100
#define WARM_UP 20	/* blocks, at most, that are not counted */
#define PAGE 4096

static int file, pipe_end;

static void call_fstat(void)
{
	struct stat st;

	if (fstat(file, &st))
		die("fstat");
}

static void call_mmap(void)
{
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

	if (page == MAP_FAILED || munmap(page, PAGE))
		die("mmap");
}

static void call_ioctl(void)
{
	int waiting;

	if (ioctl(pipe_end, FIONREAD, &waiting))
		die("ioctl");
}

static const struct kind {
	const char *name;
	void (*call)(void);
} kinds[] = {
	{ "fstat", call_fstat },
	{ "mmap", call_mmap },
	{ "ioctl", call_ioctl },
};

static const struct kind *find_kind(const char *name)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kinds[i].name, name))
			return &kinds[i];
	return NULL;
}

static int64_t block(const struct kind *kind)
{
	int64_t start = now();

	for (int i = 0; i < BLOCK; i++)
		kind->call();
	return now() - start;
}

int main(int argc, char **argv)
{
	const struct kind *kind = argc == 4 ? find_kind(argv[1]) : NULL;
	long count = kind ? atol(argv[2]) : 0;
	int ends[2];

	if (count < 1) {
		fprintf(stderr, "usage: plain fstat|mmap|ioctl COUNT CPU\n");
		return 2;
	}
	pin(atoi(argv[3]));
	file = memfd_create("bench", MFD_CLOEXEC);
	if (file < 0 || ftruncate(file, PAGE) || pipe(ends))
		die("files");
	pipe_end = ends[0];
	int64_t *samples = new_samples(count);
	for (long i = 0; i < WARM_UP && i < count; i++)
		block(kind);
	for (long i = 0; i < count; i++)
		samples[i] = block(kind);
	print_summary(kind->name, samples, count);
	return 0;
}
