/* Threads, fork, vfork, exec, dup and signals, while mappings and descriptors come and go. */
#include "shim_test.h"

#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>

#define THREADS 8
#define ROUNDS 40

extern char **environ;

static const char *dri;
static int drm;
static char *program;

static void use_a_bo(int fd)
{
	uint32_t handle = create_bo(fd, 2 * PAGE);
	char *place = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, mmap_offset(fd, handle));
	int dma_buf = export_bo(fd, handle, DRM_RDWR | DRM_CLOEXEC);
	char *shared = mmap(NULL, PAGE, RW, MAP_SHARED, dma_buf, PAGE);

	CHECK(place != MAP_FAILED && shared != MAP_FAILED);
	CHECK(!close(dma_buf));
	memset(place, 1, 2 * PAGE);
	CHECK(shared[PAGE - 1] == 1);
	CHECK(!munmap(place, 2 * PAGE) && !munmap(shared, PAGE));
	close_bo(fd, handle);
}

static void *work(void *argument)
{
	int round;

	(void)argument;
	for (round = 0; round < ROUNDS; round++) {
		struct stat status;

		use_a_bo(drm);
		CHECK(!fstat(drm, &status) && S_ISCHR(status.st_mode));
	}
	return NULL;
}

static void expect_success(pid_t child)
{
	int status;

	CHECK(child > 0 && waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
}

static void threads_and_children(void)
{
	pthread_t threads[THREADS];
	int index;

	for (index = 0; index < THREADS; index++)
		CHECK(!pthread_create(&threads[index], NULL, work, NULL));
	/* Children come into being at any point of the others' work. */
	for (index = 0; index < ROUNDS; index++) {
		pid_t child = fork();

		if (!child) {
			use_a_bo(drm);
			_exit(0);
		}
		expect_success(child);
	}
	for (index = 0; index < THREADS; index++)
		CHECK(!pthread_join(threads[index], NULL));
}

static void a_vforked_child(void)
{
	pid_t child = vfork();

	if (!child) {
		struct stat status;

		_exit(fstat(drm, &status) || !S_ISCHR(status.st_mode));
	}
	expect_success(child);
}

static void another_program(void)
{
	char *arguments[] = { program, (char *)dri, (char *)"again", NULL };
	int inherited = dup2(drm, 100);
	pid_t child;

	CHECK(inherited == 100);
	CHECK(!posix_spawn(&child, program, NULL, NULL, arguments, environ));
	expect_success(child);
	close(inherited);
}

static void as_another_program(void)
{
	struct stat status;

	CHECK(!fstat(100, &status) && S_ISCHR(status.st_mode));
	use_a_bo(100);
}

static void send_fd(int socket, int fd)
{
	char byte = 0, room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1,
				  .msg_control = room, .msg_controllen = sizeof(room) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	CHECK(sendmsg(socket, &message, 0) == 1);
}

static int receive_fd(int socket)
{
	char byte, room[CMSG_SPACE(sizeof(int))];
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1,
				  .msg_control = room, .msg_controllen = sizeof(room) };
	int fd;

	CHECK(recvmsg(socket, &message, 0) == 1);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	return fd;
}

static void a_dma_buf_through_a_socket(void)
{
	uint32_t handle = create_bo(drm, PAGE);
	char *place = mmap(NULL, PAGE, RW, MAP_SHARED, drm, mmap_offset(drm, handle));
	int ends[2];
	pid_t child;

	CHECK(place != MAP_FAILED && !socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	child = fork();
	if (!child) {
		int fd = receive_fd(ends[1]);
		char *shared = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);

		CHECK(shared != MAP_FAILED);
		strcpy(shared, "received");
		_exit(0);
	}
	send_fd(ends[0], export_bo(drm, handle, DRM_RDWR | DRM_CLOEXEC));
	expect_success(child);
	CHECK(!strcmp(place, "received") && !munmap(place, PAGE));
	close_bo(drm, handle);
}

static void handler(int number)
{
	struct stat status;
	void *place = mmap(NULL, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)number;
	if (place == MAP_FAILED || munmap(place, PAGE) || fstat(drm, &status) ||
	    !S_ISCHR(status.st_mode))
		_exit(9);
}

static void a_handler_at_any_time(void)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
	pid_t parent = getpid(), child;

	CHECK(!sigaction(SIGUSR1, &action, NULL));
	child = fork();
	if (!child)
		for (;;) {
			if (kill(parent, SIGUSR1) || getppid() != parent)
				_exit(0);
			usleep(200);
		}
	work(NULL);
	CHECK(!kill(child, SIGKILL) && waitpid(child, NULL, 0) == child);
}

int main(int argc, char **argv)
{
	CHECK(argc >= 2);
	program = argv[0];
	dri = argv[1];
	if (argc == 3) {
		as_another_program();
		return 0;
	}
	drm = open_node(dri);
	a_vforked_child();
	another_program();
	a_dma_buf_through_a_socket();
	threads_and_children();
	a_handler_at_any_time();
	return 0;
}
