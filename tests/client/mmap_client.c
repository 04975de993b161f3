/*
 * Maps buffer objects of an xe-mock node through xe_mock.h.  argv[1] is the node.
 *
 * Prints a line for each stage and waits for one on its standard input after it.
 */
#define _GNU_SOURCE
#include "xe_mock.h"

#include <dirent.h>
#include <drm/drm.h>
#include <drm/xe_drm.h>
#include <stdlib.h>
#include <sys/wait.h>

#define PAGE 4096

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, strerror(errno)); \
			exit(1); \
		} \
	} while (0)

/* The call fails with this errno. */
#define REFUSED(error, call) CHECK((errno = 0, (call) == -1) && errno == (error))

static int drm;
static struct xe_mock_mapping none;

static void stage(const char *name)
{
	char line[16];

	puts(name);
	fflush(stdout);
	CHECK(fgets(line, sizeof(line), stdin));
}

static uint32_t create(uint64_t size)
{
	struct drm_xe_gem_create arg = {
		.size = size,
		.placement = 1,
		.cpu_caching = DRM_XE_GEM_CPU_CACHING_WB,
	};

	CHECK(!xe_mock_ioctl(drm, DRM_IOCTL_XE_GEM_CREATE, &arg));
	return arg.handle;
}

static uint64_t offset_of(uint32_t handle)
{
	struct drm_xe_gem_mmap_offset arg = { .handle = handle };

	CHECK(!xe_mock_ioctl(drm, DRM_IOCTL_XE_GEM_MMAP_OFFSET, &arg));
	return arg.offset;
}

static void destroy(uint32_t handle)
{
	struct drm_gem_close arg = { .handle = handle };

	CHECK(!xe_mock_ioctl(drm, DRM_IOCTL_GEM_CLOSE, &arg));
}

static int export(uint32_t handle, uint32_t flags)
{
	struct drm_prime_handle arg = { .handle = handle, .flags = flags };

	CHECK(!xe_mock_ioctl(drm, DRM_IOCTL_PRIME_HANDLE_TO_FD, &arg));
	CHECK((uint32_t)arg.fd >= XE_MOCK_TOKEN_BASE);
	return xe_mock_open_token(drm, (uint32_t)arg.fd, O_RDWR | O_CLOEXEC);
}

static int open_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	int count = 0;

	CHECK(directory);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

