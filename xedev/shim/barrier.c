/* SPDX-License-Identifier: MIT */
/*
 * The PCI barrier page as the device has it: stores vanish, and every load gives 0xdeadbeef.
 *
 * Only where XE_MOCK_STRICT_BARRIER asks for it, since it takes SIGSEGV and SIGTRAP.  The page can
 * only be read.  A store faults; it is let through by one step of the processor, after which the
 * page is as it was.
 *
 * Threads know nothing of each other here: each opens the page for its own step and closes it
 * after that.  Whose store comes when another one has just closed it faults once more.
 */
#include "shim.h"

bool barrier_strict;

#if defined(__x86_64__)

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define PAGE ((size_t)4096)
#define CONTENTS 0xdeadbeefu

/* In older C libraries' headers there is none. */
#define DONTNEED_LOCKED 24

/* ---- the page ---- */

int barrier_memory(void)
{
	uint32_t page[PAGE / sizeof(uint32_t)];
	int fd = raw_memfd("xe-mock-barrier", MFD_CLOEXEC);
	long written;
	size_t index;

	if (fd < 0)
		return fd;
	for (index = 0; index < sizeof(page) / sizeof(*page); index++)
		page[index] = CONTENTS;
	written = raw_write(fd, page, sizeof(page));
	if (written == sizeof(page))
		return fd;
	raw_close(fd);
	return written < 0 ? (int)written : -ENOSPC;
}

/* This process' own copy of the page goes; the file's is what it was. */
static void restore(void *page)
{
	if (raw_madvise(page, PAGE, DONTNEED_LOCKED))
		raw_madvise(page, PAGE, MADV_DONTNEED);
}

/* At once for the sake of who reads, and again for what another thread stored meanwhile. */
static void close_page(void *page)
{
	restore(page);
	raw_mprotect(page, PAGE, PROT_READ);
	restore(page);
}

static bool open_page(void *page)
{
	return !raw_mprotect(page, PAGE, PROT_READ | PROT_WRITE);
}

/* ---- one step ---- */

#define TRAP_FLAG 0x100
#define WRITTEN 2	/* in the error code of a page fault */
#define STEP_PAGES 2	/* one store may touch so many */

#define BIT(number) ((uint64_t)1 << ((number) - 1))
/* What an instruction itself may raise.  All else waits: a handler may never come back. */
#define OF_INSTRUCTIONS \
	(BIT(SIGSEGV) | BIT(SIGTRAP) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGILL) | BIT(SIGSYS))

/* Of a thread between its fault and its trap. */
struct step {
	size_t count;	/* pages; 0 for no step */
	void *pages[STEP_PAGES];
	uint64_t signals;	/* that were blocked */
};

static __thread struct step step __attribute__((tls_model("initial-exec")));

/* The kernel's mask is shorter than the C library's; what stands behind is not the kernel's. */
static uint64_t mask_of(const ucontext_t *context)
{
	uint64_t mask;

	memcpy(&mask, &context->uc_sigmask, sizeof(mask));
	return mask;
}

static void set_mask(ucontext_t *context, uint64_t mask)
{
	memcpy(&context->uc_sigmask, &mask, sizeof(mask));
}

static bool add_page(void *page)
{
	size_t index;

	for (index = 0; index < step.count; index++)
		if (step.pages[index] == page)
			return true;
	if (step.count == STEP_PAGES)
		return false;
	step.pages[step.count++] = page;
	return true;
}

static bool begin_step(ucontext_t *context, void *page)
{
	if (!step.count)
		step.signals = mask_of(context);
	if (!add_page(page) || !open_page(page))
		return false;
	set_mask(context, ~OF_INSTRUCTIONS | step.signals);
	context->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
	return true;
}

static void close_pages(void)
{
	while (step.count)
		close_page(step.pages[--step.count]);
}

static void end_step(ucontext_t *context)
{
	close_pages();
	set_mask(context, step.signals);
	context->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
}

/* A handler of the program's for what the instruction raised besides did not come back to it. */
static bool was_left(const ucontext_t *context)
{
	return step.count && !(context->uc_mcontext.gregs[REG_EFL] & TRAP_FLAG);
}

/* ---- whose signal it was before ---- */

typedef void (*signal_handler)(int, siginfo_t *, void *);

