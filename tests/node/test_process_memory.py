"""Memory of another process, without a mount."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.node.fake_mount import Child
from xedev.kernel.errors import KernelError
from xedev.node import process_memory
from xedev.node.caller import ProcessCaller, read_status
from xedev.node.process_memory import ProcessMemory, lasting_memory

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)


@pytest.fixture(params=["system calls", "forbidden system calls"])
def ours(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ProcessMemory:
    """Our own memory; the second time as in a container whose seccomp filter is strict."""

    def forbidden(*_arguments: object) -> int:
        ctypes.set_errno(errno.EPERM)
        return -1

    if request.param != "system calls":
        monkeypatch.setattr(process_memory, "process_vm_readv", forbidden)
        monkeypatch.setattr(process_memory, "process_vm_writev", forbidden)
    return ProcessMemory(os.getpid())


def map_pages(count: int, protection: int) -> int:
    private_anonymous = 0x22
    length = count * mmap.PAGESIZE
    return int(_libc.mmap(None, length, protection, private_anonymous, -1, 0))


@pytest.fixture
def holed() -> Iterator[int]:
    """Address of three pages: writable, read-only, without access."""
    start = map_pages(3, mmap.PROT_READ | mmap.PROT_WRITE)
    _libc.mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, mmap.PROT_READ)
    _libc.mprotect(ctypes.c_void_p(start + 2 * mmap.PAGESIZE), mmap.PAGESIZE, 0)
    yield start
    _libc.munmap(ctypes.c_void_p(start), 3 * mmap.PAGESIZE)


@pytest.mark.parametrize("length", [1, 100, 16384, 16385, 100_000])
def test_copies_both_ways(ours: ProcessMemory, length: int) -> None:
    buffer = (ctypes.c_ubyte * length)()
    data = os.urandom(length)
    ours.write(ctypes.addressof(buffer), data)
    assert bytes(buffer) == data
    assert ours.read(ctypes.addressof(buffer), length) == data
    ours.write(ctypes.addressof(buffer), memoryview(bytes(length)).cast("B"))
    assert bytes(buffer) == bytes(length)


def test_protection(ours: ProcessMemory, holed: int) -> None:
    page = mmap.PAGESIZE
    assert ours.read(holed, 2 * page) == bytes(2 * page)
    ours.write(holed, b"x" * page)
    for address, length in ((holed, page + 1), (holed + page, 1), (holed + 2 * page, 1)):
        with pytest.raises(KernelError) as caught:
            ours.write(address, bytes(length))
        assert caught.value.errno == errno.EFAULT
    for address, length in ((holed + page, page + 1), (holed + 2 * page, 1), (8, 8)):
        with pytest.raises(KernelError) as caught:
            ours.read(address, length)
        assert caught.value.errno == errno.EFAULT


def test_nothing_is_read_from_anywhere(ours: ProcessMemory) -> None:
    for address in (0, 2**63, 2**64 - 1):
        assert ours.read(address, 0) == b""
        ours.write(address, b"")
    for address in (1 << 47, 2**63, 2**64 - 1):
        with pytest.raises(KernelError):
            ours.read(address, 1)


def test_a_process_that_is_gone() -> None:
    child = Child(lambda: 0)
    child.wait()
    for tid in (0, child.pid):
        with pytest.raises(KernelError) as caught:
            ProcessMemory(tid).read(ctypes.addressof(ctypes.c_int()), 4)
        assert caught.value.errno == errno.EFAULT
        caller = ProcessCaller(tid, 0, 0)
        assert (caller.tgid, caller.comm, caller.capable(21)) == (0, "", False)


@pytest.mark.root
def test_the_reason_says_how_to_get_access() -> None:
    value = ctypes.c_int(42)
    reader, writer = os.pipe()
    parent = os.getpid()

    def as_nobody() -> int:
        os.setresuid(65534, 65534, 65534)
        try:
            ProcessMemory(parent).read(ctypes.addressof(value), 4)
        except KernelError as error:
            os.write(writer, error.reason.encode())
            return error.errno or 0
        return 0

    assert Child(as_nobody).wait() == errno.EFAULT
    assert b"PR_SET_PTRACER" in os.read(reader, 1000)
    os.close(reader)
    os.close(writer)


def test_status_of_a_thread() -> None:
    status = read_status(os.getpid())
    assert status.tgid == os.getpid()
    assert set(os.getgroups()) == status.groups


@pytest.fixture(params=["asked", "looked up"])
def mappings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ProcessMemory:
    """Our own memory; the second time as of a kernel that cannot be asked for single mappings."""

    def unknown(_maps: int, _address: int) -> None:
        raise OSError(errno.ENOTTY, "no such query")

    if request.param != "asked":
        monkeypatch.setattr(process_memory, "_query_vma", unknown)
    return ProcessMemory(os.getpid())


def test_mappings(mappings: ProcessMemory, holed: int) -> None:
    page = mmap.PAGESIZE
    for index, rights in enumerate([(True, True), (True, False), (False, False)]):
        vma = mappings.find_vma(holed + index * page + 8)
        assert vma is not None
        assert vma.start <= holed + index * page < vma.end
        assert (vma.readable, vma.writable, vma.anonymous) == (*rights, True)


def test_the_next_mapping_after_a_hole(mappings: ProcessMemory, holed: int) -> None:
    page = mmap.PAGESIZE
    _libc.munmap(ctypes.c_void_p(holed + page), page)
    vma = mappings.find_vma(holed + page)
    assert vma is not None
    assert vma.start == holed + 2 * page
    assert mappings.find_vma((1 << 64) - page) is None


def test_a_mapped_file_is_not_anonymous(mappings: ProcessMemory) -> None:
    fd = os.memfd_create("file")
    os.ftruncate(fd, mmap.PAGESIZE)
    with mmap.mmap(fd, mmap.PAGESIZE) as memory:
        cell = ctypes.c_char.from_buffer(memory)
        vma = mappings.find_vma(ctypes.addressof(cell))
        assert vma is not None
        assert not vma.anonymous
        del cell
    os.close(fd)


def test_of_a_process_that_is_gone_nothing_is_found(mappings: ProcessMemory) -> None:
    assert ProcessMemory(0).find_vma(0) is None
    assert lasting_memory(0).find_vma(0) is None
    assert lasting_memory(0).pid == 0
    assert lasting_memory(os.getpid()).pid == mappings.pid == os.getpid()


# ---- memory that lasts ----

_CELL_THEN_CAT = """
import ctypes, os, sys
cell = ctypes.c_uint64(5)
print(ctypes.addressof(cell), flush=True)
sys.stdin.readline()
print(cell.value, flush=True)
os.execvp("cat", ["cat"])
"""


def test_lasting_memory_ends_with_the_program() -> None:
    command = [sys.executable, "-c", _CELL_THEN_CAT]
    with subprocess.Popen(command, stdin=-1, stdout=-1, bufsize=0) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        memory = lasting_memory(child.pid)
        address = int(child.stdout.readline())
        # Until here it may have been the interpreter's predecessor, the fork.
        memory = lasting_memory(child.pid)
        assert lasting_memory(child.pid) is memory
        assert memory.read_u64(address) == 5
        memory.write_u64(address, 6)
        child.stdin.write(b"go on\n")
        assert child.stdout.readline() == b"6\n"
        child.stdin.write(b"the other program\n")
        assert child.stdout.readline() == b"the other program\n"
        with pytest.raises(KernelError) as caught:
            memory.write_u64(address, 7)
        assert caught.value.errno == errno.EFAULT
        assert not memory.is_alive
        new = lasting_memory(child.pid)
        assert new is not memory
        assert new.is_alive
        child.stdin.close()
        child.wait()
        assert not new.is_alive


def test_nobody_has_no_lasting_memory() -> None:
    memory = lasting_memory(0)
    assert not memory.is_alive
    with pytest.raises(KernelError):
        memory.read_u64(4096)


def test_lasting_memory_keeps_one_descriptor_while_it_is_used() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    start = count()
    memories = [lasting_memory(os.getpid()) for _ in range(100)]
    assert count() == start + 1
    memories.clear()
    assert count() == start
