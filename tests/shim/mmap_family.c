/* mmap(2) and munmap(2) of nodes and dma-bufs: the memory, the errnos, and what lives how long. */
#include "shim_test.h"

static int drm;

static void *map_at(void *addr, size_t length, int flags, int fd, off_t offset)
{
	return mmap(addr, length, RW, MAP_SHARED | flags, fd, offset);
}

static void two_mappings_show_the_same(void)
{
	uint32_t handle = create_bo(drm, 2 * PAGE);
	off_t offset = mmap_offset(drm, handle);
	char *one, *two;

	errno = 77;
	one = map_at(NULL, 2 * PAGE, 0, drm, offset);
	two = mmap64(NULL, PAGE + 1, PROT_READ, MAP_SHARED, drm, offset);
	CHECK(one != MAP_FAILED && two != MAP_FAILED && errno == 77);
	strcpy(one + PAGE - 2, "over");
	CHECK(!strcmp(two + PAGE - 2, "over"));
	CHECK(!munmap(one, 2 * PAGE) && !munmap(two, PAGE + 1));
	close_bo(drm, handle);
}

static void memory_that_is_only_written(void)
{
	uint32_t handle = create_bo(drm, PAGE);
	char *place = mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, drm, mmap_offset(drm, handle));

	CHECK(place != MAP_FAILED);
	strcpy(place, "written");
	CHECK(!strcmp(place, "written"));
	CHECK(!munmap(place, PAGE));
	close_bo(drm, handle);
}

static void the_place_can_be_fixed(void)
{
	uint32_t handle = create_bo(drm, PAGE);
	off_t offset = mmap_offset(drm, handle);
	char *room = mmap(NULL, 3 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(room != MAP_FAILED);
	memset(room, 'r', 3 * PAGE);
	/* A refusal leaves what was there. */
	REFUSED(EINVAL, map_at(room + PAGE, PAGE, MAP_FIXED, drm, offset + PAGE));
	CHECK(room[PAGE] == 'r');
	CHECK(map_at(room + PAGE, PAGE, MAP_FIXED, drm, offset) == room + PAGE);
	CHECK(room[PAGE - 1] == 'r' && !room[PAGE] && room[2 * PAGE] == 'r');
	/* Another mapping in its place ends it. */
	CHECK(mmap(room + PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      room + PAGE);
	CHECK(!munmap(room, 3 * PAGE));
	close_bo(drm, handle);
}

static void parts_can_be_unmapped(void)
{
	uint32_t handle = create_bo(drm, 4 * PAGE);
	char *place = map_at(NULL, 4 * PAGE, 0, drm, mmap_offset(drm, handle));

	CHECK(place != MAP_FAILED);
	CHECK(!munmap(place + PAGE, PAGE));
	strcpy(place, "first");
	strcpy(place + 3 * PAGE, "last");
	CHECK(!munmap(place, PAGE));
	CHECK(!strcmp(place + 3 * PAGE, "last"));
	CHECK(!munmap(place, 4 * PAGE));
	close_bo(drm, handle);
}

static void a_dma_buf(void)
{
	uint32_t handle = create_bo(drm, 2 * PAGE);
	int fd = export_bo(drm, handle, DRM_RDWR | DRM_CLOEXEC);
	int readable = export_bo(drm, handle, DRM_CLOEXEC);
	char *whole = map_at(NULL, 2 * PAGE, 0, drm, mmap_offset(drm, handle));
	char *second = map_at(NULL, PAGE, 0, fd, PAGE);

	CHECK(whole != MAP_FAILED && second != MAP_FAILED);
	REFUSED(EINVAL, map_at(NULL, 2 * PAGE, 0, fd, PAGE));
	REFUSED(EACCES, map_at(NULL, PAGE, 0, readable, 0));
	strcpy(whole + PAGE, "second");
	CHECK(!strcmp(second, "second"));
	close(fd);
	close(readable);
	CHECK(!munmap(whole, 2 * PAGE) && !munmap(second, PAGE));
	close_bo(drm, handle);
}

static void errnos_are_the_drivers(void)
{
	uint32_t handle = create_bo(drm, PAGE);
	off_t offset = mmap_offset(drm, handle);

	REFUSED(EINVAL, map_at(NULL, PAGE + 1, 0, drm, offset));
	REFUSED(EINVAL, map_at(NULL, 0, 0, drm, offset));
	REFUSED(EINVAL, map_at(NULL, PAGE, 0, drm, offset + 1));
	REFUSED(EINVAL, mmap(NULL, PAGE, RW, MAP_PRIVATE, drm, offset));
	REFUSED(EBADF, map_at(NULL, PAGE, 0, -1, offset));
	close_bo(drm, handle);
}

static void what_is_no_mock_is_mapped_itself(void)
{
	int fd = memfd_create("plain", MFD_CLOEXEC), zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
	char *place;

	CHECK(fd >= 0 && !ftruncate(fd, PAGE) && pwrite(fd, "plain", 5, 0) == 5);
	place = map_at(NULL, PAGE, 0, fd, 0);
	CHECK(place != MAP_FAILED && !memcmp(place, "plain", 5));
	CHECK(!munmap(place, PAGE));
	place = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	CHECK(place != MAP_FAILED && !memcmp(place, "plain", 5));
	CHECK(!munmap(place, PAGE));
	place = mmap(NULL, PAGE, RW, MAP_PRIVATE, zero, 0);
	CHECK(place != MAP_FAILED && !munmap(place, PAGE));
	REFUSED(EINVAL, munmap((void *)1, PAGE));
	/* What cannot be mapped at all says so as ever: a directory. */
	REFUSED(ENODEV, mmap(NULL, PAGE, PROT_READ, MAP_SHARED, open("/", O_RDONLY | O_CLOEXEC), 0));
	close(fd);
	close(zero);
}

static void a_child_has_its_own(void)
{
	uint32_t handle = create_bo(drm, PAGE);
	char *place = map_at(NULL, PAGE, 0, drm, mmap_offset(drm, handle));
	pid_t child;
	int status;

	CHECK(place != MAP_FAILED);
	child = fork();
	if (!child) {
		strcpy(place, "child");
		_exit(munmap(place, PAGE));
	}
	CHECK(waitpid(child, &status, 0) == child && !status);
	CHECK(!strcmp(place, "child"));
	CHECK(!munmap(place, PAGE));
	close_bo(drm, handle);
}

static void a_mapping_keeps_the_memory(void)
{
	uint32_t handle = create_bo(drm, PAGE);
	char *place = map_at(NULL, PAGE, 0, drm, mmap_offset(drm, handle));

	CHECK(place != MAP_FAILED);
	strcpy(place, "kept");
	close_bo(drm, handle);
	close(drm);
	CHECK(!strcmp(place, "kept"));
	/* The test looks at the device, before and after the end. */
	puts("mapped");
	fflush(stdout);
	CHECK(getchar() == '\n');
	CHECK(!strcmp(place, "kept") && !munmap(place, PAGE));
	puts("unmapped");
	fflush(stdout);
	CHECK(getchar() == '\n');
}

int main(int argc, char **argv)
{
	CHECK(argc == 2);
	drm = open_node(argv[1]);
	two_mappings_show_the_same();
	memory_that_is_only_written();
	the_place_can_be_fixed();
	parts_can_be_unmapped();
	a_dma_buf();
	errnos_are_the_drivers();
	what_is_no_mock_is_mapped_itself();
	a_child_has_its_own();
	a_mapping_keeps_the_memory();
	return 0;
}
