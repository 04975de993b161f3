/* /proc/self/fdinfo of a node tells of the client, however it is opened. */
#include "shim_test.h"

static char text[8192];

static const char *read_all(int fd)
{
	ssize_t length;

	CHECK(fd >= 0);
	length = read(fd, text, sizeof(text) - 1);
	CHECK(length >= 0 && !close(fd));
	text[length] = '\0';
	return text;
}

static const char *read_stream(FILE *file)
{
	size_t length;

	CHECK(file);
	length = fread(text, 1, sizeof(text) - 1, file);
	text[length] = '\0';
	CHECK(!fclose(file));
	return text;
}

static void tells(const char *said)
{
	CHECK(!strncmp(said, "pos:", 4) && strstr(said, "\nmnt_id:"));
	CHECK(strstr(said, "\ndrm-driver:\txe\n") && strstr(said, "\ndrm-client-id:\t"));
	CHECK(said[strlen(said) - 1] == '\n');
}

static int client_of(int fd)
{
	char path[64];
	const char *found;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	found = strstr(read_all(open(path, O_RDONLY)), "drm-client-id:\t");
	CHECK(found);
	return atoi(found + strlen("drm-client-id:\t"));
}

/* Of a child too: it has a node of its own. */
static void of_another_process(const char *dri)
{
	int answers[2], requests[2], theirs, directory;
	char name[16], path[64];
	pid_t child;

	CHECK(!pipe(answers) && !pipe(requests));
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		theirs = open_node(dri);
		CHECK(write(answers[1], &theirs, sizeof(theirs)) == sizeof(theirs));
		CHECK(read(requests[0], &theirs, 1) == 1);
		_exit(0);
	}
	CHECK(read(answers[0], &theirs, sizeof(theirs)) == sizeof(theirs));
	snprintf(name, sizeof(name), "%d", theirs);
	snprintf(path, sizeof(path), "/proc/%d/fdinfo", child);
	directory = open(path, O_RDONLY | O_DIRECTORY);
	CHECK(directory >= 0);
	tells(read_all(openat(directory, name, O_RDONLY)));
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", child, theirs);
	tells(read_all(open(path, O_RDONLY)));
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", child, answers[1]);
	CHECK(!strstr(read_all(open(path, O_RDONLY)), "drm-"));
	REFUSED(ENOENT, openat(directory, "999", O_RDONLY));
	CHECK(write(requests[1], "", 1) == 1 && waitpid(child, NULL, 0) == child);
	REFUSED(ENOENT, open(path, O_RDONLY));
}

int main(int argc, char **argv)
{
	int drm, other, again, directory;
	char name[16], path[64], numbered[64], thread[64];

	CHECK(argc == 2);
	drm = open_node(argv[1]);
	other = open_node(argv[1]);
	again = dup(drm);
	snprintf(name, sizeof(name), "%d", drm);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", drm);
	snprintf(numbered, sizeof(numbered), "/proc/%d/fdinfo/%d", getpid(), drm);
	snprintf(thread, sizeof(thread), "/proc/self/task/%d/fdinfo/%d", getpid(), drm);
	directory = open("/proc/self/fdinfo", O_RDONLY | O_DIRECTORY);
	CHECK(directory >= 0);

	tells(read_all(open(path, O_RDONLY)));
	tells(read_all(open64(numbered, O_RDONLY)));
	tells(read_all(open(thread, O_RDONLY)));
	tells(read_all(openat(directory, name, O_RDONLY)));
	tells(read_all(openat64(AT_FDCWD, path, O_RDONLY)));
	tells(read_stream(fopen(path, "r")));
	tells(read_stream(fopen64(path, "re")));
	CHECK(client_of(drm) != client_of(other) && client_of(drm) == client_of(again));
	CHECK(fcntl(open(path, O_RDONLY | O_CLOEXEC), F_GETFD) & FD_CLOEXEC);

	/* Of other descriptors it is the kernel's own. */
	snprintf(name, sizeof(name), "%d", directory);
	CHECK(!strstr(read_all(openat(directory, name, O_RDONLY)), "drm-"));
	REFUSED(ENOENT, openat(directory, "999", O_RDONLY));
	of_another_process(argv[1]);
	CHECK(!fopen("/proc/self/fdinfo/999", "r") && errno == ENOENT);
	return 0;
}
