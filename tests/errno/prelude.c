/*
 * Asks a device node for the errno of every case, by ioctl(2).
 *
 * Made by tests/errno/cgen.py from tests/vectors/errno_memory.json; do not edit.
 *
 * usage: errno_cases NODE PROFILE [PATTERN]
 *
 * NODE is DIR/dev/dri/renderD128 of a mount, made with two cards; PROFILE is what it was made
 * with (bmg, lnl or dg2), PATTERN a glob over the cases' names.  Each case has a freshly opened
 * descriptor.
 */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <drm/drm.h>
#include <drm/xe_drm.h>
#include "xe_mock.h"

@DECLARATIONS@
#define ON_BMG 1
#define ON_LNL 2
#define ON_DG2 4
#define MAX_PAGES 8
#define MAX_FDS 8

/* What one case has open, and what its steps saved. */
struct run {
	const char *id;
	const char *node;
	int failed;
	int drm;	/* the node */
	int other;	/* the node, opened once more; -1 until it is needed */
	int far;	/* the second card's node; -1 until it is needed */
	int null;	/* /dev/null */
	int fds[MAX_FDS];
	int fd_count;
	struct {
		char *start;
		size_t size;
	} pages[MAX_PAGES];
	int page_count;
	uintptr_t read_only;
	struct saved saved;
};

#define DRM_FD (run->drm)
#define FAR_FD (far_fd(run))
#define NULL_FD (run->null)
#define RO_PTR (run->read_only)

static int fail(struct run *run, const char *what, const char *expected, const char *got)
{
	printf("FAIL %s %s: expected %s, got %s\n", run->id, what, expected, got);
	run->failed = 1;
	return 0;
}

/* One ioctl that must answer `expected` (0: success); false when it does not. */
static int call(struct run *run, const char *what, int fd, unsigned long number, void *arg,
		int expected)
{
	int result, got;

	do
		result = ioctl(fd, number, arg);
	while (result < 0 && (errno == EINTR || errno == EAGAIN) && expected != errno);
	got = result < 0 ? errno : 0;
	return got == expected ? 1 : fail(run, what, errno_name(expected), errno_name(got));
}

static int compare(struct run *run, const char *what, int right, uint64_t got, uint64_t value)
{
	char value_text[32], got_text[32];

	if (right)
		return 1;
	snprintf(value_text, sizeof(value_text), "%#" PRIx64, value);
	snprintf(got_text, sizeof(got_text), "%#" PRIx64, got);
	return fail(run, what, value_text, got_text);
}

static int equal(struct run *run, const char *what, uint64_t got, uint64_t value)
{
	return compare(run, what, got == value, got, value);
}

static int at_least(struct run *run, const char *what, uint64_t got, uint64_t value)
{
	return compare(run, what, got >= value, got, value);
}

/* Pages of zeros, with nothing behind them. */
static void *take_pages(struct run *run, size_t size, int at_end)
{
	size_t used = (size + PAGE - 1) / PAGE * PAGE;
	char *start = mmap(NULL, used + PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (start == MAP_FAILED || run->page_count == MAX_PAGES) {
		perror("mmap");
		exit(2);
	}
	mprotect(start + used, PAGE, PROT_NONE);
	run->pages[run->page_count].start = start;
	run->pages[run->page_count++].size = used + PAGE;
	return at_end ? start + used - size : start;
}

static int open_or_exit(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		perror(path);
		exit(2);
	}
	return fd;
}

/* The node once more. */
static int other_fd(struct run *run)
{
	if (run->other < 0)
		run->other = open_or_exit(run->node);
	return run->other;
}

/* The path of something that lies beside the node. */
static const char *beside(const struct run *run, const char *name)
{
	static char path[4096];
	const char *slash = strrchr(run->node, '/');
	int length = slash ? (int)(slash - run->node) : 1;

	snprintf(path, sizeof(path), "%.*s/%s", length, slash ? run->node : ".", name);
	return path;
}

/* The second card. */
static int far_fd(struct run *run)
{
	if (run->far < 0)
		run->far = open_or_exit(beside(run, "renderD129"));
	return run->far;
}