static int map(struct xe_mock_mapping *mapping, size_t length, int fd, uint64_t offset)
{
	return xe_mock_map(mapping, NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
}

static void two_mappings_show_the_same(void)
{
	uint32_t handle = create(2 * PAGE);
	uint64_t offset = offset_of(handle);
	int before = open_descriptors();
	struct xe_mock_mapping one, two;

	CHECK(!map(&one, 2 * PAGE, drm, offset));
	CHECK(!map(&two, PAGE + 1, drm, offset));
	CHECK(open_descriptors() == before);
	strcpy((char *)one.addr + PAGE - 2, "over");
	CHECK(!strcmp((char *)two.addr + PAGE - 2, "over"));
	CHECK(!xe_mock_unmap(&one));
	CHECK(!strcmp((char *)two.addr + PAGE - 2, "over"));
	CHECK(!xe_mock_unmap(&two));
	destroy(handle);
}

static void a_child_shares_the_mapping(void)
{
	uint32_t handle = create(PAGE);
	struct xe_mock_mapping mapping;
	int status;
	pid_t child;

	CHECK(!map(&mapping, PAGE, drm, offset_of(handle)));
	child = fork();
	if (!child) {
		strcpy((char *)mapping.addr, "child");
		_exit(xe_mock_unmap(&mapping));
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(!strcmp((char *)mapping.addr, "child"));
	CHECK(!xe_mock_unmap(&mapping));
	destroy(handle);
}

static void the_place_can_be_fixed(void)
{
	uint32_t handle = create(PAGE);
	struct xe_mock_mapping mapping;
	char *room = (char *)mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(room != MAP_FAILED);
	memset(room, 'r', 3 * PAGE);
	CHECK(!xe_mock_map(&mapping, room + PAGE, PAGE, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_FIXED, drm, offset_of(handle)));
	CHECK(mapping.addr == room + PAGE && !room[PAGE]);
	CHECK(room[PAGE - 1] == 'r' && room[2 * PAGE] == 'r');
	CHECK(!xe_mock_unmap(&mapping));
	munmap(room, 3 * PAGE);
	destroy(handle);
}

static void a_reader_may_become_a_writer(void)
{
	uint32_t handle = create(PAGE);
	uint64_t offset = offset_of(handle);
	struct xe_mock_mapping shared, private;

	CHECK(!xe_mock_map(&shared, NULL, PAGE, PROT_READ, MAP_SHARED, drm, offset));
	CHECK(!xe_mock_map(&private, NULL, PAGE, PROT_READ, MAP_PRIVATE, drm, offset));
	CHECK(!mprotect(shared.addr, PAGE, PROT_READ | PROT_WRITE));
	strcpy((char *)shared.addr, "stored");
	CHECK(!strcmp((char *)private.addr, "stored"));
	REFUSED(EACCES, mprotect(private.addr, PAGE, PROT_READ | PROT_WRITE));
	CHECK(!xe_mock_unmap(&shared));
	CHECK(!xe_mock_unmap(&private));
	destroy(handle);
}

static void errnos(const char *node)
{
	uint32_t handle = create(PAGE);
	uint64_t offset = offset_of(handle);
	int other = open(node, O_RDWR | O_CLOEXEC);
	int before = open_descriptors();

	CHECK(other >= 0);
	REFUSED(EINVAL, map(&none, PAGE + 1, drm, offset));
	REFUSED(EINVAL, map(&none, 0, drm, offset));
	REFUSED(EINVAL, map(&none, PAGE, drm, offset + 1));
	REFUSED(EINVAL, map(&none, PAGE, drm, offset + PAGE));
	REFUSED(EINVAL, xe_mock_map(&none, NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, drm,
				    offset));
	REFUSED(EINVAL, xe_mock_map(&none, NULL, PAGE, PROT_READ, 0, drm, offset));
	REFUSED(EACCES, map(&none, PAGE, other, offset));
	REFUSED(EBADF, map(&none, PAGE, -1, offset));
	REFUSED(ENOENT, xe_mock_open_token(drm, XE_MOCK_TOKEN_BASE + 0xffffff, O_RDWR));
	CHECK(open_descriptors() == before);
	close(other);
	destroy(handle);
}

static void a_dma_buf(void)
{
	uint32_t handle = create(2 * PAGE);
	int fd = export(handle, DRM_RDWR | DRM_CLOEXEC);
	struct xe_mock_mapping bo, second;

	CHECK(fd >= 0 && lseek(fd, 0, SEEK_END) == 2 * PAGE);
	CHECK(!map(&bo, 2 * PAGE, drm, offset_of(handle)));
	CHECK(!map(&second, PAGE, fd, PAGE));
	REFUSED(EINVAL, map(&none, 2 * PAGE, fd, PAGE));
	close(fd);
	strcpy((char *)bo.addr + PAGE, "second");
	CHECK(!strcmp((char *)second.addr, "second"));
	CHECK(!xe_mock_unmap(&bo));
	CHECK(!xe_mock_unmap(&second));
	destroy(handle);
}

static void what_is_no_mock_is_mapped_itself(void)
{
	int fd = memfd_create("plain", MFD_CLOEXEC);
	struct xe_mock_mapping mapping;

	CHECK(fd >= 0 && !ftruncate(fd, PAGE) && pwrite(fd, "plain", 5, 0) == 5);
	CHECK(!map(&mapping, PAGE, fd, 0));
	CHECK(!mapping.lease && !memcmp(mapping.addr, "plain", 5));
	CHECK(!xe_mock_unmap(&mapping));
	REFUSED(EINVAL, map(&none, PAGE, fd, 1));
	close(fd);
}

static void a_mapping_keeps_the_bo(void)
{
	uint32_t handle = create(PAGE);
	struct xe_mock_mapping mapping;

	CHECK(!map(&mapping, PAGE, drm, offset_of(handle)));
	strcpy((char *)mapping.addr, "kept");
	destroy(handle);
	close(drm);
	stage("mapped");
	CHECK(!strcmp((char *)mapping.addr, "kept"));
	CHECK(!xe_mock_unmap(&mapping));
	stage("unmapped");
}

int main(int argc, char **argv)
{
	CHECK(argc == 2);
	drm = open(argv[1], O_RDWR | O_CLOEXEC);
	CHECK(drm >= 0);
	two_mappings_show_the_same();
	a_child_shares_the_mapping();
	the_place_can_be_fixed();
	a_reader_may_become_a_writer();
	errnos(argv[1]);
	a_dma_buf();
	what_is_no_mock_is_mapped_itself();
	a_mapping_keeps_the_bo();
	return 0;
}
