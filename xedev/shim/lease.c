/* SPDX-License-Identifier: MIT */
/*
 * Leases: a page of each, mapped for as long as a part of the memory that it stands for.
 *
 * The mock learns from the last mapping of a lease that a mapping of its memory ended.  A program
 * knows nothing of that page, so its munmap(2) has to be seen.
 *
 * Rows are valid at any instant, since fork(2) may copy them just when another thread changes one.
 * The lock is in a page that a child gets anew, so it is free there.
 */
#include "shim.h"

#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

_Atomic size_t lease_count;

/* ---- the lock ---- */

enum { FREE, HELD, CONTENDED };

static _Atomic(_Atomic uint32_t *) lock_page;

static _Atomic uint32_t *the_lock(void)
{
	_Atomic uint32_t *lock = lock_page, *none = NULL;
	size_t size = (size_t)getpagesize();
	long made;

	if (lock)
		return lock;
	made = raw_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (raw_failed(made))
		return NULL;
	raw_madvise((void *)made, size, MADV_WIPEONFORK);
	if (__atomic_compare_exchange_n((_Atomic uint32_t **)&lock_page, &none,
					(_Atomic uint32_t *)made, false, __ATOMIC_SEQ_CST,
					__ATOMIC_SEQ_CST))
		return (_Atomic uint32_t *)made;
	raw_munmap((void *)made, size);
	return lock_page;
}

/* Signals wait meanwhile: a handler may unmap memory, too. */
static bool lock_leases(uint64_t *signals)
{
	const uint64_t all = ~(uint64_t)0;
	_Atomic uint32_t *lock = the_lock();
	uint32_t state = FREE;

	if (!lock)
		return false;
	raw_sigmask(SIG_BLOCK, &all, signals);
	if (__atomic_compare_exchange_n((uint32_t *)lock, &state, HELD, false, __ATOMIC_ACQUIRE,
					__ATOMIC_RELAXED))
		return true;
	while (__atomic_exchange_n((uint32_t *)lock, CONTENDED, __ATOMIC_ACQUIRE) != FREE)
		raw_futex(lock, FUTEX_WAIT_PRIVATE, CONTENDED);
	return true;
}

static void unlock_leases(const uint64_t *signals)
{
	_Atomic uint32_t *lock = lock_page;

	if (__atomic_exchange_n((uint32_t *)lock, FREE, __ATOMIC_RELEASE) == CONTENDED)
		raw_futex(lock, FUTEX_WAKE_PRIVATE, 1);
	raw_sigmask(SIG_SETMASK, signals, NULL);
}

/* ---- the rows ---- */

/* Memory that is mapped, and its lease.  A row is in use while start is not 0. */
struct row {
	_Atomic uintptr_t start, end;
	void *page;
	bool barrier;
};

#define CHUNK_SIZE 4096
#define CHUNK_ROWS ((CHUNK_SIZE - sizeof(void *)) / sizeof(struct row))

/* Rows never move, for the sake of a child.  Chunks are never given back. */
struct chunk {
	struct chunk *_Atomic next;
	struct row rows[CHUNK_ROWS];
};

static struct chunk *_Atomic chunks;

#define FOR_EACH_ROW(row) \
	for (struct chunk *chunk_ = chunks; chunk_; chunk_ = chunk_->next) \
		for (struct row *row = chunk_->rows; row < chunk_->rows + CHUNK_ROWS; row++)

static struct row *free_row(void)
{
	struct chunk *chunk;
	long made;

	FOR_EACH_ROW(row)
		if (!row->start)
			return row;
	made = raw_mmap(NULL, CHUNK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);
	if (raw_failed(made))
		return NULL;
	chunk = (struct chunk *)made;
	chunk->next = chunks;
	chunks = chunk;
	return chunk->rows;
}

/* Without memory for the row the lease stays until the process ends. */
static void add_row(uintptr_t start, uintptr_t end, void *page, bool barrier)
{
	struct row *row = free_row();

	if (!row)
		return;
	row->page = page;
	row->barrier = barrier;
	row->end = end;
	row->start = start;
	lease_count++;
}

static bool has_other_row(const void *page)
{
	FOR_EACH_ROW(row)
		if (row->start && row->page == page)
			return true;
	return false;
}

static void end_row(struct row *row)
{
	void *page = row->page;

	row->start = 0;
	lease_count--;
	if (!has_other_row(page))
		raw_munmap(page, (size_t)getpagesize());
}

/* The memory of one row between start and end is gone. */
static void cut_row(struct row *row, uintptr_t start, uintptr_t end)
{
	if (row->start >= start && row->end <= end) {
		end_row(row);
	} else if (row->start >= start) {
		row->start = end;
	} else if (row->end <= end) {
		row->end = start;
	} else {
		add_row(end, row->end, row->page, row->barrier);
		row->end = start;
	}
}

/* Length of a mapping, in whole pages. */
static size_t whole_pages(size_t length)
{
	size_t mask = (size_t)getpagesize() - 1;

	return (length + mask) & ~mask;
}

static void cut_range(uintptr_t start, size_t length)
{
	uintptr_t end = start + whole_pages(length);

	FOR_EACH_ROW(row)
		if (row->start && row->start < end && row->end > start)
			cut_row(row, start, end);
}

/* ---- mappings ---- */

static long map_both(void *addr, size_t length, const struct memory *memory, int lease)
{
	/* The memory first: with MAP_FIXED the lease must not get where the memory goes. */
	long place = raw_mmap(addr, length, memory->prot, memory->flags, memory->fd,
			      memory->offset);
	long page;

	if (raw_failed(place))
		return place;
	page = raw_mmap(NULL, 1, PROT_NONE, MAP_PRIVATE, lease, 0);
	cut_range((uintptr_t)place, length);
	if (raw_failed(page)) {
		raw_munmap((void *)place, length);
		return page;
	}
	add_row((uintptr_t)place, (uintptr_t)place + whole_pages(length), (void *)page,
		memory->barrier);
	return place;
}

long lease_map(void *addr, size_t length, const struct memory *memory, int lease)
{
	uint64_t signals;
	long result;

	if (!lock_leases(&signals))
		return -ENOMEM;
	result = map_both(addr, length, memory, lease);
	unlock_leases(&signals);
	return result;
}

/* The call is made under the lock, lest another thread's memory gets there in between. */

int lease_munmap(munmap_function next, void *addr, size_t length)
{
	uint64_t signals;
	int result;

	if (!lock_leases(&signals))
		return next(addr, length);
	result = next(addr, length);
	if (!result)
		cut_range((uintptr_t)addr, length);
	unlock_leases(&signals);
	return result;
}

void *lease_replace(mmap_function next, void *addr, size_t length, int prot, int flags, int fd,
		    off_t offset)
{
	uint64_t signals;
	void *result;

	if (!lock_leases(&signals))
		return next(addr, length, prot, flags, fd, offset);
	result = next(addr, length, prot, flags, fd, offset);
	if (result != MAP_FAILED)
		cut_range((uintptr_t)result, length);
	unlock_leases(&signals);
	return result;
}

/* Without the lock: a thread that holds it may store there, too. */
void *lease_barrier_from(uintptr_t address)
{
	uintptr_t first = 0;

	FOR_EACH_ROW(row) {
		uintptr_t start = row->start;

		if (start && row->barrier && row->end > address && (!first || start < first))
			first = start;
	}
	return (void *)first;
}
