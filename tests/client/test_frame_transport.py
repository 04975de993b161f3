"""FrameTransport against a server made of a socket, which cuts and delays as it likes."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from uapi import xe_drm
from uapi.drm import DRM_IOCTL_GEM_CLOSE, DRM_IOCTL_SET_MASTER, drm_gem_close
from uapi.xe_mock import (
    XE_MOCK_FRAME_MAX,
    XE_MOCK_WINDOW_OUT,
    Request,
    Window,
    pack_reply,
    peek_length,
    unpack_request,
)
from xedev.client import IN, OUT, Buffer, FrameTransport, IoctlError

Answer = Callable[[Request], bytes]
QUERY = xe_drm.DRM_IOCTL_XE_DEVICE_QUERY


class Server:
    """The mock's end of a stream."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.received = b""
        self.requests: list[Request] = []

    def next_request(self) -> Request | None:
        """The next whole request; None at the end of the stream."""
        while True:
            length = peek_length(self.received)
            if length is not None and length <= len(self.received):
                frame, self.received = self.received[:length], self.received[length:]
                request = unpack_request(frame)
                self.requests.append(request)
                return request
            data = self.peer.recv(1 << 16)
            if not data:
                return None
            self.received += data

    def serve(self, answer: Answer) -> None:
        while (request := self.next_request()) is not None:
            self.peer.sendall(answer(request))


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FrameTransport, Server]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    fd = ours.detach()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *_: fd)
        transport = FrameTransport("dev/dri/xe-mock")
    with closing(transport), theirs:
        yield transport, Server(theirs)


@contextmanager
def serving(server: Server, answer: Answer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve, args=(answer,), daemon=True)
    thread.start()
    yield
    server.peer.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert not thread.is_alive()


def echo(request: Request) -> bytes:
    """Answer 7, the argument with its first byte counted up, and OUT windows full of ``o``."""
    arg = bytes([request.arg[0] + 1, *request.arg[1:]]) if request.arg else b""
    windows = [
        Window(window.address, window.length, XE_MOCK_WINDOW_OUT, b"o" * window.length)
        for window in request.windows
        if window.flags & OUT
    ]
    return pack_reply(request.cookie, 7, arg, windows)


def refuse(error: int, reason: str = "") -> Answer:
    return lambda request: pack_reply(request.cookie, -error, request.arg, (), reason)


def test_argument_and_windows_travel(stream: tuple[FrameTransport, Server]) -> None:
    transport, server = stream
    arg = xe_drm.drm_xe_device_query(extensions=1, size=20)
    given, both, taken = (ctypes.create_string_buffer(text, 4) for text in (b"gggg", b"bbbb", b""))
    buffers = [Buffer(given, IN), Buffer(both, IN | OUT), Buffer(taken, OUT)]
    with serving(server, echo):
        assert transport.ioctl(QUERY, arg, buffers) == 7
    (request,) = server.requests
    assert request.cmd == QUERY
    # Output goes along too, so that what the driver leaves alone comes back as it was.
    assert [window.data for window in request.windows] == [b"gggg", b"bbbb", bytes(4)]
    assert [window.flags for window in request.windows] == [IN, IN | OUT, IN | OUT]
    assert [window.address for window in request.windows] == [b.address for b in buffers]
    assert (given.raw, both.raw, taken.raw) == (b"gggg", b"oooo", b"oooo")
    assert arg == xe_drm.drm_xe_device_query(extensions=2, size=20)


def test_direction_decides_what_is_copied(stream: tuple[FrameTransport, Server]) -> None:
    transport, server = stream
    close = drm_gem_close(handle=5)
    with serving(server, echo):
        transport.ioctl(DRM_IOCTL_GEM_CLOSE, close)
        transport.ioctl(DRM_IOCTL_SET_MASTER, None)
    assert close.handle == 5, "an _IOW argument is not copied back"
    assert [request.arg for request in server.requests] == [bytes(close), b""]


def test_error_comes_with_its_reason_and_copies_out(
    stream: tuple[FrameTransport, Server],
) -> None:
    transport, server = stream
    arg = xe_drm.drm_xe_device_query(extensions=1)

    def answer(request: Request) -> bytes:
        return pack_reply(request.cookie, -errno.EINVAL, b"\x09" + request.arg[1:], (), "no such")

    with serving(server, answer), pytest.raises(IoctlError) as caught:
        transport.ioctl(QUERY, arg)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.reason == "no such"
    assert str(caught.value) == "DRM_IOCTL_XE_DEVICE_QUERY: EINVAL: no such"
    assert arg.extensions == 9


@pytest.mark.parametrize("error", [errno.EINTR, errno.EAGAIN])
def test_interrupted_ioctl_starts_over(stream: tuple[FrameTransport, Server], error: int) -> None:
    transport, server = stream
    tries = itertools.count()

    def answer(request: Request) -> bytes:
        return echo(request) if next(tries) == 2 else refuse(error)(request)

    with serving(server, answer):
        assert transport.ioctl(QUERY, xe_drm.drm_xe_device_query()) == 7
    assert len({request.cookie for request in server.requests}) == 3