/* As the kernel has it. */
struct action {
	uintptr_t handler;	/* or one of those below */
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

static struct action fault_action, trap_action;	/* the program's */

#define DEFAULT ((uintptr_t)SIG_DFL)
#define IGNORE ((uintptr_t)SIG_IGN)

/* What is done by default, once the handler returns. */
static void leave_to_kernel(int number, const siginfo_t *info)
{
	const struct action standard = { .handler = DEFAULT };

	raw_sigaction(number, &standard, NULL);
	raw_tgsigqueue(number, info);
}

static void call(struct action *action, int number, siginfo_t *info, ucontext_t *context)
{
	signal_handler handler = (signal_handler)action->handler;
	uint64_t mask = mask_of(context) | action->mask;

	if (!(action->flags & SA_NODEFER))
		mask |= BIT(number);
	if (action->flags & SA_RESETHAND)
		action->handler = DEFAULT;
	raw_sigmask(SIG_SETMASK, &mask, NULL);
	handler(number, info, context);
}

/* A fault cannot be ignored, but what somebody sent can. */
static void pass_on(struct action *action, int number, siginfo_t *info, ucontext_t *context)
{
	if (action->handler == IGNORE && info->si_code <= 0)
		return;
	if (action->handler == IGNORE || action->handler == DEFAULT)
		leave_to_kernel(number, info);
	else
		call(action, number, info, context);
}

/* ---- the signals ---- */

static void *barrier_at(uintptr_t address)
{
	void *page = lease_barrier_from(address);

	return (uintptr_t)page <= address ? page : NULL;
}

/* The page that a store was refused to, or NULL when it is another fault. */
static void *barrier_stored_to(const siginfo_t *info, const ucontext_t *context)
{
	if (info->si_code != SEGV_ACCERR || !(context->uc_mcontext.gregs[REG_ERR] & WRITTEN))
		return NULL;
	return barrier_at((uintptr_t)info->si_addr);
}

static void on_fault(int number, siginfo_t *info, void *data)
{
	ucontext_t *context = data;
	void *page = barrier_stored_to(info, context);

	if (was_left(context))
		close_pages();
	if (page && begin_step(context, page))
		return;
	/* The same instruction may fault elsewhere. */
	if (step.count)
		end_step(context);
	pass_on(&fault_action, number, info, context);
}

/* Virtual machines do not always say that it was a step, and a store is no breakpoint. */
static bool is_of_step(const siginfo_t *info)
{
	return step.count && info->si_code > 0 && info->si_code <= TRAP_HWBKPT;
}

static void on_trap(int number, siginfo_t *info, void *data)
{
	if (is_of_step(info))
		end_step(data);
	else
		pass_on(&trap_action, number, info, data);
}

/* ---- taking them ---- */

/* As the C library's, by which debuggers know the frame. */
__asm__(".text\n"
	".type xe_mock_restore, @function\n"
	".hidden xe_mock_restore\n"
	"nop\n"
	"xe_mock_restore:\n"
	"	mov $15, %rax\n"
	"	syscall\n"
	".size xe_mock_restore, . - xe_mock_restore\n");
void xe_mock_restore(void);

#define RESTORER 0x04000000	/* the kernel's SA_RESTORER */

/* More than one thread may come here at once: they all find the same. */
static void take(int number, signal_handler handler, struct action *before)
{
	struct action found, action = {
		.handler = (uintptr_t)handler,
		.flags = RESTORER | SA_SIGINFO,
		.restorer = xe_mock_restore,
		.mask = ~(uint64_t)0,
	};

	raw_sigaction(number, NULL, &found);
	if (found.handler == action.handler)
		return;
	*before = found;
	/* On the stack, and to the system calls, that the program's handler would want. */
	action.flags |= found.handler == DEFAULT ? SA_ONSTACK
						 : found.flags & (SA_ONSTACK | SA_RESTART);
	raw_sigaction(number, &action, NULL);
}

/* Once: a handler that the program sets later may call ours. */
void barrier_take_signals(void)
{
	static _Atomic bool taken;

	if (taken)
		return;
	take(SIGSEGV, on_fault, &fault_action);
	take(SIGTRAP, on_trap, &trap_action);
	taken = true;
}

/* ---- fork ---- */

/* In a child that came while another thread had the page open. */
static void close_all(void)
{
	char *page = NULL;

	while ((page = lease_barrier_from((uintptr_t)page))) {
		close_page(page);
		page += PAGE;
	}
}

/* What pthread_atfork(3) is made of; that itself is in another library in old systems. */
extern int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void),
			     void *object) __attribute__((weak));

__attribute__((constructor)) static void look_at_environment(void)
{
	const char *value = getenv("XE_MOCK_STRICT_BARRIER");

	barrier_strict = value && *value && strcmp(value, "0");
	if (barrier_strict && __register_atfork)
		__register_atfork(NULL, NULL, close_all, NULL);
}

#else

int barrier_memory(void)
{
	return -ENOSYS;
}

void barrier_take_signals(void)
{
}

#endif
