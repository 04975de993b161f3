// SPDX-License-Identifier: MIT
/*
 * The least that a FUSE server in C can cost: one file, "node", whose ioctls all answer 0 and
 * which takes and gives any number of bytes.  One thread, no locks, no look at the arguments.
 *
 *   cc -O2 -o floor floor.c $(pkg-config --cflags --libs fuse)
 *   ./floor -f -s DIR
 *
 * It unmounts and ends when the thread that started it does.
 */
#define FUSE_USE_VERSION 26
#include <errno.h>
#include <fuse.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>

static int floor_getattr(const char *path, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_nlink = 1;
	if (!strcmp(path, "/")) {
		st->st_mode = S_IFDIR | 0755;
		return 0;
	}
	if (strcmp(path, "/node"))
		return -ENOENT;
	st->st_mode = S_IFREG | 0666;
	return 0;
}

static int floor_open(const char *path, struct fuse_file_info *fi)
{
	fi->direct_io = 1;
	fi->nonseekable = 1;
	return 0;
}

static int floor_read(const char *path, char *buf, size_t size, off_t offset,
		      struct fuse_file_info *fi)
{
	memset(buf, 0, size);
	return size;
}

static int floor_write(const char *path, const char *buf, size_t size, off_t offset,
		       struct fuse_file_info *fi)
{
	return size;
}

static int floor_ioctl(const char *path, int cmd, void *arg, struct fuse_file_info *fi,
		       unsigned int flags, void *data)
{
	return 0;
}

static const struct fuse_operations floor_operations = {
	.getattr = floor_getattr,
	.open = floor_open,
	.read = floor_read,
	.write = floor_write,
	.ioctl = floor_ioctl,
	.flag_nopath = 1,
	.flag_nullpath_ok = 1,
};

int main(int argc, char **argv)
{
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	return fuse_main(argc, argv, &floor_operations, NULL);
}