def test_frames_in_pieces(stream: tuple[FrameTransport, Server]) -> None:
    transport, server = stream
    size = 1 << 20  # more than a socket takes at once
    given = ctypes.create_string_buffer(os.urandom(size), size)
    taken = ctypes.create_string_buffer(size)

    def run() -> None:
        request = server.next_request()
        assert request is not None
        windows = [Window(Buffer(taken, OUT).address, size, OUT, request.windows[0].data)]
        reply = pack_reply(request.cookie, 0, b"", windows)
        cuts = (0, 1, 3, 8, 31, 40, 5000, len(reply))
        for start, end in itertools.pairwise(cuts):
            server.peer.sendall(reply[start:end])

    thread = threading.Thread(target=run)
    thread.start()
    transport.ioctl(DRM_IOCTL_SET_MASTER, None, [Buffer(given, IN), Buffer(taken, OUT)])
    thread.join()
    assert taken.raw == given.raw


def test_many_threads_each_get_their_own_reply(stream: tuple[FrameTransport, Server]) -> None:
    transport, server = stream
    threads_count, rounds = 8, 50
    wrong: list[int] = []

    def reverse() -> None:
        """Gather the requests of all threads, then answer the last one first, in one piece."""
        while True:
            batch = [server.next_request() for _ in range(threads_count)]
            replies = [echo(request) for request in reversed(batch) if request is not None]
            if len(replies) < threads_count:
                return
            server.peer.sendall(b"".join(replies))

    def client(number: int) -> None:
        for _ in range(rounds):
            arg = xe_drm.drm_xe_device_query(extensions=number, size=number)
            transport.ioctl(QUERY, arg)
            if (arg.extensions, arg.size) != (number + 1, number):
                wrong.append(number)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(threads_count)]
    responder = threading.Thread(target=reverse)
    for thread in (responder, *threads):
        thread.start()
    for thread in threads:
        thread.join(30)
    server.peer.shutdown(socket.SHUT_RDWR)
    responder.join(30)
    assert not wrong
    assert len(server.requests) == threads_count * rounds


def test_waiting_thread_does_not_hold_up_others(stream: tuple[FrameTransport, Server]) -> None:
    transport, server = stream
    slow_started = threading.Event()
    held: list[Request] = []

    def answer(request: Request) -> bytes:
        if request.cmd == DRM_IOCTL_SET_MASTER:
            held.append(request)
            slow_started.set()
            return b""
        return echo(request)

    slow = threading.Thread(target=transport.ioctl, args=(DRM_IOCTL_SET_MASTER, None))
    with serving(server, answer):
        slow.start()
        assert slow_started.wait(10)
        for _ in range(10):
            assert transport.ioctl(QUERY, xe_drm.drm_xe_device_query()) == 7
        assert slow.is_alive()
        server.peer.sendall(pack_reply(held[0].cookie, 0, b""))
        slow.join(10)
        assert not slow.is_alive()


def test_replies_are_taken_while_a_request_finds_no_room(
    stream: tuple[FrameTransport, Server],
) -> None:
    """Neither end may insist on writing first when both directions are full."""
    transport, server = stream
    size = 1 << 20
    windows = [
        Buffer(ctypes.create_string_buffer(size), IN),
        Buffer(ctypes.create_string_buffer(size), OUT),
    ]

    def client() -> None:
        for _ in range(3):
            transport.ioctl(DRM_IOCTL_SET_MASTER, None, windows)

    threads = [threading.Thread(target=client) for _ in range(3)]
    with serving(server, echo):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()


def test_reply_to_an_abandoned_request_is_dropped(
    stream: tuple[FrameTransport, Server],
) -> None:
    transport, server = stream

    def answer(request: Request) -> bytes:
        return pack_reply(request.cookie + 1000, -errno.EIO, b"") + echo(request)

    with serving(server, answer):
        assert transport.ioctl(QUERY, xe_drm.drm_xe_device_query()) == 7


@pytest.mark.parametrize(
    ("bytes_sent", "text"),
    [
        (b"garbage!" * 8, "magic"),
        (pack_reply(0, -errno.EBADMSG, b"", (), "what is this"), "what is this"),
    ],
    ids=["no frame", "error frame"],
)
def test_stream_out_of_step_fails_for_good(
    stream: tuple[FrameTransport, Server], bytes_sent: bytes, text: str
) -> None:
    transport, server = stream
    with serving(server, lambda _: bytes_sent):
        for _ in range(2):
            with pytest.raises(OSError, match=text) as caught:
                transport.ioctl(QUERY, xe_drm.drm_xe_device_query())
            assert caught.value.errno == errno.EPROTO


def test_end_of_stream_is_an_error(stream: tuple[FrameTransport, Server]) -> None:
    transport, server = stream

    def hang_up(_: Request) -> bytes:
        server.peer.shutdown(socket.SHUT_WR)
        return b""

    thread = threading.Thread(target=lambda: hang_up(server.next_request()), daemon=True)  # type: ignore[arg-type]
    thread.start()
    with pytest.raises(OSError) as caught:
        transport.ioctl(QUERY, xe_drm.drm_xe_device_query())
    assert caught.value.errno == errno.ECONNRESET
    thread.join()


def test_too_much_memory_for_a_frame(stream: tuple[FrameTransport, Server]) -> None:
    transport, _ = stream
    big = ctypes.create_string_buffer(XE_MOCK_FRAME_MAX)
    with pytest.raises(IoctlError) as caught:
        transport.ioctl(QUERY, xe_drm.drm_xe_device_query(), [Buffer(big, IN)])
    assert caught.value.errno == errno.EMSGSIZE


def test_forked_child_must_open_again(stream: tuple[FrameTransport, Server]) -> None:
    transport, _ = stream
    child = os.fork()
    if child == 0:
        try:
            transport.ioctl(QUERY, xe_drm.drm_xe_device_query())
        except RuntimeError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