/* Write a line to a control file of the mock. */
static int control(struct run *run, const char *name, const char *text)
{
	char file[64];
	ssize_t size = (ssize_t)strlen(text);
	int fd;

	snprintf(file, sizeof(file), "../../debug/dri/0/%s", name);
	fd = open_or_exit(beside(run, file));
	if (write(fd, text, size) != size)
		fail(run, name, "OK", errno_name(errno));
	close(fd);
	return !run->failed;
}

/* Open the descriptor that a token stands for. */
static int open_token(struct run *run, uint64_t token, uint64_t *fd)
{
	char name[64];

	snprintf(name, sizeof(name), ".xe-mock-fd/%08x", (unsigned int)token);
	if (run->fd_count == MAX_FDS)
		return fail(run, "descriptors", "less", "more than the program has room for");
	run->fds[run->fd_count] = open_or_exit(beside(run, name));
	*fd = run->fds[run->fd_count++];
	return 1;
}

static int close_fd(struct run *run, uint64_t fd)
{
	for (int i = 0; i < run->fd_count; i++)
		if (run->fds[i] == (int)fd) {
			run->fds[i] = -1;
			return !close((int)fd);
		}
	return fail(run, "close", "OK", "EBADF");
}

static void begin(struct run *run)
{
	void *page;

	run->drm = open_or_exit(run->node);
	run->other = -1;
	run->far = -1;
	run->null = open_or_exit("/dev/null");
	page = take_pages(run, PAGE, 0);
	mprotect(page, PAGE, PROT_READ);
	run->read_only = (uintptr_t)page;
}

/* The mock hears of a close after close(2) has returned: wait until nothing of ours is left. */
static void wait_until_empty(const struct run *run, const char *state_file)
{
	static const struct timespec moment = { 0, 1000000 };
	static char state[1 << 16];
	const char *path = beside(run, state_file);

	for (int tries = 0; tries < 5000; tries++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t size, used = 0;

		if (fd < 0)
			return;
		while ((size = read(fd, state + used, sizeof(state) - 1 - used)) > 0)
			used += size;
		close(fd);
		state[used] = 0;
		if (strstr(state, "\"files\": [], \"vms\": [], \"exec_queues\": [], \"bos\": []"))
			return;
		nanosleep(&moment, NULL);
	}
	fprintf(stderr, "%s: something is left behind: %s\n", run->id, state);
	exit(2);
}

static void end(struct run *run)
{
	for (int i = 0; i < run->fd_count; i++)
		if (run->fds[i] >= 0)
			close(run->fds[i]);
	if (run->other >= 0)
		close(run->other);
	if (run->far >= 0)
		close(run->far);
	close(run->null);
	close(run->drm);
	for (int i = 0; i < run->page_count; i++)
		munmap(run->pages[i].start, run->pages[i].size);
	wait_until_empty(run, "../../debug/dri/0/state");
	if (run->far >= 0)
		wait_until_empty(run, "../../debug/dri/1/state");
}

@CASES@
int main(int argc, char **argv)
{
	static const char *const profiles[] = { "bmg", "lnl", "dg2" };
	int profile = 0, ran = 0, failed = 0;
	const char *pattern = argc > 3 ? argv[3] : "*";

	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: %s NODE PROFILE [PATTERN]\n", argv[0]);
		return 2;
	}
	for (size_t i = 0; i < sizeof(profiles) / sizeof(profiles[0]); i++)
		if (!strcmp(argv[2], profiles[i]))
			profile = 1 << i;
	/* Where Yama guards memory, the daemon may read ours. */
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct run run = { .id = cases[i].id, .node = argv[1] };

		if (!(cases[i].profiles & profile) || fnmatch(pattern, run.id, 0))
			continue;
		begin(&run);
		cases[i].play(&run);
		end(&run);
		if (!run.failed)
			printf("ok %s\n", run.id);
		ran++;
		failed += run.failed;
	}
	printf("%d cases, %d failed\n", ran, failed);
	return failed || !ran;
}
