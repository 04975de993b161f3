/* SPDX-License-Identifier: MIT */
/*
 * System calls without the C library.
 *
 * The library's own work goes this way: it may run in a signal handler, before the C library is
 * set up, and below wrappers of other libraries.  Nothing here touches errno; a failure is the
 * negative errno.
 */
#ifndef XE_MOCK_RAW_H
#define XE_MOCK_RAW_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
/* The C library's checking variants are inline functions by the names that are wrapped here. */
#undef _FORTIFY_SOURCE
/* Two variants of each function are wrapped, neither is to be renamed to the other. */
#undef _FILE_OFFSET_BITS

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>

#if defined(__x86_64__)
static inline long raw_call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
static inline long raw_call(long number, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}
#else
#error "only x86_64 and aarch64"
#endif

/* Whether a raw call's result, also one that is an address, is an error. */
static inline int raw_failed(long result)
{
	return (unsigned long)result > -4096UL;
}

static inline int raw_openat(int dir, const char *path, int flags, unsigned int mode)
{
	return (int)raw_call(SYS_openat, dir, (long)path, flags, mode, 0, 0);
}

static inline void raw_close(int fd)
{
	raw_call(SYS_close, fd, 0, 0, 0, 0, 0);
}

static inline long raw_read(int fd, void *buffer, size_t size)
{
	return raw_call(SYS_read, fd, (long)buffer, (long)size, 0, 0, 0);
}

static inline long raw_write(int fd, const void *buffer, size_t size)
{
	return raw_call(SYS_write, fd, (long)buffer, (long)size, 0, 0, 0);
}

static inline long raw_lseek(int fd, off_t offset, int whence)
{
	return raw_call(SYS_lseek, fd, offset, whence, 0, 0, 0);
}

static inline long raw_readlink(const char *path, char *buffer, size_t size)
{
	return raw_call(SYS_readlinkat, AT_FDCWD, (long)path, (long)buffer, (long)size, 0, 0);
}

/* The kernel's struct stat is the C library's on these machines. */
static inline int raw_fstat(int fd, struct stat *status)
{
	return (int)raw_call(SYS_fstat, fd, (long)status, 0, 0, 0, 0);
}

static inline int raw_fstatat(int dir, const char *path, struct stat *status, int flags)
{
	return (int)raw_call(SYS_newfstatat, dir, (long)path, (long)status, flags, 0, 0);
}

static inline int raw_statx(int dir, const char *path, int flags, unsigned int mask, void *out)
{
	return (int)raw_call(SYS_statx, dir, (long)path, flags, mask, (long)out, 0);
}

static inline long raw_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return raw_call(SYS_mmap, (long)addr, (long)length, prot, flags, fd, offset);
}

static inline int raw_munmap(void *addr, size_t length)
{
	return (int)raw_call(SYS_munmap, (long)addr, (long)length, 0, 0, 0, 0);
}

static inline int raw_mprotect(void *addr, size_t length, int prot)
{
	return (int)raw_call(SYS_mprotect, (long)addr, (long)length, prot, 0, 0, 0);
}

static inline int raw_madvise(void *addr, size_t length, int advice)
{
	return (int)raw_call(SYS_madvise, (long)addr, (long)length, advice, 0, 0, 0);
}

static inline long raw_ioctl(int fd, unsigned long request, void *argument)
{
	return raw_call(SYS_ioctl, fd, (long)request, (long)argument, 0, 0, 0);
}

static inline int raw_getfl(int fd)
{
	return (int)raw_call(SYS_fcntl, fd, F_GETFL, 0, 0, 0, 0);
}

static inline int raw_memfd(const char *name, unsigned int flags)
{
	return (int)raw_call(SYS_memfd_create, (long)name, flags, 0, 0, 0, 0);
}

static inline int raw_getpid(void)
{
	return (int)raw_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
}

/* By number: headers of before Linux 5.6 name neither. */
static inline int raw_pidfd_open(int pid)
{
	return (int)raw_call(434, pid, 0, 0, 0, 0, 0);
}

static inline int raw_pidfd_getfd(int process, int fd)
{
	return (int)raw_call(438, process, fd, 0, 0, 0, 0);
}

/* mask is the kernel's sigset_t: one bit a signal. */
static inline void raw_sigmask(int how, const uint64_t *mask, uint64_t *old)
{
	raw_call(SYS_rt_sigprocmask, how, (long)mask, (long)old, sizeof(*mask), 0, 0);
}

/* Both are the kernel's struct sigaction. */
static inline void raw_sigaction(int number, const void *action, void *old)
{
	raw_call(SYS_rt_sigaction, number, (long)action, (long)old, sizeof(uint64_t), 0, 0);
}

/* Sends this thread a signal as it came to it; info is a siginfo_t. */
static inline void raw_tgsigqueue(int number, const void *info)
{
	raw_call(SYS_rt_tgsigqueueinfo, raw_getpid(), raw_call(SYS_gettid, 0, 0, 0, 0, 0, 0),
		 number, (long)info, 0, 0);
}

static inline void raw_futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
	raw_call(SYS_futex, (long)word, operation, value, 0, 0, 0);
}

#endif
