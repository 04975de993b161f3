/* SPDX-License-Identifier: MIT */
/* Tokens: numbers that stand for descriptors which the mock could not install in its client. */
#include "shim.h"
#include "xe_mock.h"

#define DRI "/dev/dri"

/* Appends the name of a token. */
static bool add_token(char *path, size_t size, uint32_t token)
{
	static const char digits[] = "0123456789abcdef";
	char name[9];
	int index;

	for (index = 0; index < 8; index++)
		name[index] = digits[token >> (28 - 4 * index) & 15];
	name[8] = '\0';
	return text_add(path, size, "/") && text_add(path, size, name);
}

/* Where tokens are opened beside what fd is: a node, or what was a token itself. */
static bool directory_beside(int fd, char *path, size_t size)
{
	char *name;

	if (!text_path_of(fd, path, size))
		return false;
	name = strrchr(path, '/');
	if (!name)
		return false;
	*name = '\0';
	name = strrchr(path, '/');
	if (name && !strcmp(name + 1, XE_MOCK_FD_DIR))
		return true;
	return text_add(path, size, "/" XE_MOCK_FD_DIR);
}

static int open_retrying(const char *path, int flags)
{
	int fd;

	do
		fd = raw_openat(AT_FDCWD, path, flags, 0);
	while (fd == -EINTR);
	return fd;
}

int token_open(int fd, uint32_t token, int flags)
{
	char path[MOCK_PATH_MAX];
	struct stat status;
	int opened = -ENOENT;

	if (directory_beside(fd, path, sizeof(path)) && add_token(path, sizeof(path), token))
		opened = open_retrying(path, flags);
	if (opened != -ENOENT && opened != -ENOTDIR)
		return opened;
	/* The descriptor is of another directory, as sw_sync is, or came from somewhere else. */
	path[0] = '\0';
	text_add(path, sizeof(path), DRI "/" XE_MOCK_FD_DIR);
	add_token(path, sizeof(path), token);
	return raw_fstat(fd, &status) ? -ENOENT : mock_open(status.st_dev, path, flags);
}
