/* SPDX-License-Identifier: MIT */
/* Paths and numbers, without the C library. */
#include "shim.h"

bool text_add(char *buffer, size_t size, const char *text)
{
	size_t at = 0;

	while (buffer[at])
		at++;
	while (*text && at + 1 < size)
		buffer[at++] = *text++;
	buffer[at] = '\0';
	return !*text;
}

void text_fd(char *buffer, const char *directory, int fd)
{
	char digits[12];
	size_t at = sizeof(digits) - 1;
	unsigned int rest = (unsigned int)fd;

	digits[at] = '\0';
	do
		digits[--at] = (char)('0' + rest % 10);
	while (rest /= 10);
	buffer[0] = '\0';
	text_add(buffer, 64, directory);
	text_add(buffer, 64, digits + at);
}

int text_number(const char *text)
{
	int number = 0, digits;

	for (digits = 0; text[digits]; digits++) {
		if (text[digits] < '0' || text[digits] > '9' || digits == 9)
			return -1;
		number = number * 10 + (text[digits] - '0');
	}
	return digits ? number : -1;
}

bool text_path_of(int fd, char *path, size_t size)
{
	char link[64];
	long length;

	if (fd < 0)
		return false;
	text_fd(link, "/proc/self/fd/", fd);
	length = raw_readlink(link, path, size);
	if (length <= 0 || (size_t)length == size)
		return false;
	path[length] = '\0';
	return true;
}
