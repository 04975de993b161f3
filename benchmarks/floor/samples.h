/* SPDX-License-Identifier: MIT */
/*
 * What the timing programs share: the clock, one processor, and the line of JSON that a run prints.
 * The program defines _GNU_SOURCE, and PROGRAM, its name in messages.
 */
#ifndef XE_MOCK_BENCH_SAMPLES_H
#define XE_MOCK_BENCH_SAMPLES_H

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

static inline void die(const char *what)
{
	fprintf(stderr, PROGRAM ": %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Nanoseconds. */
static inline int64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* Keeps this process on one processor; a negative one stands for any. */
static inline void pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

/* The mock reads and writes our memory, which Yama may reserve to tracers. */
static inline void allow_memory_access(void)
{
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
}

static inline int64_t *new_samples(size_t count)
{
	int64_t *samples = calloc(count, sizeof(*samples));

	if (!samples)
		die("calloc");
	return samples;
}

static inline int by_size(const void *a, const void *b)
{
	int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;

	return (left > right) - (left < right);
}

static inline void print_summary(const char *name, int64_t *samples, size_t count)
{
	qsort(samples, count, sizeof(*samples), by_size);
	printf("{\"kind\": \"%s\", \"count\": %zu, \"median\": %lld, \"p99\": %lld, \"worst\": %lld}\n",
	       name, count, (long long)samples[count / 2], (long long)samples[count * 99 / 100],
	       (long long)samples[count - 1]);
}

#endif
