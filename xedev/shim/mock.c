/* SPDX-License-Identifier: MIT */
/*
 * Which files are a mock's.
 *
 * The mount table tells which device numbers are mounts of a mock, wherever they are mounted and
 * bound.  The name of a node tells its minor number.  Both are asked once for each device and
 * inode number, and only for a file whose inode number is as large as those of a mock.
 */
#include "shim.h"

#include <string.h>
#include <sys/sysmacros.h>

#define FUSE_TYPE "fuse.xe-mock"
#define MOUNTINFO "/proc/self/mountinfo"

/* ---- the mount table ---- */

/* A line of it; what is too long for the buffer is lost. */
struct mount_lines {
	int fd;
	size_t at, filled;
	char buffer[2048];
	char line[MOCK_PATH_MAX];
};

struct mount_line {
	dev_t device;
	char *root;	/* directory of the file system that is mounted */
	char *point;	/* where it is mounted */
	char *type;
};

static int next_byte(struct mount_lines *lines)
{
	if (lines->at == lines->filled) {
		long got = raw_read(lines->fd, lines->buffer, sizeof(lines->buffer));

		if (got <= 0)
			return -1;
		lines->filled = (size_t)got;
		lines->at = 0;
	}
	return (unsigned char)lines->buffer[lines->at++];
}

static bool next_line(struct mount_lines *lines)
{
	size_t length = 0;
	int byte;

	while ((byte = next_byte(lines)) >= 0 && byte != '\n')
		if (length + 1 < sizeof(lines->line))
			lines->line[length++] = (char)byte;
	lines->line[length] = '\0';
	return byte >= 0;
}

/* Cuts the next word off; an empty one at the end. */
static char *next_word(char **rest)
{
	char *word = *rest, *end = word;

	while (*end && *end != ' ')
		end++;
	*rest = *end ? end + 1 : end;
	*end = '\0';
	return word;
}

/* Undoes the octal escapes of the kernel, in place. */
static void unescape(char *text)
{
	char *out = text;

	while (*text) {
		if (text[0] == '\\' && text[1] && text[2] && text[3]) {
			*out++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 |
					(text[3] - '0'));
			text += 4;
		} else {
			*out++ = *text++;
		}
	}
	*out = '\0';
}

static dev_t parse_device(char *text)
{
	char *colon = text;
	int high, low;

	while (*colon && *colon != ':')
		colon++;
	if (!*colon)
		return 0;
	*colon = '\0';
	high = text_number(text);
	low = text_number(colon + 1);
	return high < 0 || low < 0 ? 0 : makedev((unsigned int)high, (unsigned int)low);
}

/* proc(5): ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [MORE...] - TYPE SOURCE OPTIONS */
static void parse_line(char *line, struct mount_line *mount)
{
	char *word;

	next_word(&line);
	next_word(&line);
	mount->device = parse_device(next_word(&line));
	mount->root = next_word(&line);
	mount->point = next_word(&line);
	do
		word = next_word(&line);
	while (*word && strcmp(word, "-"));
	mount->type = next_word(&line);
	unescape(mount->root);
	unescape(mount->point);
}

/* The next mount of a mock that has this device number. */
static bool next_mount(struct mount_lines *lines, dev_t device, struct mount_line *mount)
{
	while (next_line(lines)) {
		parse_line(lines->line, mount);
		if (mount->device == device && !strcmp(mount->type, FUSE_TYPE))
			return true;
	}
	return false;
}

static bool open_mounts(struct mount_lines *lines)
{
	lines->fd = raw_openat(AT_FDCWD, MOUNTINFO, O_RDONLY | O_CLOEXEC, 0);
	lines->at = lines->filled = 0;
	return lines->fd >= 0;
}

static RARE bool is_mounted(dev_t device)
{
	struct mount_lines lines;
	struct mount_line mount;
	bool found;

	if (!open_mounts(&lines))
		return false;
	found = next_mount(&lines, device, &mount);
	raw_close(lines.fd);
	return found;
}

/* ---- devices ---- */

#define SLOTS 64

/* Each is a device number, shifted, and the verdict; 0 is none.  A newer one takes its slot. */
static _Atomic uint64_t devices[SLOTS];

