/* The stat family says what the nodes are; also the entry points that old programs use. */
#include "shim_test.h"

static const char *dri;

#define IS_NODE(status, number) \
	CHECK(S_ISCHR((status).st_mode) && (status).st_rdev == makedev(226, number))

static void by_path(const char *name, unsigned int number)
{
	const char *path = path_in(dri, name);
	struct stat status;
	struct stat64 status64;
	struct statx extended;

	CHECK(!stat(path, &status));
	IS_NODE(status, number);
	CHECK(!lstat(path, &status));
	IS_NODE(status, number);
	CHECK(!fstatat(AT_FDCWD, path, &status, 0));
	IS_NODE(status, number);
	CHECK(!stat64(path, &status64));
	IS_NODE(status64, number);
	CHECK(!lstat64(path, &status64));
	IS_NODE(status64, number);
	CHECK(!fstatat64(AT_FDCWD, path, &status64, AT_SYMLINK_NOFOLLOW));
	IS_NODE(status64, number);
	CHECK(!statx(AT_FDCWD, path, 0, STATX_SIZE, &extended));
	CHECK(S_ISCHR(extended.stx_mode));
	CHECK(extended.stx_rdev_major == 226 && extended.stx_rdev_minor == number);
}

static void by_descriptor(const char *name, unsigned int number)
{
	int directory = open(dri, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fd = openat(directory, name, O_RDWR | O_CLOEXEC);
	struct stat status;
	struct stat64 status64;
	struct statx extended;
	char link[64];

	CHECK(directory >= 0 && fd >= 0);
	CHECK(!fstat(fd, &status));
	IS_NODE(status, number);
	CHECK(!fstat64(fd, &status64));
	IS_NODE(status64, number);
	CHECK(!fstatat(fd, "", &status, AT_EMPTY_PATH));
	IS_NODE(status, number);
	CHECK(!fstatat(directory, name, &status, 0));
	IS_NODE(status, number);
	CHECK(!statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &extended));
	CHECK(S_ISCHR(extended.stx_mode) && extended.stx_rdev_minor == number);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	CHECK(!stat(link, &status));
	IS_NODE(status, number);
	CHECK(!lstat(link, &status) && S_ISLNK(status.st_mode));
	close(fd);
	close(directory);
}

static void a_link_to_a_node(void)
{
	char directory[] = "/tmp/xe-mock-shim-XXXXXX";
	const char *link;
	struct stat status;

	CHECK(mkdtemp(directory));
	link = path_in(directory, "link");
	CHECK(!symlink(path_in(dri, "card0"), link));
	CHECK(!stat(link, &status));
	IS_NODE(status, 0);
	CHECK(!lstat(link, &status) && S_ISLNK(status.st_mode));
	CHECK(!unlink(link) && !rmdir(directory));
}

static void what_is_no_node_stays(void)
{
	struct stat status;
	int drm = open_node(dri), dma_buf = export_bo(drm, create_bo(drm, PAGE), DRM_CLOEXEC);

	CHECK(!stat(dri, &status) && S_ISDIR(status.st_mode));
	CHECK(!stat(path_in(dri, "xe-mock"), &status) && S_ISREG(status.st_mode));
	CHECK(!stat(path_in(dri, "../../debug/dri/0/name"), &status) && S_ISREG(status.st_mode));
	CHECK(!fstat(dma_buf, &status) && S_ISREG(status.st_mode) && status.st_size == PAGE);
	CHECK(!stat("/dev/null", &status) && status.st_rdev == makedev(1, 3));
	CHECK(!stat("/proc/self/exe", &status) && S_ISREG(status.st_mode));
	close(dma_buf);
	close(drm);
}

static void errnos_are_those_of_the_calls(void)
{
	struct stat status;
	struct statx extended;

	REFUSED(ENOENT, stat(path_in(dri, "card7"), &status));
	REFUSED(ENOTDIR, lstat(path_in(dri, "card0/x"), &status));
	REFUSED(EBADF, fstat(-1, &status));
	REFUSED(EINVAL, fstatat(AT_FDCWD, dri, &status, 1));
	REFUSED(EFAULT, statx(AT_FDCWD, (const char *)1, 0, 0, &extended));
	errno = 77;
	CHECK(!stat(path_in(dri, "card0"), &status) && errno == 77);
}

int main(int argc, char **argv)
{
	CHECK(argc == 2);
	dri = argv[1];
	errnos_are_those_of_the_calls();
	/* The second time the answer is remembered. */
	by_path("card0", 0);
	by_path("card0", 0);
	by_path("renderD128", 128);
	by_descriptor("renderD128", 128);
	by_descriptor("card0", 0);
	a_link_to_a_node();
	what_is_no_node_stays();
	return 0;
}
