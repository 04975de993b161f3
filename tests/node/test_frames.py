"""The server's side of the write/read protocol."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node.fake_mount import Child, eventually
from uapi import drm
from uapi.ioctl import IO, IOC, IOC_NONE, IOC_SIZE, IOR, IOW, IOWR
from uapi.xe_mock import (
    XE_MOCK_FRAME_MAX,
    XE_MOCK_REPLY_MAGIC,
    XE_MOCK_REQUEST_MAGIC,
    XE_MOCK_WINDOW_IN,
    XE_MOCK_WINDOW_OUT,
    Reply,
    Window,
    pack_request,
    peek_length,
    unpack_reply,
)
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.files import POLLIN, POLLOUT, File
from xedev.kernel.user_memory import TASK_SIZE_MAX
from xedev.node.frames import BACKLOG_BYTES, BACKLOG_REPLIES, FrameFile, WindowMemory
from xedev.node.local import LocalTransport
from xedev.xe.xe_device import XeDevice

IN, OUT = XE_MOCK_WINDOW_IN, XE_MOCK_WINDOW_OUT
ADD_ONE = IOWR("t", 1, 8)
COPY = IOW("t", 2, 24)  # u64 from, to, length
FAIL = IOWR("t", 3, 8)
CRASH = IOWR("t", 4, 8)
FILL = IOR("t", 5, 8)
NOTHING = IO("t", 6)
BIG = IOW("t", 8, 24)
_NOTHING = ctypes.c_uint64()


@dataclass
class FakeFile(File):
    """Does what it is asked, and remembers it."""

    calls: list[tuple[int, bytes]] = field(default_factory=list)
    released: int = 0

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        size = IOC_SIZE(cmd) if data else 0
        self.calls.append((cmd, ctypes.string_at(data, size)))
        if cmd == CRASH:
            raise ZeroDivisionError("a bug")
        return self._answer(cmd, data, caller)

    def _answer(self, cmd: int, data: int, caller: Caller) -> int:
        count = IOC_SIZE(cmd) // 8 if data else 0
        words = (ctypes.c_uint64 * count).from_address(data or ctypes.addressof(_NOTHING))
        if cmd in (ADD_ONE, FILL, FAIL):
            words[0] += 1
        if cmd == FAIL:
            caller.reason = "it was asked to"
            return -errno.EBUSY
        if cmd == COPY:
            try:
                caller.memory.write(words[1], caller.memory.read(words[0], words[2]))
            except KernelError as error:
                caller.reason = error.reason
                return -(error.errno or 0)
        return 7 if cmd == NOTHING else 0

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def inner() -> FakeFile:
    return FakeFile()


@pytest.fixture
def file(inner: FakeFile) -> FrameFile:
    return FrameFile(inner)


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    transport = LocalTransport(XeDevice())
    yield transport.caller()
    transport.close()


def u64(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def replies_in(data: bytes) -> list[Reply]:
    found = []
    while data:
        length = peek_length(data, XE_MOCK_REPLY_MAGIC)
        assert length is not None
        assert length <= len(data)
        found.append(unpack_reply(data[:length]))
        data = data[length:]
    return found


def drain(file: FrameFile, caller: Caller, size: int = 1 << 20) -> list[Reply]:
    data = b""
    while file.poll(None) & POLLIN:
        data += file.read(size, 0, True, caller)
    return replies_in(data)


def exchange(file: FrameFile, caller: Caller, frame: bytes) -> Reply:
    assert file.write(frame, 0, False, caller) == len(frame)
    (reply,) = drain(file, caller)
    return reply


# ---- requests --------------------------------------------------------------------------------


def test_an_ioctl_that_reads_and_writes(file: FrameFile, inner: FakeFile, caller: Caller) -> None:
    reply = exchange(file, caller, pack_request(99, ADD_ONE, u64(5)))
    assert reply == Reply(cookie=99, result=0, arg=u64(6))
    assert inner.calls == [(ADD_ONE, u64(5))]


def test_a_positive_result_and_no_argument(file: FrameFile, caller: Caller) -> None:
    assert exchange(file, caller, pack_request(1, NOTHING, b"")) == Reply(1, 7, b"")


def test_a_number_without_direction_has_no_argument_whatever_its_size(
    file: FrameFile, inner: FakeFile, caller: Caller
) -> None:
    odd = IOC(IOC_NONE, "t", 9, 64)
    assert exchange(file, caller, pack_request(1, odd, b"")) == Reply(1, 0, b"")
    assert inner.calls == [(odd, b"")]
    reply = exchange(file, caller, pack_request(2, odd, bytes(64)))
    assert reply.result == -errno.EBADMSG


def test_after_a_failure_the_argument_comes_back_with_a_reason(
    file: FrameFile, caller: Caller
) -> None:
    reply = exchange(file, caller, pack_request(1, FAIL, u64(5)))
    assert reply == Reply(1, -errno.EBUSY, u64(6), reason="it was asked to")


def test_what_the_client_only_writes_does_not_come_back(file: FrameFile, caller: Caller) -> None:
    assert exchange(file, caller, pack_request(1, COPY, u64(0, 0, 0))).arg == b""


def test_what_the_client_only_reads_starts_as_zeros(
    file: FrameFile, inner: FakeFile, caller: Caller
) -> None:
    reply = exchange(file, caller, pack_request(1, FILL, b"\xff" * 8))
    assert inner.calls == [(FILL, bytes(8))]
    assert reply.arg == u64(1)


def test_no_bytes_stand_for_a_bad_pointer(file: FrameFile, inner: FakeFile, caller: Caller) -> None:
    exchange(file, caller, pack_request(1, BIG, b""))
    assert inner.calls == [(BIG, b"")]


def test_the_largest_argument(file: FrameFile, inner: FakeFile, caller: Caller) -> None:
    cmd = IOWR("t", 100, 16383)
    data = random.Random(1).randbytes(16383)
    assert exchange(file, caller, pack_request(1, cmd, data)) == Reply(1, 0, data)
    assert inner.calls == [(cmd, data)]


@pytest.mark.expects_bug
def test_a_bug_of_the_driver_is_eio_and_the_stream_goes_on(file: FrameFile, caller: Caller) -> None:
    for frame in (
        pack_request(1, CRASH, u64(1)),
        pack_request(1, CRASH, u64(1), [Window(8, 0, IN)]),
    ):
        assert exchange(file, caller, frame).result == -errno.EIO
    assert exchange(file, caller, pack_request(2, ADD_ONE, u64(1))).result == 0


def test_ioctl_itself_still_works(file: FrameFile, inner: FakeFile, caller: Caller) -> None:
    cell = ctypes.c_uint64(4)
    assert file.ioctl(ADD_ONE, ctypes.addressof(cell), caller) == 0
    assert cell.value == 5


def test_release_ends_the_file_behind(file: FrameFile, inner: FakeFile, caller: Caller) -> None:
    file.write(pack_request(1, ADD_ONE, u64(1)) + b"part", 0, False, caller)
    file.release()
    assert inner.released == 1


def test_short_and_long_way_answer_alike(caller: Caller) -> None:
    # A window that nobody uses sends a request the long way.
    for cmd, arg in ((ADD_ONE, u64(3)), (FAIL, u64(3)), (COPY, u64(0, 0, 0)), (COPY, u64(8, 8, 8))):
        short = exchange(FrameFile(FakeFile()), caller, pack_request(1, cmd, arg))
        window = Window(1 << 20, 0, IN)
        long = exchange(FrameFile(FakeFile()), caller, pack_request(1, cmd, arg, [window]))
        assert short == long


# ---- windows ---------------------------------------------------------------------------------


def copy(
    file: FrameFile, caller: Caller, source: int, target: int, length: int, *windows: Window
) -> Reply:
    return exchange(file, caller, pack_request(1, COPY, u64(source, target, length), windows))


def test_windows_carry_memory_both_ways(file: FrameFile, caller: Caller) -> None:
    reply = copy(
        file, caller, 0x1002, 0x2001, 3, Window(0x1000, 8, IN, b"abcdefgh"), Window(0x2000, 8, OUT)
    )
    assert reply.result == 0
    assert reply.windows == (Window(0x2000, 8, OUT, b"\0cde\0\0\0\0"),)


def test_adjacent_windows_count_as_one(file: FrameFile, caller: Caller) -> None:
    reply = copy(
        file,
        caller,
        0x1000,
        0x2000,
        6,
        Window(0x1004, 2, IN, b"ef"),
        Window(0x2003, 5, OUT),
        Window(0x1000, 4, IN, b"abcd"),
        Window(0x2000, 3, OUT),
    )
    assert reply.result == 0
    assert [window.data for window in reply.windows] == [b"def\0\0", b"abc"]


def test_an_in_out_window_keeps_what_is_not_written(file: FrameFile, caller: Caller) -> None:
    reply = copy(file, caller, 0x1000, 0x1004, 2, Window(0x1000, 8, IN | OUT, b"abcdefgh"))
    assert reply.windows == (Window(0x1000, 8, OUT, b"abcdabgh"),)


@pytest.mark.parametrize(
    ("source", "target", "length", "where"),
    [
        (0x0FFF, 0x2000, 4, "0xfff"),  # begins before
        (0x1006, 0x2000, 4, "0x1008"),  # runs out
        (0x3000, 0x2000, 1, "0x3000"),  # nowhere near
        (0x2000, 0x2004, 1, "0x2000"),  # reads what is OUT
        (0x1000, 0x1004, 1, "0x1004"),  # writes what is IN
        (0x1000, 0x2006, 4, "0x2008"),
        (0, 0x2000, 1, "0x0"),
    ],
)
def test_memory_without_a_window_is_a_fault_that_names_the_address(
    file: FrameFile, caller: Caller, source: int, target: int, length: int, where: str
) -> None:
    windows = Window(0x1000, 8, IN, b"abcdefgh"), Window(0x2000, 8, OUT)
    reply = copy(file, caller, source, target, length, *windows)
    assert reply.result == -errno.EFAULT
    assert f"{where} " in reply.reason
    assert reply.windows == (Window(0x2000, 8, OUT, bytes(8)),)


def test_a_window_makes_no_user_memory_of_a_kernel_address() -> None:
    top = TASK_SIZE_MAX
    memory = WindowMemory([Window(top - 4, 8, IN | OUT, b"abcdefgh")])
    assert memory.read(top - 4, 4) == b"abcd"
    for call in (lambda: memory.read(top - 4, 5), lambda: memory.write(top, b"x")):
        with pytest.raises(KernelError) as raised:
            call()
        assert raised.value.errno == errno.EFAULT


def test_nothing_can_be_copied_from_and_to_anywhere() -> None:
    memory = WindowMemory([])
    assert memory.read(0, 0) == b""
    memory.write(1 << 70, b"")


def test_windows_that_overlap_are_the_same_memory() -> None:
    memory = WindowMemory(
        [Window(0x1000, 8, IN, bytes(8)), Window(0x1004, 8, OUT), Window(0x1006, 4, OUT)]
    )
    memory.write(0x1004, b"abcdefgh")
    assert memory.read(0x1000, 8) == b"\0\0\0\0abcd"
    assert [window.data for window in memory.results()] == [b"abcdefgh", b"cdef"]


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12), st.sampled_from((1, 2, 3)))),
    st.integers(0, 50),
    st.integers(0, 20),
)
def test_windows_against_a_model(
    spans: list[tuple[int, int, int]], address: int, length: int
) -> None:
    image = bytes(range(100, 200))
    windows = [
        Window(start, size, flags, image[start : start + size] if flags & IN else b"")
        for start, size, flags in spans
    ]
    span = range(address, address + length)

    def covered(flag: int) -> bool:
        return all(
            any(start <= byte < start + size and flags & flag for start, size, flags in spans)
            for byte in span
        )

    memory = WindowMemory(windows)
    if covered(IN):
        assert memory.read(address, length) == image[address : address + length]
    else:
        with pytest.raises(KernelError):
            memory.read(address, length)
    if covered(OUT):
        memory.write(address, b"\xff" * length)
    else:
        with pytest.raises(KernelError):
            memory.write(address, b"\xff" * length)
    for window in memory.results():
        for place, byte in enumerate(window.data, window.address):
            if covered(OUT) and place in span:
                assert byte == 0xFF
            else:
                assert byte in (0, image[place])


# ---- the stream ------------------------------------------------------------------------------


def requests(count: int) -> list[bytes]:
    windows = [Window(0x1000, 8, IN, b"abcdefgh"), Window(0x2000, 8, OUT)]
    kinds = [
        lambda n: pack_request(n, ADD_ONE, u64(n)),
        lambda n: pack_request(n, COPY, u64(0x1000, 0x2000, n % 12), windows),
        lambda n: pack_request(n, NOTHING, b""),
        lambda n: pack_request(n, FAIL, u64(n)),
    ]
    return [kinds[n % len(kinds)](n) for n in range(count)]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 400)), st.integers(1, 300))
def test_however_the_stream_is_cut_the_replies_are_the_same(
    caller: Caller, cuts: list[int], size: int
) -> None:
    stream = b"".join(requests(8))
    whole = FrameFile(FakeFile())
    whole.write(stream, 0, False, caller)
    pieces = FrameFile(FakeFile())
    data = b""
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(stream)], strict=True):
        part = stream[start:end]
        assert pieces.write(part, 0, False, caller) == len(part)
        if pieces.poll(None) & POLLIN:
            data += pieces.read(size, 0, True, caller)
    while pieces.poll(None) & POLLIN:
        data += pieces.read(size, 0, True, caller)
    assert replies_in(data) == drain(whole, caller)


def test_with_too_many_replies_nothing_is_taken_and_nothing_lost(
    file: FrameFile, inner: FakeFile, caller: Caller
) -> None:
    frame = pack_request(1, ADD_ONE, u64(1))
    stream = frame * (BACKLOG_REPLIES + 10)
    assert file.poll(None) == POLLOUT
    assert file.write(stream, 0, False, caller) == BACKLOG_REPLIES * len(frame)
    assert len(inner.calls) == BACKLOG_REPLIES
    assert not file.poll(None) & POLLOUT
    for data in (frame, b"not a frame at all"):
        with pytest.raises(KernelError) as raised:
            file.write(data, 0, False, caller)
        assert raised.value.errno == errno.EAGAIN
    # A part of a frame needs no room yet.
    assert file.write(frame[:20], 0, False, caller) == 20
    with pytest.raises(KernelError):
        file.write(frame[20:], 0, False, caller)
    assert len(drain(file, caller)) == BACKLOG_REPLIES
    assert file.write(frame[20:], 0, False, caller) == len(frame) - 20
    assert len(drain(file, caller)) == 1
    assert len(inner.calls) == BACKLOG_REPLIES + 1


def test_large_replies_fill_the_backlog_too(
    file: FrameFile, inner: FakeFile, caller: Caller
) -> None:
    size = 1 << 20
    frame = pack_request(1, BIG, u64(0, 0, 0), [Window(0x10000, size, OUT)])
    assert file.write(frame * 10, 0, False, caller) == len(frame) * (BACKLOG_BYTES // size)
    read = file.read(size, 0, True, caller)
    assert len(read) == size
    assert file.write(frame, 0, False, caller) == len(frame)


def test_an_empty_write_is_nothing(file: FrameFile, caller: Caller) -> None:
    assert file.write(b"", 0, False, caller) == 0


# ---- what is no request ----------------------------------------------------------------------


def patched(frame: bytes, offset: int, value: int) -> bytes:
    return frame[:offset] + value.to_bytes(4, "little") + frame[offset + 4 :]


GOOD = pack_request(42, ADD_ONE, u64(1))
MALFORMED = {
    "another magic": (patched(GOOD, 0, 0x12345678), 0),
    "a reply's magic": (patched(GOOD, 0, XE_MOCK_REPLY_MAGIC), 0),
    "too short a length": (patched(GOOD, 4, 24), 42),
    "an odd length": (patched(GOOD, 4, 41), 42),
    "too long a length": (patched(GOOD, 4, XE_MOCK_FRAME_MAX + 8), 42),
    "flags": (patched(GOOD, 28, 1), 42),
    "an argument too short": (patched(GOOD, 20, 4), 42),
    "an argument that leaves the frame": (patched(GOOD, 20, 16), 42),
    "windows that are not there": (patched(GOOD, 24, 1), 42),
    "too many windows": (patched(GOOD, 24, 1 << 31), 42),
    "an argument of another size": (pack_request(42, ADD_ONE, u64(1, 2)), 42),
    "an argument where there is none": (pack_request(42, NOTHING, u64(1)), 42),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_frame_is_answered_and_the_stream_is_clean_again(
    file: FrameFile, inner: FakeFile, caller: Caller, name: str
) -> None:
    frame, cookie = MALFORMED[name]
    data = GOOD + frame + GOOD + GOOD
    assert file.write(data, 0, False, caller) == len(data)
    good, bad = drain(file, caller)
    assert good == Reply(42, 0, u64(2))
    assert bad.cookie == cookie
    assert bad.result == -errno.EBADMSG
    assert bad.reason
    assert len(inner.calls) == 1
    assert exchange(file, caller, GOOD) == good


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_frame_in_pieces(file: FrameFile, caller: Caller, name: str) -> None:
    frame, _ = MALFORMED[name]
    for at in range(len(frame)):
        file.write(frame[at : at + 1], 0, False, caller)
        if file.poll(None) & POLLIN:
            break
    (bad,) = drain(file, caller)
    assert bad.result == -errno.EBADMSG
    assert exchange(file, caller, GOOD).result == 0


@settings(max_examples=200)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_do_no_harm(caller: Caller, noise: bytes, with_magic: bool) -> None:
    file = FrameFile(FakeFile())
    head = XE_MOCK_REQUEST_MAGIC.to_bytes(4, "little") if with_magic else b""
    file.write(head + noise, 0, False, caller)
    replies = drain(file, caller)
    assert all(reply.result in (0, 7, -errno.EBADMSG) for reply in replies)


# ---- waiting ---------------------------------------------------------------------------------


def test_reading_without_replies(file: FrameFile, caller: Caller) -> None:
    with pytest.raises(KernelError) as raised:
        file.read(100, 0, True, caller)
    assert raised.value.errno == errno.EAGAIN


def start(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target)
    thread.start()
    thread.join(0.05)
    return thread


def test_a_reader_sleeps_until_a_reply(file: FrameFile, caller: Caller) -> None:
    got: list[bytes] = []
    readers = [start(lambda: got.append(file.read(1 << 20, 0, False, caller))) for _ in range(2)]
    assert all(reader.is_alive() for reader in readers)
    for cookie in range(2):
        file.write(pack_request(cookie, NOTHING, b""), 0, False, caller)
        assert eventually(lambda cookie=cookie: len(got) == cookie + 1)  # type: ignore[misc]
    for reader in readers:
        reader.join(5)
    assert sorted(replies_in(data)[0].cookie for data in got) == [0, 1]


def test_poll_wakes_for_replies_and_for_room(file: FrameFile, caller: Caller) -> None:
    woken: list[int] = []
    assert file.poll(lambda: woken.append(1)) == POLLOUT
    file.write(GOOD[:8], 0, False, caller)
    assert not woken
    file.write(GOOD[8:], 0, False, caller)
    assert woken == [1]
    file.write(GOOD * BACKLOG_REPLIES, 0, False, caller)
    assert not file.poll(lambda: woken.append(2)) & POLLOUT
    file.read(1 << 20, 0, True, caller)
    assert woken == [1, 2]


# ---- over a mount ----------------------------------------------------------------------------

VERSION = drm.DRM_IOCTL_VERSION
VERSION_ARG = bytes(IOC_SIZE(VERSION))


@pytest.fixture
def node(mounted_node: Callable[..., str]) -> str:
    return f"{mounted_node()}/dev/dri/xe-mock"


def read_replies(fd: int, count: int) -> list[Reply]:
    data = b""
    while True:
        data += os.read(fd, 1 << 16)
        try:
            found = replies_in(data)
        except AssertionError:
            continue
        if len(found) >= count:
            return found


@pytest.mark.fuse
def test_many_in_flight_over_the_mount(node: str) -> None:
    fd = os.open(node, os.O_RDWR)
    frames = [pack_request(cookie, VERSION, VERSION_ARG) for cookie in range(200)]
    stream = b"".join(frames)
    cut = len(frames[0]) * 3 + 5
    assert os.write(fd, stream[:cut]) == cut
    assert os.write(fd, stream[cut:]) == len(stream) - cut
    found = read_replies(fd, 200)
    assert [reply.cookie for reply in found] == list(range(200))
    assert {reply.result for reply in found} == {0}
    assert drm.drm_version.from_buffer_copy(found[0].arg).name_len == 2
    os.close(fd)


@pytest.mark.fuse
def test_a_large_frame_over_the_mount(node: str) -> None:
    # 1 MiB arrives in many pieces: the kernel cuts a write(2) for a FUSE server.
    fd = os.open(node, os.O_RDWR)
    window = Window(0x10000, 1 << 20, IN | OUT, random.Random(2).randbytes(1 << 20))
    arg = drm.drm_version(name_len=9, name=0x10000 + (1 << 20) - 5)
    frame = pack_request(5, VERSION, bytes(arg), [window])
    assert os.write(fd, frame) == len(frame)
    (reply,) = read_replies(fd, 1)
    assert reply.result == 0
    assert reply.windows[0].data == window.data[:-5] + b"xe" + window.data[-3:]
    os.close(fd)


@pytest.mark.fuse
def test_not_blocking_over_the_mount(node: str) -> None:
    fd = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    with pytest.raises(BlockingIOError):
        os.read(fd, 100)
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLOUT)
    assert poller.poll(0) == [(fd, select.POLLOUT)]
    frame = pack_request(1, VERSION, VERSION_ARG)
    assert os.write(fd, frame * (BACKLOG_REPLIES + 1)) == BACKLOG_REPLIES * len(frame)
    assert poller.poll(0) == [(fd, select.POLLIN)]
    with pytest.raises(BlockingIOError):
        os.write(fd, frame)
    os.read(fd, 1 << 20)
    assert os.write(fd, frame) == len(frame)
    os.close(fd)


@pytest.mark.fuse
def test_poll_wakes_up_over_the_mount(node: str) -> None:
    fd = os.open(node, os.O_RDWR)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    writer = threading.Timer(0.2, os.write, (fd, pack_request(1, VERSION, VERSION_ARG)))
    before = time.monotonic()
    writer.start()
    assert poller.poll(5000) == [(fd, select.POLLIN)]
    assert 0.1 < time.monotonic() - before < 2
    writer.join()
    os.close(fd)


@pytest.mark.fuse
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_a_blocked_read(node: str, number: signal.Signals) -> None:
    def client() -> int:
        signal.signal(signal.SIGINT, lambda *_: os._exit(3))
        fd = os.open(node, os.O_RDWR)
        os.write(report, b"x")
        os.read(fd, 100)
        return 0

    waiting, report = os.pipe()
    child = Child(client)
    os.read(waiting, 1)
    time.sleep(0.1)
    before = time.monotonic()
    child.kill(number)
    assert child.wait() == (3 if number == signal.SIGINT else -signal.SIGKILL)
    assert time.monotonic() - before < 1
    os.close(waiting)
    os.close(report)


@pytest.mark.fuse
def test_garbage_over_the_mount_and_a_neighbour(node: str) -> None:
    noise = random.Random(3)
    fd, other = os.open(node, os.O_RDWR), os.open(node, os.O_RDWR)
    frame = pack_request(7, VERSION, VERSION_ARG)
    for _ in range(50):
        os.write(fd, noise.randbytes(noise.randrange(8, 500)))
        assert read_replies(fd, 1)[-1].result == -errno.EBADMSG
        os.write(other, frame)
        assert read_replies(other, 1)[0].result == 0
    os.write(fd, frame)
    assert read_replies(fd, 1)[0].result == 0
    os.close(fd)
    os.close(other)