bool mock_device(dev_t device)
{
	_Atomic uint64_t *slot = &devices[minor(device) % SLOTS];
	uint64_t known = *slot;

	if (known >> 2 != device || !known) {
		known = (uint64_t)device << 2 | (is_mounted(device) ? 3 : 1);
		*slot = known;
	}
	return known & 2;
}

bool mock_fd(int fd)
{
	struct stat status;

	return fd >= 0 && !raw_fstat(fd, &status) &&
	       mock_maybe(major(status.st_dev), status.st_mode, status.st_ino) &&
	       mock_device(status.st_dev);
}

/* ---- nodes ---- */

#define CHANGING 1	/* no mock has this inode number */

/* Minor numbers by inode number.  The minor is valid while the number is what it was before. */
static struct {
	_Atomic uint64_t ino;
	_Atomic int minor;
} nodes[SLOTS];

static int minor_of_name(const char *name)
{
	static const char *const prefixes[] = { "card", "renderD" };
	size_t index;

	for (index = 0; index < sizeof(prefixes) / sizeof(*prefixes); index++) {
		size_t length = strlen(prefixes[index]);

		if (!strncmp(name, prefixes[index], length))
			return text_number(name + length);
	}
	return -1;
}

static int minor_of_path(const char *path)
{
	const char *name = strrchr(path, '/');

	return name ? minor_of_name(name + 1) : -1;
}

/* Looks at the name of what fd, or a path at it, is.  -1 also when it is not that inode any more. */
static RARE int ask_minor(ino_t ino, int fd, const char *path, int flags)
{
	char name[MOCK_PATH_MAX];
	struct stat status;
	int found = -1, opened = -1;

	if (path) {
		opened = raw_openat(fd, path, O_PATH | O_CLOEXEC | flags, 0);
		if (opened < 0)
			return -1;
		fd = opened;
	}
	if (!raw_fstat(fd, &status) && status.st_ino == ino && text_path_of(fd, name, sizeof(name)))
		found = minor_of_path(name);
	if (opened >= 0)
		raw_close(opened);
	return found;
}

/* Keeps the minor, unless another thread is at the same slot. */
static void remember_minor(size_t slot, uint64_t ino, int minor)
{
	uint64_t old = nodes[slot].ino;

	if (old == CHANGING || !__atomic_compare_exchange_n((uint64_t *)&nodes[slot].ino, &old,
							    CHANGING, false, __ATOMIC_SEQ_CST,
							    __ATOMIC_SEQ_CST))
		return;
	nodes[slot].minor = minor;
	nodes[slot].ino = ino;
}

int mock_minor(dev_t device, ino_t ino, int fd, const char *path, int flags)
{
	size_t slot = ino % SLOTS;
	int minor;

	if (!mock_device(device))
		return -1;
	if (nodes[slot].ino == ino) {
		minor = nodes[slot].minor;
		if (nodes[slot].ino == ino)
			return minor;
	}
	minor = ask_minor(ino, fd, path, flags);
	if (minor >= 0)
		remember_minor(slot, ino, minor);
	return minor;
}

/* ---- paths ---- */

/* The path below a directory of the file system: "" for itself, NULL when it is elsewhere. */
static const char *path_below(const char *root, const char *path)
{
	size_t length = strlen(root);

	if (length == 1)
		return path;
	if (strncmp(root, path, length) || (path[length] && path[length] != '/'))
		return NULL;
	return path + length;
}

static int open_on(dev_t device, const char *path, int flags)
{
	struct stat status;
	int fd = raw_openat(AT_FDCWD, path, flags, 0);

	if (fd < 0)
		return fd;
	/* Another file system may have been mounted over it. */
	if (!raw_fstat(fd, &status) && status.st_dev == device)
		return fd;
	raw_close(fd);
	return -ENOENT;
}

RARE int mock_open(dev_t device, const char *path, int flags)
{
	struct mount_lines lines;
	struct mount_line mount;
	char whole[MOCK_PATH_MAX];
	int result = -ENOENT;

	if (!open_mounts(&lines))
		return -ENOENT;
	while (result == -ENOENT && next_mount(&lines, device, &mount)) {
		const char *rest = path_below(mount.root, path);

		whole[0] = '\0';
		if (rest && text_add(whole, sizeof(whole), mount.point) &&
		    text_add(whole, sizeof(whole), rest))
			result = open_on(device, whole, flags);
	}
	raw_close(lines.fd);
	return result;
}
