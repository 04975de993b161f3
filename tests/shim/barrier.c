/*
 * The page of the PCI barrier where it is to be as on the device, and whose the signals still are.
 * With a second argument: that it is an ordinary page otherwise.
 */
#include "shim_test.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/time.h>

#define NOTHING 0xdeadbeefu
#define WORDS (PAGE / sizeof(uint32_t))
#define ROUNDS 2000
#define CHILDREN 60

typedef volatile uint32_t word;

static int drm;

static void *map_barrier(void *place, int flags)
{
	struct drm_xe_gem_mmap_offset offset = { .flags = DRM_XE_MMAP_OFFSET_FLAG_PCI_BARRIER };
	void *page;

	CHECK(!ioctl(drm, DRM_IOCTL_XE_GEM_MMAP_OFFSET, &offset));
	page = mmap(place, PAGE, PROT_WRITE, MAP_SHARED | flags, drm, (off_t)offset.offset);
	CHECK(page != MAP_FAILED);
	return page;
}

static void expect_nothing(word *page)
{
	size_t index;

	for (index = 0; index < WORDS; index++)
		CHECK(page[index] == NOTHING);
}

/* ---- stores ---- */

static void stores_vanish(void)
{
	word *page = map_barrier(NULL, 0), *other = map_barrier(NULL, 0);
	size_t index;

	errno = 77;
	for (index = 0; index < WORDS; index++) {
		CHECK(page[index] == NOTHING);
		page[index] = (uint32_t)index;
		CHECK(page[index] == NOTHING);
	}
	((volatile char *)page)[5] = 1;
	((volatile uint64_t *)other)[7] = 1;
	memset((void *)page, 3, PAGE);
	CHECK(__atomic_fetch_add(page, 1, __ATOMIC_SEQ_CST) == NOTHING);
	CHECK(errno == 77);
	expect_nothing(page);
	expect_nothing(other);
	CHECK(!munmap((void *)page, PAGE));
	*other = 1;
	expect_nothing(other);
	CHECK(!munmap((void *)other, PAGE));
}

static void *store(void *page)
{
	int round;

	for (round = 0; round < ROUNDS; round++)
		((word *)page)[round % WORDS] = (uint32_t)round;
	return NULL;
}

static void threads_store_at_once(void)
{
	word *page = map_barrier(NULL, 0);
	pthread_t threads[2];
	size_t index;

	for (index = 0; index < 2; index++)
		CHECK(!pthread_create(&threads[index], NULL, store, (void *)page));
	for (index = 0; index < 2; index++)
		CHECK(!pthread_join(threads[index], NULL));
	expect_nothing(page);
	CHECK(!munmap((void *)page, PAGE));
}

static volatile bool enough;

static void *store_until_enough(void *page)
{
	while (!enough)
		store(page);
	return NULL;
}

static int wait_for(pid_t child)
{
	int status;

	CHECK(child > 0 && waitpid(child, &status, 0) == child);
	return status;
}

/* They come into being at any point of the store of another thread. */
static void children_store(void)
{
	word *page = map_barrier(NULL, 0);
	pthread_t thread;
	int index;

	CHECK(!pthread_create(&thread, NULL, store_until_enough, (void *)page));
	for (index = 0; index < CHILDREN; index++) {
		pid_t child = fork();

		if (!child) {
			expect_nothing(page);
			page[3] = 1;
			expect_nothing(page);
			_exit(0);
		}
		CHECK(!wait_for(child));
	}
	enough = true;
	CHECK(!pthread_join(thread, NULL));
	CHECK(!munmap((void *)page, PAGE));
}

static word *alarmed;

static void on_alarm(int number)
{
	*alarmed = (uint32_t)number;
	CHECK(*alarmed == NOTHING);
}

static void a_handler_stores_too(void)
{
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	struct itimerval often = { { 0, 300 }, { 0, 300 } }, never = { { 0, 0 }, { 0, 0 } };

	alarmed = map_barrier(NULL, 0);
	CHECK(!sigaction(SIGALRM, &action, NULL) && !setitimer(ITIMER_REAL, &often, NULL));
	store((void *)alarmed);
	CHECK(!setitimer(ITIMER_REAL, &never, NULL));
	expect_nothing(alarmed);
	CHECK(!munmap((void *)alarmed, PAGE));
}

/* ---- faults of the program's own ---- */

static sigjmp_buf back;
static void *fault_at;
static bool blocked;

static void on_fault(int number, siginfo_t *info, void *context)
{
	sigset_t mask;

	(void)context;
	CHECK(!sigprocmask(SIG_BLOCK, NULL, &mask));
	blocked = sigismember(&mask, number) && sigismember(&mask, SIGUSR2) &&
		  (number == SIGBUS || !sigismember(&mask, SIGUSR1));
	fault_at = info->si_addr;
	siglongjmp(back, 1);
}

static void handle_faults(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };

	sigaddset(&action.sa_mask, SIGUSR2);
	CHECK(!sigaction(SIGSEGV, &action, NULL) && !sigaction(SIGBUS, &action, NULL));
}

