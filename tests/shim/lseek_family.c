/* lseek(2) in a dma-buf knows its beginning and its end, and moves about in other files. */
#include "shim_test.h"

int main(int argc, char **argv)
{
	int drm, fd, file = memfd_create("plain", MFD_CLOEXEC);

	CHECK(argc == 2 && file >= 0);
	drm = open_node(argv[1]);
	fd = export_bo(drm, create_bo(drm, 3 * PAGE), DRM_RDWR | DRM_CLOEXEC);
	CHECK(lseek(fd, 0, SEEK_END) == 3 * PAGE && lseek64(fd, 0, SEEK_END) == 3 * PAGE);
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	REFUSED(EINVAL, lseek(fd, 1, SEEK_SET));
	REFUSED(EINVAL, lseek64(fd, -1, SEEK_END));
	REFUSED(EINVAL, lseek(fd, 0, SEEK_CUR));
	CHECK(!ftruncate(file, 100) && lseek(file, -1, SEEK_END) == 99);
	CHECK(lseek64(file, 1, SEEK_CUR) == 100);
	REFUSED(ESPIPE, lseek(drm, 1, SEEK_SET));
	REFUSED(EBADF, lseek(-1, 1, SEEK_SET));
	return 0;
}
