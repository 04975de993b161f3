/* SPDX-License-Identifier: MIT */
/*
 * User memory that the GPU works on (VM_BIND_OP_MAP_USERPTR).
 *
 * The kernel lets no process unmap it before the jobs that use it are done: its MMU notifiers ask
 * the driver.  Nobody asks the mock, so the library does it, before such memory goes and after.
 *
 * A row may stand for too much, for memory that is not bound any more, and in a child for memory of
 * its parent: the mock knows better, and what it knows nothing of is forgotten here.
 */
#include "shim.h"
#include "xe_mock.h"

_Atomic bool userptr_used;

/* ---- the rows ---- */

#define ROWS 64
#define CHANGING 1	/* no memory begins there */

/* A row is in use while start is not 0. */
static struct userptr_row {
	_Atomic uintptr_t start, end;
	_Atomic int fd;	/* of the device; may be closed by now, or be another file */
} rows[ROWS];

#define FOR_EACH_ROW(row) \
	for (struct userptr_row *row = rows; row < rows + ROWS; row++)

static bool swap(_Atomic uintptr_t *place, uintptr_t old, uintptr_t new)
{
	return __atomic_compare_exchange_n((uintptr_t *)place, &old, new, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_SEQ_CST);
}

static bool covers(const struct userptr_row *row, uintptr_t start, uintptr_t end, int fd)
{
	return row->start > CHANGING && row->start <= start && row->end >= end && row->fd == fd;
}

static bool take_row(uintptr_t start, uintptr_t end, int fd)
{
	FOR_EACH_ROW(row) {
		if (row->start || !swap(&row->start, 0, CHANGING))
			continue;
		row->end = end;
		row->fd = fd;
		row->start = start;
		return true;
	}
	return false;
}

/* All rows are taken: one of the same device is made longer, or the first one. */
static void widen_row(uintptr_t start, uintptr_t end, int fd)
{
	struct userptr_row *longer = rows;

	FOR_EACH_ROW(row)
		if (row->fd == fd)
			longer = row;
	longer->fd = fd;
	if (longer->end < end)
		longer->end = end;
	if (longer->start > start)
		longer->start = start;
}

static void note(uintptr_t start, uintptr_t length, int fd)
{
	uintptr_t end = start + length;

	if (!start || end <= start)
		return;
	FOR_EACH_ROW(row)
		if (covers(row, start, end, fd))
			return;
	if (!take_row(start, end, fd))
		widen_row(start, end, fd);
	userptr_used = true;
}

/* ---- VM_BIND ---- */

#define OP_MAP_USERPTR 2

/* struct drm_xe_vm_bind_op */
struct bind_op {
	uint64_t extensions;
	uint32_t obj;
	uint16_t pat_index, pad;
	uint64_t userptr, range, addr;
	uint32_t op, flags;
	uint64_t rest[4];
};

/* The beginning of struct drm_xe_vm_bind. */
struct bind {
	uint64_t extensions;
	uint32_t vm_id, exec_queue_id, pad, num_binds;
	union {
		struct bind_op bind;
		uint64_t vector_of_binds;
	};
};

RARE void userptr_bound(int fd, const void *argument)
{
	const struct bind *bind = argument;
	const struct bind_op *op = &bind->bind;
	uint32_t index;

	if (bind->num_binds == 1 && op->op != OP_MAP_USERPTR)
		return;
	if (!mock_fd(fd))
		return;
	if (bind->num_binds > 1)
		op = (const struct bind_op *)(uintptr_t)bind->vector_of_binds;
	for (index = 0; index < bind->num_binds; index++, op++)
		if (op->op == OP_MAP_USERPTR)
			note((uintptr_t)op->userptr, (uintptr_t)op->range, fd);
}

/* ---- changes ---- */

/* Not interruptible, as in the kernel. */
static long notify(int fd, struct xe_mock_mmu_notify *question)
{
	uint64_t cookie = question->cookie;
	long result;

	do {
		question->cookie = cookie;
		result = raw_ioctl(fd, XE_MOCK_IOCTL_MMU_NOTIFY, question);
	} while (result == -EINTR || result == -EAGAIN);
	return result;
}

static uint64_t begin_at(int fd, uintptr_t start, uintptr_t end)
{
	struct xe_mock_mmu_notify question;

	if (!mock_fd(fd))
		return 0;
	memset(&question, 0, sizeof(question));
	question.address = start;
	question.length = end - start;
	return notify(fd, &question) ? 0 : question.cookie;
}

static bool was_asked(const struct userptr_change *change, int fd)
{
	size_t index;

	for (index = 0; index < change->count; index++)
		if (change->fd[index] == fd)
			return true;
	return false;
}

static bool begin_row(struct userptr_change *change, const struct userptr_row *row, uintptr_t start,
		      uintptr_t end)
{
	int fd = row->fd;
	uint64_t cookie;

	if (was_asked(change, fd) || change->count == USERPTR_DEVICES)
		return true;
	cookie = begin_at(fd, start, end);
	if (!cookie)
		return false;
	change->fd[change->count] = fd;
	change->cookie[change->count++] = cookie;
	return true;
}

RARE void userptr_begin(struct userptr_change *change, const void *addr, size_t length)
{
	uintptr_t mask = (uintptr_t)getpagesize() - 1;
	uintptr_t start = (uintptr_t)addr & ~mask;
	uintptr_t end = ((uintptr_t)addr + length + mask) & ~mask;

	change->count = 0;
	FOR_EACH_ROW(row) {
		uintptr_t row_start = row->start;

		if (row_start <= CHANGING || row_start >= end || row->end <= start)
			continue;
		/* Asked for all of the row if it may be forgotten by that. */
		if (!begin_row(change, row, start, end) && row_start >= start && row->end <= end)
			swap(&row->start, row_start, 0);
	}
}

RARE void userptr_end(const struct userptr_change *change)
{
	size_t index;

	for (index = 0; index < change->count; index++) {
		struct xe_mock_mmu_notify question;

		memset(&question, 0, sizeof(question));
		question.cookie = change->cookie[index];
		notify(change->fd[index], &question);
	}
}