/* A store of eight bytes, aligned or not, that the program's handler is told of. */
static void refused_store(void *place, void *address)
{
	sigset_t mask;

	fault_at = NULL;
	if (!sigsetjmp(back, 1)) {
		__asm__ volatile("movq $1, (%0)" : : "r"(place) : "memory");
		CHECK(!"refused");
	}
	CHECK(fault_at == address && blocked);
	CHECK(!sigprocmask(SIG_BLOCK, NULL, &mask) && !sigismember(&mask, SIGALRM));
}

static void a_store_across_the_end(void)
{
	char *room = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *end = room + PAGE;

	CHECK(room != MAP_FAILED && map_barrier(room, MAP_FIXED) == room);
	__asm__ volatile("movq $-1, (%0)" : : "r"(end - 4) : "memory");
	CHECK(*(word *)(void *)end == UINT32_MAX);
	expect_nothing((word *)(void *)room);
	CHECK(!mprotect(end, PAGE, PROT_READ));
	refused_store(end - 4, end);
	expect_nothing((word *)(void *)room);
	((word *)(void *)room)[1] = 1;
	expect_nothing((word *)(void *)room);
	CHECK(map_barrier(end, MAP_FIXED) == end);
	__asm__ volatile("movq $-1, (%0)" : : "r"(end - 4) : "memory");
	expect_nothing((word *)(void *)room);
	expect_nothing((word *)(void *)end);
	CHECK(!munmap(room, 2 * PAGE));
}

/* The handler does not come back to a store that it was told of in the middle. */
static void a_store_into_what_is_gone_besides(void)
{
	char *room = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int empty = memfd_create("empty", MFD_CLOEXEC);
	char *end = room + PAGE;
	sigset_t mask = { 0 }, before;

	CHECK(room != MAP_FAILED && map_barrier(room, MAP_FIXED) == room);
	CHECK(mmap(end, PAGE, RW, MAP_SHARED | MAP_FIXED, empty, 0) == end);
	refused_store(end - 4, end);
	sigaddset(&mask, SIGUSR1);
	CHECK(!sigprocmask(SIG_BLOCK, &mask, NULL));
	stores_vanish();
	CHECK(!sigprocmask(SIG_UNBLOCK, &mask, &before) && sigismember(&before, SIGUSR1));
	((word *)(void *)room)[1] = 1;
	expect_nothing((word *)(void *)room);
	CHECK(!munmap(room, 2 * PAGE) && !close(empty));
}

static void other_memory_that_can_only_be_read(void)
{
	uint32_t handle = create_bo(drm, PAGE);
	void *place = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, drm, mmap_offset(drm, handle));

	CHECK(place != MAP_FAILED);
	refused_store(place, place);
	CHECK(!munmap(place, PAGE));
	close_bo(drm, handle);
}

static void a_page_that_was_the_barrier(void)
{
	void *page = map_barrier(NULL, 0), *again;

	*(word *)page = 1;
	CHECK(!munmap(page, PAGE));
	refused_store(page, page);
	again = mmap(page, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(again == page);
	refused_store(page, page);
	CHECK(!munmap(page, PAGE));
	page = map_barrier(NULL, 0);
	CHECK(mmap(page, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page);
	refused_store(page, page);
	CHECK(!munmap(page, PAGE));
}

/* ---- what is done by default ---- */

static void fault(void)
{
	*(volatile int *)16 = 1;
}

static void trap(void)
{
	__asm__ volatile("int3");
}

static void be_sent(void)
{
	kill(getpid(), SIGSEGV);
}

/* In a child that comes before any page: how it ends when it had this handler for both signals. */
static int end_of(void (*act)(void), sighandler_t handler)
{
	pid_t child = fork();

	if (!child) {
		word *page;

		CHECK(signal(SIGSEGV, handler) != SIG_ERR && signal(SIGTRAP, handler) != SIG_ERR);
		page = map_barrier(NULL, 0);
		*page = 1;
		act();
		*page = 2;
		_exit(*page != NOTHING);
	}
	return wait_for(child);
}

static void defaults(void)
{
	const struct rlimit none = { 0, 0 };

	CHECK(!setrlimit(RLIMIT_CORE, &none));
	CHECK(end_of(fault, SIG_DFL) == SIGSEGV);
	CHECK(end_of(fault, SIG_IGN) == SIGSEGV);
	CHECK(end_of(trap, SIG_DFL) == SIGTRAP);
	CHECK(end_of(be_sent, SIG_DFL) == SIGSEGV);
	CHECK(end_of(be_sent, SIG_IGN) == 0);
}

static void an_ordinary_page(void)
{
	word *page = map_barrier(NULL, 0);

	page[2] = 5;
	CHECK(page[2] == 5);
	CHECK(!munmap((void *)page, PAGE));
}

int main(int argc, char **argv)
{
	CHECK(argc >= 2);
	drm = open_node(argv[1]);
	if (argc == 3) {
		an_ordinary_page();
		return 0;
	}
	defaults();
	handle_faults();
	stores_vanish();
	threads_store_at_once();
	children_store();
	a_handler_stores_too();
	a_store_across_the_end();
	a_store_into_what_is_gone_besides();
	other_memory_that_can_only_be_read();
	a_page_that_was_the_barrier();
	return 0;
}
