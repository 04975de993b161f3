/* ioctls that return a descriptor return a real one, opened as the kernel does. */
#include "shim_test.h"

#include <linux/dma-buf.h>
#include <linux/sync_file.h>
#include <poll.h>
#include <sys/resource.h>

struct sw_sync_create_fence_data {
	uint32_t value;
	char name[32];
	int32_t fence;
};

#define SW_SYNC_IOC_CREATE_FENCE _IOWR('W', 0, struct sw_sync_create_fence_data)
#define SW_SYNC_IOC_INC _IOW('W', 1, uint32_t)

static const char *dri;
static int drm;

static int closes_on_exec(int fd)
{
	return fcntl(fd, F_GETFD) & FD_CLOEXEC;
}

static void a_dma_buf(void)
{
	uint32_t handle = create_bo(drm, PAGE);
	int plain = export_bo(drm, handle, 0), both = export_bo(drm, handle, DRM_RDWR | DRM_CLOEXEC);
	struct drm_prime_handle prime = { .fd = both };

	CHECK(!closes_on_exec(plain) && (fcntl(plain, F_GETFL) & O_ACCMODE) == O_RDONLY);
	CHECK(closes_on_exec(both) && (fcntl(both, F_GETFL) & O_ACCMODE) == O_RDWR);
	CHECK(!ioctl(drm, DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime) && prime.handle == handle);
	prime.handle = 77;
	REFUSED(ENOENT, ioctl(drm, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime));
	CHECK(!close(plain) && !close(both));
	close_bo(drm, handle);
}

static void the_lowest_number_is_taken(void)
{
	uint32_t handle = create_bo(drm, PAGE);
	int free_one = dup(drm), fd;

	CHECK(free_one >= 0 && !close(free_one));
	fd = export_bo(drm, handle, DRM_CLOEXEC);
	CHECK(fd == free_one && !close(fd));
	close_bo(drm, handle);
}

static void there_may_be_no_number_left(void)
{
	struct drm_prime_handle prime = { .handle = create_bo(drm, PAGE) };
	struct rlimit before, none;

	CHECK(!getrlimit(RLIMIT_NOFILE, &before));
	none = before;
	none.rlim_cur = 0;
	CHECK(!setrlimit(RLIMIT_NOFILE, &none));
	REFUSED(EMFILE, ioctl(drm, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime));
	CHECK(prime.fd == -1);
	CHECK(!setrlimit(RLIMIT_NOFILE, &before));
	close_bo(drm, prime.handle);
}

static uint32_t create_syncobj(uint32_t flags)
{
	struct drm_syncobj_create create = { .flags = flags };

	CHECK(!ioctl(drm, DRM_IOCTL_SYNCOBJ_CREATE, &create));
	return create.handle;
}

static void a_syncobj(void)
{
	struct drm_syncobj_handle arg = { .handle = create_syncobj(0) };

	CHECK(!ioctl(drm, DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, &arg));
	CHECK(arg.fd < 1024 && closes_on_exec(arg.fd));
	CHECK(!ioctl(drm, DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, &arg));
	CHECK(!close(arg.fd));
}

static int export_fence(void)
{
	struct drm_syncobj_handle arg = {
		.handle = create_syncobj(DRM_SYNCOBJ_CREATE_SIGNALED),
		.flags = DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE,
	};

	CHECK(!ioctl(drm, DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, &arg));
	CHECK(arg.fd < 1024 && closes_on_exec(arg.fd));
	return arg.fd;
}

static int ready(int fd)
{
	struct pollfd one = { .fd = fd, .events = POLLIN };

	return poll(&one, 1, 0);
}

static void sync_files_are_merged(void)
{
	int first = export_fence(), second = export_fence();
	struct sync_merge_data merge = { .name = "both", .fd2 = second };

	CHECK(!ioctl(first, SYNC_IOC_MERGE, &merge));
	CHECK(merge.fence >= 0 && merge.fence < 1024 && closes_on_exec(merge.fence));
	CHECK(ready(merge.fence) == 1);
	CHECK(!close(merge.fence) && !close(first) && !close(second));
}

static void a_timeline_of_ones_own(void)
{
	int timeline = open(path_in(dri, "../../debug/sync/sw_sync"), O_RDWR | O_CLOEXEC);
	struct sw_sync_create_fence_data create = { .value = 1, .name = "one" };
	uint32_t step = 1;

	CHECK(timeline >= 0 && !ioctl(timeline, SW_SYNC_IOC_CREATE_FENCE, &create));
	CHECK(create.fence >= 0 && create.fence < 1024 && closes_on_exec(create.fence));
	CHECK(!ready(create.fence));
	CHECK(!ioctl(timeline, SW_SYNC_IOC_INC, &step));
	CHECK(ready(create.fence) == 1);
	CHECK(!close(create.fence) && !close(timeline));
}

static void other_ioctls_are_left_alone(void)
{
	int ends[2], waiting;

	CHECK(!pipe(ends) && write(ends[1], "four", 4) == 4);
	CHECK(!ioctl(ends[0], FIONREAD, &waiting) && waiting == 4);
	CHECK(!ioctl(ends[0], FIOCLEX));
	REFUSED(ENOTTY, ioctl(ends[0], DRM_IOCTL_PRIME_HANDLE_TO_FD, NULL));
	REFUSED(EBADF, ioctl(-1, FIONREAD, &waiting));
	REFUSED(EFAULT, ioctl(drm, DRM_IOCTL_PRIME_HANDLE_TO_FD, NULL));
	close(ends[0]);
	close(ends[1]);
}

int main(int argc, char **argv)
{
	CHECK(argc == 2);
	dri = argv[1];
	drm = open_node(dri);
	a_dma_buf();
	the_lowest_number_is_taken();
	there_may_be_no_number_left();
	a_syncobj();
	sync_files_are_merged();
	a_timeline_of_ones_own();
	other_ioctls_are_left_alone();
	return 0;
}
