/* What programs built before glibc 2.33 call, found by name as their loader does. */
#include "shim_test.h"

#include <dlfcn.h>

#define STAT_VERSION 1

typedef int (*by_path)(int, const char *, struct stat *);
typedef int (*by_fd)(int, int, struct stat *);
typedef int (*by_both)(int, int, const char *, struct stat *, int);

static const struct stat *seen_by(const char *name, const char *path)
{
	static struct stat status;
	void *found = dlsym(RTLD_DEFAULT, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC), result;

	CHECK(found && fd >= 0);
	memset(&status, 0, sizeof(status));
	if (strstr(name, "fxstatat"))
		result = ((by_both)found)(STAT_VERSION, AT_FDCWD, path, &status, 0);
	else if (strstr(name, "fxstat"))
		result = ((by_fd)found)(STAT_VERSION, fd, &status);
	else
		result = ((by_path)found)(STAT_VERSION, path, &status);
	CHECK(!result);
	close(fd);
	return &status;
}

int main(int argc, char **argv)
{
	static const char *const names[] = {
		"__xstat", "__xstat64", "__lxstat", "__lxstat64",
		"__fxstat", "__fxstat64", "__fxstatat", "__fxstatat64",
	};
	size_t index;

	CHECK(argc == 2);
	for (index = 0; index < sizeof(names) / sizeof(*names); index++) {
		const struct stat *status = seen_by(names[index], path_in(argv[1], "renderD128"));

		CHECK(S_ISCHR(status->st_mode) && status->st_rdev == makedev(226, 128));
		CHECK(S_ISREG(seen_by(names[index], "/etc/passwd")->st_mode));
	}
	return 0;
}
